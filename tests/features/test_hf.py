"""Encoders of transformers that nobody wrote a file for: read by their checkpoint, against their own hidden states."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cinecube.features.networks.network import Batch, Reading, read_checkpoint
from cinecube.features.networks.registry import find_network
from cinecube.store.base.errors import StudyError

TINY: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.3,
}
NAMES = ["dinov2", "clip", "timesformer", "hubert", "whisper", "vjepa2"]
CROPPED = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}
SOUND = TINY | {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
VIDEO_PROCESSOR = {
    "video_processor_type": "VJEPA2VideoProcessor",
    "size": {"shortest_edge": 36},
    "crop_size": {"height": 32, "width": 32},
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


def _make(name: str) -> tuple[Any, Any]:
    import transformers as hf

    picture = TINY | {"image_size": 32, "patch_size": 16}
    text = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    whisper = {
        "d_model": 24,
        "encoder_layers": 3,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "vocab_size": 100,
        "init_std": 0.3,
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 1),
    }
    jepa = TINY | {"crop_size": 32, "patch_size": 16, "frames_per_clip": 4, "mlp_ratio": 2, "pred_num_hidden_layers": 2}
    jepa |= {"pred_hidden_size": 24, "pred_num_attention_heads": 2}
    makers = {
        "dinov2": lambda: (hf.Dinov2Model(hf.Dinov2Config(**picture)), hf.BitImageProcessorPil(**CROPPED)),
        "clip": lambda: (
            hf.CLIPModel(hf.CLIPConfig(vision_config=picture, text_config=text)),
            hf.CLIPImageProcessorPil(**CROPPED),
        ),
        "timesformer": lambda: (
            hf.TimesformerModel(hf.TimesformerConfig(**picture, num_frames=4)),
            hf.VideoMAEImageProcessorPil(**CROPPED),
        ),
        "hubert": lambda: (hf.HubertModel(hf.HubertConfig(**SOUND)), hf.Wav2Vec2FeatureExtractor()),
        "whisper": lambda: (hf.WhisperModel(hf.WhisperConfig(**whisper)), hf.WhisperFeatureExtractor()),
        "vjepa2": lambda: (hf.VJEPA2Model(hf.VJEPA2Config(**jepa)), None),
    }
    torch.manual_seed(0)
    return makers[name]()


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Makes an encoder by its name, once: its model and its folder."""

    @functools.cache
    def encoder(name: str) -> tuple[Any, Path]:
        folder = tmp_path_factory.mktemp(name)
        model, processor = _make(name)
        model.save_pretrained(folder)
        if processor is None:
            (folder / "video_preprocessor_config.json").write_text(json.dumps(VIDEO_PROCESSOR))
        else:
            processor.save_pretrained(folder)
        return model.eval(), folder

    return encoder


def _load(folder: Path, **changes: Any) -> tuple[Any, Any]:
    facts = find_network("hf", "").describe(read_checkpoint(folder, "hf"))
    frames = 3 if facts.frames_per_window == "all" else facts.frames_per_window
    context_s = 0.5 if facts.rate_hz else 0.0
    reading = Reading(
        facts.streams, frames_per_window=frames, rate_hz=facts.rate_hz, window_s=0.5, context_s=context_s, **changes
    )
    return facts, find_network("hf", "").load(folder, reading)


def _batch(facts: Any, extractor: Any) -> Batch:
    rng = np.random.default_rng(0)
    if facts.rate_hz:
        return Batch(sound=rng.normal(0.1, 0.2, (2, facts.rate_hz)).astype(np.float32))
    n = 3 if facts.stills else facts.frames_per_window
    pictures = rng.integers(0, 256, (2, n, 48, 80, 3)).astype(np.uint8)
    return Batch(frames=np.stack([[extractor.prepare_frame(rgb) for rgb in row] for row in pictures]))


