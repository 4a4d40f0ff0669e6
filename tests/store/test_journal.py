"""The journal keeps whole blocks, and one writer at a time."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cinecube.store.base.errors import StudyError
from cinecube.store.base.journal import journal_blocks, journal_folder, journal_rows, open_journal, row_blocks
from cinecube.store.base.writing import keep_array, kept_array

SPEC = {"a": 1}


def test_blocks_cover_every_row_and_cross_no_border() -> None:
    blocks = row_blocks({"a01": 130, "a02": 64, "a03": 1}, 64)
    assert [(b.segment, b.start, b.stop) for b in blocks] == [
        ("a01", 0, 64),
        ("a01", 64, 128),
        ("a01", 128, 130),
        ("a02", 0, 64),
        ("a03", 0, 1),
    ]


def test_finished_blocks_come_back(tmp_path: Path) -> None:
    first, second = row_blocks({"a01": 100}, 64)
    values = np.random.default_rng(0).standard_normal((64, 3, 1, 2)).astype(np.float32)
    with open_journal(tmp_path, SPEC, "cube") as journal:
        journal.write(first, values)
    with open_journal(tmp_path, SPEC, "cube") as journal:
        assert journal.has(first)
        assert not journal.has(second)
        assert journal.rows_done([first, second]) == 64
        np.testing.assert_array_equal(journal.read(first), values)
    with open_journal(tmp_path, {"a": 2}, "cube") as journal:
        assert not journal.has(first), "another fingerprint is another journal"


def test_a_second_writer_must_stop(tmp_path: Path) -> None:
    refused = pytest.raises(StudyError, match="vit amber: found another process extracting it")
    with open_journal(tmp_path, SPEC, "vit amber"), refused, open_journal(tmp_path, SPEC, "vit amber"):
        pass
    with open_journal(tmp_path, SPEC, "vit amber"):
        pass


def test_a_torn_block_is_not_a_block(tmp_path: Path) -> None:
    block = row_blocks({"a01": 10}, 64)[0]
    with open_journal(tmp_path, SPEC, "cube") as journal:
        (journal.folder / block.filename).with_suffix(".partial").write_bytes(b"half")
        assert not journal.has(block)


BLOCKS = row_blocks({"a01": 20, "a02": 7}, 8)


def _values(number: int) -> np.ndarray:
    rows = BLOCKS[number].stop - BLOCKS[number].start
    return np.random.default_rng(number).standard_normal((rows, 3, 1, 2)).astype(np.float32)


def _fill(root: Path, spec: dict[str, int] | None = None) -> list[Path]:
    """A journal of whole blocks; their files."""
    with open_journal(root, spec or SPEC, "cube") as journal:
        for number, block in enumerate(BLOCKS):
            journal.write(block, np.asfortranarray(_values(number)))
    return [journal.folder / block.filename for block in BLOCKS]


def _flip(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def _swap(files: list[Path]) -> None:
    files[0].rename(files[0].with_name("aside"))
    files[1].rename(files[0])
    files[0].with_name("aside").rename(files[1])


def _to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "file").write_bytes(b"1")


def _to_link(files: list[Path]) -> None:
    files[0].unlink()
    files[0].symlink_to(files[1])


def _from_another(files: list[Path]) -> None:
    other = _fill(files[0].parents[1], {"a": 2})
    shutil.copy(other[0], files[0])


def _as_before(path: Path) -> None:
    """As versions without seals wrote it."""
    np.save(path, np.load(path))


# What is done to a journal's files, and the numbers of the blocks that it costs.
INJURIES: dict[str, tuple[Callable[[list[Path]], object], list[int]]] = {
    "first bit": (lambda files: _flip(files[0], 0.0), [0]),
    "a bit of the values": (lambda files: _flip(files[1], 0.6), [1]),
    "a bit of the seal": (lambda files: _flip(files[1], 0.95), [1]),
    "last bit": (lambda files: _flip(files[3], 1.0), [3]),
    "swapped": (_swap, [0, 1]),
    "a copy in the place of another": (lambda files: shutil.copy(files[0], files[1]), [1]),
    "another cube's": (_from_another, [0]),
    "empty": (lambda files: files[2].write_bytes(b""), [2]),
    "short": (lambda files: files[2].write_bytes(files[2].read_bytes()[:-1]), [2]),
    "long": (lambda files: files[2].write_bytes(files[2].read_bytes() * 2), [2]),
    "without a seal": (lambda files: _as_before(files[0]), [0]),
    "a folder": (lambda files: _to_folder(files[0]), [0]),
    "a link": (_to_link, [0]),
    "gone": (lambda files: files[0].unlink(), [0]),
    "spec of another": (lambda files: (files[0].parent / "spec.json").write_text("{"), []),
    "a folder for a spec": (lambda files: _to_folder(files[0].parent / "spec.json"), []),
    "strange files": (lambda files: [(files[0].parent / name).write_bytes(b"1") for name in ("x", "x.npy", "y-z")], []),
}


@pytest.mark.parametrize("injury", INJURIES)
def test_what_does_not_fit_is_no_block_and_is_said(tmp_path: Path, injury: str, caplog) -> None:
    hurt, lost = INJURIES[injury]
    files = _fill(tmp_path)
    hurt(files)
    n_dropped = sum(path.suffix == ".npy" for path in files[0].parent.iterdir()) - len(BLOCKS) + len(lost)
    with caplog.at_level(logging.WARNING), open_journal(tmp_path, SPEC, "vit amber") as journal:
        whole = [number for number, block in enumerate(BLOCKS) if journal.has(block)]
        assert whole == [number for number in range(len(BLOCKS)) if number not in lost]
        assert journal.rows_done(BLOCKS) == sum(len(_values(number)) for number in whole)
        for number in whole:
            np.testing.assert_array_equal(journal.read(BLOCKS[number]), _values(number))
        for number in lost:
            journal.write(BLOCKS[number], _values(number))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (n_dropped > 0), said
    assert all(line.startswith(f"vit amber: {n_dropped} of ") for line in said)
    caplog.clear()
    with caplog.at_level(logging.WARNING), open_journal(tmp_path, SPEC, "vit amber") as journal:
        assert journal.rows_done(BLOCKS) == 27
    assert not caplog.records, "said once"


def test_counting_reads_the_ends_of_blocks_only(tmp_path: Path) -> None:
    files = _fill(tmp_path)
    assert (journal_blocks(tmp_path, SPEC), journal_rows(tmp_path, SPEC)) == (4, 27)
    _as_before(files[0])
    _to_folder(files[1])
    (files[0].parent / "x.npy").write_bytes(b"")
    assert (journal_blocks(tmp_path, SPEC), journal_rows(tmp_path, SPEC)) == (2, 11)


def test_bytes_of_a_block_depend_on_what_it_holds_only(tmp_path: Path) -> None:
    first, second = _fill(tmp_path / "one"), _fill(tmp_path / "two")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert len(os.listdir(journal_folder(tmp_path / "one", SPEC))) == 1 + len(BLOCKS)


def test_what_threads_spoil_for_each_other_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.11 counts the depth of `ast`, by which numpy reads heads, for all threads together."""
    path, load, calls = keep_array(tmp_path, np.arange(6.0)), np.load, list[Path]()

    def spoilt(file: Path, **options: Any) -> Any:
        calls.append(file)
        if len(calls) == 1:
            raise SystemError("AST constructor recursion depth mismatch (before=66, after=68)")
        return load(file, **options)

    monkeypatch.setattr(np, "load", spoilt)
    np.testing.assert_array_equal(kept_array(path), np.arange(6.0))
    assert calls == [path, path]
