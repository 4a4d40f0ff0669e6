"""Which chunk belongs where: a reader of a few rows finds it, `verify` tells it, other programs may write cubes."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner
from zarr.storage import LocalStore, WrapperStore

from cinecube.cli import main
from cinecube.store.base.errors import StudyError
from cinecube.store.cube.cubes import open_cube, open_stored, write_feature_cube
from cinecube.store.cube.schema import Stream, feature_template, provenance, rows_index
from cinecube.store.dvc.dvc_index import open_index
from cinecube.store.dvc.dvc_zarr import DvcZarrStore
from cinecube.store.verify.find_cubes import verify_cube

from .verified import KINDS, edit_root, files, track, write_features

LAYERS = ["embed", "block01"]


@pytest.fixture(params=[(12, 12), (128, 64)], ids=["rows", "rows and dims"])
def cube(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Two layers of 1,100 rows; where widths differ, chunks part the dims too."""
    spec = {"dtype": "float32", "layers": LAYERS, "segments": ["a01"]}
    streams = [Stream("vit", LAYERS, request.param), Stream("ast", LAYERS[:1], request.param[:1])]
    template = feature_template(
        rows_index({"a01": np.arange(1100) * 1.49}), 1.49, streams, "float32", provenance("features", spec, [])
    )
    width = template["width"].values
    write_feature_cube(
        tmp_path / "cube.zarr",
        template,
        lambda m, k: np.random.default_rng([m, k]).standard_normal((1100, width[m, k])).astype(np.float32),
    )
    return tmp_path / "cube.zarr"


def shard(cube: Path, m: int, k: int) -> Path:
    return cube / f"features/c/0/0/{m}/{k}"


def exchange(one: Path, other: Path) -> None:
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)


class Elsewhere(WrapperStore[LocalStore]):
    """A folder that is read as a remote is: by Zarr, in ranges."""

    n_bytes = 0

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        found = await super().get(key, prototype, byte_range)
        self.n_bytes += len(found or b"") if "/c/" in key else 0
        return found


def elsewhere(cube: Path) -> tuple[xr.DataArray, Elsewhere]:
    store = Elsewhere(LocalStore(cube, read_only=True))
    return open_stored(store, "remote")["features"], store


def test_a_reader_of_some_rows_finds_an_exchanged_shard(cube: Path) -> None:
    exchange(shard(cube, 0, 0), shard(cube, 1, 0))
    features = open_cube(cube)["features"]
    travelled = pickle.loads(pickle.dumps(features))  # noqa: S301 - as to a Dask worker
    for lazy in (features, travelled, features.chunk({"layer": 1})):
        with pytest.raises(StudyError, match=r"features/c/0/0/0/0 with what belongs to features/c/0/0/1/0"):
            lazy.isel(model=0, layer=0, time=slice(512, 1024)).values  # noqa: B018
    assert np.isfinite(features.isel(model=0, layer=1, dim=slice(0, 12)).values).all()
    lines = verify_cube(cube)
    assert len(lines) == 2
    assert lines[0].endswith("vit embed: features/c/0/0/0/0 holds what belongs to features/c/0/0/1/0")


def test_two_chunks_exchanged_inside_a_shard(cube: Path) -> None:
    file = shard(cube, 0, 0)
    n_bytes = 512 * (12 if file.stat().st_size < 200_000 else 64) * 4 + 4
    data = file.read_bytes()
    file.write_bytes(data[n_bytes : 2 * n_bytes] + data[:n_bytes] + data[2 * n_bytes :])
    for part in ({"time": slice(0, 512)}, {"time": slice(600, 700), "dim": slice(64, 128)}, {}, {"time": [3, 900]}):
        features = open_cube(cube)["features"].isel(model=0, layer=0)
        if not part or features.isel(part).size:
            with pytest.raises(StudyError, match="features/c/0/0/0/0 with"):
                features.values  # noqa: B018
    assert "features/c/0/0/0/0 holds other bytes than were written" in verify_cube(cube)[0]


@pytest.mark.parametrize("part", [{"time": slice(512, 1024), "dim": slice(0, 12)}, {"time": [5, 1099], "dim": [0, 3]}])
def test_only_the_chunks_that_are_asked_for_are_read(cube: Path, part: dict[str, Any]) -> None:
    expected = open_cube(cube)["features"].isel(model=0, layer=0).isel(part).values
    features, store = elsewhere(cube)
    before = store.n_bytes
    np.testing.assert_array_equal(features.isel(model=0, layer=0).isel(part).values, expected)
    assert 0 < store.n_bytes - before < 0.8 * shard(cube, 0, 0).stat().st_size
    exchange(shard(cube, 0, 0), shard(cube, 1, 0))
    with pytest.raises(StudyError, match="what belongs to features/c/0/0/1/0"):
        elsewhere(cube)[0].isel(model=0, layer=0).isel(part).values  # noqa: B018


