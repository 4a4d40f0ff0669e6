"""Putting whole things in place: a reader sees the old one or the new one, never a half."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Errors of a rename where another process publishes at the same path in the same moment.
_CROSSED = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT)
_TRIES, _WAIT_S = 100, 0.01
_PARTIAL = re.compile(r"\.(?P<whole>.+?)(\.\d+(-[0-9a-f]{8})?)?\.partial")


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Yield a name beside `path` to write a file or folder to; it becomes `path` if nothing is raised.

    What was at `path` stays untouched until then: DVC may have linked it to its cache. No other writer has the name, so
    two writers never mix.
    """
    partial = _own_name(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        publish(partial, path)
    finally:
        remove(partial)


def publish(whole: Path, path: Path) -> None:
    """Move a whole file or folder to its place; of several that do so at once the last stays.

    Parameters
    ----------
    whole : Path
        The finished file or folder, on the same disk.
    path : Path
        Its place; what is there is replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    old = old_of(path)
    for left in reversed(range(_TRIES)):
        try:
            if path.is_dir():
                # Not before: it may be the only copy, if a writer was killed between these two renames.
                _discard_old(path)
                path.rename(old)
            os.replace(whole, path)
            break
        except OSError as error:
            if error.errno not in _CROSSED or not left or not os.path.lexists(whole):
                raise
            time.sleep(_WAIT_S)
    _discard_old(path)


def _discard_old(path: Path) -> None:
    """Remove what was replaced, under a name of its own: others may put something in its place meanwhile."""
    old, aside = old_of(path), _own_name(path)
    if old.is_dir():
        with suppress(FileNotFoundError):
            old.rename(aside)
            remove(aside)


def _own_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")


def old_of(path: Path) -> Path:
    """Path that a folder has for the moment in which another takes its place."""
    return path.with_name(f".{path.name}.old")


def whole_of(path: Path) -> Path | None:
    """Path that a partial or replaced thing belongs to: `.amber.zarr.old` -> `amber.zarr`; None for anything else."""
    if path.name.startswith(".") and path.suffix == ".old":
        return path.with_name(path.name.removeprefix(".").removesuffix(".old"))
    match = _PARTIAL.fullmatch(path.name)
    return path.with_name(match["whole"]) if match else None


def clear(path: Path) -> None:
    """Remove what killed writers of `path` left beside it, and put its only copy back.

    Only the holder of the lock of `path` may call this: others may be writing otherwise.
    """
    if not path.parent.is_dir():
        return
    for other in list(path.parent.iterdir()):
        if other.name.endswith(".partial") and whole_of(other) == path:
            remove(other)
    old = old_of(path)
    if old.is_dir() and os.path.lexists(path):
        remove(old)
    elif old.is_dir():
        old.rename(path)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file in place of `path`.

    Parameters
    ----------
    path : Path
    text : str
        Written as UTF-8, with line feeds alone at the ends of lines.
    """
    with staged(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
