"""Folds: whole segments left out inside the training films, with a gap where they share film."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cinecube.store.base.errors import StudyError

Fold = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Gap:
    """Rows that are dropped where a fold cuts a film in two.

    Attributes
    ----------
    gap_s : float
        Seconds of film on either side of the border that training rows may not see.
    tr_s, window_s : float
        Seconds between rows, and seconds of film that a row sees.
    max_delay : int
        Largest delay in TRs: for so long after the border, delayed features still see it.
    """

    gap_s: float
    tr_s: float
    window_s: float
    max_delay: int


def leave_segments_out(
    segment: np.ndarray,
    onset_s: np.ndarray,
    films: Mapping[str, Sequence[str]],
    last_onset_s: Mapping[str, float],
    n_folds: int,
    gap: Gap,
) -> list[Fold]:
    """Cut the training rows into folds of neighbouring whole segments.

    Parameters
    ----------
    segment : array of str, shape (row,)
        Segment of each training row.
    onset_s : array, shape (row,)
        Window starts in seconds from the segment's first frame.
    films : Mapping of str to sequence of str
        Training films with their segments in order.
    last_onset_s : Mapping of str to float
        Start of the last window of each segment's film, which a scan may not reach.
    n_folds : int
        How many folds; there are never more than segments.
    gap : Gap
        What to drop from training where a validation segment borders it in its film.

    Returns
    -------
    list of (train, validation)
        Positions among the training rows, as the `cv` argument of himalaya and scikit-learn takes them.

    Raises
    ------
    StudyError
        If fewer than two segments have rows, or a fold has nothing left to train on.
    """
    present = [name for names in films.values() for name in names if (segment == name).any()]
    if len(present) < 2:
        raise StudyError(
            where="folds inside the training films",
            found=f"{len(present)} segment",
            expected="at least 2, one of them to validate on",
            do="name more films in split.train, or cut the film into segments",
        )
    rows = [int((segment == name).sum()) for name in present]
    folds = []
    for start, stop in _balanced(rows, min(n_folds, len(present))):
        held_out = present[start:stop]
        validation = np.isin(segment, held_out)
        near = _near_border(segment, onset_s, films, last_onset_s, held_out, gap)
        train = ~validation & ~near
        if not train.any():
            raise StudyError(
                where=f"fold that holds out {', '.join(held_out)}",
                found="no training row outside the gap",
                expected="training rows",
                do=f"lower split.gap_s or the largest of encode.delays ({gap.max_delay}), or use longer segments",
            )
        folds.append((np.flatnonzero(train), np.flatnonzero(validation)))
    return folds


def _near_border(
    segment: np.ndarray,
    onset_s: np.ndarray,
    films: Mapping[str, Sequence[str]],
    last_onset_s: Mapping[str, float],
    held_out: Sequence[str],
    gap: Gap,
) -> np.ndarray:
    """Rows of segments next to a held-out one whose features see film that it may share, shape (row,)."""
    near = np.zeros(segment.shape, dtype=bool)
    for names in films.values():
        for before, after in itertools.pairwise(names):
            if after in held_out and before not in held_out:
                # The film may end right after its last window opens.
                reaches = onset_s + gap.window_s > last_onset_s[before] - gap.gap_s
                near |= (segment == before) & reaches
            if before in held_out and after not in held_out:
                near |= (segment == after) & (onset_s < gap.gap_s + gap.max_delay * gap.tr_s)
    return near


def _balanced(rows: Sequence[int], n_parts: int) -> list[tuple[int, int]]:
    """Cut a list into `n_parts` contiguous parts whose sums differ least in squares."""
    total = np.concatenate([[0], np.cumsum(rows)])
    cost = np.full((n_parts + 1, len(rows) + 1), np.inf)
    cut = np.zeros((n_parts + 1, len(rows) + 1), dtype=int)
    cost[0, 0] = 0
    for part in range(1, n_parts + 1):
        for stop in range(part, len(rows) + 1):
            starts = np.arange(part - 1, stop)
            costs = cost[part - 1, starts] + (total[stop] - total[starts]).astype(float) ** 2
            best = int(np.argmin(costs))
            cost[part, stop], cut[part, stop] = costs[best], starts[best]
    edges = [len(rows)]
    for part in range(n_parts, 0, -1):
        edges.append(int(cut[part, edges[-1]]))
    edges.reverse()
    return list(itertools.pairwise(edges))
