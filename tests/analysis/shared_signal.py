"""Brain cubes of subjects who share a signal, whose ceilings are a few lines of arithmetic.

Subjects share four latent time courses, mixed at random, in noise of the same variance; both drift (AR(1), 0.4). So the
true ceiling is √½ of one showing, and √⅔ of the mean over two.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from cinecube.analysis.ceilings.stage import ceiling
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import open_cube, write_cube
from cinecube.store.cube.schema import provenance, string_coordinate
from cinecube.store.params.document import Study, parse

TR_S = 1.49
FILMS = {film: [f"{film}01", f"{film}02"] for film in ("amber", "birch", "cedar", "dune")}
TRAIN, TEST = ["amber", "birch", "cedar"], ["dune"]
SEGMENTS = [segment for names in FILMS.values() for segment in names]
TRAIN_SEGMENTS, TEST_SEGMENTS = SEGMENTS[:6], SEGMENTS[6:]
PARCELS = ("L_V1", "L_V2", "R_A1", "R_44")  # the last follows nothing
IDLE = "R_44"
OUTSIDE = 2
DRIFT = 0.4


@dataclass
class Drawn:
    """Responses of subjects, (row, target) by subject, segment and showing, and how their cubes lie on disk.

    Attributes
    ----------
    bold : dict of str to dict of (segment, repeat) to array
    missing : dict of str to list of int
        Targets that a subject's cube lacks, by number.
    shift_s : dict of str to float
        By how much a subject's onsets are off.
    tr_s : float
        What the cubes say.
    """

    bold: dict[str, dict[tuple[str, int], np.ndarray]]
    missing: dict[str, list[int]] = field(default_factory=dict)
    shift_s: dict[str, float] = field(default_factory=dict)
    tr_s: float = TR_S

    @property
    def n_targets(self) -> int:
        return next(iter(next(iter(self.bold.values())).values())).shape[1]

    def rows(self, subject: str, segments: list[str], repeat: int = 1) -> np.ndarray:
        """Rows of some segments one after another, float32 as in the cube."""
        return np.concatenate([self.bold[subject][name, repeat] for name in segments]).astype(np.float32)

    def joined(self, subject: str) -> np.ndarray:
        """Training rows, and the mean over two showings of the test rows."""
        test = (self.rows(subject, TEST_SEGMENTS) + self.rows(subject, TEST_SEGMENTS, 2)) / np.float32(2)
        return np.concatenate([self.rows(subject, TRAIN_SEGMENTS), test])


def drifting(values: np.ndarray) -> np.ndarray:
    """Each row takes over a share of the row before; the variance stays."""
    for row in range(1, len(values)):
        values[row] = DRIFT * values[row - 1] + np.sqrt(1 - DRIFT**2) * values[row]
    return values


def draw(n_subjects: int = 3, n_rows: int = 30, per_parcel: int = 3, repeated: tuple[str, ...] = ("dune",)) -> Drawn:
    """Subjects with `per_parcel` targets in each parcel."""
    rng = np.random.default_rng(n_subjects)
    latents = {name: drifting(rng.standard_normal((n_rows, 4))) for name in SEGMENTS}
    n_driven = (len(PARCELS) - 1) * per_parcel
    bold: dict[str, dict[tuple[str, int], np.ndarray]] = {}
    for number in range(1, n_subjects + 1):
        mixing = rng.standard_normal((4, n_driven))
        mixing /= np.sqrt((mixing**2).sum(axis=0))
        own = bold.setdefault(f"sub-{number:02d}", {})
        for film, names in FILMS.items():
            for name in names:
                for repeat in range(1, 3 if film in repeated else 2):
                    own[name, repeat] = drifting(rng.standard_normal((n_rows, n_driven + per_parcel + OUTSIDE)))
                    own[name, repeat][:, :n_driven] += latents[name] @ mixing
    return Drawn(bold)


def write(root: Path, drawn: Drawn) -> Path:
    """Write brain cubes; showings lie in an order of their own, which the labels tell."""
    for number, (subject, runs) in enumerate(drawn.bold.items()):
        order = sorted(runs, reverse=bool(number % 2))
        bold = np.concatenate([runs[key] for key in order])
        lengths = [len(runs[key]) for key in order]
        per_parcel = (drawn.n_targets - OUTSIDE) // len(PARCELS)
        parcel = [name for name in PARCELS for _ in range(per_parcel)] + [""] * OUTSIDE
        kept = np.setdiff1d(np.arange(drawn.n_targets), drawn.missing.get(subject, []))
        onsets_s = [np.round(np.arange(length) * TR_S + drawn.shift_s.get(subject, 0.0), 6) for length in lengths]
        cube = xr.Dataset(
            {"bold": (("time", "target"), bold[:, kept].astype(np.float32))},
            coords={
                "segment": ("time", string_coordinate(np.repeat([name for name, _ in order], lengths))),
                "repeat": ("time", np.repeat([repeat for _, repeat in order], lengths)),
                "session": ("time", string_coordinate(["001"] * len(bold))),
                "onset_s": ("time", np.concatenate(onsets_s)),
                "target": 100 + kept,
                "hemi": ("target", string_coordinate([name[:1] for name in parcel])[kept]),
                "parcel": ("target", string_coordinate(parcel)[kept]),
                **{f"{axis}_mm": ("target", kept.astype(float)) for axis in "xyz"},
            },
            attrs=provenance(
                "brain",
                {"subject": subject},
                ["numpy"],
                space="MNI",
                tr_s=drawn.tr_s,
                affine=json.dumps(np.eye(4).tolist()),
                shape=json.dumps([20, 20, 20]),
                targets="voxels",
            ),
        )
        write_cube(StudyPaths(root).brain(subject), cube)
    return root


def make_study(drawn: Drawn, repeats: str = "average", block: int = 5, **ceiling: Any) -> Study:
    raw = {
        "study": "synthetic",
        "clock": {"tr_s": TR_S, "window_s": TR_S},
        "stimuli": "data/stimuli",
        "films": FILMS,
        "split": {"train": TRAIN, "test": TEST, "gap_s": 4},
        "models": {"vit": {"extractor": "vit", "checkpoint": "data/weights/vit"}},
        "compute": {"models": ["vit"], "films": list(FILMS)},
        "brain": {"path": "data/scans", "subjects": list(drawn.bold), "repeats": repeats},
        "encode": {"targets_per_block": block, "folds": 3},
        "ceiling": {"bootstraps": 20, **ceiling},
    }
    return parse(Study, raw, "params.yaml")


def run(root: Path, drawn: Drawn, **changes: Any) -> tuple[Study, xr.Dataset]:
    """Write brain cubes, run the stage, read what it wrote."""
    study = make_study(drawn, **changes)
    ceiling(study, write(root, drawn))
    return study, open_cube(StudyPaths(root).ceiling).load()


def kinds(cube: xr.Dataset, name: str) -> np.ndarray:
    """Values (subject, target) of one variable, as the cube has them."""
    values: np.ndarray = cube[name].transpose("subject", "target").values
    return values
