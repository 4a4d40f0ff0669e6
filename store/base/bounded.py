"""Foreign files and texts, read within bounds: no pipe is waited for, nothing grows past its size."""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from cinecube.store.base.errors import StudyError, environment_error

MAX_TEXT_BYTES = 8 * 2**20
"""Of a JSON file: the configuration of a network with 20,000 labels has one."""

# The most bytes of YAML; a study of thousands of segments has 60 kB.
_MAX_YAML_BYTES = 512 * 2**10
_MAX_YAML_VALUES = 200_000
_MAX_DEPTH = 64
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}

ANNEX_POINTER = b"/annex/objects/"
"""Start of the pointer that git-annex leaves in place of an unlocked file that was not fetched."""


def file_bytes(path: Path, where: str | None = None, limit: int | None = None) -> int:
    """Bytes of a plain file, or of the one that a link leads to.

    Parameters
    ----------
    path : Path
    where : str, optional
        What messages call it, the path by default.
    limit : int, optional
        The most that it may have.

    Returns
    -------
    int

    Raises
    ------
    StudyError
        If it is no plain file (opening a pipe waits for ever), cannot be looked at, or is larger.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise _unreadable(error, path, where) from None
    return _plain_bytes(status, where or str(path), limit)


def refuse_special(path: Path, where: str | None = None, limit: int | None = None) -> None:
    """Refuse a path that is no plain file, as `file_bytes` does; a missing file is for the caller to report.

    It is looked at once, since another process may take the file away in between.

    Parameters
    ----------
    path : Path
    where : str, optional
        What messages call it, the path by default.
    limit : int, optional
        The most bytes that it may have.

    Raises
    ------
    StudyError
        If it is no plain file, cannot be looked at, or is larger.
    """
    try:
        _plain_bytes(os.stat(path), where or str(path), limit)
    except (OSError, ValueError) as error:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise _unreadable(error, path, where) from None


def _unreadable(error: OSError | ValueError, path: Path, where: str | None) -> StudyError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    refused = environment_error(error, str(path))
    return refused or _no_file(where or str(path), f"nothing that can be read ({reason})")


def _plain_bytes(status: os.stat_result, where: str, limit: int | None) -> int:
    if not stat.S_ISREG(status.st_mode):
        raise _no_file(where, _KINDS.get(stat.S_IFMT(status.st_mode), "something that is no file"))
    if limit is not None and status.st_size > limit:
        raise too_large(where, f"{status.st_size} bytes", f"at most {limit}")
    return status.st_size


def _no_file(where: str, found: str) -> StudyError:
    return StudyError(where=where, found=found, expected="a plain file", do="correct the path, or copy the file there")


def too_large(where: str, found: str, expected: str) -> StudyError:
    """Error for what is larger than anything real of its kind.

    Parameters
    ----------
    where, found, expected : str
        As in `StudyError`.

    Returns
    -------
    StudyError
    """
    return StudyError(where=where, found=found, expected=expected, do="get it again from where it was made")


def read_text(path: Path, where: str | None = None, limit: int = MAX_TEXT_BYTES) -> str:
    """Text of a plain file in UTF-8; raises as `file_bytes` does, and a UnicodeDecodeError.

    Parameters
    ----------
    path : Path
    where : str, optional
        What messages call the file; its path without it.
    limit : int
        A file of more bytes is refused.

    Returns
    -------
    str
    """
    file_bytes(path, where, limit)
    return path.read_text(encoding="utf-8")


def parse_json(text: str | bytes) -> Any:
    """Parse a JSON text.

    Raises
    ------
    ValueError
        If it is no JSON, or nested deeper than anything that people write.
    """
    try:
        found = json.loads(text)
    except RecursionError:
        found = _too_deep()
    return found if _depth(found) <= _MAX_DEPTH else _too_deep()


def _too_deep() -> Any:
    raise ValueError(f"nested more than {_MAX_DEPTH} deep")


def _depth(value: Any) -> int:
    """Depth to which lists and objects are nested; counted no further than `_MAX_DEPTH`."""
    layer, depth = [value], 0
    while depth <= _MAX_DEPTH:
        inner = [part for part in layer if isinstance(part, list | dict)]
        if not inner:
            return depth
        layer = [one for part in inner for one in (part.values() if isinstance(part, dict) else part)]
        depth += 1
    return depth


def parse_yaml(text: str, strict: bool = False) -> Any:
    """Parse a YAML text: aliases expanded, plain values only.

    Parameters
    ----------
    text : str
    strict : bool
        True if people write the text for this package. Then a key that appears twice is refused, as YAML would keep
        the last without a word, and so are characters that cannot be seen.

    Returns
    -------
    object
        Of dicts, lists and scalars; None for an empty text.

    Raises
    ------
    yaml.YAMLError
        If it is no YAML.
    ValueError
        If it is too large, holds a value that is not plain, or an alias that makes it endless or vast.
    """
    if len(text) > _MAX_YAML_BYTES:
        raise ValueError(f"{len(text)} characters, more than {_MAX_YAML_BYTES}")
    _refuse_endless(text)
    loader = _SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _measure(node, {}, strict)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def yaml_fault(error: Exception) -> str:
    """The fault of a text of YAML, and its line.

    Parameters
    ----------
    error : Exception
        From `parse_yaml`.

    Returns
    -------
    str
        Also the line where the part began that does not end, as an open bracket.
    """
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return str(error)
    line, began = (None if mark is None else mark.line + 1 for mark in (error.problem_mark, error.context_mark))
    context = f" {error.context}" if error.context else ""
    since = f", which begins in line {began}" if context and began not in (None, line) else ""
    return f"in line {line}: {error.problem}{context}{since}"


# Where PyYAML was built with libyaml, which is ten times as fast.
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _refuse_endless(text: str) -> None:
    """Check the events one by one: the code that makes nodes of them is recursive, and libyaml's crashes when deep."""
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=_SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            _too_deep()
        if number > 2 * _MAX_YAML_VALUES:
            raise _too_many()


