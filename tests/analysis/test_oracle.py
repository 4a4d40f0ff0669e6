"""The oracle beside the pipeline: they agree where the features are the same, and disagree where something is wrong."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cinecube.analysis.encoders.problem import read_problem
from cinecube.analysis.encoders.stage import score_model
from cinecube.analysis.residuals.residual_cubes import make_residual
from cinecube.analysis.truth.residual_oracle import residual_oracle
from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import open_cube, write_cube
from cinecube.store.cube.schema import string_coordinate
from cinecube.store.params.document import Study

from .residual_study import CONCAT, EYES, VIDEO, Planted, make_study, write_brains, write_features, write_truth

PAIRS = ({"keep": CONCAT, "remove": EYES}, {"keep": VIDEO, "remove": EYES, "layers": ["block02"]})
# All parcels that follow a stream of `bind`.
FOLLOW = ["L_V1", "L_7m", "R_45"]


def run_pipeline(study: Study, root: Path) -> None:
    for pair in study.residual:
        make_residual(study, root, pair.name)
    for name in ("bind", *(pair.name for pair in study.residual)):
        write_cube(StudyPaths(root).scores(name), score_model(study, read_problem(study, root, name)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose cubes hold the truth's own features, with all that the pipeline makes of it."""
    root = tmp_path_factory.mktemp("study")
    write_features(root)
    write_brains(root)
    write_truth(root)
    run_pipeline(make_study(*PAIRS), root)
    return root


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "study"))


def test_pipeline_finds_what_scikit_learn_does(made: Path) -> None:
    found = residual_oracle(make_study(*PAIRS), made)
    assert found is not None
    table = found.table
    assert table["pair"].tolist() == [f"{CONCAT}-{EYES}"] * 3 + [f"{VIDEO}-{EYES}"] * 3
    assert table["parcel"].tolist() == FOLLOW * 2
    assert set(found.metrics) == {"residual_error", "residual_full_error"}
    # The same features and responses: what is left is float32 and penalties that are nearly as good.
    assert found.metrics["residual_full_error"] < 2e-3
    assert found.metrics["residual_error"] < 2e-3
    assert found.metrics["residual_error"] == pytest.approx((table["residual"] - table["oracle_residual"]).abs().mean())
    concat = table[table["pair"] == f"{CONCAT}-{EYES}"].set_index("parcel")
    assert set(concat["layer"]) == {"head"}
    assert concat.loc["L_V1", "oracle_residual"] < 0.9 * concat.loc["L_V1", "oracle_full"]
    assert concat.loc["R_45", "oracle_residual"] > 0.9 * concat.loc["R_45", "oracle_full"]
    assert concat["oracle_full"].min() > 0.6


def test_scores_shown_are_means_over_targets_and_subjects(made: Path) -> None:
    study = make_study(*PAIRS)
    found = residual_oracle(study, made)
    assert found is not None
    for _, row in found.table.iterrows():
        pair = study.pair(row["pair"])
        for column, name, stream in (("full", "bind", pair.keep), ("residual", pair.name, pair.name)):
            cube = open_cube(StudyPaths(made).scores(name))
            own = cube["score"].sel(model=stream, layer=row["layer"]).values[:, cube["parcel"].values == row["parcel"]]
            assert own.shape == (2, 6)
            assert row[column] == pytest.approx(own.mean(dtype=float))


def test_the_layer_is_the_one_that_training_films_prefer(made: Path) -> None:
    found = residual_oracle(make_study(*PAIRS), made)
    assert found is not None
    cube = open_cube(StudyPaths(made).scores("bind")).sel(model=VIDEO)
    inside = np.isin([str(name) for name in cube["parcel"].values], FOLLOW)
    means = cube["cv_score"].transpose("layer", "subject", "target").values[:, :, inside].mean(axis=(1, 2))
    assert set(found.table["layer"][3:]) == {str(cube["layer"].values[np.nanargmax(means)])}


@pytest.mark.parametrize("changes", [{"repeats": "separate"}, pytest.param({"rows": "own"}, marks=pytest.mark.long)])
def test_rows_are_chosen_as_the_study_says(copied: Path, changes: dict[str, Any]) -> None:
    study = make_study(PAIRS[0], **changes)
    run_pipeline(study, copied)
    found = residual_oracle(study, copied)
    assert found is not None
    assert max(found.metrics.values()) < 2e-3
    other = residual_oracle(make_study(PAIRS[0]), copied)
    assert other is not None
    assert max(other.metrics.values()) > 5 * max(found.metrics.values())


def test_a_removal_that_was_not_made_is_seen(copied: Path) -> None:
    paths = StudyPaths(copied)
    full = open_cube(paths.scores("bind")).sel(model=[CONCAT]).load()
    name = f"{CONCAT}-{EYES}"
    write_cube(paths.scores(name), full.sel(layer=["head"]).assign_coords(model=string_coordinate([name])))
    found = residual_oracle(make_study(PAIRS[0]), copied)
    assert found is not None
    assert found.metrics["residual_full_error"] < 2e-3
    assert found.metrics["residual_error"] > 0.03


def test_features_of_other_moments_are_seen(copied: Path) -> None:
    """Of a film whose features in the cubes are not those that the responses follow."""
    write_features(copied, Planted(scramble=("birch",)))
    study = make_study(PAIRS[0])
    run_pipeline(study, copied)
    found = residual_oracle(study, copied)
    assert found is not None
    assert found.metrics["residual_error"] > 0.01
    assert found.metrics["residual_full_error"] > 0.01


def test_no_truth_no_oracle(copied: Path) -> None:
    study = make_study(*PAIRS)
    assert residual_oracle(study.model_copy(update={"residual": []}), copied) is None
    shutil.rmtree(StudyPaths(copied).drawn_features)
    assert residual_oracle(study, copied) is None
    StudyPaths(copied).truth.unlink()
    assert residual_oracle(study, copied) is None


def test_pairs_that_were_not_drawn_are_left_out(copied: Path) -> None:
    """As of untrained twins: the truth has no features of theirs."""
    study = make_study({"keep": EYES, "remove": "bind.nose"})
    assert residual_oracle(study, copied) is None


def test_missing_scores_are_told_in_one_line(copied: Path) -> None:
    shutil.rmtree(StudyPaths(copied).scores(f"{CONCAT}-{EYES}"))
    with pytest.raises(StudyError, match=f"results/scores/{CONCAT}-{EYES}.zarr: found no cube") as error:
        residual_oracle(make_study(*PAIRS), copied)
    assert "\n" not in str(error.value)
