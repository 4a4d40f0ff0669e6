"""Cubes of results, opened for the analyses that follow: scores of all models, and the ceiling that a study uses."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from cinecube.analysis.cubes.unscored import refuse_disagreement, refuse_unexplained, subjects_too_short, unfit_subjects
from cinecube.store.base.errors import StudyError
from cinecube.store.base.labels import find_label
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import open_cube, read_values, refuse_another
from cinecube.store.params.document import Study

_log = logging.getLogger(__name__)


def read_scores(study: Study, root: Path) -> list[xr.Dataset]:
    """Score cubes of all models that the study computes or imports, lazily; one cube may hold several streams.

    Their numbers are read once, so that what is missing has a reason: see `unscored.refuse_unexplained`.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.

    Returns
    -------
    list of Dataset
        `score (subject, model, layer, target)` and more.

    Raises
    ------
    StudyError
        If one is missing or lacks a subject, two hold a stream of the same name, a score is missing without a reason,
        or cubes disagree about which targets have scores.
    """
    paths = StudyPaths(root)
    cubes = {model: open_scores(root, model) for model in study.encoded}
    owner: dict[str, str] = {}
    for model, cube in cubes.items():
        absent = sorted(set(study.brain.subjects) - {str(name) for name in cube["subject"].values})
        if absent:
            raise StudyError(
                where=paths.relative(paths.scores(model)),
                found=f"no scores of {', '.join(absent)}",
                expected="all of brain.subjects",
                do=f"run `dvc repro encode@{model}`, or take them out of brain.subjects",
            )
        for stream in map(str, cube["model"].values):
            if stream in owner:
                raise StudyError(
                    where=paths.relative(paths.scores(model)),
                    found=f"scores of {stream}, which those of {owner[stream]} hold too",
                    expected="streams that differ in name",
                    do=f"rename one of the models {owner[stream]} and {model}",
                )
            owner[stream] = model
        refuse_unexplained(cube, paths.relative(paths.scores(model)))
    refuse_disagreement({paths.relative(paths.scores(model)): cube for model, cube in cubes.items()})
    return list(cubes.values())


def open_scores(root: Path, model: str) -> xr.Dataset:
    """A score cube by its model's name, lazily.

    Parameters
    ----------
    root : Path
        The study's folder.
    model : str

    Returns
    -------
    Dataset

    Raises
    ------
    StudyError
        If it is missing, or holds another model's.
    """
    return _open_result(StudyPaths(root), StudyPaths.scores, "score", model)


def of_scored(study: Study, root: Path) -> Study:
    """The same study of those of its subjects who have scores: those whom means are over.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder, with its score cubes.

    Returns
    -------
    Study

    Raises
    ------
    StudyError
        If a score cube is missing.
    """
    unfit = unfit_subjects(open_scores(root, study.encoded[0])) if study.encoded else []
    if not unfit:
        return study
    subjects = [name for name in study.brain.subjects if name not in unfit]
    return study.model_copy(update={"brain": study.brain.model_copy(update={"subjects": subjects})})


def read_predictions(study: Study, root: Path) -> list[xr.Dataset]:
    """Predictions of the test films by all models that the study computes or imports, lazily; see `open_predictions`.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.

    Returns
    -------
    list of Dataset
        A cube per model, in the study's order.

    Raises
    ------
    StudyError
        If a cube is missing, or holds another model's.
    """
    return [open_predictions(root, model) for model in study.encoded]


def open_predictions(root: Path, model: str) -> xr.Dataset:
    """Predicted and measured responses of the test films, average over each parcel's targets, lazily.

    Parameters
    ----------
    root : Path
        The study's folder.
    model : str
        Name of a model, or of a residual pair.

    Returns
    -------
    Dataset
        `predicted (subject, model, time, parcel)` at the parcel's layer of each subject and stream, `layer (subject,
        model, parcel)`; `measured (subject, time, parcel)`; `targets (subject, parcel)` that the means are over. On
        `time`: `segment`, `onset_s` in seconds from its first frame, and `repeat` where showings are kept apart. NaN
        where a subject lacks a row or has no target of a parcel, or a stream has no layer there.

    Raises
    ------
    StudyError
        If it is missing, or holds another model's.
    """
    return _open_result(StudyPaths(root), StudyPaths.predictions, "predicted", model)


def _open_result(paths: StudyPaths, place: Callable[[StudyPaths, str], Path], variable: str, model: str) -> xr.Dataset:
    """A cube of one model, lazily; one of something else is refused."""
    path = place(paths, model)
    where = paths.relative(path)
    cube = open_cube(path, where=where)
    refuse_another(cube, where, variable, model=model)
    return cube


def read_ceiling(study: Study, root: Path, required: bool = True) -> xr.DataArray:
    """The ceiling that `ceiling.use` names, dims (subject, target); NaN for `none`.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    required : bool
        Refuse a ceiling that is NaN throughout.

    Returns
    -------
    DataArray, dims (subject, target)
        In memory.

    Raises
    ------
    StudyError
        If the ceiling cube is missing or damaged, holds infinity, or no target has this ceiling where one is required.
    """
    paths, use = StudyPaths(root), study.ceiling.use
    where = paths.relative(paths.ceiling)
    cube = open_cube(paths.ceiling, where=where)
    refuse_another(cube, where, "cross_subject")
    if use == "none":
        return xr.full_like(cube["repeats"].load(), np.nan)
    array = cube[use]
    values = read_values(array, f"{where} {use}")
    if np.isinf(values).any():
        raise StudyError(
            where=f"{where} {use}",
            found=f"infinity in {int(np.isinf(values).sum())} targets",
            expected="ceilings up to 1",
            do="make it again with `dvc repro -f -s ceiling`",
        )
    note = str(array.attrs.get("note", "no target varies"))
    if required and np.isnan(values).all():
        raise _no_ceiling(use, note)
    if required:
        _tell_of_absent(cube, values, use, note)
    return array.copy(data=values)


def _tell_of_absent(cube: xr.Dataset, values: np.ndarray, use: str, note: str) -> None:
    """Log the subjects (subject, target) none of whose targets has a ceiling: means of shares are over the others.

    Who has no scores either was named by `encode` and `ceiling`.
    """
    subjects = map(str, cube["subject"].values)
    absent = [name for name, own in zip(subjects, values, strict=True) if np.isnan(own).all()]
    absent = [name for name in absent if name not in subjects_too_short(cube)]
    if absent:
        _log.warning("no %s ceiling of %s: shares are of the other subjects (%s)", use, ", ".join(absent), note)


def _no_ceiling(use: str, reason: str) -> StudyError:
    other, need = (
        ("repeats", "name more subjects in brain.subjects")
        if use == "cross_subject"
        else ("cross_subject", "test on films that were shown twice")
    )
    return StudyError(
        where=f"ceiling.use: {use}",
        found=f"no such ceiling of any target ({reason})",
        expected="one that these scans allow",
        do=f"set ceiling.use: {other}, or {need}",
    )


def find_stream(models: Sequence[str], stream: str, where: str, section: str = "residual") -> int:
    """Position of a stream, which a section of `params.yaml` names, on the model axis.

    Parameters
    ----------
    models : sequence of str
        Labels of the model axis.
    stream : str
    where : str
        What messages call the cube.
    section : str
        Of `params.yaml`.

    Returns
    -------
    int

    Raises
    ------
    StudyError
        If the cube has no such stream.
    """
    return find_label(stream, models, where, do=f"correct the name in `{section}` of params.yaml")
