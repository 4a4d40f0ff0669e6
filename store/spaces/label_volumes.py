"""Labelled volumes with a table of their names."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np

from cinecube.store.base.errors import StudyError
from cinecube.store.base.input_files import numbers_of, read_text_table
from cinecube.store.spaces.atlas_labels import (
    MOST_LABEL,
    AtlasLabels,
    parcel_name,
    refuse_doubled,
    refuse_unnamed,
    whole_numbers,
)
from cinecube.store.spaces.nifti import open_nifti, read_volume

_DO = "correct it"
_WHAT = "a volume of labels, 0 outside"
_GAPS = ("n/a", "")
# The parcellation of Algonauts 2025 comes without a table.
_SCHAEFER, _SCHAEFER_PARCELS = "atlas-Schaefer18_parcel-1000Par7Net", 1000


def schaefer_names() -> tuple[str, ...]:
    """Parcels of Algonauts 2025 in the order of its data: `L_0001` to `L_0500`, `R_0501` to `R_1000`."""
    side = {False: "L", True: "R"}
    return tuple(f"{side[n > _SCHAEFER_PARCELS // 2]}_{n:04d}" for n in range(1, _SCHAEFER_PARCELS + 1))


def table_beside(path: Path) -> Path | None:
    """The table of a volume's labels; None for the parcellation of Algonauts 2025, whose names are known.

    Parameters
    ----------
    path : Path
        The volume.

    Raises
    ------
    StudyError
        If there is none.
    """
    stem = path.name.removesuffix(".gz").removesuffix(".nii")
    tables = [path.with_name(stem + ending) for ending in (".tsv", ".csv")]
    table = next((table for table in tables if os.path.lexists(table)), None)
    if table is None and _SCHAEFER not in path.name:
        do = "add it (index, name)"
        raise StudyError(where=str(path), found="no table of labels", expected=str(tables[0]), do=do)
    return table


def read_label_volume(path: Path) -> AtlasLabels:
    """Labels of a volume, every one of them named.

    Parameters
    ----------
    path : Path
        3-D; beside it a table of the same name, `.tsv` or `.csv`, with the columns index and name.

    Raises
    ------
    StudyError
        If the volume holds anything but labels, or the table is missing, names a label or a parcel twice, or lacks a
        label that the volume has.
    """
    shape = open_nifti(path).shape
    if set(shape[3:]) - {1}:
        do = "make one, as of the most probable labels"
        raise StudyError(where=str(path), found=f"volumes of shape {shape}", expected=f"{_WHAT}, 3-D", do=do)
    table = table_beside(path)
    names = dict(enumerate(schaefer_names(), start=1)) if table is None else _read_names(table)
    image, values = read_volume(path, _WHAT)
    labels = whole_numbers(values, str(path), _WHAT)
    refuse_unnamed(np.unique(labels).tolist(), names, str(table or path))
    return AtlasLabels(path, "voxels", names, volume=nib.Nifti1Image(labels, image.affine))


def _read_names(table: Path) -> dict[int, str]:
    """Names by number; rows without both, and 0, which is outside, do not count."""
    rows = read_text_table(table, ("index", "name"), "columns index and name", _DO)
    numbers = numbers_of(rows["index"], table, _DO, gaps=_GAPS, whole=True)
    names: dict[int, str] = {}
    for row, (number, text) in enumerate(zip(numbers, rows["name"], strict=True), start=1):
        name = parcel_name(text)
        if number == 0 or (np.isnan(number) and name in _GAPS):
            continue
        if not 0 < number <= MOST_LABEL:
            raise _wrong_row(table, row, f"the label {number:g}", f"1 to {MOST_LABEL}")
        if name in _GAPS or not name.isprintable():
            raise _wrong_row(table, row, f"the name {text[:40]!r}", "a printable name")
        if int(number) in names:
            raise _wrong_row(table, row, f"label {int(number)} again ({names[int(number)]} and {name})", "each once")
        names[int(number)] = name
    if not names:
        raise StudyError(where=str(table), found="no rows", expected="a number and a name of each label", do=_DO)
    refuse_doubled(names, str(table))
    return names


def _wrong_row(table: Path, row: int, found: str, expected: str) -> StudyError:
    return StudyError(where=f"{table} row {row}", found=found, expected=expected, do=_DO)
