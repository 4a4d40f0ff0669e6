"""Ctrl-C reaches every process of a terminal; those that work for another one leave it to that one."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back meanwhile; processes and threads that start meanwhile never see it.

    Otherwise each of them writes a traceback of its own to the terminal, and some die in the middle of a file.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
