"""Room, DVC's cache and remotes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from dvc.fs import LocalFileSystem, localfs

from cinecube.store.base.errors import StudyError, first_line
from cinecube.store.dvc.dvc_index import DvcIndex
from cinecube.store.dvc.remotes import DvcObject, ShortReadError, remote_location, shown_address
from cinecube.store.jobs.watch import bounded
from cinecube.wording import size_text

_LINKS = ("reflink", "hardlink", "symlink", "copy")
_ANSWER_S = 20.0
_NOBODYS = DvcObject("0" * 32)


def cache_links(root: Path, index: DvcIndex) -> str:
    """Links by which DVC puts outputs in place, in words.

    Parameters
    ----------
    root : Path
        The study's folder.
    index : DvcIndex
        Of it.

    Returns
    -------
    str
        Their kind and the cache's folder.

    Raises
    ------
    StudyError
        If they are copied, so that each takes its room twice.
    """
    from dvc_objects.fs.generic import test_links

    assert index.cache is not None
    configured = index.config.get("cache", {}).get("type") or "reflink,copy"
    asked = configured.split(",") if isinstance(configured, str) else list(configured)
    place = root.resolve() / "any"
    able = test_links([*dict.fromkeys([*_LINKS, *asked])], localfs, index.cache, localfs, str(place))
    used = next((link for link in asked if link in able), "copy")
    if used == "copy":
        other = next((link for link in ("reflink", "hardlink", "symlink") if link in able), None)
        raise StudyError(
            where=f"the cache {index.cache}",
            found="copies: each output takes its room twice",
            expected="links between cache and study",
            do=f"run `dvc config cache.type {other},copy`" if other else "move the cache to the study's disk",
        )
    return f"{used}, {index.cache}"


def room(root: Path, index: DvcIndex | None, wanted: int) -> str:
    """Free bytes beside the study and its cache, in words.

    Parameters
    ----------
    root : Path
        The study's folder, below which stages keep scratch arrays.
    index : DvcIndex, optional
        Of it.
    wanted : int
        Bytes that are still to be written.

    Returns
    -------
    str

    Raises
    ------
    StudyError
        If there are fewer.
    """
    places = {"study": root.resolve()}
    if index is not None and index.cache is not None:
        places["cache"] = _there(Path(index.cache))
    if os.stat(places["study"]).st_dev == os.stat(places.get("cache", places["study"])).st_dev:
        places.pop("cache", None)
    free = {name: shutil.disk_usage(place).free for name, place in places.items()}
    for name, n_bytes in free.items():
        if n_bytes < wanted:
            raise StudyError(
                where=f"the disk of the {name}, {places[name]}",
                found=f"{size_text(n_bytes)} free",
                expected=f"{size_text(wanted)} for what is still to be made",
                do="free some (`cinecube clean` lists what can go)"
                + (", or move the cache by `dvc cache dir FOLDER`" if name == "cache" else ""),
            )
    told = ", ".join(f"{size_text(n_bytes)} free beside the {name}" for name, n_bytes in free.items())
    return told + (f", {size_text(wanted)} still to be made" if wanted else "")


def _there(path: Path) -> Path:
    """A folder, or the next above it that is there."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def remotes(index: DvcIndex) -> dict[str, Callable[[], str]]:
    """The remotes of a study, by name: a call says whether one answers, and raises a StudyError where it does not."""
    return {name: lambda name=name: _ask_remote(index, name) for name in index.config.get("remote", {})}  # type: ignore[misc]


def _ask_remote(index: DvcIndex, name: str) -> str:
    """Ask for an object that should be there: who may read need not be allowed to ask for others."""
    from zarr.abc.store import RangeByteRequest

    location = remote_location(index.config, name, ".dvc/config")
    default = index.config.get("core", {}).get("remote")
    own = [output for output in index.outputs if output.item and not output.kept and output.source is None]
    item = next((output.item for output in own if (output.remote or default) == name), None)
    told = location.name.removeprefix("remote ")
    try:
        bounded(_ANSWER_S, lambda: location.read(item or _NOBODYS, RangeByteRequest(0, 1)))
    except FileNotFoundError:  # an answer
        if location.filesystem is LocalFileSystem and not os.path.isdir(location.root):
            return f"{told}, which is not there yet"
        return f"{told}, which lacks what is recorded here" if item else told
    except ShortReadError:
        return told
    except TimeoutError:
        reason = f"no answer in {_ANSWER_S:.0f} s"
    except Exception as error:  # every filesystem has classes of its own for what goes wrong
        reason = shown_address(first_line(error))
    else:
        return told
    raise StudyError(
        where=location.name,
        found=reason,
        expected="an answer",
        do="check the network, its address (`dvc remote list`) and its credentials",
    )
