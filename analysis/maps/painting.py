"""Maps of parcels painted onto voxels, vertices or grayordinates."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import xarray as xr
from nibabel.cifti2.cifti2_axes import BrainModelAxis

from cinecube.analysis.maps.map_targets import Attrs, labels_of, targets_of
from cinecube.store.base.errors import StudyError
from cinecube.store.spaces.atlas import atlas_places, read_atlas
from cinecube.store.spaces.brain_models import places_of_models
from cinecube.store.spaces.space import MESHES, Grid, Places, Surface, places_in, space_attrs, space_of

_log = logging.getLogger(__name__)


def find_canvas(cube_attrs: Attrs, atlas: Path, models: BrainModelAxis | None = None) -> Places:
    """The places that parcels are painted onto: those of the scans where they are known, otherwise the atlas' own.

    Parameters
    ----------
    cube_attrs : Mapping
        Attributes of a cube of parcels.
    atlas : Path
        As of `read_atlas`.
    models : BrainModelAxis, optional
        Grayordinates to paint instead.

    Returns
    -------
    Places

    Raises
    ------
    StudyError
        If the atlas cannot be read.
    """
    name = str(cube_attrs.get("space", ""))
    if models is not None:
        return places_of_models(models, name)
    if {"affine", "shape"} <= cube_attrs.keys():
        grid = space_of({key: cube_attrs[key] for key in ("space", "affine", "shape") if key in cube_attrs})
        assert isinstance(grid, Grid)
        return places_in(grid)
    if name in MESHES:
        return places_in(Surface(name, (MESHES[name], MESHES[name])))
    return atlas_places(atlas, name)


def paint(values: xr.DataArray, atlas: Path, canvas: Places) -> tuple[xr.DataArray, Attrs]:
    """A map of parcels as one of places, and the attributes that describe their space.

    Parameters
    ----------
    values : DataArray, dims (target,)
        A map of parcels, with `parcel` and `hemi` on target.
    atlas : Path
        As of `read_atlas`.
    canvas : Places

    Returns
    -------
    painted : DataArray, dims (target,)
        One value per place inside a parcel of the map, with `parcel`, `hemi` and the places' coordinates.
    attrs : Mapping
        Attributes that describe the places' space.

    Raises
    ------
    StudyError
        If the map has other axes, or the atlas cannot be read, is in another space, or lacks a parcel of the map.
    """
    targets_of(values, None)
    found = read_atlas(atlas, canvas)
    for line in found.said:
        _log.info("%s", line)
    column = {name: number for number, name in enumerate(found.names)}
    labels = {name: labels_of(values, name) for name in ("hemi", "parcel")}
    # Names of surfaces always say their hemisphere, those of older cubes need not.
    owner = [column.get(name, column.get(f"{hemi}_{name}", -1)) for hemi, name in zip(*labels.values(), strict=True)]
    by_parcel = found.weights.tocsc()
    sizes = np.diff(by_parcel.indptr)
    absent = [name for name, c in zip(labels["parcel"], owner, strict=True) if c < 0 or not sizes[c]]
    if absent:
        raise StudyError(
            where="atlas",
            found=f"nothing of {len(absent)} parcels, among them {absent[0] or 'one without a name'}",
            expected="every parcel of the map",
            do="give the atlas that the brain cubes were made with",
        )
    inside = [by_parcel.indices[by_parcel.indptr[c] : by_parcel.indptr[c + 1]] for c in owner]
    place = np.concatenate(inside)
    order = place.argsort()
    place, source = place[order], np.repeat(np.arange(len(owner)), [len(part) for part in inside])[order]
    coords = {
        "target": canvas.index[place],
        "parcel": ("target", labels["parcel"][source]),
        "hemi": ("target", canvas.hemi[place]),
        **{name: ("target", label[place]) for name, label in canvas.coordinates.items()},
    }
    painted = xr.DataArray(values.values[source], dims="target", coords=coords, name=values.name)
    return painted, space_attrs(canvas.space)
