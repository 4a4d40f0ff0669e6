"""The clock: which stretch of a segment each row sees, and when two onsets or two steps are the same."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, field_validator

from cinecube.store.base.section import Section, WrongValue

if TYPE_CHECKING:
    import pandas as pd

SAME_S = 1.001e-6
"""Seconds between onsets of one moment: they are rounded to a microsecond, and differ by the last bit of a float."""
SAME_STEP_S = 1e-4
"""Seconds between TRs that are one: headers keep 32 bits, tools round. A run of 1,000 rows drifts by 0.1 s at most."""


class Clock(Section):
    """Row i of a segment is the window `[i * tr_s, i * tr_s + window_s)` from its first frame."""

    tr_s: float = Field(json_schema_extra={"minimum": 0.01, "maximum": 100})
    """Seconds between rows: the scans' TR."""
    window_s: float = Field(ge=0.001, le=3600)
    """Seconds of film that one row sees."""
    max_trim_s: float = Field(10.0, ge=0, le=3600)
    """A scan may end this long before its film: that much film has no rows, more is refused. A scan that goes on for
    longer than this after its film is trimmed and warned of.
    """

    @field_validator("tr_s")
    @classmethod
    def _is_in_seconds(cls, tr_s: float) -> float:
        # Scans take 0.3 to 10 s; rows of other studies' cubes may be finer.
        if not 0.01 <= tr_s <= 100:
            in_ms = f"; {tr_s:g} ms are {tr_s / 1000:g} s" if 100 < tr_s <= 100_000 else ""
            raise WrongValue(found=f"{tr_s:g}", expected="0.01 to 100 seconds", do=f"correct it{in_ms}")
        return tr_s

    def n_rows(self, duration_s: float) -> int:
        """Number of rows whose window begins before a segment of `duration_s` seconds ends."""
        # A film that lasts a whole number of TRs must not gain a row by the last bit of a division.
        return math.ceil((duration_s - SAME_S) / self.tr_s)

    def n_rows_from(self, last_onset_s: float) -> int:
        """Number of rows that begin no later than `last_onset_s`, when a segment is known to go on."""
        return math.floor((last_onset_s + SAME_S) / self.tr_s) + 1

    def onsets_s(self, n_rows: int) -> np.ndarray:
        """Window starts in seconds from the segment's first frame, shape (time,)."""
        return np.round(np.arange(n_rows) * self.tr_s, 6)


def same_step(a_s: float, b_s: float) -> bool:
    """True if two TRs, in seconds, are the same.

    Parameters
    ----------
    a_s, b_s : float
        Seconds.

    Returns
    -------
    bool
    """
    return abs(a_s - b_s) <= SAME_STEP_S


def step_s(rows: pd.DataFrame) -> float:
    """Seconds between rows: the median step inside segments; NaN if no segment has two rows.

    Parameters
    ----------
    rows : DataFrame
        Columns `segment`, `onset_s`.
    """
    steps = rows.groupby("segment", sort=False)["onset_s"].diff().dropna()
    return float(steps.median()) if len(steps) else float("nan")


def match_onsets(onsets_s: np.ndarray, known_s: np.ndarray) -> np.ndarray:
    """Index into the rising `known_s` of each onset, -1 where none is the same moment; both in seconds, (row,).

    Parameters
    ----------
    onsets_s : ndarray (row,)
    known_s : ndarray (known,)
        Rising.

    Returns
    -------
    ndarray (row,) of int
    """
    if known_s.size == 0:
        return np.full(onsets_s.shape, -1)
    right = np.searchsorted(known_s, onsets_s).clip(0, known_s.size - 1)
    left = (right - 1).clip(0)
    nearest = np.where(np.abs(known_s[left] - onsets_s) < np.abs(known_s[right] - onsets_s), left, right)
    return np.where(np.abs(known_s[nearest] - onsets_s) <= SAME_S, nearest, -1)


def covered_rows(from_s: np.ndarray, from_window_s: float, to_s: np.ndarray, to_window_s: float) -> np.ndarray:
    """Mask (row,) of rows that overlap one of the windows (window,).

    Parameters
    ----------
    from_s, to_s : ndarray
        (window,) rising and (row,) onsets in seconds.
    from_window_s, to_window_s : float
        Seconds that each window and each row spans.

    Returns
    -------
    array of bool, shape (row,)
    """
    last = np.searchsorted(from_s, to_s + to_window_s - SAME_S) - 1
    covered: np.ndarray = (last >= 0) & (from_s[last] + from_window_s > to_s + SAME_S)
    return covered
