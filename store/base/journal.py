"""The journal: blocks of an unfinished extraction, kept until the whole cube can be published.

A block is a `.npy` file with one more line at its end, its seal: the block's name and place, the fingerprint of what it
belongs to, and the digest of all bytes before it. Disks lose bits and people move files; a block whose seal does not
fit is no block.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from filelock import FileLock, Timeout

from cinecube.store.base.atomic import remove, staged, write_text
from cinecube.store.base.errors import StudyError
from cinecube.store.base.fingerprint import canonical, fingerprint
from cinecube.store.base.writing import kept_array

_Piece = TypeVar("_Piece", bound=Hashable)
_log = logging.getLogger(__name__)
_READ_BYTES = 1 << 20
_NO_DIGEST, _ANY_DIGEST = "0" * 64, re.compile(rb"[0-9a-f]{64}(?=\",\"spec\")")
_SPAN = re.compile(r"\.(\d{7,})-(\d{7,})\.npy")


@dataclass(frozen=True)
class Block:
    """Consecutive rows of one segment: the contents of one journal file."""

    segment: str
    start: int
    stop: int

    @property
    def filename(self) -> str:
        return f"{self.segment}.{self.start:07d}-{self.stop:07d}.npy"


def row_blocks(rows_by_segment: Mapping[str, int], block_rows: int) -> list[Block]:
    """Cut segments into blocks of at most `block_rows` rows; no block crosses a border.

    Parameters
    ----------
    rows_by_segment : Mapping
        Segment -> number of its rows.
    block_rows : int

    Returns
    -------
    list of Block
        Segment after segment.
    """
    return [
        Block(segment, start, min(start + block_rows, n_rows))
        for segment, n_rows in rows_by_segment.items()
        for start in range(0, n_rows, block_rows)
    ]


class Journal:
    """Finished blocks of one cube, under its fingerprint. Made by `open_journal`.

    Parameters
    ----------
    folder : Path
        Named after the fingerprint.
    whole : iterable of str
        Files in it whose seals fit.
    """

    def __init__(self, folder: Path, whole: Iterable[str] = ()) -> None:
        self.folder = folder
        self._whole = set(whole)

    @classmethod
    def of_folder(cls, folder: Path, blocks: Iterable[Block]) -> Journal:
        """The journal of a folder that another process has opened, with those of `blocks` that are whole by now.

        Parameters
        ----------
        folder : Path
        blocks : iterable of Block

        Returns
        -------
        Journal
        """
        return cls(folder, [block.filename for block in blocks if _is_whole(folder / block.filename)])

    def has(self, block: Block) -> bool:
        """True if a block is finished, and was whole when the journal was opened."""
        return block.filename in self._whole

    def write(self, block: Block, values: np.ndarray) -> None:
        """Keep a finished block, `values` of shape (time, dim, model, layer).

        Parameters
        ----------
        block : Block
        values : ndarray (time, dim, model, layer)
        """
        path = self.folder / block.filename
        # Under a name of its own: a worker that lost its scheduler may still write a block that another was given.
        with staged(path) as partial, partial.open("w+b") as file:
            np.save(file, values, allow_pickle=False)
            digest = _digest(file, file.tell())
            file.write(_seal(path, digest))
            file.flush()
            os.fsync(file.fileno())
        self._whole.add(block.filename)

    def read(self, block: Block) -> np.ndarray:
        """A finished block (time, dim, model, layer), mapped rather than loaded."""
        return kept_array(self.folder / block.filename)

    def rows_done(self, blocks: list[Block]) -> int:
        """Number of rows of `blocks` that are finished."""
        return sum(block.stop - block.start for block in blocks if self.has(block))

    def remove(self) -> None:
        """Forget the journal: its cube is published."""
        shutil.rmtree(self.folder)


def resumed(
    pieces: Sequence[_Piece],
    file_of: Callable[[_Piece], Block],
    kept: Journal | None,
    compute: Callable[[Sequence[_Piece]], Iterable[tuple[_Piece, np.ndarray]]],
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[_Piece, np.ndarray]]:
    """Values of every piece of work: those that a journal kept, then the others, which it keeps as they are finished.

    Parameters
    ----------
    pieces : sequence
        Hashable.
    file_of : callable
        Place in the journal of a piece.
    kept : Journal, optional
    compute : callable
        Given the pieces that are left, each with its values, in any order; not called where none is left.
    progress : callable, optional
        Told `(pieces done, pieces in all)`.

    Yields
    ------
    piece : object
    values : ndarray
    """
    there = {piece for piece in pieces if kept is not None and kept.has(file_of(piece))}
    for piece in there:
        assert kept is not None
        yield piece, kept.read(file_of(piece))
    todo, done = [piece for piece in pieces if piece not in there], len(there)
    if progress:
        progress(done, len(pieces))
    for piece, values in compute(todo) if todo else ():
        yield piece, values
        if kept is not None:
            kept.write(file_of(piece), values)
        done += 1
        if progress:
            progress(done, len(pieces))


def _seal(path: Path, digest: str) -> bytes:
    """The last line of a block's file."""
    return f"{canonical({'block': path.name, 'sha256': digest, 'spec': path.parent.name})}\n".encode()


