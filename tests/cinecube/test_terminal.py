"""Long commands at a real terminal: progress is seen, nothing tears it, and Ctrl-C ends with one line."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.conftest import make_small, tree_digest
from tests.terminal import Terminal

if TYPE_CHECKING:
    from tests.conftest import Folder

CINECUBE = [str(Path(sys.executable).with_name("cinecube"))]
FEATURES = [*CINECUBE, "features", "vit", "amber"]
COUNT = re.compile(r"(\d+)/(\d+) ([a-z ]+)")
RATE, LEFT = re.compile(r"\d\.\d [a-z ]+/(s|min)"), re.compile(r"\d:\d\d:\d\d +\d:\d\d:\d\d")
COLOUR = re.compile(r"\x1b\[[\d;]*(3|4|9|10)\d?[\d;]*m")
STOPPED = "cinecube {}: stopped by Ctrl-C; {}"
GOES_ON = "run it again: it goes on where it stopped"


@pytest.fixture(scope="module")
def begun(simulated: Folder, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A study whose features can be extracted, a few rows at a time."""
    begun = simulated.copy(tmp_path_factory.mktemp("begun") / "study")
    begun.change(lambda params: params["run"].update(block_rows=8))
    begun.must("films")
    begun.must("checkpoint", "vit")
    return begun


@pytest.fixture
def films(begun: Folder, tmp_path: Path) -> Folder:
    """A copy of it."""
    return begun.copy(tmp_path / "study")


def frames(text: str) -> list[str]:
    """Each state of the bar, without colours."""
    return [re.sub(r"\x1b\[[\d;]*m", "", part) for part in re.split(r"\r(?:\x1b\[1A)?\x1b\[2K", text)]


def counts(text: str) -> list[int]:
    """How much was done, as it was shown."""
    return [int(match[1]) for frame in frames(text) if (match := COUNT.search(frame))]


@pytest.mark.parametrize(
    ("columns", "lines", "environ"),
    [
        (100, 0, {}),  # as `stty cols 100` leaves one that nobody sized
        pytest.param(60, 30, {}, marks=pytest.mark.long),
        pytest.param(100, 30, {"NO_COLOR": "1", "COLUMNS": "60"}, marks=pytest.mark.long),
    ],
    ids=["100 columns, lines unknown", "60 columns", "NO_COLOR"],
)
def test_progress_moves_and_leaves_the_line(films: Folder, columns: int, lines: int, environ: dict[str, str]) -> None:
    with Terminal(FEATURES, films.root, columns, environ, lines) as terminal:
        assert terminal.end() == 0
    seen = counts(terminal.text)
    assert len(set(seen)) > 3
    assert all(before <= after for before, after in pairwise(seen))
    whole = [frame for frame in frames(terminal.text) if RATE.search(frame) and LEFT.search(frame)]
    assert len({frame for frame in whole if COUNT.search(frame)}) > 2
    assert all("vit amber" in frame for frame in whole)
    # The terminal writes `^C` where the cursor stands, and would break a line that fills it.
    assert max(map(len, frames(terminal.text)[1:-1])) <= min(columns, int(environ.get("COLUMNS", columns))) - 3
    assert bool(COLOUR.search(terminal.text)) == ("NO_COLOR" not in environ)
    assert "\x1b[?25l" not in terminal.text  # a hidden cursor: whoever is killed leaves it so
    assert terminal.screen == [f"amber.zarr: {COUNT.findall(terminal.text)[-1][1]} rows"]


@pytest.mark.parametrize("name", ["dumb", pytest.param(None, marks=pytest.mark.long)])
def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(films: Folder, name: str | None) -> None:
    with Terminal(FEATURES, films.root, environ={"TERM": name}) as terminal:
        assert terminal.end() == 0
    assert "\x1b" not in terminal.text
    assert "\r" not in terminal.text.replace("\r\n", "")
    assert terminal.screen[-1].startswith("amber.zarr: ")


@pytest.mark.parametrize(("command", "environ"), [("doctor", {"TERM": "dumb"}), ("clean", {"NO_COLOR": "1"})])
def test_who_wants_no_colours_gets_no_code_at_all(begun: Folder, command: str, environ: dict[str, str]) -> None:
    """Nor a reset as the process ends, which DVC's libraries order wherever they are imported."""
    with Terminal([*CINECUBE, command], begun.root, environ=environ) as terminal:
        assert terminal.end() == 0
    assert terminal.text.strip()
    assert "\x1b" not in terminal.text


