"""Who lacks a run costs nobody else a run (issue 19): subjects too short to be fitted, and ceilings of who has what."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from cinecube.analysis.ceilings.cross_subject import cross_subject_scores
from cinecube.analysis.ceilings.stage import ceiling, ceiling_spec, read_brains
from cinecube.analysis.ceilings.who_predicts import choose_sources
from cinecube.analysis.cubes.results import read_scores
from cinecube.analysis.cubes.rows import align
from cinecube.analysis.cubes.tables import EVERYONE, layer_table, preferred_layers, read_table
from cinecube.analysis.cubes.unscored import LACKING, UNFIT, ceiling_notes
from cinecube.analysis.encoders.pairs import make_pairs
from cinecube.analysis.encoders.problem import read_problem
from cinecube.analysis.encoders.stage import encode
from cinecube.analysis.regions.stage import layerwise, whole_brain
from cinecube.analysis.report.sections import time_section
from cinecube.analysis.truth.plain_fits import PlainFits
from cinecube.analysis.weights.stage import keep_weights
from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import open_cube

from . import absence_study, shared_signal
from .absence_study import EYES, FILMS, LABELS, ROWS, SOLO, draw, make_study, run_all, write
from .shared_signal import Drawn, kinds

SUBJECTS = ("sub-01", "sub-02", "sub-03")
OTHERS = ("sub-01", "sub-03")
TRAINED, TESTED = [*FILMS["amber"], *FILMS["birch"]], FILMS["dune"]
SECTIONS: dict[str, Any] = {
    "residual": [{"keep": SOLO, "remove": EYES}],
    "partition": [[EYES, SOLO]],
    "unimodal": {"video": [EYES]},
    "statistics": {"permutations": 99, "block_rows": 10, "compare": [[EYES, SOLO]]},
    "ceiling": {"use": "cross_subject", "bootstraps": 10},
    "keep_weights": [{"model": "solo", "layer": "best"}],
}
LOST = {
    "one training segment": (TRAINED[1:], "of the training films it has amber1 alone, and 2 segments are the least"),
    "no test film": (TESTED, "of the test films (dune1, dune2) it has none"),
}


def write_without(root: Path, lost: Sequence[str], subjects: Sequence[str] = ("sub-02",)) -> Path:
    features, bold = draw(SUBJECTS)
    for subject in subjects:
        for key in [key for key in bold[subject] if key[0] in lost]:
            del bold[subject][key]
    return write(root, features, bold)


@pytest.fixture(scope="module", params=LOST)
def short(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A study with every stage run, one of whose three subjects cannot be fitted or tested."""
    lost, words = LOST[request.param]
    root = write_without(tmp_path_factory.mktemp("short"), lost)
    study = make_study(SUBJECTS, **SECTIONS)
    run_all(study, root)
    keep_weights(study, root, "solo")
    return root, words


def test_a_subject_with_too_few_runs_has_no_score_and_costs_nobody_one(
    short: tuple[Path, str], tmp_path: Path, caplog: Any
) -> None:
    root, words = short
    alone, study = make_study(OTHERS, **SECTIONS), make_study(SUBJECTS, **SECTIONS)
    shutil.copytree(root / "data", tmp_path / "data", ignore=shutil.ignore_patterns("ceiling.zarr", "scores"))
    for model in ("bind", "solo"):
        encode(alone, tmp_path, model)
    ceiling(alone, tmp_path)
    whole_brain(alone, tmp_path)
    layerwise(alone, tmp_path)
    for ours, theirs in zip(read_scores(study, root), read_scores(alone, tmp_path), strict=True):
        for name in ("score", "cv_score", "alpha", "lag_score"):
            np.testing.assert_array_equal(ours[name].sel(subject=list(OTHERS)), theirs[name])
            assert ours[name].sel(subject="sub-02").isnull().all()
        assert (ours["unscored"].sel(subject="sub-02") == UNFIT).all()
    both = open_cube(StudyPaths(root).ceiling).load(), open_cube(StudyPaths(tmp_path).ceiling).load()
    for name in both[0]:
        np.testing.assert_array_equal(both[0][name].sel(subject=list(OTHERS)), both[1][name])
    assert not both[0]["cross_subject"].sel(subject="sub-02").notnull().any()
    for name in ("whole_brain_mean", "roi_mean", "lag"):
        ours, theirs = (read_table(StudyPaths(one).tables / f"{name}.csv") for one in (root, tmp_path))
        own = ours[ours["subject"] != "sub-02"] if "subject" in ours else ours
        assert own.reset_index(drop=True).equals(theirs), name
    # Whoever encodes is told in a line.
    shutil.rmtree(StudyPaths(root).scores("solo"))
    encode(study, root, "solo")
    assert f"sub-02: no scores: {words}" in caplog.text


