"""Encoding one model: every layer, every subject, blocks of targets as jobs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from cinecube.analysis.cubes.target_blocks import Block, split_block
from cinecube.analysis.encoders.factored import (
    Factored,
    factor_fold,
    held_losses,
    prepare_layer,
    solve_responses,
    training_design,
)
from cinecube.analysis.encoders.layout import Layout, make_design
from cinecube.analysis.encoders.oota2025 import Places, choose_places, places_of
from cinecube.analysis.encoders.problem import Plan, Problem
from cinecube.analysis.encoders.score_cube import SCORES, Scored
from cinecube.analysis.encoders.settings import Settings
from cinecube.analysis.jobs.tasks import Progress, Workers, run_jobs, share, submit
from cinecube.analysis.ridge.himalaya_ridge import fit_and_score
from cinecube.analysis.ridge.scores import Scores
from cinecube.store.base import journal

# Blocks of a layer still to be solved when the next layer's factors are begun: they keep workers busy meanwhile.
_BLOCKS_AHEAD = 4


def encode_layers(
    problem: Problem,
    workers: Workers = None,
    progress: Progress | None = None,
    kept: journal.Journal | None = None,
) -> Scored:
    """Score every layer of a model in every target of every subject.

    Parameters
    ----------
    problem : Problem
    workers : Client or Threads, optional
        Without them all runs here, one task after another.
    progress : callable, optional
        Told `(tasks done, tasks in all)`.
    kept : Journal, optional
        Blocks of an earlier run that was interrupted; new ones are added as they are finished.

    Returns
    -------
    Scored

    Raises
    ------
    StudyError
        If a worker is lost, or responses hold NaN in part.
    """
    settings, shape = problem.settings, problem.space.width.shape
    found = Scored(
        {
            name: {score: np.full((*shape, brain.n_targets), np.nan) for score in SCORES}
            for name, brain in problem.brains.items()
        }
    )
    plans = problem.plans(problem.targets, max(settings.delays))
    units = [
        Unit(plan, m, k, (settings,), dict.fromkeys(range(len(plan.blocks))))
        for plan in plans
        for m, k in problem.layers
    ]
    n_jobs = sum(len(unit.blocks) for unit in units)
    units = [left for unit in units if (left := _restore(found, unit, kept)).blocks]
    done = n_jobs - sum(len(unit.blocks) for unit in units)
    if progress:
        progress(done, n_jobs)
    places = _choose_places(problem, units, workers) if settings.one_alpha else None
    for job, scores in run_units(problem, units, workers, places):
        _place(found, units[job.unit], job.block, scores[0])
        if kept:
            kept.write(_file_of(units[job.unit], job.block), scores[0])
        done += 1
        if progress:
            progress(done, n_jobs)
    return found


@dataclass(frozen=True)
class Unit:
    """Fits that share their factors: one layer of one stream, for blocks of a group's targets.

    Attributes
    ----------
    plan : Plan
    m, k : int
        Positions of the stream and the layer.
    variants : tuple of Settings
        Each is fitted; they may differ in their delays.
    blocks : dict of int to array of bool, shape (target,), or None
        By a block's number, which of its targets are fitted; None for all.
    """

    plan: Plan
    m: int
    k: int
    variants: tuple[Settings, ...]
    blocks: dict[int, np.ndarray | None]


class Job(NamedTuple):
    """A block of a unit; both by number."""

    unit: int
    block: int


def run_units(
    problem: Problem, units: Sequence[Unit], workers: Workers, places: Places | None = None, tested: bool = True
) -> Iterator[tuple[Job, np.ndarray]]:
    """Fit all blocks of all units, in any order.

    Parameters
    ----------
    problem : Problem
    units : sequence of Unit
    workers : Client, Threads or None
    places : Places, optional
        Penalties that are shared; otherwise each target has its own.
    tested : bool
        Whether scores on the test films are needed.

    Yields
    ------
    Job, array of shape (variant, name in `SCORES`, target)
    """
    if problem.settings.solver == "shared":
        jobs = _sharing_factors(problem, units, workers)
        if places is not None:
            jobs = (
                (job, (*arguments, places_of(units[job.unit].plan.blocks[job.block], job.unit, places)))
                for job, arguments in jobs
            )
        return run_jobs(workers, solve_block, jobs, problem.settings.threads)
    return run_jobs(workers, score_block, _each_for_itself(problem, units, workers, tested), problem.settings.threads)


_Arguments = tuple[Any, ...]


def _sharing_factors(problem: Problem, units: Sequence[Unit], workers: Workers) -> Iterator[tuple[Job, _Arguments]]:
    """Jobs of `solve_block`: a layer is read and factored once for all blocks.

    The next unit is factored while the last blocks of the one before are solved.
    """
    there = _There(problem, workers)
    following = [there.factored(units[0])] if units else []
    for number, unit in enumerate(units):
        factors = following.pop()
        for left, (block, inside) in zip(range(len(unit.blocks), 0, -1), unit.blocks.items(), strict=True):
            if left == min(_BLOCKS_AHEAD, len(unit.blocks)) and number + 1 < len(units):
                following.append(there.factored(units[number + 1]))
            # What a job reads its responses from: responses of waiting jobs would fill the memory.
            source = [there.problem, unit.plan.blocks[block], unit.plan.number, inside]
            yield Job(number, block), (factors, source, there.shared(unit.plan.layout), there.settings)


def _each_for_itself(
    problem: Problem, units: Sequence[Unit], workers: Workers, tested: bool
) -> Iterator[tuple[Job, _Arguments]]:
    """Jobs of `score_block`, which factor for themselves: a block's responses are read once for all layers."""
    there = _There(problem, workers)
    layer = cache(there.read_layer)
    for plan in {unit.plan.number: unit.plan for unit in units}.values():
        mine = [(number, unit) for number, unit in enumerate(units) if unit.plan.number == plan.number]
        for block in sorted({block for _, unit in mine for block in unit.blocks}):
            responses = submit(
                workers, Problem.read_block, problem.settings.threads, there.problem, plan.blocks[block], plan.number
            )
            for number, unit in mine:
                if block in unit.blocks:
                    variants = [there.shared(variant) for variant in unit.variants]
                    layout = there.shared(plan.layout)
                    yield (
                        Job(number, block),
                        (layer(unit.m, unit.k), responses, unit.blocks[block], layout, variants, tested),
                    )


