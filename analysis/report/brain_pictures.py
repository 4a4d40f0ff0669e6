"""Maps drawn on a brain: volumes on glass, surfaces of fsaverage on the mesh that comes with nilearn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from cinecube.analysis.report.figures import glass_brain, inflated_brain
from cinecube.store.base.errors import StudyError
from cinecube.store.spaces.space import MESHES, Grid, Parcels, Space, Surface, space_of

# The one that comes with nilearn; its vertices are the first ones of the finer meshes of fsaverage.
_DRAWN = "fsaverage5"


def draw_map(
    values: xr.DataArray, cube_attrs: Mapping[str, Any], title: str, label: str, top: float | None = None
) -> bytes | None:
    """A picture of values (target,), up to `top`; None where the space has no picture, or no target has a value.

    `label` says what the values are, with their unit.

    Parameters
    ----------
    values : DataArray (target,)
    cube_attrs : Mapping
        Attributes of the brain or score cube, which describe its space.
    title : str
    label : str
        Of the colour bar.
    top : float, optional
        The largest value of the colour bar; that of the values without it.

    Returns
    -------
    bytes or None
        PNG.
    """
    space = _space(cube_attrs)
    if not np.isfinite(values.values).any():
        return None
    if isinstance(space, Grid):
        target = values["target"].values
        return glass_brain(values.values, target, np.array(space.affine), space.shape, title, label, top)
    if isinstance(space, Surface) and _has_mesh(space):
        whole = np.full(space.size, np.nan)
        whole[values["target"].values] = values.values
        sides = np.split(whole, [space.vertices[0]])
        return inflated_brain([side[: MESHES[_DRAWN]] for side in sides], title, label, top)
    return None


def undrawn(cube_attrs: Mapping[str, Any]) -> str | None:
    """A sentence on a space of which there is no picture; None for the others, and for parcels, which tables show.

    Parameters
    ----------
    cube_attrs : Mapping
    """
    space = _space(cube_attrs)
    if space is None or isinstance(space, Grid | Parcels) or (isinstance(space, Surface) and _has_mesh(space)):
        return None
    return (
        f"No maps are drawn: no mesh of {space.name} comes with the packages. Tables of parcels show the scores, and "
        "`cinecube export` writes maps that wb_view and others open."
    )


def _has_mesh(space: Surface) -> bool:
    return space.name.startswith("fsaverage") and min(space.vertices) >= MESHES[_DRAWN]


def _space(cube_attrs: Mapping[str, Any]) -> Space | None:
    try:
        return space_of(cube_attrs)
    except StudyError:  # a cube written by hand, which describes none
        return None
