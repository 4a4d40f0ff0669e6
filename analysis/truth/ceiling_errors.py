"""Ceilings that were found beside those that were planted in a simulated study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from cinecube.analysis.cubes.parcels import parcel_means


def ceiling_errors(cube: xr.Dataset, raw_truth: Mapping[str, Any], averaged: bool) -> pd.DataFrame:
    """Ceilings beside those that were planted, parcel by parcel.

    Parameters
    ----------
    cube : Dataset
        From `ceiling_cube`.
    raw_truth : Mapping
        What `truth.json` holds.
    averaged : bool
        Whether scores are of the mean over two showings, rather than of one.

    Returns
    -------
    DataFrame
        Columns `parcel`, `planted`, `repeats`, `repeats_error`, `cross_subject`, `cross_subject_error`, `converged`, a
        row per driven parcel: means over subjects with a ceiling and their targets; errors are ceilings less the
        planted ones, and `converged` the share of targets whose cross-subject ceiling is extrapolated.
    """
    key = "ceiling" if averaged else "ceiling_one_showing"
    known = cube["repeats"].notnull() | cube["cross_subject"].notnull()
    subjects = [str(name) for name in cube["subject"].values[known.any("target").values]]
    means = {name: parcel_means(cube[name]) for name in ("repeats", "cross_subject")}
    converged = parcel_means(cube["cross_subject_converged"].astype(float).where(cube["cross_subject"].notnull()))
    rows = []
    for parcel, entry in raw_truth["parcels"].items():
        if subjects and entry["sources"] and parcel in converged["parcel"].values:
            row: dict[str, Any] = {"parcel": parcel, "planted": float(np.mean([entry[key][name] for name in subjects]))}
            for name, values in means.items():
                row[name] = float(values.sel(parcel=parcel).mean())
                row[f"{name}_error"] = row[name] - row["planted"]
            rows.append({**row, "converged": float(converged.sel(parcel=parcel).mean())})
    return pd.DataFrame(rows)


def ceiling_error(errors: pd.DataFrame) -> float:
    """Mean absolute error of the ceilings from repeats over driven parcels, of a table of `ceiling_errors`."""
    return float(errors["repeats_error"].abs().mean()) if len(errors) else float("nan")
