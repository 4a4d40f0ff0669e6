"""Rooms keep to themselves, imports run one way, and store and analysis work where torch is not installed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
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


@cache
def _modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for room in (*ALLOWED, "cinecube"):
        for path in sorted((REPOSITORY / room).rglob("*.py")):
            parts = path.relative_to(REPOSITORY).with_suffix("").parts
            parts = parts if room == "cinecube" else ("cinecube", *parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def _imports() -> dict[str, set[str]]:
    """Modules of ours that each module imports, inside functions and for type checkers too."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, path in _modules().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cinecube"):
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    found[name].add(whole if whole in _modules() else str(node.module))
            elif isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names if alias.name in _modules()}
        found[name].discard(name)
    return dict(found)


def _folder(name: str) -> str:
    return name if _modules()[name].name == "__init__.py" else name.rpartition(".")[0]


def _longest(imports: Mapping[str, set[str]]) -> dict[str, list[str]]:
    """The longest chain of imports from each; fails where they run in a circle."""
    known: dict[str, list[str]] = {}

    def follow(name: str, above: tuple[str, ...]) -> list[str]:
        assert name not in above, " > ".join([*above[above.index(name) :], name])
        if name not in known:
            chains = [follow(other, (*above, name)) for other in sorted(imports.get(name, ()))]
            known[name] = [name, *max(chains, key=len, default=[])]
        return known[name]

    for name in sorted(imports):
        follow(name, ())
    return known


def test_no_files_import_each_other() -> None:
    assert _longest(_imports())


def test_no_folders_import_each_other() -> None:
    between: dict[str, set[str]] = defaultdict(set)
    for name, others in _imports().items():
        between[_folder(name)] |= {_folder(other) for other in others} - {_folder(name)}
    del between["cinecube"]  # `import cinecube` gives the store's doors, and every folder is inside it
    assert _longest({name: others - {"cinecube"} for name, others in between.items()})


def test_imports_inside_analysis_are_eight_levels_deep_at_most() -> None:
    inside = {
        name: {other for other in others if other.startswith("cinecube.analysis")}
        for name, others in _imports().items()
        if name.startswith("cinecube.analysis")
    }
    longest = max(_longest(inside).values(), key=len)
    assert len(longest) <= 8, " > ".join(longest)


def test_a_folder_has_a_dozen_files_at_most_and_says_what_is_in_it() -> None:
    by_folder: dict[Path, list[str]] = defaultdict(list)
    for path in _modules().values():
        by_folder[path.parent].append(path.name)
    for folder, names in by_folder.items():
        assert "__init__.py" in names, folder
        assert len(names) <= 13, f"{folder}: {len(names) - 1} files"
        assert _purpose(folder), folder


def _purpose(folder: Path) -> str:
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def test_the_tree_in_contributing_is_the_code() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    room, shown = "", []
    for indent, name, purpose in re.findall(r"^    (    )?(\w+)/ +(.+)$", text, re.MULTILINE):
        room = room if indent else name
        shown.append((f"{room}/{name}" if indent else name, purpose))
    folders = sorted({path.parent for path in _modules().values()})
    assert sorted(shown) == [(str(folder.relative_to(REPOSITORY)), _purpose(folder)) for folder in folders]


def test_no_two_files_have_one_name() -> None:
    names = [path.name for path in _modules().values() if path.name not in ("__init__.py", "stage.py")]
    assert sorted(set(names)) == sorted(names)


def test_no_two_public_things_have_one_name() -> None:
    """But commands, called as the stages that they run, and what every network's file has to define."""
    places: dict[str, list[str]] = defaultdict(list)
    for module, path in _modules().items():
        if not module.startswith("cinecube.cli."):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                    places[node.name].append(module)
    assert not {name: found for name, found in places.items() if len(found) > 1 and name not in ("describe", "rename")}


def test_the_wheel_has_every_folder() -> None:
    packages = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"][
        "packages"
    ]
    assert sorted(packages) == sorted({_folder(name) for name in _modules()})


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


@pytest.mark.parametrize("words", ["extract", "checkpoint tvlt"])
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


def test_make_runs_every_benchmark() -> None:
    """Those that are named in a list, and the one that takes a finished study."""
    target = (REPOSITORY / "Makefile").read_text(encoding="utf-8").partition("\nbenchmark:")[2].partition("\n\n")[0]
    named = set(re.findall(r"[a-z]+", target))
    assert {path.stem for path in (REPOSITORY / "benchmarks").glob("*.py")} <= named
