"""TVLT (Tang et al. 2022): eight frames and their sound in one sequence; three streams of one pass.

`video` pools the tokens of the picture, `audio` those of the sound, `joint` all of them, CLS included. All three have
seen both modalities: they are parts of one joint sequence, not unimodal networks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cinecube.features.networks.blocks import Encoder, EncoderBlock, activation
from cinecube.features.networks.mel import tvlt_log_mel
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
from cinecube.features.networks.pixels import HALF, Pixels, read_pixels
from cinecube.features.networks.taps import Pool, in_pieces, pool_tokens, read_states
from cinecube.features.networks.weights import build
from cinecube.store.base.labels import layer_labels
from cinecube.store.cube.schema import Stream

VERSION = 1
STREAMS = ("video", "audio", "joint")
_PIXELS = Pixels(224, crop=(224, 224), mean=HALF[0], std=HALF[1])
_RATE_HZ = 44_100
_EPS = 1e-6


def describe(checkpoint: Checkpoint) -> Facts:
    """Facts that a TVLT checkpoint states about itself."""
    check_architecture(checkpoint, "tvlt")
    width, n_blocks = _size(checkpoint)
    labels = layer_labels(n_blocks)
    return Facts(
        streams=tuple(Stream(name, labels, [width] * len(labels)) for name in STREAMS),
        frames_per_window=checkpoint.config.get("num_frames", 8),
        sampling="ends",
        rate_hz=_RATE_HZ,
        longest_s=_longest_s(checkpoint),
        poolings=("mean", "last"),
        final_norm=not checkpoint.config.get("use_mean_pooling", False),
        preprocessing=_pixels(checkpoint).as_dict(sound="log mel, 2048 samples every 512", bands=_bands(checkpoint)),
    )


def _size(checkpoint: Checkpoint) -> tuple[int, int]:
    """Width and number of blocks; what a configuration leaves out is as in the base size."""
    return checkpoint.config.get("hidden_size", 768), checkpoint.config.get("num_hidden_layers", 12)


def _pixels(checkpoint: Checkpoint) -> Pixels:
    return read_pixels(checkpoint, _PIXELS, default_crop=True)


def _bands(checkpoint: Checkpoint) -> int:
    return int(checkpoint.config.get("frequency_length", 128))


def _longest_s(checkpoint: Checkpoint) -> float:
    """Seconds of sound that have positions."""
    return float(checkpoint.config.get("spectrogram_length", 2048)) * 512 / _RATE_HZ


def _square(value: Any) -> int:
    return int(value if isinstance(value, int) else value[0])


class TvltNetwork(nn.Module):
    """The architecture: CLS, patches of frames, patches of the sound's mel picture."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        config = checkpoint.config
        width, self.n_blocks = _size(checkpoint)
        image, patch = config.get("image_size", 224), _square(config.get("image_patch_size", 16))
        sound_patch = _square(config.get("audio_patch_size", 16))
        n_frames, n_times = config.get("num_frames", 8), config.get("spectrogram_length", 2048) // sound_patch
        n_bands = _bands(checkpoint) // sound_patch

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(1, *shape, width))

        self.sound_patch = sound_patch
        self.frame_patches = nn.Conv2d(config.get("num_image_channels", 3), width, patch, patch)
        self.sound_patches = nn.Conv2d(config.get("num_audio_channels", 1), width, sound_patch, sound_patch)
        self.cls = parameter(1)
        self.frame_places, self.frame_times, self.frame_type = (
            parameter((image // patch) ** 2),
            parameter(n_frames),
            parameter(1),
        )
        self.sound_times, self.sound_bands, self.sound_type = parameter(n_times), parameter(n_bands), parameter(1)
        act, eps = (
            activation(config.get("hidden_act", "gelu"), str(checkpoint.path)),
            config.get("layer_norm_eps", _EPS),
        )
        heads, hidden = config.get("num_attention_heads", 12), config.get("intermediate_size", 4 * 768)
        bias, eps = config.get("qkv_bias", True), config.get("layer_norm_eps", _EPS)
        self.encoder = Encoder(EncoderBlock(width, heads, hidden, act, eps, bias=bias) for _ in range(self.n_blocks))
        self.norm = None if config.get("use_mean_pooling", False) else nn.LayerNorm(width, eps=eps)

    def states(self, frames: Tensor, mel: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Layers of clips: frames (item, frame, 3, y, x), and mel features of their sound (item, time, band).

        Parameters
        ----------
        frames : Tensor (item, frame, 3, y, x)
        mel : Tensor (item, time, band)

        Yields
        ------
        number : int
            The layer's.
        tokens : Tensor (item, token, dim)
        """
        pictures = self._frame_tokens(frames.to(self.cls.dtype))
        sound = self._sound_tokens(mel.to(self.cls.dtype))
        return self.encoder.states(torch.cat([self.cls.expand(len(frames), -1, -1), pictures, sound], dim=1))

    def _frame_tokens(self, frames: Tensor) -> Tensor:
        """Frame by frame, each row by row."""
        patches = self.frame_patches(frames.flatten(0, 1)).flatten(2).transpose(1, 2)
        patches = patches.unflatten(0, frames.shape[:2]) + self.frame_places
        times = self.frame_times[:, : frames.shape[1], None]
        return (patches + times).flatten(1, 2) + self.frame_type

    def _sound_tokens(self, mel: Tensor) -> Tensor:
        """Time by time, each band by band."""
        patches = self.sound_patches(mel[:, None]).permute(0, 2, 3, 1)
        times = self.sound_times[:, : patches.shape[1], None]
        return (patches + self.sound_bands[:, None] + times).flatten(1, 2) + self.sound_type

    def n_frame_tokens(self, n_frames: int) -> int:
        """Tokens of a clip's picture."""
        return n_frames * self.frame_places.shape[1]


_BLOCK = re.compile(r"encoder\.blocks\.(\d+)\.(.+)\.(weight|bias)")
_PARTS = {
    "norm1": "layernorm_before",
    "attention.out": "attention.output.dense",
    "norm2": "layernorm_after",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
}
_NAMES = {
    "frame_patches": "pixel_embeddings.patch_embeddings.projection",
    "sound_patches": "audio_embeddings.patch_embeddings.projection",
    "cls": "cls_embedding",
    "frame_places": "pixel_embeddings.pos_embed_v",
    "frame_times": "pixel_embeddings.temporal_embed",
    "frame_type": "pixel_embeddings.type_embed_v",
    "sound_times": "audio_embeddings.pos_embed_a",
    "sound_bands": "audio_embeddings.freq_embed",
    "sound_type": "audio_embeddings.type_embed_a",
    "norm": "layernorm",
}


def rename(name: str) -> str | list[str]:
    """The checkpoint's key of one of our parameters."""
    match = _BLOCK.fullmatch(name)
    if match is None:
        part, dot, kind = name.partition(".")
        return _NAMES[part] + dot + kind
    number, part, kind = match.groups()
    layer = f"encoder.layer.{number}"
    if part == "attention.qkv":
        return [f"{layer}.attention.attention.{projection}.{kind}" for projection in ("query", "key", "value")]
    return f"{layer}.{_PARTS[part]}.{kind}"


class Tvlt:
    """A TVLT encoder read clip by clip."""

    def __init__(self, path: Path, reading: Reading) -> None:
        checkpoint = read_checkpoint(path, str(path))
        self._pixels, self._bands, self._reading = _pixels(checkpoint), _bands(checkpoint), reading
        self._network = build(lambda: TvltNetwork(checkpoint), path, rename, reading)

    def prepare_frame(self, rgb: np.ndarray) -> np.ndarray:
        """Resize and crop a frame: (height, width, 3) uint8 to (y, x, 3) uint8."""
        return self._pixels.prepare(rgb)

    def __call__(self, batch: Batch) -> Features:
        """Features of clips with their sound."""
        assert batch.frames is not None
        assert batch.sound is not None
        network = self._network
        mel = tvlt_log_mel(batch.sound, self._bands, network.sound_patch)
        n_frame_tokens = network.n_frame_tokens(batch.frames.shape[1])
        n_sound_tokens = mel.shape[1] * mel.shape[2] // network.sound_patch**2
        pools = self._pools(n_frame_tokens)

        def run(frames: Tensor, sound: Tensor) -> dict[Key, Tensor]:
            final = (network.n_blocks, network.norm) if self._reading.final_norm and network.norm is not None else None
            states = network.states(self._pixels.normalise(frames), sound)
            return read_states(states, self._reading.streams, pools, final)

        return in_pieces(run, network, 1 + n_frame_tokens + n_sound_tokens, batch.frames, mel)

    def _pools(self, n_frame_tokens: int) -> dict[str, Pool]:
        pool, sound = pool_tokens(self._reading.pooling), 1 + n_frame_tokens
        return {
            "video": lambda tokens: pool(tokens[:, 1:sound]),
            "audio": lambda tokens: pool(tokens[:, sound:]),
            "joint": pool,
        }


NETWORK = Network(VERSION, describe, Tvlt, licence="mit")
