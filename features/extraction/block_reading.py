"""Blocks of features: a network, loaded once, reads the windows of a segment's blocks into the journal."""

from __future__ import annotations

import ctypes
import platform
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from cinecube.features.extraction.film_job import FilmJob
from cinecube.features.extraction.spec import make_reading
from cinecube.features.extraction.windows import BlockBatch, batches, prefetched
from cinecube.features.networks.network import Extractor, Features
from cinecube.features.networks.registry import find_network
from cinecube.store.base.errors import StudyError
from cinecube.store.base.journal import Block, Journal
from cinecube.store.jobs.tasks import pinned_blas
from cinecube.store.params.run_params import Run

Told = Callable[[int], None]
# Of mallopt(3); glibc would raise the threshold by itself to 32 MiB.
_M_MMAP_THRESHOLD, _LARGE_BYTES = -3, 2**20
# A process has one network in memory, which reads one block at a time: hooks keep what they see in the network.
_loaded: dict[tuple[str, ...], Extractor] = {}
_one_at_a_time = threading.Lock()


def read_blocks(
    job: FilmJob, weights: Path, journal: Journal, blocks: Sequence[Block], told: Callable[[int], None]
) -> None:
    """Compute the blocks that the journal lacks.

    Parameters
    ----------
    job : FilmJob
    weights : Path
        From `checked_weights`.
    journal : Journal
        Of the job's cube; gets each block when it is finished.
    blocks : sequence of Block
        In order within a segment.
    told : callable
        Called with the number of windows of each batch.

    Raises
    ------
    StudyError
        If the film, the checkpoint or the device cannot be read as asked, or features are not finite.
    """
    missing = [block for block in blocks if not journal.has(block)]
    if not missing:
        return
    with _one_at_a_time, pinned_blas(job.study.run.threads):  # mel bands are made by numpy
        device = _device(job.study.run)
        extractor = _load(job, weights, device)
        # How sums are ordered depends on what is summed beside them. A CPU is as fast with one row, whose numbers then
        # depend on its own window alone; on a GPU their last bits depend on the batch.
        batch_rows = 1 if device == "cpu" else job.study.run.batch
        items = batches(job.infos, missing, job.ticks, job.reading, extractor.prepare_frame, batch_rows)
        pending: dict[Block, _Buffer] = {}
        with closing(prefetched(items)) as ready:
            for item in ready:
                if item.block not in pending:
                    pending[item.block] = _Buffer(item.block, job)
                buffer = pending[item.block]
                buffer.add(item, extractor(item.batch))
                if buffer.is_full:
                    journal.write(item.block, pending.pop(item.block).values)
                told(len(item.rows))


def read_task(job: FilmJob, weights: Path, folder: Path, blocks: Sequence[Block]) -> float:
    """As `read_blocks`, on a worker: into the journal's folder, which it shares with who asked; returns seconds.

    A worker that takes over from one that was lost keeps what that one finished.

    Parameters
    ----------
    job : FilmJob
    weights : Path
        The checkpoint's folder or file.
    folder : Path
        The journal's.
    blocks : sequence of Block

    Returns
    -------
    float
        Seconds that it took.
    """
    began = time.monotonic()
    read_blocks(job, weights, Journal.of_folder(folder, blocks), blocks, lambda _: None)
    return time.monotonic() - began


def _device(run: Run) -> str:
    import torch

    if run.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if run.device.startswith("cuda") and not torch.cuda.is_available():
        raise StudyError(where="run.device", found=run.device, expected="a CUDA device", do="set run.device: auto")
    return run.device


def _load(job: FilmJob, weights: Path, device: str) -> Extractor:
    """The job's network; the one before it leaves memory first."""
    import torch

    torch.set_num_threads(job.study.run.threads)
    reading = make_reading(job.study, job.model, job.record, device)
    key = (job.record.extractor, str(weights), job.record.weights_digest, repr(reading))
    if key not in _loaded:
        _loaded.clear()
        _give_back_memory()
        _loaded[key] = find_network(job.record.extractor, job.model).load(weights, reading)
    return _loaded[key]


def _give_back_memory() -> None:
    """Let glibc return large arrays to the system at once: its heap would keep several hundred MiB in pieces."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


class _Buffer:
    """A block's values while its batches come in, whatever their order."""

    def __init__(self, block: Block, job: FilmJob) -> None:
        streams, labels = job.reading.streams, job.labels
        self._places = {
            (stream.name, label): (width, m, labels.index(label))
            for m, stream in enumerate(streams)
            for label, width in zip(stream.layers, stream.widths, strict=True)
        }
        widest = max(width for width, _, _ in self._places.values())
        shape = (block.stop - block.start, widest, len(streams), len(labels))
        self._block, self._where, self._missing = block, job.infos[block.segment].where, shape[0]
        self._tr_s = job.ticks.tr_s
        # Layers outermost: the cube is written layer by layer.
        self.values = np.full(shape, np.nan, dtype=job.spec["dtype"], order="F")

    @property
    def is_full(self) -> bool:
        return self._missing == 0

    def add(self, item: BlockBatch, features: Features) -> None:
        """Put a batch's features in their rows."""
        rows = item.rows - self._block.start
        self._missing -= len(rows)
        for key, (width, m, k) in self._places.items():
            with np.errstate(over="ignore"):
                values = features[key].astype(self.values.dtype)
            bad = ~np.isfinite(values).all(axis=1)
            if bad.any():
                raise StudyError(
                    where=f"{self._where} at {item.rows[bad][0] * self._tr_s:.2f} s",
                    found="features that are NaN or infinite",
                    expected="finite ones",
                    do="check the checkpoint, or use dtype float32",
                )
            self.values[rows, :width, m, k] = values
