"""Cross-subject ceilings as the authors of Oota et al. (2025) compute them, out of core.

Each row is normalised over its targets, not each target over rows. Each source predicts each other subject by kernel
ridge (linear, penalty 1, no folds), and the score of several sources is the mean of their single ones; a curve is
fitted to resampled points, and the median v₀ is the ceiling. So the mean over points is the same at every number of
subjects, and the curve through them shows no saturation.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import OptimizeWarning, curve_fit

from cinecube.analysis.ceilings.ceiling_blocks import Cohort, run_by_subject
from cinecube.analysis.ceilings.cross_subject import Kernel, sum_kernels
from cinecube.analysis.encoders.oota2025 import RowConstants, row_constants
from cinecube.analysis.ridge.scores import pearson
from cinecube.store.jobs.tasks import Progress, Workers, run_jobs, share, submit

_PENALTY = 1.0
# Targets of one task of fits: a second or so.
_TARGETS_PER_FIT = 64


@dataclass(frozen=True)
class CompatPoints:
    """Points of one subject's curve.

    Attributes
    ----------
    subjects : array of int, shape (point,)
        Number of subjects, the predicted one among them.
    score : array, shape (point, target)
    """

    subjects: np.ndarray
    score: np.ndarray


def compat_scores(cohort: Cohort, workers: Workers = None) -> dict[str, CompatPoints]:
    """Points of every subject's curve; one source's kernel is in memory at a time.

    Parameters
    ----------
    cohort : Cohort
        Of two subjects or more; its folds are not used.
    workers : Client, Threads or None

    Returns
    -------
    dict of str to CompatPoints
    """
    names, there = list(cohort.brains), share(workers, cohort)
    rows = run_by_subject(workers, _row_constants, {name: (there, name) for name in names}, cohort.threads)
    single: dict[str, dict[str, np.ndarray]] = {name: {} for name in cohort.predicted}
    for source in names:
        smoother = submit(workers, _smoother, cohort.threads, there, source, rows[source])
        jobs = [
            ((name, block), (there, name, targets, rows[name], smoother))
            for name in single
            if name != source
            for block, targets in enumerate(cohort.blocks(name))
        ]
        parts = dict(run_jobs(workers, _score_block, jobs, cohort.threads))
        for name in single:
            if name != source:
                blocks = range(len(cohort.blocks(name)))
                single[name][source] = np.concatenate([parts[name, block] for block in blocks])
    return {name: _combine(own) for name, own in single.items()}


def _row_constants(cohort: Cohort, name: str) -> RowConstants:
    """Task: constants of a subject's rows."""
    return row_constants(cohort.read(name, targets) for targets in cohort.blocks(name))


def _normalised(cohort: Cohort, name: str, targets: np.ndarray, rows: RowConstants) -> np.ndarray:
    mean, spread = rows
    return (cohort.read(name, targets) - mean) / spread


def _smoother(cohort: Cohort, name: str, rows: RowConstants) -> np.ndarray:
    """Task: what makes predictions (test row, target) of responses (train row, target), (test row, train row)."""

    def kernel(targets: np.ndarray) -> Kernel:
        values = np.nan_to_num(_normalised(cohort, name, targets, rows), copy=False)
        seen = values[cohort.train]
        return Kernel(seen @ seen.T, values[~cohort.train] @ seen.T)

    total = sum_kernels(kernel(targets) for targets in cohort.blocks(name))
    total.whole[np.diag_indices_from(total.whole)] += _PENALTY
    return cho_solve(cho_factor(total.whole, overwrite_a=True), total.test.T).T


def _score_block(
    cohort: Cohort, name: str, targets: np.ndarray, rows: RowConstants, smoother: np.ndarray
) -> np.ndarray:
    """Task: r of a block of a subject's targets, (target,); NaN where a target is absent."""
    values = _normalised(cohort, name, targets, rows)
    return pearson(smoother @ values[cohort.train], values[~cohort.train])


def _combine(single: Mapping[str, np.ndarray]) -> CompatPoints:
    """Every combination of sources, by the mean of their single scores."""
    chosen = [which for size in range(1, len(single) + 1) for which in itertools.combinations(single, size)]
    scores = [np.mean([single[source] for source in which], axis=0) for which in chosen]
    return CompatPoints(np.array([len(which) + 1 for which in chosen]), np.stack(scores))


def compat_ceilings(
    points: Mapping[str, CompatPoints],
    n_bootstraps: int,
    workers: Workers = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> dict[str, np.ndarray]:
    """Extrapolated ceilings (target,) by subject: one `curve_fit` per target and bootstrap, so best run by processes.

    Parameters
    ----------
    points : dict of str to CompatPoints
    n_bootstraps : int
    workers : Client, Threads or None
    threads : int
        BLAS threads of each task.
    progress : callable, optional
        Told `(blocks done, blocks in all)`.

    Returns
    -------
    dict of str to array, shape (target,)
        By subject.
    """
    found = {name: np.full(own.score.shape[1], np.nan) for name, own in points.items()}
    jobs = [
        ((name, start), (own.subjects, own.score[:, start : start + _TARGETS_PER_FIT], n_bootstraps))
        for name, own in points.items()
        for start in range(0, own.score.shape[1], _TARGETS_PER_FIT)
    ]
    for done, ((name, start), ceilings) in enumerate(run_jobs(workers, compat_ceiling, jobs, threads)):
        found[name][start : start + len(ceilings)] = ceilings
        if progress:
            progress(done + 1, len(jobs))
    return found


def compat_ceiling(x: np.ndarray, v: np.ndarray, n_bootstraps: int = 100, seed: int = 42) -> np.ndarray:
    """Ceiling as the authors of Oota et al. (2025) extrapolate it: slow, one `curve_fit` per target and bootstrap.

    Parameters
    ----------
    x : array, shape (point,)
        Number of subjects.
    v : array, shape (point, target)
    n_bootstraps : int
    seed : int
        Bootstraps draw points of all sizes together; which generator the authors drew them from, and whether anew for
        every target, is unknown. Here one draw of `RandomState` serves all targets.

    Returns
    -------
    array, shape (target,)
        Median of v₀ over the bootstraps whose fit converged; NaN where none did, or there is one point, which is no
        curve.
    """
    if len(x) < 2:
        return np.full(v.shape[1], np.nan)
    drawn = np.random.RandomState(seed).randint(len(x), size=(n_bootstraps, len(x)))
    ceilings = np.full(v.shape[1], np.nan)
    for target in np.flatnonzero(np.isfinite(v).all(axis=0)):
        fitted = [v0 for rows in drawn if (v0 := _curve_fit(x[rows], v[rows, target])) is not None]
        if fitted:
            ceilings[target] = np.median(fitted)
    return ceilings


def _curve_fit(x: np.ndarray, v: np.ndarray) -> float | None:
    """v₀ by scipy with its own start, or None where that finds nothing."""

    def curve(x: np.ndarray, v0: float, tau0: float) -> np.ndarray:
        with np.errstate(all="ignore"):
            return v0 * (1 - np.exp(-x / tau0))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)
        try:
            return float(curve_fit(curve, x, v, maxfev=6000)[0][0])
        except (RuntimeError, ValueError):
            return None
