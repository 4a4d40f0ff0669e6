"""A study's cubes by the names of their models, films, pairs and subjects."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cinecube.store.base.labels import no_such
from cinecube.store.base.paths import PARAMS_FILE, StudyPaths
from cinecube.store.params.document import Study, load_study


@dataclass(frozen=True)
class StudyCube:
    """One cube of a study.

    Attributes
    ----------
    path : str
        From the study's folder.
    stage : str
        What makes it, with the name of its pair or model: `encode_residual@KEEP-REMOVE`.
    name : str
        Its model, pair or subject; empty where it is of all.
    film : str
        Empty where it is of all.
    """

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
        `MODEL` and `PAIR` -> feature cubes, in the order of films; `MODEL/FILM` -> one of them; `MODEL/scores`
        and `MODEL/predictions`; `SUBJECT`; `ceiling`, `partition` and `significance`. Of two with one name the first keeps it.
    """
    paths = StudyPaths(Path())
    found: dict[str, tuple[StudyCube, ...]] = {}

    def add(name: str, cubes: list[StudyCube], encode: str) -> None:
        found[name] = tuple(cubes)
        found.update({f"{name}/{cube.film}": (cube,) for cube in cubes})
        for part, path in (("scores", paths.scores), ("predictions", paths.predictions)):
            found.setdefault(f"{name}/{part}", (StudyCube(str(path(name)), f"{encode}@{name}", name),))

    for model in study.known_models:
        cubes = [(film, str(paths.features(model, film)), f"features@{model}-{film}") for film in study.films]
        encode = "encode_imported" if study.import_of(model) else "encode"
        add(model, [StudyCube(path, stage, model, film) for film, path, stage in cubes], encode)
    for pair in (pair.name for pair in study.residual):
        stage = f"residual_features@{pair}"
        films = [film for film in study.films if film in (*study.split.train, *study.split.test)]
        add(pair, [StudyCube(str(paths.residual(pair, film)), stage, pair, film) for film in films], "encode_residual")
    for subject in study.brain.subjects:
        found.setdefault(subject, (StudyCube(str(paths.brain(subject)), f"brain@{subject}", subject),))
    for stage in ("ceiling", "partition", "significance"):
        found.setdefault(stage, (StudyCube(str(getattr(paths, stage)), stage),))
    return found


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
        If it is neither.
    """
    path = root / asked
    if os.path.lexists(path) or not (root / PARAMS_FILE).is_file():
        return Path(asked)
    study = load_study(root)
    named = named_cubes(study)
    if asked in study.known_models or any(asked == pair.name for pair in study.residual):
        return [Path(cube.path) for cube in named[asked]]
    if asked in named:
        return Path(named[asked][0].path)
    if asked.endswith(".zarr") or (os.sep in asked and path.parent.is_dir()):
        return Path(asked)
    names = ", ".join(name for name in named if "/" not in name)
    expected = f"a path, MODEL/FILM, MODEL/scores, or one of {names}"
    raise no_such(asked, named, PARAMS_FILE, "cube", "see `cinecube ls`", expected)
