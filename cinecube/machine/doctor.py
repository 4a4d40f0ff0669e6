"""Everything that a study needs of a machine, looked at one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from cinecube.machine import computing, installed, storage
from cinecube.status.plan import IDLE, plan_study
from cinecube.store.base.errors import StudyError, environment_error, first_line
from cinecube.store.base.paths import PARAMS_FILE
from cinecube.store.dvc.dvc_index import DvcIndex, open_index
from cinecube.store.dvc.dvc_repo import is_below
from cinecube.store.inputs.content import unfetched
from cinecube.store.params.document import Study
from cinecube.store.params.run_params import Gpus, JobQueue
from cinecube.store.spaces.grayordinate_labels import HCP_MMP
from cinecube.studies.records import unfetched_inputs
from cinecube.study_params import load


@dataclass(frozen=True)
class Diagnosis:
    """One thing that was looked at.

    Attributes
    ----------
    what : str
    state : str
        `ok`, `missing` (this study needs it) or `absent` (it does without).
    found : str
        What is here, or what is wrong.
    do : str
        What fixes it; empty where nothing has to be.
    """

    what: str
    state: Literal["ok", "missing", "absent"]
    found: str
    do: str = ""


def diagnose(root: Path) -> Iterator[Diagnosis]:
    """Look at this machine as the study in a folder needs it; where there is none, at what every study needs.

    Writes nothing but a file beside the cache, for a moment, to see which links work.

    Parameters
    ----------
    root : Path

    Yields
    ------
    Diagnosis
    """
    yield _looked("Python", installed.python)
    yield _looked("packages", installed.packages)
    yield _looked("Git", installed.git)
    study: Study | None = None
    if (root / PARAMS_FILE).exists():
        try:
            study = load(root)
            yield Diagnosis("study", "ok", f"{study.study}, {len(study.known_models)} models, {len(study.films)} films")
        except StudyError as error:
            yield _wrong("study", error, needed=True)
    else:
        yield Diagnosis("study", "absent", f"no {PARAMS_FILE} here", "run in a study's folder to see what that needs")
    yield from _extraction(study, root)
    if study is None:
        return
    if (root / "dvc.yaml").is_file():
        yield _looked("stages", partial(installed.stage_command, root))
    yield _looked("workers", partial(_workers, study))
    if study.brain.atlas == HCP_MMP:
        yield _looked("HCP-MMP", partial(installed.packages, "hcp"))
    yield _looked("inputs", partial(_inputs, study, root))
    yield from _storage(study, root)


def _looked(what: str, look: Callable[[], str], *, needed: bool = True) -> Diagnosis:
    try:
        return Diagnosis(what, "ok", look())
    except StudyError as error:
        return _wrong(what, error, needed=needed)
    except (OSError, ImportError) as error:  # libraries that a package needs, rights, full disks
        told = environment_error(error, what) or StudyError(
            where=what, found=first_line(error), expected="what can be read and run", do="install it again"
        )
        return _wrong(what, told, needed=needed)


def _wrong(what: str, error: StudyError, *, needed: bool) -> Diagnosis:
    found = f"{error.where}: found {error.found}, expected {error.expected}"
    return Diagnosis(what, "missing" if needed else "absent", found, error.do)


def _extraction(study: Study | None, root: Path) -> Iterator[Diagnosis]:
    """Diagnoses of what reads films and networks, which a study of others' features does without."""
    needed = study is not None and bool(study.compute.models or study.simulate)
    found = _looked("packages of [features]", partial(installed.packages, "features"), needed=needed)
    yield found
    if found.state != "ok":
        return
    asked = study.run.device if study is not None and needed else "auto"
    yield _looked("GPU", partial(computing.torch_device, asked), needed=asked != "auto")
    if study is not None and (idle := computing.idle_gpu(study)):
        yield Diagnosis("encoders", "absent", *idle)
    yield _looked("films", computing.video_reader, needed=needed)
    do = "install it to encode films anew that cannot be read, as in `apt install ffmpeg`"
    yield _looked("ffmpeg", partial(installed.program, "ffmpeg", "it, to encode films anew", do), needed=False)
    if study is not None and study.simulate is None and computing.to_extract(study, root):
        yield _looked("weights", partial(computing.weights, study, root))


def _workers(study: Study) -> str:
    from cinecube.store.jobs.clusters import check_workers

    check_workers(study.dask)
    if study.dask == "local":
        return "processes of this machine"
    if isinstance(study.dask, Gpus):
        return "GPUs of this machine"
    return study.dask.jobqueue if isinstance(study.dask, JobQueue) else study.dask.address


def _inputs(study: Study, root: Path) -> str:
    if missing := unfetched_inputs(study, root):
        raise unfetched(missing, root, "films and scans")
    _refuse_no_folders(study, root)
    return "simulated" if study.simulate is not None else "films and scans that are still needed are here"


def _refuse_no_folders(study: Study, root: Path) -> None:
    """Refuse folders of films and scans that are not there, where something is still to be made of them."""
    if study.simulate is not None:
        return
    places = {study.stimuli: ("films", "features@"), study.brain.path: ("brain@",)}
    absent = {place: stages for place, stages in places.items() if place and not (root / place).is_dir()}
    # What DVC has recorded elsewhere needs none.
    to_do = [step.stage for step in plan_study(study, root) if step.state not in (*IDLE, "not here")] if absent else []
    needed = [place for place, stages in absent.items() if any(stage.startswith(stages) for stage in to_do)]
    if needed:
        raise StudyError(
            where="films and scans",
            found=f"no folder {', '.join(map(str, needed))}",
            expected="those that params.yaml names, for what is still to be made",
            do="put them there or link to them, or correct stimuli and brain.path of params.yaml",
        )


def _storage(study: Study, root: Path) -> Iterator[Diagnosis]:
    needed = (root / "dvc.yaml").is_file()
    if not is_below(root, ".dvc"):
        do = "`dvc init`" if is_below(root, ".git") else "`git init && dvc init`"
        yield Diagnosis("DVC", "missing" if needed else "absent", f"{root.resolve()} is not under DVC", f"{do} there")
        return
    try:
        index = open_index(root)
    except StudyError as error:
        yield _wrong("DVC", error, needed=needed)
        return
    yield _looked("cache", partial(storage.cache_links, root, index), needed=False)
    yield _looked("room", partial(_room, study, root, index))
    yield from _remotes(index)


def _room(study: Study, root: Path, index: DvcIndex) -> str:
    to_do = [step for step in plan_study(study, root) if step.state not in IDLE]
    return storage.room(root, index, sum(step.bytes_when_done for step in to_do))


def _remotes(index: DvcIndex) -> Iterator[Diagnosis]:
    default = index.config.get("core", {}).get("remote")
    for name, ask in storage.remotes(index).items():
        yield _looked(f"remote {name}", ask, needed=name == default)
    if not index.config.get("remote"):
        do = "`dvc remote add -d NAME ADDRESS` names one"
        yield Diagnosis("remote", "absent", "none, which `dvc push` and others would need", do)
