"""Each network against transformers' own processor and model, and against hooks set here."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from cinecube.features.network import Batch, Network, Reading, read_checkpoint
from cinecube.features.registry import find_network
from cinecube.features.wav2vec2 import own_tokens, shortest_input
from cinecube.store.errors import StudyError
from cinecube.store.schema import Stream

LABELS = ["embed", "block01", "block02", "block03"]
WINDOW_S = 0.5
TOLERANCE = 1e-5


def _reading(name: str, model: str = "", **changes) -> Reading:
    reading = Reading(
        streams=(Stream(model or name, LABELS, [24] * 4),),
        pooling="mean",
        frames_per_window={"vit": 4, "videomae": 16}.get(name, 0),
        rate_hz=16000 if name == "wav2vec2" else 0,
        window_s=WINDOW_S,
    )
    return dataclasses.replace(reading, **changes)


def _extractor(name, checkpoints, **changes):
    return find_network(name, name).load(checkpoints[name], _reading(name, **changes))


def _pictures(rows: int, frames: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (rows, frames, 48, 80, 3)).astype(np.uint8)


def _sounds(rows: int, samples: int = 16000) -> np.ndarray:
    return np.random.default_rng(0).normal(0.1, 0.2, (rows, samples)).astype(np.float32)


def _batch(name: str, extractor, rows: int) -> Batch:
    if name == "wav2vec2":
        return Batch(sound=_sounds(rows))
    pictures = _pictures(rows, 4 if name == "vit" else 16)
    return Batch(frames=np.stack([[extractor.prepare_frame(rgb) for rgb in row] for row in pictures]))


def _reference(name, checkpoints, rows):
    """transformers' processor and model: its inputs, the model, and its hidden states, (layer, item, token, dim)."""
    from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoModel

    model = AutoModel.from_pretrained(checkpoints[name], dtype=torch.float32).eval()
    if name == "wav2vec2":
        processor = AutoFeatureExtractor.from_pretrained(checkpoints[name])
        inputs = processor(list(_sounds(rows)), sampling_rate=16000, return_tensors="pt").input_values
    else:
        processor = AutoImageProcessor.from_pretrained(checkpoints[name])
        pictures = _pictures(rows, 4 if name == "vit" else 16)
        images = [list(row) for row in pictures] if name == "videomae" else list(pictures.reshape(-1, 48, 80, 3))
        inputs = processor(images, return_tensors="pt").pixel_values
    with torch.no_grad():
        states = model(inputs, output_hidden_states=True).hidden_states
    return inputs, model, np.stack([state.numpy() for state in states])


def _pooled(name: str, states: np.ndarray, rows: int) -> np.ndarray:
    """(row, dim, layer) from (layer, item, token, dim), by the plain definition."""
    if name == "wav2vec2":
        states = states[:, :, -int(WINDOW_S * 50) :]
    means = states.mean(axis=2)
    if name == "vit":
        means = means.reshape(len(means), rows, 4, -1).mean(axis=2)
    return np.moveaxis(means, 0, -1)


def _blocks(name: str, model):
    return model.layers if name == "vit" else model.encoder.layer if name == "videomae" else model.encoder.layers


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


@pytest.mark.parametrize("name", ["vit", "videomae", "wav2vec2"])
def test_every_layer_agrees_with_transformers(name, checkpoints):
    extractor = _extractor(name, checkpoints)
    found = extractor(_batch(name, extractor, 3))
    assert found.shape == (3, 24, 1, 4)
    assert found.dtype == np.float32
    _, _, states = _reference(name, checkpoints, 3)
    expected = _pooled(name, states, 3)
    for layer in range(4):
        assert _difference(found[:, :, 0, layer], expected[:, :, layer]) <= TOLERANCE, LABELS[layer]


@pytest.mark.parametrize("name", ["vit", "videomae", "wav2vec2"])
def test_layer_k_is_what_leaves_block_k_and_embed_what_enters_the_first(name, checkpoints):
    inputs, model, _ = _reference(name, checkpoints, 2)
    seen: list[np.ndarray] = []
    blocks = _blocks(name, model)
    blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().numpy().copy()))
    for block in blocks:
        block.register_forward_hook(lambda _, __, output: seen.append(output.detach().numpy().copy()))
    with torch.no_grad():
        model(inputs)
    extractor = _extractor(name, checkpoints)
    found = extractor(_batch(name, extractor, 2))[:, :, 0]
    assert len(seen) == 4
    assert _difference(found, _pooled(name, np.stack(seen), 2)) <= TOLERANCE
    assert all(_difference(found[..., k], found[..., k - 1]) > 0.01 for k in range(1, 4))


@pytest.mark.parametrize("name", ["vit", "videomae", "wav2vec2"])
def test_a_batch_changes_nothing(name, checkpoints):
    extractor = _extractor(name, checkpoints)
    batch = _batch(name, extractor, 5)
    whole = extractor(batch)
    for row in range(5):
        alone = Batch(*(None if part is None else part[row : row + 1] for part in (batch.frames, batch.sound)))
        assert _difference(extractor(alone)[0], whole[row]) <= TOLERANCE


@pytest.mark.parametrize("name", ["vit", "videomae"])
def test_frames_and_their_order_and_colours_matter(name, checkpoints):
    extractor = _extractor(name, checkpoints)
    frames = _batch(name, extractor, 1).frames
    swapped = extractor.prepare_frame(np.ascontiguousarray(_pictures(1, 1)[0, 0, :, :, ::-1]))
    assert np.abs(swapped - frames[0, 0]).max() > 0.1
    stood_still = np.repeat(frames[:, :1], frames.shape[1], axis=1)
    assert _difference(extractor(Batch(stood_still)), extractor(Batch(frames))) > 1e-3


