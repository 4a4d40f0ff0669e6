import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from cinecube.analysis.ceilings.stage import ceiling
from cinecube.analysis.cubes import tables
from cinecube.analysis.cubes.unscored import notes
from cinecube.analysis.encoders.encoding import Scored as Found
from cinecube.analysis.encoders.encoding import encode_layers, score_block
from cinecube.analysis.encoders.lag import LAGS
from cinecube.analysis.encoders.problem import (
    Problem,
    blocks_of,
    make_design,
    make_layout,
    narrow_block,
    read_problem,
    score_spec,
)
from cinecube.analysis.encoders.stage import encode, score_model, scores_of_last_run
from cinecube.analysis.regions.stage import layerwise, whole_brain
from cinecube.store.base.errors import StudyError
from cinecube.store.base.journal import open_journal
from cinecube.store.base.labels import layer_label
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import open_cube
from cinecube.store.jobs import tasks
from cinecube.store.jobs.clusters import open_client
from cinecube.store.jobs.tasks import run_jobs
from cinecube.store.open.recorded import input_digests
from cinecube.store.params.run_params import ClusterAddress, JobQueue

from .conftest import MODEL, PLANTED, make_study

DRIVEN = {parcel: source for parcel, source in PLANTED.items() if source is not None}
Scored = Callable[..., xr.Dataset]
Synthetic = Callable[..., Path]


def best_delays(cube: xr.Dataset) -> dict[str, int]:
    best = tables.best_lags(tables.lag_curves([cube]))
    return dict(zip(best["parcel"], best["lag"], strict=True))


def test_planted_layers_and_delays_are_found_and_idle_parcels_stay_idle(scored: Scored) -> None:
    cube = scored()
    preferred = tables.preferred_layers(tables.layer_table([cube]))
    delays = best_delays(cube)
    for parcel, (block, delay) in DRIVEN.items():
        found = preferred[preferred["parcel"] == parcel]
        assert found["subject"].tolist() == ["all", "sub-01", "sub-02"]
        assert set(found["layer"]) == {layer_label(block)}
        assert found["score"].min() > 0.5
        assert delays[parcel] == delay
    idle = preferred[~preferred["parcel"].isin(DRIVEN) & (preferred["subject"] == "all")]
    assert len(idle) == 2
    assert idle["score"].abs().max() < 0.1


def test_a_slip_of_one_row_moves_the_best_delay_of_every_driven_parcel(scored: Scored) -> None:
    delays = best_delays(scored(slip=1))
    assert {parcel: delays[parcel] for parcel in DRIVEN} == {p: delay - 1 for p, (_, delay) in DRIVEN.items()}


def test_scans_of_delays_that_share_factors_equal_single_fits(scored: Scored, synthetic: Synthetic) -> None:
    study, root, cube = make_study(), synthetic(), scored()
    problem = read_problem(study, root, MODEL)
    space, brains, (group,), settings = problem.space, problem.brains, problem.groups, problem.settings
    layout = make_layout(space, group, settings, max(LAGS))
    for parcel, (block, _) in DRIVEN.items():
        features = space.read_layer(0, block)
        for subject, brain in brains.items():
            inside = brain.cube["parcel"].values == parcel
            responses = brain.read(group.showings[subject], np.arange(brain.n_targets))
            single = [replace(settings, delays=(lag,)) for lag in LAGS]
            expected = score_block(features, responses, inside, layout, single, tested=False)[:, 1]
            found = cube["lag_score"].isel(model=0).sel(subject=subject, target=brain.cube["target"].values[inside])
            np.testing.assert_allclose(found.transpose("lag", "target"), expected, atol=1e-5)


def test_test_films_change_nothing_that_is_fitted(scored: Scored, synthetic: Synthetic) -> None:
    plain, scrambled = scored(), scored(scramble_test=True)
    for name in ("alpha", "cv_score", "lag_score"):
        np.testing.assert_array_equal(plain[name], scrambled[name])
    assert not np.allclose(plain["score"], scrambled["score"], equal_nan=True)


