"""`cinecube add`: a lab's own features become cubes that everything else reads like any other."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml
from click.testing import CliRunner, Result

import cinecube as cc
from cinecube.cli import main
from cinecube.cli.adding import add
from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.checksums import write_checksums
from cinecube.store.cube.cubes import write_cube
from cinecube.store.cube.schema import provenance, rows_index, string_coordinate
from cinecube.store.verify.find_cubes import verify_cube

from ..conftest import tree_digest

TR_S, ROWS, DIMS = 1.5, 40, 3
FILMS = {film: [f"{film}01", f"{film}02"] for film in ("amber", "birch", "cedar", "dune")}
SEGMENTS = [segment for names in FILMS.values() for segment in names]
ONSETS_S = np.arange(ROWS) * TR_S
VALUES = {name: np.random.default_rng(i).standard_normal((ROWS, DIMS)) for i, name in enumerate(SEGMENTS)}
WEIGHTS = np.random.default_rng(99).standard_normal((DIMS, 5))


def _params(model: str | None = "loudness") -> dict[str, Any]:
    models = {"net": {"extractor": "vit", "checkpoint": "data/weights/net"}}
    return {
        "study": "own",
        "clock": {"tr_s": TR_S, "window_s": TR_S, "max_trim_s": 6},
        "stimuli": "data/stimuli",
        "films": FILMS,
        "split": {"train": ["amber", "birch", "cedar"], "test": ["dune"], "gap_s": 3},
        "models": models,
        "compute": {"models": ["net"], "films": list(FILMS)},
        "imported": [{"model": model, "source": "lab.csv"}] if model else [],
        "brain": {"path": "data/scans", "subjects": ["sub-01"]},
        "encode": {"delays": [1, 2], "alphas": {"min": 1, "max": 1000.0, "n": 4}},
    }


def _table(values: dict[str, np.ndarray], onsets_s: np.ndarray = ONSETS_S) -> pd.DataFrame:
    rows = rows_index({name: onsets_s[: len(own)] for name, own in values.items()})
    return rows.join(pd.DataFrame(np.concatenate(list(values.values()))).add_prefix("d"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A study with a table of films, and features of its own at its own clock."""
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(_params()), encoding="utf-8")
    films = [(film, name, ROWS * TR_S, ROWS) for film, names in FILMS.items() for name in names]
    StudyPaths(tmp_path).films.parent.mkdir()
    pd.DataFrame(films, columns=["film", "segment", "duration_s", "rows"]).to_csv(
        StudyPaths(tmp_path).films, index=False
    )
    _table(VALUES).to_csv(tmp_path / "lab.csv", index=False)
    return tmp_path


def _add(root: Path, *words: str, array: str = "lab.csv", model: str = "loudness") -> Result:
    return CliRunner().invoke(add, [str(root / array), "--model", model, "--study", str(root), *words])


def _must(root: Path, *words: str, **how: str) -> str:
    result = _add(root, *words, **how)
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return result.stdout


def _refused(root: Path, *words: str, **how: str) -> str:
    """The error of a call that has to fail before anything is written."""
    before = sorted(root.rglob("*.zarr"))
    result = _add(root, *words, **how)
    assert isinstance(result.exception, StudyError), f"{result.output}\n{result.exception!r}"
    assert sorted(root.rglob("*.zarr")) == before
    return str(result.exception)


def _fingerprints(root: Path) -> dict[str, str]:
    return {
        film: xr.open_zarr(StudyPaths(root).features("loudness", film)).attrs["fingerprint"]
        for film in FILMS
        if StudyPaths(root).features("loudness", film).exists()
    }


