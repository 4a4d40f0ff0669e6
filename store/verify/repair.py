"""Broken files of cubes put right, from DVC's cache, a remote, or the repository that a cube was imported from."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cinecube.store.base.errors import StudyError, environment_error, some_of
from cinecube.store.dvc.pulling import ObjectCache
from cinecube.store.dvc.remotes import DvcObject, Objects
from cinecube.store.verify.cube_files import ROOT
from cinecube.store.verify.tracked import Recorded, Records, Verdict


@dataclass(frozen=True)
class Repaired:
    """Outcome of repairing a cube that was not whole.

    Attributes
    ----------
    files : tuple of str
        Files of the cube that were put in place.
    refused : str
        Why there are none, or not all, in one line; empty if nothing stood in the way.
    """

    files: tuple[str, ...] = ()
    refused: str = ""


@dataclass(frozen=True)
class Verified:
    """Findings and repairs of `verify_all`.

    Attributes
    ----------
    cubes : tuple of str
        Every cube that was read.
    wrong : dict of str to list of str
        Cubes that are not whole in the end -> what is wrong, one line each.
    repaired : dict of str to list of str
        Cubes -> files that were put in place.
    notes : tuple of str
        What stood in the way of comparing or repairing.
    absent : tuple of str
        Cubes that DVC has recorded and that are not there, which is no damage: they may never have been fetched.
    kept_back : tuple of str
        Those of them that their owner did not publish.
    foreign : tuple of str
        Cubes in `wrong` that are not damaged, as far as anybody can tell, but saved by another program.
    """

    cubes: tuple[str, ...]
    wrong: dict[str, list[str]]
    repaired: dict[str, list[str]]
    notes: tuple[str, ...]
    absent: tuple[str, ...] = ()
    kept_back: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()


def verify_all(
    cubes: Sequence[Path],
    folders: Sequence[Path] = (),
    *,
    repair: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Verified:
    """Verify cubes; with `repair`, put broken files in place again and verify those cubes once more.

    Parameters
    ----------
    cubes : sequence of Path
    folders : sequence of Path
        Where recorded cubes are missed.
    repair : bool
    progress : callable, optional
        Told `(done, total)` in cubes before each, and at the end.

    Returns
    -------
    Verified
    """
    records, wrong, repaired, notes, unplaced, foreign = Records(), {}, {}, [], list[str](), list[str]()
    for number, cube in enumerate(cubes):
        if progress:
            progress(number, len(cubes))
        try:
            verdict = records.judge(cube)
        except (OSError, StudyError) as error:  # the disk or a permission, which leaves the other cubes to judge
            wrong[str(cube)] = [str(environment_error(error, str(cube)) or error)]
            continue
        if repair and verdict.problems:
            done = repair_cube(cube, verdict, records)
            notes += [done.refused] if done.refused else []
            if done.files:
                repaired[str(cube)] = list(done.files)
                verdict = records.judge(cube)
        unplaced += [str(cube)] if verdict.unplaced and not verdict.problems else []
        if verdict.problems:
            foreign += [str(cube)] if not any(problem.is_damage for problem in verdict.problems) else []
            wrong[str(cube)] = [f"{cube}: {problem.line}" for problem in verdict.problems]
    if progress:
        progress(len(cubes), len(cubes))
    notes += [
        f"{root}: DVC's files cannot be read ({why}); cubes are judged alone" for root, why in records.unread.items()
    ]
    if unplaced:
        unchecked = "no list of checksums, so that whether all chunks are in their places is unchecked"
        notes.append(f"{some_of(unplaced)}: {unchecked}")
    absent = dict.fromkeys(path for folder in folders for path in records.absent(folder))
    kept = tuple(os.path.relpath(path) for path in absent if records.keeps_back(path))
    gone = tuple(map(os.path.relpath, absent))
    return Verified(tuple(map(str, cubes)), wrong, repaired, tuple(notes), gone, kept, tuple(foreign))


def repair_cube(cube: Path, verdict: Verdict, records: Records) -> Repaired:
    """Replace files of a cube that are not as DVC recorded them.

    A cube that is whole is left alone, and so is one that was made anew since: old files in it would make it neither.

    Parameters
    ----------
    cube : Path
    verdict : Verdict
        From `Records.judge`.
    records : Records

    Returns
    -------
    Repaired
        The files that were replaced, and why no more were.
    """
    if not verdict.problems:
        return Repaired()
    record, fetched = verdict.record, []
    try:
        if record is None:
            raise _refusal(cube, "no record of it in DVC", "a cube that DVC tracks", "make it again with `dvc repro`")
        if record.files is None or verdict.made_anew:
            record = _informed(record, cube)
            verdict = records.judge_by(cube, record)
        if verdict.made_anew:
            do = "run `dvc repro`, or `dvc checkout --force` for the recorded one"
            raise _refusal(cube, "another cube than DVC recorded", "the recorded one with broken files", do)
        if verdict.problems and not verdict.differing:
            do = "remove files that are no part of it, or make it again with `dvc repro --force`"
            raise _refusal(cube, "every file as DVC recorded it", "broken files", do)
        source = _Source(record)
        for file in verdict.differing:
            source.restore(cube, file)
            fetched.append(file)
    except StudyError as error:
        return Repaired(tuple(fetched), str(error))
    return Repaired(tuple(fetched))


def _refusal(cube: Path, found: str, expected: str, do: str) -> StudyError:
    return StudyError(where=f"{cube} cannot be repaired", found=found, expected=expected, do=do)


def _informed(record: Recorded, cube: Path) -> Recorded:
    """The record with its list of files, and with the cube's own metadata as recorded, in the cache."""
    assert record.output.item is not None
    objects, cache = record.index.objects(record.output), ObjectCache(record.index)
    if record.files is None:
        item = record.output.item
        if cache.has(item):  # damaged, or the record would have its files
            cache.keep(item, objects.read_whole(item, f"{cube} (its list of files)"), str(cube))
        listing = record.index.folder(record.path)
        if listing.listed is not None and not cache.has(listing.listed[0]):
            cache.keep(*listing.listed, listing.where)
        record = replace(record, files=listing.files)
    root = (record.files or {}).get(ROOT)
    if root is not None:
        _keep_whole(objects, cache, root, f"{cube}/{ROOT}")
    return record


