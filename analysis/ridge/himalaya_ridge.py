"""Ridge regression with one penalty per target, chosen on folds. Pure array functions.

A solver takes arrays and returns a `Solution`; `SOLVERS` names them for `encode.solver`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cinecube.analysis.ridge.factors import Backend, factorise, plain_grams
from cinecube.analysis.ridge.folds import Fold
from cinecube.analysis.ridge.scores import Scores, fittable
from cinecube.analysis.ridge.shared_ridge import solve

# Of temporary arrays inside himalaya: small enough for any laptop, large enough to fill matrix products.
_BATCH_BYTES = 256 * 2**20
# Precision of the search by singular values. Measured against float64 on features of flat to steep spectra: twice as
# fast; the same penalty in 98.7 to 100 % of targets; the others are noise, whose error hardly depends on it, and their
# r differs by at most 2e-4. Kernels square the spread of singular values and choose wrong penalties in float32.
_SEARCH = np.float32
# Targets whose predictions for all alphas are in the processor's cache together; larger arrays go into page faults.
_TARGETS_PER_BATCH = 512
# Rows per feature from which factoring the rows away costs less than himalaya's products with all of them.
_TALL = 2


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


def fit_and_score(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray] | None,
    folds: Sequence[Fold],
    alphas: np.ndarray,
    solver: str = "shared",
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
    targets = fittable(train[1], test[1] if test else None, folds)
    found = SOLVERS[solver](train[0], targets.known, test[0] if test else None, folds, alphas)
    return targets.scores(found.alpha, found.loss, found.prediction)


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
    design = design.astype(np.float64, copy=False)
    search = _search_primal if design.shape[0] >= design.shape[1] else _search_kernel
    with NUMPY_BACKEND:
        alpha, loss = search(design, responses, folds, alphas)
    # himalaya's refit makes every target's weights for all penalties; ours, for its own.
    prediction = np.empty((0, len(alpha))) if test_design is None else _predict(design, responses, test_design, alpha)
    return Solution(alpha, loss, prediction)


def shared_ridge(
    design: np.ndarray,
    responses: np.ndarray,
    test_design: np.ndarray | None,
    folds: Sequence[Fold],
    alphas: np.ndarray,
) -> Solution:
    """Solve with factors of this design that nobody else uses; see `himalaya_ridge` for the arrays.

    Parameters
    ----------
    design : array, shape (row, feature)
    responses : array, shape (row, target)
    test_design : array, shape (test row, feature), or None
    folds : sequence of (train, validation)
    alphas : array, shape (alpha,)

    Returns
    -------
    Solution
    """
    grams = plain_grams(design, folds, test_design)
    fit = solve(factorise(grams, design, test_design, folds, Backend()), responses, alphas)
    return Solution(alphas[fit.best], fit.loss, fit.prediction)


SOLVERS: dict[str, Solver] = {"shared": shared_ridge, "himalaya": himalaya_ridge}


def _search_primal(
    design: np.ndarray, responses: np.ndarray, folds: Sequence[Fold], alphas: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Penalty and loss of each target by the search that `RidgeCV` runs."""
    from himalaya.ridge import solve_group_ridge_random_search

    searched, known, cv = design, responses.astype(_SEARCH, copy=False), list(folds)
    if min(len(train) for train, _ in folds) >= _TALL * design.shape[1]:
        searched, known, cv = _factor_rows(design, known, folds)
    deltas, _, scores = solve_group_ridge_random_search(
        [searched.astype(_SEARCH)],
        known,
        n_iter=np.ones((1, 1), dtype=_SEARCH),
        concentration=None,
        alphas=alphas.astype(_SEARCH),
        cv=cv,
        return_weights=False,
        progress_bar=False,
        warn=False,
        **_batches(cv, alphas),
    )
    return _on_grid(np.exp(-deltas[0]), alphas), -scores[0].astype(np.float64)


def _search_kernel(
    design: np.ndarray, responses: np.ndarray, folds: Sequence[Fold], alphas: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Penalty and loss of each target by the search that `KernelRidgeCV` runs."""
    from himalaya.kernel_ridge import solve_multiple_kernel_ridge_random_search

    deltas, _, scores = solve_multiple_kernel_ridge_random_search(
        (design @ design.T)[None],
        responses.astype(np.float64, copy=False),
        n_iter=np.ones((1, 1)),
        concentration=None,
        alphas=alphas,
        cv=list(folds),
        return_weights=None,
        progress_bar=False,
        **_batches(folds, alphas),
    )
    return _on_grid(np.exp(-deltas[0]), alphas), -scores[0]


def _predict(design: np.ndarray, responses: np.ndarray, test: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Responses (test row, target) that a fit on all training rows predicts, with a penalty per target."""
    u, s, vt = np.linalg.svd(design, full_matrices=False)
    rotated, prediction = test @ vt.T, np.empty((len(test), len(alpha)))
    for start in range(0, len(alpha), _TARGETS_PER_BATCH):
        batch = slice(start, start + _TARGETS_PER_BATCH)
        weights = s[:, None] / (s[:, None] ** 2 + alpha[batch]) * (u.T @ responses[:, batch])
        prediction[:, batch] = rotated @ weights
    return prediction


def _factor_rows(
    design: np.ndarray, responses: np.ndarray, folds: Sequence[Fold]
) -> tuple[np.ndarray, np.ndarray, list[Fold]]:
    """The same search with as many training rows as features: with X = QR, (R, QᵀY) has the weights of (X, Y).

    Returns
    -------
    design, responses, folds
        Every fold with training and validation rows of its own, one after another.
    """
    designs, known, cv, start = [], [], [], 0
    for train, validation in folds:
        q, r = np.linalg.qr(design[train])
        designs += [r, design[validation]]
        known += [q.T.astype(_SEARCH) @ responses[train], responses[validation]]
        middle, stop = start + len(r), start + len(r) + len(validation)
        cv.append((np.arange(start, middle), np.arange(middle, stop)))
        start = stop
    return np.concatenate(designs), np.concatenate(known), cv


def _on_grid(chosen: np.ndarray, alphas: np.ndarray) -> np.ndarray:
    """himalaya returns exp(log(alpha)): the grid's own numbers, shape (target,)."""
    return alphas[np.abs(np.log(chosen[:, None]) - np.log(alphas)).argmin(axis=1)]


def _batches(folds: Sequence[Fold], alphas: np.ndarray) -> dict[str, int]:
    """Sizes of himalaya's batches: its matrices (alpha, validation row, training row) within a fixed memory."""
    bytes_per_alpha = 8 * max(len(train) * len(validation) for train, validation in folds)
    at_once = int(np.clip(_BATCH_BYTES // bytes_per_alpha, 1, len(alphas)))
    return {"n_targets_batch": _TARGETS_PER_BATCH, "n_alphas_batch": at_once}


class _NumpyBackend:
    """himalaya's backend is global to the process: numpy's as long as any thread fits, then what it was."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_fits = 0
        self._before: Any = None

    def __enter__(self) -> None:
        from himalaya.backend import get_backend, set_backend

        with self._lock:
            if self._n_fits == 0:
                self._before = get_backend()
                set_backend("numpy")
            self._n_fits += 1

    def __exit__(self, *_: object) -> None:
        from himalaya.backend import set_backend

        with self._lock:
            self._n_fits -= 1
            if self._n_fits == 0:
                set_backend(self._before)


NUMPY_BACKEND = _NumpyBackend()
