"""From the voxels of one run to responses: confounds, drift, standardisation."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd


def clean_run(
    signals: np.ndarray, confounds: pd.DataFrame | None, steady: np.ndarray, high_pass_hz: float, tr_s: float
) -> np.ndarray:
    """Remove mean, trend, drift and confounds from a run by one regression (nilearn's `clean`).

    Parameters
    ----------
    signals : array (time, target)
        Raw intensities.
    confounds : DataFrame (time, confound) or None
    steady : array (time,) of bool
        Volumes of the steady state; the others are left out of the regression and set to 0, the mean.
    high_pass_hz : float
        Cut-off of the cosine drift model, 0 for none.
    tr_s : float
        Seconds between volumes.

    Returns
    -------
    array (time, target), float32
    """
    from nilearn.signal import clean

    with warnings.catch_warnings():
        # nilearn warns of constant voxels, which the table of quality counts by run.
        warnings.simplefilter("ignore")
        cleaned = clean(
            signals,
            detrend=True,
            standardize=None,
            confounds=confounds,
            sample_mask=None if steady.all() else np.flatnonzero(steady),
            filter="cosine" if high_pass_hz > 0 else False,
            high_pass=high_pass_hz or None,
            t_r=tr_s,
        )
    whole = np.zeros(signals.shape, dtype=np.float32)
    whole[steady] = cleaned
    return whole


def n_regressors(confounds: pd.DataFrame | None, n_volumes: int, high_pass_hz: float, tr_s: float) -> int:
    """Number of regressors that `clean_run` removes from a run: mean, trend, drift and confounds.

    Parameters
    ----------
    confounds : DataFrame (time, confound), optional
    n_volumes : int
        Volumes of the run.
    high_pass_hz : float
        Drift below it is removed; 0 for none.
    tr_s : float
        Seconds between volumes.
    """
    from nilearn.glm.first_level.design_matrix import create_cosine_drift

    # Its last column is the mean.
    drift = create_cosine_drift(high_pass_hz, np.arange(n_volumes) * tr_s).shape[1] - 1 if high_pass_hz > 0 else 0
    return 2 + drift + (0 if confounds is None else confounds.shape[1])


def standardise_run(signals: np.ndarray) -> np.ndarray:
    """Standardise each target of a run over time (sample variance); a constant target becomes 0.

    Parameters
    ----------
    signals : array (time, target)

    Returns
    -------
    array (time, target), float32
    """
    centred = signals.astype(np.float64) - signals.mean(axis=0, dtype=np.float64)
    scale = centred.std(axis=0, ddof=1)
    # A constant voxel keeps rounding noise after cleaning; scaled to 1 it would look like signal.
    constant = scale < 1e-6 * max(float(scale.max(initial=0.0)), 1e-12)
    scale[constant] = np.inf
    return (centred / scale).astype(np.float32)


def temporal_snr(signals: np.ndarray) -> np.ndarray:
    """Mean over standard deviation of raw intensities (time, target); NaN where constant."""
    mean, std = signals.mean(axis=0, dtype=np.float64), signals.std(axis=0, dtype=np.float64)
    return np.divide(mean, std, out=np.full(mean.shape, np.nan), where=std > 0)
