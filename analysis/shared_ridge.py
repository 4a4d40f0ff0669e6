"""Ridge regression whose factorisation is shared by all targets, a penalty per target. Pure array functions.

With training rows X and Y of a fold, eigenvectors V and eigenvalues λ of XᵀX, and rows X_v to validate on, a penalty a
predicts L (Z / (λ + a)), where L = X_v V and Z = Vᵀ XᵀY. V and L are made once per fold and shared by all targets, Z is
made once per block of targets; a matrix product per penalty tried is left. XᵀX and XᵀY of a fold are those of all rows
less those that it leaves out. Where features outnumber rows the same holds of the kernel XXᵀ. Gram matrices and factors
are float64, products float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cinecube.analysis.backends import Array, Backend
from cinecube.analysis.folds import Fold
from cinecube.analysis.search import search

Form = Literal["primal", "dual"]
Criterion = Literal["squared error", "correlation"]
# Of a batch of targets: its rotated responses of all folds, and the predictions of one of them.
BATCH_BYTES = 256 * 2**20
# Eigenvalues below this share of the largest are rounding of float64.
_RANK = 1e-13
# Share of a target's variance; where less is explained on held-out rows, curves with two minima are common. Measured on
# targets that are noise but for a correlation of 0.05: with this and the search's coarse grid the walk ends elsewhere
# than the best in 0.1 %.
_WEAK = 0.02


@dataclass(frozen=True)
class Grams:
    """Float64 products of a design with itself, from `plain_grams` or made of shifted blocks.

    Attributes
    ----------
    form : {"primal", "dual"}
    whole : array, shape (feature, feature) or (row, row)
        XᵀX, or XXᵀ.
    held : list of array, shape (feature, feature)
        XᵀX of the rows that each fold leaves out; empty for the dual, whose folds are parts of `whole`.
    test : array, shape (test row, row), or None
        The kernel of test rows; None for the primal.
    """

    form: Form
    whole: np.ndarray
    held: list[np.ndarray]
    test: np.ndarray | None = None


@dataclass(frozen=True)
class Factor:
    """What one fold, or all rows together, need of a design.

    Attributes
    ----------
    values : array of float64, shape (rank,)
        λ.
    basis : Array, shape (feature, rank) or (training row, rank)
        V: its transpose makes Z of XᵀY or of Y.
    left : Array, shape (row to predict, rank)
        L.
    """

    values: np.ndarray
    basis: Array
    left: Array


@dataclass(frozen=True)
class Factors:
    """All that blocks of targets need of a design; see `factorise`.

    Attributes
    ----------
    backend : Backend
    form : {"primal", "dual"}
    design : Array or None
        (row, feature) float32; None for the dual.
    folds : sequence of (train, validation)
    by_fold : list of Factor
    whole : Factor
        Of all rows; `left` predicts the test rows.
    """

    backend: Backend
    form: Form
    design: Array | None
    folds: Sequence[Fold]
    by_fold: list[Factor]
    whole: Factor


@dataclass(frozen=True)
class Fit:
    """Chosen penalties of a block of targets, and what they predict.

    Attributes
    ----------
    best : array of int, shape (target,)
        Position of each target's penalty on the grid.
    loss : array, shape (target,)
        The criterion there: squared error or 1 - r, mean over a fold's rows, then over folds.
    prediction : array, shape (test row, target)
    weights : array, shape (feature, target), or None
        Primal only, if asked for.
    products : float
        Penalties tried, mean over targets.
    """

    best: np.ndarray
    loss: np.ndarray
    prediction: np.ndarray
    weights: np.ndarray | None
    products: float


def choose_form(n_rows: int, n_features: int) -> Form:
    """Primal, unless features outnumber rows."""
    return "primal" if n_features <= n_rows else "dual"


def plain_grams(design: np.ndarray, folds: Sequence[Fold], test: np.ndarray | None = None) -> Grams:
    """Gram matrices by plain products.

    Parameters
    ----------
    design : array, shape (row, feature)
    folds : sequence of (train, validation)
    test : array, shape (test row, feature), optional
    """
    design = design.astype(np.float64, copy=False)
    form = choose_form(*design.shape)
    if form == "dual":
        return Grams(form, design @ design.T, [], None if test is None else test.astype(np.float64) @ design.T)
    held = [design[rows].T @ design[rows] for rows in (held_out(fold, len(design)) for fold in folds)]
    return Grams(form, design.T @ design, held)


def held_out(fold: Fold, n_rows: int) -> np.ndarray:
    """Rows that a fold does not train on: its validation rows and its gaps."""
    kept = np.zeros(n_rows, dtype=bool)
    kept[fold[0]] = True
    return np.flatnonzero(~kept)


def factorise(
    grams: Grams,
    design: np.ndarray,
    test: np.ndarray | None,
    folds: Sequence[Fold],
    backend: Backend,
    run: Callable[[list[Callable[[], Factor]]], list[Factor]] | None = None,
) -> Factors:
    """Factor every fold, and all rows together.

    Parameters
    ----------
    grams : Grams
    design : array, shape (row, feature)
    test : array, shape (test row, feature), or None
    folds : sequence of (train, validation)
    backend : Backend
    run : callable, optional
        Runs functions without arguments and returns their results in order; one after another by default.
    """
    n_rows = len(design)
    single = design.astype(np.float32, copy=False)
    no_rows = np.empty((0, design.shape[1]), np.float32)

    def fold_factor(number: int) -> Factor:
        train, validation = folds[number]
        if grams.form == "dual":
            kernel = grams.whole[np.ix_(train, train)]
            return factor(kernel, grams.whole[np.ix_(validation, train)], backend)
        return factor(grams.whole - grams.held[number], single[validation], backend)

    def whole_factor() -> Factor:
        if grams.form == "dual":
            return factor(grams.whole, np.empty((0, n_rows)) if grams.test is None else grams.test, backend)
        return factor(grams.whole, no_rows if test is None else test.astype(np.float32, copy=False), backend)

    jobs: list[Callable[[], Factor]] = [lambda number=number: fold_factor(number) for number in range(len(folds))]  # type: ignore[misc]
    jobs.append(whole_factor)
    *by_fold, whole = run(jobs) if run else [job() for job in jobs]
    kept = backend.put(single) if grams.form == "primal" else None
    return Factors(backend, grams.form, kept, folds, by_fold, whole)


def factor(matrix: np.ndarray, predicted: np.ndarray, backend: Backend) -> Factor:
    """Factor a Gram matrix, (feature, feature) or (row, row), for rows to predict (row, feature) or (row, row)."""
    values, vectors = backend.eigh(matrix)
    # A design of constants has no rank; one direction of nothing predicts nothing.
    kept = min(int(np.searchsorted(values, _RANK * max(values[-1], 0.0), side="right")), len(values) - 1)
    basis = vectors[:, kept:]
    return Factor(np.maximum(values[kept:], 0.0), basis, backend.put(predicted) @ basis)


def solve(
    factors: Factors,
    responses: np.ndarray,
    alphas: np.ndarray,
    *,
    criterion: Criterion = "squared error",
    exhaustive: bool = False,
    weights: bool = False,
) -> Fit:
    """Choose a penalty per target on the folds, and predict the test rows with it.

    Parameters
    ----------
    factors : Factors
    responses : array, shape (row, target)
        Finite, centred.
    alphas : array, shape (alpha,)
        Rising penalties.
    criterion : {"squared error", "correlation"}
        What chooses. A correlation has several maxima where there is little signal, so all penalties are tried.
    exhaustive : bool
        Try all penalties for squared error too.
    weights : bool
        Return weights (feature, target).
    """
    parts = [
        _solve_batch(factors, responses[:, batch], alphas, criterion, exhaustive, weights)
        for batch in _batches(factors, responses.shape[1])
    ]
    fitted = [part.weights for part in parts if part.weights is not None]
    tried = sum(part.products * len(part.best) for part in parts)
    return Fit(
        np.concatenate([part.best for part in parts]),
        np.concatenate([part.loss for part in parts]),
        np.concatenate([part.prediction for part in parts], axis=1),
        np.concatenate(fitted, axis=1) if fitted else None,
        tried / max(responses.shape[1], 1),
    )


def _batches(factors: Factors, n_targets: int) -> Iterator[slice]:
    longest = max(len(factor.values) for factor in (*factors.by_fold, factors.whole))
    size = max(64, BATCH_BYTES // (4 * longest * (2 * len(factors.folds) + 4)))
    n_batches = max(1, -(-n_targets // size))
    for number in range(n_batches):
        yield slice(n_targets * number // n_batches, n_targets * (number + 1) // n_batches)


def _solve_batch(
    factors: Factors,
    responses: np.ndarray,
    alphas: np.ndarray,
    criterion: Criterion,
    exhaustive: bool,
    weights: bool,
) -> Fit:
    backend, grid = factors.backend, alphas.astype(np.float64)
    known = backend.put(responses)
    by_fold, whole = _rotate(factors, known)
    # A target's values side by side: the search picks targets again and again, and rows are copied fast.
    shown = [backend.turned(known[validation]) for _, validation in factors.folds]
    measure = _gain if criterion == "squared error" else _unlike

    def try_out(place: int, targets: np.ndarray | None) -> np.ndarray:
        losses = np.zeros(responses.shape[1] if targets is None else len(targets))
        for factor, rotated, truth in zip(factors.by_fold, by_fold, shown, strict=True):
            if targets is not None:
                rotated, truth = rotated[targets], truth[targets]
            losses += backend.get(measure(_predict(factor, rotated, backend, grid[place]), truth))
        return losses / len(factors.folds)

    energy = backend.get((known * known).mean(axis=0))
    if exhaustive or criterion == "correlation":
        losses, tried = np.stack([try_out(place, None) for place in range(len(grid))]), float(len(grid))
    else:
        start = _guess(factors, energy * len(responses), whole, grid)
        losses, tried = search(try_out, len(grid), start, -_WEAK * energy)
    best = losses.argmin(axis=0)
    prediction, fitted = _apply(factors.whole, whole, grid[best], backend, weights and factors.form == "primal")
    nothing = np.zeros(len(best))
    if criterion == "squared error":
        nothing = np.mean([backend.get((truth * truth).mean(axis=1)) for truth in shown], axis=0)
    return Fit(
        best,
        losses[best, np.arange(len(best))] + nothing,
        prediction,
        fitted,
        tried,
    )


def refit(
    whole: Factor, design: np.ndarray | None, responses: np.ndarray, alpha: np.ndarray, backend: Backend
) -> np.ndarray:
    """Predictions with penalties that are known, for the rows that a factor of all training rows predicts.

    Parameters
    ----------
    whole : Factor
    design : array, shape (row, feature), or None
        Training rows; None for the dual.
    responses : array, shape (row, target)
        Finite, centred.
    alpha : array, shape (target,)
    backend : Backend

    Returns
    -------
    array, shape (row to predict, target)
    """
    known = backend.put(responses).T
    rotated = (known if design is None else known @ backend.put(design)) @ whole.basis
    return _apply(whole, rotated, alpha, backend)[0]


def _apply(
    whole: Factor, rotated: Array, alpha: np.ndarray, backend: Backend, weights: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """Predictions (row, target) from Z (target, rank) and a penalty per target, and weights (feature, target)."""
    scaled = (rotated * backend.put(1 / (whole.values + alpha[:, None]))).T
    return backend.get(whole.left @ scaled), backend.get(whole.basis @ scaled) if weights else None


def _rotate(factors: Factors, known: Array) -> tuple[list[Array], Array]:
    """Z of every fold, and of all rows, (target, rank) each."""
    if factors.design is None:
        rotated = [known[fold[0]].T @ factor.basis for fold, factor in zip(factors.folds, factors.by_fold, strict=True)]
        return rotated, known.T @ factors.whole.basis
    # YᵀX once for every set of rows that the same folds leave out; what a fold trains on is their sum without its own.
    left_out = np.stack([np.isin(np.arange(len(known)), held_out(fold, len(known))) for fold in factors.folds])
    patterns, which = np.unique(left_out, axis=1, return_inverse=True)
    products = [known[rows].T @ factors.design[rows] for rows in _rows_of(which, patterns.shape[1])]
    total = sum(products[1:], start=products[0])
    rotated = []
    for number, factor in enumerate(factors.by_fold):
        kept = total
        for product, pattern in zip(products, patterns.T, strict=True):
            if pattern[number]:
                kept = kept - product
        rotated.append(kept @ factor.basis)
    return rotated, total @ factors.whole.basis


def _rows_of(which: np.ndarray, n_patterns: int) -> list[np.ndarray]:
    return [np.flatnonzero(which.ravel() == pattern) for pattern in range(n_patterns)]


def _predict(factor: Factor, rotated: Array, backend: Backend, alpha: float) -> Array:
    """(Z / (λ + a)) Lᵀ, (target, row); the smaller of the two takes the division."""
    scale = backend.put(1 / (factor.values + alpha))
    if len(rotated) < len(factor.left):
        return (rotated * scale) @ factor.left.T
    return rotated @ (factor.left * scale).T


def _gain(predicted: Array, truth: Array) -> Array:
    """Squared error of each target less that of predicting nothing, from (target, row).

    Where little is predicted the squared errors of all penalties round to one number in float32; their gains do not.
    """
    gain = predicted - truth
    gain -= truth
    gain *= predicted
    return gain.mean(axis=1)


def _unlike(a: Array, b: Array) -> Array:
    """1 - r of each pair of rows; 1 where one of them is constant."""
    a, b = a - a.mean(axis=1)[:, None], b - b.mean(axis=1)[:, None]
    norm = ((a * a).sum(axis=1) * (b * b).sum(axis=1)) ** 0.5
    return 1 - (a * b).sum(axis=1) / (norm + (norm == 0))


def _guess(factors: Factors, energy: np.ndarray, whole: Array, alphas: np.ndarray) -> np.ndarray:
    """Penalty that generalised cross-validation (Golub, Heath & Wahba 1979) would choose, as a place to start.

    Parameters
    ----------
    energy : array, shape (target,)
        Σ y² of each target.
    whole : Array, shape (target, rank)
        Z of all rows; for the primal YᵀXV, for the dual YᵀV.
    """
    values = factors.whole.values
    n_rows = sum(len(validation) for _, validation in factors.folds)
    shrunk = values / (values + alphas[:, None])
    # Of each direction's energy in Y, what a fit explains: 1 - (1 - s)²; the primal's Z is larger by the root of λ.
    explained = (values + 2 * alphas[:, None]) / (values + alphas[:, None]) ** 2
    if factors.form == "dual":
        explained = explained * values
    known = factors.backend.get((whole * whole) @ factors.backend.put(explained.T))
    freedom = 1 - shrunk.sum(axis=1) / n_rows
    return np.argmin((energy[:, None] - known) / np.maximum(freedom, 1e-3) ** 2, axis=1)
