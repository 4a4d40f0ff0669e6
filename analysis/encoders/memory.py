"""Memory that encoding needs, computed before it begins."""

from __future__ import annotations

from dataclasses import dataclass

from cinecube.analysis.ridge.factors import choose_form
from cinecube.analysis.ridge.shared_ridge import BATCH_BYTES
from cinecube.store.cube.schema import ROWS_PER_CHUNK, TARGETS_PER_SHARD

# Python with numpy, xarray, zarr and Dask: a worker's, and what the command itself has loaded beside.
_WORKER_BYTES, _COMMAND_BYTES = 130_000_000, 40_000_000
# Measured with 328 to 3,000 stored rows, 1 to 3 subjects of 700 to 20,003 targets, blocks of 1,024 and 4,096, one task
# and two, 160 to 640 features: within a fifth of what a process took. Bytes of a task for each stored row and target of
# its block; times its batch is there; and bytes for each stored row, in whole chunks, and target that are read at once
# where the targets of a block lie scattered: of so many blocks, and of no more than so many shards.
_TASK_BYTES, _OF_BATCH, _READ_BYTES, _READ_BLOCKS, _READ_SHARDS = 12, 1.5, 6, 10, 20


@dataclass(frozen=True)
class EncodeSize:
    """Sizes that the memory of one process follows from.

    Attributes
    ----------
    stored_rows : int
        Of the longest brain cube, repeats among them.
    train_rows, test_rows : int
    features : int
        Dims of the widest layer times delays.
    dims : int
        Dims of the widest layer.
    folds : int
    targets : int
        Of all subjects.
    targets_per_block : int
    at_once : int
        Tasks that the process runs side by side, as threads.
    alone : bool
        Whether the process is the command itself, and no worker of it.
    shared : bool
        Whether the shared solver fits.
    """

    stored_rows: int
    train_rows: int
    test_rows: int
    features: int
    dims: int
    folds: int
    targets: int
    targets_per_block: int
    at_once: int
    alone: bool
    shared: bool


def encode_bytes(size: EncodeSize) -> int:
    """Largest memory of one process, roughly: arrays of float32 count 4 bytes, of float64 8.

    Parameters
    ----------
    size : EncodeSize
    """
    rows, block = size.train_rows + size.test_rows, min(size.targets_per_block, size.targets)
    stored = -(-size.stored_rows // ROWS_PER_CHUNK) * ROWS_PER_CHUNK
    read = stored * min(size.targets, _READ_BLOCKS * block)
    known = _WORKER_BYTES + (_COMMAND_BYTES if size.alone else 0)
    known += _READ_BYTES * min(read, _READ_SHARDS * 2 * ROWS_PER_CHUNK * TARGETS_PER_SHARD)
    layer = 4 * rows * size.features + 8 * rows * size.dims
    task = float(_TASK_BYTES * size.stored_rows * block)
    if not size.shared:
        return int(known + size.at_once * (task + 3 * layer))
    primal = choose_form(size.train_rows, size.features) == "primal"
    rank = size.features if primal else size.train_rows
    gram = 8 * rank**2
    design = 4 * size.train_rows * size.features if primal else 0
    factors = (size.folds + 1) * gram // 2 + 4 * rank * rows
    batch = min(BATCH_BYTES, 4 * rank * (2 * size.folds + 4) * block)
    # A task that factors holds what it was prepared from, the Gram matrix of all rows and of a fold, vectors, and
    # LAPACK's workspace of twice that. Two layers are there at once.
    task = max(task + _OF_BATCH * batch, layer + 5 * gram)
    return int(known + 2 * (design + factors) + size.at_once * task)
