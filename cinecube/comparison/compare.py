"""Differences between two studies: a comparison as plain values, for tables and pages."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cinecube.comparison.side import Side
from cinecube.status.versions import differing
from cinecube.store.base.errors import StudyError
from cinecube.store.base.fingerprint import differences
from cinecube.store.open.cube_names import KINDS, StudyCube, named_cubes
from cinecube.store.open.listing import merged

_SPEED = {"run", "dask"}
_AT_ONCE = 8
_Read = TypeVar("_Read")
_Scores = Mapping[tuple[str, str], float | None]


@dataclass(frozen=True)
class CubeChange:
    """A cube on both sides.

    Attributes
    ----------
    name, kind, path : str
    state : str
        `same`, `changed`, `only in A`, `only in B` or `unknown`.
    fields : list of str
        Fields of its fingerprint that differ, as in A and as in B: `clock.tr_s: 1.49 -> 2.0`.
    """

    name: str
    kind: str
    path: str
    state: str
    fields: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Numbers:
    """A number on both sides; None where a side has none.

    Attributes
    ----------
    model : str
    region : str
        Empty of the whole brain.
    a, b : float, optional
    """

    model: str
    region: str
    a: float | None
    b: float | None

    @property
    def difference(self) -> float | None:
        """B less A."""
        return None if self.a is None or self.b is None else self.b - self.a


@dataclass(frozen=True)
class Compared:
    """Two studies side by side.

    Attributes
    ----------
    a, b : dict
        `name`, and `commit` of a revision.
    parameters : list of str
        Keys of `params.yaml` that differ, but those that change speed only.
    cubes : list of CubeChange
    scores, regions : list of Numbers
        Test scores (r) over the whole brain and in regions, of every model of either side; empty if not known of both.
    best_model : dict
        `a` and `b`: the model that the training films prefer.
    significance : list of Numbers
        Share of targets in parcels whose score is above chance.
    drops : list of Numbers
        Percent of the test r that each removal costs in regions, mean over subjects; `model` is the pair.
    not_compared : list of str
        What could not be, and why.
    """

    a: dict[str, str | None]
    b: dict[str, str | None]
    parameters: list[str]
    cubes: list[CubeChange]
    scores: list[Numbers]
    regions: list[Numbers]
    best_model: dict[str, str | None]
    significance: list[Numbers]
    drops: list[Numbers]
    not_compared: list[str]


def compare_sides(a: Side, b: Side) -> Compared:
    """Compare two studies by their labels, tables and metrics; no values of cubes are read.

    Parameters
    ----------
    a, b : Side

    Returns
    -------
    Compared
        With the errors on what could not be read, in `not_compared`.
    """
    lacking: list[StudyError] = []

    def read(side: Side, what: Callable[[Side], _Read]) -> _Read | None:
        try:
            return what(side)
        except StudyError as error:
            lacking.append(error)
            return None

    def both(what: Callable[[Side], _Read]) -> list[_Read | None]:
        return [read(side, what) for side in (a, b)]

    cubes = _cubes(a, b, lacking)
    metrics = both(lambda side: side.metrics())
    whole = [None if found is None else _whole(found) for found in metrics]
    best = [None if found is None else found.get("best_model") for found in metrics]
    return Compared(
        a={"name": a.name, "commit": a.commit},
        b={"name": b.name, "commit": b.commit},
        parameters=differences(_asked(a), _asked(b)),
        cubes=cubes,
        scores=_beside(*whole),
        regions=_beside(*both(_regions)),
        best_model={side: None if model is None else str(model) for side, model in zip("ab", best, strict=True)},
        significance=_beside(*both(_significant)),
        drops=_beside(*both(_drops)),
        not_compared=[str(error) for error in merged(lacking)],
    )


def changed_numbers(rows: Sequence[Numbers], digits: int = 3) -> list[Numbers]:
    """Those that differ as they are shown, the largest difference first, and those that one side lacks last.

    Parameters
    ----------
    rows : sequence of Numbers
    digits : int
        Decimals that are shown.

    Returns
    -------
    list of Numbers
    """
    changed = [row for row in rows if row.a != row.b and (row.difference is None or round(row.difference, digits))]
    return sorted(changed, key=lambda row: (row.difference is None, -abs(row.difference or 0.0)))


def _asked(side: Side) -> Mapping[str, Any]:
    return side.study.model_dump(mode="json", exclude=_SPEED)


def _whole(metrics: Mapping[str, Any]) -> _Scores:
    found = metrics.get("whole_brain")
    return {(str(model), ""): _number(score) for model, score in found.items()} if isinstance(found, dict) else {}


def _regions(side: Side) -> _Scores:
    rows = side.table("results/tables/roi_mean.csv", ["roi", "model", "score"])
    return {(row["model"], row["roi"]): _number(row["score"]) for row in rows}


def _significant(side: Side) -> _Scores:
    columns = ["model", "parcel", "targets", "significant"]
    counts: dict[str, list[float]] = {}
    for row in side.table("results/tables/significance.csv", columns):
        if row["parcel"]:  # targets outside of parcels are of no region
            own = counts.setdefault(row["model"], [0.0, 0.0])
            own[0] += _number(row["significant"]) or 0.0
            own[1] += _number(row["targets"]) or 0.0
    return {(model, ""): above / targets if targets else None for model, (above, targets) in counts.items()}


def _drops(side: Side) -> _Scores:
    if not side.study.residual:
        return {}
    rows = side.table("results/tables/residual_roi.csv", ["pair", "roi", "measure", "mean"])
    return {(row["pair"], row["roi"]): _number(row["mean"]) for row in rows if row["measure"] == "drop"}


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _beside(a: _Scores | None, b: _Scores | None) -> list[Numbers]:
    """Numbers of both sides; none where one of them is not known."""
    if a is None or b is None:
        return []
    return [Numbers(*key, a.get(key), b.get(key)) for key in dict.fromkeys([*a, *b])]


def _cubes(a: Side, b: Side, lacking: list[StudyError]) -> list[CubeChange]:
    cubes = {cube.path: cube for side in (b, a) for several in named_cubes(side.study).values() for cube in several}
    there = [cube for path, cube in cubes.items() if a.has(path) or b.has(path)]
    for side in (a, b):
        if not any(side.has(cube.path) for cube in there):
            found, expected = "no cube, and none that DVC has recorded", "some, to compare their fingerprints"
            do = "commit dvc.lock and data/dvc.lock there, or run `dvc repro`"
            lacking.append(StudyError(where=side.name, found=found, expected=expected, do=do))
            return []
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        changes = list(pool.map(lambda cube: _cube(a, b, cube), there))
    lacking += [why for _, why in changes if why is not None]
    return sorted((change for change, _ in changes), key=lambda change: KINDS.index(change.kind))


def _cube(a: Side, b: Side, cube: StudyCube) -> tuple[CubeChange, StudyError | None]:
    """A cube on both sides, and why it could not be compared whole."""

    def told(state: str, fields: Sequence[str] = ()) -> CubeChange:
        return CubeChange(cube.label, cube.kind, cube.path, state, list(fields))

    for side, state in ((a, "only in B"), (b, "only in A")):
        if not side.has(cube.path):
            return told(state), None
    recorded = [side.recorded(cube.path) for side in (a, b)]
    if recorded[0] == recorded[1] is not None and not (a.is_here(cube.path) or b.is_here(cube.path)):
        return told("same"), None
    try:
        fields = differing(a.spec(cube.path), b.spec(cube.path))
    except StudyError as error:
        known = None not in recorded and recorded[0] != recorded[1]
        return told("changed" if known else "unknown"), error
    return told("changed" if fields else "same", fields), None
