"""From the clock's rows to batches that a network takes."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from cinecube.features.films.pictures import sampled_frames
from cinecube.features.films.segment import SegmentInfo
from cinecube.features.films.sound import sound_windows
from cinecube.features.networks.network import ALL_FRAMES, Batch, Reading
from cinecube.store.base.journal import Block
from cinecube.store.clock.clock import SAME_S, Clock

PrepareFrame = Callable[[np.ndarray], np.ndarray]
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class BlockBatch:
    """A batch of one block's rows.

    Attributes
    ----------
    block : Block
        The block.
    rows : ndarray
        (row,) which of the segment's rows these are.
    batch : Batch
        Their windows.
    """

    block: Block
    rows: np.ndarray
    batch: Batch


def batches(
    infos: Mapping[str, SegmentInfo],
    blocks: Sequence[Block],
    clock: Clock,
    reading: Reading,
    prepare_frame: PrepareFrame,
    batch_rows: int,
) -> Generator[BlockBatch]:
    """Batches of all rows of `blocks`, each segment decoded once.

    A batch never crosses a block's border, so a block's bytes do not depend on which others were missing. Windows
    of different lengths, as at a segment's start, are never padded: they go to batches of their own.

    Parameters
    ----------
    infos : Mapping of str to SegmentInfo
        Segments by name.
    blocks : sequence of Block
        Rows to read; the blocks of a segment in order.
    clock : Clock
        Which stretch each row sees.
    reading : Reading
        What the network reads of it.
    prepare_frame : callable
        The network's; called once per sampled frame, however many windows share it.
    batch_rows : int
        Largest number of rows in a batch.

    Yields
    ------
    BlockBatch
        In the order of the segments and their blocks.
    """
    for segment, info in infos.items():
        mine = [block for block in blocks if block.segment == segment]
        rows = [row for block in mine for row in range(block.start, block.stop)]
        with closing(_windows(info, rows, clock, reading, prepare_frame)) as windows:
            for block in mine:
                yield from _block_batches(block, windows, batch_rows)


def _block_batches(block: Block, windows: Iterator[Batch], batch_rows: int) -> Iterator[BlockBatch]:
    """Group a block's windows by shape; a group is passed on when it is full, the rest at the block's end."""
    waiting: dict[object, list[tuple[int, Batch]]] = {}
    for row in range(block.start, block.stop):
        window = next(windows)
        shape = tuple(part.shape for part in (window.frames, window.sound) if part is not None)
        group = waiting.setdefault(shape, [])
        group.append((row, window))
        if len(group) == batch_rows:
            yield _stack(block, waiting.pop(shape))
    for group in waiting.values():
        yield _stack(block, group)


def _stack(block: Block, group: list[tuple[int, Batch]]) -> BlockBatch:
    frames = [window.frames for _, window in group if window.frames is not None]
    sound = [window.sound for _, window in group if window.sound is not None]
    return BlockBatch(
        block,
        np.array([row for row, _ in group]),
        Batch(np.stack(frames) if frames else None, np.stack(sound) if sound else None),
    )


def _windows(
    info: SegmentInfo, rows: Sequence[int], clock: Clock, reading: Reading, prepare_frame: PrepareFrame
) -> Generator[Batch]:
    """Windows of a segment's rows, one at a time: `frames` (frame, …), `sound` (sample,)."""
    if not rows:
        return
    onsets = clock.onsets_s(rows[-1] + 1)[list(rows)]
    pictures = _picture_windows(info, rows, onsets, reading, prepare_frame) if reading.frames_per_window else None
    sounds = sound_windows(info, sound_spans(onsets, reading), reading.rate_hz) if reading.rate_hz else None
    for _ in rows:
        yield Batch(next(pictures) if pictures else None, next(sounds) if sounds else None)


def _picture_windows(
    info: SegmentInfo, rows: Sequence[int], onsets: np.ndarray, reading: Reading, prepare_frame: PrepareFrame
) -> Iterator[np.ndarray]:
    """(frame, …) of each window; a frame is held, prepared, from its first window to its last."""
    wanted = [frame_numbers(info, row, float(onset), reading) for row, onset in zip(rows, onsets, strict=True)]
    # The first frame that this window or any later one needs: earlier ones can go.
    needed = np.minimum.accumulate([min(numbers) for numbers in wanted[::-1]])[::-1]
    frames = sampled_frames(info, sorted({number for numbers in wanted for number in numbers}))
    held: dict[int, np.ndarray] = {}
    for numbers, first in zip(wanted, needed, strict=True):
        held = {number: frame for number, frame in held.items() if number >= first}
        while max(numbers) not in held:
            number, rgb = next(frames)
            held[number] = prepare_frame(rgb[..., ::-1] if reading.quirks.bgr else rgb)
        yield np.stack([held[number] for number in numbers])


def frame_numbers(info: SegmentInfo, row: int, onset_s: float, reading: Reading) -> list[int]:
    """Frames of a row's window, its look-back included; see `Reading.sampling`.

    Parameters
    ----------
    info : SegmentInfo
    row : int
    onset_s : float
        Of the row, in seconds from the segment's first frame.
    reading : Reading

    Returns
    -------
    list of int
        From 0, the segment's first frame.
    """
    start_s, stop_s = max(0.0, onset_s - reading.context_s), onset_s + reading.window_s
    first, last = info.frame_at(start_s), info.frame_at(stop_s - SAME_S)
    n = reading.frames_per_window
    if n == ALL_FRAMES:
        return list(range(first, last + 1))
    assert isinstance(n, int)
    if reading.quirks.one_frame:
        return [_random_frame(info, row, first, last, n)] * n
    if reading.sampling == "ends":
        return [int(number) for number in np.linspace(first, last, n)]
    if reading.sampling == "consecutive":
        return [min(first + j, last) for j in range(n)]
    return [info.frame_at(start_s + (j + 0.5) * (stop_s - start_s) / n) for j in range(n)]


def _random_frame(info: SegmentInfo, row: int, first: int, last: int, n: int) -> int:
    """The frame after `n` others that begin at random: what the published code showed for a whole clip."""
    seed = hashlib.sha256(f"{info.path.stem} {row}".encode()).digest()[:8]
    rng = np.random.default_rng(int.from_bytes(seed, "little"))
    return int(rng.integers(min(first + n, last), last, endpoint=True))


def sound_spans(onsets: np.ndarray, reading: Reading) -> list[tuple[int, int]]:
    """Samples of each window with its look-back, which at a segment's start is shorter, not padded.

    Parameters
    ----------
    onsets : ndarray (window,)
        Seconds from the segment's first frame.
    reading : Reading

    Returns
    -------
    list of (int, int)
        First sample and the one after the last, at `reading.rate_hz`.
    """
    return [
        (
            max(0, round(float(onset - reading.context_s) * reading.rate_hz)),
            round(float(onset + reading.window_s) * reading.rate_hz),
        )
        for onset in onsets
    ]


def prefetched(items: Generator[_Item]) -> Generator[_Item]:
    """Run an iterator in a thread, one item ahead: decoding goes on while the network computes."""
    ready: queue.Queue[tuple[_Item | None, BaseException | None]] = queue.Queue(maxsize=1)
    stop = threading.Event()

    def put(item: _Item | None, error: BaseException | None) -> None:
        while not stop.is_set():
            try:
                return ready.put((item, error), timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put(item, None)
                if stop.is_set():
                    break
        except BaseException as error:  # whatever it is, it belongs to who asked for the items
            put(None, error)
        else:
            put(None, None)
        finally:
            items.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        stop.set()
        thread.join()
