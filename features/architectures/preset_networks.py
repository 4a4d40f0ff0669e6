"""The five networks of presets at work: what goes in, which tokens count. Imports torch, which takes seconds."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from torch import Tensor

from cinecube.features.hf.hooks import Tapped
from cinecube.features.hf.loading import load_network
from cinecube.features.networks.mel import FRAMES_PER_S, fitted, kaldi_log_mel
from cinecube.features.networks.network import Batch, Checkpoint, Facts, Features, Key, Reading
from cinecube.features.networks.pixels import Pixels
from cinecube.features.networks.taps import Pool, in_pieces, mean_over_frames, own_tokens, pool_tokens

_PATCHES_KEY, _SOUND_KEY = "embeddings.patch_embeddings.projection.weight", "feature_projection.projection.weight"


def _tapped(checkpoint: Checkpoint, reading: Reading, facts: Facts, anchor: str) -> Tapped:
    return Tapped(load_network(checkpoint, reading, anchor), facts.streams[0], checkpoint, reading)


class Pictures:
    """A network read frame by frame, or clip by clip.

    Parameters
    ----------
    checkpoint : Checkpoint
    facts : Facts
        What it says of its network.
    pixels : Pixels
        How it prepares frames.
    reading : Reading
    """

    def __init__(self, checkpoint: Checkpoint, facts: Facts, pixels: Pixels, reading: Reading) -> None:
        self._pixels, self._reading, self._stills = pixels, reading, facts.stills
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


class Wav2Vec2:
    """A wav2vec 2.0 encoder; of the look-back it attends to, only the window's own tokens are pooled."""

    def __init__(self, checkpoint: Checkpoint, facts: Facts, reading: Reading) -> None:
        self._normalise = facts.preprocessing["normalise"]
        self._tapped = _tapped(checkpoint, reading, facts, _SOUND_KEY)
        config = self._tapped.network.config
        self._shortest = shortest_input(config.conv_kernel, config.conv_stride)
        self._samples_per_token = math.prod(config.conv_stride)
        n_own = own_tokens(reading.window_s, reading.rate_hz / self._samples_per_token)
        pool = pool_tokens(reading.pooling)
        self._pool: Pool = lambda tokens: pool(tokens[:, -n_own:])

    def prepare_frame(self, rgb: np.ndarray) -> np.ndarray:
        """No frame is read.

        Raises
        ------
        NotImplementedError
            Always.
        """
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

    Returns
    -------
    int
    """
    samples = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples


# Tokens of an AST before its first patch: CLS and distillation.
_N_SPECIAL = 2


class Ast:
    """An AST; of the look-back it attends to, only the window's own patches are pooled."""

    def __init__(self, checkpoint: Checkpoint, facts: Facts, reading: Reading) -> None:
        self._settings, self._reading = facts.preprocessing, reading
        self._tapped = _tapped(checkpoint, reading, facts, _PATCHES_KEY)
        self._n_tokens = self._tapped.network.embeddings.position_embeddings.shape[1]

    def prepare_frame(self, rgb: np.ndarray) -> np.ndarray:
        """No frame is read.

        Raises
        ------
        NotImplementedError
            Always.
        """
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
    """Places along time whose patches are in the last `window_s` of `n_frames` frames; at least the last one.

    Parameters
    ----------
    n_frames : int
        Frames that the network is given, the window's last.
    window_s : float
        Seconds of the window alone.
    patch, step : int
        Frames of a patch, and from one patch to the next.
    n_times : int
        Places along time that the network has.

    Returns
    -------
    slice
    """
    last = min(max(0, (n_frames - patch) // step), n_times - 1)
    first = math.ceil((n_frames - round(window_s * FRAMES_PER_S)) / step)
    return slice(min(max(0, first), last), last + 1)
