"""Maps of parcels painted onto voxels or vertices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import xarray as xr
from nibabel.gifti.gifti import GiftiImage

from cinecube.analysis.maps.map_targets import HEMISPHERES, VERTICES, Attrs, grid_of, labels_of, size_of, targets_of
from cinecube.store.base.errors import StudyError, environment_error
from cinecube.store.spaces.atlas import read_parcels


def paint(values: xr.DataArray, cube_attrs: Attrs, atlas: Path) -> xr.DataArray:
    """A map of parcels as one of the voxels or vertices of the cube's space.

    Parameters
    ----------
    values : DataArray, dims (target,)
        A map of parcels, with `parcel` and `hemi` on target.
    cube_attrs : Mapping
        `space`, and for volumes `affine` and `shape`.
    atlas : Path
        The volume (with its table), or for surfaces the folder of both hemispheres' `*.label.gii`.

    Returns
    -------
    DataArray, dims (target,)

    Raises
    ------
    StudyError
        If the map has other axes, or the atlas cannot be read, is in another space, or lacks a parcel of the map.
    """
    targets_of(values, None)
    if cube_attrs.get("space") in VERTICES:
        return paint_surface(values, read_surface_atlas(atlas, cube_attrs))
    affine, shape = grid_of(cube_attrs)
    return paint_volume(values, *read_parcels(atlas, nib.Nifti1Image(np.zeros(shape, np.uint8), affine)))


def read_surface_atlas(folder: Path, cube_attrs: Attrs) -> dict[str, GiftiImage]:
    """Labels (vertex,) of `L` and `R`: the one `*hemi-L*.label.gii` and the one `*hemi-R*.label.gii` in a folder.

    Parameters
    ----------
    folder : Path
    cube_attrs : Mapping
        Attributes of the cube, whose `space` says the number of vertices.

    Raises
    ------
    StudyError
        If one is missing, cannot be read, or has another number of vertices than the space.
    """
    n_vertices = size_of(cube_attrs, VERTICES)
    images = {}
    for hemi in HEMISPHERES:
        paths = sorted(folder.glob(f"*hemi-{hemi}*.label.gii")) if folder.is_dir() else []
        found, image = f"{len(paths)} files *hemi-{hemi}*.label.gii", None
        if len(paths) == 1:
            image, found = _load(paths[0])
        if image is None or image.darrays[0].data.shape != (n_vertices,):
            raise StudyError(
                where=str(folder),
                found=found,
                expected=f"one *hemi-{hemi}*.label.gii with {n_vertices} vertices",
                do=f"give the folder of the atlas in {cube_attrs['space']}",
            )
        images[hemi] = image
    return images


def _load(path: Path) -> tuple[GiftiImage | None, str]:
    """A GIFTI image with data, and what was found in words."""
    try:
        image = nib.load(path)
    except Exception as error:  # nibabel and expat raise many kinds for one damaged file
        if refused := environment_error(error, str(path)):
            raise refused from error
        return None, f"an unreadable {path.name} ({error})"
    if not isinstance(image, GiftiImage) or not image.darrays:
        return None, f"no labels in {path.name}"
    return image, f"data of shape {image.darrays[0].data.shape} in {path.name}"


def paint_volume(values: xr.DataArray, labels: np.ndarray, names: Mapping[int, str]) -> xr.DataArray:
    """Each voxel with the value of its parcel.

    Parameters
    ----------
    values : DataArray, dims (target,)
        A map of parcels, with `parcel` on target.
    labels, names : array (x, y, z) of int, dict
        From `atlas.read_parcels`.

    Returns
    -------
    DataArray, dims (target,)
        A map of voxels.

    Raises
    ------
    StudyError
        If the atlas lacks a parcel of the map.
    """
    number = {name: key for key, name in names.items()}
    flat = labels.ravel()
    parcel = labels_of(values, "parcel")
    inside = [np.flatnonzero(flat == number[name]) if name in number else np.empty(0, int) for name in parcel]
    return _spread(values, inside)


def paint_surface(values: xr.DataArray, atlas: Mapping[str, GiftiImage]) -> xr.DataArray:
    """Each vertex with the value of its parcel.

    Parameters
    ----------
    values : DataArray, dims (target,)
        A map of parcels, with `parcel` and `hemi` on target.
    atlas : Mapping of str to GiftiImage
        Labels (vertex,) of `L` and `R`, named with or without hemisphere.

    Returns
    -------
    DataArray, dims (target,)
        A map of vertices, counted through both hemispheres, left first.

    Raises
    ------
    StudyError
        If the atlas lacks a parcel of the map.
    """
    vertices, start = dict[tuple[str, str], np.ndarray](), 0
    for hemi in HEMISPHERES:
        labels = np.asarray(atlas[hemi].darrays[0].data)
        for key, name in atlas[hemi].labeltable.get_labels_as_dict().items():
            vertices[hemi, _bare(str(name), hemi)] = start + np.flatnonzero(labels == key)
        start += len(labels)
    both = zip(labels_of(values, "hemi"), labels_of(values, "parcel"), strict=True)
    return _spread(values, [vertices.get((hemi, _bare(name, hemi)), np.empty(0, int)) for hemi, name in both])


def _bare(name: str, hemi: str) -> str:
    return name.removesuffix("_ROI").removeprefix(f"{hemi}_")


def _spread(values: xr.DataArray, inside: list[np.ndarray]) -> xr.DataArray:
    """A map over the places (target,) of each parcel."""
    parcel = labels_of(values, "parcel")
    absent = [name for name, places in zip(parcel, inside, strict=True) if not places.size]
    if absent:
        raise StudyError(
            where="atlas",
            found=f"nothing of {len(absent)} parcels, among them {absent[0] or 'one without a name'}",
            expected="every parcel of the map",
            do="give the atlas that the brain cubes were made with",
        )
    target = np.concatenate(inside)
    order = target.argsort()
    owner = np.repeat(np.arange(len(inside)), [places.size for places in inside])[order]
    labels = {name: ("target", labels_of(values, name)[owner]) for name in ("hemi", "parcel")}
    return xr.DataArray(
        values.values[owner], dims="target", coords={"target": target[order], **labels}, name=values.name
    )
