"""cinecube: feature cubes, brain cubes and score cubes of film studies, versioned by DVC.

>>> import cinecube as cc
>>> study = cc.open(".")                                    # doctest: +SKIP
>>> study.features(model="vit", film="amber", layer=7)      # doctest: +SKIP
>>> cc.open("https://example.org/movie10.git", rev="v1.2")  # doctest: +SKIP
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cinecube.store.base.errors import StudyError as StudyError

if TYPE_CHECKING:
    from cinecube.opened.analysed import AnalysedStudy
    from cinecube.opened.summaries import describe as describe

__all__ = ["StudyError", "describe", "open"]


def __getattr__(name: str) -> Any:
    # Lazy: `import cinecube` must not import xarray.
    if name == "describe":
        from cinecube.opened.summaries import describe

        return describe
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    # What a notebook completes: not what this file imports for its own use.
    return sorted(__all__)


def open(
    study: str | os.PathLike[str] = ".",
    rev: str | None = None,
    *,
    remote_config: Mapping[str, Any] | None = None,
    cache: str | os.PathLike[str] | None = None,
    cache_bytes: int = 2**30,
) -> AnalysedStudy:
    """Open a study for reading: the working tree of a folder, or any revision of a Git repository.

    Parameters
    ----------
    study : str or path
        A folder with a `params.yaml`, or a Git repository: a folder, a bare one, or a URL.
    rev : str, optional
        A branch, tag or commit; the cubes are then streamed from the repository's DVC remote, as they are where there
        is no working tree.
    remote_config : dict, optional
        Options of that remote that are not in the repository, such as `url` or `password`.
    cache : str or path, optional
        A folder that keeps what the remote sends, for any number of processes.
    cache_bytes : int
        The most that folder holds.

    Returns
    -------
    AnalysedStudy
        Its cubes and tables by name: `features`, `brain`, `scores`, `ceiling`, `significance`, `predictions`,
        `weights`, `table`, `truth`; films predicted (`predict`), and designs with responses to fit (`pairs`).

    Raises
    ------
    StudyError
        If there is no such study or revision.
    """
    from cinecube.opened.analysed import AnalysedStudy
    from cinecube.store.dvc.dvc_repo import is_repository
    from cinecube.store.open.open_study import open_folder
    from cinecube.store.open.revision import open_revision

    if not isinstance(study, str | os.PathLike):
        raise StudyError(
            where="open", found=repr(study), expected="a study's folder, or a repository", do="name it as text or path"
        )
    if rev is None and remote_config is None and not is_repository(study):
        found = open_folder(Path(study))
    else:
        found = open_revision(study, rev, remote_config=remote_config, cache=cache, cache_bytes=cache_bytes)
    return AnalysedStudy(found.params, found.paths, found.cubes)