def test_all_stages_pass_over_who_has_no_score(short: tuple[Path, str]) -> None:
    root, words = short
    paths = StudyPaths(root)
    for name in ("whole_brain", "whole_brain_mean", "normalised", "layerwise", "residual", "partition", "significance"):
        table = read_table(paths.tables / f"{name}.csv")
        own = table[table["subject"] == "sub-02"]
        assert len(own), name
        assert (own["targets"] == 0).all(), name
    means = read_table(paths.tables / "roi_mean.csv")
    assert (means["subjects"] == 2).all()
    assert set(means["normalised_subjects"]) == {2}
    layers = read_table(paths.tables / "whole_brain_mean.csv").set_index(["model", "subject"])["targets"]
    assert layers[SOLO, EVERYONE] == 2 * len(LABELS)
    kept = open_cube(paths.weights("solo"))
    assert kept["weights"].sel(subject="sub-02").isnull().all()
    assert kept["weights"].sel(subject="sub-01").notnull().all()
    predicted = open_cube(paths.predictions("solo"))
    assert predicted["predicted"].sel(subject="sub-02").isnull().all()
    assert (predicted["targets"].sel(subject="sub-02") == 0).all()
    page = paths.report.read_text(encoding="utf-8")
    assert f"<li>sub-02: no scores: {words}" in page
    assert f"<li>sub-02: no ceiling across subjects: {words}" in page
    assert "The mean over 2 subjects" in page
    for nothing in (">nan<", ">None<", "NaN subjects"):
        assert nothing not in page
    with pytest.raises(StudyError, match=r"brain cube of sub-02: found too few runs: of the "):
        make_pairs(read_problem(make_study(SUBJECTS), root, "solo"), 0, 1, "sub-02")


def test_targets_that_such_a_subject_lacks_are_no_targets_of_it(tmp_path: Path) -> None:
    root = write_without(tmp_path, TRAINED[1:])
    path = StudyPaths(root).brain("sub-02")
    cube = open_cube(path).isel(target=slice(1, None)).load()
    shutil.rmtree(path)
    absence_study.write_cube(path, cube)
    encode(make_study(SUBJECTS), root, "solo")
    (found,) = read_scores(make_study(SUBJECTS, ["solo"]), root)
    assert found["unscored"].sel(subject="sub-02").values.tolist() == [LACKING] + [UNFIT] * (len(LABELS) - 1)


def test_where_nobody_can_be_fitted_all_is_refused_and_told_why(tmp_path: Path) -> None:
    root, study = write_without(tmp_path, TRAINED[1:], SUBJECTS), make_study(SUBJECTS)
    for work in (lambda: encode(study, root, "solo"), lambda: ceiling(study, root)):
        with pytest.raises(
            StudyError,
            match=r"too few runs of everybody: sub-01: of the training films it has amber1 alone, and 2 segments are"
            r" the least, one to validate on \| sub-02: .*; add the scans, or change `split`",
        ):
            work()


def test_one_brain_is_no_mean_to_show(tmp_path: Path) -> None:
    """Of two subjects one has no scores: what the test films show of the other is not published."""
    pair = OTHERS[0], "sub-02"
    root = write_without(tmp_path, TRAINED[1:])
    run_all(make_study(pair, ["solo"]), root)
    page = StudyPaths(root).report.read_text(encoding="utf-8")
    assert "Responses of a single subject are not shown" in page


