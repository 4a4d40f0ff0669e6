"""Quality of runs: what a table says of each before and after cleaning, and what is told of them."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd

from cinecube.store.cleaning.confounds import Confounds
from cinecube.store.cleaning.regression import temporal_snr
from cinecube.store.clock.clock import Clock
from cinecube.store.scans.source import ScanRun

_log = logging.getLogger(__name__)
# Regressors per volume above which cleaning removes much of the signal that an encoder is to find.
_MOST_REGRESSORS = 0.25


def run_quality(
    run: ScanRun, signals: np.ndarray, bad: np.ndarray, confounds: Confounds, regressors: int, rows: int
) -> dict[str, Any]:
    """Row of the table of quality of one run.

    Parameters
    ----------
    run : ScanRun
    signals : array (time, target)
        Raw intensities.
    bad : array (place,) of bool
        Places with a value that is not finite.
    confounds : Confounds
    regressors : int
        That cleaning takes out.
    rows : int
        Rows of the segment.

    Returns
    -------
    dict
        Column -> value.
    """
    n_volumes, n_kept = len(signals), int(confounds.kept.sum())
    return {
        "segment": run.segment,
        "repeat": run.repeat,
        "session": run.session,
        "volumes": n_volumes,
        "rows_expected": rows,
        "trimmed_volumes": max(0, n_volumes - rows),
        "missing_rows": max(0, rows - n_volumes),
        "non_steady_volumes": int((~confounds.steady).sum()),
        "left_out_volumes": n_volumes - n_kept,
        "spikes": confounds.spikes,
        "regressors": regressors,
        "degrees_of_freedom": n_kept - regressors,
        "tsnr_median": median_snr(signals),
        "constant_targets": int((np.ptp(signals, axis=0) == 0).sum()),
        "nan_places": int(bad.sum()),
        "mean_framewise_displacement_mm": confounds.mean_displacement_mm,
    }


def median_snr(signals: np.ndarray) -> float:
    """Median over targets of the temporal SNR of raw intensities (time, target); NaN if all are constant."""
    # A part of the targets at a time: it works in double precision.
    parts = [temporal_snr(signals[:, start : start + 4096]) for start in range(0, signals.shape[1], 4096)]
    known = np.concatenate(parts)[~np.isnan(np.concatenate(parts))]
    return float(np.median(known)) if known.size else np.nan


def tell_of_runs(table: pd.DataFrame, subject: str, confounds: str, clock: Clock) -> None:
    """Log the run whose scan outlasts its film the most, and the one with the most regressors, if that is much.

    Parameters
    ----------
    table : DataFrame
        Of quality, one row per run.
    subject, confounds : str
        `confounds` as the study asks for them.
    clock : Clock
    """
    over = table[table["trimmed_volumes"] * clock.tr_s > clock.max_trim_s]
    if len(over):
        most = over.iloc[int(over["trimmed_volumes"].to_numpy().argmax())]
        _log.warning(
            "%s: %d runs go on for more than %g s after their film, %s repeat %d by %.0f s; trimmed",
            *(subject, len(over), clock.max_trim_s, most["segment"], most["repeat"]),
            most["trimmed_volumes"] * clock.tr_s,
        )
    left_in = table["non_steady_volumes"] > table["left_out_volumes"]
    if left_in.any():
        _log.warning(
            "%s: fMRIPrep marks %d volumes of %d runs as before the steady state; brain.confounds: %s leaves them in",
            *(subject, table["non_steady_volumes"][left_in].sum(), left_in.sum(), confounds),
        )
    share = table["regressors"] / (table["volumes"] - table["left_out_volumes"])
    if share.max() > _MOST_REGRESSORS:
        run = table.iloc[int(share.to_numpy().argmax())]
        _log.warning(
            "%s %s: %d regressors fit %.0f%% of any %d volumes, responses included; brain.confounds: %s suits longer "
            "runs%s",
            *(subject, run["segment"], run["regressors"], 100 * share.max()),
            *(run["volumes"] - run["left_out_volumes"], confounds),
            "" if confounds in ("motion", "none") else ", motion takes out less",
        )
