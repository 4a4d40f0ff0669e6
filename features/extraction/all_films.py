"""All films of all networks at once: what is missing goes into the journals, which the stages `features` publish."""

from __future__ import annotations

import ctypes
import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from cinecube.features.extraction.block_reading import read_blocks, read_task
from cinecube.features.extraction.checkpoint import weights_bytes
from cinecube.features.extraction.extraction_memory import extraction_bytes
from cinecube.features.extraction.film_job import FilmJob, checked_weights, is_current, prepare, refuse_unready_scans
from cinecube.store.base.atomic import write_text
from cinecube.store.base.journal import Block, Journal, open_journal
from cinecube.store.base.paths import StudyPaths
from cinecube.store.base.writing import one_writer
from cinecube.store.inputs.content import Digests
from cinecube.store.jobs.tasks import Progress, Workers, open_workers, run_jobs, share
from cinecube.store.params.document import Study
from cinecube.store.params.run_params import JobQueue, Run

Kept = Callable[[Mapping[tuple[str, str], str]], Collection[tuple[str, str]]]
# Windows of a task: every task decodes its segment from the beginning.
_TASK_WINDOWS = 512
# Windows that are read before two processes and their imports have paid: some ten seconds of the smallest networks.
_FEW_WINDOWS = 500


@dataclass(frozen=True)
class Filled:
    """Summary of an extraction of all films.

    Attributes
    ----------
    current : int
        Cubes that are up to date.
    kept : list of (str, str)
        Models and films whose cubes DVC has or had: it restores them, or runs their own stages.
    rows, seconds : dict of str to float
        Rows that were computed, by model, and how long the workers took for them.
    """

    current: int
    kept: list[tuple[str, str]]
    rows: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, job: FilmJob, windows: int, seconds: float) -> None:
        """Count a task that is done.

        Parameters
        ----------
        job : FilmJob
        windows : int
        seconds : float
        """
        rows = windows * sum(job.rows.values()) / sum(job.windows.values())
        self.rows[job.model] = self.rows.get(job.model, 0.0) + rows
        self.seconds[job.model] = self.seconds.get(job.model, 0.0) + seconds

    def __str__(self) -> str:
        said = f"{sum(self.rows.values()):.0f} rows of {len(self.rows)} models computed"
        said += f", {self.current} cubes are up to date" if self.current else ""
        return said + (f", {len(self.kept)} left to DVC, which has recorded them" if self.kept else "")


def fill_journals(study: Study, root: Path, kept: Kept, progress: Progress | None = None) -> Filled:
    """Compute what the feature cubes of a study lack, each network loaded once by each worker.

    Writes `data/extracted.json`, the fingerprint of each cube.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    kept : callable
        Given (model, film) of cubes that are not there -> their fingerprints, those that DVC restores.
    progress : callable, optional
        Told (windows done, windows in all).

    Returns
    -------
    Filled

    Raises
    ------
    StudyError
        For every fault of films, checkpoints and parameters, and of scans as far as it is known without their values,
        before anything is computed; if another process writes one of the cubes, or workers are lost. Finished blocks
        stay.
    """
    root, paths = root.absolute(), StudyPaths(root.absolute())  # a worker may run in another folder
    digests = Digests(root)
    jobs = [
        prepare(study, model, film, root, digests) for model in study.compute.models for film in study.compute.films
    ]
    digests.keep()
    absent = [job for job in jobs if not is_current(job, paths.features(job.model, job.film))]
    left = set(kept({(job.model, job.film): job.fingerprint for job in absent}))
    todo = [job for job in absent if (job.model, job.film) not in left]
    filled = Filled(len(jobs) - len(absent), sorted(left))
    refuse_unready_scans(todo, root)
    with _journals(paths, todo) as journals:
        # A job's walltime may end it in the middle: there a task is a block, which `run.block_rows` makes shorter.
        most = 1 if isinstance(study.dask, JobQueue) else _TASK_WINDOWS
        tasks = [task for job in todo for task in _tasks(job, journals[job.model, job.film], most)]
        # Of each network once, and before any network is loaded.
        weights = {job.model: checked_weights(study, job.model, job.record, root) for job, _ in tasks}
        _run(study, root, tasks, weights, journals, filled, progress)
    values = {
        model: {job.film: job.fingerprint for job in jobs if job.model == model} for model in study.compute.models
    }
    write_text(paths.extracted, json.dumps(values, indent=1, sort_keys=True) + "\n")
    return filled