def test_a_run_that_one_subject_has_is_not_drawn(tmp_path: Path) -> None:
    root, study = write_without(tmp_path, TESTED[1:]), make_study(("sub-01", "sub-02"), ["solo"])
    encode(study, root, "solo")
    section = time_section(study, root, preferred_layers(layer_table(read_scores(study, root))), None)
    assert section is not None
    (chart,) = section.charts
    for trace in (trace for figure in chart.figures.values() for trace in figure["data"]):
        known = [value is not None for value in trace["y"]]
        assert known == [True] * ROWS + [False] * ROWS


@pytest.mark.parametrize("rows", ["common", "own"])
@pytest.mark.parametrize("repeats", ["average", "separate"])
def test_oracles_fit_the_rows_of_the_pipeline(rows: str, repeats: str, tmp_path: Path) -> None:
    features, bold = draw(SUBJECTS)
    for key in [("amber2", 1), ("dune1", 2)]:
        del bold["sub-01"][key]
    for key in [key for key in bold["sub-02"] if key[0] in TRAINED[1:]]:
        del bold["sub-02"][key]
    root = write(tmp_path, features, bold)
    raw = make_study(SUBJECTS).model_dump(mode="json", exclude_none=True)
    study = make_study(SUBJECTS, brain={**raw["brain"], "repeats": repeats}, encode={**raw["encode"], "rows": rows})
    plain = PlainFits(study, {SOLO: features[SOLO, "embed"]}, absence_study.TR_S, absence_study.TR_S)
    cubes = {name: open_cube(StudyPaths(root).brain(name)) for name in SUBJECTS}
    ours = {
        name: [(group.segment[n], int(row) % ROWS, int(group.repeat[n])) for n, row in enumerate(group.feature_row)]
        for group in read_problem(study, root, "solo").groups
        for name in group.subjects
    }
    theirs = {name: order for order, showings in plain.groups(cubes) for name in showings}
    assert ours == theirs
    assert set(ours) == {"sub-01", "sub-03"}


def lacking(drawn: Drawn, *runs: tuple[str, str]) -> Drawn:
    """The same without some segments of subjects."""
    return Drawn(
        {name: {key: v for key, v in own.items() if (name, key[0]) not in runs} for name, own in drawn.bold.items()}
    )


def joined(drawn: Drawn, name: str, train: Sequence[str], test: Sequence[str]) -> np.ndarray:
    """Rows of some segments, the mean over both showings of those of the test film."""
    shown = (drawn.rows(name, list(test)) + drawn.rows(name, list(test), 2)) / np.float32(2)
    return np.concatenate([drawn.rows(name, list(train)), shown])


def sources_of(root: Path, drawn: Drawn) -> dict[str, tuple[str, ...]]:
    study = shared_signal.make_study(drawn)
    own = read_brains(study, shared_signal.write(root, drawn)).own
    return choose_sources({name: group for group in own for name in group.subjects})


