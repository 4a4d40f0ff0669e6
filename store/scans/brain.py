"""Brain cubes: a subject's scans, masked, cleaned, trimmed to the films and standardised per run."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import xarray as xr

from cinecube.store.base.atomic import staged
from cinecube.store.base.errors import StudyError
from cinecube.store.base.fingerprint import file_digest, raised
from cinecube.store.base.paths import StudyPaths
from cinecube.store.base.writing import one_writer, scratch_folder
from cinecube.store.clock.clock import Clock, same_step
from cinecube.store.clock.films_table import read_films_table, rows_by_segment
from cinecube.store.cube.cubes import TARGETS_PER_SHARD, write_cube
from cinecube.store.cube.schema import provenance, string_coordinate
from cinecube.store.params.document import BrainParams, Study
from cinecube.store.scans import VERSION
from cinecube.store.scans.cleaning import clean_run, n_regressors, standardise_run, temporal_snr
from cinecube.store.scans.confounds import Confounds, read_confounds
from cinecube.store.scans.fmriprep import ScanRun, find_runs
from cinecube.store.spaces.atlas import find_atlas, open_atlas, read_parcels, space_unlike
from cinecube.store.spaces.nifti import other_grid, read_inside

Progress = Callable[[int, int], None]
_log = logging.getLogger(__name__)
# Regressors per volume above which cleaning removes much of the signal that an encoder is to find.
_MOST_REGRESSORS = 0.25


@dataclass(frozen=True)
class Targets:
    """Targets of a brain cube: voxels of a mask, or means of parcels.

    Attributes
    ----------
    mask : array (x, y, z) of bool
        Voxels that are read.
    index : array (target,)
        Flat voxel index, or parcel number.
    hemi, parcel : arrays (target,) of str
    xyz_mm : array (target, 3)
    members : array (voxel, target) or None
        Weights of the means over parcels; None for voxels.
    """

    mask: np.ndarray
    index: np.ndarray
    hemi: np.ndarray
    parcel: np.ndarray
    xyz_mm: np.ndarray
    members: np.ndarray | None


def build_brain(study: Study, subject: str, root: Path, progress: Progress | None = None) -> pd.DataFrame:
    """Make one subject's brain cube and table of quality from fMRIPrep volumes.

    Parameters
    ----------
    study : Study
    subject : str
    root : Path
        The study's folder.
    progress : callable, optional
        Told `(runs done, runs in all)`.

    Returns
    -------
    DataFrame
        One row per run: volumes found, rows expected, trim, temporal SNR, motion.

    Raises
    ------
    StudyError
        If a run is missing, too short, off the clock, on another grid, or holds NaN inside its mask, or another process
        makes this cube.
    """
    paths = StudyPaths(root)
    params = study.brain
    rows_expected = rows_by_segment(read_films_table(paths.films), study.segments(), study.clock)
    runs = find_runs(root / params.path, subject, study.segments(), params.space)
    _check_runs(runs, params, rows_expected, study.clock)
    targets = find_targets(params, runs, root)
    with (
        one_writer(paths, paths.brain(subject), paths.brain_qc(subject)),
        scratch_folder(paths, f"brain.{subject}") as scratch,
    ):
        parts, quality = [], []
        for number, run in enumerate(runs):
            bold, row = read_run(run, params, targets, rows_expected[run.segment], study.clock)
            kept = scratch / f"{number}.npy"
            np.save(kept, bold, allow_pickle=False)
            parts.append(np.load(kept, mmap_mode="r", allow_pickle=False))
            quality.append({"segment": run.segment, "repeat": run.repeat, "session": run.session, **row})
            if progress:
                progress(number + 1, len(runs))
        table = pd.DataFrame(quality)
        spec = _spec(study, subject, runs, root)
        with staged(paths.brain_qc(subject)) as partial:
            table.to_csv(partial, index=False, float_format="%.6g")
            write_cube(paths.brain(subject), _cube(runs, parts, targets, study, spec))
    _warn_of_regressors(table, subject, params.confounds)
    return table


def _warn_of_regressors(table: pd.DataFrame, subject: str, confounds: str) -> None:
    """Warn of the run with the largest share of regressors to volumes, if that is much."""
    share = table["regressors"] / table["volumes"]
    if share.max() > _MOST_REGRESSORS:
        run = table.iloc[int(share.to_numpy().argmax())]
        _log.warning(
            "%s %s: %d regressors fit %.0f%% of any %d volumes, responses included; brain.confounds: %s suits longer "
            "runs%s",
            *(subject, run["segment"], run["regressors"], 100 * share.max(), run["volumes"], confounds),
            "" if confounds in ("motion", "none") else ", motion takes out less",
        )


def find_targets(params: BrainParams, runs: list[ScanRun], root: Path) -> Targets:
    """Targets of a subject: voxels in the brain mask of every run, with their parcels.

    Parameters
    ----------
    params : BrainParams
        The section `brain`.
    runs : list of ScanRun
        All of the subject's.
    root : Path
        The study's folder.

    Raises
    ------
    StudyError
        If runs share no voxel, or the atlas does not fit.
    """
    first = runs[0].image
    mask = np.ones(first.shape[:3], dtype=bool)
    for run in runs:
        inside = run.mask
        if inside.all():
            _log.warning("%s: its brain mask is the whole field of view", run.where)
        if not (mask & inside).any():
            raise StudyError(
                where=run.where,
                found="no voxel of its mask in those of the runs before",
                expected="a brain that all runs share",
                do="check its mask, and that its scan is in the same space",
            )
        mask &= inside
    labels, names = np.zeros(mask.shape, dtype=np.int64), dict[int, str]()
    if params.atlas is not None:
        labels, names = read_parcels(root / params.atlas, first)
        _check_parcels(set(np.unique(labels[mask]).tolist()), names, runs[0], params.atlas)
        _say_of_atlas(root / params.atlas, params.space, first)
    elif params.targets == "parcels":
        raise StudyError(where="brain.targets", found="parcels", expected="an atlas", do="set brain.atlas")
    ijk = np.argwhere(mask)
    xyz_mm = nib.affines.apply_affine(first.affine, ijk)
    label = labels[mask]
    if params.targets == "voxels":
        parcel = np.array([names.get(int(number), "") for number in label], dtype=object)
        index = np.flatnonzero(mask.ravel())
        return Targets(mask, index, _hemispheres(parcel, xyz_mm), parcel, xyz_mm, None)
    numbers = np.unique(label[label > 0])
    members = (label[:, None] == numbers).astype(np.float32)
    members /= members.sum(axis=0)
    parcel = np.array([names[int(number)] for number in numbers], dtype=object)
    centres = members.T @ xyz_mm
    return Targets(mask, numbers, _hemispheres(parcel, centres), parcel, centres, members)


def _say_of_atlas(path: Path, space: str, scans: nib.Nifti1Image) -> None:
    """Log that an atlas of another grid is resampled, and that its name says another space."""
    if other := space_unlike(path, space):
        _log.warning("%s", other)
    if other := other_grid(open_atlas(path)[0], scans):
        _log.info("%s has %s: each voxel of the scans takes the nearest label", find_atlas(path).name, other)


def _check_parcels(present: set[int], names: dict[int, str], run: ScanRun, atlas: str) -> None:
    """Refuse an atlas beside the brain; log the parcels without a voxel."""
    lost = [name for number, name in names.items() if number not in present]
    subject = run.where.split()[0]
    if len(lost) == len(names):
        raise StudyError(
            where=f"{subject} {atlas}",
            found="no voxel of the brain in any parcel",
            expected=f"an atlas in the scans' space ({run.bold.name})",
            do="set brain.atlas to one of that space",
        )
    if lost:
        listed = ", ".join(lost[:8]) + (" …" if lost[8:] else "")
        _log.warning(
            "%s: %d of %d parcels lie in the brain of all runs; none of %s",
            *(subject, len(names) - len(lost), len(names), listed),
        )


def _hemispheres(parcel: np.ndarray, xyz_mm: np.ndarray) -> np.ndarray:
    """L or R by the parcel's name, and by the side of the brain where the name does not say."""
    side = np.where(xyz_mm[:, 0] < 0, "L", "R")
    named = [name[0] if name[:2] in ("L_", "R_") else s for name, s in zip(parcel, side, strict=True)]
    return string_coordinate(named)


