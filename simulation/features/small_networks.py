"""The small networks: their sizes, the streams and layers of each, and what a row of each sees. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cinecube.simulation.setup.simulate_params import NETWORKS, Network, SimulateSpec
from cinecube.store.base.labels import HEAD, layer_labels
from cinecube.store.cube.schema import Stream

BLOCKS, FEW_BLOCKS = 12, 6
"""Blocks of a network; those of the two that read picture and sound, whose streams would otherwise be too many."""
WIDTH, HEADS = 48, 4
HEAD_WIDTH = 32
IMAGE_PX, PATCH_PX = 64, 16
VIVIT_SHORT_EDGE_PX = 72
IMAGEBIND_PX, IMAGEBIND_PATCH_PX, IMAGEBIND_FRAMES = 56, 14, 204
BANDS, AST_FRAMES = 128, 256
MEL_FRAMES_PER_S = 100
"""Of sound at 16 kHz, as AST and ImageBind take it."""
LICENCE = "BSD-3-Clause"
SPEECH_RATE_HZ, FULL_RATE_HZ = 16_000, 44_100
BLOCKS_OF: dict[Network, int] = {name: FEW_BLOCKS if name in ("imagebind", "tvlt") else BLOCKS for name in NETWORKS}


def _streams(network: Network) -> tuple[Stream, ...]:
    labels = layer_labels(BLOCKS_OF[network])
    widths = [WIDTH] * len(labels)
    if network == "imagebind":
        towers = [Stream(f"imagebind.{part}", [*labels, HEAD], [*widths, HEAD_WIDTH]) for part in ("video", "audio")]
        return (*towers, Stream("imagebind.concat", [HEAD], [2 * HEAD_WIDTH]))
    if network == "tvlt":
        return tuple(Stream(f"tvlt.{part}", labels, widths) for part in ("video", "audio", "joint"))
    return (Stream(network, labels, widths),)


STREAMS: dict[Network, tuple[Stream, ...]] = {network: _streams(network) for network in NETWORKS}
"""What each network gives in one pass, under the labels that the cubes' `model` axis has."""

Sampling = Literal["middles", "consecutive", "ends"]
_LOOKS: dict[Network, tuple[int, Sampling | None, int]] = {
    "vit": (0, "middles", 0),  # as many frames as the study says
    "videomae": (16, "middles", 0),
    "vivit": (32, "consecutive", 0),
    "wav2vec2": (0, None, SPEECH_RATE_HZ),
    "ast": (0, None, SPEECH_RATE_HZ),
    "imagebind": (2, "ends", SPEECH_RATE_HZ),
    "tvlt": (8, "ends", FULL_RATE_HZ),
}


@dataclass(frozen=True)
class Look:
    """The part of a segment that a row sees and hears.

    Attributes
    ----------
    frames : int
        Frames of its window; 0 for none.
    sampling : str
        Which these are: at the `middles` of equal parts of the window; `consecutive` from its first one on, the
        window's last one again where it has fewer; or from `ends` to end at equal steps.
    rate_hz : int
        Sound samples per second; 0 for none.
    context_s : float
        Seconds of sound before its window.
    """

    frames: int
    sampling: Sampling | None
    rate_hz: int
    context_s: float


def look(spec: SimulateSpec, network: Network) -> Look:
    """The part of a segment that a row of a network sees and hears.

    Parameters
    ----------
    spec : SimulateSpec
    network : str

    Returns
    -------
    Look
    """
    frames, sampling, rate_hz = _LOOKS[network]
    if network == "vit":
        frames = spec.stills_per_window
    # AST looks back as far as its longest input lets it.
    context_s = {"wav2vec2": spec.context_s, "ast": AST_FRAMES / MEL_FRAMES_PER_S - spec.window_s}.get(network, 0.0)
    return Look(frames, sampling, rate_hz, round(context_s, 6))


def pooling(network: Network, stream: str, layer: str) -> str:
    """Rule that makes one vector of the tokens of a layer, in words.

    Parameters
    ----------
    network : str
    stream, layer : str
        Labels of the cubes.

    Returns
    -------
    str
    """
    if layer == HEAD:
        return {
            "imagebind.video": "CLS, norm, projection, unit length, mean over crops",
            "imagebind.audio": "CLS, norm, projection, unit length times exp(log scale)",
            "imagebind.concat": "the heads of imagebind.video and imagebind.audio, one after the other",
        }[stream]
    return {
        "vit": "mean over all tokens of all frames",
        "wav2vec2": "mean over the tokens of the row's own window",
        "ast": "mean over the patches of the row's own window, all bands",
        "imagebind.video": "mean over all tokens of all crops",
        "tvlt.video": "mean over the picture's tokens",
        "tvlt.audio": "mean over the sound's tokens",
    }.get(stream, "mean over all tokens")
