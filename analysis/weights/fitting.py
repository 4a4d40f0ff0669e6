"""Tasks that fit a layer at penalties that are known, and give its weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cinecube.analysis.encoders.block_fits import Prepared
from cinecube.analysis.encoders.predictions import Chosen, jobs_of_choice, plan_choice
from cinecube.analysis.encoders.problem import Block, Layout, Problem
from cinecube.analysis.ridge.factors import Factor, Form
from cinecube.analysis.ridge.shared_ridge import fit_weights
from cinecube.store.base.writing import keep_array, kept_array
from cinecube.store.jobs.tasks import Workers, run_jobs


@dataclass(frozen=True)
class Fitted:
    """Weights of one stream for some targets.

    Attributes
    ----------
    m : int
        Position on the model axis.
    block : Block
        The targets, by subject.
    weights : array, shape (target, delay x dim)
    """

    m: int
    block: Block
    weights: np.ndarray


def fit_chosen(
    problem: Problem, chosen: Chosen, workers: Workers = None, scratch: Path | None = None
) -> Iterator[Fitted]:
    """Fit every target at its layer and penalty.

    Parameters
    ----------
    problem : Problem
    chosen : Chosen
    workers : Client, Threads or None
    scratch : Path, optional
        Folder on a disk that workers share; needed where they are processes, whose weights pass through it.

    Yields
    ------
    Fitted
        In any order where there are workers.
    """
    plans = list(plan_choice(problem, chosen))
    jobs = jobs_of_choice(problem, chosen, plans, workers, scratch, _training_rows)
    for (number, block), found in run_jobs(workers, _fit_block, jobs, problem.settings.threads):
        plan, m, _ = plans[number]
        yield Fitted(m, plan.blocks[block], kept_array(found) if isinstance(found, Path) else found)
        if isinstance(found, Path):
            found.unlink()


def _training_rows(prepared: Prepared) -> tuple[Form, np.ndarray]:
    """Task: what blocks need of a layer beside its factors: the form of these, and its rows (row, feature)."""
    return prepared.form, prepared.design


def _fit_block(
    problem: Problem,
    number: int,
    block: Block,
    alpha: np.ndarray,
    layout: Layout,
    whole: Factor,
    rows: tuple[Form, np.ndarray],
    scratch: Path | None,
) -> np.ndarray | Path:
    """Task: weights (target, feature) of a block, or the file that they are in."""
    responses = problem.read_block(block, number)[layout.train]
    found = fit_weights(whole, *rows, responses, alpha, problem.settings.backend).T
    return found if scratch is None else keep_array(scratch, found)
