"""Models against each other, and scores over subjects: arrays, and small tables of regions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from cinecube.analysis.cubes.tables import EVERYONE
from cinecube.analysis.ridge.design import Run
from cinecube.analysis.statistics.nulls import (
    ROUNDING,
    Blocks,
    Significance,
    chance_of,
    choose_block_rows,
    correlate,
    cut_blocks,
    evenly_spaced,
    fdr,
    target_batches,
    unit_series,
)
from cinecube.store.base.errors import StudyError

LEVEL = 0.05
MIN_SUBJECTS = 3
"""Of a t-test: two subjects leave one degree of freedom."""

# Variance relative to the standardised series', or to the squared mean, below which it is rounding.
_CONSTANT = 1e-12
# Signs of so many differences are enumerated in a moment.
_ENUMERATED = 13


@dataclass(frozen=True)
class SwapPlan:
    """Blocks of two models' predictions that change places, the same for every target.

    Attributes
    ----------
    blocks : Blocks
    swapped : array of bool, shape (permutation, block)
    """

    blocks: Blocks
    swapped: np.ndarray


@dataclass(frozen=True)
class GroupMap:
    """A t-test over subjects; NaN where too few have a score.

    Attributes
    ----------
    t, p, p_fdr : arrays, shape (target,)
        `p_fdr` is over all targets that were tested.
    """

    t: np.ndarray
    p: np.ndarray
    p_fdr: np.ndarray


def make_swaps(n_rows: int, block_rows: int, n_permutations: int = 5000, seed: int = 0) -> SwapPlan:
    """Draw the swaps that all targets of a comparison share, each block with probability 1/2.

    Parameters
    ----------
    n_rows : int
        Rows of the test film.
    block_rows : int
        Fewest rows of a block, from `choose_swap_rows`.
    n_permutations, seed : int

    Returns
    -------
    SwapPlan

    Raises
    ------
    StudyError
        If the film holds too few blocks.
    """
    blocks = cut_blocks(n_rows, block_rows)
    drawn = np.random.default_rng(seed).integers(0, 2, size=(n_permutations, blocks.n_blocks))
    return SwapPlan(blocks, drawn.astype(bool))


def choose_swap_rows(a: np.ndarray, b: np.ndarray, truth: np.ndarray, runs: Sequence[Run] | None = None) -> int:
    """Rows of a block for `swap_blocks`: `choose_block_rows` of the difference of the standardised predictions.

    Parameters
    ----------
    a, b, truth : arrays, shape (row, target)
    runs : sequence of (start, stop), optional

    Returns
    -------
    int
        The fewest of a block.

    Raises
    ------
    StudyError
        If the film holds too few blocks.
    """
    sample = evenly_spaced(truth.shape[1])
    difference = unit_series(a[:, sample], len(a)) - unit_series(b[:, sample], len(b))
    return choose_block_rows(difference.T, truth[:, sample], runs)


def swap_blocks(a: np.ndarray, b: np.ndarray, truth: np.ndarray, plan: SwapPlan) -> Significance:
    """Test r of model `a` minus r of model `b` per target on the same rows, two-sided, by paired block permutation.

    If the models are equally good, their predictions of a block, each standardised over the rows, may change places.

    Parameters
    ----------
    a, b, truth : arrays, shape (row, target)
        Predictions of two models and the responses, of the test film; any block of targets.
    plan : SwapPlan
        From `make_swaps`; the same for all blocks of targets.

    Returns
    -------
    Significance
        `score` is the difference over the rows inside blocks; 1 is the p of two models that predict the same.
    """
    n_targets = truth.shape[1]
    score, p = np.full(n_targets, np.nan), np.full(n_targets, np.nan)
    for part, observed, null in _swap_nulls(a, b, truth, plan):
        score[part] = observed
        p[part] = chance_of((np.abs(null) >= np.abs(observed) - ROUNDING).sum(axis=0), len(null), observed)
    return Significance(score, p)


def swap_null(a: np.ndarray, b: np.ndarray, truth: np.ndarray, plan: SwapPlan) -> np.ndarray:
    """Difference of r of every permutation, shape (permutation, target), of a few targets; see `swap_blocks`.

    Parameters
    ----------
    a, b : arrays, shape (row, target)
        Predictions of two models.
    truth : array, shape (row, target)
    plan : SwapPlan

    Returns
    -------
    array, shape (permutation, target)
        NaN for targets whose difference is not known.
    """
    null = np.full((len(plan.swapped), truth.shape[1]), np.nan)
    for part, observed, values in _swap_nulls(a, b, truth, plan):
        null[:, part] = np.where(np.isnan(observed), np.nan, values)
    return null


def _swap_nulls(
    a: np.ndarray, b: np.ndarray, truth: np.ndarray, plan: SwapPlan
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Batches of targets: difference of r (target,), NaN where there is none, and of all permutations."""
    swapped = plan.swapped.astype(np.float64)
    for part in target_batches(plan.blocks.n_rows, a, b, truth):
        own, other, known = (unit_series(x[:, part], plan.blocks.used_rows) for x in (a, b, truth))
        yield (
            part,
            correlate(own, known) - correlate(other, known),
            _swapped_difference(own, other, known, swapped, plan),
        )


