"""Plan of `dvc repro`: stages that are done, are to do, or can be resumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from cinecube.status import needs, specs
from cinecube.status.pipeline import (
    ABSENT,
    ELSEWHERE,
    KEPT_BACK,
    RESTORED,
    is_only_absent,
    numbered,
    stages_to_run,
    stays,
)
from cinecube.status.timings import COUNTED, Timing, expected_s, read_timings
from cinecube.store.base.errors import StudyError
from cinecube.store.base.fingerprint import differences
from cinecube.store.base.journal import journal_blocks, journal_rows
from cinecube.store.base.paths import StudyPaths
from cinecube.store.clock.films_table import rows_here
from cinecube.store.cube.heads import read_head, stored_bytes, stored_spec
from cinecube.store.cube.schema import stored_rows
from cinecube.store.inputs.content import Digests
from cinecube.store.open.bringing import never_imported
from cinecube.store.params.document import Study, refuse_no_source
from cinecube.studies.pipelines import stage_names

IDLE = ("done", "kept back")
"""States of stages that ask for nothing."""
_BYTES = {"float16": 2, "float32": 4}


@dataclass(frozen=True)
class Step:
    """The present state of one stage.

    Attributes
    ----------
    stage : str
        Its name in `dvc.yaml`, with the names of pairs and imported models where DVC has their numbers.
    state : str
        `done`, `stale` (made from other inputs or parameters), `resumable`, `not here` (recorded by DVC, and neither
        in the study nor in the cache of this machine), `kept back` (so, and not published by its owner either) or
        `to do`.
    why : str
        What differs, what is missing, or how many rows are to be computed.
    bytes_when_done : int
        Size of its cube; 0 where that is not known.
    memory_bytes : int
        What each of its processes needs at its peak, roughly: one that works in threads holds what all of them need. 0
        where that is not known.
    workers : int
        Processes among which `dask` divides it; 1 where it runs in one.
    rows_left : int
        Rows that an extraction has to compute; 0 where that is not known.
    seconds : float, optional
        What is left of it will take, by earlier runs on this machine; none if it is done or was never run here.
    dvc_stage : str
        What `dvc repro` calls it.
    """

    stage: str
    state: str
    why: str = ""
    bytes_when_done: int = 0
    memory_bytes: int = 0
    rows_left: int = 0
    seconds: float | None = None
    dvc_stage: str = ""
    workers: int = 1


def plan_study(study: Study, root: Path) -> list[Step]:
    """Every stage of the study, in the order of the pipeline.

    Reads labels, records and film bytes, and asks DVC what has changed where it watches over the study; computes
    nothing.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.

    Returns
    -------
    list of Step
    """
    changed = stages_to_run(study, root)
    known = _Known(study, root)
    steps = [_with_needs(study, known, step) for step in _steps(study, root, known)]
    steps = [replace(step, dvc_stage=numbered(study, step.stage)) for step in steps]
    # DVC numbers pairs and imported models.
    names = {f"follows {step.dvc_stage}": f"follows {step.stage}" for step in steps}
    changed = {stage: names.get(why, why) for stage, why in changed.items()}
    steps = [_as_dvc_sees(step, changed) for step in steps]
    timings = list(read_timings(root))
    steps = [
        step if step.state == "done" else replace(step, seconds=_seconds(study, known, timings, step)) for step in steps
    ]
    steps = [replace(step, seconds=0.0) if step.why.endswith(RESTORED) else step for step in steps]
    return _with_extraction(study, steps)


def _with_extraction(study: Study, steps: list[Step]) -> list[Step]:
    """Time and memory of features go to the stage `extract`, whose workers compute them; their own publish them."""
    waiting = [step for step in steps if step.stage.startswith("features@") and step.rows_left]
    if not waiting or not any(step.stage == "extract" and step.state != "done" for step in steps):
        return steps
    from cinecube.store.jobs.tasks import planned_workers

    workers = planned_workers(study.dask, study.run.threads)
    seconds = [step.seconds for step in waiting]
    known = [second for second in seconds if second is not None]
    takes = sum(known) / workers if len(known) == len(seconds) else None
    rows, memory = sum(step.rows_left for step in waiting), max(step.memory_bytes for step in waiting)
    why = f"{rows} rows by {workers} workers" if workers > 1 else f"{rows} rows"
    planned: dict[str, dict[str, Any]] = {
        "extract": {"seconds": takes, "memory_bytes": memory, "workers": workers, "why": why}
    }
    planned |= {step.stage: {"seconds": 0.0} for step in waiting if takes is not None}
    return [replace(step, **planned.get(step.stage, {})) for step in steps]


def _seconds(study: Study, known: _Known, timings: Sequence[Timing], step: Step) -> float | None:
    kind, item = _kind(step.stage)
    if kind != "features":
        load = _load(study, known, kind, item)
        now = 1.0 if load is None else load.nominal_s(study)
        # Where work is not known, or was not counted by the version that ran it, a stage takes what its like took.
        counted = [one.model_copy(update={"work": now}) if load is None or one.work == 1 else one for one in timings]
        return expected_s(counted, kind, item, now)
    model = next(model for model in study.compute.models if item in [f"{model}-{film}" for film in study.compute.films])
    return expected_s(timings, kind, model, step.rows_left) if step.rows_left else None


def _as_dvc_sees(step: Step, changed: Mapping[str, str]) -> Step:
    """Whole cubes and tables are done only if DVC agrees."""
    why = changed.get(step.dvc_stage, "")
    if stays(why):
        return replace(step, state="done", why=why, rows_left=0)
    if why and is_only_absent(why):
        if KEPT_BACK not in why:  # its outputs are as they were recorded
            return replace(step, state="done", why=f"made elsewhere: {why}", rows_left=0)
        if ABSENT in why and step.state == "done":  # its cube is here, and what goes with it is not
            kept = [reason.removesuffix(f" {KEPT_BACK}") for reason in why.split("; ") if reason.endswith(KEPT_BACK)]
            return replace(step, why=f"made elsewhere: its owner did not publish {', '.join(kept)}", rows_left=0)
        if ABSENT in why:
            why = "not published by its owner, and what it is made of is not here"
            return replace(step, state="kept back", why=why)
        return replace(step, why="not published by its owner; what it is made of is here")
    if step.state == "to do" and ELSEWHERE in why and "changed" not in why:
        return replace(step, state="not here", why="recorded elsewhere: `cinecube pull` brings it")
    return replace(step, state="stale", why=why) if step.state == "done" and why else step


def _steps(study: Study, root: Path, known: _Known) -> list[Step]:
    """Every stage by the files that it leaves."""
    paths = StudyPaths(root)
    steps = [_films_step(study, paths)]
    for model in study.compute.models:
        steps.append(_file_step(f"checkpoint@{model}", paths.checkpoint(model)))
    if study.compute.models and "extract" in stage_names(root):
        steps.append(_file_step("extract", paths.extracted))
    for model in study.compute.models:
        steps += [_features_step(study, model, film, root, known) for film in study.compute.films]
    steps += [_imported_step(study, entry.model, paths) for entry in study.imported]
    if "contents" in stage_names(root):
        steps.append(_file_step("contents", paths.contents))
    steps += _brain_steps(study, root)
    steps += [_encode_step(study, model, root) for model in study.compute.models]
    steps += [_encode_step(study, entry.model, root, "encode_imported") for entry in study.imported]
    steps += [_cube_step(f"weights@{entry.model}", paths.weights(entry.model)) for entry in study.keep_weights]
    steps.append(_cube_step("ceiling", paths.ceiling))
    for pair in study.residual:
        last = paths.residual(pair.name, study.split.test[-1])
        step = _cube_step(f"residual_features@{pair.name}", last)
        steps.append(replace(step, bytes_when_done=stored_bytes(last.parent)) if step.state == "done" else step)
        encoded = _cube_step(f"encode_residual@{pair.name}", paths.scores(pair.name))
        steps.append(_with_journal(study, pair.name, root, encoded))
    steps.append(_file_step("whole_brain", paths.tables / "whole_brain.csv"))
    steps.append(_file_step("layerwise", paths.tables / "layerwise.csv"))
    steps.append(_file_step("residual", paths.tables / "residual.csv"))
    if "partition_layers" in stage_names(root):
        steps.append(_file_step("partition_layers", paths.partition_layers))
    steps.append(_cube_step("partition", paths.partition))
    if "partition_tables" in stage_names(root):
        steps.append(_file_step("partition_tables", paths.tables / "partition.csv"))
    steps.append(_cube_step("significance", paths.significance))
    steps.append(_file_step("figures", paths.results / "figures" / "figure2.csv"))
    if study.simulate is not None:
        steps.append(_file_step("oracle", paths.tables / "oracle_residual.csv"))
    steps.append(_file_step("report", paths.report))
    return steps


def _brain_steps(study: Study, root: Path) -> list[Step]:
    """The stages of brain cubes; what they, or analyses of all subjects, would refuse is known before extraction."""
    steps = {
        subject: _cube_step(f"brain@{subject}", StudyPaths(root).brain(subject)) for subject in study.brain.subjects
    }
    to_do = [subject for subject, step in steps.items() if step.state != "done"]
    if not to_do:
        return [*steps.values()]
    if not (root / study.brain.path).is_dir():
        why = {} if study.simulate is not None else dict.fromkeys(to_do, _no_folder(study.brain.path, "scans"))
    else:
        why = _refused_scans(study, to_do, root)
    return [replace(step, why=why.get(subject, step.why)) for subject, step in steps.items()]


def _refused_scans(study: Study, subjects: Sequence[str], root: Path) -> dict[str, str]:
    """Subject -> what its stage, or an analysis of all subjects, would refuse of its scans."""
    from cinecube.store.ready.ready_scans import check_found, known_rows, refuse_apart
    from cinecube.store.scans.brain import find_scans

    refused: dict[str, str] = {}
    spaces: dict[str, Any] = {}
    rows = {} if study.simulate is not None else known_rows(study, root)
    for subject in subjects:
        try:
            ready = check_found(study, *find_scans(study, subject, root), root, rows)
        except StudyError as error:
            refused[subject] = str(error)
        else:
            spaces |= {} if ready.space is None else {subject: ready.space}
    try:
        refuse_apart(spaces)
    except StudyError as error:
        refused[error.where] = str(error)
    return refused


def _films_step(study: Study, paths: StudyPaths) -> Step:
    """As `_file_step`; a study that has neither films nor features of others yet is told what comes first."""
    step = _file_step("films", paths.films)
    own = study.stimuli if study.simulate is None else None
    if step.state != "done" and own is not None and not (paths.root / own).is_dir():
        return replace(step, why=_no_folder(own, "films"))
    try:
        refuse_no_source(study)
    except StudyError as error:
        return replace(step, state="to do", why=str(error))
    return step


def _no_folder(place: str, what: str) -> str:
    return f"no folder {place}: put the {what} there, or link to them"


def _file_step(stage: str, path: Path) -> Step:
    return Step(stage, "done") if path.is_file() else Step(stage, "to do", "never run")


def _imported_step(study: Study, model: str, paths: StudyPaths) -> Step:
    """As `_file_step`; cubes that were not fetched or never imported are named, for `dvc repro` fails at them."""
    step = _file_step(f"imported@{model}", paths.imported(model))
    cubes = [paths.features(model, film) for film in study.films]
    if any(not cube.exists() and cube.with_name(f"{cube.name}.dvc").is_file() for cube in cubes):
        folder = paths.relative(cubes[0].parent)
        return replace(step, state="not here", why=f"imported, not fetched: `dvc pull {folder}/*.dvc` brings it")
    for film in (*study.split.train, *study.split.test):
        if line := never_imported(study, paths.root, model, film):
            return replace(step, state="to do", why=f"imported without {film}: {line} brings it")
    return step


def _cube_step(stage: str, path: Path) -> Step:
    try:
        read_head(path)
        return Step(stage, "done", bytes_when_done=stored_bytes(path))
    except StudyError as error:
        return Step(stage, "to do", error.found)


def _with_journal(study: Study, model: str, root: Path, step: Step) -> Step:
    """An encoding that was stopped is resumed from the blocks that it finished."""
    journals = StudyPaths(root).journals
    if step.state != "to do" or not any(journals.glob("*/spec.json")):  # to compare them takes xarray
        return step
    try:
        n_blocks = journal_blocks(journals, specs.of_scores(study, root, model))
    except StudyError:
        return step
    return replace(step, state="resumable", why=f"finished blocks: {n_blocks}") if n_blocks else step


def _encode_step(study: Study, model: str, root: Path, stage: str = "encode") -> Step:
    return _with_journal(study, model, root, _cube_step(f"{stage}@{model}", StudyPaths(root).scores(model)))


def _load(study: Study, known: _Known, kind: str, item: str) -> needs.Load | None:
    """Work of a stage that grows with something that is known by now."""
    if kind not in COUNTED or (kind == "partition" and not study.partition):
        return None
    try:
        return needs.load_of(study, known.sizes(), known.widths, kind, item)
    except StudyError:
        return None


def _with_needs(study: Study, known: _Known, step: Step) -> Step:
    """Bytes of results that are not made yet, and memory of processes that fit encoders, as far as they are known."""
    kind, item = _kind(step.stage)
    load = _load(study, known, kind, item)
    if load is None:
        return step
    try:
        n_bytes = step.bytes_when_done or _result_bytes(study, known, kind, item)
    except StudyError:
        return step
    step = replace(step, bytes_when_done=n_bytes)
    if kind != "encode":
        return step
    memory = needs.encode_memory(study, known.sizes(), max(known.widths(item)), load)
    return replace(step, memory_bytes=memory, workers=load.workers(study))


def _result_bytes(study: Study, known: _Known, kind: str, item: str) -> int:
    if kind == "residual_features":
        rows = sum(stored_rows(known.rows(film)) for film in (*study.split.train, *study.split.test))
        return 4 * rows * sum(known.widths(item))
    of = {"encode": [item], "significance": study.encoded}.get(kind, [])
    streams = [widths for model in of for widths in known.streams(model).values()]
    return needs.cube_bytes(study, known.sizes(), kind, max(map(len, streams), default=0), len(streams))


def _kind(stage: str) -> tuple[str, str]:
    """Kind and item of a stage; encoders are one command, whatever stage runs it."""
    kind, _, item = stage.partition("@")
    return ("encode" if kind.startswith("encode") else kind), item


class _Known:
    """Facts that many stages are judged by, each read once: films, their rows, and records of checkpoints.

    Methods raise StudyErrors of what is missing.
    """

    def __init__(self, study: Study, root: Path) -> None:
        self._study, self._root = study, root
        self.rows, self._record = cache(self._read_rows), cache(self._read_record)
        self._film, self.streams, self.sizes = (
            cache(self._read_film),
            cache(self._read_streams),
            cache(self._read_sizes),
        )
        self.weights, self._digests = cache(self._read_weights), Digests(root)

    def spec(self, model: str, film: str) -> dict[str, Any]:
        """As `feature_spec`."""
        from cinecube.features.extraction.spec import make_spec

        return make_spec(self._study, model, self._record(model), *self._film(film))

    def _read_rows(self, film: str) -> int:
        return sum(rows_here(StudyPaths(self._root).films, self._study.film(film), self._study.clock).values())

    def _read_record(self, model: str) -> Any:
        from cinecube.features.extraction.checkpoint import present_record

        return present_record(self._study, model, self._root)

    def _read_film(self, film: str) -> tuple[dict[str, str], dict[str, Any]]:
        """Digests of its segments, and what of each is read out of the ordinary."""
        from cinecube.features.films.probed import choices_of
        from cinecube.features.films.stimuli import find_segments

        files = find_segments(self._study, film, self._root)
        digests = {segment: self._digests.sha256(path) for segment, path in files.items()}
        self._digests.keep()
        return digests, {segment: choices_of(path, self._root, digests[segment]) for segment, path in files.items()}

    def _read_weights(self, model: str) -> int:
        """Bytes of its weights; 0 of a hub's, which may not be on this machine yet."""
        from cinecube.features.extraction.checkpoint import weights_bytes

        path = self._root / self._study.model(model).checkpoint
        return weights_bytes(path) if path.exists() else 0

    def _read_sizes(self) -> needs.StudySizes:
        return needs.sizes_of(self._study, self._root, self.rows)

    def widths(self, name: str) -> list[int]:
        """Dims of every layer of every stream of a model; of a pair, those of what it keeps."""
        return [width for stream in self.streams(name).values() for width in stream]

    def _read_streams(self, name: str) -> dict[str, list[int]]:
        """Dims of every layer, by stream."""
        kept = [pair.keep for pair in self._study.residual if pair.name == name]
        if kept:
            owner = self._study.owner(kept[0])
            for stream, widths in self.streams(owner).items():
                if kept[0] in (stream, f"{owner}.{stream}" if stream else owner):
                    return {kept[0]: widths}
            raise StudyError(where=f"residual {name}", found=f"no stream {kept[0]}", expected="one", do="correct it")
        if self._study.import_of(name):
            from cinecube.store.open.imported import open_imported

            width = open_imported(self._study, self._root, name, self._study.split.test[0])["width"]
            return {str(one): [int(n) for n in width.sel(model=one).values if n] for one in width["model"].values}
        from cinecube.features.extraction.spec import make_reading

        streams = make_reading(self._study, name, self._record(name)).streams
        return {stream.name: list(stream.widths) for stream in streams}


