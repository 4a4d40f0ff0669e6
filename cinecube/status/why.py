"""Is a cube what the study asks for, and if not, which field of its fingerprint differs?"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from cinecube.status import specs
from cinecube.status.pipeline import numbered, stages_to_run, stays
from cinecube.status.versions import differing
from cinecube.store.base.errors import StudyError
from cinecube.store.cube.heads import stored_spec
from cinecube.store.dvc.dvc_index import open_index
from cinecube.store.dvc.pulling import PulledCubes
from cinecube.store.dvc.remotes import shown_address
from cinecube.store.open.bringing import never_imported
from cinecube.store.open.cube_names import StudyCube, named_cubes
from cinecube.store.params.asked import becomes, of_folder, unlike
from cinecube.store.params.document import PARAMS_FILE, Imported, Study


@dataclass(frozen=True)
class Explanation:
    """State of a cube, compared with what its study asks for.

    Attributes
    ----------
    cube : str
        Path from the study's folder.
    state : str
        `up to date`, `stale`, `unlike` (imported, and not what `models` asks for) or `missing`.
    fields : list of str
        What differs, `clock.tr_s: 1.49 -> 2.0`: as stored, and as the study asks.
    reasons : list of str
        What DVC says of its stage, and what could not be compared.
    source : str
        Where an imported cube comes from, with its commit.
    """

    cube: str
    state: str
    fields: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    source: str = ""


def explain_cubes(study: Study, root: Path, cubes: Iterable[Path]) -> list[Explanation]:
    """Compare cubes with what the study would make in their places.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    cubes : iterable of Path
        From there, or absolute.

    Returns
    -------
    list of Explanation
        As many as there are cubes, in their order.

    Raises
    ------
    StudyError
        If one is none of the study's cubes.
    """
    known = {cube.path: cube for several in named_cubes(study).values() for cube in several}
    changed = cache(lambda: stages_to_run(study, root))
    return [_explain(study, root, _known(known, _place(root, cube)), changed) for cube in cubes]


def _explain(study: Study, root: Path, cube: StudyCube, changed: Callable[[], Mapping[str, str]]) -> Explanation:
    place, stage, model, film = cube.path, cube.stage, cube.name, cube.film
    imported = study.import_of(model) if stage.startswith("features@") else None
    if not (root / place).exists():
        pull = f"`dvc pull {place}` brings it"
        part = PulledCubes(root).part(root / place, place)
        pulled = [f"layers in DVC's cache: {', '.join(part.here) or 'none'}"] if part else []
        ways = pull if imported else f"{pull} where it is recorded, `dvc repro` makes it"
        if _is_kept_back(root, place):
            ways = "its owner did not publish it; `dvc repro` makes it where its inputs are"
        elif imported and (line := never_imported(study, root, model, film)):
            ways = f"{model} was imported without {film}: {line} brings it"
        return Explanation(place, "missing", reasons=[*pulled, ways])
    stored = stored_spec(root / place)
    if imported is not None:
        return _explain_imported(study, root, place, imported, stored)
    reasons, fields = [], []
    try:
        fields = differing(*specs.compared(study, root, cube, stored))
    except StudyError as error:
        reasons.append(f"its fields cannot be compared: {error}")
    said = changed().get(numbered(study, stage), "")
    state = "stale" if fields or reasons or (said and not stays(said)) else "up to date"
    if more := [reason for reason in said.split("; ") if reason and reason not in fields]:
        reasons.append(f"DVC: {'; '.join(more)}")
    return Explanation(place, state, fields, reasons)


def _place(root: Path, cube: Path) -> str:
    whole = (root / cube).resolve()
    if not whole.is_relative_to(root.resolve()):
        raise StudyError(
            where=str(cube),
            found="a path outside the study",
            expected="one of its cubes",
            do="name one that `ls` lists",
        )
    return whole.relative_to(root.resolve()).as_posix()


def _known(known: Mapping[str, StudyCube], place: str) -> StudyCube:
    if place not in known:
        raise StudyError(
            where=place,
            found="no cube of this study",
            expected="data/features/MODEL/FILM.zarr, data/brain/SUBJECT.zarr, results/scores/MODEL.zarr, …",
            do=f"name a cube by its path, as `cinecube ls` does; its model, film or subject is in {PARAMS_FILE}",
        )
    return known[place]


def _explain_imported(
    study: Study, root: Path, place: str, imported: Imported, stored: Mapping[str, Any]
) -> Explanation:
    asked = study.models.get(imported.model)
    fields = unlike(asked, stored, root) if asked else []
    reasons = [] if asked else [f"models has no {imported.model}: the cube is taken as it is"]
    if asked and (weights := of_folder(stored)) and not fields:
        reasons.append(f"it is of {weights}, which are not compared with models.{imported.model}.checkpoint")
    if resampled := becomes(study, imported, stored):
        reasons.append(f"{resampled} when analyses read it")
    return Explanation(place, "unlike" if fields else "up to date", fields, reasons, _source(root, place, imported))


def _is_kept_back(root: Path, place: str) -> bool:
    try:
        index = open_index(root)
    except StudyError:
        return False
    output = index.at(place)
    return output is not None and index.is_kept_back(output)


def _source(root: Path, place: str, imported: Imported) -> str:
    try:
        index = open_index(root)
        whole = posixpath.normpath(posixpath.join(index.prefix, place))
        found = next((output.source for output in index.outputs if output.path == whole), None)
    except StudyError:  # cubes may be in a folder without DVC
        found = None
    return f"{shown_address(found.url)} at {found.rev}" if found else imported.source