@pytest.mark.parametrize("approximate", ["never", "always"])
def test_a_test_segment_is_absent_for_who_lacks_it_alone(approximate: str, tmp_path: Path) -> None:
    """Others have two sources without who lacks it; their ceilings are as if that subject were not in the study."""
    whole = shared_signal.draw(n_subjects=4)
    drawn = lacking(whole, ("sub-02", "dune02"))
    study, cube = shared_signal.run(tmp_path / "all", drawn, approximate=approximate)
    rest = Drawn({name: runs for name, runs in drawn.bold.items() if name != "sub-02"})
    _, without = shared_signal.run(tmp_path / "rest", rest, approximate=approximate)
    for name in ("cross_subject", "cross_subject_low", "cross_subject_high", "cross_subject_converged"):
        np.testing.assert_array_equal(cube[name].sel(subject=list(rest.bold)), without[name])
    scores = cube["cross_subject_score"].sel(subject=list(rest.bold))
    np.testing.assert_array_equal(scores.sel(size=[1, 2]), without["cross_subject_score"])
    assert scores.sel(size=3).isnull().all()
    arrays = {name: joined(whole, name, shared_signal.TRAIN_SEGMENTS, ["dune01"]) for name in whole.bold}
    own = next(one for one in read_brains(study, tmp_path / "all").cohorts if one.predicted == ["sub-02"])
    expected = cross_subject_scores(arrays, np.arange(210) < 180, own.folds)["sub-02"]
    for size in (1, 2, 3):
        mean = cube["cross_subject_score"].sel(subject="sub-02", size=size)
        close = 1e-5 if approximate == "never" else 0.15
        np.testing.assert_allclose(mean, expected.score[expected.size == size].mean(axis=0), atol=close)
    assert ceiling_notes(cube) == [
        "sub-01: ceiling across subjects from sub-03, sub-04 alone",
        "sub-03: ceiling across subjects from sub-01, sub-04 alone",
        "sub-04: ceiling across subjects from sub-01, sub-03 alone",
        "sub-02: ceiling across subjects of 180 + 30 rows, without dune02",
    ]


def test_with_one_other_source_rows_are_given_up_instead(tmp_path: Path) -> None:
    drawn = lacking(shared_signal.draw(), ("sub-02", "dune02"))
    _, cube = shared_signal.run(tmp_path, drawn)
    assert kinds(cube, "cross_subject").shape == (3, drawn.n_targets)
    assert cube["cross_subject"].notnull().all()
    assert cube["cross_subject_score"].notnull().all()
    (entry,) = json.loads(cube.attrs["rows"])
    assert entry["without"] == ["dune02"]
    assert ceiling_notes(cube) == [
        "sub-01, sub-03: ceiling across subjects of 180 + 30 rows, without dune02, though scores are of dune02, too",
        "sub-02: ceiling across subjects of 180 + 30 rows, without dune02",
    ]


def test_a_training_segment_costs_rows_to_fit_on_and_no_source(tmp_path: Path) -> None:
    whole = shared_signal.draw()
    study, cube = shared_signal.run(tmp_path, lacking(whole, ("sub-02", "cedar02")))
    train = shared_signal.TRAIN_SEGMENTS[:-1]
    arrays = {name: joined(whole, name, train, shared_signal.TEST_SEGMENTS) for name in whole.bold}
    expected = cross_subject_scores(arrays, np.arange(210) < 150, read_brains(study, tmp_path).cohort.folds)
    for name, own in expected.items():
        for size in (1, 2):
            mean = cube["cross_subject_score"].sel(subject=name, size=size)
            np.testing.assert_allclose(mean, own.score[own.size == size].mean(axis=0), atol=1e-5)
    assert ceiling_notes(cube) == ["sub-01, sub-02, sub-03: ceiling across subjects of 150 + 60 rows, without cedar02"]


def test_who_shares_little_is_no_source_of_the_others(tmp_path: Path) -> None:
    """Two of six training segments: the others would be fitted on a third of their rows."""
    lost = [("sub-02", name) for name in shared_signal.TRAIN_SEGMENTS[2:]]
    assert sources_of(tmp_path, lacking(shared_signal.draw(n_subjects=4), *lost)) == {
        "sub-01": ("sub-03", "sub-04"),
        "sub-02": ("sub-01", "sub-03", "sub-04"),
        "sub-03": ("sub-01", "sub-04"),
        "sub-04": ("sub-01", "sub-03"),
    }


def test_who_predicts_whom_is_in_the_fingerprint_where_it_is_not_everybody(tmp_path: Path) -> None:
    """So cubes of studies without missing runs stay what they are, and others are made again."""
    specs = []
    for number, lost in enumerate([(), ("sub-02", "cedar02"), ("sub-02", "dune02")]):
        drawn = lacking(shared_signal.draw(n_subjects=4), *([lost] if lost else []))
        study = shared_signal.make_study(drawn)
        specs.append(ceiling_spec(study, read_brains(study, shared_signal.write(tmp_path / str(number), drawn))))
    assert ["sources" in spec for spec in specs] == [False, False, True]
    assert specs[2]["sources"]["sub-01"] == ["sub-03", "sub-04"]


