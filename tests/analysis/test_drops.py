"""Percentages only where there was something to lose."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from cinecube.analysis.residuals.drops import drop_percent, drop_table


@pytest.mark.parametrize(
    ("full", "residual", "expected"),
    [
        (0.4, 0.4, 0),
        (0.4, 0.1, 75),
        (0.4, 0.0, 100),
        (0.4, -0.1, 125),
        (0.4, 0.5, -25),
        (0.1, 0.05, np.nan),  # does not exceed the minimum
        (-0.4, 0.1, np.nan),
        (0.0, 0.1, np.nan),
        (np.nan, 0.1, np.nan),
        (0.4, np.nan, np.nan),
    ],
)
def test_percent_of_what_was_there(full, residual, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = drop_percent(np.array([full]), np.array([residual]))
    np.testing.assert_allclose(found, [expected])


def test_the_minimum_is_a_parameter_and_shapes_broadcast():
    full, residual = np.array([0.05, 0.2], np.float32), np.array([[0.0, 0.1], [0.025, 0.2]], np.float32)
    np.testing.assert_allclose(drop_percent(full, residual, 0.01), [[100, 50], [50, 0]], rtol=1e-6)
    np.testing.assert_allclose(drop_percent(full, residual), [[np.nan, 50], [np.nan, 0]], rtol=1e-6)
    # A minimum below zero must not let a negative score divide.
    assert np.isnan(drop_percent(np.array([-0.2]), np.array([0.1]), -1)).all()


def test_table_of_parcels_by_hand():
    rows = [
        # parcel, subject, full, residual
        ("V1", "one", 0.4, 0.1),
        ("V1", "one", 0.2, 0.2),
        ("V1", "one", 0.05, 0.01),  # below the minimum: in the means, not in target_drop
        ("V1", "two", 0.4, np.nan),  # no residual: in neither
        ("V1", "two", 0.3, 0.0),
        ("A1", "one", 0.05, 0.01),
        ("", "one", 0.9, 0.0),  # outside the atlas
        (None, "one", 0.9, 0.0),
    ]
    found = drop_table(pd.DataFrame(rows, columns=["parcel", "subject", "full", "residual"]))
    expected = pd.DataFrame(
        [
            ("A1", "one", 0.05, 0.01, np.nan, np.nan, 1, 0),
            ("V1", "one", 0.65 / 3, 0.31 / 3, 100 * 0.34 / 0.65, 37.5, 3, 2),
            ("V1", "two", 0.3, 0.0, 100.0, 100.0, 1, 1),
        ],
        columns=["parcel", "subject", "full", "residual", "drop", "target_drop", "targets", "targets_above"],
    )
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)


def test_groups_are_the_callers():
    scores = pd.DataFrame({"roi": ["AG", "AG", "EV"], "full": [0.2, 0.4, 0.5], "residual": [0.1, 0.2, 0.5]})
    found = drop_table(scores, by=["roi"], minimum=0.35)
    assert found["roi"].tolist() == ["AG", "EV"]
    np.testing.assert_allclose(found["drop"], [np.nan, 0])
    np.testing.assert_allclose(found["target_drop"], [50, 0])
