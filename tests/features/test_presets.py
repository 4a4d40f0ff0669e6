"""The networks that transformers has, against numbers of code that was not transformers' (golden/make_presets.py)."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cinecube.features.networks.network import Batch, Reading, read_checkpoint
from cinecube.features.networks.registry import find_network
from cinecube.store.cube.schema import Stream

SMALL = ["vit", "videomae", "vivit", "wav2vec2", "wav2vec2_large", "ast"]
FULL = [f"{name}_full" for name in ("vit", "videomae", "vivit", "wav2vec2", "ast")]
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def numbers(golden):
    with np.load(golden / "presets.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module", params=[*SMALL, *(pytest.param(name, marks=pytest.mark.long) for name in FULL)])
def made(request, numbers, tmp_path_factory, drawing):
    """A checkpoint under its official keys with the weights that the other code had."""
    case, folder = json.loads(str(numbers["cases"]))[request.param], tmp_path_factory.mktemp(request.param)
    (folder / "config.json").write_text(json.dumps(case["config"]))
    (folder / "preprocessor_config.json").write_text(json.dumps(case["processor"]))
    state = {}
    for key, shape in case["keys"].items():
        scale = 1 if "layer_norm" in key and key.endswith(".weight") else 0
        state[case["prefix"] + key] = torch.from_numpy(drawing.draw(key, tuple(shape), case["std"]) + np.float32(scale))
    save_file(state, folder / "model.safetensors")
    return request.param, case, folder


def test_every_layer_of_every_way_to_read(made, numbers, drawing):
    name, case, folder = made
    network = find_network(case["extractor"], name)
    facts = network.describe(read_checkpoint(folder, name))
    if name in SMALL:
        assert facts.final_norm == any("final_norm" in changes for changes in case["readings"])
    for number, changes in enumerate(case["readings"]):
        labels = changes.pop("layers", facts.streams[0].layers)
        stream = Stream("", labels, facts.streams[0].widths[: len(labels)])
        frames = case.get("frames", 0)
        reading = Reading((stream,), frames_per_window=frames, rate_hz=facts.rate_hz, window_s=0.5, **changes)
        extractor = network.load(folder, reading)
        found = extractor(_batch(case, extractor, drawing))
        for label, expected in zip(labels, numbers[f"{name}_{number}"], strict=True):
            error = np.abs(found["", label] - expected).max() / np.abs(expected).max()
            assert error <= TOLERANCE, (label, changes, error)


def _batch(case, extractor, drawing):
    """A window, and the same backwards."""
    if "seconds" in case:
        heard = drawing.sound(16000 * case["seconds"], 16000)
        return Batch(sound=np.stack([heard, heard[::-1]]))
    shown = np.stack([extractor.prepare_frame(rgb) for rgb in drawing.frames(case["frames"], 120, 160)])
    return Batch(frames=np.stack([shown, shown[::-1]]))
