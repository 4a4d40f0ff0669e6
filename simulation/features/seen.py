"""Parts of a segment, as it was drawn, that each row sees and hears: numbers of frames, and stretches of sound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from math import ceil, floor, gcd

import numpy as np

from cinecube.simulation.features.small_networks import Look
from cinecube.simulation.setup.simulate_params import SimulateSpec


def frames_seen(spec: SimulateSpec, look: Look, row: int, n_frames: int) -> list[int]:
    """Numbers of the frames of a row's window, in exact arithmetic; past the segment's end its last one stays.

    Parameters
    ----------
    spec : SimulateSpec
    look : Look
    row : int
    n_frames : int
        Frames of the segment.

    Returns
    -------
    list of int
        Positions among the segment's frames.
    """
    start, length = row * _exact(spec.tr_s), _exact(spec.window_s)
    if look.sampling == "middles":
        times = [start + (2 * part + 1) * length / (2 * look.frames) for part in range(look.frames)]
        return [min(floor(time_s * spec.rate), n_frames - 1) for time_s in times]
    first = floor(start * spec.rate)
    last = min(ceil((start + length) * spec.rate), n_frames) - 1  # the last one that begins before the window ends
    if look.sampling == "consecutive":
        return [min(first + place, last) for place in range(look.frames)]
    return [first + (last - first) * place // (look.frames - 1) for place in range(look.frames)]


def _exact(seconds: float) -> Fraction:
    """The decimal number that was written."""
    return Fraction(str(seconds))


def clips_seen(spec: SimulateSpec, look: Look, n_frames: int) -> list[list[int]]:
    """Numbers of the frames of every row.

    Parameters
    ----------
    spec : SimulateSpec
    look : Look
    n_frames : int
        Frames of the segment.

    Returns
    -------
    list of list of int
        One per row.
    """
    return [frames_seen(spec, look, row, n_frames) for row in range(spec.rows_per_segment)]


def prepare_once(
    frames: np.ndarray, clips: Sequence[Sequence[int]], prepare: Callable[[np.ndarray], np.ndarray]
) -> dict[int, np.ndarray]:
    """Frames that any clip shows, by number, each prepared once.

    Parameters
    ----------
    frames : ndarray (frame, height, width, 3)
    clips : sequence of sequence of int
        Numbers of the frames of each clip.
    prepare : callable
        Of one frame.

    Returns
    -------
    dict of int to array
    """
    return {number: prepare(frames[number]) for number in sorted({number for clip in clips for number in clip})}


def resampled(sound: np.ndarray, rate_hz: int, new_rate_hz: int) -> np.ndarray:
    """The mean of the channels (channel, sample) at another rate, (sample,) float32.

    Parameters
    ----------
    sound : ndarray (channel, sample)
    rate_hz, new_rate_hz : int
        Samples per second, before and after.

    Returns
    -------
    array of float32, shape (sample,)
    """
    from scipy.signal import resample_poly

    common = gcd(new_rate_hz, rate_hz)
    mono = sound.astype(float).mean(axis=0)
    slow: np.ndarray = resample_poly(mono, new_rate_hz // common, rate_hz // common)
    return slow.astype(np.float32)


def sound_heard(spec: SimulateSpec, look: Look, mono: np.ndarray) -> list[np.ndarray]:
    """The sound that each row hears, (sample,): no longer before the segment's start, silent after its end.

    Parameters
    ----------
    spec : SimulateSpec
    look : Look
    mono : ndarray (sample,)
        At `look.rate_hz`.

    Returns
    -------
    list of array of float32, shape (sample,)
        One per row.
    """
    windows = []
    for row in range(spec.rows_per_segment):
        onset = row * _exact(spec.tr_s)
        start = max(0, round((onset - _exact(look.context_s)) * look.rate_hz))
        end = round((onset + _exact(spec.window_s)) * look.rate_hz)
        window = np.zeros(end - start, np.float32)
        heard = mono[start:end]
        window[: len(heard)] = heard
        windows.append(window)
    return windows


def equal_runs(windows: Sequence[np.ndarray], most: int) -> list[list[np.ndarray]]:
    """Windows in order, in batches of one length: rows near a segment's start look back on less.

    Parameters
    ----------
    windows : sequence of ndarray (sample,)
    most : int
        Windows of a batch.

    Returns
    -------
    list of list of array, shape (sample,)
    """
    batches: list[list[np.ndarray]] = []
    for window in windows:
        if batches and len(batches[-1]) < most and len(batches[-1][0]) == len(window):
            batches[-1].append(window)
        else:
            batches.append([window])
    return batches
