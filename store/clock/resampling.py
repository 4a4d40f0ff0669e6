"""From one clock to another: weights that make rows of windows by their labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cinecube.store.base.errors import StudyError

if TYPE_CHECKING:
    from scipy import sparse

_LOBES = 3
# Rows whose weights for all windows are dense at one time.
_ROWS_AT_ONCE = 256


def resampling_weights(
    method: str, from_s: np.ndarray, from_window_s: float, to_s: np.ndarray, to_window_s: float
) -> sparse.csr_array:
    """Weights of windows in rows, each row's adding up to one.

    A low-pass cuts at the slower of both clocks: rows closer than windows cannot hold more than the windows do.

    Parameters
    ----------
    method : str
        `mean`: the mean over windows, weighed by their overlap with the row. `lanczos`: a low-pass at the rows' own
        rate, a sinc of three lobes (Duchon 1979) between the middles of windows and row.
    from_s, to_s : ndarray
        (window,) and (row,) onsets in seconds, rising.
    from_window_s, to_window_s : float
        Seconds that each window and each row spans.

    Returns
    -------
    csr_array
        (row, window).

    Raises
    ------
    StudyError
        If a row overlaps no window.
    """
    from scipy import sparse  # most cubes are read at their own clock

    step_s = _step_s(to_s)
    if step_s:
        step_s = max(step_s, _step_s(from_s) or 0.0)
    blocks = [
        _weights(method, from_s, from_window_s, to_s[first : first + _ROWS_AT_ONCE], to_window_s, step_s)
        for first in range(0, len(to_s), _ROWS_AT_ONCE)
    ]
    return sparse.csr_array(sparse.vstack(blocks, format="csr"))


def _step_s(onsets_s: np.ndarray) -> float | None:
    return float(np.mean(np.diff(onsets_s))) if len(onsets_s) > 1 else None


def _weights(
    method: str, from_s: np.ndarray, from_window_s: float, to_s: np.ndarray, to_window_s: float, step_s: float | None
) -> sparse.csr_array:
    """Weights of some rows for a low-pass of `step_s`; a single row has none, and takes its mean."""
    from scipy import sparse

    if method == "lanczos" and step_s:
        middles = (to_s + to_window_s / 2)[:, None] - (from_s + from_window_s / 2)[None, :]
        lobes = middles / step_s
        weights = np.where(np.abs(lobes) < _LOBES, np.sinc(lobes) * np.sinc(lobes / _LOBES), 0.0)
    else:
        stop = np.minimum((to_s + to_window_s)[:, None], (from_s + from_window_s)[None, :])
        weights = np.maximum(0.0, stop - np.maximum(to_s[:, None], from_s[None, :]))
        weights[weights < 1e-9] = 0.0  # windows that only touch, by the last bit of an addition
    totals = weights.sum(axis=1, keepdims=True)
    if (np.abs(totals) < 1e-9).any():
        row = int(np.argmin(np.abs(totals[:, 0])))
        raise StudyError(
            where=f"the row at {to_s[row]:.2f} s",
            found="no window that it overlaps",
            expected=f"windows of {from_window_s:g} s up to there",
            do="extract the features again at this clock",
        )
    return sparse.csr_array(weights / totals)
