"""Opening a repository of DVC at any revision, writing nothing to its working tree."""

from __future__ import annotations

import atexit
import functools
import gc
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cinecube.store.errors import StudyError
from cinecube.store.remotes import shown

_SCHEMES = ("http", "https", "ssh", "git", "git+ssh", "file")
# `ext::` and its like run a program; a word that begins with a minus is an option of git's or ssh's.
_PROGRAM = re.compile(r"::|(^|//|@)-|[^\x20-\x7e\x80-\U0010ffff]")


def check_address(url: str, rev: str | None) -> None:
    """Refuse what is no address of a Git repository, and a revision that is none.

    Raises
    ------
    StudyError
        Before anything is asked for it.
    """
    scheme, is_url, _ = url.partition("://")
    if not os.path.isdir(url) and (_PROGRAM.search(url) or (is_url and scheme not in _SCHEMES)):
        expected = f"a folder, user@host:path, or an address of {', '.join(_SCHEMES)}"
        raise StudyError(where=shown(url), found="no Git repository", expected=expected, do="correct the address")
    if rev is not None and (rev.startswith("-") or not rev.isprintable() or not rev.strip()):
        raise StudyError(
            where=shown(url), found=f"the revision {rev!r}", expected="a branch, tag or commit", do="correct --rev"
        )


def fetch_clone(url: str, rev: str | None) -> str:
    """A clone of a repository elsewhere in a temporary folder, which goes when this process ends."""
    from dvc.repo.open_repo import _cached_clone

    _clean_up_at_exit()
    path: str = _cached_clone(url, rev)
    return path


@contextmanager
def opened_repo(url: str, rev: str | None) -> Iterator[tuple[Any, str | None, str]]:
    """A repository of DVC in a folder, its local cache, and the path of `url` in it."""
    from dvc.config import Config
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    with tempfile.TemporaryDirectory() as scratch:
        try:
            if os.path.isfile(os.path.join(url, "HEAD")):  # a bare repository may lie inside a study's folder
                raise NotDvcRepoError(url)
            root = os.path.realpath(Repo.find_root(url))
        except NotDvcRepoError:
            with _at_revision(url, "", rev or "HEAD", scratch) as repo:
                yield repo, Config()["cache"].get("dir"), ""
            return
        prefix = Path(os.path.realpath(url)).relative_to(root).as_posix()
        work = Config(os.path.join(root, ".dvc"))
        cache = work["cache"].get("dir") or os.path.join(root, ".dvc", "cache")
        if rev is None:
            with _quiet_repo()(root, scratch=scratch) as repo:
                yield repo, cache, prefix
            return
        with _at_revision(root, root, rev, scratch) as repo:
            # Relative addresses, and passwords, are right in the working tree's configuration only.
            repo.config["remote"] = {**repo.config["remote"], **work["remote"]}
            repo.config["core"] = {**work["core"], **repo.config["core"]}
            yield repo, cache, prefix


@contextmanager
def uncollected() -> Iterator[None]:
    """Nothing looks for garbage meanwhile: that takes a quarter of DVC's imports and reading, and finds none."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            _count_as_old()
            gc.enable()


@functools.cache
def _count_as_old() -> None:
    """Spare the first collection afterwards the modules that were imported, which are there to stay.

    Once in a process: later readings leave garbage, and no modules.
    """
    if gc.get_freeze_count() == 0:  # or what somebody else froze would thaw
        gc.freeze()
        gc.unfreeze()


@contextmanager
def _at_revision(url: str, root: str, rev: str, scratch: str) -> Iterator[Any]:
    from dvc.fs import GitFileSystem
    from dvc.scm import SCM

    scm = SCM(url)
    inside = Path(root).relative_to(os.path.realpath(scm.root_dir)).as_posix() if root else "."
    top = "/" if inside == "." else f"/{inside}"
    config = {"cache": {"dir": scratch}}  # a bare repository has no folder for one
    fs = GitFileSystem(scm=scm, rev=rev)
    with _quiet_repo()(top, scratch=scratch, fs=fs, scm=scm, config=config) as repo:
        yield repo


@functools.cache
def _quiet_repo() -> type:
    """DVC's repository, made so that opening it leaves no temporary folder, database or ignore file behind."""
    from dvc.repo import Repo

    class QuietRepo(Repo):
        def __init__(self, *args: Any, scratch: str, **kwargs: Any) -> None:
            self.scratch = scratch
            super().__init__(*args, **kwargs)

        @property
        def tmp_dir(self) -> str:
            return self.scratch

        @property
        def site_cache_dir(self) -> str:
            return self.scratch

        def _ignore(self) -> None:
            _count_as_old()

    return QuietRepo


@functools.cache
def _clean_up_at_exit() -> None:
    """DVC's commands remove its temporary clones at their end; whoever uses it as a library has to."""
    from dvc.repo.open_repo import clean_repos

    atexit.register(clean_repos)
