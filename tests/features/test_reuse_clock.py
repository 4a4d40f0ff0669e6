"""Cubes brought to another clock by their labels, beside the same film extracted at that clock."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from cinecube.features.extraction import extract_film
from cinecube.store.params import Study
from cinecube.store.paths import StudyPaths
from cinecube.store.reclock import reclock

RATE_HZ = 25


def _extracted(study: Study, root: Path, tr_s: float) -> xr.Dataset:
    """The film by ViT at a clock, every frame read: a row is the mean over its frames, in every layer."""
    models = {**study.models, "vit": study.models["vit"].model_copy(update={"frames_per_window": "all"})}
    clock = study.clock.model_copy(update={"tr_s": tr_s, "window_s": tr_s})
    extract_film(study.model_copy(update={"models": models, "clock": clock}), "vit", "amber", root)
    path = StudyPaths(root).features("vit", "amber")
    cube = xr.open_zarr(path).load()
    path.rename(root / f"{tr_s:g}.zarr")
    return cube


def _reclocked(cube: xr.Dataset, there: xr.Dataset, tr_s: float, method: str) -> np.ndarray:
    """The cube at the rows of the other one, (time, dim, layer)."""
    rows = there[["segment", "onset_s"]].reset_coords().to_dataframe()[["segment", "onset_s"]]
    return reclock(cube, rows, tr_s, method)["features"].isel(model=0).values


def test_whole_multiples_of_a_tr_are_what_is_extracted_there(study: Study, tmp_path: Path) -> None:
    fine, coarse = _extracted(study, tmp_path, 0.4), _extracted(study, tmp_path, 1.2)
    found, expected = _reclocked(fine, coarse, 1.2, "mean"), coarse["features"].isel(model=0).values
    whole = coarse["onset_s"].values + 1.2 <= np.where(coarse["segment"] == "amber01", 12, 9)
    assert whole.sum() == 10 + 7
    np.testing.assert_allclose(found[whole], expected[whole], atol=1e-5)


@pytest.mark.parametrize("method", ["mean", "lanczos"])
def test_any_other_tr_is_near_what_is_extracted_there(study: Study, tmp_path: Path, write_film, method: str) -> None:
    """A film that changes slowly: windows at a row's borders count by their overlap, not frame by frame."""
    texture = np.random.default_rng(0).integers(0, 100, (64, 96, 3))

    def frame(number: int) -> np.ndarray:
        return (texture + 70 + 70 * np.sin(2 * np.pi * number / RATE_HZ / 8)).astype(np.uint8)

    for segment, seconds in (("amber01", 12), ("amber02", 9)):
        write_film(tmp_path / "stimuli" / "amber" / f"{segment}.mp4", n_frames=RATE_HZ * seconds, frame=frame)
    fine, coarse = _extracted(study, tmp_path, 0.2), _extracted(study, tmp_path, 1.49)
    # What enters the blocks follows the film's slow wave; deeper layers may jump from one frame to the next.
    found, expected = _reclocked(fine, coarse, 1.49, method)[..., 0], coarse["features"].isel(model=0, layer=0).values
    first = (coarse["segment"] == "amber01").values
    if method == "mean":
        windows = fine["features"].isel(model=0, layer=0).values[:60]
        # Two windows lie across a row's borders, and a frame falls to one side of them.
        steps = np.abs(np.diff(windows, axis=0)).max(axis=0)
        allowed = (2 * 0.2 * steps + np.ptp(windows, axis=0) / RATE_HZ) / 1.49
    else:
        first[[*range(3), *range(6, len(first))]] = False  # a sinc of three lobes ends with the segment
        allowed = 0.06 * np.ptp(expected, axis=0)  # a low-pass keeps the wave whole, a mean over rows lowers it by 6 %
    assert (np.abs(found[first] - expected[first]) <= allowed).all()
    slipped = np.abs(found[first][1:] - expected[first][:-1]).max(axis=0)
    assert (slipped > allowed).all()  # a slip of one row would show
