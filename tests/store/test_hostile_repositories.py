"""Repositories made to do harm: nothing runs, nothing is written elsewhere, nothing grows, one line."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.hostile import SECONDS, run_all

from cinecube.store.base.errors import StudyError
from cinecube.store.dvc import confined
from cinecube.store.dvc.dvc_index import open_index
from cinecube.store.params.document import read_study

from .conftest import git

MD5 = "0123456789abcdef0123456789abcdef"
CONFIG = "[core]\n    remote = there\n['remote \"there\"']\n    url = {remote}\n"


def publish(root: Path, files: dict[str, str]) -> Path:
    """A bare repository of DVC with these files; DVC is at its top, unless they say that it is below."""
    work = root / "work"
    is_below = any(name.endswith("/.dvc/config") for name in files)
    config = {} if is_below else {".dvc/config": CONFIG.format(remote=root / "remote")}
    for name, text in {**config, **files}.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(text)
    git(work, "init", "-q")
    git(work, "add", "-A", "-f", ".")
    git(work, "commit", "-qm", "x")
    git(root, "clone", "-q", "--bare", "work", "bare.git")
    return root / "bare.git"


def tracked(path: str, oid: str = f"{MD5}.dir") -> dict[str, str]:
    return {
        f"{path}.dvc": json.dumps({"outs": [{"md5": oid, "size": 1, "hash": "md5", "path": path.rpartition("/")[2]}]})
    }


def listed(root: Path, entries: Any, path: str = "data/features/vit/amber.zarr") -> Path:
    """A repository with one cube, whose list of files is this."""
    raw = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    oid = hashlib.md5(raw).hexdigest()
    place = root / "remote" / "files" / "md5" / oid[:2] / f"{oid[2:]}.dir"
    place.parent.mkdir(parents=True)
    place.write_bytes(raw)
    return publish(root, tracked(path, f"{oid}.dir"))


def stages(**stage: Any) -> dict[str, str]:
    return {"dvc.yaml": json.dumps({"stages": {"x": {"cmd": "touch ran", **stage}}})}


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)
MATRIX = {f"k{i}": list(range(100)) for i in range(4)}

BOMBS: dict[str, dict[str, str]] = {
    "aliases in dvc.yaml": {"dvc.yaml": f"{LAUGHS}stages: {{x: {{cmd: *a11}}}}\n"},
    "aliases in params.yaml": {"params.yaml": LAUGHS, **stages(params=["a11"], outs=["${a11}"])},
    "a matrix of a hundred million": stages(matrix=MATRIX, outs=["out/${item.k0}-${item.k1}-${item.k2}-${item.k3}"]),
    "a matrix of a million": stages(matrix={"a": list(range(1000)), "b": list(range(1000))}, outs=["o/${key}"]),
    "a loop over millions": {
        "params.yaml": "n: [" + "1, " * 300_000 + "1]\n",
        "dvc.yaml": json.dumps({"stages": {"x": {"foreach": "${n}", "do": {"cmd": "x", "outs": ["o${key}"]}}}}),
    },
    "brackets": {"dvc.yaml": "[" * 100_000},
    "a lock of nested lists": {"dvc.lock": "a: " + "[" * 5000 + "]" * 5000, **stages(outs=["o"])},
    "a lock of twenty megabytes": {"dvc.lock": "x:\n" + "- y: [1, 2, 3]\n" * 1_500_000, **stages(outs=["o"])},
    "variables of variables": {
        "dvc.yaml": json.dumps(
            {"vars": [{"a": "${b}", "b": "${a}"}], "stages": {"x": {"cmd": "${a}", "outs": ["${a}"]}}}
        )
    },
}
PROGRAMS: dict[str, str] = {
    "a token by a command": "url = webdavs://127.0.0.1:1/x\n    bearer_token_command = touch {canary}\n",
    "credentials by a command": "url = s3://x/y\n    configpath = ../aws\n    profile = x\n",
    "a password": "url = https://127.0.0.1:1/x\n    ask_password = true\n",
}


# One of a kind; what the others take beside them is the same seconds of processor again, until they are stopped.
_ALWAYS = (
    "aliases in dvc.yaml",
    "a matrix of a million",
    "brackets",
    "a lock of nested lists",
    "variables of variables",
)


@pytest.mark.parametrize(
    "bombs", [_ALWAYS, pytest.param([*BOMBS], marks=pytest.mark.long)], ids=["one of a kind", "all"]
)
def test_bombs_and_programs(tmp_path: Path, bombs: Sequence[str]) -> None:
    """What DVC makes of them ends in time, and in one line; as a bare repository, and as a folder beside it."""
    harmless = publish(tmp_path / "harmless", stages(outs=["out"]))
    commands = [["ls", f"file://{harmless}"]]
    for number, name in enumerate(bombs):
        commands.append(["ls", str(publish(tmp_path / f"bomb{number}", BOMBS[name]))])
    for number, text in enumerate(PROGRAMS.values()):
        config = "[core]\n    remote = there\n['remote \"there\"']\n    " + text.format(canary=tmp_path / "ran")
        aws = f"[profile x]\ncredential_process = touch {tmp_path / 'ran'}\n"
        cube = tracked("data/features/vit/amber.zarr")
        bare = publish(tmp_path / f"program{number}", {".dvc/config": config, "aws": aws, **cube})
        commands.append(["ls", str(bare.parent / "work"), "--rev", "HEAD"])
        commands += [] if "../aws" in text else [["ls", str(bare)]]  # it has no file here
    before = sorted(tmp_path.rglob("*"))
    ended = run_all(commands, tmp_path)[1:]
    for words, one in zip(commands[1:], ended, strict=True):
        assert words[1] in one.line or words[1].removesuffix("/bare.git") in one.line
    for one in ended[len(bombs) :]:
        assert "in what is committed" in one.line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("place", [pytest.param("study/aws", marks=pytest.mark.long), "aws"])
def test_programs_of_a_study_below_the_top(tmp_path: Path, place: str) -> None:
    """Its configuration counts like one at the top, and so do files beside it; from wherever the command is run."""
    commands = [["ls", f"file://{publish(tmp_path / 'harmless', stages(outs=['out']))}"]]
    cube = {f"study/{name}": text for name, text in tracked("data/features/vit/amber.zarr").items()}
    aws = f"[profile x]\ncredential_process = touch {tmp_path / 'ran'}\n"
    for name, text in PROGRAMS.items():
        options = text.format(canary=tmp_path / "ran").replace("../aws", os.path.relpath(place, "study/.dvc"))
        config = "[core]\n    remote = there\n['remote \"there\"']\n    " + options
        root = tmp_path / name
        work = publish(root, {"study/.dvc/config": config, place: aws, **cube}).parent / "work"
        commands += [["ls", str(work / "study"), "--rev", "HEAD"], ["ls", f"{work}#study", "--rev", "HEAD"]]
        commands += [["ls", str(work), "--rev", "HEAD"]]
        if name != "credentials by a command":  # of a folder that is not here DVC finds no file
            gone = shutil.copytree(work, root / "gone")
            shutil.rmtree(gone / "study")
            commands += [["ls", str(gone), "--rev", "HEAD"]]
    for one in run_all(commands, tmp_path)[1:]:
        assert "in what is committed" in one.line
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "entries",
    [
        [{"md5": MD5, "relpath": "../../../../escaped"}],
        [{"md5": MD5, "relpath": "/tmp/escaped"}],
        [{"md5": MD5, "relpath": "a/../../escaped"}],
        [{"md5": MD5, "relpath": "a\0b"}],
        [{"md5": MD5, "relpath": ""}],
        [{"md5": MD5, "relpath": "a//b"}],
        [{"md5": MD5, "relpath": "..\\escaped"}],
        [{"md5": MD5, "relpath": "a" * 5000}],
        [{"md5": "../../escaped", "relpath": "a"}],
        [{"md5": MD5, "relpath": "a"}, {"md5": MD5, "relpath": "a"}],
        [{"md5": MD5, "relpath": "a"}, {"md5": MD5, "relpath": "a/b"}],
        {"relpath": "a"},
        [["a"]],
        b"[" * 100_000,
        b"null",
        b" " * (33 * 2**20),
    ],
    ids=range(16),
)
def test_lists_of_files(tmp_path: Path, entries: Any) -> None:
    """A list that leads out of its folder, or is none, is refused before anything of it is fetched."""
    index = open_index(listed(tmp_path, entries))
    before = sorted(path for path in tmp_path.rglob("*") if "remote" not in path.parts)
    with pytest.raises(StudyError, match=r"unreadable list of files|more than 33554432 bytes"):
        index.folder("data/features/vit/amber.zarr")
    assert sorted(path for path in tmp_path.rglob("*") if "remote" not in path.parts) == before


def _files(folder: Path) -> dict[Path, bytes]:
    """All files but the locks, which stay."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


