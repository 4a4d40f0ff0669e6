"""Parcels: means over their targets."""

from __future__ import annotations

import numpy as np
import xarray as xr

from cinecube.store.cube.schema import string_coordinate

WHOLE = "all"


def regions(parcel: np.ndarray) -> np.ndarray:
    """Parcel labels (target,), "" outside the atlas; without any atlas all targets are one region, `all`."""
    labels = string_coordinate([str(name) for name in parcel])
    return labels if (labels != "").any() else np.full(labels.shape, WHOLE, dtype=object)


def parcel_means(values: xr.DataArray) -> xr.DataArray:
    """Mean over the targets of each parcel that are not NaN.

    Parameters
    ----------
    values : DataArray, dims (..., target)
        With the coordinate `parcel` on target.

    Returns
    -------
    DataArray, dims (..., parcel)
        Parcels by name; NaN where none of a parcel's targets is known.
    """
    labels = regions(values["parcel"].values)
    names = sorted({str(name) for name in labels} - {""})
    moved = values.transpose(..., "target")
    data = moved.values.astype(np.float64)
    known = np.isfinite(data)
    means = np.full((*data.shape[:-1], len(names)), np.nan)
    for p, name in enumerate(names):
        inside = labels == name
        count = known[..., inside].sum(axis=-1)
        total = np.where(known[..., inside], data[..., inside], 0).sum(axis=-1)
        np.divide(total, count, out=means[..., p], where=count > 0)
    coords = {dim: moved[dim] for dim in moved.dims[:-1] if dim in moved.coords}
    return xr.DataArray(means, dims=(*moved.dims[:-1], "parcel"), coords={**coords, "parcel": string_coordinate(names)})


def best_layer(cv_score: xr.DataArray) -> xr.DataArray:
    """Position on the layer axis of the highest score, -1 where no layer has one.

    Parameters
    ----------
    cv_score : DataArray, dims (..., layer, ...)
        Of the training films: choosing by a test film's score would make that score too good.
    """
    known = cv_score.notnull()
    return cv_score.where(known, -np.inf).argmax("layer").where(known.any("layer"), -1).astype(int)


def pool_subjects(values: xr.DataArray) -> xr.DataArray:
    """Targets of all subjects side by side, dims (..., target): a mean over them is over targets and subjects."""
    moved = values.transpose("subject", "target", ...)
    parts = [moved.isel(subject=s).drop_vars("subject") for s in range(moved.sizes["subject"])]
    return xr.concat(parts, dim="target", coords="minimal", compat="override").transpose(..., "target")
