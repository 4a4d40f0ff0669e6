"""Arrays of labs that preprocess by themselves: one `.npy` of all rows of a subject, with a table that labels them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cinecube.store.base.errors import StudyError
from cinecube.store.base.input_files import check_file, numbers_of, read_text_table
from cinecube.store.clock.clock import Clock, match_onsets, same_step
from cinecube.store.foreign.foreign_bounds import look_at_numpy, unreadable_array
from cinecube.store.params.document import BrainParams
from cinecube.store.scans.bids import is_there, mesh_name
from cinecube.store.scans.cifti import places_of_series
from cinecube.store.scans.showings import task_of
from cinecube.store.scans.source import BLOCK_BYTES, RunBlocks, ScanRun, ScanTiming
from cinecube.store.scans.surfaces import MESH_VERTICES
from cinecube.store.spaces.space import Parcels, Places, Surface

TARGETS_TABLE = "targets.tsv"
"""Table of what the columns of a source without an atlas are, in `brain.path`; a row each."""
_TARGETS_SERIES, _DENSE = "targets.dtseries.nii", ("fsLR", "fsLR-91k")
_TABLES = (".tsv", ".csv")
_LABELS = ("segment", "onset_s")
_WHAT = "a table of rows with segment and onset_s, and repeat where a film was shown again"
_DO = "correct the table"
_MOST_REPEAT, _MOST_ONSET_S, _MOST_INDEX = 1000, 1e5, 2**31


class Arrays:
    """A subject's array and its table of rows; see `ScanSource`.

    Parameters
    ----------
    params : BrainParams
    root : Path
        The study's folder.
    subject : str
    clock : Clock, optional
        The study's.

    Raises
    ------
    StudyError
        If the array or its table is missing or cannot be read, or they do not fit.
    """

    def __init__(self, params: BrainParams, root: Path, subject: str, clock: Clock | None) -> None:
        self.subject, self._params, self._clock = subject, params, clock
        self._array, self._table, self._targets = array_files(params, root, subject)
        is_dense = params.space in _DENSE
        check_file(self._array, f"an array (row, target) of {subject}", "put it there, or correct brain.path")
        self._shape = open_array(self._array).shape
        self._rows = _read_rows(self._table)
        if len(self._rows) != self._shape[0]:
            found, expected = f"{len(self._rows)} rows", f"{self._shape[0]}, one a row of {self._array.name}"
            raise StudyError(where=str(self._table), found=found, expected=expected, do=_DO)
        self.tasks = sorted(set(self._rows["segment"]) - {""})
        self._names: dict[str, str | None] = {}
        find_places = _grayordinates if is_dense else columns_as_places
        self._places = find_places(params.space, self._shape[1], self._targets, str(self._array))

    def runs(self, segments: Sequence[str]) -> list[ScanRun]:
        """All showings of these segments that there are."""
        self._names |= self._names_of(segments)
        paths = (self._array, self._table, *([self._targets] if is_there(self._targets) else []))
        return [
            ScanRun(self.subject, segment, int(repeat), "", paths)
            for segment in segments
            for repeat in sorted(self._rows.loc[self._is_of(segment), "repeat"].unique())
        ]

    def _names_of(self, segments: Sequence[str]) -> dict[str, str | None]:
        """Name of each segment in the table: its own, or else its task if that is no other segment's."""
        own = set(segments).intersection(self.tasks)
        tasks = {one: task_of(one, self._params.tasks) for one in segments}
        return {one: one if one in own else None if task in own else task for one, task in tasks.items()}

    def _is_of(self, segment: str) -> pd.Series:
        """Rows of a segment."""
        return self._rows["segment"] == self._names[segment]

    def _of_run(self, run: ScanRun) -> pd.DataFrame:
        return self._rows[self._is_of(run.segment) & (self._rows["repeat"] == run.repeat)]

    def files(self, run: ScanRun) -> list[Path]:
        """The array, its table, and that of targets."""
        return list(run.paths)

    def timing(self, run: ScanRun) -> ScanTiming:
        """Number of rows up to the last, and which of them the array lacks.

        Raises
        ------
        StudyError
            If onsets do not rise, or a row is off the clock.
        """
        onsets_s = self._of_run(run)["onset_s"].to_numpy()
        falls = np.flatnonzero(np.diff(onsets_s) <= 0)
        if falls.size:
            last = int(falls[0])
            raise StudyError(
                where=f"{self._table} {run.segment}",
                found=f"onset {onsets_s[last + 1]:g} s after {onsets_s[last]:g} s",
                expected="onsets that rise in each showing",
                do="sort the rows, or add a column repeat with 1, 2, … if the film was shown again",
            )
        step_s = float(np.median(np.diff(onsets_s))) if len(onsets_s) > 1 else np.nan
        if self._clock is None or not (np.isnan(step_s) or same_step(step_s, self._clock.tr_s)):
            return ScanTiming(len(onsets_s), round(step_s, 6))
        at = self._on_clock(run)
        if len(at) < (at[-1] + 1) // 2:
            do = "correct onset_s, or leave the segment out of films"
            found, expected = f"{len(at)} of {at[-1] + 1} rows", "at least half of them"
            raise StudyError(where=f"{self._table} {run.segment}", found=found, expected=expected, do=do)
        absent = tuple(np.setdiff1d(np.arange(at[-1] + 1), at).tolist())
        said = f"its array lacks {len(absent)} of {at[-1] + 1} rows" if absent else ""
        return ScanTiming(int(at[-1]) + 1, self._clock.tr_s, said, absent)

    def _on_clock(self, run: ScanRun) -> np.ndarray:
        """Number on the clock of each row of a run (row,)."""
        assert self._clock is not None
        onsets_s = self._of_run(run)["onset_s"].to_numpy()
        at = match_onsets(onsets_s, self._clock.onsets_s(max(0, self._clock.n_rows_from(float(onsets_s[-1])))))
        if (at < 0).any():
            raise StudyError(
                where=f"{self._table} {run.segment}",
                found=f"a row at {onsets_s[int((at < 0).argmax())]:g} s",
                expected=f"a multiple of clock.tr_s: {self._clock.tr_s:g} from the film's first frame",
                do="resample the array to the clock, or correct onset_s",
            )
        return at

    def places(self, runs: Sequence[ScanRun]) -> Places:
        """Places of the columns: vertices of the mesh or grayordinates of `brain.space`, or parcels by name."""
        return self._places

    def values(self, run: ScanRun, places: Places) -> RunBlocks:
        """Values of a run; a row that the array lacks is the one before it, which cleaning leaves out.

        Parameters
        ----------
        run : ScanRun
        places : Places
            Some of `places`.

        Yields
        ------
        volumes, places : slice
        values : array of float32, shape (volume, place)
        """
        rows, at = self._of_run(run).index.to_numpy(), self._on_clock(run)
        source = rows[(np.searchsorted(at, np.arange(at[-1] + 1), side="right") - 1).clip(0)]
        array, columns = open_array(self._array), np.searchsorted(self._places.index, places.index)
        step = max(1, BLOCK_BYTES // (8 * self._shape[1]))
        for start in range(0, len(source), step):
            with np.errstate(over="ignore"):
                block = np.asarray(array[source[start : start + step]], dtype=np.float32)
            yield slice(start, start + len(block)), slice(0, len(places)), block[:, columns]

    def confounds(self, run: ScanRun) -> Path | None:
        """None: arrays are cleaned already."""
        return None


def array_files(params: BrainParams, root: Path, subject: str) -> tuple[Path, Path, Path]:
    """A subject's array, its table of rows and that of targets, which need not be there.

    Parameters
    ----------
    params : BrainParams
    root : Path
        The study's folder.
    subject : str

    Returns
    -------
    array, rows, targets : Path

    Raises
    ------
    StudyError
        If there are two tables of rows.
    """
    folder = root / params.path
    targets = folder / (_TARGETS_SERIES if params.space in _DENSE else TARGETS_TABLE)
    return folder / f"{subject}.npy", _table_beside(folder, subject), targets


def _table_beside(folder: Path, subject: str) -> Path:
    found = [path for ending in _TABLES if is_there(path := folder / f"{subject}{ending}")]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise StudyError(where=str(folder), found=names, expected="one table of rows", do="keep one of them")
    return found[0] if found else folder / f"{subject}{_TABLES[0]}"


def open_array(path: Path) -> np.ndarray:
    """An array (row, target) of numbers, mapped into memory.

    Parameters
    ----------
    path : Path
        `.npy`.

    Raises
    ------
    StudyError
        If it is none, shorter than it declares, or of another shape.
    """
    try:
        look_at_numpy(path)
        array = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, EOFError, MemoryError) as error:
        raise unreadable_array(path, error) from None
    if array.dtype.kind not in "fiu" or array.ndim != 2 or 0 in array.shape:
        found = f"an array of type {array.dtype} and shape {array.shape}"
        raise StudyError(where=str(path), found=found, expected="numbers (row, target)", do="save it again")
    return array


