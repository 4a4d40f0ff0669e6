"""What every benchmark says beside its numbers: the machine, and how a list of runs is summed up."""

from __future__ import annotations

import platform
import resource
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

_GIB = 1024**3


def describe_machine(threads: int, packages: Sequence[str]) -> dict[str, Any]:
    """Processor, thread count and versions, for a table's head and for `--json`."""
    versions = {"python": platform.python_version()}
    for package in ("cinecube", *packages):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"cpu": _processor(), "system": platform.system(), "threads": threads, "versions": versions}


def peak_bytes() -> int:
    """The most memory that this process held.

    Linux hands `ru_maxrss` on to a process from the one that starts it: under a large parent it would be the parent's.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    # macOS counts in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def print_machine(machine: dict[str, Any]) -> None:
    """The head of a table."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    print(f"{machine['cpu']}, {machine['system']}, {machine['threads']} threads\n{versions}\n")


def middle_and_range(values: Sequence[float], digits: int = 2) -> str:
    """Median of several runs, with the smallest and the largest."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def gib(n_bytes: float) -> float:
    """Bytes in GiB."""
    return n_bytes / _GIB


def _processor() -> str:
    """The processor's name; `platform.processor` is empty on most Linux systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
