import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from cinecube.analysis import tables
from cinecube.analysis.metrics import study_metrics
from cinecube.analysis.truth import compare, compare_study, counts_as_next, feature_agreement, read_truth
from cinecube.store.cubes import open_cube
from cinecube.store.paths import StudyPaths

from .conftest import FILMS, MODEL, PLANTED, make_study

RAW: dict[str, Any] = {
    "parcels": {
        parcel: {"sources": [], "delay_tr": None}
        if source is None
        else {"sources": [{"model": MODEL, "layer": source[0]}], "delay_tr": source[1], "ceiling": {"sub-01": 0.8}}
        for parcel, source in PLANTED.items()
    }
}


def test_findings_meet_the_truth(scored: Callable[..., xr.Dataset]) -> None:
    layers, lags = tables.layer_table([scored()]), tables.best_lags(tables.lag_curves([scored()]))
    compared = compare(read_truth(RAW), layers, lags, tables.layer_curves(layers).assign(correlation=0.99))
    assert compared.metrics["layer_found"] == 1
    assert compared.metrics["layer_found_or_next"] == 1
    assert compared.metrics["delay_error"] == 0
    assert compared.metrics["idle_score"] < 0.1
    assert compared.metrics["feature_agreement"] == 0.99
    # Four parcels lie inside the network and have two neighbours, two lie at its ends and have one.
    assert compared.metrics["layer_chance"] == pytest.approx((4 * 3 + 2 * 2) / 6 / 13)
    assert "Of 6 driven parcels, 100%" in compared.summary
    assert set(compared.planted) == {parcel for parcel, source in PLANTED.items() if source}
    row = compared.table.set_index("parcel").loc["L_V2"]
    assert (row["planted"], row["found"], row["ceiling"]) == ("net block02", "net block02", 0.8)


def test_wrong_findings_are_told(scored: Callable[..., xr.Dataset]) -> None:
    raw = json.loads(json.dumps(RAW))
    raw["parcels"]["L_V1"] = {"sources": [{"model": MODEL, "layer": "block01"}], "delay_tr": 5}
    raw["parcels"]["L_V2"] = {"sources": [{"model": MODEL, "layer": "block09"}], "delay_tr": 4}
    layers, lags = tables.layer_table([scored()]), tables.best_lags(tables.lag_curves([scored()]))
    metrics = compare(read_truth(raw), layers, lags, layers.iloc[:0]).metrics
    assert metrics["layer_found"] == pytest.approx(4 / 6)
    assert metrics["layer_found_or_next"] == pytest.approx(5 / 6)
    assert metrics["delay_error"] == pytest.approx(2 / 6)


def test_next_layer_counts_within_its_model_only() -> None:
    order = {"vit": ["embed", "block01", "block02"], "net": ["embed", "block01", "block02"]}
    assert counts_as_next(("vit", "embed"), [("vit", "block01")], order)
    assert not counts_as_next(("vit", "embed"), [("vit", "block02")], order)
    assert not counts_as_next(("net", "block01"), [("vit", "block01")], order)
    assert counts_as_next(("net", "block02"), [("vit", "embed"), ("net", "block02")], order)


def test_feature_agreement_matches_rows_by_label(synthetic: Callable[..., Path]) -> None:
    cubes = [open_cube(StudyPaths(synthetic()).features(MODEL, film)) for film in FILMS]
    joined = np.concatenate([cube["features"].values[:, :, 0] for cube in cubes]).transpose(0, 2, 1)
    drawn = xr.DataArray(
        joined,
        dims=("row", "layer", "dim"),
        coords={
            "segment": ("row", np.concatenate([cube["segment"].values for cube in cubes])),
            "onset_s": ("row", np.concatenate([cube["onset_s"].values for cube in cubes])),
            "layer": cubes[0]["layer"].values,
        },
    )
    shuffled = drawn.isel(row=np.arange(drawn.sizes["row"]).reshape(8, -1)[::-1].ravel())
    np.testing.assert_allclose(feature_agreement(cubes, shuffled)["correlation"], 1, atol=1e-6)
    slipped = drawn.copy(data=np.roll(joined, 1, axis=0))
    assert (feature_agreement(cubes, slipped)["correlation"] < 0.2).all()


def test_metrics_of_a_study_without_truth(scored: Callable[..., xr.Dataset], tmp_path: Path) -> None:
    means = tables.whole_brain_means(tables.preferred_layers(tables.layer_table([scored()])))
    tables.write_table(StudyPaths(tmp_path).tables / "whole_brain_mean.csv", means)
    study = make_study()
    assert compare_study(study, tmp_path) is None
    metrics = study_metrics(study, tmp_path)
    assert set(metrics) == {"whole_brain", "best_model"}
    assert metrics["best_model"] == MODEL
    assert 0.3 < metrics["whole_brain"][MODEL] < 1
