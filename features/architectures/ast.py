"""AST, the Audio Spectrogram Transformer (Gong et al. 2021): up to 10.24 s of sound as a picture of its mel bands."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cinecube.features.architectures.vit_family import describe_vit, vit_encoder, vit_key, vit_size
from cinecube.features.networks.mel import RATE_HZ, fitted, kaldi_log_mel
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
from cinecube.features.networks.taps import Pool, in_pieces, pool_tokens, read_states
from cinecube.features.networks.weights import build

VERSION = 1
_N_SPECIAL = 2
_FRAMES_PER_S = 100
# Of AudioSet; the official extractor divides by twice the deviation.
_MEAN, _STD = -4.2677393, 4.5689974


def describe(checkpoint: Checkpoint) -> Facts:
    """What an AST checkpoint says about itself. Its first two tokens are CLS and distillation."""
    longest_s = checkpoint.processor.get("max_length", 1024) / _FRAMES_PER_S
    return describe_vit(
        checkpoint,
        "audio-spectrogram-transformer",
        rate_hz=checkpoint.processor.get("sampling_rate", RATE_HZ),
        context_s=longest_s,
        longest_s=longest_s,
        final_norm=True,
        preprocessing=_settings(checkpoint),
    )


def _settings(checkpoint: Checkpoint) -> dict[str, Any]:
    given = checkpoint.processor
    return {
        "features": "kaldi log mel",
        "bands": given.get("num_mel_bins", 128),
        "frames": given.get("max_length", 1024),
        "normalise": given.get("do_normalize", True),
        "mean": given.get("mean", _MEAN),
        "std": 2 * given.get("std", _STD),
        "channels": "mean",
    }


class AstNetwork(nn.Module):
    """The architecture: overlapping patches of 16 bands × 16 frames, two tokens before them."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        config = checkpoint.config
        width, self.n_blocks = vit_size(checkpoint)
        self.patch, bands = config.get("patch_size", 16), config.get("num_mel_bins", 128)
        step = (config.get("frequency_stride", 10), config.get("time_stride", 10))
        self.n_bands = (bands - self.patch) // step[0] + 1
        self.n_times = (config.get("max_length", 1024) - self.patch) // step[1] + 1
        self.time_step = step[1]
        self.patches = nn.Conv2d(1, width, self.patch, step)
        self.cls = nn.Parameter(torch.empty(1, 1, width))
        self.distillation = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, self.n_bands * self.n_times + _N_SPECIAL, width))
        self.encoder = vit_encoder(checkpoint)
        self.norm = nn.LayerNorm(width, eps=config.get("layer_norm_eps", 1e-12))

    def states(self, mel: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Layers of mel features (item, frame, band); patches stand band by band."""
        pictures = mel.transpose(1, 2)[:, None].to(self.cls.dtype)
        patches = self.patches(pictures).flatten(2).transpose(1, 2)
        special = [token.expand(len(mel), -1, -1) for token in (self.cls, self.distillation)]
        return self.encoder.states(torch.cat([*special, patches], dim=1) + self.positions)


def rename(name: str) -> str | list[str]:
    """The checkpoint's key of one of our parameters."""
    names = {
        "patches.weight": "embeddings.patch_embeddings.projection.weight",
        "patches.bias": "embeddings.patch_embeddings.projection.bias",
        "cls": "embeddings.cls_token",
        "distillation": "embeddings.distillation_token",
        "positions": "embeddings.position_embeddings",
        "norm.weight": "layernorm.weight",
        "norm.bias": "layernorm.bias",
    }
    return names.get(name) or vit_key(name)


class Ast:
    """An AST; of the look-back it attends to, only the window's own patches are pooled."""

    def __init__(self, path: Path, reading: Reading) -> None:
        checkpoint = read_checkpoint(path, str(path))
        self._settings, self._reading = _settings(checkpoint), reading
        self._network = build(lambda: AstNetwork(checkpoint), path, rename, reading)

    def prepare_frame(self, rgb: np.ndarray) -> np.ndarray:
        """No frame is read."""
        raise NotImplementedError("AST reads sound only")

    def __call__(self, batch: Batch) -> Features:
        """Features of sound windows of equal length, each as loud as it is: AST knows absolute levels."""
        assert batch.sound is not None
        mel = kaldi_log_mel(batch.sound, self._settings["bands"])
        n_frames = mel.shape[1]
        mel = fitted(mel, self._settings["frames"])
        if self._settings["normalise"]:
            mel = (mel - np.float32(self._settings["mean"])) / np.float32(self._settings["std"])
        pool = self._pool(n_frames)

        def run(values: Tensor) -> dict[Key, Tensor]:
            network = self._network
            final = (network.n_blocks, network.norm) if self._reading.final_norm else None
            return read_states(network.states(values), self._reading.streams, {"": pool}, final)

        return in_pieces(run, self._network, self._network.positions.shape[1], mel)

    def _pool(self, n_frames: int) -> Pool:
        """Pooling of the patches of the window's own sound, the last of `n_frames`."""
        network, pooling = self._network, self._reading.pooling
        if pooling == "cls":
            return pool_tokens("cls")
        times = own_times(n_frames, self._reading.window_s, network.patch, network.time_step, network.n_times)
        patches = pool_tokens("last" if pooling == "last" else "mean")

        def pool(tokens: Tensor) -> Tensor:
            grid = tokens[:, _N_SPECIAL:].unflatten(1, (network.n_bands, network.n_times))
            return patches(grid[:, :, times].flatten(1, 2))

        return pool


def own_times(n_frames: int, window_s: float, patch: int, step: int, n_times: int) -> slice:
    """Places along time whose patches lie in the last `window_s` of `n_frames` frames; at least the last one."""
    last = min(max(0, (n_frames - patch) // step), n_times - 1)
    first = math.ceil((n_frames - round(window_s * _FRAMES_PER_S)) / step)
    return slice(min(max(0, first), last), last + 1)


NETWORK = Network(VERSION, describe, Ast, licence="bsd-3-clause")
