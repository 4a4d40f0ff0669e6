"""The one kind of error a user is meant to see."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path

_HERE = "this machine"
_FULL_BYTES = 2**20


class StudyError(Exception):
    """An expected failure: what was found, what was expected, where, and what to do.

    Commands print it as one line and exit with code 1; anything else is a bug and keeps its traceback in a log.

    Parameters
    ----------
    where : str
        The file, cube, segment, subject or key that the failure is about.
    found, expected : str
        Both sides of the disagreement, with their units.
    do : str
        What the reader can do about it. An argument that the reader gave, or lacks, is written as `name=` or
        `name=value` between backticks, here as in the other parts: commands put their option in its place.
    """

    def __init__(self, *, where: str, found: str, expected: str, do: str) -> None:
        self.where, self.found, self.expected, self.do = where, found, expected, do
        line = f"{where}: found {found}, expected {expected}; {do}"
        super().__init__(printable(" ".join(line.split())))

    def __reduce__(self) -> tuple[object, ...]:
        """Survive the trip from a Dask worker, whose default copy would call us without keywords."""
        return (_rebuild, (self.where, self.found, self.expected, self.do))


def printable(text: str) -> str:
    """A line without characters that move a terminal's cursor or turn its letters round; foreign names may hold any."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def first_line(error: BaseException) -> str:
    """First line of an exception's message; its class if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def some_of(names: Sequence[str], most: int = 1, between: str = ", ") -> str:
    """The first of some names, and how many more there are: `embed and 4 more`.

    Parameters
    ----------
    names : sequence of str
    most : int
        Names that are written out.
    between : str
        Put between them.

    Returns
    -------
    str
    """
    more = len(names) - most
    return between.join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _rebuild(where: str, found: str, expected: str, do: str) -> StudyError:
    return StudyError(where=where, found=found, expected=expected, do=do)


class Refusal(StudyError):
    """An error for what the machine refuses. `where` is the file: callers with names of their own keep it."""


def environment_error(error: BaseException, where: str = "") -> Refusal | None:
    """Error for what the machine refused: a full disk, no permission, too many open files, no memory. None for others.

    Code that reports a failure to read or write in its own words calls this first, or it would call a full disk damaged
    bytes: `raise environment_error(error, where) or StudyError(…) from error`.

    Parameters
    ----------
    error : exception
        Its causes are searched too: libraries wrap what the system said.
    where : str, optional
        What was read or written, for errors that name no file.

    Returns
    -------
    Refusal or None
    """
    for cause in _causes(error):
        if isinstance(cause, StudyError):
            return None  # said already, by code that knew more
        number = _number(cause)
        if number == errno.ENOMEM or _is_of_memory(cause):
            return _no_memory(cause, where)
        if number in _DENIED:
            return _denied(_named(cause), where)
        if number in _REFUSALS:
            return _refused(number, _named(cause), where)
        if isinstance(cause, BrokenExecutor):
            return _lost_worker(where)
        for said, (found, expected, do) in _SAID.items():
            if said in str(cause):
                return Refusal(where=where or _HERE, found=found, expected=expected, do=do)
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what led to it, as a traceback would show them."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _is_of_memory(error: BaseException) -> bool:
    # Torch raises RuntimeErrors, with a class of its own where a GPU is full.
    of_torch = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or of_torch


# Messages of errors that are no OSError: those of Rust's libraries, and those that quote an OSError.
_IN_WORDS = re.compile(r"\[Errno (\d+)\]|\(os error (\d+)\)")
_SQLITE = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_READONLY: errno.EROFS}
_DENIED = (errno.EACCES, errno.EPERM)


def _number(error: BaseException) -> int | None:
    """The system's number of an error."""
    if isinstance(error, sqlite3.Error):
        # The low byte of an extended code is its kind.
        return _SQLITE.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    match = _IN_WORDS.search(str(error))
    return int(match[1] or match[2]) if match else None


def _named(error: BaseException) -> str:
    """The file that an error is about, where it names one; of two the one that was to be made."""
    if not isinstance(error, OSError):
        return ""
    name = error.filename if error.filename2 is None else error.filename2
    return os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else ""


