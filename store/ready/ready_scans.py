"""Scans that `brain` or analyses of its cubes would refuse, by their names, headers, masks and tables."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cinecube.store.base.errors import StudyError, some_of
from cinecube.store.base.paths import StudyPaths
from cinecube.store.clock.films_table import rows_here
from cinecube.store.inputs.content import is_here
from cinecube.store.params.document import Study
from cinecube.store.ready.remembered import RightScans, mark_of
from cinecube.store.scans.brain import check_runs, check_scans, find_scans
from cinecube.store.scans.source import ScanRun, ScanSource
from cinecube.store.scans.sources import has_scans, unfetched_tables
from cinecube.store.spaces.atlas import atlas_files
from cinecube.store.spaces.space import Space, other_space, unlike_subjects

_log = logging.getLogger(__name__)
_MOST_NAMED = 3


@dataclass(frozen=True)
class ReadySubject:
    """A subject of whose scans nothing is refused.

    Attributes
    ----------
    space : Space or None
        Of its targets; None where what is here does not tell.
    absent : str
        What is not on this machine and was passed over, in words; empty if nothing was.
    """

    space: Space | None
    absent: str = ""


def refuse_unready(study: Study, root: Path, rows: Mapping[str, int]) -> None:
    """Refuse scans that would end the study after its features are extracted; no values of runs are read.

    What is not on this machine is passed over and logged: it may be one that only extracts.

    Parameters
    ----------
    study : Study
        Scans that are simulated are right.
    root : Path
        The study's folder.
    rows : Mapping of str to int
        Segment -> its rows, as far as they are known beside the table of films.

    Raises
    ------
    StudyError
        As of `check_subject`, or if subjects' targets are in spaces that `encode` and `ceiling` do not compare.
    """
    if study.simulate is not None:
        return
    rows = {**known_rows(study, root), **rows}
    found: dict[str, ReadySubject] = {}
    faults: list[StudyError] = []
    for subject in study.brain.subjects:
        try:
            found[subject] = check_subject(study, subject, root, rows)
        except StudyError as error:
            faults.append(error)
    if faults:
        raise _with_others(faults)
    refuse_apart({subject: one.space for subject, one in found.items() if one.space is not None})
    paths = StudyPaths(root)
    if absent := [one.absent for subject, one in found.items() if one.absent and not paths.brain(subject).exists()]:
        _log.warning(
            "not here, so not checked before features are extracted: %s; the stage brain will need them",
            some_of(absent, _MOST_NAMED),
        )


def _with_others(faults: list[StudyError]) -> StudyError:
    """The first fault, and how many more subjects have one."""
    first, more = faults[0], len(faults) - 1
    if not more:
        return first
    others = f"{more} more subjects are" if more > 1 else "another subject is"
    do = f"{first.do} ({others} refused too: `cinecube plan` has a line for each)"
    return StudyError(where=first.where, found=first.found, expected=first.expected, do=do)


def known_rows(study: Study, root: Path) -> dict[str, int]:
    """Rows of the study's segments by the table of films; none where it is not there, or old.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.

    Returns
    -------
    dict of str to int
        Segment -> its rows.
    """
    with suppress(StudyError):
        return rows_here(StudyPaths(root).films, study.segments(), study.clock)
    return {}


def check_subject(study: Study, subject: str, root: Path, rows: Mapping[str, int]) -> ReadySubject:
    """Check a subject's scans as `brain` will before it reads their values.

    Parameters
    ----------
    study : Study
    subject : str
    root : Path
        The study's folder.
    rows : Mapping of str to int
        Segment -> its rows; runs of others are passed over.

    Returns
    -------
    ReadySubject

    Raises
    ------
    StudyError
        As of `find_scans` and `check_scans`, for what is here.
    """
    if not has_scans(study.brain, root, subject) or unfetched_tables(study.brain, root, subject):
        return ReadySubject(None, f"all scans of {subject}")
    source, runs = find_scans(study, subject, root, fetched=False)
    return check_found(study, source, runs, root, rows)


def check_found(
    study: Study, source: ScanSource, runs: Sequence[ScanRun], root: Path, rows: Mapping[str, int]
) -> ReadySubject:
    """As `check_subject`, of scans that were found; those that were right are checked once.

    Parameters
    ----------
    study : Study
    source : ScanSource
    runs : sequence of ScanRun
        From `find_scans`.
    root : Path
        The study's folder.
    rows : Mapping of str to int
        As of `check_subject`.

    Returns
    -------
    ReadySubject

    Raises
    ------
    StudyError
        As of `check_scans`.
    """
    files = {run: source.files(run) for run in runs}
    here = [run for run in runs if all(map(is_here, files[run]))]
    absent = f"{len(runs) - len(here)} of {len(runs)} runs of {source.subject}" if len(here) < len(runs) else ""
    here = [run for run in here if run.segment in rows]
    if not here:
        return ReadySubject(None, absent)
    atlas = atlas_files(root / study.brain.atlas) if study.brain.atlas else []
    if not all(map(is_here, atlas)):
        check_runs(source, here, study.brain, rows, study.clock)
        return ReadySubject(None, absent or f"the atlas of {source.subject}")
    right = RightScans(root)
    mark = mark_of(study, [*(path for run in here for path in files[run]), *atlas], rows)
    space = right.space(source.subject, mark)
    if space is None:
        space = check_scans(study, source, here, rows, root)[1].space
        right.keep(source.subject, mark, space)
    return ReadySubject(space, absent)


def refuse_apart(spaces: Mapping[str, Space]) -> None:
    """Refuse subjects whose targets cannot be compared.

    Parameters
    ----------
    spaces : Mapping of str to Space
        Of each subject's targets.

    Raises
    ------
    StudyError
        Naming the first subject whose space is another than that of the first.
    """
    first = next(iter(spaces), "")
    for subject, space in spaces.items():
        if reason := other_space(space, spaces[first]):
            raise unlike_subjects(subject, reason, first, spaces[first].name)
