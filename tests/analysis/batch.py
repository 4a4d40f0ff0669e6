"""A batch system that is two commands on PATH: `sbatch` and `scancel`, as SLURM's behave."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.conftest import REPOSITORY

_SBATCH = """#!/bin/sh
# Takes a job as SLURM does: a number, output where its directives say or beside where it was asked for.
state={state}
if [ "$(cat $state/mode)" = refuse ]; then
    echo "sbatch: error: invalid partition specified: nosuch" >&2
    echo "sbatch: error: Batch job submission failed: Invalid partition name specified" >&2
    exit 1
fi
until mkdir $state/one 2>/dev/null; do sleep 0.01; done
number=$(( $(cat $state/number) + 1 ))
echo $number >$state/number
rmdir $state/one
cp "$1" $state/$number.sh
out=$(sed -n 's/^#SBATCH -o //p' "$1" | sed "s/%J/$number/")
err=$(sed -n 's/^#SBATCH -e //p' "$1" | sed "s/%J/$number/")
if [ "$(cat $state/mode)" != hold ]; then
    setsid sh $state/$number.sh >"${{out:-slurm-$number.out}}" 2>"${{err:-/dev/null}}" </dev/null &
    echo $! >$state/$number.pid
    if [ "$(cat $state/mode)" = short ]; then
        (sleep {seconds}; kill -9 -$(cat $state/$number.pid) 2>/dev/null) >/dev/null 2>&1 &
    fi
fi
echo "Submitted batch job $number"
"""
_SCANCEL = """#!/bin/sh
echo $1 >>{state}/cancelled
[ -f {state}/$1.pid ] && kill -TERM -$(cat {state}/$1.pid) 2>/dev/null
exit 0
"""


class Batch:
    """The batch system.

    Parameters
    ----------
    folder : Path
        Of its commands and of what it keeps.
    seconds : float
        How long a job lives while `mode` is `short`.
    """

    def __init__(self, folder: Path, seconds: float = 1.0) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "number").write_text("0")
        self.mode("run")
        for name, text in (("sbatch", _SBATCH), ("scancel", _SCANCEL)):
            (folder / name).write_text(text.format(state=folder, seconds=seconds))
            (folder / name).chmod(0o755)

    def mode(self, mode: str) -> None:
        """`run` jobs, `hold` them, `refuse` them, or kill them in a `short` time."""
        (self.folder / "mode").write_text(mode)

    @property
    def jobs(self) -> int:
        """How many were submitted."""
        return int((self.folder / "number").read_text())

    @property
    def cancelled(self) -> list[str]:
        """Numbers of those that were."""
        path = self.folder / "cancelled"
        return path.read_text().split() if path.exists() else []

    def kill(self) -> None:
        """End all jobs, as at the end of their time."""
        for path in self.folder.glob("*.pid"):
            with suppress(ProcessLookupError, ValueError):
                os.killpg(int(path.read_text()), signal.SIGKILL)


@contextmanager
def open_batch(folder: Path, seconds: float = 1.0) -> Iterator[Batch]:
    """A batch system on PATH, whose jobs all end at the end."""
    batch = Batch(folder, seconds)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(folder), prepend=os.pathsep)
        patch.setenv("PYTHONPATH", str(REPOSITORY), prepend=os.pathsep)  # jobs are of functions of these tests
        try:
            yield batch
        finally:
            batch.kill()
