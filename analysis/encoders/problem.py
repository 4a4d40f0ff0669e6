"""The problem of encoding one model: its features, everybody's responses, the rows that they share, how to fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cinecube.analysis.cubes.model_cubes import open_space
from cinecube.analysis.cubes.rows import RowsGroup, align
from cinecube.analysis.cubes.spaces import FeatureSpace, Responses, check_same_space, open_responses
from cinecube.analysis.cubes.target_blocks import Block, blocks_of, read_block
from cinecube.analysis.encoders import VERSIONS
from cinecube.analysis.encoders.layout import Layout, make_layout
from cinecube.analysis.encoders.oota2025 import choose_inputs
from cinecube.analysis.encoders.settings import Settings, make_settings
from cinecube.store.base.paths import StudyPaths
from cinecube.store.clock.clock import step_s
from cinecube.store.cube.schema import SCHEMA
from cinecube.store.open.open_study import FolderCubes
from cinecube.store.params.analysis_params import EncodeParams
from cinecube.store.params.document import Study


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
    """

    space: FeatureSpace
    brains: Mapping[str, Responses]
    groups: list[RowsGroup]
    settings: Settings

    @property
    def layers(self) -> list[tuple[int, int]]:
        """Positions (model, layer) of the layers that each stream has, but for those whose features are constant."""
        width, constant = self.space.width, self.space.constant
        return [(int(m), int(k)) for m, k in np.argwhere(width > 0) if (int(m), int(k)) not in constant]

    @property
    def targets(self) -> dict[str, np.ndarray]:
        """Positions of all targets (target,) by subject."""
        return {name: np.arange(brain.n_targets) for name, brain in self.brains.items()}

    def plans(self, targets: Mapping[str, np.ndarray], max_delay: int) -> list[Plan]:
        """Blocks of some targets (positions by subject), and where the rows of each group are, for delays in TRs.

        Parameters
        ----------
        targets : Mapping of str to array of int, shape (target,)
            Positions by subject.
        max_delay : int
            TRs.
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
        """
        return self.space.read_layer(m, k)

    def read_block(self, block: Block, number: int) -> np.ndarray:
        """Task: responses of a block at the rows of a group, by its number, float32 (row, target).

        Parameters
        ----------
        block : Block
        number : int
            Of the group.
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
    groups = align(
        space.rows,
        {name: brain.rows for name, brain in brains.items()},
        train=study.segments(split.train),
        test=study.segments(split.test),
        repeats=study.brain.repeats,
        rows=study.encode.rows,
    )
    return Problem(*choose_inputs(space, brains, study.encode.compat), groups, make_settings(study, fitted))


def without_constant(problem: Problem, constant: frozenset[tuple[int, int]]) -> Problem:
    """The same problem without layers (model, layer) whose features do not vary.

    Parameters
    ----------
    problem : Problem
    constant : frozenset of (int, int)
        Positions on the model and the layer axis.
    """
    return replace(problem, space=replace(problem.space, constant=constant))


def score_spec(study: Study, problem: Problem) -> dict[str, Any]:
    """Spec that a score cube's fingerprint hashes, without sizes of blocks, which change the speed only.

    Parameters
    ----------
    study : Study
    problem : Problem
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
