"""Ridge regression whose factorisation is shared by all targets, a penalty per target. Pure array functions.

With training rows X and Y of a fold, eigenvectors V and eigenvalues λ of XᵀX, and rows X_v to validate on, a penalty a
predicts L (Z / (λ + a)), where L = X_v V and Z = Vᵀ XᵀY. V and L are made once per fold and shared by all targets, Z is
made once per block of targets; a matrix product per penalty tried is left. XᵀX and XᵀY of a fold are those of all rows
less those that it leaves out. Where features outnumber rows the same holds of the kernel XXᵀ. Gram matrices and factors
are float64, products float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cinecube.analysis.ridge.factors import Array, Backend, Factor, Factors, Form, held_out

Criterion = Literal["squared error", "correlation"]
# Of a batch of targets: its rotated responses of all folds, and the predictions of one of them.
BATCH_BYTES = 256 * 2**20
# Share of a target's variance; where less is explained on held-out rows, curves with two minima are common. Measured on
# targets that are noise but for a correlation of 0.05: with this and the search's coarse grid the walk ends elsewhere
# than the best in 0.1 %.
_WEAK = 0.02
# Of many targets some walk first: starts that all err to one side are moved before the others set out.
_SAMPLE, _MANY = 128, 1024
# Every third place: what a weak target's first walk may have missed. Chosen with `_WEAK`.
_COARSE = 3
# Places that so few targets try are tried together: of small problems most of the time was the calls.
_FEW = 256
TryOut = Callable[[int | np.ndarray, np.ndarray | None], np.ndarray]
"""`(place, or one of each target; targets or None for all) -> losses (target,)`."""


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


def solve(
    factors: Factors,
    responses: np.ndarray,
    alphas: np.ndarray,
    *,
    criterion: Criterion = "squared error",
    exhaustive: bool = False,
    weights: bool = False,
    places: np.ndarray | None = None,
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
    places : array of int, shape (target,), optional
        Each target's place on the grid, where something else has chosen it: only its loss is computed.

    Returns
    -------
    Fit
    """
    parts = [
        _solve_batch(
            factors,
            responses[:, batch],
            alphas,
            criterion,
            exhaustive,
            weights,
            None if places is None else places[batch],
        )
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


def all_losses(
    factors: Factors, responses: np.ndarray, alphas: np.ndarray, criterion: Criterion = "squared error"
) -> np.ndarray:
    """Loss of every penalty in every target, shape (alpha, target): squared error or 1 - r, average over folds.

    See `solve` for the parameters. Squared errors are less those of predicting nothing.

    Parameters
    ----------
    factors : Factors
    responses : array, shape (row, target)
    alphas : array, shape (alpha,)
    criterion : {"squared error", "correlation"}

    Returns
    -------
    array, shape (alpha, target)
    """
    parts = []
    for batch in _batches(factors, responses.shape[1]):
        trial = _Trial(factors, responses[:, batch], alphas, criterion)
        parts.append(np.stack([trial(place, None) for place in range(len(alphas))]))
    return np.concatenate(parts, axis=1)


def _batches(factors: Factors, n_targets: int) -> Iterator[slice]:
    longest = max(len(factor.values) for factor in (*factors.by_fold, factors.whole))
    size = max(64, BATCH_BYTES // (4 * longest * (2 * len(factors.folds) + 4)))
    n_batches = max(1, -(-n_targets // size))
    for number in range(n_batches):
        yield slice(n_targets * number // n_batches, n_targets * (number + 1) // n_batches)


class _Trial:
    """Losses of a batch of targets at one place on the grid, or each at its own, for all targets or some of them."""

    def __init__(self, factors: Factors, responses: np.ndarray, alphas: np.ndarray, criterion: Criterion) -> None:
        backend = factors.backend
        self.known, self.grid = backend.put(responses), alphas.astype(np.float64)
        self._factors = factors
        self._by_fold, self.whole = _rotate(factors, self.known)
        self._scales = [backend.put(1 / (factor.values + self.grid[:, None])) for factor in factors.by_fold]
        # A target's values side by side: the search picks targets again and again, and rows are copied fast.
        self.shown = [backend.turned(self.known[validation]) for _, validation in factors.folds]
        self._measure = _gain if criterion == "squared error" else _unlike

    def __call__(self, place: int | np.ndarray, targets: np.ndarray | None) -> np.ndarray:
        backend = self._factors.backend
        losses = np.zeros(self.known.shape[1] if targets is None else len(targets))
        each = zip(self._factors.by_fold, self._scales, self._by_fold, self.shown, strict=True)
        for factor, scales, rotated, truth in each:
            if targets is not None:
                rotated, truth = rotated[targets], truth[targets]
            losses += backend.get(self._measure(_predict(factor.left, scales[place], rotated), truth))
        return losses / len(self._factors.folds)


def _solve_batch(
    factors: Factors,
    responses: np.ndarray,
    alphas: np.ndarray,
    criterion: Criterion,
    exhaustive: bool,
    weights: bool,
    places: np.ndarray | None,
) -> Fit:
    backend, trial = factors.backend, _Trial(factors, responses, alphas, criterion)
    best, loss, tried = _choose(trial, factors, places, exhaustive or criterion == "correlation")
    prediction, fitted = _apply(
        factors.whole, trial.whole, trial.grid[best], backend, weights and factors.form == "primal"
    )
    nothing = np.zeros(len(best))
    if criterion == "squared error":
        nothing = np.mean([backend.get((truth * truth).mean(axis=1)) for truth in trial.shown], axis=0)
    return Fit(best, loss + nothing, prediction, fitted, tried)


def _choose(
    trial: _Trial, factors: Factors, places: np.ndarray | None, exhaustive: bool
) -> tuple[np.ndarray, np.ndarray, float]:
    """Each target's place on the grid, its loss there, and how many places were tried for a target."""
    known, n_targets = trial.known, trial.known.shape[1]
    if places is not None:
        loss = np.empty(n_targets)
        for place in np.unique(places):
            own = np.flatnonzero(places == place)
            loss[own] = trial(int(place), own)
        return places, loss, 1.0
    if exhaustive:
        losses, tried = np.stack([trial(place, None) for place in range(len(trial.grid))]), float(len(trial.grid))
    else:
        energy = factors.backend.get((known * known).mean(axis=0))
        start = _guess(factors, energy * len(known), trial.whole, trial.grid)
        losses, tried = search(trial, len(trial.grid), start, -_WEAK * energy)
    best = losses.argmin(axis=0)
    return best, losses[best, np.arange(n_targets)], tried


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


def fit_weights(
    whole: Factor, form: Form, design: np.ndarray, responses: np.ndarray, alpha: np.ndarray, backend: Backend
) -> np.ndarray:
    """Weights (feature, target) with penalties that are known.

    Parameters
    ----------
    whole : Factor
        Of all training rows.
    form : {"primal", "dual"}
        Of the factor.
    design : array, shape (row, feature)
        Training rows.
    responses : array, shape (row, target)
        Finite, centred.
    alpha : array, shape (target,)
    backend : Backend

    Returns
    -------
    array, shape (feature, target)
    """
    rows, known = backend.put(design), backend.put(responses).T
    rotated = (known if form == "dual" else known @ rows) @ whole.basis
    found = _apply(whole, rotated, alpha, backend, weights=True)[1]
    assert found is not None
    # Of the dual they are Xᵀ c, with (XXᵀ + a) c = y.
    return found if form == "primal" else backend.get(rows.T @ backend.put(found))


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


def _predict(left: Array, scale: Array, rotated: Array) -> Array:
    """(Z / (λ + a)) Lᵀ, (target, row), of 1 / (λ + a), (rank,) or (target, rank); the smaller of Z and L takes it."""
    if scale.ndim > 1 or len(rotated) < len(left):
        return (rotated * scale) @ left.T
    return rotated @ (left * scale).T


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
    factors : Factors
    energy : array, shape (target,)
        Σ y² of each target.
    whole : Array, shape (target, rank)
        Z of all rows; for the primal YᵀXV, for the dual YᵀV.
    alphas : array, shape (alpha,)
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


def search(try_out: TryOut, n_places: int, start: np.ndarray, weak: np.ndarray) -> tuple[np.ndarray, float]:
    """Walk from each target's start to where neither neighbour has a smaller loss.

    Where little is explained the curve has several minima, so weak targets walk again from the best of a coarse grid.

    Parameters
    ----------
    try_out : TryOut
    n_places : int
        Places on the grid.
    start : array of int, shape (target,)
    weak : array, shape (target,)
        A target whose smallest loss is above this is weak.

    Returns
    -------
    losses : array, shape (place, target)
        Infinite where nothing was tried.
    tried : float
        Places tried, mean over targets.
    """
    n_targets = len(start)
    losses = np.full((n_places, n_targets), np.inf)
    known = np.zeros((n_places, n_targets), dtype=bool)
    if n_targets >= _MANY:
        start = _moved(try_out, losses, known, start)
    _walk(try_out, losses, known, start)
    doubtful = losses.min(axis=0) > weak
    if doubtful.any():
        wanted = np.zeros_like(known)
        wanted[_COARSE // 2 :: _COARSE, doubtful] = True
        wanted[-1, doubtful] = True
        _try_all(try_out, losses, known, wanted & ~known)
        _walk(try_out, losses, known, losses.argmin(axis=0))
    return losses, float(known.sum() / max(n_targets, 1))


def _moved(try_out: TryOut, losses: np.ndarray, known: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Starts (target,) less the median error of a sample's, whose walks are kept."""
    sample = np.arange(0, len(start), len(start) // _SAMPLE)

    def try_sample(place: int | np.ndarray, targets: np.ndarray | None) -> np.ndarray:
        return try_out(place, sample if targets is None else sample[targets])

    own_losses, own_known = losses[:, sample], known[:, sample]
    _walk(try_sample, own_losses, own_known, start[sample])
    losses[:, sample], known[:, sample] = own_losses, own_known
    error = np.rint(np.median(own_losses.argmin(axis=0) - start[sample])).astype(int)
    return np.clip(start + error, 0, len(losses) - 1)


def _walk(try_out: TryOut, losses: np.ndarray, known: np.ndarray, best: np.ndarray) -> None:
    """Try neighbours of the best places until all of them are known."""
    n_places, everyone = len(losses), np.arange(losses.shape[1])
    while True:
        wanted = np.zeros_like(known)
        for step in (-1, 0, 1):
            place = best + step
            inside = (place >= 0) & (place < n_places)
            wanted[place[inside], everyone[inside]] = True
        wanted &= ~known
        if not wanted.any():
            return
        _try_all(try_out, losses, known, wanted)
        best = losses.argmin(axis=0)


def _try_all(try_out: TryOut, losses: np.ndarray, known: np.ndarray, wanted: np.ndarray) -> None:
    n_targets = wanted.shape[1]
    few = wanted.sum(axis=1) <= _FEW
    for place in np.flatnonzero(~few):
        targets = np.flatnonzero(wanted[place])
        losses[place, targets] = try_out(int(place), None if len(targets) == n_targets else targets)
    places, targets = np.nonzero(wanted & few[:, None])
    for first in range(0, len(places), n_targets):  # no more memory than all targets at one place take
        part = slice(first, first + n_targets)
        losses[places[part], targets[part]] = try_out(places[part], targets[part])
    known |= wanted
