"""Commands run on what others made to do harm: what they said, how long they took, how much memory, what they ran."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEMORY_MB, SECONDS = 512, 10

# How much longer everything may take where other tests run beside.
_BUSY = 3

# One process for many: its peak only rises, so each is bounded by what the first, a harmless one, took. That may
# be `ls`, which takes no library of cubes; others do.
_DRIVER = """
import json, os, resource, sys, time
import xarray, zarr, dvc.repo
from click.testing import CliRunner
from cinecube.cli import main
for words in json.load(sys.stdin):
    began, spent = time.monotonic(), sum(os.times()[:4])
    result = CliRunner().invoke(main, words)
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    crashed = repr(result.exception) if not isinstance(result.exception, SystemExit | None) else ""
    told = dict(code=result.exit_code, out=result.stdout, err=result.stderr, crashed=crashed)
    told |= dict(seconds=time.monotonic() - began, cpu_s=sum(os.times()[:4]) - spent)
    print(json.dumps(told | dict(peak_mb=max(peaks) / 1024)), flush=True)
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str
    crashed: str
    seconds: float
    cpu_s: float
    peak_mb: float

    @property
    def line(self) -> str:
        """The one line of an expected failure."""
        assert not self.crashed, self.crashed
        lines = self.err.strip().splitlines()
        assert self.code == 1, self
        assert len(lines) == 1, self.err
        return lines[0]


def run_all(commands: Sequence[Sequence[str]], folder: Path, **env: str) -> list[Ended]:
    """Run commands one after another in one process; the first is harmless, and the others take little more.

    Checked here: each within `SECONDS` of a machine of its own, all within `MEMORY_MB` of the first.
    """
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER],
        input=json.dumps([list(words) for words in commands]),
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=_BUSY * SECONDS * (len(commands) + 3),
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
    )
    told: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) == len(commands), f"{commands[len(told)]}: {done.stderr}"
    ended = [Ended(**one) for one in told]
    assert not ended[0].crashed, ended[0]  # it may hold no cube, which `ls` ends with 1 for
    for words, one in zip(commands, ended, strict=True):
        assert one.peak_mb < ended[0].peak_mb + MEMORY_MB, (words, one)
        assert max(one.cpu_s, one.seconds / _BUSY) < SECONDS, (words, one)
        assert not [sign for sign in one.out + one.err if not sign.isprintable() and sign not in "\n\t"], (words, one)
    return ended
