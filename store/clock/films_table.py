"""The table of films: how long each segment is, hence how many rows it has."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cinecube.store.base.errors import StudyError
from cinecube.store.base.input_files import numbers_of, read_fields, read_text_table
from cinecube.store.clock.clock import Clock

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("film", "segment", "duration_s", "rows", "rate_hz", "frames", "width", "height", "sound_rate_hz", "read")
_DO = "run `cinecube films`"
_COUNTS = ("rows", "frames", "width", "height", "sound_rate_hz")
# A study without films knows nothing of the others.
_NEEDED = COLUMNS[:4]


def read_films_table(path: Path) -> pd.DataFrame:
    """Read `data/films.csv`, one row per segment, indexed by segment.

    Raises
    ------
    StudyError
        If it has not been made, or is damaged.
    """
    if not path.is_file():
        raise StudyError(
            where=str(path),
            found="no table of films",
            expected="the length of every segment",
            do="run `cinecube films`, or pull the table",
        )
    table = read_text_table(path, _NEEDED, "the length of every segment", _DO, ours=True)
    twice = table["segment"].duplicated()
    if twice.any():
        found = f"segment {table['segment'][twice].iloc[0]} twice"
        raise StudyError(where=str(path), found=found, expected="each once", do=_DO)
    for name in table.columns.intersection(list(COLUMNS[2:-1])):
        table[name] = numbers_of(table[name], path, _DO, gaps=() if name in _NEEDED else ("",), whole=name in _COUNTS)
    wrong = (table["rows"] < 1) | (table["duration_s"] <= 0)
    if wrong.any():
        row = table[wrong].iloc[0]
        found = f"{row['rows']:g} rows and {row['duration_s']:g} s of {row['segment']}"
        raise StudyError(where=str(path), found=found, expected="a length", do=_DO)
    table = table.astype({name: int for name in table.columns.intersection(list(_COUNTS)) if table[name].notna().all()})
    return table.set_index("segment", drop=False)


def rows_here(path: Path, segments: list[str], clock: Clock) -> dict[str, int]:
    """As `rows_by_segment` of the table at a path, without pandas where nothing is wrong with it.

    Parameters
    ----------
    path : Path
        `data/films.csv`.
    segments : list of str
    clock : Clock
        The study's.

    Returns
    -------
    dict
        Segment -> number of its rows.

    Raises
    ------
    StudyError
        As of `read_films_table` and `rows_by_segment`.
    """
    with suppress(StudyError, ValueError, KeyError):
        header, rows = read_fields(path, _NEEDED, "the length of every segment", _DO, ours=True)
        segment, seconds, counted = (header.index(name) for name in ("segment", "duration_s", "rows"))
        lengths = {row[segment]: (int(row[counted]), float(row[seconds])) for row in rows}
        right = all(n_rows > 0 < length_s for n_rows, length_s in lengths.values()) and len(lengths) == len(rows)
        found = {name: lengths[name][0] for name in segments}
        if right and all(n_rows == clock.n_rows(lengths[name][1]) for name, n_rows in found.items()):
            return found
    return rows_by_segment(read_films_table(path), segments, clock)


def rows_by_segment(table: pd.DataFrame, segments: list[str], clock: Clock) -> dict[str, int]:
    """Rows of each of `segments` at the study's clock.

    Parameters
    ----------
    table : DataFrame
        `data/films.csv` by segment, with the columns `rows` and `duration_s` (s).
    segments : list of str
    clock : Clock
        The study's.

    Returns
    -------
    dict
        Segment -> number of its rows.

    Raises
    ------
    StudyError
        If the table lacks one, or was made at another clock.
    """
    missing = [segment for segment in segments if segment not in table.index]
    if missing:
        raise StudyError(where="data/films.csv", found=f"no segment {missing[0]}", expected="all of films", do=_DO)
    for segment in segments:
        rows, n_rows = int(table["rows"][segment]), clock.n_rows(float(table["duration_s"][segment]))
        if rows != n_rows:
            found = f"{rows} rows of {segment}, which lasts {table['duration_s'][segment]:g} s"
            raise StudyError(
                where="data/films.csv", found=found, expected=f"{n_rows} at clock.tr_s: {clock.tr_s:g}", do=_DO
            )
    return {segment: int(table["rows"][segment]) for segment in segments}
