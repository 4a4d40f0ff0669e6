"""Encoding one model: every layer, every subject, blocks of targets as tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple, Protocol

import numpy as np

from cinecube.analysis.cubes.rows import RowsGroup
from cinecube.analysis.cubes.spaces import FeatureSpace, Responses
from cinecube.analysis.cubes.target_blocks import Block, blocks_of, read_block, split_block
from cinecube.analysis.encoders.layout import Layout, Settings, make_design, make_layout
from cinecube.analysis.encoders.one_alpha import Places, choose_places, places_of
from cinecube.analysis.encoders.shared_encoding import factor_fold, prepare_layer, solve_block, training_design
from cinecube.analysis.jobs.tasks import Workers, run_jobs, share, submit
from cinecube.analysis.ridge.himalaya_ridge import Scores, fit_and_score
from cinecube.store.base import journal

Progress = Callable[[int, int], None]
SCORES = ("alpha", "cv_score", "score")
# Blocks of a layer still to be solved when the next layer's factors are begun: they keep workers busy meanwhile.
_BLOCKS_AHEAD = 4


@dataclass
class Found:
    """Scores of one model by subject.

    Attributes
    ----------
    values : dict of str to dict of str to array, shape (model, layer, target)
        Subject -> name in `SCORES` -> values, NaN where a stream lacks a layer or its features are constant.
    """

    values: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)


def score_block(features: np.ndarray, responses: np.ndarray, layout: Layout, settings: Settings) -> Scores:
    """Task: scores of one layer for a block of targets, `features` (time, dim), `responses` (row, target)."""
    train, test = make_design(features, layout, settings.delays)
    return fit_and_score(
        (train, responses[layout.train]),
        (test, responses[~layout.train]),
        layout.folds,
        settings.alphas,
        settings.solver,
    )


def encode(
    space: FeatureSpace,
    groups: Sequence[RowsGroup],
    brains: Mapping[str, Responses],
    settings: Settings,
    workers: Workers = None,
    progress: Progress | None = None,
    kept: Kept | None = None,
) -> Found:
    """Score every layer of a model in every target of every subject.

    Parameters
    ----------
    space : FeatureSpace
    groups : sequence of RowsGroup
        From `align`; one factorisation serves all subjects of a group.
    brains : Mapping of str to Responses
        By subject.
    settings : Settings
    workers : Client or Threads, optional
        Without them all runs here, one task after another.
    progress : callable, optional
        Told `(tasks done, tasks in all)`.
    kept : Kept, optional
        Blocks of an earlier run that was interrupted; new ones are added as they are finished.

    Returns
    -------
    Found

    Raises
    ------
    StudyError
        If a worker is lost, or responses hold NaN in part.
    """
    everything = {name: np.arange(brain.n_targets) for name, brain in brains.items()}
    plans = [
        Plan(number, group, blocks_of(group, everything, settings.targets_per_block))
        for number, group in enumerate(groups)
    ]
    found = Found({name: _empty(space, brain.n_targets) for name, brain in brains.items()})
    todo = [job for plan in plans for job in _jobs_of(plan, space) if not _restore(found, plan, job, kept)]
    n_tasks = len(existing_layers(space)) * sum(len(plan.blocks) for plan in plans)
    done = n_tasks - len(todo)
    if progress:
        progress(done, n_tasks)
    make_jobs = _shared_jobs if settings.solver == "shared" else _single_jobs
    function, jobs = make_jobs(space, plans, todo, brains, settings, workers)
    if settings.one_alpha:
        jobs = _with_places(jobs, _choose_places(space, plans, todo, brains, settings, workers), plans)
    for job, scores in run_jobs(workers, function, jobs, settings.threads):
        values = np.stack([getattr(scores, name) for name in SCORES])
        _place(found, plans[job.plan].blocks[job.block], job, values)
        if kept:
            kept.write(_file_of(plans[job.plan], job), values)
        done += 1
        if progress:
            progress(done, n_tasks)
    return found


@dataclass(frozen=True)
class Plan:
    """Blocks of a group's targets, by its number."""

    number: int
    group: RowsGroup
    blocks: list[Block]


