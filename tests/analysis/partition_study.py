"""A small study on disk: three streams of two models, and brains whose parcels follow one, two or all of them."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from cinecube.analysis.encoders.stage import encode
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import open_cube, write_cube, write_feature_cube
from cinecube.store.cube.schema import Stream, feature_template, provenance, rows_index, string_coordinate
from cinecube.store.params.document import Study, parse

TR_S = 1.5
FILMS = {film: [f"{film}01", f"{film}02"] for film in ("amber", "birch", "cedar", "dune")}
SEGMENTS = [segment for names in FILMS.values() for segment in names]
STREAMS = {
    "duo": [Stream("duo.sight", ["embed", "block01", "head"], [7, 7, 4]), Stream("duo.sound", ["head"], [5])],
    "solo": [Stream("solo", ["embed", "block01"], [6, 6])],
}
CHOSEN = {"duo.sight": "block01", "duo.sound": "head", "solo": "block01"}
# What a parcel's targets follow, and with what weight; every stream also knows what is common to all.
PARCELS = {
    "L_V1": {"duo.sight": 1.0},
    "R_A1": {"duo.sound": 1.0},
    "L_TPOJ2": {"solo": 1.0},
    "R_TPOJ2": {"common": 1.0},
    "L_45": {"duo.sight": 0.7, "solo": 0.7},
    "R_4": {},
}
N_TARGETS, DELAY = 3, 2
SETS = [["duo.sight", "solo"], ["duo.sound", "duo.sight", "solo"]]
PAIR = SETS[:1]


@dataclass(frozen=True)
class Made:
    """How cubes depart from the plain ones."""

    rows: int = 40
    scramble_test: bool = False
    atlas: bool = True
    swap: str = ""  # a model whose cubes hold their segments in reverse order
    short: str = ""  # a model whose cubes lack a row at the front of each segment
    cut: int = 0  # rows that the second subject lacks at the end of each segment
    constant: bool = False


def make_study(sets: Sequence[Sequence[str]] = SETS, **changes: Any) -> Study:
    encode = {"targets_per_block": 10, "delays": [1, 2, 3], "alphas": {"min": 1, "max": 1e5, "n": 8}}
    raw = {
        "study": "small",
        "clock": {"tr_s": TR_S, "window_s": TR_S},
        "stimuli": "data/stimuli",
        "films": FILMS,
        "split": {"train": ["amber", "birch", "cedar"], "test": ["dune"], "gap_s": 3},
        "models": {name: {"extractor": "vit", "checkpoint": "data/weights"} for name in STREAMS},
        "compute": {"models": list(STREAMS), "films": list(FILMS)},
        "brain": {"path": "data/scans", "subjects": ["sub-01", "sub-02"]},
        "partition": sets,
        "rois": "oota2025",
        "encode": encode | changes,
    }
    return parse(Study, raw, "params.yaml")


def write_study(root: Path, made: Made) -> None:
    """Write feature and brain cubes under `root`."""
    latent = _latent(made)
    features = {model: _features(model, latent) for model in STREAMS}
    for model, film in itertools.product(STREAMS, FILMS):
        _write_features(root, model, film, features[model], made)
    for number, subject in enumerate(("sub-01", "sub-02")):
        _write_brain(root, subject, latent, made, made.cut * number)


def _latent(made: Made) -> dict[str, np.ndarray]:
    """What each stream alone and all of them know, (row, stream or common, dim) by segment."""
    rng = np.random.default_rng(5)
    return {segment: rng.normal(size=(made.rows, 4, 3)) for segment in SEGMENTS}


def _features(model: str, latent: dict[str, np.ndarray]) -> dict[tuple[str, int, str], np.ndarray]:
    """Layers (row, dim) by segment and stream: the chosen one is what responses follow, others are noisier."""
    found = {}
    for m, stream in enumerate(STREAMS[model]):
        own = list(CHOSEN).index(stream.name)
        for layer, width in zip(stream.layers, stream.widths, strict=True):
            rng = np.random.default_rng([own, len(layer), width])
            mixing, noise = rng.normal(size=(6, width)), 0.3 if layer == CHOSEN[stream.name] else 2.0
            for segment, known in latent.items():
                both = np.concatenate([known[:, own], known[:, 3]], axis=1)
                values = both @ mixing + noise * rng.normal(size=(len(both), width)) + 3
                found[segment, m, layer] = values.astype(np.float32)
    return found


def _write_features(root: Path, model: str, film: str, features: dict[Any, np.ndarray], made: Made) -> None:
    order = FILMS[film][::-1] if model == made.swap else FILMS[film]
    first = int(model == made.short)
    onset_s = np.round(np.arange(first, made.rows) * TR_S, 6)
    rows = rows_index(dict.fromkeys(order, onset_s))
    attrs = provenance("features", {"model": model, "stimulus": film}, [])
    template = feature_template(rows, TR_S, STREAMS[model], "float32", attrs)
    layers = [str(layer) for layer in template["layer"].values]
    write_feature_cube(
        StudyPaths(root).features(model, film),
        template,
        lambda m, k: np.concatenate([features[segment, m, layers[k]][first:] for segment in order]),
    )


def _write_brain(root: Path, subject: str, latent: dict[str, np.ndarray], made: Made, cut: int) -> None:
    rng, weights = np.random.default_rng([len(subject), ord(subject[-1])]), np.random.default_rng(9)
    mixing = weights.normal(size=(4, len(PARCELS), 3, N_TARGETS)) / np.sqrt(3)
    bold, labels = [], []
    for segment in SEGMENTS:
        for repeat in (1, 2) if segment.startswith("dune") else (1,):
            values = _respond(latent[segment], mixing) + 0.6 * rng.normal(size=(made.rows, 19))
            if made.scramble_test and segment.startswith("dune"):
                values = rng.permutation(values) ** 3
            values[:, 0] *= not made.constant
            values = values[: made.rows - cut] - values[: made.rows - cut].mean(axis=0)
            bold.append(values)
            labels += [(segment, repeat, round(row * TR_S, 6)) for row in range(len(values))]
    parcel = [name for name in PARCELS for _ in range(N_TARGETS)] + [""]
    segment, repeat, onset_s = zip(*labels, strict=True)
    cube = xr.Dataset(
        {"bold": (("time", "target"), np.concatenate(bold).astype(np.float32))},
        coords={
            "segment": ("time", string_coordinate(segment)),
            "repeat": ("time", np.array(repeat)),
            "onset_s": ("time", np.array(onset_s)),
            "target": 100 + 2 * np.arange(19),
            "hemi": ("target", string_coordinate([name[:1] for name in parcel])),
            "parcel": ("target", string_coordinate(parcel if made.atlas else [""] * 19)),
            **{f"{axis}_mm": ("target", np.arange(19.0)) for axis in "xyz"},
        },
        attrs=provenance("brain", {"subject": subject, "made": repr(made)}, [], space="MNI", tr_s=TR_S),
    )
    # The second subject lacks a target of the last parcel.
    kept = [at for at in range(19) if at != 17 or subject == "sub-01"]
    write_cube(StudyPaths(root).brain(subject), cube.isel(target=kept))


def _respond(latent: np.ndarray, mixing: np.ndarray) -> np.ndarray:
    """Noiseless responses (row, target), parcel after parcel, a target outside the last."""
    signal = np.zeros((len(latent), len(PARCELS), N_TARGETS))
    for p, sources in enumerate(PARCELS.values()):
        for source, weight in sources.items():
            s = [*CHOSEN, "common"].index(source)
            signal[DELAY:, p] += weight * (latent[:, s] @ mixing[s, p])[:-DELAY]
    return np.concatenate([signal.reshape(len(latent), -1), np.zeros((len(latent), 1))], axis=1)


def write_truth(root: Path, made: Made, slip: int = 0, leave_out: str = "") -> None:
    """Write what was planted: the cubes' own features, `slip` rows late, without the stream `leave_out`."""
    latent, segments = _latent(made), sorted(SEGMENTS, reverse=True)
    variables: dict[str, Any] = {}
    coords: dict[str, Any] = {
        "segment": ("row", string_coordinate([name for name in segments for _ in range(made.rows)])),
        "onset_s": ("row", np.round(np.tile(np.arange(made.rows) * TR_S, len(segments)), 6)),
    }
    for model, streams in STREAMS.items():
        features = _features(model, latent)
        for m, stream in enumerate(streams):
            whole = np.full((len(coords["onset_s"][1]), len(stream.layers), max(stream.widths)), np.nan, np.float32)
            for k, (layer, width) in enumerate(zip(stream.layers, stream.widths, strict=True)):
                parts = [np.roll(features[segment, m, layer], slip, axis=0) for segment in segments]
                whole[:, k, :width] = np.concatenate(parts)
            variables[stream.name] = (("row", f"{stream.name}.layer", f"{stream.name}.dim"), whole)
            coords[f"{stream.name}.layer"] = string_coordinate(stream.layers)
    drawn = xr.Dataset(variables, coords).drop_vars(leave_out.split())
    parcels = {
        parcel: {
            "sources": [{"model": stream, "layer": CHOSEN[stream]} for stream in sources if stream in CHOSEN],
            "delay_tr": 1,
        }
        for parcel, sources in PARCELS.items()
    }
    truth = {"tr_s": TR_S, "models": {stream: {"window_s": TR_S} for stream in CHOSEN}, "parcels": parcels}
    paths = StudyPaths(root)
    paths.truth.parent.mkdir(parents=True, exist_ok=True)
    paths.truth.write_text(json.dumps(truth), encoding="utf-8")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        drawn.to_zarr(paths.drawn_features, mode="w", zarr_format=3, consolidated=True)


