"""Scores against chance: block permutation, circular shifts, and the false discovery rate. Pure array functions.

BOLD and predictions drift slowly, so neighbouring rows are not independent and a parametric test of r calls noise
significant. Blocks of contiguous rows keep the drift inside them; only what crosses a block's border is lost, and
`choose_block_rows` makes blocks long enough that this is little.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft

from cinecube.analysis.ridge.design import Run
from cinecube.analysis.ridge.factors import Array, Backend
from cinecube.store.base.errors import StudyError

MIN_BLOCKS = 8
"""With fewer, there are too few ways to permute them, and their null is not that of many blocks."""
MIN_BLOCK_ROWS = 10
"""Blocks chosen from data are never shorter than those of the paper."""
TOLERANCE = 0.05
"""Share of the null's variance that chosen blocks may lack. Of 6,000 unrelated targets, AR(1) series of 0.85 at 2,000
rows, 5.2 % have p < 0.05 with the 58 rows that this gives; 5.7 % with 30 rows, 8.3 % with 10, 24 % by a parametric
test."""
ROUNDING = 1e-6
"""Differences of r that are rounding of float32: a null score within it of the observed one counts as reaching it."""

# Cross-products of so many targets at so many blocks stay in the processor's cache. Measured for 5,000 permutations:
# one-hot rows as a sparse matrix are 2 to 5 times as fast as a dense one, and 5 to 8 times as fast as indexing.
_TARGETS_PER_BATCH = 64
_BLOCKS_PER_GROUP = 10
_NUMPY = Backend()
# More targets than this change the median autocorrelation by less than its own error.
_SAMPLED_TARGETS = 2048


@dataclass(frozen=True)
class Blocks:
    """Equal blocks of contiguous rows; what is left at the end, fewer rows than there are blocks, is trimmed.

    Attributes
    ----------
    n_rows, n_blocks, block_rows : int
    """

    n_rows: int
    n_blocks: int
    block_rows: int

    @property
    def used_rows(self) -> int:
        """Rows inside blocks."""
        return self.n_blocks * self.block_rows


@dataclass(frozen=True)
class BlockPlan:
    """Permutations of blocks, the same for every target.

    Attributes
    ----------
    blocks : Blocks
    order : array of int, shape (permutation, block)
        Number of the prediction's block at each place.
    """

    blocks: Blocks
    order: np.ndarray


@dataclass(frozen=True)
class Significance:
    """Scores and how often chance reaches them; NaN where a target is absent or constant.

    Attributes
    ----------
    score : array, shape (target,)
        Pearson r over the rows that were tested, or a difference of two.
    p : array, shape (target,)
        (1 + nulls that reach the score) / (1 + nulls), never zero.
    """

    score: np.ndarray
    p: np.ndarray


def cut_blocks(n_rows: int, block_rows: int) -> Blocks:
    """Cut rows into as many equal blocks of at least `block_rows` rows as there can be.

    Equal blocks can take each other's places, so a permuted series keeps its mean and its variance.

    Parameters
    ----------
    n_rows : int
    block_rows : int
        The fewest rows of a block.

    Returns
    -------
    Blocks
        Rows left over at the end are in none.

    Raises
    ------
    StudyError
        If there are fewer than `MIN_BLOCKS`.
    """
    n_blocks = n_rows // block_rows
    if n_blocks < MIN_BLOCKS:
        raise StudyError(
            where="blocks of the test film",
            found=f"{n_rows} rows, {n_blocks} blocks of {block_rows} rows",
            expected=f"at least {MIN_BLOCKS} blocks",
            do=f"test on {MIN_BLOCKS * block_rows} rows or more, or set shorter blocks and trust p less",
        )
    return Blocks(n_rows, n_blocks, n_rows // n_blocks)


def make_plan(n_rows: int, block_rows: int, n_permutations: int = 5000, seed: int = 0) -> BlockPlan:
    """Draw the permutations that all targets of a study share.

    Parameters
    ----------
    n_rows : int
        Rows of the test film.
    block_rows : int
        Fewest rows of a block, from `choose_block_rows`; the paper has 10.
    n_permutations, seed : int

    Returns
    -------
    BlockPlan

    Raises
    ------
    StudyError
        If the film holds too few blocks.
    """
    blocks = cut_blocks(n_rows, block_rows)
    places = np.tile(np.arange(blocks.n_blocks, dtype=np.int32), (n_permutations, 1))
    return BlockPlan(blocks, np.random.default_rng(seed).permuted(places, axis=1))


def permute_blocks(
    prediction: np.ndarray, truth: np.ndarray, plan: BlockPlan, backend: Backend = _NUMPY
) -> Significance:
    """Test each target's r against permutations of the prediction's blocks, one-sided.

    Parameters
    ----------
    prediction, truth : arrays, shape (row, target)
        Of the test film; any block of targets, since no target's p depends on the others.
    plan : BlockPlan
        From `make_plan`; the same for all blocks of targets.
    backend : Backend
        What takes the products: a GPU by torch.

    Returns
    -------
    Significance
        Over the rows inside blocks.

    Notes
    -----
    r of a permutation is a sum of products of the prediction's blocks with the truth's, which are taken once: exact
    to `ROUNDING`. The paper permutes blocks of 10 TRs (its sibling's appendix G), which is too short for BOLD.
    """
    n_targets = truth.shape[1]
    score, p = np.full(n_targets, np.nan), np.full(n_targets, np.nan)
    for part, observed, null in _block_nulls(prediction, truth, plan, backend):
        score[part] = observed
        p[part] = chance_of((null >= observed - ROUNDING).sum(axis=0), len(null), observed)
    return Significance(score, p)


def block_null(prediction: np.ndarray, truth: np.ndarray, plan: BlockPlan) -> np.ndarray:
    """r of every permutation, shape (permutation, target), of a few targets; see `permute_blocks`.

    Parameters
    ----------
    prediction, truth : arrays, shape (row, target)
    plan : BlockPlan

    Returns
    -------
    array, shape (permutation, target)
        NaN for targets that cannot be scored.
    """
    null = np.full((len(plan.order), truth.shape[1]), np.nan)
    for part, observed, values in _block_nulls(prediction, truth, plan):
        null[:, part] = np.where(np.isnan(observed), np.nan, values)
    return null


def _block_nulls(
    prediction: np.ndarray, truth: np.ndarray, plan: BlockPlan, backend: Backend = _NUMPY
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Batches of targets: r (target,), NaN where there is none, and r of all permutations (permutation, target)."""
    n_blocks, block_rows = plan.blocks.n_blocks, plan.blocks.block_rows
    groups = _one_hot(plan, backend)
    for part in target_batches(plan.blocks.n_rows, prediction, truth):
        series = [unit_series(x[:, part], plan.blocks.used_rows) for x in (prediction, truth)]
        a, b = (backend.put(x).reshape(-1, n_blocks, block_rows) for x in series)
        null = backend.put(np.zeros((len(plan.order), len(a))))
        for group, places in groups:
            # A product for each target, not one for the batch: its rounding must not depend on its neighbours.
            products = b[:, places] @ a.swapaxes(1, 2)
            null += group @ backend.turned(products.reshape(len(a), -1))
        yield part, correlate(*series), backend.get(null)


def _one_hot(plan: BlockPlan, backend: Backend) -> list[tuple[Array, slice]]:
    """Per group of places, a matrix (permutation, place x block) of ones where a block of the prediction is."""
    n_blocks = plan.blocks.n_blocks
    groups = []
    for first in range(0, n_blocks, _BLOCKS_PER_GROUP):
        places = slice(first, min(first + _BLOCKS_PER_GROUP, n_blocks))
        width = places.stop - first
        columns = np.arange(width, dtype=np.int32) * n_blocks + plan.order[:, places]
        groups.append((backend.sparse_ones(columns, width * n_blocks), places))
    return groups


def shift_circularly(
    prediction: np.ndarray, truth: np.ndarray, min_shift: int, n_permutations: int = 5000, seed: int = 0
) -> Significance:
    """Test each target's r against circular shifts of the prediction, one-sided: another null than blocks.

    Parameters
    ----------
    prediction, truth : arrays, shape (row, target)
        Of the test film; any block of targets.
    min_shift : int
        Fewest rows of a shift, in either direction: the block length.
    n_permutations, seed : int
        All shifts are tried; if there are more than this, so many are drawn, the same for all targets.

    Returns
    -------
    Significance

    Raises
    ------
    StudyError
        If the film is shorter than `MIN_BLOCKS` of the least shift.
    """
    n_rows, n_targets = truth.shape
    cut_blocks(n_rows, min_shift)
    shifts = np.arange(min_shift, n_rows - min_shift + 1)
    if len(shifts) > n_permutations:
        shifts = np.random.default_rng(seed).choice(shifts, n_permutations, replace=False)
    score, p = np.full(n_targets, np.nan), np.full(n_targets, np.nan)
    for part in target_batches(n_rows, prediction, truth):
        series = [unit_series(x[:, part], n_rows) for x in (prediction, truth)]
        spectrum = np.multiply(fft.rfft(series[0], axis=1).conj(), fft.rfft(series[1], axis=1))
        shifted = fft.irfft(spectrum, n_rows, axis=1)
        observed = correlate(*series)
        score[part] = observed
        p[part] = chance_of((shifted[:, shifts] >= observed[:, None] - ROUNDING).sum(axis=1), len(shifts), observed)
    return Significance(score, p)


def choose_block_rows(
    prediction: np.ndarray, truth: np.ndarray, runs: Sequence[Run] | None = None, tolerance: float = TOLERANCE
) -> int:
    """Rows of a block that keep all but `tolerance` of the variance that drift lends the null.

    Where prediction and truth have autocorrelations ρp and ρy and nothing in common, n times the variance of r is
    S = Σ ρp(k) ρy(k) over all lags k. Blocks of L rows lack the products across their borders: Σ |k| ρp(k) ρy(k) / L.

    Parameters
    ----------
    prediction, truth : arrays, shape (row, target)
        Of the test film; of many targets, some evenly spaced ones are read. For two models that are compared, the
        prediction is the difference of their standardised predictions.
    runs : sequence of (start, stop), optional
        No product is taken across their borders; by default all rows are one run.
    tolerance : float
        Largest share of S that may be missing.

    Returns
    -------
    int
        At least `MIN_BLOCK_ROWS`. No score enters: of each lag's products ρp(k) ρy(k), the median over targets is
        taken, of each target up to the first lag where either is not positive (after Geyer 1992).

    Raises
    ------
    StudyError
        If the film holds fewer than `MIN_BLOCKS` of them.
    """
    pooled = _pooled_products(prediction, truth, runs or [(0, len(truth))])
    missing = 2 * (np.arange(1, len(pooled) + 1) * pooled).sum()
    block_rows = max(MIN_BLOCK_ROWS, math.ceil(missing / (tolerance * (1 + 2 * pooled.sum()))))
    cut_blocks(len(truth), block_rows)
    return block_rows


def _pooled_products(prediction: np.ndarray, truth: np.ndarray, runs: Sequence[Run]) -> np.ndarray:
    """Median over targets of ρp(k) ρy(k), shape (lag,) from lag 1; empty where no target can be scored."""
    sample = evenly_spaced(truth.shape[1])
    max_lag = min(max(stop - start for start, stop in runs) - 1, len(truth) // MIN_BLOCKS)
    predicted, known = (autocorrelation(x[:, sample], max_lag, runs) for x in (prediction, truth))
    # Beyond this both are noise, and not that of independent series where the score is high.
    positive = np.logical_and.accumulate((predicted > 0) & (known > 0), axis=0)
    products = (predicted * known * positive)[1:, positive[0]]
    return np.median(products, axis=1) if products.size else np.empty(0)


def evenly_spaced(n_targets: int) -> slice:
    """Targets that autocorrelations are read from."""
    return slice(None, None, max(1, math.ceil(n_targets / _SAMPLED_TARGETS)))


def autocorrelation(values: np.ndarray, max_lag: int, runs: Sequence[Run]) -> np.ndarray:
    """Autocorrelation of each target at lags 0 to `max_lag`, from pairs of rows inside runs.

    Parameters
    ----------
    values : array, shape (row, target)
    max_lag : int
        In rows, less than the longest run.
    runs : sequence of (start, stop)

    Returns
    -------
    array, shape (lag, target)
        Mean product of pairs over the variance, both about the mean over all rows; NaN where a target is constant.
    """
    series = unit_series(values, len(values))
    total = np.zeros((len(series), max_lag + 1))
    pairs = np.zeros(max_lag + 1)
    for start, stop in runs:
        size = fft.next_fast_len(stop - start + max_lag, real=True)
        power = np.abs(fft.rfft(series[:, start:stop], size, axis=1)) ** 2
        total += fft.irfft(power, size, axis=1)[:, : max_lag + 1]
        pairs += np.maximum(stop - start - np.arange(max_lag + 1), 0)
    mean = total / pairs
    return np.divide(mean, mean[:, :1], out=np.full_like(mean, np.nan), where=series.any(axis=1, keepdims=True)).T


def fdr(p: np.ndarray) -> np.ndarray:
    """Adjust p for the false discovery rate (Benjamini & Hochberg 1995) over all that are known; NaN stays NaN.

    Parameters
    ----------
    p : array, any shape
        All of it is one family of tests.
    """
    adjusted = np.full(np.shape(p), np.nan)
    known = np.isfinite(p)
    if known.any():
        from scipy import stats  # takes a second to import

        adjusted[known] = stats.false_discovery_control(np.asarray(p)[known], method="bh")
    return adjusted


def target_batches(n_rows: int, *arrays: np.ndarray) -> Iterator[slice]:
    """Slices of few targets of arrays (row, target) that must have `n_rows` rows and the same targets.

    Parameters
    ----------
    n_rows : int
    *arrays
        (row, target).

    Yields
    ------
    slice
        Of targets.

    Raises
    ------
    StudyError
        If they do not.
    """
    n_targets = arrays[-1].shape[-1]
    if any(array.shape != (n_rows, n_targets) for array in arrays):
        raise StudyError(
            where="rows and targets of predictions and responses",
            found=" and ".join(str(array.shape) for array in arrays),
            expected=f"the same targets, at the {n_rows} rows that blocks were cut for",
            do="cut blocks for the rows of the test film, and read all arrays at these",
        )
    for start in range(0, n_targets, _TARGETS_PER_BATCH):
        yield slice(start, min(start + _TARGETS_PER_BATCH, n_targets))


def unit_series(values: np.ndarray, used_rows: int) -> np.ndarray:
    """The first rows of each target, centred and of length one, as float64 (target, row).

    Zeros where a target is constant or has a value that is not finite, in any of its rows.

    Parameters
    ----------
    values : array, shape (row, target)
    used_rows : int
        Rows that the blocks cover.

    Returns
    -------
    array of float64, shape (target, row)
    """
    series = np.ascontiguousarray(values.T, dtype=np.float64)
    series = np.where(np.isfinite(series).all(axis=1, keepdims=True), series, 0)[:, :used_rows]
    varies = np.ptp(series, axis=1, keepdims=True) > 0  # its mean may differ from a constant by rounding
    series = np.where(varies, series - series.mean(axis=1, keepdims=True), 0)
    length = np.sqrt((series * series).sum(axis=1, keepdims=True))
    return np.divide(series, length, out=np.zeros_like(series), where=length > 0)


def correlate(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """r (target,) of two sets of `unit_series`; NaN where either has zeros for one that cannot be scored.

    Parameters
    ----------
    a, b : arrays, shape (target, row)
        From `unit_series`.

    Returns
    -------
    array, shape (target,)
    """
    return np.where(a.any(axis=1) & b.any(axis=1), (a * b).sum(axis=1), np.nan)


def chance_of(reached: np.ndarray, n_nulls: int, score: np.ndarray) -> np.ndarray:
    """p of counts (target,) among `n_nulls`, the observed order being one of them; NaN where the score is.

    Parameters
    ----------
    reached : array of int, shape (target,)
        Permutations that reach the score.
    n_nulls : int
        Permutations.
    score : array, shape (target,)

    Returns
    -------
    array, shape (target,)
    """
    return np.where(np.isnan(score), np.nan, (1 + reached) / (1 + n_nulls))
