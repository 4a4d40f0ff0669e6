"""Scans that are no images: HDF5 of Algonauts 2025 and a lab's arrays; and volumes projected to a surface."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nibabel.cifti2.cifti2_axes import BrainModelAxis, SeriesAxis
from nilearn.datasets import fetch_surf_fsaverage
from nilearn.signal import clean
from nilearn.surface import vol_to_surf

from cinecube.store.cube.cubes import open_cube
from cinecube.store.params.document import BrainParams, load_study
from cinecube.store.scans.projection import find_meshes, projection_weights, read_vertices
from cinecube.store.scans.sources import open_scans
from cinecube.store.spaces.space import Grid
from cinecube.studies.init import OwnData, values_of_scans

from .scan_tree import N_ROWS, N_VOLUMES, SHOWINGS, TR_S, Tree, assert_four_parts, save

pytestmark = pytest.mark.usefixtures("bounded")

_NAME = "task-movie10_space-MNI152NLin2009cAsym_atlas-Schaefer18_parcel-1000Par7Net_bold.h5"
_KEYS = {"ses-001_task-amber01_run-1": 1, "ses-007_task-amber01_run-2": 2, "ses-010_task-birch01": 3}
_PLAIN = {"confounds": "none", "high_pass_hz": 0, "atlas": None}


def responses(seed: int, n: int = 1000) -> np.ndarray:
    """Values (volume, target) that drift, so that a slip of a row shows."""
    return np.cumsum(np.random.default_rng(seed).standard_normal((N_VOLUMES, n)), axis=0).astype(np.float32)


def expected_of(values: np.ndarray) -> np.ndarray:
    """What the cube has of them: detrended, as long as the film, standardised."""
    cleaned = clean(values, detrend=True, standardize=None)[:N_ROWS]
    return (cleaned - cleaned.mean(0)) / cleaned.std(0, ddof=1)


def write_hdf5(path: Path, keys: dict[str, int], n: int = 1000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for key, seed in keys.items():
            file.create_dataset(key, data=responses(seed, n), compression="gzip")
    return path


@pytest.fixture
def challenge(tree: Tree) -> Tree:
    """The same study with responses of Algonauts 2025 instead of scans."""
    shutil.rmtree(tree.root / "fmriprep")
    write_hdf5(hdf5(tree), _KEYS)
    tree.brain(source="algonauts2025", path="algonauts", **_PLAIN)
    return tree


def hdf5(tree: Tree, folder: str = "fmri/sub-01/func") -> Path:
    return tree.root / "algonauts" / folder / f"sub-01_{_NAME}"


def check_rows(cube: dict[str, np.ndarray], of: Callable[[np.ndarray], np.ndarray] = lambda v: v) -> None:
    """Each showing is at its rows, in its order."""
    showings = (("amber01", 1, 1), ("amber01", 2, 2), ("birch01", 1, 3))
    for number, (segment, repeat, seed) in enumerate(showings):
        rows = (cube["segment"] == segment) & (cube["repeat"] == repeat)
        np.testing.assert_array_equal(np.flatnonzero(rows), np.arange(number * N_ROWS, (number + 1) * N_ROWS))
        np.testing.assert_allclose(cube["bold"][rows], of(expected_of(responses(seed))), atol=1e-4)


@pytest.mark.parametrize(
    ("folder", "key"),
    [
        ("fmri/sub-01/func", "{}"),
        ("sub-01/func", "{}"),
        ("sub-01/func", "sub-01_{}"),
        ("sub-01/func", "ses-x/{}_timeseries"),
        ("sub-01/func", "sub-01/ses-x/sub-01_{}_timeseries"),
    ],
)
def test_runs_of_algonauts(challenge: Tree, folder: str, key: str) -> None:
    hdf5(challenge).unlink()
    keys = {key.replace("ses-x", name[:7]).format(name): seed for name, seed in _KEYS.items()}
    write_hdf5(hdf5(challenge, folder), keys)
    cube = challenge.cube()
    check_rows(cube)
    assert list(cube["parcel"][[0, 499, 500, 999]]) == ["L_0001", "L_0500", "R_0501", "R_1000"]
    assert list(cube["hemi"][[0, 499, 500, 999]]) == ["L", "L", "R", "R"]
    assert list(np.unique(cube["session"])) == ["001", "007", "010"]


def test_friends_are_found_by_the_rule_in_a_second_file(challenge: Tree) -> None:
    write_hdf5(hdf5(challenge), {name: seed for name, seed in _KEYS.items() if "amber" in name})
    write_hdf5(hdf5(challenge).with_name("sub-01_task-friends_desc-s123456_bold.h5"), {"ses-003_task-01": 3})
    challenge.brain(tasks="birch{task}")
    check_rows(challenge.cube())


def _spoil_hdf5(spoil: Callable[[h5py.File], object]) -> Callable[[Tree], None]:
    def spoiled(tree: Tree) -> None:
        with h5py.File(hdf5(tree), "a") as file:
            spoil(file)

    return spoiled


def _replace(values: Any, key: str = "ses-010_task-birch01", **how: Any) -> Callable[[Tree], None]:
    def spoil(file: h5py.File) -> None:
        del file[key]
        file.create_dataset(key, data=values, **how)

    return _spoil_hdf5(spoil)


def _link_out(tree: Tree) -> None:
    """The responses of birch01 are in another file, which no one looks at."""
    other = write_hdf5(tree.root / "other.h5", {"birch": 3})
    with h5py.File(hdf5(tree), "a") as file:
        del file["ses-010_task-birch01"]
        file["ses-010_task-birch01"] = h5py.ExternalLink(str(other), "birch")


def _hollow(file: h5py.File) -> None:
    """Terabytes that were never written."""
    del file["ses-010_task-birch01"]
    file.create_dataset("ses-010_task-birch01", shape=(2**30, 1000), dtype="f4", chunks=(64, 1000), compression="gzip")


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((N_VOLUMES, 1000), "f4")
    layout[:] = h5py.VirtualSource("/etc/hostname", "x", (N_VOLUMES, 1000))
    del file["ses-010_task-birch01"]
    file.create_virtual_dataset("ses-010_task-birch01", layout)


def _nan(tree: Tree) -> None:
    values = responses(3)
    values[7] = np.nan
    _replace(values)(tree)


def _dangling(tree: Tree) -> None:
    path = hdf5(tree)
    path.unlink()
    path.symlink_to("../../../.git/annex/objects/aa/bb/MD5E-s1--x.h5/MD5E-s1--x.h5")


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (_link_out, "no scan of it, but of amber01"),
        (_spoil_hdf5(_hollow), r"shape \(1073741824, 1000\), which is"),
        (_spoil_hdf5(_virtual), "a data set whose bytes are in other files"),
        (_replace(np.array([b"a", b"b"])), "a data set of type 'S' and shape"),
        (_replace(np.zeros((4, 3), [("a", "f4"), ("b", "f4")])), "a data set of type 'V'"),
        (_replace(np.array(["a", "b"], object), dtype=h5py.string_dtype()), "a data set of type 'O'"),
        (_replace(np.zeros((N_VOLUMES, 10, 100), "f4")), r"shape \(40, 10, 100\), expected numbers \(volume, parcel\)"),
        (_replace(responses(3, 999)), "999 parcels, expected 1000, as of ses-001_task-amber01_run-1"),
        (_replace(responses(3)[:20]), r"20 volumes \(29.8 s\), expected 39 rows"),
        (_nan, r"1 volumes of NaN or infinity, first volume 7 \(10.4 s\)"),
        (lambda t: write_hdf5(hdf5(t).with_name("sub-01_task-x_bold.h5"), _KEYS), "the same run as .*parcel-1000Par7"),
        (lambda t: write_hdf5(hdf5(t), {"mean": 1}), "no data set of a run, expected data sets as ses-001_task"),
        (lambda t: hdf5(t).write_bytes(hdf5(t).read_bytes()[:5000]), "an unreadable file"),
        (lambda t: hdf5(t).write_bytes(b"no HDF5"), "an unreadable file"),
        (lambda t: hdf5(t).write_bytes(b"/annex/objects/MD5E-s1--x.h5"), "a pointer to a file that is not here"),
        (_dangling, "a file that was not fetched .*: sub-01_task-movie10.*; run `datalad get"),
        (lambda t: hdf5(t).rename(hdf5(t).with_name("sub-02_bold.h5")), "a file of another subject"),
        (lambda t: hdf5(t).unlink(), "no file of responses, expected sub-01/func/.*clone of algonauts_2025"),
        (lambda t: t.brain(confounds="simple"), "brain.confounds: found 'simple', expected none with source:"),
        (lambda t: t.brain(fwhm_mm=4), "brain.fwhm_mm: found 4.0, expected 0 with source: algonauts2025"),
        (lambda t: t.brain(surface="fsaverage5"), "brain.surface: found 'fsaverage5', expected null"),
        (lambda t: t.brain(space="fsaverage6"), "brain.space: found 'fsaverage6', expected MNI152NLin2009cAsym"),
    ],
)  # fmt: skip
def test_wrong_hdf5_is_one_line(challenge: Tree, spoil: Callable[[Tree], object], line: str) -> None:
    spoil(challenge)
    assert_four_parts(challenge.error("brain", "sub-01"), line)


def test_a_parcel_of_nan_is_left_out_of_all_runs(challenge: Tree) -> None:
    values = responses(3)
    values[7, 3] = np.nan
    _replace(values)(challenge)
    told = challenge.must("brain", "sub-01").stderr
    assert "1 parcels hold NaN or infinity in 1 of 3 runs and are left out of all, first 4 in sub-01 birch01" in told
    cube = challenge.cube()
    assert "L_0004" not in cube["parcel"]
    check_rows(cube, lambda values: np.delete(values, 3, axis=1))


def test_what_is_taken_for_granted_is_told(challenge: Tree) -> None:
    challenge.change(lambda p: p["clock"].update(tr_s=1.5, window_s=1.5))
    challenge.brain(high_pass_hz=0.008)
    told = " ".join(challenge.must("brain", "sub-01").stderr.split())
    assert "clock.tr_s: 1.5 is taken for its files' TR; CNeuroMod's is 1.49 s" in told
    assert "is cleaned already; brain.high_pass_hz: 0 leaves it so" in told


def test_other_parcels_are_named_by_a_table(challenge: Tree) -> None:
    write_hdf5(hdf5(challenge), _KEYS, 5)
    line = challenge.error("brain", "sub-01")
    assert_four_parts(line, "found 5 columns, expected a surface as brain.space, .*; add .*targets.tsv")
    names = ["L_A", "L_B", "R_A", "R_B", "NA"]
    (challenge.root / "algonauts/targets.tsv").write_text("\n".join(["name", *names]) + "\n")
    cube = challenge.cube()
    assert (list(cube["parcel"]), list(cube["hemi"])) == (names, ["L", "L", "R", "R", ""])


_N = 6


@pytest.fixture
def lab(tree: Tree) -> Tree:
    """The same study with arrays of one array a subject."""
    shutil.rmtree(tree.root / "fmriprep")
    (tree.root / "arrays").mkdir()
    write_array(tree, rows_of())
    names = [f"{number}\tP{number}" for number in range(_N)]
    (tree.root / "arrays/targets.tsv").write_text("\n".join(["index\tname", *names]) + "\n")
    tree.brain(source="arrays", path="arrays", **_PLAIN)
    return tree


def rows_of() -> pd.DataFrame:
    """Segment, onset, repeat and the seed of its run, of each row."""
    parts = []
    for number, (showing, seed) in enumerate(SHOWINGS.items()):
        segment, _, repeat = showing.partition("_run-")
        onsets = np.round(np.arange(N_VOLUMES) * TR_S, 6)
        parts.append(pd.DataFrame({"segment": segment, "onset_s": onsets, "repeat": int(repeat or 1), "seed": seed}))
        assert seed == number + 1
    return pd.concat(parts, ignore_index=True)


def write_array(tree: Tree, rows: pd.DataFrame, n: int = _N, sep: str = "\t") -> None:
    every = {seed: responses(seed, n) for seed in SHOWINGS.values()}
    at = np.rint(rows["onset_s"] / TR_S).astype(int).clip(0, N_VOLUMES - 1)
    np.save(array(tree), np.stack([every[seed][row] for seed, row in zip(rows["seed"], at, strict=True)]))
    rows.drop(columns="seed").to_csv(array(tree).with_suffix(".tsv" if sep == "\t" else ".csv"), sep=sep, index=False)


def array(tree: Tree) -> Path:
    return tree.root / "arrays/sub-01.npy"


def check_lab(cube: dict[str, np.ndarray], n: int = _N) -> None:
    for segment, repeat, seed in (("amber01", 1, 1), ("amber01", 2, 2), ("birch01", 1, 3)):
        rows = (cube["segment"] == segment) & (cube["repeat"] == repeat)
        assert rows.sum() == N_ROWS
        np.testing.assert_allclose(cube["bold"][rows], expected_of(responses(seed, n)), atol=1e-4)


@pytest.mark.parametrize("order", ["sorted", "reversed films", "mixed", "csv"])
def test_rows_of_arrays(lab: Tree, order: str) -> None:
    """Runs may lie in any order, and between one another: the table says which row is whose."""
    rows = rows_of()
    if order == "reversed films":
        rows = rows.sort_values("seed", ascending=False, kind="stable")
    elif order == "mixed":
        rows = rows.sort_values("onset_s", kind="stable")
    if order == "csv":
        array(lab).with_suffix(".tsv").unlink()
    write_array(lab, rows, sep="," if order == "csv" else "\t")
    cube = lab.cube()
    check_lab(cube)
    assert list(cube["parcel"]) == [f"P{number}" for number in range(_N)]


def test_rows_are_found_by_their_task(lab: Tree) -> None:
    """A table may call segments by the tasks of their scans; rows of other things have no name or another."""
    lab.brain(tasks="birch{task}")
    rows = rows_of().replace({"birch01": "01"})
    write_array(lab, pd.concat([rows, rows[:3].assign(segment=""), rows[:2].assign(segment="rest")]))
    check_lab(lab.cube())


def test_rows_that_an_array_lacks_are_absent(lab: Tree) -> None:
    rows = rows_of()
    gone = (rows["seed"] == 3) & rows["onset_s"].between(9.5 * TR_S, 14.5 * TR_S)
    write_array(lab, rows[~gone])
    told = lab.must("brain", "sub-01").stderr
    assert "birch01 repeat 1: its array lacks 5 of 40 rows" in " ".join(told.split())
    cube, there = lab.cube(), np.delete(np.arange(N_VOLUMES), np.arange(10, 15))
    rows_there = there[there < N_ROWS]
    birch = cube["segment"] == "birch01"
    np.testing.assert_allclose(cube["onset_s"][birch], rows_there * TR_S, atol=1e-6)
    cleaned = clean(responses(3, _N), detrend=True, standardize=None, sample_mask=there)[: len(rows_there)]
    scaled = (cleaned - cleaned.mean(0)) / cleaned.std(0, ddof=1)
    np.testing.assert_allclose(cube["bold"][birch], scaled, atol=1e-4)
    assert (~birch).sum() == 2 * N_ROWS


def _edit(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Tree], None]:
    def edit(tree: Tree) -> None:
        table = array(tree).with_suffix(".tsv")
        change(pd.read_csv(table, sep="\t").astype(object)).to_csv(table, sep="\t", index=False)

    return edit


def _cell(row: int, column: str, value: object) -> Callable[[Tree], None]:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[row, column] = value
        return table

    return _edit(change)


def _save(values: np.ndarray, **how: Any) -> Callable[[Tree], None]:
    return lambda tree: np.save(array(tree), values, **how)


def _targets(text: str) -> Callable[[Tree], object]:
    return lambda tree: (tree.root / "arrays/targets.tsv").write_text(text)


def _declares_more(tree: Tree) -> None:
    """A header of a terabyte before the bytes of a few rows."""
    raw = array(tree).read_bytes()
    array(tree).write_bytes(raw.replace(b"(120, 6), }     ", b"(99999999, 6), }")[: len(raw)])


def _out_of_mesh(tree: Tree) -> None:
    tree.brain(space="fsaverage5")
    _targets(_TABLE.replace("5\t", "99999\t"))(tree)


_TABLE = "index\tname\n" + "".join(f"{n}\tP{n}\n" for n in range(_N))


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda t: array(t).unlink(), r"sub-01.npy: found no such file, expected an array \(row, target\) of sub-01"),
        (lambda t: array(t).with_suffix(".tsv").unlink(), "sub-01.tsv: found no such file, expected a table of rows"),
        (lambda t: shutil.copy(array(t).with_suffix(".tsv"), array(t).with_suffix(".csv")), "keep one of them"),
        (_save(np.array([[{"a": 1}]], object), allow_pickle=True), "an unreadable file|of type object"),
        (_save(np.zeros((120, 6), "c8")), "an array of type complex64"),
        (_save(np.zeros((120, 2, 3), "f4")), r"shape \(120, 2, 3\), expected numbers \(row, target\)"),
        (_save(np.zeros((119, 6), "f4")), "sub-01.tsv: found 120 rows, expected 119, one a row of sub-01.npy"),
        (_save(np.zeros((120, 6), "f4")), "the same value in every volume"),
        (_save(np.zeros((120, 7), "f4")), "targets.tsv: found 6 rows, expected 7, one a column of"),
        (_declares_more, r"shape \(99999999, 6\), which is 2399999976 bytes"),
        (lambda t: array(t).write_bytes(array(t).read_bytes()[:900]), "which is 2880 bytes, in 900"),
        (lambda t: array(t).write_bytes(b"PK\3\4 no array"), "an unreadable file"),
        (_edit(lambda t: t.drop(columns="onset_s")), "sub-01.tsv: found no column onset_s"),
        (_edit(lambda t: t.drop(columns="repeat")), "amber01: found onset 0 s after .* add a column repeat"),
        (_edit(lambda t: t.assign(onset_s=t["onset_s"] * 2)), "a TR of 2.98 s, expected clock.tr_s: 1.49"),
        (_edit(lambda t: t.assign(onset_s=t["onset_s"] + 0.5)), "a row at 0.5 s, expected a multiple of clock.tr_s"),
        (_cell(100, "onset_s", "n/a"), "column onset_s: found 'n/a' in row 101"),
        (_cell(100, "onset_s", -1), "onset_s -1 in row 101, expected seconds from"),
        (_cell(100, "onset_s", 1e300), "onset_s 1e.300 in row 101, expected seconds from"),
        (_cell(119, "onset_s", 60000 * TR_S), "birch01: found 40 of 60001 rows, expected at least half"),
        (_cell(100, "repeat", 0), "repeat 0 in row 101, expected 1 for the first showing"),
        (_edit(lambda t: t.replace("birch01", "birch")), "no scan of it, but of amber01, birch, expected one"),
        (_targets(_TABLE.replace("P1\n", "P0\n")), "column name: found 'P0' twice"),
        (_targets(_TABLE.replace("5\t", "1\t")), "column index: found .*, expected numbers that rise"),
        (_targets(_TABLE.replace("name", "label")), "no column name, expected a name for each parcel"),
        (_targets("name\themi\n" + "".join(f"P{n}\tleft\n" for n in range(_N))), "column hemi: found 'left'"),
        (_out_of_mesh, "targets.tsv column index: found .*99999.*, expected numbers that rise, of 0 to 20483"),
        (lambda t: t.brain(confounds=["csf"]), "brain.confounds: found .*csf.*, expected none with source: arrays"),
    ],
)  # fmt: skip
def test_wrong_arrays_are_one_line(lab: Tree, spoil: Callable[[Tree], object], line: str) -> None:
    spoil(lab)
    assert_four_parts(lab.error("brain", "sub-01"), line)


def test_columns_of_a_surface(lab: Tree) -> None:
    """All vertices of a mesh need no table; some say which they are."""
    lab.brain(space="fsaverage5")
    _targets(
        "index\themi\n" + "".join(f"{n}\t{'L' if n < 10242 else 'R'}\n" for n in (3, 7, 10241, 10242, 10250, 20483))
    )(lab)
    cube = lab.cube()
    check_lab(cube)
    assert list(cube["target"]) == [3, 7, 10241, 10242, 10250, 20483]
    assert list(cube["hemi"]) == list("LLLRRR")
    (lab.root / "arrays/targets.tsv").unlink()
    line = lab.error("brain", "sub-01")
    assert_four_parts(line, "found 6 columns, expected 20484, as fsaverage5 has; add .*targets.tsv")
    write_array(lab, rows_of(), 20484)
    cube = lab.cube()
    check_lab(cube, 20484)
    assert list(np.unique(cube["hemi"], return_counts=True)[1]) == [10242, 10242]


def test_columns_of_grayordinates(lab: Tree) -> None:
    """A dense series in the same order says what they are."""
    lab.brain(space="fsLR-91k")
    series = lab.root / "arrays/targets.dtseries.nii"
    line = lab.error("brain", "sub-01")
    assert_four_parts(line, "targets.dtseries.nii: found no such file, expected a dense series with the columns of")
    axis = BrainModelAxis.from_surface([3, 5], 32492, "CORTEX_LEFT")
    axis += BrainModelAxis.from_surface([4, 8, 9], 32492, "CORTEX_RIGHT")
    axes = (SeriesAxis(0, 1, 1), axis)
    nib.save(nib.Cifti2Image(np.zeros((1, 5), np.float32), axes), series)
    assert_four_parts(lab.error("brain", "sub-01"), "found 5 grayordinates, expected 6, one a column of .*sub-01.npy")
    axes = (SeriesAxis(0, 1, 1), axis + BrainModelAxis.from_mask(np.eye(1)[None], "THALAMUS_LEFT", np.eye(4)))
    nib.save(nib.Cifti2Image(np.zeros((1, 6), np.float32), axes), series)
    cube = lab.cube()
    check_lab(cube)
    assert (list(cube["vertex"]), list(cube["hemi"])) == ([3, 5, 4, 8, 9, -1], list("LLRRRL"))


# Of fsaverage5: grids of wide voxels around the head, so that a test costs little.
_WIDE = np.array([[12.0, 0, 0, -82], [0, 14.0, 0, -110], [0, 0, 11.0, -60], [0, 0, 0, 1]])
_HEAD = (14, 14, 14)


@pytest.fixture
def heads(tree: Tree) -> Tree:
    """The same study with volumes around a whole head, a corner of it outside the mask."""
    mask = np.ones(_HEAD, np.uint8)
    mask[:5, :6, 6:] = 0
    for showing, seed in SHOWINGS.items():
        values = (1000 + 20 * np.random.default_rng(seed).standard_normal((*_HEAD, N_VOLUMES))).astype(np.float32)
        save(tree.bold(showing), values, _WIDE, TR_S)
        save(tree.mask(showing), mask, _WIDE)
    tree.brain(surface="fsaverage5", confounds="none", high_pass_hz=0, atlas=None)
    return tree


def projected(tree: Tree, showing: str) -> np.ndarray:
    """What nilearn makes of the volumes inside the mask (volume, vertex)."""
    inside = np.asarray(nib.load(tree.mask(showing)).dataobj)[..., None] > 0  # type: ignore[attr-defined]
    scan = nib.Nifti1Image(np.where(inside, tree.values(showing), np.nan), _WIDE)
    shipped = fetch_surf_fsaverage("fsaverage5")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of nothing
        sides = [vol_to_surf(scan, shipped[f"pial_{s}"], inner_mesh=shipped[f"white_{s}"]) for s in ("left", "right")]
    return np.concatenate(sides).T


def test_a_projection_equals_nilearn(heads: Tree) -> None:
    done = heads.must("brain", "sub-01")
    with open_cube(heads.root / "data/brain/sub-01.zarr") as cube:
        bold, target, segment = (cube[name].values for name in ("bold", "target", "segment"))
        hemi, space = cube["hemi"].values, cube.attrs["space"]
    values = projected(heads, "birch01")
    there = np.flatnonzero(np.isfinite(values).all(axis=0))
    assert 100 < values.shape[1] - len(there) < 5000
    assert f"{values.shape[1] - len(there)} of 20484 vertices are outside the brain" in " ".join(done.stderr.split())
    np.testing.assert_array_equal(target, there)
    np.testing.assert_array_equal(hemi == "R", there >= 10242)
    np.testing.assert_allclose(bold[segment == "birch01"], expected_of(values[:, there]), atol=1e-4)
    assert space == "fsaverage5"


def test_weights_of_a_projection_equal_nilearn(heads: Tree) -> None:
    (pial, white), values = find_meshes("fsaverage5", None)[:2], projected(heads, "birch01")[:, :10242]
    mask = np.asarray(nib.load(heads.mask()).dataobj) > 0  # type: ignore[attr-defined]
    grid = Grid("MNI152NLin2009cAsym", _HEAD, tuple(map(tuple, _WIDE.tolist())))
    weights = projection_weights(*(read_vertices(path, 10242) for path in (pial, white)), grid, np.flatnonzero(mask))
    ours = (weights @ heads.values()[mask]).T
    there = np.isfinite(values).all(axis=0)
    np.testing.assert_array_equal(np.diff(weights.indptr) > 0, there)
    np.testing.assert_allclose(ours[:, there], values[:, there], rtol=1e-5)


def test_a_voxel_of_nan_costs_the_vertices_around_it(heads: Tree) -> None:
    def spoil(values: np.ndarray) -> np.ndarray:
        values[8, 8, 8, 5] = np.nan
        return values

    whole = heads.cube()["target"]
    heads.scan(spoil, affine=_WIDE)
    told = " ".join(heads.must("brain", "sub-01").stderr.split())
    assert "vertices hold NaN or infinity in 1 of 3 runs and are left out of all" in told
    assert 0 < len(whole) - len(heads.cube()["target"]) < 500


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda t: t.brain(surface="fsaverage6"), r"the mesh fsaverage6: found no pial_left.gii.gz .*fetch_surf"),
        (lambda t: t.brain(meshes="films"), "the mesh fsaverage5: found no pial_left.gii.gz .*; correct brain.meshes"),
        (lambda t: t.brain(surface="fsaverage4"), "brain.surface: found 'fsaverage4'"),
        (lambda t: t.brain(surface=None, meshes="meshes"), "brain.meshes: found 'meshes', expected null without"),
        (lambda t: t.brain(space="T1w"), "brain.space: found 'T1w', expected an MNI space with surface"),
        (lambda t: _own_meshes(t, "fsaverage6"), r"pial_left.gii.gz: found coordinates \(10242, 3\), expected"),
        (lambda t: _own_meshes(t).write_bytes(b"no mesh"), "pial_left.gii.gz: found a file that cannot be read"),
        (lambda t: _shift(t, 500), "no vertex in the mask, expected fsaverage5; check that the scans are in MNI"),
    ],
)  # fmt: skip
def test_wrong_projections_are_one_line(
    heads: Tree, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Tree], object], line: str
) -> None:
    monkeypatch.setenv("NILEARN_DATA", str(heads.root / "nothing"))
    monkeypatch.setenv("HOME", str(heads.root))
    spoil(heads)
    assert_four_parts(heads.error("brain", "sub-01"), line)


def _own_meshes(tree: Tree, surface: str = "fsaverage5") -> Path:
    folder = tree.root / "meshes"
    folder.mkdir()
    for path in find_meshes("fsaverage5", None):
        shutil.copy(path, folder)
    tree.brain(meshes="meshes", surface=surface)
    return folder / "pial_left.gii.gz"


def _shift(tree: Tree, mm: float) -> None:
    moved = _WIDE + np.array([[0, 0, 0, mm]] + 3 * [[0.0] * 4])
    for showing in SHOWINGS:
        save(tree.bold(showing), tree.values(showing), moved, TR_S)
        save(tree.mask(showing), np.pad(np.ones((12, 12, 12), np.uint8), 1), moved)


def test_meshes_are_taken_from_a_folder(heads: Tree) -> None:
    plain = heads.cube()
    _own_meshes(heads)
    np.testing.assert_array_equal(heads.cube()["bold"], plain["bold"])


def test_files_that_were_not_fetched_are_named(challenge: Tree) -> None:
    """A study of Movie10 needs no file of Friends; what it needs is told before anything is read."""
    _dangling(challenge)
    friends = hdf5(challenge).with_name("sub-01_task-friends_desc-s123456_bold.h5")
    friends.symlink_to(hdf5(challenge).readlink())
    params = BrainParams(source="algonauts2025", path="algonauts", subjects=["sub-01"], confounds="none")
    source = open_scans(params, challenge.root, "sub-01")
    runs = source.runs(["amber01", "s01e02a"])
    assert [source.files(run) for run in runs] == [[hdf5(challenge)], [friends]]
    assert [source.timing(run).n_volumes for run in runs] == [None, None]
    hdf5(challenge).unlink()
    write_hdf5(hdf5(challenge), _KEYS)
    check_rows(challenge.cube())
    source = open_scans(params, challenge.root, "sub-01")
    assert [(run.segment, run.repeat) for run in source.runs(["amber01", "cedar01"])] == [
        ("amber01", 1),
        ("amber01", 2),
    ]


def test_init_recognises_hdf5_and_arrays(challenge: Tree, tmp_path: Path) -> None:
    films = {film: [f"{film}01"] for film in ("amber", "birch")}
    split = {"train": ["amber"], "test": ["birch"]}

    def found(scans: str) -> tuple[object, ...]:
        own = OwnData(challenge.root / "films", challenge.root / scans, None, None, None)
        values = values_of_scans(tmp_path / "new", own, films, split)
        return tuple(values[key] for key in ("source", "subjects", "space", "confounds", "high_pass_hz", "tr_s"))

    mni = "MNI152NLin2009cAsym"
    assert found("algonauts") == found("algonauts/fmri") == ("algonauts2025", ["sub-01"], mni, "none", 0, TR_S)
    (challenge.root / "arrays").mkdir()
    write_array(challenge, rows_of(), 20484)
    assert found("arrays") == ("arrays", ["sub-01"], "fsaverage5", "none", 0, TR_S)
    for film in films:
        (challenge.root / "films" / film).mkdir(parents=True)
        (challenge.root / "films" / film / f"{film}01.mp4").touch()
    where = ("--stimuli", str(challenge.root / "films"), "--scans", str(challenge.root / "arrays"))
    challenge.must("init", str(tmp_path / "new"), "--template", "own", *where)
    assert load_study(tmp_path / "new").brain.source == "arrays"
