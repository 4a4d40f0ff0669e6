"""Caches of chunks that nobody has read from for long."""

from __future__ import annotations

import re
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import StudyPaths
from cinecube.store.clean.leftovers import Leftover, bytes_freed, removing

DAY_S = 24 * 3600.0

# A hash of DVC and a range of bytes, as `chunk_cache` names what it keeps.
_KEY = re.compile(r"[0-9a-f]{32}(\.dir)? (whole|\d+-\d*|-\d+)")
_DATABASE = "cache.db"
_FILES = (_DATABASE, f"{_DATABASE}-wal", f"{_DATABASE}-shm", f"{_DATABASE}-journal")
_FOLDER = re.compile(r"[0-9a-f]{2}")  # where diskcache puts what is too large for its database


def find_own_cache(paths: StudyPaths, unused_days: float) -> Leftover | None:
    """The study's own cache, if it has one that was not used for so many days.

    Parameters
    ----------
    paths : StudyPaths
    unused_days : float
        Days since its last use.

    Returns
    -------
    Leftover or None
        None, too, where it is a link.
    """
    folder = paths.chunks
    linked = folder.resolve() != paths.root.resolve() / folder.relative_to(paths.root)
    return None if linked or not is_chunk_cache(folder) else find_unused(folder, unused_days)


def find_unused(folder: Path, unused_days: float) -> Leftover | None:
    """A cache in any folder, if it was not used for so many days.

    Parameters
    ----------
    folder : Path
    unused_days : float
        Days since its last use.

    Returns
    -------
    Leftover or None

    Raises
    ------
    StudyError
        If the folder is no cache of ours.
    """
    refuse_other(folder)
    days = (time.time() - _last_use_s(folder)) / DAY_S
    if days < unused_days:
        return None
    return Leftover(folder, "chunks", f"a cache of chunks, not used for {days:.0f} days", bytes_freed(folder))


def refuse_other(folder: Path) -> None:
    """Refuse a folder that is no cache of chunks.

    Raises
    ------
    StudyError
        If it is a link, is missing or holds anything else.
    """
    if not is_chunk_cache(folder):
        raise StudyError(
            where=str(folder),
            found="a link" if folder.is_symlink() else "something else" if folder.exists() else "nothing",
            expected="a cache of chunks that cinecube wrote, and nothing besides",
            do="name the folder that was given as `cache`",
        )


def is_chunk_cache(folder: Path) -> bool:
    """True if a folder holds a cache of this package and nothing else."""
    if folder.is_symlink() or not (folder / _DATABASE).is_file():
        return False
    strangers = [path for path in folder.iterdir() if not (path.name in _FILES or _is_folder_of_cache(path))]
    try:
        return not strangers and _is_ours(folder)
    except sqlite3.Error:
        return False


def remove_cache(folder: Path, unused_days: float) -> None:
    """Remove a cache, if it still is one that nobody used.

    Parameters
    ----------
    folder : Path
    unused_days : float
        Days since its last use.

    Raises
    ------
    StudyError
        If it is not, or cannot be removed.
    """
    if find_unused(folder, unused_days) is None:
        raise StudyError(
            where=str(folder), found="a cache that was used by now", expected="an unused one", do="leave it"
        )
    with removing(folder):
        shutil.rmtree(folder)


def _is_folder_of_cache(path: Path) -> bool:
    return bool(_FOLDER.fullmatch(path.name)) and path.is_dir() and not path.is_symlink()


def _is_ours(folder: Path) -> bool:
    with closing(_open(folder)) as database:
        settings = dict(database.execute("SELECT key, value FROM Settings"))
        keys = database.execute("SELECT key, raw FROM Cache")
        known = settings.get("eviction_policy") == "least-recently-used"
        return known and all(raw and isinstance(key, str) and _KEY.fullmatch(key) for key, raw in keys)


def _last_use_s(folder: Path) -> float:
    """Time of the last read or write in a cache, in seconds of the epoch; of an empty one, when it was opened."""
    with closing(_open(folder)) as database:
        (last,) = database.execute("SELECT max(max(access_time, store_time)) FROM Cache").fetchone()
    return float(last) if last else max((folder / name).stat().st_mtime for name in _FILES if (folder / name).exists())


def _open(folder: Path) -> sqlite3.Connection:
    """The database, only to be read."""
    path = (folder / _DATABASE).absolute()
    # Without a log of changes nobody has it open, and SQLite would leave files of its own beside it.
    how = "mode=ro" if path.with_name(f"{_DATABASE}-wal").exists() else "immutable=1"
    return sqlite3.connect(f"file:{quote(str(path))}?{how}", uri=True)
