"""Memory that an extraction takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Torch, transformers and PyAV, before any weight is loaded.
_PROGRAM_BYTES = 520_000_000


def extraction_bytes(widths: Sequence[int], dtype: str, rows: int, block_rows: int, weights_bytes: int) -> int:
    """Bytes that a process needs at its peak, roughly: the larger of reading a block and writing the cube.

    Parameters
    ----------
    widths : sequence of int
        Dims of the layers of all streams.
    dtype : str
        Of the cube.
    rows : int
        Of the film.
    block_rows : int
        Rows of a block, all layers of which are held while it is read.
    weights_bytes : int
        Of the checkpoint's weights, which are read from their file into the network.

    Returns
    -------
    int
    """
    item = np.dtype(dtype).itemsize
    reading = weights_bytes + min(rows, block_rows) * sum(widths) * item
    writing = rows * max(widths) * item
    return _PROGRAM_BYTES + max(reading, writing)
