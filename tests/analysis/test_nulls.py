"""Scores against chance: naive loops for exactness, noise without any relation for calibration."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
from scipy import signal, stats

from cinecube.analysis.ridge.factors import Backend
from cinecube.analysis.statistics.nulls import (
    MIN_BLOCK_ROWS,
    MIN_BLOCKS,
    BlockPlan,
    autocorrelation,
    block_null,
    choose_block_rows,
    cut_blocks,
    fdr,
    make_plan,
    permute_blocks,
    shift_circularly,
)
from cinecube.store.base.errors import StudyError

DRIFT = 0.85


def drifting(rng: np.random.Generator, n_rows: int, n_series: int, share: float = DRIFT) -> np.ndarray:
    """AR(1) series (row, series), settled before the first row."""
    settle = 200
    white = rng.standard_normal((settle + n_rows, n_series))
    values: np.ndarray = signal.lfilter([1], [1, -share], white, axis=0)[settle:]
    return values


def pair(n_rows: int, n_targets: int, gain: float = 0.2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and responses that share something."""
    rng = np.random.default_rng(seed)
    prediction = drifting(rng, n_rows, n_targets)
    return prediction, gain * prediction + drifting(rng, n_rows, n_targets)


def naive_null(prediction: np.ndarray, truth: np.ndarray, plan: BlockPlan) -> np.ndarray:
    """Cut, put the blocks in their order, correlate: r (permutation, target)."""
    blocks = plan.blocks
    cut = np.split(prediction[: blocks.used_rows], blocks.n_blocks)
    known = truth[: blocks.used_rows]
    return np.array(
        [
            stats.pearsonr(np.concatenate([cut[block] for block in order]), known, axis=0).statistic
            for order in plan.order
        ]
    )


@pytest.mark.parametrize(("n_rows", "block_rows"), [(2008, 40), (2008, 10), (403, 47), (96, 12)])
def test_equals_the_naive_loop(n_rows: int, block_rows: int) -> None:
    prediction, truth = pair(n_rows, 5)
    plan = make_plan(n_rows, block_rows, 60, seed=3)
    null = naive_null(prediction, truth, plan)
    np.testing.assert_allclose(block_null(prediction, truth, plan), null, atol=1e-6, rtol=0)
    found = permute_blocks(prediction, truth, plan)
    used = plan.blocks.used_rows
    score = stats.pearsonr(prediction[:used], truth[:used], axis=0).statistic
    np.testing.assert_allclose(found.score, score, atol=1e-12)
    np.testing.assert_allclose(found.p, (1 + (null >= score).sum(axis=0)) / 61, rtol=1e-12)


def test_float32_far_from_zero_loses_nothing() -> None:
    prediction, truth = pair(800, 4)
    far = (1000 + prediction).astype(np.float32), (truth - 500).astype(np.float32)
    plan = make_plan(800, 40, 50)
    null = naive_null(far[0].astype(float), far[1].astype(float), plan)
    np.testing.assert_allclose(block_null(*far, plan), null, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("n_rows", "block_rows"), [(2008, 10), (2008, 60), (999, 100), (80, 10), (87, 10)])
def test_blocks_are_equal_long_enough_and_trimmed_by_less_than_one_row_each(n_rows: int, block_rows: int) -> None:
    blocks = cut_blocks(n_rows, block_rows)
    assert blocks.block_rows >= block_rows
    assert blocks.n_blocks == n_rows // block_rows
    assert 0 <= n_rows - blocks.used_rows < blocks.n_blocks


def test_plan_holds_permutations_drawn_by_seed() -> None:
    plan = make_plan(2008, 60, 300, seed=1)
    assert (np.sort(plan.order, axis=1) == np.arange(33)).all()
    assert len(np.unique(plan.order, axis=0)) == 300
    np.testing.assert_array_equal(plan.order, make_plan(2008, 60, 300, seed=1).order)
    assert (plan.order != make_plan(2008, 60, 300, seed=2).order).any()
    # Every block comes to every place equally often.
    counts = np.bincount(make_plan(80, 10, 8000, seed=0).order[:, 0])
    assert stats.chisquare(counts).pvalue > 0.001


