"""Checks of other people's repositories: no path, hash or option may be more than it looks."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from cinecube.store.base.errors import StudyError
from cinecube.store.dvc.remotes import shown_address

_OID = re.compile(r"[0-9a-f]{32}(\.dir)?")
_MAX_PATH = 1000
_PROGRAMS = ("bearer_token_command", "ask_password", "ask_passphrase")
_FILES = ("configpath", "credentialpath")  # AWS reads a `credential_process` there, and runs it


def unreadable(error: Exception, url: str, rev: str | None) -> StudyError:
    """The error of a repository that Git or DVC cannot read.

    Parameters
    ----------
    error : exception
        What Git or DVC raised.
    url : str
        As it was asked for.
    rev : str, optional

    Returns
    -------
    StudyError
    """
    cause: BaseException = error
    if str(error) == "SCM error":  # DVC's words for whatever Git says; the reason is what all of it comes from
        while cause.__cause__ is not None:
            cause = cause.__cause__
    return StudyError(
        where=shown_address(url) + (f" at {rev}" if rev else ""),
        found=f"nothing that can be read ({shown_address((str(cause) or type(cause).__name__).splitlines()[0])})",
        expected="a Git repository with DVC in it, and a revision that it has",
        do="correct the address or the revision",
    )


def refuse_programs(options: Mapping[str, Any], where: str, *, files: bool = True) -> None:
    """Refuse options of a remote that somebody else's repository must not choose.

    They name programs, or files that may name programs, or make DVC ask for a password.

    Parameters
    ----------
    options : mapping
    where : str
    files : bool
        Whether files are refused too.

    Raises
    ------
    StudyError
        Naming the option.
    """
    for name in (*_PROGRAMS, *(_FILES if files else ())):
        if options.get(name):
            raise StudyError(
                where=where,
                found=f"the option {name} in what is committed",
                expected="options that run no program and ask nothing",
                do="ask its owner to keep it in .dvc/config.local; in a clone of yours move it there if you trust it",
            )


def check_path(path: str) -> str:
    """A path that leads to nothing outside its folder; it comes from a file of someone else.

    Raises
    ------
    ValueError
        If it is absolute, too long, or has other parts than names.
    """
    strange = path.startswith("/") or any(part in ("", ".", "..") for part in path.split("/"))
    if strange or "\0" in path or "\\" in path or len(path) > _MAX_PATH:
        raise ValueError(f"{path[:100]!r}, which is no path in a folder")
    return path


def check_oid(oid: str, path: str) -> str:
    """A hash that is one: it becomes a path, and comes from a file of someone else.

    Parameters
    ----------
    oid : str
    path : str
        The file that has it, for the message.

    Returns
    -------
    str
        The same.

    Raises
    ------
    ValueError
        If it is no MD5.
    """
    if not _OID.fullmatch(oid):
        raise ValueError(f"{path} has the hash {oid[:100]!r}, which is no MD5")
    return oid


def refuse_nested(files: Collection[str], n_entries: int) -> None:
    """Refuse a list that names a file twice, or a file as a folder: which one is there would be chance.

    Parameters
    ----------
    files : collection of str
        Paths of a list, each once.
    n_entries : int
        Entries of the list.

    Raises
    ------
    ValueError
        If it does.
    """
    if len(files) < n_entries:
        raise ValueError(f"{n_entries - len(files)} files twice")
    folders = {path[:at] for path in files for at, sign in enumerate(path) if sign == "/"}
    if both := folders & set(files):
        raise ValueError(f"{min(both)!r} as a file and as a folder")
