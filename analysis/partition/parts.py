"""Parts of variance: which there are of some streams, and what each is by inclusion and exclusion. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

Subset = tuple[str, ...]
"""Streams that are fitted together."""


def subsets(streams: Sequence[str]) -> list[Subset]:
    """Streams that are fitted together, singles first, in the order of `inclusion_exclusion`."""
    sizes = range(1, len(streams) + 1)
    return [subset for size in sizes for subset in itertools.combinations(streams, size)]


def inclusion_exclusion(r2: np.ndarray, n_spaces: int) -> np.ndarray:
    """Parts of the variance that exactly the spaces of each subset explain (de Heer et al. 2017).

    Parameters
    ----------
    r2 : array, shape (subset, target)
        R² of the subsets of the spaces: singles, pairs, all three, each in the order of `itertools.combinations`.
    n_spaces : int

    Returns
    -------
    array, shape (subset, target)
    """
    parts = subsets(list(map(str, range(n_spaces))))
    # A subset explains all parts that one of its spaces has a hand in.
    explains = np.array([[float(bool(set(one) & set(part))) for part in parts] for one in parts])
    return np.linalg.solve(explains, r2)


def part_labels(streams: Sequence[str]) -> list[str]:
    """Labels of a set's parts, in the order of `subsets`."""
    return [f"{'unique' if len(subset) == 1 else 'shared'} {' + '.join(subset)}" for subset in subsets(streams)]
