"""Banded ridge finds which of two bands drives a target, and its parts add up."""

from __future__ import annotations

import numpy as np
import pytest

from cinecube.analysis.ridge.himalaya_ridge import fit_and_score

from .banded import banded_ridge

ALPHAS = np.geomspace(0.1, 1e5, 13)


def _bands(n_features, seed=0):
    """Targets driven by the first band, by the second, by both, and by neither; five each."""
    rng = np.random.default_rng(seed)
    designs = [rng.normal(size=(700, n_features)) for _ in range(2)]
    signals = [design @ rng.normal(size=(n_features, 20)) / np.sqrt(n_features) for design in designs]
    driven = [np.repeat([1, 0, 1, 0], 5), np.repeat([0, 1, 1, 0], 5)]
    responses = sum(signal * which for signal, which in zip(signals, driven, strict=True))
    responses = responses + rng.normal(0, 0.7, (700, 20))
    responses -= responses[:400].mean(axis=0)
    folds = [(np.setdiff1d(np.arange(400), part), part) for part in np.array_split(np.arange(400), 4)]
    train = [design[:400] for design in designs], responses[:400]
    test = [design[400:] for design in designs], responses[400:]
    return train, test, folds


@pytest.mark.filterwarnings("ignore:Solving")
@pytest.mark.parametrize("n_features", [30, 250])
def test_each_band_explains_what_it_drives(n_features):
    train, test, folds = _bands(n_features)
    fit = banded_ridge(train, test, folds, ALPHAS, n_iter=20)
    np.testing.assert_allclose(fit.split_r2.sum(axis=0), fit.r2, atol=1e-6)
    np.testing.assert_allclose(fit.split_score.sum(axis=0), fit.score, atol=1e-6)
    first, second, both, neither = (slice(5 * part, 5 * part + 5) for part in range(4))
    assert fit.split_score[0, first].min() > 5 * np.abs(fit.split_score[1, first]).max()
    assert fit.split_score[1, second].min() > 5 * np.abs(fit.split_score[0, second]).max()
    assert fit.split_score[:, both].min() > 0.1
    assert np.abs(fit.score[neither]).max() < 0.2


@pytest.mark.filterwarnings("ignore:Solving")
def test_with_a_band_of_noise_it_beats_one_penalty_for_all():
    train, test, folds = _bands(60)
    noise = np.random.default_rng(1).normal(size=(700, 300))
    designs = [train[0][0], noise[:400]], [test[0][0], noise[400:]]
    first = slice(0, 5)
    banded = banded_ridge((designs[0], train[1]), (designs[1], test[1]), folds, ALPHAS, n_iter=30)
    joined = [np.concatenate(parts, axis=1) for parts in designs]
    plain = fit_and_score((joined[0], train[1]), (joined[1], test[1]), folds, ALPHAS)
    assert (banded.score[first] - plain.score[first]).mean() > 0.02


def test_a_seed_names_one_fit():
    train, test, folds = _bands(20)
    fits = [banded_ridge(train, test, folds, ALPHAS, n_iter=5, seed=seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(fits[0].deltas, fits[1].deltas)
    assert not np.array_equal(fits[0].deltas, fits[2].deltas)
