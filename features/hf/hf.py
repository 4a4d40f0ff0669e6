"""Any encoder of the transformers library, by its checkpoint: pictures, clips or sound, no code to write."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cinecube.features.hf.hf_inputs import NEEDED_MASKS, frame_processor, sound_processor
from cinecube.features.hf.hooks import Tapped
from cinecube.features.hf.loading import library_config, load_network, unfit
from cinecube.features.networks.network import (
    ALL_FRAMES,
    Batch,
    Checkpoint,
    Facts,
    Features,
    Key,
    Reading,
    read_checkpoint,
)
from cinecube.features.networks.taps import Pool, in_pieces, mean_over_frames, own_tokens, pool_tokens
from cinecube.store.base.errors import StudyError
from cinecube.store.base.labels import layer_labels
from cinecube.store.cube.schema import Stream

Kind = Literal["stills", "clips", "sound"]
_WIDTHS = ("hidden_size", "d_model", "embed_dim")
_BLOCKS = ("num_hidden_layers", "encoder_layers", "num_layers")
_CLIPS = ("num_frames", "frames_per_clip")
# Where networks that have more than one tower keep the one for pictures or sound, and its part of their configuration.
_TOWERS = {
    "pictures": ("vision_config", ("vision_model", "vision_tower", "visual", "vision_encoder")),
    "sound": ("audio_config", ("audio_tower", "audio_model", "audio_encoder")),
}
# How many tokens an item has is known only when it has been read; this many keep most networks within bounds.
_TOKENS = 1600
# Samples by which two made-up windows differ when tokens are counted; a multiple of what encoders make one token of.
_COUNTED_SAMPLES = 92160


def describe(checkpoint: Checkpoint) -> Facts:
    """Facts from a checkpoint's configuration: its layers, and whether it reads pictures, clips or sound.

    Raises
    ------
    StudyError
        If its blocks differ in width, or its processor says nothing of pictures or sound.
    """
    _refuse_own_code(checkpoint)
    given, kind = checkpoint.processor, _kind(checkpoint)
    config = _encoder_config(checkpoint, kind)
    if any(isinstance(config.get(key), list | tuple) for key in (*_WIDTHS, *_BLOCKS, "depths", "hidden_sizes")):
        raise unfit(checkpoint, "blocks of several widths", "blocks of one width, one after another")
    width, n_blocks = (_number(config, names, checkpoint) for names in (_WIDTHS, _BLOCKS))
    labels = layer_labels(n_blocks)
    facts: dict[str, Any] = {
        "streams": (Stream("", labels, [width] * len(labels)),),
        "poolings": ("mean", "cls", "last"),
        # Whether one follows is known when the network is loaded.
        "final_norm": True,
        "preprocessing": {key: value for key, value in sorted(given.items()) if not isinstance(value, dict | list)}
        | {key: value for key, value in given.items() if key in ("size", "crop_size", "image_mean", "image_std")},
    }
    if kind == "sound":
        chunk_s = given.get("chunk_length")
        facts |= {"rate_hz": given["sampling_rate"], "longest_s": float(chunk_s) if chunk_s else None}
    elif kind == "clips":
        facts |= {"frames_per_window": _number(config, _CLIPS, checkpoint), "frames_fixed": True}
    else:
        facts |= {"frames_per_window": ALL_FRAMES, "stills": True}
    return Facts(**facts)


def _refuse_own_code(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint that only a program of its own can read: no foreign program is run here."""
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
                do="register an extractor of your own (docs/reference/networks.md) if you trust it",
            )


def _is_known(value: Any, key: str) -> bool:
    """True if transformers has a class of that name, or of that type of network."""
    import transformers

    if not isinstance(value, str):
        return False
    return value in transformers.CONFIG_MAPPING if key == "model_type" else hasattr(transformers, value)


