"""The reference study on a double of Movie10's tree, of which only what it reads was fetched: `init` to report.

Names, links, sessions, repeats and the offsets of scans to films are those of the tree; all are shorter by the same.
"""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pytest
from nibabel.cifti2.cifti2_axes import BrainModelAxis

import cinecube as cc
from cinecube.store.clock.clock import Clock

from .conftest import Folder, dvc
from .store.scan_tree import confounds_table
from .store.test_atlases import dlabel
from .store.test_movie10_tree import RUNS, SEGMENTS, TR_S, film_s, write_run

pytestmark = [pytest.mark.slow, pytest.mark.long]

SUBJECTS, FEWER, DELAY, N_COURSES = ["sub-01", "sub-02"], 300, 2, 8
MINE = RUNS[RUNS["subject"].isin(SUBJECTS)]
WANTED = MINE[~MINE["segment"].str.startswith("figures")]
FILMS = {film: [one for one in SEGMENTS if one.startswith(film)] for film in ("bourne", "wolf", "life")}
CLOCK = Clock(tr_s=TR_S, window_s=TR_S)
PER_SIDE = 60
MIXED = np.random.default_rng(7).standard_normal((N_COURSES, PER_SIDE)) / np.sqrt(N_COURSES)
PARCELS = {1: "L_film", 2: "L_own", 3: "R_film", 4: "R_own"}
"""Those that follow what the film shows, and those with a course of one run alone."""


def seconds(segment: str) -> float:
    """Of its film here."""
    return film_s(segment) - FEWER * TR_S


def course(n_rows: int, *of: object) -> np.ndarray:
    """A course (row, column) that rises and falls over some rows, of a name of its own."""
    rng = np.random.default_rng(zlib.crc32("/".join(map(str, of)).encode()))
    noise = rng.standard_normal((n_rows + 8, N_COURSES))
    smooth = np.stack([np.convolve(one, [0.25, 0.5, 0.25], "same") for one in noise.T], axis=1)[4:-4]
    return np.asarray(smooth / smooth.std(axis=0))


def shown(segment: str) -> np.ndarray:
    """What a segment shows (row, column)."""
    return course(CLOCK.n_rows(seconds(segment)), "film", segment)


def late(values: np.ndarray, n_volumes: int) -> np.ndarray:
    """The same (volume, column) as brains follow it, from zero at first and on after its end."""
    return np.pad(values, ((DELAY, max(0, n_volumes)), (0, 0)))[:n_volumes]


def own_course(row: Any) -> np.ndarray:
    return course(row.volumes - FEWER, "run", row.subject, row.session, row.segment)


def grayordinates() -> BrainModelAxis:
    left = BrainModelAxis.from_surface(np.arange(PER_SIDE), 32492, "CORTEX_LEFT")
    return left + BrainModelAxis.from_surface(np.arange(PER_SIDE) + 3, 32492, "CORTEX_RIGHT")


