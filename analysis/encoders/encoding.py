"""Encoding one model: what varies of it, then every layer and every subject, blocks of targets as jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from cinecube.analysis.cubes.rows import RowsGroup
from cinecube.analysis.cubes.spaces import Responses
from cinecube.analysis.encoders.block_fits import (
    SCORES,
    factor_fold,
    never_varies,
    prepare_layer,
    score_block,
    solve_block,
    training_design,
    vote_block,
)
from cinecube.analysis.encoders.problem import Layout, Plan, Problem, Settings, split_block
from cinecube.analysis.ridge.scores import varying
from cinecube.store.base import journal
from cinecube.store.base.errors import StudyError
from cinecube.store.base.fingerprint import fingerprint
from cinecube.store.jobs.tasks import Progress, Running, Workers, run_jobs, share, submit

Scored = Mapping[str, Mapping[str, np.ndarray]]
"""Scores of one model: subject -> name in `SCORES` -> values (model, layer, target), NaN where there are none."""
Places = Mapping[tuple[str, int], int]
"""Place on the grid of penalties by subject and unit, whose targets share it."""
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
    found = {
        name: {score: np.full((*shape, brain.n_targets), np.nan) for score in SCORES}
        for name, brain in problem.brains.items()
    }
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
    if problem.settings.solver != "shared":
        return _run(workers, score_block, _each_for_itself(problem, units, workers, tested), problem.settings.threads)
    jobs = _sharing_factors(problem, units, workers)
    if places is not None:
        jobs = ((job, (*arguments, _places_of(units[job.unit], job, places))) for job, arguments in jobs)
    return _run(workers, solve_block, jobs, problem.settings.threads)


def _run(
    workers: Workers, function: Callable[..., np.ndarray], jobs: Iterable[tuple[Job, _Arguments]], threads: int
) -> Iterator[tuple[Job, np.ndarray]]:
    """As `run_jobs`; here, so that jobs are drawn where they are made, and nothing below calls up."""
    with Running[Job, np.ndarray](workers, function, threads) as running:
        for job, arguments in jobs:
            yield from running.add(job, arguments)
        yield from running.rest()


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
        self._last: tuple[Any, Any] = (None, None)

    def shared(self, value: Any) -> Any:
        """A layout or settings, sent when they are first needed."""
        if id(value) not in self._sent:
            self._sent[id(value)] = value, share(self._workers, value)
        return self._sent[id(value)][1]

    def read_layer(self, m: int, k: int) -> Any:
        return submit(self._workers, Problem.read_layer, self._threads, self.problem, m, k)

    def factored(self, unit: Unit) -> list[list[Any]]:
        """Begin to factor a layer's folds for each variant; in lists, which workers search for futures."""
        if self._last[0] != (unit.m, unit.k):  # neighbouring units may be of one layer, for other delays
            self._last = (unit.m, unit.k), self.read_layer(unit.m, unit.k)
        features, layout = self._last[1], self.shared(unit.plan.layout)
        parts = range(len(unit.plan.layout.folds) + 1)
        factors = []
        for variant in map(self.shared, unit.variants):
            prepared = submit(self._workers, prepare_layer, self._threads, features, layout, variant)
            folds = [submit(self._workers, factor_fold, self._threads, prepared, n, layout, variant) for n in parts]
            # Blocks ask for the design alone, so that Gram matrices are let go as soon as they are factored.
            factors.append([submit(self._workers, training_design, self._threads, prepared), folds])
        return factors


def _choose_places(problem: Problem, units: Sequence[Unit], workers: Workers) -> Places:
    """Choose the penalty of each subject at each layer still to be solved: the least mean loss over all its targets."""
    voting = [replace(unit, blocks=dict.fromkeys(range(len(unit.plan.blocks)))) for unit in units]
    total: dict[tuple[str, int], np.ndarray] = {}
    jobs = _sharing_factors(problem, voting, workers)
    for job, losses in _run(workers, vote_block, jobs, problem.settings.threads):
        for piece, part in split_block(voting[job.unit].plan.blocks[job.block], losses):
            total.setdefault((piece.subject, job.unit), np.zeros(len(losses)))
            total[piece.subject, job.unit] += np.nansum(part, axis=1)
    return {key: int(sums.argmin()) for key, sums in total.items()}


