from __future__ import annotations

import threading

import numpy as np
import pytest

from cinecube.features.network import Reading
from cinecube.features.probing import probe
from cinecube.features.windows import batches, prefetched
from cinecube.store.clock import Clock
from cinecube.store.journal import blocks_of

CLOCK = Clock(tr_s=1.0, window_s=1.0)
PICTURE = Reading((), "mean", frames_per_window=4, rate_hz=0, window_s=1.0)
SOUND = Reading((), "mean", frames_per_window=0, rate_hz=16000, window_s=1.0, context_s=3.0)


@pytest.fixture
def infos(tmp_path, write_film, make_clicks):
    return {
        name: probe(write_film(tmp_path / f"{name}.mp4", n_frames=25 * 8, sound=make_clicks(8, [6.25])))
        for name in ("a", "b")
    }


def _rows(items):
    return [(item.block.segment, int(row)) for item in items for row in item.rows]


def test_every_row_comes_once_and_batches_stay_inside_blocks(infos):
    blocks = blocks_of({"a": 8, "b": 8}, 3)
    items = list(batches(infos, blocks, CLOCK, PICTURE, lambda rgb: rgb, 2))
    assert _rows(items) == [(name, row) for name in "ab" for row in range(8)]
    assert [len(item.rows) for item in items] == [2, 1, 2, 1, 2] * 2


def test_missing_blocks_alone_see_what_all_blocks_see(infos):
    blocks = blocks_of({"a": 8, "b": 8}, 3)
    whole = {item.block: item for item in batches(infos, blocks, CLOCK, PICTURE, lambda rgb: rgb, 3)}
    missing = [blocks[1], blocks[5]]
    for item in batches(infos, missing, CLOCK, PICTURE, lambda rgb: rgb, 3):
        np.testing.assert_array_equal(item.batch.frames, whole[item.block].batch.frames)


def test_a_flash_and_a_click_at_one_time_are_in_one_row(tmp_path, write_film, make_clicks):
    def flash(number: int) -> np.ndarray:
        return np.full((64, 96, 3), 255 if 125 <= number < 150 else 0, np.uint8)  # from 5 to 6 s

    info = probe(write_film(tmp_path / "f.mp4", n_frames=200, frame=flash, sound=make_clicks(8, [5.5])))
    blocks = blocks_of({"f": 8}, 4)
    bright = {
        int(row): frames.mean()
        for item in batches({"f": info}, blocks, CLOCK, PICTURE, lambda rgb: rgb, 4)
        for row, frames in zip(item.rows, item.batch.frames, strict=True)
    }
    assert [row for row, mean in bright.items() if mean > 200] == [5]
    assert max(mean for row, mean in bright.items() if row != 5) < 20
    reading = Reading((), "mean", 0, 16000, window_s=1.0)
    loud = {
        int(row): np.abs(sound)
        for item in batches({"f": info}, blocks, CLOCK, reading, lambda rgb: rgb, 4)
        for row, sound in zip(item.rows, item.batch.sound, strict=True)
    }
    assert max(loud, key=lambda row: loud[row].max()) == 5
    assert abs(int(np.argmax(loud[5] > 0.1)) - 8000) <= 24


def test_windows_of_unequal_length_are_grouped_never_padded(infos):
    blocks = blocks_of({"a": 8}, 8)
    items = list(batches(infos, blocks, CLOCK, SOUND, lambda rgb: rgb, 4))
    lengths = {int(row): item.batch.sound.shape[1] for item in items for row in item.rows}
    assert lengths == {row: 16000 * min(row + 1, 4) for row in range(8)}
    assert sorted(len(item.rows) for item in items) == [1, 1, 1, 1, 4]


def test_a_frame_that_windows_share_is_prepared_once(infos):
    clock = Clock(tr_s=0.5, window_s=2.0)
    reading = Reading((), "mean", frames_per_window=8, rate_hz=0, window_s=2.0)
    prepared = []

    def prepare(rgb: np.ndarray) -> np.ndarray:
        prepared.append(rgb)
        return rgb

    list(batches(infos, blocks_of({"a": 16}, 4), clock, reading, prepare, 4))
    wanted = {min(int((0.5 * i + 0.25 * (j + 0.5)) * 25 + 1e-6), 199) for i in range(16) for j in range(8)}
    assert len(prepared) == len(wanted)


def test_prefetching_passes_items_and_errors_on():
    def items():
        yield 1
        yield 2
        raise ValueError("at the third")

    found = []
    with pytest.raises(ValueError, match="at the third"):
        found.extend(prefetched(items()))
    assert found == [1, 2]


def test_prefetching_stops_its_thread_and_closes_its_source_when_left():
    closed = threading.Event()

    def items():
        try:
            while True:
                yield 1
        finally:
            closed.set()

    ahead = prefetched(items())
    assert next(ahead) == 1
    before = threading.active_count()
    ahead.close()
    assert closed.is_set()
    assert threading.active_count() == before - 1
