"""Contents of a segment's file: all of it is decoded once, so that no fault is found later."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from cinecube.features.films.containers import stated_bytes
from cinecube.features.films.decoding import Told, anew, heard_frames, opened, shown_frames, usual_rate
from cinecube.features.films.segment import Picture, SegmentInfo, Sound
from cinecube.features.films.tracks import find_tracks, orientation
from cinecube.store.base.errors import StudyError

# A container's stated length may round, and count what players cut.
_SLACK_S = 0.5
# Sound that ends a little before the picture is how films are.
_TOLD_S = 1.0
_JUMP_S = 0.1
# As far as a cut between key frames reaches.
_LEAD_PACKETS = 300
# Containers whose headers state how long a film is; FFmpeg estimates it for others.
_STATING = ("matroska", "avi", "asf", "flv", "mov")


def probe(path: Path, where: str | None = None, told: Told | None = None) -> SegmentInfo:
    """Read what a segment's file holds.

    Parameters
    ----------
    path : Path
        A film file.
    where : str, optional
        What messages call it; its path by default.
    told : callable, optional
        Called with the bytes of each packet of the picture that was decoded.

    Returns
    -------
    SegmentInfo

    Raises
    ------
    StudyError
        If it is missing, unreadable, truncated or damaged anywhere, has neither picture nor sound, or a picture whose
        frame rate or size varies.
    """
    where = where or str(path)
    if not path.is_file():
        raise StudyError(where=where, found="no file", expected="a film", do="put it there")
    _check_whole(path, where)
    tracks = find_tracks(path, where)
    shown = _watch(path, where, tracks.picture, told) if tracks.picture else None
    heard = _listen(path, where, tracks.sound) if tracks.sound else None
    if shown is None and heard is None:
        raise StudyError(where=where, found="no picture and no sound", expected="a film", do="copy the film again")
    start_s = shown.start_s if shown else heard.start_s if heard else Fraction(0)
    said = [*tracks.said, *(shown.said if shown else ())]
    if tracks.sound and heard is None:
        said.append("a sound track that holds nothing is not read")
    elif shown and heard:
        said += _beside(heard, start_s, float(shown.n_frames / shown.rate_hz))
    return SegmentInfo(
        path=path,
        where=where,
        tracks=tracks,
        rate_hz=shown.rate_hz if shown else Fraction(0),
        n_frames=shown.n_frames if shown else 0,
        start_s=start_s,
        sound_rate_hz=heard.rate_hz if heard else 0,
        sound_s=float(heard.end_s - start_s) if heard else 0.0,
        said=tuple(said),
    )


@dataclass(frozen=True)
class _Shown:
    """Result of decoding the picture."""

    rate_hz: Fraction
    n_frames: int
    start_s: Fraction
    said: tuple[str, ...]


@dataclass(frozen=True)
class _Heard:
    """Result of decoding the sound; `jumps` are those of its times, in the file's seconds."""

    rate_hz: int
    start_s: Fraction
    end_s: Fraction
    jumps_s: tuple[float, ...]


def _check_whole(path: Path, where: str) -> None:
    """Refuse a file that ends before it says, where it says so.

    Demuxers read a film that was cut short to where it ends and say nothing.
    """
    size, stated = path.stat().st_size, stated_bytes(path)
    if stated is not None and size < stated:
        raise _truncated(where, f"{size} bytes", f"the {stated} that its header states")
    with opened(path, where) as container:
        if "mov" in container.format.name:
            entries = (entry for stream in container.streams for entry in stream.index_entries)
            last = max((entry.pos + entry.size for entry in entries), default=0)
            if size < last:
                raise _truncated(where, f"{size} bytes", f"the {last} that its index states")
        if stated is None and container.duration and any(name in container.format.name for name in _STATING):
            stated_s, end_s = container.duration / av.time_base, _end_s(container, where)
            if end_s < stated_s - _SLACK_S:
                raise _truncated(where, f"{end_s:.1f} s", f"the {stated_s:.1f} s that its header states")


def _end_s(container: Any, where: str) -> float:
    """Seconds at which the last packet of a file ends."""
    end_s = 0.0
    try:
        for packet in container.demux():
            if packet.pts is not None:
                end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    except av.error.FFmpegError as error:
        raise _truncated(where, f"a read error after {end_s:.1f} s ({error.strerror})", "a whole film") from None
    return end_s


def _truncated(where: str, found: str, expected: str) -> StudyError:
    return StudyError(where=where, found=f"a truncated film of {found}", expected=expected, do="copy it again")