@contextmanager
def _journals(paths: StudyPaths, jobs: Sequence[FilmJob]) -> Iterator[dict[tuple[str, str], Journal]]:
    """The journals of some jobs by model and film, and the locks of their cubes."""
    with ExitStack() as held:
        found = {}
        for job in jobs:
            path = paths.features(job.model, job.film)
            held.enter_context(one_writer(paths, path))
            found[job.model, job.film] = held.enter_context(
                open_journal(paths.journals, job.spec, paths.relative(path))
            )
        yield found


def _tasks(job: FilmJob, journal: Journal, most: int) -> Iterator[tuple[FilmJob, list[Block]]]:
    """The blocks that a journal lacks, each alone or together at most so many windows, none of two segments."""
    missing = [block for block in job.blocks if not journal.has(block)]
    for _, blocks in groupby(missing, lambda block: block.segment):
        task: list[Block] = []
        for block in blocks:
            if task and _windows([*task, block]) > most:
                yield job, task
                task = []
            task.append(block)
        yield job, task


def _run(
    study: Study,
    root: Path,
    tasks: Sequence[tuple[FilmJob, list[Block]]],
    weights: Mapping[str, Path],
    journals: Mapping[tuple[str, str], Journal],
    filled: Filled,
    progress: Progress | None,
) -> None:
    """Run tasks network by network, so that each worker loads each network once."""
    total, done = sum(_windows(blocks) for _, blocks in tasks), 0

    def told(n_windows: int) -> None:
        nonlocal done
        done += n_windows
        if progress:
            progress(done, total)

    told(0)
    if not tasks:
        return
    if study.dask == "local" and (total < _FEW_WINDOWS or len(tasks) == 1 or _has_gpu(study.run)):
        for job, blocks in tasks:
            began = time.monotonic()
            read_blocks(job, weights[job.model], journals[job.model, job.film], blocks, told)
            filled.add(job, _windows(blocks), time.monotonic() - began)
        return
    needed = max(_needed_bytes(job, weights[job.model]) for job, _ in tasks)
    with open_workers(study.dask, study.run.threads, float("inf"), root, needed) as workers:
        drawn = _drawn(workers, tasks, weights, journals)
        for (n, windows), seconds in run_jobs(workers, read_task, drawn, study.run.threads):
            filled.add(tasks[n][0], windows, seconds)
            told(windows)


def _drawn(
    workers: Workers,
    tasks: Sequence[tuple[FilmJob, list[Block]]],
    weights: Mapping[str, Path],
    journals: Mapping[tuple[str, str], Journal],
) -> Iterator[tuple[tuple[int, int], tuple[Any, ...]]]:
    """Tasks for workers, by number and windows; a job is sent once for all of its own."""
    for (model, film), mine in groupby(enumerate(tasks), lambda task: (task[1][0].model, task[1][0].film)):
        sent, folder = None, journals[model, film].folder
        for n, (job, blocks) in mine:
            sent = sent or share(workers, job)
            yield (n, _windows(blocks)), (sent, weights[model], folder, blocks)


def _windows(blocks: Sequence[Block]) -> int:
    return sum(block.stop - block.start for block in blocks)


def _needed_bytes(job: FilmJob, weights: Path) -> int:
    widths = [width for stream in job.reading.streams for width in stream.widths]
    rows = job.study.run.block_rows
    return extraction_bytes(widths, job.spec["dtype"], rows, rows, weights_bytes(weights))


def _has_gpu(run: Run) -> bool:
    """True if this machine computes on a GPU; torch, which takes seconds to import, is asked only where one may be."""
    if run.device != "auto":
        return run.device != "cpu"
    try:
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    import torch

    return bool(torch.cuda.is_available())
