"""Windows of a segment's sound at a network's rate, decoded in one stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np

from cinecube.features.films.decoding import heard_frames, keep_layout
from cinecube.features.films.segment import SegmentInfo, Sound
from cinecube.store.base.errors import StudyError

# Containers round times to milliseconds; a larger step is a gap or an overlap of the track.
_SLACK_S = 0.01


@dataclass(frozen=True)
class _Chunk:
    """Consecutive samples; `start` counts from the segment's first frame."""

    start: int
    samples: np.ndarray

    @property
    def stop(self) -> int:
        return self.start + len(self.samples)


def sound_windows(info: SegmentInfo, spans: Sequence[tuple[int, int]], rate_hz: int) -> Iterator[np.ndarray]:
    """Windows of a segment's sound.

    Parameters
    ----------
    info : SegmentInfo
        From `probe`.
    spans : sequence of (int, int)
        First sample and the one after the last at `rate_hz`, from the segment's first frame; rising.
    rate_hz : int
        Samples per second to return.

    Yields
    ------
    ndarray
        (sample,) float32, the mean of the channels; silence where the track has none.

    Raises
    ------
    StudyError
        If there is no sound track or it does not decode.
    """
    if info.tracks.sound is None or not info.has_sound:
        raise StudyError(
            where=info.where,
            found="no sound track",
            expected="sound, which this network reads",
            do="add a track, or leave the film out of this network's `compute`",
        )
    chunks = _chunks(info, info.tracks.sound, rate_hz)
    held: deque[_Chunk] = deque()
    for start, stop in spans:
        while held and held[0].stop <= start:
            held.popleft()
        while not held or held[-1].stop < stop:
            chunk = next(chunks, None)
            if chunk is None:
                break
            if chunk.stop > start:
                held.append(chunk)
        yield _assemble(held, start, stop)


def _assemble(chunks: deque[_Chunk], start: int, stop: int) -> np.ndarray:
    window = np.zeros(stop - start, np.float32)
    for chunk in chunks:
        first, last = max(chunk.start, start), min(chunk.stop, stop)
        if first < last:
            window[first - start : last - start] = chunk.samples[first - chunk.start : last - chunk.start]
    return window


def _chunks(info: SegmentInfo, track: Sound, rate_hz: int) -> Iterator[_Chunk]:
    """The whole track at `rate_hz`, mono, in pieces that never go back in time."""
    run: _Run | None = None
    for frame in heard_frames(info.path, info.where, track.stream):
        start_s = frame.pts * frame.time_base - info.start_s if frame.pts is not None else None
        if run is None or not run.continues(frame, start_s):
            if run is not None:
                yield from run.finish()
            if start_s is None:
                start_s = run.end_s if run is not None else Fraction(0)
            run = _Run(frame, start_s, rate_hz)
        yield from run.add(frame)
    if run is not None:
        yield from run.finish()


class _Run:
    """An unbroken stretch of the track: one resampler, whose filter must not reach across a gap."""

    def __init__(self, frame: Any, start_s: Fraction, rate_hz: int) -> None:
        self._format = (frame.format.name, frame.layout.name, frame.sample_rate)
        self._start_s, self._samples_in = start_s, 0
        self._position = round(start_s * rate_hz)
        # Channels stay apart: FFmpeg's own downmix weighs them by their place in the room. They stay packed, too: PyAV
        # reads past the end of a frame's list of planes where there are eight or more.
        self._resampler = av.AudioResampler(format="flt", layout=frame.layout.name, rate=rate_hz)
        self._channels = frame.layout.nb_channels

    @property
    def end_s(self) -> Fraction:
        """Time in seconds at which the next frame has to begin."""
        return self._start_s + Fraction(self._samples_in, self._format[2])

    def continues(self, frame: Any, start_s: Fraction | None) -> bool:
        """True if a frame begins where the last one ended."""
        if self._format != (frame.format.name, frame.layout.name, frame.sample_rate):
            return False
        return start_s is None or abs(start_s - self.end_s) <= _SLACK_S

    def add(self, frame: Any) -> Iterator[_Chunk]:
        """Resample one frame."""
        self._samples_in += frame.samples
        frame.pts = None  # positions are counted here
        yield from self._collect(frame)

    def finish(self) -> Iterator[_Chunk]:
        """Yield the samples that the resampler still holds."""
        yield from self._collect(None)

    def _collect(self, frame: Any) -> Iterator[_Chunk]:
        for resampled in self._resampler.resample(frame):
            keep_layout(resampled)
            channels = resampled.to_ndarray().reshape(-1, self._channels).T
            samples = np.ascontiguousarray(channels).mean(axis=0, dtype=np.float32)
            yield _Chunk(self._position, samples)
            self._position += len(samples)
