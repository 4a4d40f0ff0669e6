"""The cache of chunks: what a second reader moves, how large it grows, and what damage to it does."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from cinecube.store.base.errors import StudyError
from cinecube.store.dvc import remotes
from cinecube.store.dvc.chunk_cache import ChunkCache
from cinecube.store.dvc.dvc_zarr import DvcZarrStore, dvc_zarr_store

from .conftest import LAYERS, MODEL, SHARD_BYTES, Published, values
from .servers import Wire

CUBE = f"data/features/{MODEL}/amber.zarr"


@pytest.fixture
def wire(published: Published) -> Wire:
    found = published.sites["http"].wire
    found.reset()
    return found


def store(published: Published, folder: Path, **options: Any) -> DvcZarrStore:
    return dvc_zarr_store(published.bare, CUBE, remote="http", cache=folder, **options)


def read(opened: DvcZarrStore, layer: int, rows: slice = slice(None)) -> np.ndarray:
    found: np.ndarray = xr.open_zarr(opened, chunks=None)["features"].isel(model=0, layer=layer, time=rows).values
    return found


def folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize("rows", [slice(None), slice(600, 700)], ids=["layer", "rows"])
def test_a_second_reader_moves_nothing_but_the_list(
    published: Published, wire: Wire, tmp_path: Path, rows: slice
) -> None:
    for _ in range(2):
        np.testing.assert_array_equal(read(store(published, tmp_path), 1, rows), values("amber", 1)[rows])
        moved, wire.sent = wire.sent, 0
    assert moved < 5_000


def test_it_stays_below_its_size(published: Published, wire: Wire, tmp_path: Path) -> None:
    opened = store(published, tmp_path, cache_bytes=2 * SHARD_BYTES)
    for layer in range(LAYERS):
        np.testing.assert_array_equal(read(opened, layer), values("amber", layer))
    assert folder_bytes(tmp_path) <= 3 * SHARD_BYTES  # the last one may stand above it


def test_an_object_larger_than_it_is_not_kept(published: Published, wire: Wire, tmp_path: Path) -> None:
    np.testing.assert_array_equal(read(store(published, tmp_path, cache_bytes=100_000), 0), values("amber", 0))
    assert folder_bytes(tmp_path) < SHARD_BYTES


@pytest.mark.parametrize("damage", ["changed", "cut"])
def test_damage_on_this_disk_is_fetched_again(published: Published, wire: Wire, tmp_path: Path, damage: str) -> None:
    read(store(published, tmp_path), 1)
    largest = max(tmp_path.rglob("*.val"), key=lambda file: file.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[5000] ^= 1
    largest.write_bytes(data if damage == "changed" else data[:5000])
    wire.reset()
    np.testing.assert_array_equal(read(store(published, tmp_path), 1), values("amber", 1))
    assert wire.sent > SHARD_BYTES


def test_it_serves_while_the_server_is_gone(
    published: Published, wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remotes, "WAITS_S", (0.01, 0.01))
    opened = store(published, tmp_path)
    read(opened, 1)
    wire.break_after(0)
    np.testing.assert_array_equal(read(opened, 1), values("amber", 1))
    with pytest.raises(StudyError, match="remote 'http'"):
        read(opened, 2)


def test_two_processes_share_it(published: Published, wire: Wire, tmp_path: Path) -> None:
    """Both write and evict in one folder that holds less than they read, and read right numbers."""
    opened = store(published, tmp_path / "cache", cache_bytes=2 * SHARD_BYTES)
    (tmp_path / "store").write_bytes(pickle.dumps(opened))
    code = (
        "import pickle, sys, xarray as xr, numpy as np\n"
        "store = pickle.load(open(sys.argv[1], 'rb'))\n"
        "for number in range(9):\n"
        f"    layer = number % {LAYERS}\n"
        "    found = xr.open_zarr(store, chunks=None)['features'].isel(model=0, layer=layer).values\n"
        "    true = np.random.default_rng(layer).standard_normal(found.shape).astype(np.float32)\n"
        "    assert (found == true).all()\n"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "store")]) for _ in range(2)]
    assert [process.wait(60) for process in runs] == [0, 0]


def test_it_unpickles_nothing(tmp_path: Path) -> None:
    """A folder that somebody else has written to: what diskcache took for pickled is fetched instead."""
    import diskcache

    with diskcache.Cache(tmp_path) as foreign:
        foreign.set("0 whole", {"not": "bytes"})
    assert ChunkCache(tmp_path, 1_000_000).read("0", None, lambda: b"true") == b"true"


def test_a_place_that_is_none(published: Published, wire: Wire, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="no place for a cache"):
        store(published, tmp_path / "file")
