"""The stage `significance`: which scores are above chance, and which differ between models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from cinecube.analysis.cubes import tables
from cinecube.analysis.cubes.results import open_scores, read_scores
from cinecube.analysis.cubes.spaces import Responses, check_same_space
from cinecube.analysis.cubes.target_axis import join_targets
from cinecube.analysis.encoders.predictions import choose
from cinecube.analysis.encoders.problem import read_problem
from cinecube.analysis.significance import VERSIONS
from cinecube.analysis.significance.held import Held, begin, hold
from cinecube.analysis.statistics.comparisons import MIN_SUBJECTS, choose_swap_rows, group_map, make_swaps, swap_blocks
from cinecube.analysis.statistics.nulls import (
    Significance,
    choose_block_rows,
    fdr,
    make_plan,
    permute_blocks,
    shift_circularly,
)
from cinecube.store.base.labels import find_label
from cinecube.store.base.paths import StudyPaths
from cinecube.store.base.writing import one_writer, scratch_folder
from cinecube.store.cube.cubes import write_cube
from cinecube.store.cube.schema import SCHEMA, provenance, string_coordinate
from cinecube.store.jobs.tasks import pinned

if TYPE_CHECKING:
    from cinecube.store.jobs.tasks import Progress
    from cinecube.store.params.analysis_params import Statistics
    from cinecube.store.params.document import Study


@dataclass(frozen=True)
class Tested:
    """Tests of one subject.

    Attributes
    ----------
    chance : dict of str to Significance
        By stream: r against permutations.
    pairs : list of Significance
        By comparison: r of the first stream minus r of the second.
    block_rows : dict of str to int
        Rows of a block, by stream and by comparison (`a - b`).
    """

    chance: dict[str, Significance]
    pairs: list[Significance]
    block_rows: dict[str, int]


def significance(study: Study, root: Path, progress: Progress | None = None) -> None:
    """Test every target's score at the layer that the training films chose for it, and write `results/significance`.

    Models are fitted again at penalties that are known; their predictions of the test films are kept on disk meanwhile:
    4 bytes per test TR, target, stream and subject.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    progress : callable, optional
        Told (done, total).

    Raises
    ------
    StudyError
        If a cube is missing, the test films are too short for `MIN_BLOCKS` blocks, or another process does the same.
    """
    paths = StudyPaths(root)
    _refuse_unknown(study, root)
    # Before the work: this is a table that another stage made.
    regions = tables.read_table(paths.tables / "roi.csv", "roi", "subject", "model", "score")
    with one_writer(paths, paths.significance):
        with scratch_folder(paths, "significance") as folder:
            held, brains, fingerprints = _hold_all(study, root, folder, progress)
            tested = {}
            for name, film in held.items():
                where = f"test films of {name}"
                tested[name] = pinned(tested_subject, study.run.threads, film, study.statistics, where)
                if progress:
                    progress(len(study.encoded) + len(tested), _n_steps(study))
        cube = _cube(study, tested, list(brains.values()), fingerprints)
        write_cube(paths.significance, cube)
        _write_tables(study, root, cube, regions)


def _write_tables(study: Study, root: Path, cube: xr.Dataset, regions: pd.DataFrame) -> None:
    from cinecube.analysis.significance import significance_tables

    paths, params = StudyPaths(root), study.statistics
    for name, table in (
        ("significance", significance_tables.counts_table(cube, params.fdr)),
        ("comparisons", significance_tables.differences_table(cube, params.fdr)),
        ("comparisons_roi", significance_tables.compare_regions(regions, params.compare, params.fdr)),
    ):
        tables.write_table(paths.tables / f"{name}.csv", table)


def _refuse_unknown(study: Study, root: Path) -> None:
    """Refuse a comparison of streams that nothing was scored for, before anything is fitted."""
    known = [str(name) for cube in read_scores(study, root) for name in cube["model"].values]
    for stream in (name for pair in study.statistics.compare for name in pair):
        do = "correct the name, or add its model to compute.models or imported"
        find_label(stream, known, "statistics.compare", "scores of", do)


def _hold_all(
    study: Study, root: Path, folder: Path, progress: Progress | None
) -> tuple[dict[str, Held], dict[str, Responses], dict[str, str]]:
    held: dict[str, Held] = {}
    brains: dict[str, Responses] = {}
    fingerprints: dict[str, str] = {}
    for number, model in enumerate(study.encoded):
        problem = read_problem(study, root, model)
        brains = dict(problem.brains)
        held = held or begin(folder, problem)
        scores = open_scores(root, model)
        fingerprints[model] = str(scores.attrs["fingerprint"])
        pinned(hold, study.run.threads, held, folder, problem, choose(scores, brains))
        if progress:
            progress(number + 1, _n_steps(study))
    return held, brains, fingerprints


def _n_steps(study: Study) -> int:
    """Models that are fitted again, then subjects that are tested."""
    return len(study.encoded) + len(study.brain.subjects)


def tested_subject(held: Held, params: Statistics, where: str) -> Tested:
    """Test all streams of one subject against chance, and those that the study compares against each other.

    Parameters
    ----------
    held : Held
    params : Statistics
    where : str
        The films, for messages.

    Raises
    ------
    StudyError
        If the films are too short for the blocks.
    """
    chance, rows = {}, {}
    for stream, prediction in held.prediction.items():
        rows[stream] = _block_rows(params, prediction, held)
        chance[stream] = _against_chance(prediction, held.truth, rows[stream], params)
    pairs = []
    for a, b in params.compare:
        first, second = held.prediction[a], held.prediction[b]
        n_rows = (
            choose_swap_rows(first, second, held.truth, held.runs) if params.block_rows == "auto" else params.block_rows
        )
        rows[f"{a} - {b}"] = n_rows
        swaps = make_swaps(len(held.truth), n_rows, params.permutations, params.seed)
        pairs.append(swap_blocks(first, second, held.truth, swaps))
    return Tested(chance, pairs, rows)


def _block_rows(params: Statistics, prediction: np.ndarray, held: Held) -> int:
    if params.block_rows == "auto":
        return choose_block_rows(prediction, held.truth, held.runs)
    return params.block_rows


def _against_chance(prediction: np.ndarray, truth: np.ndarray, block_rows: int, params: Statistics) -> Significance:
    if params.permute == "shifts":
        return shift_circularly(prediction, truth, block_rows, params.permutations, params.seed)
    return permute_blocks(prediction, truth, make_plan(len(truth), block_rows, params.permutations, params.seed))


def _cube(
    study: Study, tested: Mapping[str, Tested], brains: Sequence[Responses], fingerprints: Mapping[str, str]
) -> xr.Dataset:
    """All subjects' tests on one labelled target axis; the false discovery rate is each subject's and stream's own."""
    axis = join_targets(brains)
    streams = list(next(iter(tested.values())).chance)
    pairs = [f"{a} - {b}" for a, b in study.statistics.compare]

    variables: dict[str, Any] = {}

    def add(prefix: str, dim: str, parts: Mapping[str, Sequence[Significance]]) -> None:
        score = "score" if dim == "model" else "difference"
        for name, get in ((score, lambda one: one.score), (f"{prefix}p", lambda one: one.p), (f"{prefix}q", _q)):
            stacked = axis.stack({subject: np.stack([get(one) for one in own]) for subject, own in parts.items()})
            variables[name] = (("subject", dim, "target"), stacked)

    add("", "model", {subject: list(one.chance.values()) for subject, one in tested.items()})
    if pairs:
        add("difference_", "comparison", {subject: one.pairs for subject, one in tested.items()})
    cube = xr.Dataset(
        variables,
        coords={
            "subject": string_coordinate(axis.subjects),
            "model": string_coordinate(streams),
            **({"comparison": string_coordinate(pairs)} if pairs else {}),
            **axis.coords(),
        },
        attrs=dict(sorted(_attrs(study, tested, brains, fingerprints).items())),
    )
    return _with_group(cube)


