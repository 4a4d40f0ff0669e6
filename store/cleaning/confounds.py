"""fMRIPrep's tables of confounds: what cleaning takes out of a run, and which volumes it leaves out."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cinecube.store.base.errors import StudyError
from cinecube.store.base.input_files import numbers_of, read_json, read_text_table

_MOTION = tuple(f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz")
_EXPANSIONS = ("derivative1", "power2", "derivative1_power2")
_TISSUE, _GLOBAL = ("csf", "white_matter"), ("global_signal",)
_FULL_MOTION = (*_MOTION, *(f"{name}_{expansion}" for name in _MOTION for expansion in _EXPANSIONS))
_NON_STEADY, _DISPLACEMENT, _DVARS = "non_steady_state_outlier", "framewise_displacement", "std_dvars"
_COLUMNS = {
    "none": (),
    "motion": (*_MOTION, *_TISSUE),
    "simple": (*_FULL_MOTION, *_TISSUE),
    "simple+gsr": (*_FULL_MOTION, *_TISSUE, *_GLOBAL),
    "ica_aroma": _TISSUE,  # its components are out of the volumes already
    "scrubbing": (*_FULL_MOTION, *_TISSUE, _DISPLACEMENT, _DVARS),
    "compcor": _FULL_MOTION,
}
# Presets whose columns or volumes depend on what the table holds: nilearn says which.
_BY_NILEARN = ("scrubbing", "compcor")
_SPIKE_MM = 0.5
_SUFFIX = "timeseries"
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
    kept : array (time,) of bool
        Volumes that cleaning keeps: steady, and not scrubbed.
    displacement_mm : array (time,)
        Framewise displacement; NaN where the table has none.
    """

    regressors: pd.DataFrame | None
    constant: tuple[str, ...]
    steady: np.ndarray
    kept: np.ndarray
    displacement_mm: np.ndarray

    @property
    def mean_displacement_mm(self) -> float:
        """Mean framewise displacement; NaN where the table has none."""
        known = self.displacement_mm[~np.isnan(self.displacement_mm)]
        return float(known.mean()) if known.size else np.nan

    @property
    def spikes(self) -> int:
        """Number of volumes before which the head moved by more than half a millimetre."""
        return int((self.displacement_mm > _SPIKE_MM).sum())


def read_confounds(path: Path | None, strategy: str | Sequence[str], n_volumes: int, where: str) -> Confounds:
    """Confounds of a run and which of its volumes are kept.

    Parameters
    ----------
    path : Path or None
        The run's table; None if it has none.
    strategy : str or sequence of str
        `none`; `motion`: 6 motion parameters, white matter and CSF; `simple`: the same with the motion's derivatives
        and squares; `simple+gsr`: and the global signal; `scrubbing`, `compcor`, `ica_aroma`: nilearn's presets
        without their cosines; or names of columns.
    n_volumes : int
        Of the run.
    where : str
        The run, for messages.

    Returns
    -------
    Confounds

    Raises
    ------
    StudyError
        If the table is missing, lacks a column or a row, or holds anything but numbers where they are needed.
    """
    preset = strategy if isinstance(strategy, str) else f"[{', '.join(strategy)}]"
    columns = _COLUMNS[strategy] if isinstance(strategy, str) else tuple(dict.fromkeys(strategy))
    if path is None:
        if not columns:
            return _nothing_taken(np.ones(n_volumes, dtype=bool), np.full(n_volumes, np.nan))
        raise StudyError(
            where=where,
            found="no table of confounds",
            expected=f"*_desc-confounds_{_SUFFIX}.tsv, for brain.confounds: {preset}",
            do="fetch it from fMRIPrep, or set brain.confounds to none",
        )
    table = read_text_table(path, columns, f"what brain.confounds: {preset} takes out", _DO)
    if len(table) != n_volumes:
        raise StudyError(
            where=str(path),
            found=f"{len(table)} rows",
            expected=f"{n_volumes}, one a volume of {where}",
            do="fetch scan and confounds of the same run",
        )
    displacement_mm = np.full(n_volumes, np.nan)
    if _DISPLACEMENT in table:
        displacement_mm = numbers_of(table[_DISPLACEMENT], path, _DO, gaps=_GAPS)
    steady = _steady(table, path)
    if not columns:
        return _nothing_taken(steady, displacement_mm)
    if not steady.any():
        raise StudyError(
            where=str(path),
            found="every volume marked as not in steady state",
            expected=f"few columns {_NON_STEADY}",
            do=_DO,
        )
    kept = steady.copy()
    if preset in _BY_NILEARN:
        columns, by_nilearn = _asked_of_nilearn(table, path, preset)
        kept &= by_nilearn
    if not kept.any():
        do = "set brain.confounds to what leaves volumes, or leave the segment out of films"
        raise StudyError(where=str(path), found="every volume scrubbed", expected="volumes that are kept", do=do)
    values_by_name = {name: _regressor(table[name], path) for name in columns}
    constant = tuple(name for name, values in values_by_name.items() if np.ptp(values[kept]) == 0)
    regressors = pd.DataFrame({name: values for name, values in values_by_name.items() if name not in constant})
    return Confounds(regressors if len(regressors.columns) else None, constant, steady, kept, displacement_mm)


def _nothing_taken(steady: np.ndarray, displacement_mm: np.ndarray) -> Confounds:
    """No regressors, and every volume kept, those before the steady state too."""
    return Confounds(None, (), steady, np.ones(len(steady), dtype=bool), displacement_mm)


def _asked_of_nilearn(table: pd.DataFrame, path: Path, preset: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Columns that a preset of nilearn takes out, cosines apart, and the volumes (time,) that it keeps."""
    from nilearn.interfaces.fmriprep import load_confounds_strategy

    # nilearn looks for the table by the name of a scan, so both get names that it knows.
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        near = Path(folder) / "sub-x_task-x_desc-confounds_timeseries.tsv"
        table.to_csv(near, sep="\t", index=False)
        about = path.with_suffix(".json")
        if preset == "compcor":
            read_json(about, "a JSON object on the components of CompCor", "fetch it from fMRIPrep")
        near.with_suffix(".json").write_bytes(about.read_bytes() if about.is_file() else b"{}")
        scan = Path(folder) / "sub-x_task-x_desc-preproc_bold.nii.gz"
        try:
            taken, kept = load_confounds_strategy(str(scan), denoise_strategy=preset, demean=False)
        except (ValueError, KeyError, TypeError) as error:
            said = " ".join(str(error).split())[:200]
            expected = f"what brain.confounds: {preset} takes out"
            raise StudyError(where=str(path), found=f"no such columns ({said})", expected=expected, do=_DO) from error
    names = tuple(name for name in ([] if taken is None else taken.columns) if not name.startswith("cosine"))
    return names, np.isin(np.arange(len(table)), np.arange(len(table)) if kept is None else kept)


def _steady(table: pd.DataFrame, path: Path) -> np.ndarray:
    steady = np.ones(len(table), dtype=bool)
    for name in table.columns[table.columns.str.startswith(_NON_STEADY)]:
        steady &= numbers_of(table[name], path, _DO) == 0
    return steady


def _regressor(column: pd.Series, path: Path) -> np.ndarray:
    """Numbers of a column; a derivative has none in the first volume and gets the second's, as in nilearn."""
    has_gap = "derivative1" in str(column.name) and column.iloc[0].strip() in _GAPS and len(column) > 1
    return numbers_of(column.mask(column.index == 0, column.iloc[1]) if has_gap else column, path, _DO)
