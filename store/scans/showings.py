"""Showings: which segment a scan is of, which repeat, and which of several files of one showing is taken."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from cinecube.store.base.errors import StudyError, some_of
from cinecube.store.base.labels import bids_label, entities_of, suggestion
from cinecube.store.params.document import PARAMS_FILE
from cinecube.store.scans.source import ScanRun

_log = logging.getLogger(__name__)


def task_of(segment: str, rule: str | None) -> str:
    """The BIDS task of a segment: its name without signs, after the rule `friends_{task}` where that fits.

    Parameters
    ----------
    segment : str
    rule : str, optional
        `brain.tasks`.

    Returns
    -------
    str
    """
    before, _, after = (rule or "{task}").partition("{task}")
    fits = segment.startswith(before) and segment.endswith(after) and len(segment) > len(before + after)
    return bids_label(segment[len(before) : len(segment) - len(after)] if fits else segment)


def no_scan(subject: str, segment: str, tasks: Sequence[str], rule: str | None, others: Sequence[str]) -> StudyError:
    """Error for a segment without a scan, with the near task that may be meant.

    Parameters
    ----------
    subject, segment : str
    tasks : sequence of str
        Of the subject's scans.
    rule : str, optional
        `brain.tasks`.
    others : sequence of str
        The study's segments, whose own tasks are not meant.

    Returns
    -------
    StudyError
    """
    task = task_of(segment, rule)
    free = sorted(set(tasks) - {task_of(other, rule) for other in others})
    return StudyError(
        where=f"{subject} {segment}",
        found=f"no scan of it, but of {', '.join(sorted(tasks))[:200] or 'nothing'}",
        expected=f"one with task-{task}",
        do=_nearest_task(segment, task, free) or "fetch it, or go on: this subject is analysed without the segment",
    )


def _nearest_task(segment: str, task: str, free: Sequence[str]) -> str | None:
    """Advice on a task whose name ends as the segment's does, or is close to it."""
    if name := ruled_task(segment, free):
        rule = segment.removesuffix(name) + "{task}"
        return f'if task-{name} is meant, add `tasks: "{rule}"` to the section brain of {PARAMS_FILE}'
    for name in free:
        if task.endswith(name) or name.endswith(task):
            return f"name the segment and its film's file after task-{name}, or the other way round"
    return suggestion(task, list(free))


def ruled_task(segment: str, tasks: Sequence[str]) -> str | None:
    """The task that a rule in `brain.tasks` makes the segment's: what its name ends in, after a sign.

    Parameters
    ----------
    segment : str
    tasks : sequence of str
        Of scans.

    Returns
    -------
    str or None
        None where it ends in no task.
    """
    return next((name for name in tasks if re.search(rf"[^A-Za-z0-9]{re.escape(name)}$", segment)), None)


def find_showings(
    files: Sequence[Path], subject: str, segments: Sequence[str], rule: str | None, choose: Mapping[str, str]
) -> list[ScanRun]:
    """The runs in which a subject saw `segments`, in their order, repeats after one another.

    A repeat is a showing: the `run` entity where there is one, otherwise the order of sessions by number.

    Parameters
    ----------
    files : sequence of Path
        Scans of the subject in one space, named as in BIDS.
    subject : str
    segments : sequence of str
    rule : str, optional
        `brain.tasks`.
    choose : Mapping of str to str
        `brain.choose`.

    Returns
    -------
    list of ScanRun

    Raises
    ------
    StudyError
        If two segments are of one task, a showing has two files, or which showing a file is of cannot be told.
    """
    by_task: dict[str, list[Path]] = {}
    for path in files:
        by_task.setdefault(entities_of(path.name).get("task", ""), []).append(path)
    by_label: dict[str, str] = {}
    for segment in segments:
        other = by_label.setdefault(task_of(segment, rule), segment)
        if other != segment:
            found = f"{other} and {segment}, both task-{task_of(segment, rule)}"
            raise StudyError(where="films", found=found, expected="segments of tasks that differ", do="rename one")
    return [
        run
        for segment in segments
        for run in _of_segment(by_task.get(task_of(segment, rule), []), subject, segment, choose)
    ]


