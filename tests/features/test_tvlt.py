"""TVLT against transformers 4.57.6, the last that has it (golden/make_tvlt.py)."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cinecube.features.architectures.tvlt import NETWORK, TvltNetwork, rename
from cinecube.features.networks.mel import tvlt_log_mel
from cinecube.features.networks.network import Batch, Checkpoint, Reading, read_checkpoint
from cinecube.features.networks.pixels import HALF, Pixels
from cinecube.store.base.errors import StudyError

RATE_HZ = 44_100
N_SAMPLES = round(1.49 * RATE_HZ)
CONFIGS = {
    "small": {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "image_size": 64,
    },
    "full": {},
}


@pytest.fixture(scope="module")
def numbers(golden):
    with np.load(golden / "tvlt.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module", params=["small", pytest.param("full", marks=[pytest.mark.slow, pytest.mark.long])])
def made(request, tmp_path_factory, drawing):
    """A checkpoint under the official keys with the weights that transformers had."""
    folder = tmp_path_factory.mktemp(request.param)
    config = {"model_type": "tvlt", **CONFIGS[request.param]}
    size = config.get("image_size", 224)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}})
    )
    with torch.device("meta"):
        network = TvltNetwork(Checkpoint(folder, config, {}))
    state = {}
    for name, value in network.state_dict().items():
        keys = rename(name)
        keys = [keys] if isinstance(keys, str) else keys
        for key in keys:
            shape = (value.shape[0] // len(keys), *value.shape[1:])
            drawn = drawing.draw(key, shape, 0.2 if request.param == "small" else 0.02)
            state[f"tvlt.{key}"] = torch.from_numpy(drawn)
    save_file(state, folder / "model.safetensors")
    return request.param, folder


def _read(folder, drawing, final_norm=False):
    facts = NETWORK.describe(read_checkpoint(folder, "tvlt"))
    reading = Reading(facts.streams, frames_per_window=8, rate_hz=RATE_HZ, window_s=1.49, final_norm=final_norm)
    extractor = NETWORK.load(folder, reading)
    frames = np.stack([extractor.prepare_frame(rgb) for rgb in drawing.frames(8, 120, 160)])
    return list(facts.streams[0].layers), extractor(Batch(frames[None], drawing.sound(N_SAMPLES)[None]))


def test_every_layer_of_every_stream(made, numbers, drawing):
    config, folder = made
    layers, found = _read(folder, drawing)
    for stream in ("video", "audio", "joint"):
        states = np.stack([found[stream, layer][0] for layer in layers])
        np.testing.assert_allclose(states, numbers[f"{config}_{stream}"], atol=2e-5)


def test_the_norm_after_the_last_block(made, numbers, drawing):
    config, folder = made
    layers, found = _read(folder, drawing, final_norm=True)
    for stream in ("video", "audio"):
        np.testing.assert_allclose(found[stream, layers[-1]][0], numbers[f"{config}_{stream}_normed"], atol=2e-5)


def test_every_token_is_in_its_place(numbers, drawing):
    """Means cannot tell an order; tokens can."""
    config = {"model_type": "tvlt", **CONFIGS["small"]}
    network = TvltNetwork(Checkpoint("", config, {}))
    state = {}
    for name, value in network.state_dict().items():
        keys = rename(name)
        keys = [keys] if isinstance(keys, str) else keys
        parts = [drawing.draw(key, (value.shape[0] // len(keys), *value.shape[1:]), 0.2) for key in keys]
        state[name] = torch.from_numpy(np.concatenate(parts))
    network.load_state_dict(state)
    pixels = torch.from_numpy(_small_pixels(drawing))
    mel = torch.from_numpy(tvlt_log_mel(drawing.sound(N_SAMPLES)[None]))
    with torch.inference_mode():
        tokens = [value[0].numpy() for _, value in network.states(pixels, mel)]
    np.testing.assert_allclose(np.stack(tokens), numbers["small_states"], atol=2e-5)


def _small_pixels(drawing):
    pixels = Pixels(64, crop=(64, 64), mean=HALF[0], std=HALF[1])
    frames = np.stack([pixels.prepare(rgb) for rgb in drawing.frames(8, 120, 160)])
    return pixels.normalise(torch.from_numpy(frames))[None].numpy()


def test_pixels(numbers, drawing):
    np.testing.assert_allclose(_small_pixels(drawing)[0, :, :, ::4, ::4], numbers["small_pixel_values"], atol=1e-6)


def test_mel_features(numbers, drawing):
    found = tvlt_log_mel(drawing.sound(N_SAMPLES)[None])
    np.testing.assert_allclose(found, numbers["audio_values"][0], atol=1e-6)
    short = tvlt_log_mel(drawing.sound(RATE_HZ)[None])
    np.testing.assert_allclose(short, numbers["short_audio_values"][0], atol=1e-6)
    assert (short[0, 86:] == 0).all()


def test_the_official_checkpoint_has_every_key(golden):
    official = json.loads((golden / "tvlt_keys.json").read_text())
    with torch.device("meta"):
        network = TvltNetwork(Checkpoint("", {"model_type": "tvlt"}, {}))
    read = set()
    for name, value in network.state_dict().items():
        keys = rename(name)
        keys = [keys] if isinstance(keys, str) else keys
        for key in keys:
            assert official[f"tvlt.{key}"] == [value.shape[0] // len(keys), *value.shape[1:]]
            read.add(f"tvlt.{key}")
    # The rest belongs to the decoders and heads of its pretraining.
    assert {key for key in official if key.startswith("tvlt.")} == read


def test_without_a_final_norm_there_is_none_to_ask_for(made, tmp_path):
    _, folder = made
    config = json.loads((folder / "config.json").read_text()) | {"use_mean_pooling": True}
    assert not NETWORK.describe(Checkpoint(folder, config, {})).final_norm
    with pytest.raises(StudyError, match="architecture 'vit', expected 'tvlt'"):
        NETWORK.describe(Checkpoint(folder, {"model_type": "vit"}, {}))
