"""Times that stages took on this machine, from which `plan` estimates the next run."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat, ValidationError

from cinecube.store.base.atomic import write_text
from cinecube.store.base.paths import StudyPaths

COUNTED = frozenset({"encode", "ceiling", "residual_features", "partition", "significance"})
"""Stages whose time is known to grow with something; encoders are one kind, whatever stage runs them."""


class Timing(BaseModel):
    """The last run of a stage that came to its end.

    Attributes
    ----------
    kind, item : str
        `features` and `vit`; the file's name says the film.
    seconds : float
    work : float
        What the time grows with: rows of features; of encoders, ceilings, residual features, partitions and tests the
        seconds that their work would take a machine of no name by its workers; 1 elsewhere.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: str
    item: str
    seconds: NonNegativeFloat
    work: PositiveFloat


def note(root: Path, words: tuple[str, ...], seconds: float, work: float = 1.0) -> None:
    """Keep how long a stage took, beside the journals; if that cannot be written, plans know less.

    Parameters
    ----------
    root : Path
        The study's folder.
    words : tuple of str
        The command and its arguments: `("features", "vit", "amber")`.
    seconds, work : float
        See `Timing`.
    """
    kind, item = words[0].replace("-", "_"), words[1] if words[1:] else ""
    timing = Timing(kind=kind, item=item, seconds=round(seconds, 2), work=work)
    with contextlib.suppress(OSError):
        write_text(StudyPaths(root).timings / f"{' '.join((kind, *words[1:]))}.json", timing.model_dump_json())


def expected_s(timings: Iterable[Timing], kind: str, item: str, work: float = 1.0) -> float | None:
    """Seconds that a stage would take by earlier runs: of the same model, else of others; None without any.

    Parameters
    ----------
    timings : iterable of Timing
        From `read_timings`.
    kind, item, work
        See `Timing`.

    Returns
    -------
    float or None
    """
    same_kind = [timing for timing in timings if timing.kind == kind]
    known = [timing for timing in same_kind if timing.item == item] or same_kind
    if not known:
        return None
    return work * sum(timing.seconds for timing in known) / sum(timing.work for timing in known)


def read_timings(root: Path) -> Iterator[Timing]:
    """Timings that `note` kept in a study."""
    folder = StudyPaths(root).timings
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        with contextlib.suppress(OSError, ValidationError, json.JSONDecodeError, UnicodeDecodeError):
            yield Timing.model_validate_json(path.read_text(encoding="utf-8"))
