"""Variance partitioning out of core: what streams explain alone and together, each fit a job for all blocks of targets.

R² of every subset of the streams on films that no fit has seen; a part follows by inclusion and exclusion (de Heer et
al. 2017, J. Neurosci. 37). A subset of several streams is fitted with a penalty for each of them (banded ridge,
Nunez-Elizalde et al. 2019): with one penalty for all, a wide or noisy stream spoils a narrow one.
A joint fit is factored once for all targets of all subjects, and one that several sets need is made once. Of each
fit only a few numbers per target are kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cinecube.analysis.cubes.rows import RowsGroup
from cinecube.analysis.cubes.spaces import FeatureSpace, Responses
from cinecube.analysis.encoders.problem import Block, Layout, Settings, make_design, make_layout, read_block
from cinecube.analysis.partition.parts import Subset, subsets
from cinecube.analysis.ridge.factors import Factors, factorise, plain_grams
from cinecube.analysis.ridge.shared_ridge import solve
from cinecube.store.base import journal
from cinecube.store.base.fingerprint import fingerprint
from cinecube.store.jobs.tasks import Workers, run_jobs, share, submit

# Measured on 600 rows, 5 delays, 48 to 100 dims: R² of two spaces together, mean over targets, within 0.0005 of that of
# 25 joint fits with finer and wider shares, and means of 16 targets' parts within 0.003. One share is up to 0.013 and
# 0.022 away; random shares 0.002 and 0.009 after 5 draws, 0.001 and 0.007 after 20 or 50, which take far longer.
SHARES = (1.0, 0.4, 0.15, 0.05)
"""Shares of a space in a subset's fit, beside none at all: its penalty is the subset's divided by its share."""
# Responses of up to so many bytes are read once; more of them, once for each fit.
_KEPT_BYTES = 2**29


@dataclass(frozen=True)
class Entry:
    """A stream by one of its layers.

    Attributes
    ----------
    space : FeatureSpace
        Of the model that gives the stream.
    groups : list of RowsGroup
        The same rows for all streams, each with its positions in these cubes.
    m, k : int
        Positions of the stream and the layer.
    """

    space: FeatureSpace
    groups: list[RowsGroup]
    m: int
    k: int

    @property
    def layer(self) -> str:
        """Label of the layer."""
        return self.space.layers[self.k]


@dataclass(frozen=True)
class Candidate:
    """One fit to try: streams joined, the penalty of each divided by its share."""

    streams: Subset
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Ground:
    """Inputs that all fits to one group of rows share.

    Attributes
    ----------
    number : int
        Of the group.
    group : RowsGroup
    layout : Layout
        Its folds hold for all streams.
    settings : Settings
    brains : dict of str to Responses
        By subject.
    blocks : list of encoding.Block
        Targets of the group's subjects, one subject after another.
    """

    number: int
    group: RowsGroup
    layout: Layout
    settings: Settings
    brains: Mapping[str, Responses]
    blocks: list[Block]

    @property
    def n_targets(self) -> int:
        """Targets of all blocks."""
        return sum(piece.targets.size for block in self.blocks for piece in block)


@dataclass(frozen=True)
class Best:
    """The best fit of some streams to each target; NaN where a target is absent or constant.

    Attributes
    ----------
    split : array, shape (stream, target)
        Each stream's part of R² on the test rows by the product measure (Dupré la Tour et al. 2022, eq. 15).
    penalty : array, shape (stream, target)
        Infinite for a stream that the folds left out.
    """

    split: np.ndarray
    penalty: np.ndarray

    @property
    def r2(self) -> np.ndarray:
        """R² on the test rows, shape (target,): the sum of its parts."""
        total: np.ndarray = self.split.sum(axis=0)
        return total


def candidates(streams: Sequence[str], sets: Sequence[Sequence[str]]) -> list[Candidate]:
    """Fits that the sets need, each once, smaller subsets first.

    Parameters
    ----------
    streams : sequence of str
        All streams; subsets name theirs in this order.
    sets : sequence of sequence of str
        Streams of each set.

    Returns
    -------
    list of Candidate
        Combinations of `partition.SHARES` whose largest share is the largest there is: others differ from one of them
        by the penalty only. A share of none is the fit of a smaller subset.
    """
    wanted = dict.fromkeys(itertools.chain.from_iterable(subsets([s for s in streams if s in one]) for one in sets))
    return [
        Candidate(subset, shares)
        for subset in sorted(wanted, key=len)
        for shares in itertools.product(SHARES, repeat=len(subset))
        if max(shares) == max(SHARES)
    ]


def count_work(tried: Sequence[Candidate], grounds: Sequence[Ground]) -> float:
    """Multiplications, roughly: those that factor folds, and those that predict held-out rows with every penalty.

    Parameters
    ----------
    tried : sequence of Candidate
    grounds : sequence of Ground

    Returns
    -------
    float
    """
    total = 0.0
    for ground in grounds:
        n_rows, n_alphas = float(ground.layout.train.sum()), len(ground.settings.alphas)
        total += n_rows**2 * (ground.n_targets * n_alphas + 9 * n_rows * (len(ground.layout.folds) + 1))
    return total * len(tried)


def fit_all(
    entries: Mapping[str, Entry],
    grounds: Sequence[Ground],
    tried: Sequence[Candidate],
    workers: Workers = None,
    progress: Callable[[int, int], None] | None = None,
    kept: journal.Journal | None = None,
) -> list[dict[Subset, Best]]:
    """The best fit of every subset of streams to every target, by ground.

    Parameters
    ----------
    entries : Mapping of str to Entry
        By stream.
    grounds : sequence of Ground
    tried : sequence of Candidate
        From `candidates`.
    workers : Client or Threads, optional
        Without them all runs here, one fit after another.
    progress : callable, optional
        Told `(fits done, fits in all)`.
    kept : Journal, optional
        Fits of an earlier run that was interrupted; new ones are added as they are finished.

    Returns
    -------
    list of dict of Subset to Best
        One dict per ground.

    Raises
    ------
    StudyError
        If a worker is lost, or responses hold NaN in part.
    """
    races = [Race(tried, ground.n_targets) for ground in grounds]
    done, n_fits = 0, len(grounds) * len(tried)
    for ground, race in zip(grounds, races, strict=True):
        files = [_file_of(candidate, ground) for candidate in tried]
        todo = [n for n, file in enumerate(files) if kept is None or not kept.has(file)]
        for n in sorted(set(range(len(tried))) - set(todo)):
            race.enter(n, kept.read(files[n]) if kept else np.empty(0))
        done += len(tried) - len(todo)
        jobs = _jobs(entries, ground, {n: tried[n] for n in todo}, workers)
        for n, values in run_jobs(workers, fit_candidate, jobs, ground.settings.threads):
            race.enter(n, values)
            if kept:
                kept.write(files[n], values)
            done += 1
            if progress:
                progress(done, n_fits)
    return [race.winners() for race in races]


def _file_of(candidate: Candidate, ground: Ground) -> journal.Block:
    """Journal block of a fit, by what it is: an interrupted run may have had other sets to fit."""
    named = fingerprint({"streams": list(candidate.streams), "shares": list(candidate.shares)})[:16]
    return journal.Block(f"group{ground.number}.{named}", 0, ground.n_targets)


def _jobs(
    entries: Mapping[str, Entry], ground: Ground, todo: Mapping[int, Candidate], workers: Workers
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Arguments of `fit_candidate`; designs are made once, and responses read once where they are few."""
    threads, everywhere = ground.settings.threads, share(workers, ground)
    wanted = dict.fromkeys(stream for candidate in todo.values() for stream in candidate.streams)
    designs = {
        stream: submit(workers, stream_design, threads, share(workers, entries[stream]), everywhere)
        for stream in wanted
    }
    few = todo and 4 * len(ground.group.segment) * ground.n_targets <= _KEPT_BYTES
    brains = share(workers, ground.brains)
    responses = [submit(workers, read_block, threads, block, ground.group, brains) for block in ground.blocks if few]
    for number, candidate in todo.items():
        yield number, ([designs[stream] for stream in candidate.streams], candidate.shares, responses, everywhere)


