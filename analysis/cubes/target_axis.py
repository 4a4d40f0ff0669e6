"""One labelled target axis for all subjects, who need not have the same targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cinecube.analysis.cubes.spaces import Responses
from cinecube.store.base.errors import StudyError
from cinecube.store.cube.schema import ON_TARGET, string_coordinate


@dataclass(frozen=True)
class TargetAxis:
    """Targets that any subject has; from `join_targets`.

    Attributes
    ----------
    labels : DataFrame
        `ON_TARGET` by rising target.
    place : dict of str to array of int, shape (target of the subject,)
        By subject: positions of its targets on the axis.
    """

    labels: pd.DataFrame
    place: Mapping[str, np.ndarray]

    @property
    def subjects(self) -> list[str]:
        """Subjects in order."""
        return list(self.place)

    def stack(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """Arrays (..., target of the subject) by subject as one (subject, ..., target), float32.

        NaN where a subject lacks a target, or is not among `values` itself.
        """
        first = next(iter(values.values()))
        whole = np.full((len(self.place), *first.shape[:-1], len(self.labels)), np.nan, np.float32)
        for s, (subject, place) in enumerate(self.place.items()):
            if subject in values:
                whole[s][..., place] = values[subject]
        return whole

    def coords(self) -> dict[str, Any]:
        """Coordinates of a cube: `target`, and its labels."""
        named = {name: ("target", self.labels[name].to_numpy()) for name in ON_TARGET}
        return {"target": self.labels.index.to_numpy(np.int64), **named}


def join_targets(brains: Sequence[Responses]) -> TargetAxis:
    """The axis of all targets that any subject has, rising.

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
    target = first.index.to_numpy(np.int64)
    place = {brain.subject: np.searchsorted(target, brain.cube["target"].values) for brain in brains}
    return TargetAxis(first.astype({"hemi": object, "parcel": object}), place)
