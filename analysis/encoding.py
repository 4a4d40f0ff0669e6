"""Encoding one model: every layer, every subject, blocks of targets as tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from cinecube.analysis.layout import Layout, Settings, make_design, make_layout
from cinecube.analysis.ridge import Scores, fit_and_score
from cinecube.analysis.rows import RowsGroup
from cinecube.analysis.shared_encoding import factor_fold, prepare_layer, solve_block
from cinecube.analysis.spaces import FeatureSpace, Responses
from cinecube.analysis.tasks import Workers, run_jobs, share, submit

Progress = Callable[[int, int], None]
SCORES = ("alpha", "cv_score", "score")
# Blocks of a layer still to be solved when the next layer's factors are begun: they keep workers busy meanwhile.
_BLOCKS_AHEAD = 4


@dataclass(frozen=True)
class Piece:
    """Some targets of one subject, by position in the brain cube, shape (target,)."""

    subject: str
    targets: np.ndarray


Block = tuple[Piece, ...]


@dataclass
class Found:
    """Scores of one model by subject.

    Attributes
    ----------
    values : dict of str to dict of str to array, shape (model, layer, target)
        Subject -> name in `SCORES` -> values, NaN where a stream lacks a layer.
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

    Returns
    -------
    Found

    Raises
    ------
    StudyError
        If a worker is lost, or responses hold NaN in part.
    """
    layers = existing_layers(space)
    everything = {name: np.arange(brain.n_targets) for name, brain in brains.items()}
    plans = [(group, blocks_of(group, everything, settings.targets_per_block)) for group in groups]
    make_jobs = _shared_jobs if settings.solver == "shared" else _single_jobs
    function, jobs = make_jobs(space, plans, brains, settings, workers)
    found = Found({name: _empty(space, brain.n_targets) for name, brain in brains.items()})
    n_tasks = len(layers) * sum(len(blocks) for _, blocks in plans)
    for done, ((block, m, k), scores) in enumerate(run_jobs(workers, function, jobs, settings.threads), start=1):
        for name in SCORES:
            for piece, values in split_block(block, getattr(scores, name)):
                found.values[piece.subject][name][m, k, piece.targets] = values
        if progress:
            progress(done, n_tasks)
    return found


_Plans = Sequence[tuple[RowsGroup, list[Block]]]
_Jobs = tuple[Callable[..., Scores], Iterator[tuple[tuple[Block, int, int], tuple[Any, ...]]]]


def _single_jobs(
    space: FeatureSpace, plans: _Plans, brains: Mapping[str, Responses], settings: Settings, workers: Workers
) -> _Jobs:
    """Jobs that factor for themselves: a block's responses are read once for all layers."""
    # Read when first needed, while workers are busy with the layers before it.
    shared_layer = cache(lambda m, k: share(workers, space.read_layer(m, k)))
    shared_settings = share(workers, settings)

    def jobs() -> Iterator[tuple[tuple[Block, int, int], tuple[Any, ...]]]:
        for group, blocks in plans:
            layout = share(workers, make_layout(space, group, settings, max(settings.delays)))
            for block in blocks:
                responses = share(workers, read_block(block, group, brains))
                for m, k in existing_layers(space):
                    yield (block, m, k), (shared_layer(m, k), responses, layout, shared_settings)

    return score_block, jobs()


def _shared_jobs(
    space: FeatureSpace, plans: _Plans, brains: Mapping[str, Responses], settings: Settings, workers: Workers
) -> _Jobs:
    """Jobs that share a layer's factors: a layer is read and factored once for all blocks of a group.

    The next layer is factored while the last blocks of the one before are solved.
    """
    shared_settings = share(workers, settings)

    def factored(m: int, k: int, layout: Any, n_folds: int) -> tuple[Any, list[Any]]:
        features = share(workers, space.read_layer(m, k))
        prepared = submit(workers, prepare_layer, settings.threads, features, layout, shared_settings)
        parts = [
            submit(workers, factor_fold, settings.threads, prepared, number, layout, shared_settings)
            for number in range(n_folds + 1)
        ]
        return prepared, parts

    def jobs() -> Iterator[tuple[tuple[Block, int, int], tuple[Any, ...]]]:
        for group, blocks in plans:
            plain = make_layout(space, group, settings, max(settings.delays))
            layout, layers = share(workers, plain), existing_layers(space)
            following = factored(*layers[0], layout, len(plain.folds))
            for place, (m, k) in enumerate(layers):
                prepared, parts = following
                for left, block in zip(range(len(blocks), 0, -1), blocks, strict=True):
                    if left == min(_BLOCKS_AHEAD, len(blocks)) and place + 1 < len(layers):
                        following = factored(*layers[place + 1], layout, len(plain.folds))
                    responses = share(workers, read_block(block, group, brains))
                    yield (block, m, k), (prepared, parts, responses, layout, shared_settings)

    return solve_block, jobs()


def existing_layers(space: FeatureSpace) -> list[tuple[int, int]]:
    """Positions (model, layer) of the layers that each stream has."""
    return [(int(m), int(k)) for m, k in np.argwhere(space.width > 0)]


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


def blocks_of(group: RowsGroup, targets: Mapping[str, np.ndarray], size: int) -> list[Block]:
    """Cut targets of a group's subjects (positions by subject), one subject after another, into blocks of `size`."""
    blocks: list[list[Piece]] = []
    room = 0
    for subject in group.subjects:
        left = targets[subject]
        while left.size:
            if room == 0:
                blocks.append([])
                room = size
            blocks[-1].append(Piece(subject, left[:room]))
            room, left = room - len(left[:room]), left[room:]
    return [tuple(block) for block in blocks]


def read_block(block: Block, group: RowsGroup, brains: Mapping[str, Responses]) -> np.ndarray:
    """Responses of a block at the group's rows, float32 (row, target)."""
    parts = [brains[piece.subject].read(group.showings[piece.subject], piece.targets) for piece in block]
    return np.concatenate(parts, axis=1)


def narrow_block(block: Block, inside: np.ndarray) -> Block:
    """The part of a block where `inside` (target,) is true, of the subjects that have some of it."""
    return tuple(Piece(piece.subject, piece.targets[kept]) for piece, kept in split_block(block, inside) if kept.any())


def split_block(block: Block, values: np.ndarray) -> Iterator[tuple[Piece, np.ndarray]]:
    """A block's values (..., target) by piece."""
    edges = np.cumsum([piece.targets.size for piece in block])[:-1]
    yield from zip(block, np.split(values, edges, axis=-1), strict=True)
