"""A small brain cube is read once, whoever asks for which of its targets; copies of it for workers hold no values."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from pathlib import Path

import numpy as np
import pytest

from cinecube.analysis.cubes import spaces
from cinecube.analysis.encoders.problem import read_problem

from .conftest import MODEL, make_study


def test_a_small_cube_is_read_once(synthetic: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    root = synthetic()
    problem = read_problem(make_study(), root, MODEL)
    name, brain = next(iter(problem.brains.items()))
    showings = problem.groups[0].showings[name]
    scattered, whole = np.array([0, 2, 3]), np.arange(brain.n_targets)

    reads: list[str] = []
    read_values = spaces.read_values
    monkeypatch.setattr(spaces, "read_values", lambda values, where: reads.append(where) or read_values(values, where))
    found = brain.read(showings, whole), brain.read(showings, scattered)
    assert len(reads) == 1
    np.testing.assert_array_equal(found[0][:, scattered], found[1])

    sent = copy(brain)
    assert sent.__dict__.keys() == brain.__dict__.keys() - {"_whole"}
    monkeypatch.setattr(spaces, "_KEPT_BYTES", 0)
    for targets, before in zip((whole, scattered), found, strict=True):
        np.testing.assert_array_equal(sent.read(showings, targets), before)
    assert len(reads) == 3
