"""Reading a torch network's layers: hooks on its blocks, whatever a library's `hidden_states` means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Pool = Callable[[Tensor], Tensor]


class Taps:
    """Takes what enters the first block and what leaves each block, pooled as it passes.

    Pooling inside the hooks keeps one layer's tokens in memory at a time.

    Parameters
    ----------
    network : nn.Module
        Called with one tensor.
    blocks : sequence of nn.Module
        Its blocks in order; each takes and returns tokens (item, token, dim).
    layers : sequence of int
        Layers to take: 0 enters the first block, k leaves block k.
    pool : callable
        `(item, token, dim) -> (item, dim)`.
    """

    def __init__(self, network: nn.Module, blocks: Sequence[nn.Module], layers: Sequence[int], pool: Pool) -> None:
        self._network, self._layers, self._pool = network, layers, pool
        self._device = next(network.parameters()).device
        self._taken: dict[int, Tensor] = {}
        if 0 in layers:
            blocks[0].register_forward_pre_hook(self._take_input, with_kwargs=True)
        for layer in layers:
            if layer > 0:
                blocks[layer - 1].register_forward_hook(partial(self._take_output, layer))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """One pass: `values` (item, …) to features (item, dim, layer) float32."""
        self._taken.clear()
        with torch.inference_mode():
            self._network(torch.from_numpy(np.ascontiguousarray(values)).to(self._device))
            stacked = torch.stack([self._taken.pop(layer) for layer in self._layers], dim=-1)
            return stacked.float().cpu().numpy()

    def _take_input(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tokens = args[0] if args else kwargs["hidden_states"]
        self._taken[0] = self._pool(tokens)

    def _take_output(self, layer: int, _: nn.Module, __: Any, output: Any) -> None:
        self._taken[layer] = self._pool(output[0] if isinstance(output, tuple) else output)


def pool_tokens(pooling: str) -> Pool:
    """Pooling by its name in `params.yaml`: `mean` of all tokens, `cls` the first, `last` the last."""
    pools: dict[str, Pool] = {
        "mean": lambda tokens: tokens.mean(dim=1),
        "cls": lambda tokens: tokens[:, 0],
        "last": lambda tokens: tokens[:, -1],
    }
    return pools[pooling]
