"""What the report shows: headings in words, text to the left, pictures no wider than the page."""

from __future__ import annotations

import io

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from cinecube.analysis.figures import layer_curves, parcel_heatmap
from cinecube.analysis.report_tables import HEADS, Cell, grid_of

PAGE_PX = 1280


def test_text_stands_left_and_numbers_right() -> None:
    table = pd.DataFrame({"model": ["vit"], "score": [0.25], "p_fdr": [np.nan], "targets": [12], "found": [True]})
    grid = grid_of(table, good={"found": "yes"})
    assert [head.text for head in grid["heads"]] == ["model", "test r", "p, FDR", "targets (n)", "found"]
    assert [head.kind for head in grid["heads"]] == ["text", "", "", "", ""]
    assert grid["rows"] == [[Cell("vit", "text"), Cell("0.250"), Cell(""), Cell("12"), Cell("yes", "yes")]]


def test_no_heading_is_a_variable_name() -> None:
    assert not any("_" in words for words in HEADS.values())


def _curves(n_models: int) -> pd.DataFrame:
    depth = np.linspace(0, 1, 13)
    parts = [
        pd.DataFrame({"model": f"network_{n}.stream", "depth": depth, "score": depth * n, "sem": 0.1})
        for n in range(n_models)
    ]
    return pd.concat(parts)


@pytest.mark.parametrize("n_models", [1, 5, 13])
def test_pictures_are_no_wider_than_the_page(n_models: int) -> None:
    columns = pd.MultiIndex.from_product(
        [[f"network_{n}.stream" for n in range(n_models)], [f"block{k:02d}" for k in range(14)]]
    )
    scores = pd.DataFrame(
        np.linspace(-1, 1, 30 * len(columns)).reshape(30, -1), [f"parcel{p}" for p in range(30)], columns
    )
    found = {"parcel3": ("network_0.stream", "block05")}
    planted = {"parcel3": [("network_0.stream", "block06")]}
    for png in (layer_curves(_curves(n_models), "r"), parcel_heatmap(scores, found, planted)):
        picture = matplotlib.image.imread(io.BytesIO(png))
        assert 150 < picture.shape[1] <= PAGE_PX
    marked, plain = parcel_heatmap(scores, found, planted), parcel_heatmap(scores, {}, {})
    assert marked != plain
