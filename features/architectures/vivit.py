"""ViViT (Arnab et al. 2021), its model of joint space and time: clips of 32 frames."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cinecube.features.architectures.vit import rename as rename_vit
from cinecube.features.architectures.vit_family import describe_vit, vit_encoder, vit_size
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
from cinecube.features.networks.pixels import HALF, Pixels, read_pixels
from cinecube.features.networks.taps import in_pieces, pool_tokens, read_states
from cinecube.features.networks.weights import build

VERSION = 1
# The official processor scales pixels to [-1, 1] and then normalises them as if they lay in [0, 1].
_PIXELS = Pixels(256, crop=(224, 224), scale=1 / 127.5, offset=-1.0, mean=HALF[0], std=HALF[1])


def describe(checkpoint: Checkpoint) -> Facts:
    """What a ViViT checkpoint says about itself."""
    return describe_vit(
        checkpoint,
        "vivit",
        frames_per_window=checkpoint.config.get("num_frames", 32),
        frames_fixed=True,
        # Stride 1, as the paper reads it: 32 frames are 1.3 s of a film.
        sampling="consecutive",
        final_norm=True,
        preprocessing=read_pixels(checkpoint, _PIXELS, default_crop=True).as_dict(),
    )


class VivitNetwork(nn.Module):
    """The architecture: a clip in tubes of two frames' patches, a CLS token before them."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        config = checkpoint.config
        width, self.n_blocks = vit_size(checkpoint)
        tube, image = tuple(config.get("tubelet_size", (2, 16, 16))), config.get("image_size", 224)
        n_tubes = (config.get("num_frames", 32) // tube[0]) * (image // tube[1]) * (image // tube[2])
        self.patches = nn.Conv3d(3, width, tube, tube)
        self.cls = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, n_tubes + 1, width))
        self.encoder = vit_encoder(checkpoint, default_act="gelu_fast", default_eps=1e-6)
        self.norm = nn.LayerNorm(width, eps=config.get("layer_norm_eps", 1e-6))

    def states(self, clips: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Layers of clips (item, frame, 3, y, x)."""
        patches = self.patches(clips.transpose(1, 2).to(self.cls.dtype)).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls.expand(len(clips), -1, -1), patches], dim=1)
        return self.encoder.states(tokens + self.positions)


class Vivit:
    """A ViViT read clip by clip."""

    def __init__(self, path: Path, reading: Reading) -> None:
        checkpoint = read_checkpoint(path, str(path))
        self._pixels, self._reading = read_pixels(checkpoint, _PIXELS, default_crop=True), reading
        self._network = build(lambda: VivitNetwork(checkpoint), path, rename_vit, reading)
        self._pools = {"": pool_tokens(reading.pooling, n_special=1)}

    def prepare_frame(self, rgb: np.ndarray) -> np.ndarray:
        """Resize and crop a frame: (height, width, 3) uint8 to (y, x, 3) uint8."""
        return self._pixels.prepare(rgb)

    def __call__(self, batch: Batch) -> Features:
        """Features of clips."""
        assert batch.frames is not None
        return in_pieces(self._run, self._network, self._network.positions.shape[1], batch.frames)

    def _run(self, clips: Tensor) -> dict[Key, Tensor]:
        network = self._network
        final = (network.n_blocks, network.norm) if self._reading.final_norm else None
        return read_states(network.states(self._pixels.normalise(clips)), self._reading.streams, self._pools, final)


NETWORK = Network(VERSION, describe, Vivit, licence="mit")
