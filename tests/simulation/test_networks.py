"""The checkpoints load as real ones do, and the drawn features are the layers they claim to be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from cinecube.simulation.features import seen
from cinecube.simulation.features.drawn import Layers, drawn_features
from cinecube.simulation.features.small_networks import BLOCKS, STREAMS, look
from cinecube.simulation.film.movie import draw_frames, draw_sound
from cinecube.simulation.film.timeline import film_seconds, place
from cinecube.simulation.setup.simulate_params import NETWORKS, Network, SimulateSpec

OF_TRANSFORMERS: dict[Network, tuple[int, ...]] = {
    "vit": (2, 3, 64, 64),
    "videomae": (1, 16, 3, 64, 64),
    "vivit": (1, 32, 3, 64, 64),
    "wav2vec2": (2, 16000),
    "ast": (2, 256, 128),
}
LABELS = [stream.name for network in NETWORKS for stream in STREAMS[network]]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As the workers of a simulation have: networks as small as these lose time with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def frames(spec: SimulateSpec) -> np.ndarray:
    """Pictures of dune01 as drawn."""
    segments = place(spec, "dune", ["dune01"])
    return np.stack(list(draw_frames(spec, segments[0], film_seconds(segments))))


@pytest.fixture(scope="module")
def sound(spec: SimulateSpec) -> np.ndarray:
    """Sound of dune01 as drawn."""
    segments = place(spec, "dune", ["dune01"])
    return draw_sound(spec, segments[0], film_seconds(segments))


@pytest.fixture(scope="module")
def drawn(made: Path, spec: SimulateSpec, frames: np.ndarray, sound: np.ndarray) -> dict[str, Layers]:
    """Drawn features of dune01."""
    return drawn_features(spec, frames, sound, made / "weights")


def _blocks(model: Any) -> Any:
    if hasattr(model, "layers"):
        return model.layers
    return model.encoder.layer if hasattr(model.encoder, "layer") else model.encoder.layers


@pytest.mark.parametrize("network", OF_TRANSFORMERS)
def test_hidden_states_are_the_blocks(made: Path, network: Network) -> None:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(made / "weights" / network, local_files_only=True).eval()
    seen: list[torch.Tensor] = []
    blocks = _blocks(model)
    assert len(blocks) == BLOCKS

    def entering(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    def leaving(_module: Any, _args: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    blocks[0].register_forward_pre_hook(entering, with_kwargs=True)
    for block in blocks:
        block.register_forward_hook(leaving)
    torch.manual_seed(0)
    with torch.inference_mode():
        states = model(torch.randn(OF_TRANSFORMERS[network]), output_hidden_states=True).hidden_states
    assert len(states) == len(seen) == BLOCKS + 1
    for state, block in zip(states, seen, strict=True):
        torch.testing.assert_close(state, block)


@pytest.mark.filterwarnings("ignore:At least one mel filter")
@pytest.mark.parametrize("network", OF_TRANSFORMERS)
def test_checkpoints_come_with_their_processor(made: Path, network: Network) -> None:
    from transformers import AutoFeatureExtractor, AutoImageProcessor

    loader = AutoFeatureExtractor if network in ("wav2vec2", "ast") else AutoImageProcessor
    assert loader.from_pretrained(made / "weights" / network, local_files_only=True) is not None


@pytest.mark.parametrize("network", NETWORKS)
def test_checkpoints_come_with_their_licence(made: Path, network: Network) -> None:
    card = (made / "weights" / network / "README.md").read_text()
    assert card.startswith("---\nlicense: bsd-3-clause\n")
    assert "BSD-3-Clause (random weights, made by cinecube simulate)" in card


def test_files_of_imagebind_and_tvlt_have_the_official_keys(made: Path) -> None:
    from safetensors import safe_open

    golden = Path(__file__).resolve().parents[1] / "features" / "golden"
    official = {name: json.loads((golden / f"{name}_keys.json").read_text()) for name in ("imagebind", "tvlt")}
    state = torch.load(made / "weights/imagebind/imagebind.pth", weights_only=True)
    assert set(state) <= set(official["imagebind"])
    for key, tensor in state.items():
        assert tensor.ndim == len(official["imagebind"][key]), key
    # All but the other four modalities and the deeper blocks.
    left = [key for key in official["imagebind"] if key not in state and (".vision." in key or ".audio." in key)]
    assert all(".blocks." in key for key in left)
    with safe_open(made / "weights/tvlt/model.safetensors", "pt") as file:
        keys = set(file.keys())
    assert keys <= set(official["tvlt"])
    assert all(".layer." in key for key in official["tvlt"] if key.startswith("tvlt.") and key not in keys)


def test_drawn_features_on_disk_are_labelled(made: Path, spec: SimulateSpec) -> None:
    with xr.open_zarr(made / "truth" / "drawn_features") as stored:
        assert list(dict.fromkeys(stored["segment"].values)) == ["amber01", "amber02", "dune01"]
        assert stored["onset_s"].values[:3].tolist() == [0.0, 1.49, 2.98]
        assert set(stored.data_vars) == set(LABELS)
        for network in NETWORKS:
            for stream in STREAMS[network]:
                layers, dims = stored[f"{stream.name}.layer"].values, stored[f"{stream.name}.dim"].values
                assert list(layers) == list(stream.layers)
                values = stored[stream.name].values
                assert values.shape == (3 * spec.rows_per_segment, len(layers), len(dims))
                for place_, width in enumerate(stream.widths):
                    assert np.isfinite(values[:, place_, :width]).all()
                    assert np.isnan(values[:, place_, width:]).all()


def test_layers_differ_and_follow_the_film(made: Path) -> None:
    """Neighbouring layers are never the same numbers, and no dim of any is stuck."""
    with xr.open_zarr(made / "truth" / "drawn_features") as stored:
        for label in LABELS:
            values = stored[label].values
            for place_, layer in enumerate(stored[f"{label}.layer"].values):
                rows = values[:, place_][:, np.isfinite(values[0, place_])]
                assert rows.std(axis=0).min() > 1e-3, (label, layer)
                # What varies is most of it, or a network has gone into saturation.
                assert rows.std(axis=0).mean() > 0.2 * np.abs(rows).mean(), (label, layer)
                if str(layer).startswith("block"):
                    before = values[:, place_ - 1, : rows.shape[1]]
                    assert abs(np.corrcoef(rows.ravel(), before.ravel())[0, 1]) < 0.99, (label, layer)


def test_a_windows_frames(spec: SimulateSpec) -> None:
    """By a loop over frames and the times at which they are shown."""
    n_frames, rate = spec.frames_per_segment, float(spec.rate)
    starts = np.arange(n_frames) / rate
    for row in range(spec.rows_per_segment):
        onset = row * spec.tr_s
        inside = [k for k in range(n_frames) if starts[k] < onset + spec.window_s and starts[k] + 1 / rate > onset]
        assert seen.frames_seen(spec, look(spec, "vivit"), row, n_frames) == (inside + [inside[-1]] * 32)[:32]
        shown = seen.frames_seen(spec, look(spec, "tvlt"), row, n_frames)
        assert (shown[0], shown[-1], len(shown)) == (inside[0], inside[-1], 8)
        assert seen.frames_seen(spec, look(spec, "imagebind"), row, n_frames) == [inside[0], inside[-1]]
        middles = [onset + (part + 0.5) * spec.window_s / 16 for part in range(16)]
        expected = [int(np.flatnonzero(starts <= time_s)[-1]) for time_s in middles]
        assert seen.frames_seen(spec, look(spec, "videomae"), row, n_frames) == expected


def test_a_windows_sound(spec: SimulateSpec) -> None:
    mono = np.arange(1, 16000 * 10, dtype=np.float32)
    heard = seen.sound_heard(spec, look(spec, "ast"), mono)
    assert (heard[0][0], len(heard[0])) == (1, 23840)
    assert (heard[3][0], len(heard[3])) == (3 * 23840 - 17120 + 1, 40960), "2.56 s, all that AST takes"
    assert not heard[-1][-1], "silence after the end"


def _windows(spec: SimulateSpec, network: Network, frames: np.ndarray, sound: np.ndarray) -> Iterator[tuple[Any, Any]]:
    """Frames and sound of each row."""
    view = look(spec, network)
    clips = seen.clips_seen(spec, view, len(frames)) if view.frames else [None] * spec.rows_per_segment
    heard: list[Any] = [None] * spec.rows_per_segment
    if view.rate_hz:
        heard = seen.sound_heard(spec, view, seen.resampled(sound, spec.sample_rate_hz, view.rate_hz))
    for numbers, samples in zip(clips, heard, strict=True):
        yield None if numbers is None else frames[numbers], samples


@pytest.mark.parametrize("network", NETWORKS)
def test_two_codes_say_the_same_of_the_same_windows(
    made: Path, spec: SimulateSpec, frames: np.ndarray, sound: np.ndarray, drawn: dict[str, Layers], network: Network
) -> None:
    """What `features` makes of a window equals what is written here to judge it: preparing, network, pooling, head."""
    from cinecube.features.networks.network import Batch, Reading, read_checkpoint
    from cinecube.features.networks.registry import find_network

    offered, view, folder = find_network(network, "test"), look(spec, network), made / "weights" / network
    facts = offered.describe(read_checkpoint(folder, "test", optional=True))
    reading = Reading(facts.streams, rate_hz=view.rate_hz, window_s=spec.window_s, context_s=view.context_s)
    extractor = offered.load(folder, reading)
    for row, (shown, heard) in enumerate(_windows(spec, network, frames, sound)):
        pictures = None if shown is None else np.stack([extractor.prepare_frame(rgb) for rgb in shown])[None]
        found = extractor(Batch(pictures, None if heard is None else heard[None]))
        labelled = {
            (f"{network}.{stream}" if stream else network, layer): rows for (stream, layer), rows in found.items()
        }
        assert set(labelled) == {(stream.name, layer) for stream in STREAMS[network] for layer in stream.layers}
        for (label, layer), rows in labelled.items():
            theirs = drawn[label][layer][row]
            np.testing.assert_allclose(rows[0], theirs, atol=1e-4 * np.abs(theirs).max(), err_msg=f"{label} {layer}")


def test_features_of_the_decoded_film_agree(
    made: Path, spec: SimulateSpec, sound: np.ndarray, drawn: dict[str, Layers]
) -> None:
    import av

    path = str(made / "stimuli" / "dune" / "dune01.mp4")
    with av.open(path) as film:
        pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)])
    with av.open(path) as film:
        decoded = np.concatenate([frame.to_ndarray() for frame in film.decode(audio=0)], axis=1)
    there = drawn_features(spec, pictures, decoded[:, : sound.shape[1]], made / "weights")
    for stream, layers in drawn.items():
        for layer, values in layers.items():
            a, b = values - values.mean(axis=0), there[stream][layer] - there[stream][layer].mean(axis=0)
            agreement = (a * b).mean(axis=0) / (a.std(axis=0) * b.std(axis=0))
            assert agreement.mean() > 0.93, (stream, layer)
