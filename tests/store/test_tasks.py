import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import himalaya.backend
import numpy as np
import pytest
from threadpoolctl import threadpool_info

from cinecube.analysis.ridge.himalaya_ridge import _NumpyBackend
from cinecube.store.base.errors import StudyError
from cinecube.store.jobs import tasks
from cinecube.store.jobs.tasks import SMALL_WORK, Threads, open_threads, open_workers, run_jobs
from cinecube.store.params.run_params import ClusterAddress


def blas_threads() -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def twice(number: int) -> int:
    return 2 * number


def warn_and_count(_: int) -> list[int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        time.sleep(0.002)
        return blas_threads()


def stumble(number: int) -> int:
    if number == 3:
        raise ZeroDivisionError("three")
    return number


def test_threads_run_every_job_once() -> None:
    with open_threads(1) as workers:
        found = dict(run_jobs(workers, twice, ((key, (key,)) for key in range(50)), 1))
    assert found == {key: 2 * key for key in range(50)}


def test_threads_draw_jobs_as_they_become_free() -> None:
    drawn = 0

    def jobs() -> Iterator[tuple[int, tuple[int]]]:
        nonlocal drawn
        for key in range(1000):
            drawn += 1
            yield key, (key,)

    with open_threads(1) as workers:
        results = run_jobs(workers, twice, jobs(), 1)
        next(results)
        assert drawn <= 4 * workers.n_workers + 1


def test_what_belongs_to_the_process_is_left_as_it_was() -> None:
    before, filters = blas_threads(), list(warnings.filters)
    with open_threads(1) as workers:
        found = dict(run_jobs(workers, warn_and_count, ((key, (key,)) for key in range(30)), 1))
    assert {n for counts in found.values() for n in counts} == {1}
    assert blas_threads() == before
    assert list(warnings.filters) == filters


def test_an_error_in_a_thread_is_raised_unchanged() -> None:
    with open_threads(1) as workers, pytest.raises(ZeroDivisionError, match="three"):
        list(run_jobs(workers, stumble, ((key, (key,)) for key in range(50)), 1))


def test_little_work_stays_in_this_process_and_much_goes_to_dask(tmp_path: Path) -> None:
    with open_workers("local", 1, SMALL_WORK / 2, tmp_path) as workers:
        assert isinstance(workers, Threads)
    with open_workers("local", 1, 2 * SMALL_WORK, tmp_path) as workers:
        assert not isinstance(workers, Threads)
        found = dict(run_jobs(workers, twice, ((key, (key,)) for key in range(20)), 1))
    assert found == {key: 2 * key for key in range(20)}


def test_a_named_scheduler_is_used_for_little_work_too(tmp_path: Path) -> None:
    with (
        pytest.raises(StudyError, match="found no scheduler"),
        open_workers(ClusterAddress(address="no-address"), 1, 0, tmp_path),
    ):
        pass


def test_workers_times_threads_are_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask.system.CPU_COUNT", 8)
    assert [tasks.n_local_workers(threads) for threads in (1, 3, 8, 100)] == [8, 2, 1, 1]


def test_backend_is_restored_by_the_last_of_several_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    now = "another"

    def set_backend(name: str) -> None:
        nonlocal now
        now = name

    monkeypatch.setattr(himalaya.backend, "get_backend", lambda: now)
    monkeypatch.setattr(himalaya.backend, "set_backend", set_backend)
    backend, first_is_in, seen = _NumpyBackend(), threading.Event(), []

    def second() -> None:
        with backend:
            first_is_in.wait()
            time.sleep(0.05)
            seen.append(now)

    thread = threading.Thread(target=second)
    with backend:
        thread.start()
        first_is_in.set()
        time.sleep(0.01)
    seen.append(now)
    thread.join()
    assert (seen, now) == (["numpy", "numpy"], "another")


def test_fits_in_threads_equal_fits_one_after_another() -> None:
    from cinecube.analysis.ridge.himalaya_ridge import himalaya_ridge

    rng = np.random.default_rng(0)
    problems = [(rng.standard_normal((60, 10 + i)), rng.standard_normal((60, 30))) for i in range(12)]
    folds = [(np.r_[0:a, b:60], np.r_[a:b]) for a, b in ((0, 20), (20, 40), (40, 60))]
    arguments = [
        (i, (design, known, design, folds, np.geomspace(1, 1e4, 5))) for i, (design, known) in enumerate(problems)
    ]
    alone = dict(run_jobs(None, himalaya_ridge, arguments, 1))
    with open_threads(1) as workers:
        together = dict(run_jobs(workers, himalaya_ridge, arguments, 1))
    for i, solution in alone.items():
        for name in ("alpha", "loss", "prediction"):
            np.testing.assert_array_equal(getattr(together[i], name), getattr(solution, name))


class Fetched:
    """A job's future whose worker takes its result with it, or gives it at the second try."""

    def __init__(self, gone: bool) -> None:
        self.status, self._gone, self._tries = "finished", gone, 0

    def result(self, timeout: float) -> int:
        self._tries += 1
        if self._gone or self._tries == 1:
            raise TimeoutError
        return 7

    def look(self) -> None:
        """As `Watch.look`; Dask has noticed the loss in the meantime."""
        self.status = "lost" if self._gone else "finished"


@pytest.mark.parametrize(("gone", "found"), [(True, None), (False, (7,))])
def test_a_result_whose_worker_is_gone_is_not_waited_for(gone: bool, found: tuple[int] | None) -> None:
    future = Fetched(gone)
    assert tasks._fetched(future, future) == found  # type: ignore[arg-type]
