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
