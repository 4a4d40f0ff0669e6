"""The stages `whole_brain` and `layerwise`: score cubes in, tables of parcels, regions and layers out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from cinecube.analysis.cubes import tables
from cinecube.analysis.cubes.results import read_ceiling, read_scores
from cinecube.analysis.regions import gradients, roi_tables
from cinecube.analysis.regions.rois import study_members
from cinecube.store.base.paths import StudyPaths
from cinecube.store.base.writing import one_writer
from cinecube.store.params.document import Study


def whole_brain(study: Study, root: Path) -> None:
    """Write the tables of scores at each parcel's layer, raw and by their ceiling: of parcels, regions and all.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    """
    paths, params, cubes = StudyPaths(root), study.ceiling, read_scores(study, root)
    with one_writer(paths, paths.tables / "whole_brain.csv"):
        preferred = tables.preferred_layers(tables.layer_table(cubes))
        means = tables.whole_brain_means(preferred)
        everyone = means[
            (means["subject"] == tables.EVERYONE) & means["score"].notna()
        ]  # an empty cell is drawn as zero
        floor = 0.0 if params.compat else -np.inf
        parcels = roi_tables.normalised_parcels(
            cubes, preferred, read_ceiling(study, root), params.threshold, params.cap, floor
        )
        regions = roi_tables.region_scores(parcels, study_members(study.rois, root, parcels["parcel"]))
        tables.write_table(paths.tables / "whole_brain.csv", preferred)
        tables.write_table(paths.tables / "whole_brain_mean.csv", means)
        tables.write_table(paths.tables / "normalised.csv", parcels)
        tables.write_table(paths.tables / "roi.csv", regions)
        tables.write_table(paths.tables / "roi_mean.csv", roi_tables.over_subjects(regions, seed=study.statistics.seed))
        tables.write_table(paths.tables / "untrained.csv", roi_tables.untrained_table(regions, twins(study, regions)))
        tables.write_table(paths.plots / "whole_brain.csv", everyone[["model", "score"]])


def twins(study: Study, scores: pd.DataFrame) -> dict[str, str]:
    """Pretrained stream -> the stream of the same network with fresh weights, of those that have scores.

    Parameters
    ----------
    study : Study
    scores : DataFrame
        With a column `model`.

    Returns
    -------
    dict of str to str
    """
    streams = list(dict.fromkeys(scores["model"]))
    found = {}
    for stream in streams:
        name = study.owner(stream)
        if name in study.models and not study.is_untrained(name):
            for other, params in study.models.items():
                twin = other + stream.removeprefix(name)
                if params.untrained is not None and twin in streams and _same_but_weights(study, name, other):
                    found[stream] = twin
    return found


def _same_but_weights(study: Study, a: str, b: str) -> bool:
    first, second = (study.models[name].model_dump(exclude={"untrained"}) for name in (a, b))
    return first == second


def layerwise(study: Study, root: Path) -> None:
    """Write the tables of scores at every layer and of single delays, of preferred depths, and curves for plots.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    """
    paths = StudyPaths(root)
    with one_writer(paths, paths.tables / "layerwise.csv"):
        cubes = read_scores(study, root)
        table = tables.layer_table(cubes)
        lags = tables.lag_curves(cubes)
        depths = gradients.preferred_depth(cubes)
        members = study_members(study.rois, root, table["parcel"])
        tables.write_table(paths.tables / "layerwise.csv", table)
        tables.write_table(
            paths.tables / "layerwise_roi.csv", gradients.region_layers(table, members, study.statistics.seed)
        )
        tables.write_table(paths.tables / "depth.csv", depths)
        tables.write_table(paths.tables / "depth_test.csv", gradients.compare_depth(depths, members))
        tables.write_table(paths.tables / "lag.csv", tables.best_lags(lags))
        tables.write_table(paths.tables / "lag_curve.csv", lags)
        tables.write_by_model(paths.plots / "layers", tables.layer_curves(table))
        known = lags[lags["lag_score"].notna()]  # `dvc plots` draws an empty cell as zero
        tables.write_by_model(paths.plots / "lags", known.groupby(["model", "lag"])["lag_score"].mean().reset_index())
