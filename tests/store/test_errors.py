"""What the machine refuses is told as what it is, however deep it lies in what libraries raise."""

from __future__ import annotations

import ast
import errno
import os
import pickle
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from tests.conftest import REPOSITORY

from cinecube.cli import main
from cinecube.store.base.errors import StudyError, environment_error

REFUSED = {
    errno.ENOSPC: "no room left on the disk",
    errno.EDQUOT: "a quota of the disk",
    errno.EFBIG: "a file that grew past what the disk",
    errno.EROFS: "a disk that can only be read",
    errno.EMFILE: "too many open files",
    errno.ENFILE: "too many open files on the whole machine",
    errno.ENAMETOOLONG: "a name longer than the disk allows",
    errno.EIO: "a disk that does not answer",
    errno.ESTALE: "a network disk that has lost the file",
    errno.ENOTDIR: "a file where a folder belongs",
    errno.EISDIR: "a folder, expected a file",
    errno.ELOOP: "links that lead in a circle",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.ENOMEM: "not enough memory",
}


def _system(number: int, name: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), name)


@pytest.mark.parametrize("number", REFUSED, ids=errno.errorcode.get)
def test_what_the_system_refuses_is_named_with_its_file(number: int) -> None:
    said = str(environment_error(_system(number, "/data/amber.zarr/zarr.json"), "amber"))
    assert f"found {REFUSED[number]}" in said
    assert re.fullmatch(r"\S.*: found .+, expected .+; .+", said)
    assert said.startswith("amber: " if number == errno.ENOMEM else "/data/amber.zarr/zarr.json: ")


@pytest.mark.parametrize("number", REFUSED, ids=errno.errorcode.get)
@pytest.mark.parametrize("wrap", ["cause", "context", "words", "rust"])
def test_it_is_found_inside_what_libraries_raise(number: int, wrap: str) -> None:
    error: Exception
    if wrap == "words":
        error = RuntimeError(f"cannot read: {_system(number)}")
    elif wrap == "rust":
        error = ValueError(f"Error while reading: {os.strerror(number)} (os error {number})")
    else:
        try:
            try:
                raise _system(number)
            except OSError as first:
                if wrap == "cause":
                    raise KeyError("x") from first
                raise KeyError("x")  # noqa: B904 - a library that says nothing of the first
        except KeyError as second:
            error = second
    found = environment_error(error, "amber")
    assert found is not None
    assert f": found {REFUSED[number]}" in str(found)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file", "x"),
        ValueError("found 28 rows"),
        EOFError("Compressed file ended early"),
        OSError("Not a gzipped file"),
        StudyError(where="a", found="b", expected="c", do="d"),
    ],
    ids=str,
)
def test_faults_of_the_bytes_are_not_the_machines(error: Exception) -> None:
    assert environment_error(error) is None


def test_what_was_handled_is_no_cause() -> None:
    handled = ValueError("three columns")
    handled.__context__, handled.__suppress_context__ = _system(errno.EACCES), True  # raised `from None`
    assert environment_error(handled) is None


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (MemoryError("Unable to allocate 12.5 GiB for an array with shape (9, 9)"), "12.5 GiB"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes."), "99 bytes"),
    ],
    ids=["numpy", "torch"],
)
def test_memory_says_how_much_was_asked_for(error: Exception, asked: str) -> None:
    assert f"found not enough memory for {asked} more" in str(environment_error(error, "encoding vit"))


def test_a_database_that_is_full_or_cannot_be_written() -> None:
    with sqlite3.connect(":memory:") as database:
        database.execute("PRAGMA max_page_count = 2")
        with pytest.raises(sqlite3.OperationalError) as full:
            database.execute("CREATE TABLE a AS SELECT zeroblob(99999)")
    with sqlite3.connect("file::memory:?mode=memory", uri=True) as database:
        database.execute("PRAGMA query_only = 1")
        with pytest.raises(sqlite3.OperationalError) as readonly:
            database.execute("CREATE TABLE a (b)")
    assert "no room left" in str(environment_error(full.value, "the cache"))
    assert "can only be read" in str(environment_error(readonly.value, "the cache"))


def test_the_temp_folder_is_named_where_it_is_what_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/temp")
    monkeypatch.setattr("shutil.disk_usage", lambda _: _Usage)
    told = environment_error(_system(errno.ENOSPC), "films")
    assert "films: /temp: found no room left on the disk" in str(told)
    assert "TMPDIR" in str(told)
    assert "TMPDIR" not in str(environment_error(_system(errno.ENOSPC, "/data/x"), "films"))


class _Usage:
    free = 0


def test_the_right_that_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As another user than root, whose rights the system does not ask for."""
    file = tmp_path / "closed" / "file"
    file.parent.mkdir()
    file.touch()
    lacking = {file: os.R_OK}
    monkeypatch.setattr(os, "access", lambda path, how: lacking.get(Path(path)) != how)
    assert "no permission to read it" in str(environment_error(_system(errno.EACCES, str(file))))
    lacking = {file: os.W_OK}
    assert "no permission to change it" in str(environment_error(_system(errno.EACCES, str(file))))
    lacking = {file.parent: os.X_OK}
    said = str(environment_error(_system(errno.EACCES, str(file.parent / "new"))))
    assert f"no permission to look into {file.parent}" in said
    lacking = {file.parent: os.W_OK}
    said = str(environment_error(_system(errno.EACCES, str(file.parent / "new"))))
    assert f"no permission to write in {file.parent}" in said


def test_it_comes_back_whole_from_a_worker() -> None:
    error = pickle.loads(pickle.dumps(_system(errno.ENOSPC, "/data/x")))  # noqa: S301 - our own bytes
    assert "/data/x: found no room left" in str(environment_error(error))


def _texts_of_errors(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of what a file says where it makes an error."""
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        name = call.func.id if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) else ""
        if name in ("StudyError", "wrong", "no_such", "find_label", "_unclear"):
            pieces = [piece for part in ast.walk(call) if isinstance(part, ast.JoinedStr) for piece in part.values]
            for part in ast.walk(call):
                if isinstance(part, ast.JoinedStr):
                    words = (piece.value if isinstance(piece, ast.Constant) else "X" for piece in part.values)
                    yield part.lineno, "".join(map(str, words))
                elif isinstance(part, ast.Constant) and isinstance(part.value, str) and part not in pieces:
                    yield part.lineno, part.value


def test_errors_of_rooms_name_no_option_of_a_command() -> None:
    """Python has none: an argument is `subject=`, which a command says as its option. Whole command lines may."""
    rooms = [
        path for room in ("store", "features", "analysis", "simulation") for path in (REPOSITORY / room).rglob("*.py")
    ]
    rooms += [path for path in (REPOSITORY / "cinecube").rglob("*.py") if path.parent.name != "cli"]
    told = [(path, line, text) for path in rooms for line, text in _texts_of_errors(path)]
    assert len(told) > 500
    context = click.Context(main)
    commands = [main.get_command(context, name) for name in main.list_commands(context)]
    options = {option for command in commands if command for param in command.params for option in param.opts}
    named = [(one, set(re.findall(r"--[a-z-]+", re.sub(r"`[^`]*`|`[^`]*$", "", one[2])))) for one in told]
    assert not [one for one, found in named if found & options]
