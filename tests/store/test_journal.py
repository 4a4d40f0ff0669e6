"""The journal keeps whole blocks, and one writer at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cinecube.store.errors import StudyError
from cinecube.store.journal import blocks_of, open_journal

SPEC = {"a": 1}


def test_blocks_cover_every_row_and_cross_no_border() -> None:
    blocks = blocks_of({"a01": 130, "a02": 64, "a03": 1}, 64)
    assert [(b.segment, b.start, b.stop) for b in blocks] == [
        ("a01", 0, 64),
        ("a01", 64, 128),
        ("a01", 128, 130),
        ("a02", 0, 64),
        ("a03", 0, 1),
    ]


def test_finished_blocks_come_back(tmp_path: Path) -> None:
    first, second = blocks_of({"a01": 100}, 64)
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
    block = blocks_of({"a01": 10}, 64)[0]
    with open_journal(tmp_path, SPEC, "cube") as journal:
        (journal.folder / block.filename).with_suffix(".partial").write_bytes(b"half")
        assert not journal.has(block)
