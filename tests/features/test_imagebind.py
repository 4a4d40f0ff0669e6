"""ImageBind against the official code's own numbers (golden/make_imagebind.py), its key list, and plain formulas."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from cinecube.features.architectures.imagebind import (
    ImageBindNetwork,
    Sizes,
    crops,
    log_mel,
    rename,
)
from cinecube.features.networks.pixels import CLIP

SIZES = Sizes(video=(64, 2, 4), audio=(48, 2, 4), head=32)
TOLERANCE = 1e-5
# The checkpoint's other modalities: nobody shows them in a film.
UNUSED = ("text", "depth", "thermal", "imu")


@pytest.fixture(scope="module")
def numbers(golden):
    with np.load(golden / "imagebind.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def network(numbers, drawing):
    """A small ImageBind with the weights that the official code had."""
    shapes = json.loads(str(numbers["keys"]))
    network = ImageBindNetwork(SIZES)
    state = {}
    for name, value in network.state_dict().items():
        key = rename(name)
        assert tuple(shapes[key]) == tuple(value.shape)
        drawn = drawing.draw(key, tuple(value.shape), 0.2)
        state[name] = torch.from_numpy(np.asarray(drawn + (value.ndim == 1 and key.endswith(".weight")), np.float32))
    state["log_scale"] = torch.tensor(math.log(20))
    network.load_state_dict(state)
    return network.eval()


def _close(found: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found.numpy(), expected, atol=TOLERANCE, rtol=0)


def test_every_official_key_is_used_or_of_a_modality_that_is_not_read(golden):
    official = json.loads((golden / "imagebind_keys.json").read_text())
    assert len(official) == 1311
    with torch.device("meta"):
        network = ImageBindNetwork(Sizes())
    read = {rename(name): tuple(value.shape) for name, value in network.state_dict().items()}
    assert all(tuple(official[key]) == shape for key, shape in read.items())
    rest = set(official) - set(read)
    assert len(read) + len(rest) == 1311
    assert all(key.split(".")[1] in UNUSED for key in rest)
    assert {key.split(".")[1] for key in read} == {"vision", "audio"}


def test_the_tower_for_pictures(network, numbers):
    clips = np.random.default_rng(0).standard_normal((1, 3, 3, 2, 224, 224), dtype=np.float32)[0]
    with torch.inference_mode():
        states = [tokens for _, tokens in network.video_states(torch.from_numpy(clips))]
        heads = network.video.project(states[-1])
    for k, tokens in enumerate(states):
        _close(tokens.mean(dim=1), numbers["vision_states"][:, k])
        _close(tokens[:, 0], numbers["vision_cls"][:, k])
    _close(heads, numbers["vision_post"])
    _close(heads.mean(dim=0), numbers["vision_final"][0])


def test_the_tower_for_sound(network, numbers):
    mel = np.random.default_rng(1).standard_normal((1, 1, 1, 128, 204), dtype=np.float32)[0, 0]
    with torch.inference_mode():
        states = [tokens for _, tokens in network.audio_states(torch.from_numpy(mel).transpose(1, 2))]
        head = network.audio.project(states[-1]) * network.scale
    for k, tokens in enumerate(states):
        _close(tokens.mean(dim=1), numbers["audio_states"][:, k])
        _close(tokens[:, 0], numbers["audio_cls"][:, k])
    _close(head, numbers["audio_final"])
    assert abs(float(head.norm()) - 20) < 1e-3
    # So small a number that the golden values cannot tell it.
    assert network.audio.stem_norm.eps == 1e-5
    assert network.video.first_norm.eps == network.video.head_norm.eps == 1e-6


def test_a_block_of_sound_is_its_formula(network):
    """Attention with a learned pair after the others, by loops over heads and queries."""
    block = network.audio.encoder.blocks[1].double()
    tokens = torch.randn(1, 5, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def normed(x, norm):
        return (x - x.mean(-1, keepdim=True)) / (
            x.var(-1, correction=0, keepdim=True) + 1e-6
        ).sqrt() * norm.weight + norm.bias

    attention = block.attention
    query, key, value = (normed(tokens, block.norm1)[0] @ attention.qkv.weight.T + attention.qkv.bias).split(48, dim=1)
    key, value = torch.cat([key, attention.key[0]]), torch.cat([value, attention.value[0]])
    mixed = torch.zeros(5, 48, dtype=torch.float64)
    for head in range(4):
        part = slice(12 * head, 12 * head + 12)
        for row in range(5):
            weights = torch.exp(key[:, part] @ query[row, part] / math.sqrt(12))
            mixed[row, part] = (weights[:, None] * value[:, part]).sum(dim=0) / weights.sum()
    expected = tokens[0] + mixed @ attention.out.weight.T + attention.out.bias
    hidden = normed(expected, block.norm2) @ block.fc1.weight.T + block.fc1.bias
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    expected = expected + hidden @ block.fc2.weight.T + block.fc2.bias
    with torch.inference_mode():
        torch.testing.assert_close(block(tokens)[0], expected, atol=1e-10, rtol=0)
    block.float()


@pytest.mark.parametrize(("name", "shape"), [("landscape", (120, 160)), ("portrait", (160, 120))])
def test_crops_are_those_of_the_official_loader(numbers, drawing, name, shape):
    mean, std = (np.array(values, np.float32)[:, None, None] for values in CLIP)
    frames = np.stack([(crops(rgb, 224) - mean) / std for rgb in drawing.frames(2, *shape)])
    np.testing.assert_allclose(frames.transpose(1, 2, 0, 3, 4)[..., ::7, ::7], numbers[name], atol=1e-5)


def test_three_crops_of_a_square_are_one():
    square = crops(np.random.default_rng(0).integers(0, 256, (50, 50, 3)).astype(np.uint8), 28)
    assert square.shape == (3, 3, 28, 28)
    np.testing.assert_array_equal(square[0], square[2])


def test_mel_features_are_those_of_the_official_loader(numbers, drawing):
    """Within 2e-4 of their range: theirs is computed in float32, which shows where a band is nearly silent."""
    found = log_mel(drawing.sound(32000, 16000)[None], 204)[0].T
    tolerance = 2e-4 * np.ptp(numbers["sound"])
    np.testing.assert_allclose(found, numbers["sound"], rtol=0, atol=tolerance)
    assert np.abs(found - numbers["sound"]).mean() < 0.01 * tolerance
    short = log_mel(drawing.sound(4000, 16000)[None], 204)[0].T
    np.testing.assert_allclose(short[:, :32], numbers["short_sound"], rtol=0, atol=tolerance)
    np.testing.assert_allclose(short[:, 32:], 4.268 / 9.138, atol=1e-6)
