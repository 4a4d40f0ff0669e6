"""Memory does not grow with a film's length: a minute and a quarter of an hour, in a process of their own."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import av
import numpy as np
import pytest
import yaml

from cinecube.features.extraction import block_reading
from cinecube.features.extraction.checkpoint import record_checkpoint
from cinecube.features.extraction.stage import extract_film
from cinecube.features.extraction.windows import prefetched
from cinecube.features.networks.network import Batch, Features, Network, Reading
from cinecube.features.networks.registry import find_network
from cinecube.store.base.atomic import write_text
from cinecube.store.base.fingerprint import canonical
from cinecube.store.base.paths import StudyPaths
from cinecube.store.params.document import load_study

RATE, WIDTH, HEIGHT, SOUND_HZ = 25, 160, 128, 48000
SHORT_S, TIMES = 60, 15
LIMIT_MB = 80
# Sizes at which whatever is kept of the long film is several times the limit, and which still take seconds.
IMAGE, STRIDE_S, DIMS, BLOCKS = 64, 0.1, 512, 11
TINY = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
SOUND = {**TINY, "conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
MODELS: dict[str, dict[str, Any]] = {
    "frames": {
        "extractor": "vit",
        "config": {**TINY, "image_size": IMAGE, "patch_size": IMAGE},
        "processor": {"size": {"height": IMAGE, "width": IMAGE}},
        "params": {"frames_per_window": "all"},
    },
    "sound": {
        "extractor": "wav2vec2",
        "config": SOUND,
        "processor": {"sampling_rate": SOUND_HZ},
        "params": {"context_s": 0},
    },
    "features": {
        "extractor": "vit",
        "config": {"hidden_size": DIMS, "num_hidden_layers": BLOCKS, "image_size": IMAGE, "patch_size": IMAGE},
        "processor": {"size": {"height": IMAGE, "width": IMAGE}},
        "params": {"frames_per_window": 1, "stride_s": STRIDE_S},
    },
}
LONG_S = SHORT_S * TIMES
KEPT_MB = {
    "frames": LONG_S * RATE * IMAGE * IMAGE * 3 / 1e6,
    "sound": LONG_S * SOUND_HZ * 4 / 1e6,
    "features": LONG_S / STRIDE_S * DIMS * (BLOCKS + 1) * 4 / 1e6,
}
"""What an extraction of the long film would hold at its end if it forgot nothing."""


def _write_minute(path: Path) -> None:
    """A film of grey frames and noise; each takes less time to encode than to draw."""
    noise = np.random.default_rng(0).integers(-3000, 3000, (1, SOUND_HZ // RATE), np.int16)
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=RATE)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.options = {"preset": "ultrafast"}
        audio: Any = container.add_stream("pcm_s16le", rate=SOUND_HZ, layout="mono")
        for number in range(SHORT_S * RATE):
            grey = np.full((HEIGHT * 3 // 2, WIDTH), number % 200, np.uint8)
            picture = av.VideoFrame.from_ndarray(grey, format="yuv420p")
            picture.pts, picture.time_base = number, Fraction(1, RATE)
            container.mux(video.encode(picture))
            sound = av.AudioFrame.from_ndarray(noise, format="s16", layout="mono")
            sound.sample_rate, sound.time_base = SOUND_HZ, Fraction(1, SOUND_HZ)
            sound.pts = number * noise.shape[1]
            container.mux(audio.encode(sound))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))


def _repeat(minute: Path, path: Path) -> None:
    """The same packets over and over."""
    with av.open(str(path), "w") as target:
        streams: dict[int, Any] = {}
        for turn in range(TIMES):
            with av.open(str(minute)) as source:
                for stream in source.streams:
                    if turn == 0:
                        streams[stream.index] = target.add_stream_from_template(stream)
                for packet in source.demux():
                    if packet.dts is None:
                        continue
                    shift = round(turn * SHORT_S / packet.time_base)
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packet.stream = streams[packet.stream.index]
                    target.mux(packet)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of the two films and of networks without weights."""
    root = tmp_path_factory.mktemp("memory")
    for film in ("short", "long"):
        (root / "stimuli" / film).mkdir(parents=True)
    minute = root / "stimuli" / "short" / "short01.mkv"
    _write_minute(minute)
    _repeat(minute, root / "stimuli" / "long" / "long01.mkv")
    models: dict[str, dict[str, Any]] = {}
    for name, model in MODELS.items():
        weights = root / "weights" / name
        weights.mkdir(parents=True)
        (weights / "config.json").write_text(json.dumps({"model_type": model["extractor"], **model["config"]}))
        (weights / "preprocessor_config.json").write_text(json.dumps(model["processor"]))
        given = {"extractor": model["extractor"], "checkpoint": f"weights/{name}", "untrained": 0}
        models[name] = {**given, **model["params"]}
    params = {
        "study": "memory",
        "clock": {"tr_s": 1.49, "window_s": 1.49},
        "stimuli": "stimuli",
        "films": {"short": ["short01"], "long": ["long01"]},
        "split": {"train": ["long"], "test": ["short"]},
        "models": models,
        "compute": {"models": list(models), "films": ["short", "long"]},
        "run": {"device": "cpu", "batch": 4},  # larger arrays come and go in leaps that are no growth
        "brain": {"path": "scans", "subjects": ["sub-01"]},
    }
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    study = load_study(root)
    for name in models:
        record = record_checkpoint(name, study.model(name), root)
        write_text(StudyPaths(root).checkpoint(name), canonical(record))
    return root


