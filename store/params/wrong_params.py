"""What pydantic finds wrong with parameters, in the project's words: no phrase of its own reaches a reader."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
from collections.abc import Collection, Sequence
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from cinecube.store.base.errors import StudyError
from cinecube.store.base.section import WrongValue

_TEXT = ("text", "write a text, in quotes if it looks like a number, a date, yes or no")
_WHOLE = ("a whole number", "write one, without quotes or a fraction")
_NUMBER = ("a number", "write one, without quotes")
_SWITCH = ("true or false", "write one of them")
_LIST = ("a list", "write one, as [a, b]")
_ONE_OF = "write one of these"
_SECTION = ("a section of keys", "write one, as `key: value`")

# Type of pydantic's error -> what was expected, with the error's context filled in, and what to do.
_WORDS: dict[str, tuple[str, str]] = {
    "string_type": _TEXT,
    "string_unicode": _TEXT,
    "string_pattern_mismatch": ("text that matches {pattern}", "correct it"),
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": _WHOLE,
    "int_from_float": _WHOLE,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": ("a finite number", "write one"),
    "bool_type": _SWITCH,
    "bool_parsing": _SWITCH,
    "list_type": _LIST,
    "tuple_type": _LIST,
    "dict_type": _SECTION,
    "model_type": _SECTION,
    "model_attributes_type": _SECTION,
    "dataclass_type": _SECTION,
    "too_short": ("{min_length} or more entries", "add what is missing"),
    "too_long": ("{max_length} or fewer entries", "remove what is too much"),
    "greater_than": ("a number greater than {gt:g}", "raise it"),
    "greater_than_equal": ("{ge:g} or more", "raise it"),
    "less_than": ("a number less than {lt:g}", "lower it"),
    "less_than_equal": ("{le:g} or less", "lower it"),
    "multiple_of": ("a multiple of {multiple_of:g}", "correct it"),
    "literal_error": ("{expected}", _ONE_OF),
}
_UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")
_OF_A_KEY = "[key]"
_LONGEST = 60

Location = tuple[int | str, ...]


@dataclasses.dataclass(frozen=True)
class _Problem:
    """One thing wrong.

    Attributes
    ----------
    kind, value, context
        As pydantic has them.
    path : tuple
        Where, without pydantic's names for members of unions.
    section : type
        That whose keys stand there.
    union : tuple or None
        Path of the union it lies in, and
    member, owner
        which of its members tells, by name and as a type.
    """

    kind: str
    path: Location
    value: Any
    context: dict[str, Any]
    section: Any
    union: Location | None
    member: str
    owner: Any

    @property
    def inside(self) -> bool:
        """Whether it lies in a member of a union, past the choice between them."""
        return self.union is not None and len(self.path) > len(self.union)


def explain(model: type[BaseModel], error: ValidationError, raw: Any, where: str, do: str | None = None) -> StudyError:
    """One line for the first thing that is wrong, unknown keys before what may be missing for their sake.

    Parameters
    ----------
    model : type
        What was checked against.
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
    problems = [_place(model, details) for details in error.errors(include_url=False)]
    problems = _without_other_members(problems, raw)
    first = next((problem for problem in problems if problem.kind in _UNKNOWN_KEY), problems[0])
    beside = [one for one in problems if one is first or (first.union is not None and one.path == first.path)]
    key, found, expected, own_do = _tell(first, beside)
    return StudyError(where=f"{where}: {key}" if key else where, found=found, expected=expected, do=do or own_do)


