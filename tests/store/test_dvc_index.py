"""What a DVC repository holds at a revision: stages, imports, and what it must refuse."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cinecube.store.base.errors import StudyError
from cinecube.store.dvc import remotes
from cinecube.store.dvc.dvc_index import DvcIndex, open_index
from cinecube.store.dvc.remotes import DvcObject

CONFIG = "[core]\n    remote = there\n['remote \"there\"']\n    url = {url}\n"


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")
    env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    done = subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True, env=env)
    return done.stdout.strip()


def put(store: Path, data: bytes, suffix: str = "") -> str:
    """Store an object as DVC 3 does, and give its hash."""
    oid = hashlib.md5(data, usedforsecurity=False).hexdigest() + suffix
    file = store / "files" / "md5" / oid[:2] / oid[2:]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return oid


def put_folder(store: Path, files: dict[str, bytes]) -> str:
    listed = [{"md5": put(store, data), "relpath": path} for path, data in sorted(files.items())]
    return put(store, json.dumps(listed, sort_keys=True).encode(), ".dir")


def repository(root: Path, url: object) -> Path:
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc" / "config").write_text(CONFIG.format(url=url))
    (root / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
    git(root, "init", "-q")
    return root


def commit(root: Path, message: str = "more") -> str:
    git(root, "add", "-A", ".")
    git(root, "commit", "-qm", message)
    return git(root, "rev-parse", "HEAD")


def track(root: Path, path: str, oid: str) -> None:
    file = root / f"{path}.dvc"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump({"outs": [{"md5": oid, "hash": "md5", "path": Path(path).name}]}))


def import_of(root: Path, path: str, source: object, source_path: str, lock: str, oid: str | None = None) -> None:
    out = {"hash": "md5", "path": Path(path).name} | ({"md5": oid} if oid else {})
    dep = {"path": source_path, "repo": {"url": str(source), "rev_lock": lock}}
    file = root / f"{path}.dvc"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump({"frozen": True, "deps": [dep], "outs": [out]}))


def content(index: DvcIndex, folder: str) -> dict[str, bytes]:
    listing = index.folder(folder)
    return {key: listing.objects.read(item, None, key) for key, item in listing.files.items()}


FILES = {"a.zarr/zarr.json": b"{}", "a.zarr/c/0": b"zero", "b.zarr/zarr.json": b"{ }"}
A = {"zarr.json": b"{}", "c/0": b"zero"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A repository with a tracked folder whose bytes are in its remote only."""
    root = repository(tmp_path / "source", "../../remote")
    track(root, "data/cubes", put_folder(tmp_path / "remote", FILES))
    commit(root)
    return root


def test_a_relative_remote_is_found_at_a_revision(source: Path) -> None:
    old = git(source, "rev-parse", "HEAD")
    track(source, "data/cubes", put_folder(source.parent / "remote", {"c": b"other"}))
    assert content(open_index(source), "data/cubes") == {"c": b"other"}
    assert content(open_index(source, old), "data/cubes/a.zarr") == A
    assert content(open_index(source / "data", "HEAD"), "cubes/a.zarr") == A


def test_the_commit_is_told(source: Path) -> None:
    assert open_index(source).commit is None
    assert open_index(source, "main").commit == git(source, "rev-parse", "HEAD")


