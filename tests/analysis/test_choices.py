"""Published choices that `encode.compat` repeats: each against a plain reading of what it says."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy.stats import zscore
from sklearn.linear_model import Ridge

from cinecube.analysis.encoders.oota2025 import WHAT
from cinecube.analysis.encoders.problem import SQUARED_ALPHAS, make_design, make_layout, read_problem
from cinecube.analysis.encoders.stage import score_model
from cinecube.store.base.errors import StudyError
from cinecube.store.cube.cubes import open_cube, write_cube

from .conftest import MODEL, make_study

Synthetic = Callable[..., Path]


def score(root: Path, *compat: str) -> xr.Dataset:
    study = make_study(compat=compat)
    return score_model(study, read_problem(study, root, MODEL))


def test_none_is_the_default_and_the_name_of_the_paper_is_all_of_them() -> None:
    assert make_study().encode.compat == make_study(compat=None).encode.compat == ()
    assert make_study(compat="oota2025").encode.compat == tuple(WHAT)


@pytest.mark.parametrize(
    ("changes", "found"), [({"compat": ["two_alphas"]}, "two_alphas"), ({"solver": "himalaya"}, "solver: shared")]
)
def test_what_cannot_be_repeated_is_refused(changes: dict[str, object], found: str) -> None:
    with pytest.raises(StudyError, match=found):
        make_study(**{"compat": ["one_alpha"], **changes})


def test_one_alpha_is_the_best_by_the_mean_correlation_of_all_targets(synthetic: Synthetic) -> None:
    root, study = synthetic(), make_study(compat=["one_alpha"])
    problem = read_problem(study, root, MODEL)
    space, brains, groups = problem.space, problem.brains, problem.groups
    cube = score_model(study, problem)
    settings, (group,) = problem.settings, groups
    layout = make_layout(space, group, settings, max(settings.delays))
    design, test = make_design(space.read_layer(0, 4), layout, settings.delays)
    for subject, brain in brains.items():
        responses = brain.read(group.showings[subject], np.arange(brain.n_targets)).astype(np.float64)
        known = responses[layout.train]

        def held(alpha: float, known: np.ndarray = known) -> float:
            """Mean over folds and targets of r on held-out rows."""
            found = []
            for train, validation in layout.folds:
                predicted = (
                    Ridge(alpha, fit_intercept=False).fit(design[train], known[train]).predict(design[validation])
                )
                truth = known[validation]
                found.append((zscore(predicted) * zscore(truth)).mean(axis=0))
            return float(np.mean(found))

        best = max(settings.alphas, key=held)
        own = cube.isel(model=0).sel(subject=subject, layer="block04", target=brain.cube["target"].values)
        np.testing.assert_allclose(own["alpha"], best)
        fitted = Ridge(best, fit_intercept=False).fit(design, known).predict(test)
        expected = (zscore(fitted) * zscore(responses[~layout.train])).mean(axis=0)
        np.testing.assert_allclose(own["score"], expected, atol=1e-5)
    assert (cube["alpha"].isel(model=0).max("target") == cube["alpha"].isel(model=0).min("target")).all()


def test_squared_alphas_are_those_of_their_code(synthetic: Synthetic) -> None:
    alpha = score(synthetic(), "squared_alphas")["alpha"].values
    assert np.isin(alpha[np.isfinite(alpha)].astype(np.float32), SQUARED_ALPHAS.astype(np.float32)).all()
    assert (SQUARED_ALPHAS.min(), SQUARED_ALPHAS.max(), SQUARED_ALPHAS.size) == (1e2, 1e6, 10)


def test_the_last_block_is_never_read(synthetic: Synthetic, scored: Callable[..., xr.Dataset]) -> None:
    cube, plain = score(synthetic(), "without_last_block"), scored()
    assert cube["score"].sel(layer="block12").isnull().all()
    others = cube["layer"].values != "block12"
    for name in ("alpha", "score", "cv_score"):
        np.testing.assert_array_equal(cube[name].isel(layer=others), plain[name].isel(layer=others))


def test_rows_are_normalised_over_targets(synthetic: Synthetic, tmp_path: Path) -> None:
    """The same as scans that somebody has normalised like that before."""
    plain = synthetic(repeated=())
    by_hand = shutil.copytree(plain, tmp_path / "study")
    for path in (by_hand / "data" / "brain").iterdir():
        cube = open_cube(path).load()
        shutil.rmtree(path)
        write_cube(path, cube.assign(bold=cube["bold"].copy(data=zscore(cube["bold"].values, axis=1))))
    ours, expected = score(plain, "zscore_across_targets"), score(by_hand)
    assert (ours["alpha"] == expected["alpha"]).where(expected["alpha"].notnull()).mean() > 0.99
    np.testing.assert_allclose(ours["score"], expected["score"], atol=1e-4)


def test_delays_reach_into_the_run_before(synthetic: Synthetic) -> None:
    study = make_study(compat=["delays_across_runs"])
    problem = read_problem(study, synthetic(), MODEL)
    space, (group,), settings = problem.space, problem.groups, problem.settings
    layout = make_layout(space, group, settings, max(settings.delays))
    features = space.read_layer(0, 3)
    train, test = make_design(features, layout, settings.delays)
    for rows, design in ((layout.feature_row[layout.train], train), (layout.feature_row[~layout.train], test)):
        known = features[layout.feature_row[layout.train]].astype(np.float64)
        values = (features[rows] - known.mean(axis=0)) / known.std(axis=0)
        shifted = [
            np.vstack([np.zeros((delay, values.shape[1])), values[: len(values) - delay]]) for delay in settings.delays
        ]
        np.testing.assert_allclose(design, np.hstack(shifted), atol=1e-6)


def test_all_choices_together_give_scores(synthetic: Synthetic) -> None:
    cube = score(synthetic(), *WHAT)
    assert cube["score"].sel(layer="block04").notnull().any("target").all()
    assert len(np.unique(cube["alpha"].sel(layer="block04", subject="sub-01").dropna("target"))) == 1
