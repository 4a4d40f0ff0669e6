"""The stage `partition` on small cubes on disk, against arrays made by plain loops."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from cinecube.analysis.cubes.unscored import STILL
from cinecube.analysis.encoders.problem import make_layout, make_settings, read_problem
from cinecube.analysis.partition import partition_fits
from cinecube.analysis.partition.layers import choose_layers, write_partition_layers
from cinecube.analysis.partition.partition_fits import candidates, fit_all
from cinecube.analysis.partition.partition_tables import write_partition_tables
from cinecube.analysis.partition.stage import (
    kept_sets,
    make_grounds,
    partition,
    partition_cube,
    partition_spec,
    read_entries,
)
from cinecube.store.base.errors import StudyError
from cinecube.store.base.journal import open_journal
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import open_cube, write_cube
from cinecube.store.cube.schema import string_coordinate
from cinecube.store.open.recorded import input_digests
from cinecube.store.params.document import Study

from ..conftest import tree_digest
from .partition_study import (
    CHOSEN,
    N_TARGETS,
    PAIR,
    SEGMENTS,
    SETS,
    Made,
    make_study,
    naive_design,
    naive_responses,
    scored_studies,
)
from .plain_partition import partition as partition_arrays

Results = tuple[xr.Dataset, pd.DataFrame, pd.DataFrame]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return scored_studies(tmp_path_factory)


@pytest.fixture(scope="module")
def run(folder: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Run the stage on a copy of a folder, once per study and departure: its cube and tables."""
    made: dict[str, Results] = {}

    def go(study: Study | None = None, **changes: Any) -> Results:
        study = study or make_study()
        key = repr((study, Made(**changes)))
        if key not in made:
            root = tmp_path_factory.mktemp("run") / "study"
            shutil.copytree(folder(**changes), root)
            partition(study, root)
            write_partition_tables(study, root)
            made[key] = _results(root)
        return made[key]

    return go


def _results(root: Path) -> Results:
    tables = [pd.read_csv(StudyPaths(root).tables / f"{name}.csv") for name in ("partition", "partition_roi")]
    return _cube(root), tables[0], tables[1]


def _cube(root: Path) -> xr.Dataset:
    return open_cube(StudyPaths(root).partition).load()


def _naive(root: Path, study: Study, names: Sequence[str], subject: str, n_rows: int = 40) -> Any:
    """The array function on arrays made here; only the folds are the stage's own."""
    rows = [(segment, row) for segment in SEGMENTS for row in range(n_rows)]
    train = np.array([not segment.startswith("dune") for segment, _ in rows])
    problem = read_problem(study, root, "solo")
    space, groups = problem.space, problem.groups
    group = next(group for group in groups if subject in group.subjects)
    settings = make_settings(study)
    designs = {stream: naive_design(root, stream, rows) for stream in names}
    known = naive_responses(root, subject, rows)
    return partition_arrays(
        ({name: x[train] for name, x in designs.items()}, known[train]),
        ({name: x[~train] for name, x in designs.items()}, known[~train]),
        make_layout(space, group, settings, 3).folds,
        settings.alphas,
    )


def _assert_same(cube: xr.Dataset, name: str, subject: str, slow: Any, root: Path) -> None:
    """All variables of a set and subject equal those of the array function in parcels, and are NaN outside."""
    brain = open_cube(StudyPaths(root).brain(subject))
    inside = brain["parcel"].values != ""
    own = cube.sel(set=name, subject=subject)
    for variable, axis, labels, values in (
        ("part_r2", "part", slow.parts, slow.part),
        ("r2", "subset", slow.subsets, slow.r2),
        ("split_r2", "space", slow.spaces, slow.split_r2),
        ("penalty", "space", slow.spaces, slow.penalty[-1]),
    ):
        found = own[variable].sel({axis: list(labels), "target": brain["target"].values[inside]}).values
        tolerance = {"rtol": 1e-5} if variable == "penalty" else {"atol": 2e-5}
        np.testing.assert_allclose(found, values[:, inside], **tolerance)
        assert own[variable].notnull().sum() == np.isfinite(found).sum() + np.isinf(found).sum()


def test_the_stage_finds_what_the_array_function_finds(run, folder):
    cube, _, _ = run()
    for names, subject in ((SETS[0], "sub-01"), (SETS[0], "sub-02"), (SETS[1], "sub-02")):
        _assert_same(cube, " + ".join(names), subject, _naive(folder(), make_study(), names, subject), folder())


