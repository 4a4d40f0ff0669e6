"""The residual analysis of a simulated study once more, by scikit-learn in float64 on the truth's own features.

Nothing here comes from the pipeline's solvers, alignment or delays: rows are found by dictionaries of labels, delays by
a loop over rows, penalties by fitting scikit-learn's `Ridge` with each of them. What is shared is the reading of files
and the choice of folds, so that both fit the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from cinecube.analysis.cubes.results import find_stream
from cinecube.analysis.ridge.folds import Fold, Gap, leave_segments_out
from cinecube.analysis.truth.planted import drawn_stream, planted_truth
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import open_cube
from cinecube.store.cube.plain_zarr import open_plain
from cinecube.store.params.analysis_params import Pair
from cinecube.store.params.document import Study

Moment = tuple[str, int]
"""A segment and the number of TRs since its start."""
Row = tuple[str, int, int]
"""A moment, and which showing of it; 0 is the mean of all."""


@dataclass(frozen=True)
class Oracle:
    """The scores that the residual analysis should have found.

    Attributes
    ----------
    table : DataFrame
        A row per pair and parcel: `pair`, `layer`, `parcel`; `oracle_full`, `oracle_residual`, mean r on the test films
        over targets and subjects; `full`, `residual`, the pipeline's.
    metrics : dict of str to float
        `residual_error`, `residual_full_error`: mean absolute difference from the pipeline after and before the
        removal.
    """

    table: pd.DataFrame
    metrics: dict[str, float]


@dataclass(frozen=True)
class _Films:
    """Split of the study's films, and the settings of fits.

    Attributes
    ----------
    train : dict of str to list of str
        Training films with their segments.
    segments : list of str
        Of all films of the split, training films first.
    tr_s, window_s : float
        Seconds between rows, and seconds of film that one sees.
    alphas : array, shape (alpha,)
    """

    study: Study
    train: dict[str, list[str]]
    segments: list[str]
    tr_s: float
    window_s: float
    alphas: np.ndarray

    @property
    def train_segments(self) -> list[str]:
        return [segment for segments in self.train.values() for segment in segments]

    def folds(self, moments: Sequence[Moment], last: Mapping[str, int], max_delay: int) -> list[Fold]:
        """Folds of these training rows; `last` has each segment's last row."""
        return leave_segments_out(
            np.array([segment for segment, _ in moments], dtype=object),
            np.array([number * self.tr_s for _, number in moments]),
            self.train,
            {segment: number * self.tr_s for segment, number in last.items()},
            self.study.encode.folds,
            Gap(self.study.split.gap_s, self.tr_s, self.window_s, max_delay),
        )


@dataclass(frozen=True)
class _Drawn:
    """Features of the drawn films by moment, (row, dim) float64."""

    place: dict[Moment, int]
    values: np.ndarray


def residual_oracle(study: Study, root: Path) -> Oracle | None:
    """Repeat the residual analysis for the parcels that follow the model kept; None if the study was not simulated.

    Every pair is judged at one layer: that with the highest mean `cv_score` of the pipeline over these parcels' targets
    in all subjects.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder, with its truth, brain cubes, and score cubes before and after the removals.

    Raises
    ------
    StudyError
        If a cube is missing.
    """
    paths = StudyPaths(root)
    if not (study.residual and paths.truth.is_file() and paths.drawn_features.exists()):
        return None
    parcels = planted_truth(paths)["parcels"]
    parts: list[pd.DataFrame] = []
    before: dict[str, list[float]] = {}
    with open_plain(paths.drawn_features) as drawn:
        # Plain ridges have a penalty per dim.
        for pair in (pair for pair in study.residual if pair.by == "dim"):
            owner = study.owner(pair.keep)
            follow = [name for name, entry in parcels.items() if any(_of(s["model"], owner) for s in entry["sources"])]
            # An untrained twin was not drawn.
            if follow and pair.keep in drawn and pair.remove in drawn:
                parts.append(_judge(study, paths, pair, follow, drawn, before))
    if not parts:
        return None
    table = pd.concat(parts, ignore_index=True)
    errors = {
        "residual_error": (table["residual"] - table["oracle_residual"]).abs().mean(),
        "residual_full_error": (table["full"] - table["oracle_full"]).abs().mean(),
    }
    return Oracle(table, {name: float(error) for name, error in errors.items()})


def _of(stream: str, model: str) -> bool:
    return stream == model or stream.startswith(f"{model}.")