def responses(row: Any) -> np.ndarray:
    """Values (volume, grayordinate): on each side the first half follows the film, the other a course of this run."""
    n = row.volumes - FEWER
    rng = np.random.default_rng(row.Index)
    film, own = (values @ MIXED for values in (late(shown(row.segment), n), own_course(row)))
    halves = np.where(np.arange(PER_SIDE) < PER_SIDE // 2, film, own)
    noise = 0.5 * rng.standard_normal((n, 2 * PER_SIDE))
    return (9000 + 50 * (np.concatenate([halves, halves], axis=1) + noise)).astype(np.float32)


def write_film(path: Path, length_s: float, rate_hz: int = 2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=rate_hz)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        for number in range(round(length_s * rate_hz)):
            gray = np.full((32, 32, 3), number % 200 + 20, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(gray, format="rgb24")))
        container.mux(video.encode(None))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Films, scans of two subjects and an atlas; of all that is no dense series or table there are links alone."""
    for film, segments in FILMS.items():
        for segment in segments:
            write_film(tmp_path / "movie10.stimuli" / film / f"{segment}.mkv", seconds(segment))
    axis = grayordinates()
    for row in MINE.itertuples():
        table = confounds_table(row.Index, row.volumes - FEWER).to_csv(sep="\t", index=False, na_rep="n/a")
        files = write_run(tmp_path / "movie10.fmriprep", row, responses(row), axis, table)
        if row.segment.startswith("figures"):
            for path in files:
                path.resolve().unlink()
    keys = np.repeat(list(PARCELS), PER_SIDE // 2)
    dlabel(tmp_path / "mine.dlabel.nii", axis, keys, {0: "???", **PARCELS})
    return tmp_path


def _features_alone(params: dict[str, Any]) -> None:
    params["models"], params["compute"]["models"] = {}, []
    params["residual"], params["partition"], params["rois"] = [], [], None
    params["unimodal"] = {"video": [], "audio": []}
    params["statistics"] |= {"compare": [], "permutations": 99}
    params["brain"]["confounds"] = "motion"  # the runs are too short for `simple`


def test_a_clone_with_little_fetched_runs_to_the_report(data: Path) -> None:
    study = Folder(data / "m10")
    places = ["--scans", data / "movie10.fmriprep", "--stimuli", data / "movie10.stimuli"]
    said = study.must(
        "init", str(study.root), "--template", "movie10", *map(str, places), "--atlas", str(data / "mine.dlabel.nii")
    )
    assert "not fetched" not in said.stderr
    study.change(_features_alone)
    features = pd.concat(
        pd.DataFrame(shown(segment), columns=[f"c{n}" for n in range(N_COURSES)]).assign(
            segment=segment, onset_s=lambda table: np.round(table.index * TR_S, 6)
        )
        for segments in FILMS.values()
        for segment in segments
    )
    features.to_csv(data / "shown.csv", index=False)
    study.must("add", str(data / "shown.csv"), "--model", "shown")

    # A table that was dropped is named before anything runs, with the line that fetches it.
    dropped = next((data / "movie10.fmriprep").glob("sub-02/*/func/*task-wolf05_desc-confounds_timeseries.tsv"))
    content = dropped.read_bytes()
    dropped.resolve().unlink()
    planned = study.must("plan")
    assert re.search(
        r"a file that was not fetched .*task-wolf05_desc-confounds.*run `datalad get", " ".join(planned.stderr.split())
    )
    dropped.resolve().write_bytes(content)
    steps = json.loads(study.must("plan", "--json").stdout)
    assert {step["state"] for step in steps if step["stage"].startswith("brain")} == {"to do"}
    dvc(study.root, "repro")

    for subject in SUBJECTS:
        _check_cube(study, subject)
    scores = pd.read_csv(study.root / "results/tables/whole_brain.csv").set_index(["subject", "parcel"])["score"]
    for subject in SUBJECTS:
        assert all(scores[subject, f"{side}_film"] > 0.6 for side in "LR")
        assert all(abs(scores[subject, f"{side}_own"]) < 0.2 for side in "LR")
    timing = pd.read_csv(study.root / "results/tables/run_timing.csv")
    assert len(timing) == len(WANTED)
    assert not {"shifted", "another film"} & set(timing["verdict"])
    page = (study.root / "results/report/index.html").read_text(encoding="utf-8")
    assert '<td class="text">shown</td>' in page
    assert re.findall(r"Running stage '([^']+)'", dvc(study.root, "repro")) == ["inputs"]


def _check_cube(study: Folder, subject: str) -> None:
    """Each run's own course is at its rows and no others, under its session and repeat."""
    cube = cc.open(study.root).brain(subject)
    rows = pd.DataFrame({name: cube[name].values.astype(object) for name in ("segment", "repeat", "session")})
    own = cube["bold"].values[:, cube["parcel"].values == "L_own"]
    mine = WANTED[WANTED["subject"] == subject]
    courses = {row.Index: own_course(row) for row in mine.itertuples()}
    mixed = MIXED[:, PER_SIDE // 2 :]
    for row in mine.itertuples():
        found = rows.query("segment == @row.segment and session == @row.session")
        assert set(found["repeat"]) == {1 if pd.isna(row.run) else row.run}
        values = own[found.index]
        likeness = {key: _correlation(values, planted @ mixed) for key, planted in courses.items()}
        assert likeness.pop(row.Index) > 0.6
        assert max(map(abs, likeness.values())) < 0.3
    assert len(rows.drop_duplicates()) == len(mine)


def _correlation(found: np.ndarray, planted: np.ndarray) -> float:
    """Mean over targets of the correlation, over the rows that both have."""
    n = min(len(found), len(planted))
    one, other = ((values[:n] - values[:n].mean(0)) / values[:n].std(0) for values in (found, planted))
    return float((one * other).mean())
