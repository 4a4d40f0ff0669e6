"""Maps: one value per target, ready to be drawn on a brain."""

from __future__ import annotations

import json

import numpy as np
import xarray as xr

from cinecube.analysis.figures import glass_brain
from cinecube.analysis.parcels import best_layer


def best_layer_score(cube: xr.Dataset, model: str) -> xr.DataArray:
    """Test score of each target at the layer that the training films chose for it, mean over subjects.

    Parameters
    ----------
    cube : Dataset
        A score cube.
    model : str
        A label of its `model` axis.

    Returns
    -------
    DataArray, dims (target,)
        NaN where no subject has a score.
    """
    one = cube[["score", "cv_score"]].sel(model=model).load()
    layer = best_layer(_mean_over_subjects(one["cv_score"]))
    score = _mean_over_subjects(one["score"])
    return score.isel(layer=layer.clip(min=0)).where(layer >= 0)


def _mean_over_subjects(values: xr.DataArray) -> xr.DataArray:
    known = values.notnull()
    return values.fillna(0).sum("subject") / known.sum("subject").where(known.any("subject"))


def draw_map(values: xr.DataArray, cube: xr.Dataset, title: str) -> bytes | None:
    """A glass brain of values per voxel; None where the targets are no voxels."""
    if cube.attrs.get("targets") != "voxels":
        return None
    affine, shape = np.array(json.loads(cube.attrs["affine"])), json.loads(cube.attrs["shape"])
    return glass_brain(values.values, values["target"].values, affine, shape, title)
