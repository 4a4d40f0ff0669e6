"""Sampled frames of a segment, decoded in one stream: memory does not grow with the film."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import av
import numpy as np
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from cinecube.features.probing import SegmentInfo, opened, picture_stream
from cinecube.store.errors import StudyError

# Rounds alike on every CPU, and keeps the chroma of saturated edges.
_CONVERSION = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_UNSPECIFIED = 2
_HD_HEIGHT = 720


def sampled_frames(info: SegmentInfo, numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Frames of a segment by number.

    Decoding starts at the first frame whatever is asked: seeking lands on other frames in some containers, and a
    resumed extraction must see what an undisturbed one sees.

    Parameters
    ----------
    info : SegmentInfo
        From `probe`.
    numbers : sequence of int
        Rising frame numbers.

    Yields
    ------
    int, ndarray
        A number and its frame, (height, width, 3) uint8 RGB in the colours that the film's tags state.

    Raises
    ------
    StudyError
        If a frame does not decode.
    """
    wanted = iter(numbers)
    due = next(wanted, None)
    if due is None:
        return
    convert = VideoReformatter()
    for number, frame in _decode(info):
        if number == due:
            yield number, _to_rgb(frame, convert)
            due = next(wanted, None)
            if due is None:
                return
    raise _broken(info, due, "the end of the picture")


def _decode(info: SegmentInfo) -> Iterator[tuple[int, Any]]:
    """All frames with their numbers, none left out."""
    expected = 0
    with opened(info.path, info.where) as container:
        stream = picture_stream(container, info.where)
        stream.thread_type = "AUTO"
        try:
            for packet in container.demux(stream):
                for frame in packet.decode():
                    number = _number(frame, info, expected)
                    if number < 0:  # hidden by the container's edit list
                        continue
                    if frame.is_corrupt:
                        raise _broken(info, number, "a damaged frame")
                    if number != expected:
                        raise _broken(info, expected, f"frame {number} in place of frame {expected}")
                    yield number, frame
                    expected += 1
        except av.error.FFmpegError as error:
            raise _broken(info, expected, f"a picture that does not decode ({error.strerror})") from None


def _number(frame: Any, info: SegmentInfo, expected: int) -> int:
    """Number of a frame by its presentation time."""
    if frame.pts is None:
        return expected
    return round((frame.pts * frame.time_base - info.start_s) * info.rate_hz)


def _broken(info: SegmentInfo, number: int, found: str) -> StudyError:
    return StudyError(
        where=f"{info.where} at {float(number / info.rate_hz):.2f} s",
        found=found,
        expected=f"frame {number} of {info.n_frames}",
        do="copy the film again, or encode it anew",
    )


def _to_rgb(frame: Any, convert: VideoReformatter) -> np.ndarray:
    # Players take untagged films of this size for BT.709; swscale takes all of them for BT.601.
    guess = frame.colorspace == _UNSPECIFIED and frame.height >= _HD_HEIGHT
    rgb = convert.reformat(
        frame,
        format="rgb24",
        src_colorspace=Colorspace.ITU709 if guess else None,
        interpolation=_CONVERSION,
        threads=1,
    )
    return np.asarray(rgb.to_ndarray())
