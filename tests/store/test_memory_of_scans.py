"""What a subject's brain cube takes of memory: a run and what is read of it at once, however many runs there are."""

from __future__ import annotations

import os
import shutil
import tracemalloc

import numpy as np
import pytest

from cinecube.store.spaces.nifti import _SLAB_BYTES

from .scan_tree import N_VOLUMES, SHOWINGS, TR_S, Tree, save

SIDE = 56
RUN_BYTES = 4 * N_VOLUMES * SIDE**3
# Number, place, hemisphere, parcel and coordinates of a voxel, as arrays of numbers and of text.
LABEL_BYTES = 200


def _peak_bytes(tree: Tree) -> int:
    """The most that arrays take while the cube is made."""
    tracemalloc.start()
    try:
        tree.must("brain", "sub-01")
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.long
def test_memory_is_that_of_a_run_and_does_not_grow_with_runs(tree: Tree) -> None:
    tree.brain(atlas=None)
    tree.must("brain", "sub-01")  # imports are no part of it
    rng = np.random.default_rng(0)
    values = (1000 + 20 * rng.standard_normal((SIDE, SIDE, SIDE, N_VOLUMES))).astype(np.float32)
    scan = save(tree.root / "scan.nii", values, tr_s=TR_S)
    del values
    mask = save(tree.root / "mask.nii.gz", np.ones((SIDE, SIDE, SIDE), np.uint8))
    for showing in SHOWINGS:
        tree.bold(showing).unlink()
        os.link(scan, tree.bold(showing).with_suffix(""))
        shutil.copy(mask, tree.mask(showing))
    few = _peak_bytes(tree)
    assert few < RUN_BYTES + 2 * _SLAB_BYTES + LABEL_BYTES * SIDE**3
    for repeat in (3, 4, 5):
        tree.twin("run-1", f"run-{repeat}", "amber01_run-1")
    assert _peak_bytes(tree) < few + RUN_BYTES / 2
