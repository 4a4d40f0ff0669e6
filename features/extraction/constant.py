"""Layers that say nothing of a film, since all its rows have the same features."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

LayerReader = Callable[[int, int], np.ndarray]
# Share of a value: rounding of float32, which a mean over windows leaves.
_ROUNDING = 1e-6

_log = logging.getLogger(__name__)


def is_constant(values: np.ndarray) -> bool:
    """True if all rows of (row, dim), two or more, are the same but for rounding."""
    first, last = values[0].astype(np.float64), values[-1].astype(np.float64)
    near = _ROUNDING * np.abs(first)
    # Most layers differ between their first and last row, and need not be read.
    return len(values) > 1 and bool((np.abs(last - first) <= near).all() and (np.abs(values - first) <= near).all())


class Telling:
    """Reads layers for a cube, and remembers those that are constant.

    Parameters
    ----------
    read_layer : callable
        `(model index, layer index) -> (time, width)`.
    """

    def __init__(self, read_layer: LayerReader) -> None:
        self._read_layer = read_layer
        self._constant: list[tuple[int, int]] = []

    def __call__(self, m: int, k: int) -> np.ndarray:
        """A layer, (time, width)."""
        values = self._read_layer(m, k)
        if is_constant(values):
            self._constant.append((m, k))
        return values

    def tell(self, film: str, models: np.ndarray, layers: np.ndarray) -> None:
        """Log the layers that were constant, by their labels.

        Parameters
        ----------
        film : str
            For the message.
        models : ndarray (model,) of str
        layers : ndarray (layer,) of str
        """
        if self._constant:
            named = ", ".join(f"{models[m]} {layers[k]}" for m, k in self._constant)
            _log.warning("%s: the same features in all rows, which predict nothing: %s", film, named)
