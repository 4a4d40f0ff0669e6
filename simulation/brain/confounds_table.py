"""Confounds of a run as fMRIPrep tables them: motion, tissue signals, cosines, and what follows from them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
_TISSUES = ("white_matter", "csf", "global_signal")
_HEAD_RADIUS_MM = 50.0
_COSINE_PERIOD_S = 128.0


@dataclass(frozen=True)
class DrawnConfounds:
    """Confounds of one run.

    Attributes
    ----------
    motion : ndarray
        (volume, 6), millimetres and radians.
    tissue : ndarray
        (volume, 2), fluctuation of white matter and CSF at unit variance.
    """

    motion: np.ndarray
    tissue: np.ndarray


def draw_confounds(rng: np.random.Generator, n_volumes: int) -> DrawnConfounds:
    """Motion and tissue signals, both mostly breathing and pulse, which a TR of a second or two folds into noise.

    A run of two minutes has few slow courses; confounds that were slow too would take the film's own with them.

    Parameters
    ----------
    rng : Generator
    n_volumes : int

    Returns
    -------
    DrawnConfounds
    """
    drift = np.cumsum(rng.normal(0, 0.01, (n_volumes, 6)), axis=0)
    jerks = (rng.random((n_volumes, 1)) < 0.03) * rng.normal(0, 0.2, (n_volumes, 6))
    motion = drift + jerks + rng.normal(0, 0.08, (n_volumes, 6))
    motion[:, 3:] /= _HEAD_RADIUS_MM
    tissue = autoregressive(rng, (n_volumes, 2), 0.2)
    return DrawnConfounds(motion, tissue / tissue.std(axis=0))


def autoregressive(rng: np.random.Generator, shape: tuple[int, int], phi: float) -> np.ndarray:
    """Noise of unit variance over (volume, column) whose neighbours in time correlate by `phi`.

    Parameters
    ----------
    rng : Generator
    shape : (int, int)
        Volumes and columns.
    phi : float

    Returns
    -------
    ndarray (volume, column)
    """
    noise = rng.normal(0, 1, shape)
    for row in range(1, shape[0]):
        noise[row] = phi * noise[row - 1] + np.sqrt(1 - phi**2) * noise[row]
    return noise


def write_confounds(stem: Path, confounds: DrawnConfounds, tissue_intensity: np.ndarray, tr_s: float) -> Path:
    """Write the table and its description; the path of the table.

    Parameters
    ----------
    stem : Path
        The run without `_desc-…`.
    confounds : DrawnConfounds
        The run's motion.
    tissue_intensity : ndarray
        (volume, 3), mean intensity of white matter, CSF and the whole brain.
    tr_s : float
        Seconds between volumes.

    Returns
    -------
    Path
        `*_desc-confounds_timeseries.tsv`.
    """
    columns: dict[str, np.ndarray] = {}
    for name, values in zip((*_TISSUES, *MOTION), (*tissue_intensity.T, *confounds.motion.T), strict=True):
        change = np.diff(values, prepend=np.nan)
        columns[name] = values
        columns[f"{name}_derivative1"] = change
        columns[f"{name}_power2"] = values**2
        columns[f"{name}_derivative1_power2"] = change**2
    columns["csf_wm"] = tissue_intensity[:, :2].mean(axis=1)
    moved = np.abs(np.diff(confounds.motion, axis=0, prepend=np.nan))
    moved[:, 3:] *= _HEAD_RADIUS_MM
    columns["framewise_displacement"] = moved.sum(axis=1)
    columns.update(_cosines(len(confounds.motion), tr_s))
    lines = ["\t".join(columns)]
    for row in zip(*columns.values(), strict=True):
        lines.append("\t".join("n/a" if np.isnan(value) else f"{value:.9g}" for value in row))
    path = stem.with_name(f"{stem.name}_desc-confounds_timeseries.tsv")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    about = {name: {"Method": "Mean"} for name in sorted(_TISSUES)}
    path.with_suffix(".json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return path


def _cosines(n_volumes: int, tr_s: float) -> dict[str, np.ndarray]:
    """fMRIPrep's discrete cosines of periods longer than 128 s."""
    count = int(2 * n_volumes * tr_s / _COSINE_PERIOD_S)
    middle = (np.arange(n_volumes) + 0.5) * np.pi / n_volumes
    return {f"cosine{k - 1:02d}": np.sqrt(2 / n_volumes) * np.cos(k * middle) for k in range(1, count + 1)}
