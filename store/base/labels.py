"""The words on the axes: layers, networks, films, parcels."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Sequence
from numbers import Integral
from typing import Any

from cinecube.store.base.errors import StudyError, some_of

EMBED = "embed"
HEAD = "head"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_LONGEST_NAME = 100  # files are called after it, with suffixes, and no disk takes more than 255 bytes
_BLOCK = re.compile(r"block(\d{2,})")
_ENTITY = re.compile(r"([A-Za-z]+)-(.*)")


def check_name(name: str, kind: str) -> str:
    """Return `name` if it can safely become part of a path.

    Parameters
    ----------
    name : str
    kind : str
        What is named, for the message.

    Returns
    -------
    str
        The same.

    Raises
    ------
    StudyError
        If it is empty, long, starts with a dot, or holds anything but letters, digits, `_`, `.` and `-`.
    """
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise StudyError(
            where=f"{kind} name",
            found=ascii(name[:_LONGEST_NAME]) + ("…" if len(name) > _LONGEST_NAME else ""),
            expected=f"at most {_LONGEST_NAME} letters, digits, '_', '-' and '.', not starting with a sign",
            do="rename it",
        )
    return name


def layer_label(block: int) -> str:
    """Label of a layer by its number: 0 is `embed`, k the output of block k."""
    return EMBED if block == 0 else f"block{block:02d}"


def layer_labels(n_blocks: int) -> list[str]:
    """Labels of all layers of a network of `n_blocks` blocks, the embedding first."""
    return [layer_label(block) for block in range(n_blocks + 1)]


def layer_number(label: str) -> int | None:
    """Block number of a layer label, 0 for `embed`; None for `head` and other projections."""
    if label == EMBED:
        return 0
    match = _BLOCK.fullmatch(label)
    return int(match.group(1)) if match else None


def layer_depth(label: str, n_blocks: int) -> float:
    """Place of a layer between input (0) and output (1); a head is at 1.

    Parameters
    ----------
    label : str
        `embed`, `block07` or a head's.
    n_blocks : int
        Blocks of the network.

    Returns
    -------
    float
    """
    number = layer_number(label)
    return 1.0 if number is None else number / n_blocks


def suggestion(name: str, known: Iterable[object]) -> str | None:
    """`did you mean …?` if one of the known names is close to `name`.

    Parameters
    ----------
    name : str
    known : iterable

    Returns
    -------
    str or None
        None where no name is close.
    """
    close = _nearest(name, known)
    return None if close is None else f"did you mean {close!r}?"


def one_of(known: Iterable[object], name: str = "") -> str:
    """`one of …`: the first dozen of the known names; where one is close to `name`, that and the first of the others.

    Parameters
    ----------
    known : iterable
    name : str, optional
        What was asked for.

    Returns
    -------
    str
    """
    names, close = list(map(str, known)), _nearest(name, known)
    if close is None:
        return "one of " + some_of(names, _AT_MOST)
    return "one of " + some_of([close, *(other for other in names if other != close)], _BESIDE)


_BESIDE, _AT_MOST = 4, 13  # twelve blocks and the embedding


def _nearest(name: str, known: Iterable[object]) -> str | None:
    by_lower = {str(other).lower(): str(other) for other in known}
    close = difflib.get_close_matches(name.lower(), list(by_lower), n=1)
    return by_lower[close[0]] if close else None


def no_such(
    noun: str,
    name: object,
    known: Collection[object],
    where: str,
    do: str,
    *,
    guess: bool = True,
    expected: str = "",
) -> StudyError:
    """Error for a name that is none of those there are; it names the nearest of them.

    Parameters
    ----------
    noun : str
        What is named: `model`, `layer`.
    name : str or int
    known : collection
        Names that there are: the first dozen are said, or the nearest and a few.
    where : str
        The cube, file or section that has them.
    do : str
        What to do where none is near.
    guess : bool
        Whether the nearest is what may have been meant.
    expected : str, optional
        What else would do, before the known names.

    Returns
    -------
    StudyError
    """
    among = one_of(known, str(name) if guess else "")
    return StudyError(
        where=where,
        found=f"no {noun} {name!r}",
        expected=expected + (among if known else f"one in {where.rpartition(': ')[2]}, which has none"),
        do=(guess and suggestion(str(name), known)) or do,
    )


def find_label(label: str, known: Iterable[object], where: str, noun: str = "stream", do: str = "correct it") -> int:
    """Position of a label among those of an axis.

    Parameters
    ----------
    label : str
    known : iterable
        Labels of the axis.
    where, noun, do : str
        What messages call the cube and the label, and what they advise where no label is near.

    Returns
    -------
    int

    Raises
    ------
    StudyError
        If it is none of them.
    """
    names = [str(name) for name in known]
    if label not in names:
        raise no_such(noun, label, names, where, do)
    return names.index(label)


def find_layer(layer: int | str, known: Sequence[str], where: str) -> str:
    """Label of a layer given by label or block number, which a command line gives as text.

    Parameters
    ----------
    layer : int or str
    known : sequence of str
        Labels of the network's layers.
    where : str
        The network, for messages.

    Returns
    -------
    str

    Raises
    ------
    StudyError
        If the network has no such layer.
    """
    asked: Any = layer  # from Python it may be anything
    if isinstance(asked, str) and asked.isdecimal():
        asked = int(asked)
    # A number of NumPy's is no int.
    label = layer_label(int(asked)) if isinstance(asked, Integral) else asked
    if label not in known:
        raise no_such("layer", asked, known, where, "name one of these, or a block's number")
    return str(label)


def bids_label(name: str) -> str:
    """A segment's name as a BIDS entity value, which may hold letters and digits only."""
    return re.sub(r"[^A-Za-z0-9]", "", name)


def bids_stem(name: str) -> str:
    """A file's name without `.nii.gz` or the like; dots in it stay."""
    return re.sub(r"(\.[A-Za-z]+)+$", "", name)


def entities_of(name: str) -> dict[str, str]:
    """BIDS entities of a file's name in their order, the last part under `suffix`: `bold`."""
    *parts, suffix = bids_stem(name).split("_")
    found = (_ENTITY.fullmatch(part) for part in parts)
    return {match.group(1): match.group(2) for match in found if match} | {"suffix": suffix}
