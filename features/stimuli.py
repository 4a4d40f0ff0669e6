"""Stimulus files of a study: `<stimuli>/<film>/<segment>.mkv` or `.mp4`."""

from __future__ import annotations

from pathlib import Path

from cinecube.store.errors import StudyError
from cinecube.store.params import Study
from cinecube.store.paths import StudyPaths

SUFFIXES = (".mkv", ".mp4")


def find_segments(study: Study, film: str, root: Path) -> dict[str, Path]:
    """Stimulus files of a film's segments, in order.

    Raises
    ------
    StudyError
        If the study has no such film, or a segment has no file or two.
    """
    if study.stimuli is None:
        raise StudyError(
            where="params.yaml: stimuli",
            found="no folder",
            expected="that of the films' folders",
            do="set it, or import the cubes of a study that has the films",
        )
    return {segment: _find(root / study.stimuli / film, segment, root) for segment in study.film(film)}


def _find(folder: Path, segment: str, root: Path) -> Path:
    candidates = [folder / f"{segment}{suffix}" for suffix in SUFFIXES]
    found = [path for path in candidates if path.is_file()]
    if len(found) == 1:
        return found[0]
    shown = " or ".join(StudyPaths(root).relative(path) for path in candidates)
    raise StudyError(
        where=f"segment {segment}",
        found="two files" if found else "no file",
        expected=shown,
        do="remove one of them" if found else "put it there, or leave the segment out of `films`",
    )
