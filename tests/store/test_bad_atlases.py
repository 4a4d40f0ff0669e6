"""Masks and atlases as they are made and downloaded: as the plain one, or one line."""

from __future__ import annotations

import gzip
from collections.abc import Callable

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from .scan_tree import AFFINE, PARCELS, SHAPE, Tree, assert_four_parts, label_values, mask_values, save

pytestmark = pytest.mark.usefixtures("bounded")

Spoil = Callable[[Tree], object]


def _names(*rows: str, header: str = "index\tname") -> Spoil:
    return lambda t: t.names.write_text("\n".join([header, *rows]) + "\n")


def _plain_rows(**change: str) -> list[str]:
    rows = {str(number): name for number, name in enumerate(PARCELS, start=1)}
    return [f"{number}\t{name}" for number, name in (rows | {key[1:]: name for key, name in change.items()}).items()]


def _labels(change: Callable[[np.ndarray], np.ndarray], affine: np.ndarray = AFFINE) -> Spoil:
    return lambda t: save(t.atlas, change(label_values()), affine)


def _scaled(t: Tree) -> None:
    save(t.atlas, label_values() * 2)
    t.header(112, "ff", 0.5, 0, path=t.atlas)


def _nii(t: Tree) -> None:
    (t.root / "atlas.nii").write_bytes(gzip.decompress(t.atlas.read_bytes()))
    t.atlas.unlink()
    t.brain(atlas="atlas.nii")


def _in_folder(*names: str) -> Spoil:
    def spoil(t: Tree) -> None:
        (t.root / "atlases").mkdir()
        for name in names:
            (t.root / f"atlases/{name}.nii.gz").write_bytes(t.atlas.read_bytes())
            (t.root / f"atlases/{name}.tsv").write_bytes(t.names.read_bytes())
        t.brain(atlas="atlases")

    return spoil


def _csv(t: Tree) -> None:
    t.names.with_suffix(".csv").write_text(t.names.read_text().replace("\t", ","))
    t.names.unlink()


def _halved(t: Tree) -> None:
    """Voxels of half the length: each old one is eight new ones with its label."""
    fine = AFFINE @ np.diag([0.5, 0.5, 0.5, 1])
    fine[:3, 3] -= AFFINE[:3, :3] @ [0.25, 0.25, 0.25]
    save(t.atlas, label_values().repeat(2, 0).repeat(2, 1).repeat(2, 2), fine)


def _mask(change: Callable[[np.ndarray], np.ndarray], affine: np.ndarray = AFFINE) -> Spoil:
    return lambda t: save(t.mask(), change(mask_values()), affine)


