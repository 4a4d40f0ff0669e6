"""Ceilings of brain cubes, out of core: no more than blocks of targets, and kernels of rows, are in memory.

Kernels of subjects and factors of subsets are files in a scratch folder, which whoever needs them maps: workers on
other machines read them there, and what a lost worker had made stays. With n training and m test rows and k folds a
subject's kernel has 8 n (n + m) bytes and a subset's factors (k + 1) 4 n² or less. While a subset is factored one
kernel and four matrices of 8 n² are in memory, and the factors: 8 GB for the 11,013 + 2,008 rows of Movie10. On one
machine several are factored side by side where that stays below `SUBSETS_IN_MEMORY`. While targets are scored each
worker holds 50 bytes per row and target of its block, 2.7 GB there, and a batch of 256 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from cinecube.analysis.ceilings.cross_subject import (
    RELATIVE_ALPHAS,
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
from cinecube.analysis.ridge.factors import Array, Backend, Factor, Factors, Form, choose_form
from cinecube.analysis.ridge.folds import Fold
from cinecube.analysis.ridge.scores import Scores
from cinecube.store.base import journal
from cinecube.store.base.atomic import remove
from cinecube.store.base.writing import keep_array, kept_array
from cinecube.store.jobs.tasks import Progress, Threads, Workers, run_jobs, share
from cinecube.store.params.analysis_params import CeilingParams

SUBSETS_IN_MEMORY = 8 * 2**30
# Per row and target of a block, while it is standardised: in float32 as read, and in float64 several times over.
_BLOCK_BYTES = 40
_Item = TypeVar("_Item")
Subset = tuple[str, ...]


@dataclass(frozen=True)
class Cohort:
    """Subjects who are predicted from each other, and the rows that all of them have.

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
    one_machine : bool
        Whether all workers share the memory of this one.
    only : tuple of str
        Those who are predicted, where the others are sources alone; without any, all are predicted.
    """

    brains: Mapping[str, Responses]
    group: RowsGroup
    folds: list[Fold]
    targets_per_block: int = 4096
    threads: int = 1
    backend: Backend = field(default_factory=Backend)
    one_machine: bool = True
    only: tuple[str, ...] = ()

    @property
    def predicted(self) -> list[str]:
        """Subjects who are predicted, in order."""
        return [name for name in self.brains if name in (self.only or self.brains)]

    @property
    def train(self) -> np.ndarray:
        """Mask (row,) of the training films' rows."""
        return self.group.train

    def blocks(self, name: str) -> list[np.ndarray]:
        """Positions on a subject's target axis, block by block."""
        return _blocks(self.brains[name], self.targets_per_block)

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


def _blocks(brain: Responses, size: int) -> list[np.ndarray]:
    everything = np.arange(brain.n_targets)
    return [everything[at : at + size] for at in everything[::size]]


class _KernelFiles(NamedTuple):
    """Files of a `Kernel`."""

    whole: Path
    test: Path


@dataclass(frozen=True)
class SourceFiles:
    """Files of a `SourceSubject`: its design, and values, basis and left of each factor, that of all rows last."""

    alphas: np.ndarray
    form: Form
    design: Path | None
    parts: list[tuple[Path, Path, Path]]


class _Piece(NamedTuple):
    """A block, by number, of a subject outside a subset: what one task scores."""

    subset: Subset
    name: str
    block: int


def score_subsets(
    cohort: Cohort,
    scratch: Path,
    workers: Workers = None,
    kept: journal.Journal | None = None,
    progress: Progress | None = None,
) -> dict[str, CrossScores]:
    """Predict subjects from every subset of the others; `cross_subject_scores` for cubes.

    Parameters
    ----------
    cohort : Cohort
    scratch : Path
        An empty folder for kernels and factors, on a disk that workers share.
    workers : Client, Threads or None
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
        If there are fewer than two subjects, responses hold NaN in part, or workers are lost.
    """
    subsets = subsets_of(list(cohort.brains))
    found = {name: empty_scores(subsets, name, cohort.brains[name].n_targets) for name in cohort.predicted}
    pieces = [piece for subset in subsets for piece in _pieces_of(cohort, subset)]

    def compute(todo: Sequence[_Piece]) -> Iterator[tuple[_Piece, np.ndarray]]:
        for piece, scores in _score_pieces(cohort, todo, scratch, workers):
            yield piece, np.stack([scores.score, scores.alpha])

    for piece, values in journal.resumed(pieces, partial(_file_of, cohort), kept, compute, progress):
        row = found[piece.name].subsets.index(piece.subset)
        targets = cohort.blocks(piece.name)[piece.block]
        found[piece.name].score[row, targets], found[piece.name].alpha[row, targets] = values
    return found


