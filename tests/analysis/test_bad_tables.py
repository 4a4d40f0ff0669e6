"""Tables, truths and regions as disks and people leave them: right, or one line with file, column and row."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cinecube.analysis.cubes.tables import read_table, write_table
from cinecube.analysis.regions.rois import load_rois
from cinecube.analysis.truth.planted import planted_truth
from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import StudyPaths

pytestmark = pytest.mark.usefixtures("bounded")

TABLE = pd.DataFrame(
    {
        "parcel": ["NA", "nan", "007", ""],
        "model": ["vit", "None", "1", "true"],
        "score": [0.123457, np.nan, -1e-6, 1.0],
        "targets": [1, 2, 3, 40],
        "normalised": [np.nan] * 4,
        "found": [True, False, True, True],
        "note": ["", "a, b", '"quoted"', "über"],
    }
)
COLUMNS = ("parcel", "model", "score", "targets")


def _written(folder: Path) -> Path:
    write_table(folder / "table.csv", TABLE)
    return folder / "table.csv"


def test_a_table_comes_back_as_it_was(tmp_path: Path) -> None:
    found = read_table(_written(tmp_path), *COLUMNS)
    assert found["parcel"].fillna("").tolist() == TABLE["parcel"].tolist()
    assert found["model"].tolist() == TABLE["model"].tolist()
    assert found["note"].fillna("").tolist() == TABLE["note"].tolist()
    np.testing.assert_array_equal(found["score"], TABLE["score"])
    assert found["targets"].tolist() == [1, 2, 3, 40]
    assert found["targets"].dtype == np.int64
    assert found["found"].dtype == bool
    assert found["normalised"].isna().all()
    assert found["normalised"].dtype == np.float64


def test_an_empty_table_is_one(tmp_path: Path) -> None:
    """A study without pairs has tables with columns and no rows."""
    write_table(tmp_path / "table.csv", TABLE[:0])
    assert list(read_table(tmp_path / "table.csv", *COLUMNS)) == list(TABLE)


Change = Callable[[str], str | bytes]
WRONG: dict[str, tuple[Change, str]] = {
    "empty": (lambda text: "", r"found an empty file"),
    "a line end": (lambda text: "\n", r"found no table"),
    "cut in a row": (lambda text: text[:-10], r"found a last line that is cut"),
    "cut in its last number": (lambda text: text[:-2], r"found a last line that is cut"),
    "a field too few": (lambda text: text.replace(",1,,True", ",,True"), r"found 6 fields in row 1, expected 7"),
    "a field too many": (lambda text: text.replace("0.123457", "0.1,23457"), r"found 8 fields in row 1, expected 7"),
    "a field too many in all": (
        lambda text: "\n".join(line and (line if not i else f"x,{line}") for i, line in enumerate(text.split("\n"))),
        r"found 8 fields in row 1",
    ),
    "another column": (
        lambda text: text.replace("score", "value"),
        r"found no column score; there are parcel, model, value",
    ),
    "a column twice": (lambda text: text.replace("note", "score"), r"found column score twice"),
    "text for a number": (lambda text: text.replace("0.123457", "high"), r"column score: found 'high' in row 1"),
    "decimal commas": (lambda text: text.replace("0.123457", '"0,1"'), r"column score: found '0,1' in row 1"),
    "infinity": (lambda text: text.replace("0.123457", "inf"), r"column score: found 'inf' in row 1, expected finite"),
    "Latin-1": (lambda text: text.encode("latin-1"), r"found no UTF-8 text \(byte 0xfc"),
    "bytes": (lambda text: bytes(range(256)) * 9, r"found no UTF-8 text|found no table"),
    "zeros": (lambda text: bytes(300), r"found a last line that is cut"),
    "a web page": (
        lambda text: "<html>\n404</html>\n",
        r"found no column parcel, model, score, targets; there are <html>",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_damaged_table_is_one_line(tmp_path: Path, name: str) -> None:
    change, line = WRONG[name]
    path = _written(tmp_path)
    made = change(path.read_text(encoding="utf-8"))
    path.write_bytes(made if isinstance(made, bytes) else made.encode())
    with pytest.raises(StudyError, match=line) as error:
        read_table(path, *COLUMNS)
    assert error.value.where.startswith(str(path))
    assert error.value.do == "run `dvc repro`, which makes it anew" or "UTF-8" in error.value.do


TRUTH = {"parcels": {"L_A": {"sources": [{"model": "vit", "layer": 3}], "delay_tr": 3.0}, "idle": {"sources": []}}}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (json.dumps(TRUTH)[:-9], "found no JSON"),
        ("", "found an empty file"),
        ("[]", "found a JSON list"),
        ("{}", "found no such parcels"),
        ('{"parcels": []}', "found no such parcels"),
        ('{"parcels": {"L_A": null}}', "found no such parcels"),
        ('{"parcels": {"L_A": {"sources": {}}}}', "found no such parcels"),
        ('{"parcels": {"L_A": {"sources": [{"model": "vit"}], "delay_tr": 1}}}', "found no such parcels"),
        ('{"parcels": {"L_A": {"sources": [{"model": "vit", "layer": 1}]}}}', "found no such parcels"),
        ("[" * 100_000, "found no JSON"),
    ],
)
def test_a_damaged_truth_is_one_line(tmp_path: Path, text: str, line: str) -> None:
    paths = StudyPaths(tmp_path)
    paths.truth.parent.mkdir(parents=True)
    paths.truth.write_text(json.dumps(TRUTH))
    assert planted_truth(paths) == TRUTH
    paths.truth.write_text(text)
    with pytest.raises(StudyError, match=rf"truth.json: {line}.*; run `dvc repro`"):
        planted_truth(paths)


BOMB = "a: &a [x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "found an empty file"),
        ("# nothing\n", "found no regions"),
        ("[V1, V2]", "found no regions"),
        ("EV: V1", ", EV: found no list of labels"),
        ("EV: []", ", EV: found no list of labels"),
        ("EV: [V1, V1]", "found V1 twice"),
        ("EV: [V1]\nEV: [V2]", "the key .EV. twice"),
        ("EV: [true]", "found the label True"),
        ("EV: [2001-01-01]", "found the label datetime"),
        ("EV: [2001-99-99]", "found malformed YAML"),
        ("1: [V1]", "found the region 1, which is no text"),
        ("EV: [V1", "found malformed YAML"),
        ("EV: !!python/object:os.system [x]", "found malformed YAML"),
        ("? [a]\n: [V1]", "found malformed YAML"),
        ("EV: &a [*a]", "an alias inside what it stands for"),
        (BOMB, "more than 200000 values"),
        ("EV: " + "[" * 50_000, "found malformed YAML"),
        ("EV: [" + "V1, " * 200_000, "found malformed YAML \\(800005 characters, more than"),
    ],
)
def test_regions_that_are_none_are_one_line(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "rois.yaml").write_text(text)
    began = time.monotonic()
    with pytest.raises(StudyError, match=f"rois.yaml.*{line}") as error:
        load_rois("rois.yaml", tmp_path)
    assert len(str(error.value)) < 1000
    assert time.monotonic() - began < 10
