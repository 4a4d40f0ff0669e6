"""Models against each other and scores over subjects, against scipy and naive loops."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import signal, stats

from cinecube.analysis.cubes.tables import EVERYONE
from cinecube.analysis.statistics.comparisons import (
    SwapPlan,
    choose_swap_rows,
    compare_by_roi,
    group_map,
    make_swaps,
    reachable,
    signed_rank,
    smallest_p,
    swap_blocks,
    swap_null,
)
from cinecube.store.base.errors import StudyError

Triple = tuple[np.ndarray, np.ndarray, np.ndarray]


def drifting(rng: np.random.Generator, n_rows: int, n_series: int) -> np.ndarray:
    """AR(1) series (row, series) of 0.85 and variance 1, settled before the first row."""
    white = rng.standard_normal((200 + n_rows, n_series)) * np.sqrt(1 - 0.85**2)
    values: np.ndarray = signal.lfilter([1], [1, -0.85], white, axis=0)[200:]
    return values


def equals(n_rows: int, n_targets: int, seed: int = 0) -> Triple:
    """Two equally good predictions, one of other units, and the responses."""
    rng = np.random.default_rng(seed)
    shared = drifting(rng, n_rows, n_targets)
    a, b, truth = (shared + gain * drifting(rng, n_rows, n_targets) for gain in (1, 1, 1.5))
    return a, 7 + 30 * b, truth


def naive_null(a: np.ndarray, b: np.ndarray, truth: np.ndarray, plan: SwapPlan) -> np.ndarray:
    """Standardise, swap block by block, correlate: differences (permutation, target)."""
    used, length = plan.blocks.used_rows, plan.blocks.block_rows
    a, b = (stats.zscore(x[:used], axis=0) for x in (a, b))
    found = []
    for swapped in plan.swapped:
        there = np.repeat(swapped, length)[:, None]
        pair = np.where(there, b, a), np.where(there, a, b)
        r = [stats.pearsonr(x, truth[:used], axis=0).statistic for x in pair]
        found.append(r[0] - r[1])
    return np.array(found)


@pytest.mark.parametrize(("n_rows", "block_rows"), [(2008, 60), (2008, 10), (403, 47)])
def test_swaps_equal_the_naive_loop(n_rows: int, block_rows: int) -> None:
    a, b, truth = equals(n_rows, 5)
    plan = make_swaps(n_rows, block_rows, 60, seed=3)
    null = naive_null(a, b, truth, plan)
    np.testing.assert_allclose(swap_null(a, b, truth, plan), null, atol=1e-6, rtol=0)
    found = swap_blocks(a, b, truth, plan)
    score = naive_null(a, b, truth, SwapPlan(plan.blocks, np.zeros((1, plan.blocks.n_blocks), dtype=bool)))[0]
    np.testing.assert_allclose(found.score, score, atol=1e-12)
    np.testing.assert_allclose(found.p, (1 + (np.abs(null) >= np.abs(score)).sum(axis=0)) / 61, rtol=1e-12)


def test_swaps_of_float32_far_from_zero() -> None:
    a, b, truth = ((1000 + x).astype(np.float32) for x in equals(800, 4))
    plan = make_swaps(800, 40, 50)
    null = naive_null(*(x.astype(float) for x in (a, b, truth)), plan)
    np.testing.assert_allclose(swap_null(a, b, truth, plan), null, atol=1e-6, rtol=0)


def test_swaps_are_fair_coins_by_seed() -> None:
    plan = make_swaps(2008, 60, 2000, seed=1)
    assert plan.swapped.shape == (2000, 33)
    assert abs(plan.swapped.mean() - 0.5) < 0.01
    np.testing.assert_array_equal(plan.swapped, make_swaps(2008, 60, 2000, seed=1).swapped)
    with pytest.raises(StudyError, match="300 rows, 7 blocks of 40 rows"):
        make_swaps(300, 40)


def test_swapped_p_does_not_depend_on_how_targets_are_split() -> None:
    a, b, truth = equals(606, 150)
    plan = make_swaps(606, 20, 300)
    whole = swap_blocks(a, b, truth, plan).p
    for start, stop in itertools.pairwise([0, 1, 8, 72, 150]):
        cut = (x[:, start:stop] for x in (a, b, truth))
        np.testing.assert_array_equal(swap_blocks(*cut, plan).p, whole[start:stop])


def test_better_worse_and_equal_models() -> None:
    rng = np.random.default_rng(0)
    truth, noise = drifting(rng, 800, 3), drifting(rng, 800, 3)
    plan = make_swaps(800, 40, 199)
    better = swap_blocks(truth + 0.5 * noise, noise, truth, plan)
    worse = swap_blocks(noise, truth + 0.5 * noise, truth, plan)
    assert (better.score > 0.4).all()
    np.testing.assert_allclose(worse.score, -better.score)
    np.testing.assert_allclose(worse.p, better.p)
    assert (better.p < 0.02).all()
    # The scale of a prediction is no difference between models.
    same = swap_blocks(noise, 5 + 3 * noise, truth, plan)
    np.testing.assert_allclose(same.score, 0, atol=1e-12)
    np.testing.assert_array_equal(same.p, 1)


def test_swaps_without_a_score_have_no_p() -> None:
    a, b, truth = equals(400, 6)
    plan = make_swaps(400, 20, 100)
    whole = swap_blocks(a, b, truth, plan)
    a[:, 0], b[:, 1], truth[:, 2], b[3, 3] = 0.1, np.nan, 3, np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, null = swap_blocks(a, b, truth, plan), swap_null(a, b, truth, plan)
    for values in (found.p, found.score, null[0]):
        assert np.isnan(values).tolist() == [True] * 4 + [False] * 2
    np.testing.assert_array_equal(found.p[4:], whole.p[4:])
    with pytest.raises(StudyError, match=r"\(400, 5\)"):
        swap_blocks(a, b[:, :5], truth, plan)


def test_swaps_of_chosen_blocks_are_calibrated() -> None:
    """40 maps (seeds 0 to 39) of 100 targets with two equally good models, AR(1) of 0.85, 2,000 rows."""
    chosen, short = [], []
    for seed in range(40):
        a, b, truth = equals(2000, 100, seed)
        rows = choose_swap_rows(a, b, truth)
        chosen.append(swap_blocks(a, b, truth, make_swaps(2000, rows, 399, seed)).p)
        short.append(swap_blocks(a, b, truth, make_swaps(2000, 10, 199, seed)).p)
    assert 0.035 < np.mean(np.array(chosen) < 0.05) < 0.07
    assert np.mean(np.array(short) < 0.05) > 0.08


def table(scores: dict[str, np.ndarray], models: tuple[str, str] = ("joint", "video")) -> pd.DataFrame:
    """Long table of scores (subject, model) by region."""
    return pd.DataFrame(
        [
            {"roi": roi, "subject": f"sub-{s + 1:02d}", "model": model, "score": values[s, m], "targets": 3}
            for roi, values in scores.items()
            for s in range(len(values))
            for m, model in enumerate(models)
        ]
    )


def test_wilcoxon_by_region_is_scipys() -> None:
    rng = np.random.default_rng(0)
    scores = {f"R{i}": rng.normal([0.02 * i, 0], 0.03, size=(8, 2)) for i in range(6)}
    found = compare_by_roi(table(scores).sample(frac=1, random_state=0), "joint", "video")
    assert list(found.columns) == ["roi", "n_subjects", "mean_difference", "p", "p_fdr", "smallest_p"]
    assert found["roi"].tolist() == sorted(scores)
    p = [stats.wilcoxon(x[:, 0], x[:, 1], method="exact").pvalue for x in scores.values()]
    np.testing.assert_allclose(found["p"], p, rtol=1e-12)
    np.testing.assert_allclose(found["p_fdr"], stats.false_discovery_control(p), rtol=1e-12)
    np.testing.assert_allclose(found["mean_difference"], [(x[:, 0] - x[:, 1]).mean() for x in scores.values()])
    assert (found["n_subjects"] == 8).all()
    assert (found["smallest_p"] == 2 / 2**8).all()
    turned = compare_by_roi(table(scores), "video", "joint")
    np.testing.assert_allclose(turned["mean_difference"], -found["mean_difference"])
    np.testing.assert_allclose(turned["p"], found["p"])


def test_subjects_without_both_scores_and_the_mean_over_all_do_not_count() -> None:
    rng = np.random.default_rng(0)
    scores = {"A": rng.normal(size=(6, 2)), "B": rng.normal(size=(6, 2)), "C": np.full((6, 2), np.nan)}
    scores["B"][2, 1] = np.nan
    long = table(scores)
    long = long[~((long["roi"] == "A") & (long["subject"] == "sub-05") & (long["model"] == "video"))]
    extra = pd.DataFrame({"roi": "A", "subject": EVERYONE, "model": ["joint", "video"], "score": [9.0, 0.0]})
    other = long.assign(model="audio", score=5.0)
    found = compare_by_roi(pd.concat([long, extra, other[other["model"] != "video"]]), "joint", "video")
    assert found["n_subjects"].tolist() == [5, 5, 0]
    kept = np.delete(scores["A"], 4, axis=0)
    assert found["p"][0] == stats.wilcoxon(kept[:, 0], kept[:, 1]).pvalue
    assert found[["p", "p_fdr", "mean_difference", "smallest_p"]].iloc[2].isna().all()


def exact_signed_rank(difference: np.ndarray) -> float:
    """Two-sided p over all signs of the differences that are not zero."""
    known = difference[difference != 0]
    ranks = stats.rankdata(np.abs(known))
    sums = np.array([np.dot(signs, ranks) for signs in itertools.product([-1, 1], repeat=len(known))])
    return float(np.mean(np.abs(sums) >= np.abs(np.sign(known) @ ranks)))


@pytest.mark.parametrize(
    "difference", [[1, 1, 2, -3], [0, 1, 2, 3, 4], [0, 0, 0], [1, 1, 1, 1, 1, 1], [0, 2, -2, 2, 5]]
)
def test_tied_and_absent_differences_are_enumerated(difference: list[float]) -> None:
    scores = np.column_stack([difference, np.zeros(len(difference))])
    found = compare_by_roi(table({"A": scores}), "joint", "video")
    assert found["p"][0] == pytest.approx(exact_signed_rank(np.array(difference, dtype=float)))


def test_tables_that_cannot_be_paired_are_refused() -> None:
    long = table({"A": np.ones((4, 2))})
    with pytest.raises(StudyError, match="no score of audio"):
        compare_by_roi(long, "joint", "audio")
    with pytest.raises(StudyError, match="A of sub-01: found joint twice"):
        compare_by_roi(pd.concat([long, long]), "joint", "video")


def test_smallest_p_is_what_the_best_case_gives() -> None:
    for n_subjects in range(1, 11):
        best = stats.wilcoxon(np.arange(1.0, n_subjects + 1), method="exact").pvalue
        assert smallest_p(n_subjects) == pytest.approx(best)
    assert (smallest_p(4), smallest_p(6)) == (0.125, 0.03125)


def test_a_sentence_says_what_cannot_be_reached() -> None:
    assert "With 4 subjects" in reachable(4)
    assert "0.125" in reachable(4)
    assert "at least 6 subjects" in reachable(4)
    assert reachable(6) == reachable(20) == ""
    assert "0.03125" in reachable(6, level=0.01)
    assert "With 1 subject no" in reachable(1)
    assert "smallest" not in reachable(0)


@pytest.mark.parametrize("alternative", ["greater", "two-sided"])
def test_group_map_is_a_t_test_of_fisher_z(alternative: str) -> None:
    scores = np.random.default_rng(0).uniform(-0.2, 0.4, size=(6, 50))
    found = group_map(scores, alternative)  # type: ignore[arg-type]
    expected = stats.ttest_1samp(np.arctanh(scores), 0, axis=0, alternative=alternative)
    np.testing.assert_allclose(found.t, expected.statistic, rtol=1e-10)
    np.testing.assert_allclose(found.p, expected.pvalue, rtol=1e-10)
    np.testing.assert_allclose(found.p_fdr, stats.false_discovery_control(expected.pvalue), rtol=1e-10)


def test_group_map_uses_the_subjects_a_target_has() -> None:
    scores = np.random.default_rng(0).uniform(-0.2, 0.4, size=(5, 6)).astype(np.float32)
    scores[0, 0], scores[:3, 1], scores[:, 2], scores[:, 3], scores[0, 4] = np.nan, np.nan, np.nan, 0.3, 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = group_map(scores)
    assert np.isnan(found.t).tolist() == [False, True, True, True, False, False]
    for values in (found.p, found.p_fdr):
        np.testing.assert_array_equal(np.isnan(values), np.isnan(found.t))
    for target, subjects in ((0, slice(1, None)), (4, slice(1, None)), (5, slice(None))):
        z = np.arctanh(scores[subjects, target].astype(float))
        assert found.p[target] == pytest.approx(stats.ttest_1samp(z, 0, alternative="greater").pvalue, rel=1e-6)
    with pytest.raises(StudyError, match="2 subjects, expected at least 3"):
        group_map(scores[:2])


@pytest.mark.parametrize(
    "difference", [[0.1, 0.2, 0.3, 0.4, 0.5], [0.1, 0.1, 0.2, -0.1, 0.3], [0.0, 0.2, 0.1, 0.4, 0.3]]
)
def test_one_sided_p_counts_the_signs_that_reach_it(difference: list[float]) -> None:
    """Against all assignments of signs to the ranks of the differences that are not zero."""
    known = np.array([value for value in difference if value])
    ranks = stats.rankdata(np.abs(known))
    signs = np.array(list(itertools.product((0, 1), repeat=len(known))))
    expected = np.mean(signs @ ranks >= ranks[known > 0].sum() - 1e-9)
    assert signed_rank(np.array(difference), "greater") == pytest.approx(expected)


def test_fewer_subjects_reach_a_one_sided_test() -> None:
    assert smallest_p(4, sides=1) == 0.0625
    assert "one-sided p is 0.0625; at least 5 subjects" in reachable(4, sides=1)
    assert reachable(5, sides=1) == ""