def _encoder_config(checkpoint: Checkpoint, kind: Kind | None = None) -> Mapping[str, Any]:
    """The part of a configuration that describes the encoder, with what the file leaves out as the library has it.

    Of CLIP and its like that is the one for pictures.
    """
    config = library_config(checkpoint)
    nested = getattr(config, _TOWERS["sound" if kind == "sound" else "pictures"][0], config)
    values: dict[str, Any] = nested.to_dict()
    # Other names of the same thing, such as `hidden_size` of `d_model`.
    return values | {name: values[own] for name, own in nested.attribute_map.items() if own in values}


def _kind(checkpoint: Checkpoint) -> Kind:
    given = checkpoint.processor
    if "sampling_rate" in given:
        return "sound"
    if any(key in _encoder_config(checkpoint) for key in _CLIPS):
        return "clips"
    if any(key in given for key in ("image_mean", "image_processor_type", "size", "do_resize")):
        return "stills"
    raise unfit(checkpoint, "a processor for neither pictures nor sound", "a vision, video or audio encoder")


def _number(config: Mapping[str, Any], names: tuple[str, ...], checkpoint: Checkpoint) -> int:
    found = next((config[name] for name in names if config.get(name)), None)
    if not isinstance(found, int):
        raise unfit(checkpoint, f"no {names[0]} in the configuration", "an encoder of equal blocks")
    return found


