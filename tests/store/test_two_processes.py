"""Several processes on one study: a reader sees one whole cube or another, never a mix."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from zarr.storage import LocalStore

from cinecube.store.base import atomic
from cinecube.store.base.bounded import refuse_special
from cinecube.store.base.errors import StudyError
from cinecube.store.base.labels import layer_labels
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import open_cube, write_feature_cube
from cinecube.store.cube.schema import Stream, feature_template, provenance, rows_index
from cinecube.store.verify.find_cubes import verify_cube

ROUNDS = 40


def publish(root: Path, model: str, version: int) -> None:
    """A cube whose every value is its version, and whose rows, dims and layers depend on it."""
    n_rows, n_dims, n_layers = 40 + 20 * (version % 3), 64 + 32 * (version % 2), 2 + version % 3
    rows = rows_index({"amber01": np.arange(n_rows) * 1.5})
    streams = [Stream(model, layer_labels(n_layers - 1), [n_dims] * n_layers)]
    template = feature_template(rows, 1.5, streams, "float32", provenance("features", {"version": version}, []))
    values = np.full((n_rows, n_dims), version, np.float32)
    write_feature_cube(StudyPaths(root).features(model, "amber"), template, lambda m, k: values)


def version_of(cube: xr.Dataset) -> int:
    """The one version of a cube: labels, fingerprint and all values agree."""
    values = cube["features"].values
    (version,) = np.unique(values)
    assert cube.attrs["spec"] == f'{{"version": {int(version)}}}'
    assert values.shape[0] == 40 + 20 * (int(version) % 3)
    assert values.shape[1] == 64 + 32 * (int(version) % 2)
    assert values.shape[3] == 2 + int(version) % 3
    return int(version)


WRITER = """
import sys
import time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_two_processes import publish
for version in range({rounds}):
    publish(Path({root!r}), {model!r}, version)
    time.sleep({pause_s})  # or a slow reader would never be done with one
"""


def start_writer(root: Path, model: str, rounds: int = ROUNDS, pause_s: float = 0.05) -> subprocess.Popen[bytes]:
    code = WRITER.format(tests=str(Path(__file__).parent), root=str(root), model=model, rounds=rounds, pause_s=pause_s)
    return subprocess.Popen([sys.executable, "-c", code])


def test_two_models_are_published_at_once(tmp_path: Path) -> None:
    writers = [start_writer(tmp_path, model, 15, 0) for model in ("vit", "ast")]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    for model in ("vit", "ast"):
        path = StudyPaths(tmp_path).features(model, "amber")
        assert verify_cube(path) == []
        assert version_of(open_cube(path)) == 14
        assert sorted(file.name for file in path.parent.iterdir()) == ["amber.zarr"]


def test_a_reader_beside_a_writer_sees_whole_cubes_only(tmp_path: Path) -> None:
    """Every read is of one version, or says that the cube was replaced under it."""
    publish(tmp_path, "vit", 0)
    path = StudyPaths(tmp_path).features("vit", "amber")
    writer, seen, told = start_writer(tmp_path, "vit"), [], []
    try:
        while writer.poll() is None:
            try:
                seen.append(version_of(open_cube(path)))  # opening waits out the moment in which nothing stands there
            except StudyError as error:
                told.append(error.found)
    finally:
        writer.wait(timeout=60)
    assert writer.returncode == 0
    assert set(told) <= {"another cube in its place than was opened", "nothing where it was opened"}
    assert seen == sorted(seen)
    assert len(set(seen)) > 3
    assert version_of(open_cube(path)) == ROUNDS - 1


@pytest.mark.parametrize("hops", [1, 2, 5])
def test_an_open_cube_is_never_read_from_another(tmp_path: Path, hops: int) -> None:
    """Not even where the file system gives its number to a later one."""
    publish(tmp_path, "vit", 0)
    path = StudyPaths(tmp_path).features("vit", "amber")
    cube = open_cube(path)
    travelled = pickle.loads(pickle.dumps(cube))  # noqa: S301 - as to a Dask worker
    for version in range(1, hops + 1):
        publish(tmp_path, "vit", 6 * version)  # the same shape
    for opened in (cube, travelled):
        with pytest.raises(StudyError, match="found another cube in its place than was opened"):
            opened["features"].isel(layer=0).values  # noqa: B018
    assert version_of(open_cube(path)) == 6 * hops


def test_opening_reads_the_metadata_of_all_arrays_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a file for each, nor what the folder lists: those may be another cube's by then."""
    publish(tmp_path, "vit", 0)
    asked: list[str] = []
    get = LocalStore.get

    async def noted(self: LocalStore, key: str, *how: Any, **more: Any) -> Any:
        asked.append(key)
        return await get(self, key, *how, **more)

    monkeypatch.setattr(LocalStore, "get", noted)
    monkeypatch.setattr(LocalStore, "list_dir", None)
    assert version_of(open_cube(StudyPaths(tmp_path).features("vit", "amber"))) == 0
    assert [key for key in asked if key.endswith("zarr.json")] == ["zarr.json"]


