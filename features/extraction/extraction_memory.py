"""Memory that an extraction takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cinecube.store.cube.schema import Stream

# Torch with one of the architectures' libraries, before any weight is loaded.
_PROGRAM_BYTES = 600_000_000


def extraction_bytes(streams: Sequence[Stream], dtype: str, rows: int, block_rows: int, weights_bytes: int) -> int:
    """Bytes that a process needs at its peak, roughly: the larger of reading a block and writing the cube.

    Parameters
    ----------
    streams : sequence of Stream
        That are read.
    dtype : str
        Of the cube.
    rows : int
        Of the film.
    block_rows : int
        Rows of a block, all layers of which are held while it is read.
    weights_bytes : int
        Of the checkpoint's weights.
    """
    widths = [width for stream in streams for width in stream.widths]
    item = np.dtype(dtype).itemsize
    # The network, and once more what a layer's weights are copied from while it is loaded.
    reading = 2 * weights_bytes + min(rows, block_rows) * sum(widths) * item
    writing = rows * max(widths) * item
    return _PROGRAM_BYTES + max(reading, writing)
