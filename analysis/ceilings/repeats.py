"""Ceilings from films shown several times: what the showings share is signal, the rest is noise. Pure array functions.

With R showings of a target, SP = (R Var(mean) - mean Var) / (R - 1) estimates the variance of the signal without bias,
where Var(mean) is the variance of the mean over showings and mean Var the mean of each showing's (Sahani & Linden 2002,
NIPS 15; Hsu, Borst & Theunissen 2004, Network 15:91). The signal itself correlates with a single showing by
√(SP / mean Var), and with the mean over showings by √(SP / Var(mean)) (Schoppe et al. 2016, Front. Comput. Neurosci.
10:10, where the latter is CC_max).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cinecube.store.base.errors import StudyError

# Of a batch of targets in float64, all showings together.
BATCH_BYTES = 64 * 2**20
# Below this share of its mean a spread is rounding of float32, as in `design.constants`.
_CONSTANT = 1e-7
# Up to so many showings all splits in halves are taken (70 of them); of more showings, as many at random.
_MOST_LISTED, _N_RANDOM = 8, 70


@dataclass(frozen=True)
class RepeatCeilings:
    """Ceilings of a block of targets from repeated films, (target,) each; NaN where a target is constant or absent.

    Attributes
    ----------
    explainable : array
        SP / mean Var: the share of a single showing's variance that is signal. Without bias, so negative by chance
        where there is little.
    split_half : array
        Correlation between means over two halves of the showings, mean over splits.
    reliability : array
        Of the mean over all showings, from `split_half` by the Spearman-Brown formula; 0 where that is negative.
    averaged, averaged_low, averaged_high : arrays
        Ceiling of r with the mean over showings, and its interval; 0 where SP is negative.
    single, single_low, single_high : arrays
        Ceiling of r with one showing.
    """

    explainable: np.ndarray
    split_half: np.ndarray
    reliability: np.ndarray
    averaged: np.ndarray
    averaged_low: np.ndarray
    averaged_high: np.ndarray
    single: np.ndarray
    single_low: np.ndarray
    single_high: np.ndarray


@dataclass(frozen=True)
class _Sums:
    """Sums over rows from which variances follow; with leading axes (block, target), or (resampling, target).

    Attributes
    ----------
    n : array
        Rows that all showings have.
    each : list of array
        Per showing, Σ y.
    square : array
        Σ y² over rows and showings.
    mean_square : array
        Σ of the squared mean over showings.
    """

    n: np.ndarray
    each: list[np.ndarray]
    square: np.ndarray
    mean_square: np.ndarray


def repeat_ceilings(
    responses: np.ndarray, block_rows: int, n_bootstraps: int = 100, interval: float = 0.95, seed: int = 0
) -> RepeatCeilings:
    """Explainable variance, split-half reliability, and the ceilings of r that follow.

    Parameters
    ----------
    responses : array, shape (repeat, row, target)
        Rows in order of time, centred per run; a row counts for a target where all showings have a value.
    block_rows : int
        Rows that the bootstrap keeps together: it draws blocks with replacement, since neighbouring rows of fMRI are
        alike. Longer than the noise's memory, and short enough for 20 blocks or more.
    n_bootstraps : int
    interval : float
        Share of resamplings between `low` and `high`.
    seed : int
        Of the bootstrap; one draw serves all targets.

    Returns
    -------
    RepeatCeilings

    Raises
    ------
    StudyError
        If there is one showing only, or `block_rows` leaves fewer than two blocks.
    """
    n_repeats, n_rows, n_targets = responses.shape
    n_blocks = -(-n_rows // max(block_rows, 1))
    _refuse(n_repeats, n_rows, block_rows, n_blocks)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=n_bootstraps).astype(np.float64)
    found = RepeatCeilings(*np.full((9, n_targets), np.nan))
    size = max(1, BATCH_BYTES // (8 * n_repeats * n_rows))
    for start in range(0, n_targets, size):
        batch = slice(start, start + size)
        for name, values in _batch(responses[:, :, batch], block_rows, drawn, interval).items():
            getattr(found, name)[batch] = values
    return found


def _refuse(n_repeats: int, n_rows: int, block_rows: int, n_blocks: int) -> None:
    if n_repeats < 2:
        raise StudyError(
            where="ceiling from repeats",
            found=f"{n_repeats} showing",
            expected="at least 2 showings of the same film",
            do="take the ceiling from other subjects",
        )
    if block_rows < 1 or n_blocks < 2:
        raise StudyError(
            where="ceiling from repeats",
            found=f"blocks of {block_rows} rows in {n_rows} rows",
            expected="at least 2 blocks to draw from",
            do="choose shorter blocks",
        )


def _batch(responses: np.ndarray, block_rows: int, drawn: np.ndarray, interval: float) -> dict[str, np.ndarray]:
    """All values of some targets, (target,) each, by name."""
    known, mask, varies = _centred(responses)
    blocks = _block_sums(known, mask, block_rows)
    signal, each, mean = (values[0] for values in _variances(_draw(blocks, np.ones((1, len(blocks.n))))))
    split_half = _split_half(known, mask)
    # Spearman-Brown, from a half to all showings.
    longer = len(responses) / (len(responses) // 2)
    found = {
        "explainable": _over(signal, each),
        "split_half": split_half,
        "reliability": (longer * split_half / (1 + (longer - 1) * split_half.clip(0))).clip(0),
        "averaged": _ceiling(signal, mean),
        "single": _ceiling(signal, each),
    }
    tail = (1 - interval) / 2
    signals, eaches, means = _variances(_draw(blocks, drawn))
    for name, totals in (("averaged", means), ("single", eaches)) if len(drawn) else ():
        found[f"{name}_low"], found[f"{name}_high"] = np.quantile(_ceiling(signals, totals), [tail, 1 - tail], axis=0)
    return {name: np.where(varies, values, np.nan) for name, values in found.items()}


def _centred(responses: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each showing in float64 less its mean, zero where a row lacks a showing; where it does not; what varies.

    Returns
    -------
    known : array, shape (repeat, row, target)
    mask : array of bool, shape (row, target)
    varies : array of bool, shape (target,)
        By the measure of `design.constants`.
    """
    mask = np.isfinite(responses).all(axis=0)
    known = np.where(mask, responses, 0).astype(np.float64)
    n = np.maximum(mask.sum(axis=0), 1)
    mean = known.sum(axis=1) / n
    known -= mean[:, None]
    known *= mask
    spread = np.sqrt((known * known).sum(axis=1) / n)
    return known, mask, (spread > _CONSTANT * np.abs(mean)).any(axis=0)


