"""Shells complete commands and the names of the study."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.shell_completion import ShellComplete

from cinecube.cli import _COMMANDS, main
from cinecube.store.open.cube_names import named_cubes
from cinecube.store.params.document import load_study

if TYPE_CHECKING:
    from tests.conftest import Folder


def completed(root: Path, *words: str) -> list[tuple[str, str]]:
    """What a shell offers for the last word: values and their types."""
    *before, incomplete = words
    if before:
        before[1:1] = ["--study", str(root)]
    shell = ShellComplete(main, {}, "cinecube", "_CINECUBE_COMPLETE")
    return [(str(item.value), item.type) for item in shell.get_completions(before, incomplete)]


def plain(root: Path, *words: str) -> list[str]:
    found = completed(root, *words)
    assert {kind for _, kind in found} <= {"plain"}
    return [value for value, _ in found]


def test_commands(tmp_path: Path) -> None:
    assert plain(tmp_path, "") == list(_COMMANDS)
    assert plain(tmp_path, "resid") == ["residual-features", "residual"]


@pytest.mark.parametrize("command", ["why", "show", "verify"])
def test_names_of_cubes_and_paths(simulated: Folder, command: str) -> None:
    named = list(named_cubes(load_study(simulated.root)))
    assert plain(simulated.root, command, "") == named
    assert plain(simulated.root, command, "vit/") == [name for name in named if name.startswith("vit/")]
    assert completed(simulated.root, command, "data/fea") == [("data/fea", "file")]


def test_names_of_models_films_subjects_and_pairs(simulated: Folder) -> None:
    study, root = load_study(simulated.root), simulated.root
    pairs = [pair.name for pair in study.residual]
    assert plain(root, "checkpoint", "") == study.known_models
    assert plain(root, "features", "vit", "") == list(study.films)
    assert plain(root, "brain", "sub") == study.brain.subjects
    assert plain(root, "residual-features", "") == pairs
    assert plain(root, "encode", "") == [*study.known_models, *pairs]
    assert plain(root, "pull", "--film", "a") == ["amber"]
    assert plain(root, "export", "score", "to.csv", "--subject", "sub-0") == study.brain.subjects


def test_revisions(tmp_path: Path) -> None:
    for words in (["init", "-q", "-b", "main"], ["commit", "-q", "--allow-empty", "-m", "a"], ["tag", "v1.0"]):
        name = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *name, *words], cwd=tmp_path, check=True)
    assert plain(tmp_path, "compare", "") == ["main", "v1.0"]
    assert plain(tmp_path, "compare", "v1.0", "m") == ["main"]


def test_where_there_is_no_study_nothing_is_offered(tmp_path: Path) -> None:
    assert plain(tmp_path, "checkpoint", "") == []
    (tmp_path / "params.yaml").write_text("study: [", encoding="utf-8")
    assert plain(tmp_path, "checkpoint", "") == []
