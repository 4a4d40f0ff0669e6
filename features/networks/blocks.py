"""Transformer encoders, block by block, for the networks that transformers does not have: ImageBind and TVLT."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cinecube.store.base.errors import StudyError

Activation = Callable[[Tensor], Tensor]


def activation(name: str, where: str) -> Activation:
    """The activation that a configuration names.

    Parameters
    ----------
    name : str
    where : str
        The checkpoint, for messages.

    Returns
    -------
    callable
        Of tensors.

    Raises
    ------
    StudyError
        If it is unknown.
    """
    known: dict[str, Activation] = {
        "gelu": F.gelu,
        "gelu_fast": lambda x: F.gelu(x, approximate="tanh"),
        "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
        "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
        "relu": F.relu,
        "silu": F.silu,
        "swish": F.silu,
    }
    if name not in known:
        expected = f"one of {', '.join(known)}"
        raise StudyError(
            where=where, found=f"activation {name!r}", expected=expected, do="correct hidden_act in config.json"
        )
    return known[name]


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017), its three projections in one.

    Parameters
    ----------
    width, heads : int
        Dims, and heads that share them.
    bias : bool
        Whether queries, keys and values have biases.
    learned_pair : bool
        Whether one learned key and value follow those of the tokens.
    """

    def __init__(self, width: int, heads: int, bias: bool = True, learned_pair: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width)
        self.key = nn.Parameter(torch.empty(1, 1, width)) if learned_pair else None
        self.value = nn.Parameter(torch.empty(1, 1, width)) if learned_pair else None

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (item, token, dim) to the same shape."""
        items, _, width = tokens.shape
        query, key, value = self.qkv(tokens).chunk(3, dim=-1)
        if self.key is not None and self.value is not None:
            key = torch.cat([key, self.key.expand(items, -1, -1)], dim=1)
            value = torch.cat([value, self.value.expand(items, -1, -1)], dim=1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value))
        mixed = F.scaled_dot_product_attention(query, key, value)
        whole: Tensor = self.out(mixed.transpose(1, 2).reshape(items, -1, width))
        return whole


class EncoderBlock(nn.Module):
    """One block: attention, then a layer-wise perceptron, each after a norm and added to what it reads.

    Parameters
    ----------
    width, heads, hidden : int
        Dims, heads, and dims inside the perceptron.
    act : callable
        Its activation.
    eps : float
        Of both norms.
    bias, learned_pair : bool
        See `Attention`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        act: Activation,
        eps: float,
        *,
        bias: bool = True,
        learned_pair: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attention = Attention(width, heads, bias, learned_pair)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self._act = act

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (item, token, dim) to the same shape."""
        tokens = tokens + self.attention(self.norm1(tokens))
        out: Tensor = tokens + self.fc2(self._act(self.fc1(self.norm2(tokens))))
        return out


class Encoder(nn.Module):
    """A stack of blocks that hands out what leaves each of them.

    Parameters
    ----------
    blocks : iterable of EncoderBlock
        In order.
    """

    def __init__(self, blocks: Iterator[EncoderBlock]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def states(self, tokens: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Layers by number with their tokens (item, token, dim): 0 enters block 1, k leaves block k.

        A block runs when its layer is asked for, so who stops early does not pay for the rest.
        """
        yield 0, tokens
        for number, block in enumerate(self.blocks, start=1):
            tokens = block(tokens)
            yield number, tokens
