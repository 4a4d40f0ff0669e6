"""The stages `encode`, `whole_brain` and `layerwise`: cubes in, score cubes and tables out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from cinecube.analysis import tables
from cinecube.analysis.rows import RowsGroup, align
from cinecube.analysis.spaces import FeatureSpace, Responses, check_same_space, join_films, open_responses
from cinecube.store.cubes import open_cube, write_cube
from cinecube.store.errors import StudyError
from cinecube.store.journal import open_journal
from cinecube.store.params import Study
from cinecube.store.paths import StudyPaths
from cinecube.store.schema import SCHEMA, provenance

if TYPE_CHECKING:
    from cinecube.analysis.encoding import Kept, Progress
    from cinecube.analysis.layout import Settings
    from cinecube.analysis.tasks import Workers


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
        If a cube is missing, cubes do not fit each other, workers are lost, or another process scores this model.
    """
    from cinecube.analysis.encoding import count_work
    from cinecube.analysis.tasks import open_workers

    # What can be refused is refused before any worker starts.
    space, brains, groups = read_inputs(study, root, model)
    work = count_work(space, groups, brains, make_settings(study))
    paths = StudyPaths(root)
    with (
        open_journal(paths.journals, score_spec(study, space, brains), paths.relative(paths.scores(model))) as journal,
        open_workers(study.dask, study.run.threads, work) as workers,
    ):
        cube = score_model(study, space, brains, groups, workers, progress, journal)
        write_cube(paths.scores(model), cube)
        journal.remove()


def read_inputs(study: Study, root: Path, model: str) -> tuple[FeatureSpace, dict[str, Responses], list[RowsGroup]]:
    """Open a model's feature cubes and all brain cubes, and match their rows.

    Raises
    ------
    StudyError
        If a cube is missing, cubes do not fit each other, or a segment is missing.
    """
    paths, split = StudyPaths(root), study.split
    films = [*split.train, *split.test]
    space = join_films(
        {film: _open(paths, paths.features(model, film)) for film in films},
        {film: study.films[film] for film in films},
        model,
    )
    subjects = study.brain.subjects
    brains = {name: open_responses(name, _open(paths, paths.brain(name)), space) for name in subjects}
    check_same_space(list(brains.values()))
    groups = align(
        space.rows,
        {name: brain.rows for name, brain in brains.items()},
        train=study.segments(split.train),
        test=study.segments(split.test),
        repeats=study.brain.repeats,
        rows=study.encode.rows,
    )
    return space, brains, groups


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
    """
    from cinecube.analysis import encoding
    from cinecube.analysis.lag import scan_lags
    from cinecube.analysis.scores import score_cube

    settings = make_settings(study)
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


def make_settings(study: Study) -> Settings:
    """The `encode` section as arrays."""
    from cinecube.analysis.backends import check_backend
    from cinecube.analysis.layout import Settings

    params = study.encode
    return Settings(
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
        "encode": study.encode.model_dump(exclude={"targets_per_block"}),
        "features": space.fingerprints(),
        "brain": {name: str(brain.cube.attrs["fingerprint"]) for name, brain in brains.items()},
    }


def _count_rows(group: RowsGroup) -> dict[str, Any]:
    train = int(group.train.sum())
    return {"subjects": list(group.subjects), "train": train, "test": len(group.train) - train}


def whole_brain(study: Study, root: Path) -> None:
    """Write the tables of scores at each parcel's layer, and their means over the brain."""
    paths = StudyPaths(root)
    preferred = tables.preferred_layers(tables.layer_table(read_scores(study, root)))
    means = tables.whole_brain_means(preferred)
    everyone = means[means["subject"] == tables.EVERYONE]
    tables.write_table(paths.tables / "whole_brain.csv", preferred)
    tables.write_table(paths.tables / "whole_brain_mean.csv", means)
    tables.write_table(paths.plots / "whole_brain.csv", everyone[["model", "score"]])


def layerwise(study: Study, root: Path) -> None:
    """Write the tables of scores at every layer and of single delays, and curves for plots."""
    paths = StudyPaths(root)
    cubes = read_scores(study, root)
    table = tables.layer_table(cubes)
    lags = tables.lag_curves(cubes)
    tables.write_table(paths.tables / "layerwise.csv", table)
    tables.write_table(paths.tables / "lag.csv", tables.best_lags(lags))
    tables.write_table(paths.tables / "lag_curve.csv", lags)
    tables.write_by_model(paths.plots / "layers", tables.layer_curves(table))
    tables.write_by_model(paths.plots / "lags", lags.groupby(["model", "lag"])["lag_score"].mean().reset_index())


def read_scores(study: Study, root: Path) -> list[xr.Dataset]:
    """Score cubes of all models that the study computes, lazily; one cube may hold several streams.

    Raises
    ------
    StudyError
        If one is missing, or two hold a stream of the same name.
    """
    paths = StudyPaths(root)
    cubes = {model: _open(paths, paths.scores(model)) for model in study.compute.models}
    owner: dict[str, str] = {}
    for model, cube in cubes.items():
        for stream in map(str, cube["model"].values):
            if stream in owner:
                raise StudyError(
                    where=paths.relative(paths.scores(model)),
                    found=f"scores of {stream}, which those of {owner[stream]} hold too",
                    expected="streams that differ in name",
                    do=f"rename one of the models {owner[stream]} and {model}",
                )
            owner[stream] = model
    return list(cubes.values())


def _open(paths: StudyPaths, path: Path) -> xr.Dataset:
    return open_cube(path, where=paths.relative(path))