def _places_of(unit: Unit, job: Job, places: Places) -> np.ndarray:
    """Places (target,) of a block's targets on the grid of penalties."""
    block = unit.plan.blocks[job.block]
    return np.concatenate([np.full(piece.targets.size, places[piece.subject, job.unit]) for piece in block])


def _file_of(unit: Unit, block: int) -> journal.Block:
    """Journal block of a block's scores: the targets of a group's subjects by their place among all of them."""
    of = fingerprint({"subjects": list(unit.plan.group.subjects)})[:8]  # others may have been fitted before
    sizes = [sum(piece.targets.size for piece in one) for one in unit.plan.blocks]
    start = sum(sizes[:block])
    return journal.Block(f"group{unit.plan.number}.{of}.stream{unit.m}.layer{unit.k}", start, start + sizes[block])


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
            found[piece.subject][name][unit.m, unit.k, piece.targets] = part


def find_constant(problem: Problem, workers: Workers = None) -> frozenset[tuple[int, int]]:
    """Layers that can predict nothing, since all their dims are constant over the training or over the test rows.

    Reads every layer once, so that a value that is missing is found before anything is fitted.

    Parameters
    ----------
    problem : Problem
    workers : Client, Threads or None

    Returns
    -------
    frozenset of (model, layer)
        By position.

    Raises
    ------
    StudyError
        If features hold NaN or infinity, or no run is longer than a delay.
    """
    rows = [
        part
        for plan in problem.plans(problem.targets, max(problem.settings.delays))
        for part in _rows_seen(problem, plan.layout)
    ]
    everything = share(workers, problem), share(workers, rows)
    jobs = [(layer, (*everything, *layer)) for layer in problem.layers]
    return frozenset(layer for layer, still in run_jobs(workers, never_varies, jobs, problem.settings.threads) if still)


def _rows_seen(problem: Problem, layout: Layout) -> list[tuple[np.ndarray, ...]]:
    """Rows of features that must vary together: those of the training rows, and what delays show of them and the test.

    Raises
    ------
    StudyError
        If delays show nothing of either.
    """
    delays = problem.settings.delays
    start = np.zeros(len(problem.space.rows), dtype=np.int64)
    for first, stop in layout.runs:
        start[first:stop] = first
    seen = [layout.feature_row[layout.train]]
    for name, own in (("training", layout.train), ("test", ~layout.train)):
        rows = layout.feature_row[own]
        shown = [rows[rows - delay >= start[rows]] - delay for delay in delays]
        seen.append(np.concatenate(shown))
        if not seen[-1].size:
            raise StudyError(
                where="encode.delays",
                found=f"{list(delays)}, and no run of the {name} films with more rows than the shortest",
                expected="a delay that is shorter than a run",
                do="set shorter delays, or use longer segments",
            )
    return [tuple(np.unique(rows) for rows in seen)]


def refuse_still_subjects(brains: Mapping[str, Responses], groups: Sequence[RowsGroup], targets_per_block: int) -> None:
    """Refuse a subject if none of its targets varies over the training and the test films; reads until one does.

    Parameters
    ----------
    brains : Mapping of str to Responses
        By subject.
    groups : sequence of RowsGroup
    targets_per_block : int
        Targets that are read at once.

    Raises
    ------
    StudyError
        If there is one.
    """
    for group in groups:
        for name in group.subjects:
            if not any(part.any() for part in _varying_targets(brains[name], group, targets_per_block)):
                raise StudyError(
                    where=f"brain cube of {name}",
                    found="no target whose responses vary over the training and the test films",
                    expected="responses",
                    do=f"look at data/brain/{name}.csv and its scans, or take {name} out of brain.subjects",
                )


def _varying_targets(brain: Responses, group: RowsGroup, size: int) -> Iterator[np.ndarray]:
    for start in range(0, brain.n_targets, size):
        # Not as `compat` may see them: a row's mean over targets varies, and would be taken from those that do not.
        values = Responses.read(
            brain, group.showings[brain.subject], np.arange(start, min(start + size, brain.n_targets))
        )
        yield varying(values[group.train]) & varying(values[~group.train])
