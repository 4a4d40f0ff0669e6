"""Reading a feature cube: on this disk, from a remote, and through DVC, beside what one would use without cinecube.

    python benchmarks/store.py [--quick] [--json]

One film of 8,192 rows, 13 layers of 768 dims, float32. Every reader holds its files open and gives one layer, or 512
rows of one, as an array in memory; they take turns, and the files are in the system's cache. Bytes are those of read
calls, which mapped files do not make. exca takes part where it is installed, with one array per layer, which suits it
best.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
from parts.machine import describe_machine, middle_and_range, print_machine
from parts.store_remote import measure_dvc, measure_remote, run_step

from cinecube.store.base.labels import layer_labels
from cinecube.store.clock.clock import Clock
from cinecube.store.cube.cubes import open_cube, write_feature_cube
from cinecube.store.cube.schema import Stream, feature_template, provenance, rows_index

ROWS, QUICK_ROWS, DIMS, LAYERS, SLICE_ROWS = 8192, 2048, 768, 13, 512
CLOCK = Clock(tr_s=1.49, window_s=1.49)
ROUNDS = range(16)
_PACKAGES = ("numpy", "xarray", "zarr", "h5py", "dvc", "exca")
_IO = Path("/proc/self/io")
# Those map their file, which no read call shows.
_MAPPED = ("npy, layers first", "npy, rows first", "exca")

Reader = Callable[[int, slice], np.ndarray]


def write_film(path: Path, values: np.ndarray) -> None:
    """A feature cube of (layer, time, dim), by the real writer."""
    labels = layer_labels(len(values) - 1)
    rows = rows_index({"life01": CLOCK.onsets_s(values.shape[1])})
    streams = [Stream("vit", labels, [values.shape[2]] * len(labels))]
    template = feature_template(rows, CLOCK.window_s, streams, "float32", provenance("features", {}, _PACKAGES[:3]))
    write_feature_cube(path, template, lambda m, k: values[k])


def cinecube_reader(folder: Path, values: np.ndarray) -> Reader:
    """A cube of ours: a layer is a file, with a checksum every 512 rows."""
    write_film(folder / "life.zarr", values)
    features = open_cube(folder / "life.zarr")["features"].isel(model=0)
    return lambda k, rows: features.isel(layer=k, time=rows).values


def zarr_reader(folder: Path, values: np.ndarray) -> Reader:
    """Zarr as it comes, with chunks of 512 rows of one layer: a file each, compressed by zstd, without checksums."""
    import zarr

    shape = (values.shape[1], values.shape[2], len(values))
    chunks = (SLICE_ROWS, shape[1], 1)
    array = zarr.create_array(folder / "plain.zarr", shape=shape, chunks=chunks, dtype="float32")
    for k, layer in enumerate(values):
        array[:, :, k] = layer
    opened = zarr.open_array(folder / "plain.zarr", mode="r")
    return lambda k, rows: np.asarray(opened[rows, :, k])


def h5py_reader(folder: Path, values: np.ndarray) -> Reader:
    """One HDF5 file with the same chunks, neither compressed nor checked."""
    import h5py

    shape = (values.shape[1], values.shape[2], len(values))
    with h5py.File(folder / "film.h5", "w") as file:
        data = file.create_dataset("features", shape, "f4", chunks=(SLICE_ROWS, shape[1], 1))
        for k, layer in enumerate(values):
            data[:, :, k] = layer
    opened = h5py.File(folder / "film.h5")["features"]
    return lambda k, rows: np.asarray(opened[rows, :, k])


def npy_reader(folder: Path, values: np.ndarray) -> Reader:
    """One .npy file, mapped, layers first: the best order for this, unchecked."""
    np.save(folder / "layers.npy", values)
    opened = np.load(folder / "layers.npy", mmap_mode="r")
    return lambda k, rows: np.array(opened[k, rows])


def npy_rows_reader(folder: Path, values: np.ndarray) -> Reader:
    """One .npy file, mapped, as an extraction gives it: rows first."""
    rows_first = np.lib.format.open_memmap(
        folder / "rows.npy", "w+", np.float32, (values.shape[1], values.shape[2], len(values))
    )
    for k, layer in enumerate(values):
        rows_first[..., k] = layer
    rows_first.flush()
    opened = np.load(folder / "rows.npy", mmap_mode="r")
    return lambda k, rows: np.ascontiguousarray(opened[rows, :, k])


def exca_reader(folder: Path, values: np.ndarray) -> Reader | None:
    """exca's dictionary on disk, one mapped array per layer."""
    try:
        from exca.cachedict import CacheDict
    except ImportError:
        return None
    kept: Any = CacheDict(folder / "exca", cache_type="MemmapArray")
    with kept.write():
        for k, layer in enumerate(values):
            kept[str(k)] = layer
    opened: Any = CacheDict(folder / "exca", cache_type="MemmapArray")
    return lambda k, rows: np.array(opened[str(k)][rows])


READERS: dict[str, Callable[[Path, np.ndarray], Reader | None]] = {
    "cinecube": cinecube_reader,
    "zarr": zarr_reader,
    "h5py": h5py_reader,
    "npy, layers first": npy_reader,
    "npy, rows first": npy_rows_reader,
    "exca": exca_reader,
}


def bytes_read() -> int | None:
    """Bytes that this process's read calls have given so far, where the system says so."""
    if not _IO.exists():
        return None
    return int(_IO.read_text().split("rchar:")[1].split()[0])


