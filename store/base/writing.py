"""Locks that let one process at a time write what a study publishes, and folders for its arrays meanwhile."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from cinecube.store.base.atomic import clear, remove
from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import StudyPaths

# Seconds that `clean` may hold a lock, which it takes to see whether it is free.
_GLANCE_S = 0.2


@contextmanager
def one_writer(paths: StudyPaths, *outputs: Path, wait_s: float = 0) -> Iterator[None]:
    """Lock some outputs for this process, and first remove what killed writers left of them.

    Parameters
    ----------
    paths : StudyPaths
    outputs : Path
        Files or folders inside the study. For a stage with several, the first that no other stage writes is enough.
    wait_s : float
        Seconds to wait for another writer, where it will not take long.

    Yields
    ------
    None
        While the outputs are locked.

    Raises
    ------
    StudyError
        If another process writes one of them. Killing `dvc` leaves its child running.
    """
    with ExitStack() as held:
        for output in outputs:
            held.enter_context(_locked(paths, output, wait_s))
        for output in outputs:
            clear(output)
        yield


@contextmanager
def _locked(paths: StudyPaths, output: Path, wait_s: float) -> Iterator[None]:
    lock = lock_of(paths, output)
    lock.parent.mkdir(parents=True, exist_ok=True)
    # It is never deleted: a waiting writer would lock a file without a name.
    held = FileLock(lock)
    try:
        held.acquire(timeout=max(wait_s, _GLANCE_S))
    except Timeout:
        raise StudyError(
            where=paths.relative(output),
            found="another process writing it",
            expected="one writer at a time",
            do="wait for it, or stop it (killing dvc leaves its child running)",
        ) from None
    try:
        yield
    finally:
        held.release()


def lock_of(paths: StudyPaths, output: Path) -> Path:
    """The file that the writer of an output holds locked, in a folder that DVC and Git ignore.

    Parameters
    ----------
    paths : StudyPaths
    output : Path
        File or folder inside the study.

    Returns
    -------
    Path
        It need not be there.
    """
    digest = hashlib.sha256(paths.relative(output).encode()).hexdigest()
    return paths.locks / f"{output.name[:40]}.{digest[:16]}.lock"


@contextmanager
def scratch_folder(paths: StudyPaths, name: str) -> Iterator[Path]:
    """An empty folder for arrays that a stage does not hold in memory, gone at the end.

    The caller holds the lock of the output that `name` is for, so anything in the folder was left by a killed writer.

    Parameters
    ----------
    paths : StudyPaths
    name : str
        Name of the folder below `paths.scratch`.

    Yields
    ------
    Path
    """
    folder = paths.scratch / name
    remove(folder)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        remove(folder)


def keep_array(folder: Path, values: np.ndarray) -> Path:
    """Write an array into a scratch folder, whole or not at all, for whichever process needs it; its path.

    Its name is its own: a task whose worker was lost is run again, and must not write into what the first has begun.

    Parameters
    ----------
    folder : Path
        From `scratch_folder`, or below it; made where it is not there.
    values : array
        Of any shape.

    Returns
    -------
    Path
        Of a `.npy` file with a name of its own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{secrets.token_hex(8)}.npy"
    np.save(path, values, allow_pickle=False)
    return path


def kept_array(path: Path) -> np.ndarray:
    """An array that was kept, mapped read-only: processes of one machine share its memory."""
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except SystemError:
        # numpy reads an array's head by `ast`, whose count of its own depth two threads spoil for each other in Python
        # 3.11 (python/cpython issue 106905).
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
