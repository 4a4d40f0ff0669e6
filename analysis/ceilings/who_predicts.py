"""Whose responses predict whose: sources of each subject's cross-subject ceiling, by the runs that they have.

A subject is predicted at rows that it and all of its sources have. A source who lacks a run of the test films would
cost the subject that run, and its ceiling would be of other rows than its scores: others are its sources then, where
there are two. A source who lacks a run of the training films costs the ceiling rows to fit on, and no more.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from cinecube.analysis.cubes.rows import LEAST_SEGMENTS, RowsGroup

# Of the rows that a subject has: sources are left out, who share fewest first, while all together share fewer.
_LEAST_SHARED = 0.5
# A curve over numbers of sources needs two.
_WANTED = 2
_Row = tuple[int, int]  # row of the films, showing
_Run = tuple[str, int]  # segment, showing


def choose_sources(rows: Mapping[str, RowsGroup]) -> dict[str, tuple[str, ...]]:
    """Choose the sources of each subject: everybody else, where everybody has the same runs.

    As many of the subject's test rows as two others have are kept, or one other where no two share any: all who have
    these runs are sources, and nobody else. Then sources are left out, who share fewest rows first, until together they
    share half of the subject's rows of the training films and of these runs.

    Parameters
    ----------
    rows : Mapping of str to RowsGroup
        Each subject's own.

    Returns
    -------
    dict of str to tuple of str
        By subject, in the order of `rows`; empty where nobody shares a run of the test films and enough of the training
        films.
    """
    known = {name: _runs_of(group) for name, group in rows.items()}
    train = {name: set(_keys(group, group.train)) for name, group in rows.items()}
    found = {}
    for name, own in known.items():
        others = [other for other in rows if other != name]
        kept = _kept_runs(own, {other: known[other] for other in others})
        sources = [other for other in others if kept and all(own[run] & known[other].get(run, set()) for run in kept)]
        test = {other: set().union(*(known[other].get(run, set()) for run in kept)) for other in [name, *sources]}
        segments = _segments_of(rows[name])
        while sources and not _enough(name, sources, train, test, segments):
            shared = {other: len(train[name] & train[other]) + len(test[name] & test[other]) for other in sources}
            sources.remove(min(reversed(sources), key=shared.__getitem__))
        found[name] = tuple(sources)
    return found


def _keys(group: RowsGroup, wanted: np.ndarray) -> list[_Row]:
    return list(zip(group.feature_row[wanted].tolist(), group.repeat[wanted].tolist(), strict=True))


def _segments_of(group: RowsGroup) -> dict[_Row, str]:
    """Segment of each training row."""
    return dict(zip(_keys(group, group.train), group.segment[group.train].tolist(), strict=True))


def _runs_of(group: RowsGroup) -> dict[_Run, set[_Row]]:
    """Rows of each run of the test films."""
    runs: dict[_Run, set[_Row]] = {}
    for segment, key in zip(group.segment[~group.train].tolist(), _keys(group, ~group.train), strict=True):
        runs.setdefault((segment, key[1]), set()).add(key)
    return runs


def _kept_runs(own: Mapping[_Run, set[_Row]], others: Mapping[str, Mapping[_Run, set[_Row]]]) -> frozenset[_Run]:
    """The most rows of a subject's runs that two others have, or one other."""
    has = {
        name: frozenset(run for run, rows in own.items() if rows & runs.get(run, set()))
        for name, runs in others.items()
    }
    for n_sources in range(min(_WANTED, len(others)), 0, -1):
        shared = [
            frozenset.intersection(*(has[name] for name in some)) for some in itertools.combinations(has, n_sources)
        ]
        best = max(shared, key=lambda runs: (_n_rows(own, runs), sum(runs <= one for one in has.values())))
        if best:
            return best
    return frozenset()


def _n_rows(own: Mapping[_Run, set[_Row]], runs: Collection[_Run]) -> int:
    return sum(len(own[run]) for run in runs)


def _enough(
    name: str,
    sources: Sequence[str],
    train: Mapping[str, set[_Row]],
    test: Mapping[str, set[_Row]],
    segments: Mapping[_Row, str],
) -> bool:
    """True if a subject and all these sources share rows enough; of one source, any that can be fitted and tested."""
    parts = [set.intersection(*(of[one] for one in (name, *sources))) for of in (train, test)]
    if not parts[1] or len({segments[row] for row in parts[0]}) < min(LEAST_SEGMENTS, len(set(segments.values()))):
        return False
    least = _LEAST_SHARED if len(sources) > 1 else 0.0
    return all(len(part) >= least * len(of[name]) for part, of in zip(parts, (train, test), strict=True))
