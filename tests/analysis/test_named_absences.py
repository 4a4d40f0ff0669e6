"""What has no score is said by name: features and responses that do not vary, numbers that were lost."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

from cinecube.analysis.ceilings.stage import ceiling
from cinecube.analysis.cubes.results import read_scores
from cinecube.analysis.cubes.tables import EVERYONE, layer_table, preferred_layers, read_table, whole_brain_means
from cinecube.analysis.cubes.unscored import SCORED, STILL
from cinecube.analysis.encoders.stage import encode
from cinecube.analysis.maps.export import export_map
from cinecube.analysis.maps.map_values import map_values
from cinecube.analysis.partition.layers import choose_layers
from cinecube.analysis.partition.stage import partition
from cinecube.analysis.regions.gradients import compare_depth, preferred_depth
from cinecube.analysis.regions.rois import Members
from cinecube.analysis.regions.stage import layerwise, whole_brain
from cinecube.analysis.report.stage import write_report
from cinecube.analysis.residuals.residual_cubes import make_residual
from cinecube.analysis.residuals.residual_tables import pair_scores, residual
from cinecube.features.extraction.constant import Telling
from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.checksums import write_checksums
from cinecube.store.cube.cubes import open_cube, write_cube
from cinecube.store.cube.guarded import judged_by_reader
from cinecube.store.cube.schema import string_coordinate

from .absence_study import (
    EARS,
    EYES,
    FILMS,
    LABELS,
    PAIR,
    SEGMENTS,
    SOLO,
    SUBJECTS,
    TEST,
    Bold,
    Features,
    draw,
    make_study,
    run_all,
    write,
)

PAIRS = [{"keep": SOLO, "remove": EYES}]
SECTIONS: dict[str, Any] = {
    "residual": PAIRS,
    "partition": [[EYES, SOLO]],
    "unimodal": {"video": [EYES], "audio": [EARS]},
}
TRAINED = [name for film, names in FILMS.items() if film not in TEST for name in names]
TESTED = [name for film in TEST for name in FILMS[film]]


def still(features: Features, stream: str, *layers: str, segments: list[str] = SEGMENTS, value: float = 3.0) -> None:
    for layer, segment in itertools.product(layers, segments):
        features[stream, layer][segment][:] = value


def silence(bold: Bold, subject: str, targets: Any, segments: list[str] = SEGMENTS, value: float = 0.0) -> None:
    for (segment, _), values in bold[subject].items():
        if segment in segments:
            values[:, targets] = value


def rewrite(path: Path, change: Callable[[xr.Dataset], Any]) -> None:
    """Change a cube's numbers behind its back."""
    with judged_by_reader():  # or a second change could not read what the first has lost
        cube = open_cube(path).load()
    changed = change(cube)
    shutil.rmtree(path)
    write_cube(path, cube if changed is None else changed)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plain study with scores of both models."""
    root = write(tmp_path_factory.mktemp("plain"), *draw())
    for model in ("bind", "solo"):
        encode(make_study(), root, model)
    return root


@pytest.fixture
def copied(scored: Path, tmp_path: Path) -> Path:
    return shutil.copytree(scored, tmp_path / "study")


@pytest.fixture(scope="module")
def deaf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study: one of a network's streams is dead, the best layer of another too; a parcel was never seen."""
    features, bold = draw()
    still(features, EARS, "embed", "block01")
    still(features, EYES, "block02")
    for subject in SUBJECTS:
        silence(bold, subject, slice(6, 9), value=np.nan)
    root = write(tmp_path_factory.mktemp("deaf"), features, bold)
    run_all(make_study(**SECTIONS), root)
    return root


