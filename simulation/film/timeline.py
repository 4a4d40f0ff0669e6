"""Place of each segment on its film's own timeline, in frames and in samples."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from cinecube.simulation.setup.simulate_params import SimulateSpec


@dataclass(frozen=True)
class Segment:
    """One stimulus file: a stretch of a film's timeline.

    Attributes
    ----------
    film, name : str
        The film and the segment's own name.
    rate : Fraction
        Frames per second.
    first_frame, n_frames : int
        The stretch in frames of the film.
    first_sample, n_samples : int
        The stretch in samples of the film's sound.
    """

    film: str
    name: str
    rate: Fraction
    first_frame: int
    n_frames: int
    first_sample: int
    n_samples: int


def place(spec: SimulateSpec, film: str, names: list[str]) -> list[Segment]:
    """The segments of `film` in order, each beginning `overlap_s` before the one before it ends.

    Frames are what a cut is made at, so the sound of a segment begins at its first frame's time to the nearest sample.

    Parameters
    ----------
    spec : SimulateSpec
    film : str
    names : list of str
        Of its segments.

    Returns
    -------
    list of Segment
    """
    step = round((spec.segment_s - spec.overlap_s) * spec.rate)
    segments = []
    for index, name in enumerate(names):
        first, end = index * step, index * step + spec.frames_per_segment
        first_sample, end_sample = (round(frame / spec.rate * spec.sample_rate_hz) for frame in (first, end))
        segments.append(Segment(film, name, spec.rate, first, end - first, first_sample, end_sample - first_sample))
    return segments


def film_seconds(segments: list[Segment]) -> float:
    """Seconds from the film's first frame to the end of its last segment."""
    last = segments[-1]
    return float((last.first_frame + last.n_frames) / last.rate)