@pytest.mark.parametrize(
    ("shell", "bar"),
    [
        pytest.param("exec {} >out.txt", True, marks=pytest.mark.long),
        ("exec {} >out.txt </dev/null", True),
        ("exec {} 2>err.txt", False),
    ],
    ids=["stderr alone", "stderr alone, no stdin", "stdout alone"],
)
def test_the_bar_is_where_stderr_is(films: Folder, shell: str, bar: bool) -> None:
    command = ["sh", "-c", shell.format(" ".join(FEATURES))]
    with Terminal(command, films.root, columns=60) as terminal:
        assert terminal.end() == 0
    assert bool(counts(terminal.text)) == bar
    said = (films.root / "out.txt").read_text(encoding="utf-8") if bar else "\n".join(terminal.screen)
    assert re.fullmatch(r"amber.zarr: \d+ rows\n?", said)
    if bar:
        assert terminal.screen == []
        assert max(map(len, frames(terminal.text)[1:-1])) <= 57
    else:
        assert (films.root / "err.txt").read_text(encoding="utf-8") == ""


def stop(command: list[str], folder: Folder, seen: Callable[[str], object], columns: int = 100) -> str:
    """Press Ctrl-C when something was seen; the one line that stands there at the end."""
    with Terminal(command, folder.root, columns) as terminal:
        terminal.until(seen)
        terminal.press("\x03")
        assert terminal.end() == 130, terminal.screen
    assert "Traceback" not in terminal.text
    whole = "".join(line.ljust(columns) for line in terminal.screen).rstrip()
    assert "\n" not in whole
    return whole


def test_ctrl_c_stops_features_and_the_same_command_goes_on(films: Folder) -> None:
    line = stop(FEATURES, films, lambda text: max(counts(text), default=0) > 8, columns=60)  # a whole block
    assert " ".join(line.split()) == STOPPED.format("features", GOES_ON)
    assert re.search(r"\d+ of them from an earlier run", films.must("features", "vit", "amber").stdout)


@pytest.mark.long
def test_ctrl_c_stops_a_simulation_in_its_workers(tmp_path: Path) -> None:
    folder = make_small(tmp_path / "study", segment_s=30)
    for seen in (lambda text: "simulating" in text, lambda text: counts(text)):
        line = stop([*CINECUBE, "simulate"], folder, seen)
        assert line == STOPPED.format("simulate", "nothing half-made is left; run it again")
        assert list((folder.root / "data").glob("*")) == []


@pytest.mark.parametrize("workers", ["threads", pytest.param("processes", marks=pytest.mark.long)])
def test_ctrl_c_stops_encoders_on_any_workers(scratch: Folder, workers: str, tmp_path: Path) -> None:
    scores = scratch.root / "results" / "scores" / "vit.zarr"
    before = tree_digest(scores)
    shutil.rmtree(scores)
    code = "import cinecube.store.jobs.tasks as tasks\nfrom cinecube.cli import main\nif __name__ == '__main__':\n"
    code += f"    tasks.SMALL_WORK = {0 if workers == 'processes' else 1e15}\n    main()\n"
    (tmp_path / "run.py").write_text(code, encoding="utf-8")
    line = stop([sys.executable, str(tmp_path / "run.py"), "encode", "vit"], scratch, lambda text: any(counts(text)))
    assert line.endswith(STOPPED.format("encode", GOES_ON))
    scratch.must("encode", "vit")
    assert tree_digest(scores) == before


@pytest.mark.parametrize(
    "how", ["threads", *(pytest.param(how, marks=pytest.mark.long) for how in ("processes", "threads that do not end"))]
)
def test_sigterm_ends_with_one_line_and_keeps_what_is_finished(scratch: Folder, how: str, tmp_path: Path) -> None:
    """Batch systems send it some seconds before they kill."""
    scores = scratch.root / "results" / "scores" / "vit.zarr"
    before = tree_digest(scores)
    shutil.rmtree(scores)
    code = "import time\nimport cinecube.store.jobs.tasks as tasks\nfrom cinecube.cli import main\n"
    code += f"if __name__ == '__main__':\n    tasks.SMALL_WORK = {0 if how == 'processes' else 1e15}\n"
    if how == "threads that do not end":
        code += (
            "    import cinecube.analysis.encoders.encoding as encoding, cinecube.store.base.interrupts as interrupts\n"
        )
        code += "    interrupts._LAST_S, solve, done = 1.0, encoding.solve_block, []\n"
        code += "    def slowly(*arguments):\n        done.append(0)\n"
        code += "        return time.sleep(600) if len(done) > 8 else solve(*arguments)\n"
        code += "    encoding.solve_block = slowly\n"
    (tmp_path / "run.py").write_text(code + "    main()\n", encoding="utf-8")
    command = [sys.executable, str(tmp_path / "run.py"), "encode", "vit"]
    with Terminal(command, scratch.root, columns=200) as terminal:
        terminal.until(lambda text: any(counts(text)))
        terminal.process.terminate()
        assert terminal.end() == 143, terminal.screen
    assert "Traceback" not in terminal.text
    assert terminal.screen[-1] == f"cinecube encode: stopped by SIGTERM; {GOES_ON}"
    assert len(list((scratch.root / ".cinecube/journal").rglob("*.npy"))) >= 1
    scratch.must("encode", "vit")
    assert tree_digest(scores) == before


