"""Planted signals beside what was found, for a simulated study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from cinecube.analysis.cubes import tables
from cinecube.store.base.errors import StudyError
from cinecube.store.base.input_files import read_json
from cinecube.store.base.labels import HEAD, layer_label
from cinecube.store.base.paths import StudyPaths
from cinecube.store.clock.clock import match_onsets
from cinecube.store.cube.cubes import open_cube
from cinecube.store.cube.plain_zarr import open_plain
from cinecube.store.params.document import Study

Source = tuple[str, str]
"""A label of the `model` axis and one of its layers."""

# A network's stream that puts the heads of two others side by side.
_CONCAT, _PARTS = "concat", ("video", "audio")


@dataclass(frozen=True)
class Planted:
    """The signal that one parcel follows.

    Attributes
    ----------
    sources : tuple of (model, layer)
        Empty for an idle parcel.
    delay : float
        Haemodynamic delay in TRs; NaN for an idle parcel.
    ceiling : float
        The best score that noise allows on the test films, mean over subjects; NaN if it is not known.
    """

    sources: tuple[Source, ...]
    delay: float
    ceiling: float


@dataclass(frozen=True)
class Comparison:
    """The truth beside the findings.

    Attributes
    ----------
    table : DataFrame
        One row per parcel.
    flags : dict of str to str
        Columns of `table` that say yes or no, and what yes means.
    agreement : DataFrame
        Per model and layer, how features of decoded films agree with those of the drawn ones.
    planted : dict of str to tuple of (model, layer)
        Sources of each driven parcel.
    metrics : dict of str to float
        What `metrics.json` carries under `truth`.
    summary : str
        The metrics in words.
    """

    table: pd.DataFrame
    flags: dict[str, str]
    agreement: pd.DataFrame
    planted: dict[str, tuple[Source, ...]]
    metrics: dict[str, float]
    summary: str


# A damaged output is not what DVC recorded, so its stage runs again.
_ANEW = "run `dvc repro`, which makes it anew"
_AGREEMENT = ("model", "layer", "correlation")
NO_SCORE = "no score"
"""In the column `found`: of a parcel in which nothing could be scored."""
FLAGS = {
    "layer_found": "the best model and layer over all subjects is a planted one, or contains it",
    "delay_found": "the best single delay is the planted one",
}


def compare_study(study: Study, root: Path) -> Comparison | None:
    """Compare a study's tables and feature cubes with its truth; None if it was not simulated.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.

    Returns
    -------
    Comparison or None

    Raises
    ------
    StudyError
        If a feature cube is missing.
    """
    paths = StudyPaths(root)
    if not paths.truth.is_file():
        return None
    raw = planted_truth(paths)
    averaged = study.brain.repeats == "average" and set(study.split.test) <= set(raw.get("repeated", ()))
    planted = read_truth(raw, "ceiling" if averaged else "ceiling_one_showing")
    layers = tables.read_table(paths.tables / "layerwise.csv", *tables.LAYER_COLUMNS)
    agreement = pd.DataFrame(columns=_AGREEMENT)
    if paths.drawn_features.exists():
        with open_plain(paths.drawn_features) as drawn:
            agreement = pd.concat(
                network_agreement([open_cube(paths.features(network, film)) for film in study.compute.films], drawn)
                for network in study.compute.models
            )
    lags = tables.read_table(paths.tables / "lag.csv", "parcel", "model", "lag")
    # Networks that nothing was drawn for, whose table is empty, make objects of numbers.
    return compare_planted(planted, layers, lags, agreement.astype({"correlation": float}))


def planted_truth(paths: StudyPaths) -> dict[str, Any]:
    """Contents of `truth.json`.

    Raises
    ------
    StudyError
        If it is damaged.
    """
    raw = read_json(paths.truth, "what was planted", _ANEW)
    entries = raw.get("parcels")
    whole = isinstance(entries, dict) and all(
        isinstance(entry, dict)
        and isinstance(entry.get("sources"), list)
        and all(isinstance(source, dict) and {"model", "layer"} <= source.keys() for source in entry["sources"])
        and (not entry["sources"] or isinstance(entry.get("delay_tr"), int | float))
        for entry in entries.values()
    )
    if not whole:
        where, expected = str(paths.truth), "parcels with their sources and delays"
        raise StudyError(where=where, found="no such parcels", expected=expected, do=_ANEW)
    return raw


def read_truth(raw: Mapping[str, Any], ceiling: str = "ceiling") -> dict[str, Planted]:
    """The part of `truth.json` that findings are compared with, by parcel; `ceiling` names which of its ceilings.

    Parameters
    ----------
    raw : Mapping
        `truth.json`.
    ceiling : str
        `ceiling` or `ceiling_one_showing`.

    Returns
    -------
    dict of str to Planted
        By parcel.
    """
    planted = {}
    for parcel, entry in raw["parcels"].items():
        sources = tuple((str(source["model"]), _label(source["layer"])) for source in entry["sources"])
        ceilings = list(entry.get(ceiling, {}).values())
        planted[parcel] = Planted(
            sources,
            float(entry["delay_tr"]) if sources else np.nan,
            float(np.mean(ceilings)) if sources and ceilings else np.nan,
        )
    return planted


def _label(layer: int | str) -> str:
    return layer_label(layer) if isinstance(layer, int) else layer


def compare_planted(
    planted: Mapping[str, Planted], layers: pd.DataFrame, lags: pd.DataFrame, agreement: pd.DataFrame
) -> Comparison:
    """Compare findings with the truth.

    Parameters
    ----------
    planted : Mapping of str to Planted
        By parcel.
    layers : DataFrame
        From `layer_table`.
    lags : DataFrame
        From `best_lags`.
    agreement : DataFrame
        Columns `model`, `layer`, `correlation`.

    Returns
    -------
    Comparison
        Models and layers are chosen by the training films; the scores shown are those of the test films.
    """
    order = _layer_order(layers)
    best = tables.preferred_layers(layers)
    best = best[best["best_model"] & best["parcel"].isin(planted)]
    known = lags[lags["lag"].notna()]
    lag_of = {(str(row["parcel"]), str(row["model"])): int(row["lag"]) for row in known.to_dict("records")}
    here = {name: truth for name, truth in planted.items() if (layers["parcel"] == name).any()}
    table = pd.DataFrame([_parcel_row(name, truth, best, lag_of, order) for name, truth in here.items()])
    metrics = _metrics(table, planted, order)
    if len(agreement):
        metrics["feature_agreement"] = float(agreement["correlation"].min())
    sources = {parcel: truth.sources for parcel, truth in planted.items() if truth.sources}
    return Comparison(table, FLAGS, agreement, sources, metrics, _summary(table, metrics))


def _layer_order(layers: pd.DataFrame) -> dict[str, list[str]]:
    """Layers of each model by depth."""
    known = layers[["model", "depth", "layer"]].drop_duplicates().sort_values(["model", "depth", "layer"])
    return {str(model): list(part["layer"]) for model, part in known.groupby("model")}


def containing(source: Source) -> list[Source]:
    """A source and what contains it: heads of two streams side by side hold all that either of them says."""
    model, layer = source
    network, _, part = model.rpartition(".")
    if layer == HEAD and part in _PARTS:
        return [source, (f"{network}.{_CONCAT}", layer)]
    return [source]


def counts_as_found(found: Source, sources: Sequence[Source]) -> bool:
    """True if a model and layer is a planted one, or contains one.

    Parameters
    ----------
    found : Source
    sources : sequence of Source
        The planted ones.

    Returns
    -------
    bool
    """
    return any(found in containing(source) for source in sources)


def counts_as_next(found: Source, sources: Sequence[Source], order: Mapping[str, Sequence[str]]) -> bool:
    """True if a model and layer is a planted one or contains one, or is the next layer of the same model.

    Parameters
    ----------
    found : Source
    sources : sequence of Source
        The planted ones.
    order : Mapping of str to sequence of str
        Stream -> its layers, from input to output.

    Returns
    -------
    bool
    """
    return any(
        model == found[0] and abs(order[model].index(layer) - order[model].index(found[1])) <= 1
        for source in sources
        for model, layer in containing(source)
        if model in order and layer in order[model]
    )


def _parcel_row(
    parcel: str,
    truth: Planted,
    best: pd.DataFrame,
    lag_of: Mapping[tuple[str, str], int],
    order: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """One parcel's truth and findings; NaN where the parcel has no score, so that nothing was found."""
    own = best[best["parcel"] == parcel]
    together = own[own["subject"] == tables.EVERYONE]
    row = {
        "parcel": parcel,
        "planted": _sources_text(truth),
        "found": NO_SCORE,
        **dict.fromkeys(("layer_found", "subjects_found_or_next"), np.nan),
        "planted_delay_tr": truth.delay,
        **dict.fromkeys(("found_delay_tr", "delay_found", "score"), np.nan),
        "ceiling": truth.ceiling,
    }
    if together.empty:
        return row
    winner = together.iloc[0]
    found = (str(winner["model"]), str(winner["layer"]))
    each = own[own["subject"] != tables.EVERYONE]
    sources = zip(each["model"].astype(str), each["layer"].astype(str), strict=True)
    near = [counts_as_next(source, truth.sources, order) for source in sources]
    delay = lag_of.get((parcel, found[0]))
    row |= {"found": " ".join(found), "score": float(winner["score"])}
    if truth.sources:
        row |= {
            "layer_found": counts_as_found(found, truth.sources),
            "subjects_found_or_next": float(np.mean(near)),
            "found_delay_tr": np.nan if delay is None else float(delay),
            "delay_found": delay == truth.delay,
        }
    return row


