"""Ceilings of brain cubes, out of core: no more than blocks of targets, and kernels of rows, are in memory.

Of a subset of subjects, with n training and m test rows and k folds, 8 n (n + m) bytes of kernel, four matrices of 8 n²
while one of its parts is factored, and k + 1 factors of 4 n² or less are held at once: 8 GB for the 11,013 + 2,008 rows
of Movie10. Several subsets are factored side by side where that stays below `SUBSETS_IN_MEMORY`. Kernels of single
subjects, 1.1 GB each there, are kept on disk where they exceed `KERNELS_IN_MEMORY` together. While targets are scored a
subset's factors are left, and each thread holds 50 bytes per row and target of its block, 2.7 GB there, and a batch of
256 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from cinecube.analysis.ceilings.cross_subject import (
    CrossScores,
    Kernel,
    SourceSubject,
    block_kernel,
    factor_kernel,
    factor_targets,
    score_targets,
    subsets_of,
    sum_kernels,
)
from cinecube.analysis.ceilings.repeats import RepeatCeilings, repeat_ceilings
from cinecube.analysis.cubes.rows import RowsGroup
from cinecube.analysis.cubes.spaces import Responses
from cinecube.analysis.ridge.factors import Backend, choose_form
from cinecube.analysis.ridge.folds import Fold
from cinecube.analysis.ridge.scores import Scores
from cinecube.store.base import journal
from cinecube.store.jobs.tasks import Progress, Threads, run_jobs
from cinecube.store.params.analysis_params import CeilingParams

KERNELS_IN_MEMORY = 2 * 2**30
SUBSETS_IN_MEMORY = 8 * 2**30
# Per row and target of a block, while it is standardised: in float32 as read, and in float64 several times over.
_BLOCK_BYTES = 40
_Item = TypeVar("_Item")
Subset = tuple[str, ...]


@dataclass(frozen=True)
class Cohort:
    """Subjects, and the rows that all of them have.

    Attributes
    ----------
    brains : dict of str to Responses
    group : RowsGroup
    folds : list of (train, validation)
        Positions among the training rows.
    targets_per_block : int
        Targets that are read at once.
    threads : int
        BLAS threads of each task.
    backend : Backend
    """

    brains: Mapping[str, Responses]
    group: RowsGroup
    folds: list[Fold]
    targets_per_block: int = 4096
    threads: int = 1
    backend: Backend = field(default_factory=Backend)

    @property
    def train(self) -> np.ndarray:
        """Mask (row,) of the training films' rows."""
        return self.group.train

    def blocks(self, name: str) -> list[np.ndarray]:
        """Positions on a subject's target axis, block by block."""
        everything = np.arange(self.brains[name].n_targets)
        return [everything[at : at + self.targets_per_block] for at in everything[:: self.targets_per_block]]

    def read(self, name: str, targets: np.ndarray) -> np.ndarray:
        """Responses of some of a subject's targets, float32 (row, target).

        Parameters
        ----------
        name : str
            The subject's.
        targets : array of int, shape (target,)
            Positions on the subject's target axis.

        Returns
        -------
        array of float32, shape (row, target)
        """
        return self.brains[name].read(self.group.showings[name], targets)


class _Piece(NamedTuple):
    """A block, by number, of a subject outside a subset: what one task scores."""

    subset: Subset
    name: str
    block: int


def score_subsets(
    cohort: Cohort,
    scratch: Path,
    workers: Threads | None = None,
    kept: journal.Journal | None = None,
    progress: Progress | None = None,
) -> dict[str, CrossScores]:
    """Predict every subject from every subset of the others; `cross_subject_scores` for cubes.

    Parameters
    ----------
    cohort : Cohort
    scratch : Path
        An empty folder for kernels that do not fit in memory together.
    workers : Threads, optional
        Without them all runs here, one task after another.
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
        If there are fewer than two subjects, or responses hold NaN in part.
    """
    subsets = subsets_of(list(cohort.brains))
    found = {name: _empty(subsets, name, brain.n_targets) for name, brain in cohort.brains.items()}
    pieces = [piece for subset in subsets for piece in _pieces_of(cohort, subset)]

    def place(piece: _Piece, values: np.ndarray) -> None:
        row = found[piece.name].subsets.index(piece.subset)
        targets = cohort.blocks(piece.name)[piece.block]
        found[piece.name].score[row, targets], found[piece.name].alpha[row, targets] = values

    todo = []
    for piece in pieces:
        if kept and kept.has(_file_of(cohort, piece)):
            place(piece, kept.read(_file_of(cohort, piece)))
        else:
            todo.append(piece)
    done = len(pieces) - len(todo)
    if progress:
        progress(done, len(pieces))
    for piece, scores in _score_pieces(cohort, todo, scratch, workers):
        values = np.stack([scores.score, scores.alpha])
        place(piece, values)
        if kept:
            kept.write(_file_of(cohort, piece), values)
        done += 1
        if progress:
            progress(done, len(pieces))
    return found