def test_p_does_not_depend_on_how_targets_are_split() -> None:
    prediction, truth = pair(606, 150, gain=0.05)
    plan = make_plan(606, 20, 500)
    whole = permute_blocks(prediction, truth, plan)
    shifted = shift_circularly(prediction, truth, 20)
    edges = [0, 1, 8, 72, 150]
    for start, stop in itertools.pairwise(edges):
        cut = prediction[:, start:stop], truth[:, start:stop]
        np.testing.assert_array_equal(permute_blocks(*cut, plan).p, whole.p[start:stop])
        np.testing.assert_array_equal(permute_blocks(*cut, plan).score, whole.score[start:stop])
        np.testing.assert_array_equal(shift_circularly(*cut, 20).p, shifted.p[start:stop])
    assert (whole.p != permute_blocks(prediction, truth, make_plan(606, 20, 500, seed=1)).p).any()


def test_torch_counts_what_numpy_counts() -> None:
    pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    truth = rng.standard_normal((400, 150))
    prediction = 0.1 * truth + rng.standard_normal(truth.shape)
    plan = make_plan(400, 17, n_permutations=300)
    ours, theirs = (permute_blocks(prediction, truth, plan, Backend(library)) for library in ("numpy", "torch"))
    np.testing.assert_array_equal(ours.score, theirs.score)
    np.testing.assert_allclose(ours.p, theirs.p, atol=1.5 / 301)


def test_constant_and_absent_targets_have_no_p_and_leave_the_others_alone() -> None:
    prediction, truth = pair(407, 8)
    # Seven rows are trimmed; what is missing there makes a score unknown all the same.
    plan = make_plan(407, 20, 100)
    whole, shifted = permute_blocks(prediction, truth, plan), shift_circularly(prediction, truth, 20)
    prediction[:, 0], truth[:, 1], truth[:, 2] = 0.1, np.nan, 3
    prediction[5, 3], truth[6, 4], truth[-1, 5] = np.nan, np.inf, np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = permute_blocks(prediction, truth, plan)
        null = block_null(prediction, truth, plan)
        circular = shift_circularly(prediction, truth, 20)
    for values, other in ((found.p, whole.p), (circular.p, shifted.p), (found.score, whole.score)):
        assert np.isnan(values).tolist() == [True] * 6 + [False] * 2
        np.testing.assert_array_equal(values[6:], other[6:])
    assert np.isnan(null).all(axis=0).tolist() == [True] * 6 + [False] * 2
    assert permute_blocks(prediction[:, :0], truth[:, :0], plan).p.shape == (0,)


def test_one_sided_and_never_zero() -> None:
    truth = drifting(np.random.default_rng(0), 800, 2)
    prediction = truth * [1, -1]
    blocks = permute_blocks(prediction, truth, make_plan(800, 40, 199))
    shifts = shift_circularly(prediction, truth, 100)
    np.testing.assert_allclose([blocks.score, shifts.score], [[1, -1]] * 2)
    np.testing.assert_allclose([blocks.p, shifts.p], [[1 / 200, 1], [1 / (1 + 601), 1]])


def test_nulls_that_tie_with_the_score_count_against_it() -> None:
    period = np.random.default_rng(0).standard_normal((20, 3))
    prediction, truth = np.tile(period, (20, 1)), np.tile(period, (20, 1))
    np.testing.assert_array_equal(permute_blocks(prediction, truth, make_plan(400, 20, 99)).p, 1)


