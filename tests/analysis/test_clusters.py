"""Clusters that are not there, fall silent, or end: one line, within a bounded time, and finished blocks are kept."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from distributed import get_worker

from cinecube.analysis.encoders.stage import encode
from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import open_cube
from cinecube.store.jobs import clusters, watch
from cinecube.store.jobs.clusters import open_client
from cinecube.store.jobs.tasks import run_jobs
from cinecube.store.params.run_params import ClusterAddress, Gpus, JobQueue

from .batch import Batch, open_batch
from .conftest import MODEL, make_study

pytestmark = pytest.mark.filterwarnings("ignore")
OPTIONS = {"cores": 1, "memory": "1GB", "processes": 1, "interface": "lo"}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "_CONNECT_S", 1)
    monkeypatch.setattr(watch, "LOOK_S", 0.2)
    monkeypatch.setattr(watch, "GRACE_S", 0.6)


@pytest.fixture
def batch(tmp_path: Path) -> Iterator[Batch]:
    with open_batch(tmp_path / "batch") as made:
        yield made


class _Quiet(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _talks(first: bytes, answer: bytes = b"", *, closes: bool = False) -> str:
    """A server that says something when it is called, and answers whatever it hears."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(client: socket.socket) -> None:
        with suppress(OSError), client:
            client.sendall(first)
            while not closes and client.recv(65536):
                client.sendall(answer)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return f"tcp://127.0.0.1:{listener.getsockname()[1]}"


def _http() -> str:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"127.0.0.1:{server.server_port}"


