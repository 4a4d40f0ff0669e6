"""Watches Dask's workers: none ever came, none are left, others than expected, jobs that ended."""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from distributed import Client

from cinecube.store.base.errors import StudyError, first_line
from cinecube.store.base.paths import PARAMS_FILE

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")

LOOK_S = 2.0
"""Seconds between two looks at the workers."""

# A job that has no worker for so long has ended; connections come back sooner.
GRACE_S = 6.0
_FIRST_TOLD_S = 2 * LOOK_S
# How often jobs that ended are asked for again before one of them has finished a block.
_ROUNDS = 3
_ANSWER_S = 30
# Whatever computes numbers, or carries them.
_PACKAGES = ("cinecube", "dask", "distributed", "numpy", "scipy", "scikit-learn", "himalaya")
# Workers may lack this package, so they are asked in words of Python alone.
_ASK = (
    "{{'python': '.'.join(__import__('platform').python_version_tuple()[:2])}}"
    " | {{name: next((found.version for found in __import__('importlib.metadata', fromlist=['_'])"
    ".distributions(name=name)), 'none') for name in {packages!r}}}"
    " | {{'sees': {file!r} is None or __import__('os').path.exists({file!r}),"
    " 'host': __import__('platform').node()}}"
)
_SMALLER = "encode.targets_per_block or run.block_rows"
_LOG_BYTES, _LINE_LETTERS = 4096, 200
_LIST = {"sbatch": "squeue", "qsub": "qstat", "bsub": "bjobs", "condor_submit": "condor_q", "oarsub": "oarstat"}


def bounded(seconds: float, call: Callable[[], _Result]) -> _Result:
    """Call what may never come back.

    Parameters
    ----------
    seconds : float
        The longest wait.
    call : callable
        Without arguments.

    Returns
    -------
    object
        What the call returns; what it raises is raised.

    Raises
    ------
    TimeoutError
        If it has not after so many seconds; it is left alone, in a thread that ends with the process.
    """
    answer: list[Callable[[], _Result]] = []

    def run() -> None:
        try:
            found = call()
        except BaseException as error:
            failure = error

            def fail() -> _Result:
                raise failure

            answer.append(fail)
        else:
            answer.append(lambda: found)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not answer:
        raise TimeoutError(f"no answer in {seconds:g} s")
    return answer[0]()


class Jobs:
    """Jobs of a batch system, and how often they had to be asked for.

    Parameters
    ----------
    cluster : JobQueueCluster
    wanted : int
        Jobs at a time.
    command : str
        The one that submits a job.
    logs : str, optional
        Folder of their output.
    refused : list of str
        Why jobs were not taken, as it happens.
    """

    def __init__(self, cluster: Any, wanted: int, command: str, logs: str | None, refused: list[str]) -> None:
        self.cluster, self.wanted, self.command, self.logs, self.refused = cluster, wanted, command, logs, refused
        self.fruitless = 0
        self._seen: dict[str, float] = {}

    @property
    def ids(self) -> list[str]:
        """Numbers that the batch system gave the jobs."""
        return sorted({str(job.job_id) for job in list(self.cluster.workers.values()) if job.job_id})

    def replace_ended(self, alive: Iterable[str]) -> None:
        """Ask for new jobs in the place of those whose workers are gone; those that still wait keep their place.

        Parameters
        ----------
        alive : iterable of str
            Names of workers; a job's are its own, or begin with it where it has several.
        """
        now, spec = time.monotonic(), self.cluster.worker_spec
        names = set(alive)
        for job in spec:
            if job in names or any(name.startswith(f"{job}-") for name in names):
                self._seen[job] = now
        ended = [job for job, at in self._seen.items() if job in spec and now - at > GRACE_S]
        for job in ended:
            spec.pop(job)
            self._seen.pop(job)
        if ended:
            self.fruitless += 1
            self.cluster.scale(jobs=len(spec))  # removes them; a new job may get the name of an old one
            if self.fruitless <= _ROUNDS:
                _log.info("%d of %d jobs ended, asking for as many new ones", len(ended), self.wanted)
        elif len(spec) < self.wanted and not set(self.cluster.workers) - set(spec):
            self.cluster.scale(jobs=self.wanted)

    def advice(self) -> str:
        """Advice on where to see why jobs do not run."""
        ids, tool = self.ids, _LIST.get(self.command.split()[0])
        query = f"ask `{tool}` why" + (f" (jobs {', '.join(ids[:3])})" if ids else "") if tool else ""
        return " and ".join(part for part in (query, f"look into {self.logs}" if self.logs else "") if part)

    def last_words(self) -> str:
        """Last line of the newest log, which often says why a job ended; empty if there is none."""
        found = [path for path in Path(self.logs).glob("*") if path.is_file()] if self.logs else []
        for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - _LOG_BYTES))
                lines = file.read().decode("utf-8", "replace").split("\n")
            if words := [line.strip() for line in lines if line.strip()]:
                return f" (the last said: {words[-1][:_LINE_LETTERS]})"
        return ""


