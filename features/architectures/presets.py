"""Five networks of transformers as their papers read them: what each checkpoint says, what goes in, which tokens count.

The library has their classes; what it leaves open is here. `hf` reads the same checkpoints by general rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from cinecube.features.hf.hooks import Tapped
from cinecube.features.hf.loading import load_network
from cinecube.features.networks.mel import RATE_HZ, fitted, kaldi_log_mel
from cinecube.features.networks.network import (
    ALL_FRAMES,
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
from cinecube.features.networks.pixels import HALF, IMAGENET, Pixels, read_pixels
from cinecube.features.networks.taps import Pool, in_pieces, mean_over_frames, own_tokens, pool_tokens
from cinecube.store.base.errors import StudyError
from cinecube.store.base.labels import layer_labels
from cinecube.store.cube.schema import Stream

_CLS_AND_PATCHES = ("mean", "patches", "cls", "last")
_TOKENS_ALONE = ("mean", "last")
_PATCHES_KEY, _SOUND_KEY = "embeddings.patch_embeddings.projection.weight", "feature_projection.projection.weight"


def _facts(checkpoint: Checkpoint, model_type: str, **facts: Any) -> Facts:
    """Facts of a network of one stream, sizes that its configuration leaves out as in the base size."""
    check_architecture(checkpoint, model_type)
    labels = layer_labels(checkpoint.config.get("num_hidden_layers", 12))
    width = checkpoint.config.get("hidden_size", 768)
    return Facts(streams=(Stream("", labels, [width] * len(labels)),), **facts)


def _tapped(checkpoint: Checkpoint, reading: Reading, facts: Facts, anchor: str) -> Tapped:
    return Tapped(load_network(checkpoint, reading, anchor), facts.streams[0], checkpoint, reading)


ReadPixels = Callable[[Checkpoint], Pixels]


def _vit_pixels(checkpoint: Checkpoint) -> Pixels:
    return read_pixels(checkpoint, Pixels((224, 224), mean=HALF[0], std=HALF[1]))


def describe_vit(checkpoint: Checkpoint) -> Facts:
    """ViT (Dosovitskiy et al. 2021): still frames, every one of a window, their mean."""
    return _facts(
        checkpoint,
        "vit",
        frames_per_window=ALL_FRAMES,
        stills=True,
        poolings=_CLS_AND_PATCHES,
        final_norm=True,
        preprocessing=_vit_pixels(checkpoint).as_dict(),
    )


def _videomae_pixels(checkpoint: Checkpoint) -> Pixels:
    defaults = Pixels(224, crop=(224, 224), mean=IMAGENET[0], std=IMAGENET[1])
    return read_pixels(checkpoint, defaults, default_crop=True)


def describe_videomae(checkpoint: Checkpoint) -> Facts:
    """VideoMAE (Tong et al. 2022): clips of 16 frames. It has no CLS token."""
    return _facts(
        checkpoint,
        "videomae",
        frames_per_window=checkpoint.config.get("num_frames", 16),
        frames_fixed=True,
        poolings=_TOKENS_ALONE,
        final_norm=not checkpoint.config.get("use_mean_pooling", True),
        preprocessing=_videomae_pixels(checkpoint).as_dict(),
    )


def _vivit_pixels(checkpoint: Checkpoint) -> Pixels:
    # The official processor scales pixels to [-1, 1] and then normalises them as if they lay in [0, 1].
    defaults = Pixels(256, crop=(224, 224), scale=1 / 127.5, offset=-1.0, mean=HALF[0], std=HALF[1])
    return read_pixels(checkpoint, defaults, default_crop=True)


def describe_vivit(checkpoint: Checkpoint) -> Facts:
    """ViViT (Arnab et al. 2021), its model of joint space and time: clips of 32 frames."""
    return _facts(
        checkpoint,
        "vivit",
        frames_per_window=checkpoint.config.get("num_frames", 32),
        frames_fixed=True,
        # Stride 1, as the paper reads it: 32 frames are 1.3 s of a film.
        sampling="consecutive",
        poolings=_CLS_AND_PATCHES,
        final_norm=True,
        preprocessing=_vivit_pixels(checkpoint).as_dict(),
    )


class Pictures:
    """A network read frame by frame, or clip by clip.

    Parameters
    ----------
    describe, read_pixels : callable
        What its checkpoint says, and how that prepares frames.
    path, reading
        See `Network.load`.
    """

    def __init__(
        self, describe: Callable[[Checkpoint], Facts], read_pixels: ReadPixels, path: Path, reading: Reading
    ) -> None:
        checkpoint = read_checkpoint(path, str(path))
        facts = describe(checkpoint)
        self._pixels, self._reading, self._stills = read_pixels(checkpoint), reading, facts.stills
        self._tapped = _tapped(checkpoint, reading, facts, _PATCHES_KEY)
        self._n_tokens = self._tapped.network.embeddings.position_embeddings.shape[1]
        self._pool = pool_tokens(reading.pooling, n_special=1)

    def prepare_frame(self, rgb: np.ndarray) -> np.ndarray:
        """Resize and crop a frame: (height, width, 3) uint8 to (y, x, 3) uint8."""
        return self._pixels.prepare(rgb)

    def __call__(self, batch: Batch) -> Features:
        """Features of clips, or of each window's frames."""
        assert batch.frames is not None
        if not self._stills:
            return self._read(batch.frames)
        found = self._read(batch.frames.reshape(-1, *batch.frames.shape[2:]))
        return mean_over_frames(found, len(batch.frames), self._reading.frame_pooling)

    def _read(self, frames: np.ndarray) -> Features:
        return in_pieces(self._run, self._tapped.network, self._n_tokens, frames)

    def _run(self, frames: Tensor) -> dict[Key, Tensor]:
        return self._tapped.read({"pixel_values": self._pixels.normalise(frames)}, self._pool)


