"""The journal: blocks of an unfinished extraction, kept until the whole cube can be published."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from cinecube.store.errors import StudyError
from cinecube.store.fingerprint import fingerprint


@dataclass(frozen=True)
class Block:
    """Consecutive rows of one segment: what one journal file holds."""

    segment: str
    start: int
    stop: int

    @property
    def filename(self) -> str:
        return f"{self.segment}.{self.start:07d}-{self.stop:07d}.npy"


def blocks_of(rows_by_segment: Mapping[str, int], block_rows: int) -> list[Block]:
    """Cut segments into blocks of at most `block_rows` rows; no block crosses a border."""
    return [
        Block(segment, start, min(start + block_rows, n_rows))
        for segment, n_rows in rows_by_segment.items()
        for start in range(0, n_rows, block_rows)
    ]


class Journal:
    """Finished blocks of one cube, under its fingerprint. Made by `open_journal`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, block: Block) -> bool:
        """Whether a block is finished. A file appears under its name only when it is whole."""
        return (self.folder / block.filename).is_file()

    def write(self, block: Block, values: np.ndarray) -> None:
        """Keep a finished block, `values` of shape (time, dim, model, layer)."""
        path = self.folder / block.filename
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.save(file, values, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    def read(self, block: Block) -> np.ndarray:
        """A finished block (time, dim, model, layer), mapped rather than loaded."""
        return np.load(self.folder / block.filename, mmap_mode="r", allow_pickle=False)

    def rows_done(self, blocks: list[Block]) -> int:
        """How many rows of `blocks` are finished."""
        return sum(block.stop - block.start for block in blocks if self.has(block))

    def remove(self) -> None:
        """Forget the journal: its cube is published."""
        shutil.rmtree(self.folder)


@contextmanager
def open_journal(root: Path, spec: Mapping[str, Any], where: str) -> Iterator[Journal]:
    """Open the journal of the cube that `spec` describes and hold its lock.

    Parameters
    ----------
    root : Path
        Folder of all journals.
    spec : Mapping
        What the cube's fingerprint hashes.
    where : str
        The cube, for messages.

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
        (folder / "spec.json").write_text(json.dumps(spec, sort_keys=True, indent=1), encoding="utf-8")
        yield Journal(folder)
    finally:
        lock.release()


def journal_folder(root: Path, spec: Mapping[str, Any]) -> Path:
    """Where the journal of a spec lies."""
    return root / fingerprint(spec)


def journal_blocks(root: Path, spec: Mapping[str, Any]) -> int:
    """How many blocks of the cube that `spec` describes lie finished in its journal."""
    return sum(1 for _ in journal_folder(root, spec).glob("*.npy"))


def journal_rows(root: Path, spec: Mapping[str, Any]) -> int:
    """How many rows of the cube that `spec` describes lie finished in its journal."""
    files = journal_folder(root, spec).glob("*.npy")
    spans = (path.stem.rsplit(".", 1)[1].split("-") for path in files)
    return sum(int(stop) - int(start) for start, stop in spans)
