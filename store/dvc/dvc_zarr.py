"""A read-only Zarr store of a path at a Git revision, read by byte range from DVC's cache or remote."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import replace
from typing import Any

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype

from cinecube.store.base.errors import StudyError
from cinecube.store.cube.plain_zarr import read_plainly
from cinecube.store.cube.plainness import Plainness
from cinecube.store.dvc.dvc_index import Listing, open_index


def dvc_zarr_store(
    url: str | os.PathLike[str],
    path: str,
    rev: str | None = None,
    *,
    remote: str | None = None,
    remote_config: Mapping[str, Any] | None = None,
    cache: str | os.PathLike[str] | None = None,
    cache_bytes: int = 2**30,
) -> DvcZarrStore:
    """Open a Zarr group that DVC tracks, without fetching it: `xr.open_zarr(dvc_zarr_store(url, path, rev))`.

    Parameters
    ----------
    url : str or path
        A folder with DVC in it, a bare Git repository, or the URL of a Git repository.
    path : str
        The group: a directory that is an output of DVC or lies inside one, relative to `url`.
    rev : str, optional
        A branch, tag or commit; by default the working tree of a folder, or the default branch.
    remote : str, optional
        A remote's name, instead of the default one.
    remote_config : dict, optional
        Options of that remote that are not in the repository, such as `url` or `password`.
    cache : str or path, optional
        A folder on this machine's disk that keeps what the remote sends; any number of processes may share it.
    cache_bytes : int
        The most that folder holds; what was not used for longest goes first.

    Returns
    -------
    DvcZarrStore

    Raises
    ------
    StudyError
        If there is no such repository, revision or path, or its list of files cannot be read.
    """
    listing = open_index(url, rev, remote=remote, remote_config=remote_config).folder(path)
    if cache is not None:
        from cinecube.store.dvc.chunk_cache import ChunkCache

        listing = replace(listing, objects=listing.objects.keeping(ChunkCache(cache, cache_bytes)))
    return DvcZarrStore(listing)


class DvcZarrStore(Store):
    """The files of one listing as a Zarr store.

    A key that is not listed is absent, as Zarr expects. A key that is listed and whose bytes are nowhere, are none, or
    cannot be read, is a `StudyError`: Zarr would take absence for an empty chunk and make numbers of it. So is what no
    cube is made of, see `plainness`: the files are somebody else's.

    Parameters
    ----------
    listing : Listing
        From `DvcIndex.folder`; one index serves any number of stores.
    """

    supports_writes: bool = False
    supports_deletes: bool = False
    supports_listing: bool = True
    judges = True

    def __init__(self, listing: Listing, known: Plainness | None = None) -> None:
        super().__init__(read_only=True)
        self.listing, self._plainness = listing, known or Plainness(listing.where)

    def with_read_only(self, read_only: bool = False) -> DvcZarrStore:
        """The same store; there is none that writes.

        Raises
        ------
        ValueError
            If one that writes is asked for.
        """
        if not read_only:
            raise ValueError("a revision cannot be written to")
        return type(self)(self.listing, self._plainness)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DvcZarrStore):
            return False
        return self.listing.where == other.listing.where and self.listing.files == other.listing.files

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<DvcZarrStore {self.listing.where}>"

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Bytes of a key, or none if it is not listed.

        Parameters
        ----------
        key : str
            From the group's root.
        prototype : BufferPrototype
        byte_range : ByteRequest, optional
            The part to read; the whole object without it.

        Returns
        -------
        Buffer or None

        Raises
        ------
        StudyError
            If it is listed and cannot be read, or is no part of a plain group of Zarr v3.
        """
        item = self.listing.files.get(key)
        if item is None:
            return None

        async def get() -> Buffer:
            read, limit = self.listing.objects.read, self._plainness.limit(key)
            data = await asyncio.to_thread(read, item, byte_range, self._where(key), limit)
            if not data:
                raise StudyError(
                    where=self._where(key),
                    found=f"an empty object {item.oid}",
                    expected="bytes: no file of a Zarr group is empty",
                    do="run `cinecube pull` again, or ask the owner of the study to `dvc push` it again",
                )
            return prototype.buffer.from_bytes(data)

        return await read_plainly(self._plainness, key, byte_range, get)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Bytes of several keys.

        Parameters
        ----------
        prototype : BufferPrototype
        key_ranges : iterable of (str, ByteRequest or None)

        Returns
        -------
        list of Buffer or None
            As many as there are keys, in their order.
        """
        return list(await asyncio.gather(*(self.get(key, prototype, wanted) for key, wanted in key_ranges)))

    async def exists(self, key: str) -> bool:
        """True if the revision lists a key."""
        return key in self.listing.files

    async def getsize(self, key: str) -> int:
        """Bytes of a key.

        Raises
        ------
        FileNotFoundError
            If it is not listed.
        """
        item = self.listing.files.get(key)
        if item is None:
            raise FileNotFoundError(key)
        return await asyncio.to_thread(self.listing.objects.size, item, self._where(key))

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse.

        Parameters
        ----------
        key : str
        value : Buffer
        """
        self._check_writable()

    async def delete(self, key: str) -> None:
        """Refuse."""
        self._check_writable()

    async def list(self) -> AsyncIterator[str]:
        """All keys."""
        for key in self.listing.files:
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """All keys that start so."""
        for key in self.listing.files:
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """The names directly in a folder."""
        folder = f"{prefix.rstrip('/')}/" if prefix.rstrip("/") else ""
        names = (key[len(folder) :].split("/")[0] for key in self.listing.files if key.startswith(folder))
        for name in dict.fromkeys(names):
            yield name

    def _where(self, key: str) -> str:
        return f"{self.listing.where}/{key}"
