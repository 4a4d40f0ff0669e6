"""From tokens to vectors: pooling each layer as it passes, one layer's tokens in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from cinecube.features.networks.network import Features, Key
from cinecube.store.base.labels import layer_label, layer_number
from cinecube.store.cube.schema import Stream

Pool = Callable[[Tensor], Tensor]
"""(item, token, dim) to (item, dim)."""

# Tokens of one pass on a CPU: more of them are no faster there, and hidden layers of a perceptron are four times wider.
_TOKENS_AT_ONCE = 16384


def pool_tokens(pooling: str, n_special: int = 0) -> Pool:
    """Pooling by its name in `params.yaml`.

    Parameters
    ----------
    pooling : str
        `mean` of all tokens, `patches` the mean without special ones, `cls` the first, `last` the last.
    n_special : int
        Tokens before the first patch (CLS, distillation, registers).

    Returns
    -------
    callable
        Tokens (item, token, dim) -> vectors (item, dim).
    """
    pools: dict[str, Pool] = {
        "mean": lambda tokens: tokens.mean(dim=1, dtype=torch.float32),
        "patches": lambda tokens: tokens[:, n_special:].mean(dim=1, dtype=torch.float32),
        "cls": lambda tokens: tokens[:, 0],
        "last": lambda tokens: tokens[:, -1],
    }
    return pools[pooling]


def own_tokens(window_s: float, tokens_per_s: float) -> int:
    """Tokens that a window's own sound fills, at least one; the look-back's come before them.

    Parameters
    ----------
    window_s : float
    tokens_per_s : float

    Returns
    -------
    int
    """
    return max(1, math.floor(window_s * tokens_per_s + 1e-9))


def read_states(
    states: Iterable[tuple[int, Tensor]],
    streams: Sequence[Stream],
    pools: Mapping[str, Pool],
    final: tuple[int, nn.Module] | None = None,
) -> dict[Key, Tensor]:
    """Pool the layers that are read; deeper ones are never computed.

    Parameters
    ----------
    states : iterable of (int, Tensor)
        Layers by number with their tokens (item, token, dim).
    streams : sequence of Stream
        Which layers of which stream; those without a pool are passed over, and so are heads.
    pools : Mapping of str to callable
        By stream.
    final : (int, nn.Module), optional
        The last block's number, and the norm to apply to its tokens before they are pooled.

    Returns
    -------
    dict of (stream, layer) to Tensor
        (item, dim).
    """
    wanted = {stream.name: set(stream.layers) for stream in streams if stream.name in pools}
    numbers = [layer_number(label) for labels in wanted.values() for label in labels]
    deepest = max((number for number in numbers if number is not None), default=-1)
    found: dict[Key, Tensor] = {}
    if deepest < 0:
        return found
    for number, tokens in states:
        label = layer_label(number)
        if final is not None and number == final[0]:
            tokens = final[1](tokens)
        for name, labels in wanted.items():
            if label in labels:
                found[name, label] = pools[name](tokens)
        if number == deepest:
            break
    return found


def in_pieces(
    run: Callable[..., Mapping[Key, Tensor]], network: nn.Module, n_tokens: int, *inputs: np.ndarray
) -> Features:
    """Features of a batch whose memory is bounded by tokens, whatever its number of rows.

    Parameters
    ----------
    run : callable
        `(*tensors) -> {(stream, layer): (item, dim)}`.
    network : nn.Module
        Says which device and number format.
    n_tokens : int
        Of one item.
    *inputs : ndarray
        (item, …) each.

    Returns
    -------
    dict of (stream, layer) to array of float32, shape (item, dim)
    """
    parameter = next(network.parameters())
    size = len(inputs[0])
    if parameter.device.type == "cpu":
        size = max(1, _TOKENS_AT_ONCE // n_tokens)
    parts: list[dict[Key, np.ndarray]] = []
    with torch.inference_mode():
        for first in range(0, len(inputs[0]), size):
            piece = [torch.from_numpy(np.ascontiguousarray(values[first : first + size])) for values in inputs]
            found = run(*(values.to(parameter.device) for values in piece))
            parts.append({key: value.float().cpu().numpy() for key, value in found.items()})
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def mean_over_frames(features: Features, rows: int, frame_pooling: str) -> Features:
    """Features of still frames, (row × frame, dim) each, to one vector a row: the frames' mean, or the last one's.

    Parameters
    ----------
    features : Features
        (row × frame, dim) of each stream and layer.
    rows : int
    frame_pooling : {"mean", "last"}

    Returns
    -------
    Features
        (row, dim) of each stream and layer.
    """
    shaped = {key: values.reshape(rows, -1, values.shape[1]) for key, values in features.items()}
    if frame_pooling == "last":
        return {key: values[:, -1] for key, values in shaped.items()}
    return {key: values.mean(axis=1) for key, values in shaped.items()}
