"""VideoMAE (Tong et al. 2022): clips of 16 frames."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cinecube.features.architectures.vit_family import describe_vit, grid, vit_encoder, vit_key, vit_size
from cinecube.features.networks.network import (
    Batch,
    Checkpoint,
    Facts,
    Features,
    Key,
    Network,
    Reading,
    read_checkpoint,
)
from cinecube.features.networks.pixels import IMAGENET, Pixels, read_pixels
from cinecube.features.networks.taps import in_pieces, pool_tokens, read_states
from cinecube.features.networks.weights import ZERO, build

VERSION = 2
_PIXELS = Pixels(224, crop=(224, 224), mean=IMAGENET[0], std=IMAGENET[1])


def describe(checkpoint: Checkpoint) -> Facts:
    """What a VideoMAE checkpoint says about itself. It has no CLS token, and a fixed number of frames."""
    return describe_vit(
        checkpoint,
        "videomae",
        frames_per_window=checkpoint.config.get("num_frames", 16),
        frames_fixed=True,
        poolings=("mean", "last"),
        final_norm=not checkpoint.config.get("use_mean_pooling", True),
        preprocessing=read_pixels(checkpoint, _PIXELS, default_crop=True).as_dict(),
    )


class VideoMaeNetwork(nn.Module):
    """The architecture: a clip in tubes of two frames' patches, fixed waves for positions."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        config = checkpoint.config
        width, self.n_blocks = vit_size(checkpoint)
        image, patch = grid(checkpoint)
        tube = (config.get("tubelet_size", 2), *patch)
        n_frames = config.get("num_frames", 16)
        self.n_tokens = (n_frames // tube[0]) * (image[0] // patch[0]) * (image[1] // patch[1])
        self.tubes = nn.Conv3d(3, width, tube, tube)
        self.encoder = vit_encoder(checkpoint)
        normed = not config.get("use_mean_pooling", True)
        self.norm = nn.LayerNorm(width, eps=config.get("layer_norm_eps", 1e-12)) if normed else None

    def states(self, clips: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Layers of clips (item, frame, 3, y, x)."""
        weight = self.tubes.weight
        tokens = self.tubes(clips.transpose(1, 2).to(weight.dtype)).flatten(2).transpose(1, 2)
        waves = position_waves(self.n_tokens, tokens.shape[-1]).to(weight.device, weight.dtype)
        return self.encoder.states(tokens + waves)


def position_waves(n_tokens: int, width: int) -> Tensor:
    """Sines and cosines of a token's number (Vaswani et al. 2017, §3.5), (token, dim) float32."""
    dims = np.arange(width)
    angles = np.arange(n_tokens)[:, None] / np.power(10000, 2 * (dims // 2) / width)
    waves = np.where(dims % 2 == 0, np.sin(angles), np.cos(angles))
    return torch.from_numpy(waves.astype(np.float32))


def rename(name: str) -> str | list[str]:
    """The checkpoint's key of one of our parameters. Keys of attention have no bias."""
    names = {
        "tubes.weight": "embeddings.patch_embeddings.projection.weight",
        "tubes.bias": "embeddings.patch_embeddings.projection.bias",
        "norm.weight": "layernorm.weight",
        "norm.bias": "layernorm.bias",
    }
    return names.get(name) or vit_key(name, qkv_bias=("q_bias", ZERO, "v_bias"))


class VideoMae:
    """A VideoMAE encoder read clip by clip."""

    def __init__(self, path: Path, reading: Reading) -> None:
        checkpoint = read_checkpoint(path, str(path))
        self._pixels, self._reading = read_pixels(checkpoint, _PIXELS, default_crop=True), reading
        self._network = build(lambda: VideoMaeNetwork(checkpoint), path, rename, reading)
        self._pools = {"": pool_tokens(reading.pooling)}

    def prepare_frame(self, rgb: np.ndarray) -> np.ndarray:
        """Resize and crop a frame: (height, width, 3) uint8 to (y, x, 3) uint8."""
        return self._pixels.prepare(rgb)

    def __call__(self, batch: Batch) -> Features:
        """Features of clips."""
        assert batch.frames is not None
        return in_pieces(self._run, self._network, self._network.n_tokens, batch.frames)

    def _run(self, clips: Tensor) -> dict[Key, Tensor]:
        network = self._network
        normed = self._reading.final_norm and network.norm is not None
        final = (network.n_blocks, network.norm) if normed and network.norm is not None else None
        return read_states(network.states(self._pixels.normalise(clips)), self._reading.streams, self._pools, final)


# Of the official weights: CC BY-NC 4.0, as the card of `MCG-NJU/videomae-base` says.
NETWORK = Network(VERSION, describe, VideoMae, licence="cc-by-nc-4.0")
