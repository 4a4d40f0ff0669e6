"""DVC's answer is kept while nothing that it looked at changes, and asked for again when anything has."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cinecube.status.standing import Answer, standing
from cinecube.store.base.paths import StudyPaths


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in (".dvc/config", "dvc.yaml", "dvc.lock", "params.yaml", "data/film/one.mp4", "code/a.py", "cache/3f/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name, encoding="utf-8")
    return tmp_path


def answered(root: Path, asked: object = None) -> bool:
    """Whether DVC was asked."""
    times = []

    def ask() -> tuple[Answer, list[str]]:
        times.append(1)
        paths = [str(root / name) for name in ("data", "code", "gone")]
        return {"encode": "follows brain"}, [*paths, str(root / "cache/3f") + os.sep]

    assert standing(root, asked, ask) == {"encode": "follows brain"}
    return bool(times)


def touched(path: Path) -> None:
    os.utime(path, ns=(0, 0))


CHANGES: dict[str, Callable[[Path], object]] = {
    "a film of the same size": lambda root: touched(root / "data/film/one.mp4"),
    "a film more": lambda root: (root / "data/film/two.mp4").write_text("", encoding="utf-8"),
    "a film less": lambda root: (root / "data/film/one.mp4").unlink(),
    "code": lambda root: (root / "code/a.py").write_text("longer than it was", encoding="utf-8"),
    "what was absent": lambda root: (root / "gone").mkdir(),
    "the lock": lambda root: touched(root / "dvc.lock"),
    "parameters": lambda root: touched(root / "params.yaml"),
    "the pipeline": lambda root: (root / "dvc.yaml").unlink(),
    "DVC's settings": lambda root: (root / ".dvc/config.local").write_text("", encoding="utf-8"),
    "a file of DVC elsewhere": lambda root: (root / "code/more.dvc").write_text("", encoding="utf-8"),
    "the cache": lambda root: (root / "cache/3f/x").unlink(),
    "what was kept": lambda root: StudyPaths(root).standing.write_text('{"answer": {}, "paths": 3}', encoding="utf-8"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed(change: str, root: Path) -> None:
    assert answered(root)
    assert not answered(root)
    CHANGES[change](root)
    assert answered(root)
    assert not answered(root)


def test_a_study_may_be_named_in_two_ways(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert answered(root)
    monkeypatch.chdir(root)
    assert standing(Path(), None, lambda: None) is not None


def test_another_question_and_none(root: Path) -> None:
    assert answered(root, {"scores": 1})
    assert answered(root, {"scores": 2})
    assert not answered(root, {"scores": 2})
    assert standing(root, "other", lambda: None) is None
    assert not answered(root, {"scores": 2})


def test_a_link_that_leads_round_in_a_circle_is_not_followed(root: Path) -> None:
    (root / "code/again").symlink_to(root)
    assert answered(root)
    assert not answered(root)


def test_bytecode_is_no_change(root: Path) -> None:
    (root / "code/__pycache__").mkdir()
    assert answered(root)
    (root / "code/__pycache__/a.pyc").write_bytes(b"")
    assert not answered(root)


def test_a_study_that_cannot_be_written_does_without(root: Path) -> None:
    (root / ".cinecube").write_text("a file in its place", encoding="utf-8")
    assert answered(root)
    assert answered(root)
