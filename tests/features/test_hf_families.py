"""All of transformers' encoders that can be built small: read rightly in every layer, or refused when recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cinecube.features.hf.hf import HfEncoder
from cinecube.features.networks.network import Batch, Facts, Reading, read_checkpoint
from cinecube.features.networks.registry import find_network
from cinecube.store.base.errors import StudyError

from .hf_families import FAMILIES, SOUND, make_family

DOCS = Path(__file__).resolve().parents[2] / "docs" / "reference" / "networks.md"
WINDOW_S, LOOK_BACKS_S = 1.49, (0.0, 2.0)
# Tokens that each second of sound becomes, from the networks' papers and configurations: convolutions of wav2vec 2.0
# stride 320 samples, SEW squeezes two of its tokens into one, others take so many frames of 10 ms.
TOKENS_PER_S = {
    **dict.fromkeys(("sew", "sew-d"), 25.0),
    **dict.fromkeys(("speech_to_text", "lasr_encoder", "gemma4_audio"), 25.0),
    **dict.fromkeys(("parakeet_encoder", "nemotron_asr_streaming_encoder"), 12.5),
}
USUAL_TOKENS_PER_S, PADDED_S = 50.0, 30.0
TOWERS = ("vision_model", "vision_tower", "audio_tower")


def _reading(facts: Facts, **changes: Any) -> Reading:
    return Reading(
        facts.streams, frames_per_window=facts.frames_per_window, rate_hz=facts.rate_hz, window_s=WINDOW_S, **changes
    )


def _batch(encoder: HfEncoder, facts: Facts, n_rows: int, look_back_s: float) -> Batch:
    rng = np.random.default_rng(3)
    if facts.rate_hz:
        n_samples = round((look_back_s + WINDOW_S) * facts.rate_hz)
        return Batch(sound=rng.normal(0.02, 0.1, (n_rows, n_samples)).astype(np.float32))
    n = 2 if facts.stills else int(facts.frames_per_window)
    pictures = rng.integers(0, 256, (n_rows, n, 48, 80, 3)).astype(np.uint8)
    return Batch(frames=np.stack([[encoder.prepare_frame(rgb) for rgb in row] for row in pictures]))


def _answer(name: str, model: Any, folder: Path, batch: Batch, facts: Facts) -> Any:
    """What transformers itself says of a batch."""
    tower = next((getattr(model, tower) for tower in TOWERS if hasattr(model, tower)), model)
    if tower is model and getattr(model.config, "is_encoder_decoder", False):
        tower = model.get_encoder()
    options: dict[str, Any] = {"output_hidden_states": True}
    if batch.sound is not None:
        from transformers import AutoFeatureExtractor

        processor = AutoFeatureExtractor.from_pretrained(folder)
        masks = {"return_attention_mask": True} if "audioflamingo3" in name else {}
        given = processor(list(batch.sound), sampling_rate=facts.rate_hz, return_tensors="pt", **masks)
        key = processor.model_input_names[0]
        options[key] = given[key]
        if masks:
            options["input_features_mask"] = given["attention_mask"]
        elif mask := {"attention_mask", f"{key}_mask"} & set(given):
            options["attention_mask"] = given[mask.pop()]
    else:
        frames = torch.from_numpy(batch.frames)
        key = "pixel_values_videos" if name == "vjepa2" else "pixel_values"
        options[key] = frames.flatten(0, 1) if facts.stills else frames
        if name == "vjepa2":
            options["skip_predictor"] = True
        if name == "vit_mae":
            tower.config.mask_ratio = 0.0
    with torch.inference_mode():
        return tower(**options)


def _own(name: str, n_tokens: int, padded: bool, look_back_s: float) -> slice:
    """The window's own tokens among those of look-back, window and silence after it."""
    if name == "audio-spectrogram-transformer" or (not look_back_s and not padded):
        return slice(0, n_tokens)
    per_s = n_tokens / PADDED_S if padded else TOKENS_PER_S.get(name, USUAL_TOKENS_PER_S)
    stop = int((look_back_s + WINDOW_S) * per_s) if padded else n_tokens
    return slice(stop - int(WINDOW_S * per_s), stop)