def _q(one: Significance) -> np.ndarray:
    return fdr(one.p)


def _with_group(cube: xr.Dataset) -> xr.Dataset:
    """Add a t-test over subjects of every target that enough of them have: subjects as a random effect."""
    if cube.sizes["subject"] < MIN_SUBJECTS:
        return cube
    maps = [group_map(cube["score"].sel(model=model).values) for model in cube["model"].values]
    for name in ("t", "p", "p_fdr"):
        values = np.stack([getattr(one, name) for one in maps]).astype(np.float32)
        cube[f"group_{'q' if name == 'p_fdr' else name}"] = (("model", "target"), values)
    return cube


def significance_spec(study: Study, fingerprints: Mapping[str, str]) -> dict[str, Any]:
    """Spec that the cube's fingerprint hashes; `fingerprints` are those of the score cubes, by model.

    Parameters
    ----------
    study : Study
    fingerprints : Mapping of str to str
    """
    return {
        "schema": SCHEMA,
        "kind": "significance",
        "version": VERSIONS,
        "statistics": study.statistics.model_dump(),
        "scores": dict(fingerprints),
    }


def _attrs(
    study: Study, tested: Mapping[str, Tested], brains: Sequence[Responses], fingerprints: Mapping[str, str]
) -> dict[str, Any]:
    return provenance(
        "significance",
        significance_spec(study, fingerprints),
        ("numpy", "scipy"),
        **check_same_space(brains),
        block_rows=json.dumps({name: one.block_rows for name, one in tested.items()}, sort_keys=True),
    )
