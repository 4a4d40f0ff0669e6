"""Predictions of test films by parcel, against ridge by the normal equations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from cinecube.analysis.cubes.results import open_predictions, read_predictions
from cinecube.analysis.cubes.tables import layer_table, preferred_layers
from cinecube.analysis.encoders.parcel_films import predict_parcels
from cinecube.analysis.encoders.problem import Problem, make_design, make_layout, read_problem
from cinecube.analysis.encoders.stage import encode
from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import StudyPaths
from cinecube.store.jobs.tasks import open_threads
from cinecube.store.params.document import Study
from cinecube.store.verify.examining import examine

from .conftest import FILMS, MODEL, PLANTED, TARGETS_PER_PARCEL, make_study
from .residual_study import STREAMS, write_brains, write_features
from .residual_study import make_study as streams_study

Synthetic = Callable[..., Path]
Scored = Callable[..., xr.Dataset]
# A scan of one subject ends before the others'.
SHORT = {"missing_rows": {("sub-01", "dune02"): 5}}


def _separate(study: Study) -> Study:
    return study.model_copy(update={"brain": study.brain.model_copy(update={"repeats": "separate"})})


def _plainly(problem: Problem, scores: xr.Dataset, subject: str, parcel: str) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and response (row,) of a parcel by one solve per target."""
    group = next(group for group in problem.groups if subject in group.subjects)
    brain = problem.brains[subject]
    preferred = preferred_layers(layer_table([scores])).set_index(["subject", "parcel"])
    layer = str(preferred["layer"][subject, parcel])
    k = problem.space.layers.index(layer)
    layout = make_layout(problem.space, group, problem.settings, max(problem.settings.delays))
    train, test = make_design(problem.space.read_layer(0, k), layout, problem.settings.delays)
    inside = np.flatnonzero(brain.cube["parcel"].values == parcel)
    responses = brain.read(group.showings[subject], inside).astype(float)
    predicted = []
    for column, target in zip(responses[layout.train].T, brain.cube["target"].values[inside], strict=True):
        alpha = float(scores["alpha"].sel(subject=subject, model=MODEL, layer=layer, target=target))
        weights = np.linalg.solve(train.T @ train + alpha * np.eye(train.shape[1]), train.T @ column)
        predicted.append(test @ weights)
    return np.mean(predicted, axis=0), responses[~layout.train].mean(axis=1)


@pytest.mark.parametrize(("repeats", "rows"), [("average", "common"), ("separate", "common"), ("separate", "own")])
def test_they_are_those_of_single_fits(synthetic: Synthetic, repeats: str, rows: str) -> None:
    study = make_study(rows=rows)
    study = _separate(study) if repeats == "separate" else study
    root = synthetic(**SHORT)
    encode(study, root, MODEL)
    cube, problem = open_predictions(root, MODEL).load(), read_problem(study, root, MODEL)
    with xr.open_zarr(StudyPaths(root).scores(MODEL)) as lazy:
        scores = lazy.load()
    assert cube["parcel"].values.tolist() == sorted(PLANTED)
    assert set(cube["segment"].values) == set(FILMS["dune"])
    assert ("repeat" in cube) == (repeats == "separate")
    assert (cube["targets"] == TARGETS_PER_PARCEL).all()
    for subject in study.brain.subjects:
        for parcel in PLANTED:
            predicted, measured = _plainly(problem, scores, subject, parcel)
            own = cube.sel(subject=subject, parcel=parcel)
            here = own["measured"].notnull().values
            np.testing.assert_allclose(own["predicted"].values[0, here], predicted, atol=1e-4)
            np.testing.assert_allclose(own["measured"].values[here], measured, atol=1e-5)
            assert own["predicted"].isnull().values[0].tolist() == (~here).tolist()
    short, whole = cube["measured"].notnull().all("parcel").sum("time").values.tolist()
    shown = 2 if repeats == "separate" else 1
    assert (short, whole) == ((95 * shown,) * 2 if rows == "common" else (95 * shown, 100 * shown))


def test_rows_of_the_cube_are_found_by_their_labels(synthetic: Synthetic) -> None:
    """A row's measured response is that of the brain cube at the same segment, showing and onset."""
    study, root = _separate(make_study(rows="own")), synthetic(**SHORT)
    encode(study, root, MODEL)
    cube = open_predictions(root, MODEL).load()
    for subject in study.brain.subjects:
        with xr.open_zarr(StudyPaths(root).brain(subject)) as brain:
            bold = brain["bold"][:, (brain["parcel"] == "L_V1").values].load()
        own = cube["measured"].sel(subject=subject, parcel="L_V1").dropna("time")
        names = ("segment", "repeat", "onset_s")
        labels = [np.array(bold[name].values) for name in names]
        for value, *row in zip(own.values, *(own[name].values for name in names), strict=True):
            at = np.logical_and.reduce([label == asked for label, asked in zip(labels, row, strict=True)])
            assert at.sum() == 1
            assert value == pytest.approx(float(bold.values[at].mean()), abs=1e-5)


def test_workers_change_no_number(synthetic: Synthetic, scored: Scored) -> None:
    study, root = make_study(targets_per_block=7), synthetic()
    problem, scores = read_problem(study, root, MODEL), scored()
    alone = predict_parcels(study, problem, scores)
    with open_threads(1) as workers:
        xr.testing.assert_identical(predict_parcels(study, problem, scores, workers), alone)


def test_streams_have_layers_of_their_own_and_all_cubes_are_read(tmp_path: Path) -> None:
    study = streams_study()
    write_features(tmp_path)
    write_brains(tmp_path)
    for model in STREAMS:
        encode(study, tmp_path, model)
        assert not examine(StudyPaths(tmp_path).predictions(model)).problems
    cubes = read_predictions(study, tmp_path)
    assert [cube["model"].values.tolist() for cube in cubes] == [[s.name for s in own] for own in STREAMS.values()]
    assert set(cubes[0]["layer"].sel(model="bind.concat").values.ravel()) == {"head"}
    xr.testing.assert_allclose(cubes[0]["measured"], cubes[1]["measured"])


def test_a_constant_target_is_in_no_mean(synthetic: Synthetic) -> None:
    study, root = make_study(), synthetic(constant_target=True)
    encode(study, root, MODEL)
    targets = open_predictions(root, MODEL)["targets"]
    assert (targets.sel(parcel=next(iter(PLANTED))) == TARGETS_PER_PARCEL - 1).all()


def test_a_cube_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="results/predictions/net.zarr"):
        open_predictions(tmp_path, MODEL)
