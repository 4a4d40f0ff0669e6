"""Needs of stages, by sizes that are known before they run: work, workers, memory, and bytes of cubes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np

from cinecube.status.timings import COUNTED
from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import StudyPaths
from cinecube.store.clock.films_table import rows_here
from cinecube.store.cube.heads import read_head
from cinecube.store.jobs.tasks import SMALL_WORK, planned_workers
from cinecube.store.params.analysis_params import Pair
from cinecube.store.params.document import Study
from cinecube.store.params.run_params import JobQueue

# Seconds of a stage that do not grow: starting, and reading labels.
_START_S = 3.0
# Multiplications a second of one core, as layers of the paper's study were factored (docs/howto/clusters.md).
_RATE = 4e10
# Of a layer's targets: the penalties that are tried on the folds, and what finds Z and predicts.
_TRIED = 10
# Labels of a target: its number, three coordinates, hemisphere and parcel.
_LABEL_BYTES, _ITEM = 44, 4
# As many lags are scanned.
_LAGS = 8
# Maps of a subject in the ceiling cube, beside one for each number of others.
_CEILINGS = 8


@dataclass(frozen=True)
class StudySizes:
    """Sizes of a study, as far as its cubes, films and checkpoints tell them.

    Attributes
    ----------
    train_rows, test_rows : int
    stored_rows : int
        Of the longest brain cube, repeats among them.
    targets : dict of str to int
        By subject; of one whose brain cube is not made yet the most of the others.
    axis : int
        Targets of all subjects on one axis.
    """

    train_rows: int
    test_rows: int
    stored_rows: int
    targets: Mapping[str, int]
    axis: int

    @property
    def all_targets(self) -> int:
        """Targets of all subjects, each counted for itself."""
        return sum(self.targets.values())


@dataclass(frozen=True)
class Load:
    """Work of a stage.

    Attributes
    ----------
    multiplications : float
        Roughly.
    tasks : int
        Into which they are divided, so that more workers have nothing to do.
    """

    multiplications: float
    tasks: int

    def is_alone(self, study: Study) -> bool:
        """True if the command computes itself, in threads."""
        return study.dask == "local" and self.multiplications < SMALL_WORK

    def workers(self, study: Study) -> int:
        """Processes that take its tasks; 1 where it computes in threads of the command itself."""
        if self.is_alone(study):
            return 1
        return planned_workers(study.dask, study.run.threads)

    def at_once(self, study: Study) -> int:
        """Tasks that one of these processes runs at once, as threads that share its memory."""
        if isinstance(study.dask, JobQueue):
            cores, processes = (study.dask.options.get(key, 1) for key in ("cores", "processes"))
            return max(1, cores // max(1, processes)) if isinstance(cores, int) and isinstance(processes, int) else 1
        return planned_workers("local", study.run.threads) if self.is_alone(study) else 1

    def nominal_s(self, study: Study) -> float:
        """Seconds on a machine of no name: two of them compare two studies, or two numbers of workers."""
        hands = min(self.tasks, self.workers(study) * self.at_once(study))
        return _START_S + self.multiplications / _RATE / max(1, hands)


Widths = Callable[[str], Sequence[int]]
"""Dims of every layer of a model's or pair's streams; raises a StudyError where that is not known yet."""


def sizes_of(study: Study, root: Path, rows: Callable[[str], int]) -> StudySizes:
    """Sizes of a study.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    rows : callable
        Rows of a film.

    Returns
    -------
    StudySizes

    Raises
    ------
    StudyError
        If films are not known yet, or not one brain cube is there.
    """
    train, test = (sum(map(rows, films)) for films in (study.split.train, study.split.test))
    found: dict[str, np.ndarray] = {}
    last: StudyError | None = None
    stored = 0
    for subject in study.brain.subjects:
        try:
            head = read_head(StudyPaths(root).brain(subject))
        except StudyError as error:
            last = error
        else:
            found[subject], stored = np.asarray(head.labels["target"]), max(stored, head.sizes["time"])
    if not found and last is not None:
        raise last
    most = max(len(own) for own in found.values())
    targets = {subject: len(found[subject]) if subject in found else most for subject in study.brain.subjects}
    return StudySizes(train, test, stored, targets, len(np.unique(np.concatenate(list(found.values())))))


def work_of(study: Study, root: Path, kind: str, item: str) -> float:
    """Work of a stage that has just run, which the time of the next like it grows with; 1 where nothing is known to.

    By the heads of the cubes that it read: what knows networks and films before there are cubes is more to import
    than most stages need.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    kind, item : str
        See `Timing`.

    Returns
    -------
    float
    """
    paths, film = StudyPaths(root), study.split.test[0]
    pairs = {pair.name for pair in study.residual}

    def rows(one: str) -> int:
        return sum(rows_here(paths.films, study.film(one), study.clock).values())

    def widths(name: str) -> list[int]:
        cube = paths.residual(name, film) if name in pairs else paths.features(name, film)
        return [int(width) for width in read_head(cube, complete=False).labels["width"].ravel() if width]

    if kind not in COUNTED or (kind == "partition" and not study.partition):
        return 1.0
    try:
        return load_of(study, sizes_of(study, root, rows), widths, kind, item).nominal_s(study)
    except StudyError:
        return 1.0


def load_of(study: Study, sizes: StudySizes, widths: Widths, kind: str, item: str) -> Load:
    """Work of a stage in `COUNTED`.

    Parameters
    ----------
    study : Study
    sizes : StudySizes
    widths : callable
    kind, item : str
        The stage, and its model or pair.

    Returns
    -------
    Load

    Raises
    ------
    StudyError
        If a model's layers are not known yet.
    """
    rows, folds = float(sizes.train_rows), study.encode.folds + 1
    blocks = sum(ceil(own / study.encode.targets_per_block) for own in sizes.targets.values())
    targets = float(sizes.all_targets)
    if kind == "encode":
        ranks = [min(rows, width * len(study.encode.delays)) for width in widths(item)]
        total = sum(9 * folds * rank**3 + _TRIED * rows * rank * targets for rank in ranks)
        return Load(total, len(ranks) * blocks)
    if kind == "residual_features":
        pair = study.pair(item)
        kept, gone = widths(study.owner(pair.keep)), _removed(study, pair, widths)
        factoring = 9 * folds * (min(rows, gone) ** 3 + sum(min(rows, width) ** 3 for width in kept))
        return Load(factoring + rows * min(rows, gone) * study.encode.alphas.n * sum(kept), len(kept))
    if kind == "partition":
        fits = sum(4**n - 3**n for n in _subsets_of(study.partition))
        return Load(fits * rows**2 * (targets * study.encode.alphas.n + 9 * rows * folds), fits)
    if kind == "ceiling":
        predicted = sum(targets - sum(own) for own in _parts(list(sizes.targets.values())))
        return Load(predicted * rows * min(rows, 1000.0) + targets * study.ceiling.bootstraps * 1e3, blocks)
    wide = [max(widths(model)) * len(study.encode.delays) for model in study.encoded]
    tested = (len(wide) + len(study.statistics.compare)) * study.statistics.permutations * sizes.test_rows
    return Load(targets * (sum(2 * rows * min(rows, rank) for rank in wide) + tested), blocks)


def _removed(study: Study, pair: Pair, widths: Widths) -> float:
    """Dims that a pair removes, side by side."""
    own = widths(study.owner(pair.remove))
    return float(sum(own) if pair.layers == "all" else max(own) * len(pair.layers))


def _subsets_of(sets: Sequence[Sequence[str]]) -> list[int]:
    """Sizes of the subsets of streams that the sets need, each once."""
    wanted = {
        frozenset(part) for one in sets for n in range(1, len(one) + 1) for part in itertools.combinations(one, n)
    }
    return [len(part) for part in wanted]


def _parts(targets: Sequence[int]) -> list[Sequence[int]]:
    """Targets of every set of subjects that leaves one to predict."""
    return [part for n in range(1, len(targets)) for part in itertools.combinations(targets, n)]


def cube_bytes(study: Study, sizes: StudySizes, kind: str, layers: int, streams: int) -> int:
    """Bytes of a cube of results that is not made yet: its numbers, float32 and hardly compressed, and labels.

    Parameters
    ----------
    study : Study
    sizes : StudySizes
    kind : str
        `encode`, `ceiling`, `partition` or `significance`.
    layers, streams : int
        Of the model, on the axes of its score cube; streams of all models for tests.

    Returns
    -------
    int
    """
    subjects, compared = len(sizes.targets), len(study.statistics.compare)
    if kind == "encode":
        maps = subjects * streams * (3 * layers + _LAGS)
    elif kind == "partition":
        maps = sum(subjects * (2 * (2 ** len(one) - 1) + 2 * len(one)) for one in study.partition)
    elif kind == "ceiling":
        maps = subjects * (_CEILINGS + subjects - 1)
    else:
        maps = 3 * (subjects * (streams + compared) + (streams if subjects > 2 else 0))
    return sizes.axis * (_ITEM * maps + _LABEL_BYTES)


def encode_memory(study: Study, sizes: StudySizes, widest: int, load: Load) -> int:
    """Memory of each process that fits encoders.

    Parameters
    ----------
    study : Study
    sizes : StudySizes
    widest : int
        Dims of the widest layer.
    load : Load
        Of the encoder.

    Returns
    -------
    int
        Bytes.
    """
    from cinecube.analysis.encoders.memory import EncodeSize, encode_bytes

    size = EncodeSize(
        stored_rows=sizes.stored_rows,
        train_rows=sizes.train_rows,
        test_rows=sizes.test_rows,
        features=widest * len(study.encode.delays),
        dims=widest,
        folds=study.encode.folds,
        targets=sizes.all_targets,
        targets_per_block=study.encode.targets_per_block,
        at_once=load.at_once(study),
        alone=load.is_alone(study),
        shared=study.encode.solver == "shared",
    )
    return encode_bytes(size)
