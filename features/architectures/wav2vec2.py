"""wav2vec 2.0 (Baevski et al. 2020): sound, with a look back before each window."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cinecube.features.networks.blocks import Block, Encoder, activation
from cinecube.features.networks.network import (
    Batch,
    Checkpoint,
    Facts,
    Features,
    Key,
    Network,
    Reading,
    check_architecture,
    read_checkpoint,
)
from cinecube.features.networks.taps import in_pieces, pool_tokens, read_states
from cinecube.features.networks.weights import build
from cinecube.store.base.labels import layer_labels
from cinecube.store.cube.schema import Stream

VERSION = 2
_KERNELS = (10, 3, 3, 3, 3, 2, 2)
_STRIDES = (5, 2, 2, 2, 2, 2, 2)
_VARIANCE_FLOOR = 1e-7


def describe(checkpoint: Checkpoint) -> Facts:
    """What a wav2vec 2.0 checkpoint says about itself. It has no CLS token."""
    check_architecture(checkpoint, "wav2vec2")
    config, given = checkpoint.config, checkpoint.processor
    n_blocks = config.get("num_hidden_layers", 12)
    labels = layer_labels(n_blocks)
    return Facts(
        streams=(Stream("", labels, [config.get("hidden_size", 768)] * len(labels)),),
        rate_hz=given.get("sampling_rate", 16000),
        context_s=16.0,
        poolings=("mean", "last"),
        final_norm=bool(config.get("do_stable_layer_norm", False)),
        preprocessing={"normalise": given.get("do_normalize", True), "channels": "mean"},
    )


class _Convolution(nn.Module):
    """One convolution over samples with its norm: over time per channel, over channels, or none."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int, bias: bool, norm: str, act: Any) -> None:
        super().__init__()
        self.conv = nn.Conv1d(n_in, n_out, kernel, stride, bias=bias)
        self.norm: nn.Module | None = None
        if norm == "group":
            self.norm = nn.GroupNorm(n_out, n_out)
        elif norm == "layer":
            self.norm = nn.LayerNorm(n_out)
        self._act = act

    def forward(self, sound: Tensor) -> Tensor:
        """(item, channel, sample) to fewer samples."""
        sound = self.conv(sound)
        if isinstance(self.norm, nn.LayerNorm):
            sound = self.norm(sound.transpose(1, 2)).transpose(1, 2)
        elif self.norm is not None:
            sound = self.norm(sound)
        return self._act(sound)


class Wav2Vec2Network(nn.Module):
    """The architecture: convolutions to 50 tokens a second, positions by one wide convolution, blocks."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        config = checkpoint.config
        dims = config.get("conv_dim", (512,) * 7)
        self.kernels, self.strides = config.get("conv_kernel", _KERNELS), config.get("conv_stride", _STRIDES)
        act = activation(config.get("feat_extract_activation", "gelu"), str(checkpoint.path))
        norm, bias = config.get("feat_extract_norm", "group"), config.get("conv_bias", False)
        self.convolutions = nn.ModuleList(
            _Convolution(n_in, n_out, kernel, stride, bias, norm if norm == "layer" or place == 0 else "", act)
            for place, (n_in, n_out, kernel, stride) in enumerate(
                zip((1, *dims[:-1]), dims, self.kernels, self.strides, strict=True)
            )
        )
        self.width, self.n_blocks = config.get("hidden_size", 768), config.get("num_hidden_layers", 12)
        eps = config.get("layer_norm_eps", 1e-5)
        self.norm_first = bool(config.get("do_stable_layer_norm", False))
        self.projection_norm = nn.LayerNorm(dims[-1], eps=eps)
        self.projection = nn.Linear(dims[-1], self.width)
        reach, self.groups = config.get("num_conv_pos_embeddings", 128), config.get("num_conv_pos_embedding_groups", 16)
        # A weight in two parts, direction and length (Salimans & Kingma 2016), the length per place in the kernel.
        self.position_direction = nn.Parameter(torch.empty(self.width, self.width // self.groups, reach))
        self.position_length = nn.Parameter(torch.empty(1, 1, reach))
        self.position_bias = nn.Parameter(torch.empty(self.width))
        self._act = act
        self.norm = nn.LayerNorm(self.width, eps=eps)
        self.encoder = Encoder(
            Block(
                self.width,
                config.get("num_attention_heads", 12),
                config.get("intermediate_size", 3072),
                activation(config.get("hidden_act", "gelu"), str(checkpoint.path)),
                eps,
                norm_first=self.norm_first,
            )
            for _ in range(self.n_blocks)
        )

    def states(self, sound: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Layers of sound (item, sample)."""
        sound = sound[:, None].to(self.position_bias.dtype)
        for convolution in self.convolutions:
            sound = convolution(sound)
        tokens = self.projection(self.projection_norm(sound.transpose(1, 2)))
        tokens = tokens + self._positions(tokens)
        return self.encoder.states(tokens if self.norm_first else self.norm(tokens))

    def settle(self, state: dict[str, Tensor]) -> None:
        """Make the lengths of freshly drawn weights those of their directions."""
        state["position_length"] = state["position_direction"].norm(dim=(0, 1), keepdim=True)

    def _positions(self, tokens: Tensor) -> Tensor:
        direction = self.position_direction
        weight = self.position_length * direction / direction.norm(dim=(0, 1), keepdim=True)
        reach = weight.shape[-1]
        places = F.conv1d(tokens.transpose(1, 2), weight, self.position_bias, padding=reach // 2, groups=self.groups)[
            ..., : tokens.shape[1]
        ]
        return self._act(places).transpose(1, 2)


