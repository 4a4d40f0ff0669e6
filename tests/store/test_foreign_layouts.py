"""Features as labs keep them: other tables, other places in HDF5, labels among the columns. Right, or one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from cinecube.store.base.errors import StudyError
from cinecube.store.foreign.foreign_arrays import Foreign, read_foreign

TR_S, N_ROWS = 1.5, 7
SEGMENTS = ("hawk_01", "wolf_01", "wolf_02")
ROWS = pd.DataFrame([(name, row * TR_S) for name in SEGMENTS for row in range(N_ROWS)], columns=["segment", "onset_s"])
VALUES = np.random.default_rng(0).standard_normal((len(ROWS), 3)).round(6)
PARTS = dict(zip(SEGMENTS, np.split(VALUES, len(SEGMENTS)), strict=True))
TABLE = pd.concat([ROWS, pd.DataFrame(VALUES, columns=["loud", "pitch", "rate"])], axis=1)
NUMBER = np.arange(len(ROWS))


def _read(path: Path, table: Path | None = None, **how: object) -> Foreign:
    return read_foreign(path, table, usual_tr_s=TR_S, segments=SEGMENTS, **how)  # type: ignore[arg-type]


def _is_right(found: Foreign) -> None:
    np.testing.assert_array_equal(found.values, VALUES)
    assert found.rows["segment"].tolist() == ROWS["segment"].tolist()
    np.testing.assert_array_equal(found.rows["onset_s"], ROWS["onset_s"])


def _written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    ROWS.to_csv(tmp_path / "rows.csv", index=False)
    return tmp_path / "rows.csv"


# Columns that are no features

LABELS = {
    "an index": lambda t: t.reset_index(),
    "an index without a name": lambda t: t.rename_axis(None).reset_index(names=""),
    "an index of rows that were kept": lambda t: t.assign(row=NUMBER * 3 + NUMBER % 2),
    "an index of shuffled rows": lambda t: t.assign(Index=np.random.default_rng(0).permutation(NUMBER)),
    "an index by segment": lambda t: t.assign(**{"Unnamed: 0": np.tile(np.arange(N_ROWS), len(SEGMENTS))}),
    "an index from one on": lambda t: t.assign(number=NUMBER + 1),
    "ends": lambda t: t.assign(end_s=t.onset_s + TR_S, duration_s=TR_S),
    "ends and lengths in milliseconds": lambda t: t.assign(Offset=1e3 * t.onset_s + 900, DURATION_MS=900),
    "volumes": lambda t: t.assign(TR=(t.onset_s / TR_S).astype(int)),
    "minutes, rounded": lambda t: t.assign(minutes=(t.onset_s / 60).round(4)),
    "time that is left": lambda t: t.assign(left=N_ROWS * TR_S - t.onset_s),
    "who and where": lambda t: t.assign(subject="sub-03", session=2, film=t.segment.str[:4], run=1),
    "text by segment": lambda t: t.assign(scene_of=t.segment.str.replace("_", " no. ") + ".mkv"),
}


@pytest.mark.parametrize("change", LABELS.values(), ids=LABELS)
def test_columns_that_are_no_features_are_left_out_and_told(
    tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]
) -> None:
    change(TABLE).to_csv(tmp_path / "f.csv", index=False)
    more = [name or "Unnamed: 0" for name in change(TABLE) if name not in TABLE]
    found = _read(tmp_path / "f.csv")
    _is_right(found)
    assert found.names == ("loud", "pitch", "rate")
    assert sorted(found.left_out) == sorted(more)
    assert all(any(name in line for line in found.said) for name in more)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_table_that_pandas_saved_again_and_again(tmp_path: Path, times: int) -> None:
    table = TABLE
    for _ in range(times):
        table.to_csv(tmp_path / "f.csv")
        table = pd.read_csv(tmp_path / "f.csv")
    found = _read(tmp_path / "f.csv")
    _is_right(found)
    assert len(found.left_out) == times


def test_a_dim_of_an_array_that_numbers_its_rows(tmp_path: Path, rows: Path) -> None:
    np.save(tmp_path / "f.npy", np.column_stack([VALUES[:, :2], NUMBER, VALUES[:, 2]]))
    found = _read(tmp_path / "f.npy", rows)
    _is_right(found)
    assert (found.names, list(found.left_out)) == ((), ["2"])


FEATURES = {
    "whole numbers": lambda t: t.assign(faces=np.random.default_rng(1).integers(0, 4, len(t))),
    "zero and one": lambda t: t.assign(music=NUMBER % 2),
    "what mostly rises": lambda t: t.assign(sum=np.cumsum(np.abs(VALUES[:, 0]))),
    "what rises to a half": lambda t: t.assign(ramp=np.minimum(t.onset_s, 5.0)),
    "what stays": lambda t: t.assign(silent=0.0),
}


@pytest.mark.parametrize("change", FEATURES.values(), ids=FEATURES)
def test_features_that_look_a_little_like_labels_stay(
    tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]
) -> None:
    change(TABLE).to_csv(tmp_path / "f.csv", index=False)
    found = _read(tmp_path / "f.csv")
    assert len(found.names) == 4
    assert not found.left_out
    assert not found.said


NOISE = np.random.default_rng(2).standard_normal(len(ROWS))
UNCLEAR = {
    "a length that is none of the rows'": ("duration", NOISE),
    "a time that falls back": ("time", NOISE),
    "an index that numbers nothing": ("index", NOISE),
    "values below no name": ("", NOISE),
    "runs within a segment": ("run", NUMBER % 2),
}


@pytest.mark.parametrize(("name", "values"), UNCLEAR.values(), ids=UNCLEAR)
def test_what_cannot_be_told_is_refused_and_can_be_chosen(tmp_path: Path, name: str, values: np.ndarray) -> None:
    TABLE.assign(**{name: values}).to_csv(tmp_path / "f.csv", index=False)
    known = name or "Unnamed: 5"
    with pytest.raises(StudyError, match=rf"column {known}: found .* name the features by `columns=`") as error:
        _read(tmp_path / "f.csv")
    assert "\n" not in str(error.value)
    found = _read(tmp_path / "f.csv", chosen=["loud", known])
    assert found.names == ("loud", known)
    np.testing.assert_array_equal(found.values[:, 1], values)


def test_nothing_but_labels_is_refused(tmp_path: Path) -> None:
    ROWS.assign(number=NUMBER).to_csv(tmp_path / "f.csv", index=False)
    with pytest.raises(StudyError, match="column number: found values that rise with the rows, and no other"):
        _read(tmp_path / "f.csv")
    ROWS.to_csv(tmp_path / "f.csv")
    with pytest.raises(StudyError, match="found no feature beside Unnamed: 0"):
        _read(tmp_path / "f.csv")
    TABLE.to_csv(tmp_path / "f.csv")
    with pytest.raises(StudyError, match="found no column 'louder', expected one of Unnamed: 0, loud"):
        _read(tmp_path / "f.csv", chosen=["louder"])


# Tables in other forms

FORMS: dict[str, tuple[Callable[[], str], bool]] = {
    "semicolons and decimal commas": (lambda: TABLE.to_csv(index=False, sep=";", decimal=","), False),
    "semicolons and points": (lambda: TABLE.to_csv(index=False, sep=";"), False),
    "tabs and decimal commas": (lambda: TABLE.to_csv(index=False, sep="\t", decimal=","), False),
    "blanks": (lambda: TABLE.to_csv(index=False, sep=" "), False),
    "quotes and decimal commas": (lambda: TABLE.map(_comma).to_csv(index=False, quoting=1), False),
    "a byte order mark": (lambda: "\ufeff" + TABLE.to_csv(index=False), False),
    "blanks around values": (lambda: TABLE.to_csv(index=False).replace(",", " , "), False),
    "line ends of Windows": (lambda: TABLE.to_csv(index=False, lineterminator="\r\n"), False),
    "blank lines around": (lambda: "\n\n" + TABLE.to_csv(index=False) + "\n \n", False),
    "labels in capitals": (lambda: TABLE.rename(columns=str.upper).to_csv(index=False), False),
    "names of rows as R writes them": (
        lambda: TABLE.set_axis(NUMBER + 1).to_csv(sep="\t", quoting=2).replace('""\t', "", 1),
        False,
    ),
    "no names": (lambda: _features().to_csv(index=False, header=False), True),
    "no names, from numpy": (lambda: "\n".join(" ".join(f"{v:.18e}" for v in row) for row in VALUES), True),
    "no names, decimal commas": (lambda: _features().to_csv(index=False, header=False, sep=";", decimal=","), True),
    "numbers for names": (lambda: pd.DataFrame(VALUES).to_csv(index=False), True),
    "bands for names": (lambda: _features().set_axis([125, 250, 500], axis=1).to_csv(index=False), True),
    "numbers for names, and an index": (lambda: pd.DataFrame(VALUES).to_csv(), True),
}


def _features() -> pd.DataFrame:
    return TABLE.drop(columns=["segment", "onset_s"])


def _comma(value: object) -> str:
    return str(value).replace(".", ",")


@pytest.mark.parametrize(("text", "needs_rows"), FORMS.values(), ids=FORMS)
def test_tables_in_other_forms_give_the_same_numbers(
    tmp_path: Path, rows: Path, text: Callable[[], str], needs_rows: bool
) -> None:
    path = _written(tmp_path / "f.csv", text())
    _is_right(_read(path, rows if needs_rows else None))


def test_a_first_line_of_whole_numbers_is_told_by_the_table_of_rows(tmp_path: Path, rows: Path) -> None:
    values = np.random.default_rng(3).integers(0, 2, (len(ROWS), 2))
    values[0] = 0, 1
    path = _written(tmp_path / "f.csv", pd.DataFrame(values).to_csv(index=False, header=False))
    np.testing.assert_array_equal(_read(path, rows).values, values)
    path = _written(tmp_path / "f.csv", pd.DataFrame(values).to_csv(index=False))
    np.testing.assert_array_equal(_read(path, rows).values, values)


WRONG = {
    "decimal commas between commas": ("segment,onset_s,x\na,0,0,5\na,1,5,7,5\n", "if commas are decimal points"),
    "one column of decimal commas": ("x\n1,5\n2,5\n", "commas are decimal points"),
    "thousands": ("segment\tonset_s\tx\na\t0\t1,234\na\t1.5\t2,500\n", "thousands or a fraction"),
    "points for thousands": ("segment;onset_s;x\na;0;1.234,5\na;1,5;2\n", "column x: found text"),
    "labels without names": ("a,0.0,0.3\na,1.5,0.4\n", "write them there: segment,onset_s"),
    "a longer line": ("segment,onset_s,x\na,0,1\na,1.5,1,2\n", "lines with more values than the first"),
    "a shorter line": ("segment,onset_s,x\na,0,1\na,1.5\n", "a at 1.5 s: found NaN"),
    "a blank line inside": ("segment,onset_s,x\na,0,1\n\na,3,1\n", "no segment in row 2"),
    "a value that is no number": ("segment,onset_s,x\na,0,1\na,1.5,loud\n", "column x: found text"),
}


@pytest.mark.parametrize(("text", "said"), WRONG.values(), ids=WRONG)
def test_tables_that_would_give_wrong_numbers_are_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(StudyError, match=said) as error:
        _read(_written(tmp_path / "f.csv", text))
    assert "\n" not in str(error.value)


def test_folders_keep_every_row(tmp_path: Path) -> None:
    """Files without names have no row less, a blank line shifts none, and what systems leave there is not read."""
    folder = tmp_path / "f"
    folder.mkdir()
    for name, part in PARTS.items():
        np.savetxt(folder / f"{name}.csv", part, delimiter=",", fmt="%.6f")
        (folder / f"._{name}.csv").write_bytes(b"\x00\x05\x16\x07")
    for name in (".DS_Store", "Thumbs.db", ".wolf_03.npy"):
        (folder / name).write_bytes(b"\x00")
    found = _read(folder)
    _is_right(found)
    assert found.said == ("no names of columns: the first line is a row",)
    _written(folder / "hawk_01.csv", "0.5\n\n0.25\n")
    for name in SEGMENTS[1:]:
        _written(folder / f"{name}.csv", "0.5\n0.75\n0.25\n")
    with pytest.raises(StudyError, match="hawk_01 at 1.5 s: found NaN"):
        _read(folder)
    _written(folder / "hawk_01.csv", "0,1\n1,1\n0,1\n")
    with pytest.raises(StudyError, match="hawk_01.csv: found a first line 0, 1, which may be names or values"):
        _read(folder)


# Data sets in HDF5


def _hdf5(path: Path, **arrays: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        for place, array in arrays.items():
            file[place] = array
    return path


PLACES: dict[str, tuple[Callable[[str], str], str | None, dict[str, np.ndarray]]] = {
    "a name in each segment's group": (lambda s: f"{s}/clip", None, {}),
    "one of two names in each": (lambda s: f"{s}/clip", "clip", {f"{s}/dino": VALUES for s in SEGMENTS}),
    "deep names": (lambda s: f"{s}/model/layer_3", "model/layer_3", {f"{s}/model/layer_4": VALUES for s in SEGMENTS}),
    "the last name of deep ones": (lambda s: f"{s}/a/out", "out", {f"{s}/a/in": VALUES for s in SEGMENTS}),
    "groups of films": (lambda s: f"{s.split('_')[0]}/{s}", None, {}),
    "groups of films, names in each": (lambda s: f"{s[:4]}/{s}/x", "x", {f"{s[:4]}/{s}/y": VALUES for s in SEGMENTS}),
    "a group beside others": (lambda s: f"movie10/{s}", None, {"notes/rates": VALUES}),
    "one of two groups": (lambda s: f"b/{s}", "b", {f"a/{s}": VALUES for s in SEGMENTS}),
    "a group and a name": (
        lambda s: f"b/{s}/x",
        "b/x",
        {f"{g}/{s}/{n}": VALUES for g, n in ("ay", "ax", "by") for s in SEGMENTS},
    ),
    "keys of scans": (lambda s: f"ses-{len(s):03d}_task-{s.replace('_', '')}", None, {}),
    "keys of scans below a subject": (lambda s: f"sub-1/task-{s.replace('_', '')}_run-1", None, {}),
    "text beside": (lambda s: s, None, {"dims": np.array([b"a", b"b", b"c"])}),
}


@pytest.mark.parametrize(("place", "dataset", "others"), PLACES.values(), ids=PLACES)
def test_data_sets_are_found_where_labs_keep_them(
    tmp_path: Path, place: Callable[[str], str], dataset: str | None, others: dict[str, np.ndarray]
) -> None:
    path = _hdf5(tmp_path / "f.h5", **others, **{place(name): part for name, part in PARTS.items()})
    found = _read(path, dataset=dataset)
    _is_right(found)
    assert bool(found.said) == ("task-" in place("a_1") or "notes/rates" in others)


SEVERAL = {
    "two names": ({f"{s}/{n}": PARTS[s] for s in SEGMENTS for n in ("clip", "dino")}, "clip"),
    "one has tokens": (
        {f"{s}/{n}": PARTS[s] if n == "z" else np.zeros((N_ROWS, 2, 3)) for s in SEGMENTS for n in "az"},
        "z",
    ),
    "two groups": ({f"{g}/{s}": PARTS[s] for g in ("old", "new") for s in SEGMENTS}, "new"),
    "groups and names": ({f"{g}/{s}/{n}": PARTS[s] for g in "ab" for s in SEGMENTS for n in "xy"}, "a/x"),
}


@pytest.mark.parametrize(("arrays", "named"), SEVERAL.values(), ids=SEVERAL)
def test_of_several_data_sets_the_line_names_the_option_that_reads_one(
    tmp_path: Path, arrays: dict[str, np.ndarray], named: str
) -> None:
    path = _hdf5(tmp_path / "f.h5", **arrays)
    with pytest.raises(StudyError, match=rf"add `dataset={named}`$"):
        _read(path)
    _is_right(_read(path, dataset=named))


def test_hdf5_that_cannot_be_read_is_told_once(tmp_path: Path, rows: Path) -> None:
    path = _hdf5(tmp_path / "f.h5", **{f"{s}/{n}": PARTS[s] for s in SEGMENTS for n in ("clip", "dino")})
    with pytest.raises(StudyError, match="found no data set 'clop', expected one of clip, dino"):
        _read(path, dataset="clop")
    with pytest.raises(StudyError, match="of wolf_01 alone, expected .*; say `dataset=clip`, which reads all"):
        _read(path, dataset="wolf_01/clip")
    with pytest.raises(StudyError, match="of wolf_01 alone, expected those of hawk_01, wolf_02 too; drop `dataset=`"):
        _read(_hdf5(tmp_path / "f.h5", **PARTS), dataset="wolf_01")
    short = {name.replace("_", "")[1:]: part for name, part in PARTS.items()}
    for tail in ("", "/clip"):
        path = _hdf5(tmp_path / "f.h5", **{f"{name}{tail}": part for name, part in short.items()})
        with pytest.raises(StudyError, match="call awk01 hawk_01, as `films` in params.yaml does"):
            _read(path)
    twice = _hdf5(tmp_path / "f.h5", **{f"ses-{n}_task-wolf01": VALUES for n in (1, 2)})
    with pytest.raises(StudyError, match=r"ses-1_task-wolf01 \(21, 3\), ses-2_task-wolf01 .* keep one of them"):
        _read(twice)
    one = _hdf5(tmp_path / "f.h5", hawk_01=PARTS["hawk_01"])
    assert set(_read(one).rows["segment"]) == {"hawk_01"}
    all_rows = _hdf5(tmp_path / "f.h5", x=VALUES, names=np.array([b"a", b"b", b"c"]))
    _is_right(_read(all_rows, rows))


def test_a_zip_made_on_a_mac_and_keys_of_scans(tmp_path: Path, rows: Path) -> None:
    keys = {f"ses-001_task-{name.replace('_', '')}": part for name, part in PARTS.items()}
    np.savez(tmp_path / "f.npz", **keys, **{"__MACOSX/._a": np.zeros(3)})  # type: ignore[arg-type]
    found = _read(tmp_path / "f.npz")
    _is_right(found)
    assert found.said == ("ses-001_task-hawk01 is taken for hawk_01, and 2 more likewise",)
    np.savez(tmp_path / "f.npz", features=VALUES)
    _is_right(_read(tmp_path / "f.npz", rows))
