"""Is a cube whole: its files, its labels, its numbers, its fingerprint, and is it what DVC recorded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cinecube.store.base.errors import StudyError

if TYPE_CHECKING:
    from cinecube.store.verify.tracked import Records


def find_cubes(path: Path) -> list[Path]:
    """All cubes at or under a path, sorted.

    Raises
    ------
    StudyError
        If there is no such folder, or the path is a file.
    """
    if not path.is_dir():
        found = "a file" if path.exists() else "nothing"
        raise StudyError(where=str(path), found=found, expected="a cube or a folder of cubes", do="correct the path")
    if path.suffix == ".zarr":
        return [path]
    cubes = []
    # Unlike `rglob`, this goes on where a folder vanishes meanwhile: others may write here.
    for folder, folders, files in os.walk(path):
        cubes += [Path(folder, name) for name in (*folders, *files) if name.endswith(".zarr") and name[0] != "."]
        folders[:] = [name for name in folders if name[0] != "."]
    return sorted(cubes)


def verify_cube(path: Path, records: Records | None = None) -> list[str]:
    """Everything wrong with a cube, one line each; reads every byte of it, and writes nothing.

    Parameters
    ----------
    path : Path
    records : Records, optional
        Of DVC, where several cubes are verified; it reads its files once.

    Returns
    -------
    list of str
        Empty if the cube is whole. A line names the cube, the model and layer or the label, and the file.
    """
    from cinecube.store.verify.tracked import Records

    return [f"{path}: {problem.line}" for problem in (records or Records()).judge(path).problems]
