"""The score cube: scores of all subjects on one labelled target axis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from cinecube.analysis.cubes.target_axis import TargetAxis, join_targets
from cinecube.analysis.cubes.unscored import LACKING, MEANINGS, SCORED, STILL
from cinecube.analysis.encoders.problem import Problem
from cinecube.store.cube.schema import DIMS, string_coordinate

SCORES = ("alpha", "cv_score", "score")
# 0 to 12 s at a TR of 1.49 s: past the peak of any haemodynamic response.
LAGS = tuple(range(8))


@dataclass
class Scored:
    """Scores of one model by subject.

    Attributes
    ----------
    values : dict of str to dict of str to array, shape (model, layer, target)
        Subject -> name in `SCORES` -> values, NaN where a stream lacks a layer or its features are constant.
    """

    values: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)


def score_cube(
    found: Scored,
    lag_scores: Mapping[str, np.ndarray],
    problem: Problem,
    attrs: Mapping[str, Any],
) -> xr.Dataset:
    """Join the subjects' scores.

    Parameters
    ----------
    found : Scored
        From `encode`.
    lag_scores : Mapping of str to array, shape (model, lag, target)
        From `scan_lags`, by subject.
    problem : Problem
    attrs : Mapping
        Attributes of the cube, see `provenance`.

    Returns
    -------
    Dataset
        `score`, `cv_score`, `alpha` (subject, model, layer, target) and `lag_score` (subject, model, lag, target);
        targets rising, NaN where a subject lacks one, it does not vary or the layer's features do not; which those are
        say `constant (model, layer)` and `unscored (subject, target)`.

    Raises
    ------
    StudyError
        If two subjects call the same target by different names.
    """
    space, axis = problem.space, join_targets(list(problem.brains.values()))
    variables: dict[str, Any] = {
        name: (DIMS["score"], axis.stack({s: values[name] for s, values in found.values.items()})) for name in SCORES
    }
    variables["lag_score"] = (("subject", "model", "lag", "target"), axis.stack(lag_scores))
    variables |= _without_scores(found, problem, axis)
    return xr.Dataset(
        variables,
        coords={
            "subject": string_coordinate(axis.subjects),
            "model": string_coordinate(space.models),
            "layer": string_coordinate(space.layers),
            "depth": (("model", "layer"), space.depth),
            "lag": np.array(LAGS, dtype=np.int32),
            **axis.coords(),
        },
        attrs=dict(sorted(attrs.items())),
    )


def _without_scores(found: Scored, problem: Problem, axis: TargetAxis) -> dict[str, Any]:
    """Variables of missing scores: `constant (model, layer)`, and reasons of targets, `unscored (subject, target)`."""
    constant = np.zeros(problem.space.width.shape, dtype=bool)
    for place in problem.space.constant:
        constant[place] = True
    fitted = problem.layers
    # Whatever the features are, a penalty is chosen for every target that varies.
    still = {
        name: np.all([np.isnan(values["alpha"][m, k]) for m, k in fitted] or [np.zeros(values["alpha"].shape[-1])], 0)
        for name, values in found.values.items()
    }
    known = axis.stack(still)
    unscored = np.select([np.isnan(known), known > 0], [LACKING, STILL], SCORED).astype(np.int8)
    flags = {"flag_values": list(MEANINGS), "flag_meanings": " ".join(MEANINGS.values())}
    return {
        "constant": (("model", "layer"), constant, {"about": "no scores: features do not vary"}),
        "unscored": (("subject", "target"), unscored, {"about": "why a target has no scores", **flags}),
    }