@pytest.mark.parametrize("pooling", ["cls", "last"])
def test_pooling_one_token(checkpoints, pooling):
    extractor = _extractor("vit", checkpoints, pooling=pooling)
    found = extractor(_batch("vit", extractor, 2))
    _, _, states = _reference("vit", checkpoints, 2)
    token = states[:, :, 0 if pooling == "cls" else -1]
    expected = np.moveaxis(token.reshape(4, 2, 4, 24).mean(axis=2), 0, -1)
    assert _difference(found[:, :, 0], expected) <= TOLERANCE


def test_some_layers_are_those_of_all(checkpoints):
    extractor = _extractor("vit", checkpoints)
    batch = _batch("vit", extractor, 2)
    chosen = _extractor("vit", checkpoints, streams=(Stream("vit", ["block01", "block03"], [24, 24]),))
    np.testing.assert_array_equal(chosen(batch)[:, :, 0], extractor(batch)[:, :, 0, [1, 3]])


def test_wav2vec2_attends_to_the_look_back_but_pools_the_window(checkpoints):
    extractor = _extractor("wav2vec2", checkpoints)
    sounds = _sounds(1, 3 * 16000)
    other = sounds.copy()
    other[:, :8000] *= -0.5
    assert _difference(extractor(Batch(sound=other)), extractor(Batch(sound=sounds))) > 1e-4
    assert own_tokens(1.49, 16000, 320) == 74


@pytest.mark.parametrize("samples", [1, 399, 400, 719])
def test_sound_too_short_for_a_token_does_not_crash(checkpoints, samples):
    assert shortest_input((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)) == 400
    found = _extractor("wav2vec2", checkpoints)(Batch(sound=_sounds(2, samples)))
    assert np.isfinite(found).all()
    assert found.shape == (2, 24, 1, 4)


@pytest.mark.parametrize("name", ["vit", "videomae", "wav2vec2"])
def test_untrained_is_the_same_architecture_with_fresh_weights(name, checkpoints):
    state = torch.random.get_rng_state()
    first, again, other = (_extractor(name, checkpoints, untrained=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    batch = _batch(name, first, 2)
    np.testing.assert_array_equal(first(batch), again(batch))
    assert _difference(first(batch), other(batch)) > 0.01
    assert _difference(first(batch), _extractor(name, checkpoints)(batch)) > 0.01


def test_weights_under_the_prefix_of_a_task_load(checkpoints, tmp_path):
    from transformers import ViTConfig, ViTForImageClassification

    classifier = ViTForImageClassification(ViTConfig.from_pretrained(checkpoints["vit"]))
    classifier.save_pretrained(tmp_path / "vit")
    shutil.copy(checkpoints["vit"] / "preprocessor_config.json", tmp_path / "vit")
    extractor = find_network("vit", "vit").load(tmp_path / "vit", _reading("vit"))
    assert np.isfinite(extractor(_batch("vit", extractor, 1))).all()


def test_incomplete_and_damaged_weights_are_refused(checkpoints, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(checkpoints["vit"], tmp_path / "vit")
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    dropped = sorted(key for key in tensors if "layer.1." in key or "layers.1." in key)
    save_file({key: value for key, value in tensors.items() if key not in dropped}, weights, {"format": "pt"})
    network: Network = find_network("vit", "vit")
    with pytest.raises(StudyError, match=r"found no layers\.1\..* more, expected all weights"):
        network.load(folder, _reading("vit"))
    weights.write_bytes((checkpoints["vit"] / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(StudyError, match="weights that cannot be read"):
        network.load(folder, _reading("vit"))


def test_another_architecture_is_refused(checkpoints):
    with pytest.raises(StudyError, match="architecture 'videomae', expected 'vit'"):
        find_network("vit", "vit").describe(read_checkpoint(checkpoints["videomae"], "vit"))


def test_a_folder_without_preprocessing_is_refused(checkpoints, tmp_path):
    shutil.copy(checkpoints["vit"] / "config.json", tmp_path)
    with pytest.raises(StudyError, match="no preprocessor_config.json"):
        read_checkpoint(tmp_path, "vit")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(StudyError, match="unreadable config.json"):
        read_checkpoint(tmp_path, "vit")


def test_facts_say_what_the_loaded_network_is(checkpoints):
    for name, folder in checkpoints.items():
        facts = find_network(name, name).describe(read_checkpoint(folder, name))
        (stream,) = facts.streams
        assert (list(stream.layers), list(stream.widths)) == (LABELS, [24] * 4)
        json.dumps(facts.model_dump(mode="json"))


def test_unknown_extractor_is_refused_with_a_guess():
    with pytest.raises(StudyError, match=r"unknown extractor 'wav2vec', expected .*vit.*did you mean 'wav2vec2'"):
        find_network("wav2vec", "models.speech.extractor")
    with pytest.raises(StudyError, match="install the package that brings it"):
        find_network("qqqqq", "models.speech.extractor")


def test_a_network_registers_by_an_entry_point(monkeypatch, checkpoints):
    from importlib.metadata import EntryPoint

    entry = EntryPoint("mine", "cinecube.features.vit:NETWORK", "cinecube.extractors")
    monkeypatch.setattr("cinecube.features.registry.entry_points", lambda group: [entry])
    assert find_network("mine", "models.mine") is find_network("vit", "models.vit")