_VARIANCE_FLOOR = 1e-7


def describe_wav2vec2(checkpoint: Checkpoint) -> Facts:
    """wav2vec 2.0 (Baevski et al. 2020): sound, with a look back before each window. It has no CLS token.

    Raises
    ------
    StudyError
        If it is of another architecture, or has adapters for single languages in its attention.
    """
    config, given = checkpoint.config, checkpoint.processor
    if config.get("adapter_attn_dim"):
        raise StudyError(
            where=str(checkpoint.path),
            found=f"adapters in its attention (adapter_attn_dim {config['adapter_attn_dim']})",
            expected="wav2vec 2.0 without",
            do="read it with `extractor: hf`",
        )
    return _facts(
        checkpoint,
        "wav2vec2",
        rate_hz=given.get("sampling_rate", 16000),
        context_s=16.0,
        poolings=_TOKENS_ALONE,
        final_norm=bool(config.get("do_stable_layer_norm", False)),
        preprocessing={"normalise": given.get("do_normalize", True), "channels": "mean"},
    )


class Wav2Vec2:
    """A wav2vec 2.0 encoder; of the look-back it attends to, only the window's own tokens are pooled."""

    def __init__(self, path: Path, reading: Reading) -> None:
        checkpoint = read_checkpoint(path, str(path))
        self._normalise = checkpoint.processor.get("do_normalize", True)
        self._tapped = _tapped(checkpoint, reading, describe_wav2vec2(checkpoint), _SOUND_KEY)
        config = self._tapped.network.config
        self._shortest = shortest_input(config.conv_kernel, config.conv_stride)
        self._samples_per_token = math.prod(config.conv_stride)
        n_own = own_tokens(reading.window_s, reading.rate_hz / self._samples_per_token)
        pool = pool_tokens(reading.pooling)
        self._pool: Pool = lambda tokens: pool(tokens[:, -n_own:])

    def prepare_frame(self, rgb: np.ndarray) -> np.ndarray:
        """No frame is read."""
        raise NotImplementedError("wav2vec 2.0 reads sound only")

    def __call__(self, batch: Batch) -> Features:
        """Features of sound windows of equal length."""
        assert batch.sound is not None
        sound = standardised(batch.sound) if self._normalise else batch.sound
        # Silence before the film began; the convolutions need that many samples for their first token.
        sound = np.pad(sound, ((0, 0), (max(0, self._shortest - sound.shape[1]), 0)))
        n_tokens = sound.shape[1] // self._samples_per_token + 1
        return in_pieces(self._run, self._tapped.network, n_tokens, sound)

    def _run(self, sound: Tensor) -> dict[Key, Tensor]:
        return self._tapped.read({"input_values": sound}, self._pool)


def standardised(sound: np.ndarray) -> np.ndarray:
    """Each window (row, sample) with mean 0 and variance 1."""
    mean, variance = sound.mean(axis=1, keepdims=True), sound.var(axis=1, keepdims=True)
    scaled: np.ndarray = (sound - mean) / np.sqrt(variance + np.float32(_VARIANCE_FLOOR))
    return scaled


