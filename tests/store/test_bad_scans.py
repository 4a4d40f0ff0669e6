"""Scans of every kind that people have: right, or one line that says what is wrong, before anything is computed."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from .scan_tree import AFFINE, SHAPE, SPACE, TR_S, Tree, assert_four_parts, mask_values, save

pytestmark = pytest.mark.usefixtures("bounded")

Spoil = Callable[[Tree], object]


def _flip(axis: int) -> np.ndarray:
    turned = AFFINE.copy()
    turned[:3, 3] += turned[:3, axis] * (SHAPE[axis] - 1)
    turned[:3, axis] *= -1
    return turned


def _store_as(tree: Tree, kind: object, image: type = nib.Nifti1Image) -> None:
    made = image(np.rint(tree.values()).astype(kind), AFFINE, dtype=kind)
    made.header.set_xyzt_units("mm", "sec")
    made.header.set_zooms((*made.header.get_zooms()[:3], TR_S))
    made.set_sform(AFFINE, code=4)
    nib.save(made, tree.bold())


def _plain_nii(tree: Tree) -> None:
    path = tree.bold()
    path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    path.unlink()


def _in_two_members(tree: Tree) -> None:
    raw = gzip.decompress(tree.bold().read_bytes())
    tree.bold().write_bytes(gzip.compress(raw[:5000]) + gzip.compress(raw[5000:]))


def _cut(tree: Tree, share: float) -> None:
    raw = tree.bold().read_bytes()
    tree.bold().write_bytes(raw[: int(len(raw) * share)])


def _flip_bit(tree: Tree, place: float) -> None:
    """In blocks that are stored, not deflated: only the checksum can tell."""
    raw = bytearray(gzip.compress(gzip.decompress(tree.bold().read_bytes()), compresslevel=0))
    raw[int(len(raw) * place)] ^= 8
    tree.bold().write_bytes(bytes(raw))


def _poke(value: float, *where: object) -> Spoil:
    def change(values: np.ndarray) -> np.ndarray:
        values[where] = value
        return values

    return lambda tree: tree.scan(change)


def _replace(make: Callable[[Path], object]) -> Spoil:
    def spoil(tree: Tree) -> None:
        tree.bold().unlink()
        make(tree.bold())

    return spoil


def _bomb(tree: Tree) -> None:
    """A header of the right shape before the bytes of one volume, then zeros without end."""
    raw = gzip.decompress(tree.bold().read_bytes())
    tree.bold().write_bytes(gzip.compress(raw + bytes(2**25)))


def _annexed(path: Path) -> None:
    path.symlink_to("../../../.git/annex/objects/aa/bb/MD5E-s1--0.nii.gz")


SAME: dict[str, Spoil] = {
    "uncompressed": _plain_nii,
    "two gzip members": _in_two_members,
    "a link to it": lambda t: (t.bold().rename(t.root / "far.nii.gz"), t.bold().symlink_to(t.root / "far.nii.gz")),
    "float64": lambda t: t.scan(lambda v: v.astype(np.float64)),
    "NIfTI-2": lambda t: nib.save(
        nib.Nifti2Image.from_image(nib.load(t.bold())),  # type: ignore[attr-defined]
        t.bold(),
    ),
    "big endian": lambda t: nib.save(
        nib.Nifti1Image(t.values(), AFFINE, nib.load(t.bold()).header.as_byteswapped(">")), t.bold()
    ),
    "slope 0, which means none": lambda t: t.header(112, "ff", 0, 0),
    "slope NaN": lambda t: t.header(112, "ff", np.nan, np.nan),
    "the magic of a pair": lambda t: t.header(344, "4s", b"ni1\0"),
    "scaled, standardised away": lambda t: t.header(112, "ff", 0.25, 0),
    "time in milliseconds": lambda t: t.scan(lambda v: v, tr_s=1490, units="msec"),
    "no time in the header": lambda t: t.scan(lambda v: v, tr_s=0, units="unknown"),
    "a time that no unit goes with": lambda t: t.scan(lambda v: v, tr_s=1, units="unknown"),
    "NaN outside the mask": _poke(np.nan, 0, 0, 0),
    "a hidden file of another system": lambda t: t.bold().with_name(f"._{t.bold().name}").write_bytes(b"\0\5\26\7"),
    "a copy in a hidden folder": lambda t: t.twin("/fmriprep/sub-01", "/fmriprep/sub-01/.snapshot"),
    "an aborted take": lambda t: t.twin("task-birch01", "task-birch01__dup-01"),
    "another space beside it": lambda t: t.twin(f"space-{SPACE}_", "space-T1w_"),
    "run-01": lambda t: t.rename("", "run-", "run-0"),
    "no sessions": lambda t: t.rename("", "_ses-001", ""),
    "part-mag before the space": lambda t: t.rename("birch01", "task-birch01", "task-birch01_part-mag"),
    "part-mag after desc": lambda t: [
        t.rename("birch01", f"desc-{desc}", f"desc-{desc}_part-mag") for desc in ("preproc", "brain", "confounds")
    ],
    "part-mag in scans alone": lambda t: [
        t.rename("birch01", f"desc-{desc}", f"part-mag_desc-{desc}") for desc in ("preproc", "brain")
    ],
    "res- in the names": lambda t: t.rename("", f"space-{SPACE}", f"space-{SPACE}_res-2"),
    "a dot in the names": lambda t: t.rename("", "task-", "acq-1.5mm_task-"),
    "rec- in all names": lambda t: t.rename("", "_desc", "_rec-nordic_desc"),
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", SAME)
def test_same_numbers(tree: Tree, plain: dict[str, np.ndarray], name: str) -> None:
    """However it is stored and named, the cube is that of the plain scan."""
    SAME[name](tree)
    found = tree.cube()
    for key in plain.keys() - {"bold", "session"}:
        np.testing.assert_array_equal(found[key], plain[key])
    np.testing.assert_allclose(found["bold"], plain["bold"], atol=2e-5)


def test_whole_numbers_are_near(tree: Tree, plain: dict[str, np.ndarray]) -> None:
    _store_as(tree, np.int16)
    np.testing.assert_allclose(tree.cube()["bold"], plain["bold"], atol=0.1)
    _store_as(tree, np.uint16, nib.Nifti2Image)
    np.testing.assert_allclose(tree.cube()["bold"], plain["bold"], atol=0.1)


def test_a_sheared_grid_keeps_its_places(tree: Tree) -> None:
    sheared = AFFINE.copy()
    sheared[0, 1], sheared[2, 0] = 0.7, -0.4
    for showing in ("amber01_run-1", "amber01_run-2", "birch01"):
        save(tree.bold(showing), tree.values(showing), sheared, TR_S)
        save(tree.mask(showing), mask_values(), sheared)
    cube = tree.cube()
    ijk = np.argwhere(mask_values())
    expected = ijk @ sheared[:3, :3].T + sheared[:3, 3]
    np.testing.assert_allclose(np.stack([cube[f"{axis}_mm"] for axis in "xyz"], axis=1), expected, atol=1e-5)


WRONG: dict[str, tuple[Spoil, str]] = {
    "cut by a third": (lambda t: _cut(t, 0.67), r"_bold.nii.gz: found a file that cannot be read \(.*end-of-stream"),
    "cut in the checksum": (
        lambda t: t.bold().write_bytes(t.bold().read_bytes()[:-3]),
        r"cannot be read \(.*end-of-stream",
    ),
    "cut in the header": (lambda t: _cut(t, 0.002), r"cannot be read \(.*; fetch it again"),
    "cut before it was compressed": (
        lambda t: t.bold().write_bytes(gzip.compress(gzip.decompress(t.bold().read_bytes())[:9000])),
        r"found 9,000 bytes, expected 54,112, as its header says: float32 of shape \(6, 7, 8, 40\); fetch it again",
    ),
    "an uncompressed one cut": (
        lambda t: (_plain_nii(t), os.truncate(t.bold().with_suffix(""), 9000)),
        r"found 9,000 bytes, expected 54,112",
    ),
    "a flipped bit": (lambda t: _flip_bit(t, 0.5), r"cannot be read \(.*CRC.*; fetch it again"),
    "a flipped bit of the header": (lambda t: _flip_bit(t, 0.0005), r"found .*expected .*; "),
    "a damaged stream": (
        lambda t: t.bold().write_bytes(t.bold().read_bytes()[:9000] + bytes(500) + t.bold().read_bytes()[9500:]),
        r"cannot be read \(",
    ),
    "empty": (lambda t: t.bold().write_bytes(b""), r"found an empty file, expected NIfTI; fetch it again"),
    "no gzip": (lambda t: t.bold().write_bytes(gzip.decompress(t.bold().read_bytes())), r"cannot be read \(.*gzip"),
    "a page that says 404": (lambda t: t.bold().write_text("<html>404</html>"), r"cannot be read \("),
    "another magic": (lambda t: t.header(344, "4s", b"xxx\0"), r"cannot be read \(|found .*expected NIfTI"),
    "3-D": (lambda t: t.scan(lambda v: v[..., 0], tr_s=None), r"found shape \(6, 7, 8\), expected 4-D volumes"),
    "5-D": (lambda t: t.scan(lambda v: v[..., None, :], tr_s=None), r"found shape \(6, 7, 8, 1, 40\), expected 4-D"),
    "one volume": (lambda t: t.scan(lambda v: v[..., :1]), r"birch01 repeat 1: found 1 volumes \(1.5 s\), expected 39"),
    "no volumes": (lambda t: t.header(48, "h", 0), r"found shape \(6, 7, 8, 0\)|cannot be read"),
    "a negative length": (lambda t: t.header(42, "h", -6), r"found shape \(-6|cannot be read"),
    "too short": (lambda t: t.scan(lambda v: v[..., :30]), r"found 30 volumes \(44.7 s\), expected 39 rows of film"),
    "a billion voxels": (
        lambda t: t.header(42, "hhh", 1000, 1000, 1000),
        r"shape \(1000, 1000, 1000, 40\), expected .*67,108",
    ),
    "more than the file holds": (
        lambda t: t.header(42, "hhh", 300, 300, 300),
        r"found 54,112 bytes, expected 4,320,000,352",
    ),
    "a bomb behind it": (_bomb, r"found more than 1,\d+,\d+ bytes, expected 54,112"),
    "complex": (lambda t: _store_as(t, np.complex64), r"values of type complex64, expected real numbers"),
    "colours": (
        lambda t: save(t.bold(), np.zeros((*SHAPE, 40), [("R", "u1"), ("G", "u1"), ("B", "u1")])),
        r"values of type colour, expected real numbers",
    ),
    "bits": (lambda t: t.header(70, "hh", 1, 1), r"cannot be read \(.*; "),
    "an unknown type": (lambda t: t.header(70, "hh", 999, 32), r"cannot be read \(.*; "),
    "a slope without an intercept": (lambda t: t.header(112, "ff", 2, np.inf), r"cannot be read \(.*intercept"),
    "a slope that ends all": (lambda t: t.header(112, "ff", 1e-9, 1e6), r"the same value in every volume"),
    "intensities past float32": (lambda t: t.header(112, "ff", 3e38, 0), r"NaN or infinity|cannot be cleaned"),
    "a NaN volume": (
        _poke(np.nan, ..., 20),
        r"repeat 1: found 1 volumes of NaN or infinity, first volume 20 \(29.8 s\).*; fetch or preprocess the run",
    ),
    "infinite volumes": (_poke(np.inf, ..., slice(38, None)), r"found 2 volumes of NaN or infinity, first volume 38"),
    "all NaN": (_poke(np.nan, ...), r"found 40 volumes of NaN or infinity, first volume 0"),
    "half the voxels NaN": (
        _poke(np.nan, slice(2, None), ..., 7),
        r"found NaN or infinity in 90 of 120 places, most in volume 7, expected finite",
    ),
    "constant": (_poke(7, ...), r"found the same value in every volume, throughout the mask"),
    "zeros": (_poke(0, ...), r"found the same value in every volume"),
    "another shape": (
        lambda t: t.scan(lambda v: v[:5]),
        r"birch01 .*: found a grid of \(5, 7, 8\) instead of \(6, 7, 8\), expected the grid of .*amber01 repeat 1",
    ),
    "axes in another order": (
        lambda t: t.scan(lambda v: v.transpose(1, 0, 2, 3), affine=AFFINE[:, [1, 0, 2, 3]]),
        r"found axes ARS instead of RAS",
    ),
    "flipped": (lambda t: t.scan(lambda v: v[::-1], affine=_flip(0)), r"found axes LAS instead of RAS"),
    "half a voxel off": (
        lambda t: t.scan(lambda v: v, affine=AFFINE + np.eye(4)[:, [3, 3, 3, 0]] * np.array([0, 0, 0, 2])),
        r"found a grid that is up to 2 mm elsewhere",
    ),
    "other voxels": (
        lambda t: t.scan(lambda v: v, affine=AFFINE * 1.1),
        r"found a grid that is up to .* mm elsewhere",
    ),
    "a singular affine": (lambda t: t.header(280, "ffff", 0, 0, 0, 0), r"found an affine of .*expected one that gives"),
    "an affine of NaN": (lambda t: t.header(280, "ffff", *[np.nan] * 4), r"found an affine of|cannot be read"),
    "no place": (lambda t: t.header(252, "hh", 0, 0), r"found no place in space \(qform and sform codes are 0\)"),
    "metres": (lambda t: t.header(123, "b", 1 | 8), r"found places in meters, expected millimetres"),
    "a folder in its place": (_replace(Path.mkdir), r"found a folder, expected NIfTI"),
    "a pipe": (_replace(os.mkfifo), r"found no regular file, expected NIfTI"),
    "a link to nothing": (
        _replace(lambda p: p.symlink_to("gone.nii.gz")),
        r"found a file that was not fetched: .*_bold.nii.gz, .*; fetch it",
    ),
    "not fetched": (
        _replace(_annexed),
        r"found a file that was not fetched.*: .*_bold.nii.gz, .*run `datalad get .*_bold.nii.gz`",
    ),
    "a pointer": (
        _replace(lambda p: p.write_text("/annex/objects/MD5E-s123--0123.nii.gz\n")),
        r"found a file that was not fetched.*: .*_bold.nii.gz, .*run `datalad get .*_bold.nii.gz`",
    ),
    "no scan": (lambda t: t.bold().unlink(), r"sub-01 birch01: found no scan of it, but of amber01, .*task-birch01"),
    "a task that ends alike": (
        lambda t: t.rename("birch01", "birch01", "h01"),
        r"found no scan of it, but of amber01, h01, expected one with task-birch01; name .* after task-h01",
    ),
    "a task that is near": (lambda t: t.rename("birch01", "birch01", "brich01"), r"did you mean 'brich01'"),
    "no subject": (lambda t: t.brain(subjects=["sub-01"], path="elsewhere"), r"elsewhere/sub-01: found no such folder"),
    "another space": (lambda t: t.brain(space="T1w"), r"found scans in MNI152NLin2009cAsym, expected .*space-T1w"),
    "another subject's": (
        lambda t: t.rename("birch01.*bold.nii", "sub-01", "sub-02"),
        r"found a file of sub-02, expected files of sub-01",
    ),
    "run-a": (lambda t: t.rename("run-2", "run-2", "run-a"), r"run-a.*: found run-a, expected a number"),
    "run-1 and run-01": (
        lambda t: t.twin("run-1", "run-01", "amber01_run-1"),
        r"two files that differ by run \(.*run-0?1.*run-0?1.*keep one",
    ),
    "some with a run": (
        lambda t: t.twin("_run-1", "", "amber01_run-1"),
        r"expected a run entity in each of them or in none",
    ),
    "a copy in another folder": (lambda t: t.twin("/func/", "/backup/"), r"found two files of the same name"),
    "two segments of one task": (
        lambda t: t.change(lambda p: p["films"]["amber"].append("birch_01")),
        r"films.csv: found no segment birch_01|films: found birch_01 and birch01, both task-birch01",
    ),
}
for key, value in {"rec": "nordic", "acq": "mb4", "ce": "gad", "dir": "AP", "echo": "1", "part": "mag"}.items():
    WRONG[f"with {key}- and without"] = (
        lambda t, word=f"{key}-{value}": t.twin("task-birch01", f"task-birch01_{word}"),  # type: ignore[misc]
        rf"birch01: found two files that differ by {key} \(.*\), expected one .*; add one of `choose: \{{{key}: ",
    )
WRONG["in two resolutions"] = (lambda t: t.twin("_desc", "_res-2_desc"), r"found two files that differ by res \(")


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", WRONG)
def test_one_line(tree: Tree, name: str) -> None:
    """Refused by name; the cube that stood there stays."""
    spoil, line = WRONG[name]
    cube = tree.root / "data/brain/sub-01.zarr"
    cube.mkdir(parents=True)
    (cube / "kept").touch()
    spoil(tree)
    message = tree.error("brain", "sub-01")
    assert_four_parts(message, line)
    assert [path.name for path in (tree.root / "data/brain").rglob("*")] == ["sub-01.zarr", "kept"]


def test_no_permission(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def refuse(path: Path, *words: object, **more: object) -> object:
        if path == tree.bold():
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *words, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refuse)
    assert_four_parts(tree.error("brain", "sub-01"), r"_bold.nii.gz: found no permission")


def test_nothing_is_read_before_all_headers_are_known(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last run is too short: no voxel of the first has been touched."""
    tree.scan(lambda values: values[..., :20])
    monkeypatch.setattr("cinecube.store.scans.volumes.inside_blocks", lambda *_: pytest.fail("read"))
    assert "found 20 volumes" in tree.error("brain", "sub-01")


