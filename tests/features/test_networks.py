"""Each network against transformers' own processor and model, layer by layer, at tiny sizes."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from cinecube.features.architectures.preset_networks import own_times, shortest_input
from cinecube.features.networks.network import Batch, Features, Reading, read_checkpoint
from cinecube.features.networks.registry import find_network
from cinecube.features.networks.taps import own_tokens
from cinecube.features.networks.weights import placed
from cinecube.store.base.errors import StudyError
from cinecube.store.cube.schema import Stream

LABELS = ["embed", "block01", "block02", "block03"]
WINDOW_S = 0.5
TOLERANCE = 1e-5
PICTURES = {"vit": 4, "videomae": 16, "vivit": 8, "imagebind": 2, "tvlt": 4}
RATES_HZ = {"wav2vec2": 16000, "ast": 16000, "imagebind": 16000, "tvlt": 44100}
TRANSFORMERS = ["vit", "videomae", "vivit", "wav2vec2", "ast"]
ALL = [*TRANSFORMERS, "imagebind", "tvlt"]


def _reading(name: str, folder, **changes) -> Reading:
    facts = find_network(name, name).describe(read_checkpoint(folder, name, optional=name == "imagebind"))
    reading = Reading(
        streams=facts.streams,
        frames_per_window=PICTURES.get(name, 0),
        rate_hz=RATES_HZ.get(name, 0),
        window_s=WINDOW_S,
    )
    return dataclasses.replace(reading, **changes)


def _extractor(name, checkpoints, **changes):
    return find_network(name, name).load(checkpoints[name], _reading(name, checkpoints[name], **changes))


def _pictures(rows: int, frames: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (rows, frames, 48, 80, 3)).astype(np.uint8)


def _sounds(rows: int, samples: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0.1, 0.2, (rows, samples)).astype(np.float32)


def _batch(name: str, extractor, rows: int) -> Batch:
    frames = sound = None
    if name in PICTURES:
        frames = np.stack([[extractor.prepare_frame(rgb) for rgb in row] for row in _pictures(rows, PICTURES[name])])
    if name in RATES_HZ:
        sound = _sounds(rows, RATES_HZ[name])
    return Batch(frames, sound)


def _reference(name, checkpoints, rows):
    """transformers' processor and model: its inputs, the model, and its hidden states, (layer, item, token, dim)."""
    from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoModel

    model = AutoModel.from_pretrained(checkpoints[name], dtype=torch.float32).eval()
    if name in RATES_HZ:
        processor = AutoFeatureExtractor.from_pretrained(checkpoints[name])
        sounds = list(_sounds(rows, RATES_HZ[name]))
        inputs = processor(sounds, sampling_rate=RATES_HZ[name], return_tensors="pt").input_values
    else:
        processor = AutoImageProcessor.from_pretrained(checkpoints[name])
        pictures = _pictures(rows, PICTURES[name])
        stills = list(pictures.reshape(-1, 48, 80, 3))
        images = stills if name == "vit" else [list(row) for row in pictures]
        inputs = processor(images, return_tensors="pt").pixel_values
    with torch.no_grad():
        states = model(inputs, output_hidden_states=True).hidden_states
    return inputs, model, np.stack([state.numpy() for state in states])


def _pooled(name: str, states: np.ndarray, rows: int) -> np.ndarray:
    """(layer, row, dim) from (layer, item, token, dim), by the plain definition."""
    if name == "wav2vec2":
        states = states[:, :, -int(WINDOW_S * 50) :]
    if name == "ast":
        # One second is 98 frames: patches begin at 0, 10, … 80; those from 50 on lie in the last half second.
        grid = states[:, :, 2:].reshape(*states.shape[:2], 12, -1, states.shape[-1])
        states = grid[:, :, :, 5:9].reshape(*states.shape[:2], -1, states.shape[-1])
    means = states.mean(axis=2)
    return means.reshape(len(means), rows, 4, -1).mean(axis=2) if name == "vit" else means


