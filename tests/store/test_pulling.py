"""`cinecube pull`: single layers in DVC's cache, read from there, with DVC none the wiser."""

from __future__ import annotations

import hashlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import cinecube as cc
from cinecube.cli import main
from cinecube.store.dvc import remotes

from .conftest import LAYERS, MODEL, SHARD_BYTES, Published, git, values

if TYPE_CHECKING:
    from .servers import Site

CUBE = f"data/features/{MODEL}/amber.zarr"
LABEL_BYTES = 60_000  # of a thousand rows, and every small file's headers


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remotes, "WAITS_S", (0.01, 0.02))


@pytest.fixture
def clone(published: Published, tmp_path: Path) -> Path:
    """A fresh clone that reads the HTTP server."""
    return published.clone(tmp_path / "clone", "http")


@pytest.fixture
def http(published: Published) -> Site:
    published.sites["http"].wire.reset()
    return published.sites["http"]


def run(root: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["pull", "--study", str(root), "--model", MODEL, *words])


def look(root: Path, command: str, *words: str) -> Result:
    return CliRunner().invoke(main, [command, *words, "--study", str(root)])


def pull(root: Path, *words: str) -> None:
    done = run(root, *words)
    assert done.exit_code == 0, f"{done.output} {done.exception!r}"


def layer_of(root: Path, layer: int, film: str = "amber") -> np.ndarray:
    found: np.ndarray = cc.open(root).features(MODEL, film, layer=layer).isel(model=0).values
    return found


def cached(root: Path) -> dict[str, str]:
    """Hash that an object's name says, and the one it has."""
    folder = root / ".dvc" / "cache" / "files" / "md5"
    files = [file for file in folder.glob("*/*") if file.is_file()]
    return {f.parent.name + f.name.removesuffix(".dir"): hashlib.md5(f.read_bytes()).hexdigest() for f in files}


def test_one_layer_moves_alone_and_is_read(published: Published, site: Site, tmp_path: Path) -> None:
    root = published.clone(tmp_path / "clone", site.name)
    pull(root, "--layer", "1", "--film", "amber")
    assert SHARD_BYTES <= site.wire.sent <= 1.05 * SHARD_BYTES + LABEL_BYTES
    site.wire.reset()
    np.testing.assert_array_equal(layer_of(root, 1), values("amber", 1))
    pull(root, "--layer", "block01", "--film", "amber")
    assert site.wire.sent < 10_000  # no byte of the cube again
    assert not (root / "data").exists()
    assert git(root, "status", "--porcelain") == ""


def test_a_layer_that_was_not_pulled(http: Site, clone: Path) -> None:
    pull(clone, "--layer", "1", "--film", "amber")
    wanted = rf"{CUBE}: found no shard of vit block02, .* `cinecube pull --model vit --layer 2 --film amber`"
    with pytest.raises(cc.StudyError, match=wanted):
        layer_of(clone, 2)
    with pytest.raises(cc.StudyError, match="embed and 1 more, .* `cinecube pull --model vit --film amber`"):
        cc.open(clone).features(MODEL, "amber")
    with pytest.raises(cc.StudyError, match="dune.zarr: found no cube"):
        layer_of(clone, 1, "dune")


def test_what_was_pulled_is_listed_and_shown(http: Site, clone: Path) -> None:
    assert json.loads(look(clone, "ls", "--json").stdout) == []
    pull(clone, "--layer", "1", "--film", "amber")
    (row,) = json.loads(look(clone, "ls", "--json").stdout)
    assert (row["path"], row["pulled"]) == (CUBE, ["vit block01"])
    assert SHARD_BYTES < row["bytes"] < SHARD_BYTES + LABEL_BYTES
    inside = CUBE.removeprefix("data/features/")
    assert f"  {inside} (in DVC's cache; layers there: vit block01)" in look(clone, "ls", "data/features").stdout
    assert look(clone, "ls", "results", "--json").exit_code == 1
    shown = json.loads(look(clone, "show", CUBE, "--json").stdout)
    assert shown["lacking"] == ["vit embed", "vit block02"]
    (told,) = shown["statistics"]
    assert told["at"] == ["vit", "block01"]
    assert told["mean"] == pytest.approx(values("amber", 1).mean(dtype=float))
    assert "not here: vit embed, vit block02; `cinecube pull` brings them" in look(clone, "show", CUBE).stdout
    why = look(clone, "why", CUBE).stdout
    assert "layers in DVC's cache: vit block01" in why
    assert why.index("dvc pull") < why.index("dvc repro")
    pull(clone, "--film", "amber")
    assert json.loads(look(clone, "show", CUBE, "--json").stdout)["lacking"] == []
    assert "found no cube" in look(clone, "show", CUBE.replace("amber", "dune")).stderr


