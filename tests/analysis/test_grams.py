"""Gram matrices made of shifted blocks are those of the design itself."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cinecube.analysis.ridge.design import delayed, delayed_gram, delayed_kernel, row_ranges


@st.composite
def _layouts(draw):
    """Runs one after another, rising delays, and rows with holes."""
    lengths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    edges = [0, *itertools.accumulate(lengths)]
    delays = sorted(draw(st.sets(st.integers(0, 7), min_size=1, max_size=4)))
    rows = sorted(draw(st.sets(st.integers(0, edges[-1] - 1), min_size=1)))
    return list(itertools.pairwise(edges)), delays, np.array(rows)


@given(_layouts(), st.integers(0, 99))
def test_gram_of_any_rows(layout, seed):
    runs, delays, rows = layout
    features = np.random.default_rng(seed).normal(size=(runs[-1][1], 3))
    design = delayed(features, delays, runs)[rows]
    np.testing.assert_allclose(delayed_gram(features, delays, runs, rows), design.T @ design, atol=1e-10)


@given(_layouts(), _layouts(), st.integers(0, 99))
def test_kernel_of_all_times(one, other, seed):
    rng = np.random.default_rng(seed)
    runs, delays, _ = one
    other_runs = other[0]
    a, b = rng.normal(size=(runs[-1][1], 3)), rng.normal(size=(other_runs[-1][1], 3))
    expected = delayed(a, delays, runs) @ delayed(b, delays, other_runs).T
    np.testing.assert_allclose(delayed_kernel(a, b, delays, runs, other_runs), expected, atol=1e-10)


def test_ranges_stop_at_holes_and_at_runs():
    rows = np.array([0, 1, 2, 4, 5, 6, 7, 9])
    assert row_ranges(rows, [(0, 6), (6, 10)]) == [(0, 3), (4, 6), (6, 8), (9, 10)]
    assert row_ranges(np.array([7]), [(0, 6), (6, 10)]) == [(7, 8)]
