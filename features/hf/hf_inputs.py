"""Inputs of a network of transformers: frames and sound as the processor of its checkpoint prepares them."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from pathlib import Path

import numpy as np
import torch

from cinecube.features.hf.loading import quiet, unfit
from cinecube.features.networks.network import Checkpoint
from cinecube.features.networks.pixels import HALF, IMAGENET, Pixels, cropped, read_pixels

FrameProcessor = Callable[[np.ndarray], np.ndarray]
"""(height, width, 3) uint8 RGB to (3, y, x) float32."""
SoundProcessor = Callable[[np.ndarray], Mapping[str, np.ndarray]]
"""(row, sample) float32 to what the network takes by name, each (row, …)."""

_CLIPS = Pixels((224, 224), mean=HALF[0], std=HALF[1])
# Classes of transformers that need torchvision and do nothing besides resizing and normalising, with their defaults.
# The first scales pixels before it resizes them, so that nothing is rounded to whole grey levels.
_NEED_TORCHVISION = {
    "DINOv3ViTImageProcessor": (Pixels((224, 224), mean=IMAGENET[0], std=IMAGENET[1]), False),
    "Tipsv2ImageProcessor": (Pixels((448, 448)), True),
    "Tipsv2DptImageProcessor": (Pixels((448, 448)), True),
    "Sapiens2ImageProcessor": (Pixels((1024, 768), mean=IMAGENET[0], std=IMAGENET[1]), True),
}
# Masks that networks which know them do not run without.
NEEDED_MASKS = ("input_features_mask", "padding_mask")
_MODES = {2: "bilinear", 3: "bicubic"}


def frame_processor(path: Path, checkpoint: Checkpoint) -> FrameProcessor:
    """The checkpoint's processor for one frame.

    Parameters
    ----------
    path : Path
        The checkpoint's folder.
    checkpoint : Checkpoint

    Returns
    -------
    callable
        `(height, width, 3) uint8 -> (3, y, x) float32`.

    Raises
    ------
    StudyError
        If it needs torchvision for more than resizing and normalising.
    """
    if "video_processor_type" in checkpoint.processor:  # all of transformers' own need torchvision
        pixels = read_pixels(checkpoint, _CLIPS, default_crop=True)
        return lambda rgb: pixels.normalise(torch.from_numpy(pixels.prepare(rgb).copy())).numpy()
    name = str(checkpoint.processor.get("image_processor_type")).removesuffix("Fast")
    if name in _NEED_TORCHVISION:
        return _as_torchvision(checkpoint, *_NEED_TORCHVISION[name])
    from transformers import AutoImageProcessor

    # By Pillow on every machine: torchvision, where it is installed, rounds otherwise.
    with quiet():
        processor = AutoImageProcessor.from_pretrained(
            path, local_files_only=True, trust_remote_code=False, backend="pil"
        )

    def prepare(rgb: np.ndarray) -> np.ndarray:
        found = processor(rgb, return_tensors="np", input_data_format="channels_last")
        frame = np.asarray(found["pixel_values"], np.float32)
        if frame.size != np.prod(frame.shape[-3:], dtype=int) or frame.ndim < 3:
            shape = " x ".join(map(str, frame.shape))
            raise unfit(checkpoint, f"a processor that makes {shape} of one frame", "one picture (3, y, x)")
        return frame.reshape(frame.shape[-3:])

    return prepare


def _as_torchvision(checkpoint: Checkpoint, defaults: Pixels, in_grey_levels: bool) -> FrameProcessor:
    """Resize and normalise by the functions of torch that torchvision calls."""
    if checkpoint.processor.get("do_pad"):
        raise unfit(checkpoint, "a processor that pads", "one that resizes and normalises")
    pixels = read_pixels(checkpoint, defaults)

    def prepare(rgb: np.ndarray) -> np.ndarray:
        size = pixels.resized(*rgb.shape[:2])
        if size != rgb.shape[:2]:
            frame = torch.from_numpy(np.ascontiguousarray(rgb)).movedim(-1, 0)[None]
            levels = frame if in_grey_levels else frame.float()
            resized = torch.nn.functional.interpolate(levels, size, mode=_MODES[pixels.resample], antialias=True)
            rgb = resized[0].movedim(0, -1).numpy()
        whole = rgb if pixels.crop is None else cropped(rgb, *pixels.crop)
        return pixels.normalise(torch.from_numpy(np.ascontiguousarray(whole))).numpy()

    return prepare


def sound_processor(path: Path, accepted: Container[str]) -> SoundProcessor:
    """The checkpoint's processor for windows of sound of equal length.

    Parameters
    ----------
    path : Path
    accepted : container of str
        What the network can be given, by name.

    Returns
    -------
    callable
        Sound (row, sample) float32 -> the network's inputs by name, (row, …) each.
    """
    from transformers import AutoFeatureExtractor

    with quiet():
        processor = AutoFeatureExtractor.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    name = processor.model_input_names[0]
    needed = next((mask for mask in NEEDED_MASKS if mask in accepted), None)
    asked = {"return_attention_mask": True} if needed else {}

    def prepare(sound: np.ndarray) -> Mapping[str, np.ndarray]:
        found = processor(list(sound), sampling_rate=processor.sampling_rate, return_tensors="np", **asked)
        inputs = {name: np.asarray(found[name])}
        mask = found.get("attention_mask", found.get(f"{name}_mask"))
        if mask is None:
            return inputs
        # A mask that hides nothing changes the last bits only, where a network can do without.
        if needed or (not np.all(mask) and "attention_mask" in accepted):
            inputs[needed or "attention_mask"] = np.asarray(mask)
        return inputs

    return prepare
