"""Small films with numbered frames and clicks, and tiny checkpoints of the real architectures."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from cinecube.features.checkpoint import record_checkpoint
from cinecube.store.atomic import write_text
from cinecube.store.fingerprint import canonical
from cinecube.store.params import Study
from cinecube.store.paths import StudyPaths

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


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a tiny ViT, VideoMAE and Wav2Vec2 as `save_pretrained` writes them."""
    import torch
    from transformers import VideoMAEConfig, VideoMAEModel, ViTConfig, ViTModel, Wav2Vec2Config, Wav2Vec2Model
    from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
    from transformers.models.wav2vec2.feature_extraction_wav2vec2 import Wav2Vec2FeatureExtractor

    root = tmp_path_factory.mktemp("weights")
    small: dict[str, Any] = {
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "initializer_range": 0.3,
    }
    picture: dict[str, Any] = {**small, "image_size": 32, "patch_size": 16}
    sound: dict[str, Any] = {
        **small,
        "conv_dim": [16] * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 2,
    }
    torch.manual_seed(0)
    made = {
        "vit": (ViTModel(ViTConfig(**picture)), ViTImageProcessorPil(size={"height": 32, "width": 32})),
        "videomae": (
            VideoMAEModel(VideoMAEConfig(**picture)),
            VideoMAEImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        ),
        "wav2vec2": (Wav2Vec2Model(Wav2Vec2Config(**sound)), Wav2Vec2FeatureExtractor()),
    }
    for name, (model, processor) in made.items():
        model.save_pretrained(root / name)
        processor.save_pretrained(root / name)
        (root / name / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A tiny checkpoint\n")
    return {name: root / name for name in made}


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
            "models": {**models, "wav2vec2": {**models["wav2vec2"], "context_s": 4}},
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
