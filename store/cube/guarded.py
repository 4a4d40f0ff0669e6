"""Cubes on disk that never make numbers of bytes which are missing or damaged."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends.zarr import ZarrArrayWrapper, ZarrStore
from xarray.core.indexing import IndexingSupport, LazilyIndexedArray, VectorizedIndexer, explicit_indexing_adapter
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, WrapperStore

from cinecube.store.base.errors import StudyError, environment_error, first_line
from cinecube.store.cube.checksums import RESTORE, Checksums
from cinecube.store.cube.plain_zarr import plain
from cinecube.store.cube.plainness import ROOT
from cinecube.store.cube.schema import refuse_unknown, shard_key
from cinecube.store.cube.shards import RowShards


class _Standing:
    """A cube's folder as it was opened: another one under its name holds other numbers for the same labels.

    An open descriptor keeps the folder's number from being given to the next.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        status = os.fstat(self._descriptor)
        self._number = (status.st_dev, status.st_ino)
        self._is_ours = True

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            os.close(self._descriptor)

    def __getstate__(self) -> tuple[Path, tuple[int, int]]:
        return self.path, self._number

    def __setstate__(self, state: tuple[Path, tuple[int, int]]) -> None:
        self.path, self._number = state  # the process that opened it keeps the number taken
        self._is_ours = False  # another machine numbers its disks in its own way

    def refuse_another(self, where: str) -> None:
        """Raise if another folder, or none, is at the path."""
        there = folder_number(self.path)
        if there is None or there[1] != self._number[1] or (self._is_ours and there != self._number):
            raise StudyError(
                where=where,
                found="another cube in its place than was opened" if there else "nothing where it was opened",
                expected="the same cube until it is read",
                do="open it again; a stage may have written it anew",
            )


def folder_number(path: Path) -> tuple[int, int] | None:
    """Device and inode number of a folder, which another folder of its name does not share; None if there is none."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


class _Chunks(WrapperStore[Store]):
    """A store whose chunks are all there, and each in its place, but for some that may be absent.

    Zarr would make numbers of others.

    Attributes
    ----------
    absent : frozenset of str
        Chunks that may be missing.
    width : array (model, layer), optional
        Of a feature cube.
    checksums : Checksums, optional
        From `zarr.json`, once that is read.
    """

    def __init__(self, store: Store, where: str = "", standing: _Standing | None = None) -> None:
        super().__init__(store)
        self.where, self.standing = where, standing
        self.absent: frozenset[str] = frozenset()
        self.width: np.ndarray | None = None
        self.checksums: Checksums | None = None

    def _with_store(self, store: Store) -> _Chunks:
        other = type(self)(store, self.where, self.standing)
        other.absent, other.width, other.checksums = self.absent, self.width, self.checksums
        return other

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        found = await self._store.get(key, prototype, byte_range)
        if self.standing is not None:
            self.standing.refuse_another(self.where)  # after reading, so that the bytes were the opened cube's
        if key == ROOT and found is not None:
            self.checksums = Checksums.read(found.to_bytes(), self.where, self._restore)
        if not _is_chunk(key) or (found is None and key in self.absent):
            return found
        if not found:  # Zarr reads an empty shard as fill values
            raise StudyError(
                where=self.where,
                found=f"no {key}" if found is None else f"an empty {key}",
                expected="every chunk of a whole cube",
                do="restore it with `dvc checkout`, `dvc pull` or `dvc repro`" if found is None else self._restore,
            )
        if self.checksums is not None:
            self.checksums.refuse_other(key, found.as_numpy_array(), byte_range, self.where, self._restore)
        return found

    @property
    def _restore(self) -> str:
        return RESTORE if self.standing is not None else PULL_AGAIN


def _is_chunk(key: str) -> bool:
    return "c" in key.split("/")[1:]


PULL_AGAIN = "run `cinecube pull` again, or ask the owner of the study to `dvc push` it again"


class _Array(ZarrArrayWrapper):
    """An array that reports damaged bytes in one line, whoever reads it and whenever."""

    __slots__ = ("shards", "where")

    def __init__(self, zarr_array: Any, where: str) -> None:
        super().__init__(zarr_array)
        self.where = where
        self.shards = RowShards.of(zarr_array)
        if self.dtype.kind == "T":
            # Text of numpy's own knows no NaN, by which `idxmax`, `where` and outer joins mark what there is not.
            self.dtype = np.dtype(object)

    def _getitem(self, key: tuple[Any, ...]) -> Any:
        chunks: _Chunks = self._array.store
        if self.shards is not None and chunks.standing is not None:
            found = self.shards.read(chunks.standing.path, self._array.path, key, chunks.checksums)
            if found is not None:
                chunks.standing.refuse_another(chunks.where)
                return found
        return super()._getitem(key)

    def __getitem__(self, key: Any) -> Any:
        try:
            values = super().__getitem__(key)
        except StudyError:
            raise
        except Exception as error:  # checksums, short shards and broken indexes raise different classes
            raise environment_error(error, self.where) or damaged(self.where, error) from error
        self._refuse_nan(key, values)
        return values.astype(object) if values.dtype.kind == "T" else values

    def _refuse_nan(self, key: Any, values: np.ndarray) -> None:
        """Raise if there is NaN where no writer of ours leaves any."""
        if _JUDGED.get() or values.dtype.kind != "f" or _is_finite(values):
            return
        name, dims, width = self._array.basename, self._array.metadata.dimension_names, self._array.store.width
        # Scattered points do not show whether all of a target is NaN.
        whole = not isinstance(key, VectorizedIndexer) and values.ndim == len(self.shape)
        if name == "features" and width is not None and width.shape == self.shape[2:]:
            inside = np.broadcast_to(np.arange(self.shape[1])[:, None, None] < width, self.shape)
            read = explicit_indexing_adapter(key, self.shape, IndexingSupport.BASIC, inside.__getitem__)
            bad = ~np.isfinite(values) & read
        elif name == "bold":
            bad = np.isinf(values)
            if whole:
                bad |= np.isnan(values) & ~np.isnan(values).all(axis=0)  # a target may be absent
        elif tuple(dims or ())[-2:] in _BY_TARGET and whole:
            # A layer or a target may have no scores at all; the others have all of theirs.
            nan = np.isnan(values)
            bad = nan & ~(nan.all(axis=-1, keepdims=True) | nan.all(axis=-2, keepdims=True))
        else:
            return
        if bad.any():
            raise StudyError(
                where=self.where,
                found=f"{int(bad.sum())} values that are NaN or infinite where there must be numbers",
                expected="finite values, but for what the cube lacks as a whole",
                do="run `cinecube verify`, and make the cube anew with `dvc repro`",
            )


_BY_TARGET = (("layer", "target"), ("lag", "target"))
_JUDGED = ContextVar("_JUDGED", default=False)


@contextmanager
def judged_by_reader() -> Iterator[None]:
    """Let the caller refuse NaN meanwhile: it knows the segment, time or subject."""
    before = _JUDGED.set(True)
    try:
        yield
    finally:
        _JUDGED.reset(before)


def _is_finite(values: np.ndarray) -> bool:
    """True if all values are finite. Their sum shows it in half the time of a test of each, and without its memory."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = values.sum(dtype=np.float64 if values.dtype.itemsize < 4 else None)
    return bool(np.isfinite(total) or np.isfinite(values).all())


