"""Memory that encoding needs, computed before it begins."""

from __future__ import annotations

from dataclasses import dataclass

from cinecube.analysis.ridge.factors import choose_form
from cinecube.analysis.ridge.shared_ridge import BATCH_BYTES
from cinecube.store.jobs.tasks import JOBS_PER_WORKER

# Python with numpy, xarray, Dask and himalaya.
_PROGRAM_BYTES = 350_000_000


@dataclass(frozen=True)
class EncodeSize:
    """Sizes that the memory of one worker follows from.

    Attributes
    ----------
    train_rows, test_rows : int
    features : int
        Dims of the widest layer times delays.
    dims : int
        Dims of the widest layer.
    folds : int
    targets_per_block : int
    workers : int
    shared : bool
        Whether the shared solver fits.
    """

    train_rows: int
    test_rows: int
    features: int
    dims: int
    folds: int
    targets_per_block: int
    workers: int
    shared: bool


def encode_bytes(size: EncodeSize) -> int:
    """Largest memory of all local workers together, roughly: arrays of float32 count 4 bytes, of float64 8."""
    rows = size.train_rows + size.test_rows
    block = 4 * rows * size.targets_per_block
    layer = 4 * rows * size.features + 8 * rows * size.dims
    if not size.shared:
        in_flight = JOBS_PER_WORKER * size.workers * block
        return _PROGRAM_BYTES * size.workers + in_flight + size.workers * (3 * layer + 2 * block)
    primal = choose_form(size.train_rows, size.features) == "primal"
    rank = size.features if primal else size.train_rows
    gram = 8 * rank**2
    design = 4 * size.train_rows * size.features if primal else 0
    factors = (size.folds + 1) * gram // 2 + 4 * rank * rows
    # Two layers at once. A worker that factors holds what it was prepared from, the Gram matrix of all rows and of
    # a fold, vectors, and LAPACK's workspace of twice that.
    working = max(layer + 5 * gram, BATCH_BYTES + 2 * block)
    return _PROGRAM_BYTES + size.workers * (_PROGRAM_BYTES + 2 * (design + factors) + working)
