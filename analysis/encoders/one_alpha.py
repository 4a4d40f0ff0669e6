"""One penalty for all targets of a subject, as the authors of Oota et al. (2025) choose it: for comparison only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cinecube.analysis.cubes.target_blocks import Block, read_block, split_block
from cinecube.analysis.encoders.layout import Layout, Settings
from cinecube.analysis.encoders.shared_encoding import Source, factors_of
from cinecube.analysis.jobs.tasks import Workers, run_jobs
from cinecube.analysis.ridge.factors import Factor
from cinecube.analysis.ridge.shared_ridge import all_losses

if TYPE_CHECKING:
    from cinecube.analysis.encoders.encoding import Job

Places = Mapping[tuple[str, int, int], int]


def block_losses(
    design: np.ndarray | None, parts: Sequence[Factor], source: Source, layout: Layout, settings: Settings
) -> np.ndarray:
    """Task: 1 - r on held-out rows with every penalty, (alpha, target); NaN where a target is constant or absent."""
    train = read_block(*source)[layout.train]
    known = np.isfinite(train).all(axis=0) & (np.ptp(train, axis=0) > 0)
    losses = np.full((len(settings.alphas), train.shape[1]), np.nan)
    if known.any():
        factors = factors_of(design, parts, layout, settings)
        losses[:, known] = all_losses(factors, train[:, known], settings.alphas, "correlation")
    return losses


def choose_places(
    workers: Workers,
    jobs: Iterator[tuple[Job, tuple[Any, ...]]],
    blocks: Mapping[tuple[int, int], Block],
    n_alphas: int,
    threads: int,
) -> Places:
    """The place on the grid of each subject's penalty at each layer.

    Parameters
    ----------
    workers : Client, Threads or None
    jobs : iterator of (Job, arguments of `block_losses`)
        Of all blocks of each layer.
    blocks : Mapping of (plan, block) to Block
        Whose targets a job has.
    n_alphas, threads : int

    Returns
    -------
    Mapping of (subject, model, layer) to int
        By the mean over the subject's targets.
    """
    total: dict[tuple[str, int, int], np.ndarray] = {}
    for job, losses in run_jobs(workers, block_losses, jobs, threads):
        for piece, part in split_block(blocks[job.plan, job.block], losses):
            key = piece.subject, job.m, job.k
            total[key] = total.get(key, np.zeros(n_alphas)) + np.nansum(part, axis=1)
    return {key: int(sums.argmin()) for key, sums in total.items()}


def places_of(block: Block, m: int, k: int, places: Places) -> np.ndarray:
    """Places (target,) of a block's targets."""
    return np.concatenate([np.full(piece.targets.size, places[piece.subject, m, k]) for piece in block])
