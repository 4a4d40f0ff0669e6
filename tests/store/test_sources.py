"""Repositories of others as they are found: they work, or one line tells the person who can change it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml
from click.testing import CliRunner, Result

import cinecube as cc
from cinecube.cli import main
from cinecube.store.dvc.dvc_repo import split_address

from .conftest import FILMS, MODEL, REPOSITORY, git, values, write_cube_of
from .test_importing import drop_model

CUBES = [f"data/features/{MODEL}/{film}.zarr" for film in FILMS]


def run(*words: str, root: Path | None = None) -> Result:
    where = ("--study", str(root)) if root else ()
    return CliRunner().invoke(main, [words[0], *where, *words[1:]])


def refused(*words: str, root: Path | None = None) -> str:
    """The one line of a command that ends with 1."""
    done = run(*words, root=root)
    assert done.exit_code == 1, done.output
    assert isinstance(done.exception, SystemExit)
    (line,) = done.stderr.strip().splitlines()
    return line


def listed(repo: object, *words: str) -> list[str]:
    done = run("ls", str(repo), "--json", *words)
    assert done.exit_code == 0, f"{done.output} {done.exception!r}"
    return sorted(row["name"] for row in json.loads(done.stdout))


@pytest.fixture(scope="session")
def cubes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study's folder before anybody has published it."""
    root = tmp_path_factory.mktemp("cubes") / "study"
    for film in FILMS:
        write_cube_of(root, film)
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    params["films"] = {film: [f"{film}01"] for film in FILMS}
    params["split"] |= {"train": ["amber"], "test": ["dune"]}
    params["compute"]["films"] = list(FILMS)
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    return root


class Lab:
    """Publishes a study by plain Git and DVC.

    Parameters
    ----------
    base : Path
    cubes : Path
        The study's folder.
    """

    def __init__(self, base: Path, cubes: Path) -> None:
        self.base, self.top, self._cubes = base, base / "work", cubes
        self.top.mkdir()
        self.branch = "main"

    def study(self, inside: str = ".") -> Path:
        folder = self.top / inside
        shutil.copytree(self._cubes, folder, dirs_exist_ok=True)
        return folder

    def track(
        self,
        folder: Path,
        *paths: str,
        local: bool = False,
        remote: str | None = None,
        push: bool = True,
        default: bool = True,
        subdir: bool = False,
    ) -> None:
        """`dvc init`, `dvc remote add`, `dvc add` and `dvc push` in a folder."""
        from dvc.repo import Repo

        with chdir(folder), Repo.init(".", subdir=subdir) as repo:
            with repo.config.edit("local" if local else "repo") as config:
                config["remote"]["store"] = {"url": remote or str(self.base / "store")}
                if default:
                    config["core"]["remote"] = "store"
            for path in paths or CUBES:
                repo.add(path)
            if push:
                repo.push(remote="store")

    def publish(self) -> Path:
        """What others get: neither caches nor `.dvc/config.local`."""
        git(self.top, "init", "-q", "-b", self.branch)
        git(self.top, "add", "-A")
        git(self.top, "commit", "-qm", "cubes")
        git(self.top, "tag", "v1.0")
        git(self.base, "clone", "-q", "--bare", "work", "lab.git")
        return self.base / "lab.git"

    def ready(self) -> None:
        git(self.top, "init", "-q", "-b", self.branch)


@pytest.fixture
def lab(tmp_path: Path, cubes: Path) -> Lab:
    made = Lab(tmp_path, cubes)
    made.ready()
    return made


@pytest.fixture
def mine(tmp_path: Path, cubes: Path) -> Path:
    """A study that has no such cubes."""
    from dvc.repo import Repo

    root = tmp_path / "mine"
    root.mkdir()
    shutil.copy(cubes / "params.yaml", root)
    drop_model(root)
    git(root, "init", "-q")
    with Repo.init(str(root)):
        pass
    return root


def _at_top(lab: Lab) -> None:
    lab.track(lab.study())


def _whole_data(lab: Lab) -> None:
    lab.track(lab.study(), "data")


def _all_features(lab: Lab) -> None:
    lab.track(lab.study(), "data/features")


def _below(lab: Lab) -> None:
    lab.track(lab.study("projects/movie 10"), subdir=True)


def _below_one_dvc(lab: Lab) -> None:
    folder = lab.study("a/b")
    lab.track(lab.top, *(str((folder / path).relative_to(lab.top)) for path in CUBES))


def _below_whole_data(lab: Lab) -> None:
    lab.study("study")
    lab.track(lab.top, "study/data")


def _other_branch(lab: Lab) -> None:
    lab.branch = "entwicklung/neu"
    git(lab.top, "checkout", "-q", "-b", lab.branch)
    _at_top(lab)