_REFUSALS: dict[int, tuple[str, str, str]] = {
    errno.ENOSPC: (
        "no room left on the disk",
        "room to write",
        "free some (`cinecube clean` lists what can go), and run the same command again",
    ),
    errno.EDQUOT: (
        "a quota of the disk that is used up",
        "room to write",
        "free some (`cinecube clean` lists what can go) or ask for more, and run the same command again",
    ),
    errno.EFBIG: (
        "a file that grew past what the disk, or `ulimit -f`, allows",
        "room for the whole file",
        "raise the limit, or move the study to another disk",
    ),
    errno.EROFS: (
        "a disk that can only be read",
        "one that can be written to",
        "mount it writable, or work on a copy of the study elsewhere",
    ),
    errno.EMFILE: (
        "too many open files",
        "at most {limit} at once, which `ulimit -n` allows",
        "raise it, as in `ulimit -n 65536`, and run the same command again",
    ),
    errno.ENFILE: (
        "too many open files on the whole machine",
        "fewer than the system allows",
        "close other programs, or ask its administrator, and run the same command again",
    ),
    errno.ENAMETOOLONG: (
        "a name longer than the disk allows",
        "at most 255 bytes a name",
        "shorten it, or move the study nearer to the top of the disk",
    ),
    errno.EIO: (
        "a disk that does not answer (input/output error)",
        "one that reads and writes",
        "look for its faults with `dmesg`, and copy the study to another one",
    ),
    errno.ESTALE: (
        "a network disk that has lost the file",
        "one that is connected",
        "mount it again, and run the same command again",
    ),
    errno.ENOTDIR: ("a file where a folder belongs", "a folder on the way there", "move the file away"),
    errno.EISDIR: ("a folder", "a file", "move the folder away, or correct the path"),
    errno.ELOOP: ("links that lead in a circle", "a file", "correct the link"),
    errno.ETXTBSY: ("a file that another program runs", "one that nobody uses", "stop the program"),
}
"""What the system refuses: found, expected, do."""


_SAID = {
    "No usable temporary directory": (
        "no folder for temporary files that can be written to",
        "room, and the right to write, in one of TMPDIR, /tmp, /var/tmp",
        "free some room there, or name another folder in TMPDIR",
    ),
    "can't start new thread": (
        "no more threads for this user",
        "one more",
        "close other programs or raise `ulimit -u`, and run the same command again",
    ),
}
"""The same for what has no number, by what it says."""


def _refused(number: int, named: str, where: str) -> Refusal:
    found, expected, do = _REFUSALS[number]
    place = named or where
    if number in (errno.ENOSPC, errno.EDQUOT) and not named and _is_full(temp := _temp_folder()):
        place = f"{where}: {temp}" if where else temp
        do = f"{do}; TMPDIR names another folder for temporary files"
    return Refusal(
        where=place or _HERE,
        found=found,
        expected=expected.format(limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        do=do,
    )


def _temp_folder() -> str:
    return tempfile.tempdir or os.environ.get("TMPDIR") or "/tmp"


def _is_full(folder: str) -> bool:
    try:
        return shutil.disk_usage(folder).free < _FULL_BYTES
    except OSError:
        return False


def _denied(named: str, where: str) -> Refusal:
    found, expected = _right_that_lacks(Path(named)) if named else ("no permission", "the right to read and write")
    return Refusal(
        where=named or where or _HERE,
        found=found,
        expected=expected,
        do="ask its owner, change it with `chmod` or `chown`, or work on a copy of your own",
    )


def _right_that_lacks(path: Path) -> tuple[str, str]:
    """Found and expected, in words, for a path that the system refuses."""
    if os.path.lexists(path):
        if not os.access(path, os.R_OK):
            return "no permission to read it", "the right to"
        return "no permission to change it", "the right to"
    parent = next((folder for folder in path.parents if os.path.lexists(folder)), path)
    if not os.access(parent, os.X_OK):
        return f"no permission to look into {parent}", "the right to"
    return f"no permission to write in {parent}", "the right to"


def _no_memory(error: BaseException, where: str) -> Refusal:
    said = " ".join(str(error).split())
    asked = re.search(r"allocate ([\d.]+ ?(?:[KMGTP]i?B|bytes))", said)
    return Refusal(
        where=where or "this machine",
        found=f"not enough memory for {asked[1]} more" if asked else "not enough memory",
        expected="what the stage needs, which `cinecube plan` shows",
        do="close other programs, or set run.batch and encode.targets_per_block lower, and run the same command again",
    )


def _lost_worker(where: str) -> Refusal:
    return Refusal(
        where=where or _HERE,
        found="a worker process that was killed",
        expected="workers that live until the end; most often the machine had no more memory",
        do="close other programs, and run the same command again",
    )
