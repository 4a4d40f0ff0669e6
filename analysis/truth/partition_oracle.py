"""The variance partitioning of a simulated study once more, in plain float64 on the truth's own features.

Nothing here comes from the pipeline's solvers, alignment or delays: rows are found by dictionaries of labels, delays by
a loop over rows, a fit is the textbook's kernel ridge, and parts follow by subtraction. What is shared is the reading
of files, the choice of folds, so that both fit the same rows, and the candidates of shares.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from cinecube.analysis.jobs.machine import pinned
from cinecube.analysis.partition.partition_fits import SHARES
from cinecube.analysis.ridge.folds import Fold, Gap, leave_segments_out
from cinecube.analysis.truth.planted import drawn_stream, planted_truth
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import open_cube
from cinecube.store.cube.plain_zarr import open_plain
from cinecube.store.params.document import Study

Row = tuple[str, int, int]
"""A segment, the number of TRs since its start, and which showing of it; 0 is the mean of all."""
Subset = tuple[str, ...]
"""Streams that are fitted together."""
Target = tuple[str, int]
"""A subject and one of its targets."""

COLUMNS = ("set", "part", "parcel", "found", "oracle")
# Of each parcel in each subject: their mean over subjects is steady enough, and time grows with their number.
_TARGETS = 4


@dataclass(frozen=True)
class PartitionOracle:
    """The parts that variance partitioning should have found.

    Attributes
    ----------
    table : DataFrame
        A row per set, part and parcel: `set`, `part`, `parcel`, and the mean R² over subjects and some of the parcel's
        targets that the pipeline (`found`) and these fits (`oracle`) come to.
    metrics : dict of str to float
        `partition_error`: mean absolute difference between the two.
    """

    table: pd.DataFrame
    metrics: dict[str, float]


@dataclass(frozen=True)
class _Films:
    """The study as fits need it.

    Attributes
    ----------
    features : dict of str to dict of str to array, shape (row, dim)
        Stream -> segment -> features of the drawn film, a row per TR.
    tr_s, window_s : float
        Seconds between rows, and most seconds of film that one of them sees.
    """

    study: Study
    features: Mapping[str, Mapping[str, np.ndarray]]
    tr_s: float
    window_s: float

    @property
    def train(self) -> list[str]:
        return self.study.segments(self.study.split.train)

    @property
    def segments(self) -> list[str]:
        return self.study.segments([*self.study.split.train, *self.study.split.test])

    @property
    def length(self) -> dict[str, int]:
        """Rows of each segment that all streams have."""
        return {name: min(len(known[name]) for known in self.features.values()) for name in self.segments}


def partition_oracle(study: Study, root: Path) -> PartitionOracle | None:
    """Repeat the partitioning for some targets of parcels that follow the sets' models, or several sources.

    Streams enter with the layers that the pipeline has chosen.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder, with its truth, brain cubes, and the cube of the stage `partition`.

    Returns
    -------
    PartitionOracle or None
        None if the study was not simulated, or no set's streams were drawn all.

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
        films = _films(study, truth, drawn, found, dict.fromkeys(itertools.chain.from_iterable(sets)))
    parcels = _followers(study, truth, sets)
    if not (sets and parcels):
        return None
    brains = {name: open_cube(paths.brain(name), where=f"{name} brain cube") for name in study.brain.subjects}
    explained = pinned(_explained, study.run.threads, films, brains, _judged(found, parcels), sets)
    table = pd.DataFrame(_rows(found, explained, sets), columns=list(COLUMNS))
    return PartitionOracle(table, {"partition_error": float((table["found"] - table["oracle"]).abs().mean())})


def _films(
    study: Study, truth: Mapping[str, Any], drawn: xr.Dataset, found: xr.Dataset, streams: Mapping[str, None]
) -> _Films:
    layer = dict(zip(found["space"].values.tolist(), found["layer"].values.tolist(), strict=True)) if streams else {}
    segment, features = drawn["segment"].values, {}
    for stream in streams:
        values = drawn_stream(drawn, stream).sel(layer=layer[stream]).transpose("row", "dim").values.astype(np.float64)
        values = values[:, ~np.isnan(values).all(axis=0)]
        features[stream] = {name: values[segment == name] for name in dict.fromkeys(segment.tolist())}
    window_s = max((float(truth["models"][stream]["window_s"]) for stream in streams), default=0.0)
    return _Films(study, features, float(truth["tr_s"]), window_s)


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
    found: xr.Dataset, explained: Mapping[Subset, Mapping[str, Mapping[Target, float]]], sets: Sequence[Sequence[str]]
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