def space_of_array(path: Path) -> str | None:
    """The surface of as many vertices as an array has columns; None if there is none."""
    n_columns = open_array(path).shape[1]
    return next((name for name, count in MESH_VERTICES.items() if 2 * count == n_columns), None)


def _read_rows(path: Path) -> pd.DataFrame:
    """Segment, onset and repeat of each row."""
    table = read_text_table(path, _LABELS, _WHAT, _DO)
    repeats = numbers_of(table["repeat"], path, _DO, whole=True) if "repeat" in table else np.ones(len(table))
    onsets_s = numbers_of(table["onset_s"], path, _DO)
    for name, values, least, most, expected in (
        ("repeat", repeats, 1, _MOST_REPEAT, "1 for the first showing, 2 for the second"),
        ("onset_s", onsets_s, 0, _MOST_ONSET_S, "seconds from the film's first frame"),
    ):
        wrong = (values < least) | (values > most)
        if wrong.any():
            found = f"{name} {values[int(wrong.argmax())]:g} in row {int(wrong.argmax()) + 1}"
            raise StudyError(where=str(path), found=found, expected=expected, do=_DO)
    return pd.DataFrame(
        {"segment": table["segment"].str.strip(), "onset_s": onsets_s, "repeat": repeats.astype(np.int64)}
    )


