"""Arrays that other programs wrote, and the segment and onset of each of their rows."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from cinecube.store.cube.schema import rows_index
from cinecube.store.foreign.foreign_bounds import as_numbers, look_at_numpy, unreadable_array, wrong
from cinecube.store.foreign.foreign_hdf5 import read_hdf5
from cinecube.store.foreign.foreign_tables import LABELS, TABLES, read_columns
from cinecube.store.foreign.no_features import features_of, told
from cinecube.store.foreign.segment_names import segment_of

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
    left_out : dict of str to str
        Columns that are no features -> why.
    said : tuple of str
        How the file was read, where that is out of the ordinary; a line each.
    timed : bool
        Whether the file itself says its rows' onsets.
    """

    values: np.ndarray
    rows: pd.DataFrame
    names: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    said: tuple[str, ...] = ()
    timed: bool = True


@dataclass(frozen=True)
class _Array:
    """Columns of one file or one data set, whether they have names, and row labels where it has them."""

    columns: pd.DataFrame
    named: bool = False
    labels: pd.DataFrame | None = None
    said: tuple[str, ...] = ()


def read_foreign(
    path: Path,
    table: Path | None = None,
    dataset: str | None = None,
    tr_s: float | None = None,
    usual_tr_s: float = 1.0,
    segments: Sequence[str] = (),
    chosen: Sequence[str] = (),
) -> Foreign:
    """Read features with their rows.

    Parameters
    ----------
    path : Path
        One array of all rows: `.npy`, `.csv`, `.tsv`, or a data set of an HDF5 file. Or an array per segment: a
        `.npz` file or data sets of an HDF5 file with the segments' names, or a folder of `<segment>.npy` or `.csv`.
    table : Path, optional
        CSV with the columns `segment` and `onset_s` of each row of one array. A CSV of features may hold both itself.
    dataset : str, optional
        Data set or group of an HDF5 file, or the data set in each segment's group; not needed if it holds one of all
        rows, or one per segment.
    tr_s : float, optional
        Seconds between the rows of an array per segment, the first at 0.
    usual_tr_s : float
        The same where nothing is said.
    segments : sequence of str
        Those of the study, by which keys such as `ses-001_task-amber01` are known.
    chosen : sequence of str
        Names of the columns that are features; by default all that are no labels.

    Returns
    -------
    Foreign

    Raises
    ------
    StudyError
        If the file is unknown or unreadable, is no table of numbers, holds NaN, or its rows and labels do not fit; if
        it cannot be told whether a column is a feature.
    """
    labels = None if table is None else _read_labels(table)
    found = _read(path, dataset, segments, table, None if labels is None else len(labels))
    if isinstance(found, _Array):
        if tr_s is not None:
            raise wrong("`tr_s=`", f"{tr_s:g} s, for rows that have onsets", "an array per segment", "drop it")
        rows, array = _labels(found, labels, table, str(path)), found
    else:
        if table is not None:
            raise wrong(str(table), "a table of rows", "none: an array per segment has its rows in order", "drop it")
        rows = rows_index({name: np.arange(len(part.columns)) * (tr_s or usual_tr_s) for name, part in found.items()})
        array = _stacked(found, str(path))
    rows["onset_s"] = rows["onset_s"].round(6)
    rows, renamed = _as_segments(rows, segments, str(table or path))
    _check_rows(rows, str(table or path))
    names, left_out, odd = features_of(array.columns, rows, chosen, str(path), named=array.named)
    values = array.columns[names].to_numpy(np.float64)
    _check_values(values, rows, str(path))
    said = (*array.said, *renamed, *odd, *(f"left out: {line}" for line in told(left_out)))
    timed = isinstance(found, _Array)
    return Foreign(values, rows, tuple(names) if array.named else (), left_out, said, timed)


