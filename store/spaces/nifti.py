"""Opening and reading NIfTI volumes that others wrote."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy

from cinecube.store.base.errors import StudyError
from cinecube.store.base.input_files import cannot_read, check_file

# No grid of a brain has more: the MNI brain at 0.5 mm is 364 × 436 × 364.
_MOST_VOXELS = 2**26
# Deflate cannot make more of a byte.
_MOST_INFLATED = 1032
# Bytes that may follow the last voxel; a longer file belongs to another header.
_MOST_TRAILING = 2**20
_BLOCK_BYTES = 2**22
_SLAB_BYTES = 2**24
_TOLERANCE_MM = 1e-3


def open_nifti(path: Path, do: str = "fetch it again") -> nib.Nifti1Image:
    """Open a NIfTI image without loading its values.

    Parameters
    ----------
    path : Path
    do : str
        What the user can do if it cannot be read.

    Returns
    -------
    Nifti1Image

    Raises
    ------
    StudyError
        If the file is none, cannot be read, is shorter than its header says, holds no real numbers, or its place in
        space is not known.
    """
    check_file(path, "NIfTI", do)
    try:
        image = nib.load(path)
    except Exception as error:  # nibabel and gzip raise many kinds for one damaged file
        raise cannot_read(path, error, "NIfTI", do) from error
    if not isinstance(image, nib.Nifti1Image) or path.suffix not in (".gz", ".nii"):
        found = f"{type(image).__name__} in {path.suffix}"
        raise StudyError(where=str(path), found=found, expected="NIfTI, .nii or .nii.gz", do="convert it")
    _check_header(image, str(path))
    _check_length(image, path, do)
    return image


def _check_header(image: nib.Nifti1Image, where: str) -> None:
    """Shape, type of the values and affine of a header, which may hold anything."""
    shape = image.shape
    if len(shape) < 3 or min(shape) < 1 or np.prod(shape[:3], dtype=float) > _MOST_VOXELS:
        expected = f"a grid of three dimensions and at most {_MOST_VOXELS:,} voxels"
        raise StudyError(where=where, found=f"shape {shape}", expected=expected, do="fetch or convert it again")
    kind = image.get_data_dtype()
    if kind.kind not in "fiub":
        found = f"values of type {'colour' if kind.names else kind}"
        raise StudyError(where=where, found=found, expected="real numbers", do="convert it")
    affine, header = image.affine, image.header
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        found = f"an affine of {np.round(affine[:3], 3).tolist()}"
        raise StudyError(where=where, found=found, expected="one that gives each voxel a place", do="correct it")
    if header.get_xyzt_units()[0] in ("meter", "micron"):
        found = f"places in {header.get_xyzt_units()[0]}s"
        raise StudyError(where=where, found=found, expected="millimetres", do="convert it")
    if header["qform_code"] == 0 and header["sform_code"] == 0:
        found = "no place in space (qform and sform codes are 0)"
        do = "set one of them, if it is known which side is left"
        raise StudyError(where=where, found=found, expected="an affine that counts", do=do)


def _check_length(image: nib.Nifti1Image, path: Path, do: str) -> None:
    """Refuse a file that cannot hold what its header says, before memory is taken for it."""
    proxy, voxels = image.dataobj, int(np.prod(image.shape, dtype=object))
    assert isinstance(proxy, ArrayProxy)  # nothing is loaded yet
    needs = int(proxy.offset) + voxels * image.get_data_dtype().itemsize
    has = path.stat().st_size
    if path.suffix == ".gz":
        # The last four bytes are the length modulo 2³² where the file is one stream, as nibabel and ITK write it.
        whole = has * _MOST_INFLATED >= needs and _last_word(path) == needs % 2**32
        has = needs if whole else _inflated_bytes(path, needs, do)
    if not needs <= has <= needs + _MOST_TRAILING:
        found = f"{has:,} bytes" if has <= needs else f"more than {needs + _MOST_TRAILING:,} bytes"
        expected = f"{needs:,}, as its header says: {image.get_data_dtype()} of shape {image.shape}"
        raise StudyError(where=str(path), found=found, expected=expected, do=do)


def _last_word(path: Path) -> int:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4))
        return int.from_bytes(file.read(4), "little")


def _inflated_bytes(path: Path, needs: int, do: str) -> int:
    """Length of a compressed file, read to its end or until it is longer than it may be."""
    length = 0
    try:
        with gzip.open(path) as stream:
            while length <= needs + _MOST_TRAILING and (block := stream.read(_BLOCK_BYTES)):
                length += len(block)
    except (OSError, EOFError, zlib.error) as error:
        raise cannot_read(path, error, "whole volumes", do) from error
    return length


def inside_blocks(
    path: Path, mask: np.ndarray, prepare: Callable[[np.ndarray], np.ndarray] | None = None, do: str = "fetch it again"
) -> Iterator[tuple[int, np.ndarray]]:
    """Values of 4-D volumes inside a mask, a few volumes at a time and checked to the file's last byte.

    Parameters
    ----------
    path : Path
        Volumes (x, y, z, time).
    mask : array (x, y, z) of bool
    prepare : callable, optional
        Makes volumes (x, y, z, some) of volumes before the mask is taken.
    do : str
        What to do about a damaged file.

    Yields
    ------
    first : int
        Number of the first of these volumes.
    values : array (volume, voxel), float32

    Raises
    ------
    StudyError
        If the file ends early, or its checksum does not fit its bytes.
    """
    header = open_nifti(path, do)
    n_volumes, step = header.shape[3], max(1, _SLAB_BYTES // (4 * mask.size))
    # Numbers too large for float32 become infinite; callers refuse them and name the place.
    with _read_whole(path, do) as stream:
        image = type(header).from_stream(stream)
        for start in range(0, n_volumes, step):
            with np.errstate(over="ignore"):
                slab = np.asarray(image.dataobj[..., start : start + step], dtype=np.float32)
            yield start, (prepare(slab) if prepare else slab)[mask].T


@contextmanager
def _read_whole(path: Path, do: str) -> Iterator[BufferedIOBase]:
    """The bytes of a NIfTI, read to their end whatever was taken: gzip compares its checksum only there."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            yield stream
            while stream.read(_BLOCK_BYTES):
                pass
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise cannot_read(path, error, "whole volumes", do) from error


