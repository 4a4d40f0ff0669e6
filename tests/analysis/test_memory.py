"""What `plan` says of encoders: memory as a process takes it, within a quarter, and hours by their work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from distributed import Client, LocalCluster

from cinecube.analysis.encoders.stage import encode
from cinecube.cli import main
from cinecube.status.needs import work_of
from cinecube.status.plan import plan_study
from cinecube.status.timings import note, read_timings
from cinecube.store.jobs import tasks
from cinecube.store.params.document import load_study
from cinecube.store.params.run_params import ClusterAddress

from . import conftest

TARGETS, ROWS = 700, 100  # of a parcel, of a segment: three times the memory of an empty study
_PEAK = "int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells a process its peak"),
]


@pytest.fixture
def wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study of one model of others and one subject, whose responses are what takes memory."""
    for name, value in (("WIDTH", 32), ("N_BLOCKS", 1), ("TARGETS_PER_PARCEL", TARGETS)):
        monkeypatch.setattr(conftest, name, value)
    parcels = {name: planted and (0, planted[1]) for name, planted in conftest.PLANTED.items()}
    root = tmp_path / "study"
    conftest.write_study(root, conftest.Planted(rows=ROWS, parcels=parcels, subjects=("sub-01",)))
    params = {
        "study": "wide",
        "clock": {"tr_s": conftest.TR_S, "window_s": conftest.TR_S},
        "films": conftest.FILMS,
        "split": {"train": ["amber", "birch", "cedar"], "test": ["dune"], "gap_s": 4},
        "imported": [{"model": conftest.MODEL, "source": "there"}],
        "brain": {"path": "data/scans", "subjects": ["sub-01"]},
        "encode": {"targets_per_block": 4096, "alphas": {"min": 1, "max": 1e6, "n": 5}},
    }
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    assert CliRunner().invoke(main, ["films", "--study", str(root)]).exit_code == 0
    return root


def _change(root: Path, **sections: Any) -> None:
    params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    (root / "params.yaml").write_text(yaml.safe_dump({**params, **sections}, sort_keys=False), encoding="utf-8")


def _encoder(root: Path) -> dict[str, Any]:
    done = CliRunner().invoke(main, ["plan", "--study", str(root), "--json"])
    steps: dict[str, dict[str, Any]] = {step["stage"]: step for step in json.loads(done.stdout)}
    return steps[f"encode_imported@{conftest.MODEL}"]


def test_memory_of_threads_of_one_process(wide: Path) -> None:
    _change(wide, run={"threads": 1})
    step = _encoder(wide)
    code = f"import atexit, re, sys; from cinecube.cli import main; atexit.register(lambda: print({_PEAK})); main()"
    command = [sys.executable, "-c", code, "encode", conftest.MODEL]
    done = subprocess.run(command, cwd=wide, capture_output=True, text=True, check=True)
    (timing,) = [one for one in read_timings(wide) if one.kind == "encode"]
    assert timing.work == work_of(load_study(wide), wide, "encode", conftest.MODEL) > 1
    assert step["workers"] == 1
    assert step["memory_bytes"] == pytest.approx(1024 * int(done.stdout.splitlines()[-1]), rel=0.25)


def test_memory_of_a_worker(wide: Path) -> None:
    """A process that is given tasks, one after another; the cores of this machine are nothing to it."""
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        _change(wide, dask={"address": cluster.scheduler_address})
        step = _encoder(wide)
        study = load_study(wide)
        assert isinstance(study.dask, ClusterAddress)
        encode(study, wide, conftest.MODEL)
        (peak,) = client.run(_peak_bytes).values()
    assert step["memory_bytes"] == pytest.approx(peak, rel=0.25)


def _peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])


def _jobs(count: int, cores: int, processes: int) -> dict[str, Any]:
    return {"jobqueue": "SLURMCluster", "jobs": count, "options": {"cores": cores, "processes": processes}}


WORKERS: dict[str, tuple[Any, int, int]] = {
    "threads of this machine": ("local", 1, 4),
    "jobs": (_jobs(50, 1, 1), 50, 1),
    "jobs of several threads": (_jobs(2, 4, 1), 2, 4),
    "jobs of several processes": (_jobs(2, 4, 4), 8, 1),
    "GPUs": ({"gpus": "all"}, 3, 1),
    "a GPU": ({"gpus": [1]}, 1, 1),
    "a scheduler": ({"address": "tcp://127.0.0.1:9"}, 1, 1),
}


@pytest.mark.parametrize("name", WORKERS)
def test_memory_is_that_of_a_process_of_the_workers_named(
    name: str, wide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task takes the same everywhere: what differs is how many one process has at once."""
    dask, processes, at_once = WORKERS[name]
    monkeypatch.setattr(tasks, "n_local_workers", lambda threads: 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")

    def planned(dask: Any) -> Any:
        _change(wide, dask=dask)
        (step,) = [one for one in plan_study(load_study(wide), wide) if one.stage.startswith("encode")]
        return step

    one = planned({"address": "tcp://127.0.0.1:9"}).memory_bytes
    four = planned("local").memory_bytes
    step = planned(dask)
    assert step.workers == processes
    assert step.memory_bytes == pytest.approx({1: one, 4: four}[at_once], rel=0.1)  # the command has loaded more
    assert one < four < 4 * one


def _seconds(root: Path, **sections: Any) -> float:
    _change(root, **sections)
    seconds = _encoder(root)["seconds"]
    assert seconds is not None
    return float(seconds)


def test_hours_grow_with_the_work_and_are_divided_by_workers(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cinecube.status import needs

    monkeypatch.setattr(needs, "_START_S", 1e-6)
    monkeypatch.setattr(tasks, "n_local_workers", lambda threads: 1)
    assert _encoder(wide)["seconds"] is None
    note(wide, ("encode", conftest.MODEL), 100.0, work_of(load_study(wide), wide, "encode", conftest.MODEL))
    assert _seconds(wide) == pytest.approx(100)
    # Two layers of two blocks are four tasks, whoever else waits for some.
    assert _seconds(wide, dask=_jobs(50, 1, 1)) == pytest.approx(25, rel=1e-3)
    assert _seconds(wide, dask=_jobs(2, 1, 1)) == pytest.approx(50, rel=1e-3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    assert _seconds(wide, dask={"gpus": "all"}) == pytest.approx(100 / 3, rel=1e-3)
    both = {"path": "data/scans", "subjects": ["sub-01", "sub-02"]}  # of whom one was not scanned yet
    assert 150 < _seconds(wide, dask="local", brain=both) <= 200  # factors are one for all
    # An earlier version counted nothing.
    note(wide, ("encode", conftest.MODEL), 70.0)
    assert _seconds(wide) == 70


def test_local_processes_share_nothing(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is much work `local` starts processes: each holds one task."""
    from cinecube.status import needs

    monkeypatch.setattr(tasks, "n_local_workers", lambda threads: 4)
    threads = _encoder(wide)
    monkeypatch.setattr(needs, "SMALL_WORK", 0)
    processes = _encoder(wide)
    assert (threads["workers"], processes["workers"]) == (1, 4)
    assert processes["memory_bytes"] < threads["memory_bytes"]
    assert "a worker" in CliRunner().invoke(main, ["plan", "--study", str(wide)]).stdout