SAME: dict[str, Spoil] = {
    "4-D of one volume": _labels(lambda v: v[..., None]),
    "scaled": _scaled,
    "float32": _labels(lambda v: v.astype(np.float32)),
    "float64 with rounding": _labels(lambda v: v + 1e-6),
    "uncompressed": _nii,
    "in its folder": _in_folder("atlas_dseg"),
    "a hidden file beside it": _in_folder("atlas_dseg", "._atlas_dseg"),
    "on a finer grid": _halved,
    "flipped": _labels(lambda v: v[::-1], AFFINE @ np.array([[-1, 0, 0, SHAPE[0] - 1], *np.eye(4)[1:].tolist()])),
    "axes in another order": _labels(lambda v: v.transpose(2, 0, 1), AFFINE[:, [2, 0, 1, 3]]),
    "a CSV": _csv,
    "commas in the .tsv": lambda t: t.names.write_text(t.names.read_text().replace("\t", ",")),
    "Windows": lambda t: t.names.write_bytes(b"\xef\xbb\xbf" + t.names.read_bytes().replace(b"\n", b"\r\n")),
    "numbers as floats": _names(*(row.replace("\t", ".0\t") for row in _plain_rows())),
    "a row of n/a": _names(*_plain_rows(), "n/a\tn/a"),
    "a row for 0": _names("0\tBackground", *_plain_rows()),
    "columns between and around": _names(*(f"x\t{r}\ty" for r in _plain_rows()), header="hemi\tindex\tname\tcolor"),
    "blanks around names": _names(*(row.replace("\t", "\t ") + " " for row in _plain_rows())),
    "a mask of 255": _mask(lambda v: v * np.uint8(255)),
    "a mask of floats": _mask(lambda v: v.astype(np.float32)),
    "a mask of one volume": _mask(lambda v: v[..., None]),
    "an uncompressed mask": lambda t: (
        t.mask().with_suffix("").write_bytes(gzip.decompress(t.mask().read_bytes())),
        t.mask().unlink(),
    ),
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", SAME)
def test_same_numbers(tree: Tree, plain: dict[str, np.ndarray], name: str) -> None:
    SAME[name](tree)
    found = tree.cube()
    for key in plain:
        np.testing.assert_array_equal(found[key], plain[key])


WRONG: dict[str, tuple[Spoil, str]] = {
    "no mask": (
        lambda t: t.mask().unlink(),
        r"birch01 repeat 1: found no brain mask, expected \S*_desc-brain_mask.nii.gz; fetch",
    ),
    "a mask that is not here": (
        lambda t: (t.mask().unlink(), t.mask().symlink_to("../.git/annex/objects/a.nii.gz")),
        r"found a file that was not fetched: \S*_mask.nii.gz, .*datalad get",
    ),
    "a cut mask": (
        lambda t: t.mask().write_bytes(t.mask().read_bytes()[:-9]),
        r"_mask.nii.gz: found a file that cannot be read",
    ),
    "a mask of another shape": (
        _mask(lambda v: v[:, 1:]),
        r"_mask.nii.gz: found a grid of \(6, 6, 8\) instead of \(6, 7, 8\), expected the grid of its scan",
    ),
    "a mask of another order": (
        _mask(lambda v: v.transpose(1, 0, 2), AFFINE[:, [1, 0, 2, 3]]),
        r"_mask.nii.gz: found axes ARS instead of RAS",
    ),
    "a flipped mask": (
        _mask(lambda v: v, AFFINE @ np.diag([-1, 1, 1, 1])),
        r"_mask.nii.gz: found axes LAS instead of RAS",
    ),
    "a mask elsewhere": (
        _mask(lambda v: v, AFFINE + np.eye(4, k=3) * 30),
        r"_mask.nii.gz: found a grid that is up to 30 mm elsewhere",
    ),
    "a mask of two volumes": (
        _mask(lambda v: np.stack([v, v], -1)),
        r"_mask.nii.gz: found volumes of shape \(6, 7, 8, 2\), expected a brain mask, one 3-D",
    ),
    "a mask of one slice": (
        _mask(lambda v: v[..., 0]),
        r"_mask.nii.gz: found shape \(6, 7\), expected a grid of three",
    ),
    "an empty mask": (
        _mask(lambda v: v * np.uint8(0)),
        r"_mask.nii.gz: found an empty mask, expected voxels of the brain",
    ),
    "probabilities for a mask": (
        _mask(lambda v: v * np.linspace(0, 1, 8, dtype=np.float32)),
        r"_mask.nii.gz: found 7 values from 0 to 0.85\d+, expected 0 outside, 1 inside; make it a mask",
    ),
    "a mask of NaN": (
        _mask(lambda v: np.where(v, 1, np.nan)),
        r"_mask.nii.gz: found NaN or infinity in 216 voxels, expected a brain mask",
    ),
    "a mask of 1 and 2": (
        _mask(lambda v: v + np.uint8(1)),
        r"_mask.nii.gz: found 2 values from 1 to 2, expected 0 outside",
    ),
    "masks without a voxel in common": (
        lambda t: [
            save(t.mask(s), mask_values() * (np.arange(8) % 2 == (s == "birch01")))
            for s in ("amber01_run-1", "birch01")
        ],
        r"birch01 repeat 1: found no voxel of its mask in those of the runs before",
    ),
    "no atlas": (lambda t: t.atlas.unlink(), r"atlas.nii.gz: found no such file"),
    "an atlas that is not fetched": (
        lambda t: (t.atlas.unlink(), t.atlas.symlink_to(".git/annex/objects/a.nii.gz")),
        r"atlas.nii.gz: found a link to a file that is not here, .*datalad get",
    ),
    "an empty folder": (_in_folder(), r"atlases: found 0 parcellations, expected one"),
    "two in a folder": (
        _in_folder("a_dseg", "b_dseg"),
        r"atlases: found 2 parcellations \(a_dseg.nii.gz, b_dseg.nii.gz\), expected one.*set brain.atlas",
    ),
    "a cut atlas": (
        lambda t: t.atlas.write_bytes(t.atlas.read_bytes()[:-20]),
        r"atlas.nii.gz: found a file that cannot be read",
    ),
    "a text": (lambda t: t.atlas.write_text("atlas"), r"atlas.nii.gz: found a file that cannot be read"),
    "a surface": (
        lambda t: (nib.save(nib.GiftiImage(), t.root / "atlas.label.gii"), t.brain(atlas="atlas.label.gii")),
        r"atlas.label.gii: found the name atlas.label.gii, expected one that says its hemisphere, as lh.NAME.annot",
    ),
    "probabilities, 4-D": (
        _labels(lambda v: np.stack([(v == k) * 0.9 for k in range(1, 5)], -1).astype(np.float32)),
        r"atlas.nii.gz: found volumes of shape \(6, 7, 8, 4\), expected a volume of labels, 0 outside, 3-D",
    ),
    "two label volumes": (_labels(lambda v: np.stack([v, v], -1)), r"found volumes of shape \(6, 7, 8, 2\)"),
    "probabilities, 3-D": (
        _labels(lambda v: v * np.float32(0.3)),
        r"atlas.nii.gz: found values such as 0.6, expected a volume of labels",
    ),
    "NaN outside": (
        _labels(lambda v: np.where(v == 1, np.nan, v)),
        r"atlas.nii.gz: found NaN or infinity in 96 voxels",
    ),
    "negative labels": (_labels(lambda v: v - np.int16(2)), r"atlas.nii.gz: found labels from -1 to 2"),
    "no labels": (_labels(lambda v: v * np.int16(0)), r"atlas.nii.gz: found labels from 0 to 0"),
    "labels past int32": (
        _labels(lambda v: v * 1e12),
        r"found labels from 1e\+12 to 4e\+12, expected a volume of labels, 0 outside, up to",
    ),
    "beside the brain": (
        _labels(lambda v: v, AFFINE + np.eye(4, k=3) * 500),
        r"sub-01 atlas.nii.gz: found no voxel of the brain in any parcel, expected an atlas in the scans' space",
    ),
    "labels at the rim alone": (
        lambda t: (
            _labels(lambda v: np.where(mask_values() > 0, 0, v))(t),
            _named(t, "space-MNI152NLin2009cAsym_dseg"),
        ),
        r"found no voxel of the brain in any parcel",
    ),
    "no table": (lambda t: t.names.unlink(), r"atlas.nii.gz: found no table of labels, expected \S+atlas.tsv; add it"),
    "an empty table": (
        lambda t: t.names.write_text(""),
        r"atlas.tsv: found an empty file, expected columns index and name",
    ),
    "a header alone": (_names(), r"atlas.tsv: found no rows, expected a number and a name of each label"),
    "only gaps": (_names("n/a\tn/a", "\t"), r"atlas.tsv: found no rows"),
    "other columns": (
        _names(*_plain_rows(), header="id\tlabel"),
        r"atlas.tsv: found no column index, name; there are id, label, expected",
    ),
    "Index and Name": (
        _names(*_plain_rows(), header="Index\tName"),
        r"found no column index, name; there are Index, Name",
    ),
    "a binary table": (lambda t: t.names.write_bytes(bytes(range(256))), r"atlas.tsv: found no UTF-8 text"),
    "UTF-16": (lambda t: t.names.write_bytes(t.names.read_text().encode("utf-16")), r"atlas.tsv: found no UTF-8 text"),
    "a table that is a folder": (lambda t: (t.names.unlink(), t.names.mkdir()), r"atlas.tsv: found a folder"),
    "a row with a field too many": (
        _names(*_plain_rows(), "5\tx\ty"),
        r"atlas.tsv: found 3 fields in row 5, expected 2",
    ),
    "a row with a field too few": (_names(*_plain_rows(), "5"), r"atlas.tsv: found 1 fields in row 5, expected 2"),
    "a label twice": (
        _names(*_plain_rows(), "2\tL_X"),
        r"atlas.tsv row 5: found label 2 again \(R_A and L_X\), expected each once",
    ),
    "a name twice": (
        _names(*_plain_rows(_2="L_A")),
        r"atlas.tsv: found L_A for labels 1, 2, expected names that differ; give each its own",
    ),
    "a name twice but for _ROI": (_names(*_plain_rows(_2="L_A_ROI")), r"found L_A for labels 1, 2"),
    "a label without a name": (
        _names(*_plain_rows()[:3]),
        r"atlas.tsv: found no name for label 4, expected every label of the volume; add it",
    ),
    "an empty name": (_names(*_plain_rows(_3="")), r"atlas.tsv row 3: found the name '', expected a printable name"),
    "n/a for a name": (
        _names(*_plain_rows(_3="n/a")),
        r"atlas.tsv row 3: found the name 'n/a', expected a printable name",
    ),
    "n/a for a number": (
        _names(*_plain_rows()[:3], "n/a\tR_B"),
        r"atlas.tsv row 4: found the label nan, expected 1 to",
    ),
    "text for a number": (
        _names(*_plain_rows()[:3], "four\tR_B"),
        r"atlas.tsv column index: found 'four' in row 4, expected whole numbers",
    ),
    "half a number": (
        _names(*_plain_rows()[:3], "3.5\tR_B"),
        r"column index: found '3.5' in row 4, expected whole numbers",
    ),
    "an infinite number": (_names(*_plain_rows()[:3], "inf\tR_B"), r"column index: found 'inf' in row 4"),
    "a number past int64": (
        _names(*_plain_rows(), "1e30\tR_B"),
        r"row 5: found the label 1e\+30, expected 1 to 2147483647",
    ),
    "a negative number": (_names(*_plain_rows(), "-1\tR_C"), r"row 5: found the label -1, expected 1 to"),
    "a tab in a name": (_names(*_plain_rows(_3='"L\tB"')), r"row 3: found the name 'L\\tB', expected a printable name"),
    "an escape in a name": (_names(*_plain_rows(_3="L\x1b[31mB")), r"row 3: found the name 'L\\x1b\[31mB'"),
    "a name over two lines": (_names(*_plain_rows(_3='"L\nB"')), r"row 3: found the name 'L\\nB'"),
    "a quote that is not closed": (_names(*_plain_rows(_3='"L_B')), r"atlas.tsv: found no table \("),
    "parcels without an atlas": (
        lambda t: t.brain(targets="parcels", atlas=None),
        r"brain.targets: found parcels, expected an atlas",
    ),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", WRONG)
def test_one_line(tree: Tree, name: str) -> None:
    spoil, line = WRONG[name]
    spoil(tree)
    assert_four_parts(tree.error("brain", "sub-01"), line)
    assert not (tree.root / "data/brain").exists()


def test_names_that_readers_of_tables_take_for_nothing(tree: Tree) -> None:
    _names(*_plain_rows(_1="NA", _2="nan", _3="None", _4="007"))(tree)
    assert set(tree.cube()["parcel"]) == {"NA", "nan", "None", "007"}
    tree.brain(targets="parcels")
    assert tree.cube()["parcel"].tolist() == ["NA", "nan", "None", "007"]


def test_parcels_are_means_of_their_voxels(tree: Tree) -> None:
    """Against a plain loop over voxels, cleaned by least squares in numpy."""
    tree.brain(targets="parcels", confounds="none", high_pass_hz=0)
    cube = tree.cube()
    values, labels = tree.values("birch01").astype(float), label_values() * mask_values()
    course = np.stack([np.ones(values.shape[3]), np.arange(values.shape[3])], axis=1)
    for target, name in enumerate(PARCELS):
        mean = values[labels == target + 1].mean(axis=0)
        left = (mean - course @ np.linalg.lstsq(course, mean, rcond=None)[0])[:39]
        expected = (left - left.mean()) / left.std(ddof=1)
        np.testing.assert_allclose(cube["bold"][cube["segment"] == "birch01", target], expected, atol=1e-3)
        assert cube["parcel"][target] == name


def test_lost_parcels_are_told(tree: Tree) -> None:
    """In the table and not in the brain: the cube has no target for them, and the user hears it."""
    _names(*_plain_rows(), "5\tL_gone", "6\tR_gone")(tree)
    said = tree.must("brain", "sub-01").stderr
    assert "sub-01: 4 of 6 parcels are in the brain of all runs; none of L_gone, R_gone" in said


def test_all_parcels_there_is_no_news(tree: Tree) -> None:
    said = tree.must("brain", "sub-01").stderr
    assert "parcels" not in said
    assert "nearest label" not in said


def _named(t: Tree, name: str) -> None:
    """The atlas under another name."""
    for path in (t.atlas, t.names):
        path.rename(path.with_name(path.name.replace("atlas", name)))
    t.brain(atlas=f"{name}.nii.gz")


def test_an_atlas_of_another_space_by_its_name(tree: Tree) -> None:
    _named(tree, "tpl-MNI152NLin6Asym_dseg")
    line = r"6Asym_dseg.nii.gz: found an atlas in MNI152NLin6Asym, by its name, expected one in MNI152NLin2009cAsym"
    assert_four_parts(tree.error("brain", "sub-01"), line)


@pytest.mark.parametrize(("name", "said"), [("tpl-MNI152NLin2009cAsym_dseg", False), ("x", True)])
def test_an_atlas_whose_name_says_no_space_is_told(tree: Tree, name: str, said: bool) -> None:
    _named(tree, name)
    told = f"{name}.nii.gz: no space in its name, taken to be in MNI152NLin2009cAsym as the scans are"
    assert (told in tree.must("brain", "sub-01").stderr) == said


def test_an_atlas_on_another_grid_is_told(tree: Tree) -> None:
    _halved(tree)
    assert (
        "atlas.nii.gz has a grid of (12, 14, 16) instead of (6, 7, 8): each voxel"
        in tree.must("brain", "sub-01").stderr
    )


def test_a_mask_of_everything_is_told(tree: Tree) -> None:
    for showing in ("amber01_run-1", "amber01_run-2", "birch01"):
        save(tree.mask(showing), np.ones(SHAPE, np.uint8))
    assert "sub-01 birch01 repeat 1: its brain mask is the whole field of view" in tree.must("brain", "sub-01").stderr
    assert pd.read_csv(tree.root / "data/brain/sub-01.qc.csv")["constant_targets"].tolist() == [0, 0, 0]
