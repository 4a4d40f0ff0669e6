"""What is read of a cube is numbers, or an error: never NaN of a file that is empty, nor NaN that no writer leaves."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

from cinecube.store.base.errors import StudyError
from cinecube.store.cube.cubes import open_cube, read_values, write_cube
from cinecube.store.cube.schema import string_coordinate
from cinecube.store.dvc.dvc_index import open_index
from cinecube.store.dvc.dvc_zarr import dvc_zarr_store
from cinecube.store.dvc.pulling import PulledCubes, pull_layers
from cinecube.store.open.revision import RevisionCubes

from .verified import KINDS, SHARD, files, track, write_features

NAN = float("nan")


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_or_short_file_of_any_array_is_refused_where_it_is_read(kind: str, tmp_path: Path) -> None:
    cube = KINDS[kind](tmp_path / "cube.zarr")
    for name, data in files(cube).items():
        if "/c/" not in name:
            continue
        for broken in (b"", data[: len(data) // 2]):
            (cube / name).write_bytes(broken)
            with pytest.raises(StudyError, match=name.split("/")[0]):
                open_cube(cube, complete=False)[name.split("/")[0]].values  # noqa: B018
        (cube / name).write_bytes(data)


@pytest.mark.parametrize(
    "part",
    [
        {"layer": 1, "model": 0},
        {"layer": 1, "model": 0, "time": slice(3, 9)},
        {"layer": [0, 1], "model": [0], "time": [4, 2]},
        {"layer": xr.DataArray([1, 1], dims="x"), "model": xr.DataArray([0, 0], dims="x")},
    ],
    ids=["layer", "rows", "lists", "points"],
)
def test_an_empty_shard_is_refused_by_any_selection(part: dict[str, Any], tmp_path: Path) -> None:
    cube = write_features(tmp_path / "cube.zarr")
    (cube / SHARD).write_bytes(b"")
    with pytest.raises(StudyError, match="found an empty shard of m.video block01"):
        open_cube(cube)
    opened = open_cube(cube, complete=False)["features"]
    for lazy in (opened, opened.chunk({"layer": 1})):
        with pytest.raises(StudyError, match=f"an empty {SHARD}"):
            lazy.isel(part).values  # noqa: B018


def test_empty_objects_in_the_cache_and_in_the_remote(tmp_path: Path) -> None:
    root, remote = tmp_path / "study", tmp_path / "remote"
    cube = write_features(root / "cube.zarr")
    track(root, remote)
    item = open_index(root).folder("cube.zarr").files[SHARD]
    object_ = f"files/md5/{item.oid[:2]}/{item.oid[2:]}"
    cached = root / ".dvc/cache" / object_
    shutil.rmtree(cube)

    def empty(file: Path) -> None:
        file.unlink()
        file.write_bytes(b"")

    def readers() -> list[xr.DataArray]:
        index = open_index(root)
        plain = xr.open_zarr(dvc_zarr_store(root, "cube.zarr"), chunks=None)
        return [RevisionCubes(index).open(Path("cube.zarr"))["features"], plain["features"]]

    empty(cached)
    for features in readers():
        assert np.isfinite(features.isel(model=0, layer=0).values).all()
        with pytest.raises(StudyError, match="empty object|no whole object|an empty"):
            features.isel(model=0, layer=1).values  # noqa: B018
    with pytest.raises(StudyError, match="no shard of m.video block01"):
        PulledCubes(root).open(cube, "m.video", "block01", "cube")
    assert pull_layers(open_index(root), "cube.zarr").files == 1  # what is not whole is fetched again
    pulled = PulledCubes(root).open(cube, "m.video", "block01", "cube")
    assert pulled is not None
    assert np.isfinite(pulled["features"].isel(model=0, layer=1).values).all()
    cached.unlink()
    empty(remote / object_)
    for features in readers():
        with pytest.raises(StudyError):
            features.isel(model=0, layer=1).values  # noqa: B018
    with pytest.raises(StudyError):
        pull_layers(open_index(root), "cube.zarr")


def _set(cube: Path, name: str, at: Any, value: float) -> None:
    """Write a value as a program would, with a right checksum."""
    zarr.open_group(cube, mode="r+", use_consolidated=False)[name][at] = value  # type: ignore[index]


@pytest.mark.parametrize("value", [NAN, np.inf])
def test_what_is_not_finite_inside_the_width_is_refused(value: float, tmp_path: Path) -> None:
    cube = write_features(tmp_path / "cube.zarr")
    _set(cube, "features", (7, 3, 0, 2), value)
    features = open_cube(cube)["features"]
    for part in (
        features,
        features.isel(model=0, layer=2),
        features.isel(model=0, layer=2, dim=slice(0, 6)),
        features.isel(model=[0, 1], layer=[2], dim=[3]),
        features.isel(time=xr.DataArray([7, 1], dims="x"), dim=xr.DataArray([3, 0], dims="x")),
        features.chunk({"layer": 1}),
    ):
        with pytest.raises(StudyError, match="1 values that are NaN or infinite|features"):
            read_values(part, "vit")
    assert np.isfinite(features.isel(model=0, layer=1).values).all()


def test_past_the_width_and_where_a_layer_never_was_there_is_nan(tmp_path: Path) -> None:
    features = open_cube(write_features(tmp_path / "cube.zarr"))["features"]
    assert np.isnan(features.isel(model=1, layer=slice(1, None)).values).all()
    assert np.isnan(features.isel(model=0, layer=2, dim=slice(6, None)).values).all()
    assert np.isfinite(features.isel(model=0, layer=2, dim=slice(6)).values).all()
    assert np.isnan(features.isel(dim=[7, 2], model=xr.DataArray([0, 0], dims="x")).values).sum() == 2 * 50


@pytest.mark.parametrize(
    ("at", "value", "explained"),
    [((7, 3), NAN, False), ((slice(4, 9), 3), NAN, False), ((7, 3), np.inf, False), ((slice(None), 3), NAN, True)],
    ids=["one", "some rows", "infinity", "a target"],
)
def test_a_target_of_bold_is_nan_in_all_rows_or_in_none(at: Any, value: float, explained: bool, tmp_path: Path) -> None:
    cube = open_cube(KINDS["brain"](tmp_path / "first.zarr")).load().drop_encoding()
    values = cube["bold"].values.copy()
    values[at] = value
    write_cube(tmp_path / "cube.zarr", cube.assign(bold=cube["bold"].copy(data=values)))
    bold = open_cube(tmp_path / "cube.zarr")["bold"]
    for part in ({}, {"target": [2, 3]}, {"target": slice(3, 4)}):
        if explained:
            np.testing.assert_array_equal(bold.isel(part).values, values[:, part.get("target", slice(None))])
        else:
            with pytest.raises(StudyError, match="bold: found . values that are NaN or infinite"):
                bold.isel(part).values  # noqa: B018
    assert np.isfinite(bold.isel(target=[0, 1]).values).all()


@pytest.mark.parametrize(
    ("at", "explained"),
    [
        ((0, 0, 0, 3), False),
        ((0, 0, slice(None), 3), True),
        ((1, 0, 1, slice(None)), True),
        ((slice(None), 0, 1, slice(2, 4)), False),
    ],
    ids=["one", "a target", "a layer", "some targets of a layer"],
)
def test_scores_are_nan_for_a_whole_target_or_layer_or_not_at_all(at: Any, explained: bool, tmp_path: Path) -> None:
    cube = open_cube(KINDS["scores"](tmp_path / "first.zarr")).load().drop_encoding()
    values = cube["score"].values.copy()
    values[at] = NAN
    cube["score"] = cube["score"].copy(data=values)
    write_cube(tmp_path / "cube.zarr", cube)
    opened = open_cube(tmp_path / "cube.zarr")["score"]
    if explained:
        np.testing.assert_array_equal(opened.values, values)
    else:
        with pytest.raises(StudyError, match="values that are NaN"):
            opened.values  # noqa: B018


def test_labels_are_text_that_knows_what_is_missing(tmp_path: Path) -> None:
    """`idxmax`, `where` and outer joins put NaN beside labels, which numpy's own text refuses."""
    layers = ["embed", "block01"]
    scores = np.array([[0.1, 0.2], [np.nan, np.nan]], dtype=np.float32)
    coords = {"model": string_coordinate(["vit", "ast"]), "layer": string_coordinate(layers)}
    write_cube(tmp_path / "cube.zarr", xr.Dataset({"depth_r": (("model", "layer"), scores)}, coords, {"schema": 1}))
    cube = open_cube(tmp_path / "cube.zarr")
    assert all(type(label) is str for label in cube["layer"].values)
    best = cube["depth_r"].idxmax("layer")
    assert best.sel(model="vit").item().startswith("block")
    assert np.isnan(best.sel(model="ast").item())