def test_a_constant_layer_has_no_scores_and_changes_no_other(scored: Path, tmp_path: Path, caplog: Any) -> None:
    features, bold = draw()
    still(features, EYES, "embed")
    root = write(tmp_path, features, bold)
    encode(make_study(), root, "bind")
    cube, plain = (open_cube(StudyPaths(place).scores("bind")).load() for place in (root, scored))
    assert cube["constant"].sel(model=EYES).values.tolist() == [True, False, False]
    for name in ("score", "cv_score", "alpha"):
        assert cube[name].sel(model=EYES, layer="embed").isnull().all()
        xr.testing.assert_equal(cube[name].sel(layer="block01"), plain[name].sel(layer="block01"))
    assert (cube["unscored"] == SCORED).all()
    assert f"{EYES}: no scores at embed: features are constant" in caplog.text
    assert "responses" not in caplog.text


def test_a_dead_layer_is_nowhere_the_best_and_takes_no_target_out_of_means(tmp_path: Path) -> None:
    features, bold = draw()
    still(features, EYES, "embed")
    # With penalties so small what is fitted to noise does worse on held-out rows than a layer that predicts nothing.
    alphas = {"min": 1, "max": 10, "n": 2}
    study = make_study(encode={"alphas": alphas, "delays": [1, 2], "folds": 4})
    root = write(tmp_path, features, bold)
    for model in ("bind", "solo"):
        encode(study, root, model)
    preferred = preferred_layers(layer_table(read_scores(study, root)))
    assert (preferred.loc[(preferred["model"] == EYES) & (preferred["parcel"] == "R_44"), "cv_score"] < 0).all()
    assert "embed" not in set(preferred.loc[preferred["model"] == EYES, "layer"])
    means = whole_brain_means(preferred)
    assert (means["targets"] == np.where(means["subject"] == EVERYONE, 24, 12)).all()


@pytest.mark.parametrize("segments", [SEGMENTS, TRAINED, TESTED], ids=["everywhere", "in training", "in the test"])
def test_features_of_which_nothing_varies_are_refused_before_the_work(tmp_path: Path, segments: list[str]) -> None:
    features, bold = draw()
    still(features, SOLO, "embed", "block01", segments=segments)
    root = write(tmp_path, features, bold)
    told: list[Any] = []
    with pytest.raises(StudyError, match=r"features of solo: found values that are constant .* at embed, block01"):
        encode(make_study(), root, "solo", lambda *done: told.append(done))
    assert not told
    assert not StudyPaths(root).scores("solo").exists()


