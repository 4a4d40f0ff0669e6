"""DVC's state of a study's stages."""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from cinecube.status import specs
from cinecube.status.standing import standing
from cinecube.status.versions import Versions, differing, study_versions, told_apart
from cinecube.store.base.bounded import parse_json, read_text
from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import CONTENTS_FILE, INPUTS_FOLDER, PARAMS_FILE, VERSIONS_FILE, StudyPaths
from cinecube.store.cube.heads import stored_spec
from cinecube.store.dvc.dvc_repo import uncollected, without_bars
from cinecube.store.open.cube_names import named_cubes
from cinecube.store.open.recorded import is_restored
from cinecube.store.params.document import Study
from cinecube.studies.pipelines import stage_names
from cinecube.studies.records import known_records

_log = logging.getLogger(__name__)

ALWAYS = "inputs"
"""The stage that runs whenever `dvc repro` does."""
ELSEWHERE = "is not in the cache"
KEPT_BACK = "is kept back by its owner"
ABSENT = "is not here"
RESTORED = "DVC has it from an earlier run"
_STAYS = "its numbers stay the same"
_KINDS = {"modified": "changed", "deleted": "is missing", "new": "is new", "not in cache": ELSEWHERE}


def stages_to_run(study: Study, root: Path) -> dict[str, str]:
    """Stages that `dvc repro` would run, as `changed_stages` has them; none where DVC does not know.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.

    Returns
    -------
    dict of str to str
        Stage -> why.
    """
    versions = study_versions(study)
    keeps = partial(_keeps, study, root, versions)
    weights = [str(root.resolve() / study.model(model).checkpoint) for model in study.compute.models]
    return changed_stages(root, versions, known_records(study, root), keeps, weights) or {}


def _keeps(study: Study, root: Path, versions: Versions, stage: str) -> bool:
    """True if a stage takes back what it made, see `take_back`: its cubes are what the study asks for."""
    kind, _, _ = stage.partition("@")
    if kind not in ("features", "ceiling", *specs.ENCODERS):
        return False
    every = dict.fromkeys(itertools.chain.from_iterable(named_cubes(study).values()))
    cubes = [cube for cube in every if numbered(study, cube.stage) == stage]
    if not cubes:
        return False
    try:
        if kind == "features":
            record = parse_json(read_text(StudyPaths(root).checkpoint(cubes[0].name)))
            by = {"network": record["extractor_version"], "reading": record["reading_version"]}
            if by != versions["networks"].get(cubes[0].name):
                return False
        return not any(differing(*specs.compared(study, root, cube, stored_spec(root / cube.path))) for cube in cubes)
    except (StudyError, ValueError, KeyError, TypeError):  # a record may be broken
        return False


def changed_stages(
    root: Path,
    versions: Versions,
    records: Mapping[Path, str] = {},
    keeps: Callable[[str], bool] = lambda stage: False,
    read: Collection[str] = (),
) -> dict[str, str] | None:
    """Stages whose recorded inputs, command or outputs are not those there are, and those that follow from them.

    Parameters
    ----------
    root : Path
        A folder with a `dvc.yaml`.
    versions : Mapping
        Of this installation, from `study_versions`: what the stage `inputs`, which always runs, would write.
    records : Mapping of Path to str
        Of films and scans, from `records_of`: the same.
    keeps : callable, optional
        Of a stage, whether it leaves its outputs as they are if nothing but parameters has changed.
    read : collection of str
        Paths of files and folders that `keeps` reads beside what DVC watches over.

    Returns
    -------
    dict of str to str, or None
        Stage, as in `dvc.yaml`, -> why. None if DVC does not know: no repository, or one that is being run. Nothing
        follows from a stage whose reason `is_only_absent` or `stays`.
    """
    if not (root / "dvc.yaml").is_file():
        return None
    asked = [versions, {os.path.relpath(path, root): text for path, text in records.items()}]
    found = standing(root, asked, lambda: _asked_of_dvc(root, versions, records, keeps, read))
    return None if found is None else dict(found)