def columns_as_places(space: str, n_columns: int, table: Path, where: str) -> Places:
    """Places of columns that stand in no image.

    Parameters
    ----------
    space : str
        The name of a mesh, or that of the space in which parcels were averaged.
    n_columns : int
    table : Path
        Of targets; needed where `space` does not tell what they are. Columns `name` or `parcel`, `index` of vertices,
        `hemi` (L or R), `x_mm`, `y_mm`, `z_mm`.
    where : str
        The source, for messages.

    Returns
    -------
    Places

    Raises
    ------
    StudyError
        If columns and table or mesh differ in number, or names, vertices or places are wrong.
    """
    name = mesh_name(space)
    mesh = Surface(name, (MESH_VERTICES[name],) * 2) if name in MESH_VERTICES else None
    named = read_text_table(table, (), "a row a target", _DO) if is_there(table) else None
    if named is not None and len(named) != n_columns:
        expected = f"{n_columns}, one a column of {where}"
        raise StudyError(where=str(table), found=f"{len(named)} rows", expected=expected, do=_DO)
    if named is None and (mesh is None or n_columns != mesh.size):
        sizes = ", ".join(f"{one} ({2 * count})" for one, count in MESH_VERTICES.items())
        expected = f"{mesh.size}, as {space} has" if mesh else f"a surface as brain.space, of {sizes}, or names of them"
        do = f"add {table}, a row a column (name, or index of a surface), or correct brain.space"
        raise StudyError(where=where, found=f"{n_columns} columns", expected=expected, do=do)
    return _places_of(mesh or Parcels(space), n_columns, pd.DataFrame() if named is None else named, table)


