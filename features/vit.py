"""ViT: still frames, the mean over a window's frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cinecube.features.network import Batch, Checkpoint, Facts, Network, Reading, check_architecture
from cinecube.features.pixels import pixel_preprocessing
from cinecube.store.labels import layer_labels, layer_number
from cinecube.store.schema import Stream

VERSION = 1
FRAMES_PER_WINDOW = 4


def describe(checkpoint: Checkpoint) -> Facts:
    """What a ViT checkpoint says about itself."""
    check_architecture(checkpoint, "vit")
    labels = layer_labels(checkpoint.config.get("num_hidden_layers", 12))
    return Facts(
        streams=(Stream("", labels, [checkpoint.config.get("hidden_size", 768)] * len(labels)),),
        frames_per_window=FRAMES_PER_WINDOW,
        poolings=("mean", "cls", "last"),
        preprocessing=pixel_preprocessing(checkpoint, "ViTImageProcessorPil"),
    )


class Vit:
    """A ViT read frame by frame."""

    def __init__(self, folder: Path, reading: Reading) -> None:
        from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
        from transformers.models.vit.modeling_vit import ViTModel

        from cinecube.features.loading import load_network
        from cinecube.features.taps import Taps, pool_tokens

        self._processor = ViTImageProcessorPil.from_pretrained(folder, local_files_only=True)
        network = load_network(ViTModel, folder, reading.untrained, reading.device, add_pooling_layer=False)
        layers = [layer_number(label) or 0 for label in reading.streams[0].layers]
        self._taps = Taps(network, network.layers, layers, pool_tokens(reading.pooling))  # type: ignore[arg-type]

    def prepare_frame(self, rgb: np.ndarray) -> np.ndarray:
        """Resize and normalise a frame: (height, width, 3) uint8 to (channel, y, x) float32."""
        pixels = self._processor(rgb, return_tensors="np", input_data_format="channels_last")["pixel_values"]
        return np.asarray(pixels[0], np.float32)

    def __call__(self, batch: Batch) -> np.ndarray:
        """Features (row, dim, model, layer), the mean over each window's frames."""
        assert batch.frames is not None
        rows, frames = batch.frames.shape[:2]
        values = self._taps(batch.frames.reshape(rows * frames, *batch.frames.shape[2:]))
        return values.reshape(rows, frames, *values.shape[1:]).mean(axis=1)[:, :, None, :]


NETWORK = Network(VERSION, describe, Vit)
