"""Ridge regression with one penalty per target, chosen on folds. Pure array functions.

A solver takes arrays and returns a `Solution`; `SOLVERS` names them for `encode.solver`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from cinecube.analysis.folds import Fold

# Of temporary arrays inside himalaya: small enough for any laptop, large enough to fill matrix products.
_BATCH_BYTES = 256 * 2**20
# Precision of the search by singular values. Measured against float64 on features of flat to steep spectra: twice as
# fast; the same penalty in 98.7 to 100 % of targets; the others are noise, whose error hardly depends on it, and their
# r differs by at most 2e-4. Kernels square the spread of singular values and choose wrong penalties in float32.
_SEARCH = np.float32
# Targets whose predictions for all alphas are in the processor's cache together.
_TARGETS_PER_BATCH = 512


@dataclass(frozen=True)
class Solution:
    """Fitted penalties and what they predict.

    Attributes
    ----------
    alpha : array, shape (target,)
        Penalty of each target, one of the grid's.
    loss : array, shape (target,)
        Squared error at that penalty: mean over the rows of a validation part, then over folds.
    prediction : array, shape (test row, target)
        Predicted responses; no rows if there was nothing to predict.
    """

    alpha: np.ndarray
    loss: np.ndarray
    prediction: np.ndarray


Solver = Callable[[np.ndarray, np.ndarray, np.ndarray | None, Sequence[Fold], np.ndarray], Solution]


@dataclass(frozen=True)
class Scores:
    """Scores of a block of targets; NaN where a target is absent or constant.

    Attributes
    ----------
    alpha : array, shape (target,)
    cv_score : array, shape (target,)
        R² over the training films' held-out rows.
    score : array, shape (target,)
        Pearson r on the test films.
    """

    alpha: np.ndarray
    cv_score: np.ndarray
    score: np.ndarray


def fit_and_score(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray] | None,
    folds: Sequence[Fold],
    alphas: np.ndarray,
    solver: str = "himalaya",
) -> Scores:
    """Fit on the training films, choose penalties on folds inside them, score on the test films.

    Parameters
    ----------
    train : (design (row, feature), responses (row, target))
        Training films. Responses are centred per run, designs by constants of these rows; no intercept is fitted.
    test : (design, responses) or None
        Test films; None leaves `score` NaN and saves the refit.
    folds : sequence of (train, validation)
        Positions among the training rows.
    alphas : array, shape (alpha,)
        Penalties to choose from.
    solver : str
        Name in `SOLVERS`.

    Returns
    -------
    Scores
        `cv_score` is 1 - (squared error, mean over folds) / (variance, mean over folds), both over a fold's
        validation rows, at the penalty that this error chose.
    """
    design, responses = train
    fitted = np.isfinite(responses).all(axis=0) & (np.ptp(responses, axis=0) > 0)
    scores = Scores(*(np.full(responses.shape[1], np.nan) for _ in range(3)))
    if not fitted.any():
        return scores
    known = responses[:, fitted].astype(np.float64)
    solution = SOLVERS[solver](design, known, test[0] if test else None, folds, alphas)
    variance = np.mean([known[validation].var(axis=0) for _, validation in folds], axis=0)
    scores.alpha[fitted] = solution.alpha
    scores.cv_score[fitted] = 1 - _ratio(solution.loss, variance)
    if test:
        scores.score[fitted] = pearson(solution.prediction, test[1][:, fitted])
    return scores


def pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation of two arrays (row, target) column by column in float64; NaN where one is constant."""
    a, b = (x - x.mean(axis=0) for x in (a.astype(np.float64), b.astype(np.float64)))
    norm = np.sqrt((a * a).sum(axis=0)) * np.sqrt((b * b).sum(axis=0))
    return _ratio((a * b).sum(axis=0), norm)


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.full(a.shape, np.nan), where=b > 0)


