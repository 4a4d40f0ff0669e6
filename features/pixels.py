"""What image processors of checkpoints do to pixels, as the fingerprint states it."""

from __future__ import annotations

from typing import Any

from cinecube.features.network import Checkpoint

_KEYS = (
    "do_resize",
    "size",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
)


def pixel_preprocessing(checkpoint: Checkpoint, processor: str) -> dict[str, Any]:
    """Settings of a checkpoint's image processor that change pixels, and the class that applies them."""
    settings = {key: checkpoint.processor[key] for key in _KEYS if checkpoint.processor.get(key) is not None}
    return {"processor": processor, **settings}
