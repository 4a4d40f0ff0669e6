"""fMRIPrep derivatives: which runs a subject has, and what they hold."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nibabel as nib
import numpy as np

from cinecube.store.base.errors import StudyError
from cinecube.store.base.input_files import read_json
from cinecube.store.base.labels import bids_label, bids_stem, entities_of
from cinecube.store.base.section import suggestion
from cinecube.store.params.document import Study
from cinecube.store.spaces.nifti import open_nifti, other_grid, read_volume

_log = logging.getLogger(__name__)
_VOLUMES = (".nii.gz", ".nii")
# CNeuroMod marks aborted takes like this and lists them in .bidsignore.
_ABORTED = "__dup"
# Seconds between volumes that no scanner reaches: a larger number is in milliseconds.
_LEAST_TR_S, _MOST_TR_S = 0.01, 60.0
# Header and sidecar are compared to find a wrong unit; some headers round to a millisecond.
_SAME_TR = 1e-3


@dataclass(frozen=True)
class ScanRun:
    """One showing of one segment to one subject.

    Attributes
    ----------
    segment : str
        Name of the segment in the study.
    repeat : int
        1 for the first showing, 2 for the second.
    session : str
        Label of the session, empty where the tree has none.
    bold : Path
        The preprocessed volumes.
    """

    segment: str
    repeat: int
    session: str
    bold: Path

    @property
    def where(self) -> str:
        return f"{self.bold.name.split('_', 1)[0]} {self.segment} repeat {self.repeat}"

    def beside(self, desc: str, suffix: str, endings: Sequence[str], without: Iterable[str] = ()) -> list[Path]:
        """Possible files of the same run: other `desc` and suffix, the same entities but those in `without`.

        Parameters
        ----------
        desc : str
            Entity of BIDS.
        suffix : str
            Before the ending, such as `mask`.
        endings : sequence of str
            One path for each, such as `.nii.gz`.
        without : iterable of str
            Entities of the scan that the file lacks.
        """
        entities = entities_of(self.bold.name) | {"desc": desc}
        stem = "_".join(f"{key}-{value}" for key, value in entities.items() if key not in (*without, "suffix"))
        return [self.bold.with_name(f"{stem}_{suffix}{ending}") for ending in endings]

    @cached_property
    def image(self) -> nib.Nifti1Image:
        """The volumes (x, y, z, time), not loaded.

        Raises
        ------
        StudyError
            If the file is no readable 4-D NIfTI.
        """
        image = open_nifti(self.bold)
        if len(image.shape) != 4:
            raise StudyError(where=str(self.bold), found=f"shape {image.shape}", expected="4-D volumes", do="check it")
        return image

    @cached_property
    def tr_s(self) -> float:
        """Seconds between volumes, from the sidecar or else the header.

        Raises
        ------
        StudyError
            If they differ, or what they say is no such time.
        """
        sidecar = self.bold.with_name(f"{bids_stem(self.bold.name)}.json")
        # A sidecar is there before its volumes are fetched.
        header_s, known = self._header_tr_s() if self.bold.exists() or not sidecar.exists() else (0.0, False)
        if not (sidecar.exists() or sidecar.is_symlink()):
            if not _is_tr(header_s):
                raise _wrong_tr(str(self.bold), f"a time of {header_s:g} s between volumes", header_s)
            return round(header_s, 6)
        about = read_json(sidecar, "a JSON object with RepetitionTime in seconds", "fetch or correct it")
        tr_s = about.get("RepetitionTime", header_s)
        if isinstance(tr_s, bool) or not isinstance(tr_s, int | float) or not _is_tr(tr_s):
            raise _wrong_tr(str(sidecar), f"RepetitionTime {str(tr_s)[:40]!r}", tr_s)
        if known and abs(header_s - tr_s) > _SAME_TR * tr_s:
            raise StudyError(
                where=str(sidecar),
                found=f"RepetitionTime {tr_s:g} s",
                expected=f"{header_s:g} s, as the header of the volumes says",
                do="correct the one that is wrong",
            )
        return float(tr_s)

    def _header_tr_s(self) -> tuple[float, bool]:
        """Seconds between volumes by the header, and whether its writer knew them."""
        time, unit = float(self.image.header.get_zooms()[3]), self.image.header.get_xyzt_units()[1]
        tr_s = time * {"msec": 1e-3, "usec": 1e-6}.get(unit, 1.0)
        return tr_s, unit in ("sec", "msec", "usec") and tr_s > 0

    @cached_property
    def mask(self) -> np.ndarray:
        """The brain mask beside the volumes, (x, y, z) of bool.

        Raises
        ------
        StudyError
            If it is missing, damaged, on another grid, no mask, or empty.
        """
        paths = self.beside("brain", "mask", _VOLUMES)
        path = next((path for path in paths if path.exists() or path.is_symlink()), None)
        if path is None:
            where, do = self.where, "fetch it from fMRIPrep"
            raise StudyError(where=where, found="no brain mask", expected=str(paths[0]), do=do)
        image, values = read_volume(path, "a brain mask")
        if other := other_grid(image, self.image):
            do = "fetch scan and mask of the same run"
            raise StudyError(where=str(path), found=other, expected="the grid of its scan", do=do)
        levels = np.unique(values)
        if levels.size > 2 or levels[0] not in (0, levels[-1]):
            found = f"{levels.size} values from {levels[0]:g} to {levels[-1]:g}"
            raise StudyError(where=str(path), found=found, expected="0 outside, 1 inside", do="make it a mask")
        inside: np.ndarray = values != 0
        if not inside.any():
            raise StudyError(
                where=str(path), found="an empty mask", expected="voxels of the brain", do="fetch it again"
            )
        return inside


def _is_tr(tr_s: float) -> bool:
    return _LEAST_TR_S <= tr_s <= _MOST_TR_S


def _wrong_tr(where: str, found: str, tr_s: object) -> StudyError:
    guess = ""
    if isinstance(tr_s, int | float) and _MOST_TR_S < tr_s <= 1000 * _MOST_TR_S:
        guess = f", here {tr_s / 1000:g} s if it is in milliseconds"
    expected = "a number of seconds between volumes"
    return StudyError(where=where, found=found, expected=expected, do=f"set it to seconds{guess}")


def bold_files(folder: Path) -> list[Path]:
    """Preprocessed volumes anywhere in a subject's folder, hidden files and aborted takes left out."""
    found = []
    for path in sorted(folder.rglob("*_bold.nii*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if (
            not hidden
            and _ABORTED not in path.name
            and path.name.endswith(_VOLUMES)
            and entities_of(path.name).get("desc") == "preproc"
        ):
            found.append(path)
    return found


def find_runs(path: Path, subject: str, segments: list[str], space: str) -> list[ScanRun]:
    """The runs in which a subject saw `segments`, in the segments' order, repeats after one another.

    A repeat is a showing: the `run` entity where there is one, otherwise the order of sessions by number.

    Parameters
    ----------
    path : Path
        Folder of the fMRIPrep derivatives.
    subject : str
        `sub-01`.
    segments : list of str
        Names of the study's segments; the BIDS task label is the name without signs.
    space : str
        Value of the `space` entity.

    Raises
    ------
    StudyError
        If the subject or one of the segments was not scanned, or not in this space; if a showing has two files, or
        which showing a file is of cannot be told.
    """
    folder = path / subject
    if not folder.is_dir():
        raise StudyError(
            where=str(folder), found="no such folder", expected="the subject's fMRIPrep derivatives", do="fetch them"
        )
    by_task: dict[str, list[Path]] = {}
    spaces: set[str] = set()
    for bold in bold_files(folder):
        entities = entities_of(bold.name)
        if entities.get("sub") != subject.removeprefix("sub-"):
            found = f"a file of sub-{entities.get('sub', '')}"
            raise StudyError(where=str(bold), found=found, expected=f"files of {subject} in its folder", do="move it")
        spaces.add(entities.get("space", "native"))
        if entities.get("space") == space and "task" in entities:
            by_task.setdefault(entities["task"], []).append(bold)
    if not by_task:
        raise StudyError(
            where=f"{subject} in {path}",
            found=f"volumes in {', '.join(sorted(spaces)) or 'no space'}",
            expected=f"*_space-{space}_desc-preproc_bold.nii.gz",
            do="set brain.space or run fMRIPrep with it",
        )
    _refuse_one_task(segments)
    taken = {bids_label(segment) for segment in segments}
    return [run for segment in segments for run in _showings(segment, by_task, subject, taken)]


def _refuse_one_task(segments: list[str]) -> None:
    """Two segments must not read the same scan."""
    by_label: dict[str, str] = {}
    for segment in segments:
        other = by_label.setdefault(bids_label(segment), segment)
        if other != segment:
            found = f"{other} and {segment}, both task-{bids_label(segment)}"
            raise StudyError(where="films", found=found, expected="segments of tasks that differ", do="rename one")


def _showings(segment: str, by_task: dict[str, list[Path]], subject: str, taken: set[str]) -> list[ScanRun]:
    files, where = by_task.get(bids_label(segment)), f"{subject} {segment}"
    if not files:
        task = bids_label(segment)
        raise StudyError(
            where=where,
            found=f"no scan of it, but of {', '.join(sorted(by_task))[:200]}",
            expected=f"one with task-{task}",
            do=_nearest_task(task, set(by_task) - taken) or "fetch it, or leave the segment out of films",
        )
    by_showing: dict[tuple[str, int | None], Path] = {}
    for bold in files:
        entities = entities_of(bold.name)
        showing = (entities.get("ses", ""), _run_number(entities, bold))
        if showing in by_showing:
            raise _one_showing(where, by_showing[showing], bold)
        by_showing[showing] = bold
    runs = [run for _, run in by_showing]
    if None in runs and set(runs) != {None}:
        names = ", ".join(bold.name for bold in by_showing.values())
        expected = "a run entity in each of them or in none"
        raise StudyError(where=where, found=names, expected=expected, do="name them alike")
    ordered = sorted(by_showing.items(), key=lambda item: (_session_key(item[0][0]), item[0][1] or 0))
    repeats = _repeats([run for (_, run), _ in ordered], [session for (session, _), _ in ordered], where)
    found = [ScanRun(segment, n, session, bold) for n, ((session, _), bold) in zip(repeats, ordered, strict=True)]
    return sorted(found, key=lambda run: run.repeat)


def _repeats(runs: list[int | None], sessions: list[str], where: str) -> list[int]:
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


def _run_number(entities: dict[str, str], bold: Path) -> int | None:
    label = entities.get("run")
    if label is not None and not (label.isascii() and label.isdecimal() and len(label) < 10):
        raise StudyError(where=str(bold), found=f"run-{label}", expected="a number, as run-1", do="rename it")
    return None if label is None else int(label)


def _session_key(session: str) -> list[tuple[int, str]]:
    """Sessions in the order of the numbers in their names: 2 before 10."""
    parts = re.findall(r"\d+|\D+", session)
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts]


