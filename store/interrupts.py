"""Ctrl-C reaches every process of a terminal; one of them answers it."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

_log = logging.getLogger(__name__)
_PATIENCE_S = 1.0


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back meanwhile; processes and threads that start meanwhile never see it.

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
