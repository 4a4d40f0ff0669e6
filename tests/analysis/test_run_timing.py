"""A run that started late, or that is another film's, is named, and no other."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from cinecube.analysis.ceilings.run_timing import run_timings, shifted_likeness, timing_notes
from cinecube.analysis.cubes.spaces import Responses
from cinecube.store.clock.clock import Clock

CLOCK = Clock(tr_s=1.49, window_s=1.49)
FILMS = {"amber01": 150, "amber02": 140, "dune01": 160}
N_PARCELS = 12


def _course(segment: str) -> np.ndarray:
    """What a segment drives (row, parcel), longer than the film on both sides."""
    rng = np.random.default_rng(sum(map(ord, segment)))
    noise = rng.standard_normal((FILMS[segment] + 80, N_PARCELS))
    return np.stack([np.convolve(column, [1, 2, 3, 2, 1], "same") / 4.4 for column in noise.T], axis=1)


def _brain(
    subject: str, seen: Mapping[tuple[str, int], tuple[str, int]] = {}, repeats: int = 1, lost: int = 0
) -> Responses:
    """Responses; `seen` names runs that really are of another segment, or are some rows late."""
    rng = np.random.default_rng(sum(map(ord, subject)))
    parts, rows = [], []
    for segment, length in FILMS.items():
        for repeat in range(1, repeats + 1):
            real, late = seen.get((segment, repeat), (segment, 0))
            own = _course(real)[40 - late : 40 - late + length] + rng.standard_normal((length, N_PARCELS)) * 2
            kept = np.delete(np.arange(length), slice(30, 30 + lost))
            parts.append(np.repeat(own[kept], 3, axis=1) + rng.standard_normal((len(kept), 3 * N_PARCELS)))
            rows.append(pd.DataFrame({"segment": segment, "repeat": repeat, "onset_s": CLOCK.onsets_s(length)[kept]}))
    table = pd.concat(rows, ignore_index=True)
    names = [f"L_{p}" for p in range(N_PARCELS) for _ in range(3)]
    cube = xr.Dataset(
        {"bold": (("time", "target"), np.concatenate(parts).astype(np.float32))},
        coords={"target": np.arange(3 * N_PARCELS), "parcel": ("target", np.array(names, dtype=object))},
    )
    return Responses(subject, cube, table)


def test_a_course_that_comes_late_is_like_itself_at_that_shift() -> None:
    course = _course("dune01")
    for late in (-7, 0, 3):
        r = shifted_likeness(course[40 - late : 140 - late], course[40:140], 10)
        assert r.argmax() - 10 == late
        assert r.max() > 0.85
    np.testing.assert_allclose(shifted_likeness(course, course, 2)[2], 1)


@pytest.mark.parametrize("lost", [0, 9])
def test_runs_that_follow_their_films_are_as_others(lost: int) -> None:
    table = run_timings({name: _brain(name, repeats=2, lost=lost) for name in ("sub-01", "sub-02", "sub-03")}, CLOCK)
    assert len(table) == 18
    assert set(table["verdict"]) == {"as others"}
    assert timing_notes(table) == []


def test_a_late_run_and_a_swap_are_named_and_no_other() -> None:
    brains = {name: _brain(name) for name in ("sub-01", "sub-02", "sub-03", "sub-04")}
    brains["sub-02"] = _brain("sub-02", {("amber02", 1): ("amber02", 4)})
    brains["sub-04"] = _brain("sub-04", {("amber01", 1): ("dune01", 0), ("dune01", 1): ("amber01", 0)})
    table = run_timings(brains, CLOCK)
    odd = table[table["verdict"] != "as others"].set_index(["subject", "segment"])
    assert odd["verdict"].to_dict() == {
        ("sub-02", "amber02"): "shifted",
        ("sub-04", "amber01"): "another film",
        ("sub-04", "dune01"): "another film",
    }
    assert odd.loc[("sub-02", "amber02"), "shift_s"] == pytest.approx(4 * 1.49)
    assert timing_notes(table) == [
        "sub-02 amber02 repeat 1 follows its film 5.96 s late: was its scan started with the film?",
        "sub-04 amber01 repeat 1 is like runs of dune01, not of amber01: are two scans swapped?",
        "sub-04 dune01 repeat 1 is like runs of amber01, not of dune01: are two scans swapped?",
    ]


def test_noise_is_unclear_and_a_lone_run_has_nobody_to_be_like() -> None:
    rng = np.random.default_rng(5)
    brains = {name: _brain(name) for name in ("sub-01", "sub-02")}
    for brain in brains.values():
        brain.cube["bold"].values[:] = rng.standard_normal(brain.cube["bold"].shape)
    assert set(run_timings(brains, CLOCK)["verdict"]) == {"unclear"}
    alone = run_timings({"sub-01": _brain("sub-01")}, CLOCK)
    assert set(alone["verdict"]) == {"nobody else saw it"}
    assert timing_notes(alone) == []


def test_two_runs_do_not_say_which_of_them_is_late() -> None:
    brains = {"sub-01": _brain("sub-01"), "sub-02": _brain("sub-02", {("amber01", 1): ("amber01", 4)})}
    table = run_timings(brains, CLOCK)
    assert table[table["verdict"] == "shifted"]["segment"].tolist() == ["amber01", "amber01"]
    assert timing_notes(table) == [
        "the two runs of amber01 are 5.96 s apart: one of them did not start with its film, and two do not say which"
    ]


def test_one_scan_under_two_names_is_named_and_no_other() -> None:
    """Of another subject, and of another film of that length; the copy is of lower precision."""
    brains = {name: _brain(name) for name in ("sub-01", "sub-02", "sub-03")}
    one, two = brains["sub-01"], brains["sub-02"]
    rows = np.flatnonzero(one.rows["segment"] == "amber02")
    copied = two.cube["bold"].values.copy()
    copied[rows] = one.cube["bold"].values[rows].astype(np.float16)
    brains["sub-02"] = Responses("sub-02", two.cube.assign(bold=(("time", "target"), copied)), two.rows)
    table = run_timings(brains, CLOCK)
    assert table[table["copy_of"] != ""].set_index(["subject", "segment"])["copy_of"].to_dict() == {
        ("sub-01", "amber02"): "sub-02 amber02 repeat 1",
        ("sub-02", "amber02"): "sub-01 amber02 repeat 1",
    }
    assert set(table["verdict"]) == {"as others", "same data"}
    assert timing_notes(table) == [
        "sub-01 amber02 repeat 1 has the data of sub-02 amber02 repeat 1: was one scan saved under two names?"
    ]
