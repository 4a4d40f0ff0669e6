"""How encoders are fitted and to which rows: what tasks need beside numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cinecube.analysis.cubes.rows import RowsGroup
from cinecube.analysis.cubes.spaces import FeatureSpace, step_s
from cinecube.analysis.ridge.backends import Backend
from cinecube.analysis.ridge.design import Run, constants, delayed, find_runs, join_runs, standardise
from cinecube.analysis.ridge.folds import Fold, Gap, leave_segments_out


@dataclass(frozen=True)
class Settings:
    """How encoders are fitted: the `encode` section as arrays, and what folds need.

    Attributes
    ----------
    delays : tuple of int
        FIR lags in TRs.
    alphas : array, shape (alpha,)
    n_folds : int
    gap_s : float
        Seconds of film dropped where a fold cuts a film in two.
    films : dict of str to list of str
        Training films with their segments in order.
    targets_per_block : int
    solver : {"shared", "himalaya"}
    exhaustive : bool
        Whether `shared` tries every penalty rather than walking to the best.
    threads : int
        BLAS threads of each task.
    backend : Backend
        What `shared` computes with.
    one_alpha : bool
        Whether all targets of a subject share the penalty with the best mean correlation on the folds.
    across_runs : bool
        Whether delays reach over the borders of runs.
    """

    delays: tuple[int, ...]
    alphas: np.ndarray
    n_folds: int
    gap_s: float
    films: Mapping[str, Sequence[str]]
    targets_per_block: int = 4096
    solver: str = "shared"
    exhaustive: bool = False
    threads: int = 1
    backend: Backend = field(default_factory=Backend)
    one_alpha: bool = False
    across_runs: bool = False


@dataclass(frozen=True)
class Layout:
    """What tasks need to know of a group's rows: no labels, only positions.

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

    Raises
    ------
    StudyError
        If the training films hold too few segments to validate on.
    """
    tr_s = step_s(space.rows)
    segment, onset_s = (space.rows[name].to_numpy() for name in ("segment", "onset_s"))
    gap = Gap(settings.gap_s, tr_s, space.window_s, max_delay)
    last_onset_s = {str(name): float(s) for name, s in space.rows.groupby("segment")["onset_s"].max().items()}
    train, runs = group.train, find_runs(segment, onset_s, tr_s)
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
