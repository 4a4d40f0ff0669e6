from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinecube.store.base.errors import StudyError
from cinecube.store.clock.resampling import resampling_weights


def _onsets(step_s: float, n: int) -> np.ndarray:
    return np.round(np.arange(n) * step_s, 6)


def test_means_weigh_windows_by_their_overlap():
    weights = resampling_weights("mean", _onsets(1.0, 4), 1.0, np.array([0.0, 1.5]), 1.5).toarray()
    np.testing.assert_allclose(weights, [[2 / 3, 1 / 3, 0, 0], [0, 1 / 3, 2 / 3, 0]])


@given(
    step=st.floats(0.05, 2.0), tr=st.floats(0.5, 3.0), n=st.integers(2, 40), method=st.sampled_from(["mean", "lanczos"])
)
def test_a_constant_stays_what_it_is(step, tr, n, method):
    n_windows = int(np.ceil(n * tr / step)) + 1
    weights = resampling_weights(method, _onsets(step, n_windows), step, _onsets(tr, n), tr)
    np.testing.assert_allclose(weights @ np.full(n_windows, 3.0), 3.0, rtol=1e-6)


def test_a_slow_wave_passes_and_a_fast_one_does_not():
    """Rows every 1.49 s can hold 0.336 Hz; Lanczos keeps what is below and drops what is above."""
    fast, slow = _onsets(0.1, 3000), _onsets(1.49, 200)
    weights = resampling_weights("lanczos", fast, 0.1, slow, 1.49)
    inner = slice(5, 195)
    for hz, kept in ((0.05, 1.0), (0.1, 1.0), (0.9, 0.0), (1.3, 0.0)):
        wave = np.sin(2 * np.pi * hz * (fast + 0.05))
        expected = kept * np.sin(2 * np.pi * hz * (slow + 0.745))
        assert np.abs(weights @ wave - expected)[inner].max() < 0.06, hz


@pytest.mark.parametrize("tr_s", [1.49, 0.5])
def test_rows_closer_than_windows_hold_what_the_windows_hold(tr_s):
    """Windows every 2 s can hold 0.25 Hz; rows between them lie on the wave."""
    slow, close = _onsets(2.0, 200), _onsets(tr_s, int(390 / tr_s))
    weights = resampling_weights("lanczos", slow, 2.0, close, tr_s)
    inner = (close > 20) & (close < 360)
    for hz in (0.02, 0.05, 0.1):
        wave = np.sin(2 * np.pi * hz * (slow + 1.0))
        expected = np.sin(2 * np.pi * hz * (close + tr_s / 2))
        assert np.abs(weights @ wave - expected)[inner].max() < 0.06, hz


def test_a_step_stays_in_its_place():
    fast, slow = _onsets(0.1, 600), _onsets(1.5, 40)
    step = (fast >= 30.0 - 1e-9).astype(float)
    rows = resampling_weights("mean", fast, 0.1, slow, 1.5) @ step
    np.testing.assert_allclose(rows, slow >= 30.0, atol=1e-9)


def test_a_row_without_a_window_is_refused():
    with pytest.raises(StudyError, match=r"the row at 6.00 s: found no window that it overlaps"):
        resampling_weights("mean", _onsets(1.0, 5), 1.0, _onsets(2.0, 4), 2.0)
