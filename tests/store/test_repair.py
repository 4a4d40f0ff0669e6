"""`verify --repair`: broken files come back from the cache, a remote or an import's source; nothing else moves."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import chdir
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from cinecube.cli import main
from cinecube.store.dvc import remotes

from .conftest import MODEL, Published, git
from .verified import SHARD, edit_root, files, flip, relabel, track, write_features

if TYPE_CHECKING:
    from .servers import Site

CUBE = f"data/features/{MODEL}/amber.zarr"
BLOCK02 = "features/c/0/0/0/2"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remotes, "WAITS_S", (0.01, 0.02))


def repair(root: Path, *words: str) -> Result:
    done = CliRunner().invoke(main, ["verify", "--repair", "--study", str(root), *words])
    assert isinstance(done.exception, SystemExit | None), repr(done.exception)
    return done


def damaged_objects(root: Path) -> list[str]:
    """Objects of the cache whose bytes are not those of their name."""
    import hashlib

    every = [file for file in (root / ".dvc/cache/files/md5").glob("*/*") if file.is_file()]
    named = {file: file.parent.name + file.name.removesuffix(".dir") for file in every}
    return [name for file, name in named.items() if hashlib.md5(file.read_bytes()).hexdigest() != name]


def status(root: Path) -> Any:
    from dvc.repo import Repo

    with chdir(root), Repo(str(root)) as repo:
        return repo.status()


@pytest.fixture
def tracked(tmp_path: Path) -> Path:
    """A study with a cube whose remote is a folder; the cache holds copies."""
    write_features(tmp_path / "study" / "cube.zarr")
    track(tmp_path / "study", tmp_path / "remote")
    return tmp_path / "study"


def test_every_file_of_a_cube_comes_back(tracked: Path) -> None:
    cube = tracked / "cube.zarr"
    whole = files(cube)
    for number, name in enumerate(whole):
        (cube / name).unlink() if number % 2 else flip(cube / name)
        done = repair(tracked)
        assert done.exit_code == 0, f"{name}: {done.output}"
        assert f"repaired {cube}/{name}" in done.stdout
        assert files(cube) == whole
    assert status(tracked) == {}


def test_all_files_at_once(tracked: Path) -> None:
    cube = tracked / "cube.zarr"
    whole = files(cube)
    for name in whole:
        flip(cube / name)
    done = repair(tracked, "--json")
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert (told["cubes"], told["wrong"]) == (1, {})
    assert sorted(told["repaired"][str(cube)]) == sorted(whole)
    assert files(cube) == whole


@pytest.mark.parametrize("lost", ["all", "list", "damaged list", "damaged"])
def test_what_the_cache_lacks_comes_from_the_remote(lost: str, tracked: Path) -> None:
    cube, cache = tracked / "cube.zarr", tracked / ".dvc" / "cache"
    whole = files(cube)
    flip(cube / SHARD)
    if lost == "all":
        shutil.rmtree(cache)
    for file in [file for file in cache.rglob("*") if file.is_file()]:
        if lost == "damaged" or (lost == "damaged list" and file.suffix == ".dir"):
            flip(file)
        elif lost == "list" and file.suffix == ".dir":
            file.unlink()
    done = repair(tracked)
    assert done.exit_code == 0, done.output
    assert files(cube) == whole
    assert done.stdout.splitlines()[-1] == "1 cube, 1 whole, 1 of these repaired, 0 damaged"


def test_a_byte_that_flipped_in_a_hard_link_of_the_cache(tmp_path: Path) -> None:
    cube = write_features(tmp_path / "study" / "cube.zarr")
    whole = files(cube)
    track(tmp_path / "study", tmp_path / "remote", cache_type="hardlink")
    assert (cube / SHARD).stat().st_nlink > 1
    flip(cube / SHARD)
    assert len(damaged_objects(tmp_path / "study")) == 1
    done = repair(tmp_path / "study")
    assert done.exit_code == 0, done.output
    assert files(cube) == whole
    assert damaged_objects(tmp_path / "study") == []
    assert status(tmp_path / "study") == {}


@pytest.mark.parametrize("lost", ["nothing", "cache", "links"])
def test_metadata_that_no_check_but_the_hash_guards(lost: str, tmp_path: Path) -> None:
    cube, root = write_features(tmp_path / "study" / "cube.zarr"), tmp_path / "study"
    whole = files(cube)
    track(root, tmp_path / "remote", cache_type="hardlink" if lost == "links" else "copy")
    flip(cube / "zarr.json", whole["zarr.json"].index(b"MIT"), with_=1)
    assert b"LIT" in (cube / "zarr.json").read_bytes()
    if lost == "cache":
        shutil.rmtree(root / ".dvc" / "cache")
    done = repair(root)
    assert done.exit_code == 0, done.output
    assert files(cube) == whole
    assert damaged_objects(root) == []


def test_labels_that_a_program_changed(tracked: Path) -> None:
    cube = tracked / "cube.zarr"
    whole = files(cube)
    relabel(cube, "onset_s", np.zeros(50))
    edit_root(cube, lambda root: root["attributes"].update(licence="MIX"))
    assert repair(tracked).exit_code == 0
    assert files(cube) == whole


@pytest.mark.parametrize("how", ["whole", "made anew", "made anew and broken"])
def test_a_cube_that_is_whole_is_not_touched(how: str, tracked: Path) -> None:
    cube = tracked / "cube.zarr"
    if how != "whole":
        shutil.rmtree(cube)
        write_features(cube, seed=1)
    if how == "made anew and broken":
        flip(cube / SHARD)
    before = {name: (data, (cube / name).stat().st_mtime_ns) for name, data in files(cube).items()}
    done = repair(tracked)
    assert {name: (data, (cube / name).stat().st_mtime_ns) for name, data in files(cube).items()} == before
    assert "repaired" not in done.stdout
    assert done.exit_code == (0 if how == "whole" else 1)
    if how != "whole":
        assert "cannot be repaired: found another cube than DVC recorded" in done.stderr


def test_a_stray_file_stays_and_is_told(tracked: Path) -> None:
    notes = tracked / "cube.zarr" / "notes.txt"
    notes.write_text("mine", encoding="utf-8")
    flip(tracked / "cube.zarr" / SHARD)
    done = repair(tracked)
    assert done.exit_code == 1
    assert f"repaired {tracked}/cube.zarr/{SHARD}" in done.stdout
    assert "notes.txt is no part of the cube" in done.stderr
    assert notes.read_text(encoding="utf-8") == "mine"


def test_nothing_tracks_it(tmp_path: Path) -> None:
    cube = write_features(tmp_path / "cube.zarr")
    flip(cube / SHARD)
    broken = files(cube)
    done = repair(tmp_path, str(cube))
    assert done.exit_code == 1
    assert f"{cube} cannot be repaired: found no record of it in DVC" in done.stderr
    assert files(cube) == broken


def test_no_remote_and_a_damaged_cache(tmp_path: Path) -> None:
    cube = write_features(tmp_path / "study" / "cube.zarr")
    track(tmp_path / "study", None, cache_type="hardlink")
    flip(cube / SHARD)
    done = repair(tmp_path / "study")
    assert done.exit_code == 1
    assert f"{cube}/{SHARD}: found no whole object" in done.stderr
    assert f"m.video block01: damaged {SHARD}" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2


def test_a_remote_that_lacks_it(tracked: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "remote")
    shutil.rmtree(tracked / ".dvc" / "cache")
    (tracked / "cube.zarr" / SHARD).unlink()
    done = repair(tracked)
    assert done.exit_code == 1
    assert len(done.stderr.strip().splitlines()) == 2
    assert "no object" in done.stderr


def test_a_recorded_cube_that_was_never_whole(tmp_path: Path) -> None:
    cube = write_features(tmp_path / "study" / "cube.zarr")
    relabel(cube, "onset_s", np.zeros(50))
    track(tmp_path / "study", tmp_path / "remote")
    done = repair(tmp_path / "study")
    assert done.exit_code == 1
    assert "found every file as DVC recorded it, expected broken files" in done.stderr


def test_a_list_with_names_outside_the_cube(tracked: Path, tmp_path: Path) -> None:
    """A list of someone else may name any file; nothing is written there."""
    import hashlib

    listed = next((tracked / ".dvc/cache").rglob("*.dir"))
    entries = json.loads(listed.read_text(encoding="utf-8"))
    entries.append({"md5": entries[0]["md5"], "relpath": "../../outside"})
    text = json.dumps(entries)
    oid = hashlib.md5(text.encode()).hexdigest()
    listed.unlink()
    (tracked / ".dvc/cache/files/md5" / oid[:2]).mkdir(exist_ok=True)
    (tracked / ".dvc/cache/files/md5" / oid[:2] / f"{oid[2:]}.dir").write_text(text, encoding="utf-8")
    tracking = tracked / "cube.zarr.dvc"
    old = listed.parent.name + listed.name.removesuffix(".dir")
    tracking.write_text(tracking.read_text(encoding="utf-8").replace(old, oid), encoding="utf-8")
    flip(tracked / "cube.zarr" / SHARD)
    done = repair(tracked)
    assert done.exit_code == 1
    assert not (tmp_path / "outside").exists()
    assert "'../../outside'" in done.stderr


def test_a_link_that_leads_out_of_the_cube(tracked: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    shutil.rmtree(tracked / "cube.zarr" / "depth")
    (tracked / "cube.zarr" / "depth").symlink_to(tmp_path / "elsewhere")
    done = repair(tracked)
    assert done.exit_code == 1
    assert "a link to a folder elsewhere above depth/" in done.stderr
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_killed_repair_leaves_no_half_file(tracked: Path) -> None:
    """Killed while it writes: the old file stands, or the new one."""
    code = (
        "import os, sys; from pathlib import Path; from cinecube.store.verify import repair\n"
        "os.replace = lambda *_: os._exit(9)\n"
        "repair.verify_all([Path(sys.argv[1])], repair=True)\n"
    )
    cube = tracked / "cube.zarr"
    flip(cube / SHARD)
    broken = (cube / SHARD).read_bytes()
    assert subprocess.run([sys.executable, "-c", code, str(cube)], check=False).returncode == 9
    assert (cube / SHARD).read_bytes() == broken


@pytest.fixture
def http(published: Published) -> Site:
    published.sites["http"].wire.reset()
    return published.sites["http"]


def test_a_server(http: Site, published: Published, tmp_path: Path) -> None:
    """One shard moves, of a cube that stages made; a server that dies leaves what there was."""
    from dvc.repo import Repo

    root = published.clone(tmp_path / "clone", "http")
    with chdir(root), Repo(str(root)) as repo:
        repo.pull()
    whole = files(root / CUBE)
    shutil.rmtree(root / ".dvc" / "cache")
    flip(root / CUBE / BLOCK02)
    broken = files(root / CUBE)
    http.wire.break_after(100)
    done = repair(root)
    assert done.exit_code == 1
    assert "remote 'http'" in done.stderr
    assert files(root / CUBE) == broken
    http.wire.reset()
    done = repair(root)
    assert done.exit_code == 0, done.output
    assert "2 cubes, 2 whole, 1 of these repaired, 0 damaged" in done.stdout
    assert files(root / CUBE) == whole
    assert http.wire.sent < 1.2 * len(whole[BLOCK02])
    assert git(root, "status", "--porcelain") == ""


def test_an_import(http: Site, published: Published, tmp_path: Path) -> None:
    from dvc.repo import Repo

    mine = tmp_path / "mine"
    (mine / "data" / "features" / MODEL).mkdir(parents=True)
    git(mine, "init", "-q")
    with Repo.init(str(mine)) as repo, chdir(mine):
        repo.imp(str(published.bare), CUBE, out=CUBE, remote="http")
    whole = files(mine / CUBE)
    assert BLOCK02 in whole
    (mine / CUBE / BLOCK02).unlink()
    flip(mine / CUBE / "onset_s/c/0")
    shutil.rmtree(mine / ".dvc" / "cache")
    done = repair(mine)
    assert done.exit_code == 0, done.output
    assert files(mine / CUBE) == whole
    assert damaged_objects(mine) == []


def test_permissions_are_those_of_a_new_file(tracked: Path) -> None:
    (tracked / "cube.zarr" / SHARD).unlink()
    old = os.umask(0o027)
    try:
        assert repair(tracked).exit_code == 0
    finally:
        os.umask(old)
    assert (tracked / "cube.zarr" / SHARD).stat().st_mode & 0o777 == 0o640


def test_a_cube_that_is_not_here_is_named_and_no_damage(tracked: Path) -> None:
    shutil.copytree(tracked / "cube.zarr", tracked / "other.zarr")
    shutil.rmtree(tracked / "cube.zarr")
    done = CliRunner().invoke(main, ["verify", "--study", str(tracked)])
    assert done.exit_code == 0
    assert done.stdout == "1 cube, 1 whole, 0 damaged\n"
    assert re.fullmatch(r"recorded by DVC and not here: \S*cube.zarr; `cinecube pull` brings them\n", done.stderr)
    told = json.loads(CliRunner().invoke(main, ["verify", "--study", str(tracked), "--json"]).stdout)
    assert [Path(path).resolve() for path in told["absent"]] == [(tracked / "cube.zarr").resolve()]
