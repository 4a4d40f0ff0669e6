"""Timing of runs: does a run follow its film, from its first frame on, as all other showings of it do?

A scan that started late, or that was saved under another film's name, scores low and says nothing. Here each run is
compared with the average of all other runs of each segment, shifted against it: brains that see the same are alike
(Hasson et al. 2004, Science 303:1634). No network has a part in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd

from cinecube.analysis.cubes.spaces import Responses
from cinecube.store.clock.clock import Clock

COLUMNS = ("subject", "segment", "repeat", "r", "shift_s", "r_shifted", "follows", "verdict", "copy_of")
"""Of the table: r with the others' average, the shift in seconds at which it is highest, r there, and the segment whose
other runs it is most like; `verdict` is `as others`, `shifted`, `another film`, `unclear`, `nobody else saw it` or
`same data`, of the run that `copy_of` names."""
AS_OTHERS, SHIFTED, SWAPPED, UNCLEAR, ALONE = "as others", "shifted", "another film", "unclear", "nobody else saw it"
COPY = "same data"

_Key = tuple[str, str, int]  # subject, segment, repeat
# Seconds: what a scanner or an operator is late by; neighbouring segments share less.
_REACH_S = 30.0
# Of a run's correlations with other films, in standard deviations: chance reaches 4 in a thousand of them.
_CLEAR = 6.0
# A shift of one row less than this above the others' is rounding of a start.
_MARGIN = 1.2
# Standard deviations of such correlations by which r of a shifted run is higher: in runs of a minute r varies as much.
_APART = 3.0
# Mean correlation above which two runs are one, saved twice: rounding of other compression or precision stays below.
_ONE = 0.9999
# Places that two runs are compared at: enough for any two scans, and little memory for all runs of six subjects.
_SAMPLED = 64
# Neighbouring targets without a parcel are averaged by so many, and at most so many blocks of a cube are read.
_TOGETHER, _BLOCK, _MOST_BLOCKS = 32, 4096, 6


@dataclass(frozen=True)
class Likeness:
    """Likeness of a run to the others of a segment.

    Attributes
    ----------
    segment : str
    r : array (shift,)
        Mean over places of the correlation, the run shifted by `shifts` rows.
    """

    segment: str
    r: np.ndarray


def run_timings(brains: Mapping[str, Responses], clock: Clock) -> pd.DataFrame:
    """Compare each run with all others of the films.

    Parameters
    ----------
    brains : Mapping of str to Responses
        By subject.
    clock : Clock
        The study's.

    Returns
    -------
    DataFrame
        `COLUMNS`, a row per run.
    """
    courses = _courses(brains, clock)
    reach = max(1, round(_REACH_S / clock.tr_s))
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}
    for (_, segment, _), course in courses.items():
        sums[segment] = _padded_sum(sums.get(segment), course)
        counts[segment] = counts.get(segment, 0) + 1
    copies = _copies(courses)
    rows = []
    for key, course in courses.items():
        judged = _judged(key, course, sums, counts, reach, clock)
        rows.append((*key, *judged[:-1], COPY if key in copies else judged[-1], copies.get(key, "")))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _copies(courses: Mapping[_Key, np.ndarray]) -> dict[_Key, str]:
    """Runs whose data another run has too, under another name of subject, segment or repeat; the first such run."""
    by_length: dict[int, list[_Key]] = {}
    for key, course in courses.items():
        by_length.setdefault(len(course), []).append(key)
    found: dict[_Key, str] = {}
    for keys in by_length.values():
        every = max(1, courses[keys[0]].shape[1] // _SAMPLED)
        series = np.stack([_standardised(courses[key][:, ::every]).ravel().astype(np.float32) for key in keys])
        scale = np.maximum(np.linalg.norm(series, axis=1), 1e-6)
        likeness = (series @ series.T) / np.outer(scale, scale)
        np.fill_diagonal(likeness, 0)
        for key, row in zip(keys, likeness, strict=True):
            if row.max(initial=0) > _ONE:
                found[key] = _run_name(*keys[int(row.argmax())])
    return found


def _run_name(subject: str, segment: str, repeat: int) -> str:
    return f"{subject} {segment} repeat {repeat}"


def _judged(
    key: _Key, course: np.ndarray, sums: Mapping[str, np.ndarray], counts: Mapping[str, int], reach: int, clock: Clock
) -> tuple[float, float, float, str, str]:
    _, own, _ = key
    if counts[own] < 2:
        return np.nan, np.nan, np.nan, "", ALONE
    others = {segment: total for segment, total in sums.items() if segment != own}
    found = [Likeness(own, shifted_likeness(course, _without(sums[own], course), reach))]
    found += [Likeness(segment, shifted_likeness(course, total, reach)) for segment, total in others.items()]
    chance = np.concatenate([one.r for one in found[1:]]) if others else found[0].r
    # By quartiles: the film that a swapped run follows is among them.
    low, middle, high = np.quantile(chance, [0.25, 0.5, 0.75])
    spread = max((high - low) / 1.349, 1e-6)
    best = max(found, key=lambda one: one.r.max())
    shift, r = int(found[0].r.argmax()) - reach, float(found[0].r[reach])
    highest = float(found[0].r.max())
    if (best.r.max() - middle) / spread < _CLEAR:
        return r, np.nan, highest, "", UNCLEAR
    if best.segment != own:
        verdict = SWAPPED
    elif shift and highest > _MARGIN * max(r, 0) and highest - r > _APART * spread:
        verdict = SHIFTED
    else:
        verdict = AS_OTHERS
    return r, shift * clock.tr_s, highest, best.segment, verdict


def shifted_likeness(course: np.ndarray, reference: np.ndarray, reach: int) -> np.ndarray:
    """Mean over places of the correlation of a course with a reference, the course up to `reach` rows late or early.

    Parameters
    ----------
    course, reference : arrays, shape (row, place), (other row, place)
        Zero where nothing is known.
    reach : int
        Rows.

    Returns
    -------
    array, shape (2 reach + 1,)
        First the course `reach` rows early, last as many late.
    """
    n_rows = len(course) + len(reference) + reach
    size = 1 << (n_rows - 1).bit_length()
    a, b = (np.fft.rfft(_standardised(values), size, axis=0) for values in (course, reference))
    # r of all shifts at once: correlation is convolution with the time reversed.
    summed = np.fft.irfft((a * b.conj()).sum(axis=1), size)
    shorter = min(len(course), len(reference))
    return np.concatenate([summed[size - reach :], summed[: reach + 1]]) / (shorter * course.shape[1])


def _standardised(values: np.ndarray) -> np.ndarray:
    spread = values.std(axis=0)
    return np.where(spread > 0, (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1), 0)


def _padded_sum(total: np.ndarray | None, course: np.ndarray) -> np.ndarray:
    if total is None:
        return course.copy()
    longer, shorter = (total, course) if len(total) >= len(course) else (course, total)
    summed = longer.copy()
    summed[: len(shorter)] += shorter
    return summed


def _without(total: np.ndarray, course: np.ndarray) -> np.ndarray:
    rest = total.copy()
    rest[: len(course)] -= course
    return rest


def _courses(brains: Mapping[str, Responses], clock: Clock) -> dict[_Key, np.ndarray]:
    """Each run's responses (row, place) on the clock, 0 where there is none, at places that all subjects have."""
    means = {subject: _place_means(brain) for subject, brain in brains.items()}
    shared = sorted(set.intersection(*(set(names) for names, _ in means.values())))
    found: dict[_Key, np.ndarray] = {}
    for subject, brain in brains.items():
        names, values = means.pop(subject)
        values = values[:, [names.index(name) for name in shared]]
        for key, rows in brain.rows.groupby(["segment", "repeat"], sort=False):
            segment, repeat = cast("tuple[str, int]", key)
            place = np.rint(rows["onset_s"].to_numpy() / clock.tr_s).astype(int)
            course = np.zeros((int(place.max()) + 1, len(shared)))
            course[place] = values[rows.index]
            found[subject, str(segment), int(repeat)] = course
    return found


