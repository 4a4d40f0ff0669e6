"""Heads of cubes without xarray: the same as an open cube has, and what is wrong is said as opening says it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cinecube.store.base.errors import StudyError
from cinecube.store.cube.cubes import open_cube
from cinecube.store.cube.heads import CubeHead, head_of, read_head, stored_spec

from .verified import KINDS, SHARD, edit_root, flip, write_features


def as_lists(head: CubeHead) -> tuple[object, ...]:
    labels = {axis: values.tolist() for axis, values in head.labels.items()}
    return head.attrs, head.name, list(head.sizes.items()), labels


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_is_that_of_the_open_cube(kind: str, tmp_path: Path) -> None:
    cube = KINDS[kind](tmp_path / "cube.zarr")
    assert as_lists(read_head(cube)) == as_lists(head_of(open_cube(cube)))


def test_heads_of_all_kinds_take_no_xarray(tmp_path: Path) -> None:
    cubes = [str(write(tmp_path / f"{kind}.zarr")) for kind, write in KINDS.items()]
    code = (
        "import sys; from pathlib import Path; from cinecube.store.cube.heads import read_head\n"
        f"[read_head(Path(cube)) for cube in {cubes!r}]\n"
        f"print(sorted({{'xarray', 'zarr', 'pandas'}} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("file", ["dim/c/0", "model/c/0", "layer/c/0", "width/c/0/0", "zarr.json", SHARD])
@pytest.mark.parametrize("injury", ["flipped", "gone", "empty"])
def test_what_is_wrong_is_said_as_opening_says_it(file: str, injury: str, tmp_path: Path) -> None:
    cube = write_features(tmp_path / "cube.zarr")
    broken = cube / file
    if injury == "flipped":
        flip(broken, 5)
    elif injury == "gone":
        broken.unlink()
    else:
        broken.write_bytes(b"")
    said = []
    for read in (read_head, open_cube):
        try:
            read(cube)
        except StudyError as error:
            said.append(str(error))
    assert len(said) == (0 if (file, injury) == (SHARD, "flipped") else 2)
    assert len(set(said)) <= 1


def test_a_label_of_another_cube_is_refused(tmp_path: Path) -> None:
    """Each of its bytes is right, and the list of checksums tells that it is not this cube's."""
    cube, other = write_features(tmp_path / "cube.zarr"), write_features(tmp_path / "other.zarr", licence="other")
    (cube / "layer/c/0").write_bytes((other / "dim/c/0").read_bytes())
    with pytest.raises(StudyError, match="what belongs to dim/c/0"):
        read_head(cube)


def test_metadata_that_somebody_edited_are_left_to_zarr(tmp_path: Path) -> None:
    cube = write_features(tmp_path / "cube.zarr")
    edit_root(cube, lambda root: root["attributes"].update(spec=json.dumps({"edited": True})))
    with pytest.raises(StudyError, match="not as it was written"):
        stored_spec(cube)


def test_a_cube_without_a_list_of_checksums_is_read_by_zarr(tmp_path: Path) -> None:
    """Earlier versions wrote none."""
    cube = write_features(tmp_path / "cube.zarr")
    edit_root(cube, lambda root: root["consolidated_metadata"].pop("checksums"))
    assert as_lists(read_head(cube)) == as_lists(head_of(open_cube(cube)))
