"""Onsets of added features that are no seconds: milliseconds, row numbers, times from the film's first segment on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from cinecube.store.base.errors import StudyError
from cinecube.store.clock.clock import Clock, same_step

_UNITS = {"milliseconds": 1e-3, "microseconds": 1e-6, "nanoseconds": 1e-9}
# No scan is so long, and no row of features that are worth encoding spans so many TRs.
_LONGEST_S = 7200.0
_LONGEST_STEP_TRS = 10
# Features of one row a second may end so much before their film.
_LOST_S, _LOST_SHARE = 2.0, 0.05


def refuse_other_units(
    rows: pd.DataFrame, lengths_s: Mapping[str, float], clock: Clock, model: str, *, in_seconds: bool, films: bool
) -> None:
    """Refuse onsets that count milliseconds or rows.

    Parameters
    ----------
    rows : DataFrame
        `segment` and `onset_s` of each row, as the user gives them, of the study's segments.
    lengths_s : Mapping of str to float
        Length of each segment in seconds, where it is known.
    clock : Clock
    model : str
        For messages.
    in_seconds : bool
        Whether the user says how many seconds a row sees: then whole numbers are seconds.
    films : bool
        Whether the study has films, which tell how long segments are.

    Raises
    ------
    StudyError
    """
    by_segment = {str(name): own.to_numpy(float) for name, own in rows.groupby("segment", sort=False)["onset_s"]}
    if not in_seconds:
        _refuse_row_numbers(by_segment, lengths_s, clock, model, films)
    for name, onsets_s in by_segment.items():
        step_s = float(np.median(np.diff(onsets_s))) if len(onsets_s) > 1 else 0.0
        length_s = lengths_s.get(name)
        if length_s is not None:
            do = _unlike_film(onsets_s, step_s, length_s, clock)
        else:
            steep = not in_seconds and step_s > _LONGEST_STEP_TRS * clock.tr_s
            do = "if they are milliseconds, multiply them by 0.001" if steep or onsets_s[-1] > _LONGEST_S else None
        if do:
            raise StudyError(
                where=f"model {model} {name}",
                found=f"onsets from {onsets_s[0]:g} to {onsets_s[-1]:g}, {step_s:g} apart",
                expected="seconds from the segment's first frame" + (f", which has {length_s:g}" if length_s else ""),
                do=do,
            )


def _unlike_film(onsets: np.ndarray, step: float, length_s: float, clock: Clock) -> str | None:
    """Advice on onsets that fit a film in another unit, or from another moment on; None if neither is so."""
    if float(onsets[-1]) - length_s <= clock.max_trim_s and onsets[0] <= clock.max_trim_s:
        return None
    for unit, factor in _UNITS.items():
        if abs((float(onsets[-1]) + step) * factor - length_s) <= clock.max_trim_s:
            return f"they look like {unit}: multiply them by {factor:g}"
    if abs(float(onsets[-1] - onsets[0]) + step - length_s) <= clock.max_trim_s:
        return f"subtract {onsets[0]:g}, so that they begin at 0"
    return None


def _refuse_row_numbers(
    by_segment: Mapping[str, np.ndarray], lengths_s: Mapping[str, float], clock: Clock, model: str, films: bool
) -> None:
    """Refuse 0, 1, 2, … unless they are seconds by the films' lengths, or the clock's own."""
    if same_step(clock.tr_s, 1) or not all((np.diff(onsets) == 1).all() for onsets in by_segment.values()):
        return
    several = [name for name, onsets in by_segment.items() if len(onsets) > 1]
    known = [name for name in several if name in lengths_s]
    if not several or (known and all(_lasts(by_segment[name], lengths_s[name]) for name in known)):
        return
    name = (known or several)[0]
    first, last = by_segment[name][[0, -1]]
    if not known:  # nobody knows yet: to multiply seconds would spoil them
        do = "say `window_s=1` if they are seconds"
        if films:
            do = f"run `cinecube films` first, which tells how long segments are, or {do}"
        else:
            by = f"the seconds between rows ({clock.tr_s:g} at this study's clock)"
            do += f"; multiply them by {by} if they number rows"
        raise StudyError(
            where=f"model {model} {name}",
            found=f"onsets {first:g}, {first + 1:g}, … {last:g}, which may be seconds or number rows",
            expected="to know which: no table of films tells how long segments are",
            do=do,
        )
    raise StudyError(
        where=f"model {model} {name}",
        found=f"onsets {first:g}, {first + 1:g}, … {last:g}, which number rows",
        expected=f"seconds from the segment's first frame: the film lasts {lengths_s[name]:g} s",
        do=f"multiply them by the seconds between rows ({clock.tr_s:g} at this study's clock), or say `window_s=1` if "
        "they are seconds",
    )


def _lasts(onsets: np.ndarray, length_s: float) -> bool:
    """True if rows of one second last about as long as the film."""
    return abs(float(onsets[-1]) + 1 - length_s) <= max(_LOST_S, _LOST_SHARE * length_s)
