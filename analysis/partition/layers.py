"""The stage `partition_layers`: which layer the partition takes of each of its streams."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np

from cinecube.analysis.cubes.parcels import best_layer, regions
from cinecube.analysis.cubes.results import find_stream, open_scores
from cinecube.analysis.cubes.unscored import refuse_unexplained
from cinecube.store.base.atomic import write_text
from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import StudyPaths
from cinecube.store.base.writing import one_writer
from cinecube.store.params.document import Study


def write_partition_layers(study: Study, root: Path) -> dict[str, str]:
    """Write `choose_layers` to `results/partition_layers.json`, and return it.

    It is all that a partition reads of scores: as long as the choice stays, so do parts that took days.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.

    Returns
    -------
    dict
        Stream -> label of its layer.

    Raises
    ------
    StudyError
        As `choose_layers`.
    """
    paths = StudyPaths(root)
    with one_writer(paths, paths.partition_layers):
        chosen = choose_layers(study, root)
        write_text(paths.partition_layers, json.dumps(chosen, indent=1, sort_keys=True) + "\n")
    return chosen


def choose_layers(study: Study, root: Path) -> dict[str, str]:
    """The layer of each stream with the highest `cv_score`, mean over targets in parcels and subjects.

    Test films have no say in `cv_score`. With one layer for the whole brain the parts of all parcels can be compared.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.

    Returns
    -------
    dict
        Stream -> label of its layer.

    Raises
    ------
    StudyError
        If scores are missing, lack a stream, or lack numbers without a reason.
    """
    chosen = {}
    for stream in dict.fromkeys(itertools.chain.from_iterable(study.partition)):
        where = StudyPaths(root).relative(StudyPaths(root).scores(study.owner(stream)))
        scores = open_scores(root, study.owner(stream))
        find_stream(list(map(str, scores["model"].values)), stream, where, "partition")
        inside = np.flatnonzero(regions(scores["parcel"].values) != "")
        refuse_unexplained(scores, where)
        known = scores["cv_score"].sel(model=stream).isel(target=inside).load().astype(np.float64)
        both = ("subject", "target")
        place = int(best_layer(known.sum(both, min_count=1) / known.count(both)))
        if place < 0:
            raise StudyError(
                where=where,
                found=f"no cv_score of {stream} in any parcel",
                expected="that of a layer, whose features vary",
                do=f"take {stream} out of `partition` in params.yaml, or extract its features again",
            )
        chosen[stream] = str(scores["layer"].values[place])
    return chosen
