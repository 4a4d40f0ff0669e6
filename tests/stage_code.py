"""Which folders of code the command of a stage can reach, by what is imported; `python -m tests.stage_code` writes them
into the pipeline of the default study (`make pipeline`)."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
ROOMS = ("analysis", "features", "simulation", "store")

# Named as one: a stage that reaches `store` reaches most of it, those of `features` that name code take a second, and
# each name costs DVC a walk, and five lines of a lock that it reads and writes after every stage.
_WHOLE = ("features", "store")

# Stages that name no code: `extract` and `features` depend on it by the versions in records of checkpoints, so that no
# comment extracts anything again; what `inputs` and `privacy` write is no result.
WITHOUT_CODE = ("extract", "features", "inputs", "privacy")


def code_of_stages() -> dict[str, list[str]]:
    """Command of every stage that names code -> the folders that it reaches, from the repository's root."""
    return {name: _folders(reached_files(name)) for name in commands() if name not in WITHOUT_CODE}


@cache
def commands() -> dict[str, ast.FunctionDef]:
    """The commands that stages run, by name; the rest of the face parses and prints, and holds no numbers."""
    from cinecube.cli import _STAGES, _function_of

    trees = {module: _parse(REPOSITORY / "cinecube" / "cli" / f"{module}.py") for module in set(_STAGES.values())}
    found = {}
    for name, module in _STAGES.items():
        functions = {node.name: node for node in trees[module].body if isinstance(node, ast.FunctionDef)}
        found[name] = functions[_function_of(name)]
    return found


def reached_face(command: str) -> set[str]:
    """Names outside of the rooms that a command imports by itself, on which no stage depends."""
    names = (name for name in _imported(commands()[command]) if name.startswith("cinecube."))
    return {name for name in names if name.split(".")[1] not in ROOMS}


def reached_files(command: str) -> set[Path]:
    """Files of the rooms that a command imports, in any function of any of them, but for the rooms' own `__init__`."""
    reached: set[str] = set()
    waiting = list(_imported(commands()[command]))
    while waiting:
        module = waiting.pop()
        if module in _modules() and module not in reached:
            reached.add(module)
            waiting += [*_imported(_parse(_modules()[module])), module.rpartition(".")[0]]
    return {_modules()[module] for module in reached}


@cache
def _modules() -> dict[str, Path]:
    """Name of every module of the rooms -> its file."""
    files = [path for room in ROOMS for path in (REPOSITORY / room).rglob("*.py")]
    rooms = [REPOSITORY / room / "__init__.py" for room in ROOMS]
    return {_name(path): path for path in files if path not in rooms}


def _name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(["cinecube", *(parts[:-1] if parts[-1] == "__init__" else parts)])


def _folders(paths: Iterable[Path]) -> list[str]:
    """Folders of files, without those that lie in another of them."""
    found = {path.parent for path in paths}
    found |= {room for room in (REPOSITORY / name for name in _WHOLE) if any(room in path.parents for path in paths)}
    return sorted(path.relative_to(REPOSITORY).as_posix() for path in found if not found & set(path.parents))


@cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _imported(node: ast.AST) -> Iterator[str]:
    """Names that may be modules: of imports that are run, and texts that name one, as registries hold."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        children: list[ast.AST] = list(node.orelse)
    else:
        children = list(ast.iter_child_nodes(node))
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=str(module), names=names, level=0):
            yield from (module, *(f"{module}.{alias.name}" for alias in names))
        case ast.Constant(value=str(text)):
            yield text.partition(":")[0]
    for child in children:
        yield from _imported(child)


def main() -> None:
    """Write the pipeline of the default study."""
    from cinecube.studies.pipelines import pipelines

    for name, text in pipelines(simulated=True, code=code_of_stages()).items():
        (REPOSITORY / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
