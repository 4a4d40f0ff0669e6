"""Dask's workers: processes of this machine, those of a running scheduler, or jobs of a batch system."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import secrets
import shlex
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dask
from distributed import Client, LocalCluster, Nanny, Scheduler, Security, SpecCluster
from distributed.comm.addressing import get_address_host_port
from distributed.core import Status, rpc
from filelock import FileLock, Timeout

from cinecube.store.base.errors import StudyError, environment_error, first_line
from cinecube.store.base.interrupts import uninterrupted
from cinecube.store.base.labels import no_such
from cinecube.store.base.paths import StudyPaths
from cinecube.store.jobs.gpus import gpu_names
from cinecube.store.jobs.watch import Jobs, Watch, bounded
from cinecube.store.params.run_params import ClusterAddress, DaskParams, Gpus, JobQueue

_log = logging.getLogger(__name__)
_CONNECT_S = 10
# Dask's own 64 KiB hands every temporary array back to the system at once: a third of the time went into page faults.
_MALLOC = {"MALLOC_TRIM_THRESHOLD_": 2**30, "MALLOC_MMAP_THRESHOLD_": 2**30}
# Processes of this machine that do not come back within a minute never will.
_LOCAL_PATIENCE_S = 60
# Anybody who reaches this address sees what is computed, and may stop it.
_LOOPBACK = "127.0.0.1:0"
# Workers of jobs that were cancelled may hold their files this long.
_ENDING_S = 5
_NOISY = ("distributed", "dask_jobqueue", "tornado", "asyncio")


class WatchedClient(Client):
    """A client that knows what has become of its workers."""

    watch: Watch


@contextmanager
def open_client(dask_params: DaskParams, n_local: int, root: Path) -> Iterator[WatchedClient]:
    """A client whose first worker is there.

    Parameters
    ----------
    dask_params : "local", ClusterAddress, Gpus or JobQueue
        The study's `dask` key.
    n_local : int
        Workers on this machine, for `local`.
    root : Path
        The study's folder, which workers elsewhere have to see.

    Yields
    ------
    WatchedClient

    Raises
    ------
    StudyError
        If there is no scheduler at the address, the batch system takes no job, no worker comes in time, or workers
        have other versions than this process or do not see the study.
    """
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        # A client has none of its own, and workers of a scheduler that is running have theirs.
        scratch = None if isinstance(dask_params, ClusterAddress) else stack.enter_context(_scratch(root))
        jobs: Jobs | None = None
        patience_s: float = _LOCAL_PATIENCE_S
        where = "dask"
        if isinstance(dask_params, ClusterAddress):
            address: Any = dask_params.address
            patience_s, where = dask_params.patience_s, f"dask: {address}"
            _refuse_no_scheduler(address)
        elif isinstance(dask_params, JobQueue):
            jobs = stack.enter_context(_job_queue(dask_params, root, scratch))
            address, patience_s, where = jobs.cluster, dask_params.patience_s, f"dask: {dask_params.jobqueue}"
        elif isinstance(dask_params, Gpus):
            address = stack.enter_context(_gpu_cluster(_devices(dask_params)))
        else:
            address = stack.enter_context(_local_cluster(n_local))
        try:
            client = stack.enter_context(WatchedClient(address, timeout=_CONNECT_S))
        except (OSError, ValueError) as error:
            raise environment_error(error, where) or _no_scheduler(where, first_line(error)) from None
        _tell_dashboard(client)
        elsewhere = None if dask_params == "local" or isinstance(dask_params, Gpus) else root.absolute()
        client.watch = Watch(client, where, patience_s, elsewhere, jobs)
        client.watch.wait_for_first()
        yield client


def check_workers(dask_params: DaskParams) -> None:
    """See that workers can be had, and start none.

    Parameters
    ----------
    dask_params : "local", ClusterAddress, Gpus or JobQueue
        The study's `dask` key.

    Raises
    ------
    StudyError
        If nothing listens at the address, the batch system's command is not here, or there is no GPU.
    """
    if isinstance(dask_params, ClusterAddress):
        with _quiet():
            _refuse_no_scheduler(dask_params.address)
    elif isinstance(dask_params, JobQueue):
        _submit_command(dask_params, _class_of(dask_params))
    elif isinstance(dask_params, Gpus):
        _devices(dask_params)


def _tell_dashboard(client: Client) -> None:
    """Name the dashboard if only this machine reaches it."""
    try:
        link = str(client.dashboard_link) if find_spec("bokeh") else ""
        host = urlsplit(link).hostname or ""
        if host == "localhost" or ipaddress.ip_address(host).is_loopback:
            _log.info("Dask's dashboard: %s", link)
    except (KeyError, ValueError):
        return  # there is none, or a name that says nothing of who reaches it


def _refuse_no_scheduler(address: str) -> None:
    """Ask an address who is there: a client would wait for ever for some servers of another kind."""
    where = f"dask: {address}"

    async def identify() -> dict[str, Any]:
        asked: Any = rpc(address, timeout=_CONNECT_S, connection_args=Security().get_connection_args("client"))
        async with asyncio.timeout(_CONNECT_S), asked as server:
            found: dict[str, Any] = await server.identity()
            return found

    try:
        host, port = get_address_host_port(address)
    except ValueError as error:
        raise _no_scheduler(where, first_line(error)) from None
    try:
        found = bounded(_CONNECT_S + 2, lambda: asyncio.run(identify()))
    except TimeoutError:
        raise _no_scheduler(where, _silence(host, port)) from None
    except TypeError as error:  # no certificates for an address of TLS
        raise _no_scheduler(where, first_line(error)) from None
    except Exception as error:  # whatever another server sends is read as numbers of frames, their sizes and pickles
        own = None if isinstance(error, MemoryError) else environment_error(error, where)
        raise own or _no_scheduler(where, "a server of another kind listens there") from None
    if found.get("type") != "Scheduler":
        raise _no_scheduler(where, f"a Dask {str(found.get('type')).lower()} listens there")


def _silence(host: str, port: int) -> str:
    """The reason, in words, why no scheduler answered."""
    try:
        socket.create_connection((host, port), _CONNECT_S).close()
    except (OSError, OverflowError) as error:
        return f"nobody listens there: {first_line(error)}"
    return f"who listens there did not answer in {_CONNECT_S} s"


def _no_scheduler(where: str, reason: str) -> StudyError:
    return StudyError(
        where=where,
        found=f"no scheduler ({reason})",
        expected="a running Dask scheduler",
        do="correct the address, start one with `dask scheduler`, or set `dask: local`",
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep tracebacks of lost connections and refused jobs off the terminal: a StudyError reports them in one line."""
    known = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in _NOISY]
    names = list(dict.fromkeys([*_NOISY, "tornado.application", *known]))
    levels = {name: logging.getLogger(name).level for name in names}
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def _scratch(root: Path) -> Iterator[Path | None]:
    """Folder of the study for what Dask does not hold in memory, gone at the end; none where its settings name one.

    Its own is below the temp folder, with locks that nobody removes; schedulers have one, too. What a killed process
    left goes with the next.
    """
    if dask.config.get("temporary-directory", None):
        yield None
        return
    paths, name = StudyPaths(root.absolute()), f"workers.{secrets.token_hex(4)}"
    paths.locks.mkdir(parents=True, exist_ok=True)
    with _lock_of(paths, name):  # before there is a folder, or another process would take it for one that was left
        folder = paths.scratch / name
        folder.mkdir(parents=True)
        try:
            for left in paths.scratch.glob("workers.*"):
                with suppress(Timeout), _lock_of(paths, left.name):
                    shutil.rmtree(left, ignore_errors=True)
            with dask.config.set({"temporary-directory": str(folder)}):
                yield folder
        finally:
            until = time.monotonic() + _ENDING_S
            while folder.exists() and time.monotonic() < until:
                shutil.rmtree(folder, ignore_errors=True)
                time.sleep(0.05 if folder.exists() else 0)