class _There:
    """Inputs of all jobs, sent to workers once; they read arrays themselves, so that a lost worker can be replaced."""

    def __init__(self, problem: Problem, workers: Workers) -> None:
        self._workers, self._threads = workers, problem.settings.threads
        self.problem, self.settings = share(workers, problem), share(workers, problem.settings)
        self._sent: dict[int, tuple[Any, Any]] = {}

    def shared(self, value: Any) -> Any:
        """A layout or settings, sent when they are first needed."""
        if id(value) not in self._sent:
            self._sent[id(value)] = value, share(self._workers, value)
        return self._sent[id(value)][1]

    def read_layer(self, m: int, k: int) -> Any:
        return submit(self._workers, Problem.read_layer, self._threads, self.problem, m, k)

    def factored(self, unit: Unit) -> list[list[Any]]:
        """Begin to factor a layer's folds for each variant; in lists, which workers search for futures."""
        features, layout = self.read_layer(unit.m, unit.k), self.shared(unit.plan.layout)
        parts = range(len(unit.plan.layout.folds) + 1)
        factors = []
        for variant in map(self.shared, unit.variants):
            prepared = submit(self._workers, prepare_layer, self._threads, features, layout, variant)
            folds = [submit(self._workers, factor_fold, self._threads, prepared, n, layout, variant) for n in parts]
            # Blocks ask for the design alone, so that Gram matrices are let go as soon as they are factored.
            factors.append([submit(self._workers, training_design, self._threads, prepared), folds])
        return factors


def solve_block(
    factors: Sequence[Factored],
    source: tuple[Problem, Block, int, np.ndarray | None],
    layout: Layout,
    settings: Settings,
    places: np.ndarray | None = None,
) -> np.ndarray:
    """Task: scores of a block of targets, which it reads, with factors of each variant, (variant, SCORES, target).

    Parameters
    ----------
    factors : sequence of Factored
        Of the layer, one per variant of the settings.
    source : (Problem, Block, int, array or None)
        What to read: a block, the number of its group, and a mask (target,) of its targets.
    layout : Layout
    settings : Settings
    places : array of int, shape (target,), optional
        Places on the grid of penalties; without them each target chooses its own.

    Returns
    -------
    array, shape (variant, SCORES, target)
    """
    responses = _read(*source)
    return np.stack(
        [_stacked(solve_responses(design, parts, responses, layout, settings, places)) for design, parts in factors]
    )


