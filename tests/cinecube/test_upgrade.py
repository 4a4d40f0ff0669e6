"""`cinecube upgrade`: pipelines that earlier versions wrote, as they are found in people's studies."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from tests.conftest import Folder

from cinecube.cli import main
from cinecube.studies.pipelines import PIPELINE_FILES, pipelines

EARLIER = Path(__file__).resolve().parents[1] / "earlier"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A study of a lab's own, of which only its parameters and pipeline matter here."""
    root = tmp_path_factory.mktemp("fresh") / "lab"
    assert CliRunner().invoke(main, ["init", str(root)]).exit_code == 0
    (root / "data" / "dvc.yaml").unlink()
    folder = Folder(root)
    folder.change(lambda params: params.pop("simulate"))
    return folder


@pytest.fixture
def lab(fresh: Folder, tmp_path: Path) -> Folder:
    """A copy of it to change."""
    return Folder(shutil.copytree(fresh.root, tmp_path / "lab", symlinks=True))


def _pipeline(folder: Folder) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((folder.root / "dvc.yaml").read_text(encoding="utf-8"))
    return loaded


def _earlier(folder: Folder, name: str) -> None:
    (folder.root / "dvc.yaml").write_text((EARLIER / name).read_text(encoding="utf-8"), encoding="utf-8")


def _upgrade(folder: Folder, *words: str) -> Result:
    return CliRunner().invoke(main, ["upgrade", *words, "--study", str(folder.root)])


@pytest.mark.parametrize("name", ["own.dvc.yaml", "own_first.dvc.yaml"])
def test_an_earlier_pipeline_becomes_that_of_this_version(lab: Folder, name: str) -> None:
    _earlier(lab, name)
    before = (lab.root / "dvc.yaml").read_bytes()
    shown = _upgrade(lab, "--dry-run")
    assert shown.exit_code == 0
    assert "+    cmd: ${cinecube} inputs" in shown.stdout.splitlines()
    assert (lab.root / "dvc.yaml").read_bytes() == before
    assert _upgrade(lab, "--yes").exit_code == 0
    wanted = yaml.safe_load(pipelines()["dvc.yaml"])
    assert _pipeline(lab)["stages"] == wanted["stages"]
    assert (lab.root / "data/versions.json").is_file()
    again = _upgrade(lab, "--yes")
    assert again.stdout == "the pipeline is that of this version\n"


def test_lists_by_which_stages_repeat_are_added(lab: Folder) -> None:
    """Without them DVC reads no pipeline of this version at all."""
    _earlier(lab, "own.dvc.yaml")
    lab.change(lambda params: params.pop("keep_weights"))
    assert "+keep_weights: []" in _upgrade(lab, "--dry-run").stdout.splitlines()
    assert _upgrade(lab, "--yes").exit_code == 0
    assert lab.params()["keep_weights"] == []
    assert _pipeline(lab)["stages"]["weights"]["matrix"] == {"entry": "${keep_weights}"}
    assert _upgrade(lab, "--yes").stdout == "the pipeline is that of this version\n"


@pytest.mark.parametrize("words", [["plan"], ["why", "data/brain/sub-01.zarr"]])
def test_an_earlier_pipeline_is_named(lab: Folder, words: list[str]) -> None:
    _earlier(lab, "own.dvc.yaml")
    done = lab.must(*words)
    assert done.stderr == (
        "dvc.yaml is of an earlier version of cinecube, by which `dvc repro` keeps results of older code: "
        "`cinecube upgrade` brings it up to date\n"
    )
    assert _upgrade(lab, "--yes").exit_code == 0
    assert lab.must(*words).stderr == ""


def test_a_pipeline_of_this_version_is_left_alone(lab: Folder) -> None:
    (lab.root / "dvc.yaml").write_text(pipelines()["dvc.yaml"], encoding="utf-8")
    before = (lab.root / "dvc.yaml").read_bytes()
    assert _upgrade(lab, "--yes").exit_code == 0
    assert (lab.root / "dvc.yaml").read_bytes() == before


