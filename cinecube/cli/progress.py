"""A bar with rate and time left; whatever else reaches the terminal meanwhile is a line of its own above it."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from cinecube.cli.common import is_quiet
from cinecube.wording import seconds_text

if TYPE_CHECKING:
    from rich.console import Console

Tell: TypeAlias = Callable[[int, int], None]
"""Told `(done, total)` in units of work."""

_STDERR = 2
_SPEED_S = 600.0  # a run of a scan or a layer may take minutes: the rate is that of the last ten
_NARROW = 80
_LINE_S, _LINE_SHARE = 5.0, 0.05  # between plain lines: seconds, and the share of the time so far


@contextmanager
def progress_bar(title: str, unit: str) -> Iterator[Tell | None]:
    """Show on a terminal how far work is, and nothing elsewhere or with `--quiet`.

    The terminal is stderr. One that cannot move its cursor (`TERM=dumb`, or no TERM) gets a plain line now and then.

    Yields
    ------
    callable or None
        Told `(done, total)` in units of work. Total may change, and may be 0.
    """
    if is_quiet() or not sys.stderr.isatty() or not os.isatty(_STDERR):
        yield None
    elif os.environ.get("TERM", "") in ("", "dumb", "unknown"):
        yield _Lines(title, unit).tell
    else:
        with _bar(title, unit) as tell:
            yield tell


@contextmanager
def _bar(title: str, unit: str) -> Iterator[Tell]:
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TimeElapsedColumn, TimeRemainingColumn
    from rich.table import Column
    from rich.text import Text

    class Title(ProgressColumn):
        """The name of the work; the one column that gives way if the terminal is narrow."""

        def render(self, task: Task) -> Text:
            return Text(task.description, no_wrap=True, overflow="ellipsis")

    class Count(ProgressColumn):
        """Done, total and rate, as far as they are known."""

        def render(self, task: Task) -> Text:
            return Text(_count(task.completed, task.total, unit, task.speed))

    def fixed() -> Column:
        return Column(no_wrap=True)

    console = _terminal()
    columns: list[ProgressColumn] = [
        Count(fixed()),
        TimeElapsedColumn(fixed()),
        TimeRemainingColumn(table_column=fixed()),
    ]
    if console.width >= _NARROW - _KEPT_FREE:
        columns.insert(0, BarColumn(bar_width=10, table_column=fixed()))
    # Nothing is written to this process's streams past the descriptor, which `_lines_above` has.
    plain: dict[str, Any] = {"redirect_stdout": False, "redirect_stderr": False}
    with (
        _lines_above(console),
        Progress(Title(), *columns, console=console, transient=True, speed_estimate_period=_SPEED_S, **plain) as bar,
    ):
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


_KEPT_FREE = 3
"""Columns at the right edge, where the terminal itself writes `^C`."""


def _terminal() -> Console:
    """The terminal that stderr is now."""
    from rich.console import Console, ConsoleDimensions

    class Terminal(Console):
        @property  # type: ignore[misc] # rich's can be set too, which nobody does here
        def size(self) -> ConsoleDimensions:
            """Size of this terminal: rich looks at stdin, stdout and stderr, which may all be something else."""
            columns, lines = os.get_terminal_size(self.file.fileno())
            known = super().size
            if not columns or "COLUMNS" in os.environ:
                columns, lines = known
            # A terminal may know its columns alone; of no lines rich would show none.
            return ConsoleDimensions(max(1, columns - _KEPT_FREE), lines or known.height)

        def show_cursor(self, show: bool = True) -> bool:
            """Never hide the cursor: a killed process could not show it again."""
            return False

    return Terminal(file=os.fdopen(os.dup(_STDERR), "w", encoding="utf-8", errors="replace"))


@contextmanager
def _lines_above(console: Console) -> Iterator[None]:
    """Print on the console all lines that reach stderr, from any writer.

    Python's `sys.stderr` would not do: worker processes, programs such as Git, and libraries in C have the descriptor.
    """
    source, sink = os.pipe()
    printing = threading.Thread(target=_print_lines, args=(source, console), daemon=True)
    sys.stderr.flush()
    os.dup2(sink, _STDERR)
    os.close(sink)
    printing.start()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(console.file.fileno(), _STDERR)
        # It ends when no process has the pipe any more, and prints for those that live longer, such as a fork server.
        printing.join(timeout=1)
        if not printing.is_alive():
            console.file.close()


def _print_lines(source: int, console: Console) -> None:
    from rich.text import Text

    with os.fdopen(source, "rb") as lines:
        for line in lines:
            # The last state of a bar that another program draws.
            console.print(Text(line.decode(errors="replace").rstrip().rpartition("\r")[2]), soft_wrap=True)


class _Lines:
    """Progress as plain lines, less and less often."""

    def __init__(self, title: str, unit: str) -> None:
        self._title, self._unit = title, unit
        self._began = self._last = time.monotonic()
        self._first: tuple[float, int] | None = None

    def tell(self, done: int, total: int) -> None:
        now = time.monotonic()
        first_at, first = self._first = self._first or (now, done)
        if now - self._last < max(_LINE_S, _LINE_SHARE * (now - self._began)):
            return
        self._last = now
        speed = (done - first) / (now - first_at) if now > first_at else None
        left = f", about {seconds_text((total - done) / speed)} left" if speed and total > done else ""
        sys.stderr.write(f"{self._title}: {_count(done, total, self._unit, speed)}{left}\n")


def _count(done: float, total: float | None, unit: str, speed: float | None) -> str:
    """`12/40 rows, 3.1 rows/s`."""
    counted = f"{done:.0f} {unit}" if total is None else f"{done:.0f}/{total:.0f} {unit}"
    if not speed:
        return counted
    rate = f"{speed:.1f} {unit}/s" if speed >= 1 else f"{60 * speed:.1f} {unit}/min"
    return f"{counted}, {rate}"