def test_the_cubes_are_whole_and_open_like_any_other(root: Path) -> None:
    said = _must(root, "--licence", "CC-BY-4.0")
    *lines, last = said.splitlines()
    assert lines == [f"{film}.zarr: 80 rows, 3 dims" for film in FILMS]
    assert "dvc add data/features/loudness" in last
    for film, names in FILMS.items():
        assert verify_cube(StudyPaths(root).features("loudness", film)) == []
        opened = cc.open(root).features(model="loudness", film=film, layer="head")
        expected = np.concatenate([VALUES[name] for name in names]).astype(np.float32)
        np.testing.assert_array_equal(opened.values[:, :, 0], expected)
    whole = cc.open(root).features(model="loudness")
    assert whole.dims == ("time", "dim", "model", "layer")
    assert whole.sizes["time"] == ROWS * len(SEGMENTS)
    attrs = xr.open_zarr(StudyPaths(root).features("loudness", "amber")).attrs
    assert (attrs["licence"], json.loads(attrs["dim_names"])) == ("CC-BY-4.0", ["d0", "d1", "d2"])


def test_the_same_numbers_give_the_same_bytes_from_any_file(root: Path) -> None:
    _must(root)
    first = _fingerprints(root)
    (root / "parts").mkdir()
    for name, values in VALUES.items():
        np.save(root / "parts" / f"{name}.npy", values)
    _must(root, "--replace", array="parts")  # it has no names of dims
    assert _fingerprints(root) == first
    changed = VALUES | {"dune02": VALUES["dune02"] + 1e-9}
    _table(changed).to_csv(root / "lab.csv", index=False)
    _must(root, "--replace")
    assert {film for film, digest in _fingerprints(root).items() if digest != first[film]} == {"dune"}


@pytest.mark.parametrize("method", ["mean", "lanczos"])
def test_another_clock_is_resampled(root: Path, method: str) -> None:
    """Loudness every 0.5 s that rises linearly: a row holds its value at the row's middle."""
    onsets_s = np.arange(ROWS * 3) * 0.5
    ramp = dict.fromkeys(SEGMENTS, (onsets_s + 0.25)[:, None])
    _table(ramp, onsets_s).to_csv(root / "lab.csv", index=False)
    assert "resampled to the study's clock" in _must(root, "--resample", method)
    opened = cc.open(root).features(model="loudness", film="amber", layer="head").values[:ROWS, 0, 0]
    inner = slice(4, -4)
    np.testing.assert_allclose(opened[inner], (ONSETS_S + TR_S / 2)[inner], atol=1e-4 if method == "mean" else 0.05)
    assert verify_cube(StudyPaths(root).features("loudness", "amber")) == []


def test_rows_at_the_borders_may_be_without_features(root: Path) -> None:
    short = {name: values[:-2] for name, values in VALUES.items()}
    _table(short).to_csv(root / "lab.csv", index=False)
    assert "4 rows of the film have no features" in _must(root)
    opened = cc.open(root).features(model="loudness", film="amber")
    assert opened.sizes["time"] == 2 * (ROWS - 2)


def test_a_study_without_films_takes_the_length_of_the_features(root: Path) -> None:
    StudyPaths(root).films.unlink()
    _must(root)
    assert cc.open(root).features(model="loudness", film="dune").sizes["time"] == 2 * ROWS


def test_one_film_alone_and_a_model_that_params_do_not_name(root: Path) -> None:
    (root / "params.yaml").write_text(yaml.safe_dump(_params(model=None)), encoding="utf-8")
    said = _must(root, "--film", "dune")
    assert "loudness is listed under `imported` in params.yaml" in said
    listed = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))["imported"]
    assert listed == [{"model": "loudness", "source": str(root / "lab.csv")}]
    assert sorted(_fingerprints(root)) == ["dune"]


