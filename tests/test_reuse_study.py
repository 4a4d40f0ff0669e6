"""A brain map on somebody else's feature cubes: five commands, without films, weights or torch."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from cinecube.cli import main

from .conftest import REPOSITORY, Folder

# What `pip install cinecube` leaves out.
_BLOCK = """
import sys

class Absent:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("torch", "transformers", "av"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
"""


@dataclass(frozen=True)
class Theirs:
    """A study whose cubes of one model are published, and scans of somebody else."""

    url: Path
    scans: Path
    atlas: Path


def _call(folder: Path, *words: str) -> str:
    env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    who = {f"GIT_{role}_{key}": "a@example.org" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, env=env | who, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def theirs(study: Folder, tmp_path_factory: pytest.TempPathFactory) -> Theirs:
    """The finished study's ViT cubes in a bare repository with a remote."""
    base = tmp_path_factory.mktemp("theirs")
    root = base / "study"
    (root / "data" / "features").mkdir(parents=True)
    shutil.copy(study.root / "params.yaml", root)
    shutil.copytree(study.root / "data" / "features" / "vit", root / "data" / "features" / "vit")
    dvc = (sys.executable, "-m", "dvc")
    _call(root, "git", "init", "-q")
    _call(root, *dvc, "init", "-q")
    _call(root, *dvc, "add", "-q", *sorted(str(path) for path in (root / "data/features/vit").glob("*.zarr")))
    _call(root, *dvc, "remote", "add", "-q", "-d", "store", str(base / "remote"))
    _call(root, *dvc, "push", "-q")
    _call(root, "git", "add", "-A", ".")
    _call(root, "git", "commit", "-qm", "cubes")
    _call(root, "git", "tag", "v1")
    _call(base, "git", "clone", "-q", "--bare", str(root), "study.git")
    scans = study.root / "data" / "scans"
    return Theirs(base / "study.git", scans, scans / "atlas")


def _commands() -> list[str]:
    """The README's five."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    block = re.search(r"## Somebody else's features.*?```bash\n(.*?)```", text, re.DOTALL)
    assert block is not None
    return [line.split(" #")[0].strip() for line in block.group(1).splitlines()]


@pytest.mark.slow
def test_five_commands_from_an_empty_folder_to_a_brain_map(theirs: Theirs, tmp_path: Path) -> None:
    commands = _commands()
    assert len(commands) == 5
    (tmp_path / "block").mkdir()
    (tmp_path / "block" / "sitecustomize.py").write_text(_BLOCK)
    words = {"REPO": theirs.url, "FMRIPREP": theirs.scans, "ATLAS.nii.gz": theirs.atlas}
    script = "\n".join(commands)
    for word, value in words.items():
        script = script.replace(word, shlex.quote(str(value)))
    (tmp_path / "empty").mkdir()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", script],
        cwd=tmp_path / "empty",
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "block"), "PATH": path},
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    mine = tmp_path / "empty" / "mystudy"
    values = np.asarray(nib.load(mine / "vit.nii.gz").dataobj)  # type: ignore[attr-defined]
    assert np.nanmax(values) > 0.3  # responses that follow this network
    assert (mine / "results" / "report" / "index.html").is_file()
    params = yaml.safe_load((mine / "params.yaml").read_text(encoding="utf-8"))
    assert [entry["model"] for entry in params["imported"]] == ["vit"]
    again = subprocess.run(
        ["dvc", "status"], cwd=mine, capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert again.stdout.split() == ["inputs:", "always", "changed"]


def _init(root: Path, theirs: Theirs, *more: str) -> Result:
    words = ["init", str(root / "mine"), "--template", "reuse", "--from", str(theirs.url), "--scans", str(theirs.scans)]
    return CliRunner().invoke(main, [*words, *more])


def test_films_and_split_are_those_of_the_other_study(theirs: Theirs, tmp_path: Path) -> None:
    done = _init(tmp_path, theirs, "--rev", "v1", "--test", "amber")
    assert done.exit_code == 0, done.output
    assert f"cinecube import {theirs.url} --model vit" in done.stdout
    params = yaml.safe_load((tmp_path / "mine" / "params.yaml").read_text(encoding="utf-8"))
    assert params["split"] == {"train": ["birch", "dune"], "test": ["amber"], "gap_s": 4}
    assert (params["stimuli"], params["models"], params["compute"]["models"]) == (None, {}, [])
    stages = yaml.safe_load((tmp_path / "mine" / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert not {"checkpoint", "features", "encode"} & set(stages)


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (("--rev", "v9"), "v9"),
        (("--test", "zebra"), "--test: found 'zebra', expected one of amber, birch, dune"),
        (("--space", "T1w"), "--space: found 'T1w'"),
        (("--atlas", "gone.nii.gz"), "gone.nii.gz"),
    ],
)
def test_what_fails_leaves_nothing(theirs: Theirs, tmp_path: Path, more: tuple[str, ...], line: str) -> None:
    done = _init(tmp_path, theirs, *more)
    assert done.exit_code == 1
    assert line in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "mine").exists()


def test_another_study_must_be_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["init", str(tmp_path / "mine"), "--template", "reuse"])
    assert done.exit_code == 1
    assert "--from goes with --template reuse" in done.stderr
