"""Scores as shares of their ceiling. Pure array functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Normalised:
    """Scores by their ceilings.

    Attributes
    ----------
    score : array, shape (..., target)
        1 is the ceiling; NaN where the ceiling is unknown or below the threshold.
    share : array, shape (...)
        Share of the targets whose ceiling is known and not below the threshold; NaN where there are no targets.
    """

    score: np.ndarray
    share: np.ndarray


def normalised(
    score: np.ndarray, ceiling: np.ndarray, threshold: float = 0.05, cap: float = 1.0, floor: float = -np.inf
) -> Normalised:
    """Divide scores by ceilings where the ceiling is high enough to tell.

    Parameters
    ----------
    score : array, shape (..., target)
    ceiling : array, shape (..., target)
        Shapes are broadcast to the score's.
    threshold : float
        Ceilings below are no ground to divide by (0.05: Oota et al. 2025); nor are those of 0 and less.
    cap : float
        Largest share that is kept; scores above their ceiling are chance.
    floor : float
        Smallest share that is kept. `compat: oota2025` sets 0, which makes a mean over targets without signal positive.

    Returns
    -------
    Normalised
    """
    ceilings = np.broadcast_to(ceiling, score.shape)
    good = (ceilings >= threshold) & (ceilings > 0)
    ratio = np.full(score.shape, np.nan)
    np.divide(score, ceilings, out=ratio, where=good)
    n_targets = score.shape[-1]
    share = good.sum(axis=-1) / n_targets if n_targets else np.full(score.shape[:-1], np.nan)
    return Normalised(np.clip(ratio, floor, cap), np.asarray(share))