def test_circular_shifts_equal_rolling() -> None:
    prediction, truth = pair(331, 4, gain=0.05)
    found = shift_circularly(prediction, truth, 30)
    null = np.array(
        [stats.pearsonr(np.roll(prediction, s, axis=0), truth, axis=0).statistic for s in range(30, 331 - 30 + 1)]
    )
    score = stats.pearsonr(prediction, truth, axis=0).statistic
    np.testing.assert_allclose(found.score, score, atol=1e-12)
    np.testing.assert_allclose(found.p, (1 + (null >= score).sum(axis=0)) / (1 + len(null)), rtol=1e-12)


def test_circular_shifts_are_drawn_where_there_are_too_many() -> None:
    prediction, truth = pair(2000, 40, gain=0)
    every, some = shift_circularly(prediction, truth, 60), shift_circularly(prediction, truth, 60, 499, seed=4)
    np.testing.assert_allclose(some.p * 500, np.round(some.p * 500))
    np.testing.assert_array_equal(some.p, shift_circularly(prediction, truth, 60, 499, seed=4).p)
    np.testing.assert_allclose(some.p, every.p, atol=0.08)


def test_autocorrelation_takes_no_pair_across_runs() -> None:
    values = drifting(np.random.default_rng(0), 90, 3)
    runs = [(0, 40), (40, 47), (47, 90)]
    found = autocorrelation(values, 20, runs)
    centred = values - values.mean(axis=0)
    for lag in range(21):
        rows = [t for start, stop in runs for t in range(start, stop - lag)]
        mean = np.mean([centred[t] * centred[t + lag] for t in rows], axis=0)
        np.testing.assert_allclose(found[lag], mean / values.var(axis=0), atol=1e-12)


@pytest.mark.parametrize("n_targets", [1, 100])
def test_blocks_of_drifting_series_are_long(n_targets: int) -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        rows = choose_block_rows(drifting(rng, 2000, n_targets), drifting(rng, 2000, n_targets))
        assert 40 <= rows <= 100


def test_block_length_follows_the_formula() -> None:
    rng = np.random.default_rng(0)
    prediction, truth = drifting(rng, 20_000, 50), drifting(rng, 20_000, 50)
    product = DRIFT**2
    missing = 2 * product / (1 - product) ** 2 / ((1 + product) / (1 - product))
    assert choose_block_rows(prediction, truth) == pytest.approx(missing / 0.05, rel=0.1)
    assert choose_block_rows(prediction, truth, tolerance=0.1) == pytest.approx(missing / 0.1, rel=0.1)


def test_block_length_needs_drift_on_both_sides_and_knows_no_score() -> None:
    rng = np.random.default_rng(0)
    slow, fast = drifting(rng, 2000, 20), rng.standard_normal((2000, 20))
    assert choose_block_rows(slow, fast) == choose_block_rows(fast, slow) == MIN_BLOCK_ROWS
    # Itself, backwards and with other signs: r is 1, about 0 and -1, the autocorrelation the same.
    lengths = {choose_block_rows(slow, other) for other in (slow, slow[::-1], -slow)}
    assert len(lengths) == 1


def test_block_length_ignores_targets_without_a_score() -> None:
    slow = drifting(np.random.default_rng(0), 2000, 20)
    holed = np.concatenate([slow, np.full((2000, 30), 2.0), np.full((2000, 30), np.nan)], axis=1)
    assert choose_block_rows(holed, holed) == choose_block_rows(slow, slow)
    assert choose_block_rows(holed[:, 20:], holed[:, 20:]) == MIN_BLOCK_ROWS


def test_runs_are_not_glued_together() -> None:
    """Of a level that lasts for 100 rows, runs of 10 rows tell nothing beyond lag 9."""
    rng = np.random.default_rng(0)
    runs = [(start, start + 10) for start in range(0, 2000, 10)]
    level = np.repeat(rng.standard_normal((20, 30)), 100, axis=0)
    prediction, truth = (level + rng.standard_normal((2000, 30)) for _ in range(2))
    with pytest.raises(StudyError, match="2000 rows"):
        choose_block_rows(prediction, truth)
    assert choose_block_rows(prediction, truth, runs) < 2000 // MIN_BLOCKS


