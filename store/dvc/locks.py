"""Files in which DVC records outputs, looked into without DVC's library, whose import takes half a second."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

_LOCK = "dvc.lock"
_PATH = re.compile(r"\s*(?:- )?path: ([^\s'\"&*!|>].*)")


def may_lack(folder: Path, suffix: str) -> bool:
    """False if every output of DVC that ends in `suffix` and has been recorded is in its place.

    True if one is not, or these files are not as DVC writes them, so that only its library can tell.

    Parameters
    ----------
    folder : Path
        In a working tree of DVC.
    suffix : str

    Returns
    -------
    bool
    """
    return any(_lacks(file, suffix) for file in records_below(folder))


def records_below(folder: Path) -> Iterator[Path]:
    """Files in which DVC records outputs of the working tree that a folder is in; none outside of one."""
    top = next((above for above in (folder.absolute(), *folder.absolute().parents) if (above / ".dvc").is_dir()), None)
    for place, folders, files in os.walk(top) if top else ():
        yield from (Path(place) / name for name in files if name == _LOCK or name.endswith(".dvc"))
        # DVC looks into no output, and neither into virtual environments where studies keep them.
        folders[:] = [name for name in folders if not name.startswith(".") and not name.endswith(".zarr")]


def _lacks(file: Path, suffix: str) -> bool:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return True
    for line in lines:
        if line.lstrip().startswith("wdir:"):
            return True
        if suffix in line and not line.lstrip().startswith("cmd:"):
            found = _PATH.fullmatch(line)
            if found is None or not (file.parent / found[1]).exists():
                return True
    return False
