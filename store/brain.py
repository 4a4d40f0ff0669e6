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

from cinecube.store.atlas import find_atlas, read_parcels
from cinecube.store.atomic import staged
from cinecube.store.cleaning import clean_run, n_regressors, standardise, temporal_snr
from cinecube.store.clock import Clock
from cinecube.store.cubes import TARGETS_PER_SHARD, write_cube
from cinecube.store.errors import StudyError
from cinecube.store.films import read_films_table, rows_by_segment
from cinecube.store.fingerprint import file_digest
from cinecube.store.fmriprep import ScanRun, find_runs, mean_framewise_displacement_mm, read_confounds
from cinecube.store.nifti import open_nifti
from cinecube.store.params import BrainParams, Study
from cinecube.store.paths import StudyPaths
from cinecube.store.schema import provenance, string_coordinate
from cinecube.store.writing import one_writer, scratch_folder

Progress = Callable[[int, int], None]
_log = logging.getLogger(__name__)
# Share of a run's volumes above which cleaning takes much of what an encoder is to find.
_MOST_REGRESSORS = 0.25


@dataclass(frozen=True)
class Targets:
    """What a brain cube's target axis is: voxels of a mask, or means of parcels.

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
    rows_expected = rows_by_segment(read_films_table(paths.films), study.segments())
    runs = find_runs(root / params.path, subject, study.segments(), params.space)
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
    """Name the run of which cleaning takes the largest share, if that is much."""
    share = table["regressors"] / table["volumes"]
    if share.max() > _MOST_REGRESSORS:
        run = table.iloc[int(share.to_numpy().argmax())]
        _log.warning(
            "%s %s: %d regressors fit %.0f%% of any %d volumes, responses included; brain.confounds: %s suits longer "
            "runs",
            *(subject, run["segment"], run["regressors"], 100 * share.max(), run["volumes"], confounds),
        )


def find_targets(params: BrainParams, runs: list[ScanRun], root: Path) -> Targets:
    """Targets of a subject: voxels that lie in the brain mask of every run, with their parcels."""
    first = runs[0].image
    mask = np.ones(first.shape[:3], dtype=bool)
    for run in runs:
        if run.image.shape[:3] != first.shape[:3] or not np.allclose(run.image.affine, first.affine, atol=1e-3):
            raise StudyError(
                where=run.where,
                found=f"a grid of {run.image.shape[:3]}",
                expected=f"the grid of {runs[0].where}, {first.shape[:3]}",
                do="use one fMRIPrep output for all runs",
            )
        mask &= np.asarray(open_nifti(run.mask).dataobj).astype(bool)
    labels, names = np.zeros(mask.shape, dtype=np.int64), dict[int, str]()
    if params.atlas is not None:
        labels, names = read_parcels(root / params.atlas, first)
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


def _hemispheres(parcel: np.ndarray, xyz_mm: np.ndarray) -> np.ndarray:
    """L or R by the parcel's name, and by the side of the brain where the name does not say."""
    side = np.where(xyz_mm[:, 0] < 0, "L", "R")
    named = [name[0] if name[:2] in ("L_", "R_") else s for name, s in zip(parcel, side, strict=True)]
    return string_coordinate(named)


def read_run(
    run: ScanRun, params: BrainParams, targets: Targets, rows: int, clock: Clock
) -> tuple[np.ndarray, dict[str, Any]]:
    """Responses of one run (time, target), trimmed to the film and standardised, and its row of the QC table."""
    _check_length(run, rows, clock)
    signals = _masked(run, params, targets)
    confounds, steady = read_confounds(run, params.confounds)
    cleaned = clean_run(signals, confounds, steady, params.high_pass_hz, run.tr_s)[:rows]
    if targets.members is not None:
        cleaned = cleaned @ targets.members
    n_volumes = run.image.shape[3]
    return standardise(cleaned), {
        "volumes": n_volumes,
        "rows_expected": rows,
        "trimmed_volumes": max(0, n_volumes - rows),
        "missing_rows": max(0, rows - n_volumes),
        "non_steady_volumes": int((~steady).sum()),
        "regressors": n_regressors(confounds, n_volumes, params.high_pass_hz, run.tr_s),
        "tsnr_median": float(np.nanmedian(temporal_snr(signals))),
        "constant_voxels": int((np.ptp(signals, axis=0) == 0).sum()),
        "mean_framewise_displacement_mm": mean_framewise_displacement_mm(run),
    }


def _check_length(run: ScanRun, rows: int, clock: Clock) -> None:
    n_volumes = run.image.shape[3]
    if abs(run.tr_s - clock.tr_s) > 1e-4:
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


def _masked(run: ScanRun, params: BrainParams, targets: Targets) -> np.ndarray:
    """Raw intensities (time, voxel) inside the mask, smoothed if the study says so."""
    volumes = run.volumes()
    inside = volumes[targets.mask]
    bad = np.flatnonzero(~np.isfinite(inside).all(axis=1))
    if bad.size:
        i, j, k = np.argwhere(targets.mask)[bad[0]]
        raise StudyError(
            where=run.where,
            found=f"NaN or infinity in {bad.size} voxels of the mask, first at ({i}, {j}, {k})",
            expected="finite intensities",
            do="mend the scan, or take these voxels out of its brain mask",
        )
    if params.fwhm_mm > 0:
        from nilearn.image import smooth_img

        smoothed = smooth_img(nib.Nifti1Image(volumes, run.image.affine), params.fwhm_mm)
        inside = np.asarray(smoothed.dataobj, dtype=np.float32)[targets.mask]
    return inside.T


def asked_spec(study: Study, subject: str) -> dict[str, Any]:
    """What of a brain cube's spec `params.yaml` decides; scans and atlas are the rest."""
    params = study.brain.model_dump(exclude={"subjects", "repeats", "path", "atlas", "publish"})
    return {"subject": subject, "brain": params, "tr_s": study.clock.tr_s}


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
