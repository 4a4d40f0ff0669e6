"""Arrays of other programs: every kind of file gives the same rows, and every fault is one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cinecube.store.base.errors import StudyError
from cinecube.store.foreign.foreign_arrays import read_foreign

TR_S = 1.49
LENGTHS = {"a01": 5, "a02": 4}
VALUES = np.random.default_rng(0).standard_normal((9, 3))
PARTS = {"a01": VALUES[:5], "a02": VALUES[5:]}
ROWS = pd.DataFrame(
    {
        "segment": np.repeat(list(LENGTHS), list(LENGTHS.values())),
        "onset_s": np.concatenate([np.round(np.arange(n) * TR_S, 6) for n in LENGTHS.values()]),
    }
)
FEATURES = pd.DataFrame(VALUES, columns=["loud", "pitch", "rate"])


def _hdf5(path: Path, **arrays: np.ndarray) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name.replace("__", "/")] = array
    return path


def _npy(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)
    return path


def _csv(path: Path, table: pd.DataFrame) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return _csv(tmp_path / "rows.csv", ROWS.assign(comment="ignored"))


@pytest.mark.parametrize("kind", ["npy", "csv", "csv alone", "tsv alone", "h5", "h5 named"])
def test_one_array_with_its_rows(tmp_path: Path, table: Path, kind: str) -> None:
    together = pd.concat([ROWS, FEATURES], axis=1)
    found = {
        "npy": lambda: read_foreign(_npy(tmp_path / "f.npy", VALUES), table),
        "csv": lambda: read_foreign(_csv(tmp_path / "f.csv", FEATURES), table),
        "csv alone": lambda: read_foreign(_csv(tmp_path / "f.csv", together)),
        "tsv alone": lambda: read_foreign(_csv(tmp_path / "f.tsv", together)),
        "h5": lambda: read_foreign(_hdf5(tmp_path / "f.h5", x=VALUES), table),
        "h5 named": lambda: read_foreign(_hdf5(tmp_path / "f.hdf5", g__x=VALUES, y=VALUES * 2), table, "g/x"),
    }[kind]()
    np.testing.assert_array_equal(found.values, VALUES)
    assert found.rows["segment"].tolist() == ROWS["segment"].tolist()
    np.testing.assert_array_equal(found.rows["onset_s"], ROWS["onset_s"])
    assert found.names == (("loud", "pitch", "rate") if "sv" in kind else ())


@pytest.mark.parametrize("kind", ["npz", "folder", "folder of csv", "h5", "h5 group"])
def test_an_array_per_segment(tmp_path: Path, kind: str) -> None:
    if kind == "npz":
        np.savez(tmp_path / "f.npz", **PARTS)  # type: ignore[arg-type]
        found = read_foreign(tmp_path / "f.npz", tr_s=TR_S)
    elif kind.startswith("folder"):
        for name, part in PARTS.items():
            if kind == "folder":
                _npy(tmp_path / "f" / f"{name}.npy", part)
            else:
                _csv(tmp_path / "f" / f"{name}.csv", pd.DataFrame(part, columns=FEATURES.columns))
        found = read_foreign(tmp_path / "f", tr_s=TR_S)
    elif kind == "h5":
        found = read_foreign(_hdf5(tmp_path / "f.h5", **PARTS), tr_s=TR_S)
    else:
        arrays = {f"g__{name}": part for name, part in PARTS.items()}
        found = read_foreign(_hdf5(tmp_path / "f.h5", other=VALUES, **arrays), dataset="g", tr_s=TR_S)
    np.testing.assert_array_equal(found.values, VALUES)
    pd.testing.assert_frame_equal(found.rows, ROWS, check_dtype=False)


def test_a_vector_is_one_dim_and_integers_are_numbers(tmp_path: Path, table: Path) -> None:
    found = read_foreign(_npy(tmp_path / "f.npy", np.arange(9)), table)
    assert found.values.shape == (9, 1)
    assert found.values.dtype == np.float64


def _changed(path: Path, **columns: object) -> Path:
    return _csv(path, ROWS.assign(**columns))  # type: ignore[arg-type]


def _with_nan() -> np.ndarray:
    values = VALUES.copy()
    values[6, 1] = np.nan
    return values


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda d: (d / "gone.npy", d / "rows.csv"), "gone.npy: found nothing"),
        (lambda d: (_npy(d / "f.npy", VALUES).rename(d / "f.mat"), d / "rows.csv"), "found suffix '.mat'"),
        (lambda d: (_npy(d / "f.npy", VALUES), None), "found no labels of its rows"),
        (lambda d: (_npy(d / "f.npy", VALUES), d / "gone.csv"), "gone.csv: found no such file"),
        (lambda d: (_npy(d / "f.npy", VALUES[:8]), d / "rows.csv"), "found 8 rows, expected 9"),
        (lambda d: (_npy(d / "f.npy", _with_nan()), d / "rows.csv"), r"a02 at 1.49 s: found NaN or infinity \(1 in"),
        (lambda d: (_npy(d / "f.npy", VALUES[None]), d / "rows.csv"), r"found shape \(1, 9, 3\)"),
        (lambda d: (_npy(d / "f.npy", VALUES[:, :0]), d / "rows.csv"), r"found shape \(9, 0\)"),
        (lambda d: (_npy(d / "f.npy", VALUES + 1j), d / "rows.csv"), "found values of type complex128"),
        (lambda d: (_npy(d / "f.npy", VALUES.astype(object)), d / "rows.csv"), "f.npy: found an unreadable file"),
        (
            lambda d: (_npy(d / "f.npy", VALUES), _changed(d / "r.csv", onset_s=ROWS["onset_s"][::-1].to_numpy())),
            "a01: found onset 2.98 s after 4.47 s, expected rising",
        ),
        (
            lambda d: (_npy(d / "f.npy", VALUES), _changed(d / "r.csv", onset_s="soon")),
            "found an onset_s that is no number",
        ),
        (
            lambda d: (_npy(d / "f.npy", VALUES), _changed(d / "r.csv", segment=["a01"] * 5 + [None] * 4)),
            "found no segment in row 6",
        ),
        (lambda d: (_npy(d / "f.npy", VALUES), _csv(d / "r.csv", FEATURES)), "columns loud, pitch, rate, expected seg"),
        (lambda d: (_csv(d / "f.csv", FEATURES.assign(loud="x")), d / "rows.csv"), "column loud: found text"),
        (lambda d: (_csv(d / "f.csv", FEATURES.assign(segment="a01")), None), "found a column segment alone"),
        (lambda d: (_hdf5(d / "f.h5", x=VALUES, y=VALUES), d / "rows.csv"), "rows.csv: found a table of rows"),
    ],
)
def test_faults_are_named(
    tmp_path: Path, table: Path, make: Callable[[Path], tuple[Path, Path | None]], said: str
) -> None:
    path, rows = make(tmp_path)
    with pytest.raises(StudyError, match=said) as error:
        read_foreign(path, rows)
    assert "\n" not in str(error.value)


def test_damaged_files_are_one_line(tmp_path: Path, table: Path) -> None:
    for name in ("f.npy", "f.npz", "f.h5", "f.csv"):
        (tmp_path / name).write_bytes(b"\x93NUMPY\x00\xff" if name != "f.csv" else b"")
        with pytest.raises(StudyError, match=f"{name}: found an unreadable file"):
            read_foreign(tmp_path / name, table)


def test_unequal_segments_and_two_files_of_one_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    _npy(folder / "a01.npy", VALUES)
    _npy(folder / "a02.npy", VALUES[:, :2])
    with pytest.raises(StudyError, match="a02: found 2 dims"):
        read_foreign(folder)
    _csv(folder / "a01.csv", FEATURES)
    with pytest.raises(StudyError, match="found a second file of the segment"):
        read_foreign(folder)


def test_hdf5_that_points_elsewhere_is_not_followed(tmp_path: Path, table: Path) -> None:
    h5py = pytest.importorskip("h5py")
    _hdf5(tmp_path / "secret.h5", x=VALUES)
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["link"] = h5py.ExternalLink("secret.h5", "x")
        file["g/link"] = h5py.ExternalLink("secret.h5", "x")
        file.create_dataset("raw", (9, 3), "f8", external=[(tmp_path / "secret.h5", 0, h5py.h5f.UNLIMITED)])
        layout = h5py.VirtualLayout((9, 3), "f8")
        layout[:] = h5py.VirtualSource(tmp_path / "secret.h5", "x", (9, 3))
        file.create_virtual_dataset("view", layout)
    for name in ("link", "g/link", "raw", "view"):
        with pytest.raises(StudyError):
            read_foreign(tmp_path / "f.h5", table, name)
