"""Sizes of a simulated study: the `simulate` section of `params.yaml`."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from cinecube.store.base.errors import StudyError
from cinecube.store.base.section import Section, WrongValue
from cinecube.store.params.document import PARAMS_FILE, Study, parse

Network = Literal["vit", "videomae", "vivit", "wav2vec2", "ast", "imagebind", "tvlt"]
NETWORKS: tuple[Network, ...] = ("vit", "videomae", "vivit", "wav2vec2", "ast", "imagebind", "tvlt")
"""The small networks of a simulated study: they read stills, clips, sound, and clips with their sound."""


def _is_rate(text: str) -> str:
    """`text` if it reads as a positive fraction (`24000/1001`, `25`), else `WrongValue`."""
    try:
        positive = Fraction(text) > 0
    except (ValueError, ZeroDivisionError):
        positive = False
    if not positive:
        raise WrongValue(
            found=repr(text), expected="frames per second as a fraction, such as 24000/1001 or 25", do="correct it"
        )
    return text


class SimulateSpec(Section):
    """The `simulate` section: every number that the simulated study follows from."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Films, networks, responses and noise follow from it alone."""
    subjects: int = Field(default=4, ge=1, le=99)
    """Number of subjects, named `sub-01` on."""
    segment_s: float = Field(default=112, ge=10, le=2700)
    """Seconds of each segment, rounded to whole frames."""
    overlap_s: float = Field(default=3, ge=0, lt=10)
    """Seconds that neighbouring segments of a film share."""
    repeated: tuple[str, ...] = ()
    """Films that every subject sees twice (`run-1`, `run-2`)."""
    parcels: int = Field(default=40, ge=4, le=48)
    """Number of parcels; a quarter of them follow nothing."""
    targets_per_parcel: int = Field(default=16, ge=1, le=10_000)
    """Voxels of each parcel."""
    noise: float = Field(default=1.0, ge=0, le=1e6)
    """Noise variance over signal variance in one showing; parcels and subjects vary around it."""
    tr_s: float = Field(default=1.49, ge=0.1, le=100)
    """Seconds between volumes; the study's clock by default."""
    window_s: float = Field(default=1.49, gt=0, le=2)  # ImageBind takes two seconds of sound
    """Seconds of film that one row sees; the study's clock by default."""
    fps: Annotated[str, AfterValidator(_is_rate)] = "24000/1001"
    """Frames per second, as a fraction."""
    width: int = Field(default=160, ge=64, le=8192, multiple_of=2)
    """Of the picture; even."""
    height: int = Field(default=128, ge=64, le=8192, multiple_of=2)
    """Of the picture; even."""
    sample_rate_hz: Literal[44100, 48000] = 48000
    """Samples per second and channel of the sound track."""
    stills_per_window: int = Field(default=4, ge=1, le=1000)
    """Frames of one window that ViT sees."""
    context_s: float = Field(default=4, ge=0, le=600)
    """Seconds of sound before its window that wav2vec2 sees."""
    latents: int = Field(default=8, ge=1, le=1000)
    """Time courses that a parcel's targets mix."""
    individuality: float = Field(default=0.5, ge=0, le=1e6)
    """Size of a subject's own mixing beside the mixing that all share."""
    extra_volumes: tuple[int, int] = (-1, 4)
    """Least and most volumes by which scans are longer than their film."""
    voxel_mm: float = Field(default=9, ge=0.1, le=100)
    """Edge of a voxel."""

    @property
    def rate(self) -> Fraction:
        """Frames per second, exact."""
        return Fraction(self.fps)

    @property
    def frames_per_segment(self) -> int:
        """Frames of one segment."""
        return round(self.segment_s * self.rate)

    @property
    def rows_per_segment(self) -> int:
        """Windows that begin before a segment's picture ends."""
        return math.ceil(float(self.frames_per_segment / self.rate) / self.tr_s - 1e-6)

    @property
    def idle_parcels(self) -> int:
        """Parcels that follow nothing."""
        return self.parcels // 4

    def subject_names(self) -> list[str]:
        """`sub-01` on."""
        return [f"sub-{number:02d}" for number in range(1, self.subjects + 1)]


def simulate_spec(study: Study) -> SimulateSpec:
    """The study's `simulate` section, checked; scans are at the study's clock unless it says otherwise.

    Raises
    ------
    StudyError
        If it has none: its films and scans are somebody's own.
    """
    if study.simulate is None:
        raise StudyError(
            where=PARAMS_FILE,
            found="no section simulate",
            expected="one, where films and scans are simulated",
            do="make such a study with `cinecube init DIR --template simulated`",
        )
    clock = {"tr_s": study.clock.tr_s, "window_s": study.clock.window_s}
    return parse(SimulateSpec, clock | dict(study.simulate), f"{PARAMS_FILE}: simulate")