def _expected(
    name: str, tokens: torch.Tensor, batch: Batch, padded: bool, look_back_s: float, facts: Facts
) -> np.ndarray:
    """Tokens (item, …, dim) to the mean of the window's own, (row, dim)."""
    tokens = tokens.flatten(1, -2)
    if batch.sound is not None:
        tokens = tokens[:, _own(name, tokens.shape[1], padded, look_back_s)]
    means = tokens.mean(dim=1).numpy()
    return means.reshape(len(batch.frames), -1, means.shape[1]).mean(axis=1) if facts.stills else means


def judge(name: str, folder: Path) -> list[str]:
    """What the table in the documentation says of a family; fails where a layer is not transformers' hidden state.

    Returns
    -------
    list of str
        Family, `yes` or why not, look-back, final norm.
    """
    model, network = make_family(name, folder), find_network("hf", "")
    assert network.check is not None
    try:
        facts = network.describe(read_checkpoint(folder, name))
        network.check(folder, _reading(facts))
    except StudyError as error:
        return [name, f"no: {_in_short(error.found)}", "", ""]
    padded = facts.longest_s is not None
    found = {}
    for look_back_s in LOOK_BACKS_S if name in SOUND else LOOK_BACKS_S[:1]:
        for final_norm in (False, True):
            reading = _reading(facts, context_s=look_back_s, final_norm=final_norm)
            if look_back_s or final_norm:
                try:
                    network.check(folder, reading)
                except StudyError:
                    found[look_back_s, final_norm] = False
                    continue
            found[look_back_s, final_norm] = True
            _compare(name, model, folder, facts, reading, padded)
    looks_back = "" if name not in SOUND else "yes" if found[LOOK_BACKS_S[1], False] else "no"
    return [name, "yes", looks_back, "yes" if found[0.0, True] else "no"]


def _compare(name: str, model: Any, folder: Path, facts: Facts, reading: Reading, padded: bool) -> None:
    encoder = find_network("hf", "").load(folder, reading)
    for n_rows in (1, 3):
        batch = _batch(encoder, facts, n_rows, reading.context_s)
        layers = encoder(batch)
        with _last_output(model, type(encoder.tapped.blocks[-1])) as outputs:
            answer = _answer(name, model, folder, batch, facts)
        *labels, last = reading.streams[0].layers
        *states, _ = answer.hidden_states
        for label, state in zip(labels, states, strict=True):
            expected = _expected(name, state, batch, padded, reading.context_s, facts)
            assert _error(layers["", label], expected) <= TOLERANCE, (label, n_rows, reading.context_s)
        # Norms of CLIP and its like are for the first token only: what it becomes is the network's summary.
        tokens = answer.last_hidden_state if reading.final_norm else outputs[-1]
        expected = _expected(name, tokens, batch, padded, reading.context_s, facts)
        if _error(layers["", last], expected) > TOLERANCE:
            assert reading.final_norm, (last, n_rows, reading.context_s)
            summaries = find_network("hf", "").load(folder, replace(reading, pooling="cls"))(batch)
            expected = answer.pooler_output.numpy().reshape(n_rows, -1, answer.pooler_output.shape[-1]).mean(axis=1)
            assert _error(summaries["", last], expected) <= TOLERANCE, (last, n_rows)


def _error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@contextmanager
def _last_output(model: Any, block: type) -> Iterator[list[torch.Tensor]]:
    """What the blocks give, in the order in which they are called."""
    outputs: list[torch.Tensor] = []

    def keep(*call: Any) -> None:
        outputs.append(call[-1][0] if isinstance(call[-1], tuple) else call[-1])

    hooks = [module.register_forward_hook(keep) for module in model.modules() if type(module) is block]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


TOLERANCE = 1e-4


def _in_short(found: str) -> str:
    """A refusal without what exceptions say, which is worded otherwise by every version."""
    return found.partition(" (")[0]


@pytest.mark.one_in(4)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_read_rightly_or_refused(name, tmp_path):
    row = " | ".join(judge(name, tmp_path))
    assert f"| {row} |" in DOCS.read_text(encoding="utf-8"), f"{DOCS} has another row of {name} than: {row}"