def test_a_bare_repository_inside_a_study(source: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--bare", str(source), str(source / "shared.git"))
    track(source, "data/cubes", put_folder(tmp_path / "remote", {"c": b"other"}))
    there = open_index(source / "shared.git", remote_config={"url": str(tmp_path / "remote")})
    assert content(there, "data/cubes/a.zarr") == A


def test_objects_of_dvc_2(source: Path) -> None:
    remote = source.parent / "remote"
    oid = put_folder(remote, {"c": b"old"})
    for item in (remote / "files" / "md5").glob("*"):
        item.rename(remote / item.name)
    (source / "old.dvc").write_text(yaml.safe_dump({"outs": [{"md5": oid, "path": "old"}]}))
    assert content(open_index(source), "old") == {"c": b"old"}


def test_a_remote_whose_package_is_missing(source: Path) -> None:
    with pytest.raises(StudyError, match=r"remote 'there' \(.*(dvc-gdrive|Unsupported)"):
        open_index(source, remote_config={"url": "gdrive://folder"}).folder("data/cubes")


def test_outputs_of_stages(source: Path) -> None:
    oid = put_folder(source.parent / "remote", FILES)
    out = "made/${kinds[0]}.zarr"
    stage = {"cmd": "true", "wdir": "..", "outs": [out]}
    (source / "sub").mkdir()
    (source / "sub" / "params.yaml").write_text("kinds: [vit]\n")
    (source / "sub" / "dvc.yaml").write_text(
        yaml.safe_dump(
            {"vars": ["params.yaml"], "stages": {"make": stage, "later": {"cmd": "true", "outs": ["later"]}}}
        )
    )
    lock = {"make": {"cmd": "true", "outs": [{"path": "made/vit.zarr", "hash": "md5", "md5": oid}]}}
    (source / "sub" / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": lock}))
    rev = commit(source)
    for index in (open_index(source), open_index(source, rev)):
        assert [output.path for output in index.outputs] == ["data/cubes", "made/vit.zarr", "sub/later"]
        assert content(index, "made/vit.zarr/a.zarr") == A
        with pytest.raises(StudyError, match="never made"):
            index.folder("sub/later")


@pytest.mark.parametrize("known", [False, True], ids=["not downloaded", "downloaded elsewhere"])
def test_an_import_reads_where_it_comes_from(source: Path, tmp_path: Path, known: bool) -> None:
    lock = git(source, "rev-parse", "HEAD")
    track(source, "data/cubes", "0" * 32 + ".dir")  # the source moved on; the import is pinned
    commit(source)
    mine = repository(tmp_path / "mine", tmp_path / "nothing")
    oid = put_folder(tmp_path / "scratch", {key.removeprefix("a.zarr/"): FILES[key] for key in list(FILES)[:2]})
    import_of(mine, "in/a.zarr", "../source", "data/cubes/a.zarr", lock, oid if known else None)
    rev = commit(mine)
    again = repository(tmp_path / "again", tmp_path / "nothing")
    import_of(again, "twice", "../mine", "in/a.zarr", rev)
    assert content(open_index(mine), "in/a.zarr") == A
    assert content(open_index(mine, rev), "in/a.zarr") == A
    assert content(open_index(again), "twice") == A


def test_a_fetched_import_needs_no_source(source: Path, tmp_path: Path) -> None:
    mine = repository(tmp_path / "mine", tmp_path / "nothing")
    oid = put_folder(mine / ".dvc" / "cache", {"c": b"mine"})
    import_of(mine, "in", tmp_path / "gone", "data/cubes", "0" * 40, oid)
    assert content(open_index(mine), "in") == {"c": b"mine"}
    listing = open_index(mine).folder("in")
    with pytest.raises(StudyError, match="gone"):
        listing.objects.read(DvcObject("0" * 32), None, "in/d")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("data", "a folder that holds data/cubes"),
        ("data/cubes/c.zarr", "no file"),
        ("elsewhere", "no output of DVC, expected"),
        ("../data/cubes/a.zarr/../../..", "no output"),
        ("one.txt", "a file"),
    ],
)
def test_a_wrong_path(source: Path, path: str, message: str) -> None:
    track(source, "one.txt", put(source.parent / "remote", b"text"))
    with pytest.raises(StudyError, match=message):
        open_index(source).folder(path)


def test_a_wrong_revision_or_repository(source: Path, tmp_path: Path) -> None:
    cases = ((source, "v9", "no branch, tag or commit 'v9'"), (tmp_path / "nowhere", None, "correct the address"))
    for url, rev, said in (*cases, (f"file://{tmp_path}/nowhere.git", None, "correct the address")):
        with pytest.raises(StudyError, match=said) as caught:
            open_index(url, rev)
        assert "\n" not in str(caught.value)


def test_the_folder_that_a_command_runs_in_has_no_name(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(source)
    with pytest.raises(StudyError, match="^elsewhere: found no output of DVC"):
        open_index(".").folder("elsewhere")


def test_a_wrong_folder_of_a_study_that_is_at_the_top(source: Path) -> None:
    with pytest.raises(StudyError, match="expected no folder: the study is at the top; leave out `#foo`"):
        open_index(f"{source}#foo")


def test_a_broken_dvc_file(source: Path) -> None:
    (source / "dvc.yaml").write_text("stages: [")
    with pytest.raises(StudyError, match="source: found"):
        open_index(source)


@pytest.mark.parametrize("oid", ["../../../../etc/passwd", "ab", "/etc/passwd"])
def test_a_hash_that_is_a_path(source: Path, oid: str) -> None:
    track(source, "data/cubes", oid)
    with pytest.raises(StudyError, match="no MD5|validation failed"):
        open_index(source)
    raw = json.dumps([{"md5": oid, "relpath": "c"}]).encode()
    track(source, "data/cubes", put(source.parent / "remote", raw, ".dir"))
    with pytest.raises(StudyError, match="no MD5"):
        open_index(source).folder("data/cubes")


def test_a_remote_that_is_not_there(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remotes, "WAITS_S", (0.0, 0.0))
    with pytest.raises(StudyError, match="remote 'other'"):
        open_index(source, remote="other").folder("data/cubes")
    found = open_index(source, remote="other", remote_config={"url": str(source.parent / "remote")})
    assert content(found, "data/cubes/a.zarr") == A
    (source / ".dvc" / "config").write_text("")
    with pytest.raises(StudyError, match="no object .* in the cache"):
        open_index(source).folder("data/cubes")


@pytest.mark.parametrize("frozen", [False, True])
def test_reading_spares_the_collector_and_leaves_it_as_it_was(frozen: bool) -> None:
    """What was made meanwhile is old at once, garbage of it still goes, and what others froze stays frozen."""
    code = f"""
import gc, weakref
from cinecube.store.dvc.dvc_repo import uncollected
class Node: pass
gc.collect()
if {frozen}: gc.freeze()
before = gc.get_freeze_count()
with uncollected():
    assert not gc.isenabled()
    kept, lost = Node(), Node()
    lost.itself = lost
    gone = weakref.ref(lost)
    del lost
assert gc.isenabled()
assert gc.get_freeze_count() == before, "frozen objects thawed, or new ones frozen"
assert any(one is kept for one in gc.get_objects(generation=2)) == (not {frozen})
gc.collect()
assert gone() is None
with uncollected():
    later = Node()
assert not any(one is later for one in gc.get_objects(generation=2)), "once in a process"
gc.disable()
with uncollected():
    pass
assert not gc.isenabled()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