def _check_runs(runs: list[ScanRun], params: BrainParams, rows: dict[str, int], clock: Clock) -> None:
    """Check headers, sidecars and tables of every run before the first is read."""
    constant: dict[str, int] = {}
    for run in runs:
        _check_length(run, rows[run.segment], clock)
        if other := other_grid(run.image, runs[0].image):
            do = "use one fMRIPrep output for all runs"
            raise StudyError(where=run.where, found=other, expected=f"the grid of {runs[0].where}", do=do)
        confounds = read_confounds(run, params.confounds)
        _check_regressors(run, confounds, params, clock)
        for name in confounds.constant:
            constant[name] = constant.get(name, 0) + 1
    for name, count in constant.items():
        _log.warning("%s: %s is constant in %d runs: nothing is taken out by it", runs[0].bold.name, name, count)


def _check_regressors(run: ScanRun, confounds: Confounds, params: BrainParams, clock: Clock) -> None:
    """Cleaning with as many regressors as volumes leaves rounding, which would be scaled up to a signal."""
    taken = n_regressors(confounds.regressors, run.image.shape[3], params.high_pass_hz, clock.tr_s)
    n_steady = int(confounds.steady.sum())
    if taken >= n_steady:
        raise StudyError(
            where=run.where,
            found=f"{taken} regressors for {n_steady} volumes",
            expected="fewer regressors than volumes",
            do="set brain.confounds to one that takes fewer, or leave the segment out of films",
        )


