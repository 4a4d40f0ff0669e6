"""Zarr groups made to do harm, on disk and behind DVC: nothing runs, nothing grows, one line."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from tests.hostile import run_all

from cinecube.store.base.errors import StudyError
from cinecube.store.cube.cubes import open_cube, write_feature_cube
from cinecube.store.cube.schema import Stream, feature_template, provenance, rows_index
from cinecube.store.dvc.dvc_index import Listing
from cinecube.store.dvc.dvc_zarr import DvcZarrStore
from cinecube.store.dvc.remotes import DvcObject, Objects, cache_location

OLD_NUMCODECS = "0.16.5"


class Canary:
    """What a pickle runs: it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def write(path: Path) -> Path:
    rows = rows_index({"amber01": np.arange(600) * 1.49})
    template = feature_template(rows, 1.49, [Stream("vit", ["embed"], [64])], "float32", provenance("features", {}, []))
    write_feature_cube(path, template, lambda m, k: np.ones((600, 64), np.float32))
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("cube") / "whole.zarr")


def write_old(path: Path, canary: Path, *, consolidated: bool) -> Path:
    """A group of Zarr v2 whose texts are pickles."""
    path.mkdir(parents=True)
    array = {"zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "|O", "fill_value": None, "order": "C"}
    array |= {"compressor": None, "filters": [{"id": "vlen-utf8"}, {"id": "pickle", "protocol": 5}]}
    files: dict[str, Any] = {".zgroup": {"zarr_format": 2}, ".zattrs": {"schema": 1}}
    files |= {"model/.zarray": array, "model/.zattrs": {"_ARRAY_DIMENSIONS": ["model"]}}
    if consolidated:
        files[".zmetadata"] = {"zarr_consolidated_format": 1, "metadata": dict(files)}
    for name, value in files.items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(json.dumps(value))
    (path / "model" / "0").write_bytes(pickle.dumps(Canary(canary)))
    return path


def edit(cube: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change an array's metadata, its own and the gathered ones; the group's own where no array is named."""
    root = json.loads((cube / "zarr.json").read_text())
    if name:
        own = json.loads((cube / name / "zarr.json").read_text())
        change(own)
        (cube / name / "zarr.json").write_text(json.dumps(own))
        root["consolidated_metadata"]["metadata"][name] = own
    else:
        change(root)
    (cube / "zarr.json").write_text(json.dumps(root))


def long(cube: Path, n: int) -> None:
    """Labels that are declared so long, in one chunk of nothing."""
    edit(cube, "onset_s", lambda node: node.update(shape=[n]))
    edit(cube, "onset_s", lambda node: node["chunk_grid"]["configuration"].update(chunk_shape=[n]))


def codecs(name: str, *chain: Any) -> Callable[[Path], None]:
    return lambda cube: edit(cube, name, lambda node: node.update(codecs=list(chain)))


def unlist(cube: Path) -> None:
    """Take out the list of checksums, which other programs do not write."""
    root = json.loads((cube / "zarr.json").read_text())
    del root["consolidated_metadata"]["checksums"]
    (cube / "zarr.json").write_text(json.dumps(root))


def bomb(cube: Path) -> None:
    """Labels of three bytes a thousand, which unpack to 4 GB."""
    from numcodecs.zstd import Zstd

    edit(cube, "onset_s", lambda node: node["codecs"].append({"name": "zstd", "configuration": {"level": 1}}))
    unlist(cube)
    (cube / "onset_s/c/0").write_bytes(Zstd(1).encode(bytes(2**30)) * 4)


def unsized(cube: Path) -> None:
    """A frame that does not say how much it holds."""
    edit(cube, "onset_s", lambda node: node["codecs"].append({"name": "zstd", "configuration": {"level": 1}}))
    unlist(cube)
    (cube / "onset_s/c/0").write_bytes(b"\x28\xb5\x2f\xfd\x00\x58" + bytes(40))


def fifo(key: str) -> Callable[[Path], None]:
    def make(cube: Path) -> None:
        (cube / key).unlink()
        os.mkfifo(cube / key)

    return make


def sparse(key: str) -> Callable[[Path], None]:
    def make(cube: Path) -> None:
        with (cube / key).open("r+b") as file:
            file.truncate(2**36)

    return make


def gathers(cube: Path, name: str, described: Any) -> None:
    edit(cube, "", lambda root: root["consolidated_metadata"]["metadata"].update({name: described}))


def many(cube: Path, n: int) -> None:
    root = json.loads((cube / "zarr.json").read_text())
    node = root["consolidated_metadata"]["metadata"]["onset_s"]
    root["consolidated_metadata"]["metadata"] |= {f"a{i}": node for i in range(n)}
    (cube / "zarr.json").write_text(json.dumps(root))


PICKLE = {"name": "numcodecs.pickle", "configuration": {"protocol": 5}}
BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
BIG = 2**40
HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a codec that runs what it reads": (codecs("onset_s", PICKLE), "the codec 'numcodecs.pickle'"),
    "the same behind texts": (codecs("model", {"name": "vlen-utf8"}, PICKLE), "the codec 'numcodecs.pickle'"),
    "a codec of this machine": (codecs("onset_s", BYTES, {"name": "numcodecs.zlib"}), "the codec 'numcodecs.zlib'"),
    "gzip, which does not say what it holds": (codecs("onset_s", BYTES, {"name": "gzip"}), "the codec 'gzip'"),
    "two compressors": (codecs("onset_s", BYTES, {"name": "zstd"}, {"name": "zstd"}), "which do not fit"),
    "texts as bytes": (codecs("model", BYTES), "which do not fit its type"),
    "codecs that are no list": (lambda c: edit(c, "onset_s", lambda n: n.update(codecs="bytes")), "no list"),
    "no codecs": (codecs("onset_s"), "no list of one to four codecs"),
    "objects": (lambda c: edit(c, "onset_s", lambda n: n.update(data_type="object")), "values of type 'object'"),
    "bytes of any length": (lambda c: edit(c, "model", lambda n: n.update(data_type="variable_length_bytes")), "type"),
    "texts of 4 GB": (
        lambda c: edit(
            c,
            "model",
            lambda n: n.update(data_type={"name": "fixed_length_utf32", "configuration": {"length_bytes": 2**32}}),
        ),
        "texts of 4294967296 bytes",
    ),
    "labels 250 million long": (lambda c: long(c, 250_000_000), "250000000 labels declared, more than 4000000"),
    "labels of 2^60": (lambda c: long(c, 2**60), "shape"),
    "a negative length": (lambda c: edit(c, "onset_s", lambda n: n.update(shape=[-1])), "shape [-1]"),
    "a length that is no number": (lambda c: edit(c, "onset_s", lambda n: n.update(shape=["9"])), "shape ['9']"),
    "twenty axes": (lambda c: edit(c, "features", lambda n: n.update(shape=[1] * 20)), "shape"),
    "a chunk of 10 GB": (
        lambda c: edit(c, "features", lambda n: n["codecs"][0]["configuration"].update(chunk_shape=[BIG, 64, 1, 1])),
        "no whole number of chunks",
    ),
    "a shard and a chunk of 10 GB": (
        lambda c: (
            edit(c, "features", lambda n: n["codecs"][0]["configuration"].update(chunk_shape=[2**26, 64, 1, 1])),
            edit(c, "features", lambda n: n["chunk_grid"]["configuration"].update(chunk_shape=[2**26, 64, 1, 1])),
        ),
        "a chunk of 4294967296 values",
    ),
    "a shard of a billion chunks": (
        lambda c: edit(c, "features", lambda n: n["chunk_grid"]["configuration"].update(chunk_shape=[2**39, 64, 1, 1])),
        "chunks in a shard declared",
    ),
    "a shard of 8 GB in a small array": (
        lambda c: edit(c, "features", lambda n: n["chunk_grid"]["configuration"].update(chunk_shape=[2**25, 64, 1, 1])),
        "shards of",
    ),
    "a billion files": (
        lambda c: edit(c, "features", lambda n: n.update(shape=[600, 64, 2**9, 2**9])),
        "chunks or shards declared",
    ),
    "an index at the start": (
        lambda c: edit(c, "features", lambda n: n["codecs"][0]["configuration"].update(index_location="start")),
        "an index of its shards",
    ),
    "other chunk keys": (
        lambda c: edit(c, "onset_s", lambda n: n.update(chunk_key_encoding={"name": "v2"})),
        "chunk keys encoded",
    ),
    "another grid": (
        lambda c: edit(c, "onset_s", lambda n: n["chunk_grid"].update(name="rectilinear")),
        "a chunk grid",
    ),
    "storage transformers": (
        lambda c: edit(c, "onset_s", lambda n: n.update(storage_transformers=[{"name": "x"}])),
        "storage transformers",
    ),
    "a fill value of a megabyte": (
        lambda c: edit(c, "model", lambda n: n.update(fill_value="x" * 10**6)),
        "a fill value",
    ),
    "an array elsewhere": (lambda c: gathers(c, "../../elsewhere", {}), "an array with the name '../../elsewhere'"),
    "an array that is null": (lambda c: gathers(c, "onset_s", None), "no JSON object"),
    "a thousand arrays": (lambda c: many(c, 1000), "gathered metadata"),
    "labels of many arrays": (
        lambda c: (long(c, 4_000_000), many(c, 200)),
        "labels, 602 of them text",
    ),
    "metadata of another version": (lambda c: edit(c, "", lambda n: n.update(zarr_format=2)), "Zarr format 2"),
    "nested metadata": (
        lambda c: (c / "zarr.json").write_text('{"a":' * 50_000 + "1" + "}" * 50_000),
        "nested more than 64 deep",
    ),
    "a number of a million digits": (
        lambda c: (c / "zarr.json").write_text('{"zarr_format": 3, "attributes": {"a": ' + "9" * 10**6 + "}}"),
        "digits",
    ),
    "metadata of 64 GB": (sparse("zarr.json"), "68719476736 bytes"),
    "labels of 64 GB": (sparse("onset_s/c/0"), "68719476736 bytes"),
    "metadata that are a pipe": (fifo("zarr.json"), "no cube"),
    "labels that are a pipe": (fifo("dim/c/0"), "a pipe"),
    "a shard that is a pipe": (fifo("features/c/0/0/0/0"), "no shard of vit embed"),
    "a bomb": (bomb, "a compressed chunk of 1073741824 bytes"),
    "a compressed chunk of unknown size": (unsized, "a compressed chunk of unknown size"),
}


def test_on_disk(whole: Path, tmp_path: Path) -> None:
    """Each is one line that names it, by every command that reads a cube."""
    commands, wanted = [["show", str(whole)]], []
    for number, (how, told) in enumerate(HOSTILE.values()):
        cube = shutil.copytree(whole, tmp_path / f"{number}.zarr")
        how(cube)
        commands.append(["show", str(cube)])
        wanted.append(told)
    ended = run_all(commands, tmp_path)[1:]
    for name, one, told in zip(HOSTILE, ended, wanted, strict=True):
        assert told in one.line, name


def test_verify_and_ls_of_them(whole: Path, tmp_path: Path) -> None:
    """`verify` names every one, `ls` leaves them out with a line each."""
    for number, (how, _) in enumerate(HOSTILE.values()):
        how(shutil.copytree(whole, tmp_path / "cubes" / f"{number:02}.zarr"))
    cubes = sorted(f"cubes/{path.name}" for path in (tmp_path / "cubes").iterdir())
    commands = [["ls", str(whole.parent)], ["ls", "cubes"], *(["verify", cube, "--json"] for cube in cubes)]
    _, listed, *verified = run_all(commands, tmp_path)
    assert listed.code == 0
    assert not listed.crashed
    assert listed.err.count("skipped: ") == len(listed.err.splitlines()) > 30
    for cube, one in zip(cubes, verified, strict=True):
        assert one.code == 1, cube
        assert not one.crashed, one.crashed
        assert "wrong" in one.out or "no cube" in one.err


def stored(cube: Path, cache: Path) -> DvcZarrStore:
    """The files of a folder as DVC keeps them."""
    import hashlib

    files = {}
    for file in cube.rglob("*"):
        if file.is_file():
            oid = hashlib.md5(file.read_bytes()).hexdigest()
            place = cache / "files" / "md5" / oid[:2] / oid[2:]
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place)
            files[file.relative_to(cube).as_posix()] = DvcObject(oid)
    return DvcZarrStore(Listing("elsewhere", files, Objects([cache_location(str(cache))])))


def test_behind_dvc(whole: Path, tmp_path: Path) -> None:
    """What `xr.open_zarr` is given a store of is judged by the store."""
    opened = xr.open_zarr(stored(whole, tmp_path), chunks=None)
    assert float(opened["features"].sum()) == 600 * 64
    for number, (name, (how, _)) in enumerate(HOSTILE.items()):
        if how in (HOSTILE["metadata of 64 GB"][0], HOSTILE["labels of 64 GB"][0]) or "pipe" in name:
            continue  # DVC keeps neither
        cube = shutil.copytree(whole, tmp_path / f"{number}.zarr")
        how(cube)
        with pytest.raises(StudyError):
            xr.open_zarr(stored(cube, tmp_path), chunks=None).load()


@pytest.mark.parametrize("consolidated", [True, False])
def test_older_groups_are_refused_behind_dvc(tmp_path: Path, consolidated: bool) -> None:
    group = write_old(tmp_path / "old.zarr", tmp_path / "ran", consolidated=consolidated)
    for options in ({}, {"consolidated": False}, {"zarr_format": 2}):
        with pytest.raises(StudyError, match="a group of Zarr v2"):
            xr.open_zarr(stored(group, tmp_path), chunks=None, **options).load()
    assert not (tmp_path / "ran").exists()


def test_what_others_write_is_read(whole: Path, tmp_path: Path) -> None:
    """Cubes that xarray saved again are plain: packed, with other chunks, and texts of fixed length."""
    again = tmp_path / "again.zarr"
    with open_cube(whole) as cube:
        for variable in cube.variables.values():
            variable.encoding.clear()
        fixed = cube.load().assign_coords(segment=("time", cube["segment"].values.astype("U16")))
        fixed.to_zarr(again, zarr_format=3)
    with open_cube(again) as read:
        assert read.load().equals(cube)
    sharded = tmp_path / "sharded.zarr"
    encoding = {"features": {"chunks": (100, 64, 1, 1), "shards": (600, 64, 1, 1)}}
    cube.to_zarr(sharded, zarr_format=3, encoding=encoding)
    assert zarr.open_array(sharded / "features").metadata.codecs[0].codecs[-1].to_dict()["name"] == "zstd"
    assert open_cube(sharded).load().equals(cube)
    assert xr.open_zarr(stored(sharded, tmp_path), chunks=None).load().equals(cube)


@pytest.fixture(scope="session")
def old_numcodecs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last numcodecs that runs pickles, beside the environment."""
    place = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / f"cinecube-tests/numcodecs-{OLD_NUMCODECS}"
    if not place.is_dir():
        made = tmp_path_factory.mktemp("numcodecs") / "made"
        words = ["install", "--quiet", "--no-deps", "--target", str(made), f"numcodecs=={OLD_NUMCODECS}"]
        done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True, timeout=120)
        if done.returncode:
            pytest.skip(f"numcodecs {OLD_NUMCODECS} cannot be installed: {done.stderr.strip().splitlines()[-1]}")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(made, place)
    return place


# What plain Zarr and xarray do with the group, which shows that the canary lives; then every door of ours.
_DOORS = """
import sys
from pathlib import Path
import numcodecs, xarray as xr
from cinecube.store.dvc.dvc_zarr import DvcZarrStore
from cinecube.store.base.errors import StudyError
assert numcodecs.__version__ == sys.argv[1], numcodecs.__version__
group, canary = Path(sys.argv[2]), Path(sys.argv[3])
if sys.argv[4] == "plain":
    try:
        xr.open_zarr(group, zarr_format=2, chunks=None).load()
    except Exception:
        pass
    assert canary.exists()
    sys.exit()
from cinecube.store.cube import cubes
from cinecube.store.open import listing
from cinecube.store.verify import find_cubes as verify
from cinecube.store.cube.plain_zarr import open_plain
from tests_hostile import stored
refused = 0
for door in (
    lambda: cubes.open_cube(group),
    lambda: cubes.open_stored(stored(group, group.parent), "there"),
    lambda: xr.open_zarr(stored(group, group.parent), chunks=None).load(),
    lambda: xr.open_zarr(stored(group, group.parent), zarr_format=2, chunks=None, consolidated=False).load(),
    lambda: open_plain(group),
):
    try:
        door()
    except (StudyError, FileNotFoundError):
        refused += 1
assert refused == 5, refused
assert verify.verify_cube(group)
listing.list_folder(group.parent, lambda error: None)
assert not canary.exists()
"""


@pytest.mark.parametrize("how", ["plain", "ours"])
def test_older_numcodecs_are_refused_their_groups(old_numcodecs: Path, tmp_path: Path, how: str) -> None:
    """With the last numcodecs that runs pickles nothing runs, since such groups are refused before it is asked."""
    group = write_old(tmp_path / "old.zarr", tmp_path / "ran", consolidated=True)
    source = Path(__file__)
    package = "import importlib.util, sys, types\n" + "".join(
        f"module = types.ModuleType({name!r}); module.__path__ = [{str(path)!r}]; sys.modules[{name!r}] = module\n"
        for name, path in (("tests", source.parents[1]), ("tests.store", source.parent))
    )
    package += "import tests.store.test_hostile_cubes as found; sys.modules['tests_hostile'] = found\n"
    done = subprocess.run(
        [sys.executable, "-c", package + _DOORS, OLD_NUMCODECS, str(group), str(tmp_path / "ran"), how],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(old_numcodecs)},
    )
    assert done.returncode == 0, done.stderr


def test_the_lower_bound_of_numcodecs_is_one_that_runs_nothing() -> None:
    """What may be installed beside us is newer than the last that runs pickles."""
    from packaging.requirements import Requirement

    wanted = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["dependencies"]
    (bound,) = (found for found in map(Requirement, wanted) if found.name == "numcodecs")
    assert OLD_NUMCODECS not in bound.specifier
