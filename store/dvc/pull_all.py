"""Everything that a study has published, brought into its folder by DVC; what its owner keeps back is named."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cinecube.store.base.errors import StudyError, some_of
from cinecube.store.dvc.dvc_index import DvcIndex, Output, inside, open_index
from cinecube.store.dvc.remotes import shown_address


@dataclass(frozen=True)
class Brought:
    """Result of a pull of everything.

    Attributes
    ----------
    files : int
        Objects fetched; none of what was in the cache already.
    kept_back : tuple of str
        Recorded outputs that are not here because their owner did not publish them, from the study's folder.
    lacking : tuple of str
        Others that could not be had.
    cause : StudyError, optional
        Why the first of these could not.
    has_remote : bool
        Whether there is one to fetch from; imports have those of their own repositories.
    """

    files: int
    kept_back: tuple[str, ...]
    lacking: tuple[str, ...]
    cause: StudyError | None = None
    has_remote: bool = True


def pull_all(root: Path) -> Brought:
    """Run `dvc pull` of a study, which an output that was never pushed does not stop.

    Parameters
    ----------
    root : Path
        The study's folder; nothing of a repository around it is pulled.

    Raises
    ------
    StudyError
        If it is in no repository of DVC, a remote fails, or what is here and nowhere else would be replaced.
    """
    from dvc.logger import set_loggers_level
    from dvc.repo import Repo

    before = open_index(root)
    whole = before.prefix in ("", ".")
    # It warns of every hash that it does not find; below they are named as outputs.
    logging.getLogger("dvc_data.index.fetch").setLevel(logging.ERROR)
    try:
        # On a terminal DVC's own bars show how far it is, at this level.
        with set_loggers_level(logging.INFO), _bars_that_go(), _unmade_in_silence(), Repo(str(root)) as repo:
            done = repo.pull(None if whole else [str(root)], recursive=not whole, allow_missing=True)
    except Exception as error:  # every filesystem has its own classes for a lost connection
        raise StudyError(
            where=f"dvc pull in {root}",
            found=shown_address(" ".join(str(error).split()) or type(error).__name__),
            expected="what the study's remote has",
            do="check the remote (`dvc remote list`), or move away what is in the way",
        ) from error
    top = Path(os.path.abspath(root))
    absent = {
        path: output
        for output in before.outputs
        if (output.item or output.source) and (path := inside(output.path, before.prefix)) and not (top / path).exists()
    }
    for path in absent:
        _remove_empty(top / path, top)
    kept = tuple(path for path, output in absent.items() if output.kept)
    lacking = tuple(path for path in absent if path not in kept)
    cause = _cause(before, absent[lacking[0]], lacking) if lacking else None
    return Brought(done["stats"]["fetched"], kept, lacking, cause, has_remote=bool(before.config.get("remote")))


# Of an output that no stage has made yet: DVC has a line of it for each, and a new study has nothing else.
_UNMADE = "No file hash info found for "


@contextmanager
def _unmade_in_silence() -> Iterator[None]:
    """Leave out DVC's warnings of outputs that were never made; it says all others."""

    def is_told(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(_UNMADE)

    loggers = [logging.getLogger(f"dvc_data.{room}.checkout") for room in ("index", "hashfile")]
    for logger in loggers:
        logger.addFilter(is_told)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_told)


@contextmanager
def _bars_that_go() -> Iterator[None]:
    """Let DVC's bars take their lines with them: each leaves one, which is empty where it had nothing to do."""
    from dvc.progress import Tqdm

    close = Tqdm.close

    def gone(bar: Any) -> None:
        bar.leave = False
        close(bar)

    Tqdm.close = gone
    try:
        yield
    finally:
        Tqdm.close = close


def _cause(index: DvcIndex, output: Output, lacking: Sequence[str]) -> StudyError:
    """The error that reading the first of them raises: DVC does not tell a silent remote from one that lacks it."""
    where = some_of(lacking)
    try:
        if output.is_dir:
            index.folder(lacking[0])
        elif output.item is not None:
            index.objects(output).size(output.item, where)
    except StudyError as error:
        return StudyError(where=where, found=error.found, expected=error.expected, do=error.do)
    found = "files of it that are in no remote"
    do = "ask the owner of the study to `dvc push` it, or make it with `dvc repro`"
    return StudyError(where=where, found=found, expected="all that its revision lists", do=do)


def _remove_empty(path: Path, top: Path) -> None:
    """Remove folders that DVC made for an output which it did not get: it takes an empty folder for a changed one."""
    for folder in path.parents:
        if folder == top or not folder.is_dir() or any(folder.iterdir()):
            return
        folder.rmdir()
