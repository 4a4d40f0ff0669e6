"""Maps as NIfTI, GIFTI, CIFTI and CSV: what nibabel reads back is what the cube holds, at the same places."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from nibabel.cifti2 import BrainModelAxis, Cifti2Image, ScalarAxis, SeriesAxis
from nibabel.gifti import GiftiImage
from nilearn.datasets import load_fsaverage
from nilearn.image import coord_transform, load_img
from nilearn.surface import SurfaceImage

from cinecube.analysis.maps.export import export_map, to_cifti, to_gifti, to_nifti, to_table
from cinecube.store.base.errors import StudyError
from cinecube.store.params.document import BrainParams, parse
from cinecube.store.scans.source import ScanRun
from cinecube.store.scans.volumes import Volumes
from cinecube.store.spaces.brain_models import places_of_models
from cinecube.store.spaces.space import Surface, space_attrs, space_of
from cinecube.store.spaces.targets import Targets, find_targets

# Oblique and unequal: neither a swap of axes nor a flip can hide.
AFFINE = np.array([[-2.0, 0.1, 0, 9], [0.1, 2.5, 0.2, -11], [0, -0.2, 3.0, -6], [0, 0, 0, 1]])
SHAPE = (9, 8, 5)
SPACE = "MNI152NLin2009cAsym"
SURFACE = "fsaverage3"
N = 642


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A run and its mask."""
    rng = np.random.default_rng(0)
    mask = rng.random(SHAPE) < 0.4
    stem = tmp_path / "sub-01_task-amber01_space-x"
    nib.save(nib.Nifti1Image(np.zeros((*SHAPE, 2), np.int16), AFFINE), f"{stem}_desc-preproc_bold.nii.gz")
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), AFFINE), f"{stem}_desc-brain_mask.nii.gz")
    return tmp_path


def found_targets(scans: Path) -> Targets:
    """Voxels as the `brain` stage finds them."""
    params = parse(BrainParams, {"path": ".", "subjects": ["sub-01"]}, "brain")
    path = scans / "sub-01_task-amber01_space-x_desc-preproc_bold.nii.gz"
    places = Volumes(params, "sub-01", [path]).places([ScanRun("sub-01", "amber01", 1, "", (path,))])
    return find_targets(places, None, "sub-01", parcels=False)


ATTRS = {"space": SPACE, "targets": "voxels", "affine": json.dumps(AFFINE.tolist()), "shape": json.dumps(list(SHAPE))}


def as_map(targets: Targets, seed: int = 1) -> xr.DataArray:
    """A drawn value per target, one of them unknown, labelled as cubes are."""
    values = np.random.default_rng(seed).normal(size=len(targets.index))
    values[2] = np.nan
    coords = {
        "target": targets.index.astype(np.int64),
        "hemi": ("target", targets.hemi),
        "parcel": ("target", targets.parcel),
        **{f"{axis}_mm": ("target", targets.xyz_mm[:, i]) for i, axis in enumerate("xyz")},
    }
    return xr.DataArray(values, dims="target", coords=coords, name="score")


@pytest.fixture
def voxels(scans: Path) -> xr.DataArray:
    return as_map(found_targets(scans))


def surface_map(target: np.ndarray, seed: int = 2) -> xr.DataArray:
    values = np.random.default_rng(seed).normal(size=len(target))
    values[0] = np.nan
    hemi = np.array(["L" if number < N else "R" for number in target], dtype=object)
    parcel = np.array(["L_V1" if number < 100 else "" for number in target], dtype=object)
    coords = {"target": target, "hemi": ("target", hemi), "parcel": ("target", parcel)}
    return xr.DataArray(values, dims="target", coords=coords)


SURFACE_ATTRS = {"space": SURFACE, "targets": "vertices"}


# --- volumes