def _write_brain(root: Path) -> None:
    """Responses that follow the added features by one row."""
    rng = np.random.default_rng(1)
    bold = []
    for values in VALUES.values():
        clean = np.vstack([np.zeros((1, 5)), (values @ WEIGHTS)[:-1]])
        bold.append(clean + 0.3 * rng.standard_normal(clean.shape))
    n_rows = ROWS * len(SEGMENTS)
    cube = xr.Dataset(
        {"bold": (("time", "target"), np.concatenate(bold).astype(np.float32))},
        coords={
            "segment": ("time", string_coordinate(np.repeat(SEGMENTS, ROWS))),
            "repeat": ("time", np.ones(n_rows, dtype=int)),
            "session": ("time", string_coordinate(["001"] * n_rows)),
            "onset_s": ("time", np.tile(ONSETS_S, len(SEGMENTS))),
            "target": np.arange(5),
            "hemi": ("target", string_coordinate(["L"] * 5)),
            "parcel": ("target", string_coordinate(["L_A1"] * 5)),
            **{f"{axis}_mm": ("target", np.arange(5.0)) for axis in "xyz"},
        },
        attrs=provenance(
            "brain",
            {"subject": "sub-01"},
            [],
            space="MNI",
            tr_s=TR_S,
            affine=json.dumps(np.eye(4).tolist()),
            shape=json.dumps([5, 5, 5]),
            targets="voxels",
        ),
    )
    write_cube(StudyPaths(root).brain("sub-01"), cube)


def test_encoders_read_added_features_like_any_other(root: Path) -> None:
    from cinecube.analysis.encoders.problem import read_problem
    from cinecube.analysis.encoders.stage import score_model
    from cinecube.study_params import load

    _must(root)
    _write_brain(root)
    study = load(root)
    scores = score_model(study, read_problem(study, root, "loudness"))
    assert list(scores["layer"].values) == ["head"]
    assert float(scores["score"].min()) > 0.8


def _changed(root: Path, **segments: np.ndarray) -> None:
    _table(VALUES | segments).to_csv(root / "lab.csv", index=False)


def test_features_that_do_not_fit_are_refused(root: Path) -> None:
    absent = {name: values for name, values in VALUES.items() if name not in ("dune01", "dune02")}
    _table(absent).to_csv(root / "lab.csv", index=False)
    assert "no rows of segment dune01 and 1 more" in _refused(root)
    _must(root, "--film", "amber")
    _changed(root, amber02=VALUES["amber02"][:30])
    assert "amber02: found features from 0 to 45 s, expected 0 to 60 s" in _refused(root)
    longer = np.zeros((ROWS, DIMS))
    _table(VALUES | {"amber02": longer}, ONSETS_S * 2).to_csv(root / "lab.csv", index=False)
    assert "found features up to 120 s, expected 60 s" in _refused(root)
    _changed(root, amber02=np.full((ROWS, DIMS), 1e300))
    assert "amber02: found values up to 1e+300, expected those of float32" in _refused(root)
    _changed(root, amber02=np.full((ROWS, DIMS), np.nan))
    assert "amber02 at 0 s: found NaN" in _refused(root)
    holes = _table(VALUES).drop(index=range(10, 15))
    holes.to_csv(root / "lab.csv", index=False)
    assert "model loudness amber01 at 15.00 s: found no features" in _refused(root)
    assert "amber01: found steps from 1.5 to 9 s, expected even ones" in _refused(
        root, "--resample", "lanczos", "--window", "9"
    )


def test_what_is_left_out_replaced_or_of_no_use_is_said(root: Path) -> None:
    assert "in place of" not in _must(root)
    _changed(root, zebra01=VALUES["amber01"], amber01=VALUES["amber01"] + 1)
    refused = _refused(root)
    assert "found cubes of other features, or of other terms, in data/features/loudness/amber.zarr, exp" in refused
    second = _add(root, "--replace")
    assert "left out: rows of zebra01, which no film of params.yaml has" in second.stderr
    assert re.search(r"amber.zarr: .* in place of those that were there", second.stdout)
    assert not re.search(r"dune.zarr: .* in place of", second.stdout)
    misspelt = {name.replace("amber01", "ambre01"): values for name, values in VALUES.items()}
    _table(misspelt).to_csv(root / "lab.csv", index=False)
    assert "found no rows of segment amber01, and rows of ambre01, which is none" in _refused(root)
    assert "`tr_s=`: found 2 s, for rows that have onsets" in _refused(root, "--tr", "2")