def scored_studies(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make a study's folder with score cubes, one per departure from the plain study."""
    made: dict[Made, Path] = {}

    def make(**changes: Any) -> Path:
        departure = Made(**changes)
        if departure not in made:
            root = made[departure] = tmp_path_factory.mktemp("study")
            write_study(root, departure)
            if not departure.short:
                for model in STREAMS:
                    encode(make_study(), root, model)
        return made[departure]

    return make


def naive_design(root: Path, stream: str, rows: Sequence[tuple[str, int]]) -> np.ndarray:
    """Rows (segment, number) of a stream's delayed features, standardised by those of the training films."""
    model = stream.split(".")[0]
    known: dict[str, np.ndarray] = {}
    for film, names in FILMS.items():
        cube = open_cube(StudyPaths(root).features(model, film)).sel(model=stream, layer=CHOSEN[stream])
        for name in names:
            values = cube["features"].values[cube["segment"].values == name]
            known[name] = values[:, np.isfinite(values).all(axis=0)].astype(np.float64)
    fit = np.stack([known[segment][row] for segment, row in rows if not segment.startswith("dune")])
    design = []
    for segment, row in rows:
        z = (known[segment] - fit.mean(axis=0)) / fit.std(axis=0)
        design.append(np.concatenate([z[row - d] if row >= d else np.zeros(z.shape[1]) for d in (1, 2, 3)]))
    return np.stack(design)


def naive_responses(root: Path, subject: str, rows: Sequence[tuple[str, int]]) -> np.ndarray:
    cube = open_cube(StudyPaths(root).brain(subject))
    place = pd.MultiIndex.from_arrays([cube["segment"].values, np.round(cube["onset_s"].values / TR_S).astype(int)])
    return np.stack([cube["bold"].values[place == row].mean(axis=0) for row in rows])
