"""Extrapolated ceilings against scipy's fits, one target and one resampling at a time."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
from scipy.optimize import curve_fit
from sklearn.kernel_ridge import KernelRidge

from cinecube.analysis.ceilings.oota2025_ceiling import compat_ceiling
from cinecube.analysis.ceilings.saturation import extrapolate

from .plain_oota2025 import compat_points

# All subsets of five sources: 5, 10, 10, 5 and 1 of them.
SIZE = np.array([k for k in range(1, 6) for _ in itertools.combinations(range(5), k)])
CURVES = {
    "exponential": lambda k, v0, tau: v0 * (1 - np.exp(-k / tau)),
    "reliability": lambda k, v0, tau: v0 * np.sqrt(k / (k + tau)),
}


def _scores(n_targets, curve="exponential", noise=0.0, tau=(0.4, 4.0), seed=0):
    """v₀, τ and scores (subset, target) with independent noise."""
    rng = np.random.default_rng(seed)
    v0, scale = rng.uniform(0.1, 0.6, n_targets), rng.uniform(*tau, n_targets)
    clean = CURVES[curve](SIZE[:, None], v0, scale)
    return v0, scale, clean + noise * rng.standard_normal(clean.shape)


@pytest.mark.parametrize("curve", CURVES)
def test_curves_without_noise_are_found_exactly(curve):
    v0, tau, scores = _scores(200, curve, tau=(0.1, 8.0))
    found = extrapolate(scores, SIZE, n_bootstraps=3, curve=curve)
    assert found.converged.all()
    np.testing.assert_allclose(found.ceiling, v0, rtol=1e-9)
    np.testing.assert_allclose(found.tau, tau, rtol=1e-6)
    np.testing.assert_allclose([found.low, found.high], [v0, v0], rtol=1e-9)


@pytest.mark.parametrize("curve", CURVES)
def test_few_steps_lead_to_the_maximum(monkeypatch, curve):
    _, _, scores = _scores(200, curve, noise=0.03, tau=(1.0, 3.0))
    many = extrapolate(scores, SIZE, n_bootstraps=0, curve=curve)
    monkeypatch.setattr("cinecube.analysis.ceilings.saturation._MAX_STEPS", 4)
    few = extrapolate(scores, SIZE, n_bootstraps=0, curve=curve)
    assert many.converged.mean() > 0.8
    np.testing.assert_allclose(few.tau, many.tau, rtol=1e-7)


@pytest.mark.parametrize("curve", CURVES)
def test_fits_are_scipys(curve):
    v0, tau, scores = _scores(60, curve, noise=0.01)
    found = extrapolate(scores, SIZE, n_bootstraps=0, curve=curve)
    start = zip(scores.T, v0, tau, strict=True)
    theirs = np.array([curve_fit(CURVES[curve], SIZE, y, p0=(a, b), xtol=1e-13, ftol=1e-13)[0] for y, a, b in start])
    np.testing.assert_allclose(found.ceiling, theirs[:, 0], atol=1e-5)
    np.testing.assert_allclose(found.tau, theirs[:, 1], rtol=1e-3)
    assert np.isnan(found.low).all()


def test_the_interval_is_that_of_fits_to_resampled_subsets():
    _, _, scores = _scores(3, noise=0.02, tau=(1.0, 2.0), seed=1)
    found = extrapolate(scores, SIZE, n_bootstraps=2000)
    rng = np.random.default_rng(5)
    by_size = np.split(np.arange(len(SIZE)), [5, 15, 25, 30])
    rows = [np.concatenate([rng.choice(those, len(those)) for those in by_size]) for _ in range(600)]
    for target, y in enumerate(scores.T):
        fitted = [curve_fit(CURVES["exponential"], SIZE[drawn], y[drawn], maxfev=6000)[0][0] for drawn in rows]
        width = found.high[target] - found.low[target]
        np.testing.assert_allclose(
            [found.low[target], found.high[target]], np.quantile(fitted, [0.025, 0.975]), atol=0.1 * width
        )
        assert found.low[target] < found.ceiling[target] < found.high[target]


def test_subsets_are_drawn_within_their_size():
    """Where subsets of one size score alike, a resampling changes nothing, far as points may lie from the curve."""
    scores = np.array([0.10, 0.17, 0.19, 0.24, 0.23])[SIZE - 1][:, None]
    found = extrapolate(scores, SIZE)
    np.testing.assert_allclose([found.low, found.high], [found.ceiling] * 2, rtol=1e-9)


def test_where_no_saturation_is_seen_the_largest_subsets_count():
    line, falling, huge = 0.02 * SIZE, -0.1 + 0.0 * SIZE, CURVES["exponential"](SIZE, 1.3, 5.0)
    missing = np.where(SIZE == 3, np.nan, 0.2)
    scores = np.stack([line, falling, huge, missing], axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = extrapolate(scores, SIZE)
        alone = extrapolate(scores[:5], SIZE[:5])
    assert not found.converged.any()
    np.testing.assert_allclose(found.ceiling, [0.1, -0.1, huge[-1], np.nan])
    assert np.isnan([found.low, found.high, found.tau]).all()
    assert not alone.converged.any()
    np.testing.assert_allclose(alone.ceiling[:3], scores[:5].mean(axis=0)[:3])


@pytest.mark.parametrize("curve", CURVES)
def test_a_flat_curve_has_its_mean_as_ceiling(curve):
    rng = np.random.default_rng(0)
    flat = 0.3 + 0.001 * rng.standard_normal((len(SIZE), 50)) - 0.002 * SIZE[:, None]  # never rising
    found = extrapolate(flat, SIZE, curve=curve)
    assert found.converged.all()
    np.testing.assert_allclose(found.ceiling, flat.mean(axis=0), rtol=1e-4)


def test_a_wide_interval_stays_a_correlations():
    _, _, scores = _scores(200, noise=0.1, tau=(3.0, 6.0))
    found = extrapolate(scores, SIZE)
    good = found.converged
    assert 0 < good.mean() < 1
    assert (found.low[good] >= 0).all()
    assert (found.high[good] <= 1).all()
    assert (found.low[good] <= found.high[good]).all()


@pytest.mark.parametrize("curve", CURVES)
def test_batches_and_neighbours_change_nothing(monkeypatch, curve):
    _, _, scores = _scores(40, noise=0.05)
    scores[3, 7] = np.nan
    whole = extrapolate(scores, SIZE, n_bootstraps=20, curve=curve)
    alone = extrapolate(scores[:, 5:6], SIZE, n_bootstraps=20, curve=curve)
    monkeypatch.setattr("cinecube.analysis.ceilings.saturation.BATCH_BYTES", 1)
    parts = extrapolate(scores, SIZE, n_bootstraps=20, curve=curve)
    for name in ("ceiling", "low", "high", "tau", "converged"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-9)
        np.testing.assert_allclose(getattr(alone, name), getattr(whole, name)[5:6], rtol=1e-9)


def test_a_seed_gives_the_same_interval_again_and_another_does_not():
    _, _, scores = _scores(10, noise=0.02)
    first, again, other = (extrapolate(scores, SIZE, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.low, again.low)
    assert (first.low != other.low).all()
    np.testing.assert_array_equal(first.ceiling, other.ceiling)


def _responses(n_subjects=4, n_rows=60, n_targets=7, seed=0):
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((n_rows, 3))
    return {
        f"s{s}": shared @ rng.standard_normal((3, n_targets)) + rng.standard_normal((n_rows, n_targets))
        for s in range(n_subjects)
    }


def test_the_authors_points_are_means_of_scikit_learns_pairs():
    responses = _responses()
    train, test = ({name: values[rows] for name, values in responses.items()} for rows in (slice(45), slice(45, None)))
    x, v = compat_points(train, test)["s2"]

    def across(values):
        return (values - values.mean(axis=1, keepdims=True)) / values.std(axis=1, keepdims=True)

    def pair(source):
        model = KernelRidge().fit(across(train[source]), across(train["s2"]))
        predicted, truth = model.predict(across(test[source])), across(test["s2"])
        return np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(predicted.T, truth.T, strict=True)])

    single = {source: pair(source) for source in ("s0", "s1", "s3")}
    expected = [
        np.mean([single[source] for source in which], axis=0)
        for k in (1, 2, 3)
        for which in itertools.combinations(single, k)
    ]
    np.testing.assert_array_equal(x, [2, 2, 2, 3, 3, 3, 4])
    np.testing.assert_allclose(v, expected, atol=1e-9)


def test_the_authors_points_say_the_same_at_every_number_of_subjects():
    """A mean of means of single scores cannot grow with the number of sources: there is nothing to extrapolate."""
    responses = _responses(n_subjects=6)
    train, test = ({name: values[rows] for name, values in responses.items()} for rows in (slice(45), slice(45, None)))
    for x, v in compat_points(train, test).values():
        assert len(x) == 31
        pairs = v[x == 2].mean(axis=0)
        for k in (3, 4, 5, 6):
            np.testing.assert_allclose(v[x == k].mean(axis=0), pairs, atol=1e-12)
        # So a curve's best ceiling is that mean, the deviation of single points aside.
        np.testing.assert_allclose(extrapolate(v, x, n_bootstraps=0).ceiling, v.mean(axis=0), atol=0.02)


def test_the_authors_ceiling_is_the_median_over_bootstraps_that_converge():
    x = SIZE + 1
    clean = np.stack([CURVES["exponential"](x, 0.3, 1.5), CURVES["exponential"](x, 0.5, 2.5)], axis=1)
    np.testing.assert_allclose(compat_ceiling(x, clean, n_bootstraps=20), [0.3, 0.5], rtol=1e-6)
    noisy = clean + 0.02 * np.random.default_rng(0).standard_normal(clean.shape)
    fitted = compat_ceiling(x, noisy, n_bootstraps=100)
    np.testing.assert_allclose(fitted, extrapolate(noisy, x).ceiling, atol=0.01)
    assert compat_ceiling(x, noisy, n_bootstraps=100, seed=1)[0] != fitted[0]
    line = np.stack([0.02 * x, np.full(x.shape, np.nan)], axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(compat_ceiling(x, line, n_bootstraps=3)[1])
