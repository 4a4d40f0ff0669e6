"""Weights, frames and sound that golden values are made from: any machine draws the same ones from numpy alone.

Nothing here may change without making the golden values again.
"""

from __future__ import annotations

import hashlib

import numpy as np


def draw(name: str, shape: tuple[int, ...], std: float = 0.02) -> np.ndarray:
    """A float32 weight that depends on its name alone, not on the order in which a network lists its weights.

    Parameters
    ----------
    name : str
        Key in the state dict, without the prefix of a task's model.
    shape : tuple of int
        Its shape.
    std : float
        Standard deviation. The scales of layer norms lie around one, everything else around zero.
    """
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    noise = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) * np.float32(std)
    scales = "layernorm" in name and name.endswith(".weight")
    return np.asarray(noise + np.float32(1) if scales else noise, np.float32)


def frames(n: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Frames (frame, height, width, rgb) of uint8: coloured squares of 10 pixels under fine noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, -(-height // 10), -(-width // 10), 3))
    squares = np.kron(coarse, np.ones((1, 10, 10, 1), np.int64))[:, :height, :width]
    return np.clip(squares + rng.integers(-20, 21, squares.shape), 0, 255).astype(np.uint8)


def sound(n_samples: int, rate_hz: int = 44100, seed: int = 0) -> np.ndarray:
    """Mono float32 sound: tones that grow towards the end, and noise in the first half only.

    The loudest moment is the last one and half of the sound is silent between the tones, so limits relative to the
    peak show in a spectrogram, and so does whether its last frame counts.
    """
    # Counted back from the last sample, where a cosine has its peak and so stays one when it is padded by reflection.
    time = np.arange(1 - n_samples, 1) / rate_hz
    tones = sum(np.cos(2 * np.pi * hertz * time) for hertz in (110.0, 440.0, 1870.0, 6300.0, 13000.0))
    noise = np.random.default_rng(seed).standard_normal(n_samples) * (np.arange(n_samples) < n_samples // 2)
    return (0.15 * tones * np.linspace(0, 1, n_samples) ** 3 + 0.01 * noise).astype(np.float32)