def _sources_text(truth: Planted) -> str:
    return " + ".join(" ".join(source) for source in truth.sources) or "nothing"


def _metrics(
    table: pd.DataFrame, planted: Mapping[str, Planted], order: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    driven = table[table["planted"] != "nothing"]
    idle = table[table["planted"] == "nothing"]
    every = [(model, layer) for model, labels in order.items() for layer in labels]
    counting = [
        np.mean([counts_as_next(guess, planted[parcel].sources, order) for guess in every])
        for parcel in driven["parcel"]
    ]
    errors = (driven["found_delay_tr"] - driven["planted_delay_tr"]).abs()
    metrics = {
        "layer_found": driven["layer_found"].astype(float).mean(),
        "layer_found_or_next": driven["subjects_found_or_next"].mean(),
        "layer_chance": np.mean(counting) if counting else np.nan,
        "delay_error": errors.mean(),
        "idle_score": idle["score"].abs().max(),
    }
    return {name: float(value) for name, value in metrics.items() if np.isfinite(value)}


def _summary(table: pd.DataFrame, metrics: Mapping[str, float]) -> str:
    unscored = int((table["found"] == NO_SCORE).sum()) if len(table) else 0
    table = table[table["found"] != NO_SCORE] if len(table) else table
    driven = int((table["planted"] != "nothing").sum())
    found = metrics.get("layer_found", np.nan)
    return (f"{unscored} parcels have no score, and are left out here. " if unscored else "") + (
        f"Of {driven} driven parcels, {found:.0%} show the planted model and layer as their best (mean over targets "
        f"and subjects, chosen on the training films). Parcel by parcel and subject by subject, "
        f"{metrics.get('layer_found_or_next', np.nan):.0%} show it or the next layer of that model, where a guess "
        f"would in {metrics.get('layer_chance', np.nan):.0%}. The best single delay is off by "
        f"{metrics.get('delay_error', np.nan):.2f} TR on average. Of {len(table) - driven} parcels that follow "
        f"nothing, the largest mean score is {metrics.get('idle_score', np.nan):.3f} from zero."
    )


def network_agreement(cubes: Sequence[xr.Dataset], drawn: xr.Dataset) -> pd.DataFrame:
    """Agreement of a network's decoded features with the drawn ones, stream by stream.

    Parameters
    ----------
    cubes : sequence of Dataset
        Its feature cubes, one per film.
    drawn : Dataset
        Drawn features, one variable per stream.

    Returns
    -------
    DataFrame
        Columns `model`, `layer`, `correlation`; empty if none of its streams was drawn, as of an untrained twin.
    """
    streams = [str(stream) for stream in cubes[0]["model"].values if stream in drawn]
    found = [
        feature_agreement([cube.sel(model=stream) for cube in cubes], drawn_stream(drawn, stream)).assign(model=stream)
        for stream in streams
    ]
    return pd.concat(found)[list(_AGREEMENT)] if found else pd.DataFrame(columns=_AGREEMENT)


def drawn_stream(drawn: xr.Dataset, stream: str) -> xr.DataArray:
    """Drawn features of a stream, (row, layer, dim); on disk each has layers and dims of its own.

    Parameters
    ----------
    drawn : Dataset
        The drawn features.
    stream : str

    Returns
    -------
    DataArray (row, layer, dim)
    """
    return drawn[stream].rename({f"{stream}.layer": "layer", f"{stream}.dim": "dim"})


def feature_agreement(cubes: Sequence[xr.Dataset], drawn: xr.DataArray) -> pd.DataFrame:
    """Correlation of decoded and drawn features over rows, mean over dims, per layer.

    Parameters
    ----------
    cubes : sequence of Dataset
        Feature cubes of one stream, one per film, without `model` axis.
    drawn : DataArray, dims (row, layer, dim)
        Features of the frames and sound as drawn, with `segment` and `onset_s` on row; past a layer's width NaN.

    Returns
    -------
    DataFrame
        Columns `layer`, `correlation`; rows are matched by segment and onset, and all of them count.
    """
    rows = [_matched(cube, drawn) for cube in cubes]
    truth = drawn.transpose("row", "layer", "dim").values
    widths = cubes[0]["width"].to_series()
    found = []
    for d, label in enumerate(drawn["layer"].values):
        layer, width = str(label), int(widths.get(label, 0))
        if not width:
            continue
        decoded = [
            cube["features"].isel(dim=slice(0, width)).sel(layer=layer).transpose("time", "dim").values[own]
            for cube, (own, _) in zip(cubes, rows, strict=True)
        ]
        other = truth[np.concatenate([theirs for _, theirs in rows]), d, :width]
        found.append({"layer": layer, "correlation": _mean_correlation(np.concatenate(decoded), other)})
    return pd.DataFrame(found)


def _matched(cube: xr.Dataset, drawn: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of rows that a cube and the drawn features share, in each."""
    own, theirs = [], []
    for segment in dict.fromkeys(cube["segment"].values):
        here = np.flatnonzero(cube["segment"].values == segment)
        there = np.flatnonzero(drawn["segment"].values == segment)
        index = match_onsets(cube["onset_s"].values[here], drawn["onset_s"].values[there])
        own.append(here[index >= 0])
        theirs.append(there[index[index >= 0]])
    return np.concatenate(own), np.concatenate(theirs)


def _mean_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over dims of the correlation over rows; dims that are constant in both say nothing."""
    from cinecube.analysis.ridge.scores import pearson

    told = (np.ptp(a, axis=0) > 0) | (np.ptp(b, axis=0) > 0)
    return float(np.nan_to_num(pearson(a[:, told], b[:, told])).mean()) if told.any() else float("nan")
