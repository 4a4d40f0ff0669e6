"""Planted signals after cleaning, and the ceilings that follow; shares no code with what it judges."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.linalg import toeplitz

from cinecube.store.base.errors import StudyError

_MOTION = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]
_EXPANDED = [f"{name}{how}" for how in ("", "_derivative1", "_power2", "_derivative1_power2") for name in _MOTION]
_TISSUE = ["csf", "white_matter"]
_COLUMNS = {
    "none": [],
    "motion": [*_MOTION, *_TISSUE],
    "simple": [*_EXPANDED, *_TISSUE],
    "simple+gsr": [*_EXPANDED, *_TISSUE, "global_signal"],
}


@dataclass(frozen=True)
class Cleaning:
    """The study's cleaning of scans: keys of its section `brain`."""

    confounds: str | Sequence[str] = "motion"
    high_pass_hz: float = 0.008
    detrend: bool = True


@dataclass(frozen=True)
class Left:
    """Signal and noise that cleaning leaves of one run at the film's rows, in units of the standardised response.

    Attributes
    ----------
    signal : ndarray
        (row, target).
    noise : ndarray
        (target,) expected sum of squares over the rows.
    """

    signal: np.ndarray
    noise: np.ndarray


def cleaner(table: Path, cleaning: Cleaning, n_rows: int, tr_s: float) -> np.ndarray:
    """The matrix (row, volume) that cleans a run, trims it to the film's rows and subtracts their mean.

    Parameters
    ----------
    table : Path
        Confounds of the run, as fMRIPrep writes them.
    cleaning : Cleaning
    n_rows : int
        Rows of the film.
    tr_s : float
        Seconds between volumes.

    Returns
    -------
    ndarray (row, volume)

    Raises
    ------
    StudyError
        If the simulated table lacks what the cleaning takes out.
    """
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    n = len(rows)
    time = np.arange(n)
    columns = [np.ones(n), *([np.linspace(-1, 1, n)] if cleaning.detrend else [])]
    asked = cleaning.confounds
    names = _COLUMNS.get(asked, [asked]) if isinstance(asked, str) else asked
    if absent := [name for name in names if name not in rows[0]]:
        do = "set brain.confounds to one of these"
        raise StudyError(where="brain.confounds", found=absent[0], expected=", ".join(_COLUMNS), do=do)
    for name in names:
        values = [row[name] for row in rows]
        columns.append(np.array([float(values[1] if value == "n/a" else value) for value in values]))
    n_cosines = min(n - 1, int(2 * n * tr_s * cleaning.high_pass_hz))
    columns += [np.cos(np.pi * (time + 0.5) * k / n) for k in range(1, n_cosines + 1)]
    design = np.stack(columns, axis=1)
    basis, scale, _ = np.linalg.svd(design / np.abs(design).max(axis=0), full_matrices=False)
    basis = basis[:, scale > 1e-10 * scale[0]]
    kept = (np.eye(n) - basis @ basis.T)[:n_rows]
    return kept - kept.mean(axis=0)


def left_of(clean: np.ndarray, signal: np.ndarray, disturbance: np.ndarray, sd: np.ndarray, phi: float) -> Left:
    """Signal and noise of a run after `cleaner`, standardised as its response is.

    Parameters
    ----------
    clean : ndarray
        (row, volume) from `cleaner`.
    signal : ndarray
        (volume, target), planted.
    disturbance : ndarray
        (course, volume, target): drifts and confounds; each has a sign or a size of its own in every showing.
    sd : ndarray
        (target,) of the noise.
    phi : float
        Correlation of the noise with itself a volume later.

    Returns
    -------
    Left
    """
    n = clean.shape[1]
    smooth = np.linalg.cholesky(toeplitz(phi ** np.arange(n)))
    noise = sd**2 * ((clean @ smooth) ** 2).sum()
    for course in disturbance:
        noise = noise + ((clean @ course) ** 2).sum(axis=0)
    signal = clean @ signal
    scale = np.sqrt(((signal**2).sum(axis=0) + noise) / max(len(signal) - 1, 1))
    scale = np.where(scale > 0, scale, np.inf)
    return Left(signal / scale, noise / scale**2)


def best_correlation(segments: Sequence[Sequence[Left]], averaged: bool) -> np.ndarray:
    """Correlation (target,) that the best prediction from the film reaches with the response.

    A film cannot predict which part of the signal one showing lacks, since that showing's own motion removed it: only
    the part that showings share can be predicted. For a film that was shown once, all that is left counts.

    Parameters
    ----------
    segments : sequence of sequence of Left
        By segment its showings.
    averaged : bool
        Whether responses are averages over showings, rather than single ones.

    Returns
    -------
    array, shape (target,)
        0 where nothing is left of a response.
    """
    known, total = 0.0, 0.0
    for shown in segments:
        n_rows = min(len(one.signal) for one in shown)
        signals = np.stack([one.signal[:n_rows] for one in shown])
        n, whole, own = len(shown), (signals.sum(axis=0) ** 2).sum(axis=0), (signals**2).sum(axis=(0, 1))
        noise = np.sum([one.noise for one in shown], axis=0)
        known = known + ((whole - own) / (n * (n - 1)) if n > 1 else own)
        total = total + ((whole + noise) / n**2 if averaged else (own + noise) / n)
    return np.sqrt(np.divide(np.maximum(known, 0), total, out=np.zeros_like(total), where=np.asarray(total) > 0))
