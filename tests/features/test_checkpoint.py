from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
import time

import pytest
import yaml

from cinecube.features.extraction.checkpoint import find_checkpoint, read_licence, record_checkpoint, weights_digest
from cinecube.features.networks.network import Reading
from cinecube.features.networks.registry import find_network
from cinecube.store.base.errors import StudyError
from cinecube.store.params.model_params import ModelParams


def _params(folder, **more) -> ModelParams:
    return ModelParams(**{"extractor": "vit", "checkpoint": str(folder), **more})


@pytest.fixture
def vit(checkpoints, tmp_path):
    return shutil.copytree(checkpoints["vit"], tmp_path / "weights" / "vit")


def test_record_says_what_the_checkpoint_is(vit, tmp_path):
    record = record_checkpoint("vit", _params("weights/vit"), tmp_path)
    assert record["width"] == 24
    assert record["licence"] == "apache-2.0"
    assert record["checkpoint"] == "weights/vit"
    assert record["revision"] is None
    assert record["facts"]["preprocessing"]["size"] == [32, 32]
    assert record == record_checkpoint("vit", _params("weights/vit"), tmp_path)


def test_digest_follows_weights_and_configuration_but_not_the_card_or_the_folder(vit, tmp_path):
    before = weights_digest(vit, None, "vit")
    (vit / "README.md").write_text("another card")
    moved = vit.rename(tmp_path / "elsewhere")
    assert weights_digest(moved, None, "vit") == before
    for name in ("preprocessor_config.json", "config.json", "model.safetensors"):
        data = bytearray((moved / name).read_bytes())
        data[-2] ^= 1
        (moved / name).write_bytes(data)
        assert weights_digest(moved, None, "vit") != before
        before = weights_digest(moved, None, "vit")


def test_an_untrained_twin_needs_no_weights_and_no_consent(vit, tmp_path):
    (vit / "model.safetensors").unlink()
    (vit / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    with pytest.raises(StudyError, match="found no weights, expected model.safetensors or pytorch_model.bin"):
        record_checkpoint("vit", _params("weights/vit", accept_licence=True), tmp_path)
    assert record_checkpoint("vit", _params("weights/vit", untrained=3), tmp_path)["untrained"] == 3


def test_non_commercial_weights_need_consent(vit, tmp_path):
    (vit / "README.md").write_text('---\nlicense: "cc-by-nc-4.0"\ntags: [x]\n---\n')
    with pytest.raises(StudyError, match=r"weights under cc-by-nc-4.0.*set models.vit.accept_licence: true"):
        record_checkpoint("vit", _params("weights/vit"), tmp_path)
    record = record_checkpoint("vit", _params("weights/vit", accept_licence=True), tmp_path)
    assert record["licence"] == "cc-by-nc-4.0"


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ("---\nlicense: other\nlicense_name: nvidia-open\n---\n", "nvidia-open"),
        ("---\nlicense: [mit, bsd-3-clause]\n---\n", "mit, bsd-3-clause"),
        ("# no front matter\n", "unknown"),
        ("---\nlicense: [\n---\n", "unknown"),
        ("---\ntags: [x]\n---\n", "unknown"),
        (None, "unknown"),
    ],
)
def test_licence_of_a_card(tmp_path, card, licence):
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert read_licence(tmp_path, dataclasses.replace(find_network("vit", ""), licence="unknown")) == licence


def test_without_a_card_the_licence_is_that_of_the_official_weights(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints["videomae"], tmp_path / "weights")
    (folder / "README.md").unlink()
    with pytest.raises(StudyError, match=r"weights under cc-by-nc-4.0, for non-commercial use only.*accept_licence"):
        record_checkpoint("videomae", _params("weights", extractor="videomae"), tmp_path)


def test_a_weight_file_alone_is_the_official_checkpoint(checkpoints, tmp_path):
    """ImageBind's file says nothing of sizes or licence: both are known."""
    (tmp_path / "imagebind_huge.pth").write_bytes(b"weights")
    params = _params("imagebind_huge.pth", extractor="imagebind")
    with pytest.raises(StudyError, match=r"weights under cc-by-nc-sa-4.0, for non-commercial use only"):
        record_checkpoint("imagebind", params, tmp_path)
    record = record_checkpoint("imagebind", params.model_copy(update={"accept_licence": True}), tmp_path)
    video, audio, concat = record["facts"]["streams"]
    assert (len(video["layers"]), set(video["widths"][:-1]), video["widths"][-1]) == (34, {1280}, 1024)
    assert (len(audio["layers"]), set(audio["widths"][:-1]), audio["widths"][-1]) == (14, {768}, 1024)
    assert (concat["layers"], concat["widths"]) == (["head"], [2048])
    with pytest.raises(StudyError, match=r"weights that cannot be read \(imagebind_huge.pth"):
        find_network("imagebind", "").load(tmp_path / "imagebind_huge.pth", Reading(()))


def test_a_size_that_imagebind_does_not_have_is_refused(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints["imagebind"], tmp_path / "weights")
    (folder / "config.json").write_text('{"vidio": [24, 3, 2]}')
    with pytest.raises(StudyError, match="unknown key 'vidio'.*did you mean 'video'"):
        record_checkpoint("imagebind", _params("weights", extractor="imagebind"), tmp_path)


def test_missing_folder_is_refused_with_where_to_copy(tmp_path):
    with pytest.raises(StudyError, match=r"no data/weights/vit, .*copy the checkpoint to .*data/weights/vit"):
        record_checkpoint("vit", _params("data/weights/vit"), tmp_path)


def test_a_hub_id_is_answered_at_once_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    started = time.monotonic()
    with pytest.raises(StudyError, match=r"no cached copy of org/name \(HF_HUB_OFFLINE is set\).*copy config.json"):
        record_checkpoint("vit", _params("org/name"), tmp_path)
    assert time.monotonic() - started < 3


def test_a_cached_hub_checkpoint_needs_no_network(vit, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    cache = tmp_path / "hub" / "models--org--name"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(commit)
    shutil.copytree(vit, cache / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    folder, revision = find_checkpoint("vit", _params("org/name"), tmp_path)
    assert (folder.name, revision) == (commit, commit)
    assert record_checkpoint("vit", _params("org/name"), tmp_path)["revision"] == commit


def test_planning_needs_no_torch(study, tmp_path):
    """`plan` and `why` must work, and at once, where torch is not installed."""
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(study.model_dump(mode="json")))
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "import cinecube.features.films.stage\n"
        "from cinecube.features.extraction.spec import feature_spec\n"
        "from cinecube.store.params.document import load_study\n"
        f"root = Path({str(tmp_path)!r})\n"
        "study = load_study(root)\n"
        "[feature_spec(study, model, 'amber', root) for model in study.models]\n"
        "assert 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
