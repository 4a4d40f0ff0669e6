"""The stage `encode`: feature cubes and brain cubes in, score cubes out."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from cinecube.analysis.cubes.model_cubes import open_space
from cinecube.analysis.cubes.rows import RowsGroup, align
from cinecube.analysis.cubes.spaces import FeatureSpace, Responses, check_same_space, open_responses, step_s
from cinecube.store.base.errors import StudyError
from cinecube.store.base.journal import open_journal
from cinecube.store.base.paths import StudyPaths
from cinecube.store.base.writing import one_writer
from cinecube.store.cube.cubes import write_cube
from cinecube.store.cube.schema import SCHEMA, provenance
from cinecube.store.open.open_study import FolderCubes
from cinecube.store.params.analysis_params import EncodeParams
from cinecube.store.params.document import Study

_log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from cinecube.analysis.encoders.encoding import Kept, Progress
    from cinecube.analysis.encoders.layout import Settings
    from cinecube.analysis.jobs.tasks import Workers


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
    from cinecube.analysis.encoders.encoding import count_work
    from cinecube.analysis.jobs.tasks import open_workers

    root = root.absolute()  # a worker elsewhere stands in another folder
    # What can be refused is refused before any worker starts.
    space, brains, groups = read_inputs(study, root, model)
    work = count_work(space, groups, brains, make_settings(study))
    paths = StudyPaths(root)
    with (
        one_writer(paths, paths.scores(model)),
        open_journal(paths.journals, score_spec(study, space, brains), paths.relative(paths.scores(model))) as journal,
        open_workers(study.dask, study.run.threads, work, root) as workers,
    ):
        cube = score_model(study, space, brains, groups, workers, progress, journal)
        write_cube(paths.scores(model), cube)
        journal.remove()
    for line in notes(cube, *(["nothing is left there"] if _is_pair(study, model) else [])):
        _log.warning("%s", line)


def _is_pair(study: Study, model: str) -> bool:
    return model in {pair.name for pair in study.residual}


def read_inputs(study: Study, root: Path, model: str) -> tuple[FeatureSpace, dict[str, Responses], list[RowsGroup]]:
    """Open a model's feature cubes and all brain cubes, as encoders see them, and match their rows.

    Raises
    ------
    StudyError
        If a cube is missing, cubes do not fit each other, or a segment is missing.
    """
    from cinecube.analysis.encoders.choices import choose_inputs

    paths, split = StudyPaths(root), study.split
    space = open_space(study, root, model)
    subjects = study.brain.subjects
    clock_s = step_s(space.rows)
    brains = {
        name: open_responses(
            name, FolderCubes(paths).open(paths.brain(name)), clock_s, "the clock of the feature cubes"
        )
        for name in subjects
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
    return *choose_inputs(space, brains, study.encode.compat), groups


def score_model(
    study: Study,
    space: FeatureSpace,
    brains: Mapping[str, Responses],
    groups: Sequence[RowsGroup],
    workers: Workers = None,
    progress: Progress | None = None,
    kept: Kept | None = None,
) -> xr.Dataset:
    """Score cube of a model; without workers all runs here, one task after another.

    Blocks in `kept` are not computed again.

    Raises
    ------
    StudyError
        Before anything is fitted, if features hold NaN, or nothing of them or of a subject's responses varies.
    """
    from cinecube.analysis.encoders import encoding
    from cinecube.analysis.encoders.lag import scan_lags
    from cinecube.analysis.encoders.score_cube import score_cube
    from cinecube.analysis.encoders.varying import find_constant, refuse_still_subjects

    settings = make_settings(study)
    refuse_still_subjects(brains, groups, settings.targets_per_block)
    space = replace(space, constant=find_constant(space, groups, settings, workers))
    _refuse_constant(study, space)
    found = encoding.encode(space, groups, brains, settings, workers, progress, kept)
    lags = scan_lags(space, groups, brains, settings, found, workers)
    attrs = provenance(
        "scores",
        score_spec(study, space, brains),
        ("himalaya", "numpy", "scikit-learn"),
        **check_same_space(list(brains.values())),
        tr_s=study.clock.tr_s,
        rows=json.dumps([_count_rows(group) for group in groups], sort_keys=True),
    )
    return score_cube(found, lags, space, list(brains.values()), attrs)


def _refuse_constant(study: Study, space: FeatureSpace) -> None:
    """Refuse features of which nothing varies; of a pair they may be what a removal leaves."""
    from cinecube.analysis.encoders.encoding import existing_layers

    if existing_layers(space) or _is_pair(study, space.models[0]):
        return
    raise StudyError(
        where=f"features of {', '.join(space.models)}",
        found=f"values that are constant over the training or the test films, at {', '.join(space.layers)}",
        expected="features that vary at one layer or more",
        do="look at the films and the checkpoint and extract them again, or take the model out of params.yaml",
    )


def make_settings(study: Study) -> Settings:
    """The `encode` section as arrays."""
    from cinecube.analysis.encoders.choices import choose_settings
    from cinecube.analysis.encoders.layout import Settings
    from cinecube.analysis.ridge.backends import check_backend

    params = study.encode
    plain = Settings(
        delays=tuple(params.delays),
        alphas=np.geomspace(params.alphas.min, params.alphas.max, params.alphas.n),
        n_folds=params.folds,
        gap_s=study.split.gap_s,
        films={film: study.films[film] for film in study.films if film in study.split.train},
        targets_per_block=params.targets_per_block,
        solver=params.solver,
        threads=study.run.threads,
        backend=check_backend(study.run.backend, study.run.device, "run.backend"),
    )
    return choose_settings(plain, params.compat)


def score_spec(study: Study, space: FeatureSpace, brains: Mapping[str, Responses]) -> dict[str, Any]:
    """What a score cube's fingerprint hashes; sizes of blocks change its speed only."""
    films = [*study.split.train, *study.split.test]
    return {
        "schema": SCHEMA,
        "kind": "scores",
        "models": space.models,
        "films": {film: study.films[film] for film in films},
        "split": study.split.model_dump(),
        "repeats": study.brain.repeats,
        "encode": _encode_spec(study.encode),
        "features": space.fingerprints(),
        "brain": {name: str(brain.cube.attrs["fingerprint"]) for name, brain in brains.items()},
    }


def _encode_spec(params: EncodeParams) -> dict[str, Any]:
    """How scores were fitted; without the choices that no study makes by default, older cubes stay what they are."""
    return params.model_dump(exclude={"targets_per_block", *(() if params.compat else ("compat",))})


def _count_rows(group: RowsGroup) -> dict[str, Any]:
    train = int(group.train.sum())
    return {"subjects": list(group.subjects), "train": train, "test": len(group.train) - train}
