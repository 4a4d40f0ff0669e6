"""Files that others made: whether one is there, and the text, JSON or table in it."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cinecube.store.base.bounded import ANNEX_POINTER, parse_json
from cinecube.store.base.errors import StudyError, environment_error

if TYPE_CHECKING:
    import pandas as pd

# fMRIPrep's largest tables and sidecars have a third of it; in memory text takes up to twenty times as much.
_MOST_TEXT_BYTES = 32 * 2**20


def check_file(path: Path, expected: str, do: str = "fetch it again") -> None:
    """Refuse what is no readable file with bytes in it.

    Parameters
    ----------
    path : Path
    expected : str
        What should be there.
    do : str
        What to do where the file is missing or empty.

    Raises
    ------
    StudyError
        If there is nothing, a folder, a pipe, an empty file, a file that may not be read, or what git-annex leaves
        in place of a file that was not fetched.
    """
    where = str(path)
    if path.is_symlink() and not path.exists():
        fetch = f"run `datalad get {path}`" if ".git/annex" in os.readlink(path) else f"fetch it, or {do}"
        raise StudyError(where=where, found="a link to a file that is not here", expected=expected, do=fetch)
    if not path.exists():
        raise StudyError(where=where, found="no such file", expected=expected, do=do)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no regular file"
        raise StudyError(where=where, found=found, expected=expected, do="put the file in its place")
    try:
        with path.open("rb") as file:
            start = file.read(len(ANNEX_POINTER))
    except OSError as error:
        raise cannot_read(path, error, expected, do) from error
    if start == ANNEX_POINTER:
        fetch = f"run `datalad get {path}`"
        raise StudyError(where=where, found="a pointer to a file that is not here", expected=expected, do=fetch)
    if not start:
        raise StudyError(where=where, found="an empty file", expected=expected, do=do)


def cannot_read(path: Path, error: Exception, expected: str, do: str) -> StudyError:
    """Error for a file whose bytes cannot be read, or are not what they should be.

    Parameters
    ----------
    path : Path
    error : exception
        What the system or a library raised.
    expected : str
        What the file should be, for the message.
    do : str
        What the user can do.

    Returns
    -------
    StudyError
        As of `environment_error`, where the machine refused.
    """
    said = str(error) or type(error).__name__
    found = f"a file that cannot be read ({said[:200]})"
    return environment_error(error, str(path)) or StudyError(where=str(path), found=found, expected=expected, do=do)


def read_input_text(path: Path, expected: str, do: str, most_bytes: float = _MOST_TEXT_BYTES) -> str:
    """A text file as UTF-8, with or without a byte order mark.

    Parameters
    ----------
    path : Path
    expected : str
        What the file should be, for messages.
    do : str
        What the user can do.
    most_bytes : float
        A larger file is refused.

    Returns
    -------
    str
        Without the byte order mark.

    Raises
    ------
    StudyError
        As of `check_file`; if it is larger than any such file is, or no UTF-8.
    """
    check_file(path, expected, do)
    try:
        raw = path.read_bytes() if path.stat().st_size <= most_bytes else None
    except OSError as error:
        raise cannot_read(path, error, expected, do) from error
    if raw is None:
        found, limit = f"{path.stat().st_size / 2**20:.0f} MiB", f"at most {most_bytes / 2**20:.0f} MiB"
        raise StudyError(where=str(path), found=found, expected=f"{expected}, {limit}", do=do)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"no UTF-8 text (byte 0x{raw[error.start]:02x} at {error.start})"
        raise StudyError(where=str(path), found=found, expected=expected, do=f"save it as UTF-8, or {do}") from error


def read_json(path: Path, expected: str, do: str) -> dict[str, Any]:
    """The object that a JSON file holds.

    Parameters
    ----------
    path : Path
    expected : str
        What the file should be, for messages.
    do : str
        What the user can do.

    Returns
    -------
    dict

    Raises
    ------
    StudyError
        As of `read_input_text`; if it is no JSON, or no object.
    """
    text = read_input_text(path, expected, do)
    try:
        found = parse_json(text)
    except ValueError as error:
        said = f"no JSON ({error})"
        raise StudyError(where=str(path), found=said, expected=expected, do=do) from error
    if not isinstance(found, dict):
        raise StudyError(where=str(path), found=f"a JSON {type(found).__name__}", expected=expected, do=do)
    return found


def read_text_table(path: Path, columns: Iterable[str], expected: str, do: str, *, ours: bool = False) -> pd.DataFrame:
    """A table of unchanged fields: nothing becomes NaN, no number loses its zeros.

    Parameters
    ----------
    path : Path
        Separated by tabs or commas, whichever the first line has.
    columns : iterable of str
        Columns that it must have.
    expected, do : str
        As in `StudyError`.
    ours : bool
        Written by this package, which ends every line: without the last end the file was cut, maybe in a number.

    Returns
    -------
    DataFrame of str
        Columns by name, one row a line.

    Raises
    ------
    StudyError
        As of `read_fields`.
    """
    import pandas as pd

    header, rows = read_fields(path, columns, expected, do, ours=ours)
    return pd.DataFrame(rows, columns=header, dtype=str)


def read_fields(
    path: Path, columns: Iterable[str], expected: str, do: str, *, ours: bool = False
) -> tuple[list[str], list[list[str]]]:
    """Names of a table's columns, and its rows; takes what `read_text_table` does.

    Parameters
    ----------
    path : Path
    columns, expected, do, ours
        As of `read_text_table`.

    Returns
    -------
    header : list of str
    rows : list of list of str
        As many fields each as there are columns.

    Raises
    ------
    StudyError
        As of `read_input_text`; if a column is missing or there twice, or a row has more or fewer fields than columns.
    """
    text = read_input_text(path, expected, do, math.inf if ours else _MOST_TEXT_BYTES)
    return parse_fields(text, str(path), columns, expected, do, ours=ours)


def parse_fields(
    text: str, where: str, columns: Iterable[str], expected: str, do: str, *, ours: bool = False
) -> tuple[list[str], list[list[str]]]:
    """Names of a table's columns, and its rows, from its text; see `read_fields`.

    Parameters
    ----------
    text : str
    where : str
        What messages call the table.
    columns, expected, do, ours
        As of `read_text_table`.

    Returns
    -------
    header : list of str
    rows : list of list of str
        As many fields each as there are columns.

    Raises
    ------
    StudyError
        As of `read_fields`; if the last line is cut, where it is `ours`.
    """
    if ours and not text.endswith("\n"):
        raise StudyError(where=where, found="a last line that is cut", expected=expected, do=do)
    delimiter = "\t" if "\t" in text.split("\n", 1)[0] else ","
    try:
        header, *rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter, strict=True) if row]
    except (csv.Error, ValueError) as error:
        raise StudyError(where=where, found=f"no table ({error})", expected=expected, do=do) from error
    header = [name.strip() for name in header]
    missing = [name for name in columns if name not in header]
    if missing:
        found = f"no column {', '.join(missing[:5])}" + (" …" if missing[5:] else "")
        there = f"; there are {', '.join(header[:8])}" + (" …" if header[8:] else "")
        raise StudyError(where=where, found=found + there[:200], expected=expected, do=do)
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise StudyError(where=where, found=f"column {twice} twice", expected=expected, do=do)
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            found = f"{len(row)} fields in row {number}"
            raise StudyError(where=where, found=found, expected=f"{len(header)}, one a column", do=do)
    return header, rows


def numbers_of(column: pd.Series, path: Path, do: str, *, gaps: Iterable[str] = (), whole: bool = False) -> np.ndarray:
    """A column of text as finite numbers.

    Parameters
    ----------
    column : Series of str
        From `read_text_table`; its name is the column's.
    path : Path
        The table.
    do : str
        What to do about a wrong field.
    gaps : iterable of str
        Fields that become NaN.
    whole : bool
        Only whole numbers.

    Returns
    -------
    array of float64, shape (row,)
        NaN in gaps.

    Raises
    ------
    StudyError
        Naming column, row and field.
    """
    known = ~column.str.strip().isin(list(gaps)).to_numpy(dtype=bool)
    import pandas as pd

    numbers = np.where(known, pd.to_numeric(column, errors="coerce").to_numpy(dtype=float), np.nan)
    wrong = known & ~np.isfinite(numbers)
    if whole:
        wrong |= known & ~(numbers == np.rint(numbers))
    if wrong.any():
        row = int(wrong.argmax())
        raise StudyError(
            where=f"{path} column {column.name}",
            found=f"{column.iloc[row][:40]!r} in row {row + 1}",
            expected="whole numbers" if whole else "finite numbers",
            do=do,
        )
    return numbers