def himalaya_ridge(
    design: np.ndarray,
    responses: np.ndarray,
    test_design: np.ndarray | None,
    folds: Sequence[Fold],
    alphas: np.ndarray,
) -> Solution:
    """Solve with himalaya: by singular values, or by the kernel where features outnumber rows.

    Parameters
    ----------
    design : array, shape (row, feature)
    responses : array, shape (row, target)
        Finite, centred.
    test_design : array, shape (test row, feature), or None
    folds : sequence of (train, validation)
    alphas : array, shape (alpha,)

    Returns
    -------
    Solution
        As himalaya's `RidgeCV` and `KernelRidgeCV` give it.
    """
    design, responses = design.astype(np.float64), responses.astype(np.float64)
    test = np.empty((0, design.shape[1])) if test_design is None else test_design.astype(np.float64)
    solve = _solve_primal if design.shape[0] >= design.shape[1] else _solve_kernel
    with _numpy_backend():
        return solve(design, responses, test, folds, alphas)


SOLVERS: dict[str, Solver] = {"himalaya": himalaya_ridge}


def _solve_primal(
    design: np.ndarray, responses: np.ndarray, test: np.ndarray, folds: Sequence[Fold], alphas: np.ndarray
) -> Solution:
    """The search that `RidgeCV` runs. Its refit makes every target's weights for all penalties; ours, for its own."""
    from himalaya.ridge import solve_group_ridge_random_search

    deltas, _, scores = solve_group_ridge_random_search(
        [design.astype(_SEARCH)],
        responses.astype(_SEARCH),
        n_iter=np.ones((1, 1), dtype=_SEARCH),
        concentration=None,
        alphas=alphas.astype(_SEARCH),
        cv=list(folds),
        return_weights=False,
        progress_bar=False,
        warn=False,
        **_batches(design, folds, alphas),
    )
    chosen = _on_grid(np.exp(-deltas[0]), alphas)
    prediction = np.empty((0, responses.shape[1]))
    if test.size:
        u, s, vt = np.linalg.svd(design, full_matrices=False)
        prediction = (test @ vt.T) @ (s[:, None] / (s[:, None] ** 2 + chosen) * (u.T @ responses))
    return Solution(chosen, -scores[0].astype(np.float64), prediction)


def _solve_kernel(
    design: np.ndarray, responses: np.ndarray, test: np.ndarray, folds: Sequence[Fold], alphas: np.ndarray
) -> Solution:
    from himalaya.kernel_ridge import solve_kernel_ridge_cv_eigenvalues

    batches = _batches(design, folds, alphas)
    chosen, dual, scores = solve_kernel_ridge_cv_eigenvalues(
        design @ design.T,
        responses,
        alphas=alphas,
        cv=list(folds),
        n_targets_batch_refit=_TARGETS_PER_BATCH,
        **batches,
    )
    return Solution(_on_grid(chosen, alphas), -scores[0], (test @ design.T) @ dual)


def _on_grid(chosen: np.ndarray, alphas: np.ndarray) -> np.ndarray:
    """himalaya returns exp(log(alpha)): the grid's own numbers, shape (target,)."""
    return alphas[np.abs(np.log(chosen[:, None]) - np.log(alphas)).argmin(axis=1)]


def _batches(design: np.ndarray, folds: Sequence[Fold], alphas: np.ndarray) -> dict[str, int]:
    """Sizes of himalaya's batches: its matrices (alpha, validation row, training row) within a fixed memory."""
    bytes_per_alpha = 8 * max(len(train) * len(validation) for train, validation in folds)
    at_once = int(np.clip(_BATCH_BYTES // bytes_per_alpha, 1, len(alphas)))
    return {"n_targets_batch": _TARGETS_PER_BATCH, "n_alphas_batch": at_once}


@contextmanager
def _numpy_backend() -> Iterator[Any]:
    """himalaya's backend is global to the process: set it for as long as a fit lasts."""
    from himalaya.backend import get_backend, set_backend

    before = get_backend()
    try:
        yield set_backend("numpy")
    finally:
        set_backend(before)
