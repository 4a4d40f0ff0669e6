"""Small films with numbered frames and clicks, and tiny checkpoints of the real architectures."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from cinecube.features.extraction.checkpoint import record_checkpoint
from cinecube.store.base.atomic import write_text
from cinecube.store.base.fingerprint import canonical
from cinecube.store.base.paths import StudyPaths
from cinecube.store.params.document import Study

WIDTH, HEIGHT, BITS = 96, 64, 12
SOUND_HZ = 48000

FilmWriter = Callable[..., Path]


def numbered_frame(number: int) -> np.ndarray:
    """A frame whose number stands in twelve black or white bars."""
    bars = [255 * (number >> bit & 1) for bit in range(BITS)]
    row = np.repeat(np.array(bars, np.uint8), WIDTH // BITS)
    return np.broadcast_to(row[None, :, None], (HEIGHT, WIDTH, 3)).copy()


@pytest.fixture(scope="session")
def read_number() -> Callable[[np.ndarray], int]:
    """Reads the number of a decoded frame."""

    def read(rgb: np.ndarray) -> int:
        bars = rgb[HEIGHT // 2, WIDTH // BITS // 2 :: WIDTH // BITS].mean(axis=1) > 127
        return int((bars << np.arange(BITS)).sum())

    return read


def clicks(duration_s: float, at_s: Sequence[float], channels: int = 2) -> np.ndarray:
    """Silence with short clicks in the first channel, (channel, sample)."""
    sound = np.zeros((channels, round(duration_s * SOUND_HZ)), np.float32)
    for second in at_s:
        first = round(second * SOUND_HZ)
        sound[0, first : first + 48] = 0.8
    return sound


def _mux_sound(container: Any, stream: Any, sound: np.ndarray, start_s: float, layout: str) -> None:
    for first in range(0, sound.shape[1], 1024):
        block = np.ascontiguousarray(sound[:, first : first + 1024])
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
        frame.sample_rate, frame.time_base = SOUND_HZ, Fraction(1, SOUND_HZ)
        frame.pts = first + round(start_s * SOUND_HZ)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


@pytest.fixture(scope="session")
def write_film() -> FilmWriter:
    """Writes a film: `write_film(path, n_frames=…, rate=…, sound=(channel, sample) or None, …)`."""

    def write(
        path: Path,
        *,
        n_frames: int = 100,
        rate: Fraction = Fraction(25),
        frame: Callable[[int], np.ndarray] = numbered_frame,
        sound: np.ndarray | None = None,
        sound_codec: str = "aac",
        sound_start_s: float = 0.0,
        layout: str = "stereo",
        ticks: Callable[[int], int] = lambda number: number,
        **options: str,
    ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w", options=options) as container:
            video: Any = container.add_stream("libx264", rate=rate)
            video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            video.options = {"crf": "14", "preset": "veryfast"}
            audio: Any = container.add_stream(sound_codec, rate=SOUND_HZ, layout=layout) if sound is not None else None
            for number in range(n_frames):
                drawn = av.VideoFrame.from_ndarray(frame(number), format="rgb24")
                drawn.pts, drawn.time_base = ticks(number), 1 / rate
                container.mux(video.encode(drawn))
            container.mux(video.encode(None))
            if sound is not None:
                _mux_sound(container, audio, sound, sound_start_s, layout)
        return path

    return write


LAYERS = ["embed", "block01", "block02", "block03"]
TINY: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.3,
}
TINY_SOUND: dict[str, Any] = {
    **TINY,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
IMAGEBIND = {"image": 28, "video": [24, 3, 2], "audio": [16, 2, 2], "head": 8}


def _transformers_checkpoints() -> dict[str, tuple[Any, Any]]:
    """Tiny models of transformers and their processors."""
    import transformers as hf

    picture: dict[str, Any] = {**TINY, "image_size": 32, "patch_size": 16}
    shrunk = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    return {
        "vit": (hf.ViTModel(hf.ViTConfig(**picture)), hf.ViTImageProcessorPil(size={"height": 32, "width": 32})),
        "videomae": (hf.VideoMAEModel(hf.VideoMAEConfig(**picture)), hf.VideoMAEImageProcessorPil(**shrunk)),
        "vivit": (
            hf.VivitModel(hf.VivitConfig(**TINY, image_size=32, num_frames=8)),
            hf.VivitImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}),
        ),
        "wav2vec2": (hf.Wav2Vec2Model(hf.Wav2Vec2Config(**TINY_SOUND)), hf.Wav2Vec2FeatureExtractor()),
        "ast": (hf.ASTModel(hf.ASTConfig(**TINY, max_length=256)), hf.ASTFeatureExtractor(max_length=256)),
    }


def _own_checkpoints(root: Path) -> None:
    """A tiny ImageBind and TVLT under their official keys; transformers has neither."""
    import torch
    from safetensors.torch import save_file

    from cinecube.features.architectures import imagebind, tvlt
    from cinecube.features.networks.network import Checkpoint

    config = {"model_type": "tvlt", **TINY, "image_size": 32, "num_frames": 4}
    processor = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    networks = {
        "imagebind": (imagebind.ImageBindNetwork(imagebind.Sizes(**IMAGEBIND)), imagebind.rename),
        "tvlt": (tvlt.TvltNetwork(Checkpoint(root, config, processor)), tvlt.rename),
    }
    for name, (network, rename) in networks.items():
        state = {}
        for ours, value in network.state_dict().items():
            theirs = rename(ours)
            keys = [theirs] if isinstance(theirs, str) else theirs
            drawn = torch.randn(value.shape) * 0.3 + (1.0 if ours.endswith("norm.weight") else 0.0)
            for key, part in zip(keys, drawn.chunk(len(keys)) if drawn.ndim else [drawn], strict=True):
                state[key] = part.contiguous()
        (root / name).mkdir()
        if name == "imagebind":
            torch.save(state, root / name / "imagebind.pth")
            (root / name / "config.json").write_text(json.dumps(IMAGEBIND))
        else:
            save_file({f"tvlt.{key}": value for key, value in state.items()}, root / name / "model.safetensors")
            (root / name / "config.json").write_text(json.dumps(config))
            (root / name / "preprocessor_config.json").write_text(json.dumps(processor))


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tiny checkpoints of all networks, as their authors or `save_pretrained` write them."""
    import torch

    root = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    for name, (model, processor) in _transformers_checkpoints().items():
        model.save_pretrained(root / name)
        processor.save_pretrained(root / name)
    _own_checkpoints(root)
    for folder in root.iterdir():
        (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A tiny checkpoint\n")
    return {folder.name: folder for folder in sorted(root.iterdir())}


@pytest.fixture(scope="session")
def stimuli(tmp_path_factory: pytest.TempPathFactory, write_film: FilmWriter) -> Path:
    """A film in two segments of 12 and 9 s."""
    root = tmp_path_factory.mktemp("stimuli")
    for segment, seconds in (("amber01", 12), ("amber02", 9)):
        sound = clicks(seconds, [4.0])
        sound += np.random.default_rng(seconds).normal(0, 0.01, sound.shape).astype(np.float32)
        write_film(root / "amber" / f"{segment}.mp4", n_frames=25 * seconds, sound=sound)
    return root


@pytest.fixture
def study(tmp_path: Path, checkpoints: dict[str, Path], stimuli: Path) -> Study:
    """A study in `tmp_path` of that film and another one that is not there."""
    study = make_study(checkpoints)
    shutil.copytree(stimuli, tmp_path / "stimuli")
    write_records(study, tmp_path)
    return study


def make_study(checkpoints: dict[str, Path]) -> Study:
    """Parameters of a small study."""
    models = {name: {"extractor": name, "checkpoint": str(folder)} for name, folder in checkpoints.items()}
    return Study.model_validate(
        {
            "study": "small",
            "clock": {"tr_s": 1.49, "window_s": 1.49},
            "stimuli": "stimuli",
            "films": {"amber": ["amber01", "amber02"], "birch": ["birch01"]},
            "split": {"train": ["amber"], "test": ["birch"]},
            "models": {
                **models,
                "vit": {**models["vit"], "frames_per_window": 4},
                "wav2vec2": {**models["wav2vec2"], "context_s": 4},
            },
            "compute": {"models": list(models), "films": ["amber"]},
            "run": {"device": "cpu", "batch": 2, "threads": 1, "block_rows": 3},
            "brain": {"path": "scans", "subjects": ["sub-01"]},
        }
    )


def write_records(study: Study, root: Path) -> None:
    """The stage `checkpoint` of all models."""
    for model, params in study.models.items():
        write_text(StudyPaths(root).checkpoint(model), canonical(record_checkpoint(model, params, root)))


@pytest.fixture(scope="session")
def make_clicks() -> Callable[..., np.ndarray]:
    """See `clicks`."""
    return clicks


@pytest.fixture(scope="session")
def golden() -> Path:
    """Where numbers of code that does not run here are kept, beside the scripts that made them."""
    return Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def drawing(golden: Path) -> Any:
    """The module that drew weights, frames and sound for those numbers."""
    spec = importlib.util.spec_from_file_location("drawing", golden / "drawing.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
