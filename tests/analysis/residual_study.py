"""A small study for the residual analysis: one stream that follows another in part, and responses to both parts."""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import write_cube, write_feature_cube
from cinecube.store.cube.schema import Stream, feature_template, provenance, rows_index, string_coordinate
from cinecube.store.params.document import Study, parse

TR_S = 1.49
FILMS = {film: [f"{film}1", f"{film}2"] for film in ("amber", "birch", "cedar", "dune")}
TRAIN, TEST = ["amber", "birch", "cedar"], ["dune"]
SEGMENTS = [segment for names in FILMS.values() for segment in names]
SUBJECTS = ("sub-01", "sub-02")
VIDEO, CONCAT, EYES = "bind.video", "bind.concat", "eyes"
ALPHAS = {"min": 0.1, "max": 1e4, "n": 11}
# `bind` has blocks up to 4, of which two are kept; its heads stand side by side in a stream of their own.
STREAMS = {
    "bind": [
        Stream(VIDEO, ["embed", "block02", "head"], [12, 12, 8], n_blocks=4),
        Stream(CONCAT, ["head"], [16], n_blocks=4),
    ],
    "eyes": [Stream(EYES, ["embed", "block01", "block02"], [10, 10, 10])],
}
LICENCES = {"bind": "cc-by-nc-4.0", "eyes": "mit"}
# Parcel -> what of the concatenation it follows, and how many rows late.
PARCELS = {"L_V1": ("shared", 2), "L_7m": ("own", 3), "R_45": ("own", 4), "R_4": (None, 0)}
TARGETS_PER_PARCEL = 6


@dataclass
class Planted:
    """How a study departs from the plain one."""

    rows: int = 50
    scramble: tuple[str, ...] = ()  # films whose features have other values
    reverse: tuple[str, ...] = ()  # models whose segments stand the other way round in their cubes
    cut: Mapping[tuple[str, str], int] = field(default_factory=dict)  # (model, segment) -> rows cut at its end
    licences: Mapping[str, str] = field(default_factory=lambda: LICENCES)


def make_study(*pairs: dict[str, Any], **changes: Any) -> Study:
    """The study of these cubes; three folds are a film each."""
    raw = {
        "study": "residual",
        "clock": {"tr_s": TR_S, "window_s": TR_S},
        "stimuli": "data/stimuli",
        "films": FILMS,
        "split": {"train": TRAIN, "test": TEST, "gap_s": 4},
        "models": {name: {"extractor": "vit", "checkpoint": f"data/weights/{name}"} for name in STREAMS},
        "compute": {"models": list(STREAMS), "films": list(FILMS)},
        "brain": {"path": "data/scans", "subjects": list(SUBJECTS), "repeats": changes.pop("repeats", "average")},
        "residual": list(pairs) or [{"keep": CONCAT, "remove": EYES}],
        "rois": "oota2025",
        "encode": {"alphas": ALPHAS, "folds": 3, "targets_per_block": 30, **changes},
    }
    return parse(Study, raw, "params.yaml")


def draw(rows: int = 50, seed: int = 3) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """Features (row, dim) by stream and layer, then by segment; half of `bind` is a mixture of `eyes`."""
    rng = np.random.default_rng(seed)

    def fresh(width: int) -> dict[str, np.ndarray]:
        return {segment: rng.standard_normal((rows, width)) for segment in SEGMENTS}

    drawn = {(EYES, layer): fresh(10) for layer in STREAMS["eyes"][0].layers}
    for place, layer in enumerate(STREAMS["bind"][0].layers):
        width, own = STREAMS["bind"][0].widths[place], fresh(STREAMS["bind"][0].widths[place])
        mixing = rng.standard_normal((10, width)) / np.sqrt(10)
        seen = drawn[EYES, STREAMS["eyes"][0].layers[place]]
        drawn[VIDEO, layer] = {name: 5 + own[name] + seen[name] @ mixing for name in SEGMENTS}
    own = fresh(8)
    drawn[CONCAT, "head"] = {name: np.hstack([drawn[VIDEO, "head"][name], own[name]]) for name in SEGMENTS}
    return drawn


def write_features(root: Path, planted: Planted | None = None, networks: Collection[str] = tuple(STREAMS)) -> None:
    """Feature cubes of both networks, or of some."""
    planted = planted or Planted()
    drawn, other = draw(planted.rows), draw(planted.rows, seed=4)
    for network, streams in ((name, STREAMS[name]) for name in networks):
        for film, names in FILMS.items():
            values = other if film in planted.scramble else drawn
            order = names[::-1] if network in planted.reverse else names
            lengths = {name: planted.rows - planted.cut.get((network, name), 0) for name in order}
            rows = rows_index({name: np.round(np.arange(length) * TR_S, 6) for name, length in lengths.items()})
            spec = {"model": network, "stimulus": {"film": film, "scrambled": film in planted.scramble}}
            licence = {"licence": planted.licences[network]} if network in planted.licences else {}
            attrs = provenance("features", spec, ["numpy"], **licence)
            template = feature_template(rows, TR_S, streams, "float32", attrs)
            labels = template["layer"].values

            def read(m: int, k: int, values=values, lengths=lengths, labels=labels, streams=streams) -> np.ndarray:
                found = values[streams[m].name, labels[k]]
                return np.concatenate([found[name][:length] for name, length in lengths.items()]).astype(np.float32)

            write_feature_cube(StudyPaths(root).features(network, film), template, read)


