"""Depth over the cortex: which layers regions prefer, and whether sensory ones prefer earlier ones than others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from cinecube.analysis.cubes.parcels import best_layer, regions
from cinecube.analysis.regions.rois import Members, roi_means, roi_summary
from cinecube.analysis.statistics.comparisons import signed_rank, smallest_p

EARLY = ("EV", "AC")
SEMANTIC = ("AG", "ATL", "PTL", "IFG", "MFG", "IFGOrb", "PCC", "dmPFC")
"""Regions of the shipped sets: early sensory ones, and those that the paper calls language or semantic regions."""


def preferred_depth(cubes: Iterable[xr.Dataset]) -> pd.DataFrame:
    """Depth that the targets of each parcel prefer on the training films.

    Parameters
    ----------
    cubes : iterable of Dataset
        Score cubes.

    Returns
    -------
    DataFrame
        Columns `parcel`, `subject`, `model`, `depth`: mean over the parcel's targets of the depth (0 embedding, 1 last
        block) of the layer with the highest `cv_score`; `targets`. Streams of one layer have no depth to prefer.
    """
    rows = []
    for cube in cubes:
        labels = regions(cube["parcel"].values)
        names = sorted({str(name) for name in labels} - {""})
        for model in map(str, cube["model"].values):
            depth = cube["depth"].sel(model=model).values
            if np.isfinite(depth).sum() < 2:
                continue
            best = best_layer(cube["cv_score"].sel(model=model).load()).transpose("subject", "target").values
            for s, subject in enumerate(map(str, cube["subject"].values)):
                found = np.where(best[s] >= 0, depth[best[s].clip(0)], np.nan)
                for name in names:
                    own = found[labels == name]
                    known = own[np.isfinite(own)]
                    rows.append((name, subject, model, known.mean() if known.size else np.nan, known.size))
    return pd.DataFrame(rows, columns=["parcel", "subject", "model", "depth", "targets"])


def region_layers(table: pd.DataFrame, members: Members, seed: int = 0) -> pd.DataFrame:
    """Score by depth per region and model, over subjects.

    Parameters
    ----------
    table : DataFrame
        From `tables.layer_table`.
    members : Members
    seed : int
        Of the bootstrap.

    Returns
    -------
    DataFrame
        Columns `roi`, `model`, `layer`, `depth`, `subjects`, `mean`, `sem`, `low`, `high`, `parcels`.
    """
    keys = ("model", "layer", "depth")
    return roi_summary(roi_means(table, members, by=keys), by=keys, seed=seed)


def compare_depth(
    depths: pd.DataFrame, members: Members, early: Sequence[str] = EARLY, late: Sequence[str] = SEMANTIC
) -> pd.DataFrame:
    """Test whether early sensory regions prefer earlier layers than semantic ones: Wilcoxon over subjects, one-sided.

    Parameters
    ----------
    depths : DataFrame
        From `preferred_depth`.
    members : Members
    early, late : sequence of str
        Names of regions; those that an atlas lacks are left out.

    Returns
    -------
    DataFrame
        Columns `model`, `subjects`, `early_depth`, `late_depth`, `difference` (late minus early, mean over subjects),
        `p`, and `smallest_p` that so many subjects can reach, all of the subjects that have both kinds; empty if either
        kind of region is missing, or no stream has a depth to prefer.
    """
    columns = ["model", "subjects", "early_depth", "late_depth", "difference", "p", "smallest_p"]
    if not depths["depth"].notna().any():
        return pd.DataFrame(columns=columns)
    means = roi_means(depths.rename(columns={"depth": "score"}), members)
    sides = [means[means["roi"].isin(names)] for names in (early, late)]
    if any(side.empty for side in sides):
        return pd.DataFrame(columns=columns)
    first, last = (side.groupby(["model", "subject"], sort=False)["score"].mean() for side in sides)
    both = pd.DataFrame({"early": first, "late": last})
    rows = []
    for model, every in both.groupby("model", sort=False):
        own = every.dropna()
        difference = (own["late"] - own["early"]).to_numpy()
        p = signed_rank(difference, "greater") if len(own) else np.nan
        means_of = own["early"].mean(), own["late"].mean(), difference.mean() if len(own) else np.nan
        rows.append((model, len(own), *means_of, p, smallest_p(len(own), sides=1)))
    return pd.DataFrame(rows, columns=columns)
