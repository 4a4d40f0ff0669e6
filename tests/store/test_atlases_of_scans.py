"""Brain cubes of every kind with atlases of their kind, and maps of them for other viewers."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from cinecube.analysis.maps.export import export_map
from cinecube.store.cube.cubes import open_cube
from cinecube.store.verify.find_cubes import verify_cube

from .scan_tree import Tree
from .test_atlases import dlabel, pair
from .test_sources_of_scans import MADE, N_BELOW, N_LEFT, N_RIGHT, _as_cifti, _as_gifti, _grayordinates

pytestmark = pytest.mark.usefixtures("bounded")

NAMES = {1: "L_A", 2: "L_B", 3: "R_A", 4: "R_B", 5: "thalamus"}


def _keys() -> np.ndarray:
    """Of each grayordinate: the first ten of each side belong to A, the next to B."""
    left, right = (np.r_[np.full(10, 1), np.full(n - 10, 2)] for n in (N_LEFT, N_RIGHT))
    return np.concatenate([left, right + 2, np.full(N_BELOW, 5)])


@pytest.fixture
def gray(tree: Tree) -> Tree:
    """Dense series, and an atlas with the sides the other way round."""
    _as_cifti(tree)
    order = np.r_[N_LEFT : N_LEFT + N_RIGHT, 0:N_LEFT, N_LEFT + N_RIGHT : N_LEFT + N_RIGHT + N_BELOW]
    dlabel(tree.root / "mine.dlabel.nii", _grayordinates()[order], _keys()[order], {0: "???", **NAMES})
    tree.brain(atlas="mine.dlabel.nii")
    return tree


def test_grayordinates_know_their_parcels(gray: Tree) -> None:
    assert gray.cube()["parcel"].tolist() == [NAMES[key] for key in _keys()]
    assert verify_cube(gray.root / "data/brain/sub-01.zarr") == []


def test_a_map_of_scans_needs_no_reference(gray: Tree, tmp_path: Path) -> None:
    gray.cube()
    with open_cube(gray.root / "data/brain/sub-01.zarr") as cube:
        (path,) = export_map(cube["bold"][3].drop_vars(["segment"]), cube.attrs, tmp_path / "m.dscalar.nii")
        expected = cube["bold"][3].values
    assert nib.load(path).header.get_axis(1) == _grayordinates()
    np.testing.assert_array_equal(nib.load(path).get_fdata(dtype=np.float32)[0], expected)


def test_a_map_of_parcels_of_grayordinates_lies_on_its_side(gray: Tree, tmp_path: Path) -> None:
    gray.brain(targets="parcels")
    found = gray.cube()
    assert found["parcel"].tolist() == list(NAMES.values())
    assert found["hemi"].tolist()[:4] == ["L", "L", "R", "R"]
    with open_cube(gray.root / "data/brain/sub-01.zarr") as cube:
        values = cube["bold"][3].drop_vars(["segment"])
        (path,) = export_map(values, cube.attrs, tmp_path / "m.dscalar.nii", atlas=gray.root / "mine.dlabel.nii")
    image, worth = nib.load(path), dict(zip(NAMES.values(), found["bold"][3], strict=True))
    axis, data = image.header.get_axis(1), image.get_fdata(dtype=np.float32)[0]
    own = _grayordinates()
    where = {(str(own.name[row]), int(own.vertex[row])): NAMES[key] for row, key in enumerate(_keys())}
    for row, value in enumerate(data):
        name = where[str(axis.name[row]), int(axis.vertex[row])]
        assert value == worth[name]


def test_surfaces_know_their_parcels(tree: Tree, tmp_path: Path) -> None:
    _as_gifti(tree)
    left, right = np.arange(60) % 3, np.arange(60) // 20
    pair(tree.root / "atlas", "annot", left, right, {"L": ["???", "V1", "V2"], "R": ["???", "V1", "V2"]})
    tree.brain(atlas="atlas")
    expected = [("", "L_V1", "L_V2")[k] for k in left] + [("", "R_V1", "R_V2")[k] for k in right]
    assert tree.cube()["parcel"].tolist() == expected
    with open_cube(tree.root / "data/brain/sub-01.zarr") as cube:
        paths = export_map(cube["bold"][3].drop_vars(["segment"]), cube.attrs, tmp_path / "m.func.gii")
        values = cube["bold"][3].values
    for path, own in zip(paths, np.split(values, 2), strict=True):
        np.testing.assert_array_equal(nib.load(path).darrays[0].data, own)


@pytest.mark.parametrize("kind", ["CIFTI", "GIFTI"])
def test_a_volume_for_scans_without_voxels_is_one_line(tree: Tree, kind: str) -> None:
    MADE[kind](tree)
    tree.brain(atlas="atlas.nii.gz")
    places = {"CIFTI": "grayordinates", "GIFTI": "vertices"}[kind]
    assert f"atlas.nii.gz: found an atlas of voxels, expected one of {places}, as the scans in fs" in tree.error(
        "brain", "sub-01"
    )
