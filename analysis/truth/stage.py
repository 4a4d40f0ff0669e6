"""The stage `oracle`: what plain fits make of the truth's own features, beside what the pipeline found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from cinecube.analysis.cubes.tables import read_table, write_table
from cinecube.analysis.truth.ceiling_errors import ceiling_error, ceiling_errors
from cinecube.analysis.truth.partition_oracle import partition_oracle
from cinecube.analysis.truth.planted import planted_truth
from cinecube.analysis.truth.residual_oracle import residual_oracle
from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import StudyPaths
from cinecube.store.base.writing import one_writer
from cinecube.store.cube.cubes import open_cube
from cinecube.store.jobs.tasks import pinned
from cinecube.store.params.document import Study

# Table -> its metric, the column of the pipeline and that of the oracle.
_COMPARED = {
    "oracle_residual": ("residual_error", "residual", "oracle_residual"),
    "oracle_partition": ("variance_partition_error", "found", "oracle"),
}


def oracles(study: Study, root: Path) -> None:
    """Write `results/tables/oracle_residual.csv` and `oracle_partition.csv`.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.

    Raises
    ------
    StudyError
        If the study has no truth, or results of a stage are missing.
    """
    paths = StudyPaths(root)
    if not paths.truth.is_file():
        raise StudyError(
            where=paths.relative(paths.truth),
            found="no truth",
            expected="a simulated study",
            do="run `cinecube oracle` where `cinecube simulate` made the films",
        )
    judged = {"oracle_residual": residual_oracle, "oracle_partition": partition_oracle}
    with one_writer(paths, *(paths.tables / f"{name}.csv" for name in judged)):
        for name, oracle in judged.items():
            found = pinned(oracle, study.run.threads, study, root)
            nothing = pd.DataFrame(columns=_COMPARED[name][1:])
            write_table(paths.tables / f"{name}.csv", nothing if found is None else found)


def oracle_metrics(study: Study, root: Path) -> dict[str, float]:
    """Mean absolute differences from the truth's oracles, and of the ceiling from repeats; what was not made is absent.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.

    Returns
    -------
    dict
        `residual_error` (r), `variance_partition_error` (R²), `ceiling_error` (r): over driven parcels, of means over
        targets and subjects.
    """
    paths = StudyPaths(root)
    found = {}
    for name, (metric, ours, theirs) in _COMPARED.items():
        path = paths.tables / f"{name}.csv"
        if path.is_file():
            table = read_table(path, ours, theirs)
            found[metric] = float((table[ours] - table[theirs]).abs().mean())
    if paths.truth.is_file() and paths.ceiling.exists():
        found["ceiling_error"] = ceiling_error(ceiling_table(study, root, planted_truth(paths)))
    return {name: value for name, value in found.items() if np.isfinite(value)}


def ceiling_table(study: Study, root: Path, raw: Mapping[str, object]) -> pd.DataFrame:
    """Ceilings found beside those that were planted, by parcel.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    raw : Mapping
        `truth.json`.

    Returns
    -------
    DataFrame
        See `ceiling_errors`.
    """
    averaged = study.brain.repeats == "average"
    return ceiling_errors(open_cube(StudyPaths(root).ceiling), raw, averaged)
