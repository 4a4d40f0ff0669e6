"""Cubes that DVC has recorded: where a stage runs again though its numbers stay, they are taken back.

DVC compares parameters, and removes the outputs of a stage before it runs it. Not every change is one of numbers:
weights that moved to another folder, a default that is written out, a film that the stage does not read, one set more.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cinecube.store.base.atomic import staged
from cinecube.store.base.bounded import parse_json
from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.checksums import cube_digest
from cinecube.store.cube.plainness import ROOT
from cinecube.store.dvc.dvc_index import DvcIndex, Listing, Output
from cinecube.store.dvc.dvc_repo import without_bars
from cinecube.store.dvc.remotes import DvcObject
from cinecube.store.params.document import Study

if TYPE_CHECKING:
    import xarray as xr

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LastRun:
    """DVC's record of a stage's last run.

    Attributes
    ----------
    listings : dict of Path to Listing
        Files of each cube.
    is_of_params : bool
        Whether nothing but parameters has changed since, so that all inputs have the same bytes.
    """

    listings: Mapping[Path, Listing]
    is_of_params: bool


def input_digests(study: Study, root: Path, models: Sequence[str]) -> dict[str, Any]:
    """Digests of the cubes that an analysis is made of: the same fingerprint is not the same bytes.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    models : sequence of str
        Models and residual pairs whose features it reads.

    Returns
    -------
    dict
        `brain`: subject -> digest; `features`: model -> film -> digest.
    """
    paths, pairs = StudyPaths(root), {pair.name for pair in study.residual}
    films = [*study.split.train, *study.split.test]
    features = {
        model: {
            film: cube_digest((paths.residual if model in pairs else paths.features)(model, film)) for film in films
        }
        for model in models
    }
    return {"brain": {name: cube_digest(paths.brain(name)) for name in study.brain.subjects}, "features": features}


def take_back(paths: StudyPaths, wanted: Mapping[Path, str], inputs: Mapping[str, Any] | None = None) -> bool:
    """Put back the cubes that DVC removed before a stage, if its cache has them with the fingerprints asked for.

    Parameters
    ----------
    paths : StudyPaths
    wanted : Mapping of Path to str
        Cubes that one stage writes -> their fingerprints.
    inputs : Mapping, optional
        From `input_digests`, which the first cube has as its attribute `inputs`: where more than parameters has
        changed, they must be the same. None where a fingerprint stands for the bytes of all inputs.

    Returns
    -------
    bool
        False if they are to be computed, see `recorded`.
    """
    found = recorded(paths, list(wanted))
    if found is None:
        return False
    stored = {path: stored_attrs(listing) for path, listing in found.listings.items()}
    if any(stored[path].get("fingerprint") != wanted[path] for path in wanted):
        return False
    if inputs is not None and not found.is_of_params and stored_inputs(stored[next(iter(wanted))]) != inputs:
        return False
    try:
        for path, listing in found.listings.items():
            _write(listing, path)
    except StudyError as error:
        _log.warning("what DVC has recorded is not whole, so it is computed again: %s", error)
        return False
    named = ", ".join(map(paths.relative, wanted))
    _log.info("%s: as DVC has recorded it, since nothing that its numbers are made of has changed", named)
    return True


def stored_inputs(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Digests of what a cube was made of, by its attributes; empty parts where it says none."""
    found: dict[str, Any] = json.loads(str(attrs.get("inputs", "{}")))
    return {"brain": {}, "features": {}} | found


def recorded(paths: StudyPaths, cubes: Sequence[Path]) -> LastRun | None:
    """The cubes that the last run of a stage left, while that stage runs again.

    Parameters
    ----------
    paths : StudyPaths
    cubes : sequence of Path
        Outputs of one stage.

    Returns
    -------
    LastRun or None
        None if a cube is there, so that somebody runs the stage by hand; if DVC or its cache lacks one; if the stage's
        code has changed, or what else is no parameter and no file of `data` or `results`; or if nothing has changed,
        as where `dvc repro --force` runs it.
    """
    from dvc.dependency import ParamsDependency

    if any(path.exists() for path in cubes) or not _are_locked(paths, cubes):
        return None
    with _outputs(paths.root) as outs:
        found = [outs[path.resolve()] for path in cubes if path.resolve() in outs]
        if len(found) < len(cubes) or len({out.stage.addressing for out in found}) != 1:
            return None
        changed = _changed_inputs(found[0].stage, paths)
        try:
            listings = {path: _listing(out) for path, out in zip(cubes, found, strict=True)}
        except StudyError:
            return None
        return LastRun(listings, all(isinstance(dep, ParamsDependency) for dep in changed)) if changed else None


def last_run(paths: StudyPaths, cube: Path, *beside: Path) -> xr.Dataset | None:
    """The cube that a stage's last run left, while that stage runs again, as DVC's cache has it.

    Parameters
    ----------
    paths : StudyPaths
    cube : Path
    beside : Path
        Other cubes that the stage writes.

    Returns
    -------
    Dataset or None
        None where `recorded` finds none, or it cannot be read, which is logged.
    """
    from cinecube.store.cube.cubes import open_stored
    from cinecube.store.dvc.dvc_zarr import DvcZarrStore

    found = recorded(paths, [cube, *beside])
    try:
        return None if found is None else open_stored(DvcZarrStore(found.listings[cube]), found.listings[cube].where)
    except StudyError as error:
        _log.warning("what DVC has recorded of the last run is not read, so all is computed: %s", error)
        return None