def test_too_few_blocks_are_refused() -> None:
    with pytest.raises(StudyError, match=r"300 rows, 7 blocks of 40 rows.*at least 8 blocks.*320 rows"):
        make_plan(300, 40)
    slow = drifting(np.random.default_rng(0), 300, 20)
    with pytest.raises(StudyError, match=r"300 rows, \d blocks of [45678]\d rows"):
        choose_block_rows(slow, slow[::-1])
    with pytest.raises(StudyError, match="300 rows"):
        shift_circularly(slow, slow, 40)


def test_arrays_that_do_not_fit_the_plan_are_refused() -> None:
    prediction, truth = pair(400, 3)
    with pytest.raises(StudyError, match=r"\(400, 3\).*at the 410 rows"):
        permute_blocks(prediction, truth, make_plan(410, 20, 10))
    with pytest.raises(StudyError, match=r"\(400, 2\) and \(400, 3\)"):
        permute_blocks(prediction[:, :2], truth, make_plan(400, 20, 10))


def test_fdr_is_benjamini_and_hochbergs() -> None:
    p = np.random.default_rng(0).uniform(size=(3, 40)) ** 3
    p[0, 5], p[2, 7] = np.nan, np.nan
    known = np.sort(p[np.isfinite(p)])
    adjusted = [min(len(known) * known[j] / (j + 1) for j in range(i, len(known))) for i in range(len(known))]
    found = fdr(p)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(p))
    np.testing.assert_allclose(np.sort(found[np.isfinite(found)]), np.minimum(adjusted, 1))
    assert np.isnan(fdr(np.full(4, np.nan))).all()


@dataclass(frozen=True)
class Rates:
    """Shares of unrelated targets with p < 0.05, and of those that a false discovery rate of 0.05 declares."""

    uncorrected: float
    declared: float


@pytest.fixture(scope="module")
def rates() -> dict[str, Rates]:
    """40 unrelated maps of 200 targets: 20 AR(1) features of 0.85, random weights, AR(1) responses, 2,000 rows.

    Map m is drawn and tested with seed m. Targets of a map share their features, so that the standard error over maps
    counts: 0.0025 of a rate near 0.05.
    """
    n_maps, n_rows, n_targets = 40, 2000, 200
    found: dict[str, list[np.ndarray]] = {"chosen": [], "circular": [], "ten": [], "parametric": []}
    for seed in range(n_maps):
        rng = np.random.default_rng(seed)
        prediction = drifting(rng, n_rows, 20) @ rng.standard_normal((20, n_targets))
        truth = drifting(rng, n_rows, n_targets)
        rows = choose_block_rows(prediction, truth)
        found["chosen"].append(permute_blocks(prediction, truth, make_plan(n_rows, rows, 5000, seed)).p)
        found["circular"].append(shift_circularly(prediction, truth, rows).p)
        found["ten"].append(permute_blocks(prediction, truth, make_plan(n_rows, 10, 1000, seed)).p)
        found["parametric"].append(stats.pearsonr(prediction, truth, axis=0, alternative="greater").pvalue)
    return {
        name: Rates(float(np.mean(np.array(p) < 0.05)), float(np.mean([fdr(one) < 0.05 for one in p])))
        for name, p in found.items()
    }


def test_chosen_blocks_are_calibrated(rates: dict[str, Rates]) -> None:
    assert 0.035 < rates["chosen"].uncorrected < 0.065
    assert rates["chosen"].declared <= 0.001


def test_circular_shifts_are_calibrated(rates: dict[str, Rates]) -> None:
    assert 0.035 < rates["circular"].uncorrected < 0.065
    assert rates["circular"].declared <= 0.001


def test_short_blocks_and_a_parametric_test_are_not(rates: dict[str, Rates]) -> None:
    assert rates["ten"].uncorrected > 0.075
    assert rates["parametric"].uncorrected > 0.2
    assert rates["parametric"].declared > 0.05