def _finder(lab: Lab) -> None:
    folder = lab.study()
    for path in CUBES:
        (folder / path / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
        (folder / path / "onset_s" / "._zarr.json").write_bytes(b"\0\5\x16\7")
        (folder / path).with_name(f"._{Path(path).name}").write_bytes(b"\0\5\x16\7")
    lab.track(folder)


WORKING: list[Callable[[Lab], None]] = [
    *(_at_top, _whole_data, _all_features, _below, _below_one_dvc, _below_whole_data, _other_branch, _finder)
]


@pytest.mark.parametrize(
    ("make", "how"),
    [
        *((make, ("bare", "url", "folder")[number % 3]) for number, make in enumerate(WORKING)),
        *((make, how) for make in (_below, _below_one_dvc) for how in ("bare", "url", "folder")),
    ],
)
def test_it_works(make: Callable[[Lab], None], how: str, lab: Lab, mine: Path) -> None:
    make(lab)
    bare = lab.publish()
    repo = {"bare": str(bare), "url": f"file://{bare}", "folder": str(lab.top)}[how]
    assert listed(repo, *(("--rev", "HEAD") if how == "folder" else ())) == [f"{MODEL} {film}" for film in FILMS]
    study = cc.open(repo, rev="v1.0")
    np.testing.assert_array_equal(study.features(MODEL, "dune", layer=1).isel(model=0).values, values("dune", 1))
    done = run("import", repo, "--model", MODEL, root=mine)
    assert done.exit_code == 0, f"{done.output} {done.exception!r}"
    found = cc.open(mine).features(MODEL, "amber", layer=2).isel(model=0).values
    np.testing.assert_array_equal(found, values("amber", 2))
    checked = run("verify", root=mine)
    assert (checked.exit_code, checked.stdout.splitlines()[-1]) == (0, "2 cubes, 2 whole, 0 damaged")


def test_where_the_study_lies_is_said(lab: Lab, mine: Path) -> None:
    _below(lab)
    bare = lab.publish()
    assert "its study is in projects/movie 10" in run("ls", str(bare)).stderr
    source = f"{bare}#projects/movie 10"
    assert listed(source) == listed(bare)
    assert listed(f"{lab.top}#projects/movie 10") == listed(bare)
    assert run("import", source, "--model", MODEL, root=mine).exit_code == 0
    pinned = yaml.safe_load((mine / f"{CUBES[0]}.dvc").read_text())["deps"][0]
    assert (pinned["path"], pinned["repo"]["url"]) == (f"projects/movie 10/{CUBES[0]}", str(bare))


def test_a_default_branch_that_is_not_there(lab: Lab, tmp_path: Path, mine: Path) -> None:
    """Made by `git init --bare`, whose HEAD is another than the branch that was pushed."""
    _at_top(lab)
    lab.publish()
    git(tmp_path, "init", "-q", "--bare", "-b", "master", "hub.git")
    git(lab.top, "push", "-q", str(tmp_path / "hub.git"), "main:trunk")
    for repo in (str(tmp_path / "hub.git"), f"file://{tmp_path}/hub.git"):
        assert listed(repo) == [f"{MODEL} {film}" for film in FILMS]
    assert run("import", f"file://{tmp_path}/hub.git", "--model", MODEL, root=mine).exit_code == 0
    assert yaml.safe_load((mine / f"{CUBES[0]}.dvc").read_text())["deps"][0]["repo"]["rev"] == "trunk"
    git(lab.top, "push", "-q", str(tmp_path / "hub.git"), "main:other")
    assert "found no default branch, expected one of its branches other, trunk" in refused(
        "ls", f"file://{tmp_path}/hub.git"
    )


def _remote_in_local(lab: Lab) -> None:
    lab.track(lab.study(), local=True)


def _remote_without_default(lab: Lab) -> None:
    lab.track(lab.study(), default=False)


def _not_pushed(lab: Lab) -> None:
    lab.track(lab.study(), "data/features", push=False)


def _no_cubes(lab: Lab) -> None:
    folder = lab.study()
    lab.track(folder, "params.yaml")
    (folder / ".gitignore").write_text("/data\n")


def _no_lock(lab: Lab) -> None:
    folder = lab.study()
    (folder / "dvc.yaml").write_text(json.dumps({"stages": {"x": {"cmd": "false", "outs": CUBES}}}))
    (folder / ".gitignore").write_text("/data\n")
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text("")


def _no_dvc(lab: Lab) -> None:
    (lab.top / "README").write_text("x\n")


def _several(lab: Lab) -> None:
    for name in ("one", "two"):
        lab.track(lab.study(name), subdir=True)


def _google(lab: Lab) -> None:
    lab.track(lab.study(), remote="gs://bucket/x", push=False)


BROKEN: dict[Callable[[Lab], None], tuple[str, str]] = {
    _remote_in_local: ("no remote in what is committed", "ask its owner to run `dvc remote add -d NAME ADDRESS` there"),
    _remote_without_default: ("no remote in what is committed", "dvc remote add -d"),
    _not_pushed: ("in remote 'store'", "ask the owner of the study to run `dvc push` there"),
    _no_cubes: ("found no cube", "ask its owner to commit dvc.lock"),
    _no_lock: ("found 2 outputs that were never made", "ask its owner to commit dvc.lock"),
    _no_dvc: ("found a Git repository without DVC", "correct the address"),
    _several: ("found studies of DVC in one, two", "name one of them, as in `REPO#FOLDER`"),
    _google: ("no package dvc-gs", "pip install dvc-gs"),
}


@pytest.mark.parametrize(("make", "how"), [(make, ("bare", "url")[number % 2]) for number, make in enumerate(BROKEN)])
def test_it_is_told_to_whoever_can_change_it(make: Callable[[Lab], None], how: str, lab: Lab, mine: Path) -> None:
    make(lab)
    bare = lab.publish()
    repo = str(bare) if how == "bare" else f"file://{bare}"
    line = refused("ls", repo)
    for part in BROKEN[make]:
        assert part in line
    assert repo in line
    assert "dvc-clone" not in line  # a folder of a moment is no place to look at
    before = (mine / "params.yaml").read_bytes()
    refused("import", repo, "--model", MODEL, root=mine)
    assert (mine / "params.yaml").read_bytes() == before
    assert not (mine / "data/features").exists()


@pytest.mark.parametrize(("scheme", "module"), [("s3", "dvc_s3"), ("ssh", "dvc_ssh"), ("webdavs", "dvc_webdav")])
def test_a_package_for_a_remote_is_named(scheme: str, module: str, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.track(lab.study(), remote=f"{scheme}://user@host/x", push=False)
    bare = lab.publish()
    monkeypatch.setitem(sys.modules, module, None)
    package = module.replace("_", "-")
    line = refused("ls", str(bare))
    assert line.endswith(f"pip install {package}")
    assert "user@" not in line


@pytest.mark.parametrize("rev", ["v9.9", "no-such-branch", "0123456789abcdef0123456789abcdef01234567"])
def test_a_revision_that_is_not_there(rev: str, lab: Lab) -> None:
    _at_top(lab)
    bare = lab.publish()
    for repo in (str(bare), f"file://{bare}", str(lab.top)):
        line = refused("ls", repo, "--rev", rev)
        assert f"found no branch, tag or commit '{rev}'" in line
        assert "branches main; tags v1.0" in line


@pytest.mark.parametrize(
    ("address", "split"),
    [
        ("https://example.org/a.git#b/c", ("https://example.org/a.git", "b/c")),
        ("git@example.org:a/b.git#x", ("git@example.org:a/b.git", "x")),
        ("https://example.org/a.git#../../x/", ("https://example.org/a.git", "x")),
        ("plain", ("plain", "")),
    ],
)
def test_addresses_with_folders(address: str, split: tuple[str, str]) -> None:
    assert split_address(address) == split


def test_a_folder_may_have_a_hash_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "a#b").mkdir()
    assert split_address(str(tmp_path / "a#b")) == (str(tmp_path / "a#b"), "")


def saved_again(cube: Path, to: Path, **options: Any) -> None:
    found = xr.open_zarr(cube)
    for name in found.variables:
        found[name].encoding.clear()
    found.to_zarr(to, mode="w", **options)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("options", "lacks"),
    [
        ({"zarr_format": 3}, "saved again by xarray or another program: lacks checksums (crc32c) and the list"),
        ({"zarr_format": 3, "consolidated": False}, "the list of which chunk belongs where and gathered metadata"),
        ({"zarr_format": 2}, "Zarr v2 (.z"),
        ({"zarr_format": 2, "consolidated": False}, "Zarr v2 (.z"),
    ],
    ids=["v3", "v3 ungathered", "v2", "v2 ungathered"],
)
def test_what_other_programs_saved_is_called_so(
    options: dict[str, Any], lacks: str, cubes: Path, lab: Lab, tmp_path: Path
) -> None:
    folder = lab.study()
    shutil.rmtree(folder / CUBES[0])
    saved_again(cubes / CUBES[0], folder / CUBES[0], **options)
    done = run("verify", str(folder / CUBES[0]), root=folder)
    assert done.exit_code == 1
    (line,) = done.stderr.strip().splitlines()
    assert lacks in line
    assert done.stdout.strip() == "1 cube, 0 whole, 0 damaged, 1 saved by another program"
    lab.track(folder, "data/features")
    found = run("ls", str(lab.publish()))
    assert found.exit_code == 0
    if options["zarr_format"] == 2:
        assert "skipped: " in found.stderr
        assert "found a group of Zarr v2 (.z" in found.stderr
        assert "damaged" not in found.stderr
    else:
        assert found.stderr == ""


def test_damage_in_what_was_saved_again_is_damage(cubes: Path, tmp_path: Path) -> None:
    saved_again(cubes / CUBES[0], tmp_path / "amber.zarr", zarr_format=3)
    chunk = max((path for path in (tmp_path / "amber.zarr/features/c").rglob("*") if path.is_file()), key=str)
    chunk.write_bytes(chunk.read_bytes()[:10])
    done = run("verify", str(tmp_path / "amber.zarr"))
    assert done.exit_code == 1
    assert "1 damaged" in done.stdout
    assert "damaged features/c" in done.stderr
