"""The part of a layer that features of another model do not explain. Pure array functions.

With A a layer of the model kept and B features of the model removed, both standardised with constants of the training
rows, the residual is A - f(B), where f is a linear ridge fitted on the training rows with a penalty per dim of A
(Toneva, Mitchell & Wehbe 2022; Oota et al., ICLR 2025). It is signed, as in the latter's code: the bars in their Figure
1B are notation. The factors of B serve all layers of A.

A penalty shrinks, so some of B stays in a residual. However little it is, encoding standardises it, and r does not see
its size: of a copy of B nothing would seem to be removed. Two things help (benchmarks/residual.py). What is predicted
up to shrinkage and rounding counts as removed. And A can be taken by its directions instead of its dims: a dim that has
a part of its own is fitted with a large penalty, which leaves much of B in those mixtures of dims that B determines;
directions are the mixtures themselves, each with its penalty. Report `still_predicted` beside every drop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cinecube.analysis.ridge.design import constants, standardise
from cinecube.analysis.ridge.factors import Backend, Factors, Grams, factorise, plain_grams
from cinecube.analysis.ridge.folds import Fold
from cinecube.analysis.ridge.scores import pearson
from cinecube.analysis.ridge.shared_ridge import solve
from cinecube.store.base.errors import StudyError

By = Literal["dim", "direction"]
_NUMPY = Backend()
# Shares of a variance: what sums of squares in float32 resolve, and what is never taken for a rest of shrinkage.
_ROUNDING, _OWN = 1e-5, 1e-3
# Share of the largest variance of a direction; anything smaller is rounding of standardised features.
_RANK = 1e-8


@dataclass(frozen=True)
class Residual:
    """A layer less what is predicted of it.

    Attributes
    ----------
    residual : array of float32, shape (row, dim)
        All rows, in standard deviations that a dim has on the training rows; zeros for a dim that is constant there, or
        has less than the floor left.
    alpha : array, shape (dim,) or (direction,)
        Penalty of each prediction, one of the grid's; NaN for a constant dim.
    left : array, shape (dim,) or (direction,)
        Squared error on held-out training rows, mean over folds: the share of the variance that is left. NaN for a
        constant dim.
    mean, spread : arrays, shape (dim,)
        Constants that the layer was standardised with; spread is infinite for a constant dim.
    """

    residual: np.ndarray
    alpha: np.ndarray
    left: np.ndarray
    mean: np.ndarray
    spread: np.ndarray


@dataclass(frozen=True)
class Remover:
    """Features to remove, factored once for all layers; made by `make_remover`.

    Attributes
    ----------
    factors : Factors
        Of the training rows' features; they predict all rows.
    train : array of bool, shape (row,)
    alphas : array, shape (alpha,)
    by : {"dim", "direction"}
    floor : float
        Share of a variance.
    """

    factors: Factors
    train: np.ndarray
    alphas: np.ndarray
    by: By
    floor: float

    def residual(self, a: np.ndarray) -> Residual:
        """Remove the features from a layer.

        Parameters
        ----------
        a : array, shape (row, dim)
            The layer at the rows of the features to remove, test rows included.

        Raises
        ------
        StudyError
            If its rows are not as many as theirs, or a value is missing.
        """
        _refuse(a, "features to keep", len(self.train))
        mean, spread = constants(a[self.train])
        known = standardise(a, mean, spread)
        if self.by == "dim":
            rest, alpha, left = self._removed(known)
            alpha, left = (np.where(np.isfinite(spread), values, np.nan) for values in (alpha, left))
        else:
            fit = solve(self.factors, known[self.train], self.alphas)
            there, back = _directions(known[self.train], (known - fit.prediction)[self.train])
            rest, alpha, left = self._removed(known @ there)
            rest = rest @ back
        return Residual(rest.astype(np.float32), alpha, left, mean, spread)

    def _removed(self, known: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Columns (row, column) less their predictions, penalties, and what is left of each."""
        fit = solve(self.factors, known[self.train], self.alphas)
        rest = np.where(fit.loss >= self.floor, known - fit.prediction, 0.0)
        return rest, self.alphas[fit.best], fit.loss


