"""The variance partitioning of a simulated study once more, by plain fits of the truth's own features.

A fit of a subset is kernel ridge with the best of all shares and penalties, and parts follow by subtraction. What is
shared with the pipeline, besides what `plain_fits` says, is the candidates of shares.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from cinecube.analysis.partition.partition_fits import SHARES
from cinecube.analysis.truth.plain_fits import PlainFits, Row, mean_showings, read_drawn
from cinecube.analysis.truth.planted import planted_truth
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import open_cube
from cinecube.store.cube.plain_zarr import open_plain
from cinecube.store.params.document import Study

Subset = tuple[str, ...]
"""Streams that are fitted together."""
Target = tuple[str, int]
"""A subject and one of its targets."""
Explained = Mapping[Subset, Mapping[str, Mapping[Target, float]]]
"""R² on the test films of each subset of the sets, by parcel and target."""

COLUMNS = ("set", "part", "parcel", "found", "oracle")
# Of each parcel in each subject: their mean over subjects is steady enough, and time grows with their number.
_TARGETS = 4


def partition_oracle(study: Study, root: Path) -> pd.DataFrame | None:
    """Repeat the partitioning for some targets of parcels that follow the sets' models, or several sources.

    Streams enter with the layers that the pipeline has chosen.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder, with its truth, brain cubes, and the cube of the stage `partition`.

    Returns
    -------
    DataFrame or None
        A row per set, part and parcel: `set`, `part`, `parcel`, and the mean R² over subjects and some of the parcel's
        targets that the pipeline (`found`) and these fits (`oracle`) come to. None if the study was not simulated, or
        no set's streams were drawn all.

    Raises
    ------
    StudyError
        If a cube is missing.
    """
    paths = StudyPaths(root)
    if not (study.partition and paths.truth.is_file() and paths.drawn_features.exists()):
        return None
    truth = planted_truth(paths)
    found = open_cube(paths.partition, where=paths.relative(paths.partition)).load()
    with open_plain(paths.drawn_features) as drawn:
        # An untrained twin was not drawn.
        sets = [names for names in study.partition if all(stream in drawn for stream in names)]
        parcels = _followers(study, truth, sets)
        if not (sets and parcels):
            return None
        layer = dict(zip(found["space"].values.tolist(), found["layer"].values.tolist(), strict=True))
        streams = dict.fromkeys(itertools.chain.from_iterable(sets))
        features = {stream: read_drawn(drawn, stream, [layer[stream]]) for stream in streams}
    window_s = max(float(truth["models"][stream]["window_s"]) for stream in streams)
    fits = PlainFits(study, features, float(truth["tr_s"]), window_s)
    brains = {name: open_cube(paths.brain(name), where=f"{name} brain cube") for name in study.brain.subjects}
    explained = _explained(fits, brains, _judged(found, parcels), sets)
    return pd.DataFrame(_rows(found, explained, sets), columns=list(COLUMNS))


def _followers(study: Study, truth: Mapping[str, Any], sets: Sequence[Sequence[str]]) -> list[str]:
    """Parcels that follow a model of the sets, or several sources."""
    owners = {study.owner(stream) for names in sets for stream in names}
    return [
        parcel
        for parcel, entry in truth["parcels"].items()
        if len(entry["sources"]) > 1 or any(source["model"].split(".")[0] in owners for source in entry["sources"])
    ]


def _judged(found: xr.Dataset, parcels: Sequence[str]) -> dict[str, dict[str, list[int]]]:
    """Subject -> parcel -> the first of its targets that the pipeline has fitted."""
    known = found["part_r2"].notnull().any(("set", "part"))
    judged: dict[str, dict[str, list[int]]] = {}
    for subject in found["subject"].values.tolist():
        target = found["target"].values[known.sel(subject=subject).values].tolist()
        parcel = found["parcel"].values[known.sel(subject=subject).values].tolist()
        own = {name: [t for t, p in zip(target, parcel, strict=True) if p == name][:_TARGETS] for name in parcels}
        judged[subject] = {name: targets for name, targets in own.items() if targets}
    return judged


def _rows(
    found: xr.Dataset, explained: Explained, sets: Sequence[Sequence[str]]
) -> list[tuple[str, str, str, float, float]]:
    """Rows of the table."""
    rows = []
    for names in sets:
        cube = found["part_r2"].sel(set=" + ".join(names))
        for part in _subsets(names):
            label = f"{'unique' if len(part) == 1 else 'shared'} {' + '.join(part)}"
            values = cube.sel(part=label).to_series()
            for parcel, targets in explained[tuple(names)].items():
                ours = [_part(part, names, parcel, target, explained) for target in targets]
                theirs = [float(values[target]) for target in targets]
                rows.append((" + ".join(names), label, parcel, float(np.mean(theirs)), float(np.mean(ours))))
    return rows


def _subsets(names: Sequence[str]) -> list[Subset]:
    return [subset for size in range(1, len(names) + 1) for subset in itertools.combinations(names, size)]


def _part(part: Subset, names: Sequence[str], parcel: str, target: Target, explained: Explained) -> float:
    """Share of a target's variance that these streams explain, all of them and no others.

    What some streams explain and no other does is the whole less what the others explain; what fewer of them explain is
    subtracted.
    """
    total = 0.0
    for some in _subsets(part):
        others = tuple(name for name in names if name not in some)
        alone = explained[tuple(names)][parcel][target] - (explained[others][parcel][target] if others else 0.0)
        total += (-1) ** (len(part) - len(some)) * alone
    return total


def _explained(
    fits: PlainFits,
    brains: Mapping[str, xr.Dataset],
    judged: Mapping[str, Mapping[str, Sequence[int]]],
    sets: Sequence[Sequence[str]],
) -> Explained:
    explained: dict[Subset, dict[str, dict[Target, float]]] = {}
    for order, showings in fits.groups(brains):
        labels, read = [], []
        for subject, own in showings.items():
            parcels = [(parcel, target) for parcel, targets in judged[subject].items() for target in targets]
            place = {target: at for at, target in enumerate(brains[subject]["target"].values.tolist())}
            labels += [(parcel, (subject, target)) for parcel, target in parcels]
            read.append(mean_showings(brains[subject], [place[target] for _, target in parcels], own))
        for subset, values in _r2(fits, order, np.hstack(read), sets).items():
            by_parcel = explained.setdefault(subset, {})
            for (parcel, target), value in zip(labels, values, strict=True):
                by_parcel.setdefault(parcel, {})[target] = float(value)
    return explained


def _r2(
    fits: PlainFits, order: Sequence[Row], responses: np.ndarray, sets: Sequence[Sequence[str]]
) -> dict[Subset, np.ndarray]:
    """R² on the test films of each subset's best fit, (target,)."""
    from sklearn.metrics import r2_score

    train, delays = fits.is_train(order), fits.study.encode.delays
    designs = {stream: fits.design(stream, order, delays) for stream in fits.features}
    kernels = {stream: design @ design[train].T for stream, design in designs.items()}
    folds = fits.folds(order, delays)
    best: dict[Subset, tuple[np.ndarray, np.ndarray]] = {}
    for subset in sorted({subset for names in sets for subset in _subsets(names)}, key=len):
        tried = [best[part] for part in itertools.combinations(subset, len(subset) - 1) if part]
        for shares in itertools.product(SHARES, repeat=len(subset)):
            if max(shares) == max(SHARES):
                # Of designs side by side, each times the root of its share.
                kernel = sum(share * kernels[stream] for share, stream in zip(shares, subset, strict=True))
                tried.append(fits.fit(kernel[train], kernel[~train], responses[train], folds))
        losses, predicted = (np.stack(values) for values in zip(*tried, strict=True))
        first = losses.argmin(axis=0)
        best[subset] = losses.min(axis=0), np.stack([predicted[n, :, t] for t, n in enumerate(first)], axis=1)
    shown = responses[~train] - responses[~train].mean(axis=0)
    return {
        subset: r2_score(shown, predicted - predicted.mean(axis=0), multioutput="raw_values")
        for subset, (_, predicted) in best.items()
    }
