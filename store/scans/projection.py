"""Volumes projected to a surface: at each vertex the mean along the line from pial surface to white matter."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array, diags_array, vstack

from cinecube.store.base.errors import StudyError
from cinecube.store.base.input_files import cannot_read, check_file
from cinecube.store.params.document import BrainParams
from cinecube.store.scans.bids import mesh_name
from cinecube.store.scans.source import RunBlocks, ScanRun, ScanSource, ScanTiming
from cinecube.store.scans.surfaces import MESH_VERTICES
from cinecube.store.spaces.space import Grid, Places, Surface

_log = logging.getLogger(__name__)
_HEMISPHERES = ("left", "right")
_SURFACES = ("pial", "white")
# Places along the line at which `vol_to_surf` samples.
_DEPTHS = np.linspace(0, 1, 10)
# Twice the largest mesh of FreeSurfer, as text that is not packed.
_MOST_BYTES = 2**26


class Projected:
    """A subject's volumes on a mesh of FreeSurfer; see `ScanSource`.

    Values equal those of `nilearn.surface.vol_to_surf` (pial, inner mesh white) of volumes that are NaN outside the
    mask. It is linear, so that one sparse matrix does for all volumes what nilearn works out for each anew.

    Parameters
    ----------
    volumes : ScanSource
        In an MNI space.
    params : BrainParams
        With `surface`.
    root : Path
        The study's folder.

    Raises
    ------
    StudyError
        If a mesh is not here, damaged or another.
    """

    def __init__(self, volumes: ScanSource, params: BrainParams, root: Path) -> None:
        assert params.surface is not None
        self.subject, self.tasks = volumes.subject, volumes.tasks
        name = mesh_name(params.surface)
        self._volumes, self._space = volumes, Surface(name, (MESH_VERTICES[name],) * 2)
        self._meshes = find_meshes(params.surface, root / params.meshes if params.meshes else None)
        self._own = list(self._meshes) if params.meshes else []
        self._voxels: Places | None = None
        self._weights = csr_array((0, 0), dtype=np.float32)

    def runs(self, segments: Sequence[str]) -> list[ScanRun]:
        """Those of the volumes."""
        return self._volumes.runs(segments)

    def files(self, run: ScanRun) -> list[Path]:
        """Those of the volumes, and the study's own meshes."""
        return [*self._volumes.files(run), *self._own]

    def timing(self, run: ScanRun) -> ScanTiming:
        """That of the volumes."""
        return self._volumes.timing(run)

    def places(self, runs: Sequence[ScanRun]) -> Places:
        """Vertices with a part of their line in the mask of all runs.

        Raises
        ------
        StudyError
            If there are none; as the volumes' own.
        """
        self._voxels = self._volumes.places(runs)
        assert isinstance(self._voxels.space, Grid)
        grid, surface = self._voxels.space, self._space
        parts = []
        for pial, white, count in zip(self._meshes[::2], self._meshes[1::2], surface.vertices, strict=True):
            lines = [read_vertices(path, count) for path in (pial, white)]
            parts.append(projection_weights(lines[0], lines[1], grid, self._voxels.index))
        weights = csr_array(vstack(parts))
        index = np.flatnonzero(np.diff(weights.indptr))
        if not index.size:
            do = "check that the scans are in MNI space"
            raise StudyError(where=self.subject, found="no vertex in the mask", expected=surface.name, do=do)
        if lost := surface.size - len(index):
            _log.warning("%s: %d of %d vertices are outside the brain of all runs", *(self.subject, lost, surface.size))
        self._weights = weights
        unknown = np.full((len(index), 3), np.nan)
        return Places(surface, index, surface.hemi(index).astype(object), unknown)

    def values(self, run: ScanRun, places: Places) -> RunBlocks:
        """Values of a run at some of these vertices; NaN where a voxel on the line is.

        Parameters
        ----------
        run : ScanRun
        places : Places
            Some of `places`.

        Yields
        ------
        volumes, places : slice
            All places each time.
        values : array of float32, shape (volume, place)
        """
        assert self._voxels is not None, "places come first"
        weights = csr_array(self._weights[places.index])
        for volumes, _, values in self._volumes.values(run, self._voxels):
            yield volumes, slice(0, len(places)), np.ascontiguousarray((weights @ values.T).T)

    def confounds(self, run: ScanRun) -> Path | None:
        """That of the volumes."""
        return self._volumes.confounds(run)