class HfEncoder:
    """An encoder of transformers, read through hooks on its blocks.

    Attributes
    ----------
    kind : str
        `stills`, `clips` or `sound`.
    tapped : Tapped
        The encoder alone.
    input : str
        What it calls pictures or sound.
    padded_s : float or None
        Seconds to which the processor pads all sound with silence.
    """

    def __init__(self, path: Path, reading: Reading) -> None:
        checkpoint = read_checkpoint(path, str(path))
        self.kind = _kind(checkpoint)
        network = _encoder(load_network(checkpoint, reading), "sound" if self.kind == "sound" else "pictures")
        self._reading = reading
        self.padded_s = checkpoint.processor.get("chunk_length") if self.kind == "sound" else None
        if self.kind == "sound":
            self._prepare_sound = sound_processor(path, _accepted(network))
        else:
            self._prepare_frame = frame_processor(path, checkpoint)
        self.input = _input_name(network, checkpoint)
        self.tapped = Tapped(network, describe(checkpoint).streams[0], checkpoint, reading, _options(network))
        looks_back = self.kind == "sound" and reading.context_s > 0 and not self.padded_s
        self._samples_per_token = self._count_samples(checkpoint) if looks_back else None

    def prepare_frame(self, rgb: np.ndarray) -> np.ndarray:
        """Prepare a frame with the checkpoint's own processor, (3, y, x) float32."""
        return self._prepare_frame(rgb)

    def __call__(self, batch: Batch) -> Features:
        """Features of a batch of windows."""
        inputs, pool = self.inputs(batch), pool_tokens(self._reading.pooling)
        if batch.sound is not None:
            pool = self._own_pool(pool, batch.sound.shape[1] / self._reading.rate_hz)
        n_tokens = _TOKENS // 4 if self.kind == "stills" else _TOKENS
        found = in_pieces(partial(self._run, tuple(inputs), pool), self.tapped.network, n_tokens, *inputs.values())
        if batch.frames is None or self.kind == "clips":
            return found
        return mean_over_frames(found, len(batch.frames), self._reading.frame_pooling)

    def inputs(self, batch: Batch) -> Mapping[str, np.ndarray]:
        """Inputs of the network for a batch, by name: (row, …); (row × frame, …) for stills."""
        if batch.sound is not None:
            return self._prepare_sound(batch.sound)
        assert batch.frames is not None
        frames = batch.frames.reshape(-1, *batch.frames.shape[2:]) if self.kind == "stills" else batch.frames
        return {self.input: frames}

    def tokens(self, inputs: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        """Layer to its tokens (row, token, dim), in one pass."""
        with torch.inference_mode():
            tensors = (torch.from_numpy(values) for values in inputs.values())
            found = self._run(tuple(inputs), lambda tokens: tokens, *tensors)
        return {label: tokens for (_, label), tokens in found.items()}

    def own(self, n_tokens: int, heard_s: float, window_s: float) -> slice:
        """Tokens of a window's own sound, not of the look-back or of silence after it.

        Parameters
        ----------
        n_tokens : int
            Tokens of the window, its look-back and silence.
        heard_s : float
            Seconds of sound, the look-back included.
        window_s : float
            Seconds of the window alone.

        Returns
        -------
        slice
        """
        if self.padded_s:  # silence is added after what was heard, up to the length that the network knows
            tokens_per_s = n_tokens / self.padded_s
            stop = own_tokens(heard_s, tokens_per_s)
            return slice(max(0, stop - own_tokens(window_s, tokens_per_s)), stop)
        if self._samples_per_token is None:
            return slice(0, n_tokens)
        n_own = own_tokens(window_s, self._reading.rate_hz / self._samples_per_token)
        return slice(max(0, n_tokens - n_own), n_tokens)

    def _own_pool(self, pool: Pool, heard_s: float) -> Pool:
        if self._reading.pooling == "cls":
            return pool
        return lambda tokens: pool(tokens[:, self.own(tokens.shape[1], heard_s, self._reading.window_s)])

    def _count_samples(self, checkpoint: Checkpoint) -> float:
        """Samples per token, from the samples and tokens that a longer window adds."""
        rate_hz = self._reading.rate_hz
        short = round((self._reading.context_s + self._reading.window_s) * rate_hz)
        sound = np.random.default_rng(0).normal(0, 0.1, (1, short + _COUNTED_SAMPLES)).astype(np.float32)
        few, many = (
            next(iter(self.tokens(self.inputs(Batch(sound=part))).values())).shape[1]
            for part in (sound[:, :short], sound)
        )
        if many <= few:
            raise unfit(checkpoint, "as many tokens for longer sound", "tokens in order of time, which look-back needs")
        return _COUNTED_SAMPLES / (many - few)

    def _run(self, names: tuple[str, ...], pool: Pool, *values: Tensor) -> dict[Key, Tensor]:
        return self.tapped.read(dict(zip(names, values, strict=True)), pool)


def _accepted(network: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(network.forward).parameters


def _input_name(network: Any, checkpoint: Checkpoint) -> str:
    """Name of a network's input, pictures or sound: the one thing that it cannot do without.

    Raises
    ------
    StudyError
        If it asks for more.
    """
    accepted, main = _accepted(network), str(network.main_input_name)
    needed = [
        name
        for name, parameter in accepted.items()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and name not in NEEDED_MASKS
    ]
    others = [name for name in needed if name != main]
    if main not in accepted and len(others) == 1:
        return others[0]
    if others or main not in accepted:
        raise unfit(checkpoint, f"a network that asks for {' and '.join(others or [main])}", "pictures or sound alone")
    return main


def _options(network: Any) -> dict[str, Any]:
    """Other arguments of a network: nothing is hidden from it, and it predicts nothing. Tensors are (1, …)."""
    accepted, options = _accepted(network), dict[str, Any]()
    if "skip_predictor" in accepted:  # V-JEPA 2 would go on to predict what it was not shown
        options["skip_predictor"] = True
    if "noise" in accepted and hasattr(network.config, "mask_ratio"):  # masked autoencoders hide patches by chance
        network.config.mask_ratio = 0.0
        n_patches = network.embeddings.patch_embeddings.num_patches
        options["noise"] = torch.arange(n_patches, dtype=torch.float32)[None] / n_patches
    return options


def _encoder(model: Any, senses: Literal["pictures", "sound"]) -> Any:
    """The encoder of a network that has more: CLIP's tower for pictures, the first half of Whisper."""
    for name in _TOWERS[senses][1]:
        if hasattr(model, name):
            return getattr(model, name)
    if getattr(model.config, "is_encoder_decoder", False):
        return model.get_encoder()
    return model
