"""Leftovers of every kind in a study's folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cinecube.status.claims import Claims
from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import StudyPaths
from cinecube.store.clean import leftovers, unused_caches
from cinecube.store.clean.leftovers import Leftover
from cinecube.store.dvc.dvc_index import open_index
from cinecube.store.params.document import Study
from cinecube.studies.importing import undo_stopped_import


@dataclass(frozen=True)
class Cleanable:
    """Leftovers that can be removed.

    Attributes
    ----------
    leftovers : list of Leftover
        By kind; journals of what the study no longer asks for last.
    busy : bool
        Whether a stage of the study runs, so that partial cubes and scratch arrays were left out.
    """

    leftovers: list[Leftover]
    busy: bool


def find_leftovers(study: Study, root: Path, caches: Sequence[Path], unused_days: float) -> Cleanable:
    """Everything that can go from a study's folder, from its cache of DVC, and from caches of chunks.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    caches : sequence of Path
        Caches of chunks elsewhere; the study's own is looked at anyway.
    unused_days : float
        Days without a read after which a cache is unused.

    Returns
    -------
    Cleanable

    Raises
    ------
    StudyError
        If one of `caches` is no cache of chunks.
    """
    paths = StudyPaths(root)
    unused = [unused_caches.find_own_cache(paths, unused_days)]
    unused += [unused_caches.find_unused(folder, unused_days) for folder in caches]
    journals = leftovers.find_journals(paths, Claims(study, root))
    found = [
        *(one for one in journals if one.kind == "journal"),
        *leftovers.find_locks(paths),
        *leftovers.find_partials(paths),
        *leftovers.find_scratch(paths),
        *leftovers.find_imports(paths),
        *leftovers.find_logs(paths),
        *_pulls(root),
        *{one.path.resolve(): one for one in unused if one}.values(),
        *(one for one in journals if one.kind == "abandoned"),
    ]
    return Cleanable(found, leftovers.is_busy(paths))


def _pulls(root: Path) -> list[Leftover]:
    try:
        cache = open_index(root).cache
    except StudyError:
        return []  # no repository of DVC, so nothing was ever pulled
    return leftovers.find_pulls(Path(cache)) if cache else []


def remove_leftover(root: Path, leftover: Leftover, unused_days: float) -> None:
    """Remove one of them, or put it back where it is the only copy of a cube.

    Parameters
    ----------
    root : Path
        The study's folder.
    leftover : Leftover
        From `find_leftovers`.
    unused_days : float
        As there.

    Raises
    ------
    StudyError
        If somebody uses it by now, or it cannot be removed.
    """
    if leftover.kind == "chunks":
        unused_caches.remove_cache(leftover.path, unused_days)
    elif leftover.kind == "import":
        undo_stopped_import(root, leftover.path.stem)
    else:
        leftovers.discard(StudyPaths(root), leftover)
