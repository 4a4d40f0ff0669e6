"""Targets of a map: their numbers and labels, held to the places of their space.

Cubes number voxels by flat index (C order) of their grid, vertices through both hemispheres, left first, grayordinates
by row of the CIFTI files they came from, and parcels by number in the atlas.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from cinecube.store.base.errors import StudyError
from cinecube.store.cube.schema import string_coordinate

Attrs = Mapping[str, Any]
HEMISPHERES = {"L": "CortexLeft", "R": "CortexRight"}
# Affines in attributes are rounded, a voxel is a millimetre or more.
_SAME_PLACE_MM = 0.1


def targets_of(values: xr.DataArray, size: int | None) -> np.ndarray:
    """Numbers of the targets, shape (target,), each once and below `size`.

    Parameters
    ----------
    values : DataArray (target,)
        With the coordinate `target`.
    size : int, optional
        Places of the space; not checked without it.

    Returns
    -------
    array of int64, shape (target,)

    Raises
    ------
    StudyError
        If the map has other axes, a target comes twice, or one is beyond `size`.
    """
    if values.dims != ("target",) or "target" not in values.coords:
        raise StudyError(
            where="map",
            found=f"axes {', '.join(map(str, values.dims)) or 'none'}",
            expected="target alone, with its numbers",
            do="choose one subject, model and layer, or average over them",
        )
    target: np.ndarray = values["target"].values
    if len(np.unique(target)) != len(target):
        raise StudyError(where="map", found="a target twice", expected="each once", do="map one subject at a time")
    if size is not None and target.size and (target.min() < 0 or target.max() >= size):
        raise StudyError(
            where="map",
            found=f"targets {target.min()} to {target.max()}",
            expected=f"0 to {size - 1}, the places of its space",
            do="check the cube's `space` and `shape`",
        )
    return target.astype(np.int64)


def labels_of(values: xr.DataArray, name: str) -> np.ndarray:
    """A coordinate of strings on target; empty ones where the map has none.

    Parameters
    ----------
    values : DataArray (target,)
    name : str
        Of the coordinate.

    Returns
    -------
    array of str, shape (target,)
    """
    return string_coordinate(values[name].values if name in values.coords else [""] * values.sizes["target"])


def check_hemispheres(values: xr.DataArray, expected: np.ndarray) -> None:
    """Refuse targets that `hemi` puts on another side than `expected` (target,), "" where either cannot say.

    Parameters
    ----------
    values : DataArray (target,)
    expected : array of str, shape (target,)
        `L`, `R` or empty.

    Raises
    ------
    StudyError
        Naming the first.
    """
    hemi = labels_of(values, "hemi")
    wrong = np.flatnonzero((hemi != expected) & (hemi != "") & (expected != ""))
    if wrong.size:
        first = wrong[0]
        raise StudyError(
            where=f"target {int(values['target'].values[first])}",
            found=f"hemisphere {hemi[first]}",
            expected=f"{expected[first]}, where its number is",
            do="number targets as their space does: both hemispheres, left first",
        )


def check_places(values: xr.DataArray, expected_mm: np.ndarray) -> None:
    """Refuse targets with other coordinates than `expected_mm` (target, 3), NaN where either is unknown.

    Parameters
    ----------
    values : DataArray (target,)
        With the coordinates `x_mm`, `y_mm`, `z_mm`.
    expected_mm : array, shape (target, 3)

    Raises
    ------
    StudyError
        Naming the first.
    """
    names = [f"{axis}_mm" for axis in "xyz"]
    if not all(name in values.coords for name in names):
        return
    places_mm = np.stack([values[name].values for name in names], axis=1)
    wrong = np.flatnonzero((np.abs(places_mm - expected_mm) > _SAME_PLACE_MM).any(axis=1))
    if wrong.size:
        first = wrong[0]
        raise StudyError(
            where=f"target {int(values['target'].values[first])}",
            found=f"a place of {np.round(places_mm[first], 2).tolist()} mm",
            expected=f"{np.round(expected_mm[first], 2).tolist()} mm, where its number is",
            do="give the grid or the reference that the cube was made with",
        )
