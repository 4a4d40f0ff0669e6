"""A planted study without films: feature and brain cubes whose truth is three lines of arithmetic."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from cinecube.store.base.labels import layer_labels
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import write_cube, write_feature_cube
from cinecube.store.cube.schema import Stream, feature_template, provenance, rows_index, string_coordinate
from cinecube.store.params.document import Study, parse

TR_S = 1.49
MODEL = "net"
FILMS = {film: [f"{film}01", f"{film}02"] for film in ("amber", "birch", "cedar", "dune")}
SEGMENTS = [segment for names in FILMS.values() for segment in names]
N_BLOCKS, WIDTH = 12, 48
# Parcel -> (planted block, delay in TRs); None follows nothing.
PLANTED: dict[str, tuple[int, int] | None] = {
    "L_V1": (0, 3),
    "L_V2": (2, 4),
    "R_A1": (4, 2),
    "R_A4": (6, 5),
    "L_MT": (9, 3),
    "L_FFC": (12, 4),
    "R_44": None,
    "R_45": None,
}
TARGETS_PER_PARCEL = 6
OUTSIDE = 4


@dataclass
class Planted:
    """How a synthetic study departs from the plain one."""

    rows: int = 50
    slip: int = 0  # rows by which features are shifted after the responses were made
    noise: float = 0.7
    subjects: tuple[str, ...] = ("sub-01", "sub-02")
    repeated: tuple[str, ...] = ("dune",)
    missing_rows: dict[tuple[str, str], int] = field(default_factory=dict)  # (subject, segment) -> rows cut at the end
    missing: tuple[tuple[str, str], ...] = ()  # (subject, segment) never scanned
    constant_target: bool = False
    scramble_test: bool = False
    tr_s: float = TR_S
    seed: int = 7
    parcels: dict[str, tuple[int, int] | None] = field(default_factory=lambda: PLANTED)


def make_study(subjects: tuple[str, ...] = ("sub-01", "sub-02"), **encode: Any) -> Study:
    """The study of the synthetic cubes."""
    raw = {
        "study": "synthetic",
        "clock": {"tr_s": TR_S, "window_s": TR_S},
        "stimuli": "data/stimuli",
        "films": FILMS,
        "split": {"train": ["amber", "birch", "cedar"], "test": ["dune"], "gap_s": 4},
        "models": {MODEL: {"extractor": "vit", "checkpoint": "data/weights/net"}},
        "compute": {"models": [MODEL], "films": list(FILMS)},
        "brain": {"path": "data/scans", "subjects": list(subjects)},
        "encode": {"targets_per_block": 60, "alphas": {"min": 1, "max": 1e6, "n": 7}, **encode},
    }
    return parse(Study, raw, "params.yaml")


def draw_layers(n_rows: int, rng: np.random.Generator) -> np.ndarray:
    """Layers (layer, row, dim) of which each keeps part of the one before, as a network's do."""
    layers = [rng.standard_normal((n_rows, WIDTH))]
    for _ in range(N_BLOCKS):
        mixing = rng.standard_normal((WIDTH, WIDTH)) / np.sqrt(WIDTH)
        layers.append(0.6 * np.tanh(layers[-1] @ mixing) + 0.8 * rng.standard_normal((n_rows, WIDTH)))
    return np.stack(layers)


def write_study(root: Path, planted: Planted) -> Path:
    """Write the cubes of a synthetic study under `root`."""
    rng = np.random.default_rng(planted.seed)
    layers = {segment: draw_layers(planted.rows, rng) for segment in SEGMENTS}
    _write_features(root, layers, planted)
    weights = {parcel: rng.standard_normal((WIDTH, TARGETS_PER_PARCEL)) for parcel in planted.parcels}
    for s, subject in enumerate(planted.subjects):
        _write_brain(root, subject, layers, weights, np.random.default_rng(100 + s), planted, s)
    return root


def _write_features(root: Path, layers: dict[str, np.ndarray], planted: Planted) -> None:
    onsets_s = np.round(np.arange(planted.rows) * TR_S, 6)
    stream = Stream(MODEL, layer_labels(N_BLOCKS), [WIDTH] * (N_BLOCKS + 1))
    for film, segments in FILMS.items():
        attrs = provenance("features", {"model": MODEL, "stimulus": film}, ["numpy"])
        rows = rows_index(dict.fromkeys(segments, onsets_s))
        template = feature_template(rows, TR_S, [stream], "float32", attrs)
        slipped = {name: np.roll(layers[name], planted.slip, axis=1) for name in segments}

        def read(m: int, k: int, slipped: dict[str, np.ndarray] = slipped) -> np.ndarray:
            return np.concatenate([values[k] for values in slipped.values()]).astype(np.float32)

        write_feature_cube(StudyPaths(root).features(MODEL, film), template, read)


