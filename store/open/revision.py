"""A study at any revision of a Git repository, streamed from its DVC remote."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import xarray as xr

from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import open_stored
from cinecube.store.cube.plainness import of_older_format, older_format
from cinecube.store.dvc.dvc_index import DvcIndex, Listing, inside, open_index
from cinecube.store.dvc.dvc_zarr import DvcZarrStore
from cinecube.store.open.open_study import OpenStudy
from cinecube.store.params.document import PARAMS_FILE, Study, read_study

# Paths in a revision begin here: nothing of it is on this disk.
_NOWHERE = Path()
_SUFFIX = ".zarr"
_ROOTS = tuple(f"{_SUFFIX}/{name}" for name in ("zarr.json", ".zgroup"))


def open_revision(
    url: str | os.PathLike[str],
    rev: str | None = None,
    *,
    remote_config: Mapping[str, Any] | None = None,
    cache: str | os.PathLike[str] | None = None,
    cache_bytes: int = 2**30,
) -> OpenStudy:
    """Open a study of a repository; nothing is fetched but what is read, and nothing is written to a working tree.

    Parameters
    ----------
    url : str or path
        A folder with DVC in it, a bare Git repository, or the URL of a Git repository; `#FOLDER` at its end names the
        study's folder, where it has several.
    rev : str, optional
        A branch, tag or commit; by default the working tree of a folder, or the default branch.
    remote_config : dict, optional
        Options of the DVC remote that are not in the repository, such as `url` or `password`.
    cache : str or path, optional
        A folder that keeps what the remote sends, at most `cache_bytes` of it.
    cache_bytes : int

    Returns
    -------
    OpenStudy

    Raises
    ------
    StudyError
        If there is no such repository or revision, or it holds no study.
    """
    index = open_index(url, rev, remote_config=remote_config).study()
    return OpenStudy(study_of(index), StudyPaths(_NOWHERE), RevisionCubes(index, cache, cache_bytes))


def study_of(index: DvcIndex) -> Study:
    """The study of a revision, from its `params.yaml`.

    Raises
    ------
    StudyError
        If there is none, or it is wrong.
    """
    if index.params is None:
        raise StudyError(
            where=index.where,
            found=f"no {PARAMS_FILE}",
            expected="a study",
            do="name the folder or repository of a study; `cinecube ls` lists cubes of any other",
        )
    try:
        return read_study(index.params, index.named(PARAMS_FILE))
    except StudyError as error:
        where = error.where if error.where.startswith(index.where) else index.named(error.where)
        do = "open a revision that this version of cinecube reads, or update cinecube"
        raise StudyError(where=where, found=error.found, expected=error.expected, do=do) from None


class RevisionCubes:
    """Cubes of a revision by their paths in the study.

    Parameters
    ----------
    index : DvcIndex
    cache, cache_bytes
        See `open_revision`.
    """

    def __init__(self, index: DvcIndex, cache: str | os.PathLike[str] | None = None, cache_bytes: int = 2**30) -> None:
        self.index, self._chunks = index, None
        if cache is not None:
            from cinecube.store.dvc.chunk_cache import ChunkCache

            self._chunks = ChunkCache(cache, cache_bytes)

    def open(self, path: Path, model: str | None = None, layer: int | str | None = None) -> xr.Dataset:
        """A cube, lazily; reads its labels.

        Parameters
        ----------
        path : Path
            From the study's folder.
        model, layer : optional
            As in `Cubes.open`; not needed here, since values are read when they are asked for.

        Returns
        -------
        Dataset

        Raises
        ------
        StudyError
            If the revision has no such cube, or one of Zarr v2.
        """
        listing = self._kept(self.index.folder(path.as_posix()))
        if older := older_format(listing.files):
            raise of_older_format(older, listing.where)
        return open_stored(DvcZarrStore(listing), listing.where)

    def text(self, path: Path) -> str | None:
        """A file that DVC tracks, or of a folder that it does; None if there is none."""
        output = self.index.at(path.as_posix())
        if output is not None and output.item is not None and not output.is_dir:
            objects, where = self.index.objects(output), self.index.named(path.as_posix())
            return (objects.keeping(self._chunks) if self._chunks else objects).read(output.item, None, where).decode()
        try:
            listing = self._kept(self.index.folder(path.parent.as_posix()))
        except StudyError:
            return None
        item = listing.files.get(path.name)
        if item is None:
            return None
        return listing.objects.read(item, None, f"{listing.where}/{path.name}").decode("utf-8")

    def names(self, folder: Path) -> list[str]:
        """Files that DVC tracks below a folder, from it."""
        found = []
        for output in self.index.outputs:
            path = inside(output.path, self.index.prefix)
            within = inside(path, folder.as_posix()) if path is not None else None
            if path is not None and within is not None and output.item is not None:
                files = self.index.folder(path).files if output.is_dir else [""]
                found += [f"{within}/{name}".rstrip("/") for name in files]
        return sorted(found)

    def _kept(self, listing: Listing) -> Listing:
        if self._chunks is None:
            return listing
        return replace(listing, objects=listing.objects.keeping(self._chunks))


@dataclass(frozen=True)
class StoredCube:
    """A cube of a revision: its path, and its bytes if DVC has recorded them."""

    path: str
    n_bytes: int | None


def cubes_of(index: DvcIndex) -> list[StoredCube]:
    """All cubes of a revision, by path from the index's folder; reads lists of files, and no cube.

    Raises
    ------
    StudyError
        If a folder's list of files cannot be read.
    """
    found = []
    for output in index.outputs:
        path = inside(output.path, index.prefix)
        if path is None or (output.item is None and output.source is None):
            continue
        if path.endswith(_SUFFIX):
            found.append(StoredCube(path, output.n_bytes))
        elif output.is_dir:
            try:
                files = index.folder(path).files
            except StudyError:
                if output.kept:
                    continue
                raise
            tops = {key.rpartition("/")[0] for key in files if key.endswith(_ROOTS)}
            found += [StoredCube(f"{path}/{top}", None) for top in sorted(tops)]
    return found
