"""A study's cubes by the names of their models, films, pairs and subjects."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cinecube.store.base.errors import StudyError
from cinecube.store.base.labels import no_such
from cinecube.store.base.paths import PARAMS_FILE, StudyPaths, is_of_study
from cinecube.store.params.document import Study, load_study

KINDS = (
    *("features", "brain", "ceiling", "residual features", "scores", "predictions"),
    *("weights", "partition", "significance"),
)
"""Kinds of cubes in the order of the pipeline."""


@dataclass(frozen=True)
class StudyCube:
    """One cube of a study.

    Attributes
    ----------
    label : str
        The name that is its alone: `vit/amber`, `sub-01`.
    kind : str
        What it holds, one of `KINDS`.
    path : str
        From the study's folder.
    stage : str
        What makes it, with the name of its pair or model: `encode_residual@KEEP-REMOVE`.
    name : str
        Its model, pair or subject; empty where it is of all.
    film : str
        Empty where it is of all.
    """

    label: str
    kind: str
    path: str
    stage: str
    name: str = ""
    film: str = ""


def named_cubes(study: Study) -> dict[str, tuple[StudyCube, ...]]:
    """Cubes that a study has or will have, by name.

    Parameters
    ----------
    study : Study

    Returns
    -------
    dict
        `MODEL` and `PAIR` -> feature cubes, in the order of films; `MODEL/FILM` -> one of them; `MODEL/scores`,
        `MODEL/predictions` and `MODEL/weights`; `SUBJECT`; `ceiling`, `partition` and `significance`. Of two with one
        name the first keeps it.
    """
    paths = StudyPaths(Path())
    found: dict[str, tuple[StudyCube, ...]] = {}

    def add(name: str, encode: str, kind: str, films: Mapping[str, tuple[Path, str]]) -> None:
        cubes = [
            StudyCube(f"{name}/{film}", kind, str(path), stage, name, film) for film, (path, stage) in films.items()
        ]
        found[name] = tuple(cubes)
        found.update({cube.label: (cube,) for cube in cubes})
        for part, path in (("scores", paths.scores(name)), ("predictions", paths.predictions(name))):
            alone(StudyCube(f"{name}/{part}", part, str(path), f"{encode}@{name}", name))

    def alone(cube: StudyCube) -> None:
        found.setdefault(cube.label, (cube,))

    for model in study.known_models:
        encode = "encode_imported" if study.import_of(model) else "encode"
        films = {film: (paths.features(model, film), f"features@{model}-{film}") for film in study.films}
        add(model, encode, "features", films)
    fitted = [film for film in study.films if film in (*study.split.train, *study.split.test)]
    for pair in (pair.name for pair in study.residual):
        films = {film: (paths.residual(pair, film), f"residual_features@{pair}") for film in fitted}
        add(pair, "encode_residual", "residual features", films)
    for subject in study.brain.subjects:
        alone(StudyCube(subject, "brain", str(paths.brain(subject)), f"brain@{subject}", subject))
    for entry in study.keep_weights:
        path, stage = paths.weights(entry.model), f"weights@{entry.model}"
        alone(StudyCube(f"{entry.model}/weights", "weights", str(path), stage, entry.model))
    for stage, path in (
        ("ceiling", paths.ceiling),
        ("partition", paths.partition),
        ("significance", paths.significance),
    ):
        alone(StudyCube(stage, stage, str(path), stage))
    return found


_SPELLINGS = (
    "a path, MODEL or PAIR, MODEL/FILM, MODEL/scores, MODEL/predictions, MODEL/weights, SUBJECT, ceiling, partition, "
    "significance"
)


def find_named(root: Path, asked: str) -> Sequence[Path] | Path:
    """Cubes by a name or a path.

    Parameters
    ----------
    root : Path
        The study's folder.
    asked : str
        A name of `named_cubes`, or a path from the study's folder; what is there is a path.

    Returns
    -------
    sequence of Path, or Path
        From the study's folder: all feature cubes of a model or pair, or the one cube of any other name.

    Raises
    ------
    StudyError
        If it is neither, or there is neither a study nor such a path.
    """
    path = root / asked
    if os.path.lexists(path):
        return Path(asked)
    if not (root / PARAMS_FILE).is_file():
        if not is_of_study(path):
            raise StudyError(
                where=asked,
                found="nothing of this name, in a folder that is no study",
                expected="a cube's path, or a name in a study's folder",
                do="run in a study's folder, or correct the path",
            )
        return Path(asked)
    study = load_study(root)
    named = named_cubes(study)
    if asked in study.known_models or any(asked == pair.name for pair in study.residual):
        return [Path(cube.path) for cube in named[asked]]
    if asked in named:
        return Path(named[asked][0].path)
    if asked.endswith(".zarr") or (os.sep in asked and path.parent.is_dir()):
        return Path(asked)
    _refuse_stream(study, asked)
    _refuse_unkept(study, asked)
    # Whole names first: the nearest of all comes before them.
    known = sorted(named, key=lambda name: "/" in name)
    do = "see `cinecube ls` for the cubes that are here"
    raise no_such("cube", asked, known, PARAMS_FILE, do, expected=f"{_SPELLINGS}, or ")


def _refuse_stream(study: Study, asked: str) -> None:
    """Refuse `imagebind.video`, and parts of it: a cube holds all streams of its model. A dash makes it a pair."""
    name, slash, part = asked.partition("/")
    owners = [model for model in study.known_models if name.startswith(f"{model}.") and "-" not in name[len(model) :]]
    if owners:
        owner = max(owners, key=len)
        raise StudyError(
            where=PARAMS_FILE,
            found=f"no cube of {name} alone",
            expected=f"that of its model {owner}, which holds all streams of it",
            do=f"name {owner}{slash}{part}",
        )


def _refuse_unkept(study: Study, asked: str) -> None:
    """Refuse `vit/weights` where the study keeps none of the model, and say how it would."""
    model, _, part = asked.rpartition("/")
    if part == "weights" and model in study.known_models:
        raise StudyError(
            where=f"{PARAMS_FILE}: keep_weights",
            found=f"no {model}",
            expected="the models whose weights are kept",
            do=f"add `{{model: {model}, layer: best}}` to the list, and run `dvc repro`",
        )
