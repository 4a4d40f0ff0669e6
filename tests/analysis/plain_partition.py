"""Variance partitioning of plain arrays, in memory: what the stage does out of core, once more.

R² of every subset of the spaces on films that no fit has seen; a part follows by inclusion and exclusion (de Heer et
al. 2017, J. Neurosci. 37). A subset of several spaces is fitted with a penalty for each of them (banded ridge,
Nunez-Elizalde et al. 2019): with one penalty for all, a wide or noisy space spoils a narrow one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cinecube.analysis.partition.partition_fits import SHARES
from cinecube.analysis.partition.parts import inclusion_exclusion
from cinecube.analysis.ridge.factors import Backend, factorise, plain_grams
from cinecube.analysis.ridge.folds import Fold
from cinecube.analysis.ridge.shared_ridge import solve
from cinecube.store.base.errors import StudyError

from .banded import banded_ridge, split_scores

_NUMPY = Backend()


@dataclass(frozen=True)
class Partition:
    """What feature spaces explain of each target on the test rows; NaN where a target is absent or constant.

    Attributes
    ----------
    spaces : tuple of str
    subsets : tuple of str
        `a`, `b`, `a + b`, …: spaces that were fitted together; the last holds all of them.
    r2 : array, shape (subset, target)
        R² of responses and predictions about their means.
    score : array, shape (subset, target)
        Pearson r.
    penalty : array, shape (subset, space, target)
        What each space of a subset was fitted with; infinite for a space that the folds left out, and for those outside
        the subset.
    parts : tuple of str
        `unique a`, …, `shared a + b`, …: 3 parts of two spaces, 7 of three.
    part : array, shape (part, target)
        Share of the variance that exactly these spaces explain. Parts add up to the whole model's R² and may be
        slightly negative, as each R² has its own error; a suppressor makes a shared part truly negative.
    split_r2, split_score : arrays, shape (space, target)
        The spaces' parts of the whole model's R² and r by the product measure (Dupré la Tour et al. 2022, eq. 14 and
        15), which add up to them; what is shared goes to the spaces as the fit weighs them.
    """

    spaces: tuple[str, ...]
    subsets: tuple[str, ...]
    r2: np.ndarray
    score: np.ndarray
    penalty: np.ndarray
    parts: tuple[str, ...]
    part: np.ndarray
    split_r2: np.ndarray
    split_score: np.ndarray


@dataclass(frozen=True)
class _Problem:
    """Designs of all spaces, responses without what cannot be fitted, and how to fit them."""

    train: list[np.ndarray]
    test: list[np.ndarray]
    known: np.ndarray
    truth: np.ndarray
    folds: Sequence[Fold]
    alphas: np.ndarray
    backend: Backend


@dataclass(frozen=True)
class _Fit:
    """Squared error (target,) on held-out rows, penalties (space, target), predictions (space, test row, target)."""

    loss: np.ndarray
    penalty: np.ndarray
    predicted: np.ndarray


@dataclass(frozen=True)
class _Explained:
    r2: np.ndarray
    score: np.ndarray
    split_r2: np.ndarray
    split_score: np.ndarray
    penalty: np.ndarray


def partition(
    train: tuple[Mapping[str, np.ndarray], np.ndarray],
    test: tuple[Mapping[str, np.ndarray], np.ndarray],
    folds: Sequence[Fold],
    alphas: np.ndarray,
    *,
    shares: Sequence[float] = SHARES,
    n_iter: int | None = None,
    seed: int = 0,
    backend: Backend = _NUMPY,
) -> Partition:
    """Partition the variance of each target among two or three feature spaces.

    Parameters
    ----------
    train : (designs, responses)
        Name of each space to its design (row, feature), delayed where it should be (`layout.make_design`); responses
        (row, target). Centred, as for `ridge.fit_and_score`.
    test : (designs, responses)
        The same of the test films.
    folds : sequence of (train, validation)
        Positions among the training rows.
    alphas : array, shape (alpha,)
        Rising penalties to choose from.
    shares : sequence of float
        Every combination of these shares, and of none, that differs is tried for each target and the best chosen on the
        folds: an exhaustive grid without chance. Of k shares two spaces have 2k - 1 joint fits, three k³ - (k - 1)³.
    n_iter : int, optional
        Try so many random shares by himalaya's banded ridge instead, see `banded.banded_ridge`. Slower, and less exact
        below about 50; for shares more uneven than `shares` has them.
    seed : int
        Of random shares.
    backend : Backend
        What fits of given shares compute with.

    Raises
    ------
    StudyError
        If there are not two or three spaces.
    """
    names = tuple(train[0])
    if len(names) not in (2, 3):
        raise StudyError(
            where=f"variance partitioning of {', '.join(names) or 'nothing'}",
            found=f"{len(names)} feature spaces",
            expected="two or three",
            do="name two or three models",
        )
    subsets = _subsets(len(names))
    fitted = _fitted(train[1], test[1])
    problem = _Problem(
        [train[0][name] for name in names],
        [test[0][name] for name in names],
        train[1][:, fitted],
        test[1][:, fitted],
        folds,
        alphas,
        backend,
    )
    if n_iter is None:
        explained = _by_shares(problem, subsets, shares)
    else:
        explained = _by_chance(problem, subsets, n_iter, seed)
    return _result(names, explained, fitted)


def _subsets(n_spaces: int) -> list[tuple[int, ...]]:
    """Spaces that are fitted together: singles first, all of them last."""
    return [subset for size in range(1, n_spaces + 1) for subset in itertools.combinations(range(n_spaces), size)]


def _fitted(*responses: np.ndarray) -> np.ndarray:
    """Whether a target is there and varies in all of (row, target), shape (target,)."""
    return np.all([np.isfinite(known).all(axis=0) & (np.ptp(known, axis=0) > 0) for known in responses], axis=0)


def _by_shares(
    problem: _Problem, subsets: Sequence[tuple[int, ...]], shares: Sequence[float]
) -> dict[tuple[int, ...], _Explained]:
    """Each subset by every combination of shares; a share of none is the fit of a smaller subset."""
    fits: dict[tuple[int, ...], _Fit] = {}
    for subset in subsets:
        smaller = [fits[part] for part in itertools.combinations(subset, len(subset) - 1) if part]
        tried = (_fit(problem, subset, combination) for combination in _combinations(len(subset), shares))
        fits[subset] = _best(itertools.chain(smaller, tried))
    return {subset: _explained(fit, problem.truth) for subset, fit in fits.items()}


def _combinations(n_spaces: int, shares: Sequence[float]) -> list[tuple[float, ...]]:
    """Combinations whose largest share is the largest there is: others differ from one of them by the penalty only."""
    return [mixed for mixed in itertools.product(shares, repeat=n_spaces) if max(mixed) == max(shares)]


def _best(fits: Iterable[_Fit]) -> _Fit:
    """Per target the fit with the smallest error on held-out rows, the earliest of equal ones."""
    remaining = iter(fits)
    first = next(remaining)
    loss, penalty, predicted = first.loss.copy(), first.penalty.copy(), first.predicted.copy()
    for fit in remaining:
        better = fit.loss < loss
        loss[better], penalty[:, better] = fit.loss[better], fit.penalty[:, better]
        predicted[..., better] = fit.predicted[..., better]
    return _Fit(loss, penalty, predicted)


def _fit(problem: _Problem, subset: Sequence[int], shares: Sequence[float]) -> _Fit:
    """Ridge of spaces that are scaled by the roots of their shares and joined, which shares out the penalty."""
    scales = np.sqrt(shares)
    design = np.concatenate([problem.train[s] * scale for s, scale in zip(subset, scales, strict=True)], axis=1)
    n_test = len(problem.truth)
    # With the other spaces' features at zero, a test row's prediction is what one space contributes.
    rows = np.zeros((len(subset), n_test, design.shape[1]))
    start = 0
    for number, (s, scale) in enumerate(zip(subset, scales, strict=True)):
        stop = start + problem.test[s].shape[1]
        rows[number, :, start:stop] = problem.test[s] * scale
        start = stop
    flat = rows.reshape(-1, design.shape[1])
    factors = factorise(plain_grams(design, problem.folds, flat), design, flat, problem.folds, problem.backend)
    fit = solve(factors, problem.known, problem.alphas, exhaustive=True)
    predicted = np.zeros((len(problem.train), n_test, problem.known.shape[1]), np.float32)
    predicted[list(subset)] = fit.prediction.reshape(len(subset), n_test, -1)
    penalty = np.full((len(problem.train), problem.known.shape[1]), np.inf)
    penalty[list(subset)] = problem.alphas[fit.best] / np.asarray(shares)[:, None]
    return _Fit(fit.loss, penalty, predicted)


def _explained(fit: _Fit, truth: np.ndarray) -> _Explained:
    """Scores of a fit's predictions, summed and split."""
    score, r2, split_score, split_r2 = split_scores(fit.predicted.astype(np.float64), truth)
    return _Explained(r2, score, split_r2, split_score, fit.penalty)


