"""Segments under other names than the study's: as BIDS tasks, below prefixes, or nearly spelt alike."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from cinecube.store.base.labels import bids_label

_TASK = re.compile(r"(?:^|_)task-([A-Za-z0-9]+)(?=_|$)")
_SHORTEST = 3


def segment_of(name: str, segments: Sequence[str]) -> str | None:
    """The segment of the study that a name means: its own, or `ses-001_task-amber01` of a scan of it.

    Parameters
    ----------
    name : str
    segments : sequence of str
        Those of the study.

    Returns
    -------
    str or None
        None where it means no segment of the study.
    """
    if name in segments:
        return name
    task = _TASK.search(name)
    return next((segment for segment in segments if task and bids_label(segment) == task[1]), None)


def nearest_segment(segment: str, names: Iterable[str]) -> str | None:
    """A name that is likely to be meant: one begins or ends as the other, or they are close, in any case.

    Parameters
    ----------
    segment : str
        The one that is missing.
    names : iterable of str
        Those that are there.

    Returns
    -------
    str or None
        None where no name is near.
    """
    own, by_label = bids_label(segment).lower(), {bids_label(name).lower(): name for name in names}
    longest = sorted((label for label in by_label if len(label) >= _SHORTEST), key=len, reverse=True)
    for label in longest:
        if any(a.endswith(b) or a.startswith(b) for a, b in ((label, own), (own, label)) if len(b) >= _SHORTEST):
            return by_label[label]
    close = difflib.get_close_matches(own, by_label, n=1, cutoff=0.8)
    return by_label[close[0]] if close else None


def near_name(missing: Sequence[str], names: Sequence[str]) -> tuple[str, str] | None:
    """A name under which a missing segment is likely to be there, and what to do about it.

    Parameters
    ----------
    missing : sequence of str
        Segments that the study names and the file lacks.
    names : sequence of str
        Names that the file has.

    Returns
    -------
    tuple of str or None
        The name, and the advice.
    """
    for segment in missing:
        if near := nearest_segment(segment, names):
            return near, f"call {near} {segment}, as `films` in params.yaml does, and likewise the others"
    return None
