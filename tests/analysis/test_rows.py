from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.conftest import REPOSITORY

from cinecube.analysis.cubes.rows import align
from cinecube.analysis.cubes.spaces import FeatureSpace
from cinecube.analysis.encoders.problem import make_design, make_layout, make_settings
from cinecube.store.base.errors import StudyError
from cinecube.store.clock.clock import match_onsets
from cinecube.store.params.document import load_study

TR_S = 1.49


def feature_rows(**lengths: int) -> pd.DataFrame:
    return brain_rows(*((segment, 1, range(n)) for segment, n in lengths.items())).drop(columns="repeat")


def brain_rows(*showings: tuple[str, int, range]) -> pd.DataFrame:
    parts = [
        pd.DataFrame({"segment": segment, "repeat": repeat, "onset_s": np.round(np.array(rows) * TR_S, 6)})
        for segment, repeat, rows in showings
    ]
    return pd.concat(parts, ignore_index=True)


FEATURES = feature_rows(amber01=5, dune01=4)
SPLIT = {"train": ["amber01"], "test": ["dune01"]}


def test_common_rows_are_those_of_all_subjects_whatever_their_order() -> None:
    brains = {
        "sub-01": brain_rows(("dune01", 1, range(4)), ("amber01", 1, range(4))),
        "sub-02": brain_rows(("amber01", 1, range(1, 6)), ("dune01", 1, range(3))),
    }
    (group,) = align(FEATURES, brains, **SPLIT, repeats="average", rows="common")
    assert group.subjects == ("sub-01", "sub-02")
    assert group.feature_row.tolist() == [1, 2, 3, 5, 6, 7]
    assert group.train.tolist() == [True] * 3 + [False] * 3
    for subject, brain in brains.items():
        matched = brain.iloc[group.showings[subject][:, 0]]
        assert matched["segment"].tolist() == group.segment.tolist()
        np.testing.assert_allclose(matched["onset_s"], group.onset_s)


def test_own_rows_group_subjects_that_agree() -> None:
    whole = brain_rows(("amber01", 1, range(5)), ("dune01", 1, range(4)))
    short = brain_rows(("amber01", 1, range(3)), ("dune01", 1, range(4)))
    brains = {"sub-01": whole, "sub-02": short, "sub-03": whole}
    groups = align(FEATURES, brains, **SPLIT, repeats="average", rows="own")
    assert [group.subjects for group in groups] == [("sub-01", "sub-03"), ("sub-02",)]
    assert [len(group.train) for group in groups] == [9, 7]


def test_repeats_share_their_common_rows_or_stay_separate() -> None:
    brains = {"sub-01": brain_rows(("amber01", 1, range(5)), ("dune01", 1, range(4)), ("dune01", 2, range(3)))}
    (mean,) = align(FEATURES, brains, **SPLIT, repeats="average", rows="common")
    assert mean.showings["sub-01"].tolist() == [[0, -1], [1, -1], [2, -1], [3, -1], [4, -1], [5, 9], [6, 10], [7, 11]]
    (each,) = align(FEATURES, brains, **SPLIT, repeats="separate", rows="common")
    assert each.showings["sub-01"][:, 0].tolist() == list(range(12))
    assert each.feature_row.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 5, 6, 7]


