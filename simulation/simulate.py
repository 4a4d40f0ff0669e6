"""A whole simulated study: films, checkpoints, scans and truth."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from cinecube.simulation.brain.reachable import Cleaning
from cinecube.simulation.features.drawn import Layers
from cinecube.simulation.film.timeline import Segment, film_seconds, place
from cinecube.simulation.setup.simulate_params import NETWORKS, Network, SimulateSpec
from cinecube.store.base.atomic import publish
from cinecube.store.base.errors import StudyError
from cinecube.store.base.interrupts import uninterrupted

Progress = Callable[[int, int], None]
"""Told `(done, total)` in segments and subjects."""

# The truth comes first: where it is, the others are simulated too.
_FOLDERS = ("truth", "stimuli", "scans", "weights")


def simulated_folders(root: Path) -> list[Path]:
    """Folders that `simulate` writes under a data folder."""
    return [root / name for name in _FOLDERS]


def simulate(
    spec: SimulateSpec,
    films: Mapping[str, Sequence[str]],
    train: Sequence[str],
    root: Path,
    *,
    cleaning: Cleaning | None = None,
    workers: int = 2,
    progress: Progress | None = None,
) -> None:
    """Write a study with a known truth under `root`: `stimuli`, `scans`, `weights` and `truth`.

    What stood there is replaced once everything is made. Bytes depend on the arguments alone, not on `workers`.

    Parameters
    ----------
    spec : SimulateSpec
        What to make.
    films : mapping of str to sequence of str
        Segments of each film, in order.
    train : sequence of str
        Films whose rows set what a response of unit variance is.
    root : Path
        The study's data folder.
    cleaning : Cleaning, optional
        What the study takes out of its scans, and with it of what is planted.
    workers : int
        Processes, each of one thread.
    progress : callable, optional
        Told `(done, total)`.

    Raises
    ------
    StudyError
        If `train` or `spec.repeated` names a film that is not there, or films, scans or weights are that were not
        simulated.
    """
    _check_films(films, train, "split.train")
    _check_films(films, spec.repeated, "simulate.repeated")
    _refuse_real(root)
    root.mkdir(parents=True, exist_ok=True)
    n_segments = sum(len(segments) for segments in films.values())
    tell = _Steps(n_segments + spec.subjects, progress)
    with tempfile.TemporaryDirectory(prefix=".simulate-", dir=root) as scratch, _pool(workers) as pool:
        folder = Path(scratch)
        features = _make_films(spec, films, folder, pool, tell)
        _make_scans(spec, films, train, cleaning or Cleaning(), features, folder, pool, tell)
        for name in _FOLDERS:
            publish(folder / name, root / name)


def _refuse_real(root: Path) -> None:
    """Refuse to put simulated films and scans in place of somebody's own."""
    truth, *others = simulated_folders(root)
    own = [path for path in others if path.is_symlink() or (path.is_dir() and any(path.iterdir()))]
    if own and not truth.is_dir():
        raise StudyError(
            where=str(own[0]),
            found=f"files that were not simulated (there is no {truth.name} beside them)",
            expected="nothing, or what `cinecube simulate` made",
            do="make a study of its own with `cinecube init DIR --template simulated`, or move these files elsewhere",
        )


def _check_films(films: Mapping[str, Sequence[str]], named: Sequence[str], where: str) -> None:
    unknown = [film for film in named if film not in films]
    if unknown:
        raise StudyError(
            where=where, found=repr(unknown[0]), expected=f"one of {', '.join(films)}", do="correct the film's name"
        )


class _Steps:
    """Counts finished pieces of work."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def step(self) -> None:
        """One more is done."""
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)


@contextmanager
def _pool(workers: int) -> Iterator[Executor]:
    """Processes that begin from nothing: torch's threads do not survive a fork."""
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker) as pool:
        with uninterrupted():
            for _ in range(workers):  # a process starts when there is something to do for it
                pool.submit(os.getpid)
        try:
            yield pool
        except BaseException:  # what is being written is of no use
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            pool.shutdown(cancel_futures=True)
            raise


def _start_worker() -> None:
    """One thread each: so many processes fill the cores, and sums do not depend on the number of threads."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(1)
    threadpool_limits(1)


def _make_films(
    spec: SimulateSpec, films: Mapping[str, Sequence[str]], folder: Path, pool: Executor, tell: _Steps
) -> dict[str, dict[str, Layers]]:
    """Checkpoints and segments on disk; drawn features by segment, in the films' order."""
    for done in as_completed([pool.submit(_checkpoint, spec.seed, name, folder / "weights") for name in NETWORKS]):
        done.result()
    waiting = {}
    for film, names in films.items():
        segments = place(spec, film, list(names))
        (folder / "stimuli" / film).mkdir(parents=True)
        for segment in segments:
            waiting[pool.submit(_segment, spec, segment, film_seconds(segments), folder)] = segment.name
    for future in as_completed(waiting):
        future.result()
        tell.step()
    return {name: future.result() for future, name in waiting.items()}


def _checkpoint(seed: int, network: Network, folder: Path) -> None:
    """One network on disk (runs in a worker)."""
    from cinecube.simulation.features.checkpoints import write_checkpoint

    write_checkpoint(seed, network, folder / network)


def _segment(spec: SimulateSpec, segment: Segment, film_s: float, folder: Path) -> dict[str, Layers]:
    """One segment on disk and its drawn features (runs in a worker)."""
    from cinecube.simulation.features.drawn import drawn_features
    from cinecube.simulation.film.movie import draw_frames, draw_sound, write_movie

    frames = np.stack(list(draw_frames(spec, segment, film_s)))
    sound = draw_sound(spec, segment, film_s)
    write_movie(folder / "stimuli" / segment.film / f"{segment.name}.mp4", iter(frames), sound, spec)
    return drawn_features(spec, frames, sound, folder / "weights")


def _make_scans(
    spec: SimulateSpec,
    films: Mapping[str, Sequence[str]],
    train: Sequence[str],
    cleaning: Cleaning,
    features: dict[str, dict[str, Layers]],
    folder: Path,
    pool: Executor,
    tell: _Steps,
) -> None:
    """Truth and scans on disk."""
    from threadpoolctl import threadpool_limits

    from cinecube.simulation.brain.head import make_grid, write_atlas
    from cinecube.simulation.brain.planted_parcels import choose_parcels
    from cinecube.simulation.brain.responses import plant
    from cinecube.simulation.brain.scans import showings, write_description, write_subject
    from cinecube.simulation.truth import write_drawn, write_truth

    parcels = choose_parcels(spec)
    grid, runs, scans = make_grid(parcels, spec.targets_per_parcel), showings(spec, films), folder / "scans"
    test = [segment for film, segments in films.items() if film not in train for segment in segments]
    with threadpool_limits(1):
        signals = plant(spec, parcels, features, [segment for film in train for segment in films[film]])
    waiting = {
        pool.submit(write_subject, spec, subject, runs, signals[subject], parcels, grid, scans, cleaning, test): subject
        for subject in spec.subject_names()
    }
    write_description(scans)
    write_atlas(scans / "atlas", grid, parcels)
    write_drawn(folder / "truth" / "drawn_features", spec, features)
    for future in as_completed(waiting):
        future.result()
        tell.step()
    ceilings = {subject: future.result() for future, subject in waiting.items()}
    write_truth(folder / "truth" / "truth.json", spec, films, train, parcels, ceilings)