def test_planted_parts_are_found(run):
    _, table, roi = run()
    assert set(table["layers"]) == {"block01 + block01", "head + block01 + block01"}
    means = table[table["subject"] == "all"].set_index(["set", "part", "parcel"])["r2"]
    pair, triple = (means[" + ".join(names)].unstack("parcel") for names in SETS)
    assert pair["L_V1"].idxmax() == triple["L_V1"].idxmax() == "unique duo.sight"
    assert pair["L_TPOJ2"].idxmax() == triple["L_TPOJ2"].idxmax() == "unique solo"
    assert triple["R_A1"].idxmax() == "unique duo.sound"
    assert pair["R_TPOJ2"].idxmax() == "shared duo.sight + solo"
    assert triple["R_TPOJ2"].idxmax() == "shared duo.sound + duo.sight + solo"
    assert (pair.loc[["unique duo.sight", "unique solo"], "L_45"] > 0.15).all()
    assert pair["R_4"].abs().max() < 0.1
    assert set(roi["roi"]) == {"AG", "IFG", "EV", "AC"}


def test_tables_are_means_of_the_cube(run):
    cube, table, roi = run()
    frame = (
        cube["part_r2"]
        .to_series()
        .dropna()
        .reset_index()
        .merge(cube["parcel"].to_series().rename("parcel").reset_index(), on="target")
    )
    keys = ["set", "part", "parcel"]
    slow = frame.groupby([*keys, "subject"])["part_r2"].agg(["mean", "size"])
    pooled = frame.groupby(keys)["part_r2"].agg(["mean", "size"])
    found = table.set_index([*keys, "subject"])
    own = found.drop("all", level="subject")
    assert len(own) == len(slow)
    for rows, known in ((own, slow), (found.xs("all", level="subject"), pooled)):
        np.testing.assert_allclose(rows["r2"], known.loc[rows.index, "mean"], atol=1e-6)
        assert (rows["targets"] == known.loc[rows.index, "size"]).all()
    first = found.sort_index().loc[(" + ".join(SETS[0]), "unique solo", "R_4")]
    assert first["targets"].to_dict() == {"all": 5, "sub-01": 3, "sub-02": 2}
    ag = roi.set_index(["roi", "set", "part"]).loc["AG"]  # TPOJ2 of both hemispheres, each weighing the same
    both = own[own.index.get_level_values("parcel").isin(["L_TPOJ2", "R_TPOJ2"])]["r2"].groupby(["set", "part"]).mean()
    np.testing.assert_allclose(ag["mean"], both.loc[ag.index], atol=2e-6)
    assert (ag[["subjects", "parcels"]] == 2).all(axis=None)


def test_parts_add_up(run):
    cube, _, _ = run()
    for names in SETS:
        own = cube.sel(set=" + ".join(names))
        whole = own["r2"].sel(subset=" + ".join(names))
        np.testing.assert_allclose(own["part_r2"].sum("part", min_count=1), whole, atol=1e-6)
        np.testing.assert_allclose(own["split_r2"].sum("space", min_count=1), whole, atol=1e-6)
    # What two sets have in common is one fit.
    both = cube["r2"].sel(subset="duo.sight + solo").transpose("set", ...).values
    np.testing.assert_array_equal(both[0], both[1])
    assert list(cube["layer"].sel(space=list(CHOSEN)).values) == list(CHOSEN.values())


def test_test_films_choose_nothing(run, folder):
    assert choose_layers(make_study(), folder(scramble_test=True)) == choose_layers(make_study(), folder()) == CHOSEN
    (plain, _, _), (other, _, _) = run(make_study(PAIR)), run(make_study(PAIR), scramble_test=True)
    np.testing.assert_array_equal(plain["penalty"], other["penalty"])
    assert plain["penalty"].notnull().any()
    assert float(np.abs(plain["r2"] - other["r2"]).median()) > 0.05


def test_layers_are_chosen_by_cv_score_in_parcels(folder, tmp_path):
    shutil.copytree(folder(), tmp_path / "study")
    path = StudyPaths(tmp_path / "study").scores("solo")
    scores = open_cube(path).load()
    shutil.rmtree(path)
    outside = scores["parcel"] == ""
    tempting = scores["layer"] == "embed"
    scores["score"] = scores["score"].where(~tempting, 1.0)
    scores["cv_score"] = scores["cv_score"].where(~(tempting & outside), 1e3)
    for name in ("score", "cv_score"):
        scores[name][{"target": 0}] = np.nan
    scores["unscored"][{"target": 0}] = STILL
    write_cube(path, scores)
    assert choose_layers(make_study(), tmp_path / "study") == CHOSEN
    scores["cv_score"] = scores["cv_score"].where(~(tempting & ~outside), 0.99)
    shutil.rmtree(path)
    write_cube(path, scores)
    assert choose_layers(make_study(), tmp_path / "study")["solo"] == "embed"