def _digest(file: BinaryIO, n_bytes: int) -> str:
    """SHA-256 of the first bytes of a file, which is left behind them."""
    digest = hashlib.sha256()
    file.seek(0)
    while n_bytes and (data := file.read(min(n_bytes, _READ_BYTES))):
        digest.update(data)
        n_bytes -= len(data)
    return digest.hexdigest()


def _is_whole(path: Path) -> bool:
    """True if a file is the block that its name and folder say, to the last bit."""
    if path.is_symlink() or not path.is_file():
        return False
    seal_bytes = len(_seal(path, _NO_DIGEST))
    with path.open("rb") as file:
        n_bytes = max(0, path.stat().st_size - seal_bytes)
        digest = _digest(file, n_bytes)
        return file.read() == _seal(path, digest)


@contextmanager
def open_journal(root: Path, spec: Mapping[str, Any], where: str) -> Iterator[Journal]:
    """Open the journal of the cube that `spec` describes and hold its lock.

    Blocks that are damaged, at another's place or without a seal, as earlier versions kept them, are dropped and
    logged: they are computed again.

    Parameters
    ----------
    root : Path
        Folder of all journals.
    spec : Mapping
        What the cube's fingerprint hashes.
    where : str
        The cube, for messages.

    Yields
    ------
    Journal
        With the blocks that are whole.

    Raises
    ------
    StudyError
        If another process writes this cube. Killing `dvc` leaves its child running.
    """
    folder = journal_folder(root, spec)
    folder.mkdir(parents=True, exist_ok=True)
    # Beside the folder: it must outlive the folder, or a waiting writer would lock a deleted file.
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StudyError(
            where=where,
            found="another process extracting it",
            expected="one writer a cube",
            do="wait for it, or stop it (killing dvc leaves its child running)",
        ) from None
    try:
        write_text(folder / "spec.json", json.dumps(spec, sort_keys=True, indent=1))
        yield Journal(folder, _keep_whole(folder, where))
    finally:
        lock.release()


def _keep_whole(folder: Path, where: str) -> list[str]:
    """Names of the blocks in a journal that are whole; the others are dropped, and said."""
    for partial in folder.glob("*.partial"):
        remove(partial)
    found = {path: _is_whole(path) for path in sorted(folder.glob("*.npy"))}
    dropped = [path for path, whole in found.items() if not whole]
    for path in dropped:
        remove(path)
    if dropped:
        _log.warning(
            "%s: %d of %d blocks in its journal are damaged, misplaced or of an earlier version and are computed "
            "again; the first is %s",
            *(where, len(dropped), len(found), dropped[0].name),
        )
    return [path.name for path, whole in found.items() if whole]


def journal_folder(root: Path, spec: Mapping[str, Any]) -> Path:
    """Folder of a spec's journal.

    Parameters
    ----------
    root : Path
        Folder of all journals.
    spec : Mapping
        What the cube's fingerprint hashes.

    Returns
    -------
    Path
        It need not be there.
    """
    return root / fingerprint(spec)


def journal_blocks(root: Path, spec: Mapping[str, Any]) -> int:
    """Number of finished blocks in the journal of the cube that `spec` describes; their bytes are not checked.

    Parameters
    ----------
    root : Path
        Folder of all journals.
    spec : Mapping
        What the cube's fingerprint hashes.

    Returns
    -------
    int
    """
    return len(_sealed(journal_folder(root, spec)))


def journal_rows(root: Path, spec: Mapping[str, Any]) -> int:
    """Number of finished rows in the journal of the cube that `spec` describes; their bytes are not checked.

    Parameters
    ----------
    root : Path
        Folder of all journals.
    spec : Mapping
        What the cube's fingerprint hashes.

    Returns
    -------
    int
    """
    spans = (_SPAN.search(path.name) for path in _sealed(journal_folder(root, spec)))
    return sum(int(span[2]) - int(span[1]) for span in spans if span)


def _sealed(folder: Path) -> list[Path]:
    """Files that end with the seal of a block of this name and place, whatever the digest."""
    return [path for path in folder.glob("*.npy") if path.is_file() and _has_seal(path)]


def _has_seal(path: Path) -> bool:
    seal = _seal(path, _NO_DIGEST)
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(seal)))
        return _ANY_DIGEST.sub(_NO_DIGEST.encode(), file.read()) == seal
