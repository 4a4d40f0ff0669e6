"""Results of probing films, kept by the digest of each file: decoding all of them takes a while."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cinecube.features.films import PROBED_VERSION
from cinecube.features.films.segment import SegmentInfo
from cinecube.store.base.atomic import write_text
from cinecube.store.base.fingerprint import file_digest
from cinecube.store.base.paths import StudyPaths


@dataclass(frozen=True)
class _Note:
    version: int
    info: SegmentInfo


_NOTES = TypeAdapter(_Note)


def probed(path: Path, root: Path, digest: str | None = None, told: Any = None) -> SegmentInfo:
    """Result of `probe` for a study's film; a file that is unchanged is not decoded again.

    Parameters
    ----------
    path : Path
        The film.
    root : Path
        The study's folder.
    digest : str, optional
        Of its bytes, where they have been read already.
    told : callable, optional
        See `probe`.

    Returns
    -------
    SegmentInfo

    Raises
    ------
    StudyError
        As `probe`.
    """
    paths = StudyPaths(root)
    if path.is_file():
        digest = digest or file_digest(path)
        known = _remembered(paths, path, digest)
        if known is not None:
            return known
    from cinecube.features.films.probing import probe  # brings PyAV

    info = probe(path, paths.relative(path), told)  # which says so where there is no file
    assert digest is not None
    note = _Note(PROBED_VERSION, replace(info, path=Path(path.name)))
    with contextlib.suppress(OSError):
        write_text(_place(paths, digest), _NOTES.dump_json(note).decode())
    return info


def choices_of(path: Path, root: Path, digest: str) -> dict[str, dict[str, Any]]:
    """Choices in reading a study's film, see `Tracks.choices`; from its headers where it was never probed.

    Parameters
    ----------
    path : Path
        The film's file.
    root : Path
        The study's folder.
    digest : str
        SHA-256 of the file.

    Returns
    -------
    dict of str to dict
        By `picture` and `sound`; without those that are read as they are stored.

    Raises
    ------
    StudyError
        If it cannot be read.
    """
    paths = StudyPaths(root)
    known = _remembered(paths, path, digest)
    if known is not None:
        return known.tracks.choices
    from cinecube.features.films.tracks import find_tracks

    return find_tracks(path, paths.relative(path)).choices


def _place(paths: StudyPaths, digest: str) -> Path:
    return paths.probed / f"{digest}.json"


def _remembered(paths: StudyPaths, path: Path, digest: str) -> SegmentInfo | None:
    try:
        note = _NOTES.validate_json(_place(paths, digest).read_bytes())
    except (OSError, ValidationError):
        return None
    return replace(note.info, path=path, where=paths.relative(path)) if note.version == PROBED_VERSION else None