def test_the_layers_are_written_for_the_partition_to_depend_on(folder, tmp_path):
    shutil.copytree(folder(), tmp_path / "study")
    assert write_partition_layers(make_study(), tmp_path / "study") == CHOSEN
    written = StudyPaths(tmp_path / "study").partition_layers
    assert json.loads(written.read_text(encoding="utf-8")) == CHOSEN
    write_partition_layers(make_study([]), tmp_path / "study")
    assert json.loads(written.read_text(encoding="utf-8")) == {}


def test_second_run_same_bytes(folder, tmp_path, monkeypatch):
    digests = []
    for name in ("first", "second"):
        shutil.copytree(folder(), tmp_path / name)
        partition(make_study(PAIR), tmp_path / name)
        digests.append(tree_digest(tmp_path / name / "results"))
    assert digests[0] == digests[1]
    assert not list((tmp_path / "first" / ".cinecube" / "journal").glob("*/"))
    # Responses that are too many to keep are read fit by fit.
    monkeypatch.setattr(partition_fits, "_KEPT_BYTES", 0)
    partition(make_study(PAIR), tmp_path / "second")
    assert tree_digest(tmp_path / "second" / "results") == digests[0]


def test_blocks_and_rows_in_other_places_change_nothing(run):
    plain, _, _ = run(make_study(PAIR))
    for other, _, _ in (run(make_study(PAIR, targets_per_block=100)), run(make_study(PAIR), swap="solo")):
        assert other["part_r2"].sizes == plain["part_r2"].sizes
        np.testing.assert_allclose(other["part_r2"], plain["part_r2"], atol=1e-5)


def test_an_interrupted_run_goes_on(folder, run, tmp_path):
    root, study = tmp_path / "study", make_study(PAIR)
    shutil.copytree(folder(), root)
    counts: list[tuple[int, int]] = []

    def stop(done: int, n_fits: int) -> None:
        counts.append((done, n_fits))
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        partition(study, root, stop)
    partition(study, root, lambda done, n_fits: counts.append((done, n_fits)))
    assert counts == [(done, 9) for done in range(1, 10)]
    xr.testing.assert_identical(_cube(root), run(study)[0])


def test_the_order_in_which_fits_come_in_does_not_matter():
    """Targets: all fits differ, all are alike, one stream alone is best, none was fitted."""
    tried = partition_fits.candidates(["a", "b"], [["a", "b"]])
    loss = np.random.default_rng(0).permuted(np.arange(1.0, 1 + len(tried)))
    losses = np.stack([loss, np.ones(len(tried)), [0.5, 0.25, *loss[2:]], np.full(len(tried), np.nan)], axis=1)
    for order in (range(len(tried)), reversed(range(len(tried)))):
        race = partition_fits.Race(tried, 4)
        for n in order:
            values = np.full((2 * len(tried[n].streams), 4), n + 10.0)
            race.enter(n, np.concatenate([losses[n : n + 1], values]))
        both = race.winners()["a", "b"]
        winner = loss.argmin() + 10.0
        first = [winner, winner] if winner >= 12 else [winner if winner == 10 else 0, winner if winner == 11 else 0]
        np.testing.assert_array_equal(both.split.T, [first, [10, 0], [0, 11], [np.nan, np.nan]])
        np.testing.assert_array_equal(both.penalty[:, 1:3].T, [[10, np.inf], [np.inf, 11]])
        np.testing.assert_array_equal(both.r2[1:], [10, 11, np.nan])


def test_subjects_with_rows_of_their_own(run, folder):
    study = make_study(PAIR, rows="own")
    cube, _, _ = run(study, cut=4)
    for subject, n_rows in (("sub-01", 40), ("sub-02", 36)):
        slow = _naive(folder(cut=4), study, SETS[0], subject, n_rows)
        _assert_same(cube, " + ".join(SETS[0]), subject, slow, folder(cut=4))


def test_without_an_atlas_all_targets_are_one_region(run):
    cube, table, roi = run(make_study(PAIR), atlas=False)
    assert set(table["parcel"]) == {"all"}
    assert set(table.loc[table["subject"] == "all", "targets"]) == {19 + 18}
    assert list(roi["roi"]) == ["all"] * 3
    assert cube["part_r2"].sel(subject="sub-01", set=" + ".join(SETS[0]), part="unique solo").notnull().all()


def test_a_constant_target_is_left_out(run):
    cube, table, _ = run(make_study(PAIR), constant=True)
    assert cube["part_r2"].isel(target=0).isnull().all()
    first = table[(table["parcel"] == "L_V1") & (table["subject"] == "sub-01")]
    assert set(first["targets"]) == {N_TARGETS - 1}
    assert first["r2"].notna().all()


