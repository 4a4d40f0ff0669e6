"""Cubes brought to another clock by their labels, beside the same film extracted at that clock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from cinecube.features.extraction.stage import extract_film
from cinecube.features.films.stage import write_films_table
from cinecube.store.base.paths import StudyPaths
from cinecube.store.clock.clock import Clock
from cinecube.store.cube.reclock import reclock
from cinecube.store.params.document import Imported, Study

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


@pytest.fixture
def slow_film(study: Study, tmp_path: Path, write_film: Callable[..., None]) -> Path:
    """A film that changes slowly: windows at a row's borders count by their overlap, not frame by frame."""
    texture = np.random.default_rng(0).integers(0, 100, (64, 96, 3))

    def frame(number: int) -> np.ndarray:
        return (texture + 70 + 70 * np.sin(2 * np.pi * number / RATE_HZ / 8)).astype(np.uint8)

    for segment, seconds in (("amber01", 12), ("amber02", 9)):
        write_film(tmp_path / "stimuli" / "amber" / f"{segment}.mp4", n_frames=RATE_HZ * seconds, frame=frame)
    return tmp_path


def _ranges(frames: np.ndarray, onsets_s: np.ndarray, seconds: float) -> np.ndarray:
    """How far apart single frames are within spans of time, (span, dim, layer)."""
    spans = [(int(onset * RATE_HZ + 1e-6), int(np.ceil((onset + seconds) * RATE_HZ - 1e-6))) for onset in onsets_s]
    return np.stack([np.ptp(frames[start:stop], axis=0) for start, stop in spans])


def test_any_other_tr_is_as_near_as_single_frames_allow(study: Study, slow_film: Path) -> None:
    """In every layer: rows and windows are means over frames, so what differs is which frames count at a row's ends."""
    fine, coarse, single = (_extracted(study, slow_film, tr_s) for tr_s in (0.2, 1.49, 1 / RATE_HZ))
    frames, expected = (cube["features"].isel(model=0).values for cube in (single, coarse))
    frames = frames[single["segment"].values == "amber01"]
    assert len(frames) == 12 * RATE_HZ
    onsets_s = coarse["onset_s"].values[coarse["segment"].values == "amber01"]
    onsets_s = onsets_s[onsets_s + 1.49 <= 12]
    found, expected = _reclocked(fine, coarse, 1.49, "mean")[: len(onsets_s)], expected[: len(onsets_s)]
    first, last = (np.floor(ends_s / 0.2 + 1e-9) * 0.2 for ends_s in (onsets_s, onsets_s + 1.49 - 1e-9))
    # A window across a row's end stands for frames on both sides; a frame across it falls to one side.
    ends = 0.2 * (_ranges(frames, first, 0.2) + _ranges(frames, last, 0.2))
    allowed = (ends + 2 / RATE_HZ * _ranges(frames, onsets_s, 1.49)) / 1.49
    assert (np.abs(found - expected) <= allowed + 1e-5).all()
    slipped = np.abs(found[1:] - expected[:-1]) > allowed[1:]
    assert slipped.any(axis=0).all()  # a slip of one row would show in every dim of every layer


def test_lanczos_is_near_what_is_extracted_there(study: Study, slow_film: Path) -> None:
    """What enters the blocks follows the film's slow wave; deeper layers may jump from one frame to the next."""
    fine, coarse = _extracted(study, slow_film, 0.2), _extracted(study, slow_film, 1.49)
    found, expected = (
        _reclocked(fine, coarse, 1.49, "lanczos")[..., 0],
        coarse["features"].isel(model=0, layer=0).values,
    )
    first = (coarse["segment"] == "amber01").values
    first[[*range(3), *range(6, len(first))]] = False  # a sinc of three lobes ends with the segment
    allowed = 0.06 * np.ptp(expected, axis=0)  # a low-pass keeps the wave whole, a mean over rows lowers it by 6 %
    assert (np.abs(found[first] - expected[first]) <= allowed).all()
    slipped = np.abs(found[first][1:] - expected[first][:-1]).max(axis=0)
    assert (slipped > allowed).all()  # a slip of one row would show


@pytest.mark.parametrize("method", ["mean", "lanczos"])
def test_rows_follow_those_extracted_there_and_never_their_neighbours(
    study: Study, tmp_path: Path, method: str
) -> None:
    """At 1.2 s no edge of a window falls on the edge of a row."""
    fine, coarse = _extracted(study, tmp_path, 0.5), _extracted(study, tmp_path, 1.2)
    one = coarse["segment"].values == "amber01"  # both segments show the same frames
    found, wanted = (
        _reclocked(fine, coarse, 1.2, method)[one, :, 2],
        coarse["features"].isel(model=0, layer=2).values[one],
    )
    distance = np.linalg.norm((found - wanted.mean(axis=0))[:, None] - (wanted - wanted.mean(axis=0))[None], axis=-1)
    np.testing.assert_array_equal(distance.argmin(axis=1)[1:-1], np.arange(1, one.sum() - 1))


@pytest.mark.parametrize("tr_s", [0.8, 1.49, 2.0])
def test_no_row_begins_after_a_film_that_is_known_by_its_cubes_only(study: Study, tmp_path: Path, tr_s: float) -> None:
    """The last window of a cube may reach past the film's end: 13.41 s of one of 12 s."""
    _extracted(study, tmp_path, 1.49)
    StudyPaths(tmp_path).features("vit", "amber").parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "1.49.zarr").rename(StudyPaths(tmp_path).features("vit", "amber"))
    reusing = {
        "stimuli": None,
        "films": {"amber": study.films["amber"]},
        "models": {},
        "clock": study.clock.model_copy(update={"tr_s": tr_s, "window_s": tr_s}),
        "imported": [Imported(model="vit", source="elsewhere")],
    }
    table = write_films_table(study.model_copy(update=reusing), tmp_path).set_index("segment")
    for segment, film_s in (("amber01", 12), ("amber02", 9)):
        assert table["rows"][segment] == np.ceil(film_s / tr_s)
        assert (table["rows"][segment] - 1) * tr_s < table["duration_s"][segment] < film_s + 1.49


@given(film_s=st.floats(0.1, 5000), from_s=st.floats(0.1, 5), to_s=st.floats(0.1, 5))
def test_rows_counted_from_a_last_onset_begin_inside_the_film(film_s: float, from_s: float, to_s: float) -> None:
    there, here = Clock(tr_s=from_s, window_s=from_s), Clock(tr_s=to_s, window_s=to_s)
    last_s = (there.n_rows(film_s) - 1) * from_s
    n_rows = here.n_rows_from(last_s)
    assert (n_rows - 1) * to_s < film_s + 2e-6 * to_s
    assert here.n_rows(film_s) - np.ceil(from_s / to_s) - 1 <= n_rows <= here.n_rows(film_s) + (from_s == to_s)
    assert there.n_rows_from(last_s) == there.n_rows(film_s)
