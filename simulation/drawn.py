"""Drawn features: what the networks say of frames and sound as they were drawn, before any file is written.

A plain loop over windows that calls each network directly. It repeats on purpose what `features` does, sharing no code
with it, because the truth must not inherit the errors of what it judges (DESIGN §9).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cinecube.simulation.checkpoints import CLIP_FRAMES
from cinecube.simulation.spec import NETWORKS, Network, SimulateSpec

SPEECH_RATE_HZ = 16_000
_TOKENS_PER_S = 50
_BATCH = 16


def drawn_features(
    spec: SimulateSpec, frames: np.ndarray, sound: np.ndarray, weights: Path
) -> dict[Network, np.ndarray]:
    """Features of one segment for each network of the study.

    Parameters
    ----------
    spec : SimulateSpec
        Clock, frame rate, frames per window, context.
    frames : ndarray
        (frame, height, width, 3) uint8 RGB.
    sound : ndarray
        (channel, sample) float32 at `spec.sample_rate_hz`.
    weights : Path
        The folder that holds one checkpoint folder per network.

    Returns
    -------
    dict of str to ndarray
        (row, layer, dim) float32 by network; layer 0 is what enters block 1.
    """
    features: dict[Network, np.ndarray] = {}
    for network in NETWORKS:
        folder = weights / network
        if network == "vit":
            features[network] = _read_stills(spec, frames, folder)
        elif network == "videomae":
            features[network] = _read_clips(spec, frames, folder)
        else:
            features[network] = _read_speech(spec, sound, folder)
    return features


def _frames_seen(spec: SimulateSpec, row: int, count: int, n_frames: int) -> list[int]:
    """Numbers of the frames on screen at the middles of `count` equal parts of a row's window."""
    times = [row * spec.tr_s + (part + 0.5) * spec.window_s / count for part in range(count)]
    return [min(int(time_s * float(spec.rate)), n_frames - 1) for time_s in times]


def _read_stills(spec: SimulateSpec, frames: np.ndarray, folder: Path) -> np.ndarray:
    """ViT: the mean over a window's frames and their tokens, (row, layer, dim)."""
    from transformers import ViTImageProcessorPil, ViTModel

    model = ViTModel.from_pretrained(folder, local_files_only=True, add_pooling_layer=False).eval()
    processor = ViTImageProcessorPil.from_pretrained(folder, local_files_only=True)
    rows, count = [], spec.stills_per_window
    for row in range(spec.rows_per_segment):
        stills = [frames[number] for number in _frames_seen(spec, row, count, len(frames))]
        layers = _layers(model, processor(images=stills, return_tensors="pt")["pixel_values"])
        rows.append(layers.mean(axis=(1, 2)))
    return np.stack(rows)


def _read_clips(spec: SimulateSpec, frames: np.ndarray, folder: Path) -> np.ndarray:
    """VideoMAE: the mean over a clip's tokens, (row, layer, dim)."""
    import torch
    from transformers import VideoMAEImageProcessorPil, VideoMAEModel

    model = VideoMAEModel.from_pretrained(folder, local_files_only=True).eval()
    processor = VideoMAEImageProcessorPil.from_pretrained(folder, local_files_only=True)
    rows, count = [], CLIP_FRAMES
    for first in range(0, spec.rows_per_segment, _BATCH):
        clips = []
        for row in range(first, min(first + _BATCH, spec.rows_per_segment)):
            clip = [frames[number] for number in _frames_seen(spec, row, count, len(frames))]
            clips.append(processor(clip, return_tensors="pt")["pixel_values"])
        rows.append(_layers(model, torch.cat(clips)).mean(axis=2).swapaxes(0, 1))
    return np.concatenate(rows)


def _read_speech(spec: SimulateSpec, sound: np.ndarray, folder: Path) -> np.ndarray:
    """Wav2Vec2: the mean over the tokens of the row's own window, (row, layer, dim)."""
    from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model

    model = Wav2Vec2Model.from_pretrained(folder, local_files_only=True).eval()
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(folder, local_files_only=True)
    windows = _speech_windows(spec, _at_speech_rate(sound, spec.sample_rate_hz))
    own = max(1, int(spec.window_s * _TOKENS_PER_S + 1e-6))
    rows: list[np.ndarray] = []
    while len(rows) < len(windows):
        # Rows near a segment's start look back on less, and a batch needs equal lengths.
        batch = windows[len(rows) : len(rows) + _BATCH]
        batch = [window for window in batch if len(window) == len(batch[0])]
        values = extractor(batch, sampling_rate=SPEECH_RATE_HZ, return_tensors="pt")["input_values"]
        rows.extend(_layers(model, values)[:, :, -own:].mean(axis=2).swapaxes(0, 1))
    return np.stack(rows)


def _at_speech_rate(sound: np.ndarray, rate_hz: int) -> np.ndarray:
    """The mean of the channels at 16 kHz, (sample,) float32."""
    from math import gcd

    from scipy.signal import resample_poly

    common = gcd(SPEECH_RATE_HZ, rate_hz)
    mono = sound.astype(float).mean(axis=0)
    slow: np.ndarray = resample_poly(mono, SPEECH_RATE_HZ // common, rate_hz // common)
    return slow.astype(np.float32)


def _speech_windows(spec: SimulateSpec, mono: np.ndarray) -> list[np.ndarray]:
    """The sound that each row hears: no longer before the segment's start, silent after its end."""
    windows = []
    for row in range(spec.rows_per_segment):
        start = max(0, round((row * spec.tr_s - spec.context_s) * SPEECH_RATE_HZ))
        end = round((row * spec.tr_s + spec.window_s) * SPEECH_RATE_HZ)
        window = np.zeros(end - start, np.float32)
        heard = mono[start:end]
        window[: len(heard)] = heard
        windows.append(window)
    return windows


def _layers(model: Any, values: Any) -> np.ndarray:
    """What enters block 1 and what leaves each block, (layer, batch, token, dim) float32."""
    import torch

    # In transformers 5 the last hidden state of all three is block 12's own output, before any final norm.
    with torch.inference_mode():
        states = model(values, output_hidden_states=True).hidden_states
    return torch.stack(states).numpy()
