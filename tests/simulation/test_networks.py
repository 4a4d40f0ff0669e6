"""The checkpoints load as real ones do, and the drawn features are the layers they claim to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from cinecube.simulation.checkpoints import BLOCKS, WIDTH
from cinecube.simulation.drawn import drawn_features
from cinecube.simulation.movie import draw_frames, draw_sound
from cinecube.simulation.spec import NETWORKS, SimulateSpec
from cinecube.simulation.timeline import film_seconds, place

_INPUTS = {"vit": (2, 3, 64, 64), "videomae": (1, 16, 3, 64, 64), "wav2vec2": (2, 16000)}


def _blocks(model: Any) -> Any:
    if hasattr(model, "layers"):
        return model.layers
    return model.encoder.layer if hasattr(model.encoder, "layer") else model.encoder.layers


@pytest.mark.parametrize("network", NETWORKS)
def test_hidden_states_are_the_blocks(made: Path, network: str) -> None:
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
        states = model(torch.randn(_INPUTS[network]), output_hidden_states=True).hidden_states
    assert len(states) == len(seen) == BLOCKS + 1
    for state, block in zip(states, seen, strict=True):
        torch.testing.assert_close(state, block)


@pytest.mark.parametrize("network", NETWORKS)
def test_checkpoints_come_with_processor_and_licence(made: Path, network: str) -> None:
    from transformers import AutoFeatureExtractor, AutoImageProcessor

    folder = made / "weights" / network
    loader = AutoFeatureExtractor if network == "wav2vec2" else AutoImageProcessor
    assert loader.from_pretrained(folder, local_files_only=True) is not None
    assert "BSD-3-Clause (random weights, made by cinecube simulate)" in (folder / "README.md").read_text()


def test_drawn_features_are_labelled_and_tell_layers_apart(made: Path, spec: SimulateSpec) -> None:
    with xr.open_zarr(made / "truth" / "drawn_features") as drawn:
        assert set(drawn.data_vars) == set(NETWORKS)
        assert list(drawn["layer"].values) == ["embed", *(f"block{k:02d}" for k in range(1, BLOCKS + 1))]
        assert list(dict.fromkeys(drawn["segment"].values)) == ["amber01", "amber02", "dune01"]
        assert drawn["onset_s"].values[:3].tolist() == [0.0, 1.49, 2.98]
        assert drawn.sizes == {"row": 3 * spec.rows_per_segment, "layer": BLOCKS + 1, "dim": WIDTH}
        for network in NETWORKS:
            values = drawn[network].values
            assert np.isfinite(values).all()
            assert values.std(axis=0).min() > 1e-3


def test_features_of_the_decoded_film_agree(made: Path, spec: SimulateSpec) -> None:
    import av

    path = str(made / "stimuli" / "dune" / "dune01.mp4")
    segments = place(spec, "dune", ["dune01"])
    seconds = film_seconds(segments)
    with av.open(path) as film:
        pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)])
    with av.open(path) as film:
        sound = np.concatenate([frame.to_ndarray() for frame in film.decode(audio=0)], axis=1)
    frames, wave = np.stack(list(draw_frames(spec, segments[0], seconds))), draw_sound(spec, segments[0], seconds)
    here = drawn_features(spec, frames, wave, made / "weights")
    there = drawn_features(spec, pictures, sound[:, : wave.shape[1]], made / "weights")
    for network in NETWORKS:
        a, b = here[network] - here[network].mean(axis=0), there[network] - there[network].mean(axis=0)
        agreement = (a * b).mean(axis=0) / (a.std(axis=0) * b.std(axis=0))
        assert agreement.mean(axis=1).min() > 0.95
