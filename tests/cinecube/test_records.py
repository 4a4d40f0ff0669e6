"""What DVC knows of films and scans: records of the files that are read, by the real `dvc`, in a DataLad clone."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.conftest import Folder, dvc
from tests.lab import make_lab
from tests.store.scan_tree import SPACE

from cinecube.cli import main
from cinecube.simulation.features.checkpoints import write_checkpoint

FILMS = {"amber": ["amber01"], "birch": ["birch01", "birch02"]}
SCANS = "fmriprep/sub-01/func"


def _annex(path: Path) -> Path:
    """Put a file into an annex, with a link in its place; returns where its bytes are."""
    key = f"MD5E-s{path.stat().st_size}--{hashlib.md5(path.read_bytes()).hexdigest()}{''.join(path.suffixes[-2:])}"
    place = path.parent / ".git/annex/objects" / key / key
    place.parent.mkdir(parents=True, exist_ok=True)
    path.replace(place)
    path.symlink_to(os.path.relpath(place, path.parent))
    return place


def _drop(place: Path) -> None:
    place.rename(place.with_name("away"))


@pytest.fixture
def clone(tmp_path: Path) -> Folder:
    """A study of a data set that was cloned: needed files are links to what was fetched, others dangle."""
    make_lab(tmp_path, FILMS, ["sub-01"], picture=False)
    for path in [*(tmp_path / "films").rglob("*.wav"), *(tmp_path / SCANS).glob("*.nii.gz")]:
        _annex(path)
    for bold in list((tmp_path / SCANS).glob("*_bold.nii.gz")):
        (bold.with_name(bold.name.replace(SPACE, "T1w"))).symlink_to("../.git/annex/objects/MD5E-s9--0/MD5E-s9--0")
    (tmp_path / "films/amber/amber02.wav").write_text("/annex/objects/MD5E-s123456--" + "0" * 32 + ".wav\n")
    words = ["--stimuli", tmp_path / "films", "--scans", tmp_path / "fmriprep", "--atlas", tmp_path / "atlas.nii.gz"]
    done = CliRunner().invoke(main, ["init", str(tmp_path / "study"), "--template", "own", *map(str, words)])
    assert done.exit_code == 0, done.output
    assert "amber, which is made without: found a file that was not fetched (0.12 MB): amber02.wav" in done.stderr
    folder = Folder(tmp_path / "study")
    assert folder.params()["films"] == FILMS
    folder.change(
        lambda params: params.update(compute={"models": [], "films": []}) or params["brain"].update(confounds="none")
    )
    return folder


def _bold(folder: Folder, segment: str) -> Path:
    return (folder.root.parent / SCANS / f"sub-01_task-{segment}_space-{SPACE}_desc-preproc_bold.nii.gz").resolve()


def test_a_clone_runs_with_what_was_fetched(clone: Folder) -> None:
    dvc(clone.root, "repro", "brain", "films")
    record = json.loads((clone.root / "data/inputs/scans/sub-01.json").read_text())
    assert all("T1w" not in name for name in record)
    assert f"md5:{_bold(clone, 'amber01').name.split('--')[1].split('.')[0]}" in record.values()
    assert "\nbrain" not in dvc(clone.root, "status")
    ran = [line for line in dvc(clone.root, "repro", "brain").splitlines() if line.startswith("Running stage")]
    assert ran == ["Running stage 'inputs':"]
    # What is made of them is there: nothing is needed again, wherever the files have gone.
    for segment in ("amber01", "birch01"):
        _drop(_bold(clone, segment))
    assert "didn't change" in dvc(clone.root, "repro", "brain")
    shutil.move(clone.root.parent / "fmriprep", clone.root.parent / "gone")
    shutil.move(clone.root.parent / "films", clone.root.parent / "gone_too")
    ran = [line for line in dvc(clone.root, "repro", "brain", "films").splitlines() if line.startswith("Running stage")]
    assert ran == ["Running stage 'inputs':"]


def test_what_moved_is_read_by_nobody_again(clone: Folder) -> None:
    """Extraction takes days, and a folder of films finds another disk."""
    write_checkpoint(0, "wav2vec2", clone.root / "weights/net")
    net = {"extractor": "wav2vec2", "checkpoint": "weights/net"}
    clone.change(lambda params: params.update(models={"net": net}, compute={"models": ["net"], "films": ["amber"]}))
    clone.change(lambda params: params.update(residual=[], partition=[], unimodal={"video": [], "audio": ["net"]}))
    clone.change(lambda params: params["statistics"].update(compare=[]))
    assert {"features@net-amber", "brain@sub-01"} <= _ran(dvc(clone.root, "repro", "features", "brain"))
    here = clone.root.parent
    (here / "disk").mkdir()
    for name in ("films", "fmriprep"):
        shutil.move(here / name, here / "disk" / name)
    clone.change(lambda params: params.update(stimuli=str(here / "disk/films")))
    clone.change(lambda params: params["brain"].update(path=str(here / "disk/fmriprep")))
    assert _ran(dvc(clone.root, "repro", "features", "brain")) == {"inputs", "films"}


def _ran(said: str) -> set[str]:
    return set(re.findall("^Running stage '(.+)':$", said, re.MULTILINE))


def test_what_is_missing_is_named_before_anything_runs(clone: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clone.root)
    _drop(_bold(clone, "amber01"))
    _drop((clone.root.parent / "films/birch/birch02.wav").resolve())
    line = clone.error("inputs")
    assert "films and scans: found 2 files that were not fetched" in line
    assert "run `datalad get ../films/birch/birch02.wav ../fmriprep/sub-01/func/sub-01_task-amber01_space-" in line
    planned = clone.must("plan")
    assert planned.stderr.strip() == line.removeprefix("Error: ")


def test_a_film_or_a_scan_that_changed_is_told_by_plan_and_run_again(clone: Folder) -> None:
    dvc(clone.root, "repro", "brain", "films")
    _bold(clone, "birch02")  # the annex's own file is never written into: a new version is a new key
    link = clone.root.parent / SCANS / f"sub-01_task-birch02_space-{SPACE}_desc-preproc_bold.nii.gz"
    new = _bold(clone, "birch01").read_bytes()
    link.unlink()
    link.write_bytes(new)
    steps = {step["stage"]: step for step in json.loads(clone.must("plan", "--json").stdout)}
    assert (steps["films"]["state"], steps["brain@sub-01"]["state"]) == ("done", "stale")
    assert "sub-01 in data/inputs changed" in steps["brain@sub-01"]["why"]
    ran = [line for line in dvc(clone.root, "repro", "brain", "films").splitlines() if line.startswith("Running stage")]
    assert ran == ["Running stage 'inputs':", "Running stage 'brain@sub-01':"]


def test_one_scan_under_two_names_is_told(clone: Folder) -> None:
    one, other = (
        clone.root.parent / SCANS / f"sub-01_task-{segment}_space-{SPACE}_desc-preproc_bold.nii.gz"
        for segment in ("birch01", "birch02")
    )
    other.unlink()
    other.symlink_to(os.readlink(one))
    assert f"{other.name} is the same scan as sub-01/func/{one.name}, byte by byte" in clone.must("inputs").stderr


def test_scans_that_are_not_there_are_told_before_anything_runs(clone: Folder) -> None:
    shutil.move(clone.root.parent / "fmriprep", clone.root.parent / "gone")
    told = clone.must("inputs").stderr
    assert told == "../fmriprep, the folder of scans, is not there: the stage brain will fail for sub-01\n"