def _too_many() -> ValueError:
    return ValueError(f"more than {_MAX_YAML_VALUES} values once its aliases are expanded")


def _measure(node: Any, known: dict[int, tuple[int, int]], strict: bool) -> tuple[int, int]:
    """Number of values in a node once its aliases are expanded, and their depth."""
    if id(node) in known:
        if not known[id(node)][0]:
            raise ValueError("an alias inside what it stands for")
        return known[id(node)]
    known[id(node)] = 0, 0
    if strict:
        _refuse_hidden(node)
    inner = [] if isinstance(node, yaml.ScalarNode) else node.value
    if isinstance(node, yaml.MappingNode):
        inner = [part for pair in node.value for part in pair]
    measured = [_measure(part, known, strict) for part in inner]
    count, depth = 1 + sum(count for count, _ in measured), 1 + max((depth for _, depth in measured), default=0)
    if count > _MAX_YAML_VALUES:
        raise _too_many()
    if depth > _MAX_DEPTH:
        _too_deep()
    known[id(node)] = count, depth
    return count, depth


def _refuse_hidden(node: Any) -> None:
    """Refuse a key that another of its section hides, and invisible characters."""
    if isinstance(node, yaml.ScalarNode):
        strange = next((letter for letter in node.value if not (letter.isprintable() or letter in "\n\t")), None)
        if strange is not None:
            raise ValueError(f"line {node.start_mark.line + 1}: the character {strange!a}")
    elif isinstance(node, yaml.MappingNode):
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        counts = Counter((key.tag, key.value) for key in keys)
        twice = next((key for key in reversed(keys) if counts[key.tag, key.value] > 1), None)
        if twice is not None:
            raise ValueError(f"line {twice.start_mark.line + 1}: the key {twice.value!r} twice")
