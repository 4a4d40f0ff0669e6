"""Rows and sentences that fit a terminal; where there is none, each is one line at its full width."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence

import click

from cinecube.cli.common import Painted, echo, is_quiet, painted

_USUAL = 80  # of a terminal that does not know
_GAP = 2
_INDENT = 4
_LEAST = 24  # columns in which a sentence can still be read
# A command is kept whole, to be copied, where it fits a line.
_WORD = re.compile(r"(?:`[^`]*`|\S)+")


def terminal_width(err: bool = False) -> int | None:
    """Columns of the terminal that stdout, or stderr, is; None if it is none."""
    stream = sys.stderr if err else sys.stdout
    if not stream.isatty():
        return None
    asked = os.environ.get("COLUMNS", "")
    # The terminal of the stream at hand: the other one may be a file.
    return int(asked) if asked.isdigit() and int(asked) else os.get_terminal_size(stream.fileno()).columns or _USUAL


class Table:
    """Columns as wide as their cells; at a terminal that is narrower, the last is folded under its row.

    Parameters
    ----------
    rows : sequence of sequences of str
        All rows that will be printed; in the last column is free text.
    least : sequence of int
        Widths of the other columns, gaps included, where cells are no wider and there is room.
    right : int
        The column whose cells stand at its right border.
    start : str
        What each row begins with.
    head : sequence of str
        Titles of the columns; at a narrow terminal columns without anything else are left out.
    """

    def __init__(
        self,
        rows: Sequence[Sequence[str]],
        least: Sequence[int],
        right: int,
        start: str = "",
        head: Sequence[str] | None = None,
    ) -> None:
        self._right, self._start = right, start
        all_rows = [*rows, *([head] if head else [])]
        widths = [max((_width(row[i]) for row in all_rows), default=0) for i in range(len(least) + 1)]
        own = [width + (0 if i == right else _GAP) for i, width in enumerate(widths[:-1])]
        self._widths = [low if width < low else wide for width, wide, low in zip(widths, own, least, strict=False)]
        columns = terminal_width()
        self.fits = columns is None or len(start) + sum(self._widths) + _GAP + widths[-1] <= columns
        """Whether each row is a line."""
        if not self.fits:
            self._widths = [wide if any(row[i] for row in rows) else 0 for i, wide in enumerate(own)]

    def echo(self, row: Sequence[str]) -> None:
        """Print one of the rows, or the titles."""
        line = painted(self._start)
        for i, (cell, width) in enumerate(zip(row, self._widths, strict=False)):
            space = " " * (width - _width(cell))
            if width:
                line = line + (space + cell + " " * _GAP if i == self._right else cell + space)
        echo_folded(line, row[-1])


def echo_folded(head: str, text: str = "", indent: int = _INDENT, *, err: bool = False) -> None:
    """Print a line; what of the text does not fit the terminal goes below, under its beginning where there is room.

    Parameters
    ----------
    head : str
        What stands before the text, and is never folded.
    text : str
    indent : int
        Of the lines below, where the head leaves no room for them.
    err : bool
        Print it on stderr.
    """
    columns, head, text = terminal_width(err), _as_painted(head), _as_painted(text)
    if columns is None or not text.strip() or _width(head) + _width(text) <= columns:
        echo(Painted((head + text).rstrip()), err=err)
        return
    if head and columns - _width(head) >= _LEAST:
        indent = _width(head)
    elif head:
        echo(Painted(head.rstrip()), err=err)
        head = painted(" " * indent)
    for line in _lines(text, columns - _width(head), columns - indent):
        echo(head + Painted(line), err=err)
        head = painted(" " * indent)


def remark_folded(text: str, *, err: bool = False) -> None:
    """As `echo_folded`, of what was not asked for; nothing with `--quiet`."""
    if not is_quiet():
        echo_folded("", text, err=err)


def _as_painted(text: str) -> Painted:
    return text if isinstance(text, Painted) else painted(text)


def _lines(text: str, first: int, others: int) -> Iterator[str]:
    """A text in lines of so many columns; a word that is wider has a line to itself."""
    line, room = "", first
    for word in _words(text, others):
        if line and _width(line) + 1 + _width(word) > room:
            yield line
            line, room = word, others
        else:
            line = f"{line} {word}" if line else word
    yield line


def _words(text: str, most: int) -> Iterator[str]:
    for match in _WORD.finditer(text):
        yield from [match[0]] if _width(match[0]) <= most else match[0].split()


def _width(text: str) -> int:
    """Columns that a text takes on a terminal."""
    from rich.cells import cell_len

    return cell_len(click.unstyle(text))
