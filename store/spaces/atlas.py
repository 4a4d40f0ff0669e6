"""Parcellation volumes: which parcel a voxel belongs to."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from scipy import sparse

from cinecube.store.base.errors import StudyError
from cinecube.store.base.input_files import numbers_of, read_text_table
from cinecube.store.base.labels import entities_of
from cinecube.store.spaces.nifti import open_nifti, other_grid, read_volume
from cinecube.store.spaces.space import Grid, Places

_log = logging.getLogger(__name__)
_DO = "correct it"
_WHAT = "a volume of labels, 0 outside"
_GAPS = ("n/a", "")
# A label stored as a fraction of a scale is read with a rounding error.
_WHOLE = 1e-3
_MOST_LABEL = 2**31 - 1


@dataclass(frozen=True)
class Atlas:
    """Parcels of places.

    Attributes
    ----------
    name : str
    names : tuple of str
        Of the parcels, each once.
    numbers : array (parcel,) of int
    weights : csr_array (place, parcel)
        Share of each place in each parcel, 0 or more.
    """

    name: str
    names: tuple[str, ...]
    numbers: np.ndarray
    weights: sparse.csr_array


def read_atlas(path: Path, places: Places) -> Atlas:
    """Parcels of the places of scans.

    Parameters
    ----------
    path : Path
        A labelled volume, or the folder that holds one.
    places : Places

    Raises
    ------
    StudyError
        As of `read_parcels`, or if the places are no voxels.
    """
    if not isinstance(places.space, Grid):
        do = "give one of that space"
        raise StudyError(
            where=str(path), found="a volume", expected=f"an atlas of {places.space.kind} in {places.space.name}", do=do
        )
    grid = nib.Nifti1Image(np.zeros(places.space.shape, np.uint8), np.array(places.space.affine))
    labels, named = read_parcels(path, grid)
    if other := space_unlike(path, places.space.name):
        _log.warning("%s", other)
    if labels.any() and (other := other_grid(open_atlas(path)[0], grid)):
        _log.info("%s has %s: each voxel of the scans takes the nearest label", find_atlas(path).name, other)
    numbers = np.array(sorted(named), dtype=np.int64)
    label = labels.ravel()[places.index]
    inside = np.flatnonzero(label > 0)
    parts = (np.ones(inside.size), (inside, np.searchsorted(numbers, label[inside])))
    weights = sparse.csr_array(parts, shape=(len(places), len(numbers)))
    names = tuple(named[int(number)] for number in numbers)
    return Atlas(find_atlas(path).name.split(".")[0], names, numbers, weights)


def atlas_files(path: Path) -> list[Path]:
    """Files that are read for an atlas: the volume and its table."""
    return [find_atlas(path), open_atlas(path)[1]]


def find_atlas(path: Path) -> Path:
    """The parcellation volume at `path`: the file itself, or the one `*dseg.nii.gz` in the folder.

    Raises
    ------
    StudyError
        If there is none, or more than one.
    """
    if not path.is_dir():
        return path
    found = [file for file in sorted(path.glob("*dseg.nii*")) if not file.name.startswith(".")]
    if len(found) != 1:
        raise StudyError(
            where=str(path),
            found=f"{len(found)} parcellation volumes",
            expected="one *dseg.nii.gz with its .tsv (columns index, name)",
            do="set brain.atlas to the volume",
        )
    return found[0]


def space_unlike(atlas: Path, space: str) -> str | None:
    """A line on an atlas whose name says another space than the scans'; None if it does not.

    Parameters
    ----------
    atlas : Path
        A volume, or a folder with one.
    space : str
        The scans', as in BIDS.
    """
    entities = entities_of(find_atlas(atlas).name)
    named = entities.get("space") or entities.get("tpl")
    if named in (None, space):
        return None
    return f"{find_atlas(atlas).name} is in {named} by its name, the scans are in {space}: parcels lie only about right"


def open_atlas(path: Path) -> tuple[nib.Nifti1Image, Path]:
    """A labelled volume, unread, and the table beside it.

    Raises
    ------
    StudyError
        If either is missing, or the volume is none.
    """
    path = find_atlas(path)
    image = open_nifti(path)
    if set(image.shape[3:]) - {1}:
        do = "make one, as of the most probable labels"
        raise StudyError(where=str(path), found=f"volumes of shape {image.shape}", expected=f"{_WHAT}, 3-D", do=do)
    stem = path.name.removesuffix(".gz").removesuffix(".nii")
    tables = [path.with_name(stem + ending) for ending in (".tsv", ".csv")]
    table = next((table for table in tables if table.exists()), None)
    if table is None:
        do = "add it (index, name)"
        raise StudyError(where=str(path), found="no table of labels", expected=str(tables[0]), do=do)
    return image, table


def read_parcels(path: Path, grid: nib.Nifti1Image) -> tuple[np.ndarray, dict[int, str]]:
    """Parcel numbers on the grid of the scans, and the parcels' names.

    Parameters
    ----------
    path : Path
        A labelled volume, or the folder that holds one. Beside it a table of the same name, `.tsv` or `.csv`.
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
        If the volume holds anything but labels, or the table is missing, names a label or a parcel twice, or lacks a
        label that the volume has.
    """
    from nilearn.image import resample_to_img

    _, table = open_atlas(path)
    names = _read_names(table)
    image = _read_labels(find_atlas(path), names, table)
    if other_grid(image, grid):
        image = resample_to_img(image, grid, interpolation="nearest", force_resample=True, copy_header=True)
    return np.asarray(image.dataobj).astype(np.int64), names


def check_atlas(path: Path) -> None:
    """Read an atlas for itself, before there are scans to lay it on.

    Raises
    ------
    StudyError
        As of `read_parcels`.
    """
    _, table = open_atlas(path)
    _read_labels(find_atlas(path), _read_names(table), table)


def _read_labels(path: Path, names: dict[int, str], table: Path) -> nib.Nifti1Image:
    """The volume as int32, every label of it named."""
    image, values = read_volume(path, _WHAT)
    labels = np.rint(values)
    off = np.abs(values - labels)
    if off.max() > _WHOLE:
        found = f"values such as {values.flat[int(off.argmax())]:g}"
        raise StudyError(where=str(path), found=found, expected=f"{_WHAT}, whole numbers", do="make one of it")
    if labels.min() < 0 or labels.max() > _MOST_LABEL or not labels.any():
        found = f"labels from {labels.min():g} to {labels.max():g}"
        raise StudyError(where=str(path), found=found, expected=f"{_WHAT}, up to {_MOST_LABEL}", do="choose another")
    labels = labels.astype(np.int32)
    unnamed = sorted(set(np.unique(labels).tolist()) - {0} - set(names))
    if unnamed:
        raise StudyError(
            where=str(table), found=f"no name for label {unnamed[0]}", expected="every label of the volume", do="add it"
        )
    return nib.Nifti1Image(labels, image.affine)


def _read_names(table: Path) -> dict[int, str]:
    """Names by number; rows without both, and 0, which is outside, do not count."""
    rows = read_text_table(table, ("index", "name"), "columns index and name", _DO)
    numbers = numbers_of(rows["index"], table, _DO, gaps=_GAPS, whole=True)
    names: dict[int, str] = {}
    for row, (number, text) in enumerate(zip(numbers, rows["name"], strict=True), start=1):
        name = re.sub(r"_ROI$", "", text.strip())
        if number == 0 or (np.isnan(number) and name in _GAPS):
            continue
        if not 0 < number <= _MOST_LABEL:
            raise _wrong_row(table, row, f"the label {number:g}", f"1 to {_MOST_LABEL}")
        if name in _GAPS or not name.isprintable():
            raise _wrong_row(table, row, f"the name {text[:40]!r}", "a printable name")
        if int(number) in names:
            raise _wrong_row(table, row, f"label {int(number)} again ({names[int(number)]} and {name})", "each once")
        names[int(number)] = name
    if not names:
        raise StudyError(where=str(table), found="no rows", expected="a number and a name of each label", do=_DO)
    twice = pd.Series(names)[lambda found: found.duplicated(keep=False)].sort_values()
    if len(twice):
        first = twice[twice == twice.iloc[0]]
        found = f"{first.iloc[0]} for labels {', '.join(map(str, first.index[:5]))}"
        do = "give each its own, as L_V1 and R_V1"
        raise StudyError(where=str(table), found=found, expected="names that differ", do=do)
    return names


def _wrong_row(table: Path, row: int, found: str, expected: str) -> StudyError:
    return StudyError(where=f"{table} row {row}", found=found, expected=expected, do=_DO)
