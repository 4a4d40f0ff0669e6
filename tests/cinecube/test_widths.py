"""What commands that look print at a terminal: lines that fit it, nothing of DVC's, and the same as ever in a pipe."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import pytest
import yaml
from tests.conftest import Folder, dvc
from tests.terminal import Terminal

from cinecube.cli.folding import echo_folded

CINECUBE = str(Path(sys.executable).with_name("cinecube"))


def test_plan_shows_no_bars_of_dvc(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "study")
    folder.must("init", str(folder.root))
    path = folder.root / "dvc.yaml"
    pipeline = yaml.safe_load(path.read_text(encoding="utf-8"))
    pipeline["stages"]["own"] = {"cmd": "true", "outs": ["own"]}
    path.write_text(yaml.safe_dump(pipeline), encoding="utf-8")
    (folder.root / "own").mkdir()
    (folder.root / "own" / "file").write_text("1", encoding="utf-8")
    dvc(folder.root, "commit", "-f", "own")
    (folder.root / "own" / "file").write_text("2", encoding="utf-8")
    with Terminal([CINECUBE, "plan"], folder.root) as terminal:
        assert terminal.end() == 0
    assert "Collecting" not in terminal.text
    assert "\r" not in terminal.text.replace("\r\n", "")


def lines_at(columns: int, folder: Folder, *words: str) -> list[str]:
    """What a command prints at a terminal, before that breaks lines which are wider."""
    with Terminal([CINECUBE, *words], folder.root, columns) as terminal:
        terminal.end()
    return click.unstyle(terminal.text).replace("\r\n", "\n").splitlines()


def too_wide(lines: list[str], columns: int) -> list[str]:
    """Lines that a terminal would break though they have a space to be folded at."""
    return [line for line in lines if len(line) > columns and " " in line.strip()]


@pytest.mark.parametrize("words", [("doctor",), ("why", "vit"), ("card",)], ids=lambda words: words[0])
def test_lines_are_folded_between_words(scratch: Folder, words: tuple[str, ...]) -> None:
    scratch.change(lambda params: params["clock"].update(window_s=2, tr_s=2))
    narrow, wide = (lines_at(columns, scratch, *words) for columns in (60, 1000))
    assert too_wide(narrow, 60) == []
    assert " ".join(narrow).split() == " ".join(wide).split()


def test_plan_and_ls_keep_a_line_for_each_stage_and_cube(scratch: Folder) -> None:
    narrow, wide = (lines_at(columns, scratch, "plan") for columns in (80, 1000))
    assert too_wide(narrow, 80) == []
    assert sorted(" ".join(narrow[1:]).split()) == sorted(" ".join(wide[1:]).split())
    assert sum(line.startswith("    ") for line in narrow) <= 2 * len(scratch.params()["residual"])
    narrow, wide = (lines_at(columns, scratch, "ls") for columns in (80, 1000))
    assert too_wide(narrow, 80) == []
    assert [line.split("  ")[:3] for line in narrow[:-1]] == [line.split("  ")[:3] for line in wide]
    assert "data/features/vit/amber.zarr" in " ".join(wide)
    assert narrow[-1] == "their places are left out here: `cinecube ls --json` has them"


def test_places_of_a_folder_that_is_named_are_folded(scratch: Folder) -> None:
    lines = lines_at(60, scratch, "ls", "data/features")
    assert too_wide(lines, 60) == []
    assert lines[2] == "    ast/amber.zarr"


def folded(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, head: str, text: str) -> list[str]:
    monkeypatch.setattr("cinecube.cli.folding.terminal_width", lambda err=False: 40)
    echo_folded(head, text)
    return capsys.readouterr().out.splitlines()


def test_a_command_to_copy_is_kept_whole(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = folded(capsys, monkeypatch, "missing  ", "it lacks a thing: `pip install one two`, which has it")
    assert lines == ["missing  it lacks a thing:", "         `pip install one two`, which", "         has it"]


def test_letters_that_take_two_columns_are_counted_as_two(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert folded(capsys, monkeypatch, "", "映画 " * 10) == ["映画 " * 7 + "映画", "    映画 映画"]


def test_a_head_that_leaves_no_room_has_a_line_of_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert folded(capsys, monkeypatch, "h" * 30 + "  ", "a place of more") == ["h" * 30, "    a place of more"]


def test_without_a_terminal_a_row_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    echo_folded("head  ", "word " * 100)
    assert capsys.readouterr().out == "head  " + ("word " * 100).rstrip() + "\n"


@pytest.mark.parametrize("text", ["", " "])
def test_nothing_to_fold_is_no_blank_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    head = "  a row that is wider than the terminal, by far  "
    assert folded(capsys, monkeypatch, head, text) == [head.rstrip()]
    assert folded(capsys, monkeypatch, "head  ", text) == ["head"]
