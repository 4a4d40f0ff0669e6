from __future__ import annotations

import math
import threading
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from cinecube.features.extraction.windows import batches, frame_numbers, prefetched
from cinecube.features.films.probing import probe
from cinecube.features.networks.compat import OOTA2025
from cinecube.features.networks.network import Reading
from cinecube.store.base.journal import row_blocks
from cinecube.store.clock.clock import Clock

CLOCK = Clock(tr_s=1.0, window_s=1.0)
PICTURE = Reading((), frames_per_window=4, rate_hz=0, window_s=1.0)
SOUND = Reading((), frames_per_window=0, rate_hz=16000, window_s=1.0, context_s=3.0)


@pytest.fixture
def infos(tmp_path, write_film, make_clicks):
    return {
        name: probe(write_film(tmp_path / f"{name}.mp4", n_frames=25 * 8, sound=make_clicks(8, [6.25])))
        for name in ("a", "b")
    }


def _rows(items):
    return [(item.block.segment, int(row)) for item in items for row in item.rows]


def test_every_row_comes_once_and_batches_stay_inside_blocks(infos):
    blocks = row_blocks({"a": 8, "b": 8}, 3)
    items = list(batches(infos, blocks, CLOCK, PICTURE, lambda rgb: rgb, 2))
    assert _rows(items) == [(name, row) for name in "ab" for row in range(8)]
    assert [len(item.rows) for item in items] == [2, 1, 2, 1, 2] * 2


def test_missing_blocks_alone_see_what_all_blocks_see(infos):
    blocks = row_blocks({"a": 8, "b": 8}, 3)
    whole = {item.block: item for item in batches(infos, blocks, CLOCK, PICTURE, lambda rgb: rgb, 3)}
    missing = [blocks[1], blocks[5]]
    for item in batches(infos, missing, CLOCK, PICTURE, lambda rgb: rgb, 3):
        np.testing.assert_array_equal(item.batch.frames, whole[item.block].batch.frames)


def test_a_flash_and_a_click_at_one_time_are_in_one_row(tmp_path, write_film, make_clicks):
    def flash(number: int) -> np.ndarray:
        return np.full((64, 96, 3), 255 if 125 <= number < 150 else 0, np.uint8)  # from 5 to 6 s

    info = probe(write_film(tmp_path / "f.mp4", n_frames=200, frame=flash, sound=make_clicks(8, [5.5])))
    blocks = row_blocks({"f": 8}, 4)
    bright = {
        int(row): frames.mean()
        for item in batches({"f": info}, blocks, CLOCK, PICTURE, lambda rgb: rgb, 4)
        for row, frames in zip(item.rows, item.batch.frames, strict=True)
    }
    assert [row for row, mean in bright.items() if mean > 200] == [5]
    assert max(mean for row, mean in bright.items() if row != 5) < 20
    reading = Reading((), rate_hz=16000, window_s=1.0)
    loud = {
        int(row): np.abs(sound)
        for item in batches({"f": info}, blocks, CLOCK, reading, lambda rgb: rgb, 4)
        for row, sound in zip(item.rows, item.batch.sound, strict=True)
    }
    assert max(loud, key=lambda row: loud[row].max()) == 5
    assert abs(int(np.argmax(loud[5] > 0.1)) - 8000) <= 24


def test_windows_of_unequal_length_are_grouped_never_padded(infos):
    blocks = row_blocks({"a": 8}, 8)
    items = list(batches(infos, blocks, CLOCK, SOUND, lambda rgb: rgb, 4))
    lengths = {int(row): item.batch.sound.shape[1] for item in items for row in item.rows}
    assert lengths == {row: 16000 * min(row + 1, 4) for row in range(8)}
    assert sorted(len(item.rows) for item in items) == [1, 1, 1, 1, 4]


