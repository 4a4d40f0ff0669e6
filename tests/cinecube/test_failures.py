"""Whatever a command raises is one line, with an exit code, and what nobody expected leaves a log to report."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from tests.conftest import REPOSITORY

from cinecube.cli import main


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A study's folder without its data."""
    (tmp_path / "study").mkdir()
    params = (REPOSITORY / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "study" / "params.yaml").write_text(params, encoding="utf-8")
    return tmp_path / "study"


@pytest.fixture
def raises(root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], Result]:
    """Run `cinecube plan`, which raises what it is told to."""

    def run(error: BaseException) -> Result:
        def fail(*_: object) -> None:
            raise error

        monkeypatch.setattr("cinecube.status.plan.plan_study", fail)
        return CliRunner().invoke(main, ["plan", "--study", str(root)])

    return run


def one_line(result: Result, code: int = 1) -> str:
    assert result.exit_code == code
    (line,) = result.stderr.splitlines()
    assert "Traceback" not in result.output
    return line


UNEXPECTED: list[BaseException] = [
    KeyError("x"),
    ValueError("of two\nlines"),
    ZeroDivisionError(),
    RecursionError("maximum recursion depth exceeded"),
    EOFError("Compressed file ended before the end-of-stream marker was reached"),
    FileNotFoundError(errno.ENOENT, "No such file or directory", "gone"),
    ModuleNotFoundError("No module named 'gone'", name="gone"),
    AssertionError(),
    BrokenPipeError(errno.EPIPE, "Broken pipe"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    asyncio.InvalidStateError("x"),
    ExceptionGroup("several", [KeyError("y")]),
    RuntimeError("\x1b[31mred\x07"),
    OSError("Not a gzipped file"),
]


@pytest.mark.parametrize("error", UNEXPECTED, ids=lambda error: type(error).__name__)
def test_what_nobody_expected_is_one_line_that_names_its_log(
    error: BaseException, raises: Callable[[BaseException], Result], root: Path
) -> None:
    line = one_line(raises(error))
    (log,) = (root / ".cinecube" / "log").iterdir()
    assert line.startswith(f"Error: cinecube plan: found an error that nobody expected ({type(error).__name__}")
    assert line.endswith(f"report it to the developers of cinecube with {log}, which holds its traceback")
    assert line.isprintable()
    kept = log.read_text(encoding="utf-8")
    assert "Traceback (most recent call last)" in kept
    assert type(error).__name__ in kept
    assert kept.startswith("cinecube ")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "Error: /x/y: found no room left on the disk"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), "Error: /x/y: found no permission"),
        (OSError(errno.EMFILE, "Too many open files"), ": found too many open files"),
        (MemoryError(), ": found not enough memory"),
        (BrokenProcessPool("terminated abruptly"), ": found a worker process that was killed"),
        (ModuleNotFoundError("x", name="torch.nn"), "Error: this environment: found no package 'torch'"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_the_machine_refuses_needs_no_log(
    error: BaseException, said: str, raises: Callable[[BaseException], Result], root: Path
) -> None:
    line = one_line(raises(error))
    assert line.startswith(said if said.startswith("Error: ") else f"Error: cinecube plan in {root}{said}")
    assert not (root / ".cinecube" / "log").exists()


@pytest.mark.parametrize(
    ("error", "how"), [(KeyboardInterrupt(), "by Ctrl-C"), (click.Abort(), "at its question")], ids=["Ctrl-C", "Ctrl-D"]
)
def test_a_person_who_stops_it_gets_one_line(
    error: BaseException, how: str, raises: Callable[[BaseException], Result], root: Path
) -> None:
    line = one_line(raises(error), code=130)
    assert line == f"cinecube plan: stopped {how}; it writes nothing, and can be run again"
    assert not (root / ".cinecube" / "log").exists()


def test_a_log_that_the_study_cannot_keep_lies_among_temporary_files(
    raises: Callable[[BaseException], Result], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / ".cinecube").write_text("in the way", encoding="utf-8")
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    line = one_line(raises(KeyError("x")))
    (log,) = (tmp_path / "temp").iterdir()
    assert f"with {log}, which holds its traceback ({root / '.cinecube' / 'log'}: " in line


def test_a_log_that_nobody_can_keep_is_said_to_be_lost(
    raises: Callable[[BaseException], Result], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("cinecube.cli.failures.write_text", full)
    line = one_line(raises(KeyError("x")))
    assert "KeyError: 'x'" in line
    assert line.endswith(f"its traceback could not be kept ({root / '.cinecube' / 'log'}: No space left on device)")


def test_passwords_stay_out_of_the_log(raises: Callable[[BaseException], Result], root: Path) -> None:
    line = one_line(raises(KeyError("https://me:secret@example.org/x.git")))
    (log,) = (root / ".cinecube" / "log").iterdir()
    assert "secret" not in line + log.read_text(encoding="utf-8")


def test_a_folder_that_is_no_study_gets_no_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyError("x")

    (tmp_path / "temp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    monkeypatch.setattr("cinecube.store.verify.find_cubes.find_cubes", fail)
    one_line(CliRunner().invoke(main, ["verify", "--study", str(tmp_path), str(tmp_path)]))
    assert [path.name for path in tmp_path.iterdir()] == ["temp"]
    assert len(list((tmp_path / "temp").iterdir())) == 1


def test_nobody_who_reads_on_is_no_error() -> None:
    """`cinecube … | head -1`"""
    cinecube = Path(sys.executable).with_name("cinecube")
    done = subprocess.run(
        f"for i in 1 2 3; do {cinecube} --help; done | true; {cinecube} --help | head -1",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert (done.stdout.strip(), done.stderr) == ("Usage: cinecube [OPTIONS] COMMAND [ARGS]...", "")
