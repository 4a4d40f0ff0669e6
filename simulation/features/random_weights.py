"""Random weights whose layers can be told apart."""

from __future__ import annotations

import re

import numpy as np

from cinecube.simulation.setup.seeding import generator

# At transformers' own scale (0.02) the blocks of a small network all but copy their input.
_WEIGHT_STD = 0.3
_BIAS_STD = 0.1
# Most of these networks add each block to a stream that is never scaled back, so late blocks of equal size would
# change little of it and be hard to distinguish: what a block adds grows with its depth.
_GROWTH = 1.45
_INTO_STREAM = re.compile(
    r"(?:layers?|blocks)\.(\d+)\."
    r"(?:attention\.o_proj|mlp\.fc2|attention\.output\.dense|output\.dense|attn\.out_proj)\."
)


def draw_weight(seed: int, network: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values of a parameter, float32, that follow from its own name, so that no order matters.

    Parameters
    ----------
    seed : int
    network : str
    name : str
        Of the parameter.
    shape : tuple of int

    Returns
    -------
    array of float32
        Of that shape.
    """
    rng = generator(seed, "weights", network, name)
    values = rng.normal(0, 1, shape) * _spread(name, shape)
    if len(shape) == 1 and name.endswith("weight"):
        values += 1  # the only vectors that multiply are the scales of norms
    return values.astype(np.float32)


def _spread(name: str, shape: tuple[int, ...]) -> float:
    """Standard deviation of a parameter's values."""
    if "norm" in name or len(shape) == 1:
        return _BIAS_STD
    if "parametrizations" in name and name.endswith("original0"):
        return 1.0
    if "conv" in name or "patch" in name or "stem.proj" in name:
        # A kernel sums hundreds of inputs and has to keep their size.
        return float(np.sqrt(2 / np.prod(shape[1:])))
    block = _INTO_STREAM.search(name)
    return _WEIGHT_STD * (_GROWTH ** int(block[1]) if block else 1.0)
