"""Drawn features of the networks that read sound alone, by the models of transformers."""

from __future__ import annotations

import warnings
from functools import lru_cache
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from cinecube.simulation.features.drawn_pictures import BATCH, by_layer, hidden_states
from cinecube.simulation.features.seen import equal_runs, sound_heard
from cinecube.simulation.features.small_networks import MEL_FRAMES_PER_S, SPEECH_RATE_HZ, look
from cinecube.simulation.setup.simulate_params import SimulateSpec

_TOKENS_PER_S = 50
_MEL_FRAME, _MEL_STEP = 400, 160
_PATCH, _PATCH_STEP, _PATCH_BANDS = 16, 10, 12
# CLS and distillation come before AST's patches.
_SPECIAL = 2


def read_wav2vec2(spec: SimulateSpec, mono: np.ndarray, folder: Path) -> dict[str, np.ndarray]:
    """Wav2Vec2: the mean over the tokens of the row's own window, (row, dim) by layer.

    Parameters
    ----------
    spec : SimulateSpec
    mono : ndarray (sample,)
        Sound of a segment.
    folder : Path
        Of the checkpoint.

    Returns
    -------
    dict of str to array of float32, shape (row, dim)
    """
    model, extractor = _load_wav2vec2(folder)
    own = max(1, int(spec.window_s * _TOKENS_PER_S + 1e-6))
    rows = []
    for batch in equal_runs(sound_heard(spec, look(spec, "wav2vec2"), mono), BATCH):
        values = extractor(batch, sampling_rate=SPEECH_RATE_HZ, return_tensors="pt")["input_values"]
        rows.append(hidden_states(model, values)[:, :, -own:].mean(axis=2))
    return by_layer(np.concatenate(rows, axis=1).swapaxes(0, 1))


def read_ast(spec: SimulateSpec, mono: np.ndarray, folder: Path) -> dict[str, np.ndarray]:
    """AST: the mean over the patches of the row's own window, (row, dim) by layer.

    Parameters
    ----------
    spec : SimulateSpec
    mono : ndarray (sample,)
        Sound of a segment.
    folder : Path
        Of the checkpoint.

    Returns
    -------
    dict of str to array of float32, shape (row, dim)
    """
    model, extractor = _load_ast(folder)
    rows = []
    for batch in equal_runs(sound_heard(spec, look(spec, "ast"), mono), BATCH):
        values = extractor(batch, sampling_rate=SPEECH_RATE_HZ, return_tensors="pt")["input_values"]
        patches = hidden_states(model, values)[:, :, _SPECIAL:]
        times = patches.reshape(*patches.shape[:2], _PATCH_BANDS, -1, patches.shape[3])
        rows.append(times[:, :, :, _own_patches(len(batch[0]), spec.window_s)].mean(axis=(2, 3)))
    return by_layer(np.concatenate(rows, axis=1).swapaxes(0, 1))


def _own_patches(n_samples: int, window_s: float) -> slice:
    """Places along time of the patches that are whole in the last `window_s` of what was heard."""
    n_frames = 1 + (n_samples - _MEL_FRAME) // _MEL_STEP
    begin = n_frames - round(window_s * MEL_FRAMES_PER_S)
    return slice(max(0, ceil(begin / _PATCH_STEP)), (n_frames - _PATCH) // _PATCH_STEP + 1)


@lru_cache(maxsize=1)
def _load_wav2vec2(folder: Path) -> tuple[Any, Any]:
    from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model

    model = Wav2Vec2Model.from_pretrained(folder, local_files_only=True).eval()
    return model, Wav2Vec2FeatureExtractor.from_pretrained(folder, local_files_only=True)


@lru_cache(maxsize=1)
def _load_ast(folder: Path) -> tuple[Any, Any]:
    from transformers import ASTFeatureExtractor, ASTModel

    model = ASTModel.from_pretrained(folder, local_files_only=True).eval()
    with warnings.catch_warnings():
        # So many bands are narrower than the spacing of the lowest frequencies, in the official network too.
        warnings.filterwarnings("ignore", message="At least one mel filter")
        return model, ASTFeatureExtractor.from_pretrained(folder, local_files_only=True)
