"""Zarr groups of other people: all that Zarr reads of them goes through here, and is judged before, see `plainness`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import xarray as xr
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, WrapperStore

from cinecube.store.base.bounded import file_bytes, refuse_special
from cinecube.store.cube.plainness import OLDER, Plainness, file_name


async def read_plainly(
    plainness: Plainness,
    key: str,
    request: ByteRequest | None,
    get: Callable[[], Awaitable[Buffer | None]],
) -> Buffer | None:
    """Bytes of a store under a key, judged before Zarr sees them; None if there are none.

    Parameters
    ----------
    plainness : Plainness
        Of the group.
    key : str
    request : ByteRequest, optional
        The part of the file that `get` returns; the whole file without it.
    get : callable
        Awaited for the bytes.

    Returns
    -------
    Buffer or None

    Raises
    ------
    StudyError
        If the bytes are not plain, or of Zarr v2.
    """
    found = await get()
    if found is None:
        return None
    if file_name(key) in OLDER:
        plainness.refuse_older(key)
    plainness.judge(key, found.as_numpy_array().data, request)
    return found


class PlainStore(WrapperStore[Store]):
    """A store that shows Zarr nothing but plain groups of version 3.

    Parameters
    ----------
    store : Store
    where : str
        What messages call it.
    """

    def __init__(self, store: Store, where: str = "", known: Plainness | None = None) -> None:
        super().__init__(store)
        self.where, self._plainness = where, known or Plainness(where)

    def _with_store(self, store: Store) -> PlainStore:
        return type(self)(store, self.where, self._plainness)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Bytes of a key, judged before Zarr sees them; None if there are none.

        Parameters
        ----------
        key : str
        prototype : BufferPrototype
        byte_range : ByteRequest, optional
            The part to read; the whole file without it.

        Returns
        -------
        Buffer or None
        """
        if isinstance(self._store, LocalStore):
            self._look_at(self._store.root / key, key, byte_range)
        return await read_plainly(self._plainness, key, byte_range, lambda: self._store.get(key, prototype, byte_range))

    def _look_at(self, path: Path, key: str, request: ByteRequest | None) -> None:
        """Refuse a pipe, which opening would wait for, and a file that is larger than its array declares."""
        limit = self._plainness.limit(key) if request is None else None
        refuse_special(path, f"{self.where}/{key}", limit)
        if path.is_symlink():  # to nothing, or to what refuse_special has seen
            file_bytes(path, f"{self.where}/{key}", limit)


def open_plain(path: Path) -> xr.Dataset:
    """Open a group on disk that is no cube, lazily, without Dask."""
    return xr.open_zarr(PlainStore(LocalStore(path, read_only=True), str(path)), chunks=None, zarr_format=3)


def plain(store: Store, where: str) -> Store:
    """The store, or one around it, whose groups are judged before Zarr opens them.

    Parameters
    ----------
    store : Store
    where : str
        What messages call it.

    Returns
    -------
    Store
    """
    return store if getattr(store, "judges", False) else PlainStore(store, where)
