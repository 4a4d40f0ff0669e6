"""Chunks read from a remote, kept on this machine up to a number of bytes, for any number of processes."""

from __future__ import annotations

import logging
import os
import sqlite3
import zlib
from collections.abc import Callable
from functools import cached_property
from typing import Any

import diskcache
from zarr.abc.store import ByteRequest, RangeByteRequest, SuffixByteRequest

from cinecube.store.base.errors import StudyError, environment_error

_CHECK_BYTES = 4


class _Bytes(diskcache.Disk):
    """Bytes and nothing else: diskcache would unpickle what a file says is pickled."""

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> Any:
        if mode == diskcache.core.MODE_PICKLE:
            raise ValueError("a pickled value, where only bytes are kept")
        return super().fetch(mode, filename, value, read)

    def get(self, key: Any, raw: bool) -> Any:
        if not raw:
            raise ValueError("a pickled key, where only text is kept")
        return super().get(key, raw)


class ChunkCache:
    """A folder of chunks and labels by hash and byte range; the least recently used go first.

    Parameters
    ----------
    folder : str
        On a local disk; processes may share it.
    n_bytes : int
        The most it holds. The last thing written may stand above it until the next is.

    Raises
    ------
    StudyError
        If the folder cannot be written to.
    """

    def __init__(self, folder: str | os.PathLike[str], n_bytes: int) -> None:
        self.folder, self.n_bytes = os.fspath(folder), n_bytes
        try:
            len(self._kept)
        except (OSError, sqlite3.Error, diskcache.Timeout) as error:
            raise environment_error(error, self.folder) or StudyError(
                where=self.folder,
                found=f"no place for a cache of chunks ({error})",
                expected="a folder on a local disk",
                do="name another folder, or delete this one",
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "n_bytes": self.n_bytes}  # every process opens it for itself

    @cached_property
    def _kept(self) -> diskcache.Cache:
        return diskcache.Cache(
            self.folder, size_limit=self.n_bytes, eviction_policy="least-recently-used", disk=_Bytes, cull_limit=10
        )

    def read(self, oid: str, request: ByteRequest | None, fetch: Callable[[], bytes]) -> bytes:
        """Bytes of an object, from here or from `fetch`, which is then kept.

        What was damaged on this disk is fetched again, and a cache that fails is done without.

        Parameters
        ----------
        oid : str
            The object's hash.
        request : ByteRequest, optional
            The part to read; the whole object without it.
        fetch : callable
            Reads it from the remote.

        Returns
        -------
        bytes
        """
        key = f"{oid} {_span(request)}"
        kept = self._get(key)
        if kept is not None:
            return kept
        data = fetch()
        if len(data) < self.n_bytes:
            try:
                self._kept.set(key, zlib.crc32(data).to_bytes(_CHECK_BYTES, "big") + data)
            except (OSError, sqlite3.Error, diskcache.Timeout) as error:
                logging.getLogger(__name__).warning("%s: nothing kept (%s)", self.folder, error)
        return data

    def _get(self, key: str) -> bytes | None:
        try:
            kept = self._kept.get(key)
        except (OSError, ValueError, sqlite3.Error, diskcache.Timeout):
            return None
        if not isinstance(kept, bytes):
            return None
        check, data = kept[:_CHECK_BYTES], kept[_CHECK_BYTES:]
        return data if zlib.crc32(data).to_bytes(_CHECK_BYTES, "big") == check else None


def _span(request: ByteRequest | None) -> str:
    if request is None:
        return "whole"
    if isinstance(request, RangeByteRequest):
        return f"{request.start}-{request.end}"
    return f"-{request.suffix}" if isinstance(request, SuffixByteRequest) else f"{request.offset}-"
