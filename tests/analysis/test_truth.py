import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from cinecube.analysis.cubes import tables
from cinecube.analysis.report.metrics import study_metrics
from cinecube.analysis.truth.planted import (
    compare_planted,
    compare_study,
    counts_as_found,
    counts_as_next,
    feature_agreement,
    network_agreement,
    read_truth,
)
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import open_cube
from cinecube.store.cube.schema import Stream, feature_template, rows_index

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
    compared = compare_planted(read_truth(RAW), layers, lags, tables.layer_curves(layers).assign(correlation=0.99))
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
    metrics = compare_planted(read_truth(raw), layers, lags, layers.iloc[:0]).metrics
    assert metrics["layer_found"] == pytest.approx(4 / 6)
    assert metrics["layer_found_or_next"] == pytest.approx(5 / 6)
    assert metrics["delay_error"] == pytest.approx(2 / 6)


def test_next_layer_counts_within_its_model_only() -> None:
    order = {"vit": ["embed", "block01", "block02"], "net": ["embed", "block01", "block02"]}
    assert counts_as_next(("vit", "embed"), [("vit", "block01")], order)
    assert not counts_as_next(("vit", "embed"), [("vit", "block02")], order)
    assert not counts_as_next(("net", "block01"), [("vit", "block01")], order)
    assert counts_as_next(("net", "block02"), [("vit", "embed"), ("net", "block02")], order)


def test_a_concatenation_contains_its_parts() -> None:
    order = {
        "net.video": ["embed", "block01", "head"],
        "net.audio": ["embed", "block01", "head"],
        "net.concat": ["head"],
        "other.concat": ["head"],
    }
    video, audio, both = ("net.video", "head"), ("net.audio", "head"), ("net.concat", "head")
    for part in (video, audio):
        assert counts_as_found(part, [part])
        assert counts_as_found(both, [part])
        assert counts_as_next(both, [part], order)
    assert not counts_as_found(audio, [video])
    assert not counts_as_found(video, [both]), "a part does not contain the whole"
    assert not counts_as_next(video, [both], order)
    assert not counts_as_found(("other.concat", "head"), [video])
    assert not counts_as_found(both, [("net.video", "block01")]), "heads alone stand side by side"
    assert not counts_as_next(both, [("net.video", "block01")], order)
    assert counts_as_next(video, [("net.video", "block01")], order)
    assert not counts_as_found(both, [])


def test_feature_agreement_matches_rows_by_label(synthetic: Callable[..., Path]) -> None:
    cubes = [open_cube(StudyPaths(synthetic()).features(MODEL, film)).sel(model=MODEL) for film in FILMS]
    joined = np.concatenate([cube["features"].values for cube in cubes]).transpose(0, 2, 1)
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


def test_feature_agreement_of_streams_of_unequal_width() -> None:
    """Each stream has layers and dims of its own, on disk as in its cube; what was not drawn is left out."""
    streams = [Stream("net.video", ["embed", "head"], [5, 3]), Stream("net.concat", ["head"], [6])]
    rng = np.random.default_rng(0)
    cube = feature_template(rows_index({"a01": np.arange(40) * 1.5}), 1.5, streams, "float32", {})
    values = rng.normal(0, 1, cube["features"].shape)
    for m, stream in enumerate(streams):
        for k, layer in enumerate(cube["layer"].values):
            width = dict(zip(stream.layers, stream.widths, strict=True)).get(str(layer), 0)
            values[:, width:, m, k] = np.nan
    cube = cube.assign(features=(cube["features"].dims, values))
    drawn = xr.Dataset(
        {
            "net.video": (("row", "net.video.layer", "net.video.dim"), values[:, :5, 0].swapaxes(1, 2)),
            "net.concat": (("row", "net.concat.layer", "net.concat.dim"), -values[:, :, 1, 1:].swapaxes(1, 2)),
        },
        coords={
            "segment": ("row", cube["segment"].values),
            "onset_s": ("row", cube["onset_s"].values),
            "net.video.layer": np.array(["embed", "head"], dtype=object),
            "net.concat.layer": np.array(["head"], dtype=object),
        },
    )
    table = network_agreement([cube], drawn)
    assert list(zip(table["model"], table["layer"], strict=True)) == [
        ("net.video", "embed"),
        ("net.video", "head"),
        ("net.concat", "head"),
    ]
    np.testing.assert_allclose(table["correlation"], [1, 1, -1], atol=1e-6)
    assert network_agreement([cube.assign_coords(model=["twin", "other"])], drawn).empty


def test_metrics_of_a_study_without_truth(scored: Callable[..., xr.Dataset], tmp_path: Path) -> None:
    means = tables.whole_brain_means(tables.preferred_layers(tables.layer_table([scored()])))
    tables.write_table(StudyPaths(tmp_path).tables / "whole_brain_mean.csv", means)
    study = make_study()
    assert compare_study(study, tmp_path) is None
    metrics = study_metrics(study, tmp_path)
    assert set(metrics) == {"whole_brain", "best_model"}
    assert metrics["best_model"] == MODEL
    assert 0.3 < metrics["whole_brain"][MODEL] < 1