@pytest.mark.filterwarnings("ignore:Failed to open Zarr store with consolidated metadata")
def test_a_cube_that_is_replaced_while_its_arrays_are_listed_is_not_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a cube whose `zarr.json` does not gather them they are listed, and a folder that went away lists none."""
    publish(tmp_path, "vit", 0)
    path = StudyPaths(tmp_path).features("vit", "amber")
    root = json.loads((path / "zarr.json").read_text())
    del root["consolidated_metadata"]
    (path / "zarr.json").write_text(json.dumps(root))
    publish(tmp_path / "next", "vit", 1)
    list_dir, listings = LocalStore.list_dir, []

    async def replaced(self: LocalStore, prefix: str) -> Any:
        listings.append(prefix)
        path.rename(tmp_path / "gone")
        async for name in list_dir(self, prefix):
            yield name
        StudyPaths(tmp_path / "next").features("vit", "amber").rename(path)

    monkeypatch.setattr(LocalStore, "list_dir", replaced)
    assert version_of(open_cube(path)) == 1
    assert len(listings) == 1


def test_a_cube_that_goes_away_is_named(tmp_path: Path) -> None:
    publish(tmp_path, "vit", 0)
    path = StudyPaths(tmp_path).features("vit", "amber")
    cube = open_cube(path)
    shutil.rmtree(path)
    with pytest.raises(StudyError, match="found nothing where it was opened"):
        cube["features"].values  # noqa: B018


def test_opening_waits_while_a_cube_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The moment between two renames, made long."""
    publish(tmp_path, "vit", 0)
    path = StudyPaths(tmp_path).features("vit", "amber")
    code = (
        "import os, sys, time; from pathlib import Path\n"
        "from cinecube.store.base.atomic import old_of\n"
        f"path = Path({str(path)!r}); path.rename(old_of(path)); print('gone', flush=True)\n"
        "time.sleep(0.05); os.replace(old_of(path), path)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"gone\n"
        assert version_of(open_cube(path)) == 0
    path.rename(atomic.old_of(path))  # a writer that was killed there: nobody brings it back
    began = time.monotonic()
    with pytest.raises(StudyError, match="found no cube"):
        open_cube(path)
    assert time.monotonic() - began < 5


def test_a_file_that_goes_between_two_looks_is_not_called_broken(tmp_path: Path) -> None:
    """Whoever takes it away may put it back: it is looked at once."""
    file = tmp_path / "zarr.json"
    file.write_text("{}")
    code = (
        "import os; from pathlib import Path\n"
        f"file = Path({str(file)!r}); away = file.with_name('away'); print('begun', flush=True)\n"
        "while True: os.rename(file, away); os.rename(away, file)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"begun\n"
        try:
            for _ in range(20_000):
                refuse_special(file)
        finally:
            other.kill()
