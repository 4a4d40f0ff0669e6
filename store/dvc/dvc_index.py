"""The files of a DVC repository at a revision: their hashes, and the places of their bytes.

DVC's own reading of `dvc.yaml`, `dvc.lock` and `.dvc` files is used; what it would write to the working tree is not.
"""

from __future__ import annotations

import functools
import logging
import os
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cinecube.store.base.bounded import parse_json
from cinecube.store.base.errors import StudyError, environment_error
from cinecube.store.dvc.confined import confined
from cinecube.store.dvc.dvc_repo import check_address, fetch_clone, is_bare, split_address
from cinecube.store.dvc.remotes import DvcObject, Location, Objects, cache_location, remote_location, shown_address
from cinecube.store.dvc.untrusted import check_oid, check_path, refuse_nested, refuse_programs, unreadable

_log = logging.getLogger(__name__)
# A line of it takes 100 bytes; a dataset of 300,000 files is one that no study has.
_MAX_LIST_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Source:
    """Origin of an imported output: a path in another repository at a revision."""

    url: str
    rev: str | None
    path: str
    remote: str | None = None
    remote_config: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Output:
    """One output of DVC, as a revision records it.

    Parameters
    ----------
    path : str
        From the repository's root, with `/`.
    item : DvcObject, optional
        Its hash; none if it was never made, or imported without its bytes.
    remote : str, optional
        The remote it is kept in, if not the default one.
    source : Source, optional
    n_bytes : int, optional
        Of all its files, where the record tells.
    kept : bool
        Its owner keeps it back: `push: false`.
    defined_in : str
        The `dvc.yaml` or `.dvc` file that names it, from the repository's root.
    """

    path: str
    item: DvcObject | None
    remote: str | None = None
    source: Source | None = None
    n_bytes: int | None = None
    kept: bool = False
    defined_in: str = ""

    @property
    def is_dir(self) -> bool:
        """True if it is a folder, or nobody knows."""
        return self.item is None or self.item.oid.endswith(".dir")


@dataclass(frozen=True)
class Listing:
    """The files of one folder: path in it to object, and where the objects are.

    Parameters
    ----------
    where : str
        What messages call it.
    files : mapping
        Path in the folder to object.
    objects : Objects
    listed : (DvcObject, bytes), optional
        The list of files that the output's hash names, which may hold more than the folder; none of an import whose
        list only its source has.
    """

    where: str
    files: Mapping[str, DvcObject]
    objects: Objects
    listed: tuple[DvcObject, bytes] | None = None

    def n_bytes(self) -> int:
        """Bytes of all files; asks the remote for the size of each that is not in the cache.

        Raises
        ------
        StudyError
            If one is in neither.
        """
        sizes = {item: self.objects.size(item, f"{self.where}/{name}") for name, item in self.files.items()}
        return sum(sizes[item] for item in self.files.values())


