"""Scans of one subject, laid out and named as fMRIPrep does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cinecube.simulation.brain.confounds_table import DrawnConfounds, autoregressive, draw_confounds, write_confounds
from cinecube.simulation.brain.head import SPACE, Head, save_volume
from cinecube.simulation.brain.planted_parcels import Parcel
from cinecube.simulation.brain.reachable import Cleaning, Left, best_correlation, cleaner, left_of
from cinecube.simulation.setup.seeding import generator
from cinecube.simulation.setup.simulate_params import SimulateSpec
from cinecube.store.base.labels import bids_label

NOISE_PHI = 0.3
_FILMS_PER_SESSION = 2
_TISSUE_INTENSITY = 9500.0
# Sizes of what cleaning has to remove, in standard deviations of a parcel's signal.
_MOTION_SIZE, _TISSUE_SIZE, _TREND_SIZE, _BEND_SIZE = 0.5, 0.5, 1.5, 0.3
_NOISE_SPREAD = 0.1


@dataclass(frozen=True)
class Showing:
    """One showing of one segment: where it is filed, and which of how many it is."""

    session: int
    segment: str
    number: int
    of: int

    def stem(self, subject: str) -> str:
        """The name of the run's files without space and desc."""
        run = f"_run-{self.number}" if self.of > 1 else ""
        return f"{subject}_ses-{self.session:03d}_task-{bids_label(self.segment)}{run}"


