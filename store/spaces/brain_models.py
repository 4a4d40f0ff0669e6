"""Grayordinates as CIFTI files describe them: a brain model for each structure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from nibabel.cifti2.cifti2_axes import BrainModelAxis

from cinecube.store.spaces.space import STRUCTURE, Grayordinates, Places, Structure

PLACE_LABELS = ("vertex", "i", "j", "k")
"""Coordinates of a cube that say the vertex or the voxel of a grayordinate, -1 where it has none."""


def places_of_models(axis: BrainModelAxis, name: str) -> Places:
    """Grayordinates of a file as places of a space.

    Parameters
    ----------
    axis : BrainModelAxis
    name : str
        Of the space: `fsLR-91k`.
    """
    structures = tuple(
        Structure(
            str(structure).removeprefix(STRUCTURE), len(axis.name[rows]), int(axis.nvertices.get(str(structure), 0))
        )
        for structure, rows, _ in axis.iter_structures()
    )
    shape = () if axis.volume_shape is None else tuple(int(n) for n in axis.volume_shape)
    affine = () if axis.affine is None else tuple(map(tuple, np.asarray(axis.affine, dtype=float).tolist()))
    space = Grayordinates(name, structures, shape, affine)
    index = np.arange(len(axis))
    xyz_mm = np.full((len(axis), 3), np.nan)
    if axis.affine is not None:
        xyz_mm[axis.volume_mask] = axis.voxel[axis.volume_mask] @ axis.affine[:3, :3].T + axis.affine[:3, 3]
    ends = {"LEFT": "L", "RIGHT": "R"}
    hemi = np.array([ends.get(str(one).rpartition("_")[2], "") for one in axis.name], dtype=object)
    places = {"vertex": axis.vertex, **{key: axis.voxel[:, i] for i, key in enumerate("ijk")}}
    return Places(space, index, hemi, xyz_mm, {key: values.astype(np.int32) for key, values in places.items()})


def models_of_places(space: Grayordinates, index: np.ndarray, labels: Mapping[str, np.ndarray]) -> BrainModelAxis:
    """The brain models of some grayordinates.

    Parameters
    ----------
    space : Grayordinates
    index : array (place,) of int
        Rows of the space, rising.
    labels : dict of str to array (place,)
        `PLACE_LABELS` of them.
    """
    voxel = np.stack([labels[key] for key in "ijk"], axis=1).astype(int)
    surfaces = {STRUCTURE + one.name: one.vertices for one in space.structures if one.vertices}
    return BrainModelAxis(
        np.array([STRUCTURE + str(name) for name in space.structure(index)]),
        voxel=voxel,
        vertex=np.asarray(labels["vertex"], dtype=int),
        affine=np.array(space.affine) if space.affine else None,
        volume_shape=space.shape or None,
        nvertices=surfaces,
    )
