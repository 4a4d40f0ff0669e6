"""Design matrices: standardised features at several delays, bounded by runs. Pure array functions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from cinecube.store.clock.clock import SAME_STEP_S

# Below this share of its mean a spread is rounding of float32, not signal.
_CONSTANT = 1e-7

Run = tuple[int, int]


def cut_runs(segment: np.ndarray, onset_s: np.ndarray, tr_s: float) -> list[Run]:
    """Half-open index ranges of rows that follow each other by one TR inside a segment.

    Parameters
    ----------
    segment : array of str, shape (time,)
        Segment of each row.
    onset_s : array, shape (time,)
        Window starts in seconds.
    tr_s : float
        Seconds between rows; a larger step starts a run, for what was seen before it is unknown.

    Returns
    -------
    list of (start, stop)
        In order, covering all rows.
    """
    step = np.abs(np.diff(onset_s) - tr_s) > SAME_STEP_S
    starts = np.flatnonzero(step | (segment[1:] != segment[:-1])) + 1
    edges = [0, *starts.tolist(), len(onset_s)]
    return list(itertools.pairwise(edges))


def join_runs(runs: Sequence[Run], train: np.ndarray) -> list[Run]:
    """Runs that follow each other as one, as long as all are of training films, or none is; `train` (time,).

    Parameters
    ----------
    runs : sequence of (start, stop)
    train : array of bool, shape (time,)
        Whether a row belongs to a training film.

    Returns
    -------
    list of (start, stop)
    """
    joined: list[Run] = []
    for start, stop in runs:
        if joined and train[start] == train[joined[-1][0]]:
            joined[-1] = joined[-1][0], stop
        else:
            joined.append((start, stop))
    return joined


def constants(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and spread of each dim in float64.

    Parameters
    ----------
    features : array, shape (time, dim)
        Training rows only.

    Returns
    -------
    mean, spread : arrays, shape (dim,)
        Spread is the standard deviation, infinite for a constant dim, which standardises to zero.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    spread = features.std(axis=0, dtype=np.float64)
    return mean, np.where(spread > _CONSTANT * np.abs(mean), spread, np.inf)


def varying_dims(features: np.ndarray) -> np.ndarray:
    """Mask (dim,) of the dims of `features` (time, dim) that vary; see `constants`."""
    varies: np.ndarray = np.isfinite(constants(features)[1])
    return varies


def standardise(features: np.ndarray, mean: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """`(features - mean) / spread` in float64, shape (time, dim).

    Parameters
    ----------
    features : array, shape (time, dim)
    mean, spread : arrays, shape (dim,)
        From `constants`.
    """
    return (features.astype(np.float64) - mean) / spread


def delayed(features: np.ndarray, delays: Sequence[int], runs: Sequence[Run]) -> np.ndarray:
    """Features as they were `delays` TRs ago, side by side.

    Parameters
    ----------
    features : array, shape (time, dim)
        Standardised features: zero means "nothing known".
    delays : sequence of int
        FIR lags in TRs.
    runs : sequence of (start, stop)
        From `cut_runs`; rows before a run's start are zeros, never the run before.

    Returns
    -------
    array, shape (time, delay x dim)
        Delay by delay.
    """
    n_rows, n_dims = features.shape
    design = np.zeros((n_rows, len(delays), n_dims), dtype=features.dtype)
    for start, stop in runs:
        for d, delay in enumerate(delays):
            if delay < stop - start:
                design[start + delay : stop, d] = features[start : stop - delay]
    return design.reshape(n_rows, len(delays) * n_dims)