class Job(NamedTuple):
    """A block of a plan, and a layer of a stream; all by position."""

    plan: int
    block: int
    m: int
    k: int


class Kept(Protocol):
    """Where blocks are kept that an interrupted run has finished; a `store.journal.Journal` is one."""

    def has(self, block: journal.Block) -> bool: ...

    def read(self, block: journal.Block) -> np.ndarray: ...

    def write(self, block: journal.Block, values: np.ndarray) -> None: ...


def _jobs_of(plan: Plan, space: FeatureSpace) -> list[Job]:
    return [Job(plan.number, block, m, k) for m, k in existing_layers(space) for block in range(len(plan.blocks))]


def _file_of(plan: Plan, job: Job) -> journal.Block:
    """What a job's scores are kept as: the targets of a group by their place among all of them."""
    sizes = [sum(piece.targets.size for piece in block) for block in plan.blocks]
    start = sum(sizes[: job.block])
    return journal.Block(f"group{job.plan}.stream{job.m}.layer{job.k}", start, start + sizes[job.block])


def _restore(found: Found, plan: Plan, job: Job, kept: Kept | None) -> bool:
    """Put a job's scores in their place if an earlier run has kept them."""
    if kept is None or not kept.has(_file_of(plan, job)):
        return False
    _place(found, plan.blocks[job.block], job, kept.read(_file_of(plan, job)))
    return True


def _place(found: Found, block: Block, job: Job, values: np.ndarray) -> None:
    """Put scores (name in `SCORES`, target) of a block in their place."""
    for name, scores in zip(SCORES, values, strict=True):
        for piece, part in split_block(block, scores):
            found.values[piece.subject][name][job.m, job.k, piece.targets] = part


# Training rows of a layer's design, and the factors of its folds; futures where there are workers.
Factored = tuple[Any, list[Any]]
_Jobs = tuple[Callable[..., Scores], Iterator[tuple[Job, tuple[Any, ...]]]]


def _single_jobs(
    space: FeatureSpace,
    plans: Sequence[Plan],
    todo: Sequence[Job],
    brains: Mapping[str, Responses],
    settings: Settings,
    workers: Workers,
) -> _Jobs:
    """Jobs that factor for themselves: a block's responses are read once for all layers."""
    everywhere = Everywhere(workers, space, brains, settings)

    def jobs() -> Iterator[tuple[Job, tuple[Any, ...]]]:
        for plan in plans:
            layout = share(workers, make_layout(space, plan.group, settings, max(settings.delays)))
            mine = [job for job in todo if job.plan == plan.number]
            for number in sorted({job.block for job in mine}):
                responses = everywhere.responses(plan, plan.blocks[number])
                for job in mine:
                    if job.block == number:
                        yield job, (everywhere.layer(job.m, job.k), responses, layout, everywhere.settings)

    return score_block, jobs()


def _shared_jobs(
    space: FeatureSpace,
    plans: Sequence[Plan],
    todo: Sequence[Job],
    brains: Mapping[str, Responses],
    settings: Settings,
    workers: Workers,
) -> _Jobs:
    """Jobs that share a layer's factors: a layer is read and factored once for all blocks of a group.

    The next layer is factored while the last blocks of the one before are solved.
    """
    everywhere = Everywhere(workers, space, brains, settings)

    def factored(m: int, k: int, layout: Any, n_folds: int) -> Factored:
        features = everywhere.read_layer(m, k)
        return submit_factors(workers, settings.threads, features, layout, everywhere.settings, n_folds)

    def jobs() -> Iterator[tuple[Job, tuple[Any, ...]]]:
        for plan in plans:
            plain = make_layout(space, plan.group, settings, max(settings.delays))
            layout, n_folds = share(workers, plain), len(plain.folds)
            mine = [job for job in todo if job.plan == plan.number]
            layers = list(dict.fromkeys((job.m, job.k) for job in mine))
            following = [factored(*layers[0], layout, n_folds)] if layers else []
            for place, layer in enumerate(layers):
                design, parts = following.pop()
                own = [job for job in mine if (job.m, job.k) == layer]
                for left, job in zip(range(len(own), 0, -1), own, strict=True):
                    if left == min(_BLOCKS_AHEAD, len(own)) and place + 1 < len(layers):
                        following.append(factored(*layers[place + 1], layout, n_folds))
                    source = everywhere.source(plan, plan.blocks[job.block])
                    yield job, (design, parts, source, layout, everywhere.settings)

    return solve_block, jobs()


