"""A cube at another clock, against signals whose means are known in closed form."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from cinecube.store.base.errors import StudyError
from cinecube.store.base.labels import layer_labels
from cinecube.store.cube.cubes import open_cube, write_feature_cube
from cinecube.store.cube.reclock import reclock
from cinecube.store.cube.schema import Stream, feature_template, provenance, rows_index
from cinecube.store.verify.find_cubes import verify_cube

SECONDS = 90.0
STREAMS = (Stream("m.video", layer_labels(2), [8, 8, 4]), Stream("m.audio", ["embed"], [3]))
HZ = np.array([0.02, 0.05, 0.1])


def _rows(step_s: float, *segments: str, origin_s: float = 0.0, seconds: float = SECONDS) -> pd.DataFrame:
    onsets = origin_s + np.round(np.arange(int((seconds - origin_s) / step_s)) * step_s, 6)
    return rows_index(dict.fromkeys(segments or ("a01", "a02"), onsets))


def _cube(path: Path, rows: pd.DataFrame, window_s: float, signal: Callable[[np.ndarray], np.ndarray]) -> xr.Dataset:
    """A cube whose layers are the signal (row, dim) at the onsets, plus the layer's place and the segment's length."""
    attrs = provenance("features", {"weights": "abc", "segments": ["a01", "a02"]}, ["numpy"])
    template = feature_template(rows, window_s, STREAMS, "float32", attrs)
    width = template["width"].values

    def read(m: int, k: int) -> np.ndarray:
        values = signal(rows["onset_s"].to_numpy())
        tiled = np.tile(values, (1, 8))[:, : width[m, k]]
        return (tiled + 10 * m + k + (rows["segment"] == "a02").to_numpy()[:, None]).astype(np.float32)

    write_feature_cube(path, template, read)
    return open_cube(path)


def _mean_sine(onsets_s: np.ndarray, window_s: float) -> np.ndarray:
    """Means (row, frequency) of sines over windows: the integral in closed form."""
    omega = 2 * np.pi * HZ[None, :]
    start = onsets_s[:, None]
    means: np.ndarray = (np.cos(omega * start) - np.cos(omega * (start + window_s))) / (omega * window_s)
    return means


def _audio(cube: xr.Dataset, segment: str = "a01") -> np.ndarray:
    """The three dims of the stream `m.audio` in one segment, without its offset."""
    values = cube["features"].sel(model="m.audio", layer="embed").isel(dim=slice(0, 3)).values
    return values[cube["segment"].values == segment] - 10 - (segment == "a02")


@pytest.mark.parametrize(
    ("step_s", "tr_s", "window_s", "origin_s", "tolerance"),
    [
        (0.5, 1.5, 1.5, 0.0, 1e-5),  # edges fall on edges: means of means are means
        (0.5, 2.0, 3.0, 0.0, 1e-5),  # rows that overlap
        (0.5, 2.0, 2.0, 1.5, 1e-5),  # another origin
        (0.1, 1.49, 1.49, 0.0, 2e-3),  # edges inside windows of 0.1 s, which change by 0.06 at most
    ],
)
def test_means_of_a_sine_are_its_integral(
    tmp_path: Path, step_s: float, tr_s: float, window_s: float, origin_s: float, tolerance: float
) -> None:
    cube = _cube(tmp_path / "c.zarr", _rows(step_s), step_s, lambda onsets_s: _mean_sine(onsets_s, step_s))
    rows = _rows(tr_s, origin_s=origin_s, seconds=SECONDS - window_s)
    made = reclock(cube, rows, window_s, "mean")
    for segment in ("a01", "a02"):
        onsets_s = rows.loc[rows["segment"] == segment, "onset_s"].to_numpy()
        np.testing.assert_allclose(_audio(made, segment), _mean_sine(onsets_s, window_s), atol=tolerance)


@pytest.mark.parametrize("tr_s", [1.49, 2.0])
def test_lanczos_keeps_slow_sines_in_place(tmp_path: Path, tr_s: float) -> None:
    def sampled(onsets_s: np.ndarray, window_s: float) -> np.ndarray:
        return np.sin(2 * np.pi * HZ * (onsets_s[:, None] + window_s / 2))

    cube = _cube(tmp_path / "c.zarr", _rows(0.5), 0.5, lambda onsets_s: sampled(onsets_s, 0.5))
    rows = _rows(tr_s)
    made = _audio(reclock(cube, rows, tr_s, "lanczos"))
    expected = sampled(rows.loc[rows["segment"] == "a01", "onset_s"].to_numpy(), tr_s)
    assert np.abs(made - expected)[4:-4].max() < 0.06


def test_a_step_stays_in_its_place(tmp_path: Path) -> None:
    cube = _cube(tmp_path / "c.zarr", _rows(1.0), 1.0, lambda onsets_s: np.repeat(onsets_s[:, None] >= 45, 3, axis=1))
    made = _audio(reclock(cube, _rows(2.0), 2.0, "mean"))
    np.testing.assert_allclose(made[:, 0], [0.0] * 22 + [0.5] + [1.0] * 22, atol=1e-6)


@pytest.fixture
def cube(tmp_path: Path) -> xr.Dataset:
    """A cube of noise at 1 s."""
    rng = np.random.default_rng(0)
    return _cube(tmp_path / "c.zarr", _rows(1.0), 1.0, lambda onsets_s: rng.standard_normal((len(onsets_s), 3)))


@pytest.mark.parametrize("method", ["mean", "lanczos"])
def test_the_same_clock_changes_nothing(cube: xr.Dataset, method: str) -> None:
    xr.testing.assert_identical(reclock(cube, _rows(1.0), 1.0, method), cube)  # type: ignore[arg-type]
    rows = _rows(1.0, "a02")
    moved = rows.assign(onset_s=rows["onset_s"] + 4e-7)
    for some in (rows, moved, rows.iloc[10:]):
        part = reclock(cube, some, 1.0, method)  # type: ignore[arg-type]
        expected = cube["features"].values[cube["segment"].values == "a02"][-len(some) :]
        np.testing.assert_array_equal(part["features"].values, expected)


def test_segments_are_matched_by_label_in_the_order_asked_for(cube: xr.Dataset) -> None:
    whole, turned = reclock(cube, _rows(2.0), 2.0), reclock(cube, _rows(2.0, "a02", "a01"), 2.0)
    assert list(dict.fromkeys(turned["segment"].values)) == ["a02", "a01"]
    for segment in ("a01", "a02"):
        np.testing.assert_array_equal(_audio(turned, segment), _audio(whole, segment))
    part = reclock(cube, _rows(2.0, "a02"), 2.0)
    np.testing.assert_array_equal(_audio(part, "a02"), _audio(whole, "a02"))


def test_labels_and_absent_layers_stay(cube: xr.Dataset) -> None:
    made = reclock(cube, _rows(2.0), 2.0)
    for name in ("dim", "model", "layer", "depth", "width"):
        xr.testing.assert_identical(made[name].variable, cube[name].variable)
    assert made["features"].dims == cube["features"].dims
    assert made["features"].dtype == np.float32
    assert set(made["window_s"].values) == {2.0}
    values = made["features"].values
    for m, k in np.ndindex(*made["width"].shape):
        width = int(made["width"].values[m, k])
        assert np.isfinite(values[:, :width, m, k]).all()
        assert np.isnan(values[:, width:, m, k]).all()


def test_the_fingerprint_tells_the_clock_and_the_rows(cube: xr.Dataset) -> None:
    made = [
        reclock(cube, _rows(2.0), 2.0),
        reclock(cube, _rows(2.0), 2.0, "lanczos"),
        reclock(cube, _rows(2.0), 3.0),
        reclock(cube, _rows(2.0, origin_s=0.5), 2.0),
        reclock(cube, _rows(2.0, "a01"), 2.0),
    ]
    prints = [each.attrs["fingerprint"] for each in (cube, *made)]
    assert len(set(prints)) == len(prints)
    assert reclock(cube, _rows(2.0), 2.0).attrs == made[0].attrs


def test_a_reclocked_cube_can_be_written_and_verified(cube: xr.Dataset, tmp_path: Path) -> None:
    made = reclock(cube, _rows(2.0), 2.0)
    width = made["width"].values

    def read(m: int, k: int) -> np.ndarray:
        return made["features"].isel(model=m, layer=k, dim=slice(0, int(width[m, k]))).values

    write_feature_cube(tmp_path / "made.zarr", made, read)
    assert verify_cube(tmp_path / "made.zarr") == []


def test_only_what_is_asked_for_is_read(cube: xr.Dataset) -> None:
    from xarray.backends import BackendArray
    from xarray.core import indexing

    class Counting(BackendArray):
        def __init__(self) -> None:
            self.source, self.read = cube["features"].values, 0
            self.shape, self.dtype = self.source.shape, self.source.dtype

        def __getitem__(self, key: indexing.ExplicitIndexer) -> np.ndarray:
            return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._get)

        def _get(self, key: tuple[slice, ...]) -> np.ndarray:
            self.read += self.source[key].size
            return self.source[key]

    counting = Counting()
    counted = cube.assign(features=(cube["features"].dims, indexing.LazilyIndexedArray(counting)))
    made = reclock(counted, _rows(2.0), 2.0)
    assert counting.read == 0
    layer = made["features"].isel(model=0, layer=1)
    assert counting.read == 0
    np.testing.assert_array_equal(layer.values, reclock(cube, _rows(2.0), 2.0)["features"].values[:, :, 0, 1])
    assert counting.read == cube.sizes["time"] * cube.sizes["dim"]
    counting.read = 0
    layer.isel(time=slice(10, 15), dim=slice(0, 3)).compute()
    assert counting.read == 10 * 3


def test_any_selection_is_that_of_the_whole(cube: xr.Dataset) -> None:
    made = reclock(cube, _rows(2.0), 2.0)
    whole = made["features"].values
    lazy = made["features"]
    np.testing.assert_array_equal(lazy[7].values, whole[7])
    np.testing.assert_array_equal(lazy[:, :, 1, 0].values, whole[:, :, 1, 0])
    np.testing.assert_array_equal(lazy[::-3, 2:5].values, whole[::-3, 2:5])
    rows, dims = np.array([40, 3, 3]), np.array([1, 0])
    np.testing.assert_array_equal(lazy.isel(time=rows, dim=dims).values, whole[rows][:, dims])
    mask = made["segment"].values == "a02"
    np.testing.assert_array_equal(lazy.isel(time=mask).values, whole[mask])
    np.testing.assert_array_equal(lazy[5:5].values, whole[5:5])
    np.testing.assert_array_equal(copy.deepcopy(made)["features"].values, whole)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (_rows(2.0, "b01"), "segment b01: found no rows in the feature cube, expected one of a01, a02"),
        (_rows(2.0, seconds=SECONDS + 4), "a01 at 90.00 s: found no features"),
        (_rows(2.0).iloc[::-1], "a02: found onsets out of order"),
    ],
)
@pytest.mark.parametrize("method", ["mean", "lanczos"])
def test_rows_that_the_cube_cannot_give_are_refused(
    cube: xr.Dataset, rows: pd.DataFrame, said: str, method: str
) -> None:
    with pytest.raises(StudyError, match=said):
        reclock(cube, rows, 2.0, method)  # type: ignore[arg-type]
