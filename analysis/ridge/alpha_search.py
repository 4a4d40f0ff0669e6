"""Finding each target's best place on a grid of penalties in a few tries. Pure array functions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# Of many targets some walk first: starts that all err to one side are moved before the others set out.
_SAMPLE, _MANY = 128, 1024
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


def _moved(
    try_out: Callable[[int, np.ndarray | None], np.ndarray], losses: np.ndarray, known: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """Starts (target,) less the median error of a sample's, whose walks are kept."""
    sample = np.arange(0, len(start), len(start) // _SAMPLE)

    def try_sample(place: int, targets: np.ndarray | None) -> np.ndarray:
        return try_out(place, sample if targets is None else sample[targets])

    own_losses, own_known = losses[:, sample], known[:, sample]
    _walk(try_sample, own_losses, own_known, start[sample])
    losses[:, sample], known[:, sample] = own_losses, own_known
    error = np.rint(np.median(own_losses.argmin(axis=0) - start[sample])).astype(int)
    return np.clip(start + error, 0, len(losses) - 1)


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
