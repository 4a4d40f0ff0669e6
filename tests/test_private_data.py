"""Single subjects' data, films and weights leave a study by neither Git nor DVC: with the real `dvc`, stages that stop
half-way, a remote and clones."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from click.testing import CliRunner

import cinecube as cc
from cinecube.cli import main
from cinecube.store.base.labels import layer_labels
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import write_cube, write_feature_cube
from cinecube.store.cube.schema import Stream, feature_template, provenance, rows_index, string_coordinate

from . import warm
from .conftest import Folder, dvc_environment
from .terminal import Terminal

pytestmark = pytest.mark.slow

SUBJECTS = ("sub-01", "sub-02")
# All that Git may take of a study, but for `.dvc` files.
FOR_GIT = re.compile(
    r"\.gitignore|\.dvcignore|\.dvc/(config|\.gitignore)|README\.md|CARD\.html|params\.(yaml|schema\.json)|(data/)?dvc\.(yaml|lock)"
    r"|results/metrics\.json|results/plots/[^.][^/]*(/[^.][^/]*)?"
)
# Stands in for `cinecube`: leaves what a stage leaves, of cubes that were made before, and stops where it is told.
STAGE = """#!{python}
import json, os, shutil, signal, sys
from pathlib import Path

words, here = " ".join(sys.argv[1:]), Path(".venv")
if words in ("contents", "inputs", "privacy"):
    os.execv({real!r}, ["cinecube", words])
stop = json.loads((here / "stop.json").read_text())
for out in json.loads((here / "outs.json").read_text())[words]:
    path, finished = Path(out), Path({study!r}, out)
    hidden = path.with_name("." + path.name + ".partial")
    hidden.parent.mkdir(parents=True, exist_ok=True)
    hidden.write_text("half")
    if finished.is_dir():
        shutil.copytree(finished, path)
    elif finished.is_file():
        shutil.copy(finished, path)
    elif path.suffix not in ("", ".zarr"):
        path.write_text(out)
    elif path.parent.name == "plots":
        path.mkdir()
        (path / "vit.csv").write_text("0")
    else:
        parts = {{"scans": ["atlas", *{subjects!r}], "stimuli": ["amber", "birch", "dune"]}}.get(path.name, ["part"])
        for part in parts:
            (path / part).mkdir(parents=True)
            (path / part / "bytes").write_text(out + part)
    if stop["at"] == words:
        Path(".cinecube/journal").mkdir(parents=True, exist_ok=True)
        Path(".cinecube/journal/block.npy").write_text("responses")
        os.killpg(0, signal.SIGKILL) if stop["kill"] else sys.exit(3)
    hidden.unlink()
