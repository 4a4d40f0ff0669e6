"""Cubes against what DVC recorded of them, without asking any remote."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from cinecube.store.base.errors import StudyError, some_of
from cinecube.store.dvc.dvc_index import DvcIndex, Output, open_index
from cinecube.store.dvc.remotes import DvcObject, cache_location, is_whole, md5_of
from cinecube.store.verify.cube_files import ROOT, Fault, of_file_manager
from cinecube.store.verify.examining import Examined, examine


@dataclass(frozen=True)
class Recorded:
    """DVC's record of a cube in a working tree.

    Attributes
    ----------
    index : DvcIndex
        Of the repository, with its remotes.
    path : str
        The cube in the repository.
    output : Output
        That is the cube, or holds it.
    files : mapping, optional
        File of the cube -> object; none if the cache lacks the list, or holds a damaged one.
    """

    index: DvcIndex
    path: str
    output: Output
    files: Mapping[str, DvcObject] | None


@dataclass(frozen=True)
class Verdict:
    """Faults of a cube.

    Attributes
    ----------
    problems : tuple of Fault
    record : Recorded, optional
        None if DVC does not track the cube.
    differing : tuple of str
        Files that are missing or not as they were recorded.
    made_anew : bool
        The cube is another than the recorded one: its files cannot stand in for each other.
    unplaced : bool
        Neither the cube nor DVC tells which chunk belongs where.
    """

    problems: tuple[Fault, ...]
    record: Recorded | None = None
    differing: tuple[str, ...] = ()
    made_anew: bool = False
    unplaced: bool = False


class Records:
    """The records of all repositories whose cubes are asked for; each is read once.

    Attributes
    ----------
    unread : dict of Path to str
        Repositories whose files DVC cannot read, and why.
    """

    def __init__(self) -> None:
        self._indices: dict[Path, DvcIndex | None] = {}
        self.unread: dict[Path, str] = {}

    def judge(self, cube: Path) -> Verdict:
        """Examine a cube, and compare it with what DVC recorded."""
        return self.judge_by(cube, self.of(cube))

    def judge_by(self, cube: Path, record: Recorded | None) -> Verdict:
        """The same by a record that is known.

        Parameters
        ----------
        cube : Path
        record : Recorded, optional
            None where DVC has none: the cube is judged alone.

        Returns
        -------
        Verdict
        """
        try:
            examined = examine(cube)
        except FileNotFoundError as error:  # somebody replaces or removes it in this moment
            return Verdict((Fault(f"{error.filename} vanished while it was looked at; verify it again"),), record)
        if record is None or not cube.is_dir():
            return Verdict(examined.problems, record, unplaced=examined.unplaced)
        return compare(cube, examined, record)

    def of(self, cube: Path) -> Recorded | None:
        """DVC's record of a cube; None if it does not track it."""
        place = Path(os.path.abspath(cube))
        root, index = self._repository(place.parents)
        if root is None or index is None:
            return None
        path = place.relative_to(root).as_posix()
        output = next((o for o in index.outputs if o.item and f"{path}/".startswith(f"{o.path}/")), None)
        if output is None:
            return None
        return Recorded(index, path, output, _listed(index, output, path))

    def absent(self, folder: Path) -> list[Path]:
        """Cubes at or under a folder that DVC has recorded and that are not there, sorted."""
        place = Path(os.path.abspath(folder))
        root, index = self._repository((place, *place.parents))
        if root is None or index is None:
            return []
        recorded = (root / output.path for output in index.outputs if output.item or output.source)
        return sorted(
            path for path in recorded if path.suffix == ".zarr" and path.is_relative_to(place) and not path.exists()
        )

    def keeps_back(self, cube: Path) -> bool:
        """True if a recorded cube's owner did not publish it, so that no pull brings it."""
        place = Path(os.path.abspath(cube))
        root, index = self._repository(place.parents)
        output = index.at(place.relative_to(root).as_posix()) if root and index else None
        return output is not None and index is not None and index.is_kept_back(output)

    def _repository(self, folders: Iterable[Path]) -> tuple[Path | None, DvcIndex | None]:
        """The first of these folders that DVC has for its own, with what it has recorded there."""
        root = next((folder for folder in folders if (folder / ".dvc").is_dir()), None)
        return root, self._index(root) if root else None

    def _index(self, root: Path) -> DvcIndex | None:
        if root not in self._indices:
            try:
                self._indices[root] = open_index(root)
            except StudyError as error:
                self._indices[root] = None
                self.unread[root] = error.found
        return self._indices[root]


