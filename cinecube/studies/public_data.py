"""Studies of public data: the reference study on Movie10, and on the responses of Algonauts 2025."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cinecube.store.base.errors import StudyError, some_of
from cinecube.store.base.labels import check_name
from cinecube.store.scans.sources import source_in
from cinecube.store.spaces.grayordinate_labels import HCP_MMP
from cinecube.studies.init import (
    from_study,
    refuse_existing,
    refuse_no_space,
    spaces_there,
    write_study,
)

_log = logging.getLogger(__name__)
_SOURCES = {
    "fmriprep": "fMRIPrep (sub-*/**/*_bold.*)",
    "algonauts2025": "Algonauts 2025 (sub-*/func/*_bold.h5)",
    "arrays": "arrays (sub-*.npy)",
}
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
            "rois": "yeo7",
        },
    ),
}
"""By the template's name."""


# Of scans that are not there yet: another name is a slip, and would leave a study without its atlas and regions.
_USUAL_SPACES = ("fsLR", "MNI152NLin2009cAsym", "MNI152NLin6Asym", "T1w", *(f"fsaverage{n}" for n in ("", 5, 6)))


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
        If there is a study already, no such atlas, or the folder of scans has those of another source, or none in this
        space; of a folder that is not there yet, if no derivatives are made in it by default.
    """
    refuse_existing(folder)
    data = DATA[name]
    values = dict(data.values)
    if space is not None and space != values["space"]:
        values |= {"space": check_name(space, "space"), "atlas": None, "rois": "null"}
    if atlas is not None:
        if str(atlas) != HCP_MMP and not atlas.exists():
            raise StudyError(
                where="`atlas=`", found=f"no {atlas}", expected="a file or folder, or hcp-mmp", do="correct it"
            )
        values["atlas"] = from_study(folder, atlas)
    stimuli, scans = stimuli or folder.parent / data.stimuli, scans or folder.parent / data.scans
    _refuse_other_source(scans, name)
    here = [subject for subject in data.subjects if (scans / subject).is_dir()]
    if space is not None and values["source"] == "fmriprep":
        refuse_no_space(space, spaces_there(scans, here) or _USUAL_SPACES)
    for path in (stimuli, scans):
        if not path.is_dir():
            _log.warning("%s is not there yet: README.md has the commands that clone and fetch it", path)
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


def _refuse_other_source(scans: Path, name: str) -> None:
    """Refuse a folder that has scans of another kind than the data set's."""
    source, subjects = source_in(scans)
    wanted = DATA[name].values["source"]
    if not subjects or source == wanted or (source == "fmriprep" and not spaces_there(scans, subjects)):
        return
    template = next((other for other, data in DATA.items() if data.values["source"] == source), "own")
    raise StudyError(
        where=str(scans),
        found=f"scans of {_SOURCES[source]}, of {some_of(subjects, 3)}",
        expected=_SOURCES[wanted],
        do=f"set `scans=` to the folder of {DATA[name].title}, or take `template={template}`",
    )


def _numbered(film: str, count: int) -> list[str]:
    return [f"{film}{number:02d}" for number in range(1, count + 1)]
