"""Rows, runs and folds by position: what tasks need to know of a group of rows beside its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cinecube.analysis.cubes.rows import RowsGroup
from cinecube.analysis.cubes.spaces import FeatureSpace
from cinecube.analysis.encoders.settings import Settings
from cinecube.analysis.ridge.design import Run, constants, cut_runs, delayed, join_runs, standardise
from cinecube.analysis.ridge.folds import Fold, Gap, leave_segments_out
from cinecube.store.clock.clock import step_s


@dataclass(frozen=True)
class Layout:
    """Rows of a group as tasks need them: no labels, only positions.

    Attributes
    ----------
    runs : list of (start, stop)
        Runs among the features' rows.
    feature_row : array of int, shape (row,)
    train : array of bool, shape (row,)
    folds : list of (train, validation)
        Positions among the training rows.
    """

    runs: list[Run]
    feature_row: np.ndarray
    train: np.ndarray
    folds: list[Fold]


def make_layout(space: FeatureSpace, group: RowsGroup, settings: Settings, max_delay: int) -> Layout:
    """Runs and folds of a group of rows, for delays up to `max_delay` TRs.

    Parameters
    ----------
    space : FeatureSpace
    group : RowsGroup
    settings : Settings
    max_delay : int
        TRs.

    Raises
    ------
    StudyError
        If the training films hold too few segments to validate on.
    """
    tr_s = step_s(space.rows)
    segment, onset_s = (space.rows[name].to_numpy() for name in ("segment", "onset_s"))
    gap = Gap(settings.gap_s, tr_s, space.window_s, max_delay)
    last_onset_s = {str(name): float(s) for name, s in space.rows.groupby("segment")["onset_s"].max().items()}
    train, runs = group.train, cut_runs(segment, onset_s, tr_s)
    if settings.across_runs:
        trained = [name for names in settings.films.values() for name in names]
        runs = join_runs(runs, np.isin(segment, trained))
    folds = leave_segments_out(
        group.segment[train], group.onset_s[train], settings.films, last_onset_s, settings.n_folds, gap
    )
    return Layout(runs, group.feature_row, train, folds)


def make_design(features: np.ndarray, layout: Layout, delays: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Design matrices of the training and the test rows.

    Parameters
    ----------
    features : array, shape (time, dim)
        One layer at all rows of its cubes.
    layout : Layout
    delays : sequence of int
        FIR lags in TRs.

    Returns
    -------
    train, test : arrays, shape (row, delay x dim)
        float64, standardised with constants of the training rows.
    """
    mean, spread = constants(features[np.unique(layout.feature_row[layout.train])])
    design = delayed(standardise(features, mean, spread), delays, layout.runs)[layout.feature_row]
    return design[layout.train], design[~layout.train]