def stored_attrs(listing: Listing) -> Mapping[str, Any]:
    """Attributes of a cube of which DVC has the files; none of what is no cube.

    Parameters
    ----------
    listing : Listing
        From `recorded`.
    """
    if ROOT not in listing.files:
        return {}
    try:
        attrs = parse_json(listing.objects.read_whole(listing.files[ROOT], listing.where))["attributes"]
    except (StudyError, ValueError, KeyError, TypeError):
        return {}
    return attrs if isinstance(attrs, dict) else {}


def restored_features(root: Path, wanted: Mapping[tuple[str, str], str]) -> set[tuple[str, str]]:
    """Feature cubes that are not here, and that `dvc repro` does not compute or knows from elsewhere.

    Its cache has them, by the lock file, by an earlier run, or for `take_back`; or the lock file says that they were
    made of these inputs, so that `dvc pull` brings them.

    Parameters
    ----------
    root : Path
        A folder with a `dvc.yaml`, where there is one.
    wanted : Mapping of (str, str) to str
        Models and films -> fingerprints of their cubes.

    Returns
    -------
    set of (str, str)
        Models and films.
    """
    if not wanted:
        return set()
    paths = StudyPaths(root)
    with _outputs(root) as outs:
        named = {(model, film): outs.get(paths.features(model, film).resolve()) for model, film in wanted}
        return {cube for cube, out in named.items() if out is not None and _is_found(out, paths, wanted[cube])}


@contextmanager
def _outputs(root: Path) -> Iterator[dict[Path, Any]]:
    """DVC's outputs by path, while `dvc repro` runs a stage, when its lock is free; none where there is no pipeline."""
    if not (root / "dvc.yaml").is_file():
        yield {}
        return
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo, lock_repo

    found: dict[Path, Any] = {}
    with contextlib.ExitStack() as held:
        held.enter_context(without_bars())
        held.enter_context(contextlib.chdir(root))
        try:
            repo = held.enter_context(Repo("."))
            held.enter_context(lock_repo(repo))
            found = {Path(out.fs_path): out for out in repo.index.outs}
        except NotDvcRepoError:
            pass
        except DvcException as error:
            _log.warning("DVC does not say what it has recorded (%s): what is not here is computed", error)
        yield found


def _are_locked(paths: StudyPaths, cubes: Sequence[Path]) -> bool:
    """True if the lock file names some outputs: DVC itself, which takes seconds, is asked of these alone."""
    with contextlib.suppress(OSError):
        lock = (paths.root / "dvc.lock").read_text(encoding="utf-8")
        return all(f" {paths.relative(path)}\n" in lock for path in cubes)
    return False


def _changed_inputs(stage: Any, paths: StudyPaths) -> list[Any]:
    """Inputs of a stage that changed since it ran; none if one is neither a parameter nor a file of the study's own."""
    from dvc.dependency import ParamsDependency

    changed = [dep for dep in stage.deps if dep.status()]
    made = (paths.data.resolve(), paths.results.resolve())
    are_ours = all(
        isinstance(dep, ParamsDependency) or any(Path(dep.fs_path).is_relative_to(folder) for folder in made)
        for dep in changed
    )
    return changed if are_ours else []


def _listing(out: Any) -> Listing:
    """The files of an output, by the list in DVC's cache."""
    path = os.path.relpath(out.fs_path, out.repo.root_dir).replace(os.sep, "/")
    item = DvcObject(str(out.hash_info.value), out.hash_info.name != "md5") if out.hash_info else None
    cache = out.repo.cache.legacy.path
    return DvcIndex(out.repo.root_dir, None, (Output(path, item),), {}, cache).folder(path)


def _is_found(out: Any, paths: StudyPaths, fingerprint: str) -> bool:
    if _changed_inputs(out.stage, paths):
        with contextlib.suppress(StudyError):
            if stored_attrs(_listing(out)).get("fingerprint") == fingerprint:
                return True
    return is_restored(out.stage)


def is_restored(stage: Any) -> bool:
    """True if `dvc repro` does not run a stage, or finds its outputs in its cache of runs.

    Parameters
    ----------
    stage : Stage
        Of DVC; what it knows of inputs and outputs is changed.
    """
    from dvc.exceptions import DvcException

    with _quiet(), contextlib.chdir(stage.wdir):  # its cache of runs takes paths from where a process is
        try:
            if all(out.hash_info for out in stage.outs) and not stage.changed_stage() and not stage.changed_deps():
                return True
            # What `dvc repro` asks of its cache of runs, by the inputs as they are now.
            stage.save_deps()
            for out in stage.outs:
                out.clear()
            stage.repo.stage_cache.restore(stage, dry=True)
        except DvcException:  # an input is not there, or no run was of these
            return False
    return True


@contextmanager
def _quiet() -> Iterator[None]:
    """DVC does not tell meanwhile of outputs that it would check out."""
    said = logging.getLogger("dvc")
    level = said.level
    said.setLevel(logging.WARNING)
    try:
        yield
    finally:
        said.setLevel(level)


def _write(listing: Listing, path: Path) -> None:
    """Write the files of a cube into its place, whole or not at all."""
    with staged(path) as partial:
        for name, item in listing.files.items():
            file = partial / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(listing.objects.read_whole(item, listing.where))
