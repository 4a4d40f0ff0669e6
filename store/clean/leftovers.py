"""Leftovers of killed and finished work, removed without touching anything in use.

Three things are never listed: a journal whose lock another process holds, a journal that the study would resume, and
anything that is reached through a symbolic link.

Every stage holds the lock of what it writes (`writing.one_writer`), and of its journal where it has one. So partial
cubes and scratch arrays are listed only when all of this holds: nobody holds a lock of the study; DVC neither holds its
lock nor has a stage of a living process in its `rwlock`; and nothing in them was written for `STILL_S`. The last covers
what the first two cannot see: another machine whose locks do not reach here, a script that writes a cube without a
stage. A writer that has all its numbers writes without a pause, and whoever comes next takes away what was left of its
own output anyway, so waiting costs nothing. Whoever only reads scratch arrays has them mapped, and they stay readable
when their names are gone. All of it is asked again just before anything is removed.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from cinecube.store.base.atomic import whole_of
from cinecube.store.base.errors import StudyError, environment_error
from cinecube.store.base.fingerprint import fingerprint
from cinecube.store.base.paths import StudyPaths
from cinecube.store.base.writing import lock_of
from cinecube.store.cube.cubes import open_cube

STILL_S = 24 * 3600.0
"""Seconds without a write after which something may be taken for dead."""

Kind = Literal[
    "journal", "abandoned", "lock", "partial", "old", "only copy", "scratch", "import", "log", "pull", "chunks"
]

_JOURNAL = re.compile(r"[0-9a-f]{64}")
_SPEC = "spec.json"
_PARTIAL_FILE = re.compile(r"\..+\.\d+-[0-9a-f]{8}\.partial")


@dataclass(frozen=True)
class Leftover:
    """Something that nobody needs any more.

    Attributes
    ----------
    path : Path
    kind : str
        `journal` (finished), `abandoned` (a journal of what the study no longer asks for), `lock` (without a journal),
        `partial` (a cube that was never finished), `old` (a cube that another has replaced), `only copy` (a cube that
        was to be replaced and has to be put back), `scratch`, `import` (one that was stopped and has to be undone),
        `log` (of an unexpected error), `pull`, `chunks`.
    why : str
        Why it can go.
    bytes : int
        What removing it frees: files that DVC's cache shares are not counted.
    """

    path: Path
    kind: Kind
    why: str
    bytes: int


@dataclass(frozen=True)
class Claim:
    """The cube that a journal belongs to, as the study sees it.

    Attributes
    ----------
    name : str
        For people: `vit amber`.
    cubes : dict of Path to str, or None
        The cubes that the study would make of it, with their fingerprints; none where it asks for no such thing. None
        where that cannot be told.
    changed : str
        What the study asks for instead.
    """

    name: str
    cubes: Mapping[Path, str] | None = field(default_factory=dict)
    changed: str = ""


def find_journals(paths: StudyPaths, claim: Callable[[Mapping[str, Any]], Claim]) -> list[Leftover]:
    """Journals whose cubes are published, and journals of what the study does not ask for any more.

    Parameters
    ----------
    paths : StudyPaths
    claim : callable
        Told the spec of a journal, says what the study makes of it.

    Returns
    -------
    list of Leftover
        Without those that a process holds locked.
    """
    found = []
    for folder in _children(paths, paths.journals):
        if _JOURNAL.fullmatch(folder.name) and folder.is_dir() and not _is_locked(folder.with_suffix(".lock")):
            judged = _judge(folder, claim)
            found += [judged] if judged else []
    return found


def _judge(folder: Path, claim: Callable[[Mapping[str, Any]], Claim]) -> Leftover | None:
    spec, size = _spec_of(folder), bytes_freed(folder)
    if spec is None:
        # Whoever comes back to it writes its spec again; without blocks there is nothing to come back to.
        blocks = any(folder.glob("*.npy"))
        return None if blocks else Leftover(folder, "journal", "stopped before its first block", size)
    of = claim(spec)
    if of.cubes is None:
        return None
    if not of.cubes:
        return Leftover(folder, "abandoned", of.name + (f": {of.changed}" if of.changed else ""), size)
    if all(_is_published(cube, digest) for cube, digest in of.cubes.items()):
        return Leftover(folder, "journal", f"{of.name}: its cube is published", size)
    return None


def _spec_of(folder: Path) -> dict[str, Any] | None:
    """The spec of a journal, if it is the one that the folder is named after."""
    try:
        spec = json.loads((folder / _SPEC).read_text(encoding="utf-8"))
        return spec if isinstance(spec, dict) and fingerprint(spec) == folder.name else None
    except (OSError, ValueError) as error:
        if refused := environment_error(error, str(folder)):
            raise refused from error  # whether it can go is not known
        return None


def _is_published(path: Path, digest: str) -> bool:
    try:
        with open_cube(path) as cube:
            return bool(cube.attrs.get("fingerprint") == digest)
    except StudyError:
        return False


def find_locks(paths: StudyPaths) -> list[Leftover]:
    """Lock files of journals that are gone, which nobody holds."""
    return [
        Leftover(lock, "lock", "its journal is gone, and nobody holds it", bytes_freed(lock))
        for lock in _children(paths, paths.journals)
        if _JOURNAL.fullmatch(lock.stem) and lock.suffix == ".lock" and _is_empty_lock(lock)
    ]


def _is_empty_lock(lock: Path) -> bool:
    return lock.is_file() and not lock.with_suffix("").exists() and not _is_locked(lock)


def find_partials(paths: StudyPaths) -> list[Leftover]:
    """Partial and replaced cubes of killed writers; nothing while the study is busy (see this file's beginning)."""
    if is_busy(paths):
        return []
    found = [_partial(paths, path) for path in _hidden(paths)]
    return [leftover for leftover in found if leftover and _is_still(leftover.path)]


def _partial(paths: StudyPaths, path: Path) -> Leftover | None:
    name, size, whole = path.name, bytes_freed(path), whole_of(path)
    if name.startswith(".simulate-") and path.parent == paths.data and path.is_dir():
        return Leftover(path, "partial", "a simulation that was stopped", size)
    if whole is None:
        return None
    if name.endswith(".partial"):
        return Leftover(path, "partial", f"{whole.name} was never finished", size)
    if not path.is_dir():
        return None
    if os.path.lexists(whole):
        return Leftover(path, "old", f"another {whole.name} has taken its place", size)
    return Leftover(path, "only copy", f"no {whole.name} took its place: it is put back", 0)


def _hidden(paths: StudyPaths) -> Iterator[Path]:
    """Hidden files and folders where stages write; films and scans are not looked through."""
    # Beside a user's own files no name will do that they may have given.
    yield from (path for path in _children(paths, paths.root) if _PARTIAL_FILE.fullmatch(path.name) and path.is_file())
    for place in (paths.data, paths.timings):
        yield from (path for path in _children(paths, place) if path.name.startswith("."))
    names = ("features", "residual", "brain", "checkpoints", "imported")
    for top in (*(paths.data / name for name in names), paths.results):
        if not _is_inside(paths, top):
            continue
        for folder, folders, files in os.walk(top):
            for name in sorted([*folders, *files]):
                path = Path(folder, name)
                if name.startswith(".") and not path.is_symlink():
                    yield path
            folders[:] = sorted(name for name in folders if not name.startswith(".") and not name.endswith(".zarr"))


def find_scratch(paths: StudyPaths) -> list[Leftover]:
    """Arrays of stages that are dead; nothing while the study is busy."""
    if is_busy(paths):
        return []
    return [
        Leftover(path, "scratch", f"arrays of a stage that was stopped ({path.name})", bytes_freed(path))
        for path in _children(paths, paths.scratch)
        if _is_still(path)
    ]


def find_imports(paths: StudyPaths) -> list[Leftover]:
    """Notes of imports that were killed: what they made is removed with them, and `params.yaml` put back."""
    found = []
    for note in _children(paths, paths.imports):
        folder = paths.data / "features" / note.stem
        if note.suffix == ".json" and not _is_locked(lock_of(paths, folder)):
            size = bytes_freed(folder) if folder.is_dir() else 0
            found.append(Leftover(note, "import", f"an import of {note.stem} that was stopped: it is undone", size))
    return found


def find_logs(paths: StudyPaths) -> list[Leftover]:
    """Tracebacks of errors that nobody expected, a day after."""
    return [
        Leftover(path, "log", "the traceback of an error that was to be reported", bytes_freed(path))
        for path in _children(paths, paths.logs)
        if path.is_file() and _is_still(path)
    ]


def find_pulls(cache: Path) -> list[Leftover]:
    """Leftovers of this user's killed pulls in a cache of DVC; caches may be shared."""
    if not cache.is_dir():
        return []
    return [
        Leftover(path, "pull", "an object that never came in whole", bytes_freed(path))
        for path in sorted(cache.glob(".pull-*"))
        if path.is_dir() and not path.is_symlink() and path.lstat().st_uid == os.getuid() and _is_still(path)
    ]


def is_busy(paths: StudyPaths) -> bool:
    """True if a process holds a lock of the study, or DVC runs in its repository."""
    places = (paths.journals, paths.locks)
    locks = (path for place in places for path in _children(paths, place) if path.suffix == ".lock")
    return any(_is_locked(lock) for lock in locks) or _dvc_runs(paths.root.resolve())


def _dvc_runs(root: Path) -> bool:
    tmp = next((folder / ".dvc" / "tmp" for folder in (root, *root.parents) if (folder / ".dvc").is_dir()), None)
    if tmp is None:
        return False
    try:
        entries = json.loads((tmp / "rwlock").read_text(encoding="utf-8"))
        holders = [
            *entries.get("write", {}).values(),
            *(one for all_ in entries.get("read", {}).values() for one in all_),
        ]
        pids = [int(holder["pid"]) for holder in holders]
    except FileNotFoundError:
        pids = []
    except json.JSONDecodeError:  # a DVC that was killed leaves half of it; whoever writes it holds the lock beside it
        return any(_is_locked(tmp / name) for name in ("lock", "rwlock.lock"))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return True  # it is being written, or is DVC's of another version: nothing is known
    return _is_locked(tmp / "lock") or any(_is_alive(pid) for pid in pids)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _is_locked(lock: Path) -> bool:
    """True if another process holds a lock file; one that cannot be read counts as held."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # let go when the file is closed
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _is_still(path: Path) -> bool:
    """True if nothing at or under a path was written, renamed or linked for `STILL_S`."""
    return time.time() - max(max(info.st_mtime, info.st_ctime) for info in _stats(path)) > STILL_S


def bytes_freed(path: Path) -> int:
    """Size of the files at or under a path that have no other name."""
    return sum(info.st_size for info in _stats(path) if info.st_nlink == 1)


def _stats(path: Path) -> Iterator[os.stat_result]:
    yield path.lstat()
    if path.is_dir() and not path.is_symlink():
        for folder, folders, files in os.walk(path):
            for name in [*folders, *files]:
                try:
                    yield Path(folder, name).lstat()
                except FileNotFoundError:
                    continue


def _children(paths: StudyPaths, folder: Path) -> list[Path]:
    """Entries of a study's folder that are no links; none if the folder is reached through a link."""
    if not folder.is_dir() or not _is_inside(paths, folder):
        return []
    return sorted(path for path in folder.iterdir() if not path.is_symlink())


def _is_inside(paths: StudyPaths, path: Path) -> bool:
    """True if a path leads into the study's folder without a link on the way."""
    return path.is_relative_to(paths.root) and path.resolve() == paths.root.resolve() / path.relative_to(paths.root)


def discard(paths: StudyPaths, leftover: Leftover) -> None:
    """Remove a leftover, or put the only copy of a cube back in its place.

    Parameters
    ----------
    paths : StudyPaths
    leftover : Leftover

    Raises
    ------
    StudyError
        If somebody uses it by now, or it cannot be removed.
    """
    path = leftover.path
    with removing(path):
        if leftover.kind in ("journal", "abandoned", "lock"):
            lock = _inside_or_refuse(paths, path.with_suffix(".lock"))
            _remove_journal(path.with_suffix(""), lock, bare=leftover.kind == "lock")
            return
        if leftover.kind != "pull":
            _inside_or_refuse(paths, path)
        if leftover.kind not in ("log", "pull"):
            _refuse(is_busy(paths), path, "a stage that runs")
        _refuse(not _is_still(path), path, "something written by now")
        if leftover.kind == "only copy":
            whole = whole_of(path) or path
            _refuse(os.path.lexists(whole), path, f"another {whole.name}")
            path.rename(whole)
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def removing(path: Path) -> Iterator[None]:
    """Say in one line why something cannot be removed.

    Yields
    ------
    None

    Raises
    ------
    StudyError
        Of what the system refused meanwhile.
    """
    try:
        yield
    except OSError as error:
        raise environment_error(error, str(path)) or StudyError(
            where=str(path),
            found=str(error),
            expected="something to remove, and permission to",
            do="fix it, and run `cinecube clean` again",
        ) from error


def _inside_or_refuse(paths: StudyPaths, path: Path) -> Path:
    _refuse(path.is_symlink() or not _is_inside(paths, path.parent), path, "a link")
    return path


def _refuse(wrong: bool, path: Path, found: str) -> None:
    if wrong:
        raise StudyError(
            where=str(path), found=found, expected="what was listed, left as it was", do="run `cinecube clean` again"
        )


def _remove_journal(folder: Path, lock: Path, bare: bool) -> None:
    """Remove a journal and its lock file; `bare`: only if there is no journal any more."""
    try:
        # Held until its own file is gone: a writer that comes meanwhile is refused, not given a lock without a name.
        with FileLock(lock, timeout=0):
            _refuse(bare and folder.exists(), folder, "a new journal")
            if folder.is_dir():
                # The spec goes last, so that a half-removed journal can still be judged.
                for file in folder.iterdir():
                    if file.name != _SPEC:
                        file.unlink()
                shutil.rmtree(folder)
            lock.unlink(missing_ok=True)
    except Timeout:
        _refuse(True, folder, "a process that holds its lock")
