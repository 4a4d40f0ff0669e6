"""The part of `benchmarks/store.py` that needs a remote: a counting server, a repository, DVC's own push and pull."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any
from urllib.request import urlopen

import numpy as np
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
CUBE = "data/features/vit/amber.zarr"
REPEATS = 6  # an even number: each of two goes first as often


class _Ranges(BaseHTTPRequestHandler):
    """Files of a folder by byte range; `/sent` tells how many bytes, headers included, were sent before."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # heads and bodies are sent apart: each body would wait 40 ms for an answer

    def __init__(self, folder: Path, sent: list[int], *args: Any) -> None:
        self.folder, self.sent = folder, sent
        super().__init__(*args)

    def do_GET(self) -> None:
        file = self.folder / self.path.lstrip("/")
        if self.path == "/sent":
            self._answer(200, str(self.sent[0]).encode())
        elif not file.is_file():
            self.sent[0] += self._answer(404, b"")
        else:
            self.sent[0] += self._answer(*self._part(file))

    do_HEAD = do_GET

    def _part(self, file: Path) -> tuple[int, bytes]:
        size, asked = file.stat().st_size, re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        start, stop = 0, size
        if asked:
            start = int(asked[1]) if asked[1] else size - int(asked[2])
            stop = int(asked[2]) + 1 if asked[1] and asked[2] else size
        with file.open("rb") as opened:
            opened.seek(start)
            return (206 if asked else 200), opened.read(stop - start)

    def _answer(self, code: int, body: bytes) -> int:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        head = sum(map(len, self._headers_buffer)) + 2  # type: ignore[attr-defined]
        self.end_headers()
        if self.command == "HEAD":
            return head
        self.wfile.write(body)
        return head + len(body)

    def log_message(self, *words: Any) -> None:
        pass


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """A server of a folder; its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Ranges, folder, [0])) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def measure_remote(base: Path, cube: Path, slice_rows: int) -> dict[str, Any]:
    """Open the cube at a revision in a new process, and read it from the server alone."""
    bare, objects = base / "study.git", base / "objects"
    publish(base / "study", bare, cube, objects)
    os.sync()  # writing back what was written takes half of both cores
    with serve(objects) as address:
        runs = []
        for _ in range(REPEATS):
            command = [sys.executable, str(REPOSITORY / "benchmarks" / "store.py")]
            command += ["--step", str(bare), address, str(slice_rows)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            runs.append(json.loads(done.stdout))
    return {key: median(run[key] for run in runs) for key in runs[0]}


def run_step(bare: str, address: str, slice_rows: int) -> dict[str, float]:
    """What the new process does."""
    import xarray as xr

    from cinecube.store.dvc.dvc_zarr import dvc_zarr_store

    def opened() -> xr.DataArray:
        store = dvc_zarr_store(bare, CUBE, remote_config={"url": address})
        return xr.open_zarr(store, chunks=None)["features"]

    def timed(name: str, work: Any) -> Any:
        before, began_s = sent(), time.perf_counter()
        made = work()
        found[f"{name}_s"] = time.perf_counter() - began_s
        found[f"{name}_bytes"] = sent() - before
        return made

    def sent() -> int:
        with urlopen(f"{address}/sent") as answer:
            return int(answer.read())

    found: dict[str, float] = {}
    features = timed("open", opened)
    timed("open_again", opened)
    features = timed("select", lambda: features.isel(model=0))  # a process's first: xarray imports dask.array
    timed("layer", lambda: features.isel(layer=5).values)
    timed("slice", lambda: features.isel(layer=7, time=slice(slice_rows, 2 * slice_rows)).values)
    return found


def publish(root: Path, bare: Path, cube: Path, objects: Path) -> None:
    """A repository with the stages of this one, all of them locked, whose remote holds the cube."""
    from dvc.repo import Repo

    scratch = root.parent / "scratch"
    _start(scratch, objects)
    shutil.copytree(cube, scratch / "cube", copy_function=os.link)
    with Repo(str(scratch)) as repo, chdir(scratch):
        repo.add("cube")
        repo.push()
    tracked = yaml.safe_load((scratch / "cube.dvc").read_text())["outs"][0]["md5"]
    _start(root, objects)
    for name in ("dvc.yaml", "params.yaml", "data/dvc.yaml"):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, root / name)
    _lock(root, tracked)
    _git(root, "add", "-A", ".")
    _git(root, "commit", "-qm", "locked")
    _git(root.parent, "clone", "-q", "--bare", str(root), str(bare))


def _start(root: Path, objects: Path) -> None:
    from dvc.repo import Repo

    root.mkdir(parents=True)
    _git(root, "init", "-q")
    with Repo.init(str(root)) as repo, repo.config.edit() as config:
        config["remote"]["there"] = {"url": str(objects)}
        config["core"].update(remote="there", autostage=False, analytics=False)


def _lock(root: Path, tracked: str) -> None:
    """Lock files as DVC writes them, with the hash of the one output that is there."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        for file in {stage.path for stage in repo.index.stages}:
            stages = {}
            for stage in (stage for stage in repo.index.stages if stage.path == file):
                deps = [_entry(dep.def_path, "0" * 32) for dep in stage.deps if hasattr(dep, "def_path")]
                outs = [_entry(out.def_path, tracked if out.def_path == CUBE else "0" * 32) for out in stage.outs]
                stages[stage.name] = {"cmd": stage.cmd, "deps": deps, "outs": outs}
            lock = yaml.safe_dump({"schema": "2.0", "stages": stages}, sort_keys=False)
            Path(file).with_suffix(".lock").write_text(lock)


