"""Any encoder of the transformers library, by its checkpoint: pictures, clips or sound, no code to write."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from cinecube.features.loading import load_network, quiet
from cinecube.features.network import (
    ALL_FRAMES,
    Batch,
    Checkpoint,
    Facts,
    Features,
    Key,
    Network,
    Reading,
    read_checkpoint,
)
from cinecube.features.pixels import HALF, Pixels, read_pixels
from cinecube.features.taps import in_pieces, mean_over_frames, pool_tokens
from cinecube.store.errors import StudyError
from cinecube.store.labels import layer_label, layer_labels
from cinecube.store.schema import Stream

VERSION = 1
_PIXELS = Pixels((224, 224), mean=HALF[0], std=HALF[1])
_WIDTHS = ("hidden_size", "d_model", "embed_dim")
_BLOCKS = ("num_hidden_layers", "encoder_layers", "num_layers")
_CLIPS = ("num_frames", "frames_per_clip")
_NORMS = ("layernorm", "layer_norm", "norm", "post_layernorm", "final_layer_norm")
# Configurations leave out what is as the library has it.
_DEFAULT_WIDTH, _DEFAULT_BLOCKS = 768, 12
# How many tokens an item has is known only when it has been read; this many keep most networks within bounds.
_TOKENS = 1600


def describe(checkpoint: Checkpoint) -> Facts:
    """What a checkpoint's configuration says: its layers, and whether it reads pictures, clips or sound.

    Raises
    ------
    StudyError
        If its blocks differ in width, or its processor says nothing of pictures or sound.
    """
    _refuse_own_code(checkpoint)
    config, given = _encoder_config(checkpoint), checkpoint.processor
    if any(isinstance(config.get(key), list) for key in (*_WIDTHS, *_BLOCKS, "depths")):
        raise _unfit(checkpoint, "blocks of several widths", "blocks of one width, one after another")
    width, n_blocks = _first(config, _WIDTHS, _DEFAULT_WIDTH), _first(config, _BLOCKS, _DEFAULT_BLOCKS)
    labels = layer_labels(n_blocks)
    facts: dict[str, Any] = {
        "streams": (Stream("", labels, [width] * len(labels)),),
        "poolings": ("mean", "cls", "last"),
        # Whether one follows is known when the network is loaded.
        "final_norm": True,
        "preprocessing": {key: value for key, value in sorted(given.items()) if not isinstance(value, dict | list)}
        | {key: value for key, value in given.items() if key in ("size", "crop_size", "image_mean", "image_std")},
    }
    kind = _kind(checkpoint)
    if kind == "sound":
        chunk_s = given.get("chunk_length")
        facts |= {"rate_hz": given["sampling_rate"], "longest_s": float(chunk_s) if chunk_s else None}
    elif kind == "clips":
        facts |= {"frames_per_window": _first(config, _CLIPS, 16), "frames_fixed": True}
    else:
        facts |= {"frames_per_window": ALL_FRAMES, "stills": True}
    return Facts(**facts)


def _refuse_own_code(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint that only a program of its own can read: nobody's program is run here."""
    for name, given, key in (
        ("config.json", checkpoint.config, "model_type"),
        ("its processor", checkpoint.processor, "image_processor_type"),
        ("its processor", checkpoint.processor, "feature_extractor_type"),
    ):
        if given.get("auto_map") and not _is_known(given.get(key), key) and (key == "model_type" or key in given):
            raise StudyError(
                where=str(checkpoint.path),
                found=f"{name} for a program of its own ({key} {given.get(key)!r}), which is never run",
                expected="a network that transformers has itself",
                do="register an extractor of your own (docs/networks.md) if you trust it",
            )


def _is_known(value: Any, key: str) -> bool:
    """Whether transformers has a class of that name, or of that type of network."""
    import transformers

    if not isinstance(value, str):
        return False
    return value in transformers.CONFIG_MAPPING if key == "model_type" else hasattr(transformers, value)


