"""The stage `ceiling` against a known truth, and against the array functions it is made of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from tests.conftest import tree_digest

from cinecube.analysis.ceilings.ceiling_blocks import score_subsets
from cinecube.analysis.ceilings.ceiling_cube import ceiling_growth
from cinecube.analysis.ceilings.cross_subject import cross_subject_scores
from cinecube.analysis.ceilings.oota2025_ceiling import compat_ceiling, compat_scores
from cinecube.analysis.ceilings.repeats import repeat_ceilings
from cinecube.analysis.ceilings.saturation import Curve, extrapolate
from cinecube.analysis.ceilings.stage import ceiling, make_ceilings, read_brains
from cinecube.analysis.cubes.results import read_ceiling
from cinecube.analysis.cubes.unscored import ceiling_notes
from cinecube.analysis.truth.ceiling_errors import ceiling_error, ceiling_errors
from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import StudyPaths
from cinecube.store.params.document import Study

from .plain_oota2025 import compat_points
from .shared_signal import (
    IDLE,
    OUTSIDE,
    PARCELS,
    SEGMENTS,
    TEST_SEGMENTS,
    TR_S,
    TRAIN_SEGMENTS,
    Drawn,
    draw,
    kinds,
    make_study,
    run,
    write,
)


@pytest.fixture(scope="module")
def small() -> Drawn:
    return draw()


@pytest.fixture(scope="module")
def made(small: Drawn, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Study, xr.Dataset]:
    """The small study, of three subjects, with its ceilings."""
    root = tmp_path_factory.mktemp("small")
    return root, *run(root, small)


def test_planted_ceilings_are_found(tmp_path: Path) -> None:
    """1,500 training and 500 test rows, three subjects with 30 driven targets each."""
    drawn = draw(n_rows=250, per_parcel=10)
    _, cube = run(tmp_path, drawn, block=4096)
    truth = {
        parcel: {
            "sources": [] if parcel == IDLE else [{"model": "vit", "layer": 1}],
            "ceiling": dict.fromkeys(drawn.bold, np.sqrt(2 / 3)),
            "ceiling_one_showing": dict.fromkeys(drawn.bold, np.sqrt(1 / 2)),
        }
        for parcel in PARCELS
    }
    errors = ceiling_errors(cube, {"parcels": truth}, averaged=True)
    assert errors["parcel"].tolist() == [name for name in PARCELS if name != IDLE]
    np.testing.assert_allclose(errors["planted"], np.sqrt(2 / 3))
    assert errors["repeats_error"].abs().max() < 0.02
    assert ceiling_error(errors) == pytest.approx(errors["repeats_error"].abs().mean())
    assert ceiling_error(errors) < 0.015
    assert errors["cross_subject_error"].between(-0.05, 0.01).all()
    assert (errors["converged"] == 1).all()
    idle = cube.isel(target=cube["parcel"].values == IDLE)
    assert np.abs(kinds(idle, "cross_subject").mean(axis=1)).max() < 0.1
    assert np.abs(kinds(idle, "explainable_variance").mean(axis=1)).max() < 0.05
    driven = cube.isel(target=np.isin(cube["parcel"].values, errors["parcel"]))
    np.testing.assert_allclose(kinds(driven, "explainable_variance").mean(axis=1), 1 / 2, atol=0.03)
    np.testing.assert_allclose(kinds(driven, "split_half").mean(axis=1), 1 / 2, atol=0.03)
    for name in ("repeats", "cross_subject"):
        assert (kinds(driven, f"{name}_low") <= kinds(driven, name)).all()
        assert (kinds(driven, name) <= kinds(driven, f"{name}_high")).all()
    separate = make_study(drawn, repeats="separate", block=4096)
    single = make_ceilings(separate, read_brains(separate, tmp_path), tmp_path / "scratch")
    errors = ceiling_errors(single, {"parcels": truth}, averaged=False)
    np.testing.assert_allclose(errors["planted"], np.sqrt(1 / 2))
    assert errors["repeats_error"].abs().max() < 0.02
    assert errors["cross_subject_error"].between(-0.05, 0.01).all()


@pytest.mark.parametrize("per_parcel", [3, 80], ids=["fewer targets than rows", "more targets than rows"])
def test_scores_are_those_of_the_array_functions(per_parcel: int, tmp_path: Path) -> None:
    drawn = draw(n_subjects=3, per_parcel=per_parcel)
    study = make_study(drawn, block=50)
    cohort = read_brains(study, write(tmp_path, drawn)).cohort
    found = score_subsets(cohort, tmp_path / "scratch")
    arrays = {name: drawn.joined(name) for name in drawn.bold}
    expected = cross_subject_scores(arrays, np.arange(240) < 180, cohort.folds)
    for name, scores in expected.items():
        assert found[name].subsets == scores.subsets
        np.testing.assert_allclose(found[name].alpha, scores.alpha, rtol=1e-9)
        np.testing.assert_allclose(found[name].score, scores.score, atol=1e-5)


@pytest.mark.parametrize("per_parcel", [3, 80], ids=["fewer targets than rows", "more targets than rows"])
def test_torch_says_what_numpy_says(per_parcel: int, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    study = make_study(draw(per_parcel=per_parcel), block=50)
    root = write(tmp_path, draw(per_parcel=per_parcel))
    torch = study.model_copy(update={"run": study.run.model_copy(update={"backend": "torch", "device": "cpu"})})
    ours, theirs = (score_subsets(read_brains(one, root).cohort, root / "scratch") for one in (study, torch))
    for name, scores in ours.items():
        np.testing.assert_allclose(theirs[name].score, scores.score, atol=1e-4)


@pytest.mark.parametrize("curve", ["exponential", "reliability"])
def test_the_cube_holds_what_the_array_functions_give(curve: Curve, tmp_path: Path) -> None:
    drawn = draw(n_subjects=4, per_parcel=2)
    study, cube = run(tmp_path, drawn, seed=3, curve=curve)
    folds = read_brains(study, tmp_path).cohort.folds
    scores = cross_subject_scores({name: drawn.joined(name) for name in drawn.bold}, np.arange(240) < 180, folds)
    assert cube["target"].values.tolist() == list(range(100, 100 + drawn.n_targets))
    assert cube["parcel"].values.tolist() == [name for name in PARCELS for _ in range(2)] + [""] * OUTSIDE
    assert cube["subject"].values.tolist() == list(drawn.bold)
    assert cube["size"].values.tolist() == [1, 2, 3]
    for s, (name, own) in enumerate(scores.items()):
        fitted = extrapolate(own.score, own.size, n_bootstraps=20, seed=3, curve=curve)
        for key, values in (("", fitted.ceiling), ("_low", fitted.low), ("_high", fitted.high)):
            np.testing.assert_allclose(kinds(cube, f"cross_subject{key}")[s], values, atol=1e-4)
        np.testing.assert_array_equal(kinds(cube, "cross_subject_converged")[s], fitted.converged)
        growth = cube["cross_subject_score"].sel(subject=name)
        for size in (1, 2, 3):
            np.testing.assert_allclose(growth.sel(size=size), own.score[own.size == size].mean(axis=0), atol=1e-5)
        shown = np.stack([drawn.rows(name, TEST_SEGMENTS, repeat) for repeat in (1, 2)])
        repeats = repeat_ceilings(shown, block_rows=10, n_bootstraps=20, seed=3)
        for key in ("", "_low", "_high"):
            np.testing.assert_allclose(kinds(cube, f"repeats{key}")[s], getattr(repeats, f"averaged{key}"), atol=1e-6)
        np.testing.assert_allclose(kinds(cube, "explainable_variance")[s], repeats.explainable, atol=1e-6)
        np.testing.assert_allclose(kinds(cube, "split_half")[s], repeats.split_half, atol=1e-6)
    separate = make_study(drawn, repeats="separate", seed=3)
    single = make_ceilings(separate, read_brains(separate, tmp_path), tmp_path / "scratch")
    for key in ("", "_low", "_high"):
        np.testing.assert_allclose(kinds(single, f"repeats{key}")[-1], getattr(repeats, f"single{key}"), atol=1e-6)


def test_attributes_say_what_each_is(made: tuple[Path, Study, xr.Dataset]) -> None:
    _, _, cube = made
    assert "lower bound that rises with rows" in cube["cross_subject"].attrs["about"]
    assert "mean over showings" in cube["repeats"].attrs["about"]
    assert all("note" not in cube[name].attrs and cube[name].attrs["about"] for name in cube)
    everybody = ["sub-01", "sub-02", "sub-03"]
    assert json.loads(cube.attrs["rows"]) == [{"subjects": everybody, "sources": everybody, "train": 180, "test": 60}]
    assert ceiling_notes(cube) == []
    assert (cube.attrs["space"], cube.attrs["targets"]) == ("MNI", "voxels")
    assert "v0 (1 - exp(-k / tau))" in cube["cross_subject"].attrs["about"]
    hashed = {"curve": "exponential", "bootstraps": 20, "block_rows": 10, "seed": 0, "compat": None}
    assert json.loads(cube.attrs["spec"])["ceiling"] == hashed


def test_what_is_done_with_ceilings_is_not_in_their_fingerprint(
    small: Drawn, made: tuple[Path, Study, xr.Dataset]
) -> None:
    root, _, cube = made

    def fingerprint(**ceiling: Any) -> str:
        study = make_study(small, **ceiling)
        return str(make_ceilings(study, read_brains(study, root), root / "scratch").attrs["fingerprint"])

    assert fingerprint(use="repeats", threshold=0.2, cap=2, block=50) == cube.attrs["fingerprint"]
    assert fingerprint(seed=1) != cube.attrs["fingerprint"]
    assert fingerprint(curve="reliability") != cube.attrs["fingerprint"]


def test_scrambled_test_rows_change_no_penalty(small: Drawn, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    scrambled = {
        subject: {
            key: 50 * rng.permutation(values) ** 3 + 9 if key[0] in TEST_SEGMENTS else values
            for key, values in runs.items()
        }
        for subject, runs in small.bold.items()
    }
    found = []
    for number, drawn in enumerate((small, Drawn(scrambled))):
        root = write(tmp_path / str(number), drawn)
        found.append(score_subsets(read_brains(make_study(drawn), root).cohort, root / "scratch"))
    for name in small.bold:
        np.testing.assert_array_equal(found[0][name].alpha, found[1][name].alpha)
        assert np.abs(found[0][name].score - found[1][name].score).max() > 0.3


def test_rows_are_those_that_all_subjects_have(small: Drawn, tmp_path: Path) -> None:
    """One scan stops 4 rows early, one begins 2 rows late, one has other segments, one rounds onsets otherwise."""
    cut = {subject: dict(runs) for subject, runs in small.bold.items()}
    cut["sub-01"]["birch01", 1] = cut["sub-01"]["birch01", 1][:-4]
    cut["sub-02"]["dune02", 2] = cut["sub-02"]["dune02", 2][:-3]
    cut["sub-03"]["elm01", 1] = np.full((9, small.n_targets), 1e6)
    drawn = Drawn(cut, shift_s={"sub-03": 1e-6})
    study = make_study(drawn)
    cohort = read_brains(study, write(tmp_path, drawn)).cohort
    group = cohort.group
    counts = {name: 30 - {"birch01": 4, "dune02": 3}.get(name, 0) for name in SEGMENTS}
    assert group.segment.tolist() == [name for name, count in counts.items() for _ in range(count)]
    for name in drawn.bold:
        parts = [small.bold[name][key, 1][: counts[key]].astype(np.float32) for key in TRAIN_SEGMENTS]
        both = [small.rows(name, TEST_SEGMENTS, repeat) for repeat in (1, 2)]
        test = ((both[0] + both[1]) / 2)[: 30 + counts["dune02"]]
        np.testing.assert_allclose(
            cohort.read(name, np.arange(small.n_targets)), np.concatenate([*parts, test]), atol=1e-6
        )


def test_folds_are_segments_with_a_gap_but_no_delays(small: Drawn, made: tuple[Path, Study, xr.Dataset]) -> None:
    root, _, _ = made
    study = make_study(small)
    study = study.model_copy(update={"encode": study.encode.model_copy(update={"folds": 6})})
    cohort = read_brains(study, root).cohort
    assert len(cohort.folds) == 6
    train, held_out = cohort.folds[0]
    segment, onset_s = cohort.group.segment[cohort.train], cohort.group.onset_s[cohort.train]
    assert set(segment[held_out]) == {"amber01"}
    after = segment == "amber02"
    np.testing.assert_array_equal(np.flatnonzero(after & (onset_s >= 4)), np.intersect1d(train, np.flatnonzero(after)))
    assert set(segment[train]) == set(TRAIN_SEGMENTS) - {"amber01"}
    train, held_out = cohort.folds[1]
    before = np.flatnonzero(segment == "amber01")
    # Its last window opens after 29 rows, and rows see one window.
    clear = onset_s[before] + TR_S <= 29 * TR_S - 4
    np.testing.assert_array_equal(before[clear], np.intersect1d(train, before))


def test_without_repeats_only_those_ceilings_are_missing(tmp_path: Path) -> None:
    drawn = draw(repeated=())
    study, cube = run(tmp_path, drawn)
    for name in ("repeats", "repeats_low", "repeats_high", "explainable_variance", "split_half"):
        assert cube[name].isnull().all()
        assert "sub-02 saw the test films once" in cube[name].attrs["note"]
    assert "note" not in cube["cross_subject"].attrs
    assert read_ceiling(study, tmp_path).notnull().all()
    asked = make_study(drawn, use="repeats")
    with pytest.raises(StudyError, match="saw the test films once.*set ceiling.use: cross_subject"):
        read_ceiling(asked, tmp_path)
    assert read_ceiling(asked, tmp_path, required=False).isnull().all()
    none = read_ceiling(make_study(drawn, use="none"), tmp_path)
    assert none.isnull().all()
    assert none.dims == ("subject", "target")


def test_one_subject_has_repeats_alone(tmp_path: Path) -> None:
    drawn = draw(n_subjects=1)
    study, cube = run(tmp_path, drawn)
    assert cube["cross_subject"].isnull().all()
    assert not cube["cross_subject_converged"].any()
    assert cube["cross_subject_score"].isnull().all()
    assert cube["cross_subject"].attrs["note"] == "there is one subject"
    with pytest.raises(StudyError, match="there is one subject.*set ceiling.use: repeats"):
        read_ceiling(study, tmp_path)
    found = read_ceiling(make_study(drawn, use="repeats"), tmp_path)
    assert found.notnull().all()
    assert found.dims == ("subject", "target")
    assert ceiling_growth(cube).empty
    assert (tmp_path / "results/tables/ceiling_growth.csv").read_text() == "subject,size,score\n"


def test_subjects_may_lack_repeats(small: Drawn, tmp_path: Path) -> None:
    bold = {subject: dict(runs) for subject, runs in small.bold.items()}
    for name in TEST_SEGMENTS:
        del bold["sub-02"][name, 2]
    del bold["sub-03"]["dune02", 2]
    drawn = Drawn(bold)
    study, cube = run(tmp_path, drawn, use="repeats")
    known = cube["repeats"].notnull()
    assert known.all("target").values.tolist() == [True, False, False]
    assert not known.sel(subject="sub-03").any()
    note = cube["repeats"].attrs["note"]
    assert note == "sub-02 saw the test films once; sub-03 saw some test films 1 times and others 2 times"
    assert read_ceiling(study, tmp_path).sel(subject="sub-01").notnull().all()
    # A single showing is as good in a film that was shown twice as in one that was not.
    separate = make_study(drawn, repeats="separate")
    single = make_ceilings(separate, read_brains(separate, tmp_path), tmp_path / "scratch")
    assert single["repeats"].notnull().all("target").values.tolist() == [True, False, True]
    shown = np.stack([small.rows("sub-03", ["dune01"], repeat) for repeat in (1, 2)])
    expected = repeat_ceilings(shown, block_rows=10, n_bootstraps=20)
    np.testing.assert_allclose(kinds(single, "repeats")[2], expected.single, atol=1e-6)


def test_absent_and_constant_targets_have_no_ceiling(small: Drawn, tmp_path: Path) -> None:
    bold = {subject: dict(runs) for subject, runs in small.bold.items()}
    for key, values in bold["sub-01"].items():
        bold["sub-01"][key] = values.copy()
        bold["sub-01"][key][:, 2] = 0
        bold["sub-01"][key][:, 3] = np.nan
    _, cube = run(tmp_path, Drawn(bold, missing={"sub-02": [0, 5]}))
    missing = {"sub-01": {102, 103}, "sub-02": {100, 105}, "sub-03": set()}
    for name in ("cross_subject", "repeats", "explainable_variance", "split_half"):
        for subject, targets in missing.items():
            known = cube[name].sel(subject=subject).notnull()
            assert set(cube["target"].values[~known.values]) == targets
    assert not cube["cross_subject_converged"].sel(subject="sub-02", target=[100, 105]).any()
    both = cube["cross_subject_score"].isel(size=1)
    assert both.sel(subject="sub-03").notnull().all()


def test_cubes_that_do_not_fit_are_refused(small: Drawn, tmp_path: Path) -> None:
    study = make_study(small)
    write(tmp_path / "slow", Drawn(small.bold, tr_s=2.0))
    with pytest.raises(StudyError, match="sub-01 brain cube: found a TR of 2 s, expected the study's clock, 1.49 s"):
        read_brains(study, tmp_path / "slow")
    with pytest.raises(StudyError, match="data/brain/sub-01.zarr: found no cube"):
        ceiling(study, tmp_path / "nothing")
    unseen = {
        subject: {key: v for key, v in runs.items() if key[0] != "cedar02"} for subject, runs in small.bold.items()
    }
    write(tmp_path / "unseen", Drawn(unseen))
    with pytest.raises(StudyError, match="brain cubes cedar02: found no rows"):
        read_brains(study, tmp_path / "unseen")
    unseen["sub-01"] = small.bold["sub-01"]
    write(tmp_path / "one", Drawn(unseen))
    assert read_brains(study, tmp_path / "one").cohort.group.counts(["cedar01", "cedar02"])["without"] == ["cedar02"]


def test_compat_is_the_authors_procedure(small: Drawn, tmp_path: Path) -> None:
    study, cube = run(tmp_path, small, compat="oota2025", bootstraps=3)
    train = {name: small.rows(name, TRAIN_SEGMENTS) for name in small.bold}
    points = compat_points(train, {name: small.joined(name)[180:] for name in small.bold})
    blocks = compat_scores(read_brains(study, tmp_path).cohort)
    for s, (name, (x, v)) in enumerate(points.items()):
        np.testing.assert_array_equal(blocks[name].subjects, x)
        np.testing.assert_allclose(blocks[name].score, v, atol=1e-9)
        # Of the same points to the last bit: curves without saturation end in the thousands, wherever rounding leads.
        fitted = compat_ceiling(x, blocks[name].score, n_bootstraps=3)
        np.testing.assert_allclose(kinds(cube, "cross_subject")[s], fitted, rtol=1e-6)
        for k in (1, 2):
            mean = cube["cross_subject_score"].sel(subject=name, size=k)
            np.testing.assert_allclose(mean, v[x == k + 1].mean(axis=0), atol=1e-6)
    assert cube["cross_subject_low"].isnull().all()
    assert "Oota et al. 2025, exactly" in cube["cross_subject"].attrs["about"]
    assert cube["repeats"].notnull().all()
    assert json.loads(cube.attrs["spec"])["ceiling"]["compat"] == "oota2025"


def test_a_second_run_gives_the_same_bytes(small: Drawn, made: tuple[Path, Study, xr.Dataset], tmp_path: Path) -> None:
    root, study, _ = made
    again = shutil.copytree(root, tmp_path / "again")
    ceiling(study, again)
    for path in ("data/ceiling.zarr", "results"):
        assert tree_digest(again / path) == tree_digest(root / path)
    assert not list((again / ".cinecube").rglob("*.np*"))


def test_an_interrupted_run_goes_on_where_it_was(
    small: Drawn, made: tuple[Path, Study, xr.Dataset], tmp_path: Path
) -> None:
    root, study, _ = made
    again = shutil.copytree(root / "data", tmp_path / "again/data").parent
    shutil.rmtree(StudyPaths(again).ceiling)

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ceiling(study, again, stop)
    assert not StudyPaths(again).ceiling.exists()
    assert not (StudyPaths(again).scratch / "ceiling").exists()
    seen: list[tuple[int, int]] = []
    ceiling(study, again, lambda done, total: seen.append((done, total)))
    # Three subjects: nine pairs of a subset and a subject outside it, 14 targets in blocks of 5.
    assert seen == [(done, 27) for done in range(5, 28)]
    assert tree_digest(StudyPaths(again).ceiling) == tree_digest(StudyPaths(root).ceiling)


def test_kernels_and_factors_are_gone_afterwards(tmp_path: Path) -> None:
    drawn = draw(n_subjects=2, per_parcel=50)
    study = make_study(drawn, block=4096)
    folder = StudyPaths(write(tmp_path, drawn)).scratch / "ceiling"
    seen: list[set[str]] = []
    ceiling(study, tmp_path, lambda done, total: seen.append({path.parent.name for path in folder.rglob("*.npy")}))
    assert {"ceiling", "wave0"} <= set().union(*seen)
    assert all(len(waves - {"ceiling"}) <= 1 for waves in seen)  # factors of one wave of subsets at a time
    assert not folder.exists()


def test_growth_is_the_mean_over_targets_in_parcels(made: tuple[Path, Study, xr.Dataset]) -> None:
    root, _, cube = made
    growth = ceiling_growth(cube)
    assert growth["subject"].tolist() == ["all"] * 2 + ["sub-01"] * 2 + ["sub-02"] * 2 + ["sub-03"] * 2
    for subject, size, score in growth.itertuples(index=False):
        values = cube["cross_subject_score"].sel(size=size).isel(target=slice(0, 12))
        own = values if subject == "all" else values.sel(subject=subject)
        assert score == pytest.approx(float(own.astype(float).mean()))
    assert growth["score"].iloc[1] > growth["score"].iloc[0]
    table = pd.read_csv(root / "results/tables/ceiling_growth.csv")
    np.testing.assert_allclose(table["score"], growth["score"], atol=1e-6)
    plot = pd.read_csv(root / "results/plots/ceiling.csv")
    assert plot.columns.tolist() == ["size", "score"]
    np.testing.assert_allclose(plot["score"], growth["score"][:2], atol=1e-6)
