"""A study small enough to run whole, whose features and responses can be taken away before its cubes are written."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from cinecube.analysis.ceilings.stage import ceiling
from cinecube.analysis.encoders.stage import encode
from cinecube.analysis.figures.paper_figures import paper_figures
from cinecube.analysis.partition.partition_tables import write_partition_tables
from cinecube.analysis.partition.stage import partition
from cinecube.analysis.regions.stage import layerwise, whole_brain
from cinecube.analysis.report.stage import write_report
from cinecube.analysis.residuals.residual_cubes import make_residual
from cinecube.analysis.residuals.residual_tables import residual
from cinecube.analysis.significance.stage import significance
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import write_cube, write_feature_cube
from cinecube.store.cube.schema import Stream, feature_template, provenance, rows_index, string_coordinate
from cinecube.store.params.document import Study, parse

TR_S, ROWS, N_TARGETS = 1.5, 60, 3
FILMS = {film: [f"{film}1", f"{film}2"] for film in ("amber", "birch", "dune")}
TRAIN, TEST = ["amber", "birch"], ["dune"]
SEGMENTS = [segment for names in FILMS.values() for segment in names]
SUBJECTS = ("sub-01", "sub-02")
EYES, EARS, SOLO = "bind.eyes", "bind.ears", "solo"
STREAMS = {
    "bind": [Stream(EYES, ["embed", "block01", "block02"], [5, 5, 5]), Stream(EARS, ["embed", "block01"], [4, 4])],
    "solo": [Stream(SOLO, ["embed", "block01"], [6, 6])],
}
# What a parcel follows; the last follows nothing.
PARCELS = {"L_V1": (EYES, "block01"), "R_A1": (EARS, "block01"), "L_MT": (SOLO, "block01"), "R_44": None}
LABELS = [parcel for parcel in PARCELS for _ in range(N_TARGETS)]
PAIR = f"{SOLO}-{EYES}"

Features = dict[tuple[str, str], dict[str, np.ndarray]]
"""Stream and layer -> segment -> (row, dim)."""
Bold = dict[str, dict[tuple[str, int], np.ndarray]]
"""Subject -> segment and showing -> (row, target)."""


def make_study(subjects: Sequence[str] = SUBJECTS, models: Sequence[str] = tuple(STREAMS), **changes: Any) -> Study:
    raw = {
        "study": "absences",
        "clock": {"tr_s": TR_S, "window_s": TR_S},
        "stimuli": "data/stimuli",
        "films": FILMS,
        "split": {"train": TRAIN, "test": TEST, "gap_s": 3},
        "models": {name: {"extractor": "vit", "checkpoint": f"data/weights/{name}"} for name in models},
        "compute": {"models": list(models), "films": list(FILMS)},
        "brain": {"path": "data/scans", "subjects": list(subjects)},
        "encode": {"alphas": {"min": 1, "max": 1e5, "n": 6}, "targets_per_block": 20, "delays": [1, 2], "folds": 4},
        "statistics": {"permutations": 99, "block_rows": 10},
        "ceiling": {"use": "repeats", "bootstraps": 10},
        **changes,
    }
    return parse(Study, raw, "params.yaml")


def draw(subjects: Sequence[str] = SUBJECTS) -> tuple[Features, Bold]:
    """Features, and responses that follow them two rows later; the test film is shown twice."""
    rng = np.random.default_rng(1)
    features = {
        (stream.name, layer): {name: rng.normal(3, 1, (ROWS, width)) for name in SEGMENTS}
        for streams in STREAMS.values()
        for stream in streams
        for layer, width in zip(stream.layers, stream.widths, strict=True)
    }
    mixing = {source: rng.normal(size=(6, N_TARGETS)) for source in PARCELS.values() if source}
    bold: Bold = {}
    for subject in subjects:
        runs = bold.setdefault(subject, {})
        for name in SEGMENTS:
            for repeat in (1, 2)[: 1 + (name in FILMS["dune"])]:
                values = rng.normal(0, 1.5, (ROWS, len(LABELS)))
                for place, source in enumerate(PARCELS.values()):
                    if source:
                        own = features[source][name] - 3
                        driven = own @ mixing[source][: own.shape[1]]
                        values[2:, place * N_TARGETS : (place + 1) * N_TARGETS] += driven[:-2]
                runs[name, repeat] = (values - values.mean(axis=0)) / values.std(axis=0)
    return features, bold


def write(root: Path, features: Features, bold: Bold) -> Path:
    """Write the cubes and tables that analyses read."""
    paths = StudyPaths(root)
    onsets_s = np.round(np.arange(ROWS) * TR_S, 6)
    for model, streams in STREAMS.items():
        for film, names in FILMS.items():
            attrs = provenance("features", {"model": model, "stimulus": film}, [])
            template = feature_template(rows_index(dict.fromkeys(names, onsets_s)), TR_S, streams, "float32", attrs)
            labels = template["layer"].values

            def read(m: int, k: int, names=names, labels=labels, streams=streams) -> np.ndarray:
                own = features[streams[m].name, str(labels[k])]
                return np.concatenate([own[name] for name in names]).astype(np.float32)

            write_feature_cube(paths.features(model, film), template, read)
    for subject, runs in bold.items():
        write_cube(paths.brain(subject), brain_cube(subject, runs))
        pd.DataFrame({"segment": SEGMENTS, "repeat": 1}).to_csv(paths.brain_qc(subject), index=False)
    films = {"film": [film for film, names in FILMS.items() for _ in names], "segment": SEGMENTS}
    pd.DataFrame({**films, "duration_s": ROWS * TR_S, "rows": ROWS}).to_csv(paths.films, index=False)
    return root


def brain_cube(subject: str, runs: dict[tuple[str, int], np.ndarray]) -> xr.Dataset:
    showings = [(segment, repeat) for segment, repeat in runs for _ in range(ROWS)]
    place = np.arange(len(LABELS))
    return xr.Dataset(
        {"bold": (("time", "target"), np.concatenate(list(runs.values())).astype(np.float32))},
        coords={
            "segment": ("time", string_coordinate([name for name, _ in showings])),
            "repeat": ("time", np.array([repeat for _, repeat in showings])),
            "onset_s": ("time", np.tile(np.round(np.arange(ROWS) * TR_S, 6), len(runs))),
            "target": 100 + place,
            "hemi": ("target", string_coordinate([label[0] for label in LABELS])),
            "parcel": ("target", string_coordinate(LABELS)),
            **{f"{axis}_mm": ("target", place.astype(float)) for axis in "xyz"},
        },
        attrs=provenance(
            "brain",
            {"subject": subject},
            [],
            space="MNI",
            targets="voxels",
            tr_s=TR_S,
            affine=json.dumps((4 * np.eye(4)).tolist()),
            shape=json.dumps([8, 8, 8]),
        ),
    )


def run_all(study: Study, root: Path) -> None:
    """Every stage from encoding to the report."""
    stages: list[Callable[[Study, Path], None]] = [
        *(ceiling, whole_brain, layerwise, residual, partition, write_partition_tables, significance)
    ]
    for model in study.compute.models:
        encode(study, root, model)
    for pair in study.residual:
        make_residual(study, root, pair.name)
        encode(study, root, pair.name)
    for stage in (*stages, paper_figures, write_report):
        stage(study, root)