def _encoder_config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """The part of a configuration that describes the encoder: of CLIP and its like, the one for pictures."""
    nested = checkpoint.config.get("vision_config")
    return nested if isinstance(nested, dict) else checkpoint.config


def _kind(checkpoint: Checkpoint) -> Literal["stills", "clips", "sound"]:
    config, given = _encoder_config(checkpoint), checkpoint.processor
    if "sampling_rate" in given:
        return "sound"
    if any(key in config for key in _CLIPS):
        return "clips"
    if any(key in given for key in ("image_mean", "image_processor_type", "size", "do_resize")):
        return "stills"
    raise _unfit(checkpoint, "a processor for neither pictures nor sound", "a vision, video or audio encoder")


def _first(config: Mapping[str, Any], names: tuple[str, ...], default: int) -> int:
    return next((int(config[name]) for name in names if config.get(name)), default)


def _unfit(checkpoint: Checkpoint, found: str, expected: str) -> StudyError:
    return StudyError(
        where=str(checkpoint.path),
        found=found,
        expected=expected,
        do="register an extractor of your own (docs/networks.md)",
    )


class HfEncoder:
    """An encoder of transformers, read through hooks on its blocks."""

    def __init__(self, path: Path, reading: Reading) -> None:
        checkpoint = read_checkpoint(path, str(path))
        self._reading, self._checkpoint, self._kind = reading, checkpoint, _kind(checkpoint)
        model = load_network(path, reading)
        self._network = _encoder(model)
        self._input = str(self._network.main_input_name)
        self._prepare = _sound_processor(path) if self._kind == "sound" else _frame_processor(path, checkpoint)
        blocks, self._norm = _blocks(self._network, describe(checkpoint), checkpoint, reading.final_norm)
        self._taken: dict[str, Tensor] = {}
        self._pool: Callable[[Tensor], Tensor] = pool_tokens(reading.pooling)
        wanted = set(reading.streams[0].layers)
        if layer_label(0) in wanted:
            blocks[0].register_forward_pre_hook(self._take_input, with_kwargs=True)
        for number, block in enumerate(blocks, start=1):
            if layer_label(number) in wanted:
                norm = self._norm if number == len(blocks) else None
                block.register_forward_hook(partial(self._take_output, layer_label(number), norm))

    def prepare_frame(self, rgb: np.ndarray) -> np.ndarray:
        """What the checkpoint's own processor makes of a frame, (3, y, x) float32."""
        return self._prepare(rgb)

    def __call__(self, batch: Batch) -> Features:
        """Features of a batch of windows."""
        if self._kind == "sound":
            assert batch.sound is not None
            self._pool = self._own_tokens(batch.sound.shape[1] / self._reading.rate_hz)
            return in_pieces(self._run, self._network, _TOKENS, self._prepare(batch.sound))
        assert batch.frames is not None
        if self._kind == "clips":
            return in_pieces(self._run, self._network, _TOKENS, batch.frames)
        frames = batch.frames.reshape(-1, *batch.frames.shape[2:])
        found = in_pieces(self._run, self._network, _TOKENS // 4, frames)
        return mean_over_frames(found, len(batch.frames), self._reading.frame_pooling)

    def _run(self, values: Tensor) -> dict[Key, Tensor]:
        self._taken.clear()
        dtype = next(self._network.parameters()).dtype
        accepted = inspect.signature(self._network.forward).parameters
        # V-JEPA 2 would go on to predict what it was not shown.
        options = {"skip_predictor": True} if "skip_predictor" in accepted else {}
        self._network(**{self._input: values.to(dtype)}, **options)
        return {("", label): value for label, value in self._taken.items()}

    def _own_tokens(self, heard_s: float) -> Callable[[Tensor], Tensor]:
        """Pooling of the tokens of the window's own sound, where tokens follow one another in time."""
        pool, given = pool_tokens(self._reading.pooling), self._checkpoint.processor
        strides, padded_s = self._checkpoint.config.get("conv_stride"), given.get("chunk_length")
        if self._reading.pooling == "cls":
            return pool
        if strides is not None:
            tokens_per_s = self._reading.rate_hz / math.prod(strides)
            n_own = max(1, math.floor(self._reading.window_s * tokens_per_s + 1e-9))
            return lambda tokens: pool(tokens[:, -n_own:])
        if padded_s is None:
            return pool

        def pool_heard(tokens: Tensor) -> Tensor:
            # Silence is added after what was heard, up to the length that the network knows.
            tokens_per_s = tokens.shape[1] / padded_s
            stop = max(1, math.floor(heard_s * tokens_per_s + 1e-9))
            n_own = max(1, math.floor(self._reading.window_s * tokens_per_s + 1e-9))
            return pool(tokens[:, max(0, stop - n_own) : stop])

        return pool_heard

    def _take_input(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._taken[layer_label(0)] = self._pool(args[0] if args else kwargs["hidden_states"])

    def _take_output(self, label: str, norm: nn.Module | None, _: nn.Module, __: Any, output: Any) -> None:
        tokens = output[0] if isinstance(output, tuple) else output
        self._taken[label] = self._pool(tokens if norm is None else norm(tokens))


def _encoder(model: Any) -> Any:
    """The encoder of a network that has more: CLIP's tower for pictures, the first half of Whisper."""
    if hasattr(model, "vision_model"):
        return model.vision_model
    if getattr(model.config, "is_encoder_decoder", False):
        return model.get_encoder()
    return model


def _blocks(
    network: nn.Module, facts: Facts, checkpoint: Checkpoint, normed: bool
) -> tuple[nn.ModuleList, nn.Module | None]:
    """The list of a network's blocks, and the norm that follows it if it is asked for."""
    n_blocks = len(facts.streams[0].layers) - 1
    for parent in network.modules():
        for child in parent.children():
            if isinstance(child, nn.ModuleList) and len(child) == n_blocks:
                norm = _norm_of(parent) or _norm_of(network)
                if normed and norm is None:
                    raise _unfit(checkpoint, "no norm after the last block", "one, as final_norm: true says")
                return child, norm if normed else None
    raise _unfit(checkpoint, f"no list of {n_blocks} blocks", "one, as the configuration says")


def _norm_of(parent: nn.Module) -> nn.Module | None:
    return next((child for name, child in parent.named_children() if name in _NORMS), None)


def _frame_processor(path: Path, checkpoint: Checkpoint) -> Callable[[np.ndarray], np.ndarray]:
    """The checkpoint's processor for one frame."""
    if "video_processor_type" in checkpoint.processor:  # transformers' own needs torchvision
        pixels = read_pixels(checkpoint, _PIXELS, default_crop=True)
        return lambda rgb: pixels.normalise(torch.from_numpy(pixels.prepare(rgb).copy())).numpy()
    from transformers import AutoImageProcessor

    with quiet():
        processor = AutoImageProcessor.from_pretrained(path, local_files_only=True, trust_remote_code=False)

    def prepare(rgb: np.ndarray) -> np.ndarray:
        values = processor(rgb, return_tensors="np", input_data_format="channels_last")["pixel_values"]
        frame = np.asarray(values, np.float32)
        return frame.reshape(frame.shape[-3:])

    return prepare


def _sound_processor(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The checkpoint's processor for windows of sound of equal length."""
    from transformers import AutoFeatureExtractor

    with quiet():
        processor = AutoFeatureExtractor.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    name = processor.model_input_names[0]

    def prepare(sound: np.ndarray) -> np.ndarray:
        return np.asarray(processor(list(sound), sampling_rate=processor.sampling_rate, return_tensors="np")[name])

    return prepare


NETWORK = Network(VERSION, describe, HfEncoder)