def _directions(known: np.ndarray, rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Uncorrelated mixtures of a layer's dims, from the best to the worst predicted.

    They diagonalise both the layer's covariance and its residual's, as canonical variates do (Hotelling 1936).

    Parameters
    ----------
    known, rest : arrays, shape (training row, dim)
        The layer, standardised, and a first residual of it.

    Returns
    -------
    there, back : arrays, shape (dim, direction), (direction, dim)
        From dims to mixtures of unit variance, and from them to dims.
    """
    from scipy import linalg

    values, vectors = linalg.eigh(known.T @ known / len(known))
    kept = values > _RANK * max(values[-1], 0.0)
    scale, vectors = np.sqrt(values[kept]), vectors[:, kept]
    white = rest @ (vectors / scale)
    turn = linalg.eigh(white.T @ white)[1] if kept.any() else np.zeros((0, 0))
    return vectors / scale @ turn, turn.T @ (vectors * scale).T


def make_remover(
    b: np.ndarray,
    train: np.ndarray,
    folds: Sequence[Fold],
    alphas: np.ndarray,
    backend: Backend = _NUMPY,
    *,
    by: By = "dim",
    floor: float | None = None,
) -> Remover:
    """Standardise and factor features, so that they can be removed from any number of layers.

    Parameters
    ----------
    b : array, shape (row, dim)
        Features to remove: one layer, or several side by side. Undelayed: delays come after the removal.
    train : array of bool, shape (row,)
        Rows to fit on; the others only receive predictions.
    folds : sequence of (train, validation)
        Positions among the training rows; they choose the penalties.
    alphas : array, shape (alpha,)
        Rising penalties to choose from.
    backend : Backend
    by : {"dim", "direction"}
        What has a penalty of its own: each dim of the layer, as the paper has it, or each direction, which leaves less
        of B where B determines some mixtures of dims.
    floor : float, optional
        Dims or directions with a smaller share of their variance left on held-out training rows become zeros; 0
        keeps all. By default the smallest penalty divided by the training rows, four times what it can leave of a copy
        of B, but not less than float32 resolves, 1e-5, nor more than 1e-3.

    Returns
    -------
    Remover

    Raises
    ------
    StudyError
        If a value is missing.
    """
    _refuse(b, "features to remove", len(train))
    known = _standardised(b, train)
    if floor is None:
        floor = float(np.clip(alphas[0] / train.sum(), _ROUNDING, _OWN))
    return Remover(_factors(known[train], known, folds, backend), train, alphas, by, floor)


@dataclass(frozen=True)
class StillPredicted:
    """Scores of predicting removed features from a residual: Pearson r on the test rows.

    Zero where a residual predicts one value for all rows, NaN where the feature itself is constant there.

    Attributes
    ----------
    linear : array, shape (dim,)
        By ridge.
    kernel : array, shape (dim,)
        By kernel ridge, which also finds what no linear removal can remove.
    linear_shuffled, kernel_shuffled : arrays, shape (dim,)
        The same for features whose blocks of rows are shuffled: the scores that chance gives on these rows.
    """

    linear: np.ndarray
    kernel: np.ndarray
    linear_shuffled: np.ndarray
    kernel_shuffled: np.ndarray

    def means(self) -> dict[str, float]:
        """Mean over the dims that are known, by name; NaN where none is."""
        return {name: _mean(values) for name, values in vars(self).items()}


def still_predicted(
    residual: np.ndarray,
    b: np.ndarray,
    train: np.ndarray,
    folds: Sequence[Fold],
    alphas: np.ndarray,
    *,
    block_rows: int = 10,
    kernel_rows: int = 2000,
    seed: int = 0,
    backend: Backend = _NUMPY,
) -> StillPredicted:
    """Predict the removed features from what is left, on films that no fit has seen.

    Reviewers of Oota et al. (ICLR 2025) asked for this check. A linear removal should leave the linear figure at the
    shuffled one; the kernel's figure is a diagnostic and may be high: a ridge removes linear relations only.

    Parameters
    ----------
    residual : array, shape (row, dim of the layer kept)
    b : array, shape (row, dim)
        The features that were removed.
    train : array of bool, shape (row,)
    folds : sequence of (train, validation)
        Positions among the training rows.
    alphas : array, shape (alpha,)
        Rising penalties, chosen per dim on the folds.
    block_rows : int
        Rows that stay together in a shuffle; training and test rows are shuffled apart.
    kernel_rows : int
        The kernel ridge is fitted on at most so many training rows, evenly spaced: its cost grows with their cube.
    seed : int
        Of the shuffle.
    backend : Backend

    Returns
    -------
    StillPredicted
        Correlations of linear and kernel ridge, each with the true and the shuffled features.

    Raises
    ------
    StudyError
        If rows differ or a value is missing.
    """
    _refuse(residual, "residual", len(train))
    _refuse(b, "removed features", len(train))
    known, target = _standardised(residual, train), _standardised(b, train)
    both = np.concatenate([target, target[_shuffled(train, block_rows, seed)]], axis=1)
    linear = solve(_factors(known[train], known[~train], folds, backend), both[train], alphas).prediction
    rows, thinned = _thin(int(train.sum()), folds, kernel_rows)
    factors = _kernel_factors(known[train][rows], known[~train], thinned, backend)
    kernel = solve(factors, both[train][rows], alphas).prediction
    scores = [np.split(_correlation(predicted, both[~train]), 2) for predicted in (linear, kernel)]
    return StillPredicted(scores[0][0], scores[1][0], scores[0][1], scores[1][1])


def _factors(known: np.ndarray, predicted: np.ndarray, folds: Sequence[Fold], backend: Backend) -> Factors:
    """Factors of training rows (row, dim) for rows to predict."""
    return factorise(plain_grams(known, folds, predicted), known, predicted, folds, backend)


def _kernel_factors(known: np.ndarray, predicted: np.ndarray, folds: Sequence[Fold], backend: Backend) -> Factors:
    """The same of the kernel dim · exp(-‖x - x'‖² / median): the trace of a linear one, so one grid serves both."""
    from scipy.spatial.distance import pdist
    from sklearn.metrics.pairwise import rbf_kernel

    median = np.median(pdist(known, "sqeuclidean"))
    gamma = 1 / median if median > 0 else 1.0
    n_dims = known.shape[1]
    whole, test = (n_dims * rbf_kernel(rows, known, gamma=gamma) for rows in (known, predicted))
    return factorise(Grams("dual", whole, [], test), known, predicted, folds, backend)


def _standardised(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    return standardise(values, *constants(values[train]))


def _shuffled(train: np.ndarray, block_rows: int, seed: int) -> np.ndarray:
    """Positions (row,) whose blocks have changed places, training rows among themselves and test rows too."""
    rng, order = np.random.default_rng(seed), np.arange(len(train))
    for rows in (np.flatnonzero(train), np.flatnonzero(~train)):
        blocks = np.split(rows, range(block_rows, len(rows), block_rows))
        order[rows] = np.concatenate([blocks[number] for number in rng.permutation(len(blocks))])
    return order


def _thin(n_rows: int, folds: Sequence[Fold], at_most: int) -> tuple[np.ndarray, list[Fold]]:
    """Evenly spaced rows, and the folds among them."""
    rows = np.unique(np.linspace(0, n_rows - 1, min(n_rows, at_most)).round().astype(int))
    place = np.full(n_rows, -1)
    place[rows] = np.arange(len(rows))
    return rows, [(place[fit][place[fit] >= 0], place[shown][place[shown] >= 0]) for fit, shown in folds]


def _correlation(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return np.where((np.ptp(predicted, axis=0) == 0) & (np.ptp(truth, axis=0) > 0), 0.0, pearson(predicted, truth))


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def _refuse(values: np.ndarray, where: str, n_rows: int) -> None:
    if len(values) != n_rows:
        raise StudyError(
            where=where,
            found=f"{len(values)} rows",
            expected=f"{n_rows}, one for each row of the other model",
            do="extract both models of the same films at one clock",
        )
    missing = int((~np.isfinite(values)).any(axis=1).sum())
    if missing:
        raise StudyError(
            where=where,
            found=f"{missing} rows with missing values",
            expected="numbers in every row",
            do="check its cubes with `cinecube verify`",
        )
