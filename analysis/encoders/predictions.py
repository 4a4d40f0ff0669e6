"""Predictions of test films at the layer that the training films chose for each target."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from cinecube.analysis.cubes.parcels import best_layer, parcel_means, regions
from cinecube.analysis.cubes.spaces import Responses
from cinecube.analysis.cubes.target_axis import find_targets_of
from cinecube.analysis.encoders.block_fits import Prepared, factor_fold, prepare_layer, training_design
from cinecube.analysis.encoders.problem import Block, Layout, Plan, Problem, blocks_of, make_layout, split_block
from cinecube.analysis.ridge.factors import Array, Factor
from cinecube.analysis.ridge.shared_ridge import refit
from cinecube.store.base.writing import keep_array, kept_array
from cinecube.store.jobs.tasks import Workers, run_jobs, share, submit


@dataclass(frozen=True)
class Chosen:
    """Each target's layer and penalty, by subject and by position in its brain cube.

    Attributes
    ----------
    layer : dict of str to array of int, shape (model, target)
        Position of the layer with the highest `cv_score`; -1 where there is none.
    alpha : dict of str to array, shape (model, target)
    """

    layer: dict[str, np.ndarray]
    alpha: dict[str, np.ndarray]


@dataclass(frozen=True)
class Predicted:
    """Predictions of one stream for some targets of a group.

    Attributes
    ----------
    m : int
        Position on the model axis.
    block : Block
        The targets, by subject.
    prediction, truth : arrays, shape (test row, target)
    """

    m: int
    block: Block
    prediction: np.ndarray
    truth: np.ndarray


def choose(scores: xr.Dataset, brains: Mapping[str, Responses]) -> Chosen:
    """Layers and penalties out of a score cube; the test films have no say.

    Parameters
    ----------
    scores : Dataset
        A score cube.
    brains : Mapping of str to Responses
        By subject.

    Returns
    -------
    Chosen
    """
    layer, alpha = {}, {}
    for name, brain in brains.items():
        own = scores[["cv_score", "alpha"]].sel(subject=name).isel(target=find_targets_of(scores, brain)).load()
        best = best_layer(own["cv_score"]).transpose("model", "target")
        layer[name] = best.values
        alpha[name] = own["alpha"].isel(layer=best.clip(min=0)).transpose("model", "target").values
    return Chosen(layer, alpha)


@dataclass(frozen=True)
class ParcelChoice:
    """Parcels, and the layer of each by what all its targets of a subject say; from `choose_by_parcel`.

    Attributes
    ----------
    chosen : Chosen
        Of each target; outside the parcels there is no layer.
    parcel : dict of str to array of str, shape (target,)
        By subject: parcel of each target, "" outside.
    layer : DataArray of int, dims (subject, model, parcel)
        Position of the layer with the highest average `cv_score`; -1 where there is none.
    """

    chosen: Chosen
    parcel: dict[str, np.ndarray]
    layer: xr.DataArray


def choose_by_parcel(scores: xr.Dataset, brains: Mapping[str, Responses]) -> ParcelChoice:
    """Layers as `choose` finds them, one for all of a subject's targets in a parcel, and each target's penalty there.

    Parameters
    ----------
    scores : Dataset
        A score cube.
    brains : Mapping of str to Responses
        By subject.

    Returns
    -------
    ParcelChoice
        Targets in no parcel have layer -1.
    """
    best = best_layer(parcel_means(scores["cv_score"])).transpose("subject", "model", "parcel")
    names, labels = best["parcel"].values, regions(scores["parcel"].values)
    layer, alpha, parcel = {}, {}, {}
    for name, brain in brains.items():
        at = find_targets_of(scores, brain)
        parcel[name] = labels[at]
        inside = parcel[name] != ""
        place = np.where(inside, np.searchsorted(names.astype(str), parcel[name].astype(str)), 0)
        wanted = np.where(inside, best.sel(subject=name).values[:, place], -1)
        of_layers = scores["alpha"].sel(subject=name).transpose("model", "layer", "target").values[..., at]
        alpha[name] = np.take_along_axis(of_layers, wanted.clip(min=0)[:, None], axis=1)[:, 0]
        layer[name] = np.where(np.isfinite(alpha[name]), wanted, -1)
    return ParcelChoice(Chosen(layer, alpha), parcel, best)


def predict(
    problem: Problem, chosen: Chosen, workers: Workers = None, scratch: Path | None = None
) -> Iterator[Predicted]:
    """Fit every target again at its layer and penalty, and predict the test films.

    One factorisation of all training rows per layer is all that this takes: penalties are known.

    Parameters
    ----------
    problem : Problem
    chosen : Chosen
    workers : Client, Threads or None
    scratch : Path, optional
        Folder on a disk that workers share; needed where they are processes, whose predictions pass through it.

    Yields
    ------
    Predicted
        In any order where there are workers; every target with a layer comes once per stream.
    """
    plans = list(plan_choice(problem, chosen))
    jobs = jobs_of_choice(problem, chosen, plans, workers, scratch, training_design)
    for (number, block), found in run_jobs(workers, _predict_block, jobs, problem.settings.threads):
        plan, m, _ = plans[number]
        prediction, truth = kept_array(found) if isinstance(found, Path) else found
        yield Predicted(m, plan.blocks[block], prediction, truth)
        if isinstance(found, Path):
            found.unlink()


Planned = tuple[Plan, int, int]
BlockKey = tuple[int, int]


def plan_choice(problem: Problem, chosen: Chosen) -> Iterator[Planned]:
    """Blocks of the targets that have chosen a layer, and where that is.

    Parameters
    ----------
    problem : Problem
    chosen : Chosen

    Yields
    ------
    Plan, int, int
        Positions are on the model and the layer axis.
    """
    settings = problem.settings
    for number, group in enumerate(problem.groups):
        layout = make_layout(problem.space, group, settings, max(settings.delays))
        for m, k in problem.layers:
            targets = {name: np.flatnonzero(chosen.layer[name][m] == k) for name in group.subjects}
            blocks = blocks_of(group, targets, settings.targets_per_block)
            if blocks:
                yield Plan(number, group, layout, blocks), m, k


def jobs_of_choice(
    problem: Problem,
    chosen: Chosen,
    plans: Sequence[Planned],
    workers: Workers,
    scratch: Path | None,
    needed: Callable[[Prepared], Any],
) -> Iterator[tuple[BlockKey, tuple[Any, ...]]]:
    """Arguments of a task for each block; a layer is read and factored once for all of its blocks.

    Parameters
    ----------
    problem : Problem
    chosen : Chosen
    plans : sequence of Planned
        From `plan_choice`.
    workers : Client, Threads or None
    scratch : Path, optional
        Passed on to the task.
    needed : callable
        Task that takes what a block needs of a layer beside its factors out of the prepared layer.

    Yields
    ------
    (int, int)
        Position of the plan, and of the block in it.
    tuple
        Problem, number of the group, block, penalties, layout, factors, what `needed` gave, scratch.
    """
    threads, there = problem.settings.threads, share(workers, problem)
    how = share(workers, problem.settings)
    for number, (plan, m, k) in enumerate(plans):
        layout = share(workers, plan.layout)
        features = submit(workers, Problem.read_layer, threads, there, m, k)
        prepared = submit(workers, prepare_layer, threads, features, layout, how)
        whole = submit(workers, factor_fold, threads, prepared, len(plan.layout.folds), layout, how)
        beside = submit(workers, needed, threads, prepared)
        del features, prepared  # or workers would keep them
        for place, block in enumerate(plan.blocks):
            alpha = np.concatenate([chosen.alpha[piece.subject][m, piece.targets] for piece in block])
            yield (number, place), (there, plan.number, block, alpha, layout, whole, beside, scratch)


def _predict_block(
    problem: Problem,
    number: int,
    block: Block,
    alpha: np.ndarray,
    layout: Layout,
    whole: Factor,
    design: Array | None,
    scratch: Path | None,
) -> np.ndarray | Path:
    """Task: predictions and responses of a block's test rows, (2, test row, target), or the file that they are in."""
    responses = problem.read_block(block, number)
    prediction = refit(whole, design, responses[layout.train], alpha, problem.settings.backend)
    both = np.stack([prediction, responses[~layout.train]]).astype(np.float32, copy=False)
    return both if scratch is None else keep_array(scratch, both)


