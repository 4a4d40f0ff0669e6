"""Digests of what analyses read of features, so that each depends on its own models and on no other."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cinecube.store.base.atomic import write_text
from cinecube.store.base.errors import StudyError
from cinecube.store.base.fingerprint import fingerprint
from cinecube.store.base.paths import PARAMS_FILE, StudyPaths
from cinecube.store.base.writing import one_writer
from cinecube.store.cube.checksums import cube_digest
from cinecube.store.params.document import Study


def write_contents(study: Study, root: Path) -> dict[str, Any]:
    """Write digests of the study's feature cubes to `data/contents.json`, and return them.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.

    Returns
    -------
    dict
        `models`: model -> digest of its cubes of all films, None where it has none. `pairs`: of the residual analysis,
        what each is computed from; a name with dots is a path, as DVC reads the names of parameters. `partition`:
        digest of the features of all its streams.

    Raises
    ------
    StudyError
        If a cube is not as it was written.
    """
    paths = StudyPaths(root)
    models = {model: _cubes_digest(paths, model, list(study.films)) for model in study.encoded}
    pairs: dict[str, Any] = {}
    for pair in study.residual:
        *above, last = pair.name.split(".")
        place = pairs
        for name in above:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                raise _alike(pair.name)
        if last in place:
            raise _alike(pair.name)
        place[last] = _digest(study, models, (pair.keep, pair.remove), pair.model_dump(mode="json"))
    streams = dict.fromkeys(itertools.chain.from_iterable(study.partition))
    contents = {"models": models, "pairs": pairs, "partition": _digest(study, models, streams)}
    with one_writer(paths, paths.contents):
        write_text(paths.contents, json.dumps(contents, indent=1, sort_keys=True) + "\n")
    return contents


def _alike(name: str) -> StudyError:
    """Error for pairs of models `a` and `a.b`, which DVC cannot tell apart."""
    return StudyError(
        where=f"{PARAMS_FILE}: residual",
        found=f"{name}, and a pair whose name goes on where a dot is in this one or ends there",
        expected="names that are not each other's beginnings",
        do="rename the model that has a dot in its name",
    )


def _cubes_digest(paths: StudyPaths, model: str, films: list[str]) -> str | None:
    cubes = {film: paths.features(model, film) for film in films}
    digests = {film: cube_digest(cube) for film, cube in cubes.items() if cube.is_dir()}
    return fingerprint(digests) if digests else None


def _digest(study: Study, models: Mapping[str, str | None], streams: Iterable[str], how: Mapping[str, Any] = {}) -> str:
    """Digest of the cubes that hold streams, of how they are brought to the clock, and of `how` they are used."""
    owners = [study.owner(stream) for stream in streams]
    imports = [study.import_of(owner) for owner in owners]
    cubes, resample = [models.get(owner) for owner in owners], [entry and entry.resample for entry in imports]
    return fingerprint({**how, "cubes": cubes, "resample": resample})
