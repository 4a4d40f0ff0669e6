"""The residual analysis of a simulated study once more, by plain fits of the truth's own features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from cinecube.analysis.cubes.results import find_stream
from cinecube.analysis.truth.plain_fits import Features, PlainFits, Row, mean_showings, read_drawn
from cinecube.analysis.truth.planted import planted_truth
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import open_cube
from cinecube.store.cube.plain_zarr import open_plain
from cinecube.store.params.analysis_params import Pair
from cinecube.store.params.document import Study


def residual_oracle(study: Study, root: Path) -> pd.DataFrame | None:
    """Repeat the residual analysis for the parcels that follow the model kept; None if the study was not simulated.

    Every pair is judged at one layer: that with the highest mean `cv_score` of the pipeline over these parcels' targets
    in all subjects.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder, with its truth, brain cubes, and score cubes before and after the removals.

    Returns
    -------
    DataFrame or None
        A row per pair and parcel: `pair`, `layer`, `parcel`; `oracle_full`, `oracle_residual`, mean r on the test films
        over targets and subjects; `full`, `residual`, the pipeline's.

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
    return pd.concat(parts, ignore_index=True) if parts else None


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
    features = {
        "kept": read_drawn(drawn, pair.keep, [layer]),
        "removed": read_drawn(drawn, pair.remove, None if pair.layers == "all" else pair.layers),
    }
    window_s = float(open_cube(paths.features(owner, study.split.train[0]))["window_s"].values[0])
    fits = PlainFits(study, features, float(drawn.attrs["tr_s"]), window_s)
    brains = {name: open_cube(paths.brain(name), where=f"{name} brain cube") for name in study.brain.subjects}
    if pair.keep not in before:
        before[pair.keep] = _parcel_means(_encode(fits, "kept", brains, parcels), parcels)
    fits = replace(fits, features={"rest": _rest(fits)})
    return pd.DataFrame(
        {
            "pair": pair.name,
            "layer": layer,
            "parcel": list(parcels),
            "oracle_full": before[pair.keep],
            "oracle_residual": _parcel_means(_encode(fits, "rest", brains, parcels), parcels),
            "full": _parcel_means(_scores_at(own, layer), parcels),
            "residual": _parcel_means(_scores_at(left.isel(model=0), layer), parcels),
        }
    )


def _chosen_layer(scores: xr.Dataset, parcels: Sequence[str]) -> str:
    """The layer with the highest mean `cv_score` over the targets of these parcels in all subjects."""
    inside = scores["cv_score"].isel(target=_inside(scores, parcels))
    means = inside.astype(np.float64).mean(("subject", "target")).to_series().fillna(-np.inf)
    return str(means.idxmax())


def _scores_at(scores: xr.Dataset, layer: str) -> list[tuple[str, float]]:
    """Parcel and test score of every target in every subject."""
    found = scores["score"].sel(layer=layer).transpose("target", "subject").values
    return [(str(parcel), r) for parcel, own in zip(scores["parcel"].values, found, strict=True) for r in own]


def _inside(cube: xr.Dataset, parcels: Sequence[str]) -> np.ndarray:
    """Positions of targets in one of these parcels."""
    return np.flatnonzero([str(name) in parcels for name in cube["parcel"].values])


def _parcel_means(scores: Sequence[tuple[str, float]], parcels: Sequence[str]) -> list[float]:
    """Mean of each parcel's scores (parcel, r), of all subjects' targets."""
    known = pd.DataFrame(scores, columns=["parcel", "r"]).dropna().groupby("parcel")["r"].mean()
    return [float(known.get(parcel, np.nan)) for parcel in parcels]


def _rest(fits: PlainFits) -> Features:
    """The rest of the kept features without what the removed ones explain, both standardised on the training films."""
    rows: list[Row] = [(name, number, 0) for name, length in fits.length.items() for number in range(length)]
    kept, removed = (fits.design(name, rows, [0]) for name in ("kept", "removed"))
    train = fits.is_train(rows)
    kernel = removed @ removed[train].T
    _, predicted = fits.fit(kernel[train], kernel, kept[train], fits.folds(rows, [0]))
    ends = np.cumsum(list(fits.length.values()))[:-1]
    return dict(zip(fits.length, np.split(kept - predicted, ends), strict=True))


def _encode(
    fits: PlainFits, stream: str, brains: Mapping[str, xr.Dataset], parcels: Sequence[str]
) -> list[tuple[str, float]]:
    """Parcel and test score of every target of these parcels that is known in all rows, in every subject."""
    from scipy.stats import pearsonr

    delays, scores = fits.study.encode.delays, list[tuple[str, float]]()
    for order, showings in fits.groups(brains):
        labels, read = list[str](), []
        for name, rows in showings.items():
            inside = _inside(brains[name], parcels)
            bold = mean_showings(brains[name], inside, rows)
            known = np.isfinite(bold).all(axis=0)
            labels += brains[name]["parcel"].values[inside][known].tolist()
            read.append(bold[:, known])
        train, design, responses = fits.is_train(order), fits.design(stream, order, delays), np.hstack(read)
        kernel = design @ design[train].T
        _, predicted = fits.fit(kernel[train], kernel[~train], responses[train], fits.folds(order, delays))
        pairs = zip(labels, predicted.T, responses[~train].T, strict=True)
        scores += [(label, float(pearsonr(mine, theirs).statistic)) for label, mine, theirs in pairs]
    return scores
