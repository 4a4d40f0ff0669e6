"""Sources of scans: the runs of one subject, the places that they have values for, and these values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from cinecube.store.spaces.space import Places

RunBlocks = Iterator[tuple[slice, slice, np.ndarray]]
"""Parts of a run of at most some 8 MiB: which volumes, which places, and their values (volume, place) in float32."""
# Larger ones the system clears and takes back each time, which takes longer than reading them.
BLOCK_BYTES = 2**23


@dataclass(frozen=True)
class ScanRun:
    """One showing of one segment to one subject.

    Attributes
    ----------
    subject : str
        `sub-01`.
    segment : str
        Name of the segment in the study.
    repeat : int
        1 for the first showing, 2 for the second.
    session : str
        Label of the session, empty where there is none.
    paths : tuple of Path
        The files with its values: one, or one of each hemisphere.
    """

    subject: str
    segment: str
    repeat: int
    session: str
    paths: tuple[Path, ...]

    @property
    def path(self) -> Path:
        """The first of its files."""
        return self.paths[0]

    @property
    def where(self) -> str:
        """The name that messages give it."""
        return f"{self.subject} {self.segment} repeat {self.repeat}"


@dataclass(frozen=True)
class ScanTiming:
    """Times of a run, as headers and sidecars have them.

    Attributes
    ----------
    n_volumes : int or None
        None where its file is not here yet.
    tr_s : float
        Seconds between volumes.
    said : str
        What was taken otherwise than it is written, empty if nothing was.
    absent : tuple of int
        Volumes that were never saved: their values stand for nothing and are left out.
    """

    n_volumes: int | None
    tr_s: float
    said: str = ""
    absent: tuple[int, ...] = ()


class ScanSource(Protocol):
    """Scans of one subject in one layout and space.

    Attributes
    ----------
    subject : str
    tasks : list of str
        Names under which there are scans; a segment is looked for by `showings.task_of`.
    """

    subject: str
    tasks: list[str]

    def runs(self, segments: Sequence[str]) -> list[ScanRun]:
        """All showings of these segments that there are, in the segments' order, repeats after one another."""
        ...

    def files(self, run: ScanRun) -> list[Path]:
        """Exactly the files that are read for a run: values, mask, sidecars, confounds."""
        ...

    def timing(self, run: ScanRun) -> ScanTiming:
        """Number of volumes and the time between them, from headers alone."""
        ...

    def places(self, runs: Sequence[ScanRun]) -> Places:
        """Places that all of these runs have values for."""
        ...

    def values(self, run: ScanRun, places: Places) -> RunBlocks:
        """Values of a run at some of these places, block by block; each number once, in any order.

        Parameters
        ----------
        run : ScanRun
        places : Places
            Some of `places`.

        Yields
        ------
        volumes, places : slice
            Positions among the run's volumes, and among `places`.
        values : array of float32, shape (volume, place)
        """
        ...

    def confounds(self, run: ScanRun) -> Path | None:
        """Table of what cleaning may take out of a run; None if it has none."""
        ...