class _Wide:
    """Many wide layers that cost nothing: real ones would take minutes."""

    def __init__(self, path: Path, reading: Reading) -> None:
        self._streams = reading.streams

    def prepare_frame(self, rgb: np.ndarray) -> np.ndarray:
        return rgb[:IMAGE, :IMAGE].copy()

    def __call__(self, batch: Batch) -> Features:
        assert batch.frames is not None
        rows = len(batch.frames)
        return {("", layer): np.ones((rows, DIMS), np.float32) for layer in self._streams[0].layers}


def _wide(extractor: str, where: str) -> Network:
    return replace(find_network(extractor, where), load=_Wide)


def _peak_mb() -> float:
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _extract(root: Path, model: str, film: str) -> dict[str, Any]:
    """Extract a film: its windows, and the peak of memory when the last of them was computed and at the end."""
    computed = 0.0

    def tick(done: int, total: int) -> None:
        nonlocal computed
        computed = _peak_mb()

    find = _wide if model == "features" else find_network
    with mock.patch.object(block_reading, "find_network", find):
        summary = extract_film(load_study(root), model, film, root, tick)
    return {"windows": summary.windows_computed, "computed": computed, "published": _peak_mb()}


@pytest.mark.parametrize(
    "model", [pytest.param(name, marks=() if name == "sound" else pytest.mark.long) for name in MODELS]
)
def test_memory_is_constant_in_film_length(folder, model):
    command = [sys.executable, __file__, str(folder), model]
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    short, long = found["short"], found["long"]
    assert long["windows"] > (TIMES - 1) * short["windows"]
    assert KEPT_MB[model] > 2 * LIMIT_MB, "what is kept would not show"
    assert long["computed"] - short["computed"] < LIMIT_MB, found


def test_reading_stays_one_batch_ahead_of_a_slow_network():
    made: list[int] = []

    def items() -> Generator[int]:
        for number in range(100):
            made.append(number)
            yield number

    with closing(prefetched(items())) as ahead:
        next(ahead)
        time.sleep(0.5)
        assert len(made) == 3  # one with the network, one ready, one in the thread's hands


if __name__ == "__main__":
    study, name = Path(sys.argv[1]), sys.argv[2]
    print(json.dumps({film: _extract(study, name, film) for film in ("short", "long")}))  # noqa: T201 - the test reads it
