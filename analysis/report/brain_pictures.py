"""Maps drawn on a brain."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from cinecube.analysis.report.figures import glass_brain


def draw_map(
    values: xr.DataArray, cube_attrs: Mapping[str, Any], title: str, label: str, top: float | None = None
) -> bytes | None:
    """A glass brain of values (target,) per voxel, up to `top`; None where targets are no voxels, or none has a value.

    `label` says what the values are, with their unit.

    Parameters
    ----------
    values : DataArray (target,)
    cube_attrs : Mapping
        Attributes of the brain or score cube: space and grid.
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
    if cube_attrs.get("targets") != "voxels" or not np.isfinite(values.values).any():
        return None
    affine, shape = np.array(json.loads(cube_attrs["affine"])), json.loads(cube_attrs["shape"])
    return glass_brain(values.values, values["target"].values, affine, shape, title, label, top)
