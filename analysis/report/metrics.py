"""The metrics of a study: few numbers, comparable across its revisions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from cinecube.analysis.cubes import tables
from cinecube.analysis.truth.planted import Comparison, compare_study
from cinecube.analysis.truth.stage import oracle_metrics
from cinecube.store.base.paths import StudyPaths
from cinecube.store.params.document import Study

DECIMALS = 4


def study_metrics(study: Study, root: Path, truth: Comparison | None = None) -> dict[str, Any]:
    """Contents of `results/metrics.json`.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder, with its tables.
    truth : Comparison, optional
        From `compare_study`, if it is at hand.

    Returns
    -------
    dict
        `whole_brain`: mean test score per model over targets in parcels and subjects; `best_model`: the one that the
        training films prefer; `truth`: see `Comparison`, only for a simulated study. Rounded to four digits; None where
        there is none, for JSON has no NaN.
    """
    truth = truth or compare_study(study, root)
    means = tables.read_table(StudyPaths(root).tables / "whole_brain_mean.csv", "subject", "model", "score", "cv_score")
    everyone = means[means["subject"] == tables.EVERYONE].set_index("model").sort_index()
    metrics: dict[str, Any] = {
        "whole_brain": {str(model): _rounded(score) for model, score in everyone["score"].items()},
        "best_model": str(everyone["cv_score"].idxmax()) if everyone["cv_score"].notna().any() else None,
    }
    if truth is not None:
        judged = truth.metrics | oracle_metrics(study, root)
        metrics["truth"] = {name: _rounded(value) for name, value in sorted(judged.items())}
    return metrics


def _rounded(value: float) -> float | None:
    return round(float(value), DECIMALS) + 0.0 if math.isfinite(value) else None
