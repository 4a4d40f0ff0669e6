"""Labels of surfaces: a FreeSurfer `.annot` or a GIFTI `.label.gii` for each hemisphere."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.freesurfer.io import read_annot
from nibabel.gifti.gifti import GiftiImage

from cinecube.store.base.errors import StudyError
from cinecube.store.base.input_files import cannot_read, check_file
from cinecube.store.spaces.atlas_labels import (
    CORTEX,
    AtlasLabels,
    is_outside,
    parcel_name,
    refuse_doubled,
    refuse_unnamed,
    refuse_unprintable,
)

_WHAT = "labels of one hemisphere"
_DO = "fetch it again"
# One of 164,000 vertices has a third of it as text, and zlib makes a thousand times as much of it at most.
_MOST_BYTES = 2**22
_MOST_LABELS = 100_000
# How names of files say their hemisphere: the part before it, the side and the part after it.
_SIDES = (
    re.compile(r"(?P<before>)(?P<side>[lr])(?P<after>h\..*\.annot)"),
    re.compile(r"(?P<before>.*hemi-)(?P<side>[LR])(?P<after>(?![A-Za-z0-9]).*\.label\.gii)"),
    re.compile(r"(?P<before>.*\.)(?P<side>[LR])(?P<after>\..*label\.gii)"),
)
SUFFIXES = (".annot", ".label.gii")


def side_of(name: str) -> tuple[str, str] | None:
    """Hemisphere that a file's name says, `L` or `R`, and the name of the other one's file; None if it says none."""
    for pattern in _SIDES:
        if match := pattern.fullmatch(name):
            other = match["side"].translate(str.maketrans("LRlr", "RLrl"))
            return match["side"].upper(), match["before"] + other + match["after"]
    return None


def both_hemispheres(path: Path) -> tuple[Path, Path]:
    """The files of the left and the right hemisphere, from either of them.

    Parameters
    ----------
    path : Path

    Raises
    ------
    StudyError
        If its name says no hemisphere.
    """
    side = side_of(path.name)
    if side is None:
        expected = "one that says its hemisphere, as lh.NAME.annot, NAME_hemi-L.label.gii or NAME.L.label.gii"
        raise StudyError(where=str(path), found=f"the name {path.name}", expected=expected, do="rename both files")
    pair = {side[0]: path, "LR".replace(side[0], ""): path.with_name(side[1])}
    return pair["L"], pair["R"]


def read_surface_labels(path: Path) -> AtlasLabels:
    """Labels of both hemispheres, numbered through both, left first.

    Parameters
    ----------
    path : Path
        The file of either hemisphere.

    Raises
    ------
    StudyError
        If one is missing or cannot be read, has labels without a name or names of the other hemisphere, or both are of
        different meshes.
    """
    files = both_hemispheres(path)
    names: dict[int, str] = {}
    cortex = {}
    for hemi, file in zip(CORTEX, files, strict=True):
        keys, own = _read_annot(file) if file.suffix == ".annot" else _read_gifti(file)
        refuse_unnamed(np.unique(keys).tolist(), own, str(file))
        there = {key: name for key, name in own.items() if (keys == key).any() and not is_outside(name)}
        mesh = np.zeros(len(keys), dtype=np.int64)
        for number, key in enumerate(sorted(there), start=len(names) + 1):
            mesh[keys == key] = number
            names[number] = _on_side(there[key], hemi, file)
        cortex[hemi] = mesh
    if len(cortex["L"]) != len(cortex["R"]):
        found, expected = (f"{len(cortex[hemi]):,} vertices" for hemi in "RL")
        do = "give both hemispheres of one atlas"
        raise StudyError(where=str(files[1]), found=found, expected=f"{expected}, as {files[0].name} has", do=do)
    if not names:
        raise StudyError(where=str(files[0]), found="no labels", expected="names of parcels", do="choose another")
    refuse_doubled(names, str(files[0]))
    return AtlasLabels(files[0], "vertices", names, cortex=cortex)


def _on_side(name: str, hemi: str, file: Path) -> str:
    """A name that says its hemisphere, `L_V1`."""
    other = "LR".replace(hemi, "")
    if name.startswith(f"{other}_"):
        do = "check which side it is, and name it so"
        raise StudyError(where=str(file), found=f"the parcel {name}", expected=f"those of {hemi}", do=do)
    return name if name.startswith(f"{hemi}_") else f"{hemi}_{name}"


def _check_size(file: Path) -> int:
    check_file(file, _WHAT, _DO)
    size = file.stat().st_size
    if size > _MOST_BYTES:
        found = f"{size / 2**20:.0f} MiB"
        raise StudyError(
            where=str(file), found=found, expected=f"{_WHAT}, at most {_MOST_BYTES // 2**20} MiB", do="choose another"
        )
    return size


def _read_annot(file: Path) -> tuple[np.ndarray, dict[int, str]]:
    """Keys (vertex,) of an annotation, 0 outside, and their names."""
    size = _check_size(file)
    try:
        # What it declares, before nibabel takes memory for it: vertices, a table, its version, its entries.
        declared = int(np.fromfile(file, ">i4", 1)[0])
        entries = np.fromfile(file, ">i4", 3, offset=4 + 8 * declared)[1:] if 0 < declared * 8 < size else [0]
        if not 0 < max(map(abs, map(int, entries))) <= _MOST_LABELS:
            raise ValueError(f"{declared} vertices and {entries[-1]} labels in {size} bytes")
        labels, _, names = read_annot(file)
    except Exception as error:  # nibabel and numpy raise many kinds for one damaged file
        raise cannot_read(file, error, _WHAT, _DO) from error
    texts = [name.decode("utf-8", "replace") for name in names]
    return labels.astype(np.int64) + 1, _printable(dict(enumerate(texts, start=1)), file)


def _read_gifti(file: Path) -> tuple[np.ndarray, dict[int, str]]:
    """Keys (vertex,) of a GIFTI file, and their names."""
    _check_size(file)
    try:
        image = nib.load(file)
    except Exception as error:  # nibabel and expat raise many kinds for one damaged file
        raise cannot_read(file, error, _WHAT, _DO) from error
    if not isinstance(image, GiftiImage) or len(image.darrays) != 1 or image.darrays[0].data.ndim != 1:
        shapes = [data.data.shape for data in image.darrays] if isinstance(image, GiftiImage) else type(image).__name__
        found = f"data of shape {shapes}" if shapes else "no labels"
        raise StudyError(where=str(file), found=found, expected=f"{_WHAT}, one map of them", do="choose or make one")
    data = image.darrays[0].data
    if data.dtype.kind not in "iu":
        found = f"values of type {data.dtype}"
        raise StudyError(where=str(file), found=found, expected=f"{_WHAT}, whole numbers", do="make one of it")
    names = {int(key): str(name or "") for key, name in image.labeltable.get_labels_as_dict().items()}
    # Some writers leave what is outside without a label.
    return data.astype(np.int64), {0: "???", **_printable(names, file)}


def _printable(names: dict[int, str], file: Path) -> dict[int, str]:
    found = {key: parcel_name(name) for key, name in names.items()}
    refuse_unprintable(found, str(file))
    return found
