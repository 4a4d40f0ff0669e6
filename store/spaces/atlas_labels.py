"""Labels of an atlas in its own space, and which of them each place of the scans has."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from cinecube.store.base.errors import StudyError, some_of
from cinecube.store.spaces.space import MESHES, Grayordinates, Grid, Kind, Places, Surface

_log = logging.getLogger(__name__)
MOST_LABEL = 2**31 - 1
# A label stored as a fraction of a scale is read with a rounding error.
_WHOLE = 1e-3
# Of a voxel; where a centre lies between two voxels, rounding errors do not decide.
_BETWEEN = 1e-6
_OUTSIDE = {"", "???", "unknown", "background", "corpuscallosum"}
CORTEX = {"L": "CORTEX_LEFT", "R": "CORTEX_RIGHT"}
"""Structures of CIFTI that are a surface, by hemisphere."""


@dataclass(frozen=True)
class AtlasLabels:
    """Labels of an atlas, 0 outside its parcels.

    Attributes
    ----------
    file : Path
        What it was read from; the left hemisphere of a pair.
    kind : str
        Of its places.
    names : dict of int to str
        Parcels by their numbers, those without a place too.
    volume : Nifti1Image, optional
        Labels (x, y, z).
    cortex : dict of str to array (vertex,)
        Labels of the whole mesh of `L` and `R`.
    rows : dict of str to array (row,)
        Labels of structures of grayordinates whose vertices the file does not name, in the order of CIFTI.
    """

    file: Path
    kind: Kind
    names: Mapping[int, str]
    volume: nib.Nifti1Image | None = None
    cortex: Mapping[str, np.ndarray] = field(default_factory=dict)
    rows: Mapping[str, np.ndarray] = field(default_factory=dict)


def grid_of(volume: nib.Nifti1Image, name: str) -> Grid:
    """The grid of a volume.

    Parameters
    ----------
    volume : Nifti1Image
        3-D.
    name : str
        Of its space.

    Returns
    -------
    Grid
    """
    i, j, k = volume.shape
    return Grid(name, (i, j, k), tuple(map(tuple, volume.affine.tolist())))


def labels_at(labels: AtlasLabels, places: Places) -> tuple[np.ndarray, dict[int, float]]:
    """Label of each place, and how many places of their size each label has in the whole atlas.

    Parameters
    ----------
    labels : AtlasLabels
    places : Places

    Returns
    -------
    at : array (place,) of int, 0 outside
    sizes : dict of int to float
        By label, those without a place too.

    Raises
    ------
    StudyError
        If the atlas is one of other places, of another mesh, or of other structures.
    """
    lay = _LAYING.get((labels.kind, places.space.kind))
    if lay is None:
        raise StudyError(
            where=labels.file.name,
            found=f"an atlas of {labels.kind}",
            expected=f"one of {places.space.kind}, as the scans in {places.space.name} have",
            do="set brain.atlas to one of that space, or brain.space to the atlas' own",
        )
    at, whole = lay(labels, places)
    numbers, counts = np.unique(np.concatenate([part[part > 0] for part in whole]), return_counts=True)
    share = 1.0
    if isinstance(places.space, Grid) and labels.volume is not None:
        affines = [labels.volume.affine, np.array(places.space.affine)]
        share = float(np.divide(*[abs(np.linalg.det(affine[:3, :3])) for affine in affines]))
    sizes = dict.fromkeys(labels.names, 0.0)
    sizes |= {int(number): int(count) * share for number, count in zip(numbers, counts, strict=True)}
    return at, sizes


def _on_grid(labels: AtlasLabels, places: Places) -> tuple[np.ndarray, list[np.ndarray]]:
    assert isinstance(places.space, Grid)
    assert labels.volume is not None
    at = _nearest(labels.volume, places.space.xyz_mm(places.index))
    return at, [np.asarray(labels.volume.dataobj).ravel()]


def _on_surface(labels: AtlasLabels, places: Places) -> tuple[np.ndarray, list[np.ndarray]]:
    space = places.space
    assert isinstance(space, Surface)
    whole = [_of_mesh(labels, hemi, n, space.name) for hemi, n in zip(CORTEX, space.vertices, strict=True)]
    return np.concatenate(whole)[places.index], whole


def _on_grayordinates(labels: AtlasLabels, places: Places) -> tuple[np.ndarray, list[np.ndarray]]:
    space = places.space
    assert isinstance(space, Grayordinates)
    if labels.rows:
        return _by_rows(labels, places, space)
    at, whole = np.zeros(len(places), dtype=np.int64), []
    structure = space.structure(places.index)
    vertices = {one.name: one.vertices for one in space.structures}
    for hemi, name in CORTEX.items():
        if name in vertices:
            mesh = _of_mesh(labels, hemi, vertices[name], space.name)
            own = structure == name
            at[own] = mesh[places.coordinates["vertex"][own]]
            whole.append(mesh)
    if labels.volume is not None and space.affine:
        below = places.coordinates["vertex"] < 0
        ijk = np.stack([places.coordinates[axis][below] for axis in "ijk"], axis=1)
        at[below] = _nearest(labels.volume, nib.affines.apply_affine(np.array(space.affine), ijk))
        whole.append(np.asarray(labels.volume.dataobj).ravel())
    return at, whole


def _by_rows(labels: AtlasLabels, places: Places, space: Grayordinates) -> tuple[np.ndarray, list[np.ndarray]]:
    """By the place of a row in its structure: the file names no vertices."""
    found = {one.name: one.count for one in space.structures}
    expected = {name: len(rows) for name, rows in labels.rows.items()}
    other = [name for name in found if found[name] != expected.get(name)]
    if other:
        raise StudyError(
            where=labels.file.name,
            found=f"{expected.get(other[0], 0)} rows of {some_of(other)}",
            expected=f"{found[other[0]]}, as the scans in {space.name} have",
            do="set brain.atlas to a dlabel.nii of the scans' grayordinates",
        )
    whole = np.concatenate([labels.rows[one.name] for one in space.structures])
    return whole[places.index], [whole]


_Laying = Callable[[AtlasLabels, Places], tuple[np.ndarray, list[np.ndarray]]]
_LAYING: dict[tuple[Kind, Kind], _Laying] = {
    ("voxels", "voxels"): _on_grid,
    ("vertices", "vertices"): _on_surface,
    ("vertices", "grayordinates"): _on_grayordinates,
    ("grayordinates", "vertices"): _on_surface,
    ("grayordinates", "grayordinates"): _on_grayordinates,
}


def _of_mesh(labels: AtlasLabels, hemi: str, n_vertices: int, space: str) -> np.ndarray:
    """Labels of the vertices of a mesh: a coarser fsaverage has the first vertices of a finer one."""
    own = labels.cortex.get(hemi, np.empty(0, dtype=np.int64))
    nested = {n_vertices, len(own)} <= set(MESHES.values()) and space.startswith("fsaverage")
    if len(own) == n_vertices or (nested and n_vertices < len(own)):
        if len(own) > n_vertices and hemi == "L":
            _log.info("%s has %s: %s takes the first %s", labels.file.name, _vertices(own), space, f"{n_vertices:,}")
        return own[:n_vertices]
    raise StudyError(
        where=labels.file.name,
        found=_vertices(own) if len(own) else f"no vertices of the hemisphere {hemi}",
        expected=f"{n_vertices:,}, those of {space}",
        do=f"set brain.atlas to one in {space}" + (" or a finer fsaverage" if space.startswith("fsaverage") else ""),
    )


def _vertices(mesh: np.ndarray) -> str:
    return f"{len(mesh):,} vertices a hemisphere"


def _nearest(volume: nib.Nifti1Image, xyz_mm: np.ndarray) -> np.ndarray:
    """Label of the voxel in which each place (place, 3) lies, 0 outside the volume."""
    inside = nib.affines.apply_affine(np.linalg.inv(volume.affine), xyz_mm)
    ijk = np.floor(inside + 0.5 + _BETWEEN).astype(np.int64)
    there = ((ijk >= 0) & (ijk < volume.shape)).all(axis=1)
    at = np.zeros(len(xyz_mm), dtype=np.int64)
    at[there] = np.asarray(volume.dataobj)[tuple(ijk[there].T)]
    return at


def whole_numbers(values: np.ndarray, where: str, what: str) -> np.ndarray:
    """Labels as int32.

    Parameters
    ----------
    values : array
        As the file has them.
    where, what : str
        The file, and what it should hold.

    Returns
    -------
    array of int32
        Of the same shape; a rounding error of the file is rounded away.

    Raises
    ------
    StudyError
        If some are no whole numbers, negative or too large, or none is above 0.
    """
    if not np.isfinite(values).all():
        found = f"NaN or infinity in {int((~np.isfinite(values)).sum())} places"
        raise StudyError(where=where, found=found, expected=what, do="set them to 0")
    labels = np.rint(values)
    off = np.abs(values - labels)
    if off.max() > _WHOLE:
        found = f"values such as {values.flat[int(off.argmax())]:g}"
        raise StudyError(where=where, found=found, expected=f"{what}, whole numbers", do="make one of it")
    if labels.min() < 0 or labels.max() > MOST_LABEL or not labels.any():
        found = f"labels from {labels.min():g} to {labels.max():g}"
        raise StudyError(where=where, found=found, expected=f"{what}, up to {MOST_LABEL}", do="choose another")
    return labels.astype(np.int32)


def parcel_name(text: str) -> str:
    """A parcel's name: those of HCP-MMP keep their hemisphere and lose `_ROI`."""
    return re.sub(r"_ROI$", "", text.strip())


