"""Opening a repository of DVC at any revision, writing nothing to its working tree."""

from __future__ import annotations

import atexit
import functools
import gc
import logging
import os
import posixpath
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cinecube.store.base.errors import StudyError, some_of
from cinecube.store.base.paths import PARAMS_FILE
from cinecube.store.dvc.remotes import shown_address

# The tip of what a clone was made of, whatever branch it stands on.
_TIP = "refs/remotes/origin/HEAD"
_CONFIG = ".dvc/config"
_SCHEMES = ("http", "https", "ssh", "git", "git+ssh", "file")
# `ext::` and its like run a program; a word that begins with a minus is an option of git's or ssh's.
_HOST = re.compile(r"[\w.-]+@[\w.-]+:")  # git@host:path
_PROGRAM = re.compile(r"::|(^|//|@)-|[^\x20-\x7e\x80-\U0010ffff]")


def check_address(url: str, rev: str | None) -> None:
    """Refuse what is no address of a Git repository, and a revision that is none.

    Parameters
    ----------
    url : str
        A folder, or an address that Git knows.
    rev : str, optional

    Raises
    ------
    StudyError
        Before anything is asked for it.
    """
    scheme, is_url, _ = url.partition("://")
    if not os.path.isdir(url) and (_PROGRAM.search(url) or (is_url and scheme not in _SCHEMES)):
        expected = f"a folder, user@host:path, or an address of {', '.join(_SCHEMES)}"
        raise StudyError(
            where=shown_address(url), found="no Git repository", expected=expected, do="correct the address"
        )
    if rev is not None and (str(rev) != rev or rev.startswith("-") or not rev.isprintable() or not rev.strip()):
        raise StudyError(
            where=shown_address(url),
            found=f"the revision {rev!r}",
            expected="a branch, tag or commit",
            do="correct `rev=`",
        )


def fetch_clone(url: str, rev: str | None) -> str:
    """A clone of a repository elsewhere in a temporary folder, which goes when this process ends.

    Parameters
    ----------
    url : str
        An address that Git knows.
    rev : str, optional
        A branch, tag or commit; the default branch without it.

    Returns
    -------
    str
        The clone's folder.
    """
    from dvc.repo.open_repo import _cached_clone

    _clean_up_at_exit()
    path: str = _cached_clone(url, rev)
    return path


def split_address(address: str) -> tuple[str, str]:
    """A repository and a folder in it: `REPO#FOLDER`, where no folder of this machine has that name."""
    if "#" not in address or os.path.isdir(address):
        return address, ""
    repo, _, folder = address.rpartition("#")
    folder = posixpath.normpath(posixpath.join("/", folder)).lstrip("/")
    below = os.path.join(repo, folder)
    if os.path.isdir(below) and not is_bare(repo):
        return below, ""
    return repo, folder


def is_bare(folder: str) -> bool:
    """True if a folder is a Git repository without a working tree."""
    return os.path.isfile(os.path.join(folder, "HEAD"))


def is_repository(place: str | os.PathLike[str]) -> bool:
    """True if a name is a Git repository without a working tree: a URL, `host:path`, a bare one, any with `#FOLDER`."""
    text, folder = split_address(os.fspath(place))
    if os.path.isdir(text):
        return bool(folder) or (is_bare(text) and not os.path.exists(os.path.join(text, PARAMS_FILE)))
    return "://" in text or bool(_HOST.match(text))


def is_below(root: Path, folder: str) -> bool:
    """True if a folder, or one above it, holds `.git` or `.dvc`.

    Parameters
    ----------
    root : Path
    folder : str
        `.git` or `.dvc`.

    Returns
    -------
    bool
    """
    return any((place / folder).exists() for place in (root.resolve(), *root.resolve().parents))


@dataclass(frozen=True)
class Opened:
    """A repository of DVC.

    Attributes
    ----------
    repo : Repo
        Of DVC.
    cache : str, optional
        Its local cache.
    prefix : str
        Path in it of the folder that was asked for.
    top : str
        Path of it in the Git repository, where that is known to matter.
    rev : str, optional
        The revision that was opened.
    work : str, optional
        Where it is in a working tree of Git, if it has one of its author's; its configuration there counts too.
    """

    repo: Any
    cache: str | None
    prefix: str = ""
    top: str = ""
    rev: str | None = None
    work: str | None = None


