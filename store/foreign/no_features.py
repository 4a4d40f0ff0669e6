"""Columns of a table that are no features: indexes, times, and names of segments, subjects and runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cinecube.store.base.errors import StudyError
from cinecube.store.foreign.foreign_bounds import wrong

_INDEX = frozenset(["index", "idx", "id", "row", "rows", "row_id", "row_number", "rowname", "rownames", "level_0"])
_UNNAMED = re.compile(r"unnamed_\d+(_level_\d+)?(_\d+)*")
_TIMES = frozenset(
    [
        *("time", "times", "timestamp", "timepoint", "tr", "trs", "frame", "frame_number", "seconds", "milliseconds"),
        *("onset", "start", "begin", "offset", "end", "stop", "duration", "dur", "window"),
    ]
)
_UNITS = re.compile(r"_(s|sec|secs|seconds|ms|msec|min|minutes|tr|trs|frame|frames|idx|index|number)$")
_WHERE = frozenset(
    [
        *("segment", "film", "movie", "stimulus", "episode", "season", "file", "filename", "task", "split", "fold"),
        *("subject", "sub", "participant", "participant_id", "subject_id", "session", "ses", "run", "repeat", "chunk"),
    ]
)
# So many rows of a segment are on a line by chance less than once in a million columns.
_LEAST_ROWS = 5
_ON_A_LINE = 1e-3


def features_of(
    columns: pd.DataFrame, rows: pd.DataFrame, chosen: Sequence[str], where: str, *, named: bool = True
) -> tuple[list[str], dict[str, str], list[str]]:
    """Separate features from columns that are none.

    Parameters
    ----------
    columns : DataFrame
        All columns of a file but `segment` and `onset_s`; numbers, and text where it has some.
    rows : DataFrame
        `segment` and `onset_s` of each row.
    chosen : sequence of str
        Names of the features, if the user names them: nothing is left out by its looks then.
    where : str
        The file, for messages.
    named : bool
        Whether the file names them.

    Returns
    -------
    names : list of str
        The features.
    left_out : dict of str to str
        Other columns -> why they are none.
    said : list of str
        What is odd about those that are.

    Raises
    ------
    StudyError
        If a chosen column is missing, a column is text, may be a feature or not, or no feature is left.
    """
    if chosen:
        if absent := [name for name in chosen if name not in columns]:
            known = ", ".join(columns.columns[:20])
            raise wrong(where, f"no column {absent[0]!r}", f"one of {known}", "correct `columns=`")
        names, left_out, said = list(dict.fromkeys(chosen)), {}, []
    else:
        left_out = _by_name(columns, rows, where) if named else {}
        rising = _rising(columns.drop(columns=list(left_out)), rows)
        names = [str(name) for name in columns if name not in left_out]
        # The only columns: the user may want them, unless they number the rows.
        alone = len(rising) == len(names)
        if alone and named and (counts := [name for name in rising if _numbers_rows(columns[name], rows)]):
            raise _unclear(f"{where} column {counts[0]}", "values that rise with the rows, and no other column")
        said = [f"{', '.join(rising)} of {where} rises with time"] if alone and rising else []
        left_out |= {} if alone else dict.fromkeys(rising, "rises with the rows")
        names = [name for name in names if name not in left_out]
    for name in names:
        if not pd.api.types.is_numeric_dtype(columns[name]):
            raise wrong(
                f"{where} column {name}",
                "text",
                "numbers",
                "drop it, make it numbers, or name the features by `columns=`",
            )
    if not names:
        told = ", ".join(left_out)
        raise wrong(where, f"no feature beside {told or 'segment and onset_s'}", "columns of features", "add them")
    return names, left_out, said


def _by_name(columns: pd.DataFrame, rows: pd.DataFrame, where: str) -> dict[str, str]:
    """Columns whose names are those of labels, and whose values are too."""
    left_out = {}
    for name in map(str, columns):
        column = columns[name]
        plain = re.sub(r"[^a-z0-9]+", "_", name.strip().lower()).strip("_")
        stem = _UNITS.sub("", plain)
        if _UNNAMED.fullmatch(plain):
            if column.isna().all():
                left_out[name] = "is empty"
            elif _numbers_rows(column, rows) or not pd.api.types.is_numeric_dtype(column):
                left_out[name] = "has no name and numbers the rows" if _numbers_rows(column, rows) else "names the rows"
            else:
                raise _unclear(f"{where} column {name}", "values below no name")
        elif plain in _INDEX:
            if not _numbers_rows(column, rows):
                raise _unclear(f"{where} column {name}", "values that do not number the rows")
            left_out[name] = "numbers the rows"
        elif plain in _WHERE or stem in _WHERE:
            if pd.api.types.is_numeric_dtype(column) and not _stays(column, rows):
                raise _unclear(f"{where} column {name}", "numbers that change within segments")
            left_out[name] = "says where rows belong"
        elif plain in _TIMES or stem in _TIMES:
            if not _tells_times(column, rows):
                raise _unclear(f"{where} column {name}", "values that are no times of the rows")
            left_out[name] = "tells times"
        elif _names_segments(column, rows):
            left_out[name] = "says where rows belong"
    return left_out


def _unclear(where: str, found: str) -> StudyError:
    return wrong(where, found, "a feature, or a label", "name the features by `columns=`, or take the column out")


def _numbers_rows(column: pd.Series, rows: pd.DataFrame) -> bool:
    """True if values are whole numbers that differ over the rows, or rise within every segment."""
    if not pd.api.types.is_numeric_dtype(column) or column.isna().any() or (column % 1 != 0).any():
        return False
    return column.is_unique or _rises(column, rows)


def _rises(column: pd.Series, rows: pd.DataFrame) -> bool:
    steps = column.groupby(rows["segment"].to_numpy(), sort=False).diff().dropna()
    return len(steps) > 0 and bool((steps > 0).all())


def _tells_times(column: pd.Series, rows: pd.DataFrame) -> bool:
    """True if values rise within every segment, are the same throughout, or are the steps between onsets."""
    if not pd.api.types.is_numeric_dtype(column):
        return True
    if column.isna().any():
        return False
    steps = rows.groupby("segment", sort=False)["onset_s"].diff().shift(-1)
    within = steps.notna().to_numpy()
    are_steps = within.any() and np.allclose(column.to_numpy(float)[within], steps[within], rtol=1e-3)
    return column.nunique() == 1 or _rises(column, rows) or bool(are_steps)


def _names_segments(column: pd.Series, rows: pd.DataFrame) -> bool:
    """True if a column is text that stays what it is within segments and differs between some."""
    return not pd.api.types.is_numeric_dtype(column) and column.nunique() > 1 and _stays(column, rows)


def _stays(column: pd.Series, rows: pd.DataFrame) -> bool:
    """True if values are the same throughout each segment."""
    return bool((column.groupby(rows["segment"].to_numpy()).nunique(dropna=False) == 1).all())


def _rising(columns: pd.DataFrame, rows: pd.DataFrame) -> list[str]:
    """Columns that rise by the same step from row to row, or with the onsets: an encoder would fit drift by them."""
    numbers = columns.select_dtypes("number")
    return list(numbers.columns[_on_a_line(numbers.to_numpy(np.float64), rows)])


def _on_a_line(values: np.ndarray, rows: pd.DataFrame) -> np.ndarray:
    """Mask (dim,) of columns (row, dim) that are lines over onsets, or over rows, in every segment long enough."""
    found = np.zeros(values.shape[1], dtype=bool)
    left, checked = np.arange(values.shape[1]), False
    for indices in rows.groupby("segment", sort=False).indices.values():
        positions = np.asarray(indices, dtype=int)
        if len(positions) < _LEAST_ROWS or not left.size:
            continue
        checked = True
        own = values[positions[:, None], left]
        courses = (rows["onset_s"].to_numpy(float)[positions], np.arange(len(positions), dtype=float))
        left = left[np.logical_or(*(_is_line(own, course) for course in courses))]
    found[left] = checked
    return found


def _is_line(values: np.ndarray, course: np.ndarray) -> np.ndarray:
    """Mask (dim,) of columns (row, dim) that follow a course (row,) from their first value to their last."""
    rise = values[-1] - values[0]
    share = (course - course[0]) / (course[-1] - course[0])
    with np.errstate(invalid="ignore"):
        off = np.abs(values - values[0] - share[:, None] * rise).max(axis=0)
        line: np.ndarray = (rise != 0) & (off <= _ON_A_LINE * np.abs(rise))
    return line


def told(left_out: Mapping[str, str]) -> list[str]:
    """A line for columns that are left out for the same reason."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        by_reason.setdefault(reason, []).append(name)
    return [f"{', '.join(names)} ({reason})" for reason, names in by_reason.items()]