def _block_sums(known: np.ndarray, mask: np.ndarray, block_rows: int) -> _Sums:
    starts = np.arange(0, known.shape[1], block_rows)

    def summed(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, starts, axis=0)

    return _Sums(
        summed(mask.astype(np.float64)),
        [summed(showing) for showing in known],
        sum(summed(showing**2) for showing in known[1:]) + summed(known[0] ** 2),
        summed(known.mean(axis=0) ** 2),
    )


def _draw(blocks: _Sums, drawn: np.ndarray) -> _Sums:
    """Sums of the blocks that each resampling draws, `drawn` (resampling, block)."""
    return _Sums(
        drawn @ blocks.n, [drawn @ each for each in blocks.each], drawn @ blocks.square, drawn @ blocks.mean_square
    )


def _variances(sums: _Sums) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Variance of the signal, of a single showing, and of the mean over showings."""
    n_repeats, n = len(sums.each), np.maximum(sums.n, 1)
    each = (sums.square - sum(total**2 for total in sums.each) / n) / (n_repeats * n)
    mean = (sums.mean_square - (sum(sums.each) / n_repeats) ** 2 / n) / n
    return (n_repeats * mean - each) / (n_repeats - 1), each, mean


def _ceiling(signal: np.ndarray, total: np.ndarray) -> np.ndarray:
    """√(signal / total), at most 1; 0 of a negative signal, or where nothing varies, as in showings that cancel out."""
    return np.sqrt(np.nan_to_num(_over(signal, total)).clip(0, 1))


def _over(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.full(a.shape, np.nan), where=b > 0)


def _split_half(known: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Correlation between halves, mean over splits, (target,)."""
    correlations = [
        _masked_pearson(known[list(a)].mean(axis=0), known[list(b)].mean(axis=0), mask) for a, b in _halves(len(known))
    ]
    return np.mean(correlations, axis=0)


def _halves(n_repeats: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Pairs of halves; of an odd number of showings one is left out."""
    half = n_repeats // 2
    if n_repeats > _MOST_LISTED:
        rng = np.random.default_rng(0)
        for _ in range(_N_RANDOM):
            order = rng.permutation(n_repeats).tolist()
            yield tuple(order[:half]), tuple(order[half : 2 * half])
        return
    for a in itertools.combinations(range(n_repeats), half):
        for b in itertools.combinations(sorted(set(range(n_repeats)) - set(a)), half):
            if a < b:
                yield a, b


def _masked_pearson(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Correlation (target,) over the rows of a mask (row, target); values elsewhere are zero."""
    n = np.maximum(mask.sum(axis=0), 1)
    a, b = ((values - values.sum(axis=0) / n) * mask for values in (a, b))
    return _over((a * b).sum(axis=0), np.sqrt((a * a).sum(axis=0) * (b * b).sum(axis=0)))
