"""The score cube: scores of all subjects on one labelled target axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from cinecube.analysis.encoding import SCORES, Found
from cinecube.analysis.lag import LAGS
from cinecube.analysis.spaces import FeatureSpace, Responses
from cinecube.store.errors import StudyError
from cinecube.store.schema import DIMS, ON_TARGET, string_coordinate


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
        targets rising, NaN where a subject lacks one.

    Raises
    ------
    StudyError
        If two subjects call the same target by different names.
    """
    labels = join_targets(brains)
    target = labels.index.to_numpy(np.int64)
    place = {brain.subject: np.searchsorted(target, brain.cube["target"].values) for brain in brains}

    def stacked(values: Mapping[str, np.ndarray]) -> np.ndarray:
        """One array (subject, model, ..., target) of float32."""
        first = next(iter(values.values()))
        whole = np.full((len(brains), *first.shape[:-1], len(target)), np.nan, dtype=np.float32)
        for s, brain in enumerate(brains):
            whole[s][..., place[brain.subject]] = values[brain.subject]
        return whole

    variables: dict[str, Any] = {
        name: (DIMS["score"], stacked({s: values[name] for s, values in found.values.items()})) for name in SCORES
    }
    variables["lag_score"] = (("subject", "model", "lag", "target"), stacked(lag_scores))
    return xr.Dataset(
        variables,
        coords={
            "subject": string_coordinate([brain.subject for brain in brains]),
            "model": string_coordinate(space.models),
            "layer": string_coordinate(space.layers),
            "depth": (("model", "layer"), space.depth),
            "lag": np.array(LAGS, dtype=np.int32),
            "target": target,
            **{name: ("target", labels[name].to_numpy()) for name in ON_TARGET},
        },
        attrs=dict(sorted(attrs.items())),
    )


def join_targets(brains: Sequence[Responses]) -> pd.DataFrame:
    """Labels of all targets that any subject has, by rising target.

    Raises
    ------
    StudyError
        If subjects disagree about a target's parcel.
    """
    parts = [
        pd.DataFrame(
            {name: brain.cube[name].values for name in ON_TARGET}, index=pd.Index(brain.cube["target"].values)
        ).assign(subject=brain.subject)
        for brain in brains
    ]
    whole = pd.concat(parts)
    for name in ("hemi", "parcel"):
        whole[name] = string_coordinate(whole[name].to_numpy())
        disagree = whole.groupby(level=0)[name].nunique()
        if (disagree > 1).any():
            target = disagree.index[disagree > 1][0]
            both = whole.loc[target].drop_duplicates(name)
            raise StudyError(
                where=f"target {target} of {both['subject'].iloc[1]}",
                found=f"{name} {both[name].iloc[1]!r}",
                expected=f"{both[name].iloc[0]!r} as in {both['subject'].iloc[0]}",
                do="make all brain cubes with one atlas",
            )
    first = whole[~whole.index.duplicated()].sort_index().drop(columns="subject")
    return first.astype({"hemi": object, "parcel": object})