def shortest_input(kernels: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Samples that a stack of convolutions needs to return one token.

    Parameters
    ----------
    kernels, strides : tuple of int
        Of each convolution, in samples of its own input.
    """
    samples = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples


_FRAMES_PER_S = 100
# Of AudioSet; the official extractor divides by twice the deviation.
_MEAN, _STD = -4.2677393, 4.5689974
_N_SPECIAL = 2


def describe_ast(checkpoint: Checkpoint) -> Facts:
    """AST, the Audio Spectrogram Transformer (Gong et al. 2021): up to 10.24 s of sound as a picture of its mel bands.

    Its first two tokens are CLS and distillation.
    """
    longest_s = checkpoint.processor.get("max_length", 1024) / _FRAMES_PER_S
    return _facts(
        checkpoint,
        "audio-spectrogram-transformer",
        rate_hz=checkpoint.processor.get("sampling_rate", RATE_HZ),
        context_s=longest_s,
        longest_s=longest_s,
        poolings=_CLS_AND_PATCHES,
        final_norm=True,
        preprocessing=_mel_settings(checkpoint),
    )


def _mel_settings(checkpoint: Checkpoint) -> dict[str, Any]:
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


class Ast:
    """An AST; of the look-back it attends to, only the window's own patches are pooled."""

    def __init__(self, path: Path, reading: Reading) -> None:
        checkpoint = read_checkpoint(path, str(path))
        self._settings, self._reading = _mel_settings(checkpoint), reading
        self._tapped = _tapped(checkpoint, reading, describe_ast(checkpoint), _PATCHES_KEY)
        self._n_tokens = self._tapped.network.embeddings.position_embeddings.shape[1]

    def prepare_frame(self, rgb: np.ndarray) -> np.ndarray:
        """No frame is read."""
        raise NotImplementedError("AST reads sound only")

    def __call__(self, batch: Batch) -> Features:
        """Features of sound windows of equal length, each as loud as it is: AST knows absolute levels."""
        assert batch.sound is not None
        mel = kaldi_log_mel(batch.sound, self._settings["bands"])
        pool = self._pool(mel.shape[1])
        mel = fitted(mel, self._settings["frames"])
        if self._settings["normalise"]:
            mel = (mel - np.float32(self._settings["mean"])) / np.float32(self._settings["std"])
        return in_pieces(partial(self._run, pool), self._tapped.network, self._n_tokens, mel)

    def _run(self, pool: Pool, mel: Tensor) -> dict[Key, Tensor]:
        return self._tapped.read({"input_values": mel}, pool)

    def _pool(self, n_frames: int) -> Pool:
        """Pooling of the patches of the window's own sound, the last of `n_frames`; patches go band by band."""
        config, pooling = self._tapped.network.config, self._reading.pooling
        if pooling == "cls":
            return pool_tokens("cls")
        n_times = (config.max_length - config.patch_size) // config.time_stride + 1
        times = own_times(n_frames, self._reading.window_s, config.patch_size, config.time_stride, n_times)
        patches = pool_tokens("last" if pooling == "last" else "mean")
        return lambda tokens: patches(tokens[:, _N_SPECIAL:].unflatten(1, (-1, n_times))[:, :, times].flatten(1, 2))


def own_times(n_frames: int, window_s: float, patch: int, step: int, n_times: int) -> slice:
    """Places along time whose patches are in the last `window_s` of `n_frames` frames; at least the last one."""
    last = min(max(0, (n_frames - patch) // step), n_times - 1)
    first = math.ceil((n_frames - round(window_s * _FRAMES_PER_S)) / step)
    return slice(min(max(0, first), last), last + 1)


VIT = Network(version=2, describe=describe_vit, load=partial(Pictures, describe_vit, _vit_pixels), licence="apache-2.0")
# Of the official weights: CC BY-NC 4.0, as the card of `MCG-NJU/videomae-base` says.
VIDEOMAE = Network(
    version=2,
    describe=describe_videomae,
    load=partial(Pictures, describe_videomae, _videomae_pixels),
    licence="cc-by-nc-4.0",
)
VIVIT = Network(
    version=1, describe=describe_vivit, load=partial(Pictures, describe_vivit, _vivit_pixels), licence="mit"
)
WAV2VEC2 = Network(version=2, describe=describe_wav2vec2, load=Wav2Vec2, licence="apache-2.0")
AST = Network(version=1, describe=describe_ast, load=Ast, licence="bsd-3-clause")