def _judge(
    study: Study,
    paths: StudyPaths,
    pair: Pair,
    parcels: Sequence[str],
    drawn: xr.Dataset,
    before: dict[str, list[float]],
) -> pd.DataFrame:
    """One pair's rows of the table; `before` keeps what the whole stream explains, by stream."""
    owner = study.owner(pair.keep)
    full, left = (open_cube(path, where=paths.relative(path)) for path in map(paths.scores, (owner, pair.name)))
    own = full.isel(model=find_stream(full["model"].values.tolist(), pair.keep, f"scores of {owner}"))
    layer = _chosen_layer(own, parcels)
    films = _films(study, drawn, open_cube(paths.features(owner, study.split.train[0])))
    kept = _read(drawn, pair.keep, [layer], films)
    removed = _read(drawn, pair.remove, None if pair.layers == "all" else pair.layers, films)
    brains = {name: open_cube(paths.brain(name), where=f"{name} brain cube") for name in study.brain.subjects}
    if pair.keep not in before:
        before[pair.keep] = _parcel_means(_encode(kept, brains, parcels, films), parcels)
    rest = _Drawn(kept.place, _residual(kept, removed, films))
    return pd.DataFrame(
        {
            "pair": pair.name,
            "layer": layer,
            "parcel": list(parcels),
            "oracle_full": before[pair.keep],
            "oracle_residual": _parcel_means(_encode(rest, brains, parcels, films), parcels),
            "full": _parcel_means(_scores_at(own, layer), parcels),
            "residual": _parcel_means(_scores_at(left.isel(model=0), layer), parcels),
        }
    )


def _chosen_layer(scores: xr.Dataset, parcels: Sequence[str]) -> str:
    """The layer with the highest mean `cv_score` over the targets of these parcels in all subjects."""
    inside = _inside(scores, parcels)
    means = {}
    for label in scores["layer"].values.tolist():
        known = scores["cv_score"].sel(layer=label).transpose("subject", "target").values[:, inside]
        known = known[~np.isnan(known)]
        means[str(label)] = known.mean() if known.size else -np.inf
    return max(means, key=lambda label: means[label])


def _scores_at(scores: xr.Dataset, layer: str) -> list[tuple[str, float]]:
    """Parcel and test score of every target in every subject."""
    found = scores["score"].sel(layer=layer).transpose("target", "subject").values
    return [(str(parcel), r) for parcel, own in zip(scores["parcel"].values, found, strict=True) for r in own]


def _inside(cube: xr.Dataset, parcels: Sequence[str]) -> np.ndarray:
    """Mask (target,) of targets in one of these parcels."""
    return np.array([str(name) in parcels for name in cube["parcel"].values])


def _parcel_means(scores: Sequence[tuple[str, float]], parcels: Sequence[str]) -> list[float]:
    """Mean of each parcel's scores (parcel, r), of all subjects' targets."""
    known = pd.DataFrame(scores, columns=["parcel", "r"]).dropna().groupby("parcel")["r"].mean()
    return [float(known.get(parcel, np.nan)) for parcel in parcels]


def _films(study: Study, drawn: xr.Dataset, cube: xr.Dataset) -> _Films:
    train = {film: segments for film, segments in study.films.items() if film in study.split.train}
    params = study.encode.alphas
    return _Films(
        study,
        train,
        study.segments([*study.split.train, *study.split.test]),
        float(drawn.attrs["tr_s"]),
        float(cube["window_s"].values[0]),
        np.logspace(np.log10(params.min), np.log10(params.max), params.n),
    )


def _read(drawn: xr.Dataset, stream: str, layers: Sequence[str] | None, films: _Films) -> _Drawn:
    """Layers of a stream side by side, all of them without `layers`, at the rows of the split's segments."""
    features = drawn_stream(drawn, stream)
    labels = zip(features["segment"].values.tolist(), features["onset_s"].values.tolist(), strict=True)
    moments = {(segment, round(onset_s / films.tr_s)): row for row, (segment, onset_s) in enumerate(labels)}
    wanted = [moment for moment in moments if moment[0] in films.segments]
    parts = []
    for label in layers or features["layer"].values.tolist():
        layer = features.sel(layer=label).transpose("row", "dim").values
        parts.append(layer[:, ~np.isnan(layer).all(axis=0)])
    rows = [moments[moment] for moment in wanted]
    return _Drawn({moment: n for n, moment in enumerate(wanted)}, np.hstack(parts)[rows].astype(np.float64))


def _residual(kept: _Drawn, removed: _Drawn, films: _Films) -> np.ndarray:
    """The kept features less what ridge predicts of them from the removed ones, at all rows (row, dim)."""
    from sklearn.preprocessing import StandardScaler

    moments = list(kept.place)
    other = removed.values[[removed.place[moment] for moment in moments]]
    train = np.array([segment in films.train_segments for segment, _ in moments])
    a, b = (StandardScaler().fit(values[train]).transform(values) for values in (kept.values, other))
    fitted = [moment for moment in moments if moment[0] in films.train_segments]
    folds = films.folds(fitted, _last(kept), max_delay=0)
    return np.asarray(a - _ridge(b[train], a[train], b, folds, films.alphas))


def _last(features: _Drawn) -> dict[str, int]:
    last: dict[str, int] = {}
    for segment, number in features.place:
        last[segment] = max(number, last.get(segment, 0))
    return last


