"""Rows that are read straight from a shard equal Zarr's, and whatever is out of the ordinary is left to Zarr."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec

from cinecube.store.base.errors import StudyError
from cinecube.store.base.labels import layer_labels
from cinecube.store.cube.cubes import open_cube, write_cube, write_feature_cube, write_responses
from cinecube.store.cube.schema import (
    ROWS_PER_CHUNK,
    TARGETS_PER_SHARD,
    Stream,
    feature_template,
    provenance,
    rows_index,
    string_coordinate,
)
from cinecube.store.cube.shards import RowShardFiles, RowShards

CHUNK = 4
FEW = settings(max_examples=60, deadline=None, derandomize=True)


def write(folder: Path, values: np.ndarray, shard: tuple[int, ...], **how: Any) -> zarr.Array[Any]:
    """An array of checked chunks of four whole rows, each of them there."""
    array = zarr.create_array(
        folder / "a",
        shape=values.shape,
        dtype=values.dtype,
        fill_value=0,
        config={"write_empty_chunks": True},
        **{"chunks": (CHUNK, *shard[1:]), "shards": shard, "compressors": [Crc32cCodec()], **how},
    )
    array[...] = values
    return array


@st.composite
def _spans(draw: st.DrawFn, size: int) -> int | slice:
    if draw(st.booleans()):
        return draw(st.integers(-size, size - 1))
    ends = st.one_of(st.none(), st.integers(-size - 2, size + 2))
    return slice(draw(ends), draw(ends), draw(st.sampled_from([None, 1, 2, -1])))


@FEW
@given(st.data())
def test_any_selection_is_that_of_the_array_in_memory(data: st.DataObject) -> None:
    shape = (data.draw(st.integers(1, 30)), *data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    shard = (CHUNK * data.draw(st.integers(1, 4)), *(data.draw(st.integers(1, size)) for size in shape[1:]))
    kind = data.draw(st.sampled_from(["float32", "float16", "float64", "int16"]))
    values = np.arange(np.prod(shape)).reshape(shape).astype(kind)
    with tempfile.TemporaryDirectory() as folder:
        shards = RowShards.of(write(Path(folder), values, shard))
        assert shards is not None
        for _ in range(5):
            selection = tuple(data.draw(_spans(size)) for size in shape)
            expected, found = values[selection], shards.read(Path(folder), "a", selection)
            if found is not None:
                assert found.dtype == values.dtype
                np.testing.assert_array_equal(found, expected, strict=True)
            ends = [
                np.unique(np.arange(size)[at] // each) for at, size, each in zip(selection, shape, shard, strict=True)
            ]
            steps = {at.step or 1 for at in selection if isinstance(at, slice)}
            assert (found is not None) == (steps <= {1} and all(len(each) == 1 for each in ends))


def test_a_part_does_not_hold_its_chunk_in_memory(tmp_path: Path) -> None:
    values = np.arange(80.0).reshape(16, 5)
    shards = RowShards.of(write(tmp_path, values, (16, 5)))
    assert shards is not None
    whole, part = (shards.read(tmp_path, "a", (rows, slice(None))) for rows in (slice(None), slice(1, 3)))
    assert whole is not None
    assert part is not None
    assert part.base is None
    assert whole.flags.writeable


@pytest.mark.parametrize(
    "how",
    [
        {"compressors": "auto"},
        {"compressors": None},
        {"dtype": ">f8", "serializer": BytesCodec(endian="big")},
        {"chunks": (CHUNK, 2)},
        {"shards": None},
        {
            "shards": None,
            "chunks": (16, 4),
            "compressors": None,
            "serializer": ShardingCodec(
                chunk_shape=(4, 4), codecs=[BytesCodec(), Crc32cCodec()], index_location="start"
            ),
        },
    ],
    ids=["zstd", "unchecked", "big", "columns", "no shards", "index first"],
)
def test_other_ways_of_storing_are_left_to_zarr(tmp_path: Path, how: dict[str, Any]) -> None:
    values = np.arange(64.0).reshape(16, 4).astype(how.pop("dtype", "f8"))
    assert RowShards.of(write(tmp_path, values, (16, 4), **how)) is None


def _change(path: Path, change: Callable[[bytearray], object]) -> None:
    raw = bytearray(path.read_bytes())
    change(raw)
    path.write_bytes(raw)


def _flip(at: int) -> Callable[[Path], None]:
    return lambda path: _change(path, lambda raw: raw.__setitem__(at, raw[at] ^ 1))


def _cut(path: Path) -> None:
    _change(path, lambda raw: raw.__delitem__(slice(20, 40)))


@pytest.mark.parametrize(
    "damage",
    [
        _flip(7),
        _flip(-8),
        _flip(-1),
        _cut,
        Path.unlink,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"few"),
    ],
    ids=["value", "index", "checksum of index", "cut", "missing", "empty", "short"],
)
def test_damage_is_left_to_zarr(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    shards = RowShards.of(write(tmp_path, np.arange(64.0).reshape(16, 4), (16, 4)))
    assert shards is not None
    everything = (slice(None), slice(None))
    assert shards.read(tmp_path, "a", everything) is not None
    damage(tmp_path / "a" / "c" / "0" / "0")
    assert shards.read(tmp_path, "a", everything) is None


def test_a_chunk_that_was_never_written_is_left_to_zarr(tmp_path: Path) -> None:
    values = np.arange(1.0, 65).reshape(16, 4)
    values[4:8] = 0  # the fill value
    array = write(tmp_path, values, (16, 4))
    (tmp_path / "a" / "c" / "0" / "0").unlink()
    zarr.open_array(tmp_path / "a", mode="r+", config={"write_empty_chunks": False})[...] = values
    shards = RowShards.of(array)
    assert shards is not None
    assert shards.read(tmp_path, "a", (slice(None), slice(None))) is None
    np.testing.assert_array_equal(shards.read(tmp_path, "a", (slice(8, 16), slice(None))), values[8:])


@pytest.fixture
def cube(tmp_path: Path) -> Path:
    """Two layers of 700 rows and six dims, the second of four."""
    streams = [Stream("vit", layer_labels(1), [6, 4])]
    template = feature_template(
        rows_index({"life01": np.arange(700) * 1.49}), 1.49, streams, "float32", provenance("features", {}, [])
    )
    write_feature_cube(
        tmp_path / "life.zarr", template, lambda m, k: np.arange(700.0 * (6, 4)[k]).reshape(700, -1).astype(np.float32)
    )
    return tmp_path / "life.zarr"


def test_a_layer_of_a_cube_is_read_without_zarr(cube: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_cube(cube)["features"].isel(model=0)
    plain = zarr.open_array(cube / "features", mode="r")[:, :, 0, :]

    def refuse(*_: object) -> None:
        raise AssertionError("zarr was asked")

    monkeypatch.setattr(zarr.Array, "__getitem__", refuse)
    travelled = pickle.loads(pickle.dumps(opened))  # noqa: S301 - as to a Dask worker
    for features in (opened, travelled):
        for k in range(2):
            np.testing.assert_array_equal(features.isel(layer=k).values, plain[:, :, k])
            np.testing.assert_array_equal(features.isel(layer=k, time=slice(90, 600)).values, plain[90:600, :, k])
            np.testing.assert_array_equal(features.isel(layer=k, time=-1).values, plain[-1, :, k])


def test_damage_in_a_cube_names_the_array(cube: Path) -> None:
    features = open_cube(cube)["features"].isel(model=0)
    _flip(100)(cube / "features" / "c" / "0" / "0" / "0" / "1")
    with pytest.raises(StudyError, match=r"life.zarr features: found damaged bytes \(Stored and computed checksum"):
        features.isel(layer=1).values  # noqa: B018
    assert features.isel(layer=1, time=slice(512, 700)).shape == (188, 6)
    assert np.isfinite(features.isel(layer=1, time=slice(512, 700), dim=slice(4)).values).all()


@pytest.mark.parametrize(
    ("runs", "n_targets"),
    [((1,), 1), ((3, 4), 5), ((ROWS_PER_CHUNK, 2), 7), ((100, 2 * ROWS_PER_CHUNK, 30), TARGETS_PER_SHARD + 3)],
    ids=["one number", "less than a chunk", "a whole chunk", "several shards"],
)
def test_responses_written_run_after_run_are_zarrs_bytes(runs: tuple[int, ...], n_targets: int, tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((sum(runs), n_targets)).astype(np.float32)
    coords = {"segment": ("time", string_coordinate(["a01"] * len(values))), "target": np.arange(n_targets)}
    labels = xr.Dataset(coords=coords, attrs=provenance("brain", {"subject": "sub-01"}, ()))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    files = RowShardFiles(scratch, n_targets)
    for run in np.split(values, np.cumsum(runs)[:-1]):
        for block in files.blocks:
            files.append(block, run[:, block])
    write_responses(tmp_path / "ours.zarr", labels, files)
    write_cube(tmp_path / "zarrs.zarr", labels.assign(bold=(("time", "target"), values)))
    ours, zarrs = (
        {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        for folder in (tmp_path / "ours.zarr", tmp_path / "zarrs.zarr")
    )
    assert ours == zarrs
    assert not list(scratch.iterdir())