def _keep_whole(objects: Objects, cache: ObjectCache, item: DvcObject, where: str) -> bytes:
    """Bytes of an object, which the cache holds whole from now on: the cube's file may have been a link to it."""
    data = objects.read_whole(item, where)
    if not cache.has_whole(item):
        cache.keep(item, data, where)
    return data


class _Source:
    """Source of whole files of a recorded cube."""

    def __init__(self, record: Recorded) -> None:
        self._record, self._cache = record, ObjectCache(record.index)
        self._objects = record.index.objects(record.output)

    def restore(self, cube: Path, file: str) -> None:
        """Put a file in place, whole or not at all.

        Raises
        ------
        StudyError
            If no place has its bytes whole, or they cannot be written.
        """
        assert self._record.files is not None
        item, where = self._record.files[file], f"{cube}/{file}"
        target = _inside(cube, file)
        try:
            _put(target, _keep_whole(self._objects, self._cache, item, where))
        except OSError as error:
            do = "remove what is there, or check the disk"
            raise environment_error(error, where) or StudyError(
                where=where, found=f"{error.strerror}", expected="room for the file", do=do
            ) from error


def _inside(cube: Path, file: str) -> Path:
    """The place of a file, which no link leads out of the cube."""
    target = cube / file
    if not target.parent.resolve().is_relative_to(cube.resolve()):
        raise _refusal(cube, f"a link to a folder elsewhere above {file}", "folders", "remove the link")
    return target


def _put(target: Path, data: bytes) -> None:
    """Write beside a file and rename: what it was linked to stays as it is."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
