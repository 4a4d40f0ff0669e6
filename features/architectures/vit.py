"""ViT (Dosovitskiy et al. 2021): still frames, every one of a window, their mean."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cinecube.features.architectures.vit_family import describe_vit, grid, vit_encoder, vit_key, vit_size
from cinecube.features.networks.network import (
    ALL_FRAMES,
    Batch,
    Checkpoint,
    Facts,
    Features,
    Key,
    Network,
    Reading,
    read_checkpoint,
)
from cinecube.features.networks.pixels import HALF, Pixels, read_pixels
from cinecube.features.networks.taps import in_pieces, mean_over_frames, pool_tokens, read_states
from cinecube.features.networks.weights import build

VERSION = 2
_PIXELS = Pixels((224, 224), mean=HALF[0], std=HALF[1])


def describe(checkpoint: Checkpoint) -> Facts:
    """What a ViT checkpoint says about itself."""
    return describe_vit(
        checkpoint,
        "vit",
        frames_per_window=ALL_FRAMES,
        stills=True,
        final_norm=True,
        preprocessing=read_pixels(checkpoint, _PIXELS).as_dict(),
    )


class VitNetwork(nn.Module):
    """The architecture: a picture in patches, a CLS token before them."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        width, self.n_blocks = vit_size(checkpoint)
        image, patch = grid(checkpoint)
        n_patches = (image[0] // patch[0]) * (image[1] // patch[1])
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.cls = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, n_patches + 1, width))
        self.encoder = vit_encoder(checkpoint)
        self.norm = nn.LayerNorm(width, eps=checkpoint.config.get("layer_norm_eps", 1e-12))

    def states(self, pixels: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Layers of pictures (item, 3, y, x)."""
        patches = self.patches(pixels.to(self.cls.dtype)).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls.expand(len(pixels), -1, -1), patches], dim=1)
        return self.encoder.states(tokens + self.positions)


def rename(name: str) -> str | list[str]:
    """The checkpoint's key of one of our parameters."""
    names = {
        "patches.weight": "embeddings.patch_embeddings.projection.weight",
        "patches.bias": "embeddings.patch_embeddings.projection.bias",
        "cls": "embeddings.cls_token",
        "positions": "embeddings.position_embeddings",
        "norm.weight": "layernorm.weight",
        "norm.bias": "layernorm.bias",
    }
    return names.get(name) or vit_key(name)


class Vit:
    """A ViT read frame by frame."""

    def __init__(self, path: Path, reading: Reading) -> None:
        checkpoint = read_checkpoint(path, str(path))
        self._pixels, self._reading = read_pixels(checkpoint, _PIXELS), reading
        self._network = build(lambda: VitNetwork(checkpoint), path, rename, reading)
        self._pools = {"": pool_tokens(reading.pooling, n_special=1)}

    def prepare_frame(self, rgb: np.ndarray) -> np.ndarray:
        """Resize a frame: (height, width, 3) uint8 to (y, x, 3) uint8."""
        return self._pixels.prepare(rgb)

    def __call__(self, batch: Batch) -> Features:
        """Features of each window's frames, each read alone."""
        assert batch.frames is not None
        frames = batch.frames.reshape(-1, *batch.frames.shape[2:])
        found = in_pieces(self._run, self._network, self._network.positions.shape[1], frames)
        return mean_over_frames(found, len(batch.frames), self._reading.frame_pooling)

    def _run(self, frames: Tensor) -> dict[Key, Tensor]:
        network = self._network
        final = (network.n_blocks, network.norm) if self._reading.final_norm else None
        return read_states(network.states(self._pixels.normalise(frames)), self._reading.streams, self._pools, final)


NETWORK = Network(VERSION, describe, Vit, licence="apache-2.0")