def damaged(where: str, error: Exception) -> StudyError:
    """Error for bytes that cannot be decoded.

    Parameters
    ----------
    where : str
        The chunk or cube.
    error : exception
        What the decoder raised.

    Returns
    -------
    StudyError
    """
    first = first_line(error).split(". Stored")[0]
    return StudyError(
        where=where,
        found=f"damaged bytes ({first})",
        expected="whole chunks",
        do=RESTORE,
    )


class _Group(ZarrStore):
    """A group whose arrays are `_Array`."""

    where = ""

    def open_store_variable(self, name: str) -> xr.Variable:
        plain = super().open_store_variable(name)
        array = _Array(self.members[name], f"{self.where} {name}")
        return xr.Variable(plain.dims, LazilyIndexedArray(array), plain.attrs, plain.encoding)


def open_guarded(store: Store, where: str) -> xr.Dataset:
    """Open a group lazily; layers of a feature cube that have no width are the only chunks that may be missing.

    Parameters
    ----------
    store : Store
    where : str
        What messages call it.

    Returns
    -------
    Dataset

    Raises
    ------
    StudyError
        Now, if its schema is newer than this package. When it is read, or now where labels are concerned: if a chunk is
        missing or damaged, or a cube on disk was replaced since it was opened.
    """
    standing = _Standing(store.root) if isinstance(store, LocalStore) else None
    chunks = _Chunks(plain(store, where), where, standing=standing)
    group = _Group.open_group(chunks, mode="r", consolidated=None, consolidate_on_close=False, zarr_format=3)
    refuse_unknown(group.zarr_group.attrs.get("schema"), where)
    group.where = where
    cube = xr.open_dataset(group)
    if "features" in cube and "width" in cube:
        chunks.width = cube["width"].values
        chunks.absent = frozenset(shard_key(m, k) for m, k in np.argwhere(chunks.width == 0))
    if standing is not None:
        standing.refuse_another(where)  # listing a folder that goes away finds no arrays, and that is no error
    return cube
