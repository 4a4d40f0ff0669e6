"""Means over subjects with what subjects' number leaves open. Pure array functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Rows whose resampled means are held at once: 20 MB with ten thousand resamples.
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Spread:
    """Mean over subjects and how far it can be trusted, arrays of shape (row,).

    Attributes
    ----------
    subjects : array of int
        How many have a value.
    mean : array
        NaN without any subject.
    sem : array
        Standard error, with n - 1; NaN below two subjects.
    low, high : arrays
        Ends of the bootstrap interval; NaN below two subjects.
    """

    subjects: np.ndarray
    mean: np.ndarray
    sem: np.ndarray
    low: np.ndarray
    high: np.ndarray


def spread_over_subjects(values: np.ndarray, level: float = 0.95, n_resamples: int = 10_000, seed: int = 0) -> Spread:
    """Mean, standard error and percentile bootstrap interval over subjects (Efron and Tibshirani 1993, chapter 13).

    A percentile interval of so few subjects as imaging studies have is too narrow: of 95 % intervals of normally
    distributed subjects about 80 % hold the true mean with four of them, 86 % with six, 92 % with fifteen.

    Parameters
    ----------
    values : array, shape (row, subject)
        NaN where a subject has none.
    level : float
        Share of resampled means inside the interval.
    n_resamples : int
    seed : int
        A row's interval depends on its own values and the seed, not on other rows.

    Returns
    -------
    Spread

    Raises
    ------
    ValueError
        If `level` is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level {level}: must be between 0 and 1")
    values = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(values)
    mean, sem, low, high = (np.full(len(values), np.nan) for _ in range(4))
    for pattern in np.unique(known, axis=0):
        rows = np.flatnonzero((known == pattern).all(axis=1))
        own = values[np.ix_(rows, np.flatnonzero(pattern))]
        n_subjects = own.shape[1]
        if n_subjects:
            mean[rows] = own.mean(axis=1)
        if n_subjects > 1:
            sem[rows] = own.std(axis=1, ddof=1) / np.sqrt(n_subjects)
            low[rows], high[rows] = _percentiles(own, level, n_resamples, seed)
    return Spread(known.sum(axis=1), mean, sem, low, high)


def _percentiles(values: np.ndarray, level: float, n_resamples: int, seed: int) -> np.ndarray:
    """Ends of the intervals, shape (2, row), of values (row, subject) without NaN."""
    n_subjects = values.shape[1]
    drawn = np.random.default_rng(seed).integers(n_subjects, size=(n_resamples, n_subjects))
    shares = np.stack([(drawn == s).mean(axis=1) for s in range(n_subjects)])
    ends = (0.5 - level / 2, 0.5 + level / 2)
    parts = [
        np.quantile(values[start : start + _ROWS_AT_ONCE] @ shares, ends, axis=1)
        for start in range(0, len(values), _ROWS_AT_ONCE)
    ]
    return np.concatenate(parts, axis=1)
