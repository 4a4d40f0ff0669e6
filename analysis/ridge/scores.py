"""Scores of a fit: correlation and explained variance of the targets that are there and vary. Pure array functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cinecube.analysis.ridge.folds import Fold


@dataclass(frozen=True)
class Scores:
    """Scores of a block of targets; NaN where a target is absent or constant, over the training or the test rows.

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


@dataclass(frozen=True)
class Fittable:
    """Targets that are there and vary; from `fittable`.

    Attributes
    ----------
    mask : array of bool, shape (target,)
        Which they are of all targets.
    known : array, shape (row, fittable target)
        Responses at training rows.
    variance : array, shape (fittable target,)
        Of the folds' held-out rows, mean over folds.
    test : array, shape (test row, fittable target), or None
    """

    mask: np.ndarray
    known: np.ndarray
    variance: np.ndarray
    test: np.ndarray | None

    def scores(self, alpha: np.ndarray, loss: np.ndarray, prediction: np.ndarray) -> Scores:
        """Scores of all targets from what a solver found for these.

        Parameters
        ----------
        alpha, loss : arrays, shape (fittable target,)
            Penalty, and squared error there: mean over a fold's rows, then over folds.
        prediction : array, shape (test row, fittable target)

        Returns
        -------
        Scores
            NaN for targets that cannot be fitted; NaN test scores where there are no test rows.
        """
        scores = Scores(*(np.full(len(self.mask), np.nan) for _ in range(3)))
        scores.alpha[self.mask] = alpha
        scores.cv_score[self.mask] = 1 - loss / self.variance
        if self.test is not None:
            scores.score[self.mask] = pearson(prediction, self.test)
        return scores


def fittable(responses: np.ndarray, test: np.ndarray | None, folds: Sequence[Fold]) -> Fittable:
    """Find the targets that a solver can fit.

    Parameters
    ----------
    responses : array, shape (row, target)
        Training rows.
    test : array, shape (test row, target), or None
    folds : sequence of (train, validation)

    Returns
    -------
    Fittable
        Targets that are there and vary over the training rows, held-out rows of a fold, and test rows if there are any.
    """
    # One that does not vary in the test films has no score there, and is left out of what chooses layers too.
    mask = varying(responses) if test is None else varying(responses) & varying(test)
    variance = np.mean([responses[validation].var(axis=0, dtype=np.float64) for _, validation in folds], axis=0)
    mask &= variance > 0  # what varies in no held-out row has nothing to choose by
    # Copies of all responses cost more time than what is saved by a float64 of them.
    known = responses if mask.all() else responses[:, mask]
    return Fittable(mask, known, variance[mask], None if test is None else test[:, mask])


def varying(responses: np.ndarray) -> np.ndarray:
    """Mask (target,) of targets in responses (row, target) that are there and vary."""
    varies: np.ndarray = np.isfinite(responses).all(axis=0) & (np.ptp(responses, axis=0) > 0)
    return varies


def pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation of two arrays (row, target) column by column in float64; NaN where one is constant.

    Parameters
    ----------
    a, b : arrays, shape (row, target)

    Returns
    -------
    array, shape (target,)
    """
    a, b = (x - x.mean(axis=0) for x in (a.astype(np.float64), b.astype(np.float64)))
    norm = np.sqrt((a * a).sum(axis=0)) * np.sqrt((b * b).sum(axis=0))
    return _ratio((a * b).sum(axis=0), norm)


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.full(a.shape, np.nan), where=b > 0)