def test_the_same_again_is_up_to_date_and_other_features_need_a_word(root: Path) -> None:
    _must(root, "--film", "amber")
    before = tree_digest(StudyPaths(root).features("loudness", "amber"))
    first = _must(root).splitlines()
    assert first[:2] == ["amber.zarr: up to date", "birch.zarr: 80 rows, 3 dims"]
    assert _must(root).splitlines()[: len(FILMS)] == [f"{film}.zarr: up to date" for film in FILMS]
    assert tree_digest(StudyPaths(root).features("loudness", "amber")) == before
    for words in (("--licence", "CC0"), ("--column", "d0"), ("--window", "9")):
        assert "amber.zarr and 3 more, expected none, or those of this input" in _refused(root, *words)
        assert tree_digest(StudyPaths(root).features("loudness", "amber")) == before
    copy = ["add", str(root / "lab.csv"), "--model", "loudness", "--licence", "CC0", "--study", str(root)]
    done = CliRunner().invoke(main, copy)
    assert done.exit_code == 1
    assert "; give --replace to write over them, or choose another name" in done.stderr
    assert "in place of those that were there" in _must(root, "--licence", "CC0", "--replace")


def test_names_that_are_taken_are_refused(root: Path) -> None:
    assert "model net: found a model of the section `models`" in _refused(root, model="net")
    assert "found the name of a stream of net" in _refused(root, model="net.video")
    assert "model name: found '../up'" in _refused(root, model="../up")
    assert "layer name" in _refused(root, "--layer", "a/b")
    assert "no film 'life'" in _refused(root, "--film", "life")
    _must(root, "--film", "amber")
    (root / "data/features/loudness").rename(root / "data/features/other")
    path = StudyPaths(root).features("other", "amber")
    text = (path / "zarr.json").read_text(encoding="utf-8")
    (path / "zarr.json").write_text(
        text.replace('\\"source\\": \\"added\\"', '\\"source\\": \\"vit\\"'), encoding="utf-8"
    )
    write_checksums(path)
    assert "cubes in data/features/other that were not added" in _refused(root, model="other")


def test_help_says_what_it_reads_and_writes() -> None:
    said = CliRunner().invoke(add, ["--help"]).output
    assert "Reads ARRAY" in said
    assert "Writes data/features" in said
    assert "cinecube add loudness.npy" in said


def _onsets(root: Path, onsets: np.ndarray, *, films: bool, n_rows: int = ROWS) -> None:
    """Features whose table has these onsets in every segment; a study with or without a table of films."""
    _table({name: np.resize(VALUES[name], (n_rows, DIMS)) for name in SEGMENTS}, onsets).to_csv(
        root / "lab.csv", index=False
    )
    if not films:
        StudyPaths(root).films.unlink(missing_ok=True)


UNITS = {
    "milliseconds": (ONSETS_S * 1e3, "multiply them by 0.001"),
    "milliseconds at 50 Hz": (np.arange(3000) * 20.0, "multiply them by 0.001"),
    "row numbers": (np.arange(ROWS), "which number rows"),
    "row numbers from one on": (np.arange(ROWS) + 1, "which number rows"),
    "row numbers of a clock of 2 s": (np.arange(30), "which number rows"),
    "row numbers of a clock of 1.2 s": (np.arange(50), "which number rows"),
}


@pytest.mark.parametrize("films", [True, False])
@pytest.mark.parametrize(("onsets", "said"), UNITS.values(), ids=UNITS)
def test_onsets_that_are_no_seconds_are_refused(root: Path, onsets: np.ndarray, said: str, films: bool) -> None:
    _onsets(root, onsets, films=films, n_rows=len(onsets))
    line = _refused(root)
    if said == "which number rows" and not films:
        said = "which may be seconds or number rows, .*; run `cinecube films` first, "
        assert "multiply" not in line
    assert re.search(said, line)