def _states(name: str, model: Any, folder: Path, batch: Batch) -> list[np.ndarray]:
    """Hidden states by transformers' own switch, (row, token, dim) of the tokens that are pooled."""
    from transformers import AutoFeatureExtractor

    with torch.inference_mode():
        if batch.sound is not None:
            processor = AutoFeatureExtractor.from_pretrained(folder)
            values = processor(list(batch.sound), sampling_rate=16000, return_tensors="pt")
            encoder = model.get_encoder() if name == "whisper" else model
            states = encoder(values[processor.model_input_names[0]], output_hidden_states=True).hidden_states
            # 50 tokens a second: the last half of one second; Whisper adds silence after it.
            own = slice(25, 50) if name == "whisper" else slice(-25, None)
            return [state[:, own].numpy() for state in states]
        frames = torch.from_numpy(batch.frames)
        if name in ("dinov2", "clip"):
            states = getattr(model, "vision_model", model)(
                frames.flatten(0, 1), output_hidden_states=True
            ).hidden_states
            return [state.unflatten(0, frames.shape[:2]).flatten(1, 2).numpy() for state in states]
        options = {"skip_predictor": True} if name == "vjepa2" else {}
        return [state.numpy() for state in model(frames, output_hidden_states=True, **options).hidden_states]


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_is_read(make, name):
    model, folder = make(name)
    facts, extractor = _load(folder)
    batch = _batch(facts, extractor)
    found = extractor(batch)
    labels = ["embed", "block01", "block02", "block03"]
    assert [label for _, label in found] == labels
    states = _states(name, model, folder, batch)
    for label, state in list(zip(labels, states, strict=True))[: 3 if name == "whisper" else 4]:
        expected = state.mean(axis=1)
        assert np.abs(found["", label] - expected).max() <= 1e-5 * np.abs(expected).max(), label


@pytest.mark.parametrize("name", ["whisper", "dinov2"])
def test_the_norm_after_the_last_block_is_a_choice(make, name):
    """Whisper's last hidden state is after the norm, DINOv2's before it."""
    model, folder = make(name)
    facts, extractor = _load(folder)
    batch = _batch(facts, extractor)
    _, normed = _load(folder, final_norm=True)
    encoder = model.get_encoder() if name == "whisper" else model
    with torch.inference_mode():
        if name == "whisper":
            expected = _states(name, model, folder, batch)[-1].mean(axis=1)
        else:
            tokens = encoder(torch.from_numpy(batch.frames).flatten(0, 1)).last_hidden_state
            expected = tokens.unflatten(0, (2, 3)).flatten(1, 2).mean(dim=1).numpy()
    last = normed(batch)["", "block03"]
    assert np.abs(last - expected).max() <= 1e-5 * np.abs(expected).max()
    assert np.abs(extractor(batch)["", "block03"] - expected).max() > 0.01 * np.abs(expected).max()


@pytest.mark.parametrize("name", NAMES)
def test_an_untrained_twin(make, name):
    _, folder = make(name)
    facts, first = _load(folder, untrained=1)
    batch = _batch(facts, first)
    found = first(batch)
    for key, values in _load(folder, untrained=1)[1](batch).items():
        np.testing.assert_array_equal(found[key], values)
    assert all(np.abs(found[key] - values).max() > 0 for key, values in _load(folder, untrained=2)[1](batch).items())


@pytest.mark.parametrize("name", NAMES)
def test_what_lies_deeper_than_the_layers_that_are_read_does_not_run(make, name):
    _, folder = make(name)
    facts, whole = _load(folder)
    stream = facts.streams[0]
    network, ran = find_network("hf", ""), []
    reading = dataclasses.replace(whole._reading, streams=(dataclasses.replace(stream, layers=["embed", "block01"]),))
    extractor = network.load(folder, reading)
    for number, block in enumerate(extractor.tapped.blocks):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    batch = _batch(facts, extractor)
    ran.clear()
    found, expected = extractor(batch), whole(batch)
    assert set(ran) == {0}
    assert [label for _, label in found] == ["embed", "block01"]
    for key, values in found.items():
        np.testing.assert_array_equal(values, expected[key])


def test_what_cannot_be_read_is_refused(tmp_path):
    describe = find_network("hf", "").describe
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "swin", "depths": [2, 2], "hidden_size": 24}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_resize": True}))
    with pytest.raises(StudyError, match="blocks of several widths, expected blocks of one width"):
        describe(read_checkpoint(tmp_path, "x"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(StudyError, match="a processor for neither pictures nor sound"):
        describe(read_checkpoint(tmp_path, "x"))


def test_incomplete_weights_are_refused(make, tmp_path):
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(make("dinov2")[1], tmp_path / "weights")
    tensors = load_file(copy / "model.safetensors")
    kept = {key: value for key, value in tensors.items() if ".layer.1." not in key}
    save_file(kept, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(StudyError, match=r"found no .*1.* more, expected all weights"):
        _load(copy)