def submit_factors(workers: Workers, threads: int, features: Any, layout: Any, settings: Any, n_folds: int) -> Factored:
    """Begin to prepare a layer (time, dim) and to factor its folds: what `solve_block` takes first."""
    prepared = submit(workers, prepare_layer, threads, features, layout, settings)
    parts = [submit(workers, factor_fold, threads, prepared, fold, layout, settings) for fold in range(n_folds + 1)]
    # Blocks ask for the design alone, so that Gram matrices are let go as soon as they are factored.
    return submit(workers, training_design, threads, prepared), parts


def _choose_places(
    space: FeatureSpace,
    plans: Sequence[Plan],
    todo: Sequence[Job],
    brains: Mapping[str, Responses],
    settings: Settings,
    workers: Workers,
) -> Places:
    """Penalties that subjects' targets share, of the layers still to be solved."""
    layers = {(job.plan, job.m, job.k) for job in todo}
    voting = [job for plan in plans for job in _jobs_of(plan, space) if (job.plan, job.m, job.k) in layers]
    _, jobs = _shared_jobs(space, plans, voting, brains, settings, workers)
    blocks = {(plan.number, n): block for plan in plans for n, block in enumerate(plan.blocks)}
    return choose_places(workers, jobs, blocks, len(settings.alphas), settings.threads)


def _with_places(
    jobs: Iterator[tuple[Job, tuple[Any, ...]]], places: Places, plans: Sequence[Plan]
) -> Iterator[tuple[Job, tuple[Any, ...]]]:
    for job, arguments in jobs:
        yield job, (*arguments, places_of(plans[job.plan].blocks[job.block], job.m, job.k, places))


class Everywhere:
    """What all jobs need, sent to workers once; arrays are read there, so that a worker that is lost can be replaced.

    Parameters
    ----------
    workers : Client, Threads or None
    space : FeatureSpace
    brains : Mapping of str to Responses
    settings : Settings
    """

    def __init__(
        self, workers: Workers, space: FeatureSpace, brains: Mapping[str, Responses], settings: Settings
    ) -> None:
        self._workers, self._threads = workers, settings.threads
        self._space, self._brains = share(workers, space), share(workers, dict(brains))
        self.settings = share(workers, settings)
        # A layer that several blocks read is read once.
        self.layer = cache(self.read_layer)

    def read_layer(self, m: int, k: int) -> Any:
        """One layer of one stream, (time, dim)."""
        return submit(self._workers, FeatureSpace.read_layer, self._threads, self._space, m, k)

    def responses(self, plan: Plan, block: Block) -> Any:
        """A block's responses, (row, target), for several jobs."""
        return submit(self._workers, read_block, self._threads, *self.source(plan, block))

    def source(self, plan: Plan, block: Block) -> list[Any]:
        """What a job reads a block's responses from, itself: those of waiting jobs would fill the memory.

        A list, which workers look for futures in.
        """
        return [block, plan.group, self._brains]


def existing_layers(space: FeatureSpace) -> list[tuple[int, int]]:
    """Positions (model, layer) of the layers that each stream has, but for those whose features are constant."""
    return [(int(m), int(k)) for m, k in np.argwhere(space.width > 0) if (int(m), int(k)) not in space.constant]


def count_work(
    space: FeatureSpace, groups: Sequence[RowsGroup], brains: Mapping[str, Responses], settings: Settings
) -> float:
    """Multiplications of `encode`, roughly: those that predict all validation rows with every penalty."""
    products = sum(
        float(group.train.sum()) ** 2 * sum(brains[name].n_targets for name in group.subjects) for group in groups
    )
    return products * len(settings.alphas) * len(existing_layers(space))


def _empty(space: FeatureSpace, n_targets: int) -> dict[str, np.ndarray]:
    return {name: np.full((*space.width.shape, n_targets), np.nan) for name in SCORES}
