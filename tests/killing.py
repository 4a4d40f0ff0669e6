"""Commands that are killed at any moment: each a process of its own, forked from one that has imported everything."""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Starts no thread: none would survive the fork.
_NURSERY = """
import importlib, json, os, sys, traceback
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
from cinecube.cli import main
print("ready", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    begun, begins = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.write(begins, b"x")
        for number in (0, 1, 2):
            os.dup2(os.open(job["log"] if number else os.devnull, os.O_RDWR | os.O_APPEND | os.O_CREAT), number)
        code = 70
        try:
            main(job["words"])
        except SystemExit as stop:
            code = stop.code or 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(code)
    os.read(begun, 1)
    os.close(begun)
    os.close(begins)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
_MODULES = (
    *("torch", "dvc.repo", "dvc.api", "jinja2", "nilearn.image", "distributed", "himalaya.ridge", "matplotlib.figure"),
    *(
        f"cinecube.analysis.{name}.stage"
        for name in ("encoders", "ceilings", "partition", "significance", "truth", "report")
    ),
    *(f"cinecube.analysis.{name}" for name in ("figures.paper_figures", "residuals.residual_tables")),
    *(f"cinecube.features.{name}" for name in ("films.stage", "own.add_features")),
    *(
        "cinecube.store.scans.brain",
        "cinecube.simulation.simulate",
        "cinecube.studies.importing",
        "cinecube.store.dvc.pulling",
    ),
)


class Nursery:
    """Runs commands, each in a process group of its own.

    Parameters
    ----------
    process : Popen
    log : Path
        What commands print.
    """

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process, self.log = process, log

    def run(self, *words: str, kill_after_s: float | None = None) -> int:
        """Exit status of a command; -9 if it was killed, with all that it had started, before it came to its end."""
        said, asked = self._process.stdout, self._process.stdin
        assert said is not None
        assert asked is not None
        self.log.write_text("")
        print(json.dumps({"words": words, "log": str(self.log)}), file=asked, flush=True)
        pid = int(said.readline())
        if kill_after_s is not None and not select.select([said], [], [], kill_after_s)[0]:
            os.killpg(pid, signal.SIGKILL)
        return int(said.readline())

    def must(self, *words: str) -> float:
        """Run a command that has to succeed; the seconds that it took, within which others are killed."""
        began_s = time.monotonic()
        status = self.run(*words)
        assert status == 0, f"{' '.join(words)}: {status}\n{self.log.read_text()}"
        return time.monotonic() - began_s


@contextmanager
def open_nursery(folder: Path) -> Iterator[Nursery]:
    """A process that forks commands; their temporary files go to `folder`/tmp."""
    (folder / "tmp").mkdir()
    env: dict[str, Any] = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    env["TMPDIR"] = str(folder / "tmp")
    env["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")  # a cache of torch's, which lies in TMPDIR else
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _NURSERY, json.dumps(_MODULES)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=env,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield Nursery(process, folder / "log")
        assert process.stdin is not None
        process.stdin.close()


def digests(root: Path, *without: str) -> dict[str, str]:
    """SHA-256 of all files of a study, by their paths; not of what lies under the folders `without`."""
    found = {}
    for folder, folders, files in os.walk(root):
        here = Path(folder).relative_to(root)
        folders[:] = [name for name in folders if str(here / name) not in without]
        found |= {str(here / name): _digest(root / here / name) for name in files if str(here / name) not in without}
    return dict(sorted(found.items()))


def _digest(path: Path) -> str:
    """Copies of a study share files: each is read once."""
    info = path.stat()
    seen = (info.st_dev, info.st_ino, info.st_mtime_ns, info.st_size)
    if seen not in _DIGESTS:
        _DIGESTS[seen] = hashlib.sha256(path.read_bytes()).hexdigest()
    return _DIGESTS[seen]


_DIGESTS: dict[tuple[int, ...], str] = {}
