"""Sidecars and tables of confounds as tools and people leave them: right, or one line with file, column and row."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from nilearn.interfaces.fmriprep import load_confounds

from cinecube.store.base.errors import StudyError
from cinecube.store.cleaning.confounds import read_confounds
from cinecube.store.cube.cubes import open_cube
from cinecube.store.scans.bids import repetition_s

from .scan_tree import N_VOLUMES, SPACE, TR_S, Tree, assert_four_parts

pytestmark = pytest.mark.usefixtures("bounded")

Spoil = Callable[[Tree], object]


def _sidecar(text: str | bytes) -> Spoil:
    return lambda t: t.sidecar().write_bytes(text if isinstance(text, bytes) else text.encode())


def _tr(value: object) -> Spoil:
    return _sidecar(json.dumps({"RepetitionTime": value}))


def _put(column: str, row: int | slice, value: object) -> Spoil:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[row if isinstance(row, int) else table.index[row], column] = value
        return table

    return lambda t: t.confounds(change)


def _unsteady(*volumes: int) -> Spoil:
    marks = {
        f"non_steady_state_outlier{k:02d}": (np.arange(N_VOLUMES) == at).astype(float) for k, at in enumerate(volumes)
    }
    return lambda t: t.confounds(lambda table: pd.concat([table, pd.DataFrame(marks)], axis=1))


def _retold(change: Callable[[str], str | bytes]) -> Spoil:
    """The table's text changed."""

    def spoil(t: Tree) -> None:
        made = change(t.table().read_text())
        t.table().write_bytes(made if isinstance(made, bytes) else made.encode())

    return spoil