ParcelSums = Mapping[tuple[str, str], np.ndarray]
"""By subject and parcel: predictions and responses summed over some of its targets, float64 (2, test row)."""


def sum_parcels(problem: Problem, choice: ParcelChoice, workers: Workers = None) -> Iterator[tuple[int, ParcelSums]]:
    """Predict the test films as `predict` does, and add up what is in one parcel: of a block little is left to send.

    Parameters
    ----------
    problem : Problem
    choice : ParcelChoice
    workers : Client, Threads or None

    Yields
    ------
    m : int
        Position on the model axis.
    sums : ParcelSums
        Of one block; the order of blocks is always the same, for sums of floats depend on it.
    """
    plans, parcel = list(plan_choice(problem, choice.chosen)), share(workers, choice.parcel)
    fits = jobs_of_choice(problem, choice.chosen, plans, workers, None, training_design)
    jobs = ((key, (parcel, *arguments)) for key, arguments in fits)
    found = dict(run_jobs(workers, _sum_block, jobs, problem.settings.threads))
    for number, block in sorted(found):
        yield plans[number][1], found[number, block]


def _sum_block(parcel: Mapping[str, np.ndarray], problem: Problem, number: int, block: Block, *fit: Any) -> ParcelSums:
    """Task: sums over a block's targets; `fit` is what else `_predict_block` takes."""
    both = np.asarray(_predict_block(problem, number, block, *fit))
    found = {}
    for piece, own in split_block(block, both):
        labels = parcel[piece.subject][piece.targets]
        for name in sorted(set(labels)):
            found[piece.subject, str(name)] = own[..., labels == name].sum(axis=-1, dtype=np.float64)
    return found


def predicting_work(problem: Problem) -> float:
    """Multiplications of `predict`, roughly: those that factor layers, and those that predict all targets.

    Parameters
    ----------
    problem : Problem
    """
    total = 0.0
    for group in problem.groups:
        n_rows, n_targets = float(group.train.sum()), sum(problem.brains[name].n_targets for name in group.subjects)
        for m, k in problem.layers:
            rank = min(n_rows, float(problem.space.width[m, k]) * len(problem.settings.delays))
            total += 9 * rank**3
        total += n_rows**2 * n_targets * len(problem.space.models)
    return total
