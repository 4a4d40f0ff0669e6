"""Commands that bring a film of an imported model that is not here; what looks at a study asks it: it loads no DVC."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from cinecube.store.base.paths import PARAMS_FILE, StudyPaths
from cinecube.store.dvc.dvc_repo import is_repository, split_address
from cinecube.store.params.document import Study


def never_imported(study: Study, root: Path, model: str, film: str) -> str:
    """The command that imports a film of an imported model; "" where it is here or was imported, and where none does.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    model, film : str

    Returns
    -------
    str
    """
    entry, cube = study.import_of(model), StudyPaths(root).features(model, film)
    if entry is None or cube.exists() or not _is_from_repository(entry.source):
        return ""
    tracked = (path.with_name(f"{path.name}.dvc") for path in (cube, cube.parent))
    if any(path.is_file() for path in tracked):
        return ""
    rev = f" --rev {shlex.quote(entry.rev)}" if entry.rev else ""
    return f"`cinecube import {shlex.quote(entry.source)}{rev} --model {model} --film {film}`"


def _is_from_repository(source: str) -> bool:
    """False of an array that was added, which may be a folder as well."""
    place, _ = split_address(source)
    parts = (".git", ".dvc", PARAMS_FILE)
    return is_repository(source) or any(os.path.exists(os.path.join(place, part)) for part in parts)
