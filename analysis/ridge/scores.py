"""Scores of a fit: correlation and explained variance of the targets that are there and vary. Pure array functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def score_fit(
    fit: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]],
    responses: np.ndarray,
    test: np.ndarray | None,
    folds: Sequence[Fold],
) -> Scores:
    """Scores of what a solver makes of the targets that are there and vary.

    Parameters
    ----------
    fit : callable
        Responses (row, target), and which of all targets (target,) they are, to each target's penalty, its loss,
        and predictions (test row, target).
    responses : array, shape (row, target)
        Training rows.
    test : array, shape (test row, target), or None
    folds : sequence of (train, validation)
    """
    # One that does not vary in the test films has no score there, and is left out of what chooses layers too.
    fitted = varying(responses) if test is None else varying(responses) & varying(test)
    variance = np.mean([responses[validation].var(axis=0, dtype=np.float64) for _, validation in folds], axis=0)
    fitted &= variance > 0  # what varies in no held-out row has nothing to choose by
    scores = Scores(*(np.full(responses.shape[1], np.nan) for _ in range(3)))
    if not fitted.any():
        return scores
    # Copies of all responses cost more time than what is saved by a float64 of them.
    known = responses if fitted.all() else responses[:, fitted]
    alpha, loss, prediction = fit(known, fitted)
    scores.alpha[fitted] = alpha
    scores.cv_score[fitted] = 1 - loss / variance[fitted]
    if test is not None:
        scores.score[fitted] = pearson(prediction, test[:, fitted])
    return scores


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
