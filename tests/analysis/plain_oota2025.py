"""Points of the cross-subject curve of Oota et al. (2025) from plain arrays in memory, to hold the cubes' against."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from cinecube.analysis.ridge.scores import pearson

_CONSTANT = 1e-7


def compat_points(
    train: Mapping[str, np.ndarray], test: Mapping[str, np.ndarray]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By subject: number of subjects (point,), the predicted one among them, and score (point, target).

    Parameters
    ----------
    train, test : Mapping of str to array, shape (row, target)
        Responses by subject; rows are the same in all.
    """
    names = list(train)
    seen = {name: _over_targets(train[name]) for name in names}
    shown = {name: _over_targets(test[name]) for name in names}
    scores: dict[tuple[str, str], np.ndarray] = {}
    for source in names:
        kernel = seen[source] @ seen[source].T
        kernel[np.diag_indices_from(kernel)] += 1.0
        smoother = cho_solve(cho_factor(kernel), (shown[source] @ seen[source].T).T).T
        for name in names:
            if name != source:
                scores[source, name] = pearson(smoother @ seen[name], shown[name])
    return {name: _combine({source: scores[source, name] for source in names if source != name}) for name in names}


def _over_targets(responses: np.ndarray) -> np.ndarray:
    """Each row with mean 0 and standard deviation 1 over its targets, float64 (row, target); NaN becomes 0."""
    values = responses.astype(np.float64)
    mean, spread = values.mean(axis=1, keepdims=True), values.std(axis=1, keepdims=True)
    return np.nan_to_num((values - mean) / np.where(spread > _CONSTANT * np.abs(mean), spread, np.inf))


def _combine(single: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Number of subjects and mean score of every combination of sources."""
    combinations = [which for k in range(1, len(single) + 1) for which in itertools.combinations(single, k)]
    means = [np.mean([single[source] for source in which], axis=0) for which in combinations]
    return np.array([len(which) + 1 for which in combinations]), np.stack(means)