@contextmanager
def opened_repo(url: str, rev: str | None, folder: str = "", *, is_clone: bool = False) -> Iterator[Opened]:
    """A repository of DVC at the top of a folder's Git repository, or below.

    Parameters
    ----------
    url : str
        A folder.
    rev : str, optional
    folder : str
        Where in the repository to look; by default at its top, or where else DVC is, if that is a single place.
    is_clone : bool
        Whether it is a clone of a repository elsewhere, whose cache is nobody's.

    Yields
    ------
    Opened

    Raises
    ------
    StudyError
        If there is no such revision, or DVC is in none or several of its folders.
    """
    with tempfile.TemporaryDirectory() as scratch:
        root = None if folder or is_bare(url) else _root_of(url)
        if root is None:
            with _searched(url, rev, folder, scratch, is_clone=is_clone) as opened:
                yield opened
            return
        prefix = Path(os.path.realpath(url)).relative_to(root).as_posix()
        cache, work = _cache_of(root, is_clone=is_clone), None if is_clone else root
        if rev is None and not is_clone:
            with _quiet_repo()(root, scratch=scratch) as repo:
                yield Opened(repo, cache, prefix, work=work)
            return
        scm = _scm(root)
        top = Path(root).relative_to(os.path.realpath(scm.root_dir)).as_posix()
        with _at_revision(scm, top, rev, scratch, is_clone=is_clone) as (repo, known):
            _take_work_config(repo, root)
            yield Opened(repo, cache, prefix, "" if top == "." else top, known, work)


def _root_of(url: str) -> str | None:
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    try:
        return os.path.realpath(Repo.find_root(url))
    except NotDvcRepoError:
        return None


def _cache_of(root: str, *, is_clone: bool) -> str | None:
    from dvc.config import Config

    named: str | None = Config(os.path.join(root, ".dvc"))["cache"].get("dir")
    return named or (None if is_clone else os.path.join(root, ".dvc", "cache"))


def _take_work_config(repo: Any, root: str) -> None:
    """Relative addresses, and passwords, are right in the working tree's configuration only."""
    from dvc.config import Config

    work = Config(os.path.join(root, ".dvc"))
    repo.config["remote"] = {**repo.config["remote"], **work["remote"]}
    repo.config["core"] = {**work["core"], **repo.config["core"]}


@contextmanager
def _searched(url: str, rev: str | None, folder: str, scratch: str, *, is_clone: bool) -> Iterator[Opened]:
    """A repository of DVC that is looked for in a Git repository's tree."""
    from dvc.config import Config

    scm = _scm(url)
    top, prefix = _place_of(scm, _resolved(scm, rev, is_clone=is_clone), folder)
    with _at_revision(scm, top, rev, scratch, is_clone=is_clone) as (repo, known):
        work = os.path.join(os.path.realpath(scm.root_dir), top)
        if is_bare(url) or not os.path.isdir(os.path.join(work, ".dvc")):
            cache = Config()["cache"].get("dir")
        else:
            _take_work_config(repo, work)
            cache = _cache_of(work, is_clone=is_clone)
        yield Opened(repo, cache, prefix, top, known, None if is_clone or is_bare(url) else work)


def _scm(url: str) -> Any:
    from dvc.scm import SCM

    return SCM(url)


