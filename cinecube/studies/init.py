"""Making a new study from a template."""

from __future__ import annotations

import logging
import math
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cinecube.features.films.stimuli import one_file, segment_files
from cinecube.sharing.ignoring import IGNORE_FILE, keep_out_of_git, warn_of_exposed
from cinecube.store.base.errors import StudyError, first_line, some_of
from cinecube.store.base.labels import check_name, one_of, suggestion
from cinecube.store.base.paths import SCHEMA_FILE
from cinecube.store.clock.clock import same_step
from cinecube.store.inputs.content import is_here, unfetched
from cinecube.store.params.document import PARAMS_FILE, BrainParams, Source, Study, load_study, parse
from cinecube.store.scans.arrays import space_of_array
from cinecube.store.scans.bids import mesh_name, scan_files, scan_space
from cinecube.store.scans.showings import no_scan, ruled_task, task_of
from cinecube.store.scans.source import ScanRun, ScanSource, ScanTiming
from cinecube.store.scans.sources import open_scans, refuse_arrays_apart, source_in, spaces_of
from cinecube.store.spaces.atlas import check_atlas, find_atlas
from cinecube.store.spaces.grayordinate_labels import HCP_MMP
from cinecube.studies.pipelines import pipelines, template_text
from cinecube.studies.records import warn_of_unfetched

_log = logging.getLogger(__name__)
_TR_S = 1.49  # Movie10's, where no scan says another
_SPACE = "MNI152NLin2009cAsym"  # fMRIPrep's own, preferred where it is there
_REACH_S = 5 * 1.49  # of its delays
# Algonauts' responses and a lab's arrays are cleaned already.
_CLEANED: dict[str, Any] = {"confounds": "none", "high_pass_hz": 0}
_CLEANING: dict[Source, dict[str, Any]] = {
    "fmriprep": {"confounds": "simple", "high_pass_hz": 0.008},
    "algonauts2025": _CLEANED,
    "arrays": _CLEANED,
}
_TEST_ON_ONE = 2  # segments to fit on, one held out in turn, beside one to test on


@dataclass(frozen=True)
class OwnData:
    """Paths of a lab's own films and scans.

    Attributes
    ----------
    stimuli : Path
        `<stimuli>/<film>/<segment>.mp4`, `.mkv`, ….
    scans : Path
        fMRIPrep derivatives, `<scans>/sub-*/`.
    atlas : Path or None
        As of `read_atlas`.
    test : str or None
        The film to test on; the last by default.
    space : str or None
        Of the scans, as `brain.space`; the one that suits most by default.
    """

    stimuli: Path
    scans: Path
    atlas: Path | None
    test: str | None
    space: str | None


def init_simulated(folder: Path) -> None:
    """Make the simulated study in `folder`.

    Raises
    ------
    StudyError
        If there is a study already.
    """
    refuse_existing(folder)
    with _whole(folder):
        for name in ("params.yaml", "README.md"):
            _write(folder / name, template_text(f"simulated/{name}"))
        for name, text in pipelines(simulated=True).items():
            _write(folder / name, text)
        _finish(folder)


def init_own(folder: Path, own: OwnData) -> None:
    """Make a study of a lab's own films and scans in `folder`.

    Parameters
    ----------
    folder : Path
        New or empty.
    own : OwnData

    Raises
    ------
    StudyError
        If there is a study already, or films or subjects cannot be found.
    """
    refuse_existing(folder)
    films = _find_films(own.stimuli)
    test = [own.test or list(films)[-1]]
    split = {"train": [film for film in films if film not in test], "test": test}
    values = values_of_scans(folder, own, films, split) | {"stimuli": from_study(folder, own.stimuli)}
    write_study(folder, values, "own")


