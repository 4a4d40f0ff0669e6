"""Scans that are no images: HDF5 of Algonauts 2025 and a lab's arrays; and volumes projected to a surface."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from nilearn.signal import clean

from .scan_tree import N_ROWS, N_VOLUMES, SHOWINGS, TR_S, Tree, assert_four_parts

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
        (_replace([b"a", b"b"]), "a data set of type 'S' and shape"),
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
        (_dangling, "a link to a file that is not here, expected .*; run `datalad get"),
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
