"""What dies while encoders are fitted: a worker, or everything."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from cinecube.analysis import encoders
from cinecube.analysis.encoders.problem import read_problem
from cinecube.analysis.encoders.stage import encode, score_model
from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import open_cube
from cinecube.store.cube.heads import stored_spec
from cinecube.store.jobs.clusters import open_client
from cinecube.store.params.run_params import ClusterAddress

from .conftest import MODEL, make_study

SCORES = ("score", "cv_score", "alpha", "lag_score")
Scored = Callable[..., xr.Dataset]
Synthetic = Callable[..., Path]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("solver", ["shared", pytest.param("himalaya", marks=pytest.mark.long)])
def test_a_worker_that_dies_is_replaced_and_its_blocks_are_run_again(
    solver: str, scored: Scored, synthetic: Synthetic
) -> None:
    study, root = make_study(), synthetic()
    study = study.model_copy(update={"encode": study.encode.model_copy(update={"solver": solver})})
    killed: list[int] = []
    with open_client("local", 2, root) as client:

        def kill(done: int, total: int) -> None:
            if done == 3 and not killed:
                killed.extend(list(client.run(os.getpid).values())[:1])
                os.kill(killed[0], signal.SIGKILL)

        cube = score_model(study, read_problem(study, root, MODEL), client, kill)
        assert killed[0] not in client.run(os.getpid).values()
    expected = score_model(study, read_problem(study, root, MODEL)) if solver == "himalaya" else scored()
    for name in SCORES:
        np.testing.assert_array_equal(cube[name], expected[name])


def test_blocks_of_a_killed_run_are_not_computed_twice(scored: Scored, synthetic: Synthetic, tmp_path: Path) -> None:
    root = shutil.copytree(synthetic(), tmp_path / "study")
    shutil.rmtree(root / "results", ignore_errors=True)
    journals = StudyPaths(root).journals
    # Its fits are slowed down, so that the kill falls between two blocks.
    script = tmp_path / "run.py"
    script.write_text(
        "import sys, time\n"
        "from pathlib import Path\n"
        "from cinecube.analysis.encoders import encoding, stage\n"
        "from cinecube.store.params.document import Study\n"
        "solve = encoding.solve_block\n"
        "def slowly(*arguments):\n"
        "    time.sleep(0.3)\n"
        "    return solve(*arguments)\n"
        "encoding.solve_block = slowly\n"
        "study = Study.model_validate_json(Path(sys.argv[1]).read_text())\n"
        f"stage.encode(study, Path(sys.argv[2]), {MODEL!r})\n"
    )
    (tmp_path / "study.json").write_text(make_study().model_dump_json())
    run = subprocess.Popen([sys.executable, str(script), str(tmp_path / "study.json"), str(root)])
    deadline = time.monotonic() + 60
    while len(list(journals.rglob("*.npy"))) < 5 and time.monotonic() < deadline and run.poll() is None:
        time.sleep(0.02)
    run.kill()
    run.wait()
    kept = len(list(journals.rglob("*.npy")))
    assert 5 <= kept < 26
    assert not StudyPaths(root).scores(MODEL).exists()
    seen: list[tuple[int, int]] = []
    encode(make_study(), root, MODEL, progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (kept, 26)
    assert len(seen) == 26 - kept + 1
    cube = open_cube(StudyPaths(root).scores(MODEL))
    for name in SCORES:
        np.testing.assert_array_equal(cube[name], scored()[name])
    assert not list(journals.rglob("*.npy"))


@pytest.mark.parametrize("raised", ["encoders", "ridge"])
def test_a_raised_version_keeps_no_block_of_a_stopped_run(
    raised: str, synthetic: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = shutil.copytree(synthetic(), tmp_path / "study")
    shutil.rmtree(root / "results", ignore_errors=True)

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        encode(make_study(), root, MODEL, progress=stop)
    assert len(list(StudyPaths(root).journals.rglob("*.npy"))) >= 5
    monkeypatch.setitem(encoders.VERSIONS, raised, 2)
    seen: list[int] = []
    encode(make_study(), root, MODEL, progress=lambda done, total: seen.append(done))
    assert seen[0] == 0
    assert stored_spec(StudyPaths(root).scores(MODEL))["version"][raised] == 2


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A scheduler with two workers, as processes of their own, and its address."""
    found = tmp_path / "scheduler.json"
    words = ["--scheduler-file", str(found), "--no-dashboard"]
    run = [sys.executable, "-m"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    first = subprocess.Popen([*run, "distributed.cli.dask_scheduler", "--port", "0", *words], **quiet)
    worker = [*run, "distributed.cli.dask_worker", "--nthreads", "1", "--no-nanny", *words]
    started = [first, *(subprocess.Popen(worker, **quiet) for _ in range(2))]
    deadline = time.monotonic() + 60
    while not found.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    yield first, json.loads(found.read_text())["address"]
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.filterwarnings("ignore")
def test_a_scheduler_that_dies_is_told_in_a_line_and_loses_no_block(
    scored: Scored, synthetic: Synthetic, tmp_path: Path, scheduler: tuple[subprocess.Popen[bytes], str]
) -> None:
    root = shutil.copytree(synthetic(), tmp_path / "study")
    shutil.rmtree(root / "results", ignore_errors=True)
    process, address = scheduler

    def kill(done: int, total: int) -> None:
        if done == 5:
            process.kill()

    far = make_study().model_copy(update={"dask": ClusterAddress(address=address)})
    with pytest.raises(StudyError, match="a lost scheduler or worker") as caught:
        encode(far, root, MODEL, progress=kill)
    assert len(str(caught.value).splitlines()) == 1
    seen: list[tuple[int, int]] = []
    encode(make_study(), root, MODEL, progress=lambda done, total: seen.append((done, total)))
    assert seen[0][0] >= 5
    np.testing.assert_array_equal(open_cube(StudyPaths(root).scores(MODEL))["score"], scored()["score"])
