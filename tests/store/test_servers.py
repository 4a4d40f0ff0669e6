"""Cubes streamed from S3, SSH and HTTP servers: what moves, and what a user reads when a server fails."""

from __future__ import annotations

import re
import time
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from cinecube.store.base.errors import StudyError
from cinecube.store.dvc import remotes
from cinecube.store.dvc.dvc_zarr import dvc_zarr_store

from .conftest import DIMS, LAYERS, MODEL, ROWS, SHARD_BYTES, Published, git, values
from .servers import Site

CUBE = f"data/features/{MODEL}/amber.zarr"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remotes, "WAITS_S", (0.01, 0.02))


def opened(published: Published, site: Site, **options: Any) -> xr.DataArray:
    """The features of a film, from a server alone."""
    store = dvc_zarr_store(published.bare, CUBE, remote=site.name, remote_config=options or None)
    return xr.open_zarr(store, chunks=None)["features"].isel(model=0)


def test_a_layer_moves_its_bytes(published: Published, site: Site) -> None:
    features = opened(published, site)
    assert site.wire.sent <= 20_000
    site.wire.reset()
    np.testing.assert_array_equal(features.isel(layer=2).values, values("amber", 2))
    assert SHARD_BYTES <= site.wire.sent <= 1.05 * SHARD_BYTES


def test_rows_move_their_chunk(published: Published, site: Site) -> None:
    features = opened(published, site)
    site.wire.reset()
    np.testing.assert_array_equal(features.isel(layer=0, time=slice(600, 700)).values, values("amber", 0)[600:700])
    assert site.wire.sent <= SHARD_BYTES / 2 + 10_000


def test_a_fresh_clone_streams_every_layer(published: Published, site: Site, tmp_path: Path) -> None:
    clone = published.clone(tmp_path / "clone", site.name)
    found = xr.open_zarr(dvc_zarr_store(clone, CUBE), chunks=None)["features"]
    assert found.shape == (ROWS, DIMS, 1, LAYERS)
    for layer in range(LAYERS):
        np.testing.assert_array_equal(found.isel(model=0, layer=layer).values, values("amber", layer))
    assert not (clone / "data").exists()


def test_wrong_credentials(published: Published, site: Site) -> None:
    with pytest.raises(StudyError, match=rf"remote '{site.name}' .*expected leave to read.*credentials") as caught:
        opened(published, site, **site.wrong)
    assert site.wire.connections <= 3
    assert "wrong" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_server_that_dies_while_it_is_read(published: Published, site: Site) -> None:
    features = opened(published, site)
    site.wire.break_after(SHARD_BYTES // 2)
    with pytest.raises(StudyError, match=rf"features/c/0/0/0/1: found remote '{site.name}' .* failing \(") as caught:
        _ = features.isel(layer=1).values
    assert "\n" not in str(caught.value)
    # Three attempts, each broken at its half; S3 asks for the size on another connection.
    assert site.wire.sent <= 3 * SHARD_BYTES
    assert site.wire.connections <= 6


def test_a_server_that_comes_back(published: Published, site: Site) -> None:
    features = opened(published, site)
    site.wire.break_after(SHARD_BYTES // 2, times=2)
    np.testing.assert_array_equal(features.isel(layer=1).values, values("amber", 1))


def test_a_server_that_falls_silent(published: Published, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remotes, "PATIENCE_S", 0.6)
    features = opened(published, site)
    site.wire.silent = True
    began_s = time.monotonic()
    with pytest.raises(StudyError, match=rf"found remote '{site.name}' .* failing"):
        _ = features.isel(layer=1).values
    assert time.monotonic() - began_s < 15


def test_an_object_that_is_cut(published: Published, site: Site) -> None:
    features = opened(published, site)
    listing = dvc_zarr_store(published.bare, CUBE, remote=site.name).listing
    oid = listing.files["features/c/0/0/0/0"].oid
    restore = site.shorten(oid)
    try:
        with pytest.raises(StudyError, match=re.escape(f"remote '{site.name}'") + ".* hash to"):
            _ = features.isel(layer=0).values
    finally:
        restore()


def test_an_import_without_download(published: Published, site: Site, tmp_path: Path) -> None:
    """`dvc import --no-download` writes a `.dvc` file; the cube is streamed from where it comes from."""
    from dvc.repo import Repo

    mine = tmp_path / "mine"
    mine.mkdir()
    git(mine, "init", "-q")
    with Repo.init(str(mine)) as repo, chdir(mine):
        repo.imp(str(published.bare), CUBE, out="vit.zarr", no_download=True, remote=site.name)
    site.wire.reset()
    found = xr.open_zarr(dvc_zarr_store(mine, "vit.zarr"), chunks=None)["features"].isel(model=0, layer=1)
    np.testing.assert_array_equal(found.values, values("amber", 1))
    assert site.wire.sent <= 1.05 * SHARD_BYTES + 20_000
    assert not (mine / "vit.zarr").exists()
