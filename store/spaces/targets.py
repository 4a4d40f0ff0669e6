"""Targets of a brain cube: places of a subject's scans, or means over parcels of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import sparse

from cinecube.store.base.errors import StudyError, some_of
from cinecube.store.spaces.atlas import Atlas, coverage, read_atlas
from cinecube.store.spaces.space import Parcels, Places, Space

_log = logging.getLogger(__name__)
# A parcel with less of it in the brain of all runs is told.
_LEAST_SHARE = 0.25
_ONE = {"voxels": "voxel", "vertices": "vertex", "grayordinates": "grayordinate"}


@dataclass(frozen=True)
class Targets:
    """Targets of a brain cube.

    Attributes
    ----------
    places : Places
        Those that are read.
    space : Space
        What the cube's targets are.
    index : array (target,)
        Number of each in its space, or of the parcel.
    hemi, parcel : arrays (target,) of str
    xyz_mm : array (target, 3)
    weights : csr_array (place, target) or None
        Shares of places in the means over parcels; None where each place is a target.
    coordinates : dict of str to array (target,)
        Further labels of the space.
    said : tuple of str
        What was taken for granted of the atlas.
    lost, shrunk : tuple of str
        Parcels of the atlas of which nothing, or less than a quarter, is left in the brain of all runs.
    n_parcels : int
        Of the atlas; 0 without one.
    """

    places: Places
    space: Space
    index: np.ndarray
    hemi: np.ndarray
    parcel: np.ndarray
    xyz_mm: np.ndarray
    weights: sparse.csr_array | None
    coordinates: Mapping[str, np.ndarray]
    lost: tuple[str, ...] = ()
    shrunk: tuple[str, ...] = ()
    n_parcels: int = 0
    said: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.index)


def find_targets(places: Places, atlas: Path | None, subject: str, *, parcels: bool) -> Targets:
    """Targets of a subject: its places with their parcels, or the parcels.

    Parameters
    ----------
    places : Places
        Common to all runs.
    atlas : Path, optional
    subject : str
        For messages.
    parcels : bool
        Whether parcels are the targets, not places.

    Returns
    -------
    Targets

    Raises
    ------
    StudyError
        If the atlas does not fit, or parcels are asked for without one.
    """
    if isinstance(places.space, Parcels) or atlas is None:
        if parcels and not isinstance(places.space, Parcels):
            raise StudyError(where="brain.targets", found="parcels", expected="an atlas", do="set brain.atlas")
        return _each_place(places, _labels(places.coordinates.get("parcel", [""] * len(places))))
    found = read_atlas(atlas, places)
    covered = coverage(found).set_index("parcel")
    share = covered["places_in_scans"] / covered["places_in_atlas"].clip(lower=1)
    lost, shrunk = (tuple(covered.index[which]) for which in (share == 0, (share > 0) & (share < _LEAST_SHARE)))
    if len(lost) == len(found.names):
        raise StudyError(
            where=f"{subject} {atlas.name}",
            found=f"no {_ONE[places.space.kind]} of the brain in any parcel",
            expected=f"an atlas in the scans' space ({places.space.name})",
            do="set brain.atlas to one of that space",
        )
    made = _parcels(places, found, found.weights) if parcels else _each_place(places, _parcel_of(found, found.weights))
    return replace(made, lost=lost, shrunk=shrunk, n_parcels=len(found.names), said=found.said)


def _labels(values: Sequence[str] | np.ndarray) -> np.ndarray:
    """Text as objects, as cubes keep it."""
    return np.array([str(value) for value in values], dtype=object)


def tell_of_parcels(targets: Targets, subject: str) -> None:
    """Log what was taken for granted of the atlas, parcels that are lost, and those that have little left.

    Parameters
    ----------
    targets : Targets
    subject : str
        For messages.
    """
    for line in targets.said:
        _log.warning("%s", line)
    if targets.lost:
        _log.warning(
            "%s: %d of %d parcels are in the brain of all runs; none of %s",
            *(subject, targets.n_parcels - len(targets.lost), targets.n_parcels, some_of(targets.lost, 8)),
        )
    if targets.shrunk:
        _log.warning("%s: less than a quarter is in the brain of all runs of %s", subject, some_of(targets.shrunk, 8))


def _each_place(places: Places, parcel: np.ndarray) -> Targets:
    """Each place as a target; its side by the parcel's name where that says it."""
    hemi = _labels([_side_by_name(name) or side for name, side in zip(parcel, places.hemi, strict=True)])
    others = {name: values for name, values in places.coordinates.items() if name != "parcel"}
    return Targets(places, places.space, places.index, hemi, parcel, places.xyz_mm, None, others)


def _side_by_name(parcel: str) -> str:
    return parcel[0] if parcel[:2] in ("L_", "R_") else ""


def _parcel_of(atlas: Atlas, inside: sparse.csr_array) -> np.ndarray:
    """Name of the parcel with the largest share of each place, empty where there is none (place,)."""
    names = np.array(atlas.names, dtype=object)
    largest = np.asarray(inside.argmax(axis=1)).ravel()
    has_one = np.asarray(inside.sum(axis=1)).ravel() > 0
    return _labels(np.where(has_one, names[largest], ""))


def _parcels(places: Places, atlas: Atlas, inside: sparse.csr_array) -> Targets:
    """Parcels with a place, and those places alone."""
    n_places = np.asarray(inside.sum(axis=0)).ravel()
    there = np.flatnonzero(n_places > 0)
    used = np.flatnonzero(np.asarray(inside.sum(axis=1)).ravel() > 0)
    weights = sparse.csr_array(inside[used][:, there] @ sparse.diags_array(1 / n_places[there]))
    kept = places_at(places, used)
    parcel = _labels([atlas.names[number] for number in there])
    xyz_mm = weights.T @ kept.xyz_mm
    right = np.asarray(weights.T @ (kept.hemi == "R")).ravel() > 0.5
    by_side = np.where(np.isfinite(xyz_mm[:, 0]), np.where(xyz_mm[:, 0] < 0, "L", "R"), np.where(right, "R", "L"))
    hemi = _labels([_side_by_name(name) or side for name, side in zip(parcel, by_side, strict=True)])
    space = Parcels(places.space.name, atlas.name)
    return Targets(kept, space, atlas.numbers[there], hemi, parcel, xyz_mm, weights, {})


def places_at(places: Places, which: np.ndarray) -> Places:
    """Some of the places, by their position.

    Parameters
    ----------
    places : Places
    which : array of int or bool, shape (place,)
        Positions, or a mask.

    Returns
    -------
    Places
    """
    others = {name: values[which] for name, values in places.coordinates.items()}
    return Places(places.space, places.index[which], places.hemi[which], places.xyz_mm[which], others)
