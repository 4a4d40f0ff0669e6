"""Maps drawn on a brain: each side where it belongs, and a sentence where there is no picture."""

from __future__ import annotations

import io

import matplotlib.image as mpimg
import numpy as np
import pytest
import xarray as xr

from cinecube.analysis.figures.brain_pictures import draw_map, undrawn
from cinecube.store.spaces.space import Grayordinates, Grid, Parcels, Space, Structure, Surface, space_attrs

GRID = Grid("MNI152NLin2009cAsym", (9, 9, 9), tuple(map(tuple, np.diag([9.0, 9, 9, 1]).tolist())))
FSLR = Grayordinates("fsLR-91k", (Structure("CORTEX_LEFT", 29696, 32492), Structure("CORTEX_RIGHT", 29716, 32492)))


def test_a_finer_surface_is_drawn_by_its_first_vertices_each_side_on_its_own() -> None:
    """Left positive, which is red, and right negative; some targets absent, and all beyond the drawn vertices vast."""
    n = 40962
    values = np.concatenate([np.full(n, 0.2), np.full(n, -0.2)])
    values[10242:n] = values[n + 10242 :] = 1e6
    target = np.delete(np.arange(2 * n), np.arange(100, 200))
    drawn = xr.DataArray(values[target], dims="target", coords={"target": target})
    png = draw_map(drawn, space_attrs(Surface("fsaverage6", (n, n))), "vit", "test r")
    assert png is not None
    pixels = mpimg.imread(io.BytesIO(png))[..., :3]
    # Two views of each side, then the colour bar.
    left, right, _ = np.split(pixels, [int(share * pixels.shape[1]) for share in (0.44, 0.87)], axis=1)
    reds, blues = ([(side[..., a] - side[..., b] > 0.2).mean() for side in (left, right)] for a, b in ((0, 2), (2, 0)))
    assert reds[0] > 0.1 > 0.001 > reds[1]
    assert blues[1] > 0.1 > 0.001 > blues[0]


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (GRID, None),
        (Surface("fsaverage5", (10242, 10242)), None),
        (Parcels("fsLR-91k", "MMP"), None),
        (FSLR, "no mesh of fsLR-91k comes with the packages"),
        (Surface("fsLR-32k", (32492, 32492)), "no mesh of fsLR-32k"),
        (Surface("fsaverage3", (642, 642)), "no mesh of fsaverage3"),
    ],
)
def test_a_space_without_a_picture_is_said(space: Space, said: str | None) -> None:
    assert (undrawn(space_attrs(space)) or "").count(said or "nothing") == (said is not None)
    if said or isinstance(space, Parcels):
        values = xr.DataArray([1.0, 2.0], dims="target", coords={"target": [1, 2]})
        assert draw_map(values, space_attrs(space), "vit", "r") is None


def test_a_cube_that_describes_no_space_has_no_picture() -> None:
    values = xr.DataArray([1.0, 2.0], dims="target", coords={"target": [1, 2]})
    assert draw_map(values, {"space": "mine"}, "vit", "r") is None
    assert undrawn({"space": "mine"}) is None
