"""Scores across subjects against scikit-learn, one subset and target at a time, and against a known ceiling."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from cinecube.analysis.ceilings import cross_subject
from cinecube.analysis.ceilings.cross_subject import (
    block_kernel,
    cross_subject_scores,
    factor_kernel,
    factor_targets,
    score_targets,
    subsets_of,
    sum_kernels,
)
from cinecube.analysis.ceilings.saturation import extrapolate
from cinecube.analysis.ridge.scores import pearson
from cinecube.store.base.errors import StudyError

ALPHAS = np.geomspace(1, 1e4, 7)


def _drifting(values, share=0.4):
    """Each row takes over a share of the row before; the variance stays."""
    for row in range(1, len(values)):
        values[row] = share * values[row - 1] + np.sqrt(1 - share**2) * values[row]
    return values


def _study(n_subjects, n_train, n_test, n_targets, latents=8, snr=1.0, seed=0):
    """Responses and their signals (row, target) by subject: a shared latent signal, mixed at random, in AR(1) noise."""
    rng = np.random.default_rng(seed)
    shared = _drifting(rng.standard_normal((n_train + n_test, latents)))
    responses, signals = {}, {}
    for s in range(n_subjects):
        mixing = rng.standard_normal((latents, n_targets))
        signals[f"s{s}"] = shared @ (mixing / np.sqrt((mixing**2).sum(axis=0)))
        noise = _drifting(rng.standard_normal((n_train + n_test, n_targets)))
        responses[f"s{s}"] = (signals[f"s{s}"] + noise / np.sqrt(snr)).astype(np.float32)
    return responses, signals, np.arange(n_train + n_test) < n_train


def _folds(n_rows, n_folds=3):
    parts = np.array_split(np.arange(n_rows), n_folds)
    return [(np.setdiff1d(np.arange(n_rows), part), part) for part in parts]


def _slow(sources, target, train, folds, alphas):
    """Score and penalty of one target (row,) by scikit-learn's ridge, from sources (row, target)."""
    design = np.concatenate(sources, axis=1).astype(float)
    design = (design - design[train].mean(axis=0)) / design[train].std(axis=0)
    y = (target - target[train].mean()) / target[train].std()
    losses = np.zeros(len(alphas))
    for place, alpha in enumerate(alphas):
        for fitted, held_out in folds:
            model = Ridge(alpha=alpha, fit_intercept=False).fit(design[train][fitted], y[train][fitted])
            losses[place] += ((model.predict(design[train][held_out]) - y[train][held_out]) ** 2).mean()
    best = alphas[losses.argmin()]
    predicted = Ridge(alpha=best, fit_intercept=False).fit(design[train], y[train]).predict(design[~train])
    return np.corrcoef(predicted, y[~train])[0, 1], best