def test_a_volume_holds_each_value_where_its_voxel_lies(voxels: xr.DataArray, tmp_path: Path) -> None:
    """Judged by the millimetres the cube records, not by the index that the export used."""
    assert export_map(voxels, ATTRS, tmp_path / "m.nii.gz") == [tmp_path / "m.nii.gz"]
    image = nib.load(tmp_path / "m.nii.gz")
    assert isinstance(image, nib.Nifti1Image)
    assert image.shape == SHAPE
    assert image.get_data_dtype() == np.float32
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-6)
    assert int(image.header["sform_code"]) == 4
    assert image.header.get_xyzt_units()[0] == "mm"
    assert b"NaN" in image.header["descrip"].tobytes()
    data, seen = image.get_fdata(dtype=np.float32), np.zeros(SHAPE, bool)
    for value in voxels:
        millimetres = [float(value[f"{axis}_mm"]) for axis in "xyz"]
        ijk = tuple(np.rint(np.linalg.inv(AFFINE) @ [*millimetres, 1])[:3].astype(int))
        np.testing.assert_array_equal(data[ijk], np.float32(value))
        seen[ijk] = True
    assert seen.sum() == voxels.sizes["target"]
    assert np.isnan(data[~seen]).all()
    assert np.isnan(data).sum() == (~seen).sum() + 1


def test_a_subject_s_own_space_is_not_called_standard(voxels: xr.DataArray) -> None:
    assert int(to_nifti(voxels, ATTRS | {"space": "T1w"}).header["sform_code"]) == 2


def test_any_order_and_any_part_of_the_targets_gives_the_same_places(voxels: xr.DataArray) -> None:
    whole = to_nifti(voxels, ATTRS).get_fdata()
    shuffled = voxels.isel(target=np.random.default_rng(3).permutation(voxels.sizes["target"]))
    np.testing.assert_array_equal(to_nifti(shuffled, ATTRS).get_fdata(), whole)
    part = to_nifti(voxels.isel(target=slice(0, 10)), ATTRS).get_fdata()
    assert np.isfinite(part).sum() == 9
    np.testing.assert_array_equal(part[np.isfinite(part)], whole[np.isfinite(part)])


