"""Checks that layers and subjects vary, made before anything is fitted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from cinecube.analysis.cubes.rows import RowsGroup
from cinecube.analysis.cubes.spaces import Responses
from cinecube.analysis.encoders.layout import Layout
from cinecube.analysis.encoders.problem import Problem
from cinecube.analysis.jobs.tasks import Workers, run_jobs, share
from cinecube.analysis.ridge.design import varying_dims
from cinecube.analysis.ridge.scores import varying
from cinecube.store.base.errors import StudyError


def find_constant(problem: Problem, workers: Workers = None) -> frozenset[tuple[int, int]]:
    """Layers that can predict nothing, since all their dims are constant over the training or over the test rows.

    Reads every layer once, so that a value that is missing is found before anything is fitted.

    Parameters
    ----------
    problem : Problem
    workers : Client, Threads or None

    Returns
    -------
    frozenset of (model, layer)
        By position.

    Raises
    ------
    StudyError
        If features hold NaN or infinity, or no run is longer than a delay.
    """
    rows = [
        part
        for plan in problem.plans(problem.targets, max(problem.settings.delays))
        for part in _rows_seen(problem, plan.layout)
    ]
    everything = share(workers, problem), share(workers, rows)
    jobs = ((layer, (*everything, *layer)) for layer in problem.layers)
    return frozenset(layer for layer, still in run_jobs(workers, _is_constant, jobs, problem.settings.threads) if still)


def _rows_seen(problem: Problem, layout: Layout) -> list[tuple[np.ndarray, ...]]:
    """Rows of features that must vary together: those of the training rows, and what delays show of them and the test.

    Raises
    ------
    StudyError
        If delays show nothing of either.
    """
    delays = problem.settings.delays
    start = np.zeros(len(problem.space.rows), dtype=np.int64)
    for first, stop in layout.runs:
        start[first:stop] = first
    seen = [layout.feature_row[layout.train]]
    for name, own in (("training", layout.train), ("test", ~layout.train)):
        rows = layout.feature_row[own]
        shown = [rows[rows - delay >= start[rows]] - delay for delay in delays]
        seen.append(np.concatenate(shown))
        if not seen[-1].size:
            raise StudyError(
                where="encode.delays",
                found=f"{list(delays)}, and no run of the {name} films with more rows than the shortest",
                expected="a delay that is shorter than a run",
                do="set shorter delays, or use longer segments",
            )
    return [tuple(np.unique(rows) for rows in seen)]


def _is_constant(problem: Problem, rows: Sequence[tuple[np.ndarray, ...]], m: int, k: int) -> bool:
    """Task: whether no dim of a layer varies over all the rows of a group that must vary."""
    features = problem.read_layer(m, k)
    return not all(np.all([varying_dims(features[part]) for part in parts], axis=0).any() for parts in rows)


def refuse_still_subjects(brains: Mapping[str, Responses], groups: Sequence[RowsGroup], targets_per_block: int) -> None:
    """Refuse a subject if none of its targets varies over the training and the test films; reads until one does.

    Parameters
    ----------
    brains : Mapping of str to Responses
        By subject.
    groups : sequence of RowsGroup
    targets_per_block : int
        Targets that are read at once.

    Raises
    ------
    StudyError
        If there is one.
    """
    for group in groups:
        for name in group.subjects:
            if not any(part.any() for part in _varying_targets(brains[name], group, targets_per_block)):
                raise StudyError(
                    where=f"brain cube of {name}",
                    found="no target whose responses vary over the training and the test films",
                    expected="responses",
                    do=f"look at data/brain/{name}.csv and its scans, or take {name} out of brain.subjects",
                )


def _varying_targets(brain: Responses, group: RowsGroup, size: int) -> Iterator[np.ndarray]:
    for start in range(0, brain.n_targets, size):
        # Not as `compat` may see them: a row's mean over targets varies, and would be taken from those that do not.
        values = Responses.read(
            brain, group.showings[brain.subject], np.arange(start, min(start + size, brain.n_targets))
        )
        yield varying(values[group.train]) & varying(values[~group.train])