@pytest.mark.parametrize("n_targets", [6, 60], ids=["fewer targets than rows", "more targets than rows"])
def test_scores_and_penalties_are_scikit_learns(n_targets):
    responses, _, train = _study(3, 90, 40, n_targets)
    folds = _folds(90)
    found = cross_subject_scores(responses, train, folds, ALPHAS)
    assert list(found) == ["s0", "s1", "s2"]
    for name, scores in found.items():
        others = [other for other in responses if other != name]
        assert scores.subsets == ((others[0],), (others[1],), tuple(others))
        np.testing.assert_array_equal(scores.size, [1, 1, 2])
        assert scores.score.shape == scores.alpha.shape == (3, n_targets)
        for row, target in itertools.product(range(3), range(0, n_targets, n_targets // 3)):
            sources = [responses[other] for other in scores.subsets[row]]
            r, alpha = _slow(sources, responses[name][:, target].astype(float), train, folds, ALPHAS)
            assert scores.alpha[row, target] == alpha
            np.testing.assert_allclose(scores.score[row, target], r, atol=1e-4)


def test_kernels_add_over_blocks_and_subjects():
    responses, _, train = _study(2, 50, 20, 30)
    blocks = [values[:, cut] for values in responses.values() for cut in (slice(0, 11), slice(11, 30))]
    total = sum_kernels(block_kernel(block, train) for block in blocks)
    values = np.concatenate(list(responses.values()), axis=1).astype(float)
    values = (values - values[train].mean(axis=0)) / values[train].std(axis=0)
    np.testing.assert_allclose(total.whole, values[train] @ values[train].T, atol=1e-10)
    np.testing.assert_allclose(total.test, values[~train] @ values[train].T, atol=1e-10)
    assert total.whole.dtype == total.test.dtype == np.float64
    kernels = [block_kernel(block, train) for block in blocks]
    before = kernels[0].whole.copy()
    sum_kernels(kernels)
    np.testing.assert_array_equal(kernels[0].whole, before)


@pytest.mark.parametrize("n_targets", [20, 80])
def test_kernels_and_targets_give_the_same(n_targets):
    responses, _, train = _study(3, 90, 40, n_targets)
    folds = _folds(90)
    sources = [responses["s1"], responses["s2"]]
    by_kernel = factor_kernel(sum_kernels(block_kernel(values, train) for values in sources), folds)
    by_targets = factor_targets(sources, train, folds)
    np.testing.assert_allclose(by_kernel.alphas, by_targets.alphas, rtol=1e-9)
    one, other = (score_targets(source, responses["s0"], train) for source in (by_kernel, by_targets))
    np.testing.assert_allclose(one.alpha, other.alpha, rtol=1e-9)
    np.testing.assert_allclose(one.score, other.score, atol=1e-4)
    np.testing.assert_allclose(one.cv_score, other.cv_score, atol=1e-4)


def test_blocks_of_targets_change_nothing(monkeypatch):
    responses, _, train = _study(3, 60, 30, 40)
    whole = cross_subject_scores(responses, train, _folds(60))
    monkeypatch.setattr(cross_subject, "TARGETS_PER_BLOCK", 7)
    for name, parts in cross_subject_scores(responses, train, _folds(60)).items():
        np.testing.assert_allclose(parts.alpha, whole[name].alpha, rtol=1e-9)
        np.testing.assert_allclose(parts.score, whole[name].score, atol=1e-5)


@pytest.mark.parametrize("n_targets", [10, 60])
def test_scrambled_test_rows_change_no_penalty(n_targets):
    responses, _, train = _study(4, 100, 40, n_targets)
    plain = cross_subject_scores(responses, train, _folds(100))
    rng = np.random.default_rng(3)
    scrambled = {}
    for name, values in responses.items():
        scrambled[name] = values.copy()
        scrambled[name][~train] = 50 * rng.permutation(values[~train]) ** 3 + 9
    for name, found in cross_subject_scores(scrambled, train, _folds(100)).items():
        np.testing.assert_array_equal(found.alpha, plain[name].alpha)
        assert np.abs(found.score - plain[name].score).max() > 0.3


def test_the_default_penalties_grow_with_rows_and_targets_not_with_units():
    responses, _, train = _study(2, 100, 20, 10)
    sources = [factor_targets([values], train, _folds(100)) for values in (responses["s1"], 1e3 * responses["s1"] + 7)]
    np.testing.assert_allclose(sources[0].alphas, sources[1].alphas, rtol=1e-3)
    np.testing.assert_allclose(sources[0].alphas, 100 * 10 * np.geomspace(1e-6, 10, 15), rtol=1e-3)
    twice = factor_targets([responses["s1"]] * 2, train, _folds(100))
    np.testing.assert_allclose(twice.alphas, 2 * sources[0].alphas, rtol=1e-9)


@pytest.mark.parametrize("n_targets", [8, 60])
def test_absent_and_constant_targets_score_nan_and_teach_nothing(n_targets):
    responses, _, train = _study(3, 80, 30, n_targets)
    broken = {name: values.copy() for name, values in responses.items()}
    broken["s0"][:, 0], broken["s0"][5, 1], broken["s0"][3, 2] = 4.0, np.nan, np.inf
    found = cross_subject_scores(broken, train, _folds(80), ALPHAS)
    dropped = cross_subject_scores({**responses, "s0": responses["s0"][:, 3:]}, train, _folds(80), ALPHAS)
    assert np.isnan(found["s0"].score[:, :3]).all()
    assert np.isnan(found["s0"].alpha[:, :3]).all()
    for name in ("s1", "s2"):
        np.testing.assert_allclose(found[name].alpha, dropped[name].alpha)
        np.testing.assert_allclose(found[name].score, dropped[name].score, atol=1e-4)
    np.testing.assert_allclose(found["s0"].score[:, 3:], dropped["s0"].score, atol=1e-4)
    nothing = cross_subject_scores({**responses, "s0": np.full_like(responses["s0"], np.nan)}, train, _folds(80))
    assert np.isnan(nothing["s0"].score).all()
    assert np.isnan(nothing["s1"].score[0]).all()  # from s0 alone
    assert np.isfinite(nothing["s1"].score[1:]).all()


def test_subsets_leave_somebody_to_predict():
    assert subsets_of(["a", "b", "c"]) == [("a",), ("b",), ("c",), ("a", "b"), ("a", "c"), ("b", "c")]
    assert len(subsets_of("abcdef")) == 62
    with pytest.raises(StudyError, match="found 1 subject, expected at least 2"):
        subsets_of(["a"])


@pytest.mark.parametrize(("n_subjects", "seed"), [(4, 0), (4, 1), (5, 2)])
def test_the_ceiling_is_what_the_true_signal_reaches(n_subjects, seed):
    """3,000 training and 2,000 test rows, 8 parcels of 16 targets, signal-to-noise ratio 1, AR(1) noise of 0.4."""
    responses, signals, train = _study(n_subjects, 3000, 2000, 128, seed=seed)
    found = cross_subject_scores(responses, train, _folds(3000))
    bias = {"exponential": [], "reliability": []}
    for name, scores in found.items():
        reached = pearson(signals[name][~train], responses[name][~train])
        for curve, differences in bias.items():
            ceilings = extrapolate(scores.score, scores.size, curve=curve)
            assert ceilings.converged.all()
            parcels, low, truth = (
                values.reshape(8, 16).mean(axis=1) for values in (ceilings.ceiling, ceilings.low, reached)
            )
            assert (low <= truth).all()
            differences.append(parcels - np.sqrt(1 / 2))
    assert np.abs(bias["exponential"]).max() < 0.03
    assert np.abs(bias["reliability"]).max() < 0.02
    assert -0.012 < np.mean(bias["reliability"]) < 0.005


def test_subjects_who_share_nothing_have_no_ceiling():
    responses, _, train = _study(3, 1000, 1000, 64, snr=1e-6)
    for scores in cross_subject_scores(responses, train, _folds(1000)).values():
        assert abs(scores.score.mean()) < 0.02
