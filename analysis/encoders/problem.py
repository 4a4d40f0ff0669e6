"""The problem of encoding one model: its features, everybody's responses, the rows that they share, how to fit.

Tasks see no labels but a `Layout`: the positions of a group's rows, runs and folds. What one task reads and solves is a
`Block` of targets, of one subject or several.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cinecube.analysis.cubes.rows import RowsGroup, align, find_unfit
from cinecube.analysis.cubes.spaces import FeatureSpace, Responses, check_same_space, open_responses, open_space
from cinecube.analysis.encoders import VERSIONS
from cinecube.analysis.encoders.oota2025 import choose_inputs
from cinecube.analysis.ridge.design import Run, constants, cut_runs, delayed, join_runs, standardise
from cinecube.analysis.ridge.factors import Backend, check_backend
from cinecube.analysis.ridge.folds import Fold, Gap, leave_segments_out
from cinecube.store.base.fingerprint import fingerprint
from cinecube.store.base.paths import StudyPaths
from cinecube.store.clock.clock import step_s
from cinecube.store.cube.schema import SCHEMA
from cinecube.store.open.open_study import FolderCubes
from cinecube.store.params.analysis_params import EncodeParams
from cinecube.store.params.document import Study

# The penalties of Oota et al. (2025) enter squared: ridge by singular values divides by s² + alpha².
SQUARED_ALPHAS = np.logspace(1, 3, 10) ** 2
# Fields of a group that say which rows it has; features and responses have fingerprints of their own.
_ROW = ("segment", "feature_row", "repeat", "train")


@dataclass(frozen=True)
class Settings:
    """Settings of encoders.

    Attributes
    ----------
    delays : tuple of int
        FIR lags in TRs.
    alphas : array, shape (alpha,)
    n_folds : int
    gap_s : float
        Seconds of film dropped where a fold cuts a film in two.
    films : dict of str to list of str
        Training films with their segments in order.
    targets_per_block : int
    solver : {"shared", "himalaya"}
    threads : int
        BLAS threads of each task.
    backend : Backend
        What `shared` computes with.
    one_alpha : bool
        Whether all targets of a subject share the penalty with the best mean correlation on the folds.
    across_runs : bool
        Whether delays reach over the borders of runs.
    """

    delays: tuple[int, ...]
    alphas: np.ndarray
    n_folds: int
    gap_s: float
    films: Mapping[str, Sequence[str]]
    targets_per_block: int = 4096
    solver: str = "shared"
    threads: int = 1
    backend: Backend = field(default_factory=Backend)
    one_alpha: bool = False
    across_runs: bool = False


def make_settings(study: Study, fitted: bool = True) -> Settings:
    """Settings of a study's encoders; the choices of `encode.compat` that concern them are in.

    Parameters
    ----------
    study : Study
    fitted : bool
        Whether something will be fitted, so that `run.backend` must be here.

    Returns
    -------
    Settings

    Raises
    ------
    StudyError
        If it is not.
    """
    params = study.encode
    plain = np.geomspace(params.alphas.min, params.alphas.max, params.alphas.n)
    return Settings(
        delays=tuple(params.delays),
        alphas=SQUARED_ALPHAS if "squared_alphas" in params.compat else plain,
        n_folds=params.folds,
        gap_s=study.split.gap_s,
        films={film: study.films[film] for film in study.films if film in study.split.train},
        targets_per_block=params.targets_per_block,
        solver=params.solver,
        threads=study.run.threads,
        backend=check_backend(study.run.backend, study.run.device, "run.backend") if fitted else Backend(),
        one_alpha="one_alpha" in params.compat,
        across_runs="delays_across_runs" in params.compat,
    )


@dataclass(frozen=True)
class Layout:
    """Rows of a group as tasks need them: no labels, only positions.

    Attributes
    ----------
    runs : list of (start, stop)
        Runs among the features' rows.
    feature_row : array of int, shape (row,)
    train : array of bool, shape (row,)
    folds : list of (train, validation)
        Positions among the training rows.
    """

    runs: list[Run]
    feature_row: np.ndarray
    train: np.ndarray
    folds: list[Fold]


def make_layout(space: FeatureSpace, group: RowsGroup, settings: Settings, max_delay: int) -> Layout:
    """Runs and folds of a group of rows, for delays up to `max_delay` TRs.

    Parameters
    ----------
    space : FeatureSpace
    group : RowsGroup
    settings : Settings
    max_delay : int
        TRs.

    Returns
    -------
    Layout

    Raises
    ------
    StudyError
        If the training films hold too few segments to validate on.
    """
    tr_s = step_s(space.rows)
    segment, onset_s = (space.rows[name].to_numpy() for name in ("segment", "onset_s"))
    gap = Gap(settings.gap_s, tr_s, space.window_s, max_delay)
    last_onset_s = {str(name): float(s) for name, s in space.rows.groupby("segment")["onset_s"].max().items()}
    train, runs = group.train, cut_runs(segment, onset_s, tr_s)
    if settings.across_runs:
        trained = [name for names in settings.films.values() for name in names]
        runs = join_runs(runs, np.isin(segment, trained))
    folds = leave_segments_out(
        group.segment[train], group.onset_s[train], settings.films, last_onset_s, settings.n_folds, gap
    )
    return Layout(runs, group.feature_row, train, folds)


def make_design(features: np.ndarray, layout: Layout, delays: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Design matrices of the training and the test rows.

    Parameters
    ----------
    features : array, shape (time, dim)
        One layer at all rows of its cubes.
    layout : Layout
    delays : sequence of int
        FIR lags in TRs.

    Returns
    -------
    train, test : arrays, shape (row, delay x dim)
        float64, standardised with constants of the training rows.
    """
    mean, spread = constants(features[np.unique(layout.feature_row[layout.train])])
    design = delayed(standardise(features, mean, spread), delays, layout.runs)[layout.feature_row]
    return design[layout.train], design[~layout.train]


