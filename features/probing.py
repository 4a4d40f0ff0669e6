"""What a segment's file holds, from its packets' times; nothing is decoded."""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from cinecube.features.containers import stated_bytes
from cinecube.store.errors import StudyError, environment_error

# A container's stated length may round, and count what players cut.
_SLACK_S = 0.5
# Times at frame borders must not fall one frame short by the last bit of a product.
_SLACK_FRAMES = 1e-6


@dataclass(frozen=True)
class SegmentInfo:
    """A segment's file.

    Attributes
    ----------
    path : Path
        The file.
    where : str
        What messages call it.
    rate_hz : Fraction
        Frames per second.
    n_frames, width, height : int
        Frames, and their size in pixels.
    start_s : Fraction
        Presentation time of the first frame: zero of the segment's time.
    sound_rate_hz : int
        Samples per second of the sound track; 0 if there is none.
    """

    path: Path
    where: str
    rate_hz: Fraction
    n_frames: int
    width: int
    height: int
    start_s: Fraction
    sound_rate_hz: int

    @property
    def duration_s(self) -> float:
        """Seconds of picture."""
        return float(self.n_frames / self.rate_hz)

    @property
    def has_sound(self) -> bool:
        """Whether there is a sound track."""
        return self.sound_rate_hz > 0

    def frame_at(self, time_s: float) -> int:
        """Number of the frame shown at a time of the segment, the last one after its end."""
        return min(max(math.floor(time_s * float(self.rate_hz) + _SLACK_FRAMES), 0), self.n_frames - 1)


def probe(path: Path, where: str | None = None) -> SegmentInfo:
    """Read what a segment's file holds.

    Parameters
    ----------
    path : Path
        A film file.
    where : str, optional
        What messages call it; its path by default.

    Raises
    ------
    StudyError
        If it is missing, unreadable, truncated, has no picture or a variable frame rate.
    """
    where = where or str(path)
    if not path.is_file():
        raise StudyError(where=where, found="no file", expected="a film", do="put it there")
    size, stated = path.stat().st_size, stated_bytes(path)
    if stated is not None and size < stated:
        raise _truncated(where, f"{size} bytes", f"the {stated} that its header states")
    with opened(path, where) as container:
        stream = picture_stream(container, where)
        ticks, end_s = _read_times(container, stream, where)
        _check_whole(container, stream, len(ticks), end_s, where)
        sound = container.streams.audio
        return SegmentInfo(
            path=path,
            where=where,
            rate_hz=_constant_rate(ticks, stream, path, where),
            n_frames=len(ticks),
            width=stream.width,
            height=stream.height,
            start_s=int(ticks[0]) * stream.time_base,
            sound_rate_hz=sound[0].rate if sound else 0,
        )


@contextmanager
def opened(path: Path, where: str) -> Iterator[Any]:
    """Open a film file for reading.

    Raises
    ------
    StudyError
        If it is no film, or lacks its index.
    """
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError) as error:
        # FFmpeg says EIO of a file that ends early, too.
        refused = None if error.errno == errno.EIO else environment_error(error, str(path))
        raise refused or StudyError(
            where=where,
            found=f"an unreadable film ({error.strerror or error})",
            expected="a whole film",
            do="copy it again; it may be truncated",
        ) from None
    with container:
        yield container


def picture_stream(container: Any, where: str) -> Any:
    """The stream that holds the picture; a cover image is none.

    Raises
    ------
    StudyError
        If there is none.
    """
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    raise StudyError(where=where, found="no picture", expected="a video stream", do="use a film that has one")


def _read_times(container: Any, stream: Any, where: str) -> tuple[np.ndarray, float]:
    """Presentation times of all frames in ticks, sorted, and the end in seconds of what the file holds."""
    ticks: list[int] = []
    end_s = 0.0
    try:
        for packet in container.demux():
            if packet.pts is None:
                continue
            end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream.index == stream.index and not packet.is_discard:
                ticks.append(packet.pts)
    except av.error.FFmpegError as error:
        raise _truncated(where, f"a read error after {end_s:.1f} s ({error.strerror})", "a whole film") from None
    if not ticks:
        raise StudyError(where=where, found="no frame", expected="a picture", do="copy the film again")
    return np.sort(np.array(ticks, dtype=np.int64)), end_s


def _check_whole(container: Any, stream: Any, n_frames: int, end_s: float, where: str) -> None:
    """Refuse a file that ends before its header says."""
    if stream.frames > n_frames + 1:  # an edit list may hide a frame
        raise _truncated(where, f"{n_frames} frames", f"the {stream.frames} that its header states")
    stated_s = container.duration / av.time_base if container.duration else 0.0
    if end_s < stated_s - _SLACK_S:
        raise _truncated(where, f"{end_s:.1f} s", f"the {stated_s:.1f} s that its header states")


def _truncated(where: str, found: str, expected: str) -> StudyError:
    return StudyError(where=where, found=f"a truncated film of {found}", expected=expected, do="copy it again")


def _constant_rate(ticks: np.ndarray, stream: Any, path: Path, where: str) -> Fraction:
    """The rate on whose grid all frames lie to half a frame, as Matroska's milliseconds need."""
    seconds = (ticks - ticks[0]) * float(stream.time_base)
    rates = [Fraction(rate) for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate) if rate]
    if seconds[-1] > 0:
        rates.append(Fraction(len(ticks) - 1) / Fraction(float(seconds[-1])).limit_denominator(10**6))
    if not rates:
        raise StudyError(where=where, found="no frame rate", expected="one", do="copy the film again")
    number = np.arange(len(ticks))
    off = [np.abs(seconds * float(rate) - number) for rate in rates]
    best = int(np.argmin([frames.max() for frames in off]))
    worst = int(np.argmax(off[best]))
    if off[best][worst] <= 0.5:
        return rates[best]
    rate = rates[0]
    raise StudyError(
        where=where,
        found=f"a variable frame rate (frame {worst} at {seconds[worst]:.3f} s)",
        expected=f"{worst / float(rates[best]):.3f} s at a constant {float(rates[best]):.3f} Hz",
        do=f"make it constant: ffmpeg -i {path.name} -vf fps={_usual(rate)} -c:a copy OUT{path.suffix}",
    )


def _usual(rate: Fraction) -> str:
    """The usual frame rate nearest to `rate`, as ffmpeg takes it."""
    usual = ("24000/1001", "24", "25", "30000/1001", "30", "50", "60000/1001", "60")
    return min(usual, key=lambda text: abs(Fraction(text) - rate))
