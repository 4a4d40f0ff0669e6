"""Tables of parcels and regions: scores by their ceiling, means over subjects, pretrained beside untrained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from cinecube.analysis.cubes.parcels import regions
from cinecube.analysis.cubes.tables import EVERYONE
from cinecube.analysis.regions.rois import Members, roi_means, roi_summary
from cinecube.analysis.statistics.comparisons import compare_by_roi
from cinecube.analysis.statistics.normalising import normalised

SCORE_COLUMNS = ("roi", "subject", "model", "score", "normalised", "survive")
WHOLE_BRAIN = "whole brain"
"""In the column `roi`: the average over all targets in parcels."""


def normalised_parcels(
    cubes: Iterable[xr.Dataset],
    preferred: pd.DataFrame,
    ceiling: xr.DataArray,
    threshold: float,
    cap: float,
    floor: float = -np.inf,
) -> pd.DataFrame:
    """Scores of each parcel at its own layer, raw and as shares of the ceiling.

    Parameters
    ----------
    cubes : iterable of Dataset
        Score cubes.
    preferred : DataFrame
        From `tables.preferred_layers`: the layer that the training films chose per parcel, subject and model.
    ceiling : DataArray, dims (subject, target)
    threshold, cap, floor : float
        As for `normalising.normalised`.

    Returns
    -------
    DataFrame
        Columns `parcel`, `subject`, `model`, `layer`, `score`, `normalised`, `targets` with a score, and `above`: how
        many of them have a ceiling above the threshold. Means are over a parcel's targets; NaN where none has a score.
    """
    chosen = preferred[preferred["subject"] != EVERYONE].set_index(["subject", "model", "parcel"])["layer"].sort_index()
    rows = []
    for cube in cubes:
        labels = regions(cube["parcel"].values)
        places = {str(layer): k for k, layer in enumerate(cube["layer"].values)}
        # Plain arrays from here: a selection by label costs more than a parcel's means.
        limit = ceiling.reindex(subject=cube["subject"].values, target=cube["target"].values).values
        for model in map(str, cube["model"].values):
            score = cube["score"].sel(model=model).transpose("subject", "layer", "target").values
            for s, subject in enumerate(map(str, cube["subject"].values)):
                own = chosen.get((subject, model))
                if own is None:
                    continue
                for parcel, layer in own.items():
                    here = np.flatnonzero(labels == parcel)
                    # A model without scores there has no layer either.
                    values = score[s, places[layer], here] if layer else np.full(len(here), np.nan)
                    values = values.astype(float)
                    shares = normalised(values, limit[s, here], threshold, cap, floor)
                    rows.append((parcel, subject, model, layer, *_means(values, shares.score)))
    return pd.DataFrame(
        rows, columns=["parcel", "subject", "model", "layer", "score", "normalised", "targets", "above"]
    )


def _means(values: np.ndarray, shares: np.ndarray) -> tuple[float, float, int, int]:
    known, above = np.isfinite(values), np.isfinite(shares)
    return (
        float(values[known].mean()) if known.any() else np.nan,
        float(shares[above].mean()) if above.any() else np.nan,
        int(known.sum()),
        int(above.sum()),
    )


def whole_brain_rows(parcels: pd.DataFrame) -> pd.DataFrame:
    """Mean over all targets in parcels, per subject and model: `score`, `normalised`, and `survive`, the share of them.

    Parameters
    ----------
    parcels : DataFrame
        From `normalised_parcels`.
    """
    weighted = parcels.assign(
        score=parcels["score"] * parcels["targets"],
        normalised=(parcels["normalised"] * parcels["above"]).fillna(0.0),
    )
    sums = weighted.groupby(["subject", "model"], sort=False)[["score", "normalised", "targets", "above"]].sum()
    means = pd.DataFrame(
        {
            "score": sums["score"] / sums["targets"].where(sums["targets"] > 0),
            "normalised": sums["normalised"] / sums["above"].where(sums["above"] > 0),
            "survive": sums["above"] / sums["targets"].where(sums["targets"] > 0),
        }
    ).reset_index()
    means.insert(0, "roi", WHOLE_BRAIN)
    return means


def region_scores(parcels: pd.DataFrame, members: Members) -> pd.DataFrame:
    """Scores per region, subject and model, parcels weighing alike; first the whole brain, targets weighing alike.

    Parameters
    ----------
    parcels : DataFrame
        From `normalised_parcels`.
    members : Members

    Returns
    -------
    DataFrame
        Columns `roi`, `subject`, `model`, `score`, `normalised`, `survive`: the share of targets whose ceiling exceeds
        the threshold.
    """
    raw = roi_means(parcels, members)
    parts = [raw.drop(columns="parcels")]
    keys = ["roi", "subject", "model"]
    table = parts[0]
    if parcels["normalised"].notna().any():
        table = table.merge(roi_means(parcels, members, value="normalised").drop(columns="parcels"), "left", keys)
    else:
        table = table.assign(normalised=np.nan)
    pairs = pd.DataFrame([(roi, p) for roi, names in members.parcels.items() for p in names], columns=["roi", "parcel"])
    counts = pairs.merge(parcels, on="parcel").groupby(keys, sort=False)[["targets", "above"]].sum()
    survive = (counts["above"] / counts["targets"].where(counts["targets"] > 0)).rename("survive").reset_index()
    return pd.concat([whole_brain_rows(parcels), table.merge(survive, "left", keys)], ignore_index=True)


def over_subjects(scores: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Mean, standard error and bootstrap interval over subjects, raw and normalised.

    Parameters
    ----------
    scores : DataFrame
        From `region_scores`.
    seed : int
        Of the bootstrap.

    Returns
    -------
    DataFrame
        Columns `roi`, `model`, `subjects`, `survive`, and `score` and `normalised`, each with `_sem`, `_low` and
        `_high` beside it; `normalised_subjects`, of those fewer that some subject has no ceiling. Scores are NaN where
        no subject has one. Intervals of few subjects are too narrow, see `intervals.spread_over_subjects`.
    """
    keys, table = ["roi", "model"], None
    for value in ("score", "normalised"):
        if not scores[value].notna().any():
            continue
        summary = roi_summary(scores.assign(parcels=1), value=value, seed=seed).drop(columns="parcels")
        names = {"mean": value, **{name: f"{value}_{name}" for name in ("sem", "low", "high")}}
        summary = summary.rename(columns=names)
        if table is None:
            table = summary
        else:
            table = table.merge(summary.rename(columns={"subjects": f"{value}_subjects"}), "left", keys)
    survive = scores.groupby(keys, sort=False)["survive"].mean().reset_index()
    return pd.DataFrame(columns=keys) if table is None else table.merge(survive, "left", keys)


