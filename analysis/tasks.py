"""Tasks: running functions of arrays in threads of this process or on Dask workers, one BLAS setting in both."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import logging
import sys
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from cinecube.store.errors import StudyError, environment_error
from cinecube.store.interrupts import last_work, uninterrupted
from cinecube.store.run_params import ClusterAddress, DaskParams, JobQueue

if TYPE_CHECKING:
    from distributed import Client, LocalCluster

_log = logging.getLogger(__name__)
_Key = TypeVar("_Key", bound=Hashable)
_Result = TypeVar("_Result")
_CONNECT_S = 10
# Enough that no worker waits for the next job, few enough that shared arrays are dropped soon after their last use.
JOBS_PER_WORKER = 3
# Dask's own 64 KiB hands every temporary array back to the system at once: a third of the time went into page faults.
_MALLOC = {"MALLOC_TRIM_THRESHOLD_": 2**30, "MALLOC_MMAP_THRESHOLD_": 2**30}
# Multiplications: about two minutes of one core. Processes take three seconds to start and have memory that Dask
# watches over; below this neither the memory nor what Python's lock costs threads is worth three seconds.
SMALL_WORK = 5e12


@dataclass(frozen=True)
class Threads:
    """Threads of this process; from `open_threads`."""

    pool: concurrent.futures.ThreadPoolExecutor
    n_workers: int


Workers: TypeAlias = "Client | Threads | None"
"""Who runs jobs: Dask's workers, threads, or None for the caller itself, one job after another."""


@contextmanager
def open_workers(dask: DaskParams, threads: int, work: float) -> Iterator[Client | Threads]:
    """Dask's workers, or threads of this process where a study runs locally and has little to do.

    Parameters
    ----------
    dask : "local", ClusterAddress or JobQueue
        The study's `dask` key.
    threads : int
        BLAS threads of each local worker.
    work : float
        Multiplications in all; less than `SMALL_WORK` is little.

    Raises
    ------
    StudyError
        If there is no scheduler at the address.
    """
    small = dask == "local" and work < SMALL_WORK
    with open_threads(threads) if small else open_client(dask, threads) as workers:
        yield workers


@contextmanager
def open_threads(threads: int) -> Iterator[Threads]:
    """Threads of this process, each with `threads` BLAS threads: workers times threads = cores.

    BLAS settings and filters of warnings belong to the process, so they are set around all threads, never inside one.
    """
    n_workers = _n_local_workers(threads)
    with (
        _pinned_blas(threads),
        warnings.catch_warnings(),
        concurrent.futures.ThreadPoolExecutor(n_workers) as pool,
    ):
        try:
            yield Threads(pool, n_workers)
        except KeyboardInterrupt:
            with last_work("blocks"):
                pool.shutdown(cancel_futures=True)
            raise


@contextmanager
def open_client(dask: DaskParams, threads: int) -> Iterator[Client]:
    """A client of a running scheduler, or of processes on this machine: workers times threads = cores.

    Parameters
    ----------
    dask : "local", ClusterAddress or JobQueue
        The study's `dask` key.
    threads : int
        BLAS threads of each local worker.

    Raises
    ------
    StudyError
        If there is no scheduler at the address.
    """
    from distributed import Client

    with ExitStack() as stack:
        stack.enter_context(_quiet())
        if isinstance(dask, ClusterAddress):
            address: Any = dask.address
        else:
            own = _local_cluster(threads) if dask == "local" else _job_queue(dask)
            address = stack.enter_context(own)
        try:
            client = stack.enter_context(Client(address, timeout=_CONNECT_S))
        except (OSError, ValueError) as error:
            raise environment_error(error, f"dask: {address}") or StudyError(
                where=f"dask: {address}",
                found=f"no scheduler ({_first_line(error)})",
                expected="a running Dask scheduler",
                do="start one with `dask scheduler`, or set `dask: local`",
            ) from None
        if find_spec("bokeh") or dask != "local":
            _log.info("Dask's dashboard: %s", client.dashboard_link)
        yield client


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's tracebacks of lost connections off the terminal: a StudyError tells of them in one line."""
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "distributed"]
    levels = {name: logging.getLogger(name).level for name in names}
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def _local_cluster(threads: int) -> Iterator[LocalCluster]:
    import dask
    from distributed import LocalCluster

    environ = {f"distributed.nanny.pre-spawn-environ.{name}": value for name, value in _MALLOC.items()}
    with dask.config.set(environ):
        with uninterrupted():
            started = LocalCluster(
                n_workers=_n_local_workers(threads),
                threads_per_worker=1,
                processes=True,
                dashboard_address="127.0.0.1:0" if find_spec("bokeh") else None,
                silence_logs=logging.CRITICAL,
            )
        with started as cluster:
            yield cluster


