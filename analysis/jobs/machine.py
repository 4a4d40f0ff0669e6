"""This machine's cores: how many jobs run side by side, and the BLAS threads of each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
