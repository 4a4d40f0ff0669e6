"""From the signals of one run to responses: confounds, drift, standardisation."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd

# A constant target keeps rounding of its level after cleaning; scaled to 1 it would look like signal.
_ROUNDING = 1e-6
# Correlation from which on nilearn's `clean` takes a confound for a cosine of the user's own, and adds none.
_SAME_AS_DRIFT = 0.9
# Singular values of a projection are 1 or 0, up to rounding.
_NOTHING = 1e-6


def taken_out(
    confounds: pd.DataFrame | None, kept: np.ndarray, high_pass_hz: float, tr_s: float, *, detrend: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Trend, drift and confounds that one regression (nilearn's `clean`) takes out of a run, whatever its signals.

    Cleaning is linear in the signals. So nilearn says once a run what it makes of single volumes, and two thin products
    clean any number of targets, where `clean` would factor the confounds again for every block of them.

    Parameters
    ----------
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
    courses : array (time, regressor)
        0 in volumes that are not kept.
    weights : array (regressor, time)
        Signals (time, target) are cleaned by `signals - courses @ (weights @ signals)`, in volumes that are kept.
    """
    from nilearn.signal import clean

    each = np.eye(len(kept))
    with warnings.catch_warnings():
        # nilearn warns of volumes that are not kept, which are constant here.
        warnings.simplefilter("ignore")
        cleaned = clean(
            each,
            detrend=detrend,
            standardize=None,
            confounds=confounds,
            sample_mask=None if kept.all() else np.flatnonzero(kept),
            filter="cosine" if high_pass_hz > 0 else False,
            high_pass=high_pass_hz or None,
            t_r=tr_s,
        )
    removed = np.zeros_like(each)
    removed[kept] = each[kept] - cleaned
    courses, sizes, weights = np.linalg.svd(removed)
    there = sizes > _NOTHING
    return courses[:, there] * sizes[there], weights[there]


def n_regressors(
    confounds: pd.DataFrame | None, n_volumes: int, high_pass_hz: float, tr_s: float, *, detrend: bool = True
) -> int:
    """Number of regressors that `taken_out` removes from a run: mean, trend, drift and confounds.

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

    Returns
    -------
    int
    """
    drift = (
        0 if keeps_drift(confounds, n_volumes, high_pass_hz, tr_s) else _drift(n_volumes, high_pass_hz, tr_s).shape[1]
    )
    return 1 + detrend + drift + (0 if confounds is None else confounds.shape[1])


def keeps_drift(confounds: pd.DataFrame | None, n_volumes: int, high_pass_hz: float, tr_s: float) -> bool:
    """True if `taken_out` removes no drift from a run, as nilearn takes a confound for one of its cosines.

    Parameters
    ----------
    confounds : DataFrame (time, confound), optional
    n_volumes : int
        Volumes of the run.
    high_pass_hz : float
        Drift below it would be removed; 0 for none.
    tr_s : float
        Seconds between volumes.

    Returns
    -------
    bool
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
    centred = cleaned - cleaned.mean(axis=0, dtype=np.float64)
    scale = np.linalg.norm(centred, axis=0) / np.sqrt(len(centred) - 1)
    scale[scale <= _ROUNDING * level] = np.inf
    centred /= scale
    return centred.astype(np.float32)


def temporal_snr(signals: np.ndarray) -> np.ndarray:
    """Mean over standard deviation of raw intensities (time, target); NaN where constant."""
    mean, std = signals.mean(axis=0, dtype=np.float64), signals.std(axis=0, dtype=np.float64)
    return np.divide(mean, std, out=np.full(mean.shape, np.nan), where=std > 0)
