"""The lag scan: one delay at a time, a check that rows and responses are aligned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cinecube.analysis.cubes.parcels import regions
from cinecube.analysis.cubes.rows import RowsGroup
from cinecube.analysis.cubes.spaces import FeatureSpace, Responses
from cinecube.analysis.cubes.target_blocks import Block, blocks_of, narrow_block, read_block, split_block
from cinecube.analysis.encoders.encoding import Everywhere, Found, Plan, submit_factors
from cinecube.analysis.encoders.layout import Layout, Settings, make_design, make_layout
from cinecube.analysis.encoders.shared_encoding import Source, solve_responses
from cinecube.analysis.jobs.tasks import Workers, run_jobs, share
from cinecube.analysis.ridge.factors import Factor
from cinecube.analysis.ridge.himalaya_ridge import fit_and_score

# 0 to 12 s at a TR of 1.49 s: past the peak of any haemodynamic response.
LAGS = tuple(range(8))
# Whose factors of one layer are in memory together; responses are read again for the others.
_LAGS_AT_ONCE = 4


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
    make_jobs = _shared_jobs if settings.solver == "shared" else _single_jobs
    function, jobs = make_jobs(space, groups, brains, chosen, replace(settings, one_alpha=False), workers)
    scans = {name: np.full((len(chosen), len(LAGS), brain.n_targets), np.nan) for name, brain in brains.items()}
    for (block, m, lags), scores in run_jobs(workers, function, jobs, settings.threads):
        for piece, values in split_block(block, scores):
            scans[piece.subject][m, lags[:, None], piece.targets] = values
    return scans


_Jobs = tuple[Callable[..., np.ndarray], Iterator[tuple[tuple[Block, int, np.ndarray], tuple[Any, ...]]]]


def _shared_jobs(
    space: FeatureSpace,
    groups: Sequence[RowsGroup],
    brains: Mapping[str, Responses],
    chosen: Sequence[Mapping[str, np.ndarray]],
    settings: Settings,
    workers: Workers,
) -> _Jobs:
    """Jobs that share the factors of a layer at some delays, made once for all targets of a group."""
    everywhere = Everywhere(workers, space, brains, settings)
    single = [share(workers, replace(settings, delays=(lag,))) for lag in LAGS]

    def jobs() -> Iterator[tuple[tuple[Block, int, np.ndarray], tuple[Any, ...]]]:
        for plan, layout in _plans(space, groups, chosen, settings):
            there, n_folds = share(workers, layout), len(layout.folds)
            for m, k in _layers(plan, chosen):
                features = everywhere.read_layer(m, k)
                for start in range(0, len(LAGS), _LAGS_AT_ONCE):
                    places = np.arange(len(LAGS))[start : start + _LAGS_AT_ONCE]
                    # Lists, which workers look for futures in.
                    factors = [
                        list(submit_factors(workers, settings.threads, features, there, single[place], n_folds))
                        for place in places
                    ]
                    for block in plan.blocks:
                        inside = _inside(block, chosen[m], k)
                        if inside.any():
                            arguments = (factors, everywhere.source(plan, block), inside, there, everywhere.settings)
                            yield (narrow_block(block, inside), m, places), arguments

    return _solve_lags, jobs()


def _solve_lags(
    factors: Sequence[tuple[np.ndarray | None, Sequence[Factor]]],
    source: Source,
    inside: np.ndarray,
    layout: Layout,
    settings: Settings,
) -> np.ndarray:
    """Task: cross-validated R² of some delays, for those targets of a block that are `inside`, (lag, target)."""
    known = read_block(*source)[:, inside]
    return np.stack([solve_responses(design, parts, known, layout, settings).cv_score for design, parts in factors])


def _plans(
    space: FeatureSpace, groups: Sequence[RowsGroup], chosen: Sequence[Mapping[str, np.ndarray]], settings: Settings
) -> Iterator[tuple[Plan, Layout]]:
    """Blocks of neighbouring targets in parcels, which cubes are read fastest by, and the rows of each group."""
    for number, group in enumerate(groups):
        scanned = {
            name: np.flatnonzero(np.any([best[name] >= 0 for best in chosen], axis=0)) for name in group.subjects
        }
        plan = Plan(number, group, blocks_of(group, scanned, settings.targets_per_block))
        yield plan, make_layout(space, group, settings, max(LAGS))


def _layers(plan: Plan, chosen: Sequence[Mapping[str, np.ndarray]]) -> list[tuple[int, int]]:
    """Layers (model, layer) that some target of a group is scanned at."""
    found = []
    for m, best in enumerate(chosen):
        layers = np.unique(np.concatenate([best[name] for name in plan.group.subjects]))
        found += [(m, int(k)) for k in layers if k >= 0]
    return found


def _inside(block: Block, best: Mapping[str, np.ndarray], k: int) -> np.ndarray:
    """Which targets of a block are scanned at a layer, (target,)."""
    return np.concatenate([best[piece.subject][piece.targets] for piece in block]) == k


def _single_jobs(
    space: FeatureSpace,
    groups: Sequence[RowsGroup],
    brains: Mapping[str, Responses],
    chosen: Sequence[Mapping[str, np.ndarray]],
    settings: Settings,
    workers: Workers,
) -> _Jobs:
    """Jobs that factor for themselves, all delays in one."""
    everywhere = Everywhere(workers, space, brains, settings)

    def jobs() -> Iterator[tuple[tuple[Block, int, np.ndarray], tuple[Any, ...]]]:
        for plan, layout in _plans(space, groups, chosen, settings):
            there = share(workers, layout)
            for block in plan.blocks:
                responses = everywhere.responses(plan, block)
                for m, k in _layers(plan, chosen):
                    inside = _inside(block, chosen[m], k)
                    if inside.any():
                        arguments = (everywhere.layer(m, k), responses, inside, there, everywhere.settings)
                        yield (narrow_block(block, inside), m, np.arange(len(LAGS))), arguments

    return lag_block, jobs()


def best_layers(found: Found, brains: Mapping[str, Responses], m: int) -> dict[str, np.ndarray]:
    """Per subject, the layer of each target's parcel with the highest mean `cv_score`; -1 outside, or without scores.

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
                scored = np.isfinite(found.values[name]["cv_score"][m, layer])
                best[name][(label == parcel) & scored] = layer
    return best
