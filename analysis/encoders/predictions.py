"""Predictions of test films at the layer that the training films chose for each target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from cinecube.analysis.cubes.parcels import best_layer
from cinecube.analysis.cubes.spaces import Responses
from cinecube.analysis.cubes.target_axis import find_targets_of
from cinecube.analysis.encoders.block_fits import factor_fold, prepare_layer, training_design
from cinecube.analysis.encoders.problem import Block, Plan, Problem, blocks_of, make_layout, read_block
from cinecube.analysis.ridge.shared_ridge import refit


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
    """
    layer, alpha = {}, {}
    for name, brain in brains.items():
        own = scores[["cv_score", "alpha"]].sel(subject=name).isel(target=find_targets_of(scores, brain)).load()
        best = best_layer(own["cv_score"]).transpose("model", "target")
        layer[name] = best.values
        alpha[name] = own["alpha"].isel(layer=best.clip(min=0)).transpose("model", "target").values
    return Chosen(layer, alpha)


def predict(problem: Problem, chosen: Chosen) -> Iterator[Predicted]:
    """Fit every target again at its layer and penalty, and predict the test films.

    One factorisation of all training rows per layer is all that this takes: penalties are known.

    Parameters
    ----------
    problem : Problem
    chosen : Chosen

    Yields
    ------
    Predicted
        Layer by layer; every target with a layer comes once per stream.
    """
    settings = problem.settings
    for group in problem.groups:
        layout = make_layout(problem.space, group, settings, max(settings.delays))
        for m, k in problem.layers:
            targets = {name: np.flatnonzero(chosen.layer[name][m] == k) for name in group.subjects}
            plan = Plan(0, group, layout, blocks_of(group, targets, settings.targets_per_block))
            if plan.blocks:
                yield from _predict_layer(problem, plan, (m, k), chosen)


def _predict_layer(problem: Problem, plan: Plan, layer: tuple[int, int], chosen: Chosen) -> Iterator[Predicted]:
    (m, k), layout, settings = layer, plan.layout, problem.settings
    prepared = prepare_layer(problem.read_layer(m, k), layout, settings)
    whole = factor_fold(prepared, len(layout.folds), layout, settings)
    design = training_design(prepared)
    for block in plan.blocks:
        responses = read_block(block, plan.group, problem.brains)
        alpha = np.concatenate([chosen.alpha[piece.subject][m, piece.targets] for piece in block])
        prediction = refit(whole, design, responses[layout.train], alpha, settings.backend)
        yield Predicted(m, block, prediction, responses[~layout.train])