ADDRESSES: dict[str, Callable[[], str]] = {
    "nobody": lambda: "tcp://127.0.0.1:1",
    "no such machine": lambda: "tcp://nowhere.invalid:8786",
    "HTTP": _http,
    "HTTP's own address": lambda: f"http://{_http()}",
    "SSH": lambda: _talks(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "mail": lambda: _talks(b"220 mail.example.org ESMTP\r\n", b"500 unknown\r\n"),
    "a database": lambda: _talks(b"J\0\0\0\x0a8.0.36\0" + bytes(70)),
    "never answers": lambda: _talks(b""),
    "hangs up": lambda: _talks(b"", closes=True),
    "echo": lambda: _talks(b"", b"\1" * 64),
    "zeros": lambda: _talks(bytes(64), bytes(64)),
    "ones": lambda: _talks(b"\xff" * 64),
    "no port": lambda: "127.0.0.1",
    "a word for a port": lambda: "tcp://127.0.0.1:dask",
    "a port too high": lambda: "tcp://127.0.0.1:70000",
    "TLS without certificates": lambda: "tls://127.0.0.1:1",
    "another scheme": lambda: "slurm://127.0.0.1:1",
    "a file": lambda: "/home/me/scheduler.json",
    "nothing": lambda: "",
}


@pytest.mark.parametrize("who", ADDRESSES)
def test_whoever_listens_there_is_no_scheduler(who: str, tmp_path: Path) -> None:
    began_s = time.monotonic()
    with pytest.raises(StudyError, match="found no scheduler") as told, open_client(_at(ADDRESSES[who]()), 1, tmp_path):
        pass
    assert time.monotonic() - began_s < 6
    assert "memory" not in str(told.value)  # of this machine: another server's bytes are read as sizes
    assert "`dask scheduler`" in str(told.value)


def _at(address: str, **options: Any) -> ClusterAddress:
    return ClusterAddress(address=address, **options)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts Dask's programs, in a folder of their own."""
    running: list[subprocess.Popen[bytes]] = []

    def start(program: str, *words: str, **environ: str) -> subprocess.Popen[bytes]:
        log = (tmp_path / f"{program}{len(running)}.log").open("wb")
        command = [sys.executable, "-m", f"distributed.cli.dask_{program}", *words]
        env = {**os.environ, **environ}
        running.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path, env=env))
        log.close()
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.wait()


Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def scheduler(started: Start, tmp_path: Path) -> str:
    """The address of a scheduler without workers."""
    found = tmp_path / "scheduler.json"
    started("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(found))
    return _address_in(found)


def _address_in(file: Path) -> str:
    deadline = time.monotonic() + 60
    while not file.exists() or not file.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return str(json.loads(file.read_text())["address"])


def test_a_scheduler_without_workers(scheduler: str, tmp_path: Path) -> None:
    with (
        pytest.raises(StudyError, match="found no worker yet, in 1 s.*start some with `dask worker ADDRESS`"),
        open_client(_at(scheduler, patience_s=1), 1, tmp_path),
    ):
        pass


def test_the_address_of_a_worker(scheduler: str, started: Start, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    started("worker", scheduler, "--no-nanny", "--no-dashboard", "--worker-port", str(port), "--host", "127.0.0.1")
    with open_client(_at(scheduler), 1, tmp_path):  # it is there
        pass
    with (
        pytest.raises(StudyError, match="a Dask worker listens there"),
        open_client(_at(f"tcp://127.0.0.1:{port}"), 1, tmp_path),
    ):
        pass


@pytest.mark.parametrize("missing", ["cinecube", "himalaya"])
def test_workers_of_another_environment(scheduler: str, started: Start, tmp_path: Path, missing: str) -> None:
    """What a worker has is asked in words that need no package of ours there."""
    fake = tmp_path / "site"
    (fake / f"{missing}-0.0.1.dist-info").mkdir(parents=True)
    (fake / f"{missing}-0.0.1.dist-info" / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {missing}\nVersion: 0.0.1\n"
    )
    started("worker", scheduler, "--no-nanny", "--no-dashboard", PYTHONPATH=str(fake))
    with (
        pytest.raises(StudyError, match=f"a worker on .* with {missing} 0.0.1, expected {missing} .*, as here"),
        open_client(_at(scheduler), 1, tmp_path),
    ):
        pass


def test_workers_that_do_not_see_the_study(scheduler: str, started: Start, tmp_path: Path, monkeypatch: Any) -> None:
    started("worker", scheduler, "--no-nanny", "--no-dashboard")
    with monkeypatch.context() as patch:
        _find_only_here(patch, tmp_path / "study")
        told = pytest.raises(StudyError, match="does not see .*/study, expected the study at the same path")
        with told, open_client(_at(scheduler), 1, tmp_path / "study"):
            pass
    (tmp_path / "study").mkdir()
    with open_client(_at(scheduler), 1, tmp_path / "study"):
        pass


def _find_only_here(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """A folder that this process alone finds, as on a disk that workers have not mounted."""
    exists = Path.exists
    patch.setattr(Path, "exists", lambda path: path.is_relative_to(folder) or exists(path))


def test_a_worker_elsewhere_reads_a_study_that_was_named_from_here(
    scheduler: str, started: Start, synthetic: Callable[..., Path], scored: Callable[..., xr.Dataset], tmp_path: Path
) -> None:
    """`cinecube encode` stands in the study; workers do not."""
    root = _fresh(synthetic, tmp_path)
    started("worker", scheduler, "--no-nanny", "--no-dashboard")
    with chdir(root):
        encode(make_study().model_copy(update={"dask": _at(scheduler)}), Path(), MODEL)
    np.testing.assert_array_equal(open_cube(StudyPaths(root).scores(MODEL))["score"], scored()["score"])


def _fresh(synthetic: Callable[..., Path], tmp_path: Path) -> Path:
    root = shutil.copytree(synthetic(), tmp_path / "own study")
    shutil.rmtree(root / "results", ignore_errors=True)
    (root / "params.yaml").touch()
    return root


def _queue(**options: Any) -> JobQueue:
    return JobQueue(jobqueue="SLURMCluster", options=OPTIONS, **options)


def twice(number: int) -> int:
    time.sleep(0.02)
    return 2 * number


def _jobs(count: int) -> Iterator[tuple[int, tuple[int]]]:
    return ((key, (key,)) for key in range(count))


def test_jobs_write_nothing_into_the_study(batch: Batch, tmp_path: Path) -> None:
    root = tmp_path / "study"
    root.mkdir()
    (root / "params.yaml").touch()
    with chdir(root), open_client(_queue(jobs=2), 1, root) as client:
        assert dict(run_jobs(client, twice, _jobs(30), 1)) == {key: 2 * key for key in range(30)}
    assert sorted(path.name for path in root.iterdir()) == [".cinecube", "params.yaml"]
    assert list((root / ".cinecube/jobs").glob("dask-worker-*"))
    assert sorted(batch.cancelled) == ["1", "2"]
    script = (batch.folder / "1.sh").read_text()
    assert "--dashboard-address 127.0.0.1:0" in script
    assert "--no-dashboard" in script


def twice_and_where(number: int) -> tuple[int, str]:
    return twice(number), str(get_worker().local_directory)


@pytest.mark.parametrize("kind", ["jobs", "local", "gpus"])
def test_workers_leave_nothing_outside_the_study_nor_in_it(
    batch: Batch, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dask's own folder for what does not fit into memory is below the temp folder, with locks that stay."""
    outside, root = tmp_path / "tmp", tmp_path / "a study"
    monkeypatch.setenv("TMPDIR", str(outside))
    monkeypatch.setattr(tempfile, "tempdir", str(outside))
    outside.mkdir()
    root.mkdir()
    (root / ".cinecube/scratch/workers.left/dask-scratch-space").mkdir(parents=True)  # by one that was killed
    where = {"jobs": _queue(), "local": "local", "gpus": Gpus(gpus=[0])}[kind]
    with open_client(where, 1, root) as client:  # type: ignore[arg-type]
        used = {place for _, (_, place) in run_jobs(client, twice_and_where, _jobs(3), 1)}
    assert all(Path(place).is_relative_to(root / ".cinecube") for place in used)
    assert {path.parent.name for path in (root / ".cinecube").rglob("*") if path.is_file()} <= {"jobs"}
    assert not list((root / ".cinecube/scratch").iterdir())
    assert not [path for path in outside.rglob("*") if path.is_file()]


def test_a_study_may_name_another_scratch(batch: Batch, tmp_path: Path) -> None:
    """Of a node, which the batch system empties; the shell there knows its name."""
    options = {**OPTIONS, "local_directory": "$PWD/node"}
    with chdir(tmp_path), open_client(JobQueue(jobqueue="SLURMCluster", options=options), 1, tmp_path) as client:
        (place,) = {place for _, (_, place) in run_jobs(client, twice_and_where, _jobs(1), 1)}
    assert Path(place).is_relative_to(tmp_path / "node")
    other = tmp_path / "elsewhere"
    with dask.config.set({"temporary-directory": str(other)}), open_client("local", 1, tmp_path) as client:
        (place,) = {place for _, (_, place) in run_jobs(client, twice_and_where, _jobs(1), 1)}
    assert Path(place).is_relative_to(other)


@pytest.mark.parametrize("named", [{}, {"interface": "lo"}, {"security": True}])
def test_a_scheduler_that_any_network_reaches_is_told(
    batch: Batch, named: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"cores": 1, "memory": "1GB", "shared_temp_directory": str(tmp_path), **named}
    with open_client(JobQueue(jobqueue="SLURMCluster", options=options), 1, tmp_path) as client:
        listening = client.run_on_scheduler(
            lambda dask_scheduler: [one.listen_address for one in dask_scheduler.listeners]
        )
    told = [record.getMessage() for record in caplog.records if "every network" in record.getMessage()]
    if named:
        assert told == []
        return
    (line,) = told
    assert "interface:" in line and "security: true" in line  # noqa: PT018
    assert all(address.startswith("tcp://0.0.0.0:") and address.rpartition(":")[2] in line for address in listening)


def test_pages_are_for_this_machine_alone(batch: Batch, tmp_path: Path) -> None:
    with open_client(_queue(), 1, tmp_path) as client:
        listening = client.run_on_scheduler(_listening)
        pages = [host for host, _ in client.run(_listening).popitem()[1]]
    assert [host for host, _ in listening] == ["127.0.0.1"]
    assert pages == ["127.0.0.1"]


def test_each_gpu_has_a_process_that_sees_it_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    with open_client(Gpus(gpus="all"), 1, tmp_path) as client:
        assert sorted(client.run(os.getenv, "CUDA_VISIBLE_DEVICES").values()) == ["3", "5"]
        assert {host for host, _ in client.run_on_scheduler(_listening)} == {"127.0.0.1"}
    with open_client(Gpus(gpus=[1]), 1, tmp_path) as client:
        assert list(client.run(os.getenv, "CUDA_VISIBLE_DEVICES").values()) == ["1"]


def test_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(StudyError, match="no GPU"), open_client(Gpus(gpus="all"), 1, tmp_path):
        pass


def _listening(dask_scheduler: Any = None, dask_worker: Any = None) -> list[tuple[str, int]]:
    """Where pages are served: host and port."""
    server = (dask_scheduler or dask_worker).http_server
    return [listener.getsockname()[:2] for listener in server._sockets.values()]


@pytest.mark.parametrize(
    ("name", "command"), [("PBSCluster", "qsub"), ("LSFCluster", "bsub"), ("OARCluster", "oarsub")]
)
def test_a_command_that_is_not_here(name: str, command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(StudyError, match=f"found no command `{command}` on this machine.*login node"),
        open_client(JobQueue(jobqueue=name, options=OPTIONS), 1, tmp_path),
    ):
        pass


def test_dask_jobqueue_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with (
        pytest.raises(StudyError, match=r"found no dask-jobqueue.*pip install 'cinecube\[cluster\]'"),
        open_client(_queue(), 1, tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cores": 1}, "You must specify how much cores and memory"),
        ({**OPTIONS, "interface": "eth77"}, "'eth77' is not a valid network interface"),
        ({**OPTIONS, "wall_time": "1:00"}, "unexpected keyword argument 'wall_time'"),
    ],
)
def test_options_that_the_class_refuses(batch: Batch, options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with (
        pytest.raises(StudyError, match=f"dask.options: found options that SLURMCluster refuses .*{said}"),
        open_client(JobQueue(jobqueue="SLURMCluster", options=options), 1, tmp_path),
    ):
        pass
    assert batch.jobs == 0


def test_a_job_that_is_refused(batch: Batch, tmp_path: Path) -> None:
    batch.mode("refuse")
    with (
        pytest.raises(StudyError, match="refuses the job .sbatch: error: invalid partition specified: nosuch"),
        open_client(_queue(jobs=2), 1, tmp_path),
    ):
        pass


def test_jobs_that_never_start(batch: Batch, tmp_path: Path) -> None:
    batch.mode("hold")
    (tmp_path / "params.yaml").touch()
    nobody = pytest.raises(StudyError, match="found no worker yet, of 3 jobs asked for, in 1 s")
    with nobody as told, open_client(_queue(jobs=3, patience_s=1), 1, tmp_path):
        pass
    for part in ("ask `squeue` why (jobs 1, 2, 3)", ".cinecube/jobs", "dask.patience_s"):
        assert part in str(told.value)
    assert sorted(batch.cancelled) == ["1", "2", "3"]


@pytest.mark.long
def test_when_all_jobs_have_ended_new_ones_go_on(
    batch: Batch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    found = {}
    with caplog.at_level("INFO", "cinecube"), open_client(_queue(jobs=2, patience_s=60), 1, tmp_path) as client:
        for key, value in run_jobs(client, twice, _jobs(200), 1):
            found[key] = value
            if len(found) == 20:
                batch.kill()
    assert found == {key: 2 * key for key in range(200)}
    assert batch.jobs >= 3
    assert "jobs ended, asking for as many new ones" in caplog.text


def slowly(number: int) -> int:
    time.sleep(30)
    return number


@pytest.mark.long
def test_jobs_that_end_again_and_again(tmp_path: Path) -> None:
    with open_batch(tmp_path / "batch", seconds=4) as batch:
        batch.mode("short")
        with pytest.raises(StudyError) as told, open_client(_queue(patience_s=60), 1, tmp_path) as client:
            list(run_jobs(client, slowly, _jobs(3), 1))
        assert batch.jobs <= 5
    line = str(told.value)
    assert "without finishing a block" in line or "KilledWorker" in line
    assert "encode.targets_per_block or run.block_rows" in line


def test_the_last_words_of_jobs_are_told(tmp_path: Path) -> None:
    """SLURM's own, of a job that reached its walltime."""
    jobs = watch.Jobs(None, 1, "sbatch", str(tmp_path), [])
    assert jobs.last_words() == ""
    (tmp_path / "dask-worker-7.err").write_text("a worker began\nJOB 7 CANCELLED DUE TO TIME LIMIT\n\n")
    (tmp_path / "dask-worker-7.out").write_text("\n")
    assert jobs.last_words() == " (the last said: JOB 7 CANCELLED DUE TO TIME LIMIT)"


def test_waiting_is_told_again_and_again(
    batch: Batch, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_FIRST_TOLD_S", 0.2)
    batch.mode("hold")
    (tmp_path / "params.yaml").touch()
    waits = pytest.raises(StudyError, match="found no worker yet")
    with caplog.at_level("INFO", "cinecube"), waits, open_client(_queue(jobs=3, patience_s=2), 1, tmp_path):
        pass
    lines = [line for line in caplog.messages if "waiting" in line]
    assert len(lines) >= 2
    assert all("0 of 3 workers, waiting 0:00:0" in line and "for at most 0:00:02" in line for line in lines)


def test_jobs_that_end_and_none_that_follow(
    batch: Batch, synthetic: Callable[..., Path], scored: Callable[..., xr.Dataset], tmp_path: Path
) -> None:
    """Today's worst: all jobs of a batch system ended. What is finished stays in the journal."""
    root = _fresh(synthetic, tmp_path)

    def end(done: int, total: int) -> None:
        if done == 5:
            batch.mode("hold")
            batch.kill()

    far = make_study().model_copy(update={"dask": _queue(patience_s=3)})
    with pytest.raises(StudyError, match="found no worker any more, of 1 jobs asked for, in 3 s"):
        encode(far, root, MODEL, progress=end)
    seen: list[tuple[int, int]] = []
    encode(make_study(), root, MODEL, progress=lambda done, total: seen.append((done, total)))
    assert seen[0][0] >= 5
    np.testing.assert_array_equal(open_cube(StudyPaths(root).scores(MODEL))["score"], scored()["score"])
