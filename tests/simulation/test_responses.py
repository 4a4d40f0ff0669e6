"""Planted responses: who follows what, when, and how much."""

from __future__ import annotations

import numpy as np
import pytest

from cinecube.simulation.brain.planted_parcels import Parcel, PlantedSource, choose_parcels
from cinecube.simulation.brain.responses import plant
from cinecube.simulation.features.drawn import Layers
from cinecube.simulation.features.small_networks import BLOCKS, STREAMS
from cinecube.simulation.setup.simulate_params import NETWORKS, SimulateSpec
from cinecube.store.base.labels import HEAD, layer_number

_ROWS = 200


@pytest.fixture(scope="module")
def features() -> dict[str, dict[str, Layers]]:
    rng = np.random.default_rng(0)
    streams = [stream for network in NETWORKS for stream in STREAMS[network]]
    return {
        segment: {stream.name: {layer: rng.normal(2, 3, (_ROWS, 10)) for layer in stream.layers} for stream in streams}
        for segment in ("a01", "a02", "b01")
    }


def test_default_study_plants_enough() -> None:
    parcels = choose_parcels(SimulateSpec())
    driven = [parcel for parcel in parcels if parcel.sources]
    assert len(parcels) == 40
    assert len(driven) == 30
    assert len({parcel.name for parcel in parcels}) == 40
    assert all(parcel.name[:2] in ("L_", "R_") for parcel in parcels)
    assert {parcel.delay_tr for parcel in driven} == {2, 3, 4}
    known = {(stream.name, layer) for streams in STREAMS.values() for stream in streams for layer in stream.layers}
    assert {(source.model, source.layer) for parcel in driven for source in parcel.sources} <= known


def test_every_network_drives_something_from_its_first_block_to_its_last() -> None:
    single = [parcel.sources[0] for parcel in choose_parcels(SimulateSpec()) if len(parcel.sources) == 1]
    for network in ("vit", "videomae", "vivit", "wav2vec2", "ast"):
        blocks = [layer_number(source.layer) or 0 for source in single if source.model == network]
        assert blocks == sorted(blocks), "early areas follow shallow layers"
        assert (blocks[0], blocks[-1]) == (1, BLOCKS)
        assert len(blocks) >= 3
    joint = [source for source in single if source.model.startswith(("imagebind.", "tvlt."))]
    assert len(joint) == 8
    assert {source.model for source in joint} == {
        stream.name for network in ("imagebind", "tvlt") for stream in STREAMS[network]
    }
    assert PlantedSource("imagebind.concat", HEAD, 1.0) in joint


def test_mixed_parcels_follow_picture_and_sound() -> None:
    mixed = [parcel for parcel in choose_parcels(SimulateSpec()) if len(parcel.sources) == 2]
    assert len(mixed) == 4
    for parcel in mixed:
        assert sum(source.share for source in parcel.sources) == pytest.approx(1)
        models = {source.model for source in parcel.sources}
        assert len(models & {"vit", "videomae", "vivit"}) == len(models & {"wav2vec2", "ast"}) == 1


@pytest.mark.parametrize("count", [4, 24, 32, 48])
def test_any_number_of_parcels(count: int) -> None:
    parcels = choose_parcels(SimulateSpec(parcels=count))
    assert len(parcels) == count
    assert sum(not parcel.sources for parcel in parcels) == count // 4


def _correlations(courses: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Share of the target's variance that courses explain at each delay from 0 to 6."""
    found = []
    for delay in range(7):
        past = np.zeros_like(courses)
        past[delay:] = courses[: len(courses) - delay]
        past -= past.mean(axis=0)
        fit = past @ np.linalg.lstsq(past, target - target.mean(), rcond=None)[0]
        found.append(fit.var() / target.var())
    return np.array(found)


def test_signals_follow_their_layer_at_their_delay(features: dict[str, dict[str, Layers]]) -> None:
    spec = SimulateSpec(subjects=2, targets_per_parcel=5)
    parcels = [
        Parcel("L_V1", (0, 0, 0), (PlantedSource("vit", "block03", 1.0),), 3, 1.0, 1.0),
        Parcel(
            "L_PGi",
            (0, 0, 0),
            (PlantedSource("imagebind.concat", HEAD, 0.6), PlantedSource("wav2vec2", "block02", 0.4)),
            2,
            1.0,
            1.0,
        ),
        Parcel("L_4", (0, 0, 0), (), 2, 1.0, 1.0),
    ]
    signals = plant(spec, parcels, features, ["a01", "a02"])
    assert set(signals) == {"sub-01", "sub-02"}
    one, two = signals["sub-01"]["a01"], signals["sub-02"]["a01"]
    assert one.shape == (_ROWS, 15)
    whole = np.concatenate([signals["sub-01"]["a01"], signals["sub-01"]["a02"]])
    np.testing.assert_allclose(whole[:, :5].std(axis=0), 1, rtol=1e-9)
    np.testing.assert_allclose(whole[:, 5:10].std(axis=0), 1, atol=0.1)
    assert not whole[:, 10:].any()
    assert not one[:1].any(), "nothing before the earliest response"
    assert 0.6 < abs(np.corrcoef(one[:, 0], two[:, 0])[0, 1]) < 0.999
    right = _correlations(features["a01"]["vit"]["block03"], one[:, 0])
    assert right.argmax() == 3
    assert right.max() > 0.85
    assert _correlations(features["a01"]["vit"]["block04"], one[:, 0]).max() < 0.2
    followed = [("imagebind.concat", HEAD), ("wav2vec2", "block02")]
    shares = [_correlations(features["a01"][model][layer], one[:, 6]).max() for model, layer in followed]
    assert shares[0] == pytest.approx(0.6 * 0.92, abs=0.12)
    assert shares[1] == pytest.approx(0.4 * 0.92, abs=0.12)
