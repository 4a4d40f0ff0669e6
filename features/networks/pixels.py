"""Preparing frames as image processors of checkpoints say: resize, crop, scale, normalise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cinecube.features.networks.network import Checkpoint
from cinecube.store.base.errors import StudyError

if TYPE_CHECKING:
    from torch import Tensor

Size = int | tuple[int, int]
"""The shorter edge, or height and width."""

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
BILINEAR, BICUBIC = 2, 3


@dataclass(frozen=True)
class Pixels:
    """Steps that prepare a frame for a network, in this order.

    Attributes
    ----------
    size : int, (int, int) or None
        Resize the shorter edge to this, or height and width.
    resample : int
        Pillow's number of the filter.
    crop : (int, int) or None
        Height and width of the middle that is kept; black is added where the picture is smaller.
    scale, offset : float
        Pixels 0 to 255 are multiplied by the one, then the other is added.
    mean, std : tuple of float
        Subtracted and divided by, per channel.
    """

    size: Size | None
    resample: int = BILINEAR
    crop: tuple[int, int] | None = None
    scale: float = 1 / 255
    offset: float = 0.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def prepare(self, rgb: np.ndarray) -> np.ndarray:
        """Resize and crop a frame, (height, width, 3) uint8 to (y, x, 3) uint8.

        Scaling waits for `normalise`: as bytes, a window's frames take a quarter of the memory.
        """
        from PIL import Image

        height, width = self.resized(*rgb.shape[:2])
        if (height, width) != rgb.shape[:2]:
            rgb = np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling(self.resample)))
        return rgb if self.crop is None else cropped(rgb, *self.crop)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a frame after resizing.

        Parameters
        ----------
        height, width : int
            Pixels.

        Returns
        -------
        height, width : int
        """
        if self.size is None:
            return height, width
        if isinstance(self.size, tuple):
            return self.size
        short, long = sorted((height, width))
        edge = int(self.size * long / short)
        return (self.size, edge) if height <= width else (edge, self.size)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Scale and normalise prepared frames, (…, y, x, 3) uint8 to (…, 3, y, x) float32."""
        import torch

        mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (self.mean, self.std))
        # Channels first while pixels are bytes, and in place: clips of many frames would be copied five times over.
        scaled = pixels.movedim(-1, -3).contiguous().float()
        return scaled.mul_(self.scale).add_(self.offset).sub_(mean).div_(std)

    def as_dict(self, **more: Any) -> dict[str, Any]:
        """Fields for the fingerprint, with `more` added."""
        return {
            "size": self.size,
            "resample": self.resample,
            "crop": self.crop,
            "scale": self.scale,
            "offset": self.offset,
            "mean": list(self.mean),
            "std": list(self.std),
            **more,
        }


def cropped(rgb: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle of a frame, (height, width, 3); black where the frame is smaller.

    Parameters
    ----------
    rgb : ndarray (y, x, 3)
    height, width : int
        Pixels that are kept.

    Returns
    -------
    array, shape (height, width, 3)
    """
    missing = [max(0, want - have) for want, have in zip((height, width), rgb.shape, strict=False)]
    if any(missing):
        # One pixel more before than after where the number is odd, as transformers pads.
        pads = [(-(-lack // 2), lack // 2) for lack in missing]
        rgb = np.pad(rgb, [*pads, (0, 0)])
    top, left = (rgb.shape[0] - height) // 2, (rgb.shape[1] - width) // 2
    return rgb[top : top + height, left : left + width]


def read_pixels(checkpoint: Checkpoint, defaults: Pixels, default_crop: bool = False) -> Pixels:
    """Steps of a checkpoint's image processor, its gaps filled as the network's own processor class fills them.

    Parameters
    ----------
    checkpoint : Checkpoint
        Its `processor` counts.
    defaults : Pixels
        Of the processor class.
    default_crop : bool
        Whether that class crops unless told otherwise.

    Returns
    -------
    Pixels

    Raises
    ------
    StudyError
        If a setting is of a kind that is not known here.
    """
    given = checkpoint.processor
    scale = float(given.get("rescale_factor", defaults.scale)) if given.get("do_rescale", True) else 1.0
    mean, std = _three(0.0), _three(1.0)
    if given.get("do_normalize", True):
        mean = _three(given.get("image_mean") or defaults.mean)
        std = _three(given.get("image_std") or defaults.std)
    resizes, crops = given.get("do_resize", True), given.get("do_center_crop", default_crop)
    crop = _size(given.get("crop_size") or defaults.crop or defaults.size, checkpoint) if crops else None
    return Pixels(
        size=_size(given.get("size") or defaults.size, checkpoint) if resizes else None,
        resample=int(given.get("resample", defaults.resample)),
        crop=(crop, crop) if isinstance(crop, int) else crop,
        scale=scale,
        offset=defaults.offset if given.get("offset", True) and given.get("do_rescale", True) else 0.0,
        mean=mean,
        std=std,
    )


def _three(values: float | Sequence[float]) -> tuple[float, ...]:
    return (float(values),) * 3 if isinstance(values, int | float) else tuple(float(value) for value in values)


def _size(size: Any, checkpoint: Checkpoint) -> Size | None:
    if size is None or isinstance(size, int):
        return size
    if isinstance(size, tuple | list) and len(size) == 2:
        return int(size[0]), int(size[1])
    if isinstance(size, Mapping) and {"height", "width"} <= set(size):
        return int(size["height"]), int(size["width"])
    if isinstance(size, Mapping) and "shortest_edge" in size and "longest_edge" not in size:
        return int(size["shortest_edge"])
    raise StudyError(
        where=str(checkpoint.path),
        found=f"an image size {size!r}",
        expected="{height, width} or {shortest_edge} in preprocessor_config.json",
        do="correct that file, or register an extractor of your own (docs/reference/networks.md)",
    )
