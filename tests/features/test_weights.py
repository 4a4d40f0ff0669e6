"""Weights and configurations of checkpoints: what loads, what is refused, and that nothing in them runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cinecube.features.networks.network import Batch, Extractor, Reading, read_checkpoint
from cinecube.features.networks.registry import find_network
from cinecube.store.base.errors import StudyError


def _load(folder: Path, extractor: str = "vit", **changes: Any) -> Extractor:
    network = find_network(extractor, "vit")
    facts = network.describe(read_checkpoint(folder, "vit"))
    return network.load(folder, Reading(streams=facts.streams, frames_per_window=2, rate_hz=0, window_s=0.5, **changes))


def _batch(extractor: Extractor) -> Batch:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 48, 80, 3)).astype(np.uint8)
    return Batch(np.stack([extractor.prepare_frame(rgb) for rgb in pictures])[None], None)


def test_old_pickled_weights_load_and_nothing_else_in_them_runs(checkpoints, tmp_path):
    from safetensors.torch import load_file

    folder = shutil.copytree(checkpoints["vit"], tmp_path / "vit")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    found, expected = (_load(where)(_batch(_load(where))) for where in (folder, checkpoints["vit"]))
    assert found.keys() == expected.keys()
    for key, values in found.items():
        np.testing.assert_array_equal(values, expected[key])
    torch.save({**state, "evil": _Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(StudyError, match="weights that cannot be read"):
        _load(folder)


class _Evil:
    def __reduce__(self):
        return (print, ("loaded",))


def test_incomplete_and_damaged_weights_are_refused(checkpoints, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(checkpoints["vit"], tmp_path / "vit")
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    dropped = sorted(key for key in tensors if "layer.1." in key or "layers.1." in key)
    save_file({key: value for key, value in tensors.items() if key not in dropped}, weights, {"format": "pt"})
    with pytest.raises(StudyError, match=r"found no layers\.1\..* and 15 more, expected all weights"):
        _load(folder)
    weights.write_bytes((checkpoints["vit"] / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(StudyError, match="weights that cannot be read"):
        _load(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 40}))
    weights.write_bytes((checkpoints["vit"] / "model.safetensors").read_bytes())
    with pytest.raises(StudyError, match=r"fc1.* of shape \(32,.*\(config.json says \(40,"):
        _load(folder)


@pytest.mark.parametrize("prefix", ["vit.", "teacher.backbone."])
def test_an_encoder_inside_a_larger_network_loads(checkpoints, tmp_path, prefix):
    from safetensors.torch import load_file

    folder = shutil.copytree(checkpoints["vit"], tmp_path / "vit")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({"state_dict": {prefix + key: value for key, value in state.items()}}, folder / "last.ckpt")
    expected = _load(checkpoints["vit"])(_batch(_load(checkpoints["vit"])))
    for where in (folder, folder / "last.ckpt"):
        found = _load(where)(_batch(_load(where)))
        for key, values in found.items():
            np.testing.assert_array_equal(values, expected[key])


@pytest.mark.parametrize("extractor", ["vit", "hf"])
def test_a_checkpoint_without_the_last_norm_serves_who_does_not_read_it(checkpoints, tmp_path, extractor):
    """The library would go on with a norm that does nothing."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(checkpoints["vit"], tmp_path / "vit")
    weights = folder / "model.safetensors"
    kept = {key: value for key, value in load_file(weights).items() if not key.startswith("layernorm.")}
    save_file(kept, weights, {"format": "pt"})
    _load(folder, extractor)
    with pytest.raises(StudyError, match=r"found no layernorm\.bias and 1 more, expected all weights"):
        _load(folder, extractor, final_norm=True)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"hidden_act": "gelo"}, "a network that cannot be made"),
        ({"num_attention_heads": 0}, "a network that cannot be made|a configuration that cannot be read"),
        ({"layer_norm_eps": "tiny"}, "a configuration that cannot be read"),
    ],
)
def test_a_configuration_of_no_network_is_one_line(checkpoints, tmp_path, change, found):
    folder = shutil.copytree(checkpoints["vit"], tmp_path / "vit")
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(StudyError, match=found) as raised:
        _load(folder)
    assert "\n" not in str(raised.value)


def test_what_a_configuration_asks_of_a_machine_is_not_followed(checkpoints, tmp_path):
    """Nor to another file of sizes that nobody has looked at."""
    folder = shutil.copytree(checkpoints["vit"], tmp_path / "vit")
    config = json.loads((folder / "config.json").read_text())
    asked = {"attn_implementation": "flash_attention_2", "output_attentions": True, "output_hidden_states": True}
    files = {"configuration_files": ["config.4.0.0.json"]}
    (folder / "config.json").write_text(json.dumps(config | asked | files))
    (folder / "config.4.0.0.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    for extractor in ("vit", "hf"):
        network, encoder = find_network(extractor, ""), _load(folder, extractor)
        assert len(network.describe(read_checkpoint(folder, "")).streams[0].layers) == 4
        assert ("", "block03") in encoder(_batch(encoder))


def test_adapters_of_single_languages_are_refused(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints["wav2vec2"], tmp_path / "mms")
    config = json.loads((folder / "config.json").read_text()) | {"adapter_attn_dim": 16}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(StudyError, match=r"adapter_attn_dim 16.*read it with `extractor: hf`"):
        find_network("wav2vec2", "").describe(read_checkpoint(folder, ""))


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
