"""A terminal that tests look at: a command runs in it, and what stands on its screen can be read."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_TOKEN = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\x1b.|[\r\n]|[^\x1b\r\n]")
_HANGS_S = 300.0


class Terminal:
    """A command at a terminal of its own, with it as stdin, stdout and stderr, so that Ctrl-C reaches it.

    Parameters
    ----------
    command : sequence of str
    folder : Path
        Where it runs.
    columns : int
    environ : mapping
        Variables beside those of the tests; None takes one away.
    lines : int
        0 where the terminal does not know.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        columns: int = 100,
        environ: Mapping[str, str | None] | None = None,
        lines: int = 30,
    ) -> None:
        self.columns, self.text = columns, ""
        self._ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        known = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR", "CI")}
        changed: dict[str, str | None] = {**known, "TERM": "xterm-256color", **(environ or {})}
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env={key: value for key, value in changed.items() if value is not None},
            preexec_fn=lambda: _at(theirs),
            pass_fds=(theirs,),
        )
        os.close(theirs)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def _read(self, wait_s: float) -> bool:
        """Take what has come; False at the end."""
        if not select.select([self._ours], [], [], wait_s)[0]:
            return True
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # nobody has the terminal any more
            return False
        self.text += data.decode(errors="replace")
        return bool(data)

    def until(self, seen: Callable[[str], object]) -> str:
        """Wait until `seen` is true of all that was written so far."""
        began = time.monotonic()
        while not seen(self.text):
            assert time.monotonic() - began < _HANGS_S, f"not seen: {self.text[-2000:]!r}"
            assert self._read(0.1), f"ended before: {self.text[-2000:]!r}"
        return self.text

    def press(self, key: str) -> None:
        """Press a key; `\\x03` is Ctrl-C."""
        os.write(self._ours, key.encode())

    def end(self) -> int:
        """Wait for the end; the exit code."""
        began = time.monotonic()
        while self._read(0.1):
            assert time.monotonic() - began < _HANGS_S, f"hangs: {self.text[-2000:]!r}"
        return self.process.wait(timeout=_HANGS_S)

    @property
    def screen(self) -> list[str]:
        """Lines as they stand there, without those that are empty at the end."""
        return screen(self.text, self.columns)


def _at(terminal: int) -> None:
    os.login_tty(terminal)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # shells have it ignored by what they start in the background


def screen(text: str, columns: int) -> list[str]:
    """What a terminal shows after `text`."""
    rows, row, column = [[""] * columns], 0, 0
    for match in _TOKEN.finditer(text):
        token, (count, order) = match[0], (match[1], match[2])
        if token == "\r":
            column = 0
        elif token == "\n":
            row += 1
        elif order == "A":
            row = max(0, row - int(count or 1))
        elif order == "K":
            rows[row] = [""] * columns
        elif not token.startswith("\x1b"):
            if column == columns:
                row, column = row + 1, 0
            rows += [[""] * columns for _ in range(row + 1 - len(rows))]
            rows[row][column] = token
            column += 1
        rows += [[""] * columns for _ in range(row + 1 - len(rows))]
    lines = ["".join(letter or " " for letter in line).rstrip() for line in rows]
    while lines and not lines[-1]:
        lines.pop()
    return lines
