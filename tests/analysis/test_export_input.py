"""What `export_map` refuses, in one line and without touching what stood there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from cinecube.analysis.maps.export import export_map, to_gifti
from cinecube.store.base.errors import StudyError

pytestmark = pytest.mark.usefixtures("bounded")

N = 642
SURFACE_ATTRS = {"space": "fsaverage3", "targets": "vertices"}
CIFTI_ATTRS = {"space": "fsLR-91k", "targets": "grayordinates"}


def volume_attrs(targets: str = "voxels") -> dict[str, Any]:
    affine, shape = json.dumps(np.eye(4).tolist()), "[9, 8, 5]"
    return {"space": "MNI152NLin2009cAsym", "targets": targets, "affine": affine, "shape": shape}


def plain_map(target: np.ndarray) -> xr.DataArray:
    return xr.DataArray(np.linspace(0, 1, len(target)), dims="target", coords={"target": target})


@pytest.fixture
def voxels() -> xr.DataArray:
    return plain_map(np.arange(100, 200))


@pytest.mark.parametrize(
    ("name", "attrs", "expected"),
    [
        ("m.nii", volume_attrs(), "one ending in .nii.gz"),
        ("m.gii", SURFACE_ATTRS, "one ending in"),
        ("m", SURFACE_ATTRS, "one ending in"),
        (".csv", SURFACE_ATTRS, "one ending in"),
        ("m.func.gii", volume_attrs(), ".nii.gz or .csv; rename"),
        ("m.dscalar.nii", volume_attrs(), ".nii.gz or .csv; rename"),
        ("m.nii.gz", SURFACE_ATTRS, ".func.gii or .shape.gii or .csv; rename"),
        ("m.shape.gii", CIFTI_ATTRS, ".dscalar.nii or .csv; rename"),
        ("m.nii.gz", volume_attrs("parcels"), "expected .csv; give the atlas to paint the parcels with, or rename"),
        ("m.dscalar.nii", CIFTI_ATTRS | {"targets": "parcels"}, "expected .csv; give the atlas"),
    ],
)
def test_a_suffix_that_does_not_suit_is_refused_in_one_line(
    tmp_path: Path, name: str, attrs: dict[str, Any], expected: str
) -> None:
    with pytest.raises(StudyError, match=expected.replace(".", r"\.")) as caught:
        export_map(plain_map(np.arange(3)), attrs, tmp_path / name)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda v: v.expand_dims(subject=["sub-01"]), "axes subject, target"),
        (lambda v: v.isel(target=0), "axes none"),
        (lambda v: v.drop_vars("target"), "axes target"),
        (lambda v: xr.concat([v, v[:1]], "target"), "a target twice"),
    ],
)
@pytest.mark.parametrize("suffix", [".nii.gz", ".csv"])
def test_a_map_that_is_none_is_refused(
    voxels: xr.DataArray, tmp_path: Path, suffix: str, change: Callable[[xr.DataArray], xr.DataArray], found: str
) -> None:
    with pytest.raises(StudyError, match=found):
        export_map(change(voxels), volume_attrs(), tmp_path / f"m{suffix}")


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.pop("affine"),
        lambda a: a.pop("shape"),
        lambda a: a.update(shape="[9, 8]"),
        lambda a: a.update(affine="[[1, 0], [0, 1]]"),
        lambda a: a.update(affine="not json"),
        lambda a: a.update(shape="{}"),
        lambda a: a.update(shape=None),
    ],
)
def test_a_cube_without_its_grid_is_refused(
    voxels: xr.DataArray, tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    attrs = volume_attrs()
    change(attrs)
    with pytest.raises(StudyError, match="no usable description of its space MNI152NLin2009cAsym"):
        export_map(voxels, attrs, tmp_path / "m.nii.gz")


@pytest.mark.parametrize("shift", [300, -101])
def test_voxels_outside_the_grid_are_refused(voxels: xr.DataArray, tmp_path: Path, shift: int) -> None:
    with pytest.raises(StudyError, match="expected 0 to 359"):
        export_map(voxels.assign_coords(target=voxels["target"] + shift), volume_attrs(), tmp_path / "m.nii.gz")


def test_vertices_beyond_the_surface_are_refused() -> None:
    with pytest.raises(StudyError, match="0 to 1283"):
        to_gifti(plain_map(np.array([0, 2 * N])), SURFACE_ATTRS)
    with pytest.raises(StudyError, match="found a map of voxels, expected one of vertices"):
        to_gifti(plain_map(np.arange(3)), volume_attrs())


def test_what_stood_there_stays_until_all_is_well(voxels: xr.DataArray, tmp_path: Path) -> None:
    path = tmp_path / "m.nii.gz"
    export_map(voxels, volume_attrs(), path)
    before = path.read_bytes()
    with pytest.raises(StudyError):
        export_map(voxels, volume_attrs() | {"shape": "[2, 2, 2]"}, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.glob("*m.nii.gz*")] == ["m.nii.gz"]


def test_a_folder_is_never_replaced(voxels: xr.DataArray, tmp_path: Path) -> None:
    (tmp_path / "kept.csv").mkdir()
    with pytest.raises(StudyError, match="a folder"):
        export_map(voxels, volume_attrs(), tmp_path / "kept.csv")
    (tmp_path / "m.hemi-R.func.gii").mkdir()
    with pytest.raises(StudyError, match="a folder"):
        export_map(plain_map(np.arange(3)), SURFACE_ATTRS, tmp_path / "m.func.gii")
    assert not (tmp_path / "m.hemi-L.func.gii").exists()


@pytest.mark.parametrize("suffix", [".nii.gz", ".csv"])
def test_the_same_map_gives_the_same_bytes(voxels: xr.DataArray, tmp_path: Path, suffix: str) -> None:
    first, second = tmp_path / f"a{suffix}", tmp_path / "new" / f"b{suffix}"
    for path in (first, second):
        export_map(voxels, volume_attrs(), path)
    assert first.read_bytes() == second.read_bytes()