def _empty(subsets: Sequence[Subset], name: str, n_targets: int) -> CrossScores:
    mine = tuple(subset for subset in subsets if name not in subset)
    return CrossScores(mine, *np.full((2, len(mine), n_targets), np.nan))


def _pieces_of(cohort: Cohort, subset: Subset) -> list[_Piece]:
    others = [name for name in cohort.brains if name not in subset]
    return [_Piece(subset, name, block) for name in others for block in range(len(cohort.blocks(name)))]


def _file_of(cohort: Cohort, piece: _Piece) -> journal.Block:
    targets = cohort.blocks(piece.name)[piece.block]
    return journal.Block(f"{'+'.join(sorted(piece.subset))}.{piece.name}", int(targets[0]), int(targets[-1]) + 1)


def _score_pieces(
    cohort: Cohort, todo: Sequence[_Piece], scratch: Path, workers: Threads | None
) -> Iterator[tuple[_Piece, Scores]]:
    """Scores of pieces; subsets are factored side by side, then all workers score what they predict."""
    subsets = list(dict.fromkeys(piece.subset for piece in todo))
    kernels = _make_kernels(cohort, subsets, scratch, workers)
    for wave in _waves(subsets, SUBSETS_IN_MEMORY // _subset_bytes(cohort), workers):
        factoring = [(subset, (cohort, subset, kernels)) for subset in wave]
        yield from _score_wave(cohort, factoring, [piece for piece in todo if piece.subset in wave], workers)


def _score_wave(
    cohort: Cohort,
    factoring: Sequence[tuple[Subset, tuple[object, ...]]],
    pieces: Sequence[_Piece],
    workers: Threads | None,
) -> Iterator[tuple[_Piece, Scores]]:
    """Scores of what some subsets predict; their factors are dropped before the next ones are made."""
    sources = dict(run_jobs(workers, _factor_subset, factoring, cohort.threads))
    scoring = [(piece, (cohort, piece, sources[piece.subset])) for piece in pieces]
    yield from run_jobs(workers, _score_piece, scoring, cohort.threads)


def _waves(items: Sequence[_Item], at_once: int, workers: Threads | None) -> Iterator[Sequence[_Item]]:
    """Items that are worked on side by side: no more than fit in memory, nor than there are workers."""
    size = min(max(1, at_once), workers.n_workers if workers else 1)
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _is_kernel(cohort: Cohort, subset: Subset) -> bool:
    """True if a subset has more targets than there are training rows, so that its kernel is the smaller matrix."""
    n_targets = sum(cohort.brains[name].n_targets for name in subset)
    return choose_form(int(cohort.train.sum()), n_targets) == "dual"


def _make_kernels(
    cohort: Cohort, subsets: Iterable[Subset], scratch: Path, workers: Threads | None
) -> dict[str, Kernel]:
    """Kernels of all subjects of some subsets; of subsets with few targets none is needed."""
    wanted = {name for subset in subsets if _is_kernel(cohort, subset) for name in subset}
    names = [name for name in cohort.brains if name in wanted]
    on_disk = len(names) * _kernel_bytes(cohort) > KERNELS_IN_MEMORY
    block_bytes = _BLOCK_BYTES * len(cohort.train) * cohort.targets_per_block
    at_once = SUBSETS_IN_MEMORY // (2 * _kernel_bytes(cohort) + block_bytes)
    kernels = {}
    for wave in _waves(names, at_once, workers):
        jobs = [(name, (cohort, name)) for name in wave]
        for name, kernel in run_jobs(workers, _subject_kernel, jobs, cohort.threads):
            kernels[name] = _map_to_disk(kernel, scratch / name) if on_disk else kernel
    return kernels


def _kernel_bytes(cohort: Cohort) -> int:
    return 8 * int(cohort.train.sum()) * len(cohort.train)


def _subset_bytes(cohort: Cohort) -> int:
    """Largest memory while a subset is factored; see this file's beginning."""
    return _kernel_bytes(cohort) + (4 * 8 + 4 * (len(cohort.folds) + 1)) * int(cohort.train.sum()) ** 2


def _subject_kernel(cohort: Cohort, name: str) -> Kernel:
    """Task: the kernel of all targets of a subject."""
    return sum_kernels(block_kernel(cohort.read(name, targets), cohort.train) for targets in cohort.blocks(name))


def _map_to_disk(kernel: Kernel, folder: Path) -> Kernel:
    folder.mkdir(parents=True)

    def mapped(name: str, values: np.ndarray) -> np.ndarray:
        np.save(folder / name, values, allow_pickle=False)
        return np.load(folder / name, mmap_mode="r", allow_pickle=False)

    return Kernel(mapped("whole.npy", kernel.whole), mapped("test.npy", kernel.test))


def _factor_subset(cohort: Cohort, subset: Subset, kernels: Mapping[str, Kernel]) -> SourceSubject:
    """Task: factor a subset of subjects."""
    if _is_kernel(cohort, subset):
        total = sum_kernels(kernels[name] for name in subset)
        return factor_kernel(total, cohort.folds, backend=cohort.backend)
    responses = [cohort.read(name, np.arange(cohort.brains[name].n_targets)) for name in subset]
    return factor_targets(responses, cohort.train, cohort.folds, backend=cohort.backend)


def _score_piece(cohort: Cohort, piece: _Piece, source: SourceSubject) -> Scores:
    """Task: predict a block of a subject's targets from a subset, and score it."""
    return score_targets(source, cohort.read(piece.name, cohort.blocks(piece.name)[piece.block]), cohort.train)


def score_repeats(
    cohort: Cohort, showings: Mapping[str, np.ndarray], params: CeilingParams, workers: Threads | None = None
) -> dict[str, RepeatCeilings]:
    """Ceilings from repeated showings.

    Parameters
    ----------
    cohort : Cohort
    showings : dict of str to array of int, shape (row, showing)
        Positions in a subject's brain cube of rows that were shown several times, in order of time.
    params : CeilingParams
    workers : Threads, optional

    Returns
    -------
    dict of str to RepeatCeilings

    Raises
    ------
    StudyError
        If `params.block_rows` leaves fewer than two blocks.
    """
    found = {name: RepeatCeilings(*np.full((9, cohort.brains[name].n_targets), np.nan)) for name in showings}
    jobs = [
        ((name, block), (cohort.brains[name], showings[name], targets, params))
        for name in showings
        for block, targets in enumerate(cohort.blocks(name))
    ]
    for (name, block), part in run_jobs(workers, _repeat_block, jobs, cohort.threads):
        for kind, values in vars(part).items():
            getattr(found[name], kind)[cohort.blocks(name)[block]] = values
    return found


def _repeat_block(brain: Responses, showings: np.ndarray, targets: np.ndarray, params: CeilingParams) -> RepeatCeilings:
    """Task: ceilings of a block of targets."""
    responses = np.stack([brain.read(showing[:, None], targets) for showing in showings.T])
    return repeat_ceilings(responses, params.block_rows, params.bootstraps, seed=params.seed)


def run_by_subject(
    workers: Threads | None, function: Callable[..., _Item], arguments: Mapping[str, tuple[object, ...]], threads: int
) -> dict[str, _Item]:
    """Run a function for each subject, side by side.

    Parameters
    ----------
    workers : Threads or None
    function : callable
    arguments : Mapping of str to tuple
        Arguments of the call, by subject.
    threads : int
        BLAS threads of each call.

    Returns
    -------
    dict
        Subject -> result, in the order of `arguments`.
    """
    found = dict(run_jobs(workers, function, list(arguments.items()), threads))
    return {name: found[name] for name in arguments}