def test_an_import_writes_nothing_elsewhere(tmp_path: Path) -> None:
    """DVC would check such a list out; it is never asked to."""
    theirs = listed(tmp_path / "theirs", [{"md5": MD5, "relpath": "../../../../../escaped"}])
    study = tmp_path / "mine"
    study.mkdir()
    shutil.copy(Path(__file__).parents[2] / "params.yaml", study)
    git(study, "init", "-q")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=study, check=True)
    before = _files(tmp_path)
    words = ["import", str(theirs), "--study", str(study), "--model", "vit", "--film", "amber"]
    (_, refused) = run_all([["ls", str(study)], words], tmp_path)
    assert "unreadable list of files" in refused.line
    assert _files(tmp_path) == before


@pytest.mark.parametrize(
    "address",
    [
        "ext::sh -c touch% ran",
        "-oProxyCommand=touch ran:x",
        "--upload-pack=touch ran",
        "ssh://-oProxyCommand=touch ran/x",
        "git@-oProxyCommand=x:y",
        "fd::17/foo",
        "javascript://x",
        "https://example.org/\x1b]0;x",
    ],
)
def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """What is no address is refused before Git is asked."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StudyError, match="no Git repository") as told:
        open_index(address)
    assert str(told.value).isprintable()
    assert not list(tmp_path.iterdir())


def test_revisions(tmp_path: Path) -> None:
    bare = publish(tmp_path, stages(outs=["out"]))
    for rev in ("--upload-pack=touch ran", "-x", "", "\x1b[2J"):
        with pytest.raises(StudyError, match="the revision"):
            open_index(bare, rev)


def test_names_move_no_cursor(tmp_path: Path) -> None:
    """Escapes, and signs that turn letters round, in paths and in parameters of others."""
    strange = "data/features/\x1b]0;owned\x07\u202emodel/amber.zarr"
    bare = listed(tmp_path, [{"md5": MD5, "relpath": "zarr.json"}], strange)
    harmless = publish(tmp_path / "harmless", {**stages(outs=["out"]), "params.yaml": "study: '\x85'\n"})
    _, told = run_all([["ls", str(harmless)], ["ls", str(bare)]], tmp_path)
    assert "\\x1b]0;owned" in told.err + told.out


@pytest.mark.parametrize(
    "text",
    [
        LAUGHS,
        "a: &a [*a]\n",
        "[" * 5000,
        "a: 2001-99-99\n",
        "a: " + "9" * 5000,
        "x: y\n" * 200_000,
        "a: !!python/name:os.x\n",
    ],
    ids=range(7),
)
def test_parameters(text: str) -> None:
    """The text of another's params.yaml is checked in this process, within bounds."""
    with pytest.raises(StudyError) as told:
        read_study(text, "theirs")
    assert len(str(told.value)) < 1000