def _entry(path: str, md5: str) -> dict[str, Any]:
    return {"path": path, "hash": "md5", "md5": md5, "size": 1, "nfiles": 1}


def measure_dvc(base: Path, cube: Path) -> dict[str, Any]:
    """Seconds of `dvc push` and `dvc pull` of the cube, and of as many plain files with as many other bytes.

    The ratios are those of the fastest runs: on a virtual machine some of either took six times as long as others.
    """
    found: dict[str, Any] = {key: [] for key in ("push", "push_plain", "pull", "pull_plain")}
    for number in range(REPEATS):
        for name in ("", "_plain") if number % 2 else ("_plain", ""):
            root = base / f"{number}{name}"
            _start(root, root / "objects")
            if name:
                _write_plain(root / "data", cube, number)
            else:
                shutil.copytree(cube, root / "data")
            times = _push_and_pull(root)
            found[f"push{name}"].append(times[0])
            found[f"pull{name}"].append(times[1])
            shutil.rmtree(root)
    for step in ("push", "pull"):
        found[f"{step}_ratio"] = min(found[step]) / min(found[f"{step}_plain"])
    return found


def _write_plain(folder: Path, cube: Path, seed: int) -> None:
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for number, file in enumerate(path for path in cube.rglob("*") if path.is_file()):
        (folder / f"{number:03d}.bin").write_bytes(rng.bytes(file.stat().st_size))


def _push_and_pull(root: Path) -> tuple[float, float]:
    from dvc.repo import Repo

    with Repo(str(root)) as repo, chdir(root):
        repo.add("data")
        os.sync()
        began_s = time.perf_counter()
        repo.push()
        pushed_s = time.perf_counter() - began_s
    shutil.rmtree(root / ".dvc" / "cache")
    shutil.rmtree(root / "data")
    os.sync()
    with Repo(str(root)) as repo, chdir(root):
        began_s = time.perf_counter()
        repo.pull()
        return pushed_s, time.perf_counter() - began_s


def _git(folder: Path, *words: str) -> None:
    who = ("-c", "user.name=benchmark", "-c", "user.email=b@example.org", "-c", "init.defaultBranch=main")
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)