@pytest.mark.parametrize("fwhm_mm", [0, 6])
def test_voxels_of_nan_are_left_out_of_all_runs_and_told(tree: Tree, fwhm_mm: float) -> None:
    """As if they were not in the mask; smoothing does not hide them."""
    tree.brain(fwhm_mm=fwhm_mm)
    _poke(np.nan, 2, 3, slice(2, 5), slice(7, None))(tree)
    told = tree.must("brain", "sub-01").stderr
    assert "sub-01: 3 voxels hold NaN or infinity in 1 of 3 runs and are left out of all, first (2, 3, 2) in" in told
    found = tree.cube()
    quality = pd.read_csv(tree.root / "data/brain/sub-01.qc.csv")
    assert quality["nan_places"].tolist() == [0, 0, 3]
    inside = mask_values()
    inside[2, 3, 2:5] = 0
    save(tree.mask(), inside)
    masked = tree.cube()
    np.testing.assert_array_equal(found["target"], masked["target"])
    np.testing.assert_array_equal(found["bold"], masked["bold"])


def test_parcels_leave_out_voxels_of_nan(tree: Tree) -> None:
    tree.brain(targets="parcels")
    _poke(-np.inf, 1, 1, 1, 39)(tree)
    found = tree.cube()
    inside = mask_values()
    inside[1, 1, 1] = 0
    save(tree.mask(), inside)
    np.testing.assert_allclose(found["bold"], tree.cube()["bold"], atol=1e-5)


