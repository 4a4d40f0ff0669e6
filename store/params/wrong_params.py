"""One line of what pydantic finds wrong with parameters: the key, its value, what it takes and what to do."""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from cinecube.store.base.errors import StudyError
from cinecube.store.base.labels import suggestion
from cinecube.store.base.section import NOTHING, WrongValue, as_written

# What pydantic calls a type in its kinds of error -> what was expected, and what to do.
_TYPES = {
    "string": ("text", "write it, in quotes if it looks like a number, a date, yes or no"),
    "int": ("a whole number", "write one, without quotes or a fraction"),
    "float": ("a number", "write one, without quotes"),
    "bool": ("true or false", "write one of them"),
    "list": ("a list", "write one, as [a, b]"),
    "tuple": ("a list", "write one, as [a, b]"),
    "dict": ("a section of keys", "write one, as `key: value`"),
    "dataclass": ("a section of keys", "write one, as `key: value`"),
}
_WRONG_TYPE = re.compile(rf"({'|'.join(_TYPES)})_(type|unicode|parsing|parsing_size|from_float)")
_OTHERS = {
    "missing": ("a value", "add it"),
    "unexpected_keyword_argument": ("known keys only", "remove it or correct its name"),
}
# Around what pydantic's own text says was expected, and what begins it in the middle of a sentence.
_AROUND = re.compile(r"^\w+ should (be|have) | after validation.*")
_BOUND = re.compile(r"^(?=greater|less)")


def explain(error: ValidationError, raw: Any, where: str, do: str | None = None) -> StudyError:
    """One line for the first thing that is wrong.

    Parameters
    ----------
    error : ValidationError
    raw : Any
        What was checked.
    where : str
        The file.
    do : str, optional
        What to do about any error, where that is not to edit the file.

    Returns
    -------
    StudyError
    """
    problems = [(_path(details, raw), details) for details in error.errors(include_url=False)]
    start = problems[0][0]
    # Each member of a union says what it expected; one that looked into the value has the most to say.
    path = max((path for path, _ in problems if path[: len(start)] == start), key=len)
    beside = [details for other, details in problems if other == path]
    first = beside[0]
    if first["loc"][-1:] == ("[key]",):
        return StudyError(
            where=f"{where}: {'.'.join(path[:-1])}",
            found=f"the key {as_written(first['input'])}",
            expected="text",
            do=do or "put it in quotes, or correct it",
        )
    wrong = first.get("ctx", {}).get("error")
    if isinstance(wrong, WrongValue):
        path, found, expected, own = (*path, wrong.key), wrong.found, wrong.expected, wrong.do
    else:
        value = None if first["type"] == "missing" else first["input"]
        found, (expected, own) = as_written(value), _words(first)
        if found == "nothing":
            own = "add it"
        if len(beside) > 1:
            expected, own = ", or ".join(dict.fromkeys(_words(one)[0] for one in beside)), "write one of these"
        own = (isinstance(value, str) and suggestion(value, re.findall(r"'([^']+)'", expected))) or own
    key = ".".join(filter(None, path))
    return StudyError(where=f"{where}: {key}" if key else where, found=found, expected=expected, do=do or own)


def _path(details: ErrorDetails, raw: Any) -> tuple[str, ...]:
    """Keys and positions in the file, without the names that pydantic gives members of unions."""
    path: list[str] = []
    inside, lacking = raw, details["type"] == "missing" or details["input"] is NOTHING
    for part in details["loc"]:
        if part in (inside if isinstance(inside, dict) else range(len(inside)) if isinstance(inside, list) else ()):
            inside = inside[part]
            path.append(str(part))
        elif lacking and isinstance(inside, dict | list):
            inside = None
            path.append(str(part))
    return tuple(path)


def _words(details: ErrorDetails) -> tuple[str, str]:
    """The expectation, and what to do."""
    if wrong_type := _WRONG_TYPE.fullmatch(details["type"]):
        return _TYPES[wrong_type[1]]
    said = details.get("ctx", {}).get("error", details["msg"])
    return _OTHERS.get(details["type"], (_BOUND.sub("a number ", _AROUND.sub("", str(said))), "correct it"))
