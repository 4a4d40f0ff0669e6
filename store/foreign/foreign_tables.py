"""Tables of features as people and programs write them: other separators, decimal commas, with and without a header."""

from __future__ import annotations

import csv
import itertools
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cinecube.store.foreign.foreign_bounds import look_at_table, unreadable_array, wrong

LABELS = ("segment", "onset_s")
TABLES = (".csv", ".tsv")
_SEPARATORS = ("\t", ";", ",")
_BLANKS = r"\s+"
_LINES = 50
_TAIL_BYTES = 2**16
_RAGGED = re.compile(r"Expected \d+ fields in line \d+, saw \d+")
_NUMBER = re.compile(r"[-+]?[.,\d]*\d[.,\d]*([eE][-+]?\d+)?")
_COMMA = re.compile(r"[-+]?(\d{1,40}(,\d{0,40})?|,\d{1,40})([eE][-+]?\d{1,3})?")
_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(,\d{3})+")
_FEW = 2  # columns whose numbers may as well be values: 0, 1


@dataclass(frozen=True)
class Table:
    """Columns of a file.

    Attributes
    ----------
    columns : DataFrame
        Numbers, and text where a cell is none; `segment` is text.
    named : bool
        Whether the file names them; otherwise they are 0, 1, 2, ….
    said : tuple of str
        How it was read, where that is out of the ordinary.
    """

    columns: pd.DataFrame
    named: bool
    said: tuple[str, ...] = ()