def test_constants_of_features_come_from_training_rows(synthetic: Synthetic) -> None:
    study, root = make_study(), synthetic()
    problem = read_problem(study, root, MODEL)
    space, (group,), settings = problem.space, problem.groups, problem.settings
    layout = make_layout(space, group, settings, max(settings.delays))
    features = space.read_layer(0, 3)
    train, _ = make_design(features, layout, settings.delays)
    test_rows = group.feature_row[~group.train]
    features[test_rows] *= 100
    changed, _ = make_design(features, layout, settings.delays)
    np.testing.assert_array_equal(train, changed)


def test_targets_are_joined_and_absent_ones_are_nan(scored: Scored) -> None:
    cube = scored()
    target = cube["target"].values
    assert (np.diff(target) > 0).all()
    absent = cube["score"].isnull().all(["model", "layer"])
    assert target[absent.sel(subject="sub-01")].tolist() == [1051]
    assert target[absent.sel(subject="sub-02")].tolist() == [1050]
    outside = cube["parcel"].values == ""
    assert cube["lag_score"].isel(target=outside).isnull().all()
    assert cube["lag_score"].isel(target=~outside).notnull().all()


def test_constant_target_scores_nan(scored: Scored) -> None:
    cube = scored(constant_target=True)
    for name in ("score", "cv_score", "alpha", "lag_score"):
        assert cube[name].isel(target=0).isnull().all()
        assert cube[name].isel(target=1).notnull().all()


# With Dask test_same_bytes.py says it each time.
@pytest.mark.parametrize("workers", ["threads", pytest.param("dask", marks=pytest.mark.long)])
def test_stages_equal_one_task_after_another_bit_by_bit(
    workers: str, scored: Scored, synthetic: Synthetic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "SMALL_WORK", 0 if workers == "dask" else np.inf)
    root, seen = synthetic(), list[tuple[int, int]]()
    encode(make_study(), root, MODEL, progress=lambda done, total: seen.append((done, total)))
    cube = open_cube(StudyPaths(root).scores(MODEL))
    here = scored()
    for name in ("score", "cv_score", "alpha", "lag_score"):
        np.testing.assert_array_equal(cube[name], here[name])
    assert cube.attrs["fingerprint"] == here.attrs["fingerprint"]
    assert seen[-1] == (26, 26)
    assert json.loads(cube.attrs["rows"]) == [{"subjects": ["sub-01", "sub-02"], "train": 300, "test": 100}]


def test_torch_says_what_numpy_says(scored: Scored, synthetic: Synthetic) -> None:
    study, root = make_study(), synthetic()
    study = study.model_copy(update={"run": study.run.model_copy(update={"backend": "torch", "device": "cpu"})})
    cube = score_model(study, read_problem(study, root, MODEL))
    for name in ("score", "cv_score", "alpha"):
        np.testing.assert_allclose(cube[name], scored()[name], atol=1e-5)
    assert cube.attrs["fingerprint"] == scored().attrs["fingerprint"]


@pytest.mark.filterwarnings("ignore")
# test_clusters.py asks an address each time.
@pytest.mark.parametrize("kind", [pytest.param("address", marks=pytest.mark.long), "jobqueue"])
def test_a_cluster_says_what_this_machine_says(kind: str, scored: Scored, synthetic: Synthetic) -> None:
    from distributed import LocalCluster

    study, root = make_study(), synthetic()
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        where: Any = ClusterAddress(address=cluster.scheduler_address)
        if kind == "jobqueue":
            options = {"cores": 1, "processes": 1, "memory": "1GB", "scheduler_options": {"dashboard_address": None}}
            where = JobQueue(jobqueue="LocalCluster", jobs=2, options=options)
        with open_client(where, 1, root) as client:
            cube = score_model(study, read_problem(study, root, MODEL), client)
    for name in ("score", "cv_score", "alpha", "lag_score"):
        np.testing.assert_allclose(cube[name], scored()[name], atol=1e-5)


def test_an_unknown_batch_system_is_one_line(tmp_path: Path) -> None:
    queue = JobQueue(jobqueue="SLURM")
    with (
        pytest.raises(StudyError, match="found no class 'SLURM', expected one of .*SLURMCluster"),
        open_client(queue, 1, tmp_path),
    ):
        pass