def _read(
    path: Path, dataset: str | None, segments: Sequence[str], table: Path | None, n_rows: int | None
) -> _Array | dict[str, _Array]:
    suffix = path.suffix.lower()
    if not path.exists():
        raise wrong(str(path), "nothing", "an array", "correct the path")
    if dataset is not None and suffix not in _HDF5:
        raise wrong(str(path), f"a data set {dataset!r} asked for", "an HDF5 file", "drop `dataset=`")
    if path.is_dir():
        return _read_folder(path)
    if suffix in TABLES:
        return _read_table(path, n_rows)
    if suffix in (".npy", ".npz"):
        return _read_numpy(path, table)
    if suffix in _HDF5:
        values, said = read_hdf5(path, dataset, segments, table)
        if isinstance(values, dict):
            return {name: _unnamed(own, said) for name, own in values.items()}
        return _unnamed(values, said)
    raise wrong(str(path), f"suffix {suffix!r}", _KNOWN, "save it as one of these")


def _unnamed(values: np.ndarray, said: tuple[str, ...] = ()) -> _Array:
    return _Array(pd.DataFrame(values, columns=[str(dim) for dim in range(values.shape[1])], copy=False), said=said)


def _is_hidden(name: str) -> bool:
    """True if the operating system put it beside files: `._amber01.npy`, `__MACOSX/`."""
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


def _read_folder(path: Path) -> dict[str, _Array]:
    """The arrays of a folder by the names of their files, which are labels here, never paths."""
    known = [file for file in sorted(path.iterdir()) if file.suffix.lower() in (".npy", *TABLES)]
    files = [file for file in known if not _is_hidden(file.name)]
    if not files:
        folders = ", ".join(file.name for file in sorted(path.iterdir()) if file.is_dir())[:200]
        do = "move them into one folder" if folders else "correct the path"
        found = "no array" + (f", but folders {folders}" if folders else "")
        raise wrong(str(path), found, "a file <segment>.npy or <segment>.csv per segment", do)
    arrays: dict[str, _Array] = {}
    for file in files:
        if file.stem in arrays:
            raise wrong(str(file), "a second file of the segment", "one", "remove one of them")
        array = _read_table(file) if file.suffix.lower() in TABLES else _read_numpy(file)
        assert isinstance(array, _Array)
        if array.labels is not None:
            raise wrong(str(file), "columns segment and onset_s", "features only", "join the files to one table")
        arrays[file.stem] = array
    return arrays


