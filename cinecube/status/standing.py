"""DVC's answers on a pipeline, kept for as long as none of the files that it looked at is another.

DVC reads its pipeline and hashes what a hundred stages depend on in seconds; to look at the files takes a fraction.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cinecube.store.base.atomic import write_text
from cinecube.store.base.bounded import parse_json, read_text
from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import StudyPaths
from cinecube.store.dvc.locks import records_below

Answer = Mapping[str, str]
"""Stage -> why it is to be run."""
# Raised when answers are made in another way.
_FORMAT = 1
_CONFIGS = (".dvc/config", ".dvc/config.local", ".dvcignore", "params.yaml", "dvc.yaml")
_BYTECODE = "__pycache__"


def standing(root: Path, asked: Any, ask: Callable[[], tuple[Answer, Iterable[str]] | None]) -> Answer | None:
    """DVC's answer: the last one if nothing has changed since, or that of `ask`.

    Parameters
    ----------
    root : Path
        The study's folder.
    asked : Any
        What the answer depends on beside files, as JSON.
    ask : callable
        The answer, and the paths of files and folders that it depends on, of folders that end in a slash only which
        entries they have; None if there is none.

    Returns
    -------
    object or None
        JSON values.
    """
    root = root.resolve()  # however the study was named
    place = StudyPaths(root).standing
    question = json.dumps([_FORMAT, version("dvc"), asked], sort_keys=True)
    last = _last(place)
    if last.get("question") == question and last.get("files") == _looks(root, last["paths"]):
        kept: Answer = last["answer"]
        return kept
    before = _looks(root, ())
    found = ask()
    if found is None:
        return None
    answer, paths = found[0], sorted(set(found[1]))
    if before == _looks(root, ()):
        told = {"question": question, "paths": paths, "files": _looks(root, paths), "answer": answer}
        with contextlib.suppress(OSError):
            write_text(place, json.dumps(told))
    return answer


def _last(place: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError, StudyError):
        last = parse_json(read_text(place))
        if isinstance(last, dict) and isinstance(last.get("paths"), list) and isinstance(last.get("answer"), dict):
            return last
    return {}


def _looks(root: Path, paths: Iterable[str]) -> str:
    """Digest of names, sizes, times and numbers of all files at or under paths, and of those in which DVC records."""
    digest = hashlib.sha256()
    records = [str(path) for path in records_below(root)]
    for line in _lines([*records, *(str(root / name) for name in _CONFIGS), *paths]):
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _lines(paths: Iterable[str]) -> Iterator[str]:
    left = _topmost(paths)[::-1]
    named = set(left)
    while left:
        path = left.pop()
        try:
            status = os.stat(path)
            inner = stat.S_ISDIR(status.st_mode) and not path.endswith(os.sep)
            if inner and path not in named and os.path.islink(path):  # DVC does not follow it either
                status, inner = os.lstat(path), False
        except OSError:
            yield f"{path}\0\n"
            continue
        yield f"{path}\0{status.st_mtime_ns}\0{status.st_size}\0{status.st_ino}\n"
        if inner:
            with contextlib.suppress(OSError):
                left += [f"{path}{os.sep}{name}" for name in sorted(os.listdir(path)) if name != _BYTECODE]


def _topmost(paths: Iterable[str]) -> list[str]:
    """Paths that lie in no other of them: a cube and the folder of all cubes are looked at once."""
    found: list[str] = []
    for path in sorted(set(paths), key=lambda path: path.split(os.sep)):
        if not found or found[-1].endswith(os.sep) or not path.startswith(found[-1] + os.sep):
            found.append(path)
    return found
