"""The lag scan: one delay at a time, a check that rows and responses are aligned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cinecube.analysis.encoding import (
    Block,
    Found,
    Layout,
    Settings,
    blocks_of,
    make_design,
    make_layout,
    read_block,
    split_block,
)
from cinecube.analysis.parcels import regions
from cinecube.analysis.ridge import fit_and_score
from cinecube.analysis.rows import RowsGroup
from cinecube.analysis.spaces import FeatureSpace, Responses
from cinecube.analysis.tasks import run_jobs, share

if TYPE_CHECKING:
    from distributed import Client

# 0 to 12 s at a TR of 1.49 s: past the peak of any haemodynamic response.
LAGS = tuple(range(8))


def lag_block(features: np.ndarray, responses: np.ndarray, layout: Layout, settings: Settings) -> np.ndarray:
    """Task: cross-validated R² of each single delay for a block of targets, shape (lag, target)."""
    known = responses[layout.train]
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
    client: Client | None = None,
) -> dict[str, np.ndarray]:
    """Score single delays at each parcel's best layer of each stream, on training films only.

    Parameters
    ----------
    space, groups, brains, settings, client
        As for `encode`.
    found : Found
        From `encode`: its `cv_score` chooses the layers.

    Returns
    -------
    dict of str to array, shape (model, lag, target)
        By subject; NaN outside the parcels.
    """
    shared_settings = share(client, settings)

    def jobs() -> Iterator[tuple[tuple[Block, int], tuple[Any, ...]]]:
        for group in groups:
            layout = share(client, make_layout(space, group, settings, max(LAGS)))
            for m, best in enumerate(chosen):
                for k in _layers_in(best):
                    features = share(client, space.read_layer(m, k))
                    scanned = {name: np.flatnonzero(layers == k) for name, layers in best.items()}
                    for block in blocks_of(group, scanned, settings.targets_per_block):
                        responses = share(client, read_block(block, group, brains))
                        yield (block, m), (features, responses, layout, shared_settings)

    chosen = [best_layers(found, brains, m) for m in range(len(space.models))]
    scans = {name: np.full((len(chosen), len(LAGS), brain.n_targets), np.nan) for name, brain in brains.items()}
    for (block, m), scores in run_jobs(client, lag_block, jobs(), settings.threads):
        for piece, values in split_block(block, scores):
            scans[piece.subject][m][:, piece.targets] = values
    return scans


def _layers_in(best: Mapping[str, np.ndarray]) -> list[int]:
    return sorted({int(k) for layers in best.values() for k in np.unique(layers) if k >= 0})


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