def _one_showing(where: str, first: Path, second: Path) -> StudyError:
    """Error for two files of one showing."""
    a, b = entities_of(first.name), entities_of(second.name)
    differ = [key for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key)]
    by = f"that differ by {', '.join(differ)}" if differ else "of the same name"
    found = f"two files {by} ({first.name}, {second.name})"
    do = f"keep one of them below {where.split()[0]}, and move the others elsewhere"
    return StudyError(where=where, found=found, expected="one a showing", do=do)


def _nearest_task(task: str, known: Iterable[str]) -> str | None:
    """A task whose name ends as the segment's does, or is close to it."""
    ends = [name for name in known if task.endswith(name) or name.endswith(task)]
    if ends:
        return f"name the segment and its film's file after task-{ends[0]}, or the other way round"
    return suggestion(task, list(known))


def files_of(study: Study, subject: str, root: Path) -> list[Path]:
    """Files that the study reads of a subject's scans.

    Parameters
    ----------
    study : Study
    subject : str
    root : Path
        The study's folder.

    Raises
    ------
    StudyError
        As of `find_runs`.
    """
    found = []
    for run in find_runs(root / study.brain.path, subject, study.segments(), study.brain.space):
        sidecar = run.bold.with_name(f"{bids_stem(run.bold.name)}.json")
        masks = run.beside("brain", "mask", _VOLUMES)
        found += [run.bold, *(path for path in (sidecar, *masks) if path.exists() or path.is_symlink())]
    return found