def test_tables_follow_from_scores(synthetic: Synthetic) -> None:
    root = synthetic()
    encode(make_study(), root, MODEL)
    ceiling(make_study(), root)
    whole_brain(make_study(), root)
    layerwise(make_study(), root)
    paths = StudyPaths(root)
    best = tables.read_table(paths.tables / "whole_brain.csv")
    assert set(best["parcel"]) == set(PLANTED)
    assert set(best["subject"]) == {"all", "sub-01", "sub-02"}
    means = tables.read_table(paths.tables / "whole_brain_mean.csv")
    one = best[best["subject"] == "sub-01"]
    score = means["score"][means["subject"] == "sub-01"].tolist()
    assert score == pytest.approx([np.average(one["score"], weights=one["targets"])], abs=1e-6)
    for name in ("layerwise", "lag", "lag_curve"):
        assert len(tables.read_table(paths.tables / f"{name}.csv"))
    curve = tables.read_table(paths.plots / "layers" / f"{MODEL}.csv")
    assert curve["layer"].tolist()[:2] == ["embed", "block01"]


def test_what_changes_no_number_leaves_the_fingerprint(scored: Scored, synthetic: Synthetic) -> None:

    problem = read_problem(make_study(), synthetic(), MODEL)
    spec = score_spec(make_study(), problem)
    assert score_spec(make_study(targets_per_block=7), problem) == spec
    assert score_spec(make_study(folds=4), problem) != spec


def test_subjects_with_other_rows_are_scored_apart(synthetic: Synthetic) -> None:
    root = synthetic(missing_rows={("sub-02", "birch01"): 7})
    study = make_study(rows="own", targets_per_block=200, alphas={"min": 100, "max": 100, "n": 1})
    cube = score_model(study, read_problem(study, root, MODEL))
    assert [group["train"] for group in json.loads(cube.attrs["rows"])] == [300, 293]
    assert cube["score"].notnull().any(["layer", "target"]).all()


def test_a_segment_that_one_subject_lacks_is_absent_for_that_one_alone(
    synthetic: Synthetic, scored: Callable[..., xr.Dataset]
) -> None:
    """The others' scores are the same to rounding as where everybody saw everything."""
    study = make_study()
    cube = score_model(study, read_problem(study, synthetic(missing=(("sub-02", "cedar02"),)), MODEL))
    counts = json.loads(cube.attrs["rows"])
    assert [group.get("without") for group in counts] == [None, ["cedar02"]]
    assert "sub-02: scored without cedar02, which there is no scan of" in notes(cube)
    whole = scored()
    np.testing.assert_allclose(cube["score"].sel(subject="sub-01"), whole["score"].sel(subject="sub-01"), atol=1e-5)
    assert float(cube["score"].sel(subject="sub-02").max()) > 0.5 * float(whole["score"].sel(subject="sub-02").max())


def test_subjects_of_whom_nothing_has_changed_are_not_fitted_again(
    synthetic: Synthetic, scored: Callable[..., xr.Dataset], tmp_path: Path
) -> None:
    """A subject more, or one whose scans were cleaned again, costs the others nothing."""
    study, root, cube = make_study(), synthetic(), scored()
    problem = read_problem(study, root, MODEL)
    spec, inputs = score_spec(study, problem), input_digests(study, root, [MODEL])
    cube = cube.assign_attrs(inputs=json.dumps(inputs))

    def known(problem: Problem = problem, **changes: Any) -> Found:
        return scores_of_last_run(problem, {**spec, **changes}, inputs, cube)

    assert list(known()) == ["sub-01", "sub-02"]
    assert not scores_of_last_run(problem, spec, inputs, None)
    assert not scores_of_last_run(problem, spec, inputs, cube.assign_attrs(inputs="{}")), "made of nobody knows what"
    for change in ({"encode": {**spec["encode"], "folds": 9}}, {"features": {}}, {"version": {}}):
        assert not known(**change)
    assert not known(replace(problem, settings=replace(problem.settings, one_alpha=True)))
    fewer = synthetic(missing_rows={("sub-02", "birch01"): 7})
    assert not known(read_problem(study, fewer, MODEL)), "of common rows there are fewer for all"
    assert list(known(read_problem(make_study(rows="own"), fewer, MODEL))) == ["sub-01"]
    # Of the same fingerprint and other bytes: a network that was run again on a GPU, say.
    computed_again = {**inputs, "features": {MODEL: dict.fromkeys(inputs["features"][MODEL], "other bytes")}}
    assert not scores_of_last_run(problem, spec, computed_again, cube)
    other = scores_of_last_run(problem, spec, {**inputs, "brain": {**inputs["brain"], "sub-02": "other bytes"}}, cube)
    assert list(other) == ["sub-01"]
    seen: list[tuple[int, int]] = []
    again = score_model(study, problem, None, lambda done, total: seen.append((done, total)), None, other)
    assert seen[-1] == (13, 13), "one subject's"
    assert again.attrs == scored().attrs
    for name, values in cube.data_vars.items():
        np.testing.assert_allclose(again[name], values, atol=1e-5)
    np.testing.assert_array_equal(again["alpha"].sel(subject="sub-01"), cube["alpha"].sel(subject="sub-01"))
    # An interrupted run may have fitted fewer subjects than the one that goes on.
    with open_journal(tmp_path, spec, "scores") as journal:
        encode_layers(problem.of_subjects({"sub-02"}), kept=journal)
        both = encode_layers(problem, kept=journal)
    for name in ("sub-01", "sub-02"):
        own = cube["score"].sel(subject=name).dropna("target", how="all")
        found = both[name]["score"]
        np.testing.assert_allclose(found[..., np.isfinite(found).any((0, 1))], own, atol=1e-5)
    # A layer that varies now, and did not then, has no scores of anybody.
    lost = {
        "sub-01": {name: np.where(np.arange(13)[:, None] == 3, np.nan, one) for name, one in other["sub-01"].items()}
    }
    whole = score_model(study, problem, None, lambda done, total: seen.append((done, total)), None, lost)
    assert seen[-1] == (26, 26)
    np.testing.assert_allclose(whole["score"], cube["score"], atol=1e-5)


