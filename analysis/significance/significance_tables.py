"""Tables of what is significant: how many targets, in which parcels, and which models differ in which regions."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from cinecube.analysis.cubes.parcels import regions
from cinecube.analysis.statistics.comparisons import compare_by_roi, reachable


def counts_table(cube: xr.Dataset, level: float) -> pd.DataFrame:
    """Number of targets that score above chance, per model, subject and parcel.

    Parameters
    ----------
    cube : Dataset
        Of the stage `significance`.
    level : float
        Of the false discovery rate.

    Returns
    -------
    DataFrame
        Columns `model`, `subject`, `parcel`, `targets`, `significant`, `share`, which is NaN of no targets; parcel `""`
        holds those outside.
    """
    labels = np.array([str(name) for name in regions(cube["parcel"].values)], dtype=object)
    rows = []
    for model in map(str, cube["model"].values):
        for subject in map(str, cube["subject"].values):
            q = cube["q"].sel(model=model, subject=subject).values
            for parcel in sorted(set(labels)):
                known = np.isfinite(q[labels == parcel])
                found = int((q[labels == parcel][known] <= level).sum())
                share = found / int(known.sum()) if known.any() else np.nan
                rows.append((model, subject, parcel, int(known.sum()), found, share))
    return pd.DataFrame(rows, columns=["model", "subject", "parcel", "targets", "significant", "share"])


def differences_table(cube: xr.Dataset, level: float) -> pd.DataFrame:
    """Number of targets in which one model scores higher than another, per comparison and subject.

    Parameters
    ----------
    cube : Dataset
        Of significance.
    level : float
        Largest q that counts.

    Returns
    -------
    DataFrame
        Columns `comparison`, `subject`, `targets`, `first_better`, `second_better`, `block_rows`; targets in parcels.
    """
    inside = regions(cube["parcel"].values) != ""
    blocks = json.loads(cube.attrs["block_rows"])
    rows = []
    for name in map(str, cube["comparison"].values if "comparison" in cube.coords else ()):
        for subject in map(str, cube["subject"].values):
            own = cube[["difference", "difference_q"]].sel(comparison=name, subject=subject).isel(target=inside)
            q, difference = own["difference_q"].values, own["difference"].values
            found = q <= level
            counts = (
                int(np.isfinite(q).sum()),
                int((found & (difference > 0)).sum()),
                int((found & (difference < 0)).sum()),
            )
            rows.append((name, subject, *counts, blocks.get(subject, {}).get(name)))
    columns = ["comparison", "subject", "targets", "first_better", "second_better", "block_rows"]
    # A subject without scores was not tested, and the others' lengths remain whole numbers.
    return pd.DataFrame(rows, columns=columns).astype({"block_rows": "Int64"})


def compare_regions(scores: pd.DataFrame, pairs: Sequence[tuple[str, str]], level: float) -> pd.DataFrame:
    """Models against each other in each region, over subjects.

    Parameters
    ----------
    scores : DataFrame
        Columns `roi`, `subject`, `model`, `score`.
    pairs : sequence of (model, model)
    level : float

    Returns
    -------
    DataFrame
        Columns `comparison` and those of `compare_by_roi`, and `note` where so few subjects cannot reach `level`.
    """
    parts = []
    for first, second in pairs:
        table = compare_by_roi(scores, first, second)
        table.insert(0, "comparison", f"{first} - {second}")
        parts.append(table)
    columns = ["comparison", "roi", "n_subjects", "mean_difference", "p", "p_fdr", "smallest_p", "note"]
    if not parts:
        return pd.DataFrame(columns=columns)
    whole = pd.concat(parts, ignore_index=True)
    return whole.assign(note=[reachable(int(n), level) for n in whole["n_subjects"]])[columns]