@dataclass(frozen=True)
class DvcIndex:
    """The outputs of a repository at one revision; plain data, so that it travels to workers.

    Parameters
    ----------
    url : str
    rev : str, optional
        As asked for; none is the working tree of a folder, or the default branch.
    outputs : tuple of Output
        Sorted by path.
    config : dict
        DVC's merged configuration; may hold passwords.
    cache : str, optional
        The local cache.
    prefix : str
        Path of `url` in the repository, where it is a folder inside one.
    commit : str, optional
        What `rev` was when it was read; none for a working tree.
    params, metrics : str, optional
        Text of the `params.yaml` and of the metrics in that folder, if there are any.
    studies : mapping
        Folders below that one which hold outputs and have a `params.yaml` -> its text.
    top : str
        Path of DVC's folder in the Git repository, where it is not the top of it.
    """

    url: str
    rev: str | None
    outputs: tuple[Output, ...]
    config: Mapping[str, Any]
    cache: str | None
    prefix: str = ""
    commit: str | None = None
    params: str | None = None
    metrics: str | None = None
    studies: Mapping[str, str] = field(default_factory=dict)
    top: str = ""

    @property
    def where(self) -> str:
        """The name that messages give it."""
        return shown_address(self.url) + (f" at {self.rev}" if self.rev else "")

    def named(self, path: str) -> str:
        """The name that messages give one of its paths; in the folder that a command runs in, as it is."""
        return path if self.where == "." else f"{self.where}: {path}"

    @property
    def folder_in_git(self) -> str:
        """The folder asked for, from the top of the Git repository where that is not DVC's own."""
        return posixpath.normpath(posixpath.join(self.top, self.prefix)).removeprefix(".")

    def study(self) -> DvcIndex:
        """The same of the folder that a study lies in, where that is below and there is one alone.

        Raises
        ------
        StudyError
            If there are several.
        """
        if self.params is not None or not self.studies:
            return self
        if len(self.studies) > 1:
            raise StudyError(
                where=self.where,
                found=f"studies in {', '.join(self.studies)}",
                expected="one",
                do="name one of them, as in `REPO#FOLDER`",
            )
        ((folder, params),) = self.studies.items()
        _log.info("%s: its study is in %s", self.where, folder)
        url = os.path.join(self.url, folder) if os.path.isdir(self.url) and not is_bare(self.url) else ""
        repo, _, above = self.url.partition("#")
        prefix = posixpath.normpath(posixpath.join(self.prefix, folder))
        url = url or f"{repo}#{posixpath.join(above, folder)}"
        return replace(self, url=url, prefix=prefix, params=params, studies={})

    def folder(self, path: str) -> Listing:
        """The files of a folder that is an output of DVC or lies inside one.

        Raises
        ------
        StudyError
            If it is neither, or its listing is in no cache and no remote.
        """
        asked = posixpath.normpath(posixpath.join("/", self.prefix, path)).lstrip("/")
        output = self._output_of(asked)
        inner = asked[len(output.path) :].strip("/")
        where = self.named(asked)
        objects = self.objects(output)
        listed = self._own_list(output, objects, where) if output.item else None
        if listed is None:
            return self._files_of_source(output, inner, where)
        files = _under(_parse_listing(listed[1], listed[0].legacy, where), inner)
        if not files:
            raise StudyError(where=where, found="no file", expected="a folder", do="correct the path")
        return Listing(where, files, objects, listed)

    def text(self, path: str, limit: int = _MAX_LIST_BYTES) -> str:
        """Text of a file that DVC tracks, from the cache or a remote.

        Parameters
        ----------
        path : str
            From the index's folder.
        limit : int
            A file of more bytes is refused.

        Returns
        -------
        str

        Raises
        ------
        StudyError
            If there is no such file, or it is in no cache and no remote.
        """
        output, where = self.at(path), self.named(path)
        if output is None or output.item is None:
            found = "no file that DVC has recorded"
            raise StudyError(where=where, found=found, expected="its hash in dvc.lock", do="run `dvc repro`")
        if output.is_dir:
            parent, _, name = path.rpartition("/")
            listing = self.folder(parent)
            item, objects = listing.files.get(name), listing.objects
        else:
            item, objects = output.item, self.objects(output)
        if item is None:
            raise StudyError(where=where, found="no such file", expected="one", do="correct the path")
        try:
            return objects.read_whole(item, where, limit).decode("utf-8")
        except UnicodeDecodeError:
            raise StudyError(where=where, found="bytes", expected="text in UTF-8", do="run `dvc repro`") from None

    def objects(self, output: Output) -> Objects:
        """Places in which the bytes of an output are searched."""
        places = [cache_location(self.cache)] if self.cache else []
        if output.source is not None:  # DVC pushes no imports: their bytes stay with the repository they come from
            return Objects(places, functools.partial(_locations_of_source, output.source, self.url))
        remote = output.remote or self.config.get("core", {}).get("remote")
        return Objects([*places, self._location(remote)] if remote else places, kept=output.kept)

    def at(self, path: str) -> Output | None:
        """The output of DVC that is, or holds, a path from the index's folder; none if there is none."""
        asked = posixpath.normpath(posixpath.join("/", self.prefix, path)).lstrip("/")
        return next((output for output in self.outputs if f"{asked}/".startswith(f"{output.path}/")), None)

    def is_kept_back(self, output: Output) -> bool:
        """True if an output's owner did not publish it, and it is not in the cache of this machine either."""
        if not output.kept or output.item is None:
            return False
        return self.cache is None or not os.path.isfile(cache_location(self.cache).path(output.item))

    def offline(self) -> DvcIndex:
        """The same without remotes: bytes are looked for in the local cache."""
        outputs = tuple(replace(output, remote=None) for output in self.outputs)
        return replace(self, outputs=outputs, config={**self.config, "core": {}})

    def _location(self, remote: str) -> Location:
        """A remote, once: every location makes a connection of its own."""
        known: dict[str, Location] = self.__dict__.setdefault("_locations", {})
        if remote not in known:
            known[remote] = remote_location(self.config, remote, self.where)
        return known[remote]

    def _output_of(self, path: str) -> Output:
        for output in self.outputs:
            if path == output.path or path.startswith(output.path + "/"):
                if output.item is None and output.source is None:
                    found = "an output that was never made"
                    raise StudyError(
                        where=self.named(path),
                        found=found,
                        expected="its hash in dvc.lock",
                        do="run `dvc repro`",
                    )
                if not output.is_dir and output.source is None:
                    raise StudyError(where=self.named(path), found="a file", expected="a folder", do="correct the path")
                return output
        inside = [output.path for output in self.outputs if output.path.startswith(path + "/") or not path]
        raise StudyError(
            where=self.named(path),
            found="no output of DVC" + (f", but a folder that holds {inside[0]}" if inside else ""),
            expected="a folder that DVC tracks at this revision",
            do="correct the path or the revision",
        )

    def _own_list(self, output: Output, objects: Objects, where: str) -> tuple[DvcObject, bytes] | None:
        assert output.item is not None
        listed = output.item
        if output.source is not None:
            if not output.is_dir:
                return None
            objects = Objects(objects.locations(extended=False))
            try:
                return listed, objects.read_whole(listed, where, _MAX_LIST_BYTES)
            except StudyError:
                return None  # an import that was not fetched yet: its source knows
        return listed, objects.read_whole(listed, f"{where} (its list of files)", _MAX_LIST_BYTES)

    def _files_of_source(self, output: Output, inner: str, where: str) -> Listing:
        assert output.source is not None
        there = open_source(output.source, self.url).folder(posixpath.join(output.source.path, inner))
        places = [cache_location(self.cache)] if self.cache else []
        return Listing(where, there.files, Objects([*places, *there.objects.locations()]))


