"""The score cube: scores of all subjects on one labelled target axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from cinecube.analysis.cubes.spaces import FeatureSpace, Responses
from cinecube.analysis.cubes.target_axis import TargetAxis, join_targets
from cinecube.analysis.cubes.unscored import LACKING, MEANINGS, SCORED, STILL
from cinecube.analysis.encoders.encoding import SCORES, Found, existing_layers
from cinecube.analysis.encoders.lag import LAGS
from cinecube.store.cube.schema import DIMS, string_coordinate


def score_cube(
    found: Found,
    lag_scores: Mapping[str, np.ndarray],
    space: FeatureSpace,
    brains: Sequence[Responses],
    attrs: Mapping[str, Any],
) -> xr.Dataset:
    """Join the subjects' scores.

    Parameters
    ----------
    found : Found
        From `encode`.
    lag_scores : Mapping of str to array, shape (model, lag, target)
        From `scan_lags`, by subject.
    space : FeatureSpace
    brains : sequence of Responses
        Subjects in order.
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
    axis = join_targets(brains)
    variables: dict[str, Any] = {
        name: (DIMS["score"], axis.stack({s: values[name] for s, values in found.values.items()})) for name in SCORES
    }
    variables["lag_score"] = (("subject", "model", "lag", "target"), axis.stack(lag_scores))
    variables |= _without_scores(found, space, axis)
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


def _without_scores(found: Found, space: FeatureSpace, axis: TargetAxis) -> dict[str, Any]:
    """What has no scores: `constant (model, layer)`, and why targets have none, `unscored (subject, target)`."""
    constant = np.zeros(space.width.shape, dtype=bool)
    for place in space.constant:
        constant[place] = True
    fitted = existing_layers(space)
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