def _part(
    part: Subset,
    names: Sequence[str],
    parcel: str,
    target: Target,
    explained: Mapping[Subset, Mapping[str, Mapping[Target, float]]],
) -> float:
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
    films: _Films,
    brains: Mapping[str, xr.Dataset],
    judged: Mapping[str, Mapping[str, Sequence[int]]],
    sets: Sequence[Sequence[str]],
) -> dict[Subset, dict[str, dict[Target, float]]]:
    """R² on the test films of each subset of the sets, by parcel and target."""
    explained: dict[Subset, dict[str, dict[Target, float]]] = {}
    for order, showings in _groups(films, brains):
        labels = [
            (parcel, (subject, target))
            for subject in showings
            for parcel, targets in judged[subject].items()
            for target in targets
        ]
        read = [_responses(brains[name], own, judged[name]) for name, own in showings.items()]
        for subset, values in _r2(films, order, np.hstack(read), sets).items():
            by_parcel = explained.setdefault(subset, {})
            for (parcel, target), value in zip(labels, values, strict=True):
                by_parcel.setdefault(parcel, {})[target] = float(value)
    return explained


def _groups(films: _Films, brains: Mapping[str, xr.Dataset]) -> list[tuple[list[Row], dict[str, list[list[int]]]]]:
    """Rows that subjects share, training films first, and by subject the rows of its cube whose mean each is."""
    seen = {name: _showings(films, brain) for name, brain in brains.items()}
    if films.study.encode.rows == "common":
        shared = set.intersection(*(set(rows) for rows in seen.values()))
        seen = {name: {row: rows[row] for row in shared} for name, rows in seen.items()}
    groups: dict[tuple[Row, ...], dict[str, list[list[int]]]] = {}
    for name, rows in seen.items():
        order = tuple(sorted(rows, key=lambda row: (films.segments.index(row[0]), row[2], row[1])))
        groups.setdefault(order, {})[name] = [rows[row] for row in order]
    return [(list(order), showings) for order, showings in groups.items()]


def _showings(films: _Films, brain: xr.Dataset) -> dict[Row, list[int]]:
    """Rows of the brain cube behind each row that has features."""
    seen: dict[str, dict[int, dict[int, int]]] = {name: {} for name in films.segments}
    labels = [brain[name].values.tolist() for name in ("segment", "repeat", "onset_s")]
    for position, (segment, repeat, onset_s) in enumerate(zip(*labels, strict=True)):
        number = round(onset_s / films.tr_s)
        if number < films.length.get(segment, 0):
            seen[segment].setdefault(int(repeat), {})[number] = position
    rows: dict[Row, list[int]] = {}
    for segment, by_repeat in seen.items():
        if films.study.brain.repeats == "separate":
            rows |= {(segment, n, repeat): [at] for repeat, own in by_repeat.items() for n, at in own.items()}
        else:
            everywhere = set.intersection(*(set(own) for own in by_repeat.values()))
            rows |= {(segment, n, 0): [own[n] for own in by_repeat.values()] for n in everywhere}
    return rows


def _responses(brain: xr.Dataset, showings: Sequence[Sequence[int]], judged: Mapping[str, Sequence[int]]) -> np.ndarray:
    """Responses (row, target) of the judged targets, the mean of each row's showings."""
    place = {target: at for at, target in enumerate(brain["target"].values.tolist())}
    wanted = [place[target] for targets in judged.values() for target in targets]
    bold = brain["bold"].isel(target=wanted).transpose("time", "target").values.astype(np.float64)
    return np.array([bold[positions].mean(axis=0) for positions in showings])


