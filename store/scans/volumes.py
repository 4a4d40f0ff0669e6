"""Volumes of fMRIPrep: NIfTI images in any space, each with a brain mask beside it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np

from cinecube.store.base.errors import StudyError
from cinecube.store.base.labels import entities_of
from cinecube.store.inputs.content import is_here
from cinecube.store.params.document import BrainParams
from cinecube.store.scans.bids import beside, confounds_table, is_there, repetition_s, sidecars_of
from cinecube.store.scans.showings import find_showings
from cinecube.store.scans.source import RunBlocks, ScanRun, ScanTiming
from cinecube.store.spaces.nifti import inside_blocks, open_nifti, other_grid, read_volume
from cinecube.store.spaces.space import Grid, Places, places_in

_log = logging.getLogger(__name__)
_ENDINGS = (".nii.gz", ".nii")
_TO_SECONDS = {"msec": 1e-3, "usec": 1e-6}


class Volumes:
    """A subject's volumes in one space; see `ScanSource`.

    Parameters
    ----------
    params : BrainParams
    subject : str
    files : sequence of Path
        All volumes in this space, whatever their `desc`.

    Raises
    ------
    StudyError
        If none of them is preprocessed as `brain.confounds` needs it.
    """

    def __init__(self, params: BrainParams, subject: str, files: Sequence[Path]) -> None:
        # That preset of nilearn's goes with the volumes that fMRIPrep has denoised by it.
        desc = "smoothAROMAnonaggr" if params.confounds == "ica_aroma" else "preproc"
        self._files = [path for path in files if entities_of(path.name).get("desc") == desc]
        if not self._files:
            raise StudyError(
                where=f"{subject} in {params.path}",
                found=f"volumes in {params.space}, but none with desc-{desc}",
                expected=f"*_space-{params.space}_desc-{desc}_bold.nii.gz",
                do="fetch them" if desc == "preproc" else "set brain.confounds to what does without them",
            )
        self.subject, self._params = subject, params
        self._open = cache(_open_volumes)
        self.tasks = sorted({entities_of(path.name).get("task", "") for path in self._files})

    def runs(self, segments: Sequence[str]) -> list[ScanRun]:
        """All showings of these segments that there are."""
        return find_showings(self._files, self.subject, segments, self._params.tasks, self._params.choose)

    def files(self, run: ScanRun) -> list[Path]:
        """Volumes, mask, sidecar and confounds of a run."""
        table = self.confounds(run)
        return [run.path, _mask_path(run), *sidecars_of(run.path), *([table] if table else [])]

    def timing(self, run: ScanRun) -> ScanTiming:
        """Number of volumes and the time between them.

        Raises
        ------
        StudyError
            If header and sidecar differ, or say no such time.
        """
        sidecars = sidecars_of(run.path)
        if sidecars and not all(map(is_here, run.paths)):  # a sidecar is there before its volumes are fetched
            return ScanTiming(None, *repetition_s(run.path, sidecars, None, False))
        header = self._open(run.path).header
        unit = header.get_xyzt_units()[1]
        header_s = float(header.get_zooms()[3]) * _TO_SECONDS.get(unit, 1.0)
        known = unit in ("sec", *_TO_SECONDS) and header_s > 0
        return ScanTiming(int(header.get_data_shape()[3]), *repetition_s(run.path, sidecars, header_s, known))

    def places(self, runs: Sequence[ScanRun]) -> Places:
        """Voxels in the brain mask of all runs.

        Raises
        ------
        StudyError
            If runs are on different grids or share no voxel, or a mask is missing, damaged, no mask, or empty.
        """
        first = self._open(runs[0].path)
        common = np.ones(first.shape[:3], dtype=bool)
        for run in runs:
            if other := other_grid(self._open(run.path), first):
                do = "use one fMRIPrep output for all runs"
                raise StudyError(where=run.where, found=other, expected=f"the grid of {runs[0].where}", do=do)
            inside = _read_mask(run, self._open(run.path))
            if inside.all():
                _log.warning("%s: its brain mask is the whole field of view", run.where)
            if not (common & inside).any():
                raise StudyError(
                    where=run.where,
                    found="no voxel of its mask in those of the runs before",
                    expected="a brain that all runs share",
                    do="check its mask, and that its scan is in the same space",
                )
            common &= inside
        i, j, k = first.shape[:3]
        affine = tuple(map(tuple, np.round(first.affine, 6).tolist()))
        return places_in(Grid(self._params.space, (i, j, k), affine), np.flatnonzero(common))

    def values(self, run: ScanRun, places: Places) -> RunBlocks:
        """Intensities of a run, some volumes at a time; smoothed if the study says so.

        Parameters
        ----------
        run : ScanRun
        places : Places
            Some of `places`.

        Yields
        ------
        volumes, places : slice
            All places each time.
        values : array of float32, shape (volume, place)
        """
        assert isinstance(places.space, Grid)
        mask = np.zeros(places.space.shape, dtype=bool)
        mask.flat[places.index] = True
        prepare = (
            _smoothing(mask, self._open(run.path).affine, self._params.fwhm_mm) if self._params.fwhm_mm > 0 else None
        )
        for start, values in inside_blocks(run.path, mask, prepare):
            yield slice(start, start + len(values)), slice(0, len(places)), values

    def confounds(self, run: ScanRun) -> Path | None:
        """The run's table of confounds."""
        return confounds_table(run.path, run.where)


def _open_volumes(path: Path) -> nib.Nifti1Image:
    """The volumes (x, y, z, time), not loaded."""
    image = open_nifti(path)
    if len(image.shape) != 4:
        raise StudyError(where=str(path), found=f"shape {image.shape}", expected="4-D volumes", do="check it")
    return image


def _mask_path(run: ScanRun) -> Path:
    paths = [beside(run.path, "mask", ending, desc="brain") for ending in _ENDINGS]
    return next((path for path in paths if is_there(path)), paths[0])


def _read_mask(run: ScanRun, scan: nib.Nifti1Image) -> np.ndarray:
    """The brain mask beside the volumes, (x, y, z) of bool."""
    path = _mask_path(run)
    if not is_there(path):
        raise StudyError(where=run.where, found="no brain mask", expected=str(path), do="fetch it from fMRIPrep")
    image, values = read_volume(path, "a brain mask")
    if other := other_grid(image, scan):
        do = "fetch scan and mask of the same run"
        raise StudyError(where=str(path), found=other, expected="the grid of its scan", do=do)
    levels = np.unique(values)
    if levels.size > 2 or levels[0] not in (0, levels[-1]):
        found = f"{levels.size} values from {levels[0]:g} to {levels[-1]:g}"
        raise StudyError(where=str(path), found=found, expected="0 outside, 1 inside", do="make it a mask")
    inside: np.ndarray = values != 0
    if not inside.any():
        found, expected = "an empty mask", "voxels of the brain"
        raise StudyError(where=str(path), found=found, expected=expected, do="fetch it again")
    return inside


def _smoothing(mask: np.ndarray, affine: np.ndarray, fwhm_mm: float) -> Callable[[np.ndarray], np.ndarray]:
    """A function that smooths volumes (x, y, z, some) and keeps NaN where it was inside the mask."""

    def smoothed(volumes: np.ndarray) -> np.ndarray:
        from nilearn.image import smooth_img

        # The smoothing takes NaN for 0.
        kept = np.where(np.isfinite(volumes[mask]), 0, np.nan)
        image = smooth_img(nib.Nifti1Image(volumes, affine), fwhm_mm)
        values = np.array(image.dataobj, dtype=np.float32)
        values[mask] += kept
        return values

    return smoothed