def is_outside(name: str) -> bool:
    """True if a label of a surface or of grayordinates means what is outside every parcel."""
    plain = re.sub(r"^[LR]_", "", name).casefold().replace("_", " ")
    return plain in _OUTSIDE or plain.endswith("medial wall")


def refuse_unnamed(present: Iterable[int], names: Mapping[int, str], where: str) -> None:
    """Refuse labels without a name.

    Parameters
    ----------
    present : iterable of int
        Labels of places; 0 is outside.
    names : dict of int to str
    where : str
        The file that should name them.

    Raises
    ------
    StudyError
        Naming the first.
    """
    unnamed = sorted(set(present) - {0} - set(names))
    if unnamed:
        found = f"no name for label {unnamed[0]}"
        raise StudyError(where=where, found=found, expected="every label of the volume", do="add it")


def named_parcels(keys: np.ndarray, table: Mapping[int, str], where: str) -> dict[int, str]:
    """Labels that stand for parcels, with their names.

    Parameters
    ----------
    keys : array of int
        Of all places; 0 is outside.
    table : dict of int to str
    where : str
        The file that names them.

    Returns
    -------
    dict of int to str

    Raises
    ------
    StudyError
        If a label has no name, or parcels have names that cannot be printed or are the same.
    """
    refuse_unnamed(np.unique(keys).tolist(), table, where)
    names = {key: name for key, name in table.items() if key and not is_outside(name)}
    refuse_unprintable(names, where)
    refuse_doubled(names, where)
    return names


def refuse_unprintable(names: Mapping[int, str], where: str) -> None:
    """Refuse names with signs that no terminal should be given.

    Parameters
    ----------
    names : dict of int to str
    where : str
        The file that names them.

    Raises
    ------
    StudyError
        Naming the first.
    """
    odd = next((name for name in names.values() if not name.isprintable()), None)
    if odd is not None:
        raise StudyError(where=where, found=f"the name {odd[:40]!r}", expected="printable names", do="correct it")


def refuse_doubled(names: Mapping[int, str], where: str) -> None:
    """Refuse a name of several labels: parcels are known by their names.

    Parameters
    ----------
    names : dict of int to str
    where : str
        The file that names them.

    Raises
    ------
    StudyError
        Naming the first.
    """
    twice = pd.Series(names, dtype=object)[lambda found: found.duplicated(keep=False)].sort_values()
    if len(twice):
        first = twice[twice == twice.iloc[0]]
        found = f"{first.iloc[0]} for labels {', '.join(map(str, first.index[:5]))}"
        do = "give each its own, as L_V1 and R_V1"
        raise StudyError(where=where, found=found, expected="names that differ", do=do)