def showings(spec: SimulateSpec, films: Mapping[str, Sequence[str]]) -> list[Showing]:
    """All showings of a study, two films a session; repeated films are seen twice.

    Parameters
    ----------
    spec : SimulateSpec
    films : Mapping of str to sequence of str
        Film -> its segments.

    Returns
    -------
    list of Showing
    """
    return [
        Showing(1 + place // _FILMS_PER_SESSION, segment, number, count)
        for place, (film, segments) in enumerate(films.items())
        for count in (2 if film in spec.repeated else 1,)
        for segment in segments
        for number in range(1, count + 1)
    ]


def subject_noise(spec: SimulateSpec, subject: str) -> float:
    """Factor by which a subject's noise variance exceeds its parcels'.

    Parameters
    ----------
    spec : SimulateSpec
    subject : str

    Returns
    -------
    float
        A factor of the variance.
    """
    spread = generator(spec.seed, "subject noise", subject).uniform(-_NOISE_SPREAD, _NOISE_SPREAD)
    return round(1 + float(spread), 6)


def write_description(folder: Path) -> None:
    """`dataset_description.json` of a derivatives folder."""
    about = {
        "Name": "cinecube simulated study",
        "BIDSVersion": "1.8.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "cinecube simulate"}],
        "License": "CC0-1.0",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset_description.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def write_subject(
    spec: SimulateSpec,
    subject: str,
    runs: Sequence[Showing],
    signals: Mapping[str, np.ndarray],
    parcels: Sequence[Parcel],
    grid: Head,
    folder: Path,
    cleaning: Cleaning,
    test: Sequence[str],
) -> Ceilings:
    """Write one subject's runs: volumes, sidecar, mask and confounds; what can be predicted of its test films.

    Parameters
    ----------
    spec : SimulateSpec
        Noise, clock, seed.
    subject : str
        `sub-01`.
    runs : sequence of Showing
        What the subject saw.
    signals : mapping of str to ndarray
        (row, target) by segment, unit variance, parcels in order.
    parcels : sequence of Parcel
        Their gain and noise.
    grid : Head
        Voxels and parcels.
    folder : Path
        The derivatives folder.
    cleaning : Cleaning
        What the study takes out of its scans.
    test : sequence of str
        Segments of the test films.

    Returns
    -------
    Ceilings
        Zeros where the subject saw no segment of `test`.
    """
    body = _Body.of(spec, subject, parcels, grid)
    left: dict[str, list[Left]] = {segment: [] for segment in test}
    for run in runs:
        stem = folder / subject / f"ses-{run.session:03d}" / "func" / run.stem(subject)
        stem.parent.mkdir(parents=True, exist_ok=True)
        rng = generator(spec.seed, "run", subject, run.segment, run.number)
        low, high = spec.extra_volumes
        n_volumes = max(2, len(signals[run.segment]) + int(rng.integers(low, high + 1)))
        confounds = draw_confounds(rng, n_volumes)
        intensity = body.intensity(rng, signals[run.segment], confounds)
        table = write_confounds(stem, confounds, _tissue_intensity(rng, confounds, intensity), spec.tr_s)
        _write_run(stem, intensity, spec, run, grid)
        if run.segment in left:
            signal = signals[run.segment]
            clean = cleaner(table, cleaning, min(n_volumes, len(signal)), spec.tr_s)
            left[run.segment].append(body.left(clean, signal, confounds))
    shown = [showing for showing in left.values() if showing]
    if not shown:
        return Ceilings(*np.zeros((2, len(body.targets))))
    return Ceilings(best_correlation(shown, averaged=True), best_correlation(shown, averaged=False))


@dataclass(frozen=True)
class Ceilings:
    """Correlations (target,) that true signals reach in one subject's cleaned test films.

    Attributes
    ----------
    averaged : ndarray
        With the mean over a film's showings.
    single : ndarray
        With one showing, mean over them.
    """

    averaged: np.ndarray
    single: np.ndarray


@dataclass(frozen=True)
class _Body:
    """Properties that are the same over a subject's runs, per voxel of the mask.

    Attributes
    ----------
    baseline : ndarray
        (voxel,) intensity without signal.
    gain : ndarray
        (voxel,) per cent of the baseline that a signal of unit variance moves.
    noise : ndarray
        (voxel,) standard deviation of noise over that of signal.
    targets : ndarray
        (target,) the voxel of each target.
    weights : ndarray
        (confound, voxel) how much of motion, white matter and CSF a voxel shows.
    """

    baseline: np.ndarray
    gain: np.ndarray
    noise: np.ndarray
    targets: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, spec: SimulateSpec, subject: str, parcels: Sequence[Parcel], grid: Head) -> _Body:
        """A subject's body."""
        rng = generator(spec.seed, "body", subject)
        n_voxels, voxels = int(grid.mask.sum()), grid.targets(spec.targets_per_parcel)
        gain, noise = np.full(n_voxels, 1.5), np.full(n_voxels, np.sqrt(max(spec.noise, 0.25)))
        for parcel, own in zip(parcels, voxels, strict=True):
            gain[own], noise[own] = parcel.gain, np.sqrt(parcel.noise * subject_noise(spec, subject))
        motion = rng.normal(0, _MOTION_SIZE / np.sqrt(6), (6, n_voxels))
        tissue = rng.uniform(0, 2 * _TISSUE_SIZE, (2, n_voxels))
        baseline = rng.uniform(8000, 12000, n_voxels)
        return cls(baseline, gain, noise, voxels.ravel(), np.concatenate([motion, tissue]))

    def intensity(self, rng: np.random.Generator, signal: np.ndarray, confounds: DrawnConfounds) -> np.ndarray:
        """Intensities of one run, (volume, voxel): the signal while the film lasts, noise throughout."""
        n_volumes = len(confounds.motion)
        change = autoregressive(rng, (n_volumes, len(self.baseline)), NOISE_PHI) * self.noise
        change[:, self.targets] += _as_long(signal, n_volumes)
        change += _disturbing(confounds) @ self.weights
        change += _drift(n_volumes).T @ rng.normal(0, 1, (2, len(self.baseline)))
        return self.baseline * (1 + 0.01 * self.gain * change)

    def left(self, clean: np.ndarray, signal: np.ndarray, confounds: DrawnConfounds) -> Left:
        """Signal and noise of one run's targets after cleaning, a matrix (row, volume); `signal` is (row, target)."""
        n_volumes, n_targets = clean.shape[1], len(self.targets)
        own = _disturbing(confounds) @ self.weights[:, self.targets]
        drifts = [np.tile(course[:, None], n_targets) for course in _drift(n_volumes)]
        return left_of(
            clean, _as_long(signal, n_volumes), np.stack([own, *drifts]), self.noise[self.targets], NOISE_PHI
        )


def _as_long(signal: np.ndarray, n_volumes: int) -> np.ndarray:
    """A signal (row, target) as long as its scan: nothing is seen once the film has ended."""
    whole = np.zeros((n_volumes, signal.shape[1]))
    whole[: len(signal)] = signal[:n_volumes]
    return whole


def _disturbing(confounds: DrawnConfounds) -> np.ndarray:
    """Motion and tissue signals of unit variance, (volume, confound)."""
    motion = confounds.motion - confounds.motion.mean(axis=0)
    return np.hstack([motion / motion.std(axis=0), confounds.tissue])


def _drift(n_volumes: int) -> np.ndarray:
    """Trend and bend of a scan's course, (2, volume), each of a random size in every voxel and run."""
    course = np.linspace(-1, 1, n_volumes)
    return np.stack([course * _TREND_SIZE, np.cos(np.pi * (course + 1)) * _BEND_SIZE])


def _tissue_intensity(rng: np.random.Generator, confounds: DrawnConfounds, intensity: np.ndarray) -> np.ndarray:
    """Mean intensities that the table lists, (volume, 3): white matter, CSF, the whole mask."""
    tissue = _TISSUE_INTENSITY * (1 + 0.01 * (confounds.tissue + rng.normal(0, 0.1, confounds.tissue.shape)))
    return np.hstack([tissue, intensity.mean(axis=1, keepdims=True)])


def _write_run(stem: Path, intensity: np.ndarray, spec: SimulateSpec, run: Showing, grid: Head) -> None:
    """Volumes, sidecar and mask of one run."""
    volumes = np.zeros((*grid.mask.shape, len(intensity)), np.int16)
    volumes[grid.mask] = np.rint(intensity).astype(np.int16).T
    space = stem.with_name(f"{stem.name}_space-{SPACE}")
    save_volume(space.with_name(f"{space.name}_desc-preproc_bold.nii.gz"), volumes, grid.affine, spec.tr_s)
    save_volume(space.with_name(f"{space.name}_desc-brain_mask.nii.gz"), grid.mask.astype(np.uint8), grid.affine)
    about = {"RepetitionTime": spec.tr_s, "SkullStripped": False, "TaskName": bids_label(run.segment)}
    text = json.dumps(about, indent=2) + "\n"
    space.with_name(f"{space.name}_desc-preproc_bold.json").write_text(text, encoding="utf-8")
