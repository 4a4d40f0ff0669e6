"""ImageBind (Girdhar et al. 2023), its towers for pictures and for sound: three streams of one stage.

`video` and `audio` have a tower each, and a head in a space that both share; `concat` is both heads, video first.
The official weights are for non-commercial use only; nothing here downloads them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from cinecube.features.networks.blocks import Encoder, EncoderBlock
from cinecube.features.networks.mel import RATE_HZ, fitted, kaldi_log_mel
from cinecube.features.networks.network import (
    Batch,
    Checkpoint,
    Facts,
    Features,
    Key,
    Network,
    Reading,
    read_checkpoint,
)
from cinecube.features.networks.pixels import CLIP
from cinecube.features.networks.taps import in_pieces, pool_tokens, read_states
from cinecube.features.networks.weights import build
from cinecube.store.base.labels import HEAD, layer_labels
from cinecube.store.base.section import Section
from cinecube.store.cube.schema import Stream
from cinecube.store.params.document import parse

VERSION = 1
_TRUNK_EPS, _STEM_EPS = 1e-6, 1e-5
_BANDS, _SOUND_PATCH, _SOUND_STEP = 128, 16, 10
_MEAN, _STD = -4.268, 9.138
_FRAMES_PER_S = 100
_N_CROPS = 3
_LARGEST_SCALE = 100.0


class Sizes(Section):
    """Sizes of ImageBind; the official checkpoint's, unless a `config.json` beside the weights says otherwise.

    Attributes
    ----------
    model_type : str
        Tells such a file from another network's.
    image, patch : int
        Pixels of a crop's and of a patch's edge.
    frames : int
        Mel frames that the sound tower takes.
    video, audio : (int, int, int)
        Width, blocks and heads of each tower.
    head : int
        Dims of the space that both share.
    """

    model_type: Literal["imagebind"] = "imagebind"
    image: PositiveInt = 224
    patch: PositiveInt = 14
    frames: PositiveInt = 204
    video: tuple[PositiveInt, PositiveInt, PositiveInt] = (1280, 32, 16)
    audio: tuple[PositiveInt, PositiveInt, PositiveInt] = (768, 12, 12)
    head: PositiveInt = 1024


def read_sizes(checkpoint: Checkpoint) -> Sizes:
    """Sizes that a checkpoint's configuration gives; the official ones where it has none.

    Raises
    ------
    StudyError
        If it is of another architecture, or names a size that is not known.
    """
    return parse(Sizes, dict(checkpoint.config), f"{checkpoint.path}: config.json")


def describe(checkpoint: Checkpoint) -> Facts:
    """Facts of an ImageBind checkpoint: sizes are not in the official file, so they are stated here."""
    sizes = read_sizes(checkpoint)
    towers = []
    for name, (width, n_blocks, _) in (("video", sizes.video), ("audio", sizes.audio)):
        labels = layer_labels(n_blocks)
        towers.append(Stream(name, [*labels, HEAD], [width] * len(labels) + [sizes.head]))
    return Facts(
        streams=(*towers, Stream("concat", [HEAD], [2 * sizes.head])),
        frames_per_window=2,
        frames_fixed=True,
        # The first and the last one, which is what two frames of a clip are to the official loader.
        sampling="ends",
        rate_hz=RATE_HZ,
        longest_s=sizes.frames / _FRAMES_PER_S,
        poolings=("mean", "patches", "cls", "last"),
        preprocessing={
            "size": sizes.image,
            "resample": "bilinear, not antialiased",
            "crops": _N_CROPS,
            "mean": list(CLIP[0]),
            "std": list(CLIP[1]),
            "sound": "kaldi log mel",
            "frames": sizes.frames,
            "sound_mean": _MEAN,
            "sound_std": _STD,
            "channels": "mean",
        },
    )


class Tower(nn.Module):
    """One modality: patches with CLS and positions, blocks, a head on CLS.

    Parameters
    ----------
    size : (int, int, int)
        Width, blocks and heads.
    n_patches, head : int
        Patches of its input, and dims of its head.
    sound : bool
        Whether it is the tower for sound, which has no norm before its blocks but one in its stem, and a learned pair
        of key and value in its attention.
    """

    def __init__(self, size: tuple[int, int, int], n_patches: int, head: int, sound: bool) -> None:
        super().__init__()
        width, self.n_blocks, heads = size
        self.cls = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, n_patches + 1, width))
        self.stem_norm = nn.LayerNorm(width, eps=_STEM_EPS) if sound else None
        self.first_norm = None if sound else nn.LayerNorm(width, eps=_TRUNK_EPS)
        self.encoder = Encoder(
            EncoderBlock(width, heads, 4 * width, F.gelu, _TRUNK_EPS, learned_pair=sound) for _ in range(self.n_blocks)
        )
        self.head_norm = nn.LayerNorm(width, eps=_TRUNK_EPS)
        self.head = nn.Linear(width, head, bias=False)

    def states(self, patches: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Layers of patches (item, patch, dim)."""
        if self.stem_norm is not None:
            patches = self.stem_norm(patches)
        tokens = torch.cat([self.cls.expand(len(patches), -1, -1), patches], dim=1) + self.positions
        return self.encoder.states(tokens if self.first_norm is None else self.first_norm(tokens))

    def project(self, tokens: Tensor) -> Tensor:
        """The head of the last block's tokens, of length one: (item, head)."""
        return F.normalize(self.head(self.head_norm(tokens[:, 0])).float(), dim=-1)