def respond(
    layers: np.ndarray, weights: dict[str, np.ndarray], parcels: dict[str, tuple[int, int] | None]
) -> np.ndarray:
    """Noiseless responses (row, target) of one segment, parcel after parcel, the outside last."""
    n_rows = layers.shape[1]
    parts = []
    for parcel, source in parcels.items():
        signal = np.zeros((n_rows, TARGETS_PER_PARCEL))
        if source is not None:
            block, delay = source
            signal[delay:] = (layers[block] @ weights[parcel] / np.sqrt(WIDTH))[: n_rows - delay]
        parts.append(signal)
    return np.concatenate([*parts, np.zeros((n_rows, OUTSIDE))], axis=1)


def _write_brain(
    root: Path,
    subject: str,
    layers: dict[str, np.ndarray],
    weights: dict[str, np.ndarray],
    rng: np.random.Generator,
    planted: Planted,
    number: int,
) -> None:
    parts, labels = [], []
    for film, segments in FILMS.items():
        for segment in segments:
            for repeat in range(1, 3 if film in planted.repeated else 2):
                clean = respond(layers[segment], weights, planted.parcels)
                bold = clean + planted.noise * rng.standard_normal(clean.shape)
                if planted.scramble_test and film == "dune":
                    bold = rng.permutation(bold, axis=0) ** 3
                if planted.constant_target:
                    bold[:, 0] = 0
                if (subject, segment) in planted.missing:
                    continue
                bold = bold[: planted.rows - planted.missing_rows.get((subject, segment), 0)]
                spread = bold.std(axis=0)
                parts.append((bold - bold.mean(axis=0)) / np.where(spread > 0, spread, 1))
                labels.append((segment, repeat, len(bold)))
    write_cube(StudyPaths(root).brain(subject), _brain_cube(np.concatenate(parts), labels, subject, planted, number))


def _brain_cube(
    bold: np.ndarray, labels: list[tuple[str, int, int]], subject: str, planted: Planted, number: int
) -> xr.Dataset:
    lengths = [length for _, _, length in labels]
    parcel = [name for name in planted.parcels for _ in range(TARGETS_PER_PARCEL)] + [""] * OUTSIDE
    n_targets = len(parcel)
    # Each subject lacks another target outside the parcels, as masks of real subjects differ.
    kept = np.delete(np.arange(n_targets), n_targets - 1 - number)
    hemi = [name[0] if name else "" for name in parcel]
    return xr.Dataset(
        {"bold": (("time", "target"), bold[:, kept].astype(np.float32))},
        coords={
            "segment": ("time", string_coordinate(np.repeat([name for name, _, _ in labels], lengths))),
            "repeat": ("time", np.repeat([repeat for _, repeat, _ in labels], lengths)),
            "session": ("time", string_coordinate(["001"] * len(bold))),
            "onset_s": ("time", np.concatenate([np.round(np.arange(n) * planted.tr_s, 6) for n in lengths])),
            "target": 1000 + kept,
            "hemi": ("target", string_coordinate(hemi)[kept]),
            "parcel": ("target", string_coordinate(parcel)[kept]),
            **{f"{axis}_mm": ("target", kept.astype(float)) for axis in "xyz"},
        },
        attrs=provenance(
            "brain",
            {"subject": subject, "scramble": planted.scramble_test},
            ["numpy"],
            space="MNI",
            tr_s=planted.tr_s,
            affine=json.dumps(np.eye(4).tolist()),
            shape=json.dumps([20, 20, 20]),
            targets="voxels",
        ),
    )


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make a synthetic study's folder, one per variation."""
    made: dict[str, Path] = {}

    def make(**changes: Any) -> Path:
        planted = Planted(**changes)
        if repr(planted) not in made:
            made[repr(planted)] = write_study(tmp_path_factory.mktemp("study"), planted)
        return made[repr(planted)]

    return make


@pytest.fixture(scope="session")
def scored(synthetic: Callable[..., Path]) -> Callable[..., xr.Dataset]:
    """Score a synthetic study in this process, one per variation."""
    from cinecube.analysis.encoders.problem import read_problem
    from cinecube.analysis.encoders.stage import score_model

    made: dict[str, xr.Dataset] = {}

    def score(**changes: Any) -> xr.Dataset:
        key = repr(sorted(changes.items()))
        if key not in made:
            study, root = make_study(), synthetic(**changes)
            made[key] = score_model(study, read_problem(study, root, MODEL))
        return made[key]

    return score
