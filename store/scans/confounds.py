"""fMRIPrep's tables of confounds: what cleaning takes out of a run, and which volumes it leaves out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cinecube.store.base.errors import StudyError
from cinecube.store.base.input_files import numbers_of, read_text_table
from cinecube.store.scans.fmriprep import ScanRun

_MOTION = tuple(f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz")
_EXPANSIONS = ("derivative1", "power2", "derivative1_power2")
_TISSUE, _GLOBAL = ("csf", "white_matter"), ("global_signal",)
_FULL_MOTION = (*_MOTION, *(f"{name}_{expansion}" for name in _MOTION for expansion in _EXPANSIONS))
_COLUMNS = {
    "none": (),
    "motion": (*_MOTION, *_TISSUE),
    "simple": (*_FULL_MOTION, *_TISSUE),
    "simple+gsr": (*_FULL_MOTION, *_TISSUE, *_GLOBAL),
}
_NON_STEADY, _DISPLACEMENT = "non_steady_state_outlier", "framewise_displacement"
# fMRIPrep's names of the table: since 20.2, and before.
_SUFFIXES = ("timeseries", "regressors")
# Entities of the volumes that the table lacks, as it belongs to no space.
_OF_SPACE = ("space", "res", "den", "cohort")
_GAPS = ("n/a", "NaN", "")
_DO = "run fMRIPrep again, correct the table, or set brain.confounds to what does without it"


@dataclass(frozen=True)
class Confounds:
    """Contents of one run's table.

    Attributes
    ----------
    regressors : DataFrame (time, confound) or None
        None where nothing is asked for. Constant columns are left out: they equal the mean.
    constant : tuple of str
        Names of these.
    steady : array (time,) of bool
        Volumes of the steady state.
    mean_displacement_mm : float
        Mean framewise displacement; NaN where the table has none.
    """

    regressors: pd.DataFrame | None
    constant: tuple[str, ...]
    steady: np.ndarray
    mean_displacement_mm: float


def read_confounds(run: ScanRun, strategy: str) -> Confounds:
    """Confounds of a run and which of its volumes are in steady state.

    Parameters
    ----------
    run : ScanRun
    strategy : str
        `none`; `motion`: 6 motion parameters, white matter and CSF; `simple`: the same with the motion's
        derivatives and squares; `simple+gsr`: and the global signal.

    Raises
    ------
    StudyError
        If the table is missing, lacks a column or a row, or holds anything but numbers where they are needed.
    """
    columns, n_volumes = _COLUMNS[strategy], run.image.shape[3]
    path = _find_table(run)
    if path is None:
        if not columns:
            return Confounds(None, (), np.ones(n_volumes, dtype=bool), np.nan)
        named = run.beside("confounds", _SUFFIXES[0], [".tsv"], _OF_SPACE)[0]
        raise StudyError(
            where=run.where,
            found="no table of confounds",
            expected=f"{named}, for brain.confounds: {strategy}",
            do="fetch it from fMRIPrep",
        )
    table = read_text_table(path, columns, f"what brain.confounds: {strategy} takes out", _DO)
    if len(table) != n_volumes:
        raise StudyError(
            where=str(path),
            found=f"{len(table)} rows",
            expected=f"{n_volumes}, one a volume of {run.bold.name}",
            do="fetch scan and confounds of the same run",
        )
    displacement_mm = np.nan
    if _DISPLACEMENT in table:
        values = numbers_of(table[_DISPLACEMENT], path, _DO, gaps=_GAPS)
        displacement_mm = float(values[~np.isnan(values)].mean()) if not np.isnan(values).all() else np.nan
    if not columns:
        return Confounds(None, (), np.ones(n_volumes, dtype=bool), displacement_mm)
    steady = _steady(table, path)
    values_by_name = {name: _regressor(table[name], path) for name in columns}
    constant = tuple(name for name, values in values_by_name.items() if np.ptp(values[steady]) == 0)
    regressors = pd.DataFrame({name: values for name, values in values_by_name.items() if name not in constant})
    return Confounds(regressors if len(regressors.columns) else None, constant, steady, displacement_mm)


def _find_table(run: ScanRun) -> Path | None:
    """The run's table; some versions name it without the part or echo of the volumes."""
    for without in (_OF_SPACE, (*_OF_SPACE, "part"), (*_OF_SPACE, "part", "echo")):
        named = [run.beside("confounds", suffix, [".tsv"], without)[0] for suffix in _SUFFIXES]
        found = [path for path in named if path.exists() or path.is_symlink()]
        if len(found) > 1:
            names = " and ".join(path.name for path in found)
            raise StudyError(where=run.where, found=names, expected="one table of confounds", do="keep one of them")
        if found:
            return found[0]
    return None


def _steady(table: pd.DataFrame, path: Path) -> np.ndarray:
    steady = np.ones(len(table), dtype=bool)
    for name in table.columns[table.columns.str.startswith(_NON_STEADY)]:
        steady &= numbers_of(table[name], path, _DO) == 0
    if not steady.any():
        raise StudyError(
            where=str(path),
            found="every volume marked as not in steady state",
            expected=f"few columns {_NON_STEADY}",
            do=_DO,
        )
    return steady


def _regressor(column: pd.Series, path: Path) -> np.ndarray:
    """Numbers of a column; a derivative has none in the first volume and gets the second's, as in nilearn."""
    has_gap = "derivative1" in str(column.name) and column.iloc[0].strip() in _GAPS and len(column) > 1
    return numbers_of(column.mask(column.index == 0, column.iloc[1]) if has_gap else column, path, _DO)