SAME: dict[str, Spoil] = {
    "a sidecar with a byte order mark": _sidecar(b"\xef\xbb\xbf" + json.dumps({"RepetitionTime": TR_S}).encode()),
    "no sidecar": lambda t: t.sidecar().unlink(),
    "a sidecar that says nothing of time": _sidecar('{"SkullStripped": false}'),
    "a sidecar without time, a header in milliseconds": lambda t: (
        t.sidecar().unlink(),
        t.scan(lambda v: v, tr_s=1490, units="msec"),
    ),
    "a table with a byte order mark": _retold(lambda text: "\ufeff" + text),
    "Windows line ends": _retold(lambda text: text.replace("\n", "\r\n")),
    "an empty line at the end": _retold(lambda text: text + "\n"),
    "no line end": _retold(lambda text: text.rstrip("\n")),
    "separated by commas": _retold(lambda text: text.replace("\t", ",")),
    "NaN for n/a": _retold(lambda text: text.replace("n/a", "NaN")),
    "a sidecar in milliseconds": _tr(1490),
    "a header in milliseconds that calls them seconds": lambda t: (
        t.sidecar().unlink(),
        t.scan(lambda v: v, tr_s=1490),
    ),
    "columns in another order": lambda t: t.confounds(lambda table: table[table.columns[::-1]]),
    "columns that are not asked for": lambda t: t.confounds(lambda table: table.assign(a_comp_cor_00="n/a")),
    "the older name": lambda t: t.rename("birch01.*confounds", "timeseries", "regressors"),
    "no displacement": lambda t: t.confounds(lambda table: table.drop(columns="framewise_displacement")),
    "no JSON beside the table, as is": lambda t: None,
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", SAME)
def test_same_numbers(tree: Tree, plain: dict[str, np.ndarray], name: str) -> None:
    SAME[name](tree)
    np.testing.assert_allclose(tree.cube()["bold"], plain["bold"], atol=2e-5)


ROW = r"desc-confounds_timeseries.tsv column {}: found {} in row {}, expected finite numbers; "
WRONG: dict[str, tuple[Spoil, str]] = {
    "broken JSON": (
        _sidecar('{"RepetitionTime": 1.4'),
        r"_bold.json: found no JSON \(.*, expected a JSON object with RepetitionTime",
    ),
    "an empty sidecar": (_sidecar(""), r"_bold.json: found an empty file, expected a JSON object"),
    "a list": (_sidecar("[1.49]"), r"_bold.json: found a JSON list, expected a JSON object"),
    "a number": (_sidecar("1.49"), r"_bold.json: found a JSON float, expected a JSON object"),
    "null": (_sidecar("null"), r"_bold.json: found a JSON NoneType"),
    "nested without end": (_sidecar("[" * 100_000), r"_bold.json: found no JSON"),
    "UTF-16": (
        _sidecar(json.dumps({"RepetitionTime": TR_S}).encode("utf-16")),
        r"found no UTF-8 text \(byte 0xff at 0\).*save it as UTF-8",
    ),
    "bytes": (_sidecar(bytes(range(128, 256))), r"found no UTF-8 text"),
    "a sidecar that is not here": (
        lambda t: (t.sidecar().unlink(), t.sidecar().symlink_to("gone.json")),
        r"found a file that was not fetched: \S*_bold.json, expected the files themselves; fetch it",
    ),
    "a sidecar that is a folder": (
        lambda t: (t.sidecar().unlink(), t.sidecar().mkdir()),
        r"_bold.json: found a folder",
    ),
    "text for time": (
        _tr("1.49"),
        r"found RepetitionTime '1.49', expected a number of seconds between volumes; set it",
    ),
    "a list for time": (_tr([1.49]), r"found RepetitionTime '\[1.49\]', expected a number of seconds"),
    "null for time": (_tr(None), r"found RepetitionTime 'None', expected a number of seconds"),
    "true for time": (_tr(True), r"found RepetitionTime 'True', expected a number of seconds"),
    "0 s": (_tr(0), r"found RepetitionTime '0', expected a number of seconds"),
    "a negative time": (_tr(-1.49), r"found RepetitionTime '-1.49', expected a number of seconds"),
    "a huge time": (
        _tr(1e300),
        r"found RepetitionTime '1e\+300', expected a number of seconds between volumes; set it to",
    ),
    "a time of 400 digits": (
        _sidecar(f'{{"RepetitionTime": 1{"0" * 400}}}'),
        r"found RepetitionTime '1000.*', expected",
    ),
    "NaN for time": (_sidecar('{"RepetitionTime": NaN}'), r"found RepetitionTime 'nan'"),
    "infinite time": (_sidecar('{"RepetitionTime": Infinity}'), r"found RepetitionTime 'inf'"),
    "a time that the header contradicts": (
        _tr(2.0),
        r"_bold.json: found RepetitionTime 2 s, expected 1.49 s, as the header of the scan says; correct the one",
    ),
    "another clock": (
        lambda t: (_tr(2.0)(t), t.scan(lambda v: v, tr_s=2.0)),
        r"birch01 repeat 1: found a TR of 2.0 s, expected clock.tr_s: 1.49; set clock.tr_s",
    ),
    "no time anywhere": (
        lambda t: (t.sidecar().unlink(), t.scan(lambda v: v, tr_s=0, units="unknown")),
        r"found a time of 0 s between volumes",
    ),
    "no table": (
        lambda t: t.table().unlink(),
        r"birch01 repeat 1: found no table of confounds, expected \S*_timeseries.tsv, for brain.confounds: simple",
    ),
    "an empty table": (
        _retold(lambda text: ""),
        r"timeseries.tsv: found an empty file, expected what brain.confounds: simple",
    ),
    "a header alone": (_retold(lambda text: text.split("\n")[0] + "\n"), r"found 0 rows, expected 40, one a volume of"),
    "both names": (
        lambda t: t.table().with_name(t.table().name.replace("timeseries", "regressors")).write_text("a\tb\n"),
        r"found \S+timeseries.tsv and \S+regressors.tsv, expected one table of confounds; keep one",
    ),
    "a table that is not here": (
        lambda t: (t.table().unlink(), t.table().symlink_to("../.git/annex/objects/a.tsv")),
        r"found a file that was not fetched: .*timeseries.tsv, .*datalad get",
    ),
    "a row too many": (
        lambda t: t.confounds(lambda x: pd.concat([x, x[:1]])),
        r"found 41 rows, expected 40, one a volume of",
    ),
    "a row too few": (lambda t: t.confounds(lambda x: x[:-1]), r"found 39 rows, expected 40, one a volume of"),
    "a cut row": (_retold(lambda text: text[:-100]), r"found \d+ fields in row 40, expected 37, one a column"),
    "cut in a number's row": (_retold(lambda text: text[: text.rindex("\n", 0, -1) + 3]), r"found 1 fields in row 40"),
    "a field too many": (_retold(lambda text: text.rstrip("\n") + "\t1\n"), r"found 38 fields in row 40"),
    "a missing column": (
        lambda t: t.confounds(lambda x: x.drop(columns=["rot_x", "csf"])),
        r"found no column rot_x, csf; there are .*, expected what brain.confounds: simple takes out; run",
    ),
    "motion alone": (
        lambda t: t.confounds(lambda x: x.filter(regex="^(trans|rot)_[xyz]$")),
        r"found no column trans_x_derivative1, .* …",
    ),
    "no header": (_retold(lambda text: text.split("\n", 1)[1]), r"found no column trans_x, .* …; there are"),
    "names of before 1.2": (
        _retold(lambda text: text.replace("trans_x", "X").replace("csf", "CSF")),
        r"found no column trans_x, .*csf",
    ),
    "a column twice": (_retold(lambda text: text.replace("global_signal_power2", "csf", 1)), r"found column csf twice"),
    "separated by semicolons": (_retold(lambda text: text.replace("\t", ";")), r"found no column trans_x, "),
    "UTF-16 table": (_retold(lambda text: text.encode("utf-16")), r"timeseries.tsv: found no UTF-8 text"),
    "a quote that is not closed": (
        _retold(lambda text: text.replace("0.", '"0.', 1)),
        r"found no table \(|fields in row",
    ),
    "a zero byte": (_retold(lambda text: text.replace("0.", "\0.", 1)), r"found no table \(|found '.*' in row"),
    "n/a throughout": (_put("csf", slice(None), "n/a"), ROW.format("csf", "'n/a'", 1)),
    "n/a in the middle": (_put("rot_x", 17, "n/a"), ROW.format("rot_x", "'n/a'", 18)),
    "n/a in the first row of motion": (_put("trans_y", 0, "n/a"), ROW.format("trans_y", "'n/a'", 1)),
    "n/a in two rows of a derivative": (
        _put("trans_y_derivative1", 1, "n/a"),
        ROW.format("trans_y_derivative1", "'n/a'", 1),
    ),
    "n/a in the last row": (_put("white_matter", 39, "n/a"), ROW.format("white_matter", "'n/a'", 40)),
    "inf": (_put("csf", 3, "inf"), ROW.format("csf", "'inf'", 4)),
    "minus inf in the first row": (_put("rot_z_derivative1", 0, "-inf"), ROW.format("rot_z_derivative1", "'-inf'", 1)),
    "nan in a middle row": (_put("csf", 3, "nan"), ROW.format("csf", "'nan'", 4)),
    "past a float": (_put("csf", 3, "1e999"), ROW.format("csf", "'1e999'", 4)),
    "text": (_put("rot_y", 9, "high"), ROW.format("rot_y", "'high'", 10)),
    "an empty field": (_put("rot_y", 9, ""), ROW.format("rot_y", "(''|'\"\"')", 10)),
    "decimal commas": (_put("rot_y", 9, "0,5"), ROW.format("rot_y", "'0,5'", 10)),
    "text in the displacement": (
        _put("framewise_displacement", 5, "?"),
        ROW.format("framewise_displacement", r"'\?'", 6),
    ),
    "text for a mark": (
        lambda t: t.confounds(lambda x: x.assign(non_steady_state_outlier00="no")),
        ROW.format("non_steady_state_outlier00", "'no'", 1),
    ),
    "all volumes unsteady": (
        _unsteady(*range(N_VOLUMES)),
        r"timeseries.tsv: found every volume marked as not in steady state",
    ),
    "nearly all unsteady": (
        _unsteady(*range(12)),
        r"birch01 repeat 1: found 28 regressors for 28 volumes, expected fewer",
    ),
    "more regressors than volumes": (
        _unsteady(*range(14)),
        r"birch01 repeat 1: found 28 regressors for 26 volumes, expected fewer regressors than volumes; set",
    ),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", WRONG)
def test_one_line(tree: Tree, name: str) -> None:
    spoil, line = WRONG[name]
    spoil(tree)
    assert_four_parts(tree.error("brain", "sub-01"), line)
    assert not (tree.root / "data/brain").exists()


@pytest.mark.parametrize("strategy", ["motion", "simple", "simple+gsr"])
@pytest.mark.parametrize("unsteady", [(), (0, 1)])
def test_confounds_are_those_of_nilearn(tree: Tree, strategy: str, unsteady: tuple[int, ...]) -> None:
    _unsteady(*unsteady)(tree)
    found = read_confounds(tree.table(), strategy, N_VOLUMES, "birch01")
    parts = ("motion", "wm_csf", *(("global_signal",) if strategy == "simple+gsr" else ()))
    motion = "basic" if strategy == "motion" else "full"
    expected, kept = load_confounds(str(tree.bold()), strategy=parts, motion=motion, demean=False)
    assert found.regressors is not None
    assert set(found.regressors) == set(expected)
    np.testing.assert_array_equal(found.regressors[expected.columns], expected)
    np.testing.assert_array_equal(np.flatnonzero(found.kept), np.arange(N_VOLUMES) if kept is None else kept)


def test_constant_confounds_take_nothing_out_and_are_told(tree: Tree) -> None:
    """A constant of 500 keeps rounding when its mean is taken out, and would be scaled up to a regressor."""
    for showing in ("amber01_run-1", "amber01_run-2", "birch01"):
        table = pd.read_csv(tree.table(showing), sep="\t")
        table.assign(csf=500.1).to_csv(tree.table(showing), sep="\t", index=False, na_rep="n/a")
    result = tree.must("brain", "sub-01")
    assert "csf is constant in 3 runs" in result.stderr
    assert set(pd.read_csv(tree.root / "data/brain/sub-01.qc.csv")["regressors"]) == {27}


def test_no_confounds_need_no_table(tree: Tree) -> None:
    tree.brain(confounds="none")
    tree.table().unlink()
    tree.must("brain", "sub-01")
    quality = pd.read_csv(tree.root / "data/brain/sub-01.qc.csv")
    assert quality["mean_framewise_displacement_mm"].isna().tolist() == [False, False, True]


def test_without_confounds_volumes_before_the_steady_state_stay_and_are_told(tree: Tree) -> None:
    tree.brain(confounds="none")
    before = tree.cube()["bold"]
    _unsteady(0, 1)(tree)
    assert (
        "marks 2 volumes of 1 runs as before the steady state; brain.confounds: none"
        in tree.must("brain", "sub-01").stderr
    )
    with open_cube(tree.root / "data/brain/sub-01.zarr") as cube:
        np.testing.assert_array_equal(cube["bold"].values, before)
    quality = pd.read_csv(tree.root / "data/brain/sub-01.qc.csv")
    assert quality["non_steady_volumes"].tolist() == [0, 0, 2]
    assert quality["left_out_volumes"].tolist() == [0, 0, 0]


def test_one_run_without_its_session_in_the_name_of_the_space(tree: Tree) -> None:
    """`res-` stands in the volumes' names, never in the table's."""
    tree.rename("", f"space-{SPACE}", f"space-{SPACE}_res-native")
    assert tree.cube()["bold"].std() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("header_s", "sidecar_s", "is_same"),
    [
        (1.49, 1.49, True),
        (float(np.float32(1.49)), 1.49, True),
        (0.3, 0.30045, True),  # rounded to a millisecond
        (1.4913, 1.49, False),  # half a second in a run of ten minutes
        (0.7207, 0.72, False),
        (10.009, 10.0, False),
        (1490, 1.49, True),
    ],
)
def test_header_and_sidecar_have_one_tr(tmp_path: Path, header_s: float, sidecar_s: float, is_same: bool) -> None:
    sidecar = tmp_path / "sub-01_task-a_bold.json"
    sidecar.write_text(json.dumps({"RepetitionTime": sidecar_s}))
    scan = sidecar.with_suffix(".nii.gz")
    if is_same:
        assert repetition_s(scan, [sidecar], header_s, True)[0] == sidecar_s
    else:
        with pytest.raises(StudyError, match="as the header of the scan says"):
            repetition_s(scan, [sidecar], header_s, True)