def _swapped_difference(
    a: np.ndarray, b: np.ndarray, known: np.ndarray, swapped: np.ndarray, plan: SwapPlan
) -> np.ndarray:
    """Difference of r (permutation, target) of series (target, row) whose blocks are swapped."""

    def by_swap(values: np.ndarray) -> np.ndarray:
        """Sums over the swapped blocks; what one model gains by them, the other loses."""
        return swapped @ values.reshape(-1, plan.blocks.n_blocks, plan.blocks.block_rows).sum(axis=2).T

    products, squares = by_swap((b - a) * known), by_swap(b * b - a * a)
    mean_square = by_swap(b - a) ** 2 / plan.blocks.used_rows
    difference = _ratio((a * known).sum(axis=1) + products, 1 + squares - mean_square)
    return difference - _ratio((b * known).sum(axis=1) - products, 1 - squares - mean_square)


def _ratio(product: np.ndarray, variance: np.ndarray) -> np.ndarray:
    return product / np.sqrt(np.maximum(variance, _CONSTANT))


def compare_by_roi(scores: pd.DataFrame, model_a: str, model_b: str) -> pd.DataFrame:
    """Compare two models over subjects in each region: Wilcoxon's signed-rank test, exact and two-sided.

    Parameters
    ----------
    scores : DataFrame
        Columns `roi`, `subject`, `model`, `score`, each region, subject and model once. The mean over all subjects,
        `EVERYONE`, is no subject and is left out.
    model_a, model_b : str

    Returns
    -------
    DataFrame
        Columns `roi`, `n_subjects` (that have both scores), `mean_difference` (a minus b), `p`, `p_fdr` over regions,
        and `smallest_p` that so many subjects can reach; see `reachable`. Regions by name.

    Raises
    ------
    StudyError
        If a model has no score, or has one twice.

    Notes
    -----
    The paper compares models so, its false discovery rate by Benjamini and Hochberg.
    """
    own = scores[(scores["subject"] != EVERYONE) & scores["model"].isin([model_a, model_b])]
    _refuse_unpaired(own, model_a, model_b)
    wide = own.pivot(index=["roi", "subject"], columns="model", values="score")
    difference = wide[model_a] - wide[model_b]
    rows = [_compare_subjects(str(roi), part.dropna().to_numpy(float)) for roi, part in difference.groupby("roi")]
    table = pd.DataFrame(rows)
    table.insert(4, "p_fdr", fdr(table["p"].to_numpy()))
    return table


def _refuse_unpaired(scores: pd.DataFrame, model_a: str, model_b: str) -> None:
    for model in (model_a, model_b):
        if not (scores["model"] == model).any():
            raise StudyError(
                where=f"{model_a} against {model_b}",
                found=f"no score of {model}",
                expected="scores of both, subject by subject",
                do="score this model first, or name another",
            )
    twice = scores[scores.duplicated(["roi", "subject", "model"])]
    if len(twice):
        first = twice.iloc[0]
        raise StudyError(
            where=f"{first['roi']} of {first['subject']}",
            found=f"{first['model']} twice",
            expected="one score of each region, subject and model",
            do="choose one layer of each model first",
        )