def _grayordinates(space: str, n_columns: int, series: Path, where: str) -> Places:
    """Columns as the grayordinates of a dense series."""
    check_file(series, f"a dense series with the columns of {where} in {space}", "copy one of the same order there")
    places = places_of_series(series)
    if len(places) != n_columns:
        found, expected = f"{len(places)} grayordinates", f"{n_columns}, one a column of {where}"
        raise StudyError(where=str(series), found=found, expected=expected, do="copy one of the same order there")
    return places


def _places_of(space: Surface | Parcels, n_columns: int, table: pd.DataFrame, path: Path) -> Places:
    keys = ("name", "parcel") if isinstance(space, Parcels) else ("parcel", "name")
    names = next((table[key].str.strip().to_numpy(object) for key in keys if key in table), None)
    if isinstance(space, Parcels):
        _refuse_names(names, path)
    index = _index(space, n_columns, table, path)
    xyz_mm = np.full((n_columns, 3), np.nan)
    for axis, name in enumerate(("x_mm", "y_mm", "z_mm")):
        if name in table:
            xyz_mm[:, axis] = numbers_of(table[name], path, _DO, gaps=("n/a", ""))
    labels = {} if names is None else {"parcel": names}
    return Places(space, index, _hemi(space, index, table, names, path), xyz_mm, labels)


def _index(space: Surface | Parcels, n_columns: int, table: pd.DataFrame, path: Path) -> np.ndarray:
    """Number of each column in its space."""
    if "index" not in table:
        if isinstance(space, Surface) and n_columns != space.size:
            found, expected = f"{n_columns} columns and no index of them", f"{space.size}, as {space.name} has"
            raise StudyError(where=str(path), found=found, expected=expected, do="add a column index")
        return np.arange(n_columns) + (0 if isinstance(space, Surface) else 1)
    index = numbers_of(table["index"], path, _DO, whole=True)
    limit = space.size if isinstance(space, Surface) else _MOST_INDEX
    wrong = (index < 0) | (index >= limit) | np.r_[False, np.diff(index) <= 0]
    if wrong.any():
        row = int(wrong.argmax())
        found, expected = f"{index[row]:g} in row {row + 1}", f"numbers that rise, of 0 to {limit - 1}"
        raise StudyError(where=f"{path} column index", found=found, expected=expected, do=_DO)
    return index.astype(np.int64)


def _hemi(
    space: Surface | Parcels, index: np.ndarray, table: pd.DataFrame, names: np.ndarray | None, path: Path
) -> np.ndarray:
    """Side of each column: as the table says, as the mesh has it, or by the name."""
    if "hemi" in table:
        hemi = table["hemi"].str.strip().to_numpy(object)
        if others := sorted(set(hemi) - {"L", "R", ""}):
            do = "leave it empty where it is neither"
            raise StudyError(where=f"{path} column hemi", found=repr(others[0][:40]), expected="L or R", do=do)
        return hemi
    if isinstance(space, Surface):
        return space.hemi(index).astype(object)
    assert names is not None
    return np.array([name[0] if name[:2] in ("L_", "R_") else "" for name in names], dtype=object)


def _refuse_names(names: np.ndarray | None, path: Path) -> None:
    if names is None:
        raise StudyError(where=str(path), found="no column name", expected="a name for each parcel", do="add it")
    twice = pd.Series(names)[pd.Series(names).duplicated()]
    if len(twice) or "" in names:
        found = f"{twice.iloc[0]!r} twice" if len(twice) else "a parcel without a name"
        raise StudyError(where=f"{path} column name", found=found, expected="names that differ", do=_DO)