def test_a_frame_that_windows_share_is_prepared_once(infos):
    clock = Clock(tr_s=0.5, window_s=2.0)
    reading = Reading((), frames_per_window=8, rate_hz=0, window_s=2.0)
    prepared = []

    def prepare(rgb: np.ndarray) -> np.ndarray:
        prepared.append(rgb)
        return rgb

    list(batches(infos, row_blocks({"a": 16}, 4), clock, reading, prepare, 4))
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


def _numbers(info, row=2, onset_s=2.0, **reading):
    return frame_numbers(info, row, onset_s, Reading((), window_s=1.0, **reading))


def test_samplings_take_the_frames_they_name(infos):
    info = infos["a"]  # 25 frames a second, 200 in all: the window has frames 50 to 74
    assert _numbers(info, frames_per_window="all") == list(range(50, 75))
    assert _numbers(info, frames_per_window=5) == [52, 57, 62, 67, 72]
    assert _numbers(info, frames_per_window=2, sampling="ends") == [50, 74]
    assert _numbers(info, frames_per_window=4, sampling="ends") == [50, 58, 66, 74]
    assert _numbers(info, frames_per_window=3, sampling="consecutive") == [50, 51, 52]
    assert _numbers(info, frames_per_window=27, sampling="consecutive") == [*range(50, 75), 74, 74]
    assert _numbers(info, frames_per_window=2, sampling="ends", context_s=1.0) == [25, 74]
    assert _numbers(info, row=7, onset_s=7.5, frames_per_window=2, sampling="ends") == [187, 199]


def test_every_frame_of_a_window_is_read_and_windows_with_more_frames_are_batched_apart(tmp_path, write_film):
    info = probe(write_film(tmp_path / "f.mp4", n_frames=96, rate=Fraction(24000, 1001)))
    clock = Clock(tr_s=0.7, window_s=0.7)
    reading = Reading((), frames_per_window="all", window_s=0.7)
    items = list(batches({"f": info}, row_blocks({"f": 6}, 6), clock, reading, lambda rgb: rgb, 4))
    assert len(_rows(items)) == 6
    counts = {int(row): item.batch.frames.shape[1] for item in items for row in item.rows}
    edges = [math.floor(0.7 * row * 24000 / 1001 + 1e-9) for row in range(7)]
    assert all(abs(counts[row] - (edges[row + 1] - edges[row])) <= 1 for row in range(5))
    assert len(set(counts.values())) > 1


def test_the_published_errors_are_made_only_when_asked_for(tmp_path, write_film, read_number):
    """One repeated frame from a random place, red and blue exchanged: see `compat`."""

    def coloured(number: int) -> np.ndarray:
        frame = np.zeros((64, 96, 3), np.uint8)
        frame[..., 0] = 200
        return frame

    film = probe(write_film(tmp_path / "numbers.mp4", n_frames=200))
    red = probe(write_film(tmp_path / "red.mp4", n_frames=50, frame=coloured))
    reading = Reading((), frames_per_window=16, window_s=1.0, sampling="consecutive")
    wrong = replace(reading, quirks=OOTA2025["vivit"])
    blocks = row_blocks({"a": 8}, 8)

    def seen(how):
        items = batches({"a": film}, blocks, CLOCK, how, lambda rgb: rgb, 8)
        return [[read_number(rgb) for rgb in row] for item in items for row in item.batch.frames]

    right, theirs = seen(reading), seen(wrong)
    assert right == [[25 * row + j for j in range(16)] for row in range(8)]
    assert all(len(set(row)) == 1 for row in theirs)
    starts = [row[0] - 25 * number for number, row in enumerate(theirs)]
    assert all(16 <= start <= 24 for start in starts)
    assert len(set(starts)) > 1
    assert seen(wrong) == theirs

    def colour(how):
        (item,) = batches({"a": red}, row_blocks({"a": 2}, 2), CLOCK, how, lambda rgb: rgb, 2)
        return item.batch.frames[0, 0].reshape(-1, 3).mean(axis=0)

    assert colour(reading)[0] > 150 > 50 > colour(reading)[2]
    assert colour(replace(reading, quirks=OOTA2025["vit"]))[2] > 150