def untrained_table(scores: pd.DataFrame, twins: Mapping[str, str]) -> pd.DataFrame:
    """Every pretrained model beside its untrained twin, region by region.

    Parameters
    ----------
    scores : DataFrame
        From `region_scores`.
    twins : Mapping of str to str
        Pretrained stream -> the untrained one.

    Returns
    -------
    DataFrame
        Columns `model`, `untrained`, `roi`, `score`, `untrained_score` (means over subjects), and what `compare_by_roi`
        says of their difference.
    """
    parts = []
    means = scores[scores["subject"] != EVERYONE].groupby(["roi", "model"])["score"].mean()
    for model, twin in twins.items():
        compared = compare_by_roi(scores, model, twin)
        compared.insert(0, "model", model)
        compared.insert(1, "untrained", twin)
        for name, stream in (("score", model), ("untrained_score", twin)):
            compared[name] = [means.get((roi, stream), np.nan) for roi in compared["roi"]]
        parts.append(compared)
    columns = [
        *("model", "untrained", "roi", "score", "untrained_score"),
        *("n_subjects", "mean_difference", "p", "p_fdr", "smallest_p"),
    ]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def with_means(scores: pd.DataFrame, groups: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Scores with further rows: the mean over the models of a group under the group's name.

    Parameters
    ----------
    scores : DataFrame
        From `region_scores`.
    groups : Mapping of str to sequence of str

    Returns
    -------
    DataFrame
        Columns of `scores`; a group without any model among them has no row.
    """
    parts = [scores]
    for name, models in groups.items():
        own = scores[scores["model"].isin(models)]
        if len(own):
            mean = own.groupby(["roi", "subject"], sort=False)[["score", "normalised", "survive"]].mean().reset_index()
            parts.append(mean.assign(model=name))
    return pd.concat(parts, ignore_index=True)
