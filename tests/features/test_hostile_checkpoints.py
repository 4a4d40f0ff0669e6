"""Checkpoints made to do harm: no program of theirs runs, nothing grows, one line at `checkpoint`."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.hostile import run_all

from cinecube.features.hf.hf import HfEncoder
from cinecube.features.hf.loading import load_network
from cinecube.features.networks.network import Reading, read_checkpoint
from cinecube.store.base.errors import StudyError

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAM = "import os\nos.mkdir(os.environ['CANARY'])\n"


class Canary:
    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, ("ran",))


def config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        found = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(found | changes))

    return change


def own_code(folder: Path) -> None:
    (folder / "own.py").write_text(PROGRAM)
    config(model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModel": "own.Model"})(folder)


def own_processor(folder: Path) -> None:
    (folder / "own.py").write_text(PROGRAM)
    path = folder / "preprocessor_config.json"
    found = json.loads(path.read_text()) | {
        "image_processor_type": "Own",
        "auto_map": {"AutoImageProcessor": "own.Own"},
    }
    path.write_text(json.dumps(found))


def card(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "README.md").write_text(f"---\n{text}\n---\n")


def bombed() -> str:
    lines = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
    return f"a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n{lines}license: *a11"


def weights(data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "model.safetensors").write_bytes(data)


def tensor(**changes: Any) -> Callable[[Path], object]:
    header = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | changes}).encode()
    return weights(len(header).to_bytes(8, "little") + header + bytes(4))


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    path = folder / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("archive/data.pkl", "w") as file:
        for _ in range(64):
            file.write(bytes(2**24))


def indexed(name: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model-00001.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))

    return write


def instead(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def put(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return put


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a network of its own": (own_code, "a program of its own"),
    "a processor of its own": (own_processor, "a program of its own"),
    "a kernel of the hub": (config(attn_implementation="evil/kernel"), "a program on the hub"),
    "layers": (config(num_hidden_layers=10**9), "num_hidden_layers 1000000000"),
    "many layers": (config(num_hidden_layers=1000, hidden_size=65536), "1000 blocks of width 65536"),
    "no number of layers": (config(num_hidden_layers="9" * 5000), "num_hidden_layers"),
    "minus layers": (config(num_hidden_layers=-1), "num_hidden_layers -1"),
    "half a layer": (config(num_hidden_layers=2.5), "num_hidden_layers 2.5"),
    "width": (config(hidden_size=10**8), "hidden_size 100000000"),
    "pictures": (config(image_size=10**6), "image_size 1000000"),
    "patches": (config(image_size=8192, patch_size=1), "67108864 patches"),
    "frames": (config(num_frames=10**9), "num_frames 1000000000"),
    "hollow": (config(num_hidden_layers=48, hidden_size=2048), "bytes of weights"),
    "infinite": (config(image_size=float("inf")), "image_size inf"),
    "nested": (lambda folder: (folder / "config.json").write_text('{"a":' * 9999 + "1" + "}" * 9999), "nested"),
    "large": (lambda folder: os.truncate(folder / "config.json", 2**36), "68719476736 bytes"),
    "licence of aliases": (card(bombed()), "front matter that cannot be read"),
    "licence of objects": (card("license: {a: b}"), "a license that is no text"),
    "licence of a megabyte": (card(f"license: {'x' * 10**5}"), "a license of 100000 characters"),
    "licence that moves cursors": (card('license: "cc-by-nc \\e]0;owned\\a"'), "\\x1b]0;owned"),
    "header": (weights((2**62).to_bytes(8, "little") + bytes(64)), "a header of 4611686018427387904 bytes"),
    "header of holes": (
        lambda folder: (
            weights((2**33).to_bytes(8, "little"))(folder),
            os.truncate(folder / "model.safetensors", 2**36),
        ),
        "a header of 8589934592 bytes",
    ),
    "shape": (tensor(shape=[10**6, 10**6]), "of shape [1000000, 1000000]"),
    "offsets": (tensor(data_offsets=[0, 10**12]), "in bytes 0 to 1000000000000"),
    "offsets backwards": (tensor(data_offsets=[4, 0]), "in bytes 4 to 0"),
    "no weights": (weights(b""), "weights that cannot be read"),
    "zip bomb": (pickled, "compressed members that unpack to 1073741824 bytes"),
    "index of another folder": (indexed("../../secret.safetensors"), "'../../secret.safetensors', which is no file"),
    "index of nothing": (indexed("gone.safetensors"), "gone.safetensors"),
    "pipe for weights": (instead("model.safetensors", os.mkfifo), "a pipe"),
    "pipe for a configuration": (instead("config.json", os.mkfifo), "a pipe"),
    "pipe for a processor": (instead("preprocessor_config.json", os.mkfifo), "preprocessor_config.json"),
    "pipe for a card": (instead("README.md", os.mkfifo), "a pipe"),
    "endless weights": (instead("model.safetensors", lambda path: path.symlink_to("/dev/zero")), "a device"),
    "loop": (instead("config.json", lambda path: path.symlink_to(path)), "config.json"),
}


def test_at_checkpoint(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Each is one line, for the network of ours and for any of transformers."""
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    params["models"]["good"] = {"extractor": "hf", "checkpoint": "weights/good"}
    shutil.copytree(checkpoints["vit"], tmp_path / "weights" / "good")
    commands, wanted = [], []
    for number, (name, (how, told)) in enumerate(HOSTILE.items()):
        folder = shutil.copytree(checkpoints["vit"], tmp_path / "weights" / str(number))
        how(folder)
        for extractor in ("hf", "vit"):
            if extractor == "vit" and "of its own" in name:
                continue  # ours ask nothing of the folder but numbers
            model = f"{extractor}{number}"
            params["models"][model] = {"extractor": extractor, "checkpoint": f"weights/{number}"}
            commands.append(["checkpoint", model])
            wanted.append((name, told))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    ended = run_all([["checkpoint", "good"], *commands], tmp_path, CANARY=str(tmp_path / "ran"))[1:]
    for (name, told), one in zip(wanted, ended, strict=True):
        assert told in one.line, name
    assert not (tmp_path / "ran").exists()
    assert [path.name for path in (tmp_path / "data" / "checkpoints").iterdir()] == ["good.json"]


def test_no_program_runs_when_a_network_is_loaded(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is asked whether it may, whatever `checkpoint` said before."""
    monkeypatch.setenv("CANARY", str(tmp_path / "ran"))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    folder = shutil.copytree(checkpoints["vit"], tmp_path / "own")
    own_code(folder)
    for reading in (Reading((), untrained=None), Reading((), untrained=0)):
        with pytest.raises((StudyError, ValueError)):
            load_network(read_checkpoint(folder, "x"), reading)
        with pytest.raises((StudyError, ValueError)):
            HfEncoder(folder, reading)
    assert not (tmp_path / "ran").exists()
    assert "own" not in sys.modules


def test_pickles_of_weights_run_nothing(checkpoints: dict[str, Path], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(checkpoints["vit"], tmp_path / "weights")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Canary()}))
    with pytest.raises(StudyError, match="weights that cannot be read"):
        load_network(read_checkpoint(folder, "x"), Reading(()))
    assert not (tmp_path / "ran").exists()