def test_all_films_and_layers(http: Site, clone: Path) -> None:
    for film in ("amber", "dune"):
        pull(clone, "--film", film)
        for layer in range(LAYERS):
            np.testing.assert_array_equal(layer_of(clone, layer, film), values(film, layer))


def test_dvc_finds_its_outputs_as_they_were(http: Site, clone: Path) -> None:
    from dvc.repo import Repo

    def status() -> Any:
        with chdir(clone), Repo(str(clone)) as repo:
            return repo.status()

    lock, before = (clone / "dvc.lock").read_bytes(), status()
    pull(clone, "--layer", "1", "--film", "amber")
    assert status() == before
    with chdir(clone), Repo(str(clone)) as repo:
        repo.pull()
        assert repo.status() == {}
        assert repo.reproduce() == []  # its stages would fail
    assert (clone / "dvc.lock").read_bytes() == lock
    for layer in range(LAYERS):
        np.testing.assert_array_equal(layer_of(clone, layer), values("amber", layer))
    assert not list((clone / CUBE).rglob("*.zarr"))  # no folder in itself


def test_an_import(http: Site, published: Published, tmp_path: Path) -> None:
    """A `dvc import` whose bytes were never fetched: one layer, and then all of it, by DVC itself."""
    from dvc.repo import Repo

    mine = tmp_path / "mine"
    (mine / "data" / "features" / MODEL).mkdir(parents=True)
    shutil.copy(published.root / "params.yaml", mine / "params.yaml")
    git(mine, "init", "-q")
    with Repo.init(str(mine)) as repo, chdir(mine):
        repo.imp(str(published.bare), CUBE, out=CUBE, no_download=True, remote="http")
    tracked = (mine / f"{CUBE}.dvc").read_bytes()
    pull(mine, "--layer", "2", "--film", "amber")
    np.testing.assert_array_equal(layer_of(mine, 2), values("amber", 2))
    assert (mine / f"{CUBE}.dvc").read_bytes() == tracked
    assert not (mine / CUBE).exists()
    with Repo(str(mine)) as repo, chdir(mine):
        repo.reproduce(all_pipelines=True)
        assert repo.status() == {}
    assert sorted(path.name for path in mine.rglob("*.zarr")) == ["amber.zarr"]  # not once more in itself
    for layer in range(LAYERS):
        np.testing.assert_array_equal(layer_of(mine, layer), values("amber", layer))


def test_a_server_that_dies_leaves_whole_objects_only(http: Site, clone: Path) -> None:
    http.wire.break_after(SHARD_BYTES // 2)
    done = run(clone, "--film", "amber")
    assert done.exit_code == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "remote 'http'" in done.stderr
    http.wire.reset()
    found = cached(clone)
    assert found
    assert list(found) == list(found.values())
    assert not list((clone / ".dvc" / "cache").glob(".pull-*"))
    pull(clone, "--film", "amber")
    np.testing.assert_array_equal(layer_of(clone, 2), values("amber", 2))


def test_an_object_that_is_cut_at_the_server(http: Site, published: Published, clone: Path) -> None:
    oid = hashlib.md5((published.root / CUBE / "features/c/0/0/0/1").read_bytes()).hexdigest()
    restore = http.shorten(oid)
    try:
        done = run(clone, "--film", "amber", "--layer", "1")
    finally:
        restore()
    assert done.exit_code == 1
    assert "features/c/0/0/0/1: found remote 'http'" in done.stderr
    assert oid not in cached(clone)


@pytest.mark.parametrize("attempt", range(6))
def test_two_pulls_at_once(http: Site, clone: Path, attempt: int) -> None:
    """An object that stood empty in its place for a moment was read by the other one in 1 of 30 attempts."""
    with ThreadPoolExecutor(2) as pool:
        from cinecube.store.dvc.dvc_index import open_index
        from cinecube.store.dvc.pulling import pull_layers

        done = list(pool.map(lambda _: pull_layers(open_index(clone), CUBE), range(2)))
    assert [part.shards for part in done] == [LAYERS, LAYERS]
    found = cached(clone)
    assert list(found) == list(found.values())
    np.testing.assert_array_equal(layer_of(clone, 0), values("amber", 0))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--layer", "99", "--film", "amber"), "no layer"),
        (("--film", "abmer"), "did you mean 'amber'"),
        (("--film", "birch"), "no output of DVC"),
    ],
)
def test_what_there_is_not(http: Site, clone: Path, words: tuple[str, ...], message: str) -> None:
    done = run(clone, *words)
    assert done.exit_code == 1
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