class Watch:
    """Watches workers while the process waits for them.

    Parameters
    ----------
    client : Client
    where : str
        What messages call the cluster.
    patience_s : float
        Seconds without any worker before that is an error.
    root : Path, optional
        The study's folder, where workers may not see it.
    jobs : Jobs, optional
        Of a batch system.
    """

    def __init__(self, client: Client, where: str, patience_s: float, root: Path | None, jobs: Jobs | None) -> None:
        self._client, self._where, self._patience_s, self._root, self._jobs = client, where, patience_s, root, jobs
        self._alive_at = self._looked_at = time.monotonic()
        self._known: set[str] = set()
        self._ever = False
        self._tell_after_s = _FIRST_TOLD_S
        self.n_threads = 1

    def wait_for_first(self) -> None:
        """Come back when a worker is there.

        Raises
        ------
        StudyError
            See `look`.
        """
        self._check(None)
        while not self._ever:
            self._look()
            if not self._ever:
                time.sleep(min(LOOK_S, self._patience_s / 10))

    def progress(self) -> None:
        """Note that a block is finished."""
        if self._jobs is not None:
            self._jobs.fruitless = 0

    def look(self) -> None:
        """Look at the workers, unless that was a moment ago; ask for new jobs where some have ended.

        Raises
        ------
        StudyError
            If the scheduler does not answer, there was no worker for too long, jobs end before they have finished
            anything, or a worker is unlike this process.
        """
        if time.monotonic() - self._looked_at >= LOOK_S:
            self._look()

    def _look(self) -> None:
        self._looked_at = time.monotonic()
        workers = self._workers()
        new = {address for address in workers if address not in self._known}
        if new:
            self._check(sorted(new))
            self._known |= new
        self.n_threads = max(1, sum(int(worker["nthreads"]) for worker in workers.values()))
        if workers:
            self._alive_at, self._ever, self._tell_after_s = time.monotonic(), True, _FIRST_TOLD_S
        if self._jobs is not None:
            self._look_after(self._jobs, workers)
        if workers:
            return
        waited_s = time.monotonic() - self._alive_at
        if waited_s > self._patience_s:
            raise self._nobody()
        if waited_s > self._tell_after_s:
            # Queues take hours: first soon, then half as often each time.
            self._tell_after_s = 2 * waited_s
            wanted = f"0 of {self._jobs.wanted} workers" if self._jobs else f"no worker {self._since()}"
            waiting, most = (timedelta(seconds=round(seconds)) for seconds in (waited_s, self._patience_s))
            _log.info("%s: %s, waiting %s, for at most %s", self._where, wanted, waiting, most)

    def _since(self) -> str:
        return "any more" if self._ever else "yet"

    def _workers(self) -> dict[str, Any]:
        """The scheduler's workers by address."""
        try:
            found = bounded(_ANSWER_S, self._identity)
        except (OSError, AttributeError) as error:  # TimeoutError and lost connections; a client that gave up has none
            raise lost_scheduler(self._where, first_line(error)) from error
        return dict(found["workers"])

    def _identity(self) -> dict[str, Any]:
        scheduler: Any = self._client.scheduler
        found: dict[str, Any] = self._client.sync(scheduler.identity, n_workers=-1)
        return found

    def _look_after(self, jobs: Jobs, workers: Mapping[str, Any]) -> None:
        if jobs.refused and not workers:
            raise StudyError(
                where=self._where,
                found=f"a batch system that refuses the job ({jobs.refused[-1]})",
                expected=f"`{jobs.command}` to take it",
                do="correct dask.options, and run the stage again: what is finished is kept",
            )
        jobs.replace_ended(str(worker["name"]) for worker in workers.values())
        if jobs.fruitless > _ROUNDS:
            do = f"ask for more time or memory in dask.options, or set {_SMALLER} lower"
            raise StudyError(
                where=self._where,
                found=f"jobs that ended {jobs.fruitless} times without finishing a block{jobs.last_words()}",
                expected="jobs that live long enough for one",
                do="; ".join(part for part in (jobs.advice(), f"{do}: what is finished is kept") if part),
            )

    def _nobody(self) -> StudyError:
        asked = f", of {self._jobs.wanted} jobs asked for" if self._jobs else ""
        start = self._jobs.advice() if self._jobs else "start some with `dask worker ADDRESS`"
        key = f"set {'dask.patience_s higher, or ' if self._where != 'dask' else ''}`dask: local`"
        return StudyError(
            where=self._where,
            found=f"no worker {self._since()}{asked}, in {self._patience_s:g} s",
            expected="one at least",
            do=f"{start}; {key}; what is finished is kept",
        )

    def _check(self, workers: list[str] | None) -> None:
        """Refuse workers, or with None a scheduler, unlike this process."""
        seen = [path for path in (self._root / PARAMS_FILE, self._root) if path.exists()] if self._root else []
        file = os.fspath(seen[0]) if seen else None
        question = _ASK.format(packages=_PACKAGES, file=file if workers is not None else None)
        try:
            if workers is None:
                answers = {"": bounded(_ANSWER_S, lambda: self._client.run_on_scheduler(eval, question))}
            else:
                answers = bounded(
                    _ANSWER_S, lambda: self._client.run(eval, question, workers=workers, on_error="return")
                )
        except TimeoutError as error:
            raise lost_scheduler(self._where, f"no answer in {_ANSWER_S} s") from error
        except OSError:
            return  # gone in the meantime, which the next look shows
        here = _own_versions()
        for answer in answers.values():
            if isinstance(answer, dict):  # an exception: gone in the meantime
                self._judge(answer, here, "a scheduler" if workers is None else "a worker")

    def _judge(self, answer: Mapping[str, Any], here: Mapping[str, str], who: str) -> None:
        differs = [f"{name} {answer.get(name)}" for name in here if answer.get(name) != here[name]]
        if differs:
            raise StudyError(
                where=self._where,
                found=f"{who} on {answer['host']} with {', '.join(differs)}",
                expected=", ".join(f"{name} {here[name]}" for name in here if answer.get(name) != here[name])
                + ", as here",
                do="start it in an environment like this one: install the same versions there",
            )
        if not answer["sees"]:
            raise StudyError(
                where=self._where,
                found=f"{who} on {answer['host']} that does not see {self._root}",
                expected="the study at the same path on every machine",
                do="put the study on a disk that all of them share, or mount it there, or set `dask: local`",
            )


def lost_scheduler(where: str, reason: str) -> StudyError:
    """Error for a scheduler that is gone.

    Parameters
    ----------
    where : str
        What was lost, or the stage that lost it.
    reason : str
        The library's message.

    Returns
    -------
    StudyError
    """
    return StudyError(
        where=where,
        found=f"a lost scheduler or worker ({reason})",
        expected="workers that live until the last block",
        do=f"look for their memory in the log, set {_SMALLER} lower, and run the stage again: what is finished is kept",
    )


def _own_versions() -> dict[str, str]:
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found