@contextmanager
def _job_queue(queue: JobQueue) -> Iterator[Any]:
    """A cluster of a batch system's jobs."""
    try:
        import dask_jobqueue
    except ImportError:
        raise StudyError(
            where="dask.jobqueue",
            found="no dask-jobqueue",
            expected=f"it, for {queue.jobqueue}",
            do="pip install 'cinecube[cluster]'",
        ) from None
    from dask_jobqueue.local import LocalCluster  # its jobs are processes of this machine

    known = {name: made for name, made in vars(dask_jobqueue).items() if name.endswith("Cluster")}
    known["LocalCluster"] = LocalCluster
    if queue.jobqueue not in known:
        raise StudyError(
            where="dask.jobqueue",
            found=repr(queue.jobqueue),
            expected=f"one of {', '.join(sorted(known))}",
            do="correct the name",
        )
    try:
        cluster = known[queue.jobqueue](**queue.options)
    except (TypeError, ValueError) as error:
        raise StudyError(
            where="dask.options",
            found=f"options that {queue.jobqueue} refuses ({_first_line(error)})",
            expected="its own: cores, memory, queue, …",
            do="correct them",
        ) from None
    with cluster:
        cluster.scale(jobs=queue.jobs)
        yield cluster


def _n_local_workers(threads: int) -> int:
    from dask.system import CPU_COUNT

    return max(1, CPU_COUNT // threads)


def share(workers: Workers, value: Any) -> Any:
    """Send labels and settings to Dask's workers once, for any number of jobs; elsewhere they stay where they are.

    The scheduler keeps them, so that they outlive a worker. Arrays are read by the workers themselves, see `submit`.
    """
    return value if workers is None or isinstance(workers, Threads) else workers.submit(_same, value, pure=False)


def _same(value: Any) -> Any:
    return value


def submit(workers: Workers, function: Callable[..., Any], threads: int, *arguments: Any) -> Any:
    """Begin what several jobs need; its result stands for itself among the arguments of jobs and of `submit`.

    Parameters
    ----------
    workers : Client, Threads or None
    function : callable
        A module's function.
    threads : int
        BLAS threads of it.
    *arguments
        May come from `share` and from `submit`.
    """
    if workers is None:
        return pinned(function, threads, *arguments)
    if isinstance(workers, Threads):
        return workers.pool.submit(_resolved, function, *arguments)
    return workers.submit(pinned, function, threads, *arguments, pure=False)


def _resolved(function: Callable[..., _Result], *arguments: Any) -> _Result:
    """Call a function when what was begun for it is done. What a pool began earlier never waits for what came later."""
    return function(*(_wait(value) for value in arguments))


def _wait(value: Any) -> Any:
    if isinstance(value, concurrent.futures.Future):
        return value.result()
    return [_wait(part) for part in value] if isinstance(value, list) else value


def run_jobs(
    workers: Workers,
    function: Callable[..., _Result],
    jobs: Iterable[tuple[_Key, tuple[Any, ...]]],
    threads: int,
) -> Iterator[tuple[_Key, _Result]]:
    """Run `function(*arguments)` for each job, in any order.

    Parameters
    ----------
    workers : Client, Threads or None
        None runs the jobs here, one after another.
    function : callable
        A module's function.
    jobs : iterable of (key, arguments)
        Drawn as workers become free. Arguments may come from `share`.
    threads : int
        BLAS threads of each job.

    Yields
    ------
    (key, result)

    Raises
    ------
    StudyError
        If the scheduler or a worker is lost. What a job itself raises is raised here unchanged.
    """
    if workers is None:
        for key, arguments in jobs:
            yield key, pinned(function, threads, *arguments)
    elif isinstance(workers, Threads):
        yield from _on_threads(workers, function, iter(jobs))
    else:
        yield from _on_client(workers, function, iter(jobs), threads)


def _on_threads(
    workers: Threads, function: Callable[..., _Result], jobs: Iterator[tuple[_Key, tuple[Any, ...]]]
) -> Iterator[tuple[_Key, _Result]]:
    keys: dict[concurrent.futures.Future[_Result], _Key] = {}

    def submit(n_jobs: int) -> None:
        for key, arguments in itertools.islice(jobs, n_jobs):
            keys[workers.pool.submit(_resolved, function, *arguments)] = key

    try:
        submit(JOBS_PER_WORKER * workers.n_workers)
        while keys:
            done, _ = concurrent.futures.wait(keys, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                key, result = keys.pop(future), future.result()
                submit(1)
                yield key, result
    finally:
        for future in keys:
            future.cancel()


def _on_client(
    client: Client, function: Callable[..., _Result], jobs: Iterator[tuple[_Key, tuple[Any, ...]]], threads: int
) -> Iterator[tuple[_Key, _Result]]:
    from distributed import KilledWorker
    from distributed.comm.core import CommClosedError

    lost = (KilledWorker, CommClosedError, asyncio.CancelledError, concurrent.futures.CancelledError, TimeoutError)
    try:
        yield from _as_completed(client, function, jobs, threads)
    except lost as error:
        raise StudyError(
            where="dask",
            found=f"a lost scheduler or worker ({type(error).__name__}: {_first_line(error)})",
            expected="workers that live until the last block",
            do="look for their memory in the log, lower encode.targets_per_block, and run the stage again",
        ) from error


def _as_completed(
    client: Client, function: Callable[..., _Result], jobs: Iterator[tuple[_Key, tuple[Any, ...]]], threads: int
) -> Iterator[tuple[_Key, _Result]]:
    from distributed import as_completed

    keys: dict[Any, _Key] = {}

    def submit(job: tuple[_Key, tuple[Any, ...]]) -> Any:
        key, arguments = job
        # pure: otherwise Dask hashes the arguments; ours are futures, and no job comes twice.
        future = client.submit(pinned, function, threads, *arguments, pure=False)
        keys[future.key] = key
        return future

    n_workers = max(1, len(client.scheduler_info(n_workers=-1)["workers"]))
    running = as_completed([submit(job) for job in itertools.islice(jobs, JOBS_PER_WORKER * n_workers)])
    for future in running:
        result = future.result()
        key = keys.pop(future.key)
        for job in itertools.islice(jobs, 1):
            running.add(submit(job))
        yield key, result


def pinned(function: Callable[..., _Result], threads: int, *arguments: Any) -> _Result:
    """Call a function with `threads` BLAS threads, whatever the environment says."""
    with _pinned_blas(threads):
        return function(*arguments)


@contextmanager
def _pinned_blas(threads: int) -> Iterator[None]:
    import scipy.linalg  # noqa: F401 - brings a BLAS of its own, which must be loaded to be pinned
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    torch = sys.modules.get("torch")  # pinned where it is used, not imported for it
    before = torch.get_num_threads() if torch else threads
    try:
        if torch:
            torch.set_num_threads(threads)
        with threadpool_limits(limits=threads):
            yield
    finally:
        if torch:
            torch.set_num_threads(before)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
