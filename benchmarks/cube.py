"""Writing and reading the pooled features of a whole study the size of Movie10.

    python benchmarks/cube.py [--quick] [--json]

Four films of 10, 17, 12 and 5 segments, 17,922 rows of 1.49 s, 13 layers of 768 dims. Blocks of 512 rows go to a
journal first, as an extraction leaves them; then each film's cube is written from its journal by the real writer, and
read back. Writing and reading run in processes of their own, whose largest resident memory is reported. Before reading,
the files are dropped from the system's cache where it lets us.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
from parts.machine import describe_machine, gib, middle_and_range, peak_bytes, print_machine

from cinecube.store.base.journal import Journal, open_journal, row_blocks
from cinecube.store.base.labels import layer_labels
from cinecube.store.clock.clock import Clock
from cinecube.store.cube.cubes import open_cube, read_values, write_feature_cube
from cinecube.store.cube.schema import Stream, feature_template, provenance, rows_index

MOVIE10 = {"bourne": (10, 4025), "wolf": (17, 7009), "figures": (12, 4860), "life": (5, 2028)}
CLOCK = Clock(tr_s=1.49, window_s=1.49)
BLOCKS, DIMS, BLOCK_ROWS = 12, 768, 512
DTYPES = ("float32", "float16")
REPEATS = 5
_PACKAGES = ("numpy", "xarray", "zarr")


def segments_of(film: str, share: int) -> dict[str, int]:
    """Rows of each segment of a film, or of one in `share` of them."""
    n_segments, n_rows = MOVIE10[film]
    n_rows //= share
    return {
        f"{film}{number + 1:02d}": n_rows // n_segments + (number < n_rows % n_segments) for number in range(n_segments)
    }


def fill_journal(journal: Journal, segments: Mapping[str, int], dtype: str) -> None:
    """Random activations in blocks, layers outermost as an extraction keeps them."""
    rng = np.random.default_rng(0)
    for block in row_blocks(segments, BLOCK_ROWS):
        values = rng.standard_normal((BLOCKS + 1, 1, DIMS, block.stop - block.start), np.float32)
        journal.write(block, values.transpose(3, 2, 1, 0).astype(dtype, order="F"))


def publish(journal: Journal, segments: Mapping[str, int], spec: Mapping[str, Any], path: Path) -> None:
    """The cube of a film from its journal."""
    labels = layer_labels(BLOCKS)
    rows = rows_index({segment: CLOCK.onsets_s(n) for segment, n in segments.items()})
    streams = [Stream("net", labels, [DIMS] * len(labels))]
    template = feature_template(rows, CLOCK.window_s, streams, spec["dtype"], provenance("features", spec, _PACKAGES))
    blocks = [journal.read(block) for block in row_blocks(segments, BLOCK_ROWS)]
    write_feature_cube(path, template, lambda m, k: np.concatenate([block[:, :, m, k] for block in blocks]))


def write(root: Path, dtype: str, share: int) -> dict[str, float]:
    """Write all films; seconds of journals and cubes."""
    journal_s = cube_s = 0.0
    for film in MOVIE10:
        segments, spec = segments_of(film, share), {"film": film, "dtype": dtype}
        began_s = time.perf_counter()
        with open_journal(root / "journal", spec, film) as journal:
            fill_journal(journal, segments, dtype)
            filled_s = time.perf_counter()
            publish(journal, segments, spec, root / f"{film}.zarr")
            journal.remove()
        journal_s += filled_s - began_s
        cube_s += time.perf_counter() - filled_s
    return {"journal_s": journal_s, "write_s": cube_s, "size_gib": gib(size_of(root))}


def read(root: Path) -> dict[str, Any]:
    """Read every layer of all films once, then one layer of the longest film several times."""
    for path in root.rglob("*"):
        forget(path)
    began_s = time.perf_counter()
    cubes = {film: open_cube(root / f"{film}.zarr") for film in MOVIE10}
    for k in range(BLOCKS + 1):
        parts = [read_values(cube["features"].isel(model=0, layer=k), film) for film, cube in cubes.items()]
        assert np.isfinite(np.concatenate(parts)).all()
    read_s = time.perf_counter() - began_s
    layer_ms = []
    for k in range(1, REPEATS + 1):
        for path in (root / "wolf.zarr").rglob("*"):
            forget(path)
        began_s = time.perf_counter()
        read_values(open_cube(root / "wolf.zarr")["features"].isel(model=0, layer=k), "wolf")
        layer_ms.append(1000 * (time.perf_counter() - began_s))
    return {"read_s": read_s, "layer_ms": layer_ms}


def size_of(root: Path) -> int:
    """Bytes of all files of a folder."""
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def forget(path: Path) -> None:
    """Drop a file from the system's cache, so that it is read from the disk."""
    if not path.is_file() or not hasattr(os, "posix_fadvise"):
        return
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def in_child(step: str, root: Path, dtype: str, share: int) -> dict[str, Any]:
    """Run `write` or `read` in a process of its own; what it found, and its largest resident memory."""
    command = [sys.executable, __file__, "--step", step, str(root), dtype, str(share)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def run_step(step: str, root: Path, dtype: str, share: int) -> None:
    """What a child does."""
    found = write(root, dtype, share) if step == "write" else read(root)
    peak = peak_bytes()
    print(json.dumps({**found, "peak_gib": gib(peak)}))


def measure(share: int) -> dict[str, dict[str, Any]]:
    """Write and read in both formats."""
    found = {}
    for dtype in DTYPES:
        with tempfile.TemporaryDirectory() as folder:
            written = in_child("write", Path(folder), dtype, share)
            found[dtype] = {"write": written, "read": in_child("read", Path(folder), dtype, share)}
    return found


def print_table(found: Mapping[str, Mapping[str, Any]], share: int) -> None:
    """One line per format."""
    rows = sum(sum(segments_of(film, share).values()) for film in MOVIE10)
    print(f"{rows} rows in {len(MOVIE10)} cubes, {BLOCKS + 1} layers of {DIMS} dims\n")
    print("format   size      journal  cubes   peak      read    peak      a layer of a film (ms)")
    for dtype, steps in found.items():
        written, reading = steps["write"], steps["read"]
        print(
            f"{dtype}  {written['size_gib']:.3f} GiB {written['journal_s']:6.1f} s {written['write_s']:5.1f} s "
            f"{written['peak_gib']:5.2f} GiB {reading['read_s']:6.1f} s {reading['peak_gib']:5.2f} GiB  "
            f"{middle_and_range(reading['layer_ms'], 0)}"
        )


def as_json(found: Mapping[str, Mapping[str, Any]], machine: Mapping[str, Any]) -> dict[str, Any]:
    """What `--json` prints: times of float32, the largest memory of all."""
    first = found[DTYPES[0]]
    return {
        "peak_gib": max(step["peak_gib"] for steps in found.values() for step in steps.values()),
        "size_gib": {dtype: steps["write"]["size_gib"] for dtype, steps in found.items()},
        "journal_s": first["write"]["journal_s"],
        "write_s": first["write"]["write_s"],
        "read_s": first["read"]["read_s"],
        "layer_ms": median(first["read"]["layer_ms"]),
        "machine": machine,
    }


@click.command()
@click.option("--quick", is_flag=True, help="A tenth of the rows.")
@click.option("--json", "print_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option("--step", nargs=4, hidden=True, help="What a child process does.")
def main(quick: bool, print_json: bool, step: tuple[str, str, str, str] | None) -> None:
    """Write and read the pooled features of a study the size of Movie10."""
    if step:
        run_step(step[0], Path(step[1]), step[2], int(step[3]))
        return
    share = 10 if quick else 1
    found, machine = measure(share), describe_machine(1, _PACKAGES)
    if print_json:
        print(json.dumps(as_json(found, machine)))
        return
    print_machine(machine)
    print_table(found, share)


if __name__ == "__main__":
    main()
