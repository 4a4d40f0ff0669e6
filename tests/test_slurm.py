"""Extraction and encoding on a real SLURM, whose jobs are cancelled, reach their walltime, or lose their client."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import Folder, dvc_environment, tree_digest
from tests.slurm import ask, slurm, wait_for_no_jobs, why_not

from cinecube.store.cube.cubes import open_cube

if os.geteuid() != 0:
    pytest.skip("slurmd wants root", allow_module_level=True)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=f"no SLURM can start here: {why_not()}")]

MODELS = ["vit", "wav2vec2"]
SCORES = "results/scores/vit.zarr"
OPTIONS = {"cores": 1, "processes": 1, "memory": "1GB", "interface": "lo"}


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with slurm(tmp_path_factory.mktemp("slurm")) as environ:
        yield environ


def _on_slurm(folder: Folder, walltime: str = "01:00:00") -> None:
    jobs = {"jobqueue": "SLURMCluster", "jobs": 2, "patience_s": 240, "options": {**OPTIONS, "walltime": walltime}}

    def change(params: dict[str, Any]) -> None:
        params["dask"] = jobs
        params["compute"]["models"] = MODELS
        params["run"]["block_rows"] = 8

    folder.change(change)


def _start(folder: Folder, queue: dict[str, str], *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("cinecube")), *words],
        cwd=folder.root,
        env={**dvc_environment(), **queue, "TMPDIR": str(_outside(folder))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _ended(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    return output


def _wait_for(process: subprocess.Popen[str], is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not is_so():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _blocks(folder: Folder) -> int:
    return sum(1 for _ in (folder.root / ".cinecube/journal").rglob("*.npy"))


def _outside(folder: Folder) -> Path:
    """The temp folder of the client and of its jobs."""
    place = folder.root.with_name("tmp")
    place.mkdir(exist_ok=True)
    return place


def _files(folder: Folder) -> set[str]:
    """What Git would see, nothing below `.cinecube` or `data`; scratch of workers; and what is left outside."""
    found = (path.relative_to(folder.root) for path in folder.root.rglob("*") if path.is_file())
    inside = {str(path) for path in found if path.parts[0] not in (".cinecube", "data", "results")}
    scratch = {str(path) for path in (folder.root / ".cinecube/scratch").rglob("*") if path.is_file()}
    return inside | scratch | {str(path) for path in _outside(folder).rglob("*") if path.is_file()}


def _published(folder: Folder) -> dict[str, str]:
    films = folder.params()["compute"]["films"]
    for model in MODELS:
        for film in films:
            folder.must("features", model, film)
    return {model: tree_digest(folder.root / "data/features" / model) for model in MODELS}


@pytest.fixture
def expected(study: Folder) -> dict[str, str]:
    """Cubes of one process on this machine."""
    return {model: tree_digest(study.root / "data/features" / model) for model in MODELS}


@pytest.fixture
def begun(raw: Folder) -> Folder:
    """A study whose films and checkpoints are recorded."""
    raw.must("films")
    for model in MODELS:
        raw.must("checkpoint", model)
    return raw


def test_extraction_outlives_its_jobs_and_its_client(
    begun: Folder, queue: dict[str, str], expected: dict[str, str]
) -> None:
    """All jobs are cancelled, others take their place; then the client is killed, and its jobs end."""
    _on_slurm(begun)
    before = _files(begun)
    first = _start(begun, queue, "extract")
    _wait_for(first, lambda: _blocks(begun) >= 2)
    ask(queue, "scancel", "--signal=KILL", "--user", "root")
    kept = _blocks(begun)
    _wait_for(first, lambda: _blocks(begun) >= kept + 2)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    wait_for_no_jobs(queue)
    kept = _blocks(begun)
    output = _ended(_start(begun, queue, "extract"))
    assert "models computed" in output
    wait_for_no_jobs(queue)
    assert kept >= 4
    assert _files(begun) == before
    assert _published(begun) == expected


@pytest.mark.long
def test_jobs_that_reach_their_walltime(begun: Folder, queue: dict[str, str], expected: dict[str, str]) -> None:
    """A minute, in the middle of an extraction: SLURM ends the jobs, and others go on."""
    _on_slurm(begun, walltime="00:01:00")
    networks = [*MODELS, "videomae", "vivit", "ast", "imagebind", "tvlt"]  # more than two jobs extract in a minute
    begun.change(lambda params: params["models"]["vit"].update(frames_per_window="all"))
    begun.change(lambda params: params["compute"].update(models=networks))
    for network in networks:
        begun.must("checkpoint", network)
    output = _ended(_start(begun, queue, "extract"))
    wait_for_no_jobs(queue)
    assert "jobs ended, asking for as many new ones" in output
    assert _published(begun)["wav2vec2"] == expected["wav2vec2"]


def _encode_anew(folder: Folder, queue: dict[str, str], targets_per_block: int) -> subprocess.Popen[str]:
    """Start an encoder whose scores are there; they are kept beside."""
    path = folder.root / SCORES
    path.rename(Path(f"{path}.before"))
    folder.change(lambda params: params["encode"].update(targets_per_block=targets_per_block))
    return _start(folder, queue, "encode", "vit")


def _same_scores(folder: Folder) -> None:
    """Scores are those of this machine's own workers."""
    now, before = (open_cube(folder.root / f"{SCORES}{end}")["score"] for end in ("", ".before"))
    np.testing.assert_allclose(now, before, atol=1e-5)


def test_encoding_outlives_its_jobs_and_its_client(scratch: Folder, queue: dict[str, str]) -> None:
    """All jobs are put back into the queue, as where others go first; then the client is killed, and its jobs end."""
    _on_slurm(scratch)
    before = _files(scratch)
    first = _encode_anew(scratch, queue, targets_per_block=20)
    _wait_for(first, lambda: _blocks(scratch) >= 1)
    for job in ask(queue, "squeue", "-h", "-o", "%i").split():
        ask(queue, "scontrol", "requeue", job)
    kept = _blocks(scratch)
    _wait_for(first, lambda: _blocks(scratch) > kept)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    wait_for_no_jobs(queue)
    kept = _blocks(scratch)
    _ended(_start(scratch, queue, "encode", "vit"))
    wait_for_no_jobs(queue)
    assert kept >= 2
    assert _files(scratch) == before
    _same_scores(scratch)


@pytest.mark.long
def test_encoding_outlives_the_walltime_of_its_jobs(scratch: Folder, queue: dict[str, str]) -> None:
    """A minute, in the middle of an encoder whose blocks are so small that it takes several."""
    _on_slurm(scratch, walltime="00:01:00")
    output = _ended(_encode_anew(scratch, queue, targets_per_block=8))
    wait_for_no_jobs(queue)
    assert "jobs ended, asking for as many new ones" in output
    _same_scores(scratch)