def test_through_dvc(tmp_path: Path) -> None:
    root = tmp_path / "study"
    write_features(root / "cube.zarr")
    track(root, None)
    listing = open_index(root).folder("cube.zarr")
    one, other = "features/c/0/0/0/0", "features/c/0/0/0/1"
    mixed = replace(listing, files={**listing.files, one: listing.files[other]})
    opened = open_stored(DvcZarrStore(mixed), "study")["features"]
    assert np.isfinite(opened.isel(model=0, layer=1).values).all()
    with pytest.raises(StudyError, match=f"study: found {one} with what belongs to {other}"):
        opened.isel(model=0, layer=0).values  # noqa: B018
    labels = replace(listing, files={**listing.files, "onset_s/c/0": listing.files["window_s/c/0"]})
    with pytest.raises(StudyError, match="onset_s/c/0 with what belongs to window_s/c/0"):
        open_stored(DvcZarrStore(labels), "study")["onset_s"].values  # noqa: B018


@pytest.mark.parametrize("kind", KINDS)
def test_the_list_as_the_format_describes_it(kind: str, tmp_path: Path) -> None:
    cube = KINDS[kind](tmp_path / "cube.zarr")
    root = json.loads((cube / "zarr.json").read_bytes())
    listed = root["consolidated_metadata"]["checksums"]
    assert listed["chunks"].keys() == root["consolidated_metadata"]["metadata"].keys()
    for name, text in listed["chunks"].items():
        ends = [entry[-8:] for entry in text.split(",") if entry]
        found = sorted(file for file in (cube / name / "c").rglob("*") if file.is_file())
        assert ends == [file.read_bytes()[-4:].hex() for file in found]
    stated = listed.pop("metadata")
    text = json.dumps(root, sort_keys=True, separators=(",", ":"))
    assert stated == f"{google_crc32c.value(text.encode()):08x}"


def test_metadata_that_were_edited(cube: Path) -> None:
    def narrow(root: dict[str, Any]) -> None:
        root["consolidated_metadata"]["metadata"]["features"]["data_type"] = "int32"
        root["consolidated_metadata"]["metadata"]["features"]["fill_value"] = 0

    edit_root(cube, narrow)
    with pytest.raises(StudyError, match=r"a zarr.json that is not as it was written"):
        open_cube(cube)
    assert verify_cube(cube)


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_a_cube_that_another_program_has_saved_is_read_and_its_places_are_unchecked(cube: Path) -> None:
    other = cube.with_name("other.zarr")
    saved = xr.open_zarr(cube, chunks=None)
    saved.assign(features=saved["features"] * 2).to_zarr(other, zarr_format=3)
    np.testing.assert_array_equal(
        open_cube(other, complete=False)["features"].isel(model=0, layer=0).values,
        2 * open_cube(cube)["features"].isel(model=0, layer=0).values,
    )
    again = cube.with_name("again.zarr")
    saved.isel(time=slice(0, 700)).drop_encoding().to_zarr(again, zarr_format=3)
    assert open_cube(again, complete=False).sizes["time"] == 700
    zarr.open_group(cube, mode="r+").attrs["remark"] = "by hand"
    zarr.consolidate_metadata(cube)
    assert open_cube(cube)["features"].isel(model=0, layer=0).shape[0] == 1100
    done = CliRunner().invoke(main, ["verify", str(cube)])
    assert done.exit_code == 0
    assert "cube.zarr: no list of checksums, so that whether all chunks are in their places is unchecked" in done.stderr


def test_values_that_were_edited_in_place_are_refused(cube: Path) -> None:
    group = zarr.open_group(cube, mode="r+", use_consolidated=False)
    group["features"][0, 0, 0, 0] = 7.0  # type: ignore[index]
    with pytest.raises(StudyError, match="features/c/0/0/0/0 with other bytes than were written"):
        open_cube(cube)["features"].isel(model=0, layer=0).values  # noqa: B018


def test_a_cube_of_an_earlier_version_is_read(cube: Path) -> None:
    whole = open_cube(cube).load()
    edit_root(cube, lambda root: root["consolidated_metadata"].pop("checksums"))
    assert verify_cube(cube) == []
    xr.testing.assert_identical(open_cube(cube).load(), whole)


def test_a_list_that_says_nothing_is_no_list(cube: Path) -> None:
    """Others may use the name, and write what they like."""
    for other in ({}, [], "x", {"metadata": 3}, {"chunks": {"features": 3}}):
        edit_root(cube, lambda root, other=other: root["consolidated_metadata"].update(checksums=other))  # type: ignore[misc]
        try:
            opened = open_cube(cube)
        except StudyError:
            continue
        assert np.isfinite(opened["features"].isel(model=0, layer=0).values).all()


def test_the_same_cube_has_the_same_bytes(tmp_path: Path) -> None:
    one, other = (write_features(tmp_path / name) for name in ("one.zarr", "other.zarr"))
    assert files(one) == files(other)
    assert os.path.getsize(one / "zarr.json") < 6000
