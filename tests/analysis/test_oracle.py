"""The oracle beside the pipeline: they agree where the features are the same, and disagree where something is wrong."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge

from cinecube.analysis.encoders.problem import read_problem
from cinecube.analysis.encoders.stage import score_model
from cinecube.analysis.residuals.residual_cubes import make_residual
from cinecube.analysis.truth.plain_fits import PlainFits
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


def _errors(table: pd.DataFrame) -> pd.Series:
    """Mean absolute difference of the pipeline from the oracle, before and after the removal."""
    return pd.Series({name: (table[name] - table[f"oracle_{name}"]).abs().mean() for name in ("full", "residual")})


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


def test_pipeline_finds_what_plain_fits_do(made: Path) -> None:
    table = residual_oracle(make_study(*PAIRS), made)
    assert table is not None
    assert table["pair"].tolist() == [f"{CONCAT}-{EYES}"] * 3 + [f"{VIDEO}-{EYES}"] * 3
    assert table["parcel"].tolist() == FOLLOW * 2
    # The same features and responses: what is left is float32 and penalties that are nearly as good.
    assert _errors(table).max() < 2e-3
    concat = table[table["pair"] == f"{CONCAT}-{EYES}"].set_index("parcel")
    assert set(concat["layer"]) == {"head"}
    assert concat.loc["L_V1", "oracle_residual"] < 0.9 * concat.loc["L_V1", "oracle_full"]
    assert concat.loc["R_45", "oracle_residual"] > 0.9 * concat.loc["R_45", "oracle_full"]
    assert concat["oracle_full"].min() > 0.6


def test_scores_shown_are_means_over_targets_and_subjects(made: Path) -> None:
    study = make_study(*PAIRS)
    found = residual_oracle(study, made)
    assert found is not None
    for _, row in found.iterrows():
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
    assert set(found["layer"][3:]) == {str(cube["layer"].values[np.nanargmax(means)])}


def test_plain_fits_are_those_of_scikit_learn() -> None:
    rng, study = np.random.default_rng(0), make_study(*PAIRS)
    x, y = rng.normal(size=(40, 6)), rng.normal(size=(40, 3)) * [1, 10, 100]
    y[:, 0] += x[:, 0]
    train, folds = np.arange(40) < 30, [(np.arange(30)[np.arange(30) % 3 != k], np.arange(k, 30, 3)) for k in range(3)]
    kernel = x @ x[train].T
    loss, predicted = PlainFits(study, {}, 1.0, 1.0).fit(kernel[train], kernel[~train], y[train], folds)
    params, tried = study.encode.alphas, []
    for alpha in np.logspace(np.log10(params.min), np.log10(params.max), params.n):
        model = Ridge(alpha=alpha, fit_intercept=False)
        errors = [(model.fit(x[train][a], y[train][a]).predict(x[train][b]) - y[train][b]) ** 2 for a, b in folds]
        tried.append(
            (np.mean([e.mean(axis=0) for e in errors], axis=0), model.fit(x[train], y[train]).predict(x[~train]))
        )
    best = np.argmin([losses for losses, _ in tried], axis=0)
    assert len(set(best)) > 1
    np.testing.assert_allclose(loss, np.min([losses for losses, _ in tried], axis=0), rtol=1e-9)
    np.testing.assert_allclose(predicted, np.stack([tried[a][1][:, t] for t, a in enumerate(best)], axis=1), atol=1e-9)


@pytest.mark.parametrize("changes", [{"repeats": "separate"}, pytest.param({"rows": "own"}, marks=pytest.mark.long)])
def test_rows_are_chosen_as_the_study_says(copied: Path, changes: dict[str, Any]) -> None:
    study = make_study(PAIRS[0], **changes)
    run_pipeline(study, copied)
    found = residual_oracle(study, copied)
    assert found is not None
    assert _errors(found).max() < 2e-3
    other = residual_oracle(make_study(PAIRS[0]), copied)
    assert other is not None
    assert _errors(other).max() > 5 * _errors(found).max()


def test_a_removal_that_was_not_made_is_seen(copied: Path) -> None:
    paths = StudyPaths(copied)
    full = open_cube(paths.scores("bind")).sel(model=[CONCAT]).load()
    name = f"{CONCAT}-{EYES}"
    write_cube(paths.scores(name), full.sel(layer=["head"]).assign_coords(model=string_coordinate([name])))
    found = residual_oracle(make_study(PAIRS[0]), copied)
    assert found is not None
    assert _errors(found)["full"] < 2e-3
    assert _errors(found)["residual"] > 0.03


def test_features_of_other_moments_are_seen(copied: Path) -> None:
    """Of a film whose features in the cubes are not those that the responses follow."""
    write_features(copied, Planted(scramble=("birch",)))
    study = make_study(PAIRS[0])
    run_pipeline(study, copied)
    found = residual_oracle(study, copied)
    assert found is not None
    assert _errors(found)["residual"] > 0.01
    assert _errors(found)["full"] > 0.01


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
