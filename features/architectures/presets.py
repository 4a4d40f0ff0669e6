"""Five networks of transformers as their papers read them: what each checkpoint says, and how it prepares frames.

The library has their classes; what it leaves open is here and in `preset_networks`, which imports torch and waits until
a network is loaded. `hf` reads the same checkpoints by general rules.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from cinecube.features.networks.mel import FRAMES_PER_S, RATE_HZ
from cinecube.features.networks.network import (
    ALL_FRAMES,
    Checkpoint,
    Extractor,
    Facts,
    Network,
    Reading,
    check_architecture,
    read_checkpoint,
)
from cinecube.features.networks.pixels import HALF, IMAGENET, Pixels, read_pixels
from cinecube.store.base.errors import StudyError
from cinecube.store.base.labels import layer_labels
from cinecube.store.cube.schema import Stream

_CLS_AND_PATCHES = ("mean", "patches", "cls", "last")
_TOKENS_ALONE = ("mean", "last")


def _facts(checkpoint: Checkpoint, model_type: str, **facts: Any) -> Facts:
    """Facts of a network of one stream, sizes that its configuration leaves out as in the base size."""
    check_architecture(checkpoint, model_type)
    labels = layer_labels(checkpoint.config.get("num_hidden_layers", 12))
    width = checkpoint.config.get("hidden_size", 768)
    return Facts(streams=(Stream("", labels, [width] * len(labels)),), **facts)


ReadPixels = Callable[[Checkpoint], Pixels]


def _vit_pixels(checkpoint: Checkpoint) -> Pixels:
    return read_pixels(checkpoint, Pixels((224, 224), mean=HALF[0], std=HALF[1]))


def describe_vit(checkpoint: Checkpoint) -> Facts:
    """ViT (Dosovitskiy et al. 2021): still frames, every one of a window, their mean."""
    return _facts(
        checkpoint,
        "vit",
        frames_per_window=ALL_FRAMES,
        stills=True,
        poolings=_CLS_AND_PATCHES,
        final_norm=True,
        preprocessing=_vit_pixels(checkpoint).as_dict(),
    )


def _videomae_pixels(checkpoint: Checkpoint) -> Pixels:
    defaults = Pixels(224, crop=(224, 224), mean=IMAGENET[0], std=IMAGENET[1])
    return read_pixels(checkpoint, defaults, default_crop=True)


def describe_videomae(checkpoint: Checkpoint) -> Facts:
    """VideoMAE (Tong et al. 2022): clips of 16 frames. It has no CLS token."""
    return _facts(
        checkpoint,
        "videomae",
        frames_per_window=checkpoint.config.get("num_frames", 16),
        frames_fixed=True,
        poolings=_TOKENS_ALONE,
        final_norm=not checkpoint.config.get("use_mean_pooling", True),
        preprocessing=_videomae_pixels(checkpoint).as_dict(),
    )


def _vivit_pixels(checkpoint: Checkpoint) -> Pixels:
    # The official processor scales pixels to [-1, 1] and then normalises them as if they lay in [0, 1].
    defaults = Pixels(256, crop=(224, 224), scale=1 / 127.5, offset=-1.0, mean=HALF[0], std=HALF[1])
    return read_pixels(checkpoint, defaults, default_crop=True)


def describe_vivit(checkpoint: Checkpoint) -> Facts:
    """ViViT (Arnab et al. 2021), its model of joint space and time: clips of 32 frames."""
    return _facts(
        checkpoint,
        "vivit",
        frames_per_window=checkpoint.config.get("num_frames", 32),
        frames_fixed=True,
        # Stride 1, as the paper reads it: 32 frames are 1.3 s of a film.
        sampling="consecutive",
        poolings=_CLS_AND_PATCHES,
        final_norm=True,
        preprocessing=_vivit_pixels(checkpoint).as_dict(),
    )


def describe_wav2vec2(checkpoint: Checkpoint) -> Facts:
    """wav2vec 2.0 (Baevski et al. 2020): sound, with a look back before each window. It has no CLS token.

    Raises
    ------
    StudyError
        If it is of another architecture, or has adapters for single languages in its attention.
    """
    config, given = checkpoint.config, checkpoint.processor
    if config.get("adapter_attn_dim"):
        raise StudyError(
            where=str(checkpoint.path),
            found=f"adapters in its attention (adapter_attn_dim {config['adapter_attn_dim']})",
            expected="wav2vec 2.0 without",
            do="read it with `extractor: hf`",
        )
    return _facts(
        checkpoint,
        "wav2vec2",
        rate_hz=given.get("sampling_rate", 16000),
        context_s=16.0,
        poolings=_TOKENS_ALONE,
        final_norm=bool(config.get("do_stable_layer_norm", False)),
        preprocessing={"normalise": given.get("do_normalize", True), "channels": "mean"},
    )


# Of AudioSet; the official extractor divides by twice the deviation.
_MEAN, _STD = -4.2677393, 4.5689974


def describe_ast(checkpoint: Checkpoint) -> Facts:
    """AST, the Audio Spectrogram Transformer (Gong et al. 2021): up to 10.24 s of sound as a picture of its mel bands.

    Its first two tokens are CLS and distillation.
    """
    longest_s = checkpoint.processor.get("max_length", 1024) / FRAMES_PER_S
    return _facts(
        checkpoint,
        "audio-spectrogram-transformer",
        rate_hz=checkpoint.processor.get("sampling_rate", RATE_HZ),
        context_s=longest_s,
        longest_s=longest_s,
        poolings=_CLS_AND_PATCHES,
        final_norm=True,
        preprocessing=_mel_settings(checkpoint),
    )


def _mel_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    given = checkpoint.processor
    return {
        "features": "kaldi log mel",
        "bands": given.get("num_mel_bins", 128),
        "frames": given.get("max_length", 1024),
        "normalise": given.get("do_normalize", True),
        "mean": given.get("mean", _MEAN),
        "std": 2 * given.get("std", _STD),
        "channels": "mean",
    }


def _load_pictures(
    describe: Callable[[Checkpoint], Facts], read_pixels: ReadPixels, path: Path, reading: Reading
) -> Extractor:
    from cinecube.features.architectures.preset_networks import Pictures

    checkpoint = read_checkpoint(path, str(path))
    return Pictures(checkpoint, describe(checkpoint), read_pixels(checkpoint), reading)


def _load_wav2vec2(path: Path, reading: Reading) -> Extractor:
    from cinecube.features.architectures.preset_networks import Wav2Vec2

    checkpoint = read_checkpoint(path, str(path))
    return Wav2Vec2(checkpoint, describe_wav2vec2(checkpoint), reading)


def _load_ast(path: Path, reading: Reading) -> Extractor:
    from cinecube.features.architectures.preset_networks import Ast

    checkpoint = read_checkpoint(path, str(path))
    return Ast(checkpoint, describe_ast(checkpoint), reading)


VIT = Network(
    version=2, describe=describe_vit, load=partial(_load_pictures, describe_vit, _vit_pixels), licence="apache-2.0"
)
# Of the official weights: CC BY-NC 4.0, as the card of `MCG-NJU/videomae-base` says.
VIDEOMAE = Network(
    version=2,
    describe=describe_videomae,
    load=partial(_load_pictures, describe_videomae, _videomae_pixels),
    licence="cc-by-nc-4.0",
)
VIVIT = Network(
    version=1, describe=describe_vivit, load=partial(_load_pictures, describe_vivit, _vivit_pixels), licence="mit"
)
WAV2VEC2 = Network(version=2, describe=describe_wav2vec2, load=_load_wav2vec2, licence="apache-2.0")
AST = Network(version=1, describe=describe_ast, load=_load_ast, licence="bsd-3-clause")