def stream_design(entry: Entry, ground: Ground) -> tuple[np.ndarray, np.ndarray]:
    """Task: a stream's designs of the training and the test rows, (row, delay x dim) each.

    Parameters
    ----------
    entry : Entry
    ground : Ground

    Returns
    -------
    train, test : arrays, shape (row, delay x dim)
    """
    settings = ground.settings
    layout = make_layout(entry.space, entry.groups[ground.number], settings, max(settings.delays))
    return make_design(entry.space.read_layer(entry.m, entry.k), layout, settings.delays)


def fit_candidate(
    designs: Sequence[tuple[np.ndarray, np.ndarray]],
    shares: Sequence[float],
    responses: Sequence[np.ndarray],
    ground: Ground,
) -> np.ndarray:
    """Task: ridge of streams that are scaled by the roots of their shares and joined, which shares out the penalty.

    Parameters
    ----------
    designs : sequence of (train, test)
        (row, feature) each.
    shares : sequence of float
        One per stream.
    responses : sequence of array, shape (row, target)
        Of each block; none, if they are to be read here.
    ground : Ground

    Returns
    -------
    array, shape (1 + 2 x stream, target)
        Squared error on held-out rows, then `split` and `penalty` as in `Best`.
    """
    from scipy.linalg import block_diag

    scales, folds = np.sqrt(shares), ground.layout.folds
    train = np.concatenate([design * scale for (design, _), scale in zip(designs, scales, strict=True)], axis=1)
    # With the other streams' features at zero, a test row's prediction is what one stream contributes.
    test = block_diag(*[design * scale for (_, design), scale in zip(designs, scales, strict=True)])
    factors = factorise(plain_grams(train, folds, test), train, test, folds, ground.settings.backend)
    known = responses or (read_block(block, ground.group, ground.brains) for block in ground.blocks)
    return np.concatenate([_fit_block(factors, block, np.asarray(shares), ground) for block in known], axis=1)


