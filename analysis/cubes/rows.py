"""Rows: which moments features and responses share, found by labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from cinecube.analysis.cubes.unscored import listed
from cinecube.store.base.errors import StudyError, some_of
from cinecube.store.clock.clock import match_onsets

LEAST_SEGMENTS = 2
"""Training segments that a subject needs: penalties are chosen on one that was left out."""
_Key = tuple[int, int]  # (feature row, repeat); repeat 0 is the mean over repeats


@dataclass(frozen=True)
class RowsGroup:
    """Rows that the same factorisation serves, and the subjects who have them.

    Attributes
    ----------
    subjects : tuple of str
        Subjects whose responses are read at these rows.
    segment : array of str, shape (row,)
        Segment of each row, training films first.
    onset_s : array, shape (row,)
        Window start in seconds from the segment's first frame.
    feature_row : array of int, shape (row,)
        Position of the row in the feature cubes.
    repeat : array of int, shape (row,)
        Showing of the row's segment; 0 for the mean over showings.
    train : array of bool, shape (row,)
        Whether the row belongs to a training film; the others belong to a test film.
    showings : dict of str to array of int, shape (row, showing)
        Per subject, positions in the brain cube whose mean is the row's response; -1 pads.
    """

    subjects: tuple[str, ...]
    segment: np.ndarray
    onset_s: np.ndarray
    feature_row: np.ndarray
    repeat: np.ndarray
    train: np.ndarray
    showings: dict[str, np.ndarray]

    def counts(self, segments: Sequence[str]) -> dict[str, Any]:
        """Rows to fit and to test on, and those of `segments` that have no row, if there are any."""
        train, here = int(self.train.sum()), set(self.segment)
        absent = [name for name in segments if name not in here]
        return {"train": train, "test": len(self.train) - train, **({"without": absent} if absent else {})}


def find_unfit(
    brains: Mapping[str, pd.DataFrame], train: Sequence[str], test: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Subjects whose runs are too few to be fitted and tested; the others' rows do not depend on theirs.

    Parameters
    ----------
    brains : Mapping of str to DataFrame
        Rows of each subject's brain cube: `segment`.
    train, test : sequence of str
        Segments to fit on and to test on.

    Returns
    -------
    dict of str to dict
        By subject, what a score cube says of its rows: how many there are, segments that it lacks, and `lacks`, in
        words, what is there and what would be needed. Empty where the films themselves are too few: nobody is unfit.

    Raises
    ------
    StudyError
        If all of them are.
    """
    found = {}
    least = min(LEAST_SEGMENTS, len(train))
    for subject, brain in brains.items():
        here = brain["segment"].value_counts()
        trained, tested = ([name for name in names if name in here.index] for names in (train, test))
        if len(trained) >= least and tested:
            continue
        words = []
        if len(trained) < least:
            has = f"{', '.join(trained)} alone" if trained else "none"
            words.append(f"of the training films it has {has}, and {least} segments are the least, one to validate on")
        if not tested:
            words.append(f"of the test films ({listed(test)}) it has none")
        found[subject] = {
            "train": int(here[trained].sum()),
            "test": int(here[tested].sum()),
            "without": [name for name in [*train, *test] if name not in here.index],
            "lacks": "; ".join(words),
        }
    if found and len(found) == len(brains):
        raise StudyError(
            where="brain.subjects",
            found="too few runs of everybody: "
            + some_of([f"{subject}: {rows['lacks']}" for subject, rows in found.items()], 3, " | "),
            expected="a subject with runs to fit on, to validate on and to test on",
            do="add the scans, or change `split`",
        )
    return found


def align(
    features: pd.DataFrame,
    brains: Mapping[str, pd.DataFrame],
    *,
    train: Sequence[str],
    test: Sequence[str],
    repeats: Literal["average", "separate"],
    rows: Literal["common", "own", "shared"],
) -> list[RowsGroup]:
    """Match features and responses by segment and onset, never by position.

    Parameters
    ----------
    features : DataFrame
        Rows of the feature cubes: `segment`, `onset_s`.
    brains : Mapping of str to DataFrame
        Rows of each subject's brain cube: `segment`, `repeat`, `onset_s`.
    train, test : sequence of str
        Segments to fit on and to test on, in the order of their films.
    repeats : {"average", "separate"}
        Take the mean over the showings of a segment, of rows that all of them have, or keep each as rows of its own.
    rows : {"common", "own", "shared"}
        Keep rows that all subjects have who saw their showing, or all rows of each subject, grouping subjects whose
        rows agree; or keep rows that every subject has, in one group. A run that a subject lacks costs another none,
        but of "shared".

    Returns
    -------
    list of RowsGroup
        One per different set of rows.

    Raises
    ------
    StudyError
        If the features lack a whole segment, a subject saw none of the training or of the test films, or has a row
        twice, or no row is left.
    """
    segments = [*train, *test]
    keys = {subject: _subject_rows(features, brain, segments, repeats, subject) for subject, brain in brains.items()}
    _refuse_unseen(features, keys, train, test)
    segment_of = features["segment"].to_numpy()
    if rows == "shared":
        shared = set.intersection(*(set(found) for found in keys.values()))
        kept = dict.fromkeys(keys, shared)
    elif rows == "common":
        kept = _common(keys, segment_of)
    else:
        kept = {subject: set(found) for subject, found in keys.items()}
    parts: dict[tuple[_Key, ...], list[str]] = {}
    for subject, own in kept.items():
        parts.setdefault(tuple(sorted(own)), []).append(subject)
    return [
        _group(features, _in_order(segment_of, own, segments), {name: keys[name] for name in names}, train, test)
        for own, names in parts.items()
    ]


