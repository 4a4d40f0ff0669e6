"""The simulated brain as a volume: a coarse MNI grid, its mask, and the parcels' voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from cinecube.simulation.brain.planted_parcels import Parcel

SPACE = "MNI152NLin2009cAsym"
_VOXEL_MM = 10
# The field of view ends above most of the cerebellum, as a coronal-oblique slab would.
_LOWEST_MM = -16.0
_MNI_CODE = 4


@dataclass(frozen=True)
class Head:
    """Voxels of the simulated scans.

    Attributes
    ----------
    affine : ndarray
        (4, 4), voxel to MNI millimetres.
    mask : ndarray
        (x, y, z) bool, the brain.
    labels : ndarray
        (x, y, z) int16, the parcel's number from 1, 0 outside.
    """

    affine: np.ndarray
    mask: np.ndarray
    labels: np.ndarray

    def targets(self, count: int) -> np.ndarray:
        """Positions among the mask's voxels of each parcel's targets, (parcel, target)."""
        inside = self.labels[self.mask]
        order = np.argsort(inside, kind="stable")
        return order[(inside == 0).sum() :].reshape(-1, count)


def make_grid(parcels: Sequence[Parcel], targets_per_parcel: int) -> Head:
    """A grid of 10 mm around the brain, with each parcel the free voxels nearest its centre.

    Parameters
    ----------
    parcels : sequence of Parcel
    targets_per_parcel : int

    Returns
    -------
    Head
    """
    affine, mask = _brain()
    xyz = nib.affines.apply_affine(affine, np.argwhere(mask))
    numbers = np.zeros(len(xyz), np.int16)
    for number, parcel in enumerate(parcels, start=1):
        distance = np.linalg.norm(xyz - parcel.centre_mm, axis=1)
        # A parcel keeps to its hemisphere, however near the midline it is.
        distance[(numbers > 0) | (xyz[:, 0] * parcel.centre_mm[0] < 0)] = np.inf
        numbers[np.argsort(distance, kind="stable")[:targets_per_parcel]] = number
    labels = np.zeros(mask.shape, np.int16)
    labels[mask] = numbers
    return Head(affine, mask, labels)


def _brain() -> tuple[np.ndarray, np.ndarray]:
    """Affine and mask of nilearn's MNI brain at 10 mm, cut to the field of view."""
    from nilearn.datasets import load_mni152_brain_mask

    image = load_mni152_brain_mask(resolution=_VOXEL_MM)
    mask = np.asarray(image.dataobj) > 0
    z_mm = nib.affines.apply_affine(image.affine, np.array([[0, 0, k] for k in range(mask.shape[2])]))[:, 2]
    mask[:, :, z_mm < _LOWEST_MM] = False
    corners = np.argwhere(mask)
    low, high = np.maximum(corners.min(axis=0) - 1, 0), corners.max(axis=0) + 2
    affine = image.affine.copy()
    affine[:3, 3] = nib.affines.apply_affine(image.affine, low)
    return affine, mask[tuple(slice(start, end) for start, end in zip(low, high, strict=True))]


def save_volume(path: Path, values: np.ndarray, affine: np.ndarray, tr_s: float | None = None) -> None:
    """Write a NIfTI in MNI space; the same values give the same bytes.

    Parameters
    ----------
    path : Path
    values : ndarray (x, y, z) or (x, y, z, volume)
    affine : ndarray (4, 4)
        In millimetres.
    tr_s : float, optional
        Seconds between volumes.
    """
    image = nib.Nifti1Image(values, affine, dtype=values.dtype)
    image.set_sform(affine, code=_MNI_CODE)
    image.set_qform(affine, code=_MNI_CODE)
    image.header.set_xyzt_units("mm", "sec")
    if tr_s is not None:
        image.header.set_zooms((*image.header.get_zooms()[:3], tr_s))
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)


def write_atlas(folder: Path, grid: Head, parcels: Sequence[Parcel]) -> None:
    """The parcellation volume and its table of names.

    Parameters
    ----------
    folder : Path
    grid : Head
    parcels : sequence of Parcel
    """
    stem = f"tpl-{SPACE}_atlas-Simulated_dseg"
    save_volume(folder / f"{stem}.nii.gz", grid.labels, grid.affine)
    lines = ["index\tname", *(f"{number}\t{parcel.name}" for number, parcel in enumerate(parcels, start=1))]
    (folder / f"{stem}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