def test_a_study_without_films_is_not_sent_for_them(root: Path) -> None:
    params = _params() | {"stimuli": None}
    (root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    _onsets(root, np.arange(60), films=False, n_rows=60)
    line = _refused(root)
    assert "; say `window_s=1` if they are seconds; multiply them by the seconds between rows" in line
    assert "cinecube films" not in line


@pytest.mark.parametrize("film_s", [15, 24, 60])
def test_row_numbers_of_short_films_are_refused_too(root: Path, film_s: float) -> None:
    """Within what is trimmed they would pass for seconds."""
    n_rows = int(film_s / TR_S)
    table = pd.read_csv(StudyPaths(root).films).assign(duration_s=film_s, rows=n_rows)
    table.to_csv(StudyPaths(root).films, index=False)
    _onsets(root, np.arange(n_rows), films=True, n_rows=n_rows)
    assert f"which number rows, expected seconds from the segment's first frame: the film lasts {film_s} s" in _refused(
        root
    )


def test_seconds_that_look_like_row_numbers_are_taken(root: Path) -> None:
    """One row a second, by the films' length or by the user's word; and rows in order at a TR of one second."""
    _onsets(root, np.arange(60), films=True, n_rows=60)
    assert "resampled to the study's clock" in _must(root)
    _onsets(root, np.arange(60), films=False, n_rows=60)
    assert "say `window_s=1` if they are seconds" in _refused(root)
    assert "amber.zarr: up to date" in _must(root, "--window", "1")
    params = _params() | {"clock": {"tr_s": 1.0, "window_s": 1.0, "max_trim_s": 6}}
    (root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    assert "60 rows, 3 dims" in _must(root, "--film", "amber", "--replace").replace("120", "60")


def test_onsets_that_go_on_through_the_film_are_refused(root: Path) -> None:
    starts = {name: 61.5 * i for i, name in enumerate(SEGMENTS)}
    table = _table(VALUES)
    table["onset_s"] += table["segment"].map(starts)
    table.to_csv(root / "lab.csv", index=False)
    assert "amber02: found onsets from 61.5 to 120, 1.5 apart" in (said := _refused(root))
    assert "subtract 61.5, so that they begin at 0" in said


def test_what_is_left_out_stands_in_the_cube_and_changes_no_number(root: Path) -> None:
    _must(root)
    first = _fingerprints(root)
    assert "left_out" not in xr.open_zarr(StudyPaths(root).features("loudness", "amber")).attrs
    table = _table(VALUES)
    table.assign(end_s=table["onset_s"] + TR_S).to_csv(root / "lab.csv")
    done = _add(root, "--replace")
    assert done.exit_code == 0, done.output
    assert "left out: Unnamed: 0 (has no name and numbers the rows)" in done.stderr
    assert "left out: end_s (tells times)" in done.stderr
    assert _fingerprints(root) == first
    attrs = xr.open_zarr(StudyPaths(root).features("loudness", "amber")).attrs
    assert json.loads(attrs["left_out"]) == {"Unnamed: 0": "has no name and numbers the rows", "end_s": "tells times"}
    assert verify_cube(StudyPaths(root).features("loudness", "amber")) == []
    _must(root, "--column", "d0", "--column", "end_s", "--replace")
    assert all(digest != first[film] for film, digest in _fingerprints(root).items())
    assert json.loads(xr.open_zarr(StudyPaths(root).features("loudness", "dune")).attrs["dim_names"]) == ["d0", "end_s"]


@pytest.mark.parametrize(
    ("called", "near"),
    [
        (lambda name: f"friends_{name}", "friends_amber01"),
        (lambda name: name[1:], "mber01"),
        (lambda name: f"{name}.mkv", "amber01.mkv"),
        (str.upper, "AMBER01"),
        (lambda name: f"{name[:-2]}-{name[-2:]}", "amber-01"),
        (lambda name: name.replace("b", "bb"), "ambber01"),
    ],
)
def test_a_name_that_is_near_a_segments_is_named(root: Path, called: Callable[[str], str], near: str) -> None:
    _table({called(name): values for name, values in VALUES.items()}).to_csv(root / "lab.csv", index=False)
    assert f"call {near} amber01, as `films` in params.yaml does, and likewise the others" in _refused(root)
