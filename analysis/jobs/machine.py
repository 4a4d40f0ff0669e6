"""This machine's cores: how many jobs run side by side, and the BLAS threads of each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar

_Result = TypeVar("_Result")


def n_local_workers(threads: int) -> int:
    """Processes or threads of this machine: workers times threads = cores."""
    from dask.system import CPU_COUNT

    return max(1, CPU_COUNT // threads)


def pinned(function: Callable[..., _Result], threads: int, *arguments: Any) -> _Result:
    """Call a function with `threads` BLAS threads, whatever the environment says.

    Parameters
    ----------
    function : callable
    threads : int
    *arguments
        Of the function.
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