def test_a_study_without_sets_has_empty_results(run):
    cube, table, roi = run(make_study([]))
    assert not len(cube.data_vars) + len(table) + len(roi)
    assert list(table.columns) == ["set", "part", "parcel", "subject", "layers", "r2", "targets"]


def _refused(study: Study, root: Path) -> str:
    with pytest.raises(StudyError) as error:
        partition(study, root)
    assert "\n" not in str(error.value)
    assert not StudyPaths(root).partition.exists()
    return str(error.value)


def test_wrong_input_is_refused_in_one_line(folder, tmp_path):
    line = _refused(make_study([["duo.smell", "solo"]]), folder())
    assert "found no stream 'duo.smell', expected one of duo.sight, duo.sound; correct the name in `partition`" in line
    line = _refused(make_study(rows="own"), _with_scores(folder(short="solo"), folder(), tmp_path / "short"))
    assert "features of solo: found 312 rows that all subjects have, expected the 320 rows of duo" in line
    rescored = tmp_path / "rescored"
    shutil.copytree(folder(), rescored)
    path = StudyPaths(rescored).scores("solo")
    scores = open_cube(path).load().assign_coords(layer=string_coordinate(["embed", "block07"]))
    shutil.rmtree(path)
    write_cube(path, scores)
    assert "no layer block07 of solo" in _refused(make_study(), rescored)
    shutil.rmtree(path)
    assert "results/scores/solo.zarr: found no cube" in _refused(make_study(), rescored)


def _with_scores(root: Path, other: Path, to: Path) -> Path:
    """A folder with the scores of another, as of cubes that were extracted again since."""
    shutil.copytree(root, to)
    shutil.copytree(StudyPaths(other).results, StudyPaths(to).results)
    return to


def test_the_fingerprint_names_what_changes_the_numbers(run):
    cube, other, both = (
        run(study)[0] for study in (make_study(PAIR), make_study(PAIR, targets_per_block=100), make_study())
    )
    assert cube.attrs["fingerprint"] == other.attrs["fingerprint"] != both.attrs["fingerprint"]
    assert json.loads(cube.attrs["spec"])["layers"] == {"duo.sight": "block01", "solo": "block01"}


def test_sets_of_which_nothing_has_changed_are_kept(folder: Any, run: Any, tmp_path: Path) -> None:
    """Each takes a day at real size; a lab that asks for one more, or changes a stream, waits for that alone."""
    study, cube, root = make_study(), run()[0], folder()
    entries, brains = read_entries(study, root, choose_layers(study, root))
    spec, window_s = partition_spec(study, entries, brains), cube.attrs["widest_window_s"]
    labels, inputs = (
        [" + ".join(names) for names in study.partition],
        input_digests(study, root, list(spec["features"])),
    )

    def kept(**changes: Any) -> list[str]:
        return list(kept_sets(study, cube, {**spec, **changes}, inputs, window_s))

    assert kept() == kept(sets=[*study.partition, ["solo", "new"]]) == labels
    assert kept(sets=study.partition[1:]) == labels[1:]
    assert kept(encode={**spec["encode"], "folds": 9}) == kept(brain={}) == kept(version={}) == []
    assert not kept_sets(study, cube, spec, inputs, window_s + 1), "the folds of all sets leave out more"
    assert not kept_sets(study, None, spec, inputs, window_s)
    for stream in spec["layers"]:
        without = [label for label, names in zip(labels, study.partition, strict=True) if stream not in names]
        assert kept(layers={**spec["layers"], stream: "other"}) == without
    owner = study.owner(study.partition[0][0])
    without = [" + ".join(names) for names in study.partition if owner not in map(study.owner, names)]
    # Of the same fingerprint and other bytes.
    others = {**inputs, "features": {**inputs["features"], owner: {}}}
    assert list(kept_sets(study, cube, spec, others, window_s)) == without
    assert not kept_sets(study, cube, spec, {**inputs, "brain": {}}, window_s)
    grounds, found = make_grounds(study, entries, brains), kept_sets(study, cube, spec, inputs, window_s)
    # An interrupted run may have had fewer sets to fit than the one that goes on.
    with open_journal(tmp_path, spec, "partition") as journal:
        for sets in (study.partition[1:], study.partition):
            fits = fit_all(entries, grounds, candidates(list(entries), sets), kept=journal)
    resumed = partition_cube(study.partition, entries, brains, grounds, fits)
    xr.testing.assert_identical(resumed.drop_attrs(), cube.drop_attrs())
    again = partition_cube(study.partition, entries, brains, grounds, [{} for _ in grounds], found)
    xr.testing.assert_identical(again.drop_attrs(), cube.drop_attrs())