def _place_means(brain: Responses) -> tuple[list[str], np.ndarray]:
    """Averages over parcels, or over neighbouring targets, of some blocks of a subject's cube (time, place)."""
    parcel = np.array([str(name) for name in brain.cube["parcel"].values], dtype=object)
    number = brain.cube["target"].values
    labels = parcel if (parcel != "").any() else np.array([f"{n // _TOGETHER}" for n in number], dtype=object)
    starts = range(0, brain.n_targets, _BLOCK)
    every = max(1, -(-len(starts) // _MOST_BLOCKS))
    sums: dict[str, np.ndarray] = {}
    for start in starts[::every]:
        inside = slice(start, start + _BLOCK)
        bold = np.nan_to_num(brain.cube["bold"].isel(target=inside).transpose("time", "target").values)
        for name in dict.fromkeys(labels[inside]):
            if name:
                total = bold[:, labels[inside] == name].sum(axis=1, dtype=np.float64)
                sums[name] = sums[name] + total if name in sums else total
    names = list(sums)
    return names, np.stack([sums[name] for name in names], axis=1) if names else np.zeros((len(brain.rows), 0))


def timing_notes(table: pd.DataFrame) -> list[str]:
    """Sentences on runs that do not follow their film from its first frame, or that are one run saved twice.

    Parameters
    ----------
    table : DataFrame
        From `run_timings`.
    """
    lines: list[str] = []
    showings = table["segment"].value_counts()
    named: set[str] = set()
    for row in table[table["verdict"].isin([SHIFTED, SWAPPED, COPY])].to_dict("records"):
        run = _run_name(row["subject"], row["segment"], row["repeat"])
        if row["verdict"] == COPY:
            if row["copy_of"] not in named:
                lines.append(f"{run} has the data of {row['copy_of']}: was one scan saved under two names?")
            named.add(run)
            continue
        if row["verdict"] == SHIFTED and showings[row["segment"]] == 2:
            # Each of two is late or early by the other.
            if row["segment"] not in named:
                lines.append(
                    f"the two runs of {row['segment']} are {abs(row['shift_s']):.3g} s apart: one of them did not start"
                    " with its film, and two do not say which"
                )
            named.add(row["segment"])
            continue
        if row["verdict"] == SWAPPED:
            lines.append(f"{run} is like runs of {row['follows']}, not of {row['segment']}: are two scans swapped?")
            continue
        shift = f"{abs(row['shift_s']):.3g} s {'late' if row['shift_s'] > 0 else 'early'}"
        lines.append(f"{run} follows its film {shift}: was its scan started with the film?")
    return lines