def test_a_map_of_a_score_cube_is_written_as_it_comes(voxels: xr.DataArray, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    dims, n = ("subject", "model", "layer", "target"), voxels.sizes["target"]
    cube = xr.Dataset(
        {name: (dims, rng.normal(size=(2, 1, 3, n)).astype(np.float32)) for name in ("score", "cv_score")},
        coords={"model": ["vit"], **voxels.coords},
        attrs=ATTRS,
    )
    export_map(cube["score"].isel(subject=1, model=0, layer=2), cube.attrs, tmp_path / "m.nii.gz")
    expected = cube["score"].values[1, 0, 2]
    data = nib.load(tmp_path / "m.nii.gz").get_fdata()
    np.testing.assert_allclose(data.ravel()[voxels["target"].values], expected, rtol=1e-6)


def test_targets_numbered_in_another_order_are_refused(voxels: xr.DataArray) -> None:
    """Fortran order gives a plausible, wrong map: only the recorded places tell."""
    ijk = np.unravel_index(voxels["target"].values, SHAPE)
    wrong = voxels.assign_coords(target=np.ravel_multi_index(ijk, SHAPE, order="F"))
    with pytest.raises(StudyError, match="where its number is"):
        to_nifti(wrong, ATTRS)


# --- surfaces


@pytest.mark.parametrize(
    ("suffix", "intent"), [(".func.gii", "NIFTI_INTENT_NONE"), (".shape.gii", "NIFTI_INTENT_SHAPE")]
)
def test_a_surface_holds_each_value_at_its_vertex(tmp_path: Path, suffix: str, intent: str) -> None:
    values = surface_map(np.random.default_rng(5).permutation(2 * N)[:900])
    left, right = export_map(values, SURFACE_ATTRS, tmp_path / f"vit.best{suffix}")
    assert (left.name, right.name) == (f"vit.best.hemi-L{suffix}", f"vit.best.hemi-R{suffix}")
    read = {}
    for hemi, path, structure in (("L", left, "CortexLeft"), ("R", right, "CortexRight")):
        image = nib.load(path)
        assert isinstance(image, GiftiImage)
        assert image.meta["AnatomicalStructurePrimary"] == structure
        (array,) = image.darrays
        assert nib.nifti1.intent_codes.niistring[array.intent] == intent
        assert "NaN" in array.meta["Description"]
        assert array.data.dtype == np.float32
        read[hemi] = array.data
    expected = {hemi: np.full(N, np.nan, np.float32) for hemi in "LR"}
    for value in values:
        number, hemi = int(value["target"]), str(value["hemi"].item())
        expected[hemi][number - (N if hemi == "R" else 0)] = np.float32(value)
    for hemi in "LR":
        np.testing.assert_array_equal(read[hemi], expected[hemi])


def test_the_paper_s_space_is_both_hemispheres_left_first() -> None:
    values = surface_map(np.array([0, 40961, 40962, 81923])).drop_vars(["hemi", "parcel"]).copy(data=[1, 2, 3, 4])
    images = to_gifti(values, {"space": "fsaverage6"})
    left, right = (images[hemi].darrays[0].data for hemi in "LR")
    assert left.shape == right.shape == (40962,)
    assert (left[0], left[-1], right[0], right[-1]) == (1, 2, 3, 4)
    assert np.isfinite(left).sum() == np.isfinite(right).sum() == 2


def test_vertices_numbered_within_a_hemisphere_are_refused() -> None:
    values = surface_map(np.arange(5)).assign_coords(hemi=("target", np.array(["R"] * 5, dtype=object)))
    with pytest.raises(StudyError, match="target 0: found hemisphere R, expected L"):
        to_gifti(values, SURFACE_ATTRS)


# --- grayordinates

CIFTI_ATTRS = {"space": "fsLR-91k", "targets": "grayordinates"}
VOLUME = (91, 109, 91)
LAS = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def grayordinates() -> BrainModelAxis:
    """As many vertices and voxels as the standard space has, drawn rather than the real ones."""
    rng = np.random.default_rng(6)
    parts = []
    for side, count in (("left", 29696), ("right", 29716)):
        mask = np.zeros(32492, bool)
        mask[rng.permutation(32492)[:count]] = True
        parts.append(BrainModelAxis.from_mask(mask, f"cortex_{side}"))
    below = np.zeros(VOLUME, bool).ravel()
    below[rng.permutation(below.size)[:31870]] = True
    parts.append(BrainModelAxis.from_mask(below.reshape(VOLUME), "brain_stem", LAS))
    whole = parts[0] + parts[1] + parts[2]
    assert len(whole) == 91282
    return whole


@pytest.fixture(scope="module")
def reference(grayordinates: BrainModelAxis, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "sub-01_task-amber01_space-fsLR_den-91k_bold.dtseries.nii"
    series = SeriesAxis(0, 1.49, 2)
    nib.save(Cifti2Image(np.zeros((2, 91282), np.float32), (series, grayordinates)), path)
    return path


def gray_map(axis: BrainModelAxis, target: np.ndarray) -> xr.DataArray:
    """A map with the hemispheres and places that a cube of these grayordinates would have."""
    hemi = [
        {"CORTEX_LEFT": "L", "CORTEX_RIGHT": "R"}.get(str(n).removeprefix("CIFTI_STRUCTURE_"), "") for n in axis.name
    ]
    places = nib.affines.apply_affine(LAS, axis.voxel).astype(float)
    places[~axis.volume_mask] = np.nan
    coords = {
        "target": np.arange(len(axis)),
        "hemi": ("target", np.array(hemi, dtype=object)),
        **{f"{name}_mm": ("target", places[:, i]) for i, name in enumerate("xyz")},
    }
    values = np.random.default_rng(7).normal(size=len(axis))
    values[17] = np.nan
    return xr.DataArray(values, dims="target", coords=coords, name="score").isel(target=target)


def test_cifti_holds_each_value_at_its_grayordinate(
    grayordinates: BrainModelAxis, reference: Path, tmp_path: Path
) -> None:
    target = np.random.default_rng(8).permutation(91282)[:80000]
    values = gray_map(grayordinates, target)
    (path,) = export_map(values, CIFTI_ATTRS, tmp_path / "m.dscalar.nii", reference=reference)
    image = nib.load(path)
    assert isinstance(image, Cifti2Image)
    assert image.nifti_header.get_intent()[0] == "ConnDenseScalar"
    assert image.nifti_header.get_data_dtype() == np.float32
    scalar, axis = (image.header.get_axis(i) for i in (0, 1))
    assert isinstance(scalar, ScalarAxis)
    assert scalar.name.tolist() == ["score"]
    assert axis == grayordinates
    expected = np.full(91282, np.nan, np.float32)
    expected[target] = values.values
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), expected[None])