def _asked_of_dvc(
    root: Path,
    versions: Versions,
    records: Mapping[Path, str],
    keeps: Callable[[str], bool],
    read: Collection[str],
) -> tuple[dict[str, str], set[str]] | None:
    """As `changed_stages`, with the files and folders that the answer depends on."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo, lock_repo

    try:
        with uncollected(), without_bars(), Repo(str(root)) as repo, lock_repo(repo):
            index = repo.index  # once: DVC reads its files anew whenever the lock is taken or given back
            outs = (out for out in index.outs if not out.can_push and not out.stage.is_import)
            kept = {str(out) for out in outs if not out.exists}
            found = {_name(key): parts for key, parts in _status(index).items()}
            found.pop(ALWAYS, None)  # what it would write is compared here instead
            older = _of_other_versions(index, StudyPaths(root).versions.resolve(), versions)
            other = _of_other_inputs(index, records)
            reasons = {
                name: _told([*_reasons(found.get(name, []), kept), *older.get(name, []), *other.get(name, [])])
                for name in found | older | other
            }
            changed = {name: "; ".join(lines) for name, lines in reasons.items() if lines}
            # Of what `inputs` has not written yet DVC's cache of runs knows nothing.
            told = changed.keys() - older.keys() - other.keys()
            changed |= _following(_followers(index, StudyPaths(root.resolve())), changed, keeps, told)
            looked_at = {str(item.fs_path) for item in (*index.deps, *index.outs)} | {*read}
            for cache in (repo.cache.local, repo.cache.legacy):  # which objects are there
                looked_at |= {os.path.join(cache.path, f"{number:02x}", "") for number in range(256)}
    except DvcException:
        return None
    return changed, looked_at


def _following(
    turned: Any, changed: Mapping[str, str], keeps: Callable[[str], bool], told: Collection[str]
) -> dict[str, str]:
    """Stages that run since one before them makes something else, and those that keep what they made.

    Of those whose inputs on disk are what they will be, `told`, DVC says whether it has their outputs.
    """
    from networkx import topological_sort  # type: ignore[import-untyped]

    found: dict[str, str] = {}
    causes: dict[Any, str] = {}  # of stages that make something else, which stage is the first to
    for stage in topological_sort(turned):
        name = _name(stage.addressing)
        before = [earlier for earlier in turned.predecessors(stage) if earlier in causes]
        why = changed.get(name) or (f"follows {causes[before[0]]}" if before else "")
        if not why:
            continue
        if is_only_absent(why):
            causes |= {stage: causes[before[0]]} if before else {}
            continue
        # Of a checkpoint's record features depend on what is read of it, which the study asks for.
        judged = {_name(earlier.addressing) for earlier in before}
        of_records = all(other.startswith("checkpoint@") and _is_of_params(changed.get(other, "")) for other in judged)
        if of_records and _is_of_params(why) and keeps(name):
            found[name] = f"{why}; {_STAYS}"
            continue
        found[name] = f"{why}; {RESTORED}" if name in told and not before and is_restored(stage) else why
        causes[stage] = name if name in changed else causes[before[0]]
    return found


def _is_of_params(why: str) -> bool:
    """True if nothing but `params.yaml` is named, or records of checkpoints, which follow from it."""
    named = (PARAMS_FILE, "data/checkpoints/", "follows checkpoint@")
    return bool(why) and all(reason.startswith(named) for reason in why.split("; "))


def stays(why: str) -> bool:
    """True if a stage runs again and leaves what it made as it is."""
    return why.endswith(_STAYS)


def _followers(index: Any, paths: StudyPaths) -> Any:
    """DVC's graph with edges from a stage to those that need it; of `contents` a stage may need a part alone."""
    graph = index.graph.reverse()
    made = {stage: [Path(out.fs_path) for out in stage.outs] for stage in graph}
    parts = {paths.contents, paths.partition_layers}
    for stage in list(graph):
        is_read = _cubes_read(stage, paths.contents)
        if is_read is not None:
            graph.remove_edges_from([(one, stage) for one in list(graph.predecessors(stage)) if parts & {*made[one]}])
            graph.add_edges_from((one, stage) for one, outs in made.items() if any(map(is_read, outs)))
    return graph


def _cubes_read(stage: Any, contents: Path) -> Callable[[Path], bool] | None:
    """Test for cubes that decide a stage's part of `contents`, which is a pair or the partition; None of any other."""
    keys = [key for dep in stage.deps if Path(dep.fs_path) == contents for key in getattr(dep, "params", ())]
    if keys and all(key.startswith("pairs.") for key in keys):
        pairs = [key.removeprefix("pairs.") for key in keys]
        return lambda cube: (
            cube.parent.parent.name == "features" and any(_is_of(pair, cube.parent.name) for pair in pairs)
        )
    if keys == ["partition"]:
        (sets,) = (dep.read_params()["partition"] for dep in stage.deps if _names_partition(dep))
        streams = set(itertools.chain.from_iterable(sets))
        # Of features their scores are made, of which the layers are chosen.
        return lambda cube: (
            cube.parent.name == "scores" and any(f"{stream}.".startswith(f"{cube.stem}.") for stream in streams)
        )
    return None


def _names_partition(dep: Any) -> bool:
    return Path(dep.fs_path).name == PARAMS_FILE and "partition" in getattr(dep, "params", ())


def _is_of(pair: str, model: str) -> bool:
    """True if a model, or a stream of it, is kept or removed in KEEP-REMOVE."""
    return pair.startswith((f"{model}.", f"{model}-")) or f"-{model}." in pair or pair.endswith(f"-{model}")


