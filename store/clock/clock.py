"""The clock: which stretch of a segment each row sees (DESIGN §4)."""

from __future__ import annotations

import math

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from cinecube.store.base.section import WrongValue

# A film whose length is a whole number of TRs must not gain a row by the last bit of a division.
_SLACK = 1e-6


class Clock(BaseModel):
    """Row i of a segment is the window `[i * tr_s, i * tr_s + window_s)` from its first frame.

    Attributes
    ----------
    tr_s : float
        Seconds between rows.
    window_s : float
        Seconds of film that one row sees.
    max_trim_s : float
        Largest mismatch between a scan and its film that is trimmed rather than refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    tr_s: float
    window_s: float = Field(ge=0.001, le=3600)
    max_trim_s: float = Field(10.0, ge=0, le=3600)

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
        return math.ceil(duration_s / self.tr_s - _SLACK)

    def n_rows_from(self, last_onset_s: float) -> int:
        """Number of rows that begin no later than `last_onset_s`, when a segment is known to go on."""
        return math.floor(last_onset_s / self.tr_s + _SLACK) + 1

    def onsets_s(self, n_rows: int) -> np.ndarray:
        """Window starts in seconds from the segment's first frame, shape (time,)."""
        return np.round(np.arange(n_rows) * self.tr_s, 6)