def open_index(
    url: str | os.PathLike[str],
    rev: str | None = None,
    *,
    remote: str | None = None,
    remote_config: Mapping[str, Any] | None = None,
) -> DvcIndex:
    """Read what a repository holds at a revision. Writes nothing but temporary clones of repositories elsewhere.

    Parameters
    ----------
    url : str or path
        A folder with DVC in it, a bare Git repository, or the URL of a Git repository; with `#FOLDER` at its end, a
        folder of that repository.
    rev : str, optional
        A branch, tag or commit; by default the working tree of a folder, or the default branch.
    remote : str, optional
        A remote's name, instead of the default one.
    remote_config : dict, optional
        Options of that remote that are not in the repository, such as `url` or `password`.

    Returns
    -------
    DvcIndex

    Raises
    ------
    StudyError
        If there is no such repository or revision, or DVC cannot read its files.
    """
    url, folder = split_address(os.fspath(url))
    check_address(url, rev)
    clone = None if os.path.isdir(url) else _cloned(url, rev)
    asked = {"url": url, "rev": rev, "clone": clone, "folder": folder}
    where = shown_address(url) + (f" at {rev}" if rev else "")
    found = confined("cinecube.store.dvc.dvc_reading:read_repository", asked, where)
    outputs = tuple(_output(**described) for described in found.pop("outputs"))
    config = _configured(found.pop("config"), remote, remote_config or {})
    tip = found.pop("tip")
    if rev is None and tip is not None and not tip.endswith("HEAD"):
        rev = tip  # the only branch, which is not the default one
    place = posixpath.normpath(posixpath.join(found["top"], found["prefix"]))
    if found["top"] and not folder and found["prefix"] == "":
        _log.info("%s: its study is in %s", shown_address(url), place)
    if place != "." and (clone is not None or is_bare(url) or found["prefix"] == "" != found["top"]):
        url = f"{url}#{place}"
    return DvcIndex(url, rev, outputs, config, **found)


