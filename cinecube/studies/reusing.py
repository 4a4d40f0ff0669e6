"""Making a study that reuses the feature cubes of another one: films and split from there, scans from here."""

from __future__ import annotations

import os
from pathlib import Path

from cinecube.store.base.errors import StudyError
from cinecube.store.dvc.dvc_index import open_index
from cinecube.store.dvc.dvc_repo import is_bare
from cinecube.store.dvc.remotes import shown_address
from cinecube.store.open.revision import cubes_of, study_of
from cinecube.studies.init import OwnData, refuse_existing, values_of_scans, write_study


def init_reuse(folder: Path, repo: str, rev: str | None, own: OwnData) -> list[str]:
    """Make a study of a lab's scans whose features come from another study.

    Parameters
    ----------
    folder : Path
    repo : str
        A folder with DVC in it, a bare Git repository, or the URL of a Git repository.
    rev : str, optional
        A branch, tag or commit of it.
    own : OwnData
        Its films are not used.

    Returns
    -------
    list of str
        Models whose cubes can be imported.

    Raises
    ------
    StudyError
        If `folder` holds a study already, `repo` is no study with feature cubes, or subjects cannot be found.
    """
    refuse_existing(folder)
    index = open_index(repo, rev or ("HEAD" if os.path.isdir(repo) and not is_bare(repo) else None)).study()
    theirs = study_of(index)
    places = [cube.path.split("/") for cube in cubes_of(index) if cube.path.startswith("data/features/")]
    models, there = sorted({place[2] for place in places}), {Path(place[-1]).stem for place in places}
    films = {film: segments for film, segments in theirs.films.items() if film in there}
    split = {
        "train": [f for f in theirs.split.train if f in films],
        "test": [f for f in theirs.split.test if f in films],
    }
    if own.test is not None:
        split = {"train": [film for film in films if film != own.test], "test": [own.test]}
    if not films:
        raise StudyError(
            where=index.where,
            found="no feature cubes at this revision",
            expected="some, which its dvc.lock names",
            do="commit dvc.lock and data/dvc.lock there, or name another revision by `rev=`",
        )
    if not split["train"] or not split["test"]:
        raise StudyError(
            where=index.where,
            found=f"feature cubes of {', '.join(films)}",
            expected="a film to fit on and one to test on",
            do="name the film to test on by `test=`, or another revision by `rev=`",
        )
    values = values_of_scans(folder, own, films, split)
    write_study(folder, values | {"stimuli": None, "repo": shown_address(repo)}, "reuse")
    return models