def score_block(
    features: np.ndarray,
    responses: np.ndarray,
    inside: np.ndarray | None,
    layout: Layout,
    variants: Sequence[Settings],
    tested: bool = True,
) -> np.ndarray:
    """Task: scores of `features` (time, dim) in a block `responses` (row, target), (variant, SCORES, target).

    Parameters
    ----------
    features : array, shape (time, dim)
        A layer at all rows of its cubes.
    responses : array, shape (row, target)
    inside : array of bool, shape (target,), or None
        The targets to score; all without it.
    layout : Layout
    variants : sequence of Settings
    tested : bool
        Whether test rows are scored, too.

    Returns
    -------
    array, shape (variant, SCORES, target)
    """
    known = responses if inside is None else responses[:, inside]
    found = []
    for settings in variants:
        train, test = make_design(features, layout, settings.delays)
        shown = (test, known[~layout.train]) if tested else None
        fitted = fit_and_score((train, known[layout.train]), shown, layout.folds, settings.alphas, settings.solver)
        found.append(_stacked(fitted))
    return np.stack(found)


def vote_block(
    factors: Sequence[Factored],
    source: tuple[Problem, Block, int, np.ndarray | None],
    layout: Layout,
    settings: Settings,
) -> np.ndarray:
    """Task: what a block's targets say of every penalty, (alpha, target).

    Parameters
    ----------
    factors : sequence of Factored
        Of the layer, one per variant of the settings.
    source : (Problem, Block, int, array or None)
        What to read: a block, the number of its group, and a mask (target,) of its targets.
    layout : Layout
    settings : Settings

    Returns
    -------
    array, shape (alpha, target)
        See `factored.held_losses`.
    """
    return held_losses(factors[0], _read(*source), layout, settings)


def _read(problem: Problem, block: Block, number: int, inside: np.ndarray | None) -> np.ndarray:
    responses = problem.read_block(block, number)
    return responses if inside is None else responses[:, inside]


def _stacked(scores: Scores) -> np.ndarray:
    return np.stack([getattr(scores, name) for name in SCORES])


def _choose_places(problem: Problem, units: Sequence[Unit], workers: Workers) -> Places:
    """Penalties that subjects' targets share, of the layers still to be solved; all their blocks have a say."""
    voting = [replace(unit, blocks=dict.fromkeys(range(len(unit.plan.blocks)))) for unit in units]
    blocks = {(n, block): unit.plan.blocks[block] for n, unit in enumerate(voting) for block in unit.blocks}
    jobs = _sharing_factors(problem, voting, workers)
    return choose_places(run_jobs(workers, vote_block, jobs, problem.settings.threads), blocks)


def _file_of(unit: Unit, block: int) -> journal.Block:
    """Journal block of a block's scores: the targets of a group by their place among all of them."""
    sizes = [sum(piece.targets.size for piece in one) for one in unit.plan.blocks]
    start = sum(sizes[:block])
    return journal.Block(f"group{unit.plan.number}.stream{unit.m}.layer{unit.k}", start, start + sizes[block])


def _restore(found: Scored, unit: Unit, kept: journal.Journal | None) -> Unit:
    """Put the scores that an earlier run has kept in their place; what is left of the unit."""
    there = [block for block in unit.blocks if kept is not None and kept.has(_file_of(unit, block))]
    for block in there:
        assert kept is not None
        _place(found, unit, block, kept.read(_file_of(unit, block)))
    return replace(unit, blocks={block: inside for block, inside in unit.blocks.items() if block not in there})


def _place(found: Scored, unit: Unit, block: int, values: np.ndarray) -> None:
    """Put scores (name in `SCORES`, target) of a block in their place."""
    for name, scores in zip(SCORES, values, strict=True):
        for piece, part in split_block(unit.plan.blocks[block], scores):
            found.values[piece.subject][name][unit.m, unit.k, piece.targets] = part
