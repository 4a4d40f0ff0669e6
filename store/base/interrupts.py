"""Ctrl-C reaches every process of a terminal, and SIGTERM every one of a job; one of them answers."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any

_log = logging.getLogger(__name__)
_PATIENCE_S = 1.0


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back inside the block; processes and threads that start in it never see it.

    Otherwise each of them writes a traceback of its own to the terminal, and some die in the middle of a file.
    """
    resource_tracker.ensure_running()  # it lets Ctrl-C through again when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def last_work(what: str) -> Iterator[None]:
    """After Ctrl-C: what threads have begun cannot be stopped. Say so if it takes long; Ctrl-C again ends the process.

    Parameters
    ----------
    what : str
        What is waited for, in the plural.
    """
    line = "stopping when the %s at hand are done; Ctrl-C again stops at once"
    told = threading.Timer(_PATIENCE_S, _log.info, (line, what))
    told.daemon = True
    told.start()
    answers = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_DFL) if answers else None
    try:
        yield
    finally:
        told.cancel()
        if answers:
            signal.signal(signal.SIGINT, before)


class Terminated(KeyboardInterrupt):
    """SIGTERM, which batch systems send some seconds before they kill: code that handles Ctrl-C handles it too."""


# Batch systems kill after 10 s (PBS) to 30 s (SLURM).
_LAST_S = 6.0
_ENDED = 128 + signal.SIGTERM


def _later(seconds: float, call: Callable[[], object]) -> None:
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()


@contextmanager
def terminated(last_words: Callable[[], object]) -> Iterator[None]:
    """Raise `Terminated` in the main thread on SIGTERM, inside the block.

    Parameters
    ----------
    last_words : callable
        Called where work at hand does not end in time; then the process is left at once, and says by its status why.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield  # a handler that is set already, or ignoring, stays
        return
    owner = os.getpid()

    def leave() -> None:
        try:
            _later(1.0, lambda: os._exit(_ENDED))  # a terminal that blocks must not keep the process alive
            last_words()
        finally:
            os._exit(_ENDED)

    def answer(number: int, _: Any) -> None:
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() != owner:  # a process that was forked from us ends as it would have
            os.kill(os.getpid(), number)
            return
        _later(_LAST_S, leave)
        raise Terminated

    signal.signal(signal.SIGTERM, answer)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is answer:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
