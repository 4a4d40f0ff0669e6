"""The stage `encode`: feature cubes and brain cubes in, score cubes out."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from cinecube.analysis.cubes.rows import RowsGroup
from cinecube.analysis.cubes.spaces import check_same_space
from cinecube.analysis.encoders.problem import Problem, read_problem, score_spec, without_constant
from cinecube.store.base.errors import StudyError
from cinecube.store.base.journal import Journal, open_journal
from cinecube.store.base.paths import StudyPaths
from cinecube.store.base.writing import one_writer
from cinecube.store.cube.cubes import write_cube
from cinecube.store.cube.schema import provenance
from cinecube.store.params.document import Study

_log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from cinecube.analysis.jobs.tasks import Progress, Workers


def encode(study: Study, root: Path, model: str, progress: Progress | None = None) -> None:
    """Score a model, on Dask where that is much work, and write its score cube.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    model : str
        Name in `params.yaml`.
    progress : callable, optional
        Told `(tasks done, tasks in all)`.

    Raises
    ------
    StudyError
        If a cube is missing or holds NaN, cubes do not fit each other, nothing of the features or of a subject's
        responses varies, workers are lost, or another process scores this model.
    """
    from cinecube.analysis.cubes.unscored import notes
    from cinecube.analysis.jobs.tasks import open_workers

    root = root.absolute()  # a worker may run in another folder
    # What can be refused is refused before any worker starts.
    problem = read_problem(study, root, model)
    paths = StudyPaths(root)
    with (
        one_writer(paths, paths.scores(model)),
        open_journal(paths.journals, score_spec(study, problem), paths.relative(paths.scores(model))) as journal,
        open_workers(study.dask, study.run.threads, problem.work, root) as workers,
    ):
        cube = score_model(study, problem, workers, progress, journal)
        write_cube(paths.scores(model), cube)
        journal.remove()
    for line in notes(cube, *(["nothing is left there"] if _is_pair(study, model) else [])):
        _log.warning("%s", line)


def _is_pair(study: Study, model: str) -> bool:
    return model in {pair.name for pair in study.residual}


def score_model(
    study: Study,
    problem: Problem,
    workers: Workers = None,
    progress: Progress | None = None,
    kept: Journal | None = None,
) -> xr.Dataset:
    """Score cube of a model; without workers all runs here, one task after another.

    Blocks in `kept` are not computed again.

    Parameters
    ----------
    study : Study
    problem : Problem
    workers : Client, Threads or None
    progress : callable, optional
        Told (done, total).
    kept : Journal, optional
        Of this cube.

    Returns
    -------
    Dataset
        `score (subject, model, layer, target)` and more.

    Raises
    ------
    StudyError
        Before anything is fitted, if features hold NaN, or nothing of them or of a subject's responses varies.
    """
    from cinecube.analysis.encoders import encoding
    from cinecube.analysis.encoders.lag import scan_lags
    from cinecube.analysis.encoders.score_cube import score_cube
    from cinecube.analysis.encoders.varying import find_constant, refuse_still_subjects

    refuse_still_subjects(problem.brains, problem.groups, problem.settings.targets_per_block)
    problem = without_constant(problem, find_constant(problem, workers))
    _refuse_constant(study, problem)
    found = encoding.encode_layers(problem, workers, progress, kept)
    lags = scan_lags(problem, found, workers)
    attrs = provenance(
        "scores",
        score_spec(study, problem),
        ("himalaya", "numpy", "scikit-learn"),
        **check_same_space(list(problem.brains.values())),
        tr_s=study.clock.tr_s,
        rows=json.dumps([_count_rows(group) for group in problem.groups], sort_keys=True),
    )
    return score_cube(found, lags, problem, attrs)


def _refuse_constant(study: Study, problem: Problem) -> None:
    """Refuse features that do not vary at all; those of a pair may be what a removal leaves."""
    if problem.layers or _is_pair(study, problem.space.models[0]):
        return
    raise StudyError(
        where=f"features of {', '.join(problem.space.models)}",
        found=f"values that are constant over the training or the test films, at {', '.join(problem.space.layers)}",
        expected="features that vary at one layer or more",
        do="look at the films and the checkpoint and extract them again, or take the model out of params.yaml",
    )


def _count_rows(group: RowsGroup) -> dict[str, Any]:
    train = int(group.train.sum())
    return {"subjects": list(group.subjects), "train": train, "test": len(group.train) - train}