def test_a_run_that_a_subject_lacks_costs_nobody_else_a_row() -> None:
    features = feature_rows(amber01=5, amber02=3, dune01=4)
    split = {"train": ["amber01", "amber02"], "test": ["dune01"]}
    whole = [("amber01", 1, range(5)), ("amber02", 1, range(3)), ("dune01", 1, range(4)), ("dune01", 2, range(4))]
    brains = {
        "sub-01": brain_rows(*whole),
        "sub-02": brain_rows(("amber01", 1, range(4)), *whole[2:]),  # no amber02, amber01 cut
        "sub-03": brain_rows(*whole[:3]),  # one showing of dune01
    }
    groups = align(features, brains, **split, repeats="average", rows="common")
    assert [group.subjects for group in groups] == [("sub-01", "sub-03"), ("sub-02",)]
    # Of amber01 all have four rows; amber02 is whole for those who saw it.
    assert [group.feature_row.tolist() for group in groups] == [
        [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11],
        [0, 1, 2, 3, 8, 9, 10, 11],
    ]
    assert [group.counts(["amber01", "amber02", "dune01"]) for group in groups] == [
        {"train": 7, "test": 4},
        {"train": 4, "test": 4, "without": ["amber02"]},
    ]
    each = align(features, brains, **split, repeats="separate", rows="common")
    assert {name: int((~group.train).sum()) for group in each for name in group.subjects} == {
        "sub-01": 8,
        "sub-02": 8,
        "sub-03": 4,
    }
    own = align(features, brains, **split, repeats="average", rows="own")
    assert {name: len(group.train) for group in own for name in group.subjects} == {
        "sub-01": 12,
        "sub-02": 8,
        "sub-03": 12,
    }
    (shared,) = align(features, brains, **split, repeats="average", rows="shared")
    assert shared.subjects == ("sub-01", "sub-02", "sub-03")
    assert shared.feature_row.tolist() == groups[1].feature_row.tolist()


def test_a_subject_who_saw_no_test_film_is_named() -> None:
    brains = {"sub-07": brain_rows(("amber01", 1, range(5)))}
    with pytest.raises(
        StudyError, match="sub-07 dune01: found no rows of it, nor of another segment of the test films"
    ):
        align(FEATURES, brains, **SPLIT, repeats="average", rows="common")


def test_same_showing_twice_is_refused() -> None:
    brains = {"sub-01": brain_rows(("amber01", 1, range(5)), ("dune01", 1, range(4)), ("dune01", 1, range(4)))}
    with pytest.raises(StudyError, match="sub-01 dune01 repeat 1: found 4 rows twice"):
        align(FEATURES, brains, **SPLIT, repeats="average", rows="common")


def test_onsets_match_within_a_microsecond() -> None:
    known_s = np.array([0.0, 1.49, 2.98])
    assert match_onsets(np.array([1.490001, 1.48, 2.979999, 0.0]), known_s).tolist() == [1, -1, 2, 0]
    assert match_onsets(np.array([0.0]), np.array([])).tolist() == [-1]


def test_volumes_that_are_left_out_leave_the_delays_of_others_whole(tmp_path: Path) -> None:
    """In the middle of runs: the rows after them see the film that was on meanwhile, and not zeros or a new run."""
    lengths, delays = {"amber01": 30, "amber02": 25, "dune01": 20}, (1, 2, 4)
    (tmp_path / "params.yaml").write_text((REPOSITORY / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    films = {"amber": ["amber01", "amber02"], "dune": ["dune01"]}
    settings = replace(make_settings(load_study(tmp_path)), films={"amber": films["amber"]}, n_folds=2, delays=delays)
    space = FeatureSpace({}, feature_rows(**lengths), TR_S)
    kept = {"amber01": [*range(9), *range(12, 30)], "amber02": [*range(25)], "dune01": [0, 1, *range(3, 20)]}
    brain = pd.concat([brain_rows((segment, 1, rows)) for segment, rows in kept.items()], ignore_index=True)
    split = {"train": films["amber"], "test": films["dune"]}
    (group,) = align(space.rows, {"sub-01": brain}, **split, repeats="average", rows="own")
    features = np.random.default_rng(0).standard_normal((sum(lengths.values()), 3))
    train, test = make_design(features, make_layout(space, group, settings, max(delays)), delays)

    starts = dict(zip(lengths, np.cumsum([0, *lengths.values()]), strict=False))
    fitted = [starts[segment] + row for segment in films["amber"] for row in kept[segment]]
    standard = (features - features[fitted].mean(axis=0)) / features[fitted].std(axis=0)
    for found, segments in ((train, films["amber"]), (test, films["dune"])):
        expected = [
            np.concatenate([standard[starts[name] + row - d] if row >= d else np.zeros(3) for d in delays])
            for name in segments
            for row in kept[name]
        ]
        np.testing.assert_allclose(found, expected, atol=1e-9)