def find_meshes(surface: str, folder: Path | None) -> tuple[Path, ...]:
    """Pial and white surface of the left, then of the right hemisphere; nothing is fetched for it.

    Parameters
    ----------
    surface : str
        As `brain.surface`.
    folder : Path, optional
        With them as nilearn names them; its own copies otherwise.

    Returns
    -------
    tuple of Path
        Pial left, white left, pial right, white right.

    Raises
    ------
    StudyError
        If they are not here.
    """
    from nilearn.datasets import fetch_surf_fsaverage, get_data_dirs

    stems = [f"{kind}_{side}" for side in _HEMISPHERES for kind in _SURFACES]
    if folder is None and surface == "fsaverage5":
        shipped = fetch_surf_fsaverage(surface)
        return tuple(Path(shipped[stem]) for stem in stems)
    folders = [folder] if folder else [Path(one) / mesh_name(surface) for one in get_data_dirs()]
    for one in folders:
        files = [
            next((path for end in (".gii.gz", ".gii") if (path := one / f"{s}{end}").exists()), None) for s in stems
        ]
        if None not in files:
            return tuple(path for path in files if path is not None)
    fetch = f"from nilearn.datasets import fetch_surf_fsaverage; fetch_surf_fsaverage('{surface}')"
    raise StudyError(
        where=f"the mesh {surface}",
        found=f"no {stems[0]}.gii.gz and others in {' or '.join(map(str, folders))}",
        expected=", ".join(f"{stem}.gii.gz" for stem in stems),
        do="correct brain.meshes" if folder else f'run `python -c "{fetch}"` once, or set brain.meshes to their folder',
    )


def read_vertices(path: Path, count: int) -> np.ndarray:
    """Coordinates (vertex, 3) in millimetres of a mesh.

    Parameters
    ----------
    path : Path
        GIFTI.
    count : int
        Of its vertices.

    Returns
    -------
    array of float64, shape (vertex, 3)

    Raises
    ------
    StudyError
        If it cannot be read, or is another mesh.
    """
    from nilearn.surface import load_surf_mesh

    what, do = f"a mesh of {count} vertices", "fetch it again, or correct brain.meshes"
    check_file(path, what, do)
    if path.stat().st_size > _MOST_BYTES:
        raise StudyError(where=str(path), found=f"{path.stat().st_size} bytes", expected=what, do=do)
    try:
        coordinates = np.asarray(load_surf_mesh(path).coordinates, dtype=np.float64)
    except Exception as error:  # nibabel's parser has no class of its own for damage
        raise cannot_read(path, error, what, do) from error
    if coordinates.shape != (count, 3) or not np.isfinite(coordinates).all():
        raise StudyError(where=str(path), found=f"coordinates {coordinates.shape}", expected=what, do=do)
    return coordinates


def projection_weights(outer: np.ndarray, inner: np.ndarray, grid: Grid, index: np.ndarray) -> csr_array:
    """Shares of voxels in the mean along the line between two surfaces.

    Parameters
    ----------
    outer, inner : array (vertex, 3)
        Millimetres.
    grid : Grid
    index : array (voxel,)
        Voxels inside the mask, by flat index, rising.

    Returns
    -------
    csr_array (vertex, voxel)
        Rows add up to 1; one is empty where no sample lies inside, with all eight voxels around it.
    """
    shape = np.array(grid.shape)
    column = np.full(grid.size, -1, dtype=np.int64)
    column[index] = np.arange(len(index))
    weights = csr_array((len(outer), len(index)), dtype=np.float64)
    for depth in _DEPTHS:
        mm = outer + depth * (inner - outer)
        ijk = _to_voxels(mm, grid)
        low = np.clip(np.floor(ijk).astype(np.int64), 0, shape - 2)
        high_share = ijk - low
        corners = [np.array(corner) for corner in itertools.product((0, 1), repeat=3)]
        at = np.stack([column[np.ravel_multi_index((low + corner).T, grid.shape)] for corner in corners], axis=1)
        share = np.stack([np.where(c, high_share, 1 - high_share).prod(axis=1) for c in corners], axis=1)
        inside = np.flatnonzero((at >= 0).all(axis=1) & ((ijk >= 0) & (ijk < shape)).all(axis=1))
        cells = (np.repeat(inside, len(corners)), at[inside].ravel())
        weights = weights + csr_array((share[inside].ravel(), cells), shape=weights.shape)
    total = weights.sum(axis=1)
    scale = np.divide(1, total, out=np.zeros_like(total), where=total > 0)
    return csr_array(diags_array(scale) @ weights).astype(np.float32)


def _to_voxels(mm: np.ndarray, grid: Grid) -> np.ndarray:
    inverse = np.linalg.inv(np.array(grid.affine))
    return np.asarray(mm @ inverse[:3, :3].T + inverse[:3, 3])