def _of_segment(files: Sequence[Path], subject: str, segment: str, choose: Mapping[str, str]) -> list[ScanRun]:
    where = f"{subject} {segment}"
    by_showing: dict[tuple[str, int | None], list[Path]] = {}
    for path in files:
        entities = entities_of(path.name)
        by_showing.setdefault((entities.get("ses", ""), _run_number(entities, path)), []).append(path)
    one = {showing: _chosen(where, found, choose) for showing, found in by_showing.items()}
    runs = {run for _, run in one}
    if None in runs and runs != {None}:
        names = ", ".join(path.name for path in one.values())
        expected = "a run entity in each of them or in none"
        raise StudyError(where=where, found=names, expected=expected, do="name them alike")
    ordered = sorted(one.items(), key=lambda item: (_session_key(item[0][0]), item[0][1] or 0))
    repeats = _repeats([run for (_, run), _ in ordered], [session for (session, _), _ in ordered], where)
    found = [
        ScanRun(subject, segment, repeat, session, (path,))
        for repeat, ((session, _), path) in zip(repeats, ordered, strict=True)
    ]
    return sorted(found, key=lambda run: run.repeat)


def _run_number(entities: Mapping[str, str], path: Path) -> int | None:
    label = entities.get("run")
    if label is not None and not (label.isascii() and label.isdecimal() and len(label) < 10):
        raise StudyError(where=str(path), found=f"run-{label}", expected="a number, as run-1", do="rename it")
    return None if label is None else int(label)


def _chosen(where: str, files: Sequence[Path], choose: Mapping[str, str]) -> Path:
    """The file of one showing that the study chooses."""
    entities = {path: entities_of(path.name) for path in files}
    kept = [p for p in files if all(_same(entities[p].get(key, ""), label) for key, label in choose.items())]
    if len(kept) == 1:
        return kept[0]
    asked = ", ".join(f"{key}-{label}" if label else f"no {key}-" for key, label in choose.items())
    if not kept:
        found = some_of([path.name for path in files], 3)
        do = "correct brain.choose, or leave the segment out of films"
        raise StudyError(where=where, found=found, expected=f"a file with {asked}, as brain.choose says", do=do)
    labels = {key: list(dict.fromkeys(entities[path].get(key, "") for path in kept)) for key in _keys(entities)}
    differ = {key: found for key, found in labels.items() if len(found) > 1}
    by = f"that differ by {', '.join(differ)}" if differ else "of the same name"
    found = f"two files {by} ({kept[0].name}, {kept[1].name})"
    raise StudyError(where=where, found=found, expected="one a showing", do=_how_to_choose(where, differ, choose))


def _keys(entities: Mapping[Path, Mapping[str, str]]) -> list[str]:
    return list(dict.fromkeys(key for found in entities.values() for key in found))


def _same(label: str, asked: str) -> bool:
    """True if two labels are the same, or the same number: YAML reads 01 as 1."""
    return label == asked or (label.isdecimal() and asked.isdecimal() and int(label) == int(asked))


def _how_to_choose(where: str, differ: Mapping[str, Sequence[str]], choose: Mapping[str, str]) -> str:
    if not differ or set(differ) <= {*choose, "run"}:
        return f"keep one of them below {where.split()[0]}, and move the others elsewhere"
    key = next(key for key in differ if key not in choose and key != "run")
    lines = []
    for label in sorted(differ[key], reverse=True):
        inside = ", ".join(f'{name}: "{value}"' for name, value in {**choose, key: label}.items())
        lines.append(f"`choose: {{{inside}}}`" + ("" if label else f" for the file without {key}-"))
    return f"add one of {' or '.join(lines)} to the section brain of {PARAMS_FILE}"


def _repeats(runs: Sequence[int | None], sessions: Sequence[str], where: str) -> list[int]:
    """Number of the showing of each file, files in the order of sessions and runs; logs what is not obvious."""
    numbers = [run for run in runs if run is not None]
    if numbers and len(set(numbers)) == len(numbers) and min(numbers) > 0:
        absent = list(itertools.islice((n for n in range(1, max(numbers)) if n not in numbers), 5))
        if absent:
            told = ", ".join(f"run-{number}" for number in absent)
            _log.warning("%s: no scan of %s; repeats are %s", where, told, ", ".join(map(str, sorted(numbers))))
        return numbers
    if len(runs) > 1 and (numbers or not all(re.fullmatch(r"\D*\d+", session) for session in sessions)):
        names = [
            f"ses-{session}" + ("" if run is None else f" run-{run}")
            for session, run in zip(sessions, runs, strict=True)
        ]
        _log.warning("%s: repeats 1 to %d are %s, in this order", where, len(runs), ", ".join(names))
    return list(range(1, len(runs) + 1))


def _session_key(session: str) -> list[tuple[int, str]]:
    """Sessions in the order of the numbers in their names: 2 before 10."""
    parts = re.findall(r"\d+|\D+", session)
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts]
