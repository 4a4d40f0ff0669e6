"""Drawn features: what the networks say of frames and sound as they were drawn, before any file is written.

A plain loop over windows that calls each network directly. It repeats on purpose what `features` does, because the
truth must not inherit the errors of what it judges. The two share the architectures, which are transformers' own or, of
the two that it lacks, ours, and no other code.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cinecube.simulation.features.seen import resampled
from cinecube.simulation.features.small_networks import FULL_RATE_HZ, SPEECH_RATE_HZ
from cinecube.simulation.setup.simulate_params import SimulateSpec

Layers = Mapping[str, np.ndarray]
"""(row, dim) float32 by layer."""


def drawn_features(spec: SimulateSpec, frames: np.ndarray, sound: np.ndarray, weights: Path) -> dict[str, Layers]:
    """Features of one segment for each stream of the study.

    Parameters
    ----------
    spec : SimulateSpec
        Clock, frame rate, frames per window, context.
    frames : ndarray
        (frame, height, width, 3) uint8 RGB.
    sound : ndarray
        (channel, sample) float32 at `spec.sample_rate_hz`.
    weights : Path
        The folder that holds one checkpoint folder per network.

    Returns
    -------
    dict of str to mapping of str to ndarray
        (row, dim) float32 by stream and layer.
    """
    from cinecube.simulation.features import drawn_joint, drawn_pictures, drawn_sound

    speech = resampled(sound, spec.sample_rate_hz, SPEECH_RATE_HZ)
    full = resampled(sound, spec.sample_rate_hz, FULL_RATE_HZ)
    return {
        "vit": drawn_pictures.read_vit(spec, frames, weights / "vit"),
        "videomae": drawn_pictures.read_videomae(spec, frames, weights / "videomae"),
        "vivit": drawn_pictures.read_vivit(spec, frames, weights / "vivit"),
        "wav2vec2": drawn_sound.read_wav2vec2(spec, speech, weights / "wav2vec2"),
        "ast": drawn_sound.read_ast(spec, speech, weights / "ast"),
        **drawn_joint.read_imagebind(spec, frames, speech, weights / "imagebind"),
        **drawn_joint.read_tvlt(spec, frames, full, weights / "tvlt"),
    }
