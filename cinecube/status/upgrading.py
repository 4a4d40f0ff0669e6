"""Bringing the pipeline of a study that an earlier version of cinecube wrote up to this version."""

from __future__ import annotations

import copy
import difflib
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import chdir, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cinecube.features.extraction.record import read_record
from cinecube.status.pipeline import changed_stages, numbered
from cinecube.status.versions import Versions, study_versions, write_versions
from cinecube.status.why import explain_cubes
from cinecube.store.base.atomic import write_text
from cinecube.store.base.bounded import parse_yaml, read_text
from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import SCHEMA_FILE, StudyPaths
from cinecube.store.base.writing import one_writer
from cinecube.store.dvc.dvc_repo import without_bars
from cinecube.store.open.contents import write_contents
from cinecube.store.params.document import PARAMS_FILE, Study
from cinecube.store.params.editing import edit_yaml
from cinecube.studies.pipelines import pipelines, template_text
from cinecube.studies.records import write_records

# What a stage of an earlier pipeline depended on beside data: the study itself may hold no code.
_ROOMS = ("analysis", "features", "simulation", "store")
# Films and scans, which records stand for by now.
_FOLDERS = ("${stimuli}", "${brain.path}", "${brain.atlas}")
# What stages named in the place of a part of it (contents, layers, sections), of what a partition's tables follow, and
# of films and scans, which their digests stand for wherever they are.
_EARLIER = (
    *("data/features", "results/scores", "imported", "residual", "encode", "ceiling", "rois", "statistics.seed"),
    *("stimuli", "brain.path"),
)
# Lists to which a lab may have added what its own stages make.
_OPEN = ("deps", "params")
# Keys of `params.yaml` that earlier versions had not, by their defaults, and keys of `encode` that may have been left
# out: DVC runs no stage that names one which is not there.
_NEW_KEYS: dict[str, Any] = {"keep_weights": [], "show_films": False}
_KEYS_OF_ENCODE = ("delays", "alphas", "folds")
# Keys of DVC that say nothing of what a stage computes: `frozen` keeps GPU-days from being computed again.
_THEIRS = ("desc", "meta", "frozen")


@dataclass(frozen=True)
class Rewritten:
    """A file of the pipeline before and after.

    Attributes
    ----------
    name : str
        Path from the study's folder.
    before, after : str
        Its text.
    """

    name: str
    before: str
    after: str

    def lines(self) -> Iterator[str]:
        """The difference as `diff -u` shows it."""
        before, after = self.before.splitlines(), self.after.splitlines()
        yield from difflib.unified_diff(before, after, self.name, f"{self.name} (upgraded)", lineterm="", n=2)


def rewritten_pipeline(study: Study, root: Path) -> list[Rewritten]:
    """The files of a study's pipeline that this version writes otherwise, as it would write them.

    Stages of the lab's own, inputs that it added to ours, variables, comments and what `dvc push` may send stay.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.

    Returns
    -------
    list of Rewritten
        Empty where all is as this version writes it.

    Raises
    ------
    StudyError
        If there is no pipeline, it is the one of cinecube's own repository, or it cannot be edited.
    """
    if (root / "cinecube" / "__init__.py").is_file():
        raise StudyError(
            where=str(root),
            found="cinecube's own repository",
            expected="a study that `cinecube init` made",
            do="run `make pipeline`, which writes its pipeline",
        )
    simulated = (root / "data" / "dvc.yaml").is_file()
    texts = pipelines(simulated=simulated, stimuli=bool(study.stimuli))
    wanted = {name: _loaded(text) for name, text in texts.items()}
    edits: dict[str, Callable[[Any], None]] = {PARAMS_FILE: partial(_add_keys, study=study)}
    for name, ours in wanted.items():
        elsewhere = {stage for other in wanted.values() if other is not ours for stage in other["stages"]}
        edits[name] = partial(_merge, wanted=ours, elsewhere=elsewhere)
    found = []
    for name, edit in edits.items():
        before = read_text(root / name, name)
        after = edit_yaml(before, edit, name)
        if parse_yaml(before) != parse_yaml(after):
            found.append(Rewritten(name, before, after))
    return [*found, *_schema(root)]


def _schema(root: Path) -> Iterator[Rewritten]:
    """The schema of parameters, in a study that has one."""
    if (root / SCHEMA_FILE).is_file():
        before, after = read_text(root / SCHEMA_FILE, SCHEMA_FILE), template_text(SCHEMA_FILE)
        if before != after:
            yield Rewritten(SCHEMA_FILE, before, after)


def _add_keys(params: Any, study: Study) -> None:
    """Keys that the pipeline names."""
    for name, default in _NEW_KEYS.items():
        if name not in params:
            params[name] = copy.copy(default)
    encode = params.setdefault("encode", {})
    for name in _KEYS_OF_ENCODE:
        encode.setdefault(name, study.encode.model_dump(mode="json")[name])


def _loaded(text: str) -> Any:
    """A pipeline of ours with its comments and layout."""
    kept: list[Any] = []
    edit_yaml(text, kept.append)
    return kept[0]


def _merge(pipeline: Any, wanted: Any, elsewhere: Collection[str]) -> None:
    """Make the stages that both have as `wanted` has them, add those that only it has, drop what is `elsewhere` now."""
    stages = pipeline.get("stages") if isinstance(pipeline, dict) else None
    if not isinstance(stages, dict) or not all(isinstance(stage, dict) for stage in stages.values()):
        raise StudyError(
            where="dvc.yaml", found="no stages", expected="a pipeline", do="restore the one that `cinecube init` wrote"
        )
    for name in stages.keys() & elsewhere:
        del stages[name]
    for name, stage in wanted["stages"].items():
        if name not in stages:
            stages[name] = stage  # at the end: comments are above what they are of
            continue
        own = stages[name]
        for key in [key for key in own if key not in stage and key not in _THEIRS]:
            del own[key]
        for key, value in stage.items():
            merged = _merged(own.get(key), value, key)
            if own.get(key) != merged:
                own[key] = merged


