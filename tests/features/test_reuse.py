"""Cubes resampled to another TR, against the same films extracted at that TR."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from cinecube.features.extraction import extract_film
from cinecube.store.clock import Clock
from cinecube.store.cubes import open_cube
from cinecube.store.params import Study
from cinecube.store.paths import StudyPaths
from cinecube.store.reclock import reclock
from cinecube.store.schema import rows_index

# Twenty frames of these films, so that two windows hold the frames of one of twice the length.
SHORT_S = 0.8


def _extract(study: Study, root: Path, tr_s: float) -> xr.Dataset:
    params = study.models["vit"].model_copy(update={"frames_per_window": "all"})
    clock = Clock(tr_s=tr_s, window_s=tr_s)
    study = study.model_copy(update={"clock": clock, "models": {**study.models, "vit": params}})
    extract_film(study, "vit", "amber", root)
    return open_cube(StudyPaths(root).features("vit", "amber")).load()


def test_means_of_short_windows_are_what_long_ones_give(study: Study, tmp_path: Path) -> None:
    short, long = _extract(study, tmp_path, SHORT_S), _extract(study, tmp_path, 2 * SHORT_S)
    rows = long.to_dataframe().reset_index()[["segment", "onset_s"]].drop_duplicates(ignore_index=True)
    made = reclock(short, rows, 2 * SHORT_S)
    whole = ~rows["segment"].ne(rows["segment"].shift(-1)).to_numpy()  # films end inside the last window
    np.testing.assert_allclose(made["features"].values[whole], long["features"].values[whole], atol=2e-5)
    assert np.ptp(long["features"].values, axis=0).max() > 0.05  # rows differ by far more than that


@pytest.mark.parametrize("method", ["mean", "lanczos"])
def test_uneven_clocks_follow_a_re_extraction(study: Study, tmp_path: Path, method: str) -> None:
    """At 1.2 s no edge of a window falls on the edge of a row; rows are alike, and never their neighbours."""
    short, long = _extract(study, tmp_path, 0.5), _extract(study, tmp_path, 1.2)
    onsets_s = {name: long["onset_s"].values[long["segment"].values == name] for name in ("amber01", "amber02")}
    made = reclock(short, rows_index(onsets_s), 1.2, method)  # type: ignore[arg-type]
    found, wanted = (cube["features"].isel(model=0, layer=2).values for cube in (made, long))
    found, wanted = (values - wanted.mean(axis=0) for values in (found, wanted))
    distance = np.linalg.norm(found[:, None] - wanted[None], axis=-1)
    inner = [i for s in onsets_s.values() for i in range(1, len(s) - 1)]
    share = np.mean([distance[i].argmin() == i for i in inner])
    assert share > 0.9
