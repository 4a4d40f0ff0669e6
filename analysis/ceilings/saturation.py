"""The score that infinitely many source subjects would reach, extrapolated from subsets. Pure array functions.

For a target, v(k) = v₀ (1 - exp(-k / τ)) is fitted by least squares to the scores of subsets of k source subjects, and
v₀ is the ceiling (Schrimpf et al. 2021, PNAS 118:e2105646118; Oota et al. 2025, ICLR). With x(k) = 1 - exp(-k / τ) and
s(k) the sum of the n(k) scores of subsets of k, the best v₀ of a given τ is Σ x s / Σ n x², and τ maximises
(Σ x s)² / Σ n x². So a target is no more than its sums s, a resampling of subsets is other sums, and one search over τ
serves all targets and all resamplings at once.

The exponential comes close to v₀ sooner than scores do. Where k sources share a signal and their noise is their own, a
score grows as x(k) = √(k / (k + τ)), the Spearman-Brown formula with τ the number of sources whose mean is half signal;
`curve="reliability"` fits that. `benchmarks/ceiling.py --bias` measures both beside a known ceiling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Curve = Literal["exponential", "reliability"]
# Of the table of all τ tried for a batch of targets; small enough to stay in the processor's cache.
BATCH_BYTES = 8 * 2**20
# Smallest τ by the smallest size, and largest by the largest. At the smallest one subject reaches v₀ to 2e-9, or 5e-5:
# the curve is flat. At the largest all subjects together reach 0.4 of it; beyond, points are on a line (or on a root),
# and v₀ would be drawn from the little that they bend.
_RANGE: dict[Curve, tuple[float, float]] = {"exponential": (1 / 20, 1.96), "reliability": (1e-4, 5.25)}
# Steps of log τ of the scan; two maxima of one curve are further apart.
_STEP = 0.1
# Where Newton's method stops, in log τ, and steps enough to halve the scan's step down to it.
_CLOSE, _MAX_STEPS = 1e-11, 40


@dataclass(frozen=True)
class Saturation:
    """Extrapolated ceilings of a block of targets; NaN where a score is.

    Attributes
    ----------
    ceiling : array, shape (target,)
        v₀; where the fit did not converge the mean score of the largest subsets.
    low, high : arrays, shape (target,)
        Percentile interval of v₀ over resamplings of subsets; NaN where the fit did not converge.
    tau : array, shape (target,)
        τ in subjects; NaN where the fit did not converge.
    converged : array of bool, shape (target,)
        Whether a saturation is to be seen: subsets have two sizes or more, the largest reach more than 0.4 of v₀, and
        0 < v₀ ≤ 1.
    """

    ceiling: np.ndarray
    low: np.ndarray
    high: np.ndarray
    tau: np.ndarray
    converged: np.ndarray


@dataclass(frozen=True)
class _Points:
    """Sizes of subsets and the curve through them.

    Attributes
    ----------
    curve : {"exponential", "reliability"}
    sizes : array, shape (size,)
        Rising.
    counts : array of int, shape (size,)
        Subsets of each size.
    group : array of int, shape (subset,)
        Place of each subset's size.
    """

    curve: Curve
    sizes: np.ndarray
    counts: np.ndarray
    group: np.ndarray

    def grid(self) -> np.ndarray:
        """log τ that are scanned."""
        fastest, slowest = _RANGE[self.curve]
        low, high = np.log(fastest * self.sizes[0]), np.log(slowest * self.sizes[-1])
        return np.linspace(low, high, int(np.ceil((high - low) / _STEP)) + 1)

    def rise(self, log_tau: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x and its first two derivatives by log τ, (size, fit) each, of (fit,)."""
        if self.curve == "exponential":
            spent = self.sizes[:, None] * np.exp(-log_tau)
            left = np.exp(-spent)
            return -np.expm1(-spent), -spent * left, spent * (1 - spent) * left
        noise = np.exp(log_tau) / self.sizes[:, None]
        root = 1 / np.sqrt(1 + noise)
        first = -noise * root**3 / 2
        return root, first, first * root**2 * (1 - noise / 2)


