"""Drawn features of the networks that read picture and sound: ImageBind and TVLT, which transformers does not have.

Their architectures are those of `features`, which tests compare with the published code. Everything around them
(weights by key, frames, spectrograms, pooling, heads) is done here anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from cinecube.simulation.features.drawn_pictures import BATCH, middle_square
from cinecube.simulation.features.seen import clips_seen, prepare_once, sound_heard
from cinecube.simulation.features.small_networks import IMAGE_PX, IMAGEBIND_PX, PATCH_PX, look
from cinecube.simulation.features.spectrograms import imagebind_spectrogram, tvlt_spectrogram
from cinecube.simulation.setup.simulate_params import SimulateSpec
from cinecube.store.base.labels import HEAD, layer_label

_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_HEAD_EPS = 1e-6


def read_imagebind(
    spec: SimulateSpec, frames: np.ndarray, mono: np.ndarray, folder: Path
) -> dict[str, dict[str, np.ndarray]]:
    """ImageBind: pooled tokens and head of each tower, and both heads as one, (row, dim) by stream and layer.

    Parameters
    ----------
    spec : SimulateSpec
    frames : ndarray (frame, height, width, 3)
        uint8 RGB of a segment.
    mono : ndarray (sample,)
        Sound of the segment.
    folder : Path
        Of the checkpoint.

    Returns
    -------
    dict of str to dict of str to array of float32, shape (row, dim)
        Stream -> layer -> features.
    """
    import torch

    network, seen = _load_imagebind(folder), look(spec, "imagebind")
    clips = clips_seen(spec, seen, len(frames))
    shown = prepare_once(frames, clips, _three_crops)
    sounds = sound_heard(spec, seen, mono)
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    for first in range(0, len(clips), BATCH):
        pictures = np.stack([[shown[number] for number in clip] for clip in clips[first : first + BATCH]])
        # (row, frame, crop, channel, y, x) to (row, crop, channel, frame, y, x)
        crops = torch.from_numpy(pictures.transpose(0, 2, 3, 1, 4, 5).copy())
        heard = np.stack([imagebind_spectrogram(sound) for sound in sounds[first : first + BATCH]])
        with torch.inference_mode():
            for layer, values in _tower(network.video, network.video_states(crops.flatten(0, 1))):
                found.setdefault(("video", layer), []).append(values.reshape(len(crops), 3, -1).mean(axis=1))
            for layer, values in _tower(network.audio, network.audio_states(torch.from_numpy(heard))):
                loud = float(np.exp(network.log_scale.item())) if layer == HEAD else 1.0
                found.setdefault(("audio", layer), []).append(values * np.float32(loud))
    layers = {key: np.concatenate(parts) for key, parts in found.items()}
    towers = {
        f"imagebind.{part}": {layer: rows for (name, layer), rows in layers.items() if name == part}
        for part in ("video", "audio")
    }
    return {**towers, "imagebind.concat": {HEAD: np.hstack([layers["video", HEAD], layers["audio", HEAD]])}}


def _tower(tower: Any, states: Iterator[tuple[int, Any]]) -> Iterator[tuple[str, np.ndarray]]:
    """Layers of a tower: the mean over tokens of each block, then the head of the last one's CLS."""
    tokens: Any = None
    for number, tokens in states:
        yield layer_label(number), tokens.mean(dim=1).numpy()
    cls = tokens[:, 0].double().numpy()
    cls = (cls - cls.mean(axis=1, keepdims=True)) / np.sqrt(cls.var(axis=1, keepdims=True) + _HEAD_EPS)
    cls = cls * tower.head_norm.weight.detach().numpy() + tower.head_norm.bias.detach().numpy()
    head = cls @ tower.head.weight.detach().numpy().T
    yield HEAD, (head / np.linalg.norm(head, axis=1, keepdims=True)).astype(np.float32)