def _listed(index: DvcIndex, output: Output, path: str) -> Mapping[str, DvcObject] | None:
    """The files of a cube by the list in the cache, where that is whole."""
    here = replace(index.offline(), outputs=(replace(output, source=None, remote=None),))
    try:
        listing = here.folder(path)
    except StudyError:
        return None
    return None if listing.listed is None else listing.files


def compare(cube: Path, examined: Examined, record: Recorded) -> Verdict:
    """Tell damage from a cube that was made anew, of which every file may differ and none is damaged.

    A damaged file does not decode, or says what no writer writes; metadata may be damaged where nobody looks, so those
    are damaged too if the recorded ones have the same fingerprint.

    Parameters
    ----------
    cube : Path
    examined : Examined
        The cube's files as they were found.
    record : Recorded

    Returns
    -------
    Verdict
    """
    problems = list(examined.problems)
    if record.files is None:
        return replace(_compare_whole(cube, problems, record), unplaced=examined.unplaced)
    if strange := next((file for file in record.files if not is_inside(file)), None):
        problems.append(Fault(f"DVC's list of its files names {strange!r}, which is outside it"))
        return Verdict(tuple(problems), record, made_anew=True)
    own = {file: item for file, item in record.files.items() if not of_file_manager(file)}
    differing = [file for file, item in own.items() if not _is_recorded(cube / file, item)]
    named = {file for problem in problems for file in problem.files}
    others = [file for file in differing if file not in named and not examined.is_unread(file)]
    others += sorted(file for file in examined.expected - record.files.keys() if (cube / file).is_file())
    if not others:
        return Verdict(tuple(problems), record, tuple(differing))
    if all(Path(file).name == ROOT for file in others) and _same_fingerprint(cube, record):
        problems += [Fault(f"{file}: other bytes than DVC recorded", (file,)) for file in others]
        return Verdict(tuple(problems), record, tuple(differing))
    text = (
        f"not the cube that DVC recorded, though its bytes are sound: {len(others)} files differ "
        f"({some_of(others, 3)}); "
        f"`dvc repro` or `dvc commit` if it was made anew, else `dvc checkout --force {record.output.path}`"
    )
    return Verdict((*problems, Fault(text)), record, tuple(differing), made_anew=True)


def _compare_whole(cube: Path, problems: list[Fault], record: Recorded) -> Verdict:
    """The same where nothing says which file has which hash: that of the whole folder is known."""
    item = record.output.item
    if not problems and item and record.output.path == record.path and _folder_oid(cube, item) != item.oid:
        text = (
            "not what DVC recorded, and DVC's cache does not list its files; "
            "`dvc commit` if it was made anew, else `cinecube verify --repair`, which asks the remote"
        )
        problems.append(Fault(text))
    return Verdict(tuple(problems), record)


def is_inside(file: str) -> bool:
    """True if a name leads to nothing outside the folder; it comes from a list that someone else may have written."""
    name = PurePosixPath(file)
    return bool(name.parts) and not name.is_absolute() and ".." not in name.parts


def _is_recorded(file: Path, item: DvcObject) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return md5_of(opened, item) == item.oid


def _same_fingerprint(cube: Path, record: Recorded) -> bool:
    """True if the cube has the fingerprint of the recorded one."""
    item = (record.files or {}).get(ROOT)
    if item is None or record.index.cache is None:
        return False
    if _is_recorded(cube / ROOT, item):
        return True
    try:
        recorded = cache_location(record.index.cache).read(item, None)
    except OSError:
        return False
    return is_whole(item, recorded) and _fingerprint(recorded) == _fingerprint((cube / ROOT).read_bytes())


def _fingerprint(root: bytes) -> Any:
    try:
        return json.loads(root)["attributes"]["fingerprint"]
    except (ValueError, KeyError, TypeError):
        return None


def _folder_oid(cube: Path, item: DvcObject) -> str:
    """Hash that DVC would give the folder as it is."""
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    tree = Tree()
    for file in sorted(file for file in cube.rglob("*") if file.is_file()):
        with file.open("rb") as opened:
            tree.add(file.relative_to(cube).parts, None, HashInfo("md5", md5_of(opened, item)))
    tree.digest()
    return str(tree.hash_info.value)
