"""What networks of the ViT family (ViT, VideoMAE, ViViT, AST, TVLT) share: sizes, blocks, names in checkpoint files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from cinecube.features.networks.blocks import Block, Encoder, activation
from cinecube.features.networks.network import Checkpoint, Facts, check_architecture
from cinecube.store.base.labels import layer_labels
from cinecube.store.cube.schema import Stream

_BLOCK = re.compile(r"encoder\.blocks\.(\d+)\.(.+)\.(weight|bias)")
_PARTS = {
    "norm1": "layernorm_before",
    "attention.out": "attention.output.dense",
    "norm2": "layernorm_after",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
}
_ATTENTION = "attention.attention"
POOLINGS = ("mean", "patches", "cls", "last")
"""What makes sense where a CLS token stands before the patches."""


def vit_key(name: str, qkv_bias: Sequence[str] = ("query.bias", "key.bias", "value.bias")) -> str | list[str]:
    """The checkpoint's key of one of our parameters; names outside the blocks stay as they are.

    Parameters
    ----------
    name : str
        Ours: `encoder.blocks.0.attention.qkv.weight`.
    qkv_bias : sequence of str
        Where the biases of queries, keys and values stand; `ZERO` for one that the network has not.
    """
    match = _BLOCK.fullmatch(name)
    if match is None:
        return name
    number, part, kind = match.groups()
    layer = f"encoder.layer.{number}"
    if part != "attention.qkv":
        return f"{layer}.{_PARTS[part]}.{kind}"
    if kind == "weight":
        return [f"{layer}.{_ATTENTION}.{projection}.weight" for projection in ("query", "key", "value")]
    return [f"{layer}.{_ATTENTION}.{bias}" if bias else "" for bias in qkv_bias]


def vit_encoder(checkpoint: Checkpoint, default_act: str = "gelu", default_eps: float = 1e-12) -> Encoder:
    """The blocks that a configuration of the ViT family describes; what it leaves out is as in the base size."""
    config = checkpoint.config
    width = config.get("hidden_size", 768)
    return Encoder(
        Block(
            width,
            config.get("num_attention_heads", 12),
            config.get("intermediate_size", 4 * 768),
            activation(config.get("hidden_act", default_act), str(checkpoint.path)),
            config.get("layer_norm_eps", default_eps),
            bias=config.get("qkv_bias", True),
        )
        for _ in range(config.get("num_hidden_layers", 12))
    )


def describe_vit(checkpoint: Checkpoint, model_type: str, **facts: Any) -> Facts:
    """Facts of a network of the ViT family: one stream, all layers of one width, and what else is given.

    Raises
    ------
    StudyError
        If the checkpoint is of another architecture.
    """
    check_architecture(checkpoint, model_type)
    width, n_blocks = vit_size(checkpoint)
    labels = layer_labels(n_blocks)
    stream = Stream("", labels, [width] * len(labels))
    return Facts(**{"streams": (stream,), "poolings": POOLINGS, **facts})


def vit_size(checkpoint: Checkpoint) -> tuple[int, int]:
    """Width and number of blocks of a network of the ViT family."""
    config: Any = checkpoint.config
    return config.get("hidden_size", 768), config.get("num_hidden_layers", 12)


def grid(checkpoint: Checkpoint, default_patch: int = 16) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width of the picture and of its patches in pixels."""
    image, patch = checkpoint.config.get("image_size", 224), checkpoint.config.get("patch_size", default_patch)
    return _pair(image), _pair(patch)


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
