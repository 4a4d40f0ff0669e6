from __future__ import annotations

import shutil
import subprocess
import sys
import time

import pytest

from cinecube.features.checkpoint import find_checkpoint, read_licence, record_checkpoint, weights_digest
from cinecube.store.errors import StudyError
from cinecube.store.params import ModelParams


def _params(folder, **more) -> ModelParams:
    return ModelParams(**{"extractor": "vit", "checkpoint": str(folder), **more})


@pytest.fixture
def vit(checkpoints, tmp_path):
    return shutil.copytree(checkpoints["vit"], tmp_path / "weights" / "vit")


def test_record_says_what_the_checkpoint_is(vit, tmp_path):
    record = record_checkpoint("vit", _params("weights/vit"), tmp_path)
    assert record["n_blocks"] == 3
    assert record["width"] == 24
    assert record["licence"] == "apache-2.0"
    assert record["checkpoint"] == "weights/vit"
    assert record["revision"] is None
    assert record["facts"]["preprocessing"]["size"] == {"height": 32, "width": 32}
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
    assert read_licence(tmp_path) == licence


def test_missing_folder_is_refused_with_where_to_copy(tmp_path):
    with pytest.raises(StudyError, match=r"no folder data/weights/vit, .*copy the checkpoint to .*data/weights/vit"):
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


def test_recording_and_planning_need_no_torch(vit, tmp_path):
    """`checkpoint`, `plan` and `why` must work, and at once, where torch is not installed."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "import cinecube.features.spec, cinecube.features.films\n"
        "from cinecube.features.checkpoint import record_checkpoint\n"
        "from cinecube.store.params import ModelParams\n"
        f"record_checkpoint('vit', ModelParams(extractor='vit', checkpoint={str(vit)!r}), Path('.'))\n"
        "assert 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
