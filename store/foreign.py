"""Arrays that other programs wrote, and which moment of which segment each of their rows is."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cinecube.store.errors import StudyError, environment_error
from cinecube.store.foreign_bounds import look_at, look_at_dataset, look_at_numpy, look_at_table
from cinecube.store.schema import rows_index

LABELS = ("segment", "onset_s")
_TABLES = {".csv": ",", ".tsv": "\t"}
_NUMBERS = "fiub"
_HDF5 = (".h5", ".hdf5")
_KNOWN = ".npy, .npz, .csv, .tsv, .h5, .hdf5 or a folder of them"


@dataclass(frozen=True)
class Foreign:
    """Features that this package did not compute.

    Attributes
    ----------
    values : ndarray
        (row, dim), float64.
    rows : DataFrame
        `segment` and `onset_s` (start of the row's window in seconds from the segment's first frame) of each row.
    names : tuple of str
        Names of the dims; empty where the file names none.
    """

    values: np.ndarray
    rows: pd.DataFrame
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Array:
    """Numbers of one file or one data set: values (row, dim), names of dims, and row labels where it has them."""

    values: np.ndarray
    names: tuple[str, ...] = ()
    labels: pd.DataFrame | None = None


def read_foreign(
    path: Path,
    table: Path | None = None,
    dataset: str | None = None,
    tr_s: float | None = None,
    usual_tr_s: float = 1.0,
) -> Foreign:
    """Read features with their rows.

    Parameters
    ----------
    path : Path
        One array of all rows: `.npy`, `.csv`, `.tsv`, or a data set of an HDF5 file. Or an array per segment: a
        `.npz` file or a group of an HDF5 file with the segments' names, or a folder of `<segment>.npy` or `.csv`.
    table : Path, optional
        CSV with the columns `segment` and `onset_s` of each row of one array. A CSV of features may hold both itself.
    dataset : str, optional
        Data set or group of an HDF5 file; not needed if it holds only one data set, or one per segment.
    tr_s : float, optional
        Seconds between the rows of an array per segment, the first at 0.
    usual_tr_s : float
        The same where nothing is said.

    Raises
    ------
    StudyError
        If the file is unknown or unreadable, is no table of numbers, holds NaN, or its rows and labels do not fit.
    """
    found = _read(path, dataset)
    if isinstance(found, _Array):
        if tr_s is not None:
            raise _wrong("--tr", f"{tr_s:g} s, for rows that have onsets", "an array per segment", "drop it")
        rows = _labels(found, table, str(path))
        values, names = found.values, found.names
    else:
        if table is not None:
            raise _wrong(str(table), "a table of rows", "none: an array per segment has its rows in order", "drop it")
        rows = rows_index({name: np.arange(len(array.values)) * (tr_s or usual_tr_s) for name, array in found.items()})
        values, names = _stacked(found, str(path))
    rows["onset_s"] = rows["onset_s"].round(6)
    _check_rows(rows, str(table or path))
    _check_values(values, rows, str(path))
    return Foreign(values, rows, names)


def _wrong(where: str, found: str, expected: str, do: str) -> StudyError:
    return StudyError(where=where, found=found, expected=expected, do=do)


def _read(path: Path, dataset: str | None) -> _Array | dict[str, _Array]:
    suffix = path.suffix.lower()
    if not path.exists():
        raise _wrong(str(path), "nothing", "an array", "correct the path")
    if dataset is not None and suffix not in _HDF5:
        raise _wrong(str(path), f"a data set {dataset!r} asked for", "an HDF5 file", "drop --dataset")
    if path.is_dir():
        return _read_folder(path)
    if suffix in _TABLES:
        return _read_table(path)
    if suffix in (".npy", ".npz"):
        return _read_numpy(path)
    if suffix in _HDF5:
        return _read_hdf5(path, dataset)
    raise _wrong(str(path), f"suffix {suffix!r}", _KNOWN, "save it as one of these")


def _read_folder(path: Path) -> dict[str, _Array]:
    """The arrays of a folder by the names of their files, which are labels here, never paths."""
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in (".npy", *_TABLES))
    if not files:
        raise _wrong(str(path), "no array", "a file <segment>.npy or <segment>.csv per segment", "correct the path")
    arrays: dict[str, _Array] = {}
    for file in files:
        if file.stem in arrays:
            raise _wrong(str(file), "a second file of the segment", "one", "remove one of them")
        array = _read_table(file) if file.suffix.lower() in _TABLES else _read_numpy(file)
        assert isinstance(array, _Array)
        if array.labels is not None:
            raise _wrong(str(file), "columns segment and onset_s", "features only", "join the files to one table")
        arrays[file.stem] = array
    return arrays


def _read_numpy(path: Path) -> _Array | dict[str, _Array]:
    try:
        look_at_numpy(path)
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return _Array(_numbers(loaded, str(path)))
        with loaded:
            return {name: _Array(_numbers(loaded[name], f"{path} {name}")) for name in loaded.files}
    except (ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise _unreadable(path, error) from None


def _read_table(path: Path) -> _Array:
    columns = _read_columns(path)
    labels = [name for name in LABELS if name in columns]
    if len(labels) == 1:
        raise _wrong(str(path), f"a column {labels[0]} alone", "segment and onset_s", "add the other")
    features = columns.drop(columns=labels)
    for name, column in features.items():
        if not pd.api.types.is_numeric_dtype(column):
            raise _wrong(f"{path} column {name}", "text", "numbers", "drop the column, or make it numbers")
    values = _numbers(features.to_numpy(), str(path))
    return _Array(values, tuple(map(str, features.columns)), columns[labels] if labels else None)


def _read_columns(path: Path) -> pd.DataFrame:
    look_at_table(path)
    try:
        return pd.read_csv(
            path, sep=_TABLES.get(path.suffix.lower(), ","), dtype={"segment": str}, float_precision="round_trip"
        )
    except (ValueError, OSError, MemoryError, OverflowError) as error:  # pandas' own errors of parsing are ValueErrors
        raise _unreadable(path, error) from None


def _read_hdf5(path: Path, dataset: str | None) -> _Array | dict[str, _Array]:
    try:
        import h5py
    except ImportError:
        raise _wrong(str(path), "no h5py", "h5py, which reads HDF5", "run `pip install h5py`") from None
    look_at(path)
    try:
        with h5py.File(path, "r") as file:
            return _from_group(file, dataset, str(path))
    except (OSError, RuntimeError, MemoryError, KeyError) as error:  # h5py has no class of its own for damage
        raise _unreadable(path, error) from None


def _from_group(file: Any, dataset: str | None, where: str) -> _Array | dict[str, _Array]:
    """The data set or the group of that name; without a name all data sets at the top, or the only one."""
    node = file
    for name in dataset.strip("/").split("/") if dataset else ():
        own = _own_names(node) if not _is_data(node) else []
        if name not in own:
            raise _wrong(where, f"no data set {dataset!r}", f"one of {', '.join(own)}", "correct --dataset")
        node = node[name]
    if _is_data(node):
        return _Array(_dataset_numbers(node, f"{where} {dataset}"))
    arrays = {
        name: _Array(_dataset_numbers(node[name], f"{where} {name}"))
        for name in _own_names(node)
        if _is_data(node[name])
    }
    if not arrays:
        raise _wrong(where, "no data set", "one of all rows, or one per segment", "name a group by --dataset")
    return next(iter(arrays.values())) if len(arrays) == 1 and dataset is None else arrays


def _own_names(group: Any) -> list[str]:
    """What a group holds itself; a link could lead to any file on this machine."""
    import h5py

    return [name for name in group if isinstance(group.get(name, getlink=True), h5py.HardLink)]


def _is_data(node: Any) -> bool:
    import h5py

    return isinstance(node, h5py.Dataset)


def _dataset_numbers(dataset: Any, where: str) -> np.ndarray:
    look_at_dataset(dataset, where)
    if dataset.dtype.kind not in _NUMBERS:
        raise _no_numbers(dataset.dtype, where)
    return _numbers(dataset[()], where)


def _unreadable(path: Path, error: Exception) -> StudyError:
    if refused := environment_error(error, str(path)):
        return refused
    first = (str(error) or type(error).__name__).splitlines()[0]
    return _wrong(str(path), f"an unreadable file ({first})", "an array of numbers", "save it again")


def _numbers(values: Any, where: str) -> np.ndarray:
    """Numbers (row, dim) as float64; a vector is one dim."""
    array = np.asarray(values)
    if array.dtype.kind not in _NUMBERS:
        raise _no_numbers(array.dtype, where)
    if array.ndim not in (1, 2) or 0 in array.shape:
        shape = ", ".join(map(str, array.shape))
        raise _wrong(where, f"shape ({shape})", "(row, dim)", "reshape it to one row per window")
    return array.reshape(len(array), -1).astype(np.float64)


def _no_numbers(dtype: Any, where: str) -> StudyError:
    return _wrong(where, f"values of type {dtype}", "real numbers", "convert them")


def _labels(array: _Array, table: Path | None, where: str) -> pd.DataFrame:
    """`segment` and `onset_s` of each row, from the table or from the array's own columns."""
    if (array.labels is None) == (table is None):
        found = "no labels of its rows" if table is None else "columns segment and onset_s, and a table of rows"
        raise _wrong(where, found, "a CSV table with segment and onset_s, or both as columns", "see --rows")
    labels = array.labels if table is None else _read_labels(table)
    assert labels is not None
    if len(labels) != len(array.values):
        raise _wrong(where, f"{len(array.values)} rows", f"{len(labels)}, the rows of {table}", "give each a row")
    return labels.reset_index(drop=True)


