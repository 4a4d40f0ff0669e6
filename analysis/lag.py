"""The lag scan: one delay at a time, a check that rows and responses are aligned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cinecube.analysis.encoding import (
    Block,
    Everywhere,
    Found,
    Plan,
    blocks_of,
    narrow_block,
    split_block,
)
from cinecube.analysis.layout import Layout, Settings, make_design, make_layout
from cinecube.analysis.parcels import regions
from cinecube.analysis.ridge import fit_and_score
from cinecube.analysis.rows import RowsGroup
from cinecube.analysis.spaces import FeatureSpace, Responses
from cinecube.analysis.tasks import Workers, run_jobs, share

# 0 to 12 s at a TR of 1.49 s: past the peak of any haemodynamic response.
LAGS = tuple(range(8))


def lag_block(
    features: np.ndarray, responses: np.ndarray, inside: np.ndarray, layout: Layout, settings: Settings
) -> np.ndarray:
    """Task: cross-validated R² of each single delay for those targets of a block that are `inside`, (lag, target)."""
    known = responses[:, inside][layout.train]
    designs = [make_design(features, layout, [lag])[0] for lag in LAGS]
    return np.stack(
        [
            fit_and_score((design, known), None, layout.folds, settings.alphas, settings.solver).cv_score
            for design in designs
        ]
    )


def scan_lags(
    space: FeatureSpace,
    groups: Sequence[RowsGroup],
    brains: Mapping[str, Responses],
    settings: Settings,
    found: Found,
    workers: Workers = None,
) -> dict[str, np.ndarray]:
    """Score single delays at each parcel's best layer of each stream, on training films only.

    Parameters
    ----------
    space, groups, brains, settings, workers
        As for `encode`.
    found : Found
        From `encode`: its `cv_score` chooses the layers.

    Returns
    -------
    dict of str to array, shape (model, lag, target)
        By subject; NaN outside the parcels.
    """
    chosen = [best_layers(found, brains, m) for m in range(len(space.models))]
    scanned = {name: np.flatnonzero(np.any([best[name] >= 0 for best in chosen], axis=0)) for name in brains}
    everywhere = Everywhere(workers, space, brains, settings)

    def jobs() -> Iterator[tuple[tuple[Block, int], tuple[Any, ...]]]:
        for number, group in enumerate(groups):
            layout = share(workers, make_layout(space, group, settings, max(LAGS)))
            plan = Plan(number, group, blocks_of(group, scanned, settings.targets_per_block))
            for block in plan.blocks:
                responses = everywhere.responses(plan, block)
                for m, best in enumerate(chosen):
                    layers = np.concatenate([best[piece.subject][piece.targets] for piece in block])
                    for k in np.unique(layers[layers >= 0]).tolist():
                        inside = layers == k
                        arguments = (everywhere.layer(m, k), responses, inside, layout, everywhere.settings)
                        yield (narrow_block(block, inside), m), arguments

    scans = {name: np.full((len(chosen), len(LAGS), brain.n_targets), np.nan) for name, brain in brains.items()}
    for (block, m), scores in run_jobs(workers, lag_block, jobs(), settings.threads):
        for piece, values in split_block(block, scores):
            scans[piece.subject][m][:, piece.targets] = values
    return scans


def best_layers(found: Found, brains: Mapping[str, Responses], m: int) -> dict[str, np.ndarray]:
    """Per subject, the layer of each target's parcel with the highest mean `cv_score`, -1 outside the parcels.

    The mean is over the parcel's targets in all subjects, so that all scan one layer.
    """
    labels = {name: regions(brain.cube["parcel"].values) for name, brain in brains.items()}
    best = {name: np.full(len(label), -1) for name, label in labels.items()}
    for parcel in sorted({str(name) for label in labels.values() for name in label} - {""}):
        scores = np.concatenate([found.values[s]["cv_score"][m][:, labels[s] == parcel] for s in brains], axis=1)
        known = np.isfinite(scores)
        n_known = known.sum(axis=1)
        if n_known.any():
            mean = np.where(known, scores, 0).sum(axis=1) / np.maximum(n_known, 1)
            layer = int(np.where(n_known > 0, mean, -np.inf).argmax())
            for name, label in labels.items():
                best[name][label == parcel] = layer
    return best
