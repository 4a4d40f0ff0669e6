"""Contents of films and scans: their digests, off git-annex where it knows them, and which files were not fetched."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cinecube.store.base.atomic import write_text
from cinecube.store.base.bounded import ANNEX_POINTER, refuse_special
from cinecube.store.base.errors import StudyError, some_of
from cinecube.store.base.fingerprint import file_digest
from cinecube.store.base.paths import StudyPaths

Told = Callable[[int], None]
# Keys whose name holds a digest of the contents: MD5E-s1234--0f3c….nii.gz, SHA256-s1234--….
_KEY = re.compile(
    r"(MD5|SHA1|SHA224|SHA256|SHA384|SHA512)E?(?:-s(\d+))?(?:-[a-zA-Z]\d+)*--([0-9a-f]{32,128})(?:\.[\w.]*)?"
)
_ANY_KEY = re.compile(r"[A-Z0-9_]+(?:-s(\d+))?(?:-[a-zA-Z]\d+)*--.+")
_LONGEST_POINTER = 32_768  # as git-annex itself reads
_BLOCK_BYTES = 2**22
# More are given to `datalad get` by a list.
_MOST_NAMED = 3


@dataclass(frozen=True)
class AnnexKey:
    """The key that git-annex gives the contents of a file.

    Attributes
    ----------
    digest : str or None
        `md5:…`, `sha256:…`; None where the key's name holds none.
    n_bytes : int
        0 where the key does not say.
    """

    digest: str | None
    n_bytes: int


def annex_key(path: Path) -> AnnexKey | None:
    """The git-annex key that a link or a pointer file names; None if it is neither. Reads no contents.

    Parameters
    ----------
    path : Path
        A link is followed to its end, whether something is there or not.
    """
    target = path.resolve()
    name = target.name if "annex" in target.parts and "objects" in target.parts else _pointed(target)
    if name is None:
        return None
    key, known = _KEY.fullmatch(name), _ANY_KEY.fullmatch(name)
    return AnnexKey(key and f"{key[1].lower()}:{key[3]}", int(known[1] or 0) if known else 0)


def _pointed(path: Path) -> str | None:
    """The key in a pointer file, which an unlocked file is until it is fetched."""
    with contextlib.suppress(OSError):
        if path.is_file() and path.stat().st_size <= _LONGEST_POINTER:
            with path.open("rb") as file:
                line = file.readline()
            if line.startswith(ANNEX_POINTER):
                return line.decode("utf-8", "replace").strip().rpartition("/")[2]
    return None


def is_here(path: Path) -> bool:
    """True if a file is no dangling link and no pointer, which stand for contents that are not on this disk."""
    return (path.exists() or not path.is_symlink()) and _pointed(path) is None


class Digests:
    """Digests of files, remembered in the study while size, time and inode of a file stay."""

    def __init__(self, root: Path) -> None:
        self._path = StudyPaths(root).digests
        self._known: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            loaded = json.loads(self._path.read_bytes())
            self._known = loaded if isinstance(loaded, dict) else {}
        self._changed = False

    def of(self, path: Path, told: Told | None = None) -> str:
        """Digest of a file's contents, `md5:…` or as git-annex names it; bytes are read only where neither knows it.

        Parameters
        ----------
        path : Path
        told : callable, optional
            Called with the number of bytes of each block that is read.

        Returns
        -------
        str

        Raises
        ------
        OSError
            If it cannot be read.
        """
        key = annex_key(path)
        if key and key.digest:
            return key.digest
        return self._remembered(path, str(path.resolve()), lambda: f"md5:{_md5(path, told)}")

    def sha256(self, path: Path) -> str:
        """SHA-256 of a file's bytes, as hex, as fingerprints hold it: a link's name is not trusted for it.

        Raises
        ------
        OSError
            If it cannot be read.
        """
        return self._remembered(path, f"sha256 {path.resolve()}", lambda: file_digest(path))

    def _remembered(self, path: Path, place: str, read: Callable[[], str]) -> str:
        file = path.stat()
        mark = [file.st_size, file.st_mtime_ns, file.st_ino]
        known = self._known.get(place)
        if isinstance(known, list) and known[:3] == mark and isinstance(known[-1], str):
            return known[-1]
        digest = read()
        self._known[place], self._changed = [*mark, digest], True
        return digest

    def unread_bytes(self, path: Path) -> int:
        """Bytes that `of` would read."""
        key = annex_key(path)
        file = path.stat() if not (key and key.digest) else None
        known = self._known.get(str(path.resolve())) if file else None
        return 0 if file is None or (known and known[:2] == [file.st_size, file.st_mtime_ns]) else file.st_size

    def keep(self) -> None:
        """Write what was learnt; a study in a folder that cannot be written does without."""
        if self._changed:
            with contextlib.suppress(OSError):
                write_text(self._path, json.dumps(self._known, sort_keys=True))


def _md5(path: Path, told: Told | None) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    refuse_special(path)
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            if told:
                told(len(block))
    return digest.hexdigest()


def refuse_unfetched(files: Iterable[Path], root: Path, what: str) -> None:
    """Refuse files that were not fetched, all of them in one line that fetches them.

    Where there are many, their paths are written to `.cinecube/unfetched.txt` of the study.

    Parameters
    ----------
    files : iterable of Path
        Links and pointers of git-annex among them.
    root : Path
        The study's folder.
    what : str
        What needs them, for the message.

    Raises
    ------
    StudyError
        If there are any.
    """
    missing = [path for path in dict.fromkeys(files) if not is_here(path)]
    if missing:
        raise unfetched(missing, root, what)


def unfetched(missing: list[Path], root: Path | None, what: str) -> StudyError:
    """The error on files that were not fetched.

    Parameters
    ----------
    missing : list of Path
        Not empty.
    root : Path or None
        The study's folder; None where there is no study yet.
    what : str
        What needs them.

    Returns
    -------
    StudyError
        It advises `datalad get` or the like where git-annex has the files.
    """
    keys = [annex_key(path) for path in missing]
    n_bytes = sum(key.n_bytes for key in keys if key)
    size = f" ({n_bytes / 1e9:.3g} GB)" if n_bytes >= 1e9 else f" ({n_bytes / 1e6:.2g} MB)" if n_bytes else ""
    count = "a file that was" if len(missing) == 1 else f"{len(missing)} files that were"
    return StudyError(
        where=what,
        found=f"{count} not fetched{size}: {some_of([path.name for path in missing], _MOST_NAMED)}",
        expected="the files themselves",
        do=f"run `{_get_line(missing, root)}`" if any(keys) else "fetch it" if len(missing) == 1 else "fetch them",
    )


def _get_line(missing: list[Path], root: Path | None) -> str:
    """A command for the shell, from the folder in which the user is, that fetches files of DataLad data sets."""
    paths = [os.path.relpath(path) for path in missing]
    if len(missing) <= _MOST_NAMED:
        return shlex.join(["datalad", "get", *paths])
    if root is None:
        folders = dict.fromkeys(os.path.relpath(path.parent) for path in missing)
        return shlex.join(["datalad", "get", *folders])
    listed = StudyPaths(root).unfetched
    try:
        write_text(listed, "".join(f"{path.absolute()}\n" for path in missing))
    except OSError:
        return shlex.join(["datalad", "get", *paths[:_MOST_NAMED]]) + " …"
    return f"xargs -d '\\n' datalad get < {shlex.quote(os.path.relpath(listed))}"
