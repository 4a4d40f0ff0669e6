"""Grayordinates as CIFTI files describe them: a brain model for each structure."""

from __future__ import annotations

from collections.abc import Mapping

import nibabel as nib
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

    Returns
    -------
    Places
    """
    names = np.array([str(label).removeprefix(STRUCTURE) for label in axis.name], dtype=object)
    vertices = {str(label).removeprefix(STRUCTURE): int(count) for label, count in axis.nvertices.items()}
    found = [str(label).removeprefix(STRUCTURE) for label, _, _ in axis.iter_structures()]
    structures = tuple(Structure(label, int((names == label).sum()), vertices.get(label, 0)) for label in found)
    shape = () if axis.volume_shape is None else tuple(int(n) for n in axis.volume_shape)
    affine = () if axis.affine is None else tuple(map(tuple, np.round(axis.affine, 6).tolist()))
    xyz_mm = np.full((len(axis), 3), np.nan)
    if axis.affine is not None:
        xyz_mm[axis.volume_mask] = nib.affines.apply_affine(axis.affine, axis.voxel[axis.volume_mask])
    sides = {"LEFT": "L", "RIGHT": "R"}
    hemi = np.array([sides.get(label.rpartition("_")[2], "") for label in names], dtype=object)
    numbers = dict(zip(PLACE_LABELS, (axis.vertex, *axis.voxel.T), strict=True))
    coordinates = {"structure": names} | {key: np.asarray(values, dtype=np.int32) for key, values in numbers.items()}
    return Places(Grayordinates(name, structures, shape, affine), np.arange(len(axis)), hemi, xyz_mm, coordinates)


def models_of_places(space: Grayordinates, index: np.ndarray, labels: Mapping[str, np.ndarray]) -> BrainModelAxis:
    """The brain models of some grayordinates.

    Parameters
    ----------
    space : Grayordinates
    index : array (place,) of int
        Rows of the space, rising.
    labels : dict of str to array (place,)
        `PLACE_LABELS` of them.

    Returns
    -------
    BrainModelAxis
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