@contextmanager
def _lock_of(paths: StudyPaths, name: str) -> Iterator[None]:
    """Hold a folder of scratch for this process; nobody waits for it, so its file goes with it."""
    file = paths.locks / f"{name}.lock"
    with FileLock(file, timeout=0):
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


@contextmanager
def _local_cluster(n_workers: int) -> Iterator[LocalCluster]:
    environ = {f"distributed.nanny.pre-spawn-environ.{name}": value for name, value in _MALLOC.items()}
    with dask.config.set(environ):
        with uninterrupted():
            started = LocalCluster(
                n_workers=n_workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address=_LOOPBACK,  # None would listen at Dask's usual port, and warn where it is taken
                silence_logs=logging.CRITICAL,
            )
        with started as cluster:
            yield cluster


@contextmanager
def _gpu_cluster(devices: Sequence[str]) -> Iterator[SpecCluster]:
    """A process for each GPU, which sees that one alone."""
    options = {"nthreads": 1, "dashboard": False, "silence_logs": logging.CRITICAL}
    workers = {
        device: {"cls": Nanny, "options": {**options, "env": {**_MALLOC, "CUDA_VISIBLE_DEVICES": device}}}
        for device in devices
    }
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard_address": _LOOPBACK}}
    with uninterrupted():
        started = SpecCluster(workers=workers, scheduler=scheduler, silence_logs=logging.CRITICAL)
    with started as cluster:
        yield cluster


def _devices(asked: Gpus) -> list[str]:
    """As `gpu_names`, one at least."""
    found = gpu_names(asked)
    if not found:
        raise StudyError(
            where="dask.gpus", found="no GPU on this machine", expected="one at least", do="set `dask: local`"
        )
    return found