"""


def _git(root: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")
    env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    return subprocess.run(["git", *who, *words], cwd=root, check=True, capture_output=True, text=True, env=env).stdout


def _dvc(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return warm.call(["dvc", *words], root, dvc_environment())


def _stages_run(done: subprocess.CompletedProcess[str]) -> list[str]:
    return sorted(name.rpartition(":")[2] for name in re.findall(r"Running stage '([^']+)'", done.stdout))


def _cinecube(*words: str) -> str:
    done = CliRunner().invoke(main, list(words))
    assert done.exit_code == 0, f"{done.output} {done.exception!r}"
    return done.output


def _for_git(root: Path) -> set[str]:
    """What `git add -A` would take."""
    lines = _git(root, "add", "-A", "-n").splitlines()
    return {line.removeprefix("add '").removesuffix("'") for line in lines if line.startswith("add ")}


def _refuse_private(root: Path) -> None:
    strange = {name for name in _for_git(root) if not FOR_GIT.fullmatch(name) and not name.endswith(".dvc")}
    assert not strange
    seen = {line[3:] for line in _git(root, "status", "--porcelain", "-uall").splitlines()}
    assert not {name for name in seen if not FOR_GIT.fullmatch(name) and not name.endswith(".dvc")}


def _shrink(params: dict[str, Any]) -> None:
    params["compute"]["models"] = ["vit"]
    params["brain"]["subjects"] = list(SUBJECTS)
    params["simulate"]["subjects"] = len(SUBJECTS)
    params["residual"], params["partition"], params["statistics"]["compare"] = [], [], []
    params["unimodal"] = {"video": ["vit"]}


def _write_cubes(paths: StudyPaths, films: dict[str, list[str]]) -> None:
    """Cubes as small as they can be."""
    for film, segments in films.items():
        rows = rows_index({name: np.arange(4) * 1.49 for name in segments})
        attrs = provenance("features", {"film": film, "layers": layer_labels(1)}, ["zarr"])
        template = feature_template(rows, 1.49, [Stream("vit", layer_labels(1), [3, 3])], "float32", attrs)
        values = np.full((len(rows), 3), len(film), np.float32)
        write_feature_cube(paths.features("vit", film), template, lambda m, k, values=values: values)
    for subject in SUBJECTS:
        brain = xr.Dataset(
            {"bold": (("time", "target"), np.full((4, 5), int(subject[-1]), np.float32))},
            coords={"segment": ("time", string_coordinate(["amber01"] * 4)), "target": np.arange(5)},
            attrs=provenance("brain", {"subject": subject}, []),
        )
        write_cube(paths.brain(subject), brain)
    layers = ("subject", "model", "layer", "target")
    score = xr.Dataset(
        {"score": (layers, np.zeros((len(SUBJECTS), 1, 2, 5), np.float32))},
        coords={"subject": string_coordinate(SUBJECTS), "model": string_coordinate(["vit"]), "target": np.arange(5)},
        attrs=provenance("scores", {"models": ["vit"]}, []),
    ).assign_coords(layer=string_coordinate(layer_labels(1)))
    write_cube(paths.scores("vit"), score)
    table = [{"film": film, "segment": name, "rows": 4} for film, segments in films.items() for name in segments]
    pd.DataFrame(table).to_csv(paths.films, index=False)


@pytest.fixture(scope="module")
def simulated_study(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A new study of the simulated template, whose stages leave files and compute nothing."""
    from dvc.repo import Repo

    root = tmp_path_factory.mktemp("private") / "study"
    _cinecube("init", str(root))
    folder = Folder(root)
    folder.change(_shrink)
    with Repo(str(root)) as repo:
        outs = {
            stage.cmd.split("cinecube ", 1)[1]: [os.path.relpath(out.fs_path, root) for out in stage.outs]
            for stage in repo.index.stages
        }
    stage = root / ".venv" / "bin" / "cinecube"
    stage.parent.mkdir(parents=True)
    _write_cubes(StudyPaths(root.parent / "made"), folder.params()["films"])
    made = str(root.parent / "made")
    stage.write_text(STAGE.format(python=sys.executable, real=str(warm.command()), study=made, subjects=list(SUBJECTS)))
    stage.chmod(0o755)
    (root / ".venv" / "outs.json").write_text(json.dumps(outs))
    return folder


@pytest.fixture(scope="module")
def finished(simulated_study: Folder) -> Folder:
    """It, run to its end, after it was stopped in many places."""
    root = simulated_study.root
    places = [("simulate", False), ("features vit amber", False), ("brain sub-01", True), ("encode vit", False)]
    for at, kill in (*places, ("", False)):
        (root / ".venv" / "stop.json").write_text(json.dumps({"at": at, "kill": kill}))
        done = _dvc(root, "repro")
        assert done.returncode == (-signal.SIGKILL if kill else 255 if at else 0), done.stderr
        _refuse_private(root)
    return simulated_study


