"""Parcellation volumes: which parcel a voxel belongs to."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from cinecube.store.errors import StudyError
from cinecube.store.foreign_bounds import look_at_table
from cinecube.store.nifti import open_nifti


def find_atlas(path: Path) -> Path:
    """The parcellation volume at `path`: the file itself, or the one `*dseg.nii.gz` in the folder.

    Raises
    ------
    StudyError
        If there is none, or more than one.
    """
    if path.is_file():
        return path
    found = sorted(path.glob("*dseg.nii.gz")) if path.is_dir() else []
    if len(found) != 1:
        raise StudyError(
            where=str(path),
            found=f"{len(found)} parcellation volumes",
            expected="one *dseg.nii.gz with its .tsv (columns index, name)",
            do="set brain.atlas to the volume",
        )
    return found[0]


def open_atlas(path: Path) -> tuple[nib.Nifti1Image, Path]:
    """A labelled volume, unread, and the table beside it.

    Raises
    ------
    StudyError
        If either is missing, or the volume is none.
    """
    path = find_atlas(path)
    image, table = open_nifti(path), path.with_name(path.name.removesuffix(".nii.gz") + ".tsv")
    if not table.is_file():
        raise StudyError(where=str(path), found="no table of labels", expected=str(table), do="add it (index, name)")
    return image, table


def read_parcels(path: Path, grid: nib.Nifti1Image) -> tuple[np.ndarray, dict[int, str]]:
    """Parcel numbers on the grid of the scans, and the parcels' names.

    Parameters
    ----------
    path : Path
        A labelled volume, or the folder that holds one. Beside it a table of the same name, `.tsv`.
    grid : Nifti1Image
        Any image on the scans' grid; another grid is resampled to the nearest label.

    Returns
    -------
    labels : array (x, y, z) of int, 0 outside
    names : dict
        Name by number; HCP-MMP names keep their hemisphere and lose `_ROI`: `L_V1`.

    Raises
    ------
    StudyError
        If the table is missing or lacks a label that the volume has.
    """
    from nilearn.image import resample_to_img

    image, table = open_atlas(path)
    if image.shape[:3] != grid.shape[:3] or not np.allclose(image.affine, grid.affine, atol=1e-3):
        image = resample_to_img(image, grid, interpolation="nearest", force_resample=True, copy_header=True)
    labels = np.rint(np.asarray(image.dataobj)).astype(np.int64)
    look_at_table(table)
    rows = pd.read_csv(table, sep="\t")
    if not {"index", "name"} <= set(rows.columns):
        raise StudyError(
            where=str(table), found=f"columns {', '.join(rows.columns)}", expected="index and name", do="rename them"
        )
    names = {int(i): re.sub(r"_ROI$", "", str(name)) for i, name in zip(rows["index"], rows["name"], strict=True)}
    unnamed = sorted(set(np.unique(labels).tolist()) - {0} - set(names))
    if unnamed:
        raise StudyError(
            where=str(table), found=f"no name for label {unnamed[0]}", expected="every label of the volume", do="add it"
        )
    return labels, names
