"""From score cubes to findings: ceilings, regions, depth, significance; on planted cubes without films."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from cinecube.analysis.ceilings.stage import ceiling
from cinecube.analysis.cubes import tables
from cinecube.analysis.cubes.results import read_ceiling
from cinecube.analysis.encoders.predictions import choose, predict
from cinecube.analysis.encoders.problem import read_problem
from cinecube.analysis.encoders.stage import encode
from cinecube.analysis.regions import roi_tables
from cinecube.analysis.regions.gradients import compare_depth, preferred_depth
from cinecube.analysis.regions.rois import Members
from cinecube.analysis.regions.stage import layerwise, twins, whole_brain
from cinecube.analysis.significance import significance_tables
from cinecube.analysis.significance.stage import significance
from cinecube.analysis.statistics.nulls import MIN_BLOCKS
from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import open_cube
from cinecube.store.params.analysis_params import Statistics
from cinecube.store.params.document import Study
from cinecube.store.params.model_params import ModelParams

from .conftest import MODEL, PLANTED, make_study

DRIVEN = [parcel for parcel, source in PLANTED.items() if source]
IDLE = [parcel for parcel, source in PLANTED.items() if not source]
SUBJECTS = ("sub-01", "sub-02", "sub-03", "sub-04")


def _study(**changes: object) -> Study:
    study = make_study(SUBJECTS)
    return study.model_copy(update={"statistics": Statistics(permutations=999, block_rows=10), **changes})


@pytest.fixture(scope="module")
def analysed(synthetic: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with scores, ceilings, tables and significance."""
    root = shutil.copytree(synthetic(subjects=SUBJECTS, noise=1.0), tmp_path_factory.mktemp("findings") / "study")
    study = _study()
    encode(study, root, MODEL)
    ceiling(study, root)
    whole_brain(study, root)
    layerwise(study, root)
    significance(study, root)
    return root


def test_driven_parcels_are_significant_and_idle_ones_are_not(analysed: Path) -> None:
    cube = open_cube(StudyPaths(analysed).significance)
    counts = significance_tables.counts_table(cube, 0.05)
    share = counts.groupby("parcel")["share"].mean()
    assert (share[DRIVEN] > 0.9).all()
    assert (share[IDLE] < 0.2).all()
    p = cube["p"].isel(target=np.isin(cube["parcel"].values, IDLE)).values
    assert 0.0 < (p[np.isfinite(p)] < 0.05).mean() < 0.12
    assert (cube["group_q"].isel(model=0, target=np.isin(cube["parcel"].values, DRIVEN)) < 0.05).mean() > 0.9


def test_tested_scores_are_those_of_the_layer_that_training_films_chose(analysed: Path) -> None:
    """All 100 test rows lie in blocks, so r over them is the score of the score cube."""
    scores = open_cube(StudyPaths(analysed).scores(MODEL)).load()
    tested = open_cube(StudyPaths(analysed).significance).load()
    best = scores["cv_score"].fillna(-np.inf).argmax("layer")
    expected = scores["score"].isel(layer=best)
    np.testing.assert_allclose(tested["score"].values, expected.values, atol=2e-5)


def test_no_scan_of_the_test_film_changes_what_is_predicted(
    analysed: Path, synthetic: Callable[..., Path], tmp_path: Path
) -> None:
    study = _study()
    scrambled = shutil.copytree(synthetic(subjects=SUBJECTS, noise=1.0, scramble_test=True), tmp_path / "study")
    encode(study, scrambled, MODEL)
    found = []
    for root in (analysed, scrambled):
        problem = read_problem(study, root, MODEL)
        chosen = choose(open_cube(StudyPaths(root).scores(MODEL)), problem.brains)
        parts = list(predict(problem, chosen))
        found.append((chosen, parts))
    for name in SUBJECTS:
        np.testing.assert_array_equal(found[0][0].layer[name], found[1][0].layer[name])
        np.testing.assert_array_equal(found[0][0].alpha[name], found[1][0].alpha[name])
    for before, after in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_array_equal(before.prediction, after.prediction)
        assert not np.array_equal(before.truth, after.truth)


