"""Scores of predicting a subject's responses from other subjects': a cross-subject ceiling is extrapolated from them.

Linear kernels add over subjects: with Y_s the responses (row, target) of subject s, the ridge from several subjects'
targets side by side has the kernel Σ_s Y_s Y_sᵀ. So a subject's targets are read once, block by block, into a kernel;
a subset's kernel is a sum, factored once for all subjects outside it and all their targets. Where the targets of a
subset are fewer than the rows, they are the design themselves, which is smaller. Pure array functions.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cinecube.analysis.ridge.design import constants, standardise
from cinecube.analysis.ridge.factors import Backend, Factors, Grams, choose_form, factorise, plain_grams
from cinecube.analysis.ridge.folds import Fold
from cinecube.analysis.ridge.scores import Scores, fittable
from cinecube.analysis.ridge.shared_ridge import solve
from cinecube.store.base.errors import StudyError

# Penalties as shares of a Gram matrix' trace, which grows with rows and targets. The largest shrinks every direction to
# a tenth or less, where scores no longer depend on it; the smallest is a thousandth of the mean of 1,000 eigenvalues.
RELATIVE_ALPHAS = np.geomspace(1e-6, 10, 15)
TARGETS_PER_BLOCK = 4096


@dataclass(frozen=True)
class Kernel:
    """Products of standardised responses, of one subject or of several added up.

    Attributes
    ----------
    whole : array of float64, shape (train row, train row)
    test : array of float64, shape (test row, train row)
    """

    whole: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class SourceSubject:
    """A subset of subjects, factored to predict others from.

    Attributes
    ----------
    factors : Factors
    alphas : array, shape (alpha,)
        Rising penalties to choose from.
    """

    factors: Factors
    alphas: np.ndarray


@dataclass(frozen=True)
class CrossScores:
    """Scores of one subject's targets, predicted from subsets of the others.

    Attributes
    ----------
    subsets : tuple of tuple of str
        Source subjects, smaller subsets first.
    score : array, shape (subset, target)
        Pearson r on the test rows; NaN where a target is absent or constant.
    alpha : array, shape (subset, target)
        Penalty of each, chosen on the training rows.
    """

    subsets: tuple[tuple[str, ...], ...]
    score: np.ndarray
    alpha: np.ndarray

    @property
    def size(self) -> np.ndarray:
        """Subjects in each subset, (subset,)."""
        return np.array([len(subset) for subset in self.subsets])


def subsets_of(subjects: Sequence[str]) -> list[tuple[str, ...]]:
    """Every non-empty subset that leaves a subject to predict, smaller ones first.

    Raises
    ------
    StudyError
        If there are fewer than two subjects.
    """
    if len(subjects) < 2:
        raise StudyError(
            where="cross-subject ceiling",
            found=f"{len(subjects)} subject",
            expected="at least 2, one to predict from another",
            do="name more subjects in brain.subjects, or take the ceiling from repeats",
        )
    return [subset for size in range(1, len(subjects)) for subset in itertools.combinations(subjects, size)]


def standardised_targets(responses: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Responses with mean 0 and standard deviation 1 over the training rows, float64.

    Parameters
    ----------
    responses : array, shape (row, target)
    train : array of bool, shape (row,)

    Returns
    -------
    array, shape (row, target)
        0 where a target is constant, NaN throughout where it is NaN or infinite in any row.
    """
    known = np.isfinite(responses).all(axis=0)
    values = np.full(responses.shape, np.nan)
    if known.any():
        there = responses if known.all() else responses[:, known]
        values[:, known] = standardise(there, *constants(there[train]))
    return values


def block_kernel(responses: np.ndarray, train: np.ndarray) -> Kernel:
    """Kernel of a block of a subject's targets, `responses` (row, target); targets without values add nothing.

    Parameters
    ----------
    responses : array, shape (row, target)
    train : array of bool, shape (row,)

    Returns
    -------
    Kernel
        (train row, train row) and (test row, train row).
    """
    values = np.nan_to_num(standardised_targets(responses, train), copy=False)
    seen = values[train]
    return Kernel(seen @ seen.T, values[~train] @ seen.T)


def sum_kernels(kernels: Iterable[Kernel]) -> Kernel:
    """Kernel of several blocks or subjects side by side; holds two at once where `kernels` is a generator."""
    parts = iter(kernels)
    first = next(parts)
    total = Kernel(first.whole.copy(), first.test.copy())
    for part in parts:
        np.add(total.whole, part.whole, out=total.whole)
        np.add(total.test, part.test, out=total.test)
    return total


