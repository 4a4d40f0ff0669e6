"""Events of a film and their times: cuts, sound scenes, and events, shared by picture and sound or private."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cinecube.simulation.setup.seeding import generator

_CUT_S = (1.5, 6.0)
_EVENT_GAP_S = (0.5, 2.5)
_SHARED_CUTS = 0.6


@dataclass(frozen=True)
class Event:
    """Something short: a flash or shape in the picture, a tone or burst in the sound, or both at once.

    Attributes
    ----------
    index : int
        Its number in the film, which names its random draws.
    start_s, length_s : float
        When, in seconds of the film.
    seen, heard : bool
        Whether the picture and the sound show it.
    """

    index: int
    start_s: float
    length_s: float
    seen: bool
    heard: bool


@dataclass(frozen=True)
class Script:
    """One film, as its picture and its sound both follow it.

    Attributes
    ----------
    seed : int
        The study's seed.
    film : str
        The film's name.
    cuts_s, sound_cuts_s : ndarray
        Where picture and sound change scene, beginning with 0 and ending after the film's end.
    events : tuple of Event
        In order of their start.
    """

    seed: int
    film: str
    cuts_s: np.ndarray
    sound_cuts_s: np.ndarray
    events: tuple[Event, ...]


def write_script(seed: int, film: str, seconds: float) -> Script:
    """The script of a film `seconds` long.

    A longer film begins like a shorter one of the same seed and name.

    Parameters
    ----------
    seed : int
        The study's.
    film : str
    seconds : float

    Returns
    -------
    Script
    """
    cuts = _renewal(generator(seed, film, "cuts"), _CUT_S, seconds)
    rng = generator(seed, film, "sound cuts")
    private = _renewal(generator(seed, film, "private sound cuts"), (4.0, 12.0), seconds)[1:]
    shared = cuts[1:-1][rng.random(len(cuts) - 2) < _SHARED_CUTS]
    sound_cuts = np.unique(np.concatenate([[0.0], shared, private]))
    rng = generator(seed, film, "events")
    starts = _renewal(rng, _EVENT_GAP_S, seconds)[1:-1]
    rng = generator(seed, film, "event kinds")
    events = []
    for index, start in enumerate(starts):
        kind, length = rng.random(), float(rng.uniform(0.15, 0.9))
        events.append(Event(index, float(start), length, seen=kind < 0.7, heard=kind > 0.3))
    return Script(seed, film, cuts, sound_cuts, tuple(events))


def _renewal(rng: np.random.Generator, gap_s: tuple[float, float], seconds: float) -> np.ndarray:
    """Times from 0 to past `seconds` whose gaps are uniform in `gap_s`."""
    times = [0.0]
    while times[-1] <= seconds:
        times.append(times[-1] + float(rng.uniform(*gap_s)))
    return np.array(times)