def test_the_helper_of_processes_with_threads(tmp_path: Path) -> None:
    """Many threads ask at once; a bomb for one is no harm to the others, and the helper lives on."""
    bare, bomb = publish(tmp_path / "a", stages(outs=["out"])), publish(tmp_path / "b", BOMBS["a matrix of a million"])
    found: dict[int, Any] = {}

    def ask(number: int) -> None:
        try:
            found[number] = open_index(bomb if number == 1 else bare).outputs
        except StudyError as error:
            found[number] = error

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(4 * SECONDS)
    assert isinstance(found.pop(1), StudyError)
    assert all([output.path for output in outputs] == ["out"] for outputs in found.values())
    assert len(found) == 3


def test_a_helper_that_dies_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is started a module of somebody else may lie."""
    bare = publish(tmp_path, stages(outs=["out"]))
    monkeypatch.chdir(tmp_path)
    for name in ("json.py", "yaml.py", "dvc.py", "cinecube.py"):
        (tmp_path / name).write_text("import os; os.mkdir('ran')\n")
    with_threads: list[Any] = []

    def ask() -> None:
        open_index(bare)
        confined._started[os.getpid()].kill()
        confined._started[os.getpid()].wait()
        with_threads.append(open_index(bare).outputs)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join(4 * SECONDS)
    assert len(with_threads[0]) == 1
    assert not (tmp_path / "ran").exists()


def _endless() -> None:
    while True:
        pass


def _waits() -> None:
    threading.Event().wait()


def _grows() -> None:
    held: list[bytes] = []
    while True:
        held.append(bytes(2**24))


@pytest.mark.parametrize("how", [_endless, _waits, _grows])
def test_limits(monkeypatch: pytest.MonkeyPatch, how: Callable[[], None]) -> None:
    """Whatever a function does, the process that it runs in ends."""
    monkeypatch.setattr(confined, "CPU_S", 1)
    monkeypatch.setattr(confined, "WALL_S", 2)
    monkeypatch.setattr(confined, "_found", lambda name: how)
    answer = json.loads(confined._forked({"function": "x", "arguments": {}, "folder": "/"}))
    assert answer == {"failed": "more than their memory" if how is _grows else "more than their time"}