def _stacked(found: Features) -> np.ndarray:
    """(layer, row, dim) of a network with one stream."""
    return np.stack([found["", label] for label in LABELS])


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


def _largest(a: Features, b: Features) -> float:
    assert set(a) == set(b)
    return max(_difference(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_every_layer_agrees_with_transformers(name, checkpoints):
    extractor = _extractor(name, checkpoints)
    found = extractor(_batch(name, extractor, 3))
    assert list(found) == [("", label) for label in LABELS]
    _, _, states = _reference(name, checkpoints, 3)
    for k, expected in enumerate(_pooled(name, states, 3)):
        assert found["", LABELS[k]].dtype == np.float32
        assert _difference(found["", LABELS[k]], expected) <= TOLERANCE, LABELS[k]
    assert all(_difference(found["", LABELS[k]], found["", LABELS[k - 1]]) > 0.01 for k in range(1, 4))


@pytest.mark.parametrize("name", ["vit", "vivit", "ast"])
def test_the_norm_after_the_last_block_is_a_choice(name, checkpoints):
    extractor = _extractor(name, checkpoints, final_norm=True)
    found = _stacked(extractor(_batch(name, extractor, 2)))
    inputs, model, states = _reference(name, checkpoints, 2)
    with torch.no_grad():
        last = model(inputs).last_hidden_state.numpy()
    expected = _pooled(name, np.stack([*states[:-1], last]), 2)
    assert _difference(found, expected) <= TOLERANCE
    if name == "ast":  # an old version of transformers returned this as its last hidden state
        assert _difference(found[-1], _pooled(name, states, 2)[-1]) > 0.01


@pytest.mark.parametrize("name", ALL)
def test_a_batch_changes_nothing(name, checkpoints):
    extractor = _extractor(name, checkpoints)
    batch = _batch(name, extractor, 5)
    whole = extractor(batch)
    for row in range(5):
        alone = Batch(*(None if part is None else part[row : row + 1] for part in (batch.frames, batch.sound)))
        first = {key: values[0] for key, values in extractor(alone).items()}
        assert _largest(first, {key: values[row] for key, values in whole.items()}) <= TOLERANCE


@pytest.mark.parametrize("name", ALL)
def test_pieces_change_nothing(name, checkpoints, monkeypatch):
    extractor = _extractor(name, checkpoints)
    batch = _batch(name, extractor, 3)
    whole = extractor(batch)
    monkeypatch.setattr("cinecube.features.networks.taps._TOKENS_AT_ONCE", 1)
    assert _largest(extractor(batch), whole) <= TOLERANCE


@pytest.mark.parametrize("name", [name for name in ALL if name in PICTURES])
def test_frames_and_their_order_and_colours_matter(name, checkpoints):
    extractor = _extractor(name, checkpoints)
    batch = _batch(name, extractor, 1)
    frames = batch.frames
    assert frames is not None
    swapped = extractor.prepare_frame(np.ascontiguousarray(_pictures(1, 1)[0, 0, :, :, ::-1]))
    assert np.abs(swapped.astype(float) - frames[0, 0]).max() > 0.1
    stood_still = np.repeat(frames[:, :1], frames.shape[1], axis=1)
    moved, still = extractor(batch), extractor(Batch(stood_still, batch.sound))
    seen = [key for key in moved if key[0] not in ("audio",) or name == "tvlt"]
    assert all(_difference(still[key], moved[key]) > 1e-5 for key in seen if key != ("audio", "embed"))


@pytest.mark.parametrize("pooling", ["cls", "last", "patches"])
def test_other_poolings(checkpoints, pooling):
    extractor = _extractor("vit", checkpoints, pooling=pooling)
    found = _stacked(extractor(_batch("vit", extractor, 2)))
    _, _, states = _reference("vit", checkpoints, 2)
    tokens = {"cls": states[:, :, :1], "last": states[:, :, -1:], "patches": states[:, :, 1:]}[pooling]
    assert _difference(found, tokens.mean(axis=2).reshape(4, 2, 4, 24).mean(axis=2)) <= TOLERANCE


def test_the_last_frame_alone(checkpoints):
    batch = _batch("vit", _extractor("vit", checkpoints), 2)
    assert batch.frames is not None
    last = _extractor("vit", checkpoints, frame_pooling="last")(batch)
    alone = _extractor("vit", checkpoints)(Batch(batch.frames[:, -1:]))
    assert _largest(last, alone) <= TOLERANCE


def test_some_layers_are_those_of_all_and_deeper_blocks_do_not_run(checkpoints):
    extractor = _extractor("vit", checkpoints)
    batch = _batch("vit", extractor, 2)
    chosen = _extractor("vit", checkpoints, streams=(Stream("", ["embed", "block02"], [24, 24]),))
    ran = []
    for block in chosen._tapped.blocks:
        block.register_forward_hook(lambda *_: ran.append(1))
    found = chosen(batch)
    assert len(ran) == 2
    whole = extractor(batch)
    assert set(found) == {("", "embed"), ("", "block02")}
    for key in found:
        np.testing.assert_array_equal(found[key], whole[key])


def test_one_pass_serves_all_layers(checkpoints):
    extractor = _extractor("vit", checkpoints)
    ran = []
    for block in extractor._tapped.blocks:
        block.register_forward_hook(lambda *_: ran.append(1))
    extractor(_batch("vit", extractor, 2))
    assert len(ran) == 3


def test_wav2vec2_attends_to_the_look_back_but_pools_the_window(checkpoints):
    extractor = _extractor("wav2vec2", checkpoints)
    sounds = _sounds(1, 3 * 16000)
    other = sounds.copy()
    other[:, :8000] *= -0.5
    assert _largest(extractor(Batch(sound=other)), extractor(Batch(sound=sounds))) > 1e-4
    assert own_tokens(1.49, 16000 / 320) == 74


def test_ast_attends_to_the_look_back_but_pools_the_window(checkpoints):
    extractor = _extractor("ast", checkpoints)
    sounds = _sounds(1, 2 * 16000)
    other = sounds.copy()
    other[:, :8000] *= -0.5
    here, there = extractor(Batch(sound=sounds)), extractor(Batch(sound=other))
    assert _difference(there["", "embed"], here["", "embed"]) <= TOLERANCE
    assert _difference(there["", "block01"], here["", "block01"]) > 1e-4
    # 1.49 s of 10.24: frames 875 to 1021 of 1022, patches of 16 that begin at 880 or later.
    assert own_times(1022, 1.49, patch=16, step=10, n_times=101) == slice(88, 101)
    assert own_times(147, 1.49, patch=16, step=10, n_times=101) == slice(0, 14)
    assert own_times(3, 0.1, patch=16, step=10, n_times=101) == slice(0, 1)


@pytest.mark.parametrize("name", ["wav2vec2", "ast", "imagebind", "tvlt"])
@pytest.mark.parametrize("samples", [1, 399, 400, 719])
def test_sound_too_short_for_a_token_does_not_crash(checkpoints, name, samples):
    extractor = _extractor(name, checkpoints)
    frames = _batch(name, extractor, 2).frames
    found = extractor(Batch(frames, _sounds(2, samples)))
    assert all(np.isfinite(values).all() and len(values) == 2 for values in found.values())


def test_the_shortest_sound_with_a_token():
    assert shortest_input((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)) == 400


@pytest.mark.parametrize("name", ALL)
def test_untrained_is_the_same_architecture_with_fresh_weights(name, checkpoints):
    state = torch.random.get_rng_state()
    first, again, other = (_extractor(name, checkpoints, untrained=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    batch = _batch(name, first, 2)
    found, theirs = first(batch), other(batch)
    for key, values in again(batch).items():
        np.testing.assert_array_equal(found[key], values)
        assert np.isfinite(values).all()
        assert _difference(theirs[key], values) > 0.01
    assert all(_difference(found[key], values) > 0.01 for key, values in _extractor(name, checkpoints)(batch).items())


@pytest.mark.parametrize("name", ALL)
def test_half_the_bits_give_nearly_the_same(name, checkpoints):
    exact = _extractor(name, checkpoints)
    batch = _batch(name, exact, 2)
    found = _extractor(name, checkpoints, precision="bfloat16")(batch)
    for key, values in exact(batch).items():
        assert found[key].dtype == np.float32
        assert 1e-6 < _difference(found[key], values) < 0.1


@pytest.mark.parametrize("groups", [4, 48])
def test_grouped_convolutions_keep_their_numbers_in_half_the_bits(groups):
    """Where a processor has AMX, oneDNN's own differ by more than the largest value."""
    torch.manual_seed(0)
    convolution = torch.nn.Conv1d(48, 48, 16, groups=groups)
    sound = torch.randn(2, 48, 99)
    expected = convolution(sound).detach().numpy()
    half = placed(convolution, Reading((), precision="bfloat16"))(sound.bfloat16())
    assert half.dtype == torch.bfloat16
    assert 1e-6 < _difference(half.float().numpy(), expected) < 0.02


def test_weights_under_the_prefix_of_a_task_load(checkpoints, tmp_path):
    from transformers import ViTConfig, ViTForImageClassification

    classifier = ViTForImageClassification(ViTConfig.from_pretrained(checkpoints["vit"]))
    classifier.save_pretrained(tmp_path / "vit")
    shutil.copy(checkpoints["vit"] / "preprocessor_config.json", tmp_path / "vit")
    folders = {"vit": tmp_path / "vit"}
    extractor = _extractor("vit", folders)
    _, _, states = _reference("vit", folders, 1)
    assert _difference(_stacked(extractor(_batch("vit", extractor, 1))), _pooled("vit", states, 1)) <= TOLERANCE


@pytest.mark.parametrize("name", ALL)
def test_facts_say_what_the_loaded_network_is(name, checkpoints):
    facts = find_network(name, name).describe(read_checkpoint(checkpoints[name], name, optional=name == "imagebind"))
    json.dumps(facts.model_dump(mode="json"))
    extractor = _extractor(name, checkpoints)
    found = extractor(_batch(name, extractor, 1))
    assert {key: values.shape[1] for key, values in found.items()} == {
        (stream.name, label): width
        for stream in facts.streams
        for label, width in zip(stream.layers, stream.widths, strict=True)
    }


def test_unknown_extractor_is_refused_with_a_guess():
    wanted = r"unknown extractor 'wav2vec', expected one of wav2vec2, ast, .*did you mean 'wav2vec2'"
    with pytest.raises(StudyError, match=wanted):
        find_network("wav2vec", "models.speech.extractor")
    with pytest.raises(StudyError, match="install the package that brings it"):
        find_network("qqqqq", "models.speech.extractor")


def test_a_network_registers_by_an_entry_point(monkeypatch, checkpoints):
    from importlib.metadata import EntryPoint

    entry = EntryPoint("mine", "cinecube.features.architectures.presets:VIT", "cinecube.extractors")
    monkeypatch.setattr("cinecube.features.networks.registry.entry_points", lambda group: [entry])
    assert find_network("mine", "models.mine") is find_network("vit", "models.vit")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ALL)
def test_a_gpu_says_what_a_cpu_says(name, precision, checkpoints):
    here = _extractor(name, checkpoints)
    batch = _batch(name, here, 3)
    there = _extractor(name, checkpoints, device="cuda", precision=precision)
    assert _largest(there(batch), here(batch)) < (1e-4 if precision == "float32" else 0.1)
