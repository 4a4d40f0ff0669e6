"""Lists of the cubes in a folder or a revision, from their labels."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cinecube.store.base.errors import StudyError
from cinecube.store.cube.heads import CubeHead, head_of, read_head, stored_bytes
from cinecube.store.dvc.pulling import PulledCubes
from cinecube.store.verify.find_cubes import find_cubes

if TYPE_CHECKING:
    from cinecube.store.dvc.dvc_index import DvcIndex
    from cinecube.store.open.revision import StoredCube

# Enough to hide the way to a server and back: labels are a few kilobytes.
_AT_ONCE = 8

OF_ALL = ("brain", "all models", "")
"""Groups of cubes that are of no model."""
_OID = re.compile(r"[0-9a-f]{32}")

_Where = TypeVar("_Where")
_Told = TypeVar("_Told")


def list_folder(folder: Path, tell: Callable[[StudyError], None]) -> list[dict[str, Any]]:
    """Summaries of all cubes in a folder; `tell` gets the errors of those that cannot be read.

    Parameters
    ----------
    folder : Path
    tell : callable
        Called with the error of a cube that cannot be read.

    Returns
    -------
    list of dict
        See `summarise`.
    """

    def summary(path: Path) -> dict[str, Any]:
        return summarise(read_head(path, complete=False), path.relative_to(folder), stored_bytes(path))

    return list(_readable(summary, find_cubes(folder), tell))


def list_pulled(root: Path, folder: Path, tell: Callable[[StudyError], None]) -> list[dict[str, Any]]:
    """Summaries of a study's cubes under a folder that are in DVC's cache only, with the layers that `pull` brought.

    Parameters
    ----------
    root : Path
        The study's folder.
    folder : Path
        Folder in it; only cubes below are listed.
    tell : callable
        Called with the error of a cube that cannot be read.

    Returns
    -------
    list of dict
        See `summarise`.
    """
    pulled = PulledCubes(root)

    def summary(path: Path) -> list[dict[str, Any]]:
        part = pulled.part(path, str(path))
        if part is None:
            return []
        return [summarise(head_of(part.cube), path.relative_to(folder), part.n_bytes, part.here)]

    paths = [path for path in pulled.paths() if path.is_relative_to(folder)]
    return [row for rows in _readable(summary, sorted(paths), tell) for row in rows]


def list_revision(index: DvcIndex, tell: Callable[[StudyError], None]) -> list[dict[str, Any]]:
    """Summaries of all cubes in a revision, read from its remote; no values are.

    Parameters
    ----------
    index : DvcIndex
        Of the revision.
    tell : callable
        Called with the error of a cube that cannot be read.

    Returns
    -------
    list of dict
        See `summarise`.

    Raises
    ------
    StudyError
        If it records none.
    """
    from cinecube.store.open.revision import RevisionCubes, cubes_of

    cubes = RevisionCubes(index)
    if not cubes_of(index):
        unmade = sum(output.item is None and output.source is None for output in index.outputs)
        found = f"{unmade} outputs that were never made, or whose dvc.lock is not committed" if unmade else "no cube"
        raise StudyError(
            where=index.where,
            found=found,
            expected="cubes that DVC has recorded",
            do="ask its owner to commit dvc.lock, or .dvc files, of its cubes; or name another revision",
        )

    def summary(cube: StoredCube) -> dict[str, Any]:
        head = head_of(cubes.open(Path(cube.path)))
        # A list of files that are several cubes has no sizes: DVC records that of all of them.
        n_bytes = index.folder(cube.path).n_bytes() if cube.n_bytes is None else cube.n_bytes
        return summarise(head, Path(cube.path), n_bytes)

    return list(_readable(summary, cubes_of(index), tell))


def merged(errors: Sequence[StudyError]) -> list[StudyError]:
    """One error for all that differ only in which cube and object they are about; it names the first and how many."""
    kinds: dict[tuple[str, str], list[StudyError]] = {}
    for error in errors:
        kinds.setdefault((_OID.sub("", error.found), error.do), []).append(error)
    lines = []
    for alike in kinds.values():
        first, more = alike[0], len({error.where for error in alike}) - 1
        where = first.where + (f" and {more} more" if more else "")
        lines.append(StudyError(where=where, found=first.found, expected=first.expected, do=first.do))
    return lines


def summarise(cube: CubeHead, path: Path, n_bytes: int | None, pulled: Sequence[str] | None = None) -> dict[str, Any]:
    """One line of a list of cubes: kind, name, group, axes with their sizes, models, layers, bytes, path, fingerprint.

    `group` is the model or pair of features and scores, else one of `OF_ALL`; empty of cubes of other kinds. `pulled`
    are the layers that are here, as `model layer`, of a cube that is in DVC's cache only.

    Parameters
    ----------
    cube : CubeHead
    path : Path
        From the study's folder.
    n_bytes : int, optional
        On disk; None where it is not known.
    pulled : sequence of str, optional

    Returns
    -------
    dict
        Key -> value, all of types that JSON has.
    """
    kind = str(cube.attrs.get("kind", cube.name))
    groups = {"features": path.parent.name, "scores": path.stem, "predictions": path.stem, "brain": "brain"}
    return {
        "kind": kind,
        "name": f"{path.parent.name} {path.stem}" if cube.name == "features" else path.stem,
        "group": groups.get(kind, "all models" if kind in ("ceiling", "partition", "significance") else ""),
        "axes": ", ".join(f"{size} {dim}" for dim, size in cube.sizes.items()),
        **cube.sizes,
        "models": cube.texts("model"),
        "layers": cube.texts("layer"),
        "bytes": n_bytes,
        "path": path.as_posix(),
        "fingerprint": cube.attrs.get("fingerprint"),
        "pulled": None if pulled is None else list(pulled),
    }


def _readable(
    summary: Callable[[_Where], _Told], places: Iterable[_Where], tell: Callable[[StudyError], None]
) -> Iterator[_Told]:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for future in [pool.submit(summary, place) for place in places]:
            try:
                yield future.result()
            except StudyError as error:
                tell(error)
            except FileNotFoundError as error:
                found, expected = "a file that vanished while it was looked at", "a cube that nobody replaces"
                tell(StudyError(where=str(error.filename), found=found, expected=expected, do="list it again"))
