"""Reading what others wrote in a process of its own, which a bomb ends and not us: within limits, JSON back.

A process that has no threads forks. Others ask a helper, which has none: it is started at the first question, has
imported what reading takes, and forks for every question. A fork beside threads could wait for ever for a lock of one.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from cinecube.store.base.errors import StudyError, first_line
from cinecube.store.dvc.dvc_repo import uncollected

MEMORY_BYTES = 400 * 2**20
"""What reading may take beside what the process holds already; a study of a hundred stages takes 30 MB."""

CPU_S, WALL_S = 5, 9
"""The same study takes 0.2 s."""

_LENGTH = 8
_MAX_ANSWER_BYTES = 64 * 2**20


def confined(function: str, arguments: Mapping[str, Any], where: str) -> Any:
    """Call a function of this package on plain data in a process with limits.

    Parameters
    ----------
    function : str
        `cinecube.store.module:name`; it takes the arguments by name and gives back JSON values.
    arguments : mapping
        JSON values.
    where : str
        What messages call what is read.

    Returns
    -------
    object
        The JSON values that the function gave back.

    Raises
    ------
    StudyError
        Of the function, or if reading took more memory or time than any study needs, or ended in an unexpected way.
    """
    # Whoever answers may have been started elsewhere; paths begin where we are.
    question = {"function": function, "arguments": dict(arguments), "folder": os.getcwd()}
    alone = threading.active_count() == 1 and sys.platform == "linux"
    with uncollected():
        _found(function)  # imported once, and not by every child
    answer = json.loads(_forked(question) if alone else _helper(question))
    if "given" in answer:
        return answer["given"]
    if "refused" in answer:
        raise StudyError(**answer["refused"])
    raise StudyError(
        where=where,
        found=f"files that cannot be read ({answer['failed']})",
        expected=f"a study's, which take less than {MEMORY_BYTES // 2**20} MB and {CPU_S} s",
        do="ask its owner what is wrong with its dvc.yaml, dvc.lock and params.yaml",
    )


def _forked(question: Mapping[str, Any]) -> bytes:
    """The answer of a child, or what ended it."""
    with tempfile.TemporaryDirectory() as scratch:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _answer(question, writer, scratch)
        os.close(writer)
        try:
            answer = _read(reader)
        except BaseException:
            os.kill(child, signal.SIGKILL)
            raise
        finally:
            os.close(reader)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == 0 and answer:
        return answer
    return json.dumps({"failed": _ended_by(status)}).encode()


def _read(reader: int) -> bytes:
    parts, n_bytes = [], 0
    while n_bytes <= _MAX_ANSWER_BYTES and (part := os.read(reader, 2**20)):
        parts.append(part)
        n_bytes += len(part)
    return b"".join(parts) if n_bytes <= _MAX_ANSWER_BYTES else b""


def _ended_by(status: int) -> str:
    if status in (-signal.SIGXCPU, -signal.SIGALRM, -signal.SIGKILL):
        return "more than their time"
    return "more than their memory" if status == 0 else "the process that read them broke down"


def _answer(question: Mapping[str, Any], writer: int, scratch: str) -> NoReturn:
    """In the child: call, write JSON, end at once, without anything that the parent would do at its end."""
    try:
        silence = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(silence, stream)
        tempfile.tempdir = scratch  # whatever ends us, the parent removes it
        os.chdir(question["folder"])
        _limit()
        answer = json.dumps(_called(question)).encode()
        while answer:
            answer = answer[os.write(writer, answer) :]
    except BaseException:
        os._exit(1)
    os._exit(0)


def _called(question: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {"given": _found(question["function"])(**question["arguments"])}
    except StudyError as error:
        return {"refused": {"where": error.where, "found": error.found, "expected": error.expected, "do": error.do}}
    except MemoryError:
        return {"failed": "more than their memory"}
    except Exception as error:  # files of others break DVC in more ways than it has exceptions for
        first = first_line(error)
        return {"failed": f"{type(error).__name__}: {first[:200]}"}


def _found(function: str) -> Callable[..., Any]:
    module, _, name = function.partition(":")
    called: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return called


def _limit() -> None:
    for name in (signal.SIGALRM, signal.SIGXCPU, signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 1))
    signal.setitimer(signal.ITIMER_REAL, WALL_S)
    statm = Path("/proc/self/statm")
    if statm.exists():  # elsewhere nothing tells how much is mapped already
        limit = int(statm.read_text().split()[0]) * resource.getpagesize() + MEMORY_BYTES
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


_one_at_a_time = threading.Lock()
_started: dict[int, subprocess.Popen[bytes]] = {}  # by our process: a fork of it needs one of its own
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: globals().update(_one_at_a_time=threading.Lock()))


def _helper(question: Mapping[str, Any]) -> bytes:
    """The answer by way of the helper."""
    with _one_at_a_time:
        helper = _started.get(os.getpid())
        if helper is None or helper.poll() is not None:
            helper = _started[os.getpid()] = _start(question["function"])
        assert helper.stdin is not None
        assert helper.stdout is not None
        try:
            helper.stdin.write(json.dumps(question).encode() + b"\n")
            helper.stdin.flush()
            length = int.from_bytes(helper.stdout.read(_LENGTH), "big")
            answer = helper.stdout.read(length)
        except BaseException as error:  # interrupted: what it still sends would answer the next question
            _stop(_started.pop(os.getpid()))
            if not isinstance(error, OSError):
                raise
            answer = b""
    return answer or json.dumps({"failed": "the process that reads them cannot be started"}).encode()


def _start(function: str) -> subprocess.Popen[bytes]:
    """A helper that stays until we end; Ctrl-C is for us."""
    helper = subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, function],  # not what lies in this folder, which may be another's
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    atexit.register(_stop, helper)
    return helper


def _stop(helper: subprocess.Popen[bytes]) -> None:
    helper.kill()
    helper.wait()
    for stream in (helper.stdin, helper.stdout):
        if stream is not None:
            stream.close()


def _serve() -> None:
    """Be the helper: a line in, an answer out, until whoever asks is gone."""
    _found(sys.argv[1])
    for line in sys.stdin.buffer:
        answer = _forked(json.loads(line))
        sys.stdout.buffer.write(len(answer).to_bytes(_LENGTH, "big") + answer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _serve()
