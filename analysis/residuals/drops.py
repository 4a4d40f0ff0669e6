"""Drop of a score when features of another model are removed, in percent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

CHECKS = ("linear", "linear_shuffled", "kernel", "kernel_shuffled", "variance_left")
"""Columns of the check of how much of a removed model is still there."""
MINIMUM = 0.1
"""Full score below which a percentage says nothing."""


def drop_percent(full: np.ndarray, residual: np.ndarray, minimum: float = MINIMUM) -> np.ndarray:
    """`100 (full - residual) / full`, the map in Figure 5 of Oota et al. (ICLR 2025).

    Parameters
    ----------
    full, residual : arrays of one shape
        Scores of a model, and of what is left of it; both raw, or both divided by the ceiling.
    minimum : float
        Where `full` does not exceed it there is no drop to speak of.

    Returns
    -------
    array, shape as they have
        Percent: 0 where nothing was lost, 100 where all was, above 100 where what is left scores below zero, negative
        where it scores more; NaN where `full` does not exceed `minimum` or a score is missing.
    """
    full, residual = np.asarray(full, np.float64), np.asarray(residual, np.float64)
    drop = np.full(np.broadcast_shapes(full.shape, residual.shape), np.nan)
    np.divide(100 * (full - residual), full, out=drop, where=full > max(minimum, 0.0))
    return drop


def drop_table(
    scores: pd.DataFrame, by: Sequence[str] = ("parcel", "subject"), minimum: float = MINIMUM
) -> pd.DataFrame:
    """Drop of each parcel or ROI: that of its mean scores, and the mean of its targets' drops.

    Parameters
    ----------
    scores : DataFrame
        A row per target: the columns of `by`, `full` and `residual`.
    by : sequence of str
        What to group by, as `("roi", "subject")`; rows where one of them is missing or "" are left out.
    minimum : float
        Full score to exceed, of a group's mean and of a target.

    Returns
    -------
    DataFrame
        The columns of `by`; `full` and `residual`, means over the targets that have both; `drop`, of these means;
        `target_drop`, mean drop of the targets whose full score exceeds `minimum`; `targets` and `targets_above`, how
        many went into each. NaN where there is none, in a row all the same. Rows rise by `by`.
    """
    inside = (scores[list(by)].notna() & (scores[list(by)] != "")).all(axis=1)
    known = scores[inside]
    both = known[["full", "residual"]].where(known[["full", "residual"]].notna().all(axis=1))
    known = known.assign(full=both["full"], residual=both["residual"])
    known = known.assign(target_drop=drop_percent(known["full"].to_numpy(), known["residual"].to_numpy(), minimum))
    table = known.groupby(list(by), as_index=False, observed=True).agg(
        full=("full", "mean"),
        residual=("residual", "mean"),
        target_drop=("target_drop", "mean"),
        targets=("full", "count"),
        targets_above=("target_drop", "count"),
    )
    table["drop"] = drop_percent(table["full"].to_numpy(), table["residual"].to_numpy(), minimum)
    return table[[*by, "full", "residual", "drop", "target_drop", "targets", "targets_above"]]
