"""A study's `.gitignore`: films, scans, weights and what DVC keeps are no business of Git's."""

from __future__ import annotations

import logging
import os
import re
import subprocess
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from cinecube.store.base.atomic import staged
from cinecube.store.base.errors import some_of
from cinecube.store.params.document import Study

_log = logging.getLogger(__name__)
IGNORE_FILE = ".gitignore"


def keep_out_of_git(root: Path, study: Study) -> list[str]:
    """Append to the study's `.gitignore` what it lacks; its lines stay.

    Parameters
    ----------
    root : Path
        The study's folder.
    study : Study
        Its films, scans, atlas and weights are named if they are in that folder, outside `data`.

    Returns
    -------
    list of str
        The patterns that were appended.
    """
    path = root / IGNORE_FILE
    before = path.read_bytes() if path.is_file() else b""
    text = before.decode("utf-8", errors="replace")
    known, added = text.splitlines(), list[str]()
    block = files("cinecube").joinpath("templates", "gitignore").read_text(encoding="utf-8").splitlines()
    if block[0] not in known:  # by its first line: people may have changed others
        added += ["", *block] if known else block
    own = filter(None, (_pattern(root, place) for place in inputs_of(root, study)))
    added += [pattern for pattern in dict.fromkeys(own) if not {pattern, f"!{pattern}"} & set(known)]
    if added:
        after = "".join(f"{line}\n" for line in ([""] if text and not text.endswith("\n") else []) + added)
        with staged(path) as partial:
            partial.write_bytes(before + after.encode())
    return [line for line in added if line and not line.startswith("#")]


def inputs_of(root: Path, study: Study) -> Iterator[str]:
    """Paths that `params.yaml` names: films, scans, atlas, and weights that are no name of a hub.

    Parameters
    ----------
    root : Path
        The study's folder.
    study : Study

    Yields
    ------
    str
    """
    yield from filter(None, (study.stimuli, study.brain.path, study.brain.atlas))
    checkpoints = (model.checkpoint for model in study.models.values())
    yield from (place for place in checkpoints if place and (root / place).exists())


def warn_of_exposed(root: Path, study: Study) -> None:
    """Say which inputs beside the study Git would take: its `.gitignore` cannot name them.

    Parameters
    ----------
    root : Path
        The study's folder.
    study : Study
    """
    for place in _exposed(root, study):
        _log.warning("%s is in the study's Git repository: name it in a .gitignore there, or `git add` takes it", place)


def _exposed(root: Path, study: Study) -> list[str]:
    """Inputs outside the study's folder that are in the same Git repository, and that Git would take."""
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None:
        return []
    here = Path(os.path.abspath(root)).resolve()
    places = dict.fromkeys((here / place).resolve() for place in inputs_of(root, study))
    beside = [place for place in places if place.exists() and not place.is_relative_to(here)]
    return [str(place) for place in beside if place.is_relative_to(top) and not _git(root, "check-ignore", str(place))]


def warn_of_taken(root: Path) -> None:
    """Say which files Git keeps although its `.gitignore` names them: they were added before it did, or by force."""
    names = (_git(root, "ls-files", "--cached", "--ignored", "--exclude-standard") or "").splitlines()
    if names:
        _log.warning(
            "Git keeps %s, which .gitignore names: `git rm --cached` takes it out of later commits only",
            some_of(names),
        )


def _pattern(root: Path, place: str) -> str | None:
    """Pattern of a path for `.gitignore`; None if it is outside the study's folder, the folder itself, or in `data`."""
    path = Path(os.path.relpath(root / place, root)).as_posix()
    if path.split("/")[0] in (".", "..", "data"):
        return None
    return "/" + re.sub(r"([\\*?\[\]#! ])", r"\\\1", path)


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