@pytest.fixture(scope="module")
def published(finished: Folder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It, with a remote, as the README publishes it; the bare repository."""
    base = tmp_path_factory.mktemp("published")
    root = finished.root
    assert _dvc(root, "remote", "add", "-d", "store", str(base / "remote")).returncode == 0
    _git(root, "add", "-A")
    _git(root, "commit", "-qm", "cubes")
    # Also by the ways that name no output.
    for words in (["push"], ["push", "--run-cache", "--all-commits"]):
        assert _dvc(root, *words).returncode == 0
    _git(base, "clone", "-q", "--bare", str(root), "study.git")
    return base / "study.git"


def _pushed(root: Path, remote: Path) -> dict[str, bool]:
    """Every recorded output, and whether a remote has it; of those that are not there it has no responses either."""
    from cinecube.store.dvc.dvc_index import open_index

    def is_there(oid: str) -> bool:
        return (remote / "files" / "md5" / oid[:2] / oid[2:]).exists()

    index, found = open_index(root), {}
    for output in index.outputs:
        assert output.item is not None
        found[output.path] = is_there(output.item.oid)
        # Labels of a brain cube may be those of a score cube.
        files = index.folder(output.path).files if output.is_dir else {}
        own = [item.oid for name, item in files.items() if name.startswith(("bold/c", "sub-", "atlas"))]
        assert all(is_there(oid) == found[output.path] for oid in own)
        assert own or output.path not in ("data/scans", "data/brain/sub-01.zarr")
    return found


def test_git_takes_nothing_private_wherever_a_study_stops(finished: Folder) -> None:
    root = finished.root
    assert "dvc.lock" in _for_git(root)
    assert "data/dvc.lock" in _for_git(root)
    assert "results/plots/ceiling.csv" in _for_git(root)
    written = [path for path in root.rglob(".gitignore") if path != root / ".gitignore" and ".dvc" not in path.parts]
    assert not written, "DVC writes none of its own, which it would take back at a failure"


def test_git_takes_nothing_that_commands_leave(finished: Folder, tmp_path: Path) -> None:
    root = tmp_path / "study"
    shutil.copytree(finished.root, root, symlinks=True)
    for name in ("map.nii.gz", "map.func.gii", "map.csv", ".map.nii.gz.partial", "loudness.npy", "participants.tsv"):
        (root / name).write_text("one subject")
    (root / "bids" / "sub-01" / "anat").mkdir(parents=True)
    (root / "bids" / "sub-01" / "anat" / "sub-01_T1w.json").write_text("{}")
    assert _dvc(root, "add", "data/features/vit/amber.zarr", "map.nii.gz").returncode != 0  # made by a stage
    shutil.copytree(root / "data/features/vit", root / "data/features/own")
    assert _dvc(root, "add", *(f"data/features/own/{film}.zarr" for film in ("amber", "dune"))).returncode == 0
    _refuse_private(root)
    assert {name for name in _for_git(root) if name.endswith(".dvc")} == {
        f"data/features/own/{film}.zarr.dvc" for film in ("amber", "dune")
    }


def test_push_leaves_single_subjects_here(finished: Folder, published: Path) -> None:
    there = _pushed(finished.root, published.parent / "remote")
    kept = {path for path, pushed in there.items() if not pushed}
    brains = {f"data/brain/{subject}.{kind}" for subject in SUBJECTS for kind in ("zarr", "qc.csv")}
    assert kept == {"data/scans", "results/predictions/vit.zarr", *brains}
    assert there["results/scores/vit.zarr"]
    told = finished.must("card", "--url", "https://example.org/x.git")
    assert re.search(r"`dvc push` sends: .*data/features \([\d.]+ [kM]B\)", told.stdout)
    left = re.search(r"it leaves here: (.*)", told.stdout)
    assert left
    assert all(folder in left.group(1) for folder in ("data/brain ", "data/scans ", "results/predictions "))
    assert told.stderr == ""


def test_consent_is_one_key_and_runs_no_stage_again(published: Path, finished: Folder, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "study")
    shutil.copytree(finished.root, folder.root, symlinks=True)
    assert _dvc(folder.root, "remote", "add", "-f", "-d", "store", str(tmp_path / "remote")).returncode == 0
    text = (folder.root / "params.yaml").read_text()
    (folder.root / "params.yaml").write_text(text.replace("publish: false", "publish: true"))
    told = folder.must("card", "--url", "https://example.org/x.git").stderr
    assert "brain.publish is true: `dvc push` sends scans and responses of single subjects; have their consent" in told
    assert "`dvc push` still leaves here data/brain/sub-01.qc.csv" in told
    done = _dvc(folder.root, "repro")
    assert _stages_run(done) == ["inputs", "privacy"]
    assert _dvc(folder.root, "push").returncode == 0
    assert all(_pushed(folder.root, tmp_path / "remote").values())
    assert _stages_run(_dvc(folder.root, "repro")) == ["inputs"]


@pytest.fixture
def clone(published: Path, tmp_path: Path) -> Path:
    _git(tmp_path, "clone", "-q", str(published), "clone")
    return tmp_path / "clone"


def test_pull_brings_what_is_there_and_names_what_was_kept(clone: Path) -> None:
    told = _cinecube("pull", "--study", str(clone))
    assert "not published, their owner keeps them: data/brain/sub-01.qc.csv, data/brain/sub-01.zarr, " in told
    assert "data/scans" in told
    assert (clone / "results/scores/vit.zarr").is_dir()
    assert not (clone / "data/brain").exists()
    again = json.loads(_cinecube("pull", "--study", str(clone), "--json"))
    assert again["files"] == 0
    assert len(again["kept_back"]) == 6
    assert again["lacking"] == []
    assert _git(clone, "status", "--porcelain") == ""

    steps = {step["stage"]: step for step in json.loads(_cinecube("plan", "--study", str(clone), "--json"))}
    kept = {f"brain@{subject}" for subject in SUBJECTS}
    # Predictions hold measured responses too; scores are here.
    said = "made elsewhere: its owner did not publish results/predictions/vit.zarr"
    assert (steps["encode@vit"]["state"], steps["encode@vit"]["why"]) == ("done", said)
    assert {stage for stage, step in steps.items() if step["state"] == "kept back"} == kept
    assert steps["brain@sub-01"]["why"] == "not published by its owner, and what it is made of is not here"
    assert {steps[stage]["state"] for stage in ("films", "whole_brain", "report")} == {"done"}
    assert steps["report"]["why"] == "made elsewhere: results/predictions is not here; data/brain is not here"
    assert "data/brain" not in "".join(
        step["why"] for step in steps.values() if step["state"] not in ("done", "kept back")
    )
    assert _stages_run(_dvc(clone, "repro", "--allow-missing")) == ["inputs"]
    said = "2 kept back by their owner"
    assert said in _cinecube("plan", "--study", str(clone))
    left = json.loads(_cinecube("plan", "--todo", "--study", str(clone), "--json"))
    assert left == [step for step in steps.values() if step["state"] not in ("done", "kept back")]
    lines = _cinecube("plan", "--todo", "--study", str(clone)).splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == [step["dvc_stage"] for step in left]
    assert lines[-1] == _cinecube("plan", "--study", str(clone)).splitlines()[-1]
    why = _cinecube("why", "data/brain/sub-01.zarr", "--study", str(clone))
    assert "its owner did not publish it" in why


def test_pull_leaves_its_own_lines_at_a_terminal(clone: Path) -> None:
    """DVC's bars leave one each, which is empty where they had nothing to do."""
    command = [str(Path(sys.executable).with_name("cinecube")), "pull"]
    for said in (r"[1-9]\d* files fetched", "0 files fetched"):
        with Terminal(command, clone, 200) as terminal:
            assert terminal.end() == 0
            shown = terminal.screen
        assert re.fullmatch(said, shown[0])
        assert shown[1].startswith("not published, ")
        assert shown[-1].startswith("stages that read them ")
        assert all(shown)
    assert subprocess.run(["dvc", "remote", "remove", "store"], cwd=clone, check=True, env=dvc_environment())
    assert "0 files fetched; this study has no remote: `dvc remote add -d NAME" in _cinecube(
        "pull", "--study", str(clone)
    )


def test_what_the_remote_should_have_and_has_not_is_an_error(clone: Path, published: Path) -> None:
    lock = (clone / "dvc.lock").read_text()
    oid = re.search(r"path: results/scores/vit.zarr\s+hash: md5\s+md5: (\w+).dir", lock)
    assert oid is not None
    place = published.parent / "remote/files/md5" / oid[1][:2] / f"{oid[1][2:]}.dir"
    place.rename(place.with_suffix(".gone"))
    try:
        done = CliRunner().invoke(main, ["pull", "--study", str(clone)])
    finally:
        place.with_suffix(".gone").rename(place)
    assert done.exit_code == 1
    assert re.search(r"results/scores/vit.zarr: found no object \w+.dir in the cache .* or remote 'store'", done.stderr)
    assert "ask the owner of the study to run `dvc push` there" in done.stderr
    assert (clone / "data/films.csv").is_file()


def test_kept_cubes_are_called_so_wherever_they_are_asked_for(clone: Path, published: Path) -> None:
    unpublished = r"data/brain/sub-01.zarr.*: found an output that was not published"
    with pytest.raises(cc.StudyError, match=unpublished):
        cc.open(str(published)).brain("sub-01")
    _cinecube("pull", "--study", str(clone))
    with chdir(clone), pytest.raises(cc.StudyError, match=unpublished):
        cc.open(".").brain("sub-01")
    encode = CliRunner().invoke(main, ["ceiling", "--study", str(clone)])
    assert encode.exit_code == 1
    assert re.search(unpublished, encode.stderr)
    listed = CliRunner().invoke(main, ["ls", str(published)])
    assert listed.exit_code == 0
    assert "data/features/vit/amber.zarr" in listed.stdout
    assert re.search(unpublished, listed.stderr)
    verified = CliRunner().invoke(main, ["verify", "data/features", "data/brain", "--study", str(clone)])
    assert verified.exit_code == 0, verified.output
    assert "not published by their owner, and not here: " in verified.stderr
    assert "cinecube pull" not in verified.stderr


def test_features_of_such_a_study_are_imported_like_any_other(published: Path, tmp_path: Path) -> None:
    scans = tmp_path / "mine" / "fmriprep"
    (scans / "sub-01").mkdir(parents=True)
    (scans / "sub-01" / "sub-01_task-a_desc-preproc_bold.json").write_text("{}")
    root = tmp_path / "mine"
    _cinecube("init", str(root), "--template", "reuse", "--from", str(published), "--scans", str(scans))
    _cinecube("import", str(published), "--model", "vit", "--study", str(root))
    assert _dvc(root, "repro").returncode != 0  # there is no such scan
    _refuse_private(root)
    taken = _for_git(root)
    assert {f"data/features/vit/{film}.zarr.dvc" for film in ("amber", "birch", "dune")} <= taken


def test_films_and_scans_in_a_study_of_ones_own(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    for film in ("amber", "dune"):
        (root / "my films" / film).mkdir(parents=True)
        (root / "my films" / film / f"{film}01.mp4").write_text("no film")
        (root / "my films" / film / "notes.txt").write_text("of the film")
    (root / "derivatives" / "sub-01").mkdir(parents=True)
    (root / "derivatives" / "sub-01" / "sub-01.json").write_text("{}")
    (root / "derivatives" / "who.json").write_text("{}")
    words = ["--stimuli", str(root / "my films"), "--scans", str(root / "derivatives")]
    _cinecube("init", str(root), "--template", "own", *words)
    assert _dvc(root, "repro").returncode != 0
    _refuse_private(root)
    # Later the study is changed to read from elsewhere: the first thing that `dvc repro` does is to see to it.
    (root / "derivatives").rename(root / "more")
    text = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(text.replace('path: "derivatives"', 'path: "more"'))
    assert "more" in (root / "params.yaml").read_text()
    assert _dvc(root, "repro").returncode != 0
    _refuse_private(root)