def _status(index: Any) -> dict[str, list[Any]]:
    """DVC's status of every stage; a folder that many depend on is hashed once."""
    from dvc.output import Output

    known: dict[tuple[str, str, str], Any] = {}

    def once(item: Any) -> Any:
        key = (item.fs.protocol, item.hash_name, item.fs_path)
        if key not in known:
            known[key] = Output.get_hash(item)
        return known[key]

    found: dict[str, list[Any]] = {}
    for stage in index.stages:
        for item in (*stage.deps, *stage.outs):
            if type(item).get_hash is Output.get_hash:
                item.get_hash = partial(once, item)
        found |= stage.status(check_updates=True)
    return found


def warn_of_earlier(root: Path) -> None:
    """Say that an earlier version of cinecube wrote the pipeline: DVC sees no change of code by it."""
    names = stage_names(root)
    if "encode" in names and ALWAYS not in names:
        _log.warning(
            "dvc.yaml is of an earlier version of cinecube, by which `dvc repro` keeps results of older code: "
            "`cinecube upgrade` brings it up to date"
        )


def is_only_absent(why: str) -> bool:
    """True if the only reason is that inputs, or outputs that nobody can fetch, are not here."""
    return all(reason.endswith((ABSENT, KEPT_BACK)) for reason in why.split("; "))


def numbered(study: Study, stage: str) -> str:
    """A stage as DVC names it, which numbers pairs and imported models: `encode_residual@pair0`.

    Parameters
    ----------
    study : Study
    stage : str
        With the name of its pair or model: `encode_residual@KEEP-REMOVE`.

    Returns
    -------
    str
    """
    name, at, item = stage.partition("@")
    numbers = {}
    if name in ("residual_features", "encode_residual"):
        numbers = {pair.name: f"pair{number}" for number, pair in enumerate(study.residual)}
    elif name in ("imported", "encode_imported"):
        numbers = {entry.model: f"entry{number}" for number, entry in enumerate(study.imported)}
    elif name == "weights":
        numbers = {entry.model: f"entry{number}" for number, entry in enumerate(study.keep_weights)}
    return f"{name}{at}{numbers.get(item, item)}"


def _name(address: str) -> str:
    """A stage's name without its file: `data/dvc.yaml:simulate` -> `simulate`."""
    return address.rpartition(":")[2]


def _of_other_versions(index: Any, path: Path, versions: Versions) -> dict[str, list[str]]:
    """Stages that ran with other versions than `versions`, and how these differ; the file may still hold old ones."""
    found: dict[str, list[str]] = {}
    for stage in index.stages:
        ran = any(out.hash_info for out in stage.outs)
        for dep in stage.deps if ran else ():
            if Path(dep.fs_path) != path:
                continue
            recorded = dep.hash_info.value or {}
            for key in getattr(dep, "params", ()):
                kind, _, item = key.partition(".")
                asked: Any = versions.get(kind, {})
                asked = asked.get(item) if item else asked
                if asked and (line := told_apart(recorded.get(key), asked)):
                    found.setdefault(_name(stage.addressing), []).append(line)
    return found


def _of_other_inputs(index: Any, records: Mapping[Path, str]) -> dict[str, list[str]]:
    """Stages that ran with other films or scans than there are now, where the records on disk do not say so yet."""
    new = {
        record.resolve(): hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
        for record, text in records.items()
        if not (record.is_file() and record.read_text(encoding="utf-8") == text)
    }
    found: dict[str, list[str]] = {}
    for stage in index.stages:
        for dep in stage.deps:
            # A stage may depend on the record of one film, or on the folder of all.
            place = Path(dep.fs_path)
            changed = (
                new.get(place, "") != dep.hash_info.value if place in new else any(place in one.parents for one in new)
            )
            if dep.hash_info and changed:
                found.setdefault(_name(stage.addressing), []).append(f"{place.stem} in {INPUTS_FOLDER} changed")
    return found


def _told(reasons: list[str]) -> list[str]:
    """Reasons; that alone of a stage that DVC never ran: it ran by hand, or its pair had another number."""
    return ["never run by `dvc repro` under this name"] if f"{PARAMS_FILE} is new" in reasons else reasons


def _reasons(parts: list[Any], kept: Collection[str]) -> Iterator[str]:
    for part in parts:
        if isinstance(part, str):
            yield part
            continue
        for group, members in part.items():
            for path, kind in members.items():
                if path.endswith(VERSIONS_FILE):
                    continue
                if isinstance(kind, dict) and path.endswith(CONTENTS_FILE):
                    yield "features that it reads changed"
                elif isinstance(kind, dict):
                    yield from (f"{path} {key} {_KINDS.get(how, how)}" for key, how in kind.items())
                elif kind == "deleted" and group == "changed deps":
                    yield f"{path} {ABSENT}"
                elif kind == "not in cache" and path in kept:
                    yield f"{path} {KEPT_BACK}"
                else:
                    yield f"{path} {_KINDS.get(kind, kind)}"