class ImageBindNetwork(nn.Module):
    """The two towers."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        n_bands = (_BANDS - _SOUND_PATCH) // _SOUND_STEP + 1
        n_times = (sizes.frames - _SOUND_PATCH) // _SOUND_STEP + 1
        tube = (2, sizes.patch, sizes.patch)
        self.video_patches = nn.Conv3d(3, sizes.video[0], tube, tube, bias=False)
        self.audio_patches = nn.Conv2d(1, sizes.audio[0], _SOUND_PATCH, _SOUND_STEP, bias=False)
        self.video = Tower(sizes.video, (sizes.image // sizes.patch) ** 2, sizes.head, sound=False)
        self.audio = Tower(sizes.audio, n_bands * n_times, sizes.head, sound=True)
        self.register_buffer("log_scale", torch.empty(()))

    def video_states(self, clips: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Layers of clips (item, 3, frame, y, x)."""
        return self.video.states(self.video_patches(clips.to(self.video.cls.dtype)).flatten(2).transpose(1, 2))

    def audio_states(self, mel: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Layers of mel features (item, frame, band); patches are ordered band by band."""
        pictures = mel.transpose(1, 2)[:, None].to(self.audio.cls.dtype)
        return self.audio.states(self.audio_patches(pictures).flatten(2).transpose(1, 2))

    @property
    def scale(self) -> Tensor:
        """Factor by which heads of sound are multiplied."""
        scale: Tensor = self.log_scale.float().exp().clamp(max=_LARGEST_SCALE)  # type: ignore[operator]
        return scale

    def settle(self, state: dict[str, Tensor]) -> None:
        """Give freshly drawn weights the scale that training begins and ends with."""
        state["log_scale"] = torch.tensor(math.log(20.0))


_MODALITY = {"video": "vision", "audio": "audio"}
_STEMS = {
    "video_patches.weight": "modality_preprocessors.vision.rgbt_stem.proj.1.weight",
    "audio_patches.weight": "modality_preprocessors.audio.rgbt_stem.proj.weight",
    "log_scale": "modality_postprocessors.audio.1.log_logit_scale",
}
_PARTS = {
    "cls": "modality_preprocessors.{}.cls_token",
    "positions": "modality_preprocessors.{}.pos_embedding_helper.pos_embed",
    "stem_norm.": "modality_preprocessors.{}.rgbt_stem.norm_layer.",
    "first_norm.": "modality_trunks.{}.pre_transformer_layer.0.",
    "head_norm.": "modality_heads.{}.0.",
    "head.": "modality_heads.{}.2.",
}
_BLOCK_PARTS = {
    "norm1.": "norm_1.",
    "norm2.": "norm_2.",
    "fc1.": "mlp.fc1.",
    "fc2.": "mlp.fc2.",
    "attention.qkv.": "attn.in_proj_",
    "attention.out.": "attn.out_proj.",
    "attention.key": "attn.bias_k",
    "attention.value": "attn.bias_v",
}


def rename(name: str) -> str:
    """The official checkpoint's key of one of our parameters."""
    if name in _STEMS:
        return _STEMS[name]
    tower, part = name.split(".", 1)
    modality = _MODALITY[tower]
    block = re.fullmatch(r"encoder\.blocks\.(\d+)\.(.+)", part)
    if block is None:
        return _replaced(part, _PARTS).format(modality)
    return f"modality_trunks.{modality}.blocks.{block[1]}.{_replaced(block[2], _BLOCK_PARTS)}"


def _replaced(name: str, starts: Mapping[str, str]) -> str:
    start = next(start for start in starts if name.startswith(start))
    return starts[start] + name.removeprefix(start)


class ImageBind:
    """ImageBind read clip by clip: two frames in three crops each, and their sound."""

    def __init__(self, path: Path, reading: Reading) -> None:
        self._sizes = read_sizes(read_checkpoint(path, str(path), optional=True))
        self._reading = reading
        self._network = build(lambda: ImageBindNetwork(self._sizes), path, rename, reading)
        self._pool = pool_tokens(reading.pooling, n_special=1)
        self._wanted = {(stream.name, layer) for stream in reading.streams for layer in stream.layers}

    def prepare_frame(self, rgb: np.ndarray) -> np.ndarray:
        """Shrink a frame and cut three crops: (height, width, 3) uint8 to (crop, 3, y, x) float32 in [0, 1]."""
        return crops(rgb, self._sizes.image)

    def __call__(self, batch: Batch) -> Features:
        """Features of clips: those of the crops' mean, and of the sound."""
        assert batch.frames is not None
        assert batch.sound is not None
        found: dict[Key, np.ndarray] = {}
        if self._reads("video"):
            found |= self._video(batch.frames)
        if self._reads("audio"):
            mel = log_mel(batch.sound, self._sizes.frames)
            found |= in_pieces(self._audio, self._network, self._network.audio.positions.shape[1], mel)
        if ("concat", HEAD) in self._wanted:
            found["concat", HEAD] = np.concatenate([found["video", HEAD], found["audio", HEAD]], axis=1)
        return found

    def _reads(self, tower: str) -> bool:
        return any(stream in (tower, "concat") for stream, _ in self._wanted)

    def _video(self, frames: np.ndarray) -> Features:
        """Each crop goes through alone; a row is the mean over its crops, heads after they have length one."""
        clips = frames.transpose(0, 2, 3, 1, 4, 5)  # (row, crop, channel, frame, y, x)
        alone = clips.reshape(-1, *clips.shape[2:])
        found = in_pieces(self._crops, self._network, self._network.video.positions.shape[1], alone)
        return {key: values.reshape(len(frames), -1, values.shape[1]).mean(axis=1) for key, values in found.items()}

    def _crops(self, clips: Tensor) -> dict[Key, Tensor]:
        mean, std = (torch.tensor(values, device=clips.device)[:, None, None, None] for values in CLIP)
        states = self._network.video_states((clips.float() - mean) / std)
        return self._tower("video", self._network.video, states)

    def _audio(self, mel: Tensor) -> dict[Key, Tensor]:
        found = self._tower("audio", self._network.audio, self._network.audio_states(mel))
        if ("audio", HEAD) in found:
            found["audio", HEAD] = found["audio", HEAD] * self._network.scale
        return found

    def _tower(self, name: str, tower: Tower, states: Iterator[tuple[int, Tensor]]) -> dict[Key, Tensor]:
        heads: dict[Key, Tensor] = {}

        def with_head() -> Iterator[tuple[int, Tensor]]:
            for number, tokens in states:
                if number == tower.n_blocks:
                    heads[name, HEAD] = tower.project(tokens)
                yield number, tokens

        labels = [label for stream, label in self._wanted if stream == name and label != HEAD]
        if (name, HEAD) in self._wanted or ("concat", HEAD) in self._wanted:
            labels.append(layer_labels(tower.n_blocks)[-1])
        found = read_states(with_head(), [Stream(name, labels, ())], {name: self._pool})
        return {**found, **heads}


def crops(rgb: np.ndarray, size: int) -> np.ndarray:
    """Three square crops along a frame's longer side, from its first pixel to its last.

    The shorter side becomes `size` by bilinear interpolation without antialiasing, as in the official loader.

    Parameters
    ----------
    rgb : ndarray
        (height, width, 3) uint8.
    size : int
        Edge of a crop.

    Returns
    -------
    ndarray
        (crop, 3, y, x) float32 in [0, 1].
    """
    pixels = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None].float() / 255
    height, width = rgb.shape[:2]
    if width < height:
        shape = (math.floor(height / width * size), size)
    else:
        shape = (size, math.floor(width / height * size))
    shrunk = F.interpolate(pixels, shape, mode="bilinear", align_corners=False)[0]
    room = max(shape) - size
    starts = (0, math.ceil(room / 2), room)
    if shape[0] > shape[1]:
        return np.stack([shrunk[:, start : start + size].numpy() for start in starts])
    return np.stack([shrunk[:, :, start : start + size].numpy() for start in starts])


def log_mel(sound: np.ndarray, n_frames: int) -> np.ndarray:
    """Mel features as ImageBind takes them: zeros after the end come before normalising, (row, frame, band).

    Parameters
    ----------
    sound : ndarray (row, sample)
    n_frames : int
        Frames of each row that are returned.

    Returns
    -------
    ndarray (row, frame, band)
    """
    mel = fitted(kaldi_log_mel(sound, _BANDS), n_frames)
    scaled: np.ndarray = (mel - np.float32(_MEAN)) / np.float32(_STD)
    return scaled


NETWORK = Network(VERSION, describe, ImageBind, licence="cc-by-nc-sa-4.0", official="imagebind_huge.pth")