def factor_kernel(
    kernel: Kernel, folds: Sequence[Fold], alphas: np.ndarray | None = None, backend: Backend | None = None
) -> SourceSubject:
    """Factor a subset of subjects by the sum of their kernels.

    Parameters
    ----------
    kernel : Kernel
    folds : sequence of (train, validation)
        Positions among the training rows.
    alphas : array, shape (alpha,), optional
        Rising penalties; by default `RELATIVE_ALPHAS` times the trace of the kernel of the training rows.
    backend : Backend, optional

    Returns
    -------
    SourceSubject
        In the dual form, with the penalties.
    """
    grams = Grams("dual", kernel.whole, [], kernel.test)
    no_design = np.empty((len(kernel.whole), 0), np.float32)
    factors = factorise(grams, no_design, None, folds, backend or Backend())
    return SourceSubject(factors, _penalties(np.trace(kernel.whole), alphas))


def factor_targets(
    responses: Sequence[np.ndarray],
    train: np.ndarray,
    folds: Sequence[Fold],
    alphas: np.ndarray | None = None,
    backend: Backend | None = None,
) -> SourceSubject:
    """Factor a subset of subjects by their targets: the same as by kernels, smaller where targets are few.

    Parameters
    ----------
    responses : sequence of array, shape (row, target)
        Of each subject.
    train : array of bool, shape (row,)
    folds : sequence of (train, validation)
        Positions among the training rows.
    alphas : array, shape (alpha,), optional
        As for `factor_kernel`.
    backend : Backend, optional

    Returns
    -------
    SourceSubject
        In whichever form is smaller, with the penalties.
    """
    design = np.concatenate([np.nan_to_num(standardised_targets(values, train)) for values in responses], axis=1)
    seen, test = design[train], design[~train]
    factors = factorise(plain_grams(seen, folds, test), seen, test, folds, backend or Backend())
    return SourceSubject(factors, _penalties(float((seen * seen).sum()), alphas))


def _penalties(trace: float, alphas: np.ndarray | None) -> np.ndarray:
    """Penalties as given, or scaled to a Gram matrix; one of zeros takes any."""
    return RELATIVE_ALPHAS * (trace if trace > 0 else 1.0) if alphas is None else alphas


def score_targets(source: SourceSubject, responses: np.ndarray, train: np.ndarray) -> Scores:
    """Predict a block of a subject's targets from others, and score it on the test rows.

    Parameters
    ----------
    source : SourceSubject
        Of subjects among whom this one is not.
    responses : array, shape (row, target)
    train : array of bool, shape (row,)

    Returns
    -------
    Scores
        Penalties are chosen by squared error over the folds; NaN where a target is absent or constant.
    """
    values = standardised_targets(responses, train)
    targets = fittable(values[train], values[~train], source.factors.folds)
    found = solve(source.factors, targets.known, source.alphas)
    return targets.scores(source.alphas[found.best], found.loss, found.prediction)


def cross_subject_scores(
    responses: Mapping[str, np.ndarray],
    train: np.ndarray,
    folds: Sequence[Fold],
    alphas: np.ndarray | None = None,
    backend: Backend | None = None,
) -> dict[str, CrossScores]:
    """Predict every subject from every subset of the others.

    Parameters
    ----------
    responses : Mapping of str to array, shape (row, target)
        By subject, at the same rows; targets may differ. Anything that is cut by `[:, start:stop]` will do.
    train : array of bool, shape (row,)
        Rows to fit on; the others are scored.
    folds : sequence of (train, validation)
        Positions among the training rows, of whole segments.
    alphas : array, shape (alpha,), optional
        As for `factor_kernel`.
    backend : Backend, optional

    Returns
    -------
    dict of str to CrossScores

    Raises
    ------
    StudyError
        If there are fewer than two subjects.
    """
    subsets = subsets_of(list(responses))
    mine = {name: tuple(subset for subset in subsets if name not in subset) for name in responses}
    found = {name: _empty(mine[name], responses[name].shape[1]) for name in responses}
    kernels: dict[str, Kernel] = {}
    for subset in subsets:
        n_targets = sum(responses[name].shape[1] for name in subset)
        if choose_form(int(train.sum()), n_targets) == "primal":
            source = factor_targets(
                [np.asarray(responses[name][:, :]) for name in subset], train, folds, alphas, backend
            )
        else:
            for name in set(subset) - set(kernels):
                kernels[name] = sum_kernels(block_kernel(block, train) for _, block in _blocks(responses[name]))
            source = factor_kernel(sum_kernels(kernels[name] for name in subset), folds, alphas, backend)
        for name in responses:
            if name not in subset:
                row = mine[name].index(subset)
                for place, block in _blocks(responses[name]):
                    scores = score_targets(source, block, train)
                    found[name].score[row, place], found[name].alpha[row, place] = scores.score, scores.alpha
    return found


def _blocks(responses: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    for start in range(0, responses.shape[1], TARGETS_PER_BLOCK):
        place = slice(start, min(start + TARGETS_PER_BLOCK, responses.shape[1]))
        yield place, np.asarray(responses[:, place])


def _empty(subsets: tuple[tuple[str, ...], ...], n_targets: int) -> CrossScores:
    return CrossScores(subsets, *np.full((2, len(subsets), n_targets), np.nan))