def _by_chance(
    problem: _Problem, subsets: Sequence[tuple[int, ...]], n_iter: int, seed: int
) -> dict[tuple[int, ...], _Explained]:
    """Single spaces by ridge, several by himalaya's random shares."""
    explained: dict[tuple[int, ...], _Explained] = {}
    for subset in subsets:
        if len(subset) == 1:
            explained[subset] = _explained(_fit(problem, subset, (1.0,)), problem.truth)
            continue
        train, test = ([designs[s] for s in subset] for designs in (problem.train, problem.test))
        fit = banded_ridge(
            (train, problem.known), (test, problem.truth), problem.folds, problem.alphas, n_iter=n_iter, seed=seed
        )
        penalty = np.full((len(problem.train), problem.known.shape[1]), np.inf)
        penalty[list(subset)] = np.exp(-fit.deltas)
        explained[subset] = _Explained(fit.r2, fit.score, fit.split_r2, fit.split_score, penalty)
    return explained


def _result(names: tuple[str, ...], explained: Mapping[tuple[int, ...], _Explained], fitted: np.ndarray) -> Partition:
    """Label what was found; NaN where a target could not be fitted."""

    def spread(values: Sequence[np.ndarray]) -> np.ndarray:
        stacked = np.stack(values)
        whole = np.full((*stacked.shape[:-1], len(fitted)), np.nan)
        whole[..., fitted] = stacked
        return whole

    found = list(explained.values())
    joined = [" + ".join(names[s] for s in subset) for subset in explained]
    kinds = ["unique" if len(subset) == 1 else "shared" for subset in explained]
    r2 = spread([one.r2 for one in found])
    return Partition(
        names,
        tuple(joined),
        r2,
        spread([one.score for one in found]),
        spread([one.penalty for one in found]),
        tuple(f"{kind} {name}" for kind, name in zip(kinds, joined, strict=True)),
        inclusion_exclusion(r2, len(names)),
        spread(list(found[-1].split_r2)),
        spread(list(found[-1].split_score)),
    )
