"""Address of a study for others: its Git repository and the revision that holds its cubes."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import StudyPaths
from cinecube.store.dvc.dvc_index import open_index
from cinecube.store.dvc.dvc_repo import check_address
from cinecube.store.open.revision import cubes_of

# What decides which cubes a revision holds; a page about them may come later.
_STORE = (":(glob)**/dvc.lock", ":(glob)**/dvc.yaml", ":(glob)**/*.dvc", "params.yaml")
_TIMEOUT_S = 30


@dataclass(frozen=True)
class Origin:
    """Address and revision of a study.

    Attributes
    ----------
    url : str or None
        Of its remote `origin`, without users and passwords.
    rev : str or None
        The first tag that holds the cubes as they are recorded here, or the commit that recorded them.
    uncommitted : bool
        Whether files that decide on the cubes differ from that revision, so that it holds others.
    """

    url: str | None
    rev: str | None
    uncommitted: bool


def find_origin(root: Path) -> Origin:
    """Find the origin of a study's folder in Git; empty if it is in no repository."""
    commit = _git(root, "log", "-1", "--format=%H", "--", *_STORE)
    url = _git(root, "remote", "get-url", "origin")
    tags = _git(root, "tag", "--contains", commit, "--merged", "HEAD", "--sort=version:refname") if commit else None
    changed = _git(root, "status", "--porcelain", "--untracked-files=all", "--", *_STORE)
    return Origin(public_url(url) if url else None, tags.splitlines()[0] if tags else commit, bool(changed))


def knows(root: Path, rev: str) -> bool:
    """True if the study's repository has a revision, or the study is in none.

    Parameters
    ----------
    root : Path
        The study's folder.
    rev : str
        A branch, tag or commit.

    Returns
    -------
    bool
    """
    return (
        _git(root, "rev-parse", "HEAD") is None or _git(root, "rev-parse", "--verify", f"{rev}^{{commit}}") is not None
    )


def public_url(url: str) -> str:
    """An address without users, passwords and tokens; `git@` alone is no secret and stays."""
    if "://" not in url:
        # As in `user@host:path`; a path that holds an @ has a / before it.
        return re.sub(r"^(?!git@)[^/@]+@(?=[^/]*:)", "", url)
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit((parts.scheme, f"git@{host}" if user == "git" else host, parts.path, "", ""))


def refuse_odd_url(url: str) -> None:
    """Refuse what others could not give to Git as the address of a study.

    Raises
    ------
    StudyError
        Naming what an address looks like.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # [ without ]
        raise _odd(url) from None
    if "://" in url:
        is_address = bool(parts.hostname) or (parts.scheme == "file" and parts.path.startswith("/"))
    else:
        is_address = url.startswith("/") or bool(re.match(r"[^/]+:.", url))
    if not is_address or re.search(r"\s", url):
        raise _odd(url)
    check_address(url, None)


def _odd(url: str) -> StudyError:
    return StudyError(
        where="`url=`",
        found=repr(url) if url else "nothing",
        expected="an address for Git",
        do="give one as https://HOST/PATH, git@HOST:PATH or /FOLDER, or leave `url=` out",
    )


def unrecorded(root: Path) -> list[str]:
    """A line for each folder of feature cubes that DVC does not track: others cannot have them."""
    try:
        recorded = {root / cube.path for cube in cubes_of(open_index(root))}
    except StudyError:
        return []  # no study of DVC's, so nothing of it can be had
    cubes = sorted((StudyPaths(root).data / "features").glob("*/*.zarr"))
    folders = dict.fromkeys(cube.parent for cube in cubes if cube not in recorded)
    place = (folder.relative_to(root).as_posix() for folder in folders)
    return [f"DVC does not track {name}, so others cannot have it: run `dvc add {name}/*.zarr`" for name in place]


def is_local(url: str) -> bool:
    """True if an address leads to a folder of this machine: `git@host:path` does not."""
    return url.startswith("file:") or ("://" not in url and not re.match(r"[^/]+:", url))


def _git(root: Path, *words: str) -> str | None:
    """Output of a Git command; None if it is empty or the command fails."""
    try:
        done = subprocess.run(
            ["git", *words],
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_S,
            env={**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return (done.stdout.strip() or None) if done.returncode == 0 else None
