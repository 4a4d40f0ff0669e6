"""Ceilings from components of each subject: beside those from all targets, and what they may and may not depend on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cinecube.analysis.ceilings import reduced_blocks, reduced_subjects
from cinecube.analysis.ceilings.ceiling_blocks import score_subsets
from cinecube.analysis.ceilings.cross_subject import standardised_targets
from cinecube.analysis.ceilings.reduced_blocks import reduced_scores
from cinecube.analysis.ceilings.reduced_subjects import find_components, find_shift, make_smoothers
from cinecube.analysis.ceilings.saturation import extrapolate
from cinecube.analysis.ceilings.stage import ceiling, read_brains
from cinecube.analysis.ridge.factors import Backend
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import open_cube

from ..conftest import tree_digest
from .shared_signal import TEST_SEGMENTS, Drawn, draw, kinds, make_study, write


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_components_are_the_principal_ones_of_the_training_rows(library: str) -> None:
    if library == "torch":
        pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    train = np.arange(200) < 150
    falling = rng.standard_normal((200, 100)) * np.arange(1, 101) ** -1.0
    responses = (falling @ rng.standard_normal((100, 300))).astype(np.float32)
    responses[:, 7], responses[:, 9] = np.nan, 3
    found = find_components(lambda: np.split(responses, 3, axis=1), train, 20, Backend(library))  # type: ignore[arg-type]
    values = np.nan_to_num(standardised_targets(responses, train))
    left, size, right = np.linalg.svd(values[train], full_matrices=False)
    sign = np.sign((left[:, :20] * found.train).sum(axis=0))
    np.testing.assert_allclose(found.train, left[:, :20] * size[:20] * sign, atol=0.02 * size[19])
    np.testing.assert_allclose(found.test, values[~train] @ right[:20].T * sign, atol=0.05 * size[19])
    assert found.energy == pytest.approx((values[train] ** 2).sum(), rel=1e-5)


def test_components_of_nothing_predict_nothing() -> None:
    found = find_components(lambda: [np.full((60, 4), np.nan)], np.arange(60) < 40, 5)
    assert not found.train.any()
    assert not next(iter(make_smoothers([found], [7]).values())).any()


def test_all_components_make_the_ridge_of_all_targets() -> None:
    rng = np.random.default_rng(1)
    train = np.arange(150) < 100
    responses = rng.standard_normal((150, 400)).astype(np.float32)
    part = find_components(lambda: [responses], train, 100)
    values = standardised_targets(responses, train)
    kernel, alpha = values[train] @ values[train].T, reduced_subjects.penalty_grid([part])[8]
    known = rng.standard_normal((100, 5))
    expected = values[~train] @ values[train].T @ np.linalg.solve(kernel + alpha * np.eye(100), known)
    np.testing.assert_allclose(make_smoothers([part], [8])[8] @ part.train.T @ known, expected, atol=1e-4)


def test_places_move_by_the_sample_s_median_and_stay_near_their_own() -> None:
    shift = find_shift(np.array([6, 8, 8, 9]), np.array([7, 9, 9, 9]))
    np.testing.assert_array_equal(shift(np.array([0, 7, 8, 14])), [7, 8, 9, 11])
    np.testing.assert_array_equal(shift.reached, [7, 8, 9, 10, 11])


def test_ceilings_are_those_of_all_targets_to_0_005(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: four signals that all subjects share, in noise of the same variance."""
    drawn = draw(n_subjects=4, n_rows=100, per_parcel=150)
    cohort = read_brains(make_study(drawn, block=250), write(tmp_path, drawn)).cohort
    exact = score_subsets(cohort, tmp_path / "exact")
    monkeypatch.setattr(reduced_blocks, "COMPONENTS", 60)  # of 600 rows
    monkeypatch.setattr(reduced_subjects, "FEW", 30)
    monkeypatch.setattr(reduced_blocks, "SAMPLED", 100)
    found = reduced_scores(cohort, tmp_path / "reduced")
    driven = slice(0, 3 * 150)
    for name, scores in exact.items():
        assert found[name].subsets == scores.subsets
        ours, theirs = (extrapolate(one.score, one.size, 0).ceiling[driven] for one in (found[name], scores))
        assert abs(ours.mean() - theirs.mean()) < 0.005
        assert np.abs((ours - theirs).reshape(3, 150).mean(axis=1)).max() < 0.005


def test_scrambled_test_rows_change_no_penalty_and_no_training_component(tmp_path: Path) -> None:
    small, rng = draw(per_parcel=20), np.random.default_rng(1)
    scrambled = {
        subject: {
            key: 50 * rng.permutation(values) ** 3 + 9 if key[0] in TEST_SEGMENTS else values
            for key, values in runs.items()
        }
        for subject, runs in small.bold.items()
    }
    found, parts = [], []
    for number, drawn in enumerate((small, Drawn(scrambled))):
        root = write(tmp_path / str(number), drawn)
        cohort = read_brains(make_study(drawn, block=30), root).cohort
        found.append(reduced_scores(cohort, root / "scratch"))
        everything = cohort.read("sub-01", np.arange(small.n_targets))
        parts.append(find_components(lambda values=everything: [values], cohort.train, 30))  # type: ignore[misc]
    np.testing.assert_array_equal(parts[0].train, parts[1].train)
    for name in small.bold:
        np.testing.assert_array_equal(found[0][name].alpha, found[1][name].alpha)
        assert np.abs(found[0][name].score - found[1][name].score).max() > 0.3


def test_the_cube_says_that_it_is_approximate(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = draw(per_parcel=20)
    root, cubes = write(tmp_path, drawn), {}
    for asked in ("never", "auto", "always"):
        caplog.clear()
        with caplog.at_level("WARNING"):
            ceiling(make_study(drawn, block=30, approximate=asked), root)
        cubes[asked] = open_cube(StudyPaths(root).ceiling).load()
        assert ("approximate" in caplog.text) == (asked == "always")
    assert cubes["never"].attrs["fingerprint"] == cubes["auto"].attrs["fingerprint"]
    assert "reduced" not in json.loads(cubes["auto"].attrs["spec"])
    assert json.loads(cubes["always"].attrs["spec"])["reduced"]["components"] == 1000
    assert "Approximate" in cubes["always"]["cross_subject"].attrs["about"]
    assert "Approximate" not in cubes["auto"]["cross_subject"].attrs["about"]
    assert np.abs(kinds(cubes["always"], "cross_subject") - kinds(cubes["auto"], "cross_subject")).mean() < 0.05
    cohort = read_brains(make_study(drawn), root).cohort
    monkeypatch.setattr(reduced_blocks, "LARGE", 100)
    monkeypatch.setattr(reduced_blocks, "COMPONENTS", 60)
    assert reduced_blocks.is_large(cohort)
    monkeypatch.setattr(reduced_blocks, "COMPONENTS", 90)  # of 82 targets
    assert not reduced_blocks.is_large(cohort)


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    drawn = draw(per_parcel=10)
    study, root = make_study(drawn, block=20, approximate="always"), write(tmp_path, drawn)
    ceiling(study, root)
    expected = tree_digest(StudyPaths(root).ceiling)

    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ceiling(study, root, stop)
    seen: list[tuple[int, int]] = []
    ceiling(study, root, lambda done, total: seen.append((done, total)))
    assert seen == [(done, 9) for done in range(4, 10)]
    assert tree_digest(StudyPaths(root).ceiling) == expected
