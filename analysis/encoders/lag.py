"""The lag scan: one delay at a time, a check that rows and responses are aligned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from cinecube.analysis.cubes.parcels import regions
from cinecube.analysis.cubes.spaces import Responses
from cinecube.analysis.encoders.block_fits import SCORES
from cinecube.analysis.encoders.encoding import Scored, Unit, run_units
from cinecube.analysis.encoders.problem import Block, Problem, narrow_block, split_block
from cinecube.store.jobs.tasks import Workers

# 0 to 12 s at a TR of 1.49 s: past the peak of any haemodynamic response.
LAGS = tuple(range(8))
# Whose factors of one layer are in memory together, and as many of the next; responses are read again for the others.
_LAGS_AT_ONCE = 2


def scan_lags(problem: Problem, found: Scored, workers: Workers = None) -> dict[str, np.ndarray]:
    """Score single delays at each parcel's best layer of each stream, on training films only.

    Parameters
    ----------
    problem : Problem
    found : Scored
        From `encode`: its `cv_score` chooses the layers.
    workers : Client, Threads or None

    Returns
    -------
    dict of str to array, shape (model, lag, target)
        Cross-validated R² by subject; NaN outside the parcels.
    """
    chosen = [best_layers(found, problem.brains, m) for m in range(len(problem.space.models))]
    places = [LAGS[start : start + _LAGS_AT_ONCE] for start in range(0, len(LAGS), _LAGS_AT_ONCE)]
    units = [(unit, lags) for unit in _units(problem, chosen) for lags in places]
    scans = {name: np.full((len(chosen), len(LAGS), brain.n_targets), np.nan) for name, brain in problem.brains.items()}
    fits = [
        replace(unit, variants=tuple(replace(problem.settings, delays=(lag,)) for lag in lags)) for unit, lags in units
    ]
    for job, scores in run_units(problem, fits, workers, tested=False):
        unit, lags = units[job.unit]
        inside = unit.blocks[job.block]
        assert inside is not None
        for piece, values in split_block(narrow_block(unit.plan.blocks[job.block], inside), scores[:, _CV_SCORE]):
            scans[piece.subject][unit.m, np.array(lags)[:, None], piece.targets] = values
    return scans


_CV_SCORE = SCORES.index("cv_score")


def _units(problem: Problem, chosen: Sequence[Mapping[str, np.ndarray]]) -> Iterator[Unit]:
    """Layers that some target of a group is scanned at, and which of its targets.

    Blocks hold neighbouring targets in parcels, which cubes are read fastest by.
    """
    scanned = {name: np.flatnonzero(np.any([best[name] >= 0 for best in chosen], axis=0)) for name in problem.brains}
    for plan in problem.plans(scanned, max(LAGS)):
        for m, best in enumerate(chosen):
            layers = np.unique(np.concatenate([best[name] for name in plan.group.subjects]))
            for k in layers[layers >= 0]:
                inside = {n: _inside(block, best, k) for n, block in enumerate(plan.blocks)}
                yield Unit(plan, m, int(k), (), {n: own for n, own in inside.items() if own.any()})


def _inside(block: Block, best: Mapping[str, np.ndarray], k: int) -> np.ndarray:
    """Mask (target,) of a block's targets that are scanned at a layer."""
    return np.concatenate([best[piece.subject][piece.targets] for piece in block]) == k


def best_layers(found: Scored, brains: Mapping[str, Responses], m: int) -> dict[str, np.ndarray]:
    """Per subject, the layer of each target's parcel with the highest mean `cv_score`; -1 outside, or without scores.

    The mean is over the parcel's targets in all subjects, so that all scan one layer.

    Parameters
    ----------
    found : Scored
        Scores of all layers.
    brains : Mapping of str to Responses
        By subject.
    m : int
        Position on the model axis.

    Returns
    -------
    dict of str to array of int, shape (target,)
        Position on the layer axis, by subject.
    """
    labels = {name: regions(brain.cube["parcel"].values) for name, brain in brains.items()}
    best = {name: np.full(len(label), -1) for name, label in labels.items()}
    for parcel in sorted({str(name) for label in labels.values() for name in label} - {""}):
        scores = np.concatenate([found[s]["cv_score"][m][:, labels[s] == parcel] for s in brains], axis=1)
        known = np.isfinite(scores)
        n_known = known.sum(axis=1)
        if n_known.any():
            mean = np.where(known, scores, 0).sum(axis=1) / np.maximum(n_known, 1)
            layer = int(np.where(n_known > 0, mean, -np.inf).argmax())
            for name, label in labels.items():
                scored = np.isfinite(found[name]["cv_score"][m, layer])
                best[name][(label == parcel) & scored] = layer
    return best