def _merged(own: Any, wanted: Any, key: str) -> Any:
    """One key of a stage: `own` as it is, `wanted` as this version writes it."""
    if key == "cmd" and isinstance(own, str) and own.endswith(wanted.removeprefix("${cinecube}")):
        return own  # the same command, run in another way: by `srun`, say
    if not isinstance(own, Sequence) or isinstance(own, str) or key not in (*_OPEN, "outs"):
        return wanted
    known = {_path(entry): entry for entry in own}
    # Whether an output is pushed is the study's own choice, where it made one.
    chosen = {path: entry for path, entry in known.items() if key == "outs" and isinstance(entry, dict)}
    merged = [chosen.get(_path(entry), entry) for entry in wanted]
    if key in _OPEN:
        ours = [_path(entry) for entry in wanted]
        merged += [entry for path, entry in known.items() if not _is_ours(path, ours)]
    if merged == list(wanted):
        return wanted
    kept = type(wanted)(merged)
    if hasattr(wanted, "fa"):
        kept.fa.set_block_style()
    return kept


def _path(entry: Any) -> str:
    """Name of an entry of a list: itself, or the one key of a mapping."""
    return str(next(iter(entry))) if isinstance(entry, dict) else str(entry)


def _is_ours(path: str, ours: Sequence[str]) -> bool:
    """True if an entry is ours: this or an earlier version's, a section whose keys it names, code, or input folders."""
    is_code = path in _ROOMS or path.startswith(tuple(f"{room}/" for room in _ROOMS))
    is_earlier = path.startswith(_FOLDERS) or path in _EARLIER
    return is_code or is_earlier or any(one == path or one.startswith(f"{path}.") for one in ours)


def upgrade(study: Study, root: Path, files: Sequence[Rewritten]) -> list[str]:
    """Write the pipeline, and record in DVC the results that their stages would make again.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    files : sequence of Rewritten
        From `rewritten_pipeline`.

    Returns
    -------
    list of str
        Stages whose results are kept as they are.

    Raises
    ------
    StudyError
        If a stage of the study is running.
    """
    paths = StudyPaths(root)
    versions = study_versions(study)
    before = changed_stages(root, {})  # by the pipeline as it was: what it calls changed stays to do
    with one_writer(paths, root / "dvc.yaml"):
        for file in files:
            write_text(root / file.name, file.after)
        write_versions(study, root)
        write_records(study, root)
        write_contents(study, root)
        _write_layers(study, root)
        changed = changed_stages(root, versions)
        if before is None or changed is None:
            return []
        kept = [stage for stage in _unaltered(study, root, versions) if stage in changed and stage not in before]
        _record(root, kept)
    return kept


def _write_layers(study: Study, root: Path) -> None:
    """The layers of the partition's streams, where encoders have scored them; without them it is made again."""
    from cinecube.analysis.partition.layers import write_partition_layers

    with suppress(StudyError):
        write_partition_layers(study, root)


def _unaltered(study: Study, root: Path, versions: Versions) -> Iterator[str]:
    """Stages whose results this version would make again as they are, by what these say of themselves."""
    paths = StudyPaths(root)
    # What says no version was made by code of version 1.
    if paths.films.is_file() and set(versions["films"].values()) == {1}:
        yield "films"
    for model, wanted in versions["networks"].items():
        try:
            record = read_record(study, model, root)
        except StudyError:
            continue
        if wanted == {"network": record.extractor_version, "reading": record.reading_version}:
            yield f"checkpoint@{model}"
    films = [*study.split.train, *study.split.test]
    cubes = {f"brain@{subject}": [paths.brain(subject)] for subject in study.brain.subjects}
    cubes |= {
        f"features@{model}-{film}": [paths.features(model, film)]
        for model in study.compute.models
        for film in study.compute.films
    }
    cubes |= {
        numbered(study, f"residual_features@{pair.name}"): [paths.residual(pair.name, film) for film in films]
        for pair in study.residual
    }
    cubes |= {f"encode@{model}": [paths.scores(model)] for model in study.compute.models}
    cubes |= {numbered(study, f"weights@{entry.model}"): [paths.weights(entry.model)] for entry in study.keep_weights}
    cubes |= {
        numbered(study, f"encode_imported@{entry.model}"): [paths.scores(entry.model)] for entry in study.imported
    }
    cubes |= {numbered(study, f"encode_residual@{pair.name}"): [paths.scores(pair.name)] for pair in study.residual}
    cubes |= {"ceiling": [paths.ceiling], "partition": [paths.partition], "significance": [paths.significance]}
    for stage, made in cubes.items():
        if all(cube.exists() and not explain_cubes(study, root, [cube])[0].fields for cube in made):
            yield stage


def _record(root: Path, stages: Sequence[str]) -> None:
    """Let DVC take what is there for what the stages make."""
    from dvc.logger import set_loggers_level
    from dvc.repo import Repo

    # DVC looks for stages where it is run.
    with set_loggers_level(logging.WARNING), without_bars(), chdir(root), Repo(".") as repo:
        for stage in stages:
            repo.commit(target=stage, force=True)