def test_a_scan_that_goes_on_is_trimmed_and_told(tree: Tree, plain: dict[str, np.ndarray]) -> None:
    tree.scan(lambda v: np.concatenate([v, v], axis=3))
    tree.confounds(lambda table: pd.concat([table, table[1:], table[1:2]]))
    told = tree.must("brain", "sub-01").stderr
    assert "sub-01: 1 runs go on for more than 6 s after their film, birch01 repeat 1 by 61 s; trimmed" in told
    found = tree.cube()
    for name in ("segment", "repeat", "onset_s"):
        np.testing.assert_array_equal(found[name], plain[name])


def test_smoothing_in_parts_is_that_of_all(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.brain(fwhm_mm=6)
    whole = tree.cube()["bold"]
    monkeypatch.setattr("cinecube.store.spaces.nifti._SLAB_BYTES", 4 * 6 * 7 * 8 * 3)
    np.testing.assert_array_equal(tree.cube()["bold"], whole)


@pytest.mark.parametrize(
    ("spoil", "repeats", "said"),
    [
        (
            lambda t: [p.unlink() for p in t.bold().parent.glob("*amber01_run-1_*")],
            [2],
            "no scan of run-1; repeats are 2",
        ),
        (lambda t: t.rename("", "run-2", "run-3"), [1, 3], "no scan of run-2; repeats are 1, 3"),
        (lambda t: t.rename("", "run-1", "run-0"), [1, 2], "repeats 1 to 2 are ses-001 run-0, ses-001 run-2"),
        (
            lambda t: t.rename("", "run-2", "run-999999999"),
            [1, 999999999],
            "no scan of run-2, run-3, run-4, run-5, run-6;",
        ),
        (lambda t: None, [1, 2], ""),
    ],
    ids=["run-1 absent", "run-2 absent", "run-0", "a number past all", "as they are"],
)
def test_a_repeat_is_a_showing(tree: Tree, spoil: Spoil, repeats: list[int], said: str) -> None:
    spoil(tree)
    result = tree.must("brain", "sub-01")
    cube = tree.cube()
    amber = cube["segment"] == "amber01"
    assert np.unique(cube["repeat"][amber]).tolist() == repeats
    assert (said in result.stderr) if said else ("repeats" not in result.stderr)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [("2", "10", False), ("002", "010", False), ("a2", "a10", False), ("post", "pre", True)],
)
def test_sessions_in_the_order_of_their_numbers(
    tree: Tree, plain: dict[str, np.ndarray], first: str, second: str, said: bool
) -> None:
    """Without a run entity the first showing is that of the earlier session; names without numbers are told."""
    tree.rename("amber01_run-1", "ses-001_task-amber01_run-1", f"ses-{first}_task-amber01")
    tree.rename("amber01_run-2", "ses-001_task-amber01_run-2", f"ses-{second}_task-amber01")
    result = tree.must("brain", "sub-01")
    cube = tree.cube()
    np.testing.assert_array_equal(cube["bold"], plain["bold"])
    assert cube["session"][cube["repeat"] == 2].tolist()[0] == second
    assert (f"repeats 1 to 2 are ses-{first}, ses-{second}" in result.stderr) == said


def test_a_run_number_that_counts_within_sessions(tree: Tree) -> None:
    """Each session has its run-1: showings are in the order of sessions, which is said."""
    tree.rename("amber01_run-2", "ses-001_task-amber01_run-2", "ses-002_task-amber01_run-1")
    assert "repeats 1 to 2 are ses-001 run-1, ses-002 run-1, in this order" in tree.must("brain", "sub-01").stderr
    assert sorted(set(tree.cube()["repeat"].tolist())) == [1, 2]
