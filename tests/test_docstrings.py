"""Docstrings of all rooms: their first words, and the sections of public functions."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
ROOMS = ("analysis", "store", "features", "simulation", "cinecube")
# The help of commands is their docstring, which readers of a terminal see as it is.
COMMANDS = REPOSITORY / "cinecube" / "cli"
QUESTION = re.compile(r"(What|Whether|Which|How|Where|When|Who)\b")

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Documented(NamedTuple):
    """A module, class or function, and the arguments that its docstring has to name."""

    place: str
    text: str
    names: tuple[str, ...] = ()
    gives_nothing: bool = True


@cache
def _documented() -> list[Documented]:
    found = []
    for path in (path for room in ROOMS for path in sorted((REPOSITORY / room).rglob("*.py"))):
        tree, place = ast.parse(path.read_text(encoding="utf-8")), str(path.relative_to(REPOSITORY))
        found.append(Documented(place, ast.get_docstring(tree) or ""))
        found += _below(tree.body, place, public=not path.is_relative_to(COMMANDS))
    return found


def _below(body: list[ast.stmt], place: str, *, public: bool, in_class: bool = False) -> Iterator[Documented]:
    """Classes and functions in some statements; what is private, or inside a function, needs no sections."""
    for node in body:
        if not isinstance(node, ast.ClassDef | Function):
            parts = [getattr(node, name, []) for name in ("body", "orelse", "finalbody")]
            for part in (*parts, *(handler.body for handler in getattr(node, "handlers", []))):
                yield from _below(part, place, public=public, in_class=in_class)
            continue
        here, text = f"{place}:{node.lineno} {node.name}", ast.get_docstring(node) or ""
        is_class, is_seen = isinstance(node, ast.ClassDef), public and not node.name.startswith("_")
        if isinstance(node, Function) and is_seen:
            yield Documented(here, text, _to_name(node, in_class), _gives_nothing(node))
        else:
            yield Documented(here, text)
        yield from _below(node.body, place, public=is_seen and is_class, in_class=is_class)


def _to_name(node: Function, in_class: bool) -> tuple[str, ...]:
    """Arguments of a function that has two and more but for self and cls; none of other functions."""
    if any(ast.unparse(one).endswith("overload") for one in node.decorator_list):
        return ()
    given = node.args
    several = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
    names = tuple(one.arg for one in several if one)
    own = names[1:] if in_class and names[:1] in (("self",), ("cls",)) else names
    return own if len(own) > 1 else ()


def _gives_nothing(node: Function) -> bool:
    return node.returns is not None and ast.unparse(node.returns) in ("None", "NoReturn")


def _sections(text: str) -> dict[str, str]:
    """Section -> its text."""
    parts = re.split(r"^(\w[\w ]*)\n-{3,}$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _named(section: str) -> set[str]:
    """Arguments that a section `Parameters` names, several in a line too."""
    lines = (line.split(" : ")[0] for line in section.splitlines() if line[:1].strip())
    return {name.strip().lstrip("*") for line in lines for name in line.split(",")}


def test_no_docstring_begins_with_a_question() -> None:
    asking = [f"{one.place}: {one.text.splitlines()[0]}" for one in _documented() if QUESTION.match(one.text)]
    assert not asking, "\n".join(["begin with a verb or a noun:", *asking])


def test_public_functions_name_what_is_passed_and_what_comes_back() -> None:
    needing = [one for one in _documented() if one.names]
    lacking = []
    for one in needing:
        sections = _sections(one.text)
        known = _named(sections.get("Parameters", ""))
        if absent := [name for name in one.names if name not in known]:
            lacking.append(f"{one.place}: no {', '.join(absent)} under Parameters")
        if not one.gives_nothing and not sections.keys() & {"Returns", "Yields"}:
            lacking.append(f"{one.place}: neither Returns nor Yields")
    assert len(needing) > 500
    assert not lacking, "\n".join(lacking)
