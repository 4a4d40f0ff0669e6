"""Layers of feature cubes fetched into DVC's cache, and read from there.

A tracked output is never written to: with a part of its files in it, DVC would take the part for a change of the whole.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cinecube.store.base.errors import StudyError, some_of
from cinecube.store.base.labels import find_label, find_layer
from cinecube.store.cube.schema import shard_key
from cinecube.store.dvc.dvc_index import DvcIndex, Listing, inside, open_index
from cinecube.store.dvc.locks import may_lack
from cinecube.store.dvc.remotes import DvcObject, cache_location, is_whole, kept_back

if TYPE_CHECKING:
    import xarray as xr

# Enough to hide the way to a server and back; each holds one shard in memory.
_AT_ONCE = 4
_SHARDS = "features/c/"


@dataclass(frozen=True)
class Fetched:
    """Result of a pull.

    Attributes
    ----------
    shards : int
        Layers that are in the cache now.
    files, n_bytes : int
        Objects fetched for it, shards and labels; none of what was there already.
    """

    shards: int
    files: int
    n_bytes: int


class ObjectCache:
    """DVC's local cache of objects: whole ones only, each under its hash.

    Parameters
    ----------
    index : DvcIndex
        Of the repository whose cache it is.

    Raises
    ------
    StudyError
        If it has none.
    """

    def __init__(self, index: DvcIndex) -> None:
        if index.cache is None:
            raise StudyError(where=index.where, found="no cache of DVC", expected="a working tree", do="clone it")
        self._root, self._shared = index.cache, index.config.get("cache", {}).get("shared")
        self._location = cache_location(index.cache)

    def has(self, item: DvcObject) -> bool:
        """True if an object is there."""
        return os.path.isfile(self._location.path(item))

    def has_whole(self, item: DvcObject) -> bool:
        """True if an object is there with the bytes that its name promises."""
        try:
            return is_whole(item, self._location.read(item, None))
        except OSError:
            return False

    def size(self, item: DvcObject) -> int | None:
        """Bytes of an object; none if it is not there."""
        try:
            return os.stat(self._location.path(item)).st_size
        except FileNotFoundError:
            return None

    def keep(self, item: DvcObject, data: bytes, where: str) -> None:
        """Put an object in place, whole or not at all; another process may do the same.

        Parameters
        ----------
        item : DvcObject
        data : bytes
            All of it.
        where : str
            What messages call it.

        Raises
        ------
        StudyError
            If the bytes do not hash to its name.
        """
        from dvc_data.hashfile.hash import hash_file

        database = self._database(item)
        os.makedirs(self._root, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".pull-", dir=self._root) as scratch:
            partial = os.path.join(scratch, "object")
            with open(partial, "wb") as file:
                file.write(data)
            _, found = hash_file(partial, database.fs, database.hash_name)
            if found.value != item.oid.removesuffix(".dir"):
                raise StudyError(
                    where=where,
                    found=f"bytes that do not hash to {item.oid}",
                    expected="the object of that hash",
                    do="ask the owner of the study to `dvc push` it again",
                )
            # DVC checks an object that is not protected, and removes it where another process still writes it.
            database.protect(partial)
            # DVC itself tries a reflink, which stands empty in its place for a moment: another process would read that.
            path = self._location.path(item)
            database.makedirs(os.path.dirname(path))
            os.replace(partial, path)

    def _database(self, item: DvcObject) -> Any:
        from dvc.fs import LocalFileSystem
        from dvc_data.hashfile.db.local import LocalHashFileDB

        path = self._root if item.legacy else os.path.join(self._root, "files", "md5")
        name = "md5-dos2unix" if item.legacy else "md5"
        return LocalHashFileDB(LocalFileSystem(), path, hash_name=name, shared=self._shared)


def pull_layers(
    index: DvcIndex,
    path: str,
    stream: str | None = None,
    layer: int | str | None = None,
    tell: Callable[[int, int], None] | None = None,
) -> Fetched:
    """Fetch a feature cube's labels, and the shards of some of its layers, into DVC's cache.

    Parameters
    ----------
    index : DvcIndex
        Of a working tree.
    path : str
        The cube, from the index's folder.
    stream : str, optional
        One label of the axis `model`; all of them without it.
    layer : int or str, optional
        Block number (0 is `embed`) or label; all layers without it.
    tell : callable, optional
        Told `(done, total)` shards.

    Returns
    -------
    Fetched

    Raises
    ------
    StudyError
        If the cube is in no remote, has no such stream or layer, or the remote fails.
    """
    listing, cache = index.folder(path), ObjectCache(index)
    if listing.listed is not None and not cache.has_whole(listing.listed[0]):
        cache.keep(*listing.listed, listing.where)
    labels = _fetch(listing, cache, (key for key in listing.files if not key.startswith(_SHARDS)))
    with _opened(listing, listing.where) as cube:
        wanted = list(_shards(cube, stream, layer, listing.where).values())
    if unlisted := next((key for key in wanted if key not in listing.files), None):
        raise StudyError(
            where=listing.where,
            found=f"no {unlisted} in its list of files",
            expected="every layer that has a width",
            do="ask the owner of the study to make the cube anew and `dvc push` it",
        )
    shards = _fetch(listing, cache, wanted, tell)
    return Fetched(len(wanted), len(labels) + len(shards), sum(labels) + sum(shards))


def _opened(listing: Listing, where: str) -> xr.Dataset:
    from cinecube.store.cube.cubes import open_stored
    from cinecube.store.dvc.dvc_zarr import DvcZarrStore

    return open_stored(DvcZarrStore(listing), where)


def _shards(cube: xr.Dataset, stream: str | None, layer: int | str | None, where: str) -> dict[str, str]:
    """`model layer` to the key of its shard, of the layers that are asked for and exist."""
    models, layers = ([str(label) for label in cube[axis].values] for axis in ("model", "layer"))
    if stream is not None:
        find_label(stream, models, where, do="name one of these")
    label = None if layer is None else find_layer(layer, layers, where)
    return {
        f"{models[m]} {layers[k]}": shard_key(m, k)
        for m, k in np.argwhere(cube["width"].values > 0)
        if stream in (None, models[m]) and label in (None, layers[k])
    }


def _fetch(
    listing: Listing, cache: ObjectCache, keys: Iterable[str], tell: Callable[[int, int], None] | None = None
) -> list[int]:
    """Bring objects into the cache; bytes of each that was not there."""
    items = {key: listing.files[key] for key in keys if key in listing.files}
    lacking = {key: item for key, item in items.items() if not cache.has_whole(item)}

    def fetch(key: str) -> int:
        where = f"{listing.where}/{key}"
        data = listing.objects.read_whole(lacking[key], where)
        cache.keep(lacking[key], data, where)
        return len(data)

    done = []
    pool = ThreadPoolExecutor(_AT_ONCE)
    try:
        for size in pool.map(fetch, lacking):
            done.append(size)
            if tell:
                tell(len(done), len(lacking))
    finally:
        pool.shutdown(cancel_futures=True)
    return done


@dataclass(frozen=True)
class Part:
    """A feature cube of which DVC's cache holds the labels, and some layers.

    Attributes
    ----------
    cube : xarray.Dataset
        Lazy.
    here, lacking : tuple of str
        Layers, as `model layer`, whose shards are there or are not.
    n_bytes : int
        What the cache holds of it.
    """

    cube: xr.Dataset
    here: tuple[str, ...]
    lacking: tuple[str, ...]
    n_bytes: int


class PulledCubes:
    """Feature cubes of a study as DVC's cache holds them, whole or in part.

    Parameters
    ----------
    root : Path
        The study's folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    @cached_property
    def _index(self) -> DvcIndex | None:
        try:
            return open_index(self._root).offline()
        except StudyError:
            return None

    def part(self, path: Path, where: str) -> Part | None:
        """A cube at its place in the study; none if DVC does not know it or its labels are not in the cache.

        Parameters
        ----------
        path : Path
        where : str
            What messages call it.

        Returns
        -------
        Part or None
        """
        if self._index is None or not path.is_relative_to(self._root):
            return None
        try:
            listing, cache = self._index.folder(path.relative_to(self._root).as_posix()), ObjectCache(self._index)
        except StudyError:
            return None
        held = {key: cache.size(item) for key, item in listing.files.items()}
        if any(not size for key, size in held.items() if not key.startswith(_SHARDS)):
            return None
        cube = _opened(listing, where)
        if "width" not in cube:
            return None
        shards = _shards(cube, None, None, where)
        lacking = tuple(name for name, key in shards.items() if not held.get(key))
        here = tuple(name for name in shards if name not in lacking)
        return Part(cube, here, lacking, sum(size or 0 for size in held.values()))

    def open(self, path: Path, stream: str, layer: int | str | None, where: str) -> xr.Dataset | None:
        """A cube whose labels are in the cache; none if they are not.

        Parameters
        ----------
        path : Path
            The cube's place in the study.
        stream : str
            Label on the axis `model`; all streams where the cube has no such label.
        layer : int or str, optional
            Block number or label; all layers without it.
        where : str
            What messages call it.

        Returns
        -------
        Dataset or None

        Raises
        ------
        StudyError
            If a layer that is asked for was not pulled.
        """
        part = self.part(path, where)
        if part is None:
            return None
        own = stream if stream in part.cube["model"].values else None
        lacking = [name for name in _shards(part.cube, own, layer, where) if name in part.lacking]
        if lacking:
            option = "" if layer is None else f" --layer {layer}"
            raise StudyError(
                where=where,
                found=f"no shard of {some_of(lacking)}",
                expected="it in DVC's cache",
                do=f"run `cinecube pull --model {stream}{option} --film {path.stem}`",
            )
        return part.cube

    def refuse_kept_back(self, path: Path, where: str) -> None:
        """Raise if a file or cube of the study is not here because its owner did not publish it.

        Parameters
        ----------
        path : Path
            Its place in the study.
        where : str
            What messages call it.

        Raises
        ------
        StudyError
            If it is not here, and its owner did not publish it.
        """
        if path.exists() or self._index is None or not path.is_relative_to(self._root):
            return
        output = self._index.at(path.relative_to(self._root).as_posix())
        if output is not None and self._index.is_kept_back(output):
            raise kept_back(where)

    def paths(self) -> list[Path]:
        """Feature cubes that DVC has recorded and that are not in the study's folder."""
        if not may_lack(self._root, ".zarr") or self._index is None:
            return []
        found = [inside(output.path, self._index.prefix) for output in self._index.outputs]
        cubes = [self._root / path for path in found if path is not None and path.endswith(".zarr")]
        return [path for path in cubes if not path.exists()]
