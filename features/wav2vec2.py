"""Wav2Vec2: sound, with a look back before each window."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from cinecube.features.network import Batch, Checkpoint, Facts, Network, Reading, check_architecture
from cinecube.store.labels import layer_labels, layer_number
from cinecube.store.schema import Stream

VERSION = 1
_KERNELS = (10, 3, 3, 3, 3, 2, 2)
_STRIDES = (5, 2, 2, 2, 2, 2, 2)


def describe(checkpoint: Checkpoint) -> Facts:
    """What a Wav2Vec2 checkpoint says about itself. It has no CLS token."""
    check_architecture(checkpoint, "wav2vec2")
    labels = layer_labels(checkpoint.config.get("num_hidden_layers", 12))
    return Facts(
        streams=(Stream("", labels, [checkpoint.config.get("hidden_size", 768)] * len(labels)),),
        rate_hz=checkpoint.processor.get("sampling_rate", 16000),
        poolings=("mean", "last"),
        preprocessing={
            "processor": "Wav2Vec2FeatureExtractor",
            "do_normalize": checkpoint.processor.get("do_normalize", True),
            "channels": "mean",
        },
    )


class Wav2Vec2:
    """A Wav2Vec2 encoder; of the look-back it attends to, only the window's own tokens are pooled."""

    def __init__(self, folder: Path, reading: Reading) -> None:
        from transformers.models.wav2vec2.feature_extraction_wav2vec2 import Wav2Vec2FeatureExtractor
        from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2Model

        from cinecube.features.loading import load_network
        from cinecube.features.taps import Taps, pool_tokens

        self._processor = Wav2Vec2FeatureExtractor.from_pretrained(folder, local_files_only=True)
        network = load_network(Wav2Vec2Model, folder, reading.untrained, reading.device)
        config = network.config
        kernels = getattr(config, "conv_kernel", _KERNELS)
        strides = getattr(config, "conv_stride", _STRIDES)
        self._rate_hz = reading.rate_hz
        self._shortest = shortest_input(kernels, strides)
        n_own = own_tokens(reading.window_s, reading.rate_hz, math.prod(strides))
        pool = pool_tokens(reading.pooling)
        layers = [layer_number(label) or 0 for label in reading.streams[0].layers]
        blocks = network.encoder.layers  # type: ignore[union-attr]
        self._taps = Taps(network, blocks, layers, lambda tokens: pool(tokens[:, -n_own:]))  # type: ignore[arg-type]

    def prepare_frame(self, rgb: np.ndarray) -> np.ndarray:
        """No frame is read."""
        raise NotImplementedError("Wav2Vec2 reads sound only")

    def __call__(self, batch: Batch) -> np.ndarray:
        """Features (row, dim, model, layer) of sound windows of equal length."""
        assert batch.sound is not None
        values = self._processor(list(batch.sound), sampling_rate=self._rate_hz)["input_values"]
        sound = np.stack([np.asarray(row, np.float32) for row in values])
        missing = self._shortest - sound.shape[1]
        if missing > 0:
            # Silence before the film began; the convolutions need that many samples for their first token.
            sound = np.pad(sound, ((0, 0), (missing, 0)))
        return self._taps(sound)[:, :, None, :]


def own_tokens(window_s: float, rate_hz: int, samples_per_token: int) -> int:
    """Tokens that a window's own sound fills; the look-back's come before them."""
    return max(1, math.floor(window_s * rate_hz / samples_per_token + 1e-9))


def shortest_input(kernels: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Samples that a stack of convolutions needs to return one token."""
    samples = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples


NETWORK = Network(VERSION, describe, Wav2Vec2)
