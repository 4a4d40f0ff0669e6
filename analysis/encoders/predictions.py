"""Predictions of test films at the layer that the training films chose for each target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from cinecube.analysis.cubes.parcels import best_layer
from cinecube.analysis.cubes.rows import RowsGroup
from cinecube.analysis.cubes.spaces import FeatureSpace, Responses
from cinecube.analysis.cubes.target_blocks import Block, blocks_of, read_block
from cinecube.analysis.encoders.encoding import existing_layers
from cinecube.analysis.encoders.layout import Layout, Settings, make_layout
from cinecube.analysis.encoders.shared_encoding import factor_fold, prepare_layer
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
        Which targets of which subjects.
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
        own = scores[["cv_score", "alpha"]].sel(subject=name, target=brain.cube["target"].values).load()
        best = best_layer(own["cv_score"]).transpose("model", "target")
        layer[name] = best.values
        alpha[name] = own["alpha"].isel(layer=best.clip(min=0)).transpose("model", "target").values
    return Chosen(layer, alpha)


def predict(
    space: FeatureSpace,
    groups: Sequence[RowsGroup],
    brains: Mapping[str, Responses],
    chosen: Chosen,
    settings: Settings,
) -> Iterator[Predicted]:
    """Fit every target again at its layer and penalty, and predict the test films.

    One factorisation of all training rows per layer is all that this takes: penalties are known.

    Parameters
    ----------
    space, groups, brains, settings
        As for `encoding.encode`.
    chosen : Chosen

    Yields
    ------
    Predicted
        Layer by layer; every target with a layer comes once per stream.
    """
    for group in groups:
        layout = make_layout(space, group, settings, max(settings.delays))
        for m, k in existing_layers(space):
            targets = {name: np.flatnonzero(chosen.layer[name][m] == k) for name in group.subjects}
            blocks = blocks_of(group, targets, settings.targets_per_block)
            if blocks:
                yield from _predict_layer(space, group, brains, chosen, settings, layout, (m, k), blocks)


def _predict_layer(
    space: FeatureSpace,
    group: RowsGroup,
    brains: Mapping[str, Responses],
    chosen: Chosen,
    settings: Settings,
    layout: Layout,
    layer: tuple[int, int],
    blocks: Sequence[Block],
) -> Iterator[Predicted]:
    m, k = layer
    prepared = prepare_layer(space.read_layer(m, k), layout, settings)
    whole = factor_fold(prepared, len(layout.folds), layout, settings)
    design = prepared.design if prepared.form == "primal" else None
    for block in blocks:
        responses = read_block(block, group, brains)
        alpha = np.concatenate([chosen.alpha[piece.subject][m, piece.targets] for piece in block])
        prediction = refit(whole, design, responses[layout.train], alpha, settings.backend)
        yield Predicted(m, block, prediction, responses[~layout.train])