@dataclass(frozen=True)
class Piece:
    """Some targets of one subject, by position in the brain cube, shape (target,)."""

    subject: str
    targets: np.ndarray


Block = tuple[Piece, ...]


def blocks_of(group: RowsGroup, targets: Mapping[str, np.ndarray], size: int) -> list[Block]:
    """Cut targets of a group's subjects (positions by subject), one subject after another, into blocks of `size`.

    Parameters
    ----------
    group : RowsGroup
    targets : Mapping of str to array of int, shape (target,)
        Positions by subject.
    size : int
        Targets of a block; the last may have fewer.

    Returns
    -------
    list of Block
        One block may hold targets of several subjects.
    """
    blocks: list[list[Piece]] = []
    room = 0
    for subject in group.subjects:
        left = targets[subject]
        while left.size:
            if room == 0:
                blocks.append([])
                room = size
            blocks[-1].append(Piece(subject, left[:room]))
            room, left = room - len(left[:room]), left[room:]
    return [tuple(block) for block in blocks]


def read_block(block: Block, group: RowsGroup, brains: Mapping[str, Responses]) -> np.ndarray:
    """Responses of a block at the group's rows, float32 (row, target).

    Parameters
    ----------
    block : Block
    group : RowsGroup
    brains : Mapping of str to Responses
        By subject.

    Returns
    -------
    array of float32, shape (row, target)
    """
    parts = [brains[piece.subject].read(group.showings[piece.subject], piece.targets) for piece in block]
    return np.concatenate(parts, axis=1)


def narrow_block(block: Block, inside: np.ndarray) -> Block:
    """The part of a block where `inside` (target,) is true, of the subjects that have some of it.

    Parameters
    ----------
    block : Block
    inside : array of bool, shape (target,)

    Returns
    -------
    Block
        Empty where none is inside.
    """
    return tuple(Piece(piece.subject, piece.targets[kept]) for piece, kept in split_block(block, inside) if kept.any())


def split_block(block: Block, values: np.ndarray) -> Iterator[tuple[Piece, np.ndarray]]:
    """A block's values (..., target) by piece.

    Parameters
    ----------
    block : Block
    values : array, shape (..., target)

    Yields
    ------
    piece : Piece
    values : array, shape (..., target)
    """
    edges = np.cumsum([piece.targets.size for piece in block])[:-1]
    yield from zip(block, np.split(values, edges, axis=-1), strict=True)