def test_errors_name_both_sides(synthetic: Synthetic, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="found a TR of 2 s, expected the clock of the feature cubes, 1.49 s"):
        read_problem(make_study(), synthetic(tr_s=2.0), MODEL)
    with pytest.raises(StudyError, match="found no cube"):
        read_problem(make_study(), tmp_path, MODEL)


def test_no_scheduler_is_one_line(tmp_path: Path) -> None:
    address = ClusterAddress(address="no-address")
    with pytest.raises(StudyError, match="found no scheduler"), open_client(address, 1, tmp_path):
        pass


def stop_process(_: int) -> None:
    import os

    os._exit(1)


@pytest.mark.filterwarnings("ignore")
def test_dying_workers_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import dask

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        open_client("local", 2, tmp_path) as client,
        pytest.raises(StudyError, match="dask: found a lost scheduler or worker"),
    ):
        list(run_jobs(client, stop_process, [(0, (1,))], 1))


def test_blocks_cover_every_target_once(synthetic: Synthetic) -> None:
    (group,) = read_problem(make_study(), synthetic(), MODEL).groups
    blocks = blocks_of(group, {"sub-01": np.arange(5), "sub-02": np.arange(10, 17)}, 4)
    assert [sum(len(piece.targets) for piece in block) for block in blocks] == [4, 4, 4]
    assert [[piece.subject for piece in block] for block in blocks] == [["sub-01"], ["sub-01", "sub-02"], ["sub-02"]]


def test_part_of_a_block_keeps_its_order(synthetic: Synthetic) -> None:
    (group,) = read_problem(make_study(), synthetic(), MODEL).groups
    (block,) = blocks_of(group, {"sub-01": np.arange(3), "sub-02": np.arange(10, 13)}, 6)
    narrow = narrow_block(block, np.array([False, True, True, True, False, False]))
    assert [(piece.subject, piece.targets.tolist()) for piece in narrow] == [("sub-01", [1, 2]), ("sub-02", [10])]
    (only,) = narrow_block(block, np.arange(6) == 5)
    assert (only.subject, only.targets.tolist()) == ("sub-02", [12])


def test_scattered_targets_are_read_as_neighbours_are(synthetic: Synthetic) -> None:
    problem = read_problem(make_study(), synthetic(), MODEL)
    brains, (group,) = problem.brains, problem.groups
    brain, showings = brains["sub-01"], group.showings["sub-01"]
    whole = brain.read(showings, np.arange(brain.n_targets))
    for targets in ([4, 5, 6], [7], [9, 2, 30], [3, 9, 5]):
        np.testing.assert_array_equal(brain.read(showings, np.array(targets)), whole[:, targets])
