"""Tables as the report shows them: headings in words, text to the left, numbers to the right."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

# Columns whose names do not say what they hold.
HEADS = {
    "roi": "region",
    "subjects": "subjects (n)",
    "n_subjects": "subjects (n)",
    "targets": "targets (n)",
    "targets_above": "targets above the minimum (n)",
    "parcels": "parcels (n)",
    "rows": "rows (n)",
    "score": "test r",
    "score_sem": "standard error",
    "score_low": "from",
    "score_high": "to",
    "normalised": "share of ceiling",
    "normalised_sem": "standard error of it",
    "normalised_low": "from ",
    "normalised_high": "to ",
    "survive": "targets that survive (share)",
    "size": "other subjects (n)",
    "untrained": "untrained twin",
    "untrained_score": "its test r",
    "mean_difference": "mean difference (r)",
    "p_fdr": "p, FDR",
    "smallest_p": "smallest p possible",
    "early_depth": "depth, early sensory",
    "late_depth": "depth, semantic",
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


@dataclass(frozen=True)
class Cell:
    """A table's cell: its text, and its kind: `text`, or `yes` and `no` for what was right and wrong."""

    text: str
    kind: str = ""


def grid_of(table: pd.DataFrame, good: Mapping[str, str] | None = None) -> dict[str, Any]:
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
    words = {name for name in table.columns if not pd.api.types.is_numeric_dtype(table[name])}
    heads = [Cell(_heading(str(name)), "text" if name in words else "") for name in table.columns]
    rows = [
        [_cell(value, is_flag=str(name) in (good or {}), is_text=name in words) for name, value in record.items()]
        for record in table.to_dict("records")
    ]
    return {"heads": heads, "rows": rows}


def _heading(name: str) -> str:
    return HEADS.get(name, name.replace("_", " "))


def _cell(value: object, *, is_flag: bool, is_text: bool) -> Cell:
    if isinstance(value, float) and math.isnan(value):
        return Cell("")
    if is_flag:
        return Cell("yes", "yes") if value else Cell("no", "no")
    if isinstance(value, float):
        return Cell(f"{value:g}" if value.is_integer() else f"{value:.3f}")
    return Cell(str(value), "text" if is_text else "")
