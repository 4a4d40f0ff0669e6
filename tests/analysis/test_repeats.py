"""Ceilings from repeated showings against covariances by loop, and against a known signal-to-noise ratio."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import fields

import numpy as np
import pytest

from cinecube.analysis.ceilings.repeats import RepeatCeilings, repeat_ceilings
from cinecube.store.base.errors import StudyError

FIELDS = [field.name for field in fields(RepeatCeilings)]


def _drifting(values, share=0.4):
    """Each row takes over a share of the row before; the variance stays."""
    for row in range(1, len(values)):
        values[row] = share * values[row - 1] + np.sqrt(1 - share**2) * values[row]
    return values


def _showings(n_repeats, n_rows, n_targets, snr, seed=0, share=0.4):
    """Signal of variance 1 and noise of variance 1 / snr in each showing, (repeat, row, target), and the signal."""
    rng = np.random.default_rng(seed)
    signal = _drifting(rng.standard_normal((n_rows, n_targets)), share)
    noise = [_drifting(rng.standard_normal((n_rows, n_targets)), share) for _ in range(n_repeats)]
    return signal + np.stack(noise) / np.sqrt(snr), signal


@pytest.mark.parametrize("n_repeats", [2, 3, 5])
def test_ceilings_are_roots_of_covariances_between_showings(n_repeats):
    responses, _ = _showings(n_repeats, 80, 6, snr=2.0)
    found = repeat_ceilings(responses, block_rows=10)
    for target in range(6):
        covariance = np.cov(responses[:, :, target])
        signal = np.mean([covariance[a, b] for a, b in itertools.combinations(range(n_repeats), 2)])
        each = np.diag(covariance).mean()
        np.testing.assert_allclose(found.explainable[target], signal / each, rtol=1e-9)
        np.testing.assert_allclose(found.single[target], np.sqrt(signal / each), rtol=1e-9)
        mean = responses[:, :, target].mean(axis=0).var(ddof=1)
        np.testing.assert_allclose(found.averaged[target], np.sqrt(signal / mean), rtol=1e-9)


def test_explainable_variance_is_what_the_field_computes_of_standardised_showings():
    """1 - residual variance, less (1 - that) / (R - 1), as in the voxelwise tutorials (Dupré la Tour et al. 2025)."""
    responses, _ = _showings(4, 100, 8, snr=1.0)
    responses = (responses - responses.mean(axis=1, keepdims=True)) / responses.std(axis=1, keepdims=True)
    share = 1 - (responses - responses.mean(axis=0)).var(axis=1).mean(axis=0)
    np.testing.assert_allclose(
        repeat_ceilings(responses, block_rows=10).explainable, share - (1 - share) / 3, rtol=1e-9
    )


def test_two_standardised_showings_agree_by_either_formula():
    responses, _ = _showings(2, 100, 8, snr=1.0)
    responses = (responses - responses.mean(axis=1, keepdims=True)) / responses.std(axis=1, keepdims=True)
    found = repeat_ceilings(responses, block_rows=10)
    r = np.array([np.corrcoef(*responses[:, :, target])[0, 1] for target in range(8)])
    np.testing.assert_allclose(found.split_half, r, rtol=1e-9)
    np.testing.assert_allclose(found.reliability, 2 * r / (1 + r), rtol=1e-9)
    np.testing.assert_allclose(found.averaged**2, found.reliability, rtol=1e-9)


@pytest.mark.parametrize(
    ("n_repeats", "splits"),
    [
        (3, [("0", "1"), ("0", "2"), ("1", "2")]),
        (4, [("01", "23"), ("02", "13"), ("03", "12")]),
    ],
)
def test_halves_of_more_showings_are_all_taken(n_repeats, splits):
    responses, _ = _showings(n_repeats, 100, 5, snr=0.5)
    found = repeat_ceilings(responses, block_rows=10)
    longer = n_repeats / (n_repeats // 2)
    for target in range(5):
        halves = [[responses[[int(i) for i in half], :, target].mean(axis=0) for half in pair] for pair in splits]
        r = np.mean([np.corrcoef(a, b)[0, 1] for a, b in halves])
        np.testing.assert_allclose(found.split_half[target], r, rtol=1e-9)
        np.testing.assert_allclose(found.reliability[target], longer * r / (1 + (longer - 1) * r), rtol=1e-9)


def test_many_showings_are_split_at_random_and_the_same_way_again():
    responses, _ = _showings(10, 400, 50, snr=0.2)
    found, again = (repeat_ceilings(responses, block_rows=10) for _ in range(2))
    np.testing.assert_array_equal(found.split_half, again.split_half)
    np.testing.assert_allclose(found.reliability.mean(), 2.0 / 3.0, atol=0.03)  # 10 · 0.2 / (1 + 10 · 0.2)


@pytest.mark.parametrize("snr", [1.0, 0.25])
@pytest.mark.parametrize("n_repeats", [2, 3])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_ceiling_is_what_the_true_signal_reaches(n_repeats, snr, seed):
    """2,000 rows, AR(1) noise of 0.4; four parcels of 16 targets, the mean of each within 0.03."""
    responses, signal = _showings(n_repeats, 2000, 64, snr, seed)
    found = repeat_ceilings(responses, block_rows=40)
    for values, noise in ((found.averaged, 1 / snr / n_repeats), (found.single, 1 / snr)):
        parcels = values.reshape(4, 16).mean(axis=1)
        np.testing.assert_allclose(parcels, 1 / np.sqrt(1 + noise), atol=0.03)
    reached = [np.corrcoef(a, b)[0, 1] for a, b in zip(signal.T, responses.mean(axis=0).T, strict=True)]
    np.testing.assert_allclose(found.averaged.mean(), np.mean(reached), atol=0.01)


def test_the_interval_holds_the_truth():
    responses, _ = _showings(2, 1000, 400, snr=1.0, share=0.6)
    found = repeat_ceilings(responses, block_rows=40, n_bootstraps=200)
    for name, truth in (("averaged", np.sqrt(2 / 3)), ("single", np.sqrt(1 / 2))):
        low, high = getattr(found, f"{name}_low"), getattr(found, f"{name}_high")
        assert (low < high).all()
        assert 0.85 < ((low <= truth) & (truth <= high)).mean() < 0.99
    rows = repeat_ceilings(responses, block_rows=1, n_bootstraps=200)
    # Rows drawn one by one would take neighbours for news.
    assert (rows.averaged_high - rows.averaged_low).mean() < 0.9 * (found.averaged_high - found.averaged_low).mean()


def test_the_interval_is_that_of_drawn_blocks():
    responses, _ = _showings(3, 205, 3, snr=0.5)
    found = repeat_ceilings(responses, block_rows=10, n_bootstraps=4000)
    rng, drawn = np.random.default_rng(9), []
    for _ in range(1500):
        starts = 10 * rng.integers(21, size=21)  # the last block is one of 5 rows
        rows = np.concatenate([np.arange(start, min(start + 10, 205)) for start in starts])
        one = repeat_ceilings(responses[:, rows], block_rows=10, n_bootstraps=0)
        drawn.append((one.averaged, one.single))
    edges = np.quantile(drawn, [0.025, 0.975], axis=0)
    np.testing.assert_allclose([found.averaged_low, found.averaged_high], edges[:, 0], atol=0.02)
    np.testing.assert_allclose([found.single_low, found.single_high], edges[:, 1], atol=0.02)


def test_missing_rows_are_as_if_never_shown():
    responses, _ = _showings(2, 60, 5, snr=1.0)
    gaps = responses.copy()
    gaps[0, 50:, 1] = np.nan
    gaps[1, 55:, 1] = np.nan
    gaps[1, :, 3] = np.nan
    found = repeat_ceilings(gaps, block_rows=10)
    short = repeat_ceilings(responses[:, :50], block_rows=10)
    whole = repeat_ceilings(responses, block_rows=10)
    for name in FIELDS:
        values = getattr(found, name)
        assert np.isnan(values[3])
        np.testing.assert_allclose(values[[0, 2, 4]], getattr(whole, name)[[0, 2, 4]])
        if not name.endswith(("low", "high")):
            np.testing.assert_allclose(values[1], getattr(short, name)[1])


def test_targets_that_say_nothing():
    responses, _ = _showings(2, 60, 6, snr=1.0)
    responses = responses.astype(np.float32)
    responses[:, :, 0] = 1234.567
    responses[0, :, 1], responses[1, :, 1] = 3.3, -3.3
    responses[:, :, 2] = 0
    responses[1, :, 3] = -responses[0, :, 3]
    responses[:, 1:, 4] = np.nan
    responses[:, :, 5] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = repeat_ceilings(responses, block_rows=10)
    for name in FIELDS:
        assert np.isnan(getattr(found, name)[[0, 1, 2, 4, 5]]).all(), name
    assert found.explainable[3] < -0.9
    for name in ("averaged", "averaged_high", "single", "single_high", "reliability"):
        assert getattr(found, name)[3] == 0


def test_units_and_offsets_change_nothing():
    responses, _ = _showings(2, 60, 5, snr=1.0)
    found, other = repeat_ceilings(responses, 10), repeat_ceilings(250 * responses + 1e4, 10)
    for name in FIELDS:
        np.testing.assert_allclose(getattr(other, name), getattr(found, name), rtol=1e-7)


def test_batches_change_nothing_and_a_seed_gives_the_same_again(monkeypatch):
    responses, _ = _showings(2, 60, 12, snr=1.0)
    whole, other = repeat_ceilings(responses, 10), repeat_ceilings(responses, 10, seed=1)
    assert (whole.single_low != other.single_low).all()
    np.testing.assert_array_equal(whole.single, other.single)
    monkeypatch.setattr("cinecube.analysis.ceilings.repeats.BATCH_BYTES", 1)
    parts = repeat_ceilings(responses, 10)
    for name in FIELDS:
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-9)


def test_one_showing_and_one_block_are_refused():
    responses, _ = _showings(2, 60, 2, snr=1.0)
    with pytest.raises(StudyError, match="found 1 showing, expected at least 2"):
        repeat_ceilings(responses[:1], 10)
    with pytest.raises(StudyError, match="blocks of 60 rows in 60 rows, expected at least 2 blocks"):
        repeat_ceilings(responses, 60)
