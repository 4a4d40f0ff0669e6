"""Encoding one model: every layer, every subject, blocks of targets as tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from cinecube.analysis.design import Run, constants, delayed, find_runs, standardise
from cinecube.analysis.folds import Fold, Gap, leave_segments_out
from cinecube.analysis.ridge import Scores, fit_and_score
from cinecube.analysis.rows import RowsGroup
from cinecube.analysis.spaces import FeatureSpace, Responses, step_s
from cinecube.analysis.tasks import Workers, run_jobs, share

Progress = Callable[[int, int], None]
SCORES = ("alpha", "cv_score", "score")


@dataclass(frozen=True)
class Settings:
    """How encoders are fitted: the `encode` section as arrays, and what folds need.

    Attributes
    ----------
    delays : tuple of int
        FIR lags in TRs.
    alphas : array, shape (alpha,)
    n_folds : int
    gap_s : float
        Seconds of film dropped where a fold cuts a film in two.
    films : dict of str to list of str
        Training films with their segments in order.
    targets_per_block : int
    solver : str
    threads : int
        BLAS threads of each task.
    """

    delays: tuple[int, ...]
    alphas: np.ndarray
    n_folds: int
    gap_s: float
    films: Mapping[str, Sequence[str]]
    targets_per_block: int = 4096
    solver: str = "himalaya"
    threads: int = 1


@dataclass(frozen=True)
class Layout:
    """What tasks need to know of a group's rows: no labels, only positions.

    Attributes
    ----------
    runs : list of (start, stop)
        Runs among the features' rows.
    feature_row : array of int, shape (row,)
    train : array of bool, shape (row,)
    folds : list of (train, validation)
        Positions among the training rows.
    """

    runs: list[Run]
    feature_row: np.ndarray
    train: np.ndarray
    folds: list[Fold]


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


def make_layout(space: FeatureSpace, group: RowsGroup, settings: Settings, max_delay: int) -> Layout:
    """Runs and folds of a group of rows, for delays up to `max_delay` TRs.

    Raises
    ------
    StudyError
        If the training films hold too few segments to validate on.
    """
    tr_s = step_s(space.rows)
    segment, onset_s = (space.rows[name].to_numpy() for name in ("segment", "onset_s"))
    gap = Gap(settings.gap_s, tr_s, space.window_s, max_delay)
    last_onset_s = {str(name): float(s) for name, s in space.rows.groupby("segment")["onset_s"].max().items()}
    train = group.train
    folds = leave_segments_out(
        group.segment[train], group.onset_s[train], settings.films, last_onset_s, settings.n_folds, gap
    )
    return Layout(find_runs(segment, onset_s, tr_s), group.feature_row, train, folds)


def make_design(features: np.ndarray, layout: Layout, delays: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Design matrices of the training and the test rows.

    Parameters
    ----------
    features : array, shape (time, dim)
        One layer at all rows of its cubes.
    layout : Layout
    delays : sequence of int
        FIR lags in TRs.

    Returns
    -------
    train, test : arrays, shape (row, delay x dim)
        float64, standardised with constants of the training rows.
    """
    mean, spread = constants(features[np.unique(layout.feature_row[layout.train])])
    design = delayed(standardise(features, mean, spread), delays, layout.runs)[layout.feature_row]
    return design[layout.train], design[~layout.train]


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
    # Read when first needed, while workers are busy with the layers before it.
    shared_layer = cache(lambda m, k: share(workers, space.read_layer(m, k)))
    shared_settings = share(workers, settings)
    everything = {name: np.arange(brain.n_targets) for name, brain in brains.items()}
    plans = [(group, blocks_of(group, everything, settings.targets_per_block)) for group in groups]

    def jobs() -> Iterator[tuple[tuple[Block, int, int], tuple[Any, ...]]]:
        for group, blocks in plans:
            layout = share(workers, make_layout(space, group, settings, max(settings.delays)))
            for block in blocks:
                responses = share(workers, read_block(block, group, brains))
                for m, k in layers:
                    yield (block, m, k), (shared_layer(m, k), responses, layout, shared_settings)

    found = Found({name: _empty(space, brain.n_targets) for name, brain in brains.items()})
    n_tasks = len(layers) * sum(len(blocks) for _, blocks in plans)
    for done, ((block, m, k), scores) in enumerate(run_jobs(workers, score_block, jobs(), settings.threads), start=1):
        for name in SCORES:
            for piece, values in split_block(block, getattr(scores, name)):
                found.values[piece.subject][name][m, k, piece.targets] = values
        if progress:
            progress(done, n_tasks)
    return found


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
