"""The frame number that the simulation burns into pictures, read again."""

from __future__ import annotations

import numpy as np

from cinecube.simulation.film.frame_code import BLOCK_PX, COLUMNS, HEIGHT_PX, ROWS, WIDTH_PX

# Codecs smear the border of a block; its middle keeps its colour.
_MARGIN_PX = 2


def read_frame_number(rgb: np.ndarray) -> int:
    """The number burned into `rgb` (height, width, 3), counted from its segment's first frame."""
    corner = np.asarray(rgb[:HEIGHT_PX, :WIDTH_PX], dtype=float).mean(axis=-1)
    blocks = corner.reshape(ROWS, BLOCK_PX, COLUMNS, BLOCK_PX)
    middles = blocks[:, _MARGIN_PX:-_MARGIN_PX, :, _MARGIN_PX:-_MARGIN_PX].mean(axis=(1, 3))
    return int("".join("1" if value > 127.5 else "0" for value in middles.ravel()), 2)
