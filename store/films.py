"""The table of films: how long each segment is, hence how many rows it has."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from cinecube.store.errors import StudyError

COLUMNS = ("film", "segment", "duration_s", "rows", "rate_hz", "frames", "width", "height", "sound_rate_hz", "read")


def read_films_table(path: Path) -> pd.DataFrame:
    """Read `data/films.csv`, one row per segment, indexed by segment.

    Raises
    ------
    StudyError
        If it has not been made.
    """
    if not path.is_file():
        raise StudyError(
            where=str(path),
            found="no table of films",
            expected="the length of every segment",
            do="run `cinecube films`, or pull the table",
        )
    return pd.read_csv(path, dtype={"film": str, "segment": str}).set_index("segment", drop=False)


def rows_by_segment(table: pd.DataFrame, segments: list[str]) -> dict[str, int]:
    """Rows of each of `segments` at the study's clock.

    Raises
    ------
    StudyError
        If the table lacks one.
    """
    rows = {str(segment): int(n) for segment, n in zip(table["segment"], table["rows"], strict=True)}
    missing = [segment for segment in segments if segment not in rows]
    if missing:
        raise StudyError(
            where="data/films.csv", found=f"no segment {missing[0]}", expected="all of films", do="run `cinecube films`"
        )
    return {segment: rows[segment] for segment in segments}
