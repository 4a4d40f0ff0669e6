"""Arrays that other programs wrote, looked at before they are read: they hold what they declare, and no more."""

from __future__ import annotations

import math
import os
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from cinecube.store.base.bounded import file_bytes
from cinecube.store.base.errors import StudyError, environment_error, first_line

# Bytes that may be unpacked or filled in whatever the file's size; more is allowed at a ratio that numbers reach.
_FREE_BYTES = 2**28
_RATIO = 100
# One line of a table: 100,000 dims of 20 characters.
_MAX_LINE, _MAX_COLUMNS = 2**21, 100_000
_BLOCK_BYTES = 2**20
_MAX_MEMBERS = 100_000
NUMBERS = "fiub"
"""Kinds of types that are numbers."""


def wrong(where: str, found: str, expected: str, do: str) -> StudyError:
    """Error for features that cannot be read, or not for certain.

    Parameters
    ----------
    where, found, expected, do : str
        As in `StudyError`.

    Returns
    -------
    StudyError
    """
    return StudyError(where=where, found=found, expected=expected, do=do)


def _refused(where: str, found: str, expected: str) -> StudyError:
    return wrong(where, found, expected, "save it again, as it was computed")


def look_at(path: Path) -> int:
    """Bytes of a plain file.

    Raises
    ------
    StudyError
        If it is a pipe, a device or a folder, or mostly a hole, which would be read as zeros.
    """
    n_bytes, status = file_bytes(path), os.stat(path)
    if n_bytes > _FREE_BYTES and status.st_blocks * 512 < n_bytes // _RATIO:
        raise _refused(str(path), f"{n_bytes} bytes of which {status.st_blocks * 512} were ever written", "numbers")
    return n_bytes


def look_at_numpy(path: Path) -> None:
    """Refuse a `.npy` or `.npz` file whose arrays are longer than their bytes, or objects.

    Raises
    ------
    StudyError
    ValueError, OSError, EOFError, zipfile.BadZipFile
        If it is none.
    """
    n_bytes = look_at(path)
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            _look_at_header(file, n_bytes, str(path))
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        unpacked = sum(member.file_size for member in members)
        if len(members) > _MAX_MEMBERS or unpacked > max(_FREE_BYTES, _RATIO * n_bytes):
            raise _refused(str(path), f"{len(members)} arrays that unpack to {unpacked} bytes", "features")
        for member in members:
            with archive.open(member) as file:
                _look_at_header(file, member.file_size, f"{path} {member.filename.removesuffix('.npy')}")


def _look_at_header(file: IO[bytes], n_bytes: int, where: str) -> None:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        return  # pickled, and so never loaded
    declared = math.prod(shape) * dtype.itemsize
    if declared > n_bytes:
        raise _refused(where, f"shape {shape}, which is {declared} bytes, in {n_bytes}", "all values of the array")


def look_at_table(path: Path) -> None:
    """Refuse a table with a line longer than any, or bytes that no text has.

    Raises
    ------
    StudyError
    """
    look_at(path)
    length, first = 0, b""
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            if b"\0" in block:
                raise _refused(str(path), "bytes that are no text (NUL)", "a table of text")
            first = first or block
            lines = block.split(b"\n")
            length += len(lines[0])
            if max(length, *map(len, lines)) > _MAX_LINE:
                raise _refused(str(path), f"a line of more than {_MAX_LINE} characters", "a row to a line")
            length = len(lines[-1]) if len(lines) > 1 else length
    columns = max(first.split(b"\n", 1)[0].count(sign) for sign in (b",", b"\t")) + 1
    if columns > _MAX_COLUMNS:
        raise _refused(str(path), f"{columns} columns", f"at most {_MAX_COLUMNS}")


def look_at_dataset(dataset: Any, where: str) -> None:
    """Refuse a data set of HDF5 that is no numbers, or declares more than its file holds.

    Parameters
    ----------
    dataset : h5py.Dataset
    where : str
        What messages call it.

    Raises
    ------
    StudyError
    """
    if dataset.is_virtual or dataset.external:
        raise StudyError(
            where=where,
            found="a data set whose bytes are in other files",
            expected="its own bytes",
            do="copy it into one file",
        )
    if dataset.dtype.kind not in "fiub" or dataset.shape is None:
        return  # refused when it is read, which costs nothing
    declared, stored = dataset.size * dataset.dtype.itemsize, dataset.id.get_storage_size()
    if declared > max(_FREE_BYTES, _RATIO * stored):
        raise _refused(where, f"shape {dataset.shape}, which is {declared} bytes, in {stored}", "its values")
    chunk = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
    if chunk > max(_FREE_BYTES, declared):
        raise _refused(where, f"chunks of {chunk} bytes", "chunks that are smaller than the data set")


def as_numbers(values: Any, where: str) -> np.ndarray:
    """Numbers (row, dim) as float64; a vector is one dim.

    Parameters
    ----------
    values : array_like (row, dim) or (row,)
    where : str
        What messages call them.

    Returns
    -------
    array of float64, shape (row, dim)

    Raises
    ------
    StudyError
        If they are no real numbers, or of another shape.
    """
    array = np.asarray(values)
    if array.dtype.kind not in NUMBERS:
        do = "convert them"
        raise StudyError(where=where, found=f"values of type {array.dtype}", expected="real numbers", do=do)
    if array.ndim not in (1, 2) or 0 in array.shape:
        found, do = f"shape ({', '.join(map(str, array.shape))})", "reshape it to one row per window"
        raise StudyError(where=where, found=found, expected="(row, dim)", do=do)
    return array.reshape(len(array), -1).astype(np.float64)


def unreadable_array(path: Path, error: Exception) -> StudyError:
    """Error for a file that a library cannot read.

    Parameters
    ----------
    path : Path
    error : exception
        What the library raised.

    Returns
    -------
    StudyError
        As of `environment_error`, where the machine refused.
    """
    if refused := environment_error(error, str(path)):
        return refused
    first = first_line(error)
    found, do = f"an unreadable file ({first})", "save it again"
    return StudyError(where=str(path), found=found, expected="an array of numbers", do=do)