def test_films_too_short_for_blocks_are_refused_by_name(analysed: Path) -> None:
    study = _study(statistics=Statistics(permutations=9, block_rows=100 // MIN_BLOCKS + 1))
    with pytest.raises(StudyError, match=f"at least {MIN_BLOCKS} blocks"):
        significance(study, analysed)
    assert not list((analysed / ".cinecube").rglob("*.npy"))


def test_a_comparison_without_scores_is_refused_by_name(analysed: Path) -> None:
    study = _study(statistics=Statistics(compare=[(MODEL, f"{MODEL}.audio")]))
    with pytest.raises(StudyError, match=f"no scores of '{MODEL}.audio'"):
        significance(study, analysed)


def test_the_longest_name_owns_a_stream() -> None:
    study = make_study()
    plain = study.models[MODEL]
    study = study.model_copy(update={"models": {MODEL: plain, f"{MODEL}.v2": plain}})
    assert study.owner(f"{MODEL}.audio") == MODEL
    assert study.owner(f"{MODEL}.v2") == study.owner(f"{MODEL}.v2.audio") == f"{MODEL}.v2"


def test_a_second_run_gives_the_same_bytes(analysed: Path, tmp_path: Path) -> None:
    root = shutil.copytree(analysed, tmp_path / "study")
    significance(_study(), root)
    whole_brain(_study(), root)
    for folder in ("results/significance.zarr", "results/tables"):
        for path in sorted((analysed / folder).rglob("*")):
            if path.is_file():
                assert path.read_bytes() == (root / path.relative_to(analysed)).read_bytes(), path


def test_normalised_scores_are_shares_of_the_ceiling(analysed: Path) -> None:
    study = _study()
    parcels = tables.read_table(StudyPaths(analysed).tables / "normalised.csv")
    cube, limit = open_cube(StudyPaths(analysed).scores(MODEL)).load(), read_ceiling(study, analysed)
    row = parcels[(parcels["parcel"] == "L_V2") & (parcels["subject"] == "sub-02")].iloc[0]
    inside = cube["parcel"].values == "L_V2"
    score = cube["score"].sel(subject="sub-02", model=MODEL, layer=row["layer"]).values[inside]
    ceilings = limit.sel(subject="sub-02", target=cube["target"].values[inside]).values
    assert (ceilings > 0.05).all()
    assert row["score"] == pytest.approx(score.mean(), abs=1e-6)
    assert row["normalised"] == pytest.approx(np.minimum(score / ceilings, 1).mean(), abs=1e-5)
    idle = parcels[parcels["parcel"].isin(IDLE)]
    assert (idle["above"] <= idle["targets"]).all()
    assert idle["above"].sum() < idle["targets"].sum()


def test_regions_weigh_parcels_alike_and_the_whole_brain_weighs_targets() -> None:
    parcels = pd.DataFrame(
        [
            ("a", "s1", "m", "l", 0.2, 0.4, 30, 30),
            ("b", "s1", "m", "l", 0.6, 0.8, 10, 5),
            ("c", "s1", "m", "l", 0.1, np.nan, 10, 0),
        ],
        columns=["parcel", "subject", "model", "layer", "score", "normalised", "targets", "above"],
    )
    found = roi_tables.region_scores(parcels, Members({"R": ("a", "b"), "Q": ("c",)}, ())).set_index("roi")
    assert found.loc["R", ["score", "normalised", "survive"]].tolist() == pytest.approx([0.4, 0.6, 35 / 40])
    assert found.loc["Q", "score"] == pytest.approx(0.1)
    assert np.isnan(found.loc["Q", "normalised"])
    assert found.loc["Q", "survive"] == 0
    whole = found.loc[roi_tables.WHOLE_BRAIN]
    assert whole["score"] == pytest.approx((0.2 * 30 + 0.6 * 10 + 0.1 * 10) / 50)
    assert whole["normalised"] == pytest.approx((0.4 * 30 + 0.8 * 5) / 35)
    assert whole["survive"] == pytest.approx(35 / 50)


def test_early_regions_prefer_earlier_layers(analysed: Path) -> None:
    """V1 and V2 follow blocks 0 and 2, FFC the last: as regions of the user they must differ in every subject."""
    depths = preferred_depth([open_cube(StudyPaths(analysed).scores(MODEL))])
    by_parcel = depths.groupby("parcel")["depth"].mean()
    for parcel in DRIVEN:
        source = PLANTED[parcel]
        assert source is not None
        assert by_parcel[parcel] == pytest.approx(source[0] / 12, abs=0.1)
    members = Members({"EV": ("L_V1", "L_V2"), "AG": ("L_FFC", "L_MT")}, ())
    row = compare_depth(depths, members).iloc[0]
    assert row["difference"] == pytest.approx((1 + 0.75) / 2 - (0 + 2 / 12) / 2, abs=0.1)
    assert row["p"] == row["smallest_p"] == 1 / 16
    assert compare_depth(depths, Members({"EV": ("L_V1",)}, ())).empty


def test_untrained_twins_are_found_by_their_parameters() -> None:
    study = make_study()
    plain = study.models[MODEL]
    twin = plain.model_copy(update={"untrained": 3})
    other = ModelParams(extractor="vit", checkpoint="elsewhere", untrained=0)
    study = study.model_copy(update={"models": {MODEL: plain, "fresh": twin, "stranger": other}})
    scores = pd.DataFrame(
        [
            ("R", f"s{s}", model, value + 0.01 * s**2)
            for s in range(6)
            for model, value in ((MODEL, 0.3), ("fresh", 0.1), ("stranger", 0.2))
        ],
        columns=["roi", "subject", "model", "score"],
    )
    scores.loc[scores["model"] == "fresh", "score"] *= 0.5
    assert twins(study, scores) == {MODEL: "fresh"}
    row = roi_tables.untrained_table(scores, twins(study, scores)).iloc[0]
    assert (row["model"], row["untrained"]) == (MODEL, "fresh")
    assert row["p"] == row["smallest_p"] == 1 / 32
    assert row["score"] - row["untrained_score"] == pytest.approx(row["mean_difference"])


def test_differences_name_the_better_model() -> None:
    cube = xr.Dataset(
        {
            "difference": (("subject", "comparison", "target"), np.array([[[0.2, -0.3, 0.1, 0.2]]])),
            "difference_q": (("subject", "comparison", "target"), np.array([[[0.01, 0.04, 0.2, np.nan]]])),
        },
        coords={
            "subject": ["s1"],
            "comparison": ["a - b"],
            "parcel": ("target", np.array(["p", "p", "p", "p"], object)),
        },
        attrs={"block_rows": '{"s1": {"a - b": 20}}'},
    )
    row = significance_tables.differences_table(cube, 0.05).iloc[0]
    assert row[["targets", "first_better", "second_better", "block_rows"]].tolist() == [3, 1, 1, 20]