@contextmanager
def _job_queue(queue: JobQueue, root: Path, scratch: Path | None) -> Iterator[Jobs]:
    """Jobs of a batch system."""
    made = _class_of(queue)
    job, command = made.job_cls, _submit_command(queue, made)
    refused: list[str] = []

    class Told(job):  # type: ignore[misc, valid-type]
        """Keeps why a job was not taken, which the cluster only logs."""

        async def start(self) -> None:
            try:
                await super().start()
            except Exception as error:  # of the command, or of what it printed
                refused.append(_reason(error))
                self.status = Status.failed  # or the cluster takes it for one that may still start, and does not close
                raise

    options = _options(queue, root, job.default_config_name())
    if scratch is not None and not dask.config.get(f"jobqueue.{job.default_config_name()}.local-directory", None):
        # A shell reads it, but for the class whose jobs are processes of this machine: that splits lines at blanks.
        options.setdefault("local_directory", shlex.quote(str(scratch)) if command else os.path.relpath(scratch))
    try:
        cluster = made(job_cls=Told, silence_logs=logging.CRITICAL, **options)
    except Exception as error:  # wrong words, and interfaces or ports that this machine has not
        raise environment_error(error, "dask.options") or StudyError(
            where="dask.options",
            found=f"options that {queue.jobqueue} refuses ({_reason(error)})",
            expected="its own: cores, memory, queue, …",
            do="correct them",
        ) from None
    with cluster:
        _tell_open(cluster)
        cluster.scale(jobs=queue.jobs)
        yield Jobs(cluster, queue.jobs, " ".join(command) or queue.jobqueue, options.get("log_directory"), refused)


def _tell_open(cluster: Any) -> None:
    """Say that every network of this machine reaches the scheduler, unless the study names one or asks for TLS."""
    for address in {listener.listen_address for listener in cluster.scheduler.listeners}:
        host, port = get_address_host_port(address)
        if not address.startswith("tls:") and host in ("0.0.0.0", "::"):
            _log.warning(
                "the scheduler listens on every network of this machine, at port %d, and who reaches it can run code "
                "as you: `interface:` of dask.options narrows it to a network, `security: true` to this study's jobs",
                port,
            )


def _submit_command(queue: JobQueue, made: Any) -> list[str]:
    """Words by which the batch system takes a job; none where there is no such command."""
    command = shlex.split(getattr(made.job_cls, "submit_command", None) or "")
    if command and not shutil.which(command[0]):
        raise StudyError(
            where=f"dask: {queue.jobqueue}",
            found=f"no command `{command[0]}` on this machine",
            expected="those of the batch system",
            do="run this where jobs are submitted, often the login node, or set `dask: local`",
        )
    return command


def _class_of(queue: JobQueue) -> Any:
    """The class of dask-jobqueue."""
    try:
        import dask_jobqueue
    except ImportError:
        raise StudyError(
            where="dask.jobqueue",
            found="no dask-jobqueue",
            expected=f"it, for {queue.jobqueue}",
            do="pip install 'cinecube[cluster]'",
        ) from None
    from dask_jobqueue.local import LocalCluster as LocalJobs  # its jobs are processes of this machine

    known = {name: made for name, made in vars(dask_jobqueue).items() if name.endswith("Cluster")}
    known = {name: made for name, made in known.items() if getattr(made, "job_cls", None)} | {"LocalCluster": LocalJobs}
    if queue.jobqueue not in known:
        raise no_such("class", queue.jobqueue, sorted(known), "dask.jobqueue", "correct the name")
    return known[queue.jobqueue]


def _options(queue: JobQueue, root: Path, config_name: str) -> dict[str, Any]:
    """The user's options; output of jobs goes below `.cinecube`, and pages of schedulers and workers to loopback."""
    options = dict(queue.options)
    pages = {"dashboard_address": _LOOPBACK, "dashboard": bool(find_spec("bokeh"))}
    configured = dask.config.get(f"jobqueue.{config_name}.scheduler-options", None) or {}
    options["scheduler_options"] = pages | (options.get("scheduler_options") or configured)
    extra = options.get("worker_extra_args") or dask.config.get(f"jobqueue.{config_name}.worker-extra-args", None) or []
    if not any(str(word).startswith(("--dashboard", "--no-dashboard")) for word in extra):
        options["worker_extra_args"] = [*extra, "--no-dashboard", "--dashboard-address", _LOOPBACK]
    if not dask.config.get(f"jobqueue.{config_name}.log-directory", None):
        # Batch systems split lines at blanks, which the study's path may have.
        options.setdefault("log_directory", os.path.relpath(StudyPaths(root.absolute()).jobs))
    return options


def _reason(error: Exception) -> str:
    """The message of a batch system, or of its class, without the words around it."""
    said = str(error).partition("stderr:\n")[2].strip() or str(error) or type(error).__name__
    return " ".join(said.split())[:300]