def extrapolate(
    scores: np.ndarray,
    size: np.ndarray,
    n_bootstraps: int = 100,
    interval: float = 0.95,
    seed: int = 0,
    curve: Curve = "exponential",
) -> Saturation:
    """Fit v₀ x(k) to every target's scores of subsets of k subjects.

    Bootstraps draw subsets with replacement within each size, as Schrimpf et al. (2021) do, so that every size stays
    in every resampling; one draw serves all targets. Subsets share subjects and test rows, so the interval says how
    much depends on which subjects are together, not how another test film or another group of subjects would differ;
    of the largest size there often is one subset, which always is drawn.

    Parameters
    ----------
    scores : array, shape (subset, target)
        Score of each subset of source subjects.
    size : array of int, shape (subset,)
        Subjects in each subset.
    n_bootstraps : int
    interval : float
        Share of resamplings between `low` and `high`. Their v₀ are cut to 0 to 1, the bounds of a
        correlation's ceiling, and are those of the largest τ tried where none is found.
    seed : int
    curve : {"exponential", "reliability"}
        x(k) = 1 - exp(-k / τ) or √(k / (k + τ)).

    Returns
    -------
    Saturation
    """
    sizes, group, counts = np.unique(size, return_inverse=True, return_counts=True)
    known = np.isfinite(scores).all(axis=0)
    largest = scores[group == len(sizes) - 1].mean(axis=0, dtype=np.float64)
    low, high, tau = np.full((3, len(largest)), np.nan)
    found = Saturation(np.where(known, largest, np.nan), low, high, tau, np.zeros_like(known))
    if len(sizes) < 2:
        return found
    points = _Points(curve, sizes, counts, group)
    drawn = _draw(points, n_bootstraps, seed)
    at_once = max(1, BATCH_BYTES // (8 * len(drawn) * len(points.grid())))
    places = np.flatnonzero(known)
    for start in range(0, len(places), at_once):
        batch = places[start : start + at_once]
        _fit_batch(found, batch, scores[:, batch].astype(np.float64), points, drawn, interval)
    return found


def _draw(points: _Points, n_bootstraps: int, seed: int) -> np.ndarray:
    """Number of times that each resampling draws a subset, (1 + bootstrap, subset); the first draws each once."""
    rng = np.random.default_rng(seed)
    drawn = np.ones((1 + n_bootstraps, len(points.group)))
    for number, count in enumerate(points.counts):
        drawn[1:, points.group == number] = rng.multinomial(count, np.full(count, 1 / count), size=n_bootstraps)
    return drawn


def _fit_batch(
    found: Saturation, batch: np.ndarray, scores: np.ndarray, points: _Points, drawn: np.ndarray, interval: float
) -> None:
    """Put the ceilings of some targets, `scores` (subset, target), in their place."""
    members = [points.group == number for number in range(len(points.sizes))]
    sums = np.stack([drawn[:, inside] @ scores[inside] for inside in members])
    v0, tau, at_edge = (values.reshape(len(drawn), -1) for values in _fit(sums.reshape(len(members), -1), points))
    good = ~at_edge[0] & (v0[0] > 0) & (v0[0] <= 1)
    found.converged[batch] = good
    kept = batch[good]
    found.ceiling[kept], found.tau[kept] = v0[0, good], tau[0, good]
    if len(drawn) > 1:
        tail = (1 - interval) / 2
        found.low[kept], found.high[kept] = np.quantile(v0[1:, good].clip(0, 1), [tail, 1 - tail], axis=0)


def _fit(sums: np.ndarray, points: _Points) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """v₀, τ, and whether τ is the largest tried, (fit,) each, of sums (size, fit) of scores.

    A scan finds the best log τ of a grid, and Newton's method the maximum between its neighbours.
    """
    grid = points.grid()
    rise = points.rise(grid)[0]
    best = np.argmax((rise / np.sqrt(points.counts @ rise**2)).T @ sums, axis=0)
    log_tau = grid[best]
    inside = np.flatnonzero((best > 0) & (best < len(grid) - 1))
    log_tau[inside] = _refine(sums[:, inside], grid[best[inside] - 1], grid[best[inside] + 1], points)
    rise = points.rise(log_tau)[0]
    return (rise * sums).sum(axis=0) / (points.counts @ rise**2), np.exp(log_tau), best == len(grid) - 1


def _refine(sums: np.ndarray, low: np.ndarray, high: np.ndarray, points: _Points) -> np.ndarray:
    """log τ (fit,) of the maximum between `low` and `high`: Newton's method, halving where it would step outside."""
    at = (low + high) / 2
    todo = np.arange(len(at))
    for _ in range(_MAX_STEPS):
        here, below, above = at[todo], low[todo], high[todo]
        slope, bend = _slope(here, sums[:, todo], points)
        below, above = np.where(slope > 0, here, below), np.where(slope < 0, here, above)
        step = np.divide(-slope, bend, out=np.full_like(slope, np.inf), where=bend < 0)
        there = here + np.where(slope == 0, 0, step)
        there = np.where((there >= below) & (there <= above), there, (below + above) / 2)
        at[todo], low[todo], high[todo] = there, below, above
        todo = todo[np.abs(there - here) > _CLOSE]
        if not len(todo):
            break
    return at


def _slope(log_tau: np.ndarray, sums: np.ndarray, points: _Points) -> tuple[np.ndarray, np.ndarray]:
    """First derivative of Σ x s / √(Σ n x²) by log τ, times (Σ n x²)^1.5, and the derivative of that, (fit,) each."""
    rise, first, second = points.rise(log_tau)
    counts = points.counts
    fit, fit_1, fit_2 = ((values * sums).sum(axis=0) for values in (rise, first, second))
    norm, half_norm_1, half_norm_2 = counts @ rise**2, counts @ (rise * first), counts @ (first**2 + rise * second)
    return fit_1 * norm - fit * half_norm_1, fit_2 * norm + fit_1 * half_norm_1 - fit * half_norm_2
