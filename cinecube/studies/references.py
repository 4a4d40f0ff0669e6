"""References of params.yaml to what no stage of the study will make: known before hours of work, and said then."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from cinecube.analysis.regions.shipped import shipped_rois
from cinecube.store.params.document import Study

_log = logging.getLogger(__name__)


def warn_of_references(study: Study, root: Path) -> None:
    """Say which models, regions and ceilings sections name that no stage will make.

    Warnings, since `dvc repro features` is right before the rest is written.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    """
    for line in [*_models_without_cubes(study), *_no_regions(study, root), *_no_ceiling(study)]:
        _log.warning("params.yaml: %s", line)


def _models_without_cubes(study: Study) -> Iterator[str]:
    """A line for each section that names models which are neither computed nor imported."""
    absent: dict[str, dict[str, None]] = {}
    for key, stream in study.named_streams().items():
        if (owner := study.owner(stream)) not in study.encoded:
            absent.setdefault("statistics.compare" if "compare" in key else key.partition(".")[0], {})[owner] = None
    for section, models in absent.items():
        yield (
            f"{section}: found {', '.join(models)}, expected models that this study computes or imports; "
            f"add to `compute.models`, or take out of `{section}`"
        )


def _no_regions(study: Study, root: Path) -> Iterator[str]:
    shipped = shipped_rois()
    if study.rois and study.rois not in shipped and not (root / study.rois).is_file():
        names = ", ".join(shipped)
        yield f"rois: found no set or file {study.rois!r}, expected one of {names}, or a YAML file; correct the name"


def _no_ceiling(study: Study) -> Iterator[str]:
    if study.ceiling.use == "cross_subject" and len(study.brain.subjects) == 1:
        yield (
            "ceiling.use: found cross_subject with one subject, expected two at least; set it to repeats, "
            "where films were shown again, or name more subjects in brain.subjects"
        )