def read_run(
    run: ScanRun, params: BrainParams, targets: Targets, rows: int, clock: Clock
) -> tuple[np.ndarray, dict[str, Any]]:
    """Responses of one run (time, target), trimmed to the film and standardised, and its row of the QC table.

    Parameters
    ----------
    run : ScanRun
    params : BrainParams
        The section `brain`.
    targets : Targets
        Of the subject.
    rows : int
        Rows of the segment: later volumes are trimmed.
    clock : Clock
        The study's.

    Returns
    -------
    responses : ndarray (time, target)
        float32, standardised over the run; fewer rows where the scan is shorter.
    quality : dict
        The run's row of the table of quality.

    Raises
    ------
    StudyError
        If intensities are not finite, or too large to be cleaned.
    """
    signals = _masked(run, params, targets, clock)
    confounds = read_confounds(run, params.confounds)
    cleaned = clean_run(signals, confounds.regressors, confounds.steady, params.high_pass_hz, run.tr_s)[:rows]
    if targets.members is not None:
        cleaned = cleaned @ targets.members
    n_volumes, bold = run.image.shape[3], standardise_run(cleaned)
    if not np.isfinite(bold).all():
        found = f"intensities up to {np.abs(signals).max():.3g}, which cannot be cleaned"
        raise StudyError(where=run.where, found=found, expected="those of a scanner", do="check the scan's scale")
    return bold, {
        "volumes": n_volumes,
        "rows_expected": rows,
        "trimmed_volumes": max(0, n_volumes - rows),
        "missing_rows": max(0, rows - n_volumes),
        "non_steady_volumes": int((~confounds.steady).sum()),
        "regressors": n_regressors(confounds.regressors, n_volumes, params.high_pass_hz, run.tr_s),
        "tsnr_median": float(np.nanmedian(temporal_snr(signals))),
        "constant_voxels": int((np.ptp(signals, axis=0) == 0).sum()),
        "mean_framewise_displacement_mm": confounds.mean_displacement_mm,
    }


def _check_length(run: ScanRun, rows: int, clock: Clock) -> None:
    n_volumes = run.image.shape[3]
    if not same_step(run.tr_s, clock.tr_s):
        raise StudyError(
            where=run.where, found=f"a TR of {run.tr_s} s", expected=f"clock.tr_s: {clock.tr_s}", do="set clock.tr_s"
        )
    if abs(n_volumes - rows) * clock.tr_s > clock.max_trim_s:
        raise StudyError(
            where=run.where,
            found=f"{n_volumes} volumes ({n_volumes * clock.tr_s:.1f} s)",
            expected=f"{rows} rows of film, give or take clock.max_trim_s: {clock.max_trim_s:g}",
            do="check that scan and film belong together, or raise clock.max_trim_s",
        )


