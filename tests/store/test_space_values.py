"""Spaces as cubes keep them: back as they were, and one line where they are no space."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from cinecube.store.base.errors import StudyError
from cinecube.store.spaces.space import Grayordinates, Grid, Parcels, Space, Structure, Surface, space_attrs, space_of

EYE = tuple(map(tuple, np.eye(4).tolist()))
GRAY = (Structure("CORTEX_LEFT", 3, 9), Structure("THALAMUS_LEFT", 2, 0))


@pytest.mark.parametrize(
    "space",
    [
        Grid("T1w", (3, 4, 5), EYE),
        Surface("fsaverage6", (40962, 40962)),
        Grayordinates("fsLR-91k", GRAY, (9, 9, 9), EYE),
        Grayordinates("fsLR-59k", GRAY[:1]),
        Parcels("fsLR-91k", "MMP"),
    ],
)
def test_a_space_comes_back_as_it_was(space: Space) -> None:
    attrs = space_attrs(space)
    assert attrs["space"] == space.name
    assert space_of(attrs) == space
    assert space_of({name: str(value) for name, value in attrs.items()}) == space


@pytest.mark.parametrize(
    ("attrs", "space"),
    [
        ({"space": "MNI", "affine": json.dumps(EYE), "shape": "[3, 4, 5]"}, Grid("MNI", (3, 4, 5), EYE)),
        ({"space": "fsaverage6", "targets": "vertices"}, Surface("fsaverage6", (40962, 40962))),
        ({"space": "fsLR-91k"}, Grayordinates("fsLR-91k", (Structure("", 91282, 0),))),
        ({"space": "MNI", "targets": "parcels", "affine": "x"}, Parcels("MNI")),
    ],
)
def test_cubes_of_earlier_versions(attrs: dict[str, Any], space: Space) -> None:
    assert space_of(attrs) == space


GRID = {"kind": "voxels", "name": "x", "shape": [2, 2, 2], "affine": EYE}
GRAYS = {"kind": "grayordinates", "name": "x", "structures": [{"name": "A", "count": 1, "vertices": 0}]}


@pytest.mark.parametrize(
    "place",
    [
        "",
        "[]",
        "[" * 100_000,
        "{}",
        '{"kind": []}',
        '{"kind": "cubes"}',
        {**GRID, "shape": [2, 2]},
        {**GRID, "shape": [2, 2, 0]},
        {**GRID, "shape": [10**6] * 3},
        {**GRID, "shape": []},
        {**GRID, "shape": None},
        {**GRID, "affine": [[1, 2], [3, 4]]},
        {**GRID, "affine": [[float("nan")] * 4] * 4},
        {**GRID, "affine": None},
        {**GRID, "more": 1},
        {"kind": "vertices", "name": "x", "vertices": [-1, 5]},
        {"kind": "vertices", "name": "x", "vertices": 5},
        {"kind": "vertices", "name": "x", "vertices": [1e400, 1]},
        {**GRAYS, "structures": 3},
        {**GRAYS, "structures": [{"name": "A", "count": -1, "vertices": 0}]},
        {**GRAYS, "structures": ["A"]},
        {**GRAYS, "shape": [2, 2, 2]},
    ],
)
def test_what_describes_no_space_is_one_line(place: str | dict[str, Any]) -> None:
    text = place if isinstance(place, str) else json.dumps(place)
    with pytest.raises(StudyError, match="^sub-01: found no usable description of its space x") as caught:
        space_of({"space": "x", "place": text}, "sub-01")
    assert len(str(caught.value)) < 400