def test_a_reference_with_voxels_in_another_order_is_refused(grayordinates: BrainModelAxis) -> None:
    """fMRIPrep up to 23.1.1 orders them otherwise inside a structure; count and names are the same."""
    order = np.arange(91282)
    voxels = np.flatnonzero(grayordinates.volume_mask)
    order[voxels] = voxels[np.lexsort(grayordinates.voxel[voxels].T)]
    other = Cifti2Image(np.zeros((1, 91282), np.float32), (ScalarAxis(["x"]), grayordinates[order]))
    with pytest.raises(StudyError, match="where its number is"):
        to_cifti(gray_map(grayordinates, np.arange(91282)), CIFTI_ATTRS, other)


def test_a_reference_with_the_hemispheres_swapped_is_refused(grayordinates: BrainModelAxis) -> None:
    right_first = np.r_[29696 : 29696 + 29716, 0:29696, 29696 + 29716 : 91282]
    other = Cifti2Image(np.zeros((1, 91282), np.float32), (ScalarAxis(["x"]), grayordinates[right_first]))
    with pytest.raises(StudyError, match="found hemisphere L, expected R"):
        to_cifti(gray_map(grayordinates, np.arange(91282)), CIFTI_ATTRS, other)


def test_cifti_without_its_reference_says_what_is_missing(tmp_path: Path) -> None:
    values = surface_map(np.arange(5)).drop_vars("hemi")
    with pytest.raises(StudyError, match="no reference.*dtseries"):
        export_map(values, CIFTI_ATTRS, tmp_path / "m.dscalar.nii")


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda path: path.write_bytes(b"no image"), "unreadable"),
        (lambda path: nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4)), path), "Nifti1Image"),
        (lambda path: None, "unreadable"),
    ],
)
def test_a_reference_of_another_kind_is_refused(tmp_path: Path, make: Callable[[Path], object], found: str) -> None:
    make(tmp_path / "run.nii")
    values = surface_map(np.arange(5)).drop_vars("hemi")
    with pytest.raises(StudyError, match=found):
        export_map(values, CIFTI_ATTRS, tmp_path / "m.dscalar.nii", reference=tmp_path / "run.nii")


def test_a_reference_of_another_size_is_refused(grayordinates: BrainModelAxis) -> None:
    cortex = Cifti2Image(np.zeros((1, 29696), np.float32), (ScalarAxis(["x"]), grayordinates[:29696]))
    with pytest.raises(StudyError, match="29696 entries of a BrainModelAxis, expected 91282"):
        to_cifti(surface_map(np.arange(5)), CIFTI_ATTRS, cortex)


