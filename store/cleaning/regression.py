"""From the signals of one run to responses: confounds, drift, standardisation."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd

# A constant target keeps rounding of its level after cleaning; scaled to 1 it would look like signal.
_ROUNDING = 1e-6
# Correlation from which on nilearn's `clean` takes a confound for a cosine of the user's own, and adds none.
_SAME_AS_DRIFT = 0.9


def clean_run(
    signals: np.ndarray,
    confounds: pd.DataFrame | None,
    kept: np.ndarray,
    high_pass_hz: float,
    tr_s: float,
    *,
    detrend: bool = True,
) -> np.ndarray:
    """Remove trend, drift and confounds from a run by one regression (nilearn's `clean`).

    Parameters
    ----------
    signals : array (time, target)
        Raw intensities.
    confounds : DataFrame (time, confound) or None
    kept : array (time,) of bool
        Volumes that are kept; the others take no part.
    high_pass_hz : float
        Cut-off of the cosine drift model, 0 for none.
    tr_s : float
        Seconds between volumes.
    detrend : bool
        Whether to remove mean and trend.

    Returns
    -------
    array (kept time, target)
    """
    from nilearn.signal import clean

    with warnings.catch_warnings():
        # nilearn warns of constant targets, which the table of quality counts by run.
        warnings.simplefilter("ignore")
        cleaned: np.ndarray = clean(
            signals,
            detrend=detrend,
            standardize=None,
            confounds=confounds,
            sample_mask=None if kept.all() else np.flatnonzero(kept),
            filter="cosine" if high_pass_hz > 0 else False,
            high_pass=high_pass_hz or None,
            t_r=tr_s,
        )
    return cleaned


def n_regressors(
    confounds: pd.DataFrame | None, n_volumes: int, high_pass_hz: float, tr_s: float, *, detrend: bool = True
) -> int:
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
    detrend : bool
        Whether the trend is removed.
    """
    drift = (
        0 if keeps_drift(confounds, n_volumes, high_pass_hz, tr_s) else _drift(n_volumes, high_pass_hz, tr_s).shape[1]
    )
    return 1 + detrend + drift + (0 if confounds is None else confounds.shape[1])


def keeps_drift(confounds: pd.DataFrame | None, n_volumes: int, high_pass_hz: float, tr_s: float) -> bool:
    """True if `clean_run` removes no drift from a run, as nilearn takes a confound for one of its cosines.

    Parameters
    ----------
    confounds : DataFrame (time, confound), optional
    n_volumes : int
        Volumes of the run.
    high_pass_hz : float
        Drift below it would be removed; 0 for none.
    tr_s : float
        Seconds between volumes.
    """
    drift = _drift(n_volumes, high_pass_hz, tr_s)
    if confounds is None or not drift.shape[1]:
        return False
    with np.errstate(invalid="ignore"):  # of a constant column
        alike = np.corrcoef(drift.T, confounds.to_numpy(float).T)
    return bool((alike[: drift.shape[1], drift.shape[1] :] > _SAME_AS_DRIFT).any())


def _drift(n_volumes: int, high_pass_hz: float, tr_s: float) -> np.ndarray:
    """Cosines (time, cosine) below a frequency, none for 0."""
    from nilearn.glm.first_level.design_matrix import create_cosine_drift

    if high_pass_hz == 0:
        return np.empty((n_volumes, 0))
    # Its last column is the mean.
    drift: np.ndarray = create_cosine_drift(high_pass_hz, np.arange(n_volumes) * tr_s)[:, :-1]
    return drift


def standardise_run(cleaned: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Standardise each target of a run over time (sample variance); a constant target becomes 0.

    Parameters
    ----------
    cleaned : array (time, target)
    level : array (target,)
        Largest size of its raw intensities, to know rounding from signal.

    Returns
    -------
    array (time, target), float32
    """
    centred = cleaned.astype(np.float64) - cleaned.mean(axis=0, dtype=np.float64)
    scale = centred.std(axis=0, ddof=1)
    scale[scale <= _ROUNDING * level] = np.inf
    return (centred / scale).astype(np.float32)


def temporal_snr(signals: np.ndarray) -> np.ndarray:
    """Mean over standard deviation of raw intensities (time, target); NaN where constant."""
    mean, std = signals.mean(axis=0, dtype=np.float64), signals.std(axis=0, dtype=np.float64)
    return np.divide(mean, std, out=np.full(mean.shape, np.nan), where=std > 0)