DISJOINT = (("sub-01", "dune02"), ("sub-02", "dune01"))


def test_subjects_who_share_no_test_segment_have_no_ceiling(tmp_path: Path, caplog: Any) -> None:
    drawn = lacking(shared_signal.draw(n_subjects=2), *DISJOINT)
    _, cube = shared_signal.run(tmp_path, drawn)
    for name in ("cross_subject", "cross_subject_low", "cross_subject_high", "cross_subject_score"):
        assert cube[name].isnull().all()
    reason = "nobody else has a run of its test films and enough of its training films"
    assert f"sub-01, sub-02: no ceiling across subjects: {reason}" in caplog.text
    assert cube["cross_subject"].attrs["note"] == f"sub-01: {reason}; sub-02: {reason}"
    assert cube["repeats"].notnull().all()


@pytest.mark.parametrize("compat", [None, "oota2025"])
def test_a_third_who_has_both_shares_each_with_one(compat: str | None, tmp_path: Path) -> None:
    drawn = lacking(shared_signal.draw(), *DISJOINT)
    assert sources_of(tmp_path, drawn) == {"sub-01": ("sub-03",), "sub-02": ("sub-03",), "sub-03": ("sub-01",)}
    told: list[tuple[int, int]] = []
    study = shared_signal.make_study(drawn, bootstraps=3, compat=compat)
    ceiling(study, tmp_path, lambda done, total: told.append((done, total)))
    cube = open_cube(StudyPaths(tmp_path).ceiling).load()
    assert cube["cross_subject_score"].notnull().all()
    assert cube["cross_subject"].notnull().all() == (compat is None)  # the published curve needs two sources
    if compat:
        assert "sub-03: one other subject is no curve" in cube["cross_subject"].attrs["note"]
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1][0] == told[-1][1]
    assert len({total for _, total in told}) == 1


@pytest.mark.parametrize("stop_at", [2, 7])
def test_an_interrupted_run_goes_on_where_rows_differ(stop_at: int, tmp_path: Path) -> None:
    drawn = lacking(shared_signal.draw(n_subjects=4), ("sub-02", "dune02"))
    study, whole = shared_signal.run(tmp_path, drawn)
    shutil.rmtree(StudyPaths(tmp_path).ceiling)

    def stop(done: int, total: int) -> None:
        if done == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ceiling(study, tmp_path, stop)
    seen: list[int] = []
    ceiling(study, tmp_path, lambda done, total: seen.append(done))
    assert seen[0] == stop_at
    xr.testing.assert_identical(open_cube(StudyPaths(tmp_path).ceiling).load(), whole)


def test_rows_that_are_dropped_here_and_there_cost_no_source(tmp_path: Path) -> None:
    """Volumes that were left out are no rows: everybody lacks others, and all remain sources."""
    whole = shared_signal.draw(n_subjects=4)
    study = shared_signal.make_study(whole)
    brains = read_brains(study, shared_signal.write(tmp_path, whole)).brains
    rng = np.random.default_rng(0)
    rows = {name: brain.rows[rng.random(len(brain.rows)) > 0.1] for name, brain in brains.items()}
    space = next(iter(brains.values())).rows.drop_duplicates(["segment", "onset_s"]).reset_index(drop=True)
    groups = align(
        space,
        {name: own.reset_index(drop=True) for name, own in rows.items()},
        train=shared_signal.TRAIN_SEGMENTS,
        test=shared_signal.TEST_SEGMENTS,
        repeats="average",
        rows="own",
    )
    found = choose_sources({name: group for group in groups for name in group.subjects})
    assert found == {name: tuple(other for other in rows if other != name) for name in found}
