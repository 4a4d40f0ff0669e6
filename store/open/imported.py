"""Feature cubes that a study did not make: refused if they are not what it asks for, and recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import xarray as xr

from cinecube.store.base.atomic import write_text
from cinecube.store.base.errors import StudyError
from cinecube.store.base.labels import no_such
from cinecube.store.base.paths import StudyPaths
from cinecube.store.base.writing import one_writer
from cinecube.store.cube.cubes import open_cube, refuse_another
from cinecube.store.open.bringing import never_imported
from cinecube.store.params.asked import unlike
from cinecube.store.params.document import Imported, Study


def open_imported(study: Study, root: Path, model: str, film: str) -> xr.Dataset:
    """A feature cube from elsewhere, lazily, as it is.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    model, film : str

    Returns
    -------
    Dataset
        `features (time, dim, model, layer)`.

    Raises
    ------
    StudyError
        If it is missing, or the section `models` asks for something else.
    """
    paths, asked = StudyPaths(root), study.models.get(model)
    path = paths.features(model, film)
    where = paths.relative(path)
    if not path.exists() and path.with_name(f"{path.name}.dvc").is_file():
        raise StudyError(
            where=where, found="its .dvc file and not the cube", expected="both", do=f"fetch it with `dvc pull {where}`"
        )
    if line := never_imported(study, root, model, film):
        raise StudyError(
            where=where,
            found=f"no cube: {model} was imported without {film}",
            expected="one of each film",
            do=f"run {line}",
        )
    cube = open_cube(path, where=where)
    refuse_another(cube, where, "features", model=model, segments=study.films.get(film, ()))
    lines = unlike(asked, json.loads(cube.attrs.get("spec", "{}")), root) if asked else []
    if lines:
        field, _, values = lines[0].partition(": ")
        found, _, expected = values.partition(" -> ")
        raise StudyError(
            where=where,
            found=f"{field} {found}" + (f" and {len(lines) - 1} more that differ" if lines[1:] else ""),
            expected=f"{expected}, which models.{model} asks for",
            do=f"see `cinecube why {where}`; change models.{model}, or remove it to take the cubes as they are",
        )
    return cube


def record_imported(study: Study, root: Path, model: str) -> dict[str, Any]:
    """Check the cubes of an imported model, and write the record of them that scores depend on.

    Analyses depend on this record, as it does not change when other entries of `models` and `imported` do.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    model : str

    Returns
    -------
    dict
        The record, as it is written.

    Raises
    ------
    StudyError
        If the model is not imported, or a cube of `split` is missing or unlike what the study asks for.
    """
    entry, paths = _entry(study, model), StudyPaths(root)
    films = [*study.split.train, *study.split.test]
    with one_writer(paths, paths.imported(model)):
        cubes = {film: open_imported(study, root, model, film) for film in films}
        record = {
            "model": model,
            "resample": entry.resample,
            "fingerprints": {film: str(cube.attrs["fingerprint"]) for film, cube in cubes.items()},
        }
        write_text(paths.imported(model), json.dumps(record, indent=1, sort_keys=True) + "\n")
    return record


def _entry(study: Study, model: str) -> Imported:
    entry = study.import_of(model)
    if entry is None:
        do = "bring its cubes by `cinecube import`, or features of your own by `cinecube add`"
        raise no_such("model", model, [entry.model for entry in study.imported], "params.yaml: imported", do)
    return entry
