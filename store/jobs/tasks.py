"""Tasks: running functions of arrays in threads of this process or on Dask workers, one BLAS setting in both."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from cinecube.store.base.errors import first_line
from cinecube.store.base.interrupts import last_work
from cinecube.store.jobs.gpus import gpu_names
from cinecube.store.params.run_params import DaskParams, Gpus, JobQueue

if TYPE_CHECKING:
    from pathlib import Path

    from distributed import Future

    from cinecube.store.jobs.clusters import WatchedClient as Client
    from cinecube.store.jobs.watch import Watch

_Key = TypeVar("_Key", bound=Hashable)
_Result = TypeVar("_Result")
# Enough that no worker waits for the next job, few enough that shared arrays are dropped soon after their last use.
JOBS_PER_WORKER = 3
# Multiplications: about two minutes of one core. Processes take three seconds to start and have memory that Dask
# watches over; below this neither the memory nor what Python's lock costs threads is worth three seconds.
SMALL_WORK = 5e12
# A block's result is fetched in a moment; where it takes longer, whether its worker is still there.
_FETCH_S = 10.0


@dataclass(frozen=True)
class Threads:
    """Threads of this process; from `open_threads`."""

    pool: concurrent.futures.ThreadPoolExecutor
    n_workers: int


Workers: TypeAlias = "Client | Threads | None"
"""Who runs jobs: Dask's workers, threads, or None for the caller itself, one job after another."""
Progress: TypeAlias = Callable[[int, int], None]
"""Told `(done, in all)`."""