def _watch(path: Path, where: str, picture: Picture, told: Told | None) -> _Shown:
    """Decode every frame of the picture."""
    ticks: list[int | None] = []
    interlaced = 0
    first = picture.width, picture.height, (picture.mirrored, picture.turns)
    with closing(shown_frames(path, where, picture.stream, told)) as frames:
        for frame in frames:
            looks = frame.width, frame.height, orientation(frame) or first[2]
            if looks != first:
                raise _changed(path, where, len(ticks), first, looks)
            ticks.append(frame.pts)
            interlaced += frame.interlaced_frame
    with opened(path, where) as container:
        stream = container.streams[picture.stream]
        grid = _Grid(path, where, container, stream, ticks)
        said = _lost(container, stream, grid.start)
        if 2 * interlaced > len(ticks):
            said.append("interlaced: both fields of a frame are read as one")
        return _Shown(grid.rate_hz(), len(ticks), grid.start * stream.time_base, tuple(said))


def _changed(path: Path, where: str, number: int, first: tuple[object, ...], looks: tuple[object, ...]) -> StudyError:
    with opened(path, where) as container:
        return StudyError(
            where=where,
            found=f"frame {number} of {looks[0]}x{looks[1]} pixels" + " turned otherwise" * (looks[:2] == first[:2]),
            expected=f"{first[0]}x{first[1]} pixels and upright in one way from beginning to end",
            do=f"make it so: {anew(path, container, '-c:a copy')}",
        )


def _lost(container: Any, stream: Any, start: int) -> list[str]:
    """Frames before the first that can be shown, and that no edit list hides, in words."""
    packets = itertools.islice(container.demux(stream), _LEAD_PACKETS)
    lost = sum(packet.pts < start for packet in packets if packet.pts is not None and not packet.is_discard)
    return (
        [f"frames at its start that cannot be shown, after a cut between key frames, left out: {lost}"] if lost else []
    )


class _Grid:
    """The times of a picture's frames, at a constant rate.

    Decoders return frames as they are shown, also where a container has made up their times, as AVI does.
    """

    def __init__(self, path: Path, where: str, container: Any, stream: Any, ticks: Sequence[int | None]) -> None:
        self._path, self._where, self._container, self._stream = path, where, container, stream
        known = sorted(tick for tick in ticks if tick is not None)
        self.start = known[0] if known else 0
        self._seconds = (np.array(known) - self.start) * float(stream.time_base) if len(known) == len(ticks) else None

    def rate_hz(self) -> Fraction:
        """The rate on whose grid all frames are within half a frame, as Matroska's milliseconds need."""
        stream, seconds = self._stream, self._seconds
        rates = [Fraction(rate) for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate) if rate]
        if seconds is None and rates:  # the file states no times
            return rates[0]
        if seconds is not None and seconds[-1] > 0:
            rates.append(Fraction(len(seconds) - 1) / Fraction(float(seconds[-1])).limit_denominator(10**6))
        if seconds is None or not rates:
            raise StudyError(where=self._where, found="no frame rate", expected="one", do="copy the film again")
        number = np.arange(len(seconds))
        off = [np.abs(seconds * float(rate) - number) for rate in rates]
        best = int(np.argmin([frames.max() for frames in off]))
        worst = int(np.argmax(off[best]))
        if off[best][worst] <= 0.5:
            return rates[best]
        rate = 1 / Fraction(float(np.median(np.diff(seconds)))).limit_denominator(10**6)
        raise StudyError(
            where=self._where,
            found=f"a variable frame rate (frame {worst} at {seconds[worst]:.3f} s)",
            expected=f"{worst / float(rates[best]):.3f} s at a constant {float(rates[best]):.3f} Hz",
            do=f"make it constant: {anew(self._path, self._container, f'-vf fps={usual_rate(rate)} -c:a copy')}",
        )


def _listen(path: Path, where: str, sound: Sound) -> _Heard | None:
    """Decode the whole sound track; None if it holds nothing."""
    rate_hz, start_s, end_s = 0, Fraction(0), Fraction(0)
    jumps_s = []
    with closing(heard_frames(path, where, sound.stream)) as frames:
        for frame in frames:
            at_s = end_s if frame.pts is None else frame.pts * frame.time_base
            if not rate_hz:
                rate_hz, start_s = frame.sample_rate, at_s
            elif abs(at_s - end_s) > _JUMP_S:
                jumps_s.append(float(end_s))
            end_s = at_s + Fraction(frame.samples, frame.sample_rate)
    return _Heard(rate_hz, start_s, end_s, tuple(jumps_s)) if rate_hz else None


def _beside(heard: _Heard, start_s: Fraction, duration_s: float) -> list[str]:
    """Lines on sound that does not begin and end with the picture, or whose times jump."""
    begins_s, ends_s = float(heard.start_s - start_s), float(heard.end_s - start_s)
    said = []
    if begins_s > _TOLD_S or ends_s < duration_s - _TOLD_S:
        said.append(f"sound from {max(0.0, begins_s):.1f} s to {ends_s:.1f} s of {duration_s:.1f} s, silence elsewhere")
    if begins_s < -_TOLD_S:
        said.append(f"sound begins {-begins_s:.1f} s before the picture; rows count from the first frame")
    if heard.jumps_s:
        first_s = heard.jumps_s[0] - float(start_s)
        said.append(f"times of the sound jump {len(heard.jumps_s)} times, first at {first_s:.1f} s: gaps are silence")
    return said
