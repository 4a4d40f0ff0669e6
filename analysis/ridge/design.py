"""Design matrices: standardised features at several delays, bounded by runs, and their Gram matrices. Pure arrays.

The Gram matrix of d dims at k delays has (k d)² entries, but its block of delays a and b depends on a - b alone, up to
rows at the borders of runs: k products of d × d make all of it.
"""

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

    Returns
    -------
    array of float64, shape (time, dim)
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


def row_ranges(rows: np.ndarray, runs: Sequence[Run]) -> list[Run]:
    """Rising row numbers as half-open ranges that do not cross a run's border.

    Parameters
    ----------
    rows : array of int, shape (row,)
        Rising.
    runs : sequence of (start, stop)

    Returns
    -------
    list of (start, stop)
    """
    ranges = []
    for start, stop in runs:
        inside = rows[np.searchsorted(rows, start) : np.searchsorted(rows, stop)]
        cuts = np.flatnonzero(np.diff(inside) > 1) + 1
        edges = [0, *cuts.tolist(), len(inside)]
        ranges += [(int(inside[a]), int(inside[b - 1]) + 1) for a, b in itertools.pairwise(edges) if b > a]
    return ranges


def delayed_gram(features: np.ndarray, delays: Sequence[int], runs: Sequence[Run], rows: np.ndarray) -> np.ndarray:
    """XᵀX over some rows of the design X of delayed features.

    Parameters
    ----------
    features : array, shape (time, dim)
        Standardised.
    delays : sequence of int
        FIR lags in TRs, rising.
    runs : sequence of (start, stop)
        Runs among `time`; before a run's start there are zeros.
    rows : array of int
        Rising positions in `time` to sum over.

    Returns
    -------
    array, shape (delay x dim, delay x dim)
        float64, the same as from `delayed`.
    """
    n_dims, n_delays = features.shape[1], len(delays)
    gram = np.zeros((n_delays, n_dims, n_delays, n_dims))
    starts = np.array([start for start, _ in runs])
    # Each range of rows with the start of its run.
    ranges = [
        (start, stop, int(starts[np.searchsorted(starts, start, side="right") - 1]))
        for start, stop in row_ranges(rows, runs)
    ]
    for lag in sorted({far - near for near, far in itertools.combinations_with_replacement(delays, 2)}):
        base = _over(features, ranges, lag)
        for i, near in enumerate(delays):
            for j in range(i, n_delays):
                if delays[j] - near == lag:
                    # The same products, `near` rows earlier: those at the front come in, those at the back go out.
                    front = _over(features, [(start - near, start, first) for start, _, first in ranges], lag)
                    back = _over(features, [(stop - near, stop, first) for _, stop, first in ranges], lag)
                    gram[i, :, j] = base + front - back
                    gram[j, :, i] = gram[i, :, j].T
    return gram.reshape(n_delays * n_dims, n_delays * n_dims)


def _over(features: np.ndarray, ranges: Sequence[tuple[int, int, int]], lag: int) -> np.ndarray:
    """Σ z(s) z(s - lag)ᵀ over ranges (start, stop, run's start) of s; rows before a run are zero."""
    total = np.zeros((features.shape[1], features.shape[1]))
    for start, stop, first in ranges:
        start = max(start, first + lag)
        if start < stop:
            total += features[start:stop].T @ features[start - lag : stop - lag]
    return total


def delayed_kernel(
    features: np.ndarray, others: np.ndarray, delays: Sequence[int], runs: Sequence[Run], other_runs: Sequence[Run]
) -> np.ndarray:
    """XXᵀ of designs of delayed features at all times, from one kernel of undelayed ones.

    Parameters
    ----------
    features, others : arrays, shape (time, dim), (other time, dim)
        Standardised.
    delays : sequence of int
        FIR lags in TRs.
    runs, other_runs : sequences of (start, stop)
        Of each.

    Returns
    -------
    array, shape (time, other time)
        float64.
    """
    plain = features @ others.T
    kernel = np.zeros_like(plain)
    for delay in delays:
        for start, stop in runs:
            for other_start, other_stop in other_runs:
                if delay < stop - start and delay < other_stop - other_start:
                    kernel[start + delay : stop, other_start + delay : other_stop] += plain[
                        start : stop - delay, other_start : other_stop - delay
                    ]
    return kernel