def _read_numpy(path: Path, table: Path | None = None) -> _Array | dict[str, _Array]:
    try:
        look_at_numpy(path)
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return _unnamed(as_numbers(loaded, str(path)))
        with loaded:
            names = [name for name in loaded.files if not _is_hidden(name)]
            arrays = {name: _unnamed(as_numbers(loaded[name], f"{path} {name}")) for name in names}
    except (ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise unreadable_array(path, error) from None
    if not arrays:
        raise wrong(str(path), "no array", "one of all rows, or one per segment", "save it again")
    return next(iter(arrays.values())) if table is not None and len(arrays) == 1 else arrays


def _read_table(path: Path, n_rows: int | None = None) -> _Array:
    read = read_columns(path, n_rows)
    labels = [name for name in LABELS if name in read.columns]
    if len(labels) == 1:
        raise wrong(str(path), f"a column {labels[0]} alone", "segment and onset_s", "add the other")
    columns = read.columns.drop(columns=labels)
    if columns.shape[1] == 0 or not len(columns):
        raise wrong(str(path), f"{len(columns)} rows of {columns.shape[1]} features", "one or more", "save it again")
    columns = columns.set_axis([str(name) for name in columns], axis=1)
    return _Array(columns, read.named, read.columns[labels] if labels else None, read.said)


def _labels(array: _Array, labels: pd.DataFrame | None, table: Path | None, where: str) -> pd.DataFrame:
    """`segment` and `onset_s` of each row, from the table or from the array's own columns."""
    if (array.labels is None) == (labels is None):
        found = "no labels of its rows" if labels is None else "columns segment and onset_s, and a table of rows"
        raise wrong(where, found, "a CSV table with segment and onset_s, or both as columns", "see `table=`")
    own = array.labels if labels is None else labels
    assert own is not None
    if len(own) != len(array.columns):
        raise wrong(where, f"{len(array.columns)} rows", f"{len(own)}, the rows of {table}", "give each a row")
    return own.reset_index(drop=True)


def _read_labels(table: Path) -> pd.DataFrame:
    if not table.is_file():
        raise wrong(str(table), "no such file", "a CSV table of rows", "correct the path")
    columns = read_columns(table).columns
    missing = [name for name in LABELS if name not in columns]
    if missing:
        named = ", ".join(map(str, columns.columns))
        raise wrong(str(table), f"columns {named}", "segment and onset_s", f"add the column {missing[0]}")
    return columns[list(LABELS)]


def _stacked(arrays: Mapping[str, _Array], where: str) -> _Array:
    """The arrays of all segments one after another."""
    first_name, first = next(iter(arrays.items()))
    for name, array in arrays.items():
        if list(array.columns) != list(first.columns) or array.named != first.named:
            names = ", ".join(map(str, array.columns[:3])) if array.named else "unnamed"
            raise wrong(
                f"{where} {name}",
                f"{array.columns.shape[1]} dims ({names})",
                f"{first.columns.shape[1]}, those of {first_name}",
                "give all segments the same dims",
            )
    said = dict.fromkeys(line for array in arrays.values() for line in array.said)
    joined = pd.concat([array.columns for array in arrays.values()], ignore_index=True)
    return _Array(joined, first.named, None, tuple(said))


def _as_segments(rows: pd.DataFrame, segments: Sequence[str], where: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Rows under the study's names of their segments, and which were called otherwise."""
    rows = rows.assign(segment=rows["segment"].str.strip())
    by_segment: dict[str, str] = {}
    for name in rows["segment"].dropna().unique():
        segment = segment_of(name, segments) or name
        other = by_segment.setdefault(segment, name)
        if other != name:
            raise wrong(where, f"{other} and {name}, both of {segment}", "rows of a segment once", "keep one of them")
    others = {name: segment for segment, name in by_segment.items() if segment != name}
    if not others:
        return rows, ()
    name, segment = next(iter(others.items()))
    more = f", and {len(others) - 1} more likewise" if len(others) > 1 else ""
    return rows.assign(segment=rows["segment"].replace(others)), (f"{name} is taken for {segment}{more}",)


def _check_rows(rows: pd.DataFrame, where: str) -> None:
    """Refuse rows without a segment or an onset, and onsets that do not rise."""
    if rows["segment"].isna().any():
        raise wrong(
            where, f"no segment in row {int(rows['segment'].isna().argmax()) + 1}", "a name in each", "fill it in"
        )
    if not pd.api.types.is_numeric_dtype(rows["onset_s"]) or not np.isfinite(rows["onset_s"]).all():
        raise wrong(where, "an onset_s that is no number", "seconds from the segment's first frame", "correct it")
    for segment, onsets_s in rows.groupby("segment", sort=False)["onset_s"]:
        falls = np.flatnonzero(np.diff(onsets_s.to_numpy()) <= 0)
        if falls.size:
            at, after = onsets_s.to_numpy()[falls[0] : falls[0] + 2]
            raise wrong(f"{where} {segment}", f"onset {after:g} s after {at:g} s", "rising onsets", "sort the rows")


def _check_values(values: np.ndarray, rows: pd.DataFrame, where: str) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        row = int(bad.any(axis=1).argmax())
        at = f"{where} {rows['segment'].iloc[row]} at {rows['onset_s'].iloc[row]:g} s"
        n_rows = int(bad.any(axis=1).sum())
        found = f"NaN or infinity ({int(bad.sum())} in all, in {n_rows} of {len(values)} rows)"
        raise wrong(at, found, "finite numbers", "fill or drop them")