def read_columns(path: Path, n_rows: int | None = None) -> Table:
    """Read a table.

    Parameters
    ----------
    path : Path
        Values apart by commas, semicolons, tabs or blanks. With semicolons and tabs, and in quotes, commas may be
        decimal points.
    n_rows : int, optional
        How many rows it must have: this distinguishes names from values where both are whole numbers.

    Returns
    -------
    Table

    Raises
    ------
    StudyError
        If it is unreadable, lines are of unequal length, or it cannot be told what its first line or its commas are.
    """
    look_at_table(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            start = list(itertools.islice(file, _LINES))
        skip = next((number for number, line in enumerate(start) if line.strip()), len(start))
        lines = [line for line in start[skip:] if line.strip()]
        separator, names = _layout(lines) if lines else (",", [])
        is_named = not _all_numbers(names)
        columns = _parse(path, separator, skip, names if is_named else None)
    except (ValueError, OSError, MemoryError, OverflowError, csv.Error, pd.errors.ParserWarning) as error:
        if isinstance(error, pd.errors.ParserWarning) or _RAGGED.search(str(error)):
            raise wrong(
                str(path),
                "lines with more values than the first",
                "as many in each",
                "save it again; if commas are decimal points, with semicolons between values",
            ) from None
        raise unreadable_array(path, error) from None  # pandas' own errors of parsing are ValueErrors
    columns = columns.iloc[: max(0, len(columns) - _blank_lines_below(path))]
    said = []
    if is_named and not set(LABELS) & set(columns) and any(_is_fraction(name) for name in names):
        raise wrong(
            str(path),
            f"a first line of values ({', '.join(names)[:60]})",
            "names of the columns above the first row",
            "write them there: segment,onset_s,…",
        )
    if not is_named:
        is_named = _names_columns(path, names, [_cells(line, separator) for line in lines[1:]], n_rows, len(columns))
        columns = columns.iloc[1:].reset_index(drop=True).set_axis(_apart(names), axis=1) if is_named else columns
        said.append("the first line names the columns" if is_named else "no names of columns: the first line is a row")
    columns, commas = _without_commas(columns, separator, path)
    if commas:
        said.append("commas are decimal points")
    return Table(columns, is_named, tuple(said))


def _layout(lines: Sequence[str]) -> tuple[str, list[str]]:
    """Separator of a table, and the cells of its first line; an empty one is added where rows have names, as in R."""
    body = lines[1:] or lines
    by_sign = {sign: [_cells(line, sign) for line in (lines[0], *body)] for sign in _SEPARATORS}
    every = [sign for sign, rows in by_sign.items() if all(len(row) > 1 for row in rows)]
    below = [sign for sign, rows in by_sign.items() if all(len(row) > 1 for row in rows[1:])]
    blanks = [_cells(line, _BLANKS) for line in (lines[0], *body)]
    if not every and not below and all(1 < len(row) == len(blanks[-1]) for row in blanks[1:]):
        separator, rows = _BLANKS, blanks
    else:
        separator = next(iter([*every, *below]), ",")
        rows = by_sign[separator]
    first = rows[0]
    if separator in ("\t", _BLANKS) and not _all_numbers(first):
        shorter = all(len(row) == len(first) + 1 for row in rows[1:]) and any(row[-1] for row in rows[1:])
        first = ["", *first] if shorter else first
    return separator, first


def _cells(line: str, separator: str) -> list[str]:
    if separator == _BLANKS:
        return line.replace('"', "").split()
    row = next(csv.reader([line.rstrip("\r\n")], delimiter=separator, skipinitialspace=True))
    return [cell.strip() for cell in row]


def _all_numbers(cells: Sequence[str]) -> bool:
    """True if every name is a number; pandas names columns 0, 1, 2, … beside an index without a name."""
    return any(cells) and all(not cell or _NUMBER.fullmatch(cell) for cell in cells)


def _parse(path: Path, separator: str, skip: int, names: Sequence[str] | None) -> pd.DataFrame:
    """All lines below those that are skipped, and below the names where there are any."""
    apart = None if names is None else _apart(names)
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # values without a name would be left out
        return pd.read_csv(
            path,
            sep=separator,
            header=None,
            names=apart,
            skiprows=skip + (names is not None),
            dtype={LABELS[0]: str} if apart and LABELS[0] in apart else None,
            index_col=False,
            skipinitialspace=True,
            # One that is skipped would shift the rows below it.
            skip_blank_lines=False,
            encoding="utf-8-sig",
            float_precision="round_trip",
        )


def _apart(names: Sequence[str]) -> list[str]:
    """Names that differ, as pandas calls them: the second `a` is `a.1`, a column without a name `Unnamed: 0`."""
    found: dict[str, None] = {}
    for number, name in enumerate(names):
        own = name.removeprefix("# ") if number == 0 else name
        own = (own.lower() if own.lower() in LABELS else own) or f"Unnamed: {number}"
        again = (f"{own}.{n}" if n else own for n in itertools.count())
        found[next(name for name in again if name not in found)] = None
    return list(found)


def _blank_lines_below(path: Path) -> int:
    """Blank lines at the end of a file."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        tail = file.read()
    return max(0, tail[len(tail.rstrip()) :].count(b"\n") - 1)


def _names_columns(
    path: Path, names: Sequence[str], body: Sequence[Sequence[str]], n_rows: int | None, n_lines: int
) -> bool:
    """True if a first line of numbers names the columns; only whole numbers that differ may.

    Raises
    ------
    StudyError
        If they may as well be values.
    """
    numbers = [name for name in names if name]
    if len(set(numbers)) < len(numbers) or not all(name.isdecimal() for name in numbers) or n_rows == n_lines:
        return False
    counted = numbers == [str(number) for number in range(len(numbers))]
    fractions = bool(body) and all(_is_fraction(cell) for row in body for cell in row[names[0] == "" :])
    if n_rows == n_lines - 1 or fractions or (counted and (len(numbers) > _FEW or "" in names)):
        return True
    raise wrong(
        str(path),
        f"a first line {', '.join(names)[:60]}, which may be names or values",
        "names with letters",
        "write names above the first row",
    )


def _is_fraction(cell: str) -> bool:
    """True if a cell is a number that is not written as a whole one."""
    return bool(_NUMBER.fullmatch(cell)) and not cell.isdecimal()


def _without_commas(columns: pd.DataFrame, separator: str, path: Path) -> tuple[pd.DataFrame, bool]:
    """Columns of text that are numbers with decimal commas as numbers, and whether there are any."""
    made, seen = {}, []
    for name in columns.columns[[dtype.kind == "O" or dtype.name == "str" for dtype in columns.dtypes]]:
        column = columns[name].astype("string").str.strip()
        known = column.dropna()
        if name == LABELS[0] or not known.str.contains(",").any() or not known.str.fullmatch(_COMMA).all():
            continue
        seen.append(known[known.str.contains(",")])
        made[name] = pd.to_numeric(column.str.replace(",", ".", n=1)).astype(float)
    # In thousands every comma is followed by three digits.
    if made and separator != ";" and all(known.str.fullmatch(_THOUSANDS).all() for known in seen):
        found = f"{seen[0].iloc[0]}, thousands or a fraction"
        do = "save it without commas in numbers"
        raise wrong(f"{path} column {next(iter(made))}", found, "points in numbers", do)
    if made:
        columns = columns.copy()
        for name, numbers in made.items():
            columns[name] = numbers
    return columns, bool(made)
