"""Scans that were found right: not checked again while their files, the parameters and the lengths of films stay."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cinecube.store.base.atomic import write_text
from cinecube.store.base.errors import StudyError
from cinecube.store.base.fingerprint import fingerprint
from cinecube.store.base.paths import StudyPaths
from cinecube.store.params.document import Study
from cinecube.store.scans import VERSION
from cinecube.store.spaces.space import Space, space_attrs, space_of


class RightScans:
    """Spaces of subjects' targets, by marks of all that they were found from.

    Parameters
    ----------
    root : Path
        The study's folder.
    """

    def __init__(self, root: Path) -> None:
        self._path = StudyPaths(root).ready
        self._known: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            loaded = json.loads(self._path.read_bytes())
            self._known = loaded if isinstance(loaded, dict) else {}

    def space(self, subject: str, mark: str) -> Space | None:
        """The space that was kept with this mark.

        Parameters
        ----------
        subject : str
        mark : str
            From `mark_of`.

        Returns
        -------
        Space or None
            None if none was kept.
        """
        known = self._known.get(subject)
        if isinstance(known, list) and len(known) == 2 and known[0] == mark and isinstance(known[1], dict):
            with contextlib.suppress(StudyError):
                return space_of(known[1])
        return None

    def keep(self, subject: str, mark: str, space: Space) -> None:
        """Write what was found; a study in a folder that cannot be written does without.

        Parameters
        ----------
        subject : str
        mark : str
            From `mark_of`.
        space : Space
            Of the subject's targets.
        """
        self._known[subject] = [mark, space_attrs(space)]
        with contextlib.suppress(OSError):
            write_text(self._path, json.dumps(self._known, sort_keys=True))


def mark_of(study: Study, files: Sequence[Path], rows: Mapping[str, int]) -> str:
    """A mark that changes with all that the check of a subject's scans depends on.

    Parameters
    ----------
    study : Study
    files : sequence of Path
        That are read.
    rows : Mapping of str to int
        Segment -> its rows.

    Returns
    -------
    str
        SHA-256.
    """
    asked = {"brain": study.brain.model_dump(), "clock": study.clock.model_dump(), "rows": dict(rows)}
    return fingerprint({**asked, "version": VERSION, "files": [_state(path) for path in dict.fromkeys(files)]})


def _state(path: Path) -> list[Any]:
    """A file's path, size, time and inode, where it is there."""
    try:
        found = path.stat()
    except OSError:
        return [str(path)]
    return [str(path), found.st_size, found.st_mtime_ns, found.st_ino]
