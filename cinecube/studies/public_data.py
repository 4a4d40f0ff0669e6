"""Studies of public data: the reference study on Movie10, and on the responses of Algonauts 2025."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cinecube.store.base.labels import check_name
from cinecube.store.params.document import load_study
from cinecube.studies.init import from_study, refuse_existing, write_study
from cinecube.studies.records import warn_of_unfetched

_log = logging.getLogger(__name__)
_SEGMENTS = {"bourne": 10, "wolf": 17, "life": 5}
_FIGURES = 12
# As they stand in params.yaml; `, untrained: 0` is put before the last brace.
_MODELS = {
    "vit": "{extractor: vit, checkpoint: google/vit-base-patch16-224-in21k, frames_per_window: all}",
    "videomae": "{extractor: videomae, checkpoint: MCG-NJU/videomae-base, accept_licence: false}",
    "vivit": "{extractor: vivit, checkpoint: google/vivit-b-16x2-kinetics400}",
    "wav2vec2": "{extractor: wav2vec2, checkpoint: facebook/wav2vec2-base-960h}",
    "ast": "{extractor: ast, checkpoint: MIT/ast-finetuned-audioset-10-10-0.4593}",
    "imagebind": "{extractor: imagebind, checkpoint: data/weights/imagebind_huge.pth, accept_licence: false}",
    "tvlt": "{extractor: tvlt, checkpoint: ZinengTang/tvlt-base}",
}


@dataclass(frozen=True)
class PublicData:
    """A public data set.

    Attributes
    ----------
    title : str
    subjects : tuple of str
        Those that are open, or all where nobody is.
    stimuli, scans : str
        Where they are, from a clone's folder.
    values : Mapping
        What `params.yaml` says of scans.
    """

    title: str
    subjects: tuple[str, ...]
    stimuli: str
    scans: str
    values: Mapping[str, Any]


DATA = {
    "movie10": PublicData(
        "Movie10",
        tuple(f"sub-0{number}" for number in range(1, 7)),
        "movie10.stimuli",
        "movie10.fmriprep",
        {
            "source": "fmriprep",
            "space": "fsLR",
            "targets": "voxels",
            "atlas": "hcp-mmp",
            "confounds": "simple",
            "high_pass_hz": 0.008,
            "rois": "oota2025",
        },
    ),
    "algonauts2025": PublicData(
        "the responses of Algonauts 2025",
        ("sub-01", "sub-02", "sub-03", "sub-05"),
        "algonauts_2025.competitors/stimuli/movies/movie10",
        "algonauts_2025.competitors/fmri",
        {
            "source": "algonauts2025",
            "space": "MNI152NLin2009cAsym",
            "targets": "parcels",
            "atlas": None,
            "confounds": "none",  # the responses are cleaned already
            "high_pass_hz": 0,
            "rois": "null",
        },
    ),
}
"""By the template's name."""


def init_public(
    folder: Path, name: str, stimuli: Path | None, scans: Path | None, atlas: Path | None, space: str | None
) -> None:
    """Make the reference study on public data in `folder`, and log what was not fetched yet.

    Parameters
    ----------
    folder : Path
        New or empty.
    name : str
        A key of `DATA`.
    stimuli, scans : Path, optional
        Folders of films and of scans; beside `folder`, as their data sets are called, by default.
    atlas : Path, optional
        Of the space; where it is another than the data set's own there is none by default.
    space : str, optional
        Of the scans.

    Raises
    ------
    StudyError
        If there is a study already.
    """
    refuse_existing(folder)
    data = DATA[name]
    values = dict(data.values)
    if space is not None and space != values["space"]:
        values |= {"space": check_name(space, "space"), "atlas": None, "rois": "null"}
    if atlas is not None:
        values["atlas"] = from_study(folder, atlas)
    stimuli, scans = stimuli or folder.parent / data.stimuli, scans or folder.parent / data.scans
    here = [subject for subject in data.subjects if (scans / subject).is_dir()]
    write_study(
        folder,
        values
        | {
            "title": data.title,
            "study": check_name(folder.resolve().name, "study"),
            "stimuli": from_study(folder, stimuli),
            "scans": from_study(folder, scans),
            "subjects": here or list(data.subjects),
            "films": {film: _numbered(film, count) for film, count in _SEGMENTS.items()},
            "figures": _numbered("figures", _FIGURES),
            "models": _MODELS,
        },
        name,
        params="movie10",
    )
    for path in (stimuli, scans):
        if not path.is_dir():
            _log.warning("%s is not there yet: README.md has the commands that clone and fetch it", path)
    warn_of_unfetched(load_study(folder), folder)


def _numbered(film: str, count: int) -> list[str]:
    return [f"{film}{number:02d}" for number in range(1, count + 1)]