def _three_crops(rgb: np.ndarray) -> np.ndarray:
    """Squares at both ends and the middle of a frame's longer side as ImageBind takes them, (crop, 3, y, x) float32."""
    height, width = rgb.shape[:2]
    if height > width:
        return _three_crops(rgb.swapaxes(0, 1)).swapaxes(2, 3)
    wide = IMAGEBIND_PX * width // height
    down, across = _bilinear(height, IMAGEBIND_PX), _bilinear(width, wide)
    small = np.einsum("yh,hwc,xw->cyx", down, rgb.astype(np.float64) / 255, across, optimize=True)
    small = (small - np.reshape(_CLIP_MEAN, (3, 1, 1))) / np.reshape(_CLIP_STD, (3, 1, 1))
    room = wide - IMAGEBIND_PX
    starts = (0, (room + 1) // 2, room)
    return np.stack([small[:, :, start : start + IMAGEBIND_PX] for start in starts]).astype(np.float32)


@lru_cache(maxsize=8)
def _bilinear(old: int, new: int) -> np.ndarray:
    """Weights (new, old) of linear interpolation between the middles of pixels, the border's repeated outside."""
    places = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return np.maximum(0.0, 1 - np.abs(places[:, None] - np.arange(old)))


def read_tvlt(
    spec: SimulateSpec, frames: np.ndarray, mono: np.ndarray, folder: Path
) -> dict[str, dict[str, np.ndarray]]:
    """TVLT: the mean over the tokens of picture, of sound, and of both with CLS, (row, dim) by stream and layer.

    Parameters
    ----------
    spec : SimulateSpec
    frames : ndarray (frame, height, width, 3)
        uint8 RGB of a segment.
    mono : ndarray (sample,)
        Sound of the segment.
    folder : Path
        Of the checkpoint.

    Returns
    -------
    dict of str to dict of str to array of float32, shape (row, dim)
        Stream -> layer -> features.
    """
    import torch

    network, seen = _load_tvlt(folder), look(spec, "tvlt")
    clips = clips_seen(spec, seen, len(frames))
    shown, sounds = prepare_once(frames, clips, _tvlt_pixels), sound_heard(spec, seen, mono)
    n_pixel_tokens = seen.frames * (IMAGE_PX // PATCH_PX) ** 2
    parts = {"video": slice(1, 1 + n_pixel_tokens), "audio": slice(1 + n_pixel_tokens, None), "joint": slice(None)}
    found: dict[str, dict[str, list[np.ndarray]]] = {f"tvlt.{part}": {} for part in parts}
    for first in range(0, len(clips), BATCH):
        pictures = np.stack([[shown[number] for number in clip] for clip in clips[first : first + BATCH]])
        heard = np.stack([tvlt_spectrogram(sound, PATCH_PX) for sound in sounds[first : first + BATCH]])
        with torch.inference_mode():
            for number, tokens in network.states(torch.from_numpy(pictures), torch.from_numpy(heard)):
                for part, places in parts.items():
                    layers = found[f"tvlt.{part}"].setdefault(layer_label(number), [])
                    layers.append(tokens[:, places].mean(dim=1).numpy())
    return {stream: {layer: np.concatenate(rows) for layer, rows in layers.items()} for stream, layers in found.items()}


def _tvlt_pixels(rgb: np.ndarray) -> np.ndarray:
    """A frame's middle with levels from -1 to 1, (3, y, x) float32."""
    levels = middle_square(rgb, IMAGE_PX).astype(np.float32) / 255
    return ((levels - 0.5) / 0.5).transpose(2, 0, 1)


@lru_cache(maxsize=1)
def _load_imagebind(folder: Path) -> Any:
    import torch

    from cinecube.features.architectures.imagebind import ImageBindNetwork, Sizes, rename

    sizes = Sizes.model_validate(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    tensors = torch.load(folder / "imagebind.pth", weights_only=True)
    network = ImageBindNetwork(sizes)
    network.load_state_dict({name: tensors[rename(name)] for name in network.state_dict()})
    return network.eval()


@lru_cache(maxsize=1)
def _load_tvlt(folder: Path) -> Any:
    import torch
    from safetensors.torch import load_file

    from cinecube.features.architectures.tvlt import TvltNetwork, rename
    from cinecube.features.networks.network import Checkpoint

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tensors = load_file(folder / "model.safetensors")
    network = TvltNetwork(Checkpoint(folder, config, {}))
    state = {}
    for name in network.state_dict():
        keys = rename(name)
        names = [keys] if isinstance(keys, str) else keys
        state[name] = torch.cat([tensors[f"tvlt.{key}"] for key in names])
    network.load_state_dict(state)
    return network.eval()