def test_a_cube_that_says_its_places_needs_no_reference(grayordinates: BrainModelAxis, tmp_path: Path) -> None:
    """An asymmetric pattern, some rows absent and all in disorder: nibabel and nilearn find it on its own side."""
    places = places_of_models(grayordinates, "fsLR-91k")
    target = np.random.default_rng(12).permutation(91282)[:70000]
    worth = np.where(places.hemi == "L", 1.0, -1.0) * (1 + places.coordinates["vertex"] % 7)
    labels = {**places.coordinates, "hemi": places.hemi, "x_mm": places.xyz_mm[:, 0]}
    coords = {"target": places.index, **{name: ("target", values) for name, values in labels.items()}}
    values = xr.DataArray(worth, dims="target", coords=coords, name="score").isel(target=target)
    (path,) = export_map(values, space_attrs(places.space), tmp_path / "m.dscalar.nii")
    image = nib.load(path)
    axis, data = image.header.get_axis(1), image.get_fdata()[0]
    assert axis == grayordinates[np.sort(target)]
    np.testing.assert_array_equal(data, worth[np.sort(target)])
    left = axis.name == "CIFTI_STRUCTURE_CORTEX_LEFT"
    assert (data[left] > 0).all()
    assert (data[axis.name == "CIFTI_STRUCTURE_CORTEX_RIGHT"] < 0).all()


def test_an_asymmetric_surface_stays_on_its_side_in_nilearn(tmp_path: Path) -> None:
    space = Surface("fsaverage5", (10242, 10242))
    index = np.arange(space.size)
    coords = {"target": index, "hemi": ("target", space.hemi(index))}
    values = xr.DataArray(np.where(index < 10242, index, -index).astype(float), dims="target", coords=coords)
    left, right = export_map(values, space_attrs(space), tmp_path / "m.func.gii")
    image = SurfaceImage(load_fsaverage("fsaverage5")["pial"], {"left": left, "right": right})
    np.testing.assert_array_equal(image.data.parts["left"].ravel(), np.arange(10242))
    np.testing.assert_array_equal(image.data.parts["right"].ravel(), -np.arange(10242, 20484))


def test_an_asymmetric_volume_stays_on_its_side_in_nilearn(voxels: xr.DataArray, tmp_path: Path) -> None:
    space = space_of(ATTRS)
    (path,) = export_map(voxels.copy(data=voxels["x_mm"].values), space_attrs(space), tmp_path / "m.nii.gz")
    image = load_img(path)
    i, j, k = np.nonzero(np.isfinite(image.get_fdata()))
    x_mm = np.array(coord_transform(i, j, k, image.affine)[0])
    assert (x_mm < 0).any()
    np.testing.assert_allclose(image.get_fdata()[i, j, k], x_mm, atol=1e-4)


# --- tables


@pytest.mark.parametrize("attrs", [SURFACE_ATTRS, CIFTI_ATTRS, {"targets": "parcels"}, {"space": SPACE}])
def test_a_table_keeps_labels_and_values_to_the_letter(tmp_path: Path, attrs: dict[str, str]) -> None:
    labels = ["NA", "L_44", "", 'a, "b"', "Überall"]
    values = np.array([0.1, 1 / 3, np.nan, -1e-8, 12345.678])
    coords = {
        "target": np.array([5, 3, 9, 1, 2**40]),
        "hemi": ("target", np.array(["L", "L", "", "R", "R"], dtype=object)),
        "parcel": ("target", np.array(labels, dtype=object)),
    }
    (path,) = export_map(xr.DataArray(values, dims="target", coords=coords), attrs, tmp_path / "m.csv")
    read = pd.read_csv(path, keep_default_na=False, na_values={"value": [""]}, encoding="utf-8")
    assert read.columns.tolist() == ["target", "hemi", "parcel", "value"]
    assert read["target"].tolist() == [5, 3, 9, 1, 2**40]
    assert read["hemi"].tolist() == ["L", "L", "", "R", "R"]
    assert read["parcel"].tolist() == labels
    np.testing.assert_array_equal(read["value"].to_numpy(np.float32), values.astype(np.float32))
    assert path.read_text(encoding="utf-8").splitlines()[1:3] == ["5,L,NA,0.1", "3,L,L_44,0.33333334"]


def test_a_table_of_a_map_without_labels_has_empty_ones() -> None:
    bare = xr.DataArray([1.0, 2.0], dims="target", coords={"target": [4, 2]})
    table = to_table(bare)
    assert table.to_dict("list") == {"target": [4, 2], "hemi": ["", ""], "parcel": ["", ""], "value": [1.0, 2.0]}
