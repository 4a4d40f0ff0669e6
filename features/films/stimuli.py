"""Stimulus files of a study: `<stimuli>/<film>/<segment>.mkv`, `.mp4` and what else people have."""

from __future__ import annotations

from pathlib import Path

from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import StudyPaths
from cinecube.store.inputs.content import refuse_unfetched
from cinecube.store.params.document import Study

# In any case: cameras write `.MOV`. Whether a file is a film, its bytes say.
_USUAL = (".mkv", ".mp4", ".m4v", ".mov", ".webm", ".avi", ".mpg", ".mpeg", ".vob", ".ts", ".m2ts", ".mts")
_FILMS = frozenset((*_USUAL, ".wmv", ".asf", ".ogv", ".flv", ".3gp", ".dv", ".mxf"))
_SOUNDS = frozenset((".wav", ".flac", ".mp3", ".m4a", ".ogg"))


def segment_files(folder: Path) -> dict[str, list[Path]]:
    """Stimulus files of a film's folder by their names without suffix, in order.

    Films, or sound files where there are no films. Links to what is not here count too; what systems leave beside files
    (`._a.mp4`, `.DS_Store`) does not.
    """
    names = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and not path.is_dir()]
    films = [path for path in names if path.suffix.lower() in _FILMS]
    found: dict[str, list[Path]] = {}
    for path in films or [path for path in names if path.suffix.lower() in _SOUNDS]:
        found.setdefault(path.stem, []).append(path)
    return found


def one_file(where: str, files: list[Path]) -> Path:
    """The file of a segment.

    Parameters
    ----------
    where : str
        The segment, for messages.
    files : list of Path
        One or more.

    Returns
    -------
    Path

    Raises
    ------
    StudyError
        If there are several.
    """
    if len(files) > 1:
        raise StudyError(
            where=where,
            found=f"two files, {' and '.join(path.name for path in files)}",
            expected="one",
            do="move the others elsewhere",
        )
    return files[0]


def find_segments(study: Study, film: str, root: Path, fetched: bool = True) -> dict[str, Path]:
    """Stimulus files of a film's segments, in order.

    Parameters
    ----------
    study : Study
    film : str
    root : Path
        The study's folder.
    fetched : bool
        Whether links to what is not here are refused.

    Returns
    -------
    dict
        Segment -> its file.

    Raises
    ------
    StudyError
        If the study has no such film, or a segment has no file, two, or one that was not fetched.
    """
    if study.stimuli is None:
        raise StudyError(
            where="params.yaml: stimuli",
            found="no folder",
            expected="that of the films' folders",
            do="set it, or import the cubes of a study that has the films",
        )
    folder = root / study.stimuli / film
    files = segment_files(folder) if folder.is_dir() else {}
    found = {segment: _find(folder, segment, files.get(segment, []), root) for segment in study.film(film)}
    if fetched:
        refuse_unfetched(found.values(), root, f"film {film}")
    return found


def _find(folder: Path, segment: str, files: list[Path], root: Path) -> Path:
    if not files:
        raise StudyError(
            where=f"segment {segment}",
            found="no file",
            expected=f"{StudyPaths(root).relative(folder / segment)}.mkv or .mp4, .mov, .avi, …",
            do="put it there, or leave the segment out of `films`",
        )
    return one_file(f"segment {segment}", files)
