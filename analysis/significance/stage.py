"""The stage `significance`: which scores are above chance, and which differ between models."""

from __future__ import annotations

import itertools
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
from cinecube.analysis.encoders.predictions import choose, predicting_work
from cinecube.analysis.encoders.problem import Problem, read_problem
from cinecube.analysis.ridge.factors import Backend, check_backend
from cinecube.analysis.significance import VERSIONS
from cinecube.analysis.significance.held import Held, begin, hold
from cinecube.analysis.statistics.comparisons import MIN_SUBJECTS, choose_swap_rows, group_map, make_swaps, swap_blocks
from cinecube.analysis.statistics.nulls import (
    MIN_BLOCK_ROWS,
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
from cinecube.store.jobs.tasks import Threads, Workers, open_workers, run_jobs, share

if TYPE_CHECKING:
    from cinecube.store.jobs.tasks import Progress
    from cinecube.store.params.analysis_params import Statistics
    from cinecube.store.params.document import Study


# Of one task: a second or so of 5,000 permutations. A multiple of what a batch of permutations takes, so that tasks
# cut no batch, whose last bits depend on what is in it.
_TARGETS_PER_TASK = 1024
# Multiplications that take as long as one addition of a sparse product.
_SPARSE = 4
Compared = str | tuple[str, str]
"""A stream against chance, or the first of two against the second."""


@dataclass(frozen=True)
class Tested:
    """Tests of one subject.

    Attributes
    ----------
    found : dict of str to Significance
        By stream: r against permutations. By comparison (`a - b`): r of the first stream minus r of the second.
    block_rows : dict of str to int
        Rows of a block, by the same names.
    """

    found: dict[str, Significance]
    block_rows: dict[str, int]


def significance(study: Study, root: Path, progress: Progress | None = None) -> None:
    """Test every target's score at the layer that the training films chose for it, and write `results/significance`.

    Models are fitted again at penalties that are known; their predictions of the test films are kept on disk meanwhile:
    4 bytes per test TR, target, stream and subject. Runs on Dask where that is much work: blocks of targets are jobs.

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
        If a cube is missing, the test films are too short for `MIN_BLOCKS` blocks, workers are lost, or another
        process does the same.
    """
    root = root.absolute()  # a worker may run in another folder
    paths = StudyPaths(root)
    _refuse_unknown(study, root)
    # Before the work: this is a table that another stage made.
    regions = tables.read_table(paths.tables / "roi.csv", "roi", "subject", "model", "score")
    problems = {model: read_problem(study, root, model) for model in study.encoded}
    subjects = [name for group in next(iter(problems.values())).groups for name in group.subjects]
    done = itertools.count(1)

    def tell() -> None:
        if progress:  # models that are fitted again, then subjects that are tested
            progress(next(done), len(problems) + len(subjects))

    with one_writer(paths, paths.significance):
        with (
            scratch_folder(paths, "significance") as folder,
            open_workers(study.dask, study.run.threads, _work(study, problems), root) as workers,
        ):
            held, fingerprints = begin(folder, next(iter(problems.values()))), {}
            for model, problem in problems.items():
                scores = open_scores(root, model)
                fingerprints[model] = str(scores.attrs["fingerprint"])
                parts = None if isinstance(workers, Threads) else folder / "parts"
                hold(held, problem, choose(scores, problem.brains), workers, parts)
                tell()
            tested = {}
            for name, films in held.items():
                tested[name] = tested_subject(films, study, f"test films of {name}", workers)
                tell()
        cube = _cube(study, tested, list(next(iter(problems.values())).brains.values()), fingerprints)
        write_cube(paths.significance, cube)
        _write_tables(study, root, cube, regions)


def _work(study: Study, problems: Mapping[str, Problem]) -> float:
    """Multiplications of predicting and of testing, roughly."""
    params, total = study.statistics, 0.0
    for problem in problems.values():
        total += predicting_work(problem)
        n_tests = len(problem.space.models) + len(params.compare) / len(problems)
        for group in problem.groups:
            n_targets = sum(problem.brains[name].n_targets for name in group.subjects)
            blocks = float((~group.train).sum()) / MIN_BLOCK_ROWS
            total += _SPARSE * params.permutations * blocks * n_targets * n_tests
    return total


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


def tested_subject(held: Held, study: Study, where: str, workers: Workers) -> Tested:
    """Test all streams of one subject against chance, and those that the study compares against each other.

    Parameters
    ----------
    held : Held
    study : Study
    where : str
        The films, for messages.
    workers : Client, Threads or None

    Returns
    -------
    Tested

    Raises
    ------
    StudyError
        If the films are too short for the blocks, or workers are lost.
    """
    params, threads = study.statistics, study.run.threads
    backend = check_backend(study.run.backend, study.run.device, "run.backend")
    every: dict[str, Compared] = {stream: stream for stream in held.streams}
    every |= {f"{a} - {b}": (a, b) for a, b in params.compare}
    here = share(workers, held)
    choosing = ((name, (here, what, params, where)) for name, what in every.items())
    rows = dict(run_jobs(workers, _block_rows, choosing, threads))
    parts = [slice(start, start + _TARGETS_PER_TASK) for start in range(0, held.shape[1], _TARGETS_PER_TASK)]
    jobs = (
        ((name, number), (here, what, rows[name], part, params, backend))
        for name, what in every.items()
        for number, part in enumerate(parts)
    )
    found = dict(run_jobs(workers, _test, jobs, threads))
    return Tested(
        {name: _joined([found[name, number] for number in range(len(parts))]) for name in every},
        {name: rows[name] for name in every},
    )


def _joined(parts: Sequence[Significance]) -> Significance:
    return Significance(np.concatenate([part.score for part in parts]), np.concatenate([part.p for part in parts]))


def _block_rows(held: Held, what: Compared, params: Statistics, where: str) -> int:
    """Task: rows of a block."""
    if params.block_rows != "auto":
        return params.block_rows
    if isinstance(what, str):
        return choose_block_rows(held.prediction(what), held.truth, held.runs)
    first, second = map(held.prediction, what)
    return choose_swap_rows(first, second, held.truth, held.runs)


def _test(
    held: Held, what: Compared, block_rows: int, part: slice, params: Statistics, backend: Backend
) -> Significance:
    """Task: test some targets."""
    truth = np.array(held.truth[:, part])
    seed, count = params.seed, params.permutations
    if not isinstance(what, str):
        first, second = (np.array(held.prediction(stream)[:, part]) for stream in what)
        return swap_blocks(first, second, truth, make_swaps(len(truth), block_rows, count, seed))
    prediction = np.array(held.prediction(what)[:, part])
    if params.permute == "shifts":
        return shift_circularly(prediction, truth, block_rows, count, seed)
    return permute_blocks(prediction, truth, make_plan(len(truth), block_rows, count, seed), backend)


def _cube(
    study: Study, tested: Mapping[str, Tested], brains: Sequence[Responses], fingerprints: Mapping[str, str]
) -> xr.Dataset:
    """All subjects' tests on one labelled target axis; the false discovery rate is each subject's and stream's own."""
    axis = join_targets(brains)
    pairs = [f"{a} - {b}" for a, b in study.statistics.compare]

    variables: dict[str, Any] = {}

    def add(prefix: str, dim: str, parts: Mapping[str, Sequence[Significance]]) -> None:
        score = "score" if dim == "model" else "difference"
        for name, get in ((score, lambda one: one.score), (f"{prefix}p", lambda one: one.p), (f"{prefix}q", _q)):
            stacked = axis.stack({subject: np.stack([get(one) for one in own]) for subject, own in parts.items()})
            variables[name] = (("subject", dim, "target"), stacked)

    streams = [name for name in next(iter(tested.values())).found if name not in pairs]
    add("", "model", {subject: [one.found[name] for name in streams] for subject, one in tested.items()})
    if pairs:
        add(
            "difference_",
            "comparison",
            {subject: [one.found[name] for name in pairs] for subject, one in tested.items()},
        )
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

    Returns
    -------
    dict
        Field -> value.
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