@dataclass(frozen=True)
class Problem:
    """Features of one model and responses of all subjects.

    Attributes
    ----------
    space : FeatureSpace
    brains : dict of str to Responses
        By subject.
    groups : list of RowsGroup
        From `align`; one factorisation serves all subjects of a group.
    settings : Settings
    unfit : dict of str to dict
        From `find_unfit`: subjects in no group, who have no scores.
    """

    space: FeatureSpace
    brains: Mapping[str, Responses]
    groups: list[RowsGroup]
    settings: Settings
    unfit: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def layers(self) -> list[tuple[int, int]]:
        """Positions (model, layer) of the layers that each stream has, but for those whose features are constant."""
        width, constant = self.space.width, self.space.constant
        return [(int(m), int(k)) for m, k in np.argwhere(width > 0) if (int(m), int(k)) not in constant]

    @property
    def targets(self) -> dict[str, np.ndarray]:
        """Positions of all targets (target,) by subject."""
        return {name: np.arange(brain.n_targets) for name, brain in self.brains.items()}

    @property
    def rows_of(self) -> dict[str, str]:
        """Digest of the rows at which each subject is encoded."""
        return {
            subject: fingerprint({name: np.asarray(getattr(group, name)).tolist() for name in _ROW})
            for group in self.groups
            for subject in group.subjects
        }

    def of_subjects(self, subjects: Collection[str]) -> Problem:
        """The same of some subjects alone, at the rows that they have here.

        Parameters
        ----------
        subjects : collection of str
        """
        groups = [
            replace(group, subjects=tuple(own), showings={name: group.showings[name] for name in own})
            for group in self.groups
            if (own := [name for name in group.subjects if name in subjects])
        ]
        return replace(
            self, brains={name: self.brains[name] for name in self.brains if name in subjects}, groups=groups
        )

    def plans(self, targets: Mapping[str, np.ndarray], max_delay: int) -> list[Plan]:
        """Blocks of some targets (positions by subject), and where the rows of each group are, for delays in TRs.

        Parameters
        ----------
        targets : Mapping of str to array of int, shape (target,)
            Positions by subject.
        max_delay : int
            TRs.

        Returns
        -------
        list of Plan
            One per group of rows.
        """
        size = self.settings.targets_per_block
        return [
            Plan(n, group, make_layout(self.space, group, self.settings, max_delay), blocks_of(group, targets, size))
            for n, group in enumerate(self.groups)
        ]

    def read_layer(self, m: int, k: int) -> np.ndarray:
        """Task: features of one layer of one stream, float32 (time, dim).

        Parameters
        ----------
        m, k : int
            Positions on the model and the layer axis.

        Returns
        -------
        array of float32, shape (time, dim)
        """
        return self.space.read_layer(m, k)

    def read_block(self, block: Block, number: int) -> np.ndarray:
        """Task: responses of a block at the rows of a group, by its number, float32 (row, target).

        Parameters
        ----------
        block : Block
        number : int
            Of the group.

        Returns
        -------
        array of float32, shape (row, target)
        """
        return read_block(block, self.groups[number], self.brains)

    @property
    def work(self) -> float:
        """Multiplications of encoding, roughly: those that predict all validation rows with every penalty."""
        products = sum(
            float(group.train.sum()) ** 2 * sum(self.brains[name].n_targets for name in group.subjects)
            for group in self.groups
        )
        return products * len(self.settings.alphas) * len(self.layers)


@dataclass(frozen=True)
class Plan:
    """Blocks of a group's targets, by the group's number, and where its rows are."""

    number: int
    group: RowsGroup
    layout: Layout
    blocks: list[Block]


def read_problem(study: Study, root: Path, model: str, fitted: bool = True) -> Problem:
    """Open a model's feature cubes and all brain cubes, as encoders see them, and match their rows.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    model : str
        Name in `params.yaml`.
    fitted : bool
        Whether it will be solved, and not only compared with what is there.

    Returns
    -------
    Problem

    Raises
    ------
    StudyError
        If a cube is missing, cubes do not fit each other, a segment is missing, or `run.backend` is not here.
    """
    paths, split = StudyPaths(root), study.split
    space = open_space(study, root, model)
    clock_s = step_s(space.rows)
    brains = {
        name: open_responses(
            name, FolderCubes(paths).open(paths.brain(name)), clock_s, "the clock of the feature cubes"
        )
        for name in study.brain.subjects
    }
    check_same_space(list(brains.values()))
    train, test = study.segments(split.train), study.segments(split.test)
    unfit = find_unfit({name: brain.rows for name, brain in brains.items()}, train, test)
    tabled = {name: brain.rows for name, brain in brains.items() if name not in unfit}
    groups = align(space.rows, tabled, train=train, test=test, repeats=study.brain.repeats, rows=study.encode.rows)
    return Problem(*choose_inputs(space, brains, study.encode.compat), groups, make_settings(study, fitted), unfit)


def score_spec(study: Study, problem: Problem) -> dict[str, Any]:
    """Spec that a score cube's fingerprint hashes, without sizes of blocks, which change the speed only.

    Parameters
    ----------
    study : Study
    problem : Problem

    Returns
    -------
    dict
        Field -> value.
    """
    films = [*study.split.train, *study.split.test]
    return {
        "schema": SCHEMA,
        "kind": "scores",
        "version": VERSIONS,
        "models": problem.space.models,
        "films": {film: study.films[film] for film in films},
        "split": study.split.model_dump(),
        "repeats": study.brain.repeats,
        "encode": _encode_spec(study.encode),
        "features": problem.space.fingerprints(),
        "brain": {name: str(brain.cube.attrs["fingerprint"]) for name, brain in problem.brains.items()},
    }


def _encode_spec(params: EncodeParams) -> dict[str, Any]:
    """Settings of the fit, without choices that are off: so the fingerprints of older cubes hold."""
    return params.model_dump(exclude={"targets_per_block", *(() if params.compat else ("compat",))})
