"""Finding each target's best place on a grid of penalties in a few tries. Pure array functions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# Every third place: what a weak target's first walk may have missed. Chosen with `shared_ridge._WEAK`.
_COARSE = 3


def search(
    try_out: Callable[[int, np.ndarray | None], np.ndarray], n_places: int, start: np.ndarray, weak: np.ndarray
) -> tuple[np.ndarray, float]:
    """Walk from each target's start to where neither neighbour has a smaller loss.

    Where little is explained the curve has several minima, so weak targets walk again from the best of a coarse grid.

    Parameters
    ----------
    try_out : callable
        `(place, targets or None for all) -> losses (target,)`.
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
    _walk(try_out, losses, known, start)
    doubtful = losses.min(axis=0) > weak
    if doubtful.any():
        wanted = np.zeros_like(known)
        wanted[_COARSE // 2 :: _COARSE, doubtful] = True
        wanted[-1, doubtful] = True
        _try_all(try_out, losses, known, wanted & ~known)
        _walk(try_out, losses, known, losses.argmin(axis=0))
    return losses, float(known.sum() / max(n_targets, 1))


def _walk(
    try_out: Callable[[int, np.ndarray | None], np.ndarray], losses: np.ndarray, known: np.ndarray, best: np.ndarray
) -> None:
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


def _try_all(
    try_out: Callable[[int, np.ndarray | None], np.ndarray], losses: np.ndarray, known: np.ndarray, wanted: np.ndarray
) -> None:
    for place in np.flatnonzero(wanted.any(axis=1)):
        targets = np.flatnonzero(wanted[place])
        losses[place, targets] = try_out(int(place), None if len(targets) == wanted.shape[1] else targets)
    known |= wanted
