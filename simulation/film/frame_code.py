"""The frame number burned into the picture: blocks of black and white that survive H.264."""

from __future__ import annotations

import numpy as np

BLOCK_PX = 8
ROWS, COLUMNS = 2, 8
HEIGHT_PX, WIDTH_PX = ROWS * BLOCK_PX, COLUMNS * BLOCK_PX
_BITS = ROWS * COLUMNS


def burn_frame_number(rgb: np.ndarray, number: int) -> None:
    """Write `number` into the top left corner of `rgb` (height, width, 3) uint8, in place.

    Parameters
    ----------
    rgb : array of uint8, shape (height, width, 3)
        Changed in place.
    number : int
        Up to 16 bits.

    Raises
    ------
    ValueError
        If the number needs more than 16 bits.
    """
    if not 0 <= number < 1 << _BITS:
        raise ValueError(f"frame number {number} does not fit {_BITS} bits")
    bits = (number >> np.arange(_BITS - 1, -1, -1)) & 1
    blocks = np.kron(bits.reshape(ROWS, COLUMNS), np.ones((BLOCK_PX, BLOCK_PX), int)).astype(np.uint8)
    rgb[:HEIGHT_PX, :WIDTH_PX] = (blocks * np.uint8(255))[..., None]