def _r2(
    films: _Films, order: Sequence[Row], responses: np.ndarray, sets: Sequence[Sequence[str]]
) -> dict[Subset, np.ndarray]:
    """R² on the test films of each subset's best fit, (target,)."""
    from sklearn.metrics import r2_score

    params, train = films.study.encode.alphas, np.array([segment in films.train for segment, _, _ in order])
    alphas = np.logspace(np.log10(params.min), np.log10(params.max), params.n)
    designs = {stream: _design(films, stream, order) for stream in films.features}
    kernels = {stream: design @ design[train].T for stream, design in designs.items()}
    folds = _folds(films, [row for row, own in zip(order, train, strict=True) if own])
    best: dict[Subset, tuple[np.ndarray, np.ndarray]] = {}
    for subset in sorted({subset for names in sets for subset in _subsets(names)}, key=len):
        fits = [best[part] for part in itertools.combinations(subset, len(subset) - 1) if part]
        for shares in itertools.product(SHARES, repeat=len(subset)):
            if max(shares) == max(SHARES):
                # Of designs side by side, each times the root of its share.
                kernel = sum(share * kernels[stream] for share, stream in zip(shares, subset, strict=True))
                fits.append(_fit(kernel[train], kernel[~train], responses[train], folds, alphas))
        losses, predicted = (np.stack(values) for values in zip(*fits, strict=True))
        first = losses.argmin(axis=0)
        best[subset] = losses.min(axis=0), np.stack([predicted[n, :, t] for t, n in enumerate(first)], axis=1)
    shown = responses[~train] - responses[~train].mean(axis=0)
    return {
        subset: r2_score(shown, predicted - predicted.mean(axis=0), multioutput="raw_values")
        for subset, (_, predicted) in best.items()
    }


def _design(films: _Films, stream: str, order: Sequence[Row]) -> np.ndarray:
    """Standardised features as they were so many TRs ago in the same segment, zeros before it begins."""
    known = films.features[stream]
    fitted = np.array([known[segment][n] for segment, n in sorted({row[:2] for row in order if row[0] in films.train})])
    mean, spread = fitted.mean(axis=0), fitted.std(axis=0)
    scale = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 1e-7 * np.abs(mean))
    rows = []
    for segment, number, _ in order:
        past = [number - delay for delay in films.study.encode.delays]
        rows.append([(known[segment][n] - mean) * scale if n >= 0 else np.zeros(len(mean)) for n in past])
    return np.array(rows).reshape(len(rows), -1)


def _folds(films: _Films, order: Sequence[Row]) -> list[Fold]:
    study = films.study
    return leave_segments_out(
        np.array([segment for segment, _, _ in order], dtype=object),
        np.array([number * films.tr_s for _, number, _ in order]),
        {film: segments for film, segments in study.films.items() if film in study.split.train},
        {segment: (length - 1) * films.tr_s for segment, length in films.length.items()},
        study.encode.folds,
        Gap(study.split.gap_s, films.tr_s, films.window_s, max(study.encode.delays)),
    )


def _fit(
    kernel: np.ndarray, test: np.ndarray, responses: np.ndarray, folds: Sequence[Fold], alphas: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The least squared error on the folds (target,), and what its penalty predicts of test rows (row, target)."""
    losses = np.zeros((len(alphas), responses.shape[1]))
    for train, held in folds:
        predicted = _ridge(kernel[np.ix_(train, train)], responses[train], kernel[np.ix_(held, train)], alphas)
        losses += ((predicted - responses[held]) ** 2).mean(axis=1) / len(folds)
    predicted = _ridge(kernel, responses, test, alphas)
    return losses.min(axis=0), np.stack([predicted[a, :, t] for t, a in enumerate(losses.argmin(axis=0))], axis=1)


def _ridge(kernel: np.ndarray, responses: np.ndarray, shown: np.ndarray, alphas: np.ndarray) -> np.ndarray:
    """Predictions (alpha, row, target) of kernel ridge, for rows by their kernel with the training rows."""
    values, vectors = np.linalg.eigh(kernel)
    left, right = shown @ vectors, vectors.T @ responses
    return np.array([(left / (values + alpha)) @ right for alpha in alphas])