def test_dead_dims_and_scales_change_nothing(scored: Path, tmp_path: Path) -> None:
    features, bold = draw()
    for segment in SEGMENTS:
        own = features[SOLO, "block01"]
        own[segment] = np.hstack([own[segment][:, :3] * 1e30, own[segment][:, 3:] * 1e-30])
        own[segment][:, 5] = 1.0
    root = write(tmp_path, features, bold)
    encode(make_study(), root, "solo")
    found, plain = (open_cube(StudyPaths(place).scores("solo")).load() for place in (root, scored))
    assert not found["constant"].any()
    xr.testing.assert_allclose(found["score"].sel(layer="embed"), plain["score"].sel(layer="embed"))
    assert np.isfinite(found["score"]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_that_is_no_number_is_named_and_not_blamed_on_the_brain(copied: Path, value: float) -> None:
    path = StudyPaths(copied).features("solo", "birch")
    zarr.open_group(path, mode="r+", use_consolidated=False)["features"][67, 2, 0, 1] = value
    write_checksums(path)  # or it were bytes in another's place
    where = r"features of solo birch block01, birch2 at 10\.5 s: found NaN or infinity in 1 of 6 dims"
    for work in (
        lambda: encode(make_study(), copied, "solo"),
        lambda: make_residual(make_study(residual=PAIRS), copied, PAIR),
        lambda: partition(make_study(partition=[[EYES, SOLO]]), copied),
    ):
        with pytest.raises(StudyError, match=where):
            work()


def test_an_infinite_response_is_named(copied: Path) -> None:
    def spoil(cube: xr.Dataset) -> None:
        cube["bold"][70, 4] = np.inf

    rewrite(StudyPaths(copied).brain("sub-02"), spoil)
    with pytest.raises(StudyError, match=r"sub-02 brain cube, amber2 at 15 s: found NaN or infinity .* of 1 targets"):
        encode(make_study(), copied, "solo")


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_subject_without_responses_is_refused(tmp_path: Path, value: float) -> None:
    features, bold = draw()
    silence(bold, "sub-02", slice(None), value=value)
    root, study = write(tmp_path, features, bold), make_study()
    for work in (lambda: encode(study, root, "solo"), lambda: ceiling(study, root)):
        with pytest.raises(StudyError, match="brain cube of sub-02: found no target whose responses vary"):
            work()


def test_targets_that_do_not_vary_have_no_number_at_all(tmp_path: Path, caplog: Any) -> None:
    features, bold = draw()
    silence(bold, "sub-01", [0], TESTED)
    silence(bold, "sub-01", [1], TRAINED)
    silence(bold, "sub-01", [3], FILMS["amber"])
    silence(bold, "sub-02", [2], value=np.nan)
    root = write(tmp_path, features, bold)
    for model in ("bind", "solo"):
        encode(make_study(), root, model)
    expected = np.zeros((2, len(LABELS)), dtype=bool)
    expected[0, :2] = expected[1, 2] = True
    for cube in read_scores(make_study(), root):
        np.testing.assert_array_equal(cube["unscored"] == STILL, expected)
        for name in ("score", "cv_score", "lag_score"):
            missing = cube[name].isnull().transpose("subject", "target", ...).values.reshape(*expected.shape, -1)
            np.testing.assert_array_equal(missing.all(axis=2), expected)
    assert "sub-01: no scores in 2 of 12 targets, whose responses are absent or constant" in caplog.text
    assert "100, 101" in caplog.text


def _lose_one(cube: xr.Dataset) -> None:
    cube["score"][1, 0, 1, 5] = np.nan


def _lose_layer(cube: xr.Dataset) -> None:
    cube["cv_score"][:, 0, 1] = np.nan


def _lose_stream(cube: xr.Dataset) -> None:
    cube["score"][:, 0] = np.nan


def _lose_subject(cube: xr.Dataset) -> None:
    for name in ("score", "cv_score"):
        cube[name][1] = np.nan


def _lose_target(cube: xr.Dataset) -> None:
    for name in ("score", "cv_score"):
        cube[name][0, :, :, 2] = np.nan


def _infinite(cube: xr.Dataset) -> None:
    cube["score"][0, 0, 0, 0] = np.inf


LOST = {
    _lose_one: "solo block01: found score of sub-02 that is NaN or infinite in 1 targets",
    _lose_layer: "solo block01: found cv_score of sub-01 that is NaN or infinite in 12 targets",
    _lose_stream: "solo embed: found score of sub-01 that is NaN or infinite in 12 targets",
    _lose_subject: "solo embed: found cv_score of sub-02 that is NaN or infinite in 12 targets",
    _lose_target: "solo embed: found cv_score of sub-01 that is NaN or infinite in 1 targets",
    _infinite: "solo embed: found score of sub-01 that is NaN or infinite in 1 targets",
}


@pytest.mark.parametrize("injury", LOST, ids=lambda injury: injury.__name__)
def test_a_score_that_is_missing_without_a_reason_is_an_error(copied: Path, injury: Any) -> None:
    rewrite(StudyPaths(copied).scores("solo"), injury)
    study = make_study(residual=PAIRS, partition=[[EYES, SOLO]])
    shutil.copytree(StudyPaths(copied).scores("solo"), StudyPaths(copied).scores(PAIR))
    rewrite(StudyPaths(copied).scores(PAIR), lambda cube: cube.assign_coords(model=string_coordinate([PAIR])))
    for read in (
        lambda: whole_brain(study, copied),
        lambda: layerwise(study, copied),
        lambda: choose_layers(study, copied),
        lambda: pair_scores(study, copied, study.residual[0]),
        lambda: map_values(study, copied, "score", SOLO),
    ):
        with pytest.raises(StudyError, match=f"results/scores/solo.zarr {LOST[injury]}"):
            read()


def test_cubes_must_agree_about_what_has_scores(copied: Path) -> None:
    def hide(cube: xr.Dataset) -> None:
        _lose_target(cube)
        cube["unscored"][0, 2] = STILL

    rewrite(StudyPaths(copied).scores("solo"), hide)
    with pytest.raises(StudyError, match=r"solo\.zarr: found 1 targets of sub-01 with scores here and none there"):
        read_scores(make_study(), copied)


def test_older_cubes_are_read_where_what_is_missing_is_missing_everywhere(copied: Path) -> None:
    def age(cube: xr.Dataset) -> xr.Dataset:
        cube["score"][0, :, :, 2] = np.nan
        cube["cv_score"][0, :, :, 2] = np.nan
        return cube.drop_vars(["constant", "unscored"])

    for model in ("bind", "solo"):
        rewrite(StudyPaths(copied).scores(model), age)
    assert len(read_scores(make_study(), copied)) == 2
    rewrite(StudyPaths(copied).scores("solo"), _lose_one)
    with pytest.raises(StudyError, match="solo block01: found score of sub-02 that is NaN"):
        read_scores(make_study(), copied)
    rewrite(StudyPaths(copied).scores("solo"), _lose_subject)
    with pytest.raises(StudyError, match="found no scores of sub-02 in any target"):
        read_scores(make_study(), copied)


def test_every_table_has_a_row_for_what_has_no_score(deaf: Path) -> None:
    tables = StudyPaths(deaf).tables
    found = {path.stem: read_table(path) for path in tables.glob("*.csv")}
    for name in ("whole_brain", "whole_brain_mean", "normalised", "layerwise"):
        own = found[name][found[name]["model"] == EARS]
        assert set(own["subject"]) >= set(SUBJECTS), name
        assert own["score"].isna().all(), name
        assert (own["targets"] == 0).all(), name
    for name in ("roi", "roi_mean"):
        own = found[name][found[name]["model"] == EARS]
        assert len(own) >= 5, name
        assert own["score"].isna().all(), name
        seen = found[name][(found[name]["model"] == SOLO) & (found[name]["roi"] == "L_MT")]
        assert len(seen), name
        assert seen["score"].isna().all(), name
    assert (found["roi_mean"].set_index("model").loc[EARS, "subjects"] == 0).all()
    assert set(found["lag"].loc[found["lag"]["lag"].isna(), "model"]) == {EARS, EYES, SOLO}  # L_MT has none of any
    eyes = found["layerwise"][(found["layerwise"]["model"] == EYES) & (found["layerwise"]["subject"] == EVERYONE)]
    assert set(eyes["layer"]) == {"embed", "block01", "block02"}
    assert eyes.loc[eyes["layer"] == "block02", "score"].isna().all()
    chosen = found["whole_brain"]
    assert not (chosen.loc[chosen["model"] == EYES, "layer"] == "block02").any()
    assert not chosen.loc[chosen["model"] == EARS, "best_model"].any()
    assert set(chosen["parcel"]) == set(LABELS)
    share = found["significance"].set_index(["model", "parcel"])["share"]
    assert share.loc[EARS].isna().all()
    assert share.loc[(SOLO, "L_MT")].isna().all()
    for name in ("residual", "partition"):
        own = found[name][found[name]["parcel"] == "L_MT"]
        assert len(own), name
        assert (own["targets"] == 0).all(), name
    assert (StudyPaths(deaf).results / "figures" / "figure2.csv").read_text().count(EARS) == 1


def test_plots_of_dvc_leave_out_what_they_would_draw_as_zero(deaf: Path) -> None:
    plots = StudyPaths(deaf).plots
    for path in plots.rglob("*.csv"):
        assert not pd.read_csv(path).isna().any(axis=None), path
    assert not (plots / "layers" / f"{EARS}.csv").exists()
    assert (plots / "layers" / f"{EYES}.csv").exists()


def test_report_and_metrics_say_what_has_no_score(deaf: Path) -> None:
    metrics = json.loads(StudyPaths(deaf).metrics.read_text(), parse_constant=pytest.fail)
    assert metrics["whole_brain"][EARS] is None
    assert metrics["best_model"] in (EYES, SOLO)
    page = StudyPaths(deaf).report.read_text()
    for words in (
        f"{EARS}: no scores at any layer: features are constant",
        f"{EYES}: no scores at block02: features are constant",
        "sub-01: no target with scores in L_MT",
        f"No map of {EARS}",
    ):
        assert words in page
    assert ">nan<" not in page
    assert ">None<" not in page


def test_a_map_without_a_value_is_not_written(deaf: Path, tmp_path: Path, caplog: Any) -> None:
    study = make_study()
    with pytest.raises(StudyError, match="found a map without a value in any of 12 targets"):
        export_map(*map_values(study, deaf, "score", EARS), tmp_path / "ears.csv")
    assert not list(tmp_path.iterdir())
    with caplog.at_level("INFO"):
        export_map(*map_values(study, deaf, "score", SOLO), tmp_path / "solo.csv")
    assert "3 of 12 targets have no value" in caplog.text


def test_a_dead_stream_is_refused_where_it_is_asked_for(deaf: Path) -> None:
    with pytest.raises(StudyError, match=f"found no cv_score of {EARS} in any parcel"):
        choose_layers(make_study(partition=[[EARS, SOLO]]), deaf)
    for keep, remove in ((SOLO, EARS), (EARS, SOLO)):
        study = make_study(residual=[{"keep": keep, "remove": remove}])
        with pytest.raises(StudyError, match=f"found features of {EARS} that are constant .* at embed, block01"):
            make_residual(study, deaf, f"{keep}-{remove}")
    with pytest.raises(StudyError, match="two different streams"):
        make_study(residual=[{"keep": SOLO, "remove": SOLO}])


def test_where_nothing_is_left_all_is_lost(scored: Path, tmp_path: Path, caplog: Any) -> None:
    features, bold = draw()
    for segment in SEGMENTS:
        features[EYES, "block01"][segment] = features[SOLO, "block01"][segment][:, :5].copy()
        features[EYES, "block02"][segment] = features[SOLO, "block01"][segment][:, 1:].copy()
    root = write(tmp_path, features, bold)
    study = make_study(residual=PAIRS)
    for model in ("bind", "solo"):
        encode(study, root, model)
    make_residual(study, root, PAIR)
    encode(study, root, PAIR)
    residual(study, root)
    assert f"{PAIR}: nothing is left of block01" in caplog.text
    table = read_table(StudyPaths(root).tables / "residual.csv")
    seen = table[(table["parcel"] == "L_MT") & (table["subject"] == EVERYONE)].iloc[0]
    assert seen["full"] > 0.3
    assert seen[["residual", "drop", "targets"]].tolist() == [0.0, 100.0, 6]


def test_a_subject_without_a_ceiling_is_named(tmp_path: Path, caplog: Any) -> None:
    features, bold = draw()
    for segment in TESTED:
        del bold["sub-02"][segment, 2]
    root, study = write(tmp_path, features, bold), make_study(models=["solo"])
    encode(study, root, "solo")
    ceiling(study, root)
    whole_brain(study, root)
    assert "no repeats ceiling of sub-02" in caplog.text
    table = read_table(StudyPaths(root).tables / "roi_mean.csv")
    assert (table["subjects"] == 2).all()
    assert set(table["normalised_subjects"]) <= {0, 1}


def test_the_smallest_study_runs_and_a_smaller_one_is_refused(tmp_path: Path) -> None:
    features, bold = draw(["sub-01"])
    del features[SOLO, "embed"]
    root = write(tmp_path, {**features, (SOLO, "embed"): dict.fromkeys(SEGMENTS, np.ones((60, 6)))}, bold)
    rewrite(StudyPaths(root).brain("sub-01"), lambda cube: cube.isel(target=[6]))
    films = {film: FILMS[film] for film in ("amber", "dune")}
    split = {"train": ["amber"], "test": TEST, "gap_s": 3}
    study = make_study(["sub-01"], ["solo"], films=films, split=split, compute={"models": ["solo"], "films": [*films]})
    run_all(study, root)
    mean = read_table(StudyPaths(root).tables / "whole_brain_mean.csv").set_index("subject")
    assert mean.loc["sub-01", "targets"] == 1
    assert mean.loc["sub-01", "score"] > 0.3
    films["amber"] = ["amber1"]
    with pytest.raises(StudyError, match="segment"):
        encode(study.model_copy(update={"films": films}), root, "solo")


def test_delays_that_no_run_is_long_enough_for_are_refused(copied: Path) -> None:
    study = make_study()
    long = study.model_copy(update={"encode": study.encode.model_copy(update={"delays": [80]})})
    with pytest.raises(StudyError, match=r"encode\.delays: found \[80\], and no run of the training films"):
        encode(long, copied, "solo")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_layers_that_are_constant_over_a_film_are_named(caplog: Any, dtype: str) -> None:
    rng = np.random.default_rng(0)
    layers = rng.normal(size=(2, 2, 30, 4)).astype(dtype)
    layers[0, 1] = layers[0, 1, :1]
    layers[1, 0, :, :3] = 0  # some dead dims are no dead layer
    telling = Telling(lambda m, k: layers[m, k])
    for m, k in np.ndindex(2, 2):
        np.testing.assert_array_equal(telling(m, k), layers[m, k])
    telling.tell("amber", np.array(["eyes", "ears"]), np.array(["embed", "block01"]))
    assert [record.getMessage() for record in caplog.records] == [
        "amber: the same features in all rows, which predict nothing: eyes block01"
    ]


def test_the_report_can_be_written_again(deaf: Path) -> None:
    """Its tables are read back from files, where an empty cell is NaN."""
    before = StudyPaths(deaf).report.read_bytes()
    write_report(
        make_study(residual=PAIRS, partition=[[EYES, SOLO]], unimodal={"video": [EYES], "audio": [EARS]}), deaf
    )
    assert StudyPaths(deaf).report.read_bytes() == before


def test_the_report_names_runs_that_a_subject_lacks(deaf: Path, tmp_path: Path) -> None:
    """Showings that another subject has, and segments that nobody has; no subject that has all is named."""
    root = shutil.copytree(deaf, tmp_path / "study")
    paths, study = StudyPaths(root), make_study(**SECTIONS)
    assert "no scan of" not in paths.report.read_text(encoding="utf-8")
    lost, nobody = TRAINED[1], TRAINED[2]
    rows = [(name, repeat) for name in SEGMENTS for repeat in (1, 2)[: 1 + (name in TESTED)] if name != nobody]
    for subject in SUBJECTS:
        kept = rows if subject == "sub-01" else [row for row in rows if row[0] != lost and row != (TESTED[0], 2)]
        table = pd.DataFrame(kept, columns=["segment", "repeat"]).assign(missing_segments="in words above the table")
        table.to_csv(paths.brain_qc(subject), index=False)
    write_report(study, root)
    page = paths.report.read_text(encoding="utf-8")
    assert f"<li>sub-01: no scan of {nobody}</li>" in page
    assert f"<li>sub-02: no scan of {lost}, {nobody}, {TESTED[0]} (repeat 2)</li>" in page
    assert "in words above" not in page


def test_models_of_one_layer_have_no_depth_to_compare() -> None:
    members = Members({"EV": ("L_V1",), "AG": ("R_44",)}, ())
    assert compare_depth(preferred_depth([]), members).empty