_NAMES = {
    "projection_norm": "feature_projection.layer_norm",
    "projection": "feature_projection.projection",
    "norm": "encoder.layer_norm",
}
_PARTS = {
    "norm1": "layer_norm",
    "attention.out": "attention.out_proj",
    "norm2": "final_layer_norm",
    "fc1": "feed_forward.intermediate_dense",
    "fc2": "feed_forward.output_dense",
}
_POSITIONS = {"position_direction": "weight_v", "position_length": "weight_g", "position_bias": "bias"}


def rename(name: str) -> str | list[str]:
    """The checkpoint's key of one of our parameters."""
    if name in _POSITIONS:
        return f"encoder.pos_conv_embed.conv.{_POSITIONS[name]}"
    part, kind = name.rsplit(".", 1)
    if match := re.fullmatch(r"convolutions\.(\d+)\.(conv|norm)", part):
        return f"feature_extractor.conv_layers.{match[1]}.{'conv' if match[2] == 'conv' else 'layer_norm'}.{kind}"
    if match := re.fullmatch(r"encoder\.blocks\.(\d+)\.(.+)", part):
        layer = f"encoder.layers.{match[1]}"
        if match[2] == "attention.qkv":
            return [f"{layer}.attention.{name}.{kind}" for name in ("q_proj", "k_proj", "v_proj")]
        return f"{layer}.{_PARTS[match[2]]}.{kind}"
    return f"{_NAMES[part]}.{kind}"


class Wav2Vec2:
    """A wav2vec 2.0 encoder; of the look-back it attends to, only the window's own tokens are pooled."""

    def __init__(self, path: Path, reading: Reading) -> None:
        checkpoint = read_checkpoint(path, str(path))
        self._reading, self._normalise = reading, checkpoint.processor.get("do_normalize", True)
        self._network = build(lambda: Wav2Vec2Network(checkpoint), path, rename, reading)
        self._shortest = shortest_input(self._network.kernels, self._network.strides)
        self._samples_per_token = math.prod(self._network.strides)
        n_own = own_tokens(reading.window_s, reading.rate_hz, self._samples_per_token)
        pool = pool_tokens(reading.pooling)
        self._pools = {"": lambda tokens: pool(tokens[:, -n_own:])}

    def prepare_frame(self, rgb: np.ndarray) -> np.ndarray:
        """No frame is read."""
        raise NotImplementedError("wav2vec 2.0 reads sound only")

    def __call__(self, batch: Batch) -> Features:
        """Features of sound windows of equal length."""
        assert batch.sound is not None
        sound = standardised(batch.sound) if self._normalise else batch.sound
        # Silence before the film began; the convolutions need that many samples for their first token.
        sound = np.pad(sound, ((0, 0), (max(0, self._shortest - sound.shape[1]), 0)))
        return in_pieces(self._run, self._network, sound.shape[1] // self._samples_per_token + 1, sound)

    def _run(self, sound: Tensor) -> dict[Key, Tensor]:
        network = self._network
        final = (network.n_blocks, network.norm) if self._reading.final_norm else None
        return read_states(network.states(sound), self._reading.streams, self._pools, final)


def standardised(sound: np.ndarray) -> np.ndarray:
    """Each window (row, sample) with mean 0 and variance 1."""
    mean, variance = sound.mean(axis=1, keepdims=True), sound.var(axis=1, keepdims=True)
    scaled: np.ndarray = (sound - mean) / np.sqrt(variance + np.float32(_VARIANCE_FLOOR))
    return scaled


def own_tokens(window_s: float, rate_hz: int, samples_per_token: int) -> int:
    """Tokens that a window's own sound fills; the look-back's come before them."""
    return max(1, math.floor(window_s * rate_hz / samples_per_token + 1e-9))


def shortest_input(kernels: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Samples that a stack of convolutions needs to return one token."""
    samples = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples


NETWORK = Network(VERSION, describe, Wav2Vec2, licence="apache-2.0")
