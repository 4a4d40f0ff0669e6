"""Putting whole things in place: a reader sees the old one or the new one, never a half."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Yield a name beside `path` to write a file or folder to; it becomes `path` if nothing is raised.

    What stood at `path` stays untouched until then: DVC may have linked it to its cache.
    """
    partial = path.with_name(f".{path.name}.partial")
    remove(partial)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        publish(partial, path)
    finally:
        remove(partial)


def publish(whole: Path, path: Path) -> None:
    """Move a whole file or folder to its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    old = old_of(path)
    remove(old)
    if path.is_dir():
        path.rename(old)
    os.replace(whole, path)
    remove(old)


def old_of(path: Path) -> Path:
    """Where a folder stands for the moment in which another takes its place."""
    return path.with_name(f".{path.name}.old")


def write_text(path: Path, text: str) -> None:
    """Write a whole text file in place of `path`."""
    with staged(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
