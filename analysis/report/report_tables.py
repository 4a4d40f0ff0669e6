"""Tables as the report shows them: headings in words, text to the left, numbers to the right."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

# Of every column that the report shows; names of subjects, which are columns too, are unchanged.
HEADS = {
    "model": "model",
    "subject": "subject",
    "parcel": "parcel",
    "layer": "layer",
    "film": "film",
    "segment": "segment",
    "pair": "pair",
    "comparison": "comparison",
    "part": "part",
    "p": "p",
    "all": "all subjects",
    "mean_of_subjects": "mean of subjects",
    "mean": "mean R²",
    "min": "lowest R²",
    "max": "highest R²",
    "difference": "late minus early depth",
    "ceiling": "ceiling (r)",
    "planted": "planted",
    "found": "found",
    "oracle": "oracle",
    "layer_found": "layer found",
    "delay_found": "delay found",
    "subjects_found_or_next": "subjects with it or the next layer (share)",
    "planted_delay_tr": "planted delay (TR)",
    "found_delay_tr": "found delay (TR)",
    "correlation": "correlation (r)",
    "repeats": "from repeats",
    "repeats_error": "error of it",
    "cross_subject": "from other subjects",
    "cross_subject_error": "error of that",
    "converged": "targets extrapolated (share)",
    "repeat": "repeat",
    "session": "session",
    "volumes": "volumes (n)",
    "rows_expected": "rows expected (n)",
    "trimmed_volumes": "volumes trimmed (n)",
    "missing_rows": "rows missing (n)",
    "non_steady_volumes": "non-steady volumes (n)",
    "left_out_volumes": "volumes left out (n)",
    "spikes": "movements of over 0.5 mm (n)",
    "regressors": "regressors (n)",
    "degrees_of_freedom": "degrees of freedom left (n)",
    "timing": "timing",
    "shift_s": "late by (s)",
    "tsnr_median": "median tSNR",
    "constant_voxels": "constant voxels (n)",
    "constant_targets": "constant targets (n)",
    "nan_places": "places with NaN (n)",
    "lost_parcels": "parcels outside the brain",
    "shrunk_parcels": "parcels mostly outside it",
    "mean_framewise_displacement_mm": "mean framewise displacement (mm)",
    "rate_hz": "frames per second (Hz)",
    "frames": "frames (n)",
    "width": "width (pixels)",
    "height": "height (pixels)",
    "sound_rate_hz": "sound rate (Hz)",
    "read": "how it is read",
    "cube": "cube",
    "fingerprint": "fingerprint",
    "weights": "weights' digest",
    "licence": "licence of weights",
    "package": "package",
    "version": "version",
    "roi": "region",
    "subjects": "subjects (n)",
    "n_subjects": "subjects (n)",
    "targets": "targets (n)",
    "targets_above": "targets with something to lose (n)",
    "parcels": "parcels (n)",
    "rows": "rows (n)",
    "score": "test r",
    "score_sem": "r: SEM",
    "score_low": "r: 95% from",
    "score_high": "r: 95% to",
    "normalised": "share of ceiling",
    "normalised_subjects": "share: subjects (n)",
    "normalised_sem": "share: SEM",
    "normalised_low": "share: 95% from",
    "normalised_high": "share: 95% to",
    "survive": "targets that survive (share of all)",
    "size": "other subjects (n)",
    "untrained": "untrained twin",
    "untrained_score": "its test r",
    "mean_difference": "mean difference (r)",
    "p_fdr": "p after FDR",
    "smallest_p": "smallest p possible",
    "lowest_p": "smallest p found",
    "lowest_q": "smallest q found",
    "early_depth": "depth, early sensory",
    "late_depth": "depth, language and semantic",
    "full": "test r before",
    "residual": "test r after",
    "drop": "drop (%)",
    "linear": "by ridge (r)",
    "linear_shuffled": "by ridge, shuffled (r)",
    "kernel": "by kernel (r)",
    "kernel_shuffled": "by kernel, shuffled (r)",
    "variance_left": "variance left (share)",
    "set": "streams",
    "first_better": "first better (n)",
    "second_better": "second better (n)",
    "block_rows": "rows of a block",
    "oracle_full": "oracle before (r)",
    "oracle_residual": "oracle after (r)",
    "duration_s": "duration (s)",
    "cv_score": "cross-validated R²",
}

_PROBABILITIES = {"p", "p_fdr", "smallest_p", "lowest_p", "lowest_q"}
# Of a percentage, a duration and the like; all else that is no whole number has three.
_DECIMALS = {"drop": 1, "duration_s": 1, "tsnr_median": 1, "correlation": 4, "mean_framewise_displacement_mm": 2}


@dataclass(frozen=True)
class Cell:
    """A table's cell: its text, and its kind: `text`, or `yes` and `no` for what was right and wrong."""

    text: str
    kind: str = ""


def table_grid(table: pd.DataFrame, good: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A table's headings and cells as text.

    Parameters
    ----------
    table : DataFrame
    good : Mapping of str to str, optional
        Columns of yes and no.

    Returns
    -------
    dict
        `heads`, `rows`: both lists of `Cell`.
    """
    columns = [(str(name), table.iloc[:, place]) for place, name in enumerate(table.columns)]
    flags = set(good or {})
    heads = [Cell(HEADS.get(name, name), _kind(name, values, flags)) for name, values in columns]
    cells = [_cells(name, values, flags) for name, values in columns]
    return {"heads": heads, "rows": [list(row) for row in zip(*cells, strict=True)]}


def _kind(name: str, values: pd.Series, flags: set[str]) -> str:
    return "text" if name in flags or not pd.api.types.is_numeric_dtype(values) else ""


def _cells(name: str, values: pd.Series, flags: set[str]) -> list[Cell]:
    """A column's cells; numbers of one column have as many decimals."""
    if name in flags:
        return [Cell("") if pd.isna(value) else Cell("yes", "yes") if value else Cell("no", "no") for value in values]
    if _kind(name, values, flags):
        return [Cell("" if pd.isna(value) else str(value), "text") for value in values]
    whole = bool((values.dropna() % 1 == 0).all())
    decimals = 0 if whole and name not in _PROBABILITIES else _DECIMALS.get(name, 3)
    return [Cell(_number(value, decimals, is_p=name in _PROBABILITIES)) for value in values]


def _number(value: float, decimals: int, *, is_p: bool) -> str:
    if math.isnan(value):
        return ""
    if is_p:
        return "< 0.0001" if value < 1e-4 else f"{value:.4f}"
    # Adding 0 turns what rounds to -0 into 0.
    return f"{round(value, decimals) + 0.0:.{decimals}f}"
