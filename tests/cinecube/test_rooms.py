"""Rooms keep to themselves, and store and analysis work where torch is not installed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
ALLOWED = {
    "store": {"store"},
    "features": {"features", "store"},
    "analysis": {"analysis", "store"},
    # The architectures of its checkpoints only: see tests/simulation/test_study.py.
    "simulation": {"simulation", "store", "features"},
}


def _imported_rooms(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            if name.startswith("cinecube"):
                yield name.split(".")[1] if "." in name else "cinecube"


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_what_it_may(room: str) -> None:
    for path in sorted((REPOSITORY / room).rglob("*.py")):
        strangers = set(_imported_rooms(path)) - ALLOWED[room]
        assert not strangers, f"{path.name} imports {strangers}"


ABSENT = """
import sys
class Absent:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("torch", "transformers", "av"): raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Absent())
"""


def test_store_and_analysis_need_no_torch() -> None:
    """Where torch, transformers and av cannot be imported, every module of both rooms can, and so can the commands."""
    code = ABSENT + (
        "import importlib, pathlib\n"
        "for room in ('store', 'analysis'):\n"
        "    for path in sorted(pathlib.Path(room).rglob('*.py')):\n"
        "        importlib.import_module('.'.join(['cinecube', *path.with_suffix('').parts]))\n"
        "from click.testing import CliRunner; from cinecube.cli import main\n"
        "assert CliRunner().invoke(main, ['plan', '--json']).exit_code == 0\n"
        "listed = CliRunner().invoke(main, ['ls'])\n"
        "assert listed.exit_code == 0 or 'found no cube' in listed.stderr, listed.output\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", ["features vit amber", "checkpoint vit"])
def test_extraction_without_its_packages_is_one_line(words: str) -> None:
    code = f"{ABSENT}from cinecube.cli import main; main({words.split()!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: this environment: found no package ")
    assert line.endswith("install them: `pip install 'cinecube[features]'`")


@pytest.mark.parametrize("line", ["import pickle", "yaml.load(", "trust_remote_code=True", "allow_pickle=True"])
def test_nothing_unsafe(line: str) -> None:
    for room in (*ALLOWED, "cinecube"):
        for path in (REPOSITORY / room).rglob("*.py"):
            assert line not in path.read_text(encoding="utf-8"), f"{path}: {line}"
