"""cinecube: feature cubes, brain cubes and score cubes of film studies, versioned by DVC.

>>> import cinecube as cc
>>> study = cc.open(".")                                    # doctest: +SKIP
>>> study.features(model="vit", film="amber", layer=7)      # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cinecube.store.errors import StudyError as StudyError

if TYPE_CHECKING:
    from cinecube.store.study import OpenStudy

__all__ = ["StudyError", "open"]


def open(study: str | Path = ".") -> OpenStudy:
    """Open the study in a folder for reading.

    Parameters
    ----------
    study : str or Path
        A folder with a `params.yaml`.

    Returns
    -------
    OpenStudy
        Its cubes by name: `features`, `brain`, `scores`, `truth`.

    Raises
    ------
    StudyError
        If the folder holds no study.
    """
    from cinecube.store.study import OpenStudy

    return OpenStudy(Path(study))
