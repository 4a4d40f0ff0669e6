"""Cross-subject scores of brain cubes by components of each subject, out of core; see `reduced_subjects`.

Components, and what a subset makes predictions of, are files in a scratch folder that workers map: with 1,000
components, 6 subjects and Movie10's 11,013 + 2,008 rows 0.3 GB and 8 GB at most. A block of a subject's targets is read
once for all subsets. A task holds a matrix of all components of a subset twice and their design in float64, 0.8 GB
there, or 60 bytes per row and target of a block, 3.2 GB.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cinecube.analysis.ceilings.ceiling_blocks import (
    Cohort,
    SourceFiles,
    Subset,
    empty_scores,
    keep_source,
    reopen_source,
)
from cinecube.analysis.ceilings.cross_subject import CrossScores, standardised_targets, subsets_of
from cinecube.analysis.ceilings.reduced_subjects import (
    COMPONENTS,
    FEW,
    SAMPLED,
    Components,
    Shift,
    choose_places,
    factor_few,
    find_components,
    find_shift,
    make_smoothers,
    predicted_scores,
)
from cinecube.analysis.ridge.scores import fittable
from cinecube.store.base import journal
from cinecube.store.base.writing import keep_array, kept_array
from cinecube.store.jobs.tasks import Progress, Workers, run_jobs, share

LARGE = 4000
"""Training rows above which `approximate: auto` reduces subjects: beyond, their kernels take hours to factor."""


class _Files(NamedTuple):
    """Files of `Components`."""

    train: Path
    test: Path
    energy: float


class _Penalties(NamedTuple):
    """A subject to predict: the first components of all others, factored, and a sample of its targets.

    Attributes
    ----------
    everyone : SourceFiles
    sample : Path
        Of standardised responses (train row, sampled target).
    places : array of int, shape (sampled target,)
    """

    everyone: SourceFiles
    sample: Path
    places: np.ndarray


class _Fitted(NamedTuple):
    """A subset: shifts by the subject that is predicted, and files of `make_smoothers` by place."""

    shifts: dict[str, Shift]
    smoothers: dict[int, Path]
    alphas: np.ndarray


def is_large(cohort: Cohort) -> bool:
    """True if kernels of rows cost too much, and every subject has more targets than components.

    Parameters
    ----------
    cohort : Cohort
    """
    fewest = min(brain.n_targets for brain in cohort.brains.values())
    return int(cohort.train.sum()) > LARGE and fewest > COMPONENTS


def reduced_scores(
    cohort: Cohort,
    scratch: Path,
    workers: Workers = None,
    kept: journal.Journal | None = None,
    progress: Progress | None = None,
) -> dict[str, CrossScores]:
    """Predict subjects from components of every subset of the others, see `ceiling_blocks.score_subsets`.

    Parameters
    ----------
    cohort : Cohort
    scratch : Path
        An empty folder on a disk that workers share.
    workers : Client, Threads or None
    kept : Journal, optional
        Blocks of an earlier run that was interrupted; new ones are added as they are finished.
    progress : callable, optional
        Told `(blocks done, blocks in all)`.

    Returns
    -------
    dict of str to CrossScores

    Raises
    ------
    StudyError
        If there are fewer than two subjects, responses hold NaN in part, or workers are lost.
    """
    subsets = subsets_of(list(cohort.brains))
    found = {name: empty_scores(subsets, name, cohort.brains[name].n_targets) for name in cohort.predicted}
    pieces = [(name, block) for name in cohort.predicted for block in range(len(cohort.blocks(name)))]

    def file_of(piece: tuple[str, int]) -> journal.Block:
        targets = cohort.blocks(piece[0])[piece[1]]
        return journal.Block(f"reduced.{piece[0]}", int(targets[0]), int(targets[-1]) + 1)

    def compute(todo: Sequence[tuple[str, int]]) -> Iterator[tuple[tuple[str, int], np.ndarray]]:
        there = share(workers, cohort)
        files, fitted, penalties = _prepare(cohort, there, scratch, workers, dict.fromkeys(name for name, _ in todo))
        jobs = ((piece, (there, *piece, files, fitted, penalties[piece[0]])) for piece in todo)
        yield from run_jobs(workers, _score_block, jobs, cohort.threads)

    for (name, block), values in journal.resumed(pieces, file_of, kept, compute, progress):
        targets = cohort.blocks(name)[block]
        found[name].score[:, targets], found[name].alpha[:, targets] = values
    return found


def _prepare(
    cohort: Cohort, there: Any, scratch: Path, workers: Workers, wanted: Mapping[str, None]
) -> tuple[Any, Any, dict[str, Any]]:
    """Components of all subjects, what every subset makes of them, and penalties of the subjects to predict."""
    threads, names = cohort.threads, list(cohort.brains)
    files: Any = dict(run_jobs(workers, _reduce, [(name, (there, name, scratch)) for name in names], threads))
    files = share(workers, {name: files[name] for name in names})
    jobs = [(name, (there, name, files, scratch)) for name in wanted]
    penalties: Any = dict(run_jobs(workers, _choose, jobs, threads))
    everyone = share(workers, penalties)
    fits = [(subset, (there, subset, files, everyone, scratch)) for subset in subsets_of(names)]
    fits = [(subset, arguments) for subset, arguments in fits if set(wanted) - set(subset)]
    fitted = share(workers, dict(run_jobs(workers, _fit_subset, fits, threads)))
    return files, fitted, {name: share(workers, one) for name, one in penalties.items()}


def _open(files: Mapping[str, _Files], names: Sequence[str]) -> list[Components]:
    return [
        Components(kept_array(files[name].train), kept_array(files[name].test), files[name].energy) for name in names
    ]


def _reduce(cohort: Cohort, name: str, scratch: Path) -> _Files:
    """Task: components of a subject."""
    found = find_components(
        lambda: (cohort.read(name, targets) for targets in cohort.blocks(name)),
        cohort.train,
        COMPONENTS,
        cohort.backend,
    )
    return _Files(keep_array(scratch, found.train), keep_array(scratch, found.test), found.energy)


def _choose(cohort: Cohort, name: str, files: Mapping[str, _Files], scratch: Path) -> _Penalties:
    """Task: factor the first components of all other subjects, and choose penalties of a sample of targets."""
    others = _open(files, [other for other in cohort.brains if other != name])
    source = factor_few(others, cohort.folds, cohort.backend)
    n_targets = cohort.brains[name].n_targets
    sample = np.unique(np.linspace(0, n_targets - 1, min(n_targets, SAMPLED)).round().astype(int))
    parts = [
        standardised_targets(cohort.read(name, own), cohort.train)
        for own in (np.intersect1d(sample, targets) for targets in cohort.blocks(name))
        if own.size
    ]
    values = np.concatenate(parts, axis=1)
    known = fittable(values[cohort.train], values[~cohort.train], cohort.folds).known
    files_of = keep_source(cohort, source, scratch)
    return _Penalties(files_of, keep_array(scratch, known.astype(np.float32)), choose_places(source, known))


def _fit_subset(
    cohort: Cohort,
    subset: Subset,
    files: Mapping[str, _Files],
    penalties: Mapping[str, _Penalties],
    scratch: Path,
) -> _Fitted:
    """Task: how penalties of each subject outside a subset move, and what makes predictions from it."""
    parts = _open(files, subset)
    source = factor_few(parts, cohort.folds, cohort.backend)
    shifts = {
        name: find_shift(one.places, choose_places(source, kept_array(one.sample)))
        for name, one in penalties.items()
        if name not in subset
    }
    wanted = np.unique(np.concatenate([shift.reached for shift in shifts.values()]))
    smoothers = make_smoothers(parts, wanted)
    return _Fitted(shifts, {at: keep_array(scratch, values) for at, values in smoothers.items()}, source.alphas)


def _score_block(
    cohort: Cohort,
    name: str,
    block: int,
    files: Mapping[str, _Files],
    fitted: Mapping[Subset, _Fitted],
    penalties: _Penalties,
) -> np.ndarray:
    """Task: scores and penalties of a block of targets from every subset of the others, (2, subset, target)."""
    train, backend = cohort.train, cohort.backend
    values = standardised_targets(cohort.read(name, cohort.blocks(name)[block]), train)
    targets = fittable(values[train], values[~train], cohort.folds)
    subsets = [subset for subset in fitted if name not in subset]
    subsets.sort(key=subsets_of(list(cohort.brains)).index)
    found = np.full((2, len(subsets), values.shape[1]), np.nan)
    if targets.test is None or not targets.mask.any():
        return found
    everyone = choose_places(reopen_source(cohort, penalties.everyone), targets.known)
    known = backend.put(targets.known)
    others = [other for other in cohort.brains if other != name]
    products = {
        other: backend.get(backend.put(part.train).T @ known)
        for other, part in zip(others, _open(files, others), strict=True)
    }
    for row, subset in enumerate(subsets):
        own = fitted[subset]
        places = own.shifts[name](everyone)
        smoothers = {int(at): kept_array(own.smoothers[int(at)]) for at in np.unique(places)}
        joined = backend.put(np.concatenate([products[other] for other in subset]))
        found[0, row, targets.mask] = predicted_scores(smoothers, joined, places, targets.test, backend)
        found[1, row, targets.mask] = own.alphas[places]
    return found


def n_reduced_pieces(cohort: Cohort) -> int:
    """Blocks that `reduced_scores` counts in its progress."""
    return sum(len(cohort.blocks(name)) for name in cohort.predicted)


def reduced_work(cohort: Cohort) -> float:
    """Multiplications of `reduced_scores`, roughly.

    Parameters
    ----------
    cohort : Cohort
    """
    n_rows, n_test, names = float(cohort.train.sum()), float((~cohort.train).sum()), list(cohort.brains)
    total = 0.0
    for brain in map(cohort.brains.__getitem__, cohort.predicted):
        per_target = 5 * n_rows * COMPONENTS + (len(names) - 1) * n_rows * (COMPONENTS + 8 * FEW)
        total += per_target * brain.n_targets
    for subset in subsets_of(names):
        width = len(subset) * COMPONENTS
        outside = sum(cohort.brains[name].n_targets for name in cohort.predicted if name not in subset)
        total += n_rows * width**2 + 6 * (width**3 / 3 + n_test * width**2) + n_test * width * outside
    return total