def _cloned(url: str, rev: str | None) -> str:
    try:
        return fetch_clone(url, rev)
    except Exception as error:  # Git's backends, DVC and the network have classes of their own
        raise environment_error(error, shown_address(url)) or unreadable(error, url, rev) from error


def inside(path: str, prefix: str) -> str | None:
    """A path of a repository as one of its folders, `prefix`, has it; None if it is elsewhere.

    Parameters
    ----------
    path, prefix : str
        From the repository's top; an empty prefix, or `.`, is the top itself.

    Returns
    -------
    str or None
        None where it is elsewhere.
    """
    if prefix in ("", "."):
        return path
    return path[len(prefix) + 1 :] if path.startswith(f"{prefix}/") else None


def _configured(config: dict[str, Any], remote: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with a caller's choices of remote. DVC's own merge mixes options of two kinds of address."""
    name = remote or config.setdefault("core", {}).get("remote") or ("given" if options else None)
    if name:
        config["core"]["remote"] = name
        kept = {} if "url" in options else config["remote"].get(name.lower(), {})
        if kept or options:
            config["remote"][name.lower()] = {**kept, **options}
    return config


def open_source(source: Source, base: str) -> DvcIndex:
    """The index of the repository that an output was imported from; relative paths start at `base`.

    Parameters
    ----------
    source : Source
    base : str
        Folder or address of the repository that holds the import.

    Returns
    -------
    DvcIndex

    Raises
    ------
    StudyError
        If its remote names programs; as of `open_index`.
    """
    refuse_programs(source.remote_config or {}, f"{shown_address(base)}: the remote of an import")
    beside = Path(split_address(base)[0]) / source.url
    url = str(beside) if "://" not in source.url and beside.is_dir() else source.url
    return open_index(url, source.rev, remote=source.remote, remote_config=source.remote_config)


def _locations_of_source(source: Source, base: str) -> list[Location]:
    index = open_source(source, base)
    return index.folder(source.path).objects.locations()


def _output(item: Mapping[str, Any] | None, source: Mapping[str, Any] | None, **others: Any) -> Output:
    """An output by its JSON, as `dvc_reading` describes it."""
    return Output(item=DvcObject(**item) if item else None, source=Source(**source) if source else None, **others)


def _parse_listing(raw: bytes, legacy: bool, where: str) -> dict[str, DvcObject]:
    try:
        entries = parse_json(raw)
        if not isinstance(entries, list):
            raise TypeError("no list")
        files = {
            check_path(str(entry["relpath"])): DvcObject(check_oid(str(entry["md5"]), entry["relpath"]), legacy)
            for entry in entries
        }
        refuse_nested(files, len(entries))
    except (ValueError, KeyError, TypeError) as error:
        raise StudyError(
            where=where, found=f"an unreadable list of files ({error})", expected="DVC's", do="`dvc push` it again"
        ) from error
    return files


def _under(files: Mapping[str, DvcObject], folder: str) -> dict[str, DvcObject]:
    prefix = f"{folder}/" if folder else ""
    return {path[len(prefix) :]: item for path, item in files.items() if path.startswith(prefix)}