def write_brains(root: Path, noise: float = 0.5) -> None:
    """Brain cubes: responses that follow the heads' shared or own dims; the test film is shown twice."""
    drawn, weights = draw()[CONCAT, "head"], np.random.default_rng(5)
    mixing = {name: weights.standard_normal((8, TARGETS_PER_PARCEL)) / np.sqrt(8) for name in PARCELS}
    for number, subject in enumerate(SUBJECTS):
        rng = np.random.default_rng(50 + number)
        showings = [(name, repeat) for name in SEGMENTS for repeat in (1, 2)[: 2 if name in FILMS["dune"] else 1]]
        # Scans end at different rows, so that rows have to be found by their labels.
        bold = [_respond(drawn[name], mixing, noise, rng)[: 49 - number] for name, _ in showings]
        lengths = [len(part) for part in bold]
        labels = {
            "segment": string_coordinate(np.repeat([name for name, _ in showings], lengths)),
            "repeat": np.repeat([repeat for _, repeat in showings], lengths),
            "session": string_coordinate(["001"] * sum(lengths)),
            "onset_s": np.concatenate([np.round(np.arange(length) * TR_S, 6) for length in lengths]),
        }
        write_cube(StudyPaths(root).brain(subject), _brain_cube(np.concatenate(bold), labels, subject))


def _respond(head: np.ndarray, mixing: Mapping[str, np.ndarray], noise: float, rng: np.random.Generator) -> np.ndarray:
    bold = noise * rng.standard_normal((len(head), len(PARCELS) * TARGETS_PER_PARCEL))
    for place, (parcel, (part, delay)) in enumerate(PARCELS.items()):
        if part is not None:
            dims = head[:, :8] if part == "shared" else head[:, 8:]
            signal = (dims - dims.mean(axis=0)) @ mixing[parcel]
            bold[delay:, place * TARGETS_PER_PARCEL : (place + 1) * TARGETS_PER_PARCEL] += signal[: len(head) - delay]
    return (bold - bold.mean(axis=0)) / bold.std(axis=0)


def _brain_cube(bold: np.ndarray, labels: Mapping[str, np.ndarray], subject: str) -> xr.Dataset:
    parcel = [name for name in PARCELS for _ in range(TARGETS_PER_PARCEL)]
    place = np.arange(len(parcel))
    attrs = provenance(
        "brain",
        {"subject": subject},
        ["numpy"],
        space="MNI",
        targets="voxels",
        tr_s=TR_S,
        affine=json.dumps(np.eye(4).tolist()),
        shape=json.dumps([10, 10, 10]),
    )
    return xr.Dataset(
        {"bold": (("time", "target"), bold.astype(np.float32))},
        coords={
            **{name: ("time", values) for name, values in labels.items()},
            "target": 100 + place,
            "hemi": ("target", string_coordinate([name[0] for name in parcel])),
            "parcel": ("target", string_coordinate(parcel)),
            **{f"{axis}_mm": ("target", place.astype(float)) for axis in "xyz"},
        },
        attrs=attrs,
    )


def write_truth(root: Path) -> None:
    """`truth.json`, and drawn features that are those of the cubes."""
    paths, drawn = StudyPaths(root), draw()
    sources = {"shared": VIDEO, "own": CONCAT}
    parcels = {
        name: {"sources": [{"model": sources[part], "layer": "head", "share": 1.0}] if part else [], "delay_tr": delay}
        for name, (part, delay) in PARCELS.items()
    }
    paths.truth.parent.mkdir(parents=True, exist_ok=True)
    paths.truth.write_text(json.dumps({"parcels": parcels, "tr_s": TR_S}), encoding="utf-8")
    counts = [len(drawn[EYES, "embed"][name]) for name in SEGMENTS]
    coords: dict[str, Any] = {
        "segment": ("row", string_coordinate(np.repeat(SEGMENTS, counts))),
        "onset_s": ("row", np.concatenate([np.round(np.arange(n) * TR_S, 6) for n in counts])),
    }
    variables = {}
    for stream in (stream for streams in STREAMS.values() for stream in streams):
        axes = (f"{stream.name}.layer", f"{stream.name}.dim")
        values = np.full((sum(counts), len(stream.layers), max(stream.widths)), np.nan, np.float32)
        for place, (layer, width) in enumerate(zip(stream.layers, stream.widths, strict=True)):
            values[:, place, :width] = np.concatenate([drawn[stream.name, layer][name] for name in SEGMENTS])
        variables[stream.name] = (("row", *axes), values)
        coords |= {axes[0]: string_coordinate(stream.layers), axes[1]: np.arange(max(stream.widths))}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        xr.Dataset(variables, coords=coords, attrs={"tr_s": TR_S}).to_zarr(paths.drawn_features, zarr_format=3)