@contextmanager
def open_workers(
    dask: DaskParams, threads: int, work: float, root: Path, needed_bytes: int = 1
) -> Iterator[Client | Threads]:
    """Dask's workers, or threads of this process where a study runs locally and has little to do.

    Parameters
    ----------
    dask : "local", ClusterAddress or JobQueue
        The study's `dask` key.
    threads : int
        BLAS threads of each local worker.
    work : float
        Multiplications in all; less than `SMALL_WORK` is little.
    root : Path
        The study's folder.
    needed_bytes : int
        Memory of each local worker: there are as many as have room, and one at least.

    Yields
    ------
    Client or Threads

    Raises
    ------
    StudyError
        If there is no scheduler at the address, or no worker that can do the work.
    """
    if dask == "local" and work < SMALL_WORK:
        with open_threads(threads) as workers:
            yield workers
        return
    from distributed.system import MEMORY_LIMIT

    from cinecube.store.jobs.clusters import open_client

    room = max(1, MEMORY_LIMIT // needed_bytes)
    with open_client(dask, min(n_local_workers(threads), room), root) as client:
        yield client


@contextmanager
def open_threads(threads: int, at_most: int | None = None) -> Iterator[Threads]:
    """Threads of this process, each with `threads` BLAS threads: workers times threads = cores.

    With `at_most` there are no more of them, whatever the cores.

    BLAS settings and filters of warnings belong to the process, so they are set around all threads, never inside one.

    Parameters
    ----------
    threads : int
        BLAS threads of each.
    at_most : int, optional
        The most workers.

    Yields
    ------
    Threads
    """
    n_workers = min(n_local_workers(threads), at_most or sys.maxsize)
    with (
        pinned_blas(threads),
        warnings.catch_warnings(),
        concurrent.futures.ThreadPoolExecutor(n_workers) as pool,
    ):
        try:
            yield Threads(pool, n_workers)
        except KeyboardInterrupt:
            with last_work("blocks"):
                pool.shutdown(cancel_futures=True)
            raise


def n_local_workers(threads: int) -> int:
    """Processes or threads of this machine: workers times threads = cores."""
    from dask.system import CPU_COUNT

    return max(1, CPU_COUNT // threads)


def planned_workers(dask: DaskParams, threads: int) -> int:
    """Processes that a study asks for; 1 where only a scheduler knows, and where there is no GPU of those asked for.

    Parameters
    ----------
    dask : "local", ClusterAddress, Gpus or JobQueue
    threads : int
        BLAS threads of each local worker.

    Returns
    -------
    int
    """
    if isinstance(dask, JobQueue):
        processes = dask.options.get("processes", 1)
        return dask.jobs * (processes if isinstance(processes, int) else 1)
    if isinstance(dask, Gpus):
        return max(1, len(gpu_names(dask)))
    return n_local_workers(threads) if dask == "local" else 1


def pinned(function: Callable[..., _Result], threads: int, *arguments: Any) -> _Result:
    """Call a function with `threads` BLAS threads, whatever the environment says.

    Parameters
    ----------
    function : callable
    threads : int
    *arguments
        Of the function.

    Returns
    -------
    object
        What the function returns.
    """
    with pinned_blas(threads):
        return function(*arguments)


@contextmanager
def pinned_blas(threads: int) -> Iterator[None]:
    import scipy.linalg  # noqa: F401 - brings a BLAS of its own, which must be loaded to be pinned

    torch = sys.modules.get("torch")  # pinned where it is used, not imported for it
    before = torch.get_num_threads() if torch else threads
    try:
        if torch:
            torch.set_num_threads(threads)
        with _libraries(len(sys.modules)).limit(limits=threads):
            yield
    finally:
        if torch:
            torch.set_num_threads(before)


@lru_cache(maxsize=1)
def _libraries(n_modules: int) -> Any:
    """The BLAS libraries of this process: finding them takes longer than many a job. They come with modules."""
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

    return ThreadpoolController()


def share(workers: Workers, value: Any) -> Any:
    """Send labels and settings to Dask's workers once, for any number of jobs; elsewhere they stay where they are.

    The scheduler keeps them, so that they outlive a worker. Arrays are read by the workers themselves, see `submit`.

    Parameters
    ----------
    workers : Client, Threads or None
    value
        Anything that can be pickled.

    Returns
    -------
    object
        The value itself, or Dask's future of it; an argument of jobs either way.
    """
    return value if workers is None or isinstance(workers, Threads) else workers.submit(_same, value, pure=False)


def _same(value: Any) -> Any:
    return value


def submit(workers: Workers, function: Callable[..., Any], threads: int, *arguments: Any) -> Any:
    """Begin what several jobs need; its result is passed as an argument to jobs and to `submit`.

    Parameters
    ----------
    workers : Client, Threads or None
    function : callable
        A module's function.
    threads : int
        BLAS threads of it.
    *arguments
        May come from `share` and from `submit`.

    Returns
    -------
    object
        The result, or a future of it; an argument of jobs either way.
    """
    if workers is None:
        return pinned(function, threads, *arguments)
    if isinstance(workers, Threads):
        return workers.pool.submit(_resolved, function, *arguments)
    with _lost_is_an_error():
        # pure: otherwise Dask hashes the arguments; ours are futures, and no job comes twice.
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
    """Run `function(*arguments)` for each job, in any order; see `Running` for what may be raised.

    Parameters
    ----------
    workers : Client, Threads or None
    function : callable
        A module's function.
    jobs : iterable of (key, arguments)
        Drawn as workers become free. Arguments may come from `share`.
    threads : int
        BLAS threads of each job.

    Yields
    ------
    (key, result)
    """
    with Running[_Key, _Result](workers, function, threads) as running:
        for key, arguments in jobs:
            yield from running.add(key, arguments)
        yield from running.rest()


class Running(Generic[_Key, _Result]):
    """Jobs of one function under way, a few for each worker; those that wait when the block is left are cancelled.

    Parameters
    ----------
    workers : Client, Threads or None
        None runs the jobs here, one after another.
    function : callable
        A module's function.
    threads : int
        BLAS threads of each job.
    """

    def __init__(self, workers: Workers, function: Callable[..., _Result], threads: int) -> None:
        self._workers, self._function, self._threads = workers, function, threads
        self._keys: dict[Any, _Key] = {}

    def __enter__(self) -> Running[_Key, _Result]:
        return self

    def __exit__(self, *_: object) -> None:
        if isinstance(self._workers, Threads):
            for future in self._keys:
                future.cancel()

    def add(self, key: _Key, arguments: tuple[Any, ...]) -> Iterator[tuple[_Key, _Result]]:
        """Begin a job, and come back when there is room for another.

        Parameters
        ----------
        key : hashable
        arguments : tuple
            Of the function; may come from `share` and from `submit`.

        Yields
        ------
        (key, result)
            Of jobs that are done in the meantime.

        Raises
        ------
        StudyError
            If the scheduler or a worker is lost. What a job itself raises is raised here unchanged.
        """
        begun = submit(self._workers, self._function, self._threads, *arguments)
        if self._workers is None:
            yield key, begun
            return
        self._keys[begun] = key
        yield from self._until(JOBS_PER_WORKER)

    def rest(self) -> Iterator[tuple[_Key, _Result]]:
        """Wait for all jobs; yields and raises what `add` does."""
        yield from self._until(0)

    def _until(self, per_worker: int) -> Iterator[tuple[_Key, _Result]]:
        """Results until fewer jobs than so many for each worker are left, or none."""
        workers = self._workers
        if isinstance(workers, Threads):
            while self._keys and len(self._keys) >= per_worker * workers.n_workers:
                for future in concurrent.futures.wait(self._keys, return_when="FIRST_COMPLETED").done:
                    yield self._keys.pop(future), future.result()
        elif workers is not None:
            with _lost_is_an_error():
                while self._keys and len(self._keys) >= per_worker * workers.watch.n_threads:
                    yield from self._look(workers.watch)

    def _look(self, watch: Watch) -> Iterator[tuple[_Key, _Result]]:
        """Results that Dask has by the next look at its workers."""
        from distributed import wait

        from cinecube.store.jobs.watch import LOOK_S

        watch.look()
        try:
            done = wait(list(self._keys), timeout=LOOK_S, return_when="FIRST_COMPLETED").done
        except TimeoutError:
            return
        for future in done:
            fetched = _fetched(future, watch)
            if fetched is not None:  # otherwise its worker is gone, and the result with it: others compute it again
                watch.progress()
                yield self._keys.pop(future), fetched[0]


@contextmanager
def _lost_is_an_error() -> Iterator[None]:
    from distributed import KilledWorker
    from distributed.comm.core import CommClosedError

    from cinecube.store.jobs.watch import lost_scheduler

    lost = (KilledWorker, CommClosedError, asyncio.CancelledError, concurrent.futures.CancelledError, TimeoutError)
    try:
        yield
    except lost as error:
        raise lost_scheduler("dask", f"{type(error).__name__}: {first_line(error)}") from error


def _fetched(future: Future[_Result], watch: Watch) -> tuple[_Result] | None:
    """The result of a job that was done, unless its worker went before it could be fetched.

    Dask would wait for ever for another worker to compute it again.
    """
    wait_s = _FETCH_S
    while future.status not in ("pending", "lost"):
        try:
            return (future.result(timeout=wait_s),)
        except TimeoutError:
            if future.status == "error":
                raise
        watch.look()
        wait_s *= 2
    return None