def measure_local(folder: Path, values: np.ndarray) -> dict[str, dict[str, Any]]:
    """Times and bytes of whole layers and of slices, all readers in turn; what is read must be what was written."""
    readers = {name: reader for name, make in READERS.items() if (reader := make(folder, values)) is not None}
    os.sync()  # what was written is on the disk before the first reading: writing back takes half of both cores
    found: dict[str, dict[str, Any]] = {name: {} for name in readers}
    for case, rows in {"layer": slice(None), "slice": slice(SLICE_ROWS, 2 * SLICE_ROWS)}.items():
        read = [{name: read_once(reader, values, k % LAYERS, rows) for name, reader in readers.items()} for k in ROUNDS]
        for name, one in found.items():
            one[f"{case}_ms"] = [reading[name][0] for reading in read[1:]]  # the first one warms up
            sizes = [size for reading in read[1:] if (size := reading[name][1]) is not None]
            one[f"{case}_bytes"] = median(sizes) if sizes and name not in _MAPPED else None
    return found


def read_once(reader: Reader, values: np.ndarray, k: int, rows: slice) -> tuple[float, int | None]:
    """Milliseconds and bytes of one reading."""
    before, began_s = bytes_read(), time.perf_counter()
    read = reader(k, rows)
    took_ms = 1000 * (time.perf_counter() - began_s)
    size = (bytes_read() or 0) - before if before is not None else None
    assert np.array_equal(read, values[k, rows])
    return took_ms, size


def count_files(cube: Path) -> dict[str, int]:
    """How many files are shards of layers, and how many are not."""
    files = [path for path in cube.rglob("*") if path.is_file()]
    shards = [path for path in files if path.is_relative_to(cube / "features" / "c")]
    return {"shards": len(shards), "others": len(files) - len(shards), "shard_bytes": max(map(_size, shards))}


def _size(path: Path) -> int:
    return path.stat().st_size


def measure(rows: int) -> dict[str, Any]:
    """Everything, in folders that are removed."""
    values = np.random.default_rng(0).standard_normal((LAYERS, rows, DIMS), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        local = measure_local(base, values)
        cube = base / "life.zarr"
        for other in base.iterdir():
            if other != cube and other.is_file():
                other.unlink()
        files = count_files(cube)
        with redirect_stdout(sys.stderr):  # DVC says what it does
            remote = measure_remote(base / "remote", cube, SLICE_ROWS)
            dvc = measure_dvc(base / "dvc", cube)
    return {"rows": rows, "layer_bytes": rows * DIMS * 4, "local": local, "files": files, "remote": remote, "dvc": dvc}


def print_table(found: Mapping[str, Any]) -> None:
    """What was found, beside what is aimed at."""
    layer, slice_bytes = found["layer_bytes"], SLICE_ROWS * DIMS * 4
    print(f"{found['rows']} rows, {LAYERS} layers of {DIMS} dims, {layer / 1e6:.1f} MB a layer\n")
    print(f"{'on this disk':20}{'a layer (ms)':>24}{'bytes':>8}{f'{SLICE_ROWS} rows (ms)':>24}{'bytes':>8}")
    for name, row in found["local"].items():
        shares = [row["layer_bytes"], row["slice_bytes"]]
        first, second = (
            "mapped" if name in _MAPPED else "" if size is None else f"{size / whole:.3f}"
            for size, whole in zip(shares, (layer, slice_bytes), strict=True)
        )
        times = [middle_and_range(row[f"{case}_ms"], 1) for case in ("layer", "slice")]
        print(f"{name:20}{times[0]:>24}{first:>8}{times[1]:>24}{second:>8}")
    remote, files, dvc = found["remote"], found["files"], found["dvc"]
    print(
        f"\nfrom a remote over HTTP: opened in {remote['open_s']:.2f} s (first of a process; aim 0.6), then "
        f"{remote['open_again_s']:.2f} s, {remote['open_bytes'] / 1000:.1f} kB (aim 20); "
        f"first selection {remote['select_s']:.2f} s; "
        f"a layer {remote['layer_bytes'] / files['shard_bytes']:.4f} of its stored bytes (aim 1.05), "
        f"{1000 * remote['layer_s']:.0f} ms; {SLICE_ROWS} rows {remote['slice_bytes'] / 1e6:.2f} MB (aim 2), "
        f"{1000 * remote['slice_s']:.0f} ms"
    )
    print(f"files: {files['shards']} shards and {files['others']} others (aim 20 at most)")
    for step in ("push", "pull"):
        times = middle_and_range(dvc[step], 2), middle_and_range(dvc[f"{step}_plain"], 2)
        ratio = dvc[f"{step}_ratio"]
        print(f"dvc {step}: {times[0]} s, plain files {times[1]} s, ratio of the fastest {ratio:.2f} (aim 1.2)")


@click.command()
@click.option("--quick", is_flag=True, help="A quarter of the rows.")
@click.option("--json", "print_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option("--step", nargs=3, hidden=True, help="What a child process does.")
def main(quick: bool, print_json: bool, step: tuple[str, str, str] | None) -> None:
    """Read a feature cube from this disk, from a remote and through DVC."""
    if step:
        print(json.dumps(run_step(step[0], step[1], int(step[2]))))
        return
    found, machine = measure(QUICK_ROWS if quick else ROWS), describe_machine(1, _PACKAGES)
    if print_json:
        json.dump({**found, "machine": machine}, sys.stdout)
        return
    print_machine(machine)
    print_table(found)


if __name__ == "__main__":
    main()
