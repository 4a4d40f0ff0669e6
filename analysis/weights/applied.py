"""Films as encoders predict them: kept weights applied to the features of a film, any film."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from cinecube.analysis.cubes.spaces import spec_without_film
from cinecube.analysis.ridge.design import cut_runs, delayed, join_runs, standardise
from cinecube.store.base.errors import StudyError
from cinecube.store.base.fingerprint import differences
from cinecube.store.clock.clock import step_s
from cinecube.store.cube.cubes import read_values
from cinecube.store.cube.schema import TARGETS_PER_SHARD


def predict_film(weights: xr.Dataset, features: xr.Dataset, where: str) -> xr.DataArray:
    """Predict a film from its features, with the constants of the films that the weights were fitted on.

    Parameters
    ----------
    weights : Dataset
        One stream of a cube of weights, with its axis `model` of length one.
    features : Dataset
        The film's feature cube, with the rows of the study's clock.
    where : str
        What messages call the film's features.

    Returns
    -------
    DataArray, dims (subject, time, target)
        float32, with `segment` and `onset_s` on time; in standard deviations of a run. Rows before a segment's first
        are taken for zeros, as encoders take them. NaN where a target has no weights.

    Raises
    ------
    StudyError
        If the features were made in another way than those that the weights were fitted on, or are NaN.
    """
    _refuse_other_features(weights, features, where)
    stream, layer, width = str(weights["model"].values[0]), str(weights["layer"].values[0]), int(weights["width"][0])
    lazy = features["features"].sel(model=stream, layer=layer).isel(dim=slice(0, width)).transpose("time", "dim")
    values = read_values(lazy, f"{where} {layer}")
    if not np.isfinite(values).all():
        raise StudyError(
            where=f"{where} {layer}",
            found="NaN or infinity",
            expected="finite features",
            do="restore the cube with `cinecube verify --repair`, or make it again",
        )
    rows = pd.DataFrame({name: features[name].values for name in ("segment", "onset_s")})
    runs = cut_runs(rows["segment"].to_numpy(), rows["onset_s"].to_numpy(), step_s(rows))
    if "delays_across_runs" in json.loads(weights.attrs["spec"])["encode"].get("compat", ()):
        runs = join_runs(runs, np.zeros(len(rows), dtype=bool))
    delays = weights["delay"].values.tolist()
    found = np.empty((weights.sizes["subject"], len(rows), weights.sizes["target"]), dtype=np.float32)
    for s in range(len(found)):
        own = weights.isel(subject=s, model=0, dim=slice(0, width))
        known = standardise(values, own["mean"].values, own["spread"].values)
        design = delayed(known.astype(np.float32), delays, runs)
        for start in range(0, weights.sizes["target"], TARGETS_PER_SHARD):
            part = own["weights"].isel(target=slice(start, start + TARGETS_PER_SHARD))
            fitted = part.transpose("delay", "dim", "target").values.reshape(len(delays) * width, -1)
            found[s, :, start : start + TARGETS_PER_SHARD] = design @ fitted
    coords: dict[Any, Any] = {
        name: weights[name] for name in weights.coords if weights[name].dims in (("subject",), ("target",))
    }
    coords |= {name: ("time", features[name].values) for name in ("segment", "onset_s")}
    return xr.DataArray(found, coords, ("subject", "time", "target"), name="predicted").assign_coords(
        model=stream, layer=layer
    )


def _refuse_other_features(weights: xr.Dataset, features: xr.Dataset, where: str) -> None:
    lines = differences(json.loads(weights.attrs["features"]), spec_without_film(features))
    if lines:
        field, _, values = lines[0].partition(": ")
        fitted, _, here = values.partition(" -> ")
        raise StudyError(
            where=where,
            found=f"{field} {here}",
            expected=f"{fitted}, as of the features that the weights were fitted on",
            do="extract the film with the same parameters, or fit the weights again with `dvc repro`",
        )