def _ridge(x: np.ndarray, y: np.ndarray, shown: np.ndarray, folds: Sequence[Fold], alphas: np.ndarray) -> np.ndarray:
    """Predictions for rows `shown`, with the penalty per target whose squared error on the folds is least."""
    from sklearn.linear_model import Ridge

    def predict(alpha: float, x: np.ndarray, y: np.ndarray, shown: np.ndarray) -> np.ndarray:
        # Of a single target scikit-learn drops the axis.
        return np.reshape(Ridge(alpha=alpha, fit_intercept=False).fit(x, y).predict(shown), (len(shown), -1))

    losses = np.zeros((len(alphas), y.shape[1]))
    for place, alpha in enumerate(alphas):
        for train, held_out in folds:
            error = predict(alpha, x[train], y[train], x[held_out]) - y[held_out]
            losses[place] += (error**2).mean(axis=0)
    best = losses.argmin(axis=0)
    predicted = np.empty((len(shown), y.shape[1]))
    for place in np.unique(best):
        own = best == place
        predicted[:, own] = predict(alphas[place], x, y[:, own], shown)
    return predicted


def _encode(
    features: _Drawn, brains: Mapping[str, xr.Dataset], parcels: Sequence[str], films: _Films
) -> list[tuple[str, float]]:
    """Parcel and score (Pearson r on the test films) of every target of these parcels in every subject."""
    showings = {name: _showings(brain, features, films) for name, brain in brains.items()}
    if films.study.encode.rows == "common":
        shared = set.intersection(*(set(rows) for rows in showings.values()))
        showings = {name: {row: rows[row] for row in shared} for name, rows in showings.items()}
    groups: dict[tuple[Row, ...], list[str]] = {}
    for name, found in showings.items():
        ordered = sorted(found, key=lambda row: (films.segments.index(row[0]), row[2], row[1]))
        groups.setdefault(tuple(ordered), []).append(name)
    scores: list[tuple[str, float]] = []
    for order, names in groups.items():
        read = [_responses(brains[name], parcels, [showings[name][row] for row in order]) for name in names]
        labels = [parcel for own, _ in read for parcel in own]
        scores += zip(labels, _score(features, order, np.hstack([bold for _, bold in read]), films), strict=True)
    return scores


def _showings(brain: xr.Dataset, features: _Drawn, films: _Films) -> dict[Row, list[int]]:
    """Rows of the brain cube behind each row that has features."""
    seen: dict[tuple[str, int], dict[int, int]] = {}
    labels = [brain[name].values.tolist() for name in ("segment", "repeat", "onset_s")]
    for position, (segment, repeat, onset_s) in enumerate(zip(*labels, strict=True)):
        number = round(onset_s / films.tr_s)
        if (segment, number) in features.place:
            seen.setdefault((segment, int(repeat)), {})[number] = position
    rows: dict[Row, list[int]] = {}
    for segment in films.segments:
        own = {repeat: numbers for (name, repeat), numbers in seen.items() if name == segment}
        if films.study.brain.repeats == "separate":
            rows |= {(segment, n, repeat): [at] for repeat, numbers in own.items() for n, at in numbers.items()}
        else:
            everywhere = set.intersection(*(set(numbers) for numbers in own.values()))
            rows |= {(segment, n, 0): [numbers[n] for numbers in own.values()] for n in everywhere}
    return rows


def _responses(
    brain: xr.Dataset, parcels: Sequence[str], showings: Sequence[Sequence[int]]
) -> tuple[list[str], np.ndarray]:
    """Parcel of each target of these parcels, and its responses (row, target), the mean of each row's showings."""
    inside = np.flatnonzero(_inside(brain, parcels))
    bold = brain["bold"].isel(target=inside).transpose("time", "target").values.astype(np.float64)
    rows = np.array([bold[positions].mean(axis=0) for positions in showings])
    known = np.isfinite(rows).all(axis=0)
    return brain["parcel"].values[inside][known].tolist(), rows[:, known]


def _score(features: _Drawn, order: Sequence[Row], responses: np.ndarray, films: _Films) -> list[float]:
    """Pearson r of each target (row, target) on the test films."""
    from scipy.stats import pearsonr
    from sklearn.preprocessing import StandardScaler

    train = np.array([segment in films.train_segments for segment, _, _ in order])
    fitted = [(segment, number) for segment, number, _ in order if segment in films.train_segments]
    scaler = StandardScaler().fit(features.values[sorted({features.place[moment] for moment in fitted})])
    design = _delayed(scaler.transform(features.values), features.place, order, films.study.encode.delays)
    folds = films.folds(fitted, _last(features), max_delay=max(films.study.encode.delays))
    predicted = _ridge(design[train], responses[train], design[~train], folds, films.alphas)
    pairs = zip(predicted.T, responses[~train].T, strict=True)
    return [float(pearsonr(mine, theirs).statistic) for mine, theirs in pairs]


def _delayed(
    features: np.ndarray, place: Mapping[Moment, int], order: Sequence[Row], delays: Sequence[int]
) -> np.ndarray:
    """Features as they were so many TRs ago in the same segment, zeros before it begins, (row, delay x dim)."""
    nothing = np.zeros(features.shape[1])
    design = []
    for segment, number, _ in order:
        past = [place.get((segment, number - delay)) for delay in delays]
        design.append(np.concatenate([nothing if row is None else features[row] for row in past]))
    return np.array(design)
