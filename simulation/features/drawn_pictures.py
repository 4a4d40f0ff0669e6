"""Drawn features of the networks that read pictures alone, by the models of transformers."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from cinecube.simulation.features.seen import clips_seen, prepare_once
from cinecube.simulation.features.small_networks import IMAGE_PX, VIVIT_SHORT_EDGE_PX, look
from cinecube.simulation.setup.simulate_params import SimulateSpec
from cinecube.store.base.labels import layer_labels

BATCH = 16


def read_vit(spec: SimulateSpec, frames: np.ndarray, folder: Path) -> dict[str, np.ndarray]:
    """ViT: the mean over a window's frames and their tokens, (row, dim) by layer.

    Parameters
    ----------
    spec : SimulateSpec
    frames : ndarray (frame, height, width, 3)
        uint8 RGB of a segment.
    folder : Path
        Of the checkpoint.

    Returns
    -------
    dict of str to array of float32, shape (row, dim)
    """
    import torch

    model, processor = _load_vit(folder)
    clips = clips_seen(spec, look(spec, "vit"), len(frames))
    shown = prepare_once(frames, clips, lambda rgb: processor(rgb, return_tensors="np")["pixel_values"][0])
    rows = []
    for clip in clips:
        stills = np.stack([shown[number] for number in clip])
        rows.append(hidden_states(model, torch.from_numpy(stills)).mean(axis=(1, 2)))
    return by_layer(np.stack(rows))


def read_videomae(spec: SimulateSpec, frames: np.ndarray, folder: Path) -> dict[str, np.ndarray]:
    """VideoMAE: the mean over a clip's tokens, (row, dim) by layer.

    Parameters
    ----------
    spec : SimulateSpec
    frames : ndarray (frame, height, width, 3)
        uint8 RGB of a segment.
    folder : Path
        Of the checkpoint.

    Returns
    -------
    dict of str to array of float32, shape (row, dim)
    """
    model, processor = _load_videomae(folder)
    clips = clips_seen(spec, look(spec, "videomae"), len(frames))
    shown = prepare_once(frames, clips, lambda rgb: processor([rgb], return_tensors="np")["pixel_values"][0][0])
    return _read_clips(model, shown, clips)


def read_vivit(spec: SimulateSpec, frames: np.ndarray, folder: Path) -> dict[str, np.ndarray]:
    """ViViT: the mean over a clip's tokens, CLS included, (row, dim) by layer.

    Parameters
    ----------
    spec : SimulateSpec
    frames : ndarray (frame, height, width, 3)
        uint8 RGB of a segment.
    folder : Path
        Of the checkpoint.

    Returns
    -------
    dict of str to array of float32, shape (row, dim)
    """
    model = _load_vivit(folder)
    clips = clips_seen(spec, look(spec, "vivit"), len(frames))
    return _read_clips(model, prepare_once(frames, clips, _vivit_pixels), clips)


def _vivit_pixels(rgb: np.ndarray) -> np.ndarray:
    """A frame as ViViT's processor prepares it, (3, y, x); the processor's own code takes many times as long."""
    levels = middle_square(rgb, VIVIT_SHORT_EDGE_PX).astype(np.float32) / 127.5 - 1
    return ((levels - 0.5) / 0.5).transpose(2, 0, 1)


def middle_square(rgb: np.ndarray, short_edge: int) -> np.ndarray:
    """The middle of a frame whose shorter edge became `short_edge`, (y, x, 3) uint8.

    Parameters
    ----------
    rgb : ndarray (height, width, 3)
        uint8.
    short_edge : int
        Pixels.

    Returns
    -------
    array of uint8, shape (y, x, 3)
    """
    from PIL import Image

    height, width = rgb.shape[:2]
    size = (short_edge * width // min(height, width), short_edge * height // min(height, width))
    small = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BILINEAR))
    top, left = (small.shape[0] - IMAGE_PX) // 2, (small.shape[1] - IMAGE_PX) // 2
    return small[top : top + IMAGE_PX, left : left + IMAGE_PX]


def _read_clips(model: Any, shown: dict[int, np.ndarray], clips: list[list[int]]) -> dict[str, np.ndarray]:
    """The mean over the tokens of each clip, (row, dim) by layer."""
    import torch

    rows = []
    for first in range(0, len(clips), BATCH):
        batch = np.stack([[shown[number] for number in clip] for clip in clips[first : first + BATCH]])
        rows.append(hidden_states(model, torch.from_numpy(batch)).mean(axis=2))
    return by_layer(np.concatenate(rows, axis=1).swapaxes(0, 1))


def hidden_states(model: Any, values: Any) -> np.ndarray:
    """Input of block 1 and outputs of every block, (layer, item, token, dim) float32.

    Parameters
    ----------
    model : Module
        Of transformers.
    values : Tensor
        The model's first input, (item, …).

    Returns
    -------
    array of float32, shape (layer, item, token, dim)
    """
    import torch

    # In transformers 5 the last hidden state of all of these is the last block's own output, before any final norm.
    with torch.inference_mode():
        states = model(values, output_hidden_states=True).hidden_states
    return torch.stack(states).numpy()


def by_layer(states: np.ndarray) -> dict[str, np.ndarray]:
    """(row, layer, dim) to (row, dim) by the layers' labels."""
    return {label: states[:, place] for place, label in enumerate(layer_labels(states.shape[1] - 1))}


@lru_cache(maxsize=1)
def _load_vit(folder: Path) -> tuple[Any, Any]:
    from transformers import ViTImageProcessorPil, ViTModel

    model = ViTModel.from_pretrained(folder, local_files_only=True, add_pooling_layer=False).eval()
    return model, ViTImageProcessorPil.from_pretrained(folder, local_files_only=True)


@lru_cache(maxsize=1)
def _load_videomae(folder: Path) -> tuple[Any, Any]:
    from transformers import VideoMAEImageProcessorPil, VideoMAEModel

    model = VideoMAEModel.from_pretrained(folder, local_files_only=True).eval()
    return model, VideoMAEImageProcessorPil.from_pretrained(folder, local_files_only=True)


@lru_cache(maxsize=1)
def _load_vivit(folder: Path) -> Any:
    from transformers import VivitModel

    return VivitModel.from_pretrained(folder, local_files_only=True, add_pooling_layer=False).eval()