def _features_step(study: Study, model: str, film: str, root: Path, known: _Known) -> Step:
    from cinecube.features.extraction.extraction_memory import extraction_bytes

    stage, paths = f"features@{model}-{film}", StudyPaths(root)
    try:
        spec, rows, widths = known.spec(model, film), known.rows(film), known.widths(model)
    except StudyError as error:
        return Step(stage, "to do", f"waits: {error.found}")
    row_bytes = sum(widths) * _BYTES[spec["dtype"]]
    memory = extraction_bytes(widths, spec["dtype"], rows, study.run.block_rows, known.weights(model))
    state, why = _features_state(paths, paths.features(model, film), spec, rows)
    left = max(0, rows - journal_rows(paths.journals, spec)) if state != "done" else 0
    return Step(stage, state, why, stored_rows(rows) * row_bytes, memory, left)


def _features_state(paths: StudyPaths, path: Path, spec: dict[str, Any], rows: int) -> tuple[str, str]:
    if not path.exists():
        return _journal_state(paths, spec, rows)
    try:
        changed = differences(stored_spec(path), spec)
    except StudyError as error:
        return "to do", error.found
    return ("stale", "; ".join(changed)) if changed else ("done", "")


def _journal_state(paths: StudyPaths, spec: dict[str, Any], rows: int) -> tuple[str, str]:
    done = min(rows, journal_rows(paths.journals, spec))  # blocks of another `run.block_rows` may overlap
    if done:
        return "resumable", f"{rows - done} of {rows} rows"
    return "to do", f"{rows} rows"
