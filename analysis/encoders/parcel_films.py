"""Test films as encoders predict them beside what was measured, average over each parcel's targets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from cinecube.analysis.cubes.rows import RowsGroup
from cinecube.analysis.encoders.predictions import choose_by_parcel, sum_parcels
from cinecube.analysis.encoders.problem import Problem
from cinecube.store.cube.schema import DIMS, provenance, string_coordinate
from cinecube.store.jobs.tasks import Workers
from cinecube.store.params.document import Study

# A row of the features, and its showing: 0 for the mean over showings.
_KEY = ["feature_row", "repeat"]


def predict_parcels(study: Study, problem: Problem, scores: xr.Dataset, workers: Workers = None) -> xr.Dataset:
    """Predictions and responses of the test films by parcel, at the layer that the training films chose for it.

    Every target is fitted at its own penalty, on the training films; means are over those of a parcel that have one.

    Parameters
    ----------
    study : Study
    problem : Problem
    scores : Dataset
        Its score cube.
    workers : Client, Threads or None

    Returns
    -------
    Dataset
        See `analysis.cubes.results.open_predictions`.
    """
    choice, rows = choose_by_parcel(scores, problem.brains), _test_rows(study, problem)
    subjects, names = list(problem.brains), choice.layer["parcel"].values.tolist()
    models = choice.layer["model"].values.tolist()
    count = np.zeros((len(subjects), len(models), len(names)))
    for s, subject in enumerate(subjects):
        for p, name in enumerate(names):
            count[s, :, p] = (choice.chosen.layer[subject][:, choice.parcel[subject] == name] >= 0).sum(axis=1)
    total = np.zeros((2, *count.shape[:2], len(rows), len(names)))
    at = {name: rows.get_indexer(_keys(group)) for group in problem.groups for name in group.subjects}
    for m, sums in sum_parcels(problem, choice, workers):
        for (subject, name), both in sums.items():
            total[:, subjects.index(subject), m, at[subject], names.index(name)] += both
    seen = np.zeros((len(subjects), len(rows), 1), dtype=bool)
    for subject, rows_of_it in at.items():
        seen[subjects.index(subject), rows_of_it] = True
    known = np.where(seen[:, None], count[:, :, None], 0)
    predicted, measured = np.divide(total, known, out=np.full(total.shape, np.nan), where=known > 0)
    # Streams differ in their features; targets that they do not fit at all are a whole stream's.
    first = count.argmax(axis=1)
    measured = np.take_along_axis(measured, first[:, None, None], axis=1)[:, 0]
    features = problem.space.rows.iloc[rows.get_level_values("feature_row")]
    labels = np.array([*scores["layer"].values, ""], dtype=object)
    coords: dict[str, Any] = {
        "subject": string_coordinate(subjects),
        "model": string_coordinate(models),
        "parcel": string_coordinate(names),
        "segment": ("time", string_coordinate(features["segment"].to_numpy())),
        "onset_s": ("time", features["onset_s"].to_numpy(float)),
        "layer": (("subject", "model", "parcel"), labels[choice.layer.sel(subject=subjects).values]),
    }
    if study.brain.repeats == "separate":
        coords["repeat"] = "time", rows.get_level_values("repeat").to_numpy(np.int64)
    variables = {
        "predicted": (DIMS["predicted"], predicted.astype(np.float32)),
        "measured": (("subject", "time", "parcel"), measured.astype(np.float32)),
        "targets": (("subject", "parcel"), count.max(axis=1).astype(np.int32)),
    }
    spec = predictions_spec(json.loads(scores.attrs["spec"]))
    attrs = provenance("predictions", spec, ("numpy", "scikit-learn"), tr_s=study.clock.tr_s)
    return xr.Dataset(variables, coords, dict(sorted(attrs.items())))


def predictions_spec(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Spec of predictions: all that decides the scores decides them.

    Parameters
    ----------
    scores : Mapping
        Spec of the score cube.
    """
    return {**scores, "kind": "predictions"}


def _test_rows(study: Study, problem: Problem) -> pd.MultiIndex:
    """Rows of the test films that any subject has, segment by segment as `split` has them, showing by showing."""
    every = pd.concat([_keys(group).to_frame(index=False) for group in problem.groups]).drop_duplicates()
    place = {name: number for number, name in enumerate(study.segments(study.split.test))}
    every["segment"] = problem.space.rows["segment"].to_numpy()[every["feature_row"]]
    every["segment"] = every["segment"].map(place)
    return pd.MultiIndex.from_frame(every.sort_values(["segment", "repeat", "feature_row"])[_KEY])


def _keys(group: RowsGroup) -> pd.MultiIndex:
    test = ~group.train
    return pd.MultiIndex.from_arrays([group.feature_row[test], group.repeat[test]], names=_KEY)