def _common(keys: Mapping[str, Mapping[_Key, list[int]]], segment_of: np.ndarray) -> dict[str, set[_Key]]:
    """Rows of each subject that all have who saw that showing of their segment."""
    seen: dict[str, dict[tuple[str, int], set[_Key]]] = {}
    for subject, found in keys.items():
        for row, repeat in found:
            seen.setdefault(subject, {}).setdefault((segment_of[row], repeat), set()).add((row, repeat))
    shared: dict[tuple[str, int], set[_Key]] = {}
    for own in seen.values():
        for showing, rows in own.items():
            shared[showing] = shared.get(showing, rows) & rows
    return {subject: set().union(*(shared[showing] for showing in own)) for subject, own in seen.items()}


def _subject_rows(
    features: pd.DataFrame, brain: pd.DataFrame, segments: Sequence[str], repeats: str, subject: str
) -> dict[_Key, list[int]]:
    """Brain rows of each row of a subject."""
    found: dict[_Key, list[int]] = {}
    for segment in segments:
        feature_rows = np.flatnonzero(features["segment"] == segment)
        brain_rows = np.flatnonzero(brain["segment"] == segment)
        if feature_rows.size == 0:
            raise StudyError(
                where=f"features {segment}",
                found="no rows",
                expected="features of every segment of `split`",
                do="add the features, or take the segment out of `films`",
            )
        if brain_rows.size == 0:
            continue
        showings = _showings(features, brain, feature_rows, brain_rows, f"{subject} {segment}")
        if repeats == "separate":
            found |= {(row, repeat): [at] for repeat, rows in showings.items() for row, at in rows.items()}
        else:
            shared = set.intersection(*(set(rows) for rows in showings.values()))
            found |= {(row, 0): [rows[row] for rows in showings.values()] for row in shared}
    return found


def _refuse_unseen(
    features: pd.DataFrame, keys: Mapping[str, Mapping[_Key, list[int]]], train: Sequence[str], test: Sequence[str]
) -> None:
    """Refuse a subject who has no row of the training films, or none of the test films."""
    segment_of = features["segment"].to_numpy()
    for subject, found in keys.items():
        seen = {segment_of[row] for row, _ in found}
        for kind, segments in (("training", train), ("test", test)):
            if not seen & set(segments):
                raise StudyError(
                    where=f"{subject} {segments[0]}",
                    found=f"no rows of it, nor of another segment of the {kind} films",
                    expected="scans to fit on and scans to test on",
                    do="add the scans, or take the subject out of brain.subjects",
                )


def _showings(
    features: pd.DataFrame, brain: pd.DataFrame, feature_rows: np.ndarray, brain_rows: np.ndarray, where: str
) -> dict[int, dict[int, int]]:
    """Per repeat of one segment: feature row -> brain row."""
    known_s = features["onset_s"].to_numpy()[feature_rows]
    repeat_of = brain["repeat"].to_numpy()[brain_rows]
    showings = {}
    for repeat in np.unique(repeat_of):
        at = brain_rows[repeat_of == repeat]
        index = match_onsets(brain["onset_s"].to_numpy()[at], known_s)
        matched = feature_rows[index[index >= 0]].tolist()
        if len(set(matched)) < len(matched):
            raise StudyError(
                where=f"{where} repeat {repeat}",
                found=f"{len(matched) - len(set(matched))} rows twice",
                expected="each onset once in a showing",
                do="number the showings of this segment 1, 2, … in the scans",
            )
        showings[int(repeat)] = dict(zip(matched, at[index >= 0].tolist(), strict=True))
    return showings


def _in_order(segment_of: np.ndarray, kept: Sequence[_Key], segments: Sequence[str]) -> list[_Key]:
    """Rows by segment as `split` has them, then repeat, then time."""
    place = {segment: i for i, segment in enumerate(segments)}
    return sorted(kept, key=lambda key: (place[segment_of[key[0]]], key[1], key[0]))


def _group(
    features: pd.DataFrame,
    kept: Sequence[_Key],
    found: Mapping[str, Mapping[_Key, list[int]]],
    train: Sequence[str],
    test: Sequence[str],
) -> RowsGroup:
    feature_row = np.array([row for row, _ in kept], dtype=np.int64)
    segment = features["segment"].to_numpy()[feature_row]
    for films, name in ((train, "training"), (test, "test")):
        if not np.isin(segment, films).any():
            raise StudyError(
                where=f"{name} films of {', '.join(found)}",
                found="no row that all of them have",
                expected=f"rows of {', '.join(films)}",
                do="compare onset_s of the brain and feature cubes with `cinecube show`",
            )
    return RowsGroup(
        subjects=tuple(found),
        segment=segment,
        onset_s=features["onset_s"].to_numpy()[feature_row],
        feature_row=feature_row,
        repeat=np.array([repeat for _, repeat in kept], dtype=np.int64),
        train=np.isin(segment, train),
        showings={subject: _padded([rows[key] for key in kept]) for subject, rows in found.items()},
    )


def _padded(positions: Sequence[Sequence[int]]) -> np.ndarray:
    """Lists of different lengths as one array of shape (row, showing), padded with -1."""
    padded = np.full((len(positions), max(map(len, positions))), -1, dtype=np.int64)
    for row, found in enumerate(positions):
        padded[row, : len(found)] = found
    return padded