def empty_scores(subsets: Sequence[Subset], name: str, n_targets: int) -> CrossScores:
    """Scores of one subject that are not known yet.

    Parameters
    ----------
    subsets : sequence of tuple of str
        Of all subjects; those with this one among them are left out.
    name : str
    n_targets : int

    Returns
    -------
    CrossScores
        Of the subsets without this subject; NaN throughout.
    """
    mine = tuple(subset for subset in subsets if name not in subset)
    return CrossScores(mine, *np.full((2, len(mine), n_targets), np.nan))


def _pieces_of(cohort: Cohort, subset: Subset) -> list[_Piece]:
    others = [name for name in cohort.predicted if name not in subset]
    return [_Piece(subset, name, block) for name in others for block in range(len(cohort.blocks(name)))]


def _file_of(cohort: Cohort, piece: _Piece) -> journal.Block:
    targets = cohort.blocks(piece.name)[piece.block]
    return journal.Block(f"{'+'.join(sorted(piece.subset))}.{piece.name}", int(targets[0]), int(targets[-1]) + 1)


def _score_pieces(
    cohort: Cohort, todo: Sequence[_Piece], scratch: Path, workers: Workers
) -> Iterator[tuple[_Piece, Scores]]:
    """Scores of pieces; subsets are factored side by side, then all workers score what they predict."""
    subsets = list(dict.fromkeys(piece.subset for piece in todo))
    there = share(workers, cohort)
    kernels = _make_kernels(cohort, there, subsets, scratch, workers)
    for number, wave in enumerate(_waves(cohort, subsets, _subset_bytes(cohort), workers)):
        folder = scratch / f"wave{number}"
        factoring = [(subset, (there, subset, [kernels.get(name) for name in subset], folder)) for subset in wave]
        files = dict(run_jobs(workers, _factor_subset, factoring, cohort.threads))
        sources = {subset: share(workers, one) for subset, one in files.items()}
        scoring = [(piece, (there, piece, sources[piece.subset])) for piece in todo if piece.subset in wave]
        yield from run_jobs(workers, _score_piece, scoring, cohort.threads)
        remove(folder)


