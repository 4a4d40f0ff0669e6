"""What a network is to the rest of this room: the contract that every network's file fulfils."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cinecube.store.errors import StudyError
from cinecube.store.params import Section
from cinecube.store.schema import Stream

# Raised whenever decoding or windows change what networks are given; a network's own VERSION covers the rest.
READING_VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """The files of a checkpoint that are read without loading its weights.

    Attributes
    ----------
    folder : Path
        Where they lie.
    config, processor : Mapping
        What `config.json` and `preprocessor_config.json` hold.
    """

    folder: Path
    config: Mapping[str, Any]
    processor: Mapping[str, Any]


class Facts(Section):
    """What a checkpoint's files say about its network; part of the checkpoint's record.

    Attributes
    ----------
    streams : tuple of Stream
        All layers of each output. A network's only output has an empty name; others become `<model>.<name>`.
    frames_per_window : int
        Frames of a window that are read unless the study says otherwise; 0 where no picture is read.
    frames_fixed : bool
        Whether the network can read this number only.
    rate_hz : int
        Sound samples per second; 0 where no sound is read.
    poolings : tuple of str
        Ways of pooling tokens that make sense here.
    preprocessing : dict
        How pixels and samples are prepared; part of the fingerprint.
    """

    streams: tuple[Stream, ...]
    frames_per_window: int = 0
    frames_fixed: bool = False
    rate_hz: int = 0
    poolings: tuple[str, ...] = ("mean",)
    preprocessing: dict[str, Any]


@dataclass(frozen=True)
class Reading:
    """How a study reads a network.

    Attributes
    ----------
    streams : tuple of Stream
        The outputs and layers to return, under their labels on the cube's `model` axis.
    pooling : str
        How the tokens of a layer become one vector.
    frames_per_window, rate_hz : int
        What is read of a window; 0 for none.
    window_s, context_s : float
        Seconds of film a row sees, and of sound before them.
    untrained : int or None
        Seed of fresh weights instead of the checkpoint's.
    device : str
        Where torch computes: `cpu`, `cuda`, ….
    """

    streams: tuple[Stream, ...]
    pooling: str
    frames_per_window: int
    rate_hz: int
    window_s: float
    context_s: float = 0.0
    untrained: int | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Batch:
    """Windows of equal shape, ready for a network.

    Attributes
    ----------
    frames : ndarray or None
        (row, frame, …) what `prepare_frame` returned.
    sound : ndarray or None
        (row, sample) float32, mono.
    """

    frames: np.ndarray | None = None
    sound: np.ndarray | None = None


class Extractor(Protocol):
    """A loaded network."""

    def prepare_frame(self, rgb: np.ndarray) -> np.ndarray:
        """Make a frame, (height, width, 3) uint8 RGB, what the network takes; called once per sampled frame."""
        ...

    def __call__(self, batch: Batch) -> np.ndarray:
        """Features of a batch, (row, dim, model, layer) float32, all layers in one pass, NaN past a layer's width."""
        ...


@dataclass(frozen=True)
class Network:
    """What a network's file offers, as `NETWORK` or through an entry point of group `cinecube.extractors`.

    Attributes
    ----------
    version : int
        Raised whenever a change of code changes the numbers.
    describe : callable
        `(Checkpoint) -> Facts`, without torch: plans and explanations must work where torch is not installed.
    load : callable
        `(folder, Reading) -> Extractor`.
    """

    version: int
    describe: Callable[[Checkpoint], Facts]
    load: Callable[[Path, Reading], Extractor]


def read_checkpoint(folder: Path, where: str) -> Checkpoint:
    """Read the configuration files of a checkpoint's folder.

    Raises
    ------
    StudyError
        If one is missing or no JSON.
    """
    config = _read_json(folder / "config.json", where)
    if (folder / "preprocessor_config.json").is_file():
        return Checkpoint(folder, config, _read_json(folder / "preprocessor_config.json", where))
    if (folder / "processor_config.json").is_file():
        nested = _read_json(folder / "processor_config.json", where)
        return Checkpoint(folder, config, nested.get("image_processor") or nested.get("feature_extractor") or nested)
    raise StudyError(
        where=where,
        found="no preprocessor_config.json",
        expected="how the network's input is prepared",
        do="copy that file from the checkpoint's page beside its config.json",
    )


def _read_json(path: Path, where: str) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        found = f"no {path.name}"
    except (ValueError, OSError) as error:
        found = f"an unreadable {path.name} ({error})"
    else:
        if isinstance(values, dict):
            return values
        found = f"a {path.name} that is no object"
    raise StudyError(
        where=where,
        found=found,
        expected="a checkpoint folder as save_pretrained writes it",
        do="copy it again",
    )


def check_architecture(checkpoint: Checkpoint, model_type: str) -> None:
    """Refuse a checkpoint of another architecture.

    Raises
    ------
    StudyError
        If `model_type` in its config differs.
    """
    found = checkpoint.config.get("model_type")
    if found != model_type:
        raise StudyError(
            where=str(checkpoint.folder),
            found=f"a checkpoint of architecture {found!r}",
            expected=repr(model_type),
            do="name the extractor of that architecture, or another checkpoint",
        )
