"""Networks of transformers read through hooks on their blocks: each layer is pooled as it passes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from cinecube.features.hf.loading import unfit
from cinecube.features.networks.network import Checkpoint, Key, Reading
from cinecube.features.networks.taps import Pool
from cinecube.store.base.labels import layer_label
from cinecube.store.cube.schema import Stream

_NORMS = (
    "layernorm",
    "layer_norm",
    "norm",
    "post_layernorm",
    "final_layer_norm",
    "out_norm",
    "rms_norm",
    "ln_post",
)


class _Enough(Exception):
    """Ends a pass behind the deepest layer that is read."""


class Tapped:
    """A network whose blocks hand out what enters the first of them and leaves each.

    Parameters
    ----------
    network : PreTrainedModel
        The encoder alone.
    stream : Stream
        All its layers.
    checkpoint : Checkpoint
        For messages.
    reading : Reading
        The layers that are read, and whether the last is taken after the norm that follows it.
    options : Mapping, optional
        What else the network is told; tensors are (1, …).

    Attributes
    ----------
    blocks : sequence of nn.Module
    norm : nn.Module or None
        The one that seems to follow the last block.

    Raises
    ------
    StudyError
        If it has no such list of blocks, or no norm where one is asked for.
    """

    def __init__(
        self,
        network: Any,
        stream: Stream,
        checkpoint: Checkpoint,
        reading: Reading,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.network, self._options = network, options or {}
        self.blocks, self.norm = _find_blocks(network, stream, checkpoint, reading.final_norm)
        self._taken: dict[Key, Tensor] = {}
        self._pool: Pool = lambda tokens: tokens
        wanted = set(reading.streams[0].layers)
        if layer_label(0) in wanted:
            self.blocks[0].register_forward_pre_hook(self._take_input, with_kwargs=True)
        for number, block in enumerate(self.blocks, start=1):
            if layer_label(number) in wanted:
                norm = self.norm if reading.final_norm and number == len(self.blocks) else None
                block.register_forward_hook(partial(self._take_output, layer_label(number), norm))
        self._stop_behind(wanted)

    def _stop_behind(self, wanted: set[str]) -> None:
        deepest = max((number for number in range(len(self.blocks) + 1) if layer_label(number) in wanted), default=0)
        if deepest < len(self.blocks):
            self.blocks[deepest].register_forward_pre_hook(_stop)

    def read(self, inputs: Mapping[str, Tensor], pool: Pool) -> dict[Key, Tensor]:
        """Pooled tokens of every layer that is read, in one pass that ends behind the deepest.

        Parameters
        ----------
        inputs : Mapping of str to Tensor
            Arguments of the network.
        pool : callable
            `(item, token, dim) -> (item, dim)`.

        Returns
        -------
        dict of (stream, layer) to Tensor
        """
        self._taken, self._pool = {}, pool
        with suppress(_Enough):
            self.call(inputs)
        return self._taken

    def call(self, inputs: Mapping[str, Tensor], **options: Any) -> Any:
        """The network's own answer to inputs by name, (row, …) each.

        Parameters
        ----------
        inputs : Mapping of str to Tensor
            Floating-point numbers are brought to the precision of the network.
        **options
            Further arguments of the network.

        Returns
        -------
        object
            As transformers makes it.
        """
        dtype = next(self.network.parameters()).dtype
        given = {name: values.to(dtype) if values.is_floating_point() else values for name, values in inputs.items()}
        n_rows = len(next(iter(given.values())))
        own = {
            name: value.expand(n_rows, -1) if isinstance(value, Tensor) else value
            for name, value in self._options.items()
        }
        return self.network(**given, **own, **options)

    def _take_input(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._take(layer_label(0), args[0] if args else kwargs["hidden_states"])

    def _take_output(self, label: str, norm: nn.Module | None, _: nn.Module, __: Any, output: Any) -> None:
        tokens = output[0] if isinstance(output, tuple) else output
        self._take(label, tokens if norm is None else norm(tokens))

    def _take(self, label: str, tokens: Tensor) -> None:
        self._taken["", label] = self._pool(in_line(tokens))


def _stop(*_: Any) -> None:
    raise _Enough


def in_line(tokens: Tensor) -> Tensor:
    """Tokens (row, …, dim) one after another: (row, token, dim)."""
    return tokens if tokens.ndim == 3 else tokens.flatten(1, -2)


def _find_blocks(
    network: nn.Module, stream: Stream, checkpoint: Checkpoint, normed: bool
) -> tuple[nn.ModuleList, nn.Module | None]:
    """The list of a network's blocks, and the norm that seems to follow it."""
    n_blocks, width = len(stream.layers) - 1, stream.widths[0]
    lists = [
        (parent, child)
        for parent in network.modules()
        for child in parent.children()
        if isinstance(child, nn.ModuleList) and not isinstance(child, ParametrizationList) and len(child) == n_blocks
    ]
    if not lists:
        raise unfit(checkpoint, f"no list of {n_blocks} blocks", "one, as the configuration says")
    # Convolutions before the blocks, or adapters behind them, may be as many, but hold less.
    parent, blocks = max(lists, key=lambda found: sum(values.numel() for values in found[1].parameters()))
    norm = _norm_of(parent, width) or _norm_of(network, width)
    if normed and norm is None:
        raise unfit(checkpoint, "no norm after the last block", "one, as final_norm: true says")
    return blocks, norm


def _norm_of(parent: nn.Module, width: int) -> nn.Module | None:
    named = ((name, child) for name, child in parent.named_children() if name in _NORMS)
    return next((child for _, child in named if all(len(values) == width for values in child.parameters())), None)