def _read_labels(table: Path) -> pd.DataFrame:
    if not table.is_file():
        raise _wrong(str(table), "no such file", "a CSV table of rows", "correct the path")
    columns = _read_columns(table)
    missing = [name for name in LABELS if name not in columns]
    if missing:
        named = ", ".join(map(str, columns.columns))
        raise _wrong(str(table), f"columns {named}", "segment and onset_s", f"add the column {missing[0]}")
    return columns[list(LABELS)]


def _stacked(arrays: Mapping[str, _Array], where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """The arrays of all segments one after another, and the names of their dims."""
    first_name, first = next(iter(arrays.items()))
    for name, array in arrays.items():
        if array.values.shape[1] != first.values.shape[1] or array.names != first.names:
            raise _wrong(
                f"{where} {name}",
                f"{array.values.shape[1]} dims ({', '.join(array.names[:3]) or 'unnamed'})",
                f"{first.values.shape[1]}, those of {first_name}",
                "give all segments the same dims",
            )
    return np.concatenate([array.values for array in arrays.values()]), first.names


def _check_rows(rows: pd.DataFrame, where: str) -> None:
    """Refuse rows without a segment or an onset, and onsets that do not rise."""
    if rows["segment"].isna().any():
        raise _wrong(
            where, f"no segment in row {int(rows['segment'].isna().argmax()) + 1}", "a name in each", "fill it in"
        )
    if not pd.api.types.is_numeric_dtype(rows["onset_s"]) or not np.isfinite(rows["onset_s"]).all():
        raise _wrong(where, "an onset_s that is no number", "seconds from the segment's first frame", "correct it")
    for segment, onsets_s in rows.groupby("segment", sort=False)["onset_s"]:
        falls = np.flatnonzero(np.diff(onsets_s.to_numpy()) <= 0)
        if falls.size:
            at, after = onsets_s.to_numpy()[falls[0] : falls[0] + 2]
            raise _wrong(f"{where} {segment}", f"onset {after:g} s after {at:g} s", "rising onsets", "sort the rows")


def _check_values(values: np.ndarray, rows: pd.DataFrame, where: str) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        row = int(bad.any(axis=1).argmax())
        at = f"{where} {rows['segment'].iloc[row]} at {rows['onset_s'].iloc[row]:g} s"
        raise _wrong(at, f"NaN or infinity ({int(bad.sum())} in all)", "finite numbers", "fill or drop them")