def _compare_subjects(roi: str, difference: np.ndarray) -> dict[str, object]:
    n_subjects = len(difference)
    return {
        "roi": roi,
        "n_subjects": n_subjects,
        "mean_difference": difference.mean() if n_subjects else np.nan,
        "p": signed_rank(difference) if n_subjects else np.nan,
        "smallest_p": smallest_p(n_subjects),
    }


def signed_rank(difference: np.ndarray, alternative: Literal["greater", "two-sided"] = "two-sided") -> float:
    """p of Wilcoxon's test of differences (subject,), without those that are zero.

    Parameters
    ----------
    difference : array, shape (subject,)
    alternative : {"greater", "two-sided"}

    Returns
    -------
    float
        1 if no difference is left.
    """
    known = difference[difference != 0]
    if not known.size:
        return 1.0
    from scipy import stats  # takes a second to import, and most stages only ask for names

    method: Any = "exact"
    if len(np.unique(np.abs(known))) < len(known):
        # scipy's `exact` is wrong where differences tie.
        few = len(known) <= _ENUMERATED
        method = stats.PermutationMethod(n_resamples=2**_ENUMERATED) if few else "approx"
    return float(stats.wilcoxon(known, alternative=alternative, method=method).pvalue)


def smallest_p(n_subjects: int, sides: Literal[1, 2] = 2) -> float:
    """The smallest p that Wilcoxon's signed-rank test can give: all subjects differ in one direction.

    Parameters
    ----------
    n_subjects : int
    sides : {1, 2}
        Of the test.

    Returns
    -------
    float
        NaN without subjects.
    """
    return min(1.0, sides * 2.0**-n_subjects) if n_subjects else float("nan")


def reachable(n_subjects: int, level: float = LEVEL, sides: Literal[1, 2] = 2) -> str:
    """Say in a sentence that so few subjects cannot reach significance; empty where they can.

    A false discovery rate asks for more still: six subjects have a smallest p of 0.03125, which comes to 0.05 or less
    only if five of every eight regions reach it.

    Parameters
    ----------
    n_subjects : int
    level : float
        Of significance.
    sides : {1, 2}
        Of the test.

    Returns
    -------
    str
    """
    best = smallest_p(n_subjects, sides)
    if best < level:
        return ""
    needed = next(n for n in range(1, 100) if smallest_p(n, sides) < level)
    subjects = "subject" if n_subjects == 1 else "subjects"
    reach = f", whose smallest {'one' if sides == 1 else 'two'}-sided p is {best:g}" if n_subjects else ""
    return (
        f"With {n_subjects} {subjects} no difference can be significant at {level:g} by Wilcoxon's signed-rank "
        f"test{reach}; at least {needed} subjects are needed."
    )


def group_map(scores: np.ndarray, alternative: Literal["greater", "two-sided"] = "greater") -> GroupMap:
    """Test per target whether the mean of Fisher's z over subjects is above zero: subjects are a random effect.

    Parameters
    ----------
    scores : array, shape (subject, target)
        Pearson r, NaN where a subject lacks a target.
    alternative : {"greater", "two-sided"}
        Scores against chance are tested one-sided.

    Returns
    -------
    GroupMap
        Of targets that at least `MIN_SUBJECTS` subjects have.

    Raises
    ------
    StudyError
        If there are fewer subjects.
    """
    if len(scores) < MIN_SUBJECTS:
        raise StudyError(
            where="group map",
            found=f"{len(scores)} subjects",
            expected=f"at least {MIN_SUBJECTS}",
            do="add subjects, or test each by permutation",
        )
    from scipy import stats

    known = np.abs(scores) < 1  # false for NaN
    z = np.arctanh(np.where(known, scores, 0), dtype=np.float64)
    count = known.sum(axis=0)
    mean = z.sum(axis=0) / np.maximum(count, 1)
    square = (np.where(known, z - mean, 0) ** 2).sum(axis=0) / np.maximum(count - 1, 1)
    tested = (count >= MIN_SUBJECTS) & (square > _CONSTANT * mean**2)
    t = np.divide(mean, np.sqrt(square / np.maximum(count, 1)), out=np.full(mean.shape, np.nan), where=tested)
    upper = stats.t.sf(t if alternative == "greater" else np.abs(t), np.maximum(count - 1, 1))
    p = upper if alternative == "greater" else 2 * upper
    return GroupMap(t, p, fdr(p))