def test_what_a_lab_added_stays(lab: Folder) -> None:
    """Stages, inputs, comments; how it runs commands, what it froze, and what `dvc push` may send."""
    text = (EARLIER / "own.dvc.yaml").read_text(encoding="utf-8")
    text = text.replace("vars:\n", "vars:\n  - cluster: srun -c 4   # ours\n")
    text = text.replace('deps: ["${stimuli}"]\n', 'deps: ["${stimuli}", notes.txt, features/films.py]\n')
    text = text.replace('zarr": {push: false}', 'zarr": {push: true}', 1)
    text += (
        "\n  mine:   # what the paper shows\n    cmd: make paper\n    deps: [results/figures]\n    outs: [paper.pdf]\n"
    )
    text = text.replace("cmd: ${cinecube} encode ${item.model}", "cmd: ${cluster} ${cinecube} encode ${item.model}")
    text = text.replace("  features:\n", "  features:\n    frozen: true\n    meta: {gpu: a100}\n")
    (lab.root / "dvc.yaml").write_text(text, encoding="utf-8")
    assert _upgrade(lab, "--yes").exit_code == 0
    written, stages = (lab.root / "dvc.yaml").read_text(encoding="utf-8"), _pipeline(lab)["stages"]
    assert "cluster: srun -c 4   # ours" in written
    assert "# what the paper shows" in written
    assert stages["films"]["deps"] == ["data/inputs/films", "notes.txt"]
    assert stages["mine"] == {"cmd": "make paper", "deps": ["results/figures"], "outs": ["paper.pdf"]}
    assert stages["brain"]["outs"][0] == {"data/brain/${item.subject}.zarr": {"push": True}}
    assert stages["encode"]["cmd"] == "${cluster} ${cinecube} encode ${item.model}"
    assert (stages["features"]["frozen"], stages["features"]["meta"]) == (True, {"gpu": "a100"})
    assert stages["encode"]["params"][-1] == {"data/versions.json": ["scores"]}


def test_a_stage_that_is_in_another_file_now_is_moved(tmp_path: Path) -> None:
    """`inputs` of simulated studies was in `dvc.yaml`; in both, DVC would refuse the pipeline."""
    study = Folder(tmp_path / "study")
    assert CliRunner().invoke(main, ["init", str(study.root)]).exit_code == 0
    files = [study.root / name for name in PIPELINE_FILES]
    wanted = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files]
    here, there = (yaml.safe_load(file.read_text(encoding="utf-8")) for file in files)
    here["stages"]["inputs"] = there["stages"].pop("inputs")
    del here["stages"]["inputs"]["wdir"]
    for file, pipeline in zip(files, (here, there), strict=True):
        file.write_text(yaml.safe_dump(pipeline), encoding="utf-8")
    assert study.must("plan").stderr == ""
    assert _upgrade(study, "--yes").exit_code == 0
    assert [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files] == wanted
    assert study.must("plan").stderr == ""


def test_it_asks_first(lab: Folder) -> None:
    _earlier(lab, "own.dvc.yaml")
    before = (lab.root / "dvc.yaml").read_bytes()
    refused = _upgrade(lab)
    assert refused.exit_code == 1
    assert refused.stderr.startswith("Error: cinecube upgrade: found no terminal to ask on, expected a yes; run again")
    assert (lab.root / "dvc.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, "dvc.yaml: found nothing that can be read"),
        ("stages: [", "dvc.yaml: found "),
        ("stages: {}\nstages: {}\n", "dvc.yaml: found YAML that cannot be edited"),
        ("vars: []\n", "dvc.yaml: found no stages"),
        ("stages: none\n", "dvc.yaml: found no stages"),
        ("stages: {encode: 3}\n", "dvc.yaml: found no stages"),
    ],
)
def test_what_is_no_pipeline_is_refused_in_one_line(lab: Folder, text: str | None, found: str) -> None:
    (lab.root / "dvc.yaml").unlink()
    if text is not None:
        (lab.root / "dvc.yaml").write_text(text, encoding="utf-8")
    done = _upgrade(lab, "--yes")
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Error: {found}")
    assert text is None or (lab.root / "dvc.yaml").read_text(encoding="utf-8") == text
