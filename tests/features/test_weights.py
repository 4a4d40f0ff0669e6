"""Weights and configurations of checkpoints: what loads, what is refused, and that nothing in them runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cinecube.features.networks.network import Batch, Extractor, Reading, read_checkpoint
from cinecube.features.networks.registry import find_network
from cinecube.store.base.errors import StudyError


def _load(folder: Path) -> Extractor:
    network = find_network("vit", "vit")
    facts = network.describe(read_checkpoint(folder, "vit"))
    return network.load(folder, Reading(streams=facts.streams, frames_per_window=2, rate_hz=0, window_s=0.5))


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
    with pytest.raises(StudyError, match=r"found no encoder\.layer\.1\..* more, expected all weights"):
        _load(folder)
    weights.write_bytes((checkpoints["vit"] / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(StudyError, match="weights that cannot be read"):
        _load(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 40}))
    weights.write_bytes((checkpoints["vit"] / "model.safetensors").read_bytes())
    with pytest.raises(StudyError, match=r"of shape \(32, 24\) \(config.json says \(40, 24\)\)"):
        _load(folder)


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