def _waves(cohort: Cohort, items: Sequence[_Item], n_bytes: int, workers: Workers) -> Iterator[Sequence[_Item]]:
    """Items that are worked on side by side: no more than fit in one machine's memory, nor than there are workers."""
    size = 1 if workers is None else workers.n_workers if isinstance(workers, Threads) else workers.watch.n_threads
    if cohort.one_machine:
        size = min(size, max(1, SUBSETS_IN_MEMORY // n_bytes))
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _is_kernel(cohort: Cohort, subset: Subset) -> bool:
    """True if a subset has more targets than there are training rows, so that its kernel is the smaller matrix."""
    n_targets = sum(cohort.brains[name].n_targets for name in subset)
    return choose_form(int(cohort.train.sum()), n_targets) == "dual"


def _make_kernels(
    cohort: Cohort, there: Any, subsets: Iterable[Subset], scratch: Path, workers: Workers
) -> dict[str, _KernelFiles]:
    """Kernels of all subjects of some subsets; of subsets with few targets none is needed."""
    wanted = {name for subset in subsets if _is_kernel(cohort, subset) for name in subset}
    names = [name for name in cohort.brains if name in wanted]
    block_bytes = _BLOCK_BYTES * len(cohort.train) * cohort.targets_per_block
    kernels: dict[str, _KernelFiles] = {}
    for wave in _waves(cohort, names, 2 * _kernel_bytes(cohort) + block_bytes, workers):
        jobs = [(name, (there, name, scratch)) for name in wave]
        kernels.update(run_jobs(workers, _subject_kernel, jobs, cohort.threads))
    return kernels


def _kernel_bytes(cohort: Cohort) -> int:
    return 8 * int(cohort.train.sum()) * len(cohort.train)


def _subset_bytes(cohort: Cohort) -> int:
    """Largest memory while a subset is factored; see this file's beginning."""
    return _kernel_bytes(cohort) + (4 * 8 + 4 * (len(cohort.folds) + 1)) * int(cohort.train.sum()) ** 2


def _subject_kernel(cohort: Cohort, name: str, scratch: Path) -> _KernelFiles:
    """Task: the kernel of all targets of a subject."""
    kernel = sum_kernels(block_kernel(cohort.read(name, targets), cohort.train) for targets in cohort.blocks(name))
    return _KernelFiles(keep_array(scratch, kernel.whole), keep_array(scratch, kernel.test))


def _factor_subset(cohort: Cohort, subset: Subset, kernels: Sequence[_KernelFiles | None], folder: Path) -> SourceFiles:
    """Task: factor a subset of subjects."""
    if _is_kernel(cohort, subset):
        total = sum_kernels(Kernel(*map(kept_array, files)) for files in kernels if files)
        source = factor_kernel(total, cohort.folds, backend=cohort.backend)
    else:
        responses = [cohort.read(name, np.arange(cohort.brains[name].n_targets)) for name in subset]
        source = factor_targets(responses, cohort.train, cohort.folds, backend=cohort.backend)
    return keep_source(cohort, source, folder)


def keep_source(cohort: Cohort, source: SourceSubject, folder: Path) -> SourceFiles:
    """Write what was factored into a folder.

    Parameters
    ----------
    cohort : Cohort
    source : SourceSubject
    folder : Path

    Returns
    -------
    SourceFiles
        The files' paths, and the penalties.
    """

    def keep(values: Array) -> Path:
        return keep_array(folder, cohort.backend.get(values))

    factors = source.factors
    parts = [(keep(one.values), keep(one.basis), keep(one.left)) for one in (*factors.by_fold, factors.whole)]
    design = None if factors.design is None else keep(factors.design)
    return SourceFiles(source.alphas, factors.form, design, parts)


def reopen_source(cohort: Cohort, files: SourceFiles) -> SourceSubject:
    """Open what `keep_source` wrote, mapped.

    Parameters
    ----------
    cohort : Cohort
    files : SourceFiles

    Returns
    -------
    SourceSubject
        Its arrays are mapped from the files; on a GPU, all but the eigenvalues are copied there.
    """
    backend = cohort.backend

    def put(path: Path) -> Array:
        mapped = kept_array(path)
        return mapped if backend.library == "numpy" else backend.put(np.array(mapped))

    *by_fold, whole = (Factor(kept_array(values), put(basis), put(left)) for values, basis, left in files.parts)
    design = None if files.design is None else put(files.design)
    return SourceSubject(Factors(backend, files.form, design, cohort.folds, by_fold, whole), files.alphas)


def _score_piece(cohort: Cohort, piece: _Piece, files: SourceFiles) -> Scores:
    """Task: predict a block of a subject's targets from a subset, and score it."""
    responses = cohort.read(piece.name, cohort.blocks(piece.name)[piece.block])
    return score_targets(reopen_source(cohort, files), responses, cohort.train)


def n_subset_pieces(cohort: Cohort) -> int:
    """Blocks that `score_subsets` counts in its progress."""
    return sum(len(_pieces_of(cohort, subset)) for subset in subsets_of(list(cohort.brains)))


def cross_subject_work(cohort: Cohort) -> float:
    """Multiplications of `score_subsets`, roughly: those that factor subsets, and those that predict from them.

    Parameters
    ----------
    cohort : Cohort
    """
    n_rows, names = float(cohort.train.sum()), list(cohort.brains)
    n_targets = {name: cohort.brains[name].n_targets for name in names}
    total = 0.0
    for subset in subsets_of(names) if len(names) > 1 else []:
        rank = min(n_rows, sum(n_targets[name] for name in subset))
        predicted = sum(n_targets[name] for name in cohort.predicted if name not in subset)
        if not predicted:
            continue
        total += (len(cohort.folds) + 1) * 9 * rank**3 + len(RELATIVE_ALPHAS) * n_rows * rank * predicted
    return total


def score_repeats(
    brains: Mapping[str, Responses],
    showings: Mapping[str, np.ndarray],
    params: CeilingParams,
    workers: Workers = None,
    targets_per_block: int = 4096,
    threads: int = 1,
) -> dict[str, RepeatCeilings]:
    """Ceilings from repeated showings.

    Parameters
    ----------
    brains : Mapping of str to Responses
        By subject.
    showings : dict of str to array of int, shape (row, showing)
        Positions in a subject's brain cube of rows that were shown several times, in order of time.
    params : CeilingParams
    workers : Client, Threads or None
    targets_per_block : int
        Targets that are read at once.
    threads : int
        BLAS threads of each task.

    Returns
    -------
    dict of str to RepeatCeilings

    Raises
    ------
    StudyError
        If `params.block_rows` leaves fewer than two blocks.
    """
    found = {name: RepeatCeilings(*np.full((9, brains[name].n_targets), np.nan)) for name in showings}
    there = {name: share(workers, (brains[name], showings[name])) for name in showings}
    blocks = {name: _blocks(brains[name], targets_per_block) for name in showings}
    jobs = [
        ((name, block), (there[name], targets, params))
        for name in showings
        for block, targets in enumerate(blocks[name])
    ]
    for (name, block), part in run_jobs(workers, _repeat_block, jobs, threads):
        for kind, values in vars(part).items():
            getattr(found[name], kind)[blocks[name][block]] = values
    return found


def _repeat_block(there: tuple[Responses, np.ndarray], targets: np.ndarray, params: CeilingParams) -> RepeatCeilings:
    """Task: ceilings of a block of targets."""
    brain, showings = there
    responses = np.stack([brain.read(showing[:, None], targets) for showing in showings.T])
    return repeat_ceilings(responses, params.block_rows, params.bootstraps, seed=params.seed)


def run_by_subject(
    workers: Workers, function: Callable[..., _Item], arguments: Mapping[str, tuple[object, ...]], threads: int
) -> dict[str, _Item]:
    """Run a function for each subject, side by side.

    Parameters
    ----------
    workers : Client, Threads or None
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