def _masked(run: ScanRun, params: BrainParams, targets: Targets, clock: Clock) -> np.ndarray:
    """Raw intensities (time, voxel) inside the mask, smoothed if the study says so."""

    def smoothed(volumes: np.ndarray) -> np.ndarray:
        from nilearn.image import smooth_img

        # The smoothing takes NaN for 0.
        kept = np.where(np.isfinite(volumes[targets.mask]), 0, np.nan)
        image = smooth_img(nib.Nifti1Image(volumes, run.image.affine), params.fwhm_mm)
        values = np.array(image.dataobj, dtype=np.float32)
        values[targets.mask] += kept
        return values

    signals = read_inside(run.bold, targets.mask, smoothed if params.fwhm_mm > 0 else None)
    _refuse_not_finite(signals, run, targets, clock)
    if (np.ptp(signals, axis=0) == 0).all():
        found = "the same value in every volume, throughout the mask"
        raise StudyError(where=run.where, found=found, expected="a signal over time", do="fetch the scan again")
    return signals


def _refuse_not_finite(signals: np.ndarray, run: ScanRun, targets: Targets, clock: Clock) -> None:
    """Name volumes that are lost as a whole by their time, otherwise voxels by their place."""
    bad = ~np.isfinite(signals)
    lost = np.flatnonzero(bad.all(axis=1))
    if lost.size:
        raise StudyError(
            where=run.where,
            found=f"{lost.size} volumes of NaN or infinity, first volume {lost[0]} ({lost[0] * clock.tr_s:.1f} s)",
            expected="finite intensities",
            do="fetch or preprocess the run again, or leave its segment out of films",
        )
    voxels = np.flatnonzero(bad.any(axis=0))
    if voxels.size:
        i, j, k = np.argwhere(targets.mask)[voxels[0]]
        at = int(bad[:, voxels[0]].argmax())
        mask = run.beside("brain", "mask", [".nii.gz"])[0]
        raise StudyError(
            where=run.where,
            found=f"NaN or infinity in {voxels.size} voxels of the mask, first at ({i}, {j}, {k}) in volume {at}",
            expected="finite intensities",
            do=f"set these voxels to 0 in {mask.name}; no run uses them then",
        )


def asked_spec(study: Study, subject: str) -> dict[str, Any]:
    """The part of a brain cube's spec that `params.yaml` decides; scans and atlas are the rest.

    Parameters
    ----------
    study : Study
    subject : str
    """
    params = study.brain.model_dump(exclude={"subjects", "repeats", "path", "atlas", "publish"})
    return {"subject": subject, "brain": params, "tr_s": study.clock.tr_s, **raised({"scans": VERSION})}


def _spec(study: Study, subject: str, runs: list[ScanRun], root: Path) -> dict[str, Any]:
    atlas = study.brain.atlas and file_digest(find_atlas(root / study.brain.atlas))
    scans = {f"{run.segment} {run.repeat}": file_digest(run.bold) for run in runs}
    return {**asked_spec(study, subject), "atlas": atlas, "scans": scans}


def _cube(
    runs: list[ScanRun], parts: list[np.ndarray], targets: Targets, study: Study, spec: dict[str, Any]
) -> xr.Dataset:
    import dask.array as da

    lengths = [len(part) for part in parts]
    onsets = [study.clock.onsets_s(length) for length in lengths]
    bold = da.concatenate([da.from_array(part, chunks=(-1, TARGETS_PER_SHARD)) for part in parts]).rechunk({0: -1})
    space = study.brain.space
    return xr.Dataset(
        {"bold": (("time", "target"), bold)},
        coords={
            "segment": ("time", string_coordinate(np.repeat([run.segment for run in runs], lengths))),
            "repeat": ("time", np.repeat([run.repeat for run in runs], lengths).astype(np.int32)),
            "session": ("time", string_coordinate(np.repeat([run.session for run in runs], lengths))),
            "onset_s": ("time", np.concatenate(onsets)),
            "target": targets.index.astype(np.int64),
            "hemi": ("target", targets.hemi),
            "parcel": ("target", string_coordinate(targets.parcel)),
            **{f"{axis}_mm": ("target", targets.xyz_mm[:, i].astype(float)) for i, axis in enumerate("xyz")},
        },
        attrs=provenance(
            "brain",
            spec,
            ("nilearn", "nibabel", "numpy"),
            space=space,
            tr_s=study.clock.tr_s,
            targets=study.brain.targets,
            affine=json.dumps(np.round(runs[0].image.affine, 6).tolist()),
            shape=json.dumps(list(runs[0].image.shape[:3])),
            cleaning=json.dumps(spec["brain"], sort_keys=True),
        ),
    )
