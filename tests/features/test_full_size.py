"""Encoders that `hf` reads at the size that their authors published, with random weights, against transformers.

From the same decoded frames, resized by either side, every layer's features agree to 2e-2.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cinecube.features.networks.network import Batch, Reading, read_checkpoint
from cinecube.features.networks.registry import find_network
from cinecube.store.base.labels import layer_labels

pytestmark = [pytest.mark.slow, pytest.mark.long]
SAME_FRAMES = 2e-2
WINDOW_S = 1.49
# What is read of a window: (frames, seconds of sound).
INPUTS = {
    "hubert": (0, 4),
    "dinov2": (2, 0),
    "whisper": (0, 4),
}


def _make(name: str) -> tuple[Any, Any]:
    """A model at the size of its base checkpoint, and its processor with that checkpoint's settings."""
    import transformers as hf

    makers = {
        "hubert": lambda: (hf.HubertModel(hf.HubertConfig()), hf.Wav2Vec2FeatureExtractor()),
        "dinov2": lambda: (
            hf.Dinov2Model(hf.Dinov2Config(image_size=518, patch_size=14)),
            hf.BitImageProcessorPil(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}),
        ),
        "whisper": lambda: (hf.WhisperModel(hf.WhisperConfig()), hf.WhisperFeatureExtractor()),
    }
    torch.manual_seed(0)
    return makers[name]()


def _frames(n: int) -> np.ndarray:
    """(frame, height, width, 3) uint8: moving squares, and noise that resizing has to average."""
    rng = np.random.default_rng(0)
    coarse = np.kron(rng.integers(0, 256, (9, 16, 3)), np.ones((40, 40, 1))).astype(int)
    frames = [np.roll(coarse, 7 * j, axis=1) + rng.integers(-40, 41, coarse.shape) for j in range(n)]
    return np.clip(np.stack(frames), 0, 255).astype(np.uint8)


def _sound(seconds: int) -> np.ndarray:
    time = np.arange(16000 * seconds) / 16000
    noise = np.random.default_rng(0).normal(0, 0.05, len(time))
    return (0.2 * np.sin(2 * np.pi * 300 * (1 + 0.1 * time) * time) + noise).astype(np.float32)


def _inputs(name: str, processor: Any) -> torch.Tensor:
    """What transformers' own processor makes of the frames or the sound."""
    n, seconds = INPUTS[name]
    if seconds:
        values = processor(_sound(seconds), sampling_rate=16000, return_tensors="pt")
        return values[processor.model_input_names[0]]
    frames = list(_frames(n))
    return processor(frames, return_tensors="pt").pixel_values


def _reference(model: Any, name: str, inputs: torch.Tensor, n_blocks: int) -> list[torch.Tensor]:
    """What enters block 1 and leaves each block, by hooks: no version's `hidden_states` is trusted."""
    encoder = model.get_encoder() if name == "whisper" else model
    blocks = next(m for m in encoder.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == n_blocks)
    seen: list[torch.Tensor] = []

    def entering(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append((args[0] if args else kwargs["hidden_states"]).clone())

    blocks[0].register_forward_pre_hook(entering, with_kwargs=True)
    for block in blocks:
        block.register_forward_hook(lambda _, __, out: seen.append((out[0] if isinstance(out, tuple) else out).clone()))
    with torch.inference_mode():
        encoder(inputs)
    return seen


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.filterwarnings("ignore:At least one mel filter")
@pytest.mark.parametrize("name", INPUTS)
def test_every_layer_at_full_size(name: str, tmp_path: Path) -> None:
    torch.set_num_threads(2)
    model, processor = _make(name)
    model.eval().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    ours = find_network("hf", name)
    facts = ours.describe(read_checkpoint(tmp_path, name))
    labels = list(facts.streams[0].layers)
    assert labels == layer_labels(len(labels) - 1)
    inputs = _inputs(name, processor)
    states = _reference(model, name, inputs, len(labels) - 1)
    assert len(states) == len(labels)
    del model
    n, seconds = INPUTS[name]
    look_back_s = seconds - WINDOW_S if seconds else 0.0
    reading = Reading(
        facts.streams, frames_per_window=n, rate_hz=facts.rate_hz, window_s=WINDOW_S, context_s=look_back_s
    )
    extractor = ours.load(tmp_path, reading)
    if seconds:
        found = extractor(Batch(sound=_sound(seconds)[None]))
    else:
        found = extractor(Batch(frames=np.stack([extractor.prepare_frame(rgb) for rgb in _frames(n)])[None]))
    for label, state in zip(labels, states, strict=True):
        expected = _pooled(name, state, seconds).flatten(0, -2).mean(dim=0)
        assert _difference(torch.from_numpy(found["", label][0]), expected) <= SAME_FRAMES, label


def _pooled(name: str, state: torch.Tensor, seconds: int) -> torch.Tensor:
    """The tokens that are pooled: those of the window's own sound, or all."""
    if name == "whisper":
        return state[:, 50 * seconds - int(50 * WINDOW_S) : 50 * seconds]
    return state[:, -int(50 * WINDOW_S) :] if seconds else state
