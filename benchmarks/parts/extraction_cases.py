"""What `extraction.py` measures: networks of base size with random weights, where they run, and the film they read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cinecube.simulation.film.movie import write_movie
from cinecube.simulation.setup.simulate_params import SimulateSpec
from cinecube.store.params.document import Study

TR_S = 1.49
FILM = SimulateSpec(width=640, height=360, fps="25")
_SCENE_S = 3


@dataclass(frozen=True)
class Case:
    """A network as it is measured.

    Attributes
    ----------
    model, config : str
        Classes of transformers, whose defaults are the base size.
    processor : dict
        `preprocessor_config.json`.
    params : dict
        What the study says of it.
    batch : int
        Windows of a batch on a CPU.
    windows, quick_windows : int
        Windows of a round.
    shrunk : dict
        Changes of the configuration that make a network for tests of this file.
    """

    model: str
    config: str
    processor: dict[str, Any]
    params: dict[str, Any]
    batch: int
    windows: int
    quick_windows: int
    shrunk: dict[str, Any] = field(default_factory=dict)


_SQUARE = {"height": 224, "width": 224}
_SHRUNK = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
CASES = {
    "vit": Case(
        model="ViTModel",
        config="ViTConfig",
        processor={"size": _SQUARE},
        params={"frames_per_window": 4},
        batch=1,
        windows=8,
        quick_windows=3,
        shrunk={**_SHRUNK, "patch_size": 56},
    ),
    "videomae": Case(
        model="VideoMAEModel",
        config="VideoMAEConfig",
        processor={"size": {"shortest_edge": 224}, "crop_size": _SQUARE},
        params={},
        batch=1,
        windows=4,
        quick_windows=2,
        shrunk={**_SHRUNK, "patch_size": 56},
    ),
    "wav2vec2": Case(
        model="Wav2Vec2Model",
        config="Wav2Vec2Config",
        processor={"sampling_rate": 16000},
        params={"context_s": 4.0},
        batch=2,
        windows=16,
        quick_windows=4,
        shrunk={**_SHRUNK, "conv_dim": [16] * 7, "num_conv_pos_embedding_groups": 2},
    ),
}


@dataclass(frozen=True)
class Place:
    """Where networks run, and in which number format."""

    device: str
    precision: str

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()


def load_transformers(case: Case, folder: Path, dtype: torch.dtype) -> Any:
    """The model of transformers, without heads."""
    import transformers

    kind = getattr(transformers, case.model)
    more = {"add_pooling_layer": False} if case.model == "ViTModel" else {}
    return kind.from_pretrained(folder, dtype=dtype, **more).eval()


def make_study(name: str, model: dict[str, Any], run: dict[str, Any]) -> Study:
    """A study of one network and one film; the other film is never read."""
    return Study.model_validate(
        {
            "study": "benchmark",
            "clock": {"tr_s": TR_S, "window_s": TR_S},
            "stimuli": "stimuli",
            "films": {"film": ["film01"], "other": ["other01"]},
            "split": {"train": ["film"], "test": ["other"]},
            "models": {name: {"extractor": name, "checkpoint": "weights", "accept_licence": True, **model}},
            "compute": {"models": [name], "films": ["film"]},
            "run": run,
            "brain": {"path": "scans", "subjects": ["sub-01"]},
        }
    )


def write_film(path: Path, duration_s: float) -> None:
    """A film that takes as long to decode as a real one: detail that moves, grain, a cut every few seconds."""
    n_frames = int(duration_s * FILM.rate)
    sound = np.random.default_rng(1).normal(0, 0.1, (2, round(n_frames / FILM.rate * FILM.sample_rate_hz)))
    write_movie(path, _frames(n_frames), sound.astype(np.float32), FILM)


def _frames(n_frames: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    grain = rng.integers(0, 4, (8, FILM.height, FILM.width, 3), np.uint8)
    scene = np.empty(0)
    for number in range(n_frames):
        place = number % round(_SCENE_S * FILM.rate)
        if place == 0:
            scene = _scene(rng)
        view = scene[place : place + FILM.height, 2 * place : 2 * place + FILM.width]
        yield view + grain[number % len(grain)]


def _scene(rng: np.random.Generator) -> np.ndarray:
    """Coarse and fine detail, larger than a frame, (y, x, 3) uint8."""
    height, width = FILM.height + 80, FILM.width + 160
    layers = []
    for size, contrast in ((40, 120), (8, 60), (2, 40)):
        small = rng.integers(0, contrast, (height // size + 1, width // size + 1, 3), np.uint8)
        layers.append(small.repeat(size, axis=0).repeat(size, axis=1)[:height, :width])
    return np.asarray(np.sum(layers, axis=0, dtype=np.uint8))


def write_checkpoint(case: Case, folder: Path, tiny: bool) -> None:
    """A checkpoint of the base size with random weights, as `save_pretrained` writes it."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    config = getattr(transformers, case.config)(**(case.shrunk if tiny else {}))
    # Drawn here: transformers' own initialisation takes several times as long.
    with torch.device("meta"):
        model = getattr(transformers, case.model)(config)
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
            else:
                parameter.normal_(0, 0.02, generator=generator)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(case.processor), encoding="utf-8")
