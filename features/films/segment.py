"""Facts of a segment's file; imports no decoder, so that plans and explanations need none."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

# Times at frame borders must not fall one frame short by the last bit of a product.
_SLACK_FRAMES = 1e-6


@dataclass(frozen=True)
class Picture:
    """The stream that is a film's picture, and what is done to its frames.

    Attributes
    ----------
    stream : int
        Its number in the file.
    width, height : int
        Pixels of a frame as it is stored.
    first : bool
        Whether it is the first that is no cover, as in most files.
    mirrored : bool
        Whether frames are mirrored, left to right, before they are turned.
    turns : int
        Quarter turns clockwise that make them upright.
    pixel_aspect : Fraction
        How many times as wide as high a stored pixel is shown; the width is scaled by it.
    colours : str
        What is out of the ordinary in them; empty for those that ordinary screens show.
    """

    stream: int
    width: int
    height: int
    first: bool = True
    mirrored: bool = False
    turns: int = 0
    pixel_aspect: Fraction = Fraction(1)
    colours: str = ""

    @property
    def square_width(self) -> int:
        """Width of a frame that is not turned yet, in square pixels."""
        return max(1, round(self.width * self.pixel_aspect))

    @property
    def shown_size(self) -> tuple[int, int]:
        """Width and height of a frame as it is shown."""
        size = self.square_width, self.height
        return size if self.turns % 2 == 0 else size[::-1]

    @property
    def choices(self) -> dict[str, Any]:
        """Unusual choices that change the numbers: part of the fingerprint."""
        aspect = f"{self.pixel_aspect.numerator}:{self.pixel_aspect.denominator}"
        found = {
            "stream": None if self.first else self.stream,
            "mirrored": self.mirrored,
            "rotation": 90 * self.turns,
            "pixel_aspect": None if self.pixel_aspect == 1 else aspect,
            "colours": self.colours,
        }
        return {key: value for key, value in found.items() if value}


@dataclass(frozen=True)
class Sound:
    """The stream that is a film's sound.

    Attributes
    ----------
    stream : int
        Its number in the file.
    first : bool
        Whether it is the file's first, as in most.
    """

    stream: int
    first: bool = True

    @property
    def choices(self) -> dict[str, Any]:
        """Unusual choices that change the numbers: part of the fingerprint."""
        return {} if self.first else {"stream": self.stream}


@dataclass(frozen=True)
class Tracks:
    """The streams of a file that are read.

    Attributes
    ----------
    picture : Picture or None
    sound : Sound or None
    said : tuple of str
        What was chosen for the user, in words.
    """

    picture: Picture | None
    sound: Sound | None
    said: tuple[str, ...] = ()

    @property
    def choices(self) -> dict[str, dict[str, Any]]:
        """Choices of `picture` and `sound`, each with those that are unusual and change the numbers."""
        parts = {"picture": self.picture, "sound": self.sound}
        return {name: part.choices for name, part in parts.items() if part and part.choices}


@dataclass(frozen=True)
class SegmentInfo:
    """A segment's file; every frame of it has been decoded once.

    Attributes
    ----------
    path : Path
        The file.
    where : str
        What messages call it.
    tracks : Tracks
        Which of its streams are read, and how.
    rate_hz : Fraction
        Frames per second; 0 where there is no picture.
    n_frames : int
        Frames that can be shown.
    start_s : Fraction
        Presentation time of the first of them, or of the first sample where there is no picture: zero of the
        segment's time.
    sound_rate_hz : int
        Samples per second of the sound track; 0 if there is none.
    sound_s : float
        When the sound ends.
    said : tuple of str
        What was chosen for the user and what is out of the ordinary, in words.
    """

    path: Path
    where: str
    tracks: Tracks
    rate_hz: Fraction
    n_frames: int
    start_s: Fraction
    sound_rate_hz: int
    sound_s: float
    said: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Width of the picture as it is shown, in square pixels; 0 without one."""
        return self.tracks.picture.shown_size[0] if self.tracks.picture else 0

    @property
    def height(self) -> int:
        """Height of the picture as it is shown; 0 without one."""
        return self.tracks.picture.shown_size[1] if self.tracks.picture else 0

    @property
    def duration_s(self) -> float:
        """Seconds of picture, or of sound where there is no picture."""
        return float(self.n_frames / self.rate_hz) if self.n_frames else self.sound_s

    @property
    def has_sound(self) -> bool:
        """True if there is a sound track."""
        return self.sound_rate_hz > 0

    def frame_at(self, time_s: float) -> int:
        """Number of the frame shown at a time of the segment, the last one after its end."""
        return min(max(math.floor(time_s * float(self.rate_hz) + _SLACK_FRAMES), 0), self.n_frames - 1)