def _fit_block(factors: Factors, responses: np.ndarray, shares: np.ndarray, ground: Ground) -> np.ndarray:
    known, truth = responses[ground.layout.train], responses[~ground.layout.train]
    fitted = np.all([np.isfinite(part).all(axis=0) & (np.ptp(part, axis=0) > 0) for part in (known, truth)], axis=0)
    found = np.full((1 + 2 * len(shares), responses.shape[1]), np.nan)
    if fitted.any():
        settings = ground.settings
        fit = solve(factors, known[:, fitted], settings.alphas)
        split = _split_r2(truth[:, fitted], fit.prediction.reshape(len(shares), len(truth), -1))
        found[:, fitted] = np.concatenate([fit.loss[None], split, settings.alphas[fit.best] / shares[:, None]])
    return found


def _split_r2(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Parts of R² about the means, (stream, target), of responses (row, target) and (stream, row, target)."""
    truth, predicted = truth.astype(np.float64), predicted.astype(np.float64)
    truth -= truth.mean(axis=0)
    predicted -= predicted.mean(axis=1, keepdims=True)
    # himalaya's `r2_score_split`, whose import takes as long as ten fits of a small study.
    unexplained = 2 * truth - predicted.sum(axis=0)
    return np.einsum("srt,rt->st", predicted, unexplained) / (truth * truth).sum(axis=0)


class Race:
    """Keeps for each subset the fit that the folds prefer, target by target, in whatever order fits come in.

    Parameters
    ----------
    tried : sequence of Candidate
        Of equally good fits the earlier wins, and that of a smaller subset before all.
    n_targets : int
    """

    def __init__(self, tried: Sequence[Candidate], n_targets: int) -> None:
        self._subsets = [candidate.streams for candidate in tried]
        self._leading = {subset: np.full((1 + 2 * len(subset), n_targets), np.nan) for subset in self._subsets}
        for values in self._leading.values():
            values[0] = np.inf
        self._number = {subset: np.full(n_targets, len(tried)) for subset in self._subsets}

    def enter(self, number: int, values: np.ndarray) -> None:
        """Take in what `fit_candidate` returned for the candidate of this number.

        Parameters
        ----------
        number : int
        values : array
            (1 + 2 × streams, target): loss, then parts of R² and penalties of each stream.
        """
        leading, by = (kept[self._subsets[number]] for kept in (self._leading, self._number))
        better = (values[0] < leading[0]) | ((values[0] == leading[0]) & (number < by))
        leading[:, better], by[better] = values[:, better], number

    def winners(self) -> dict[Subset, Best]:
        """The best fits, smaller subsets among the candidates of larger ones."""
        won: dict[Subset, np.ndarray] = {}
        for subset, values in self._leading.items():
            best, size = values.copy(), len(subset)
            parts = [part for part in itertools.combinations(subset, size - 1) if part]
            for part in reversed(parts):
                better = np.isfinite(won[part][0]) & (won[part][0] <= best[0])
                best[:, better] = _widened(won[part], part, subset)[:, better]
            won[subset] = best
        return {subset: Best(*np.split(values[1:], 2)) for subset, values in won.items()}


def _widened(values: np.ndarray, part: Subset, subset: Subset) -> np.ndarray:
    """A smaller subset's values as those of a fit that leaves the other streams out."""
    loss, split, penalty = values[:1], *np.split(values[1:], 2)
    inside = [subset.index(stream) for stream in part]
    wide = (np.zeros((len(subset), values.shape[1])), np.full((len(subset), values.shape[1]), np.inf))
    wide[0][inside], wide[1][inside] = split, penalty
    return np.concatenate([loss, *wide])