def _resolved(scm: Any, rev: str | None, *, is_clone: bool) -> str:
    """A revision that there is: the one asked for, or the tip of the default branch, or of the only one."""
    from dvc.scm import RevError, resolve_rev

    try:
        resolve_rev(scm, rev or (_TIP if is_clone else "HEAD"))
    except RevError:
        base = "refs/remotes/origin/" if is_clone else "refs/heads/"
        branches = sorted(name for ref in scm.iter_refs(base) if (name := ref.removeprefix(base)) != "HEAD")
        if rev is None and len(branches) == 1:
            return branches[0]
        tags = sorted(ref.removeprefix("refs/tags/") for ref in scm.iter_refs("refs/tags/"))
        # Of many tags the newest are of use.
        named = {"branches": branches, "tags": tags[::-1]}
        # A repository with files is of whoever asks: nobody pushes to it.
        own = not is_clone and os.path.exists(os.path.join(scm.root_dir, ".git"))
        known = "; ".join(f"{noun} {some_of(names, 5)}" for noun, names in named.items() if names)
        raise StudyError(
            where="the repository",
            found=f"no branch, tag or commit {rev!r}" if rev else "no default branch",
            expected=f"one of its {known}" if known else "one commit at least, and it has none",
            do="name one that it has"
            if known
            else "commit what is there with Git first"
            if own
            else "ask its owner to push it, or correct the address",
        ) from None
    return rev or (_TIP if is_clone else "HEAD")


def _place_of(scm: Any, rev: str, folder: str) -> tuple[str, str]:
    """The folder of a Git tree that DVC is in, and the path of what was asked for in that."""
    from dvc.fs import GitFileSystem

    fs = GitFileSystem(scm=scm, rev=rev)
    found = (str(path).strip("/") for path in fs.find("/"))
    places = sorted(path[: -len(_CONFIG)].rstrip("/") for path in found if f"/{path}".endswith(f"/{_CONFIG}"))
    if folder:
        above = [place for place in places if f"{folder}/".startswith(f"{place}/") or not place]
        if above and fs.isdir(f"/{folder}"):
            place = max(above, key=len)
            return place, posixpath.relpath(folder, place or ".")
        raise _no_folder(folder, places)
    if not places or (len(places) > 1 and "" not in places):
        found_ = f"studies of DVC in {some_of(places, 5)}" if places else "a Git repository without DVC"
        raise _no_place(found_, "one study" if places else "one with a folder .dvc, at its top or below")
    return ("" if "" in places else places[0]), ""


def _no_folder(folder: str, places: Sequence[str]) -> StudyError:
    below = [place for place in places if place]
    found = f"no folder {folder!r} that DVC knows"
    if places and not below:
        expected, do = "no folder: the study is at the top", f"leave out `#{folder}`"
        return StudyError(where="the repository", found=found, expected=expected, do=do)
    top = " or the top, which has no name" if "" in places else ""
    return _no_place(found, f"one of {some_of(below, 5)}{top}" if places else "one")


def _no_place(found: str, expected: str) -> StudyError:
    several = found.startswith("studies")
    do = "name one of them, as in `REPO#FOLDER`" if several else "correct the address, or ask its owner for another"
    return StudyError(where="the repository", found=found, expected=expected, do=do)


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


# DVC and its data library ask these whether a bar is to be drawn.
_BARS = ("dvc.progress", "dvc_data.callbacks")


@contextmanager
def without_bars() -> Iterator[None]:
    """DVC draws no bars on a terminal meanwhile, and says what else it has to say."""
    levels = {name: logging.getLogger(name).level for name in _BARS}
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@functools.cache
def _count_as_old() -> None:
    """Spare the first collection afterwards the modules that were imported, which are there to stay.

    Once in a process: later readings leave garbage, and no modules.
    """
    if gc.get_freeze_count() == 0:  # or what somebody else froze would thaw
        gc.freeze()
        gc.unfreeze()


@contextmanager
def _at_revision(scm: Any, top: str, rev: str | None, scratch: str, *, is_clone: bool) -> Iterator[tuple[Any, str]]:
    from dvc.fs import GitFileSystem

    known = _resolved(scm, rev, is_clone=is_clone)
    config = {"cache": {"dir": scratch}}  # a bare repository has no folder for one
    fs = GitFileSystem(scm=scm, rev=known)
    place = "/" if top in ("", ".") else f"/{top}"
    with _quiet_repo()(place, scratch=scratch, fs=fs, scm=scm, config=config) as repo:
        yield repo, known


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