def test_an_error_takes_the_place_of_the_bar(films: Folder) -> None:
    (films.root / "data/stimuli/amber/amber02.mp4").unlink()
    with Terminal(FEATURES, films.root, columns=300) as terminal:
        assert terminal.end() == 1
    (line,) = terminal.screen
    assert line.startswith("Error: segment amber02: found no file")


def test_verify_shows_how_far_it_is(scratch: Folder) -> None:
    with Terminal([*CINECUBE, "verify", "data/features/vit"], scratch.root, columns=100) as terminal:
        assert terminal.end() == 0, terminal.screen
    films = len(list((scratch.root / "data/features/vit").glob("*.zarr")))
    assert f"{films}/{films} cubes" in terminal.text
    assert terminal.screen[-1] == f"{films} cubes, {films} whole, 0 damaged"


@pytest.mark.parametrize(("key", "code"), [("\x03", 130), ("\x04", 130), ("n\n", 0)], ids=["Ctrl-C", "Ctrl-D", "no"])
def test_a_question_that_is_not_answered_is_no_bare_aborted(scratch: Folder, key: str, code: int) -> None:
    (scratch.root / ".cinecube/journal").mkdir(parents=True, exist_ok=True)
    lock = scratch.root / ".cinecube" / "journal" / f"{'0' * 64}.lock"
    lock.touch()
    with Terminal([*CINECUBE, "clean"], scratch.root, columns=300) as terminal:
        terminal.until(lambda text: "remove them? [y/N]: " in text)
        time.sleep(1)  # Python loses a Ctrl-C between a question and the moment it begins to read
        terminal.press(key)
        assert terminal.end() == code
    assert "Aborted" not in terminal.text
    assert lock.exists()
    assert ("nothing was removed" if code == 0 else "cinecube clean: stopped") in terminal.screen[-1]


OTHERS = """
import logging, os, subprocess, sys, time, warnings
from cinecube.cli import _log_to_stderr
from cinecube.cli.progress import progress_bar

_log_to_stderr()
with progress_bar("encoding", "blocks") as tell:
    for done, total in [(0, 0), (0, 4), (1, 4), (2, 4), (2, 8), (8, 8), (9, 8)]:
        tell(done, total)
        time.sleep(0.25)
    warnings.warn("of a library")
    logging.getLogger("cinecube.store").warning("of our own, %s", "as long as a whole line of this terminal " * 2)
    subprocess.run(["sh", "-c", "echo of a program >&2"], check=True)
    os.write(2, b"of code ")
    os.write(2, b"in C\\n")
    os.write(2, b"1%\\r99%\\n")
    time.sleep(0.5)
    tell(9, 9)
    time.sleep(0.25)
sys.stderr.write("the end\\n")
"""


def test_lines_of_others_stand_whole_above_the_bar(tmp_path: Path) -> None:
    with Terminal([sys.executable, "-W", "always", "-c", OTHERS], tmp_path, columns=60) as terminal:
        assert terminal.end() == 0
    screen = "\n".join(terminal.screen)
    assert re.fullmatch(
        r"<string>:\d+: UserWarning: of a library\n"
        r"of our own, as long as [\s\S]+ terminal\n"
        r"of a program\nof code in C\n99%\nthe end",
        screen,
    )
    assert {"0/0", "0/4", "2/8", "9/9"} <= {f"{match[1]}/{match[2]}" for match in COUNT.finditer(terminal.text)}


def test_plain_lines_come_ever_more_seldom(tmp_path: Path) -> None:
    code = """
from cinecube.cli import progress
now = 0.0
progress.time.monotonic = lambda: now
with progress.progress_bar("encoding", "blocks") as tell:
    for now in range(1, 1001):
        tell(now, 1000)
"""
    with Terminal([sys.executable, "-c", code], tmp_path, environ={"TERM": "dumb"}) as terminal:
        assert terminal.end() == 0
    done = [int(counted) for counted, _, _ in COUNT.findall(terminal.text)]
    assert done[:3] == [5, 10, 15]
    assert 40 < len(done) < 90
    assert done[-1] - done[-2] > 30
    assert terminal.screen[0] == "encoding: 5/1000 blocks, 1.0 blocks/s, about 17 min left"