def shown(value: Any) -> str:
    """A value as a reader of YAML knows it, cut where it is long."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        text = repr(value)
    else:
        try:
            text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), sort_keys=False)
        except yaml.YAMLError:
            text = repr(value)
        text = text.strip().removesuffix("...").strip()
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def suggestion(name: str, known: Collection[str]) -> str | None:
    """`did you mean …?` if one of the known names is close to `name`."""
    by_lower = {other.lower(): other for other in known}
    close = difflib.get_close_matches(name.lower(), list(by_lower), n=1)
    return f"did you mean {by_lower[close[0]]!r}?" if close else None


def _tell(first: _Problem, beside: Sequence[_Problem]) -> tuple[str, str, str, str]:
    """Key, what was found, what was expected, and what to do."""
    key = ".".join(map(str, first.path))
    if first.kind in _UNKNOWN_KEY:
        return _unknown_key(key, str(first.path[-1]), list(_keys(first.section)))
    if first.kind == "invalid_key" or first.path[-1:] == (_OF_A_KEY,):
        key = ".".join(map(str, first.path[: -1 if first.kind == "invalid_key" else -2]))
        return key, f"the key {shown(first.value)}", "text", "put it in quotes, or correct it"
    if first.kind == "missing":
        return key, "nothing", _wanted(_inside(first.section, first.path[-1])), "add it"
    wrong = first.context.get("error")
    if isinstance(wrong, WrongValue):
        return ".".join(filter(None, (key, wrong.key))), wrong.found, wrong.expected, wrong.do
    choices = re.findall(r"'([^']+)'", " ".join(str(one.context.get("expected", "")) for one in beside))
    close = suggestion(first.value, choices) if isinstance(first.value, str) else None
    return key, shown(first.value), _any_of(beside), close or (_words(first)[1] if len(beside) == 1 else _ONE_OF)


def _unknown_key(key: str, name: str, known: list[str]) -> tuple[str, str, str, str]:
    do = suggestion(name, known) or "remove it or correct its name"
    return key, f"an unknown key {name!r}", f"one of {', '.join(known)}" if known else "a known key", do


def _words(problem: _Problem) -> tuple[str, str]:
    if problem.kind not in _WORDS:
        wrong = problem.context.get("error")
        return str(wrong) if wrong else "another value", "correct it"
    expected, do = _WORDS[problem.kind]
    if expected is _SECTION[0]:
        needed = _needed(problem.section)
        expected = f"a section with {', '.join(needed)}" if needed else expected
    return expected.format_map(problem.context), do


def _any_of(problems: Sequence[_Problem]) -> str:
    return ", or ".join(dict.fromkeys(_words(problem)[0] for problem in problems))


def _wanted(annotation: Any) -> str:
    """What a key takes, in words: what its type says to a value that is of no type."""
    try:
        TypeAdapter(annotation).validate_python(object())
    except ValidationError as error:
        return _any_of([_place(annotation, details) for details in error.errors(include_url=False)])
    return "a value"


def _place(annotation: Any, details: Any) -> _Problem:
    """Follow an error's location through the types."""
    holds, section, owner = annotation, annotation, annotation
    union: Location | None = None
    member, path = "", cast(Location, ())
    for part in details["loc"]:
        members = _members(holds)
        if len(members) > 1:
            union, member = path, str(part)
            holds = owner = next((one for one in members if _is_called(one, member)), Any)
        else:
            section, holds, path = members[0], _inside(members[0], part), (*path, part)
    at_key = details["type"] in ("missing", *_UNKNOWN_KEY)
    return _Problem(
        kind=details["type"],
        path=path,
        value=details["input"],
        context=details.get("ctx", {}),
        section=section if at_key else _members(holds)[0],
        union=union,
        member=member,
        owner=owner,
    )


def _without_other_members(problems: list[_Problem], raw: Any) -> list[_Problem]:
    """Of a union keep the problems inside the member that was meant, or what every member says of the value."""
    kept = []
    for problem in problems:
        rivals = [one for one in problems if one.union is not None and one.union == problem.union]
        inside = [one for one in rivals if one.inside]
        if not inside or problem.member == _meant(inside, raw).member:
            kept.append(problem)
    return kept


def _meant(inside: Sequence[_Problem], raw: Any) -> _Problem:
    """The problem whose member of a union knows most of the keys that were written; of equals that with least wrong."""
    value = raw
    for part in inside[0].union or ():
        value = value[part]
    written = [str(key) for key in value] if isinstance(value, dict) else []

    def fit(problem: _Problem) -> tuple[int, int]:
        known = [str(key) for key in _keys(problem.owner)]
        close = sum(bool(difflib.get_close_matches(key, known, n=1)) for key in written)
        return close, -sum(one.member == problem.member for one in inside)

    return max(inside, key=fit)


def _keys(annotation: Any) -> dict[Any, Any]:
    """Keys of a section, each with its type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {name: field.annotation for name, field in annotation.model_fields.items()}
    return get_type_hints(annotation) if dataclasses.is_dataclass(annotation) else {}


def _needed(annotation: Any) -> list[str]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [name for name, field in annotation.model_fields.items() if field.is_required()]
    return []


def _members(annotation: Any) -> list[Any]:
    """Types that a union allows beside None; the type itself where it is no union."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        return [one for one in get_args(annotation) if one is not types.NoneType]
    return [annotation]


def _is_called(annotation: Any, name: str) -> bool:
    """Whether pydantic calls a member of a union so."""
    origin = get_origin(annotation)
    if origin is Literal:
        return name.startswith("literal[")
    return name.startswith(f"{origin.__name__}[") if origin else getattr(annotation, "__name__", "") == name


def _inside(annotation: Any, part: int | str) -> Any:
    """Type of a section's or list's entry."""
    args = get_args(annotation)
    if get_origin(annotation) is tuple and args[-1] is not Ellipsis:
        return args[part] if isinstance(part, int) and part < len(args) else Any
    return args[1] if get_origin(annotation) is dict else args[0] if args else _keys(annotation).get(part, Any)