def values_of_scans(
    folder: Path, own: OwnData, films: Mapping[str, Sequence[str]], split: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Values of a lab's scans that fill the templates.

    Parameters
    ----------
    folder : Path
        The study's.
    own : OwnData
    films : Mapping of str to sequence of str
        Film -> its segments.
    split : Mapping of str to sequence of str
        `train` and `test` -> films.

    Returns
    -------
    dict
        Name in the templates -> value.

    Raises
    ------
    StudyError
        If there are no subjects, no such space or atlas, or the test film is none of `films`.
    """
    _refuse_no_folder(own.scans, "scans")
    source, subjects = source_in(own.scans)
    if not subjects:
        raise StudyError(
            where=str(own.scans), found="no folder sub-*", expected="fMRIPrep derivatives", do="set `scans=`"
        )
    if source == "fmriprep":
        refuse_arrays_apart(own.scans, subjects)
    if own.atlas and not find_atlas(own.atlas).exists():
        do = "correct `atlas=`"
        raise StudyError(where=str(own.atlas), found="no such file", expected="an atlas", do=do)
    space = check_name(_space(own, subjects, source), "space")
    cleaning = _CLEANING[source]
    if own.atlas:
        check_atlas(own.atlas, space)
    if own.test is not None and own.test not in films:
        do = suggestion(own.test, films) or "name a film"
        raise StudyError(where="`test=`", found=repr(own.test), expected=one_of(films, own.test), do=do)
    segments = [segment for parts in films.values() for segment in parts]
    params = BrainParams(
        source=source, path=str(own.scans.resolve()), subjects=_told_apart(subjects), space=space, **cleaning
    )
    scans = [_scans(params, subject, segments) for subject in subjects]
    _refuse_other_names(own.scans, source, scans, segments)
    for one in scans:
        if one.said:
            _log.warning("%s", one.said)
    timed = [run for one in scans for run in one.timed]
    tr_s = _tr_s(timed)
    if again := sorted({run.segment for run, _ in timed if run.repeat > 1}):
        _log.info("shown more than once: %s", some_of(again, 8))
    atlas = own.atlas or _found_atlas(own.scans, space, source)
    return {
        "study": check_name(folder.resolve().name, "study"),
        "scans": from_study(folder, own.scans),
        "atlas": from_study(folder, atlas) if atlas else None,
        "films": {film: list(segments) for film, segments in films.items()},
        **split,
        "subjects": subjects,
        "source": source,
        "space": space,
        **cleaning,
        "tr_s": tr_s,
        # Film of as many seconds before as the reference study's five rows of 1.49 s.
        "delays": list(range(1, max(2, math.ceil(_REACH_S / tr_s - 1e-6) + 1))),
    }


def write_study(folder: Path, values: Mapping[str, Any], template: str, params: str = "own") -> None:
    """Fill the templates of a study of scans, put it under Git and DVC, and log what was not fetched yet.

    Parameters
    ----------
    folder : Path
        The study's.
    values : Mapping
        What the templates are filled with.
    template : str
        Folder of templates that has the README.
    params : str
        The one that has the parameters; of `own` it was told already what is missing altogether.

    Raises
    ------
    StudyError
        If what would be written is no study; nothing is then.
    """
    import jinja2

    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    text, readme = (
        environment.from_string(template_text(name)).render(values)
        for name in (f"{params}/params.yaml.j2", f"{template}/README.md.j2")
    )
    parse(Study, yaml.safe_load(text), PARAMS_FILE)
    with _whole(folder):
        _write(folder / "params.yaml", text)
        _write(folder / "README.md", readme)
        for name, text in pipelines(stimuli=bool(values["stimuli"])).items():
            _write(folder / name, text)
        _finish(folder)
    warn_of_unfetched(load_study(folder), folder, known=params == "own")


def _refuse_no_folder(path: Path, argument: str) -> None:
    if not path.is_dir():
        raise StudyError(where=str(path), found="no such folder", expected="one", do=f"set `{argument}=`")


def _find_films(stimuli: Path) -> dict[str, list[str]]:
    _refuse_no_folder(stimuli, "stimuli")
    found = {
        folder.name: [one_file(f"segment {name}", files) for name, files in segment_files(folder).items()]
        for folder in sorted(stimuli.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
    }
    films = {film: [path.stem for path in _fetched(film, paths)] for film, paths in found.items() if paths}
    if len(films) < 2:
        do = "set `stimuli=` to the folder of the films' folders"
        for film, segments in films.items():
            # The test segments are a film of their own, so one film may be written as two.
            if len(segments) > _TEST_ON_ONE:
                do = f"move those of {film} to test on into a folder of their own, {stimuli / f'{film}_test'}"
        raise StudyError(
            where=str(stimuli),
            found=f"{len(films)} films" if len(films) != 1 else f"1 film, {', '.join(films)}",
            expected="two or more folders of segments (.mp4, .mkv, .mov, .avi, …), one to test on",
            do=do,
        )
    for film, segments in films.items():
        check_name(film, f"{stimuli}: film")
        for segment in segments:
            check_name(segment, f"{stimuli / film}: segment")
    return films


def _fetched(film: str, files: list[Path]) -> list[Path]:
    """Files of a film that are on this disk, where some are; logs what fetches the others."""
    missing = [path for path in files if not is_here(path)]
    if len(missing) in (0, len(files)):  # all of a film are told with the scans
        return files
    _log.warning("%s", unfetched(missing, None, f"film {film}, which is made without"))
    return [path for path in files if path not in missing]


def _space(own: OwnData, subjects: Sequence[str], source: Source) -> str:
    """The space that is asked for, if there are scans in it; else one of those that there are."""
    if source != "fmriprep":
        _log.info("scans are no derivatives of fMRIPrep: brain.source is %s", source)
        by_size = space_of_array(own.scans / f"{subjects[0]}.npy") if source == "arrays" else None
        return own.space or by_size or _SPACE
    there = spaces_there(own.scans, subjects)
    if own.space is None:
        mni = [space for space in there if space.startswith("MNI")]
        chosen = _SPACE if _SPACE in there or not there else (mni or there)[0]
        if len(there) > 1:
            _log.info("scans are in %s: brain.space is %s", ", ".join(there), chosen)
        return chosen
    refuse_no_space(own.space, there)
    return own.space


def spaces_there(scans: Path, subjects: Sequence[str]) -> list[str]:
    """Spaces that derivatives of fMRIPrep are in, those of subjects whose scans cannot be looked for apart.

    Parameters
    ----------
    scans : Path
        Folder of the subjects' folders.
    subjects : sequence of str

    Returns
    -------
    list of str
        As `brain.space` has them.
    """
    files: list[Path] = []
    for subject in subjects:
        with suppress(StudyError):  # told when the scans of this subject are looked for
            files += scan_files(scans / subject, subject)
    return spaces_of(files)


def refuse_no_space(space: str, there: Sequence[str]) -> None:
    """Refuse a space that is asked for and that no scan is in, where there are scans.

    Parameters
    ----------
    space : str
        As `brain.space`.
    there : sequence of str
        From `spaces_there`.

    Raises
    ------
    StudyError
        Naming the spaces that there are.
    """
    if there and mesh_name(space) not in there:
        do = suggestion(space, list(there)) or "name a space of the scans"
        raise StudyError(where="`space=`", found=repr(space), expected=one_of(there, space), do=do)


def _found_atlas(scans: Path, space: str, source: Source) -> Path | None:
    """The one atlas of the scans' space that is beside them, or HCP-MMP for grayordinates; logs what was found."""
    if source != "fmriprep":
        return None
    places = [path for folder in (scans, scans.parent) for path in sorted(folder.glob("*"))]
    named = [path for path in places if path.name.startswith("atlas") or "_dseg." in path.name]
    found = []
    for path in [*named, *([Path(HCP_MMP)] if space == "fsLR" else [])]:
        with suppress(StudyError):
            check_atlas(path, space)
            found.append(path)
    files = {find_atlas(path): path for path in found}
    if len(files) == 1:
        (atlas,) = files.values()
        _log.info("no --atlas: brain.atlas is %s", atlas)
        return atlas
    several = f"{len(files)} are beside the scans; " if files else ""
    _log.warning(
        "no --atlas: %severy voxel counts for itself, and there are no regions; set brain.atlas later", several
    )
    return None


def _told_apart(subjects: list[str]) -> list[str]:
    """The same subjects; logs two folders whose numbers are the same."""
    by_number: dict[str, str] = {}
    for subject in subjects:
        other = by_number.setdefault(subject.removeprefix("sub-").lstrip("0"), subject)
        if other != subject:
            _log.warning("%s and %s: two folders of one subject? brain.subjects lists both", other, subject)
    return subjects


@dataclass(frozen=True)
class _Scans:
    """A subject's scans of the films, or one of whatever it is; what `brain` would refuse of them.

    Where none is a film's, `others` names what they are of.
    """

    subject: str
    timed: list[tuple[ScanRun, ScanTiming]]
    said: str = ""
    others: tuple[str, ...] = ()


def _scans(params: BrainParams, subject: str, segments: list[str]) -> _Scans:
    """A subject's scans of the films; what lacks is no error, as scans may still be on their way."""
    try:
        source = open_scans(params, Path(), subject)
    except StudyError as error:
        return _Scans(subject, [], str(error))
    try:
        runs = source.runs(segments)
    except StudyError as error:
        return _Scans(subject, _any_scan(params, source), str(error))
    seen = {run.segment for run in runs}
    missing = [segment for segment in segments if segment not in seen]
    if not missing:
        return _Scans(subject, _timed(source, runs))
    absent = no_scan(subject, missing[0], source.tasks, None, segments)
    said = f"{absent}" + (f" (and {len(missing) - 1} more segments)" if missing[1:] else "")
    if runs:
        return _Scans(subject, _timed(source, runs), said)
    return _Scans(subject, _any_scan(params, source), said, tuple(name for name in source.tasks if name))


def _timed(source: ScanSource, runs: Iterable[ScanRun]) -> list[tuple[ScanRun, ScanTiming]]:
    """Runs with their times, but those that tell none as they were not fetched."""
    found = []
    for run in runs:
        try:
            found.append((run, source.timing(run)))
        except StudyError:
            if all(map(is_here, source.files(run))):
                raise
    return found


def _refuse_other_names(folder: Path, source: Source, scans: Sequence[_Scans], segments: Sequence[str]) -> None:
    """Refuse scans of which not one is named like a film; a rule of `brain.tasks` may still bring them together."""
    named = [one for one in scans if one.others]
    if any(one.timed for one in scans if not one.others) or not named:
        return
    if any(ruled_task(segment, one.others) for one in named for segment in segments):
        return
    sign = "" if source == "arrays" else "task-"
    tasks = [f"{sign}{name}" for name in named[0].others]
    raise StudyError(
        where=str(folder),
        found=f"no scan that is named like any film: those of {named[0].subject} are {some_of(tasks, 3)}",
        expected=f"{sign}{task_of(segments[0], None)} for {segments[0]}",
        do=f"give a film's file and its scans one name: NAME.mp4 and {sign}NAME",
    )


def _any_scan(params: BrainParams, source: ScanSource) -> list[tuple[ScanRun, ScanTiming]]:
    """One scan of whatever it is, for its TR alone."""
    if params.source != "fmriprep":
        return []
    files = scan_files(Path(params.path) / source.subject, source.subject)
    runs = (
        ScanRun(source.subject, path.name, 1, "", (path, path))
        for path in files
        if scan_space(path.name) == mesh_name(params.space)
    )
    return next(([timed] for run in runs for timed in _timed(source, [run])), [])


def _tr_s(timed: Sequence[tuple[ScanRun, ScanTiming]]) -> float:
    """The time between volumes of all runs; the reference study's where there is none yet."""
    if not timed:
        _log.warning("no scan tells the time between volumes: clock.tr_s is %g", _TR_S)
        return _TR_S
    first, start = timed[0]
    for run, timing in timed:
        if not same_step(timing.tr_s, start.tr_s):
            raise StudyError(
                where=run.path.name,
                found=f"a TR of {timing.tr_s:g} s",
                expected=f"{start.tr_s:g} s, as of {first.path.name}",
                do="give the films of each TR a study of their own",
            )
    if said := [f"{run.where}: {timing.said}" for run, timing in timed if timing.said]:
        _log.warning("%s", some_of(said))
    return start.tr_s


def from_study(folder: Path, path: Path) -> str:
    """A path as `params.yaml` has it: from the study's folder; the name of an atlas as it is.

    Parameters
    ----------
    folder : Path
        The study's.
    path : Path

    Returns
    -------
    str
    """
    if path == Path(HCP_MMP):
        return HCP_MMP
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def refuse_existing(folder: Path) -> None:
    """Refuse a folder that holds a study.

    Raises
    ------
    StudyError
        Naming the file that it has.
    """
    for name in (PARAMS_FILE, "dvc.yaml"):
        if (folder / name).exists():
            raise StudyError(
                where=str(folder / name), found="a study", expected="an empty or new folder", do="choose another folder"
            )


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def _whole(folder: Path) -> Iterator[None]:
    """Make the whole study, or leave the folder as it was: half of one would keep the next `init` away."""
    is_new = not folder.exists()
    before = set() if is_new else set(folder.iterdir())
    try:
        yield
    except BaseException:
        for path in set(folder.iterdir()) - before if folder.exists() else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if is_new and folder.exists():
            folder.rmdir()
        raise


def _finish(folder: Path) -> None:
    """Put the study under Git and DVC, where it is not yet; what Git must not take is named before."""
    study, had_one = load_study(folder), (folder / IGNORE_FILE).exists()
    added = keep_out_of_git(folder, study)
    if added and had_one:
        _log.info("%s: appended what keeps films, scans, weights and outputs out of Git", folder / IGNORE_FILE)
    _write(folder / SCHEMA_FILE, template_text(SCHEMA_FILE))
    if not (folder / ".dvcignore").exists():
        _write(folder / ".dvcignore", template_text("dvcignore"))
    inside = _call(folder, "git", "rev-parse", "--show-toplevel")
    if inside is None:
        _call(folder, "git", "init", "--quiet", must=True)
        inside = str(folder.resolve())
    if not (folder / ".dvc").is_dir():
        _init_dvc(folder, subdir=Path(inside).resolve() != folder.resolve())
        # Cubes are large: linked to DVC's cache they take their room once. `dvc config` says the same, later.
        with (folder / ".dvc" / "config").open("a", encoding="utf-8") as config:
            config.write('[cache]\n    type = "hardlink,copy"\n')
    warn_of_exposed(folder, study)


def _init_dvc(folder: Path, subdir: bool) -> None:
    """As `dvc init`, which would be one more start of Python."""
    from dvc.exceptions import DvcException
    from dvc.logger import set_loggers_level
    from dvc.repo import Repo

    try:
        with set_loggers_level(logging.WARNING):
            Repo.init(str(folder), subdir=subdir).close()
    except DvcException as error:
        raise _no_repository("dvc init", first_line(error)) from error


def _call(folder: Path, *command: str, must: bool = False) -> str | None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise StudyError(
            where=str(folder), found=f"no program {command[0]}", expected="Git, which keeps studies", do="install it"
        ) from None
    if done.returncode == 0:
        return done.stdout.strip()
    if must:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise _no_repository(" ".join(command), lines[-1])
    return None


def _no_repository(where: str, found: str) -> StudyError:
    return StudyError(where=where, found=found, expected="a repository", do="fix it, and run `cinecube init` again")