def read_volume(path: Path, what: str, do: str = "fetch it again") -> tuple[nib.Nifti1Image, np.ndarray]:
    """One 3-D volume with its values; further axes of length 1 are dropped.

    Parameters
    ----------
    path : Path
    what : str
        What it should be, for messages.
    do : str
        What the user can do if it cannot be read.

    Returns
    -------
    image : Nifti1Image
        3-D, with the same values.
    values : array (x, y, z)

    Raises
    ------
    StudyError
        If it has more axes, is damaged, or holds NaN.
    """
    image = open_nifti(path, do)
    if set(image.shape[3:]) - {1}:
        found = f"volumes of shape {image.shape}"
        raise StudyError(where=str(path), found=found, expected=f"{what}, one 3-D volume", do="choose or make one")
    with _read_whole(path, do) as stream:
        values = np.asanyarray(type(image).from_stream(stream).dataobj).reshape(image.shape[:3])
    if not np.isfinite(values).all():
        found = f"NaN or infinity in {int((~np.isfinite(values)).sum())} voxels"
        raise StudyError(where=str(path), found=found, expected=what, do="set them to 0")
    return nib.Nifti1Image(values, image.affine), values


def other_grid(image: nib.Nifti1Image, like: nib.Nifti1Image) -> str | None:
    """Difference between an image's grid and another's, in words; None if they are the same.

    Parameters
    ----------
    image, like : Nifti1Image
        Their first three axes and affines are compared.

    Returns
    -------
    str or None
    """
    shape, expected = image.shape[:3], like.shape[:3]
    axes = ["".join(nib.aff2axcodes(one.affine)) for one in (image, like)]
    if axes[0] != axes[1]:
        return f"axes {axes[0]} instead of {axes[1]}"
    if shape != expected:
        return f"a grid of {shape} instead of {expected}"
    shift_mm = float(np.abs(_corners_mm(image) - _corners_mm(like)).max())
    return None if shift_mm <= _TOLERANCE_MM * max(expected) else f"a grid that is up to {shift_mm:.3g} mm elsewhere"


def _corners_mm(image: nib.Nifti1Image) -> np.ndarray:
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in image.shape[:3]])).reshape(3, -1).T
    return np.asarray(nib.affines.apply_affine(image.affine, corners))
