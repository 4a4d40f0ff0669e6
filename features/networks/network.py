"""The contract between networks and the rest of this room, which every network's file fulfils."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from cinecube.features.networks.checkpoint_files import check_sizes, read_config
from cinecube.features.networks.compat import NO_QUIRKS, Quirks
from cinecube.store.base.errors import StudyError, environment_error
from cinecube.store.base.section import Section
from cinecube.store.cube.schema import Stream

PROCESSORS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")


Key = tuple[str, str]
"""A stream's own name (empty for a network's only output) and a layer's label."""

Features = Mapping[Key, np.ndarray]
"""(row, dim) float32 of every stream and layer that is read."""

ALL_FRAMES = "all"
Frames = int | Literal["all"]
Sampling = Literal["even", "ends", "consecutive"]


@dataclass(frozen=True)
class Checkpoint:
    """The files of a checkpoint that are read without loading its weights.

    Attributes
    ----------
    path : Path
        Its folder, or its weights where they are a single file.
    config, processor : Mapping
        What `config.json` and `preprocessor_config.json` hold; empty where the network can do without.
    """

    path: Path
    config: Mapping[str, Any]
    processor: Mapping[str, Any]


class Facts(Section):
    """Facts that a checkpoint's files state about its network; part of the checkpoint's record.

    Attributes
    ----------
    streams : tuple of Stream
        All layers of each output. A network's only output has an empty name; others become `<model>.<name>`.
    frames_per_window : int or `all`
        Frames of a window that are read unless the study says otherwise; 0 where no picture is read.
    frames_fixed : bool
        Whether the network can read this number only.
    sampling : str
        Which frames these are unless the study says otherwise, see `Reading`.
    stills : bool
        Whether it reads one frame at a time.
    rate_hz : int
        Sound samples per second; 0 where no sound is read.
    context_s : float
        Seconds that it looks back unless the study says otherwise.
    longest_s : float or None
        Seconds of sound, look-back included, that fit in it; None for no limit.
    poolings : tuple of str
        Ways of pooling tokens that make sense here.
    final_norm : bool
        Whether a norm follows the last block.
    preprocessing : dict
        How pixels and samples are prepared; part of the fingerprint.
    """

    streams: tuple[Stream, ...]
    frames_per_window: Frames = 0
    frames_fixed: bool = False
    sampling: Sampling = "even"
    stills: bool = False
    rate_hz: int = 0
    context_s: float = 0.0
    longest_s: float | None = None
    poolings: tuple[str, ...] = ("mean",)
    final_norm: bool = False
    preprocessing: dict[str, Any]


@dataclass(frozen=True)
class Reading:
    """A study's way of reading a network.

    Attributes
    ----------
    streams : tuple of Stream
        The outputs and layers to return, under the network's own names.
    pooling : str
        Rule that makes one vector of the tokens of a layer.
    frame_pooling : str
        Rule for the frames of a window if a network reads one at a time: `mean` or `last`.
    final_norm : bool
        Whether the last block's layer is taken after the norm that follows it.
    frames_per_window : int or `all`
        What is read of a window; 0 for none.
    sampling : str
        `even`: at the middles of equal parts of the window; `ends`: from its first frame to its last at equal steps;
        `consecutive`: its first ones, the last one again where it has fewer.
    rate_hz : int
        Sound samples per second; 0 for none.
    window_s, context_s : float
        Seconds of film that are pooled, and seconds before them that are read too.
    stride_s : float or None
        Seconds between windows that are closer than rows; None for one window a row.
    resample : str
        How such windows become rows: `mean` or `lanczos`.
    untrained : int or None
        Seed of fresh weights instead of the checkpoint's.
    precision : str
        `float32` or `bfloat16`.
    quirks : Quirks
        Errors of a published code to repeat; none by default.
    device : str
        Where torch computes: `cpu`, `cuda`, ….
    """

    streams: tuple[Stream, ...]
    pooling: str = "mean"
    frame_pooling: str = "mean"
    final_norm: bool = False
    frames_per_window: Frames = 0
    sampling: Sampling = "even"
    rate_hz: int = 0
    window_s: float = 1.0
    context_s: float = 0.0
    stride_s: float | None = None
    resample: str = "mean"
    untrained: int | None = None
    precision: str = "float32"
    quirks: Quirks = NO_QUIRKS
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

    def __call__(self, batch: Batch) -> Features:
        """Features of a batch: every stream and layer of the reading, all from one pass."""
        ...


@dataclass(frozen=True)
class Network:
    """The contents of a network's file, as `NETWORK` or through an entry point of group `cinecube.extractors`.

    Attributes
    ----------
    version : int
        Raised whenever a change of code changes the numbers.
    describe : callable
        `(Checkpoint) -> Facts`, without torch: plans and explanations must work where torch is not installed.
    load : callable
        `(path, Reading) -> Extractor`; the path is the checkpoint's folder or weight file.
    licence : str
        Of the official weights, for a checkpoint that comes without a card.
    official : str or None
        What the official checkpoint is, if it has no configuration files; None if it must have them.
    check : callable, optional
        `(path, Reading) -> None`, called when a checkpoint is recorded: refuses what cannot be read as it is asked.
    """

    version: int
    describe: Callable[[Checkpoint], Facts]
    load: Callable[[Path, Reading], Extractor]
    licence: str = "unknown"
    official: str | None = None
    check: Callable[[Path, Reading], None] | None = None


def read_checkpoint(path: Path, where: str, optional: bool = False) -> Checkpoint:
    """Read the configuration files of a checkpoint.

    Parameters
    ----------
    path : Path
        Its folder, or its weights: configuration files are then beside them.
    where : str
        The checkpoint, for messages.
    optional : bool
        Whether the network knows what its official checkpoint is and can do without these files.

    Returns
    -------
    Checkpoint

    Raises
    ------
    StudyError
        If one is missing or no JSON.
    """
    folder = path if path.is_dir() else path.parent
    if optional and not (folder / "config.json").is_file():
        return Checkpoint(path, {}, {})
    config = _read_json(folder / "config.json", where)
    for name in PROCESSORS:
        if (folder / name).is_file():
            nested = _read_json(folder / name, where)
            return Checkpoint(path, config, nested.get("image_processor") or nested.get("feature_extractor") or nested)
    if optional:
        return Checkpoint(path, config, {})
    raise StudyError(
        where=where,
        found="no preprocessor_config.json",
        expected="how the network's input is prepared",
        do="copy that file from the checkpoint's page beside its config.json",
    )


def _read_json(path: Path, where: str) -> dict[str, Any]:
    try:
        if not path.exists():
            raise FileNotFoundError
        values = read_config(path)
    except FileNotFoundError:
        found = f"no {path.name}"
    except (ValueError, OSError) as error:
        if refused := environment_error(error, str(path)):
            raise refused from error
        found = f"an unreadable {path.name} ({error})"
    else:
        if isinstance(values, dict):
            check_sizes(values, f"{where}/{path.name}")
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

    Parameters
    ----------
    checkpoint : Checkpoint
    model_type : str
        As `config.json` must have it.

    Raises
    ------
    StudyError
        If `model_type` in its config differs.
    """
    found = checkpoint.config.get("model_type")
    if found != model_type:
        raise StudyError(
            where=str(checkpoint.path),
            found=f"a checkpoint of architecture {found!r}",
            expected=repr(model_type),
            do="name the extractor of that architecture, or another checkpoint",
        )
