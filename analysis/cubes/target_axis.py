"""One labelled target axis for all subjects, who need not have the same targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from cinecube.analysis.cubes.spaces import Responses
from cinecube.store.base.errors import StudyError
from cinecube.store.cube.schema import ON_PLACES, ON_TARGET, string_coordinate


@dataclass(frozen=True)
class TargetAxis:
    """Targets that any subject has; from `join_targets`.

    Attributes
    ----------
    labels : DataFrame
        `ON_TARGET`, and those of `ON_PLACES` that all subjects have, by rising target.
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
        named = {name: ("target", self.labels[name].to_numpy()) for name in map(str, self.labels)}
        return {"target": self.labels.index.to_numpy(np.int64), **named}


def join_targets(brains: Sequence[Responses]) -> TargetAxis:
    """The axis of all targets that any subject has, rising; parcels are joined by their names.

    Raises
    ------
    StudyError
        If subjects disagree about a target's parcel or hemisphere.
    """
    further = [name for name in ON_PLACES if all(name in brain.cube.coords for brain in brains)]
    parts = {
        brain.subject: pd.DataFrame(
            {name: brain.cube[name].values for name in (*ON_TARGET, *further)},
            index=pd.Index(brain.cube["target"].values),
        )
        for brain in brains
    }
    if all(_are_parcels(brain.cube) for brain in brains):
        parts = _numbered_by_name(parts)
    whole = pd.concat([part.assign(subject=subject) for subject, part in parts.items()])
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
    place = {subject: np.searchsorted(target, part.index.to_numpy()) for subject, part in parts.items()}
    texts = ["hemi", "parcel", *(name for name in ("structure",) if name in further)]
    return TargetAxis(first.astype(dict.fromkeys(texts, object)), place)


def find_targets_of(cube: xr.Dataset, brain: Responses) -> np.ndarray:
    """Positions of a subject's targets on the target axis of a cube made of it, parcels by their names.

    Parameters
    ----------
    cube : Dataset
        A score cube.
    brain : Responses

    Returns
    -------
    array of int, shape (target,)
        In the order of the brain cube.

    Raises
    ------
    StudyError
        If the cube lacks some of them.
    """
    label = "parcel" if _are_parcels(brain.cube) else "target"
    found = pd.Index(cube[label].values).get_indexer(pd.Index(brain.cube[label].values))
    if (found < 0).any():
        raise StudyError(
            where=f"scores of {brain.subject}",
            found=f"none of {int((found < 0).sum())} of its targets",
            expected="scores of the brain cube that is there",
            do="run `dvc repro`",
        )
    return np.asarray(found)


def _are_parcels(cube: xr.Dataset) -> bool:
    """True if targets are parcels with names of their own."""
    names = pd.Index(cube["parcel"].values)
    return cube.attrs.get("targets") == "parcels" and names.is_unique and "" not in names


def _numbered_by_name(parts: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Labels by subject with one number a name: the atlas' where subjects agree, otherwise in order of names."""
    numbers = pd.concat([pd.Series(part.index, index=part["parcel"]) for part in parts.values()])
    numbers = numbers[~pd.MultiIndex.from_arrays([numbers.index, numbers]).duplicated()]
    if numbers.index.has_duplicates or numbers.duplicated().any():
        names = sorted(set(numbers.index))
        numbers = pd.Series(np.arange(1, len(names) + 1), index=names)
    return {subject: part.set_axis(numbers[part["parcel"]].to_numpy(), axis=0) for subject, part in parts.items()}
