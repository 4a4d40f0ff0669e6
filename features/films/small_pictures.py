"""Small pictures of films for the report, where the study says that its films may be shown."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from cinecube.features.films.decoding import opened
from cinecube.features.films.pictures import to_rgb
from cinecube.features.films.probed import probed
from cinecube.features.films.segment import SegmentInfo
from cinecube.features.films.stimuli import find_segments
from cinecube.store.base.errors import StudyError
from cinecube.store.params.document import Study

_PIXELS, _QUALITY = 128, 75
_log = logging.getLogger(__name__)


def small_pictures(study: Study, root: Path) -> Callable[[str, Sequence[float]], list[bytes]]:
    """Small JPEG pictures of a segment at given times, none where its film has no picture or is not here.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.

    Returns
    -------
    callable
        Takes a segment and rising times in seconds from its first frame.
    """

    def at_times(segment: str, times_s: Sequence[float]) -> list[bytes]:
        film = next(film for film, segments in study.films.items() if segment in segments)
        try:
            info = probed(find_segments(study, film, root)[segment], root)
            return _pictures(info, times_s) if info.tracks.picture else []
        except StudyError as error:
            _log.warning("no pictures of %s: %s", segment, error)
            return []

    return at_times


def _pictures(info: SegmentInfo, times_s: Sequence[float]) -> list[bytes]:
    picture, convert = info.tracks.picture, VideoReformatter()
    assert picture is not None
    with opened(info.path, info.where) as container:
        source = container.streams[picture.stream]
        try:
            return [_jpeg(to_rgb(_shown_at(container, source, info, time_s), picture, convert)) for time_s in times_s]
        except av.error.FFmpegError as error:
            raise StudyError(
                where=info.where,
                found=f"a film that cannot be searched ({error.strerror})",
                expected="one with key frames",
                do="leave it, or write it anew with ffmpeg",
            ) from None


def _shown_at(container: Any, source: Any, info: SegmentInfo, time_s: float) -> Any:
    """The frame that is shown at a time from the segment's first frame.

    Searched for from the key frame before: extraction decodes from the start instead, which takes as long as the film.
    """
    # Half a frame early: times of a file are rounded.
    due_s = info.start_s + (info.frame_at(time_s) - Fraction(1, 2)) / info.rate_hz
    container.seek(int(due_s / source.time_base), stream=source)
    found = None
    for frame in container.decode(source):
        found = frame
        if frame.pts is not None and frame.pts * source.time_base >= due_s:
            break
    if found is None:
        raise av.error.EOFError(0, "end of file")
    return found


def _jpeg(values: np.ndarray) -> bytes:
    image, buffer = Image.fromarray(values), io.BytesIO()
    image.thumbnail((_PIXELS, _PIXELS))
    image.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
