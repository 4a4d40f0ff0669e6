"""VideoMAE: clips of 16 frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cinecube.features.network import Batch, Checkpoint, Facts, Network, Reading, check_architecture
from cinecube.features.pixels import pixel_preprocessing
from cinecube.store.labels import layer_labels, layer_number
from cinecube.store.schema import Stream

VERSION = 1


def describe(checkpoint: Checkpoint) -> Facts:
    """What a VideoMAE checkpoint says about itself. It has no CLS token, and a fixed number of frames."""
    check_architecture(checkpoint, "videomae")
    labels = layer_labels(checkpoint.config.get("num_hidden_layers", 12))
    return Facts(
        streams=(Stream("", labels, [checkpoint.config.get("hidden_size", 768)] * len(labels)),),
        frames_per_window=checkpoint.config.get("num_frames", 16),
        frames_fixed=True,
        poolings=("mean", "last"),
        preprocessing=pixel_preprocessing(checkpoint, "VideoMAEImageProcessorPil"),
    )


class VideoMae:
    """A VideoMAE encoder read clip by clip."""

    def __init__(self, folder: Path, reading: Reading) -> None:
        from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil
        from transformers.models.videomae.modeling_videomae import VideoMAEModel

        from cinecube.features.loading import load_network
        from cinecube.features.taps import Taps, pool_tokens

        self._processor = VideoMAEImageProcessorPil.from_pretrained(folder, local_files_only=True)
        network = load_network(VideoMAEModel, folder, reading.untrained, reading.device)
        layers = [layer_number(label) or 0 for label in reading.streams[0].layers]
        blocks = network.encoder.layer  # type: ignore[union-attr]
        self._taps = Taps(network, blocks, layers, pool_tokens(reading.pooling))  # type: ignore[arg-type]

    def prepare_frame(self, rgb: np.ndarray) -> np.ndarray:
        """Resize, crop and normalise a frame: (height, width, 3) uint8 to (channel, y, x) float32."""
        clips = self._processor([rgb], return_tensors="np", input_data_format="channels_last")["pixel_values"]
        return np.asarray(clips[0][0], np.float32)

    def __call__(self, batch: Batch) -> np.ndarray:
        """Features (row, dim, model, layer) of clips."""
        assert batch.frames is not None
        return self._taps(batch.frames)[:, :, None, :]


NETWORK = Network(VERSION, describe, VideoMae)
