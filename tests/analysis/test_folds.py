import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cinecube.analysis.ridge.folds import Gap, leave_segments_out
from cinecube.store.base.errors import StudyError

TR_S = 1.5


def rows_of(lengths: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    segment = np.repeat(np.array(list(lengths), dtype=object), list(lengths.values()))
    onset_s = np.concatenate([np.arange(n) * TR_S for n in lengths.values()])
    return segment, onset_s


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(20, 40), min_size=2, max_size=9),
    per_film=st.integers(1, 4),
    n_folds=st.integers(2, 6),
    gap_s=st.floats(0, 8),
    max_delay=st.integers(0, 5),
)
def test_no_training_row_sees_film_of_a_held_out_neighbour(
    lengths: list[int], per_film: int, n_folds: int, gap_s: float, max_delay: int
) -> None:
    names = [f"s{i}" for i in range(len(lengths))]
    films = {f"f{i}": names[i : i + per_film] for i in range(0, len(names), per_film)}
    segment, onset_s = rows_of(dict(zip(names, lengths, strict=True)))
    last_onset_s = {name: (n - 1) * TR_S for name, n in zip(names, lengths, strict=True)}
    folds = leave_segments_out(segment, onset_s, films, last_onset_s, n_folds, Gap(gap_s, TR_S, TR_S, max_delay))

    assert len(folds) == min(n_folds, len(names))
    held_out = np.concatenate([validation for _, validation in folds])
    assert sorted(held_out.tolist()) == list(range(len(segment)))
    film_of = {name: film for film, members in films.items() for name in members}
    for train, validation in folds:
        assert not set(train) & set(validation)
        out = list(dict.fromkeys(segment[validation]))
        assert [names.index(name) for name in out] == list(range(names.index(out[0]), names.index(out[-1]) + 1))
        for row in train:
            name, i = segment[row], names.index(segment[row])
            for neighbour, is_after in ((i + 1, True), (i - 1, False)):
                shares = 0 <= neighbour < len(names) and names[neighbour] in out
                if not shares or film_of[names[neighbour]] != film_of[name]:
                    continue
                if is_after:  # its own window ends before the shared film begins
                    assert onset_s[row] + TR_S <= last_onset_s[name] - gap_s + 1e-9
                else:  # and its most delayed feature begins after the shared film ends
                    assert onset_s[row] - max_delay * TR_S >= gap_s - 1e-9


def test_gap_drops_only_rows_at_the_shared_border() -> None:
    films = {"f": ["a", "b"], "g": ["c"]}
    segment, onset_s = rows_of({"a": 10, "b": 10, "c": 10})
    last_onset_s = dict.fromkeys("abc", 13.5)
    folds = leave_segments_out(segment, onset_s, films, last_onset_s, 3, Gap(3.0, TR_S, TR_S, 2))
    kept = [[(segment[row], int(onset_s[row] / TR_S)) for row in train] for train, _ in folds]
    assert [row for row in kept[0] if row[0] == "b"] == [("b", i) for i in range(4, 10)]
    assert [row for row in kept[1] if row[0] == "a"] == [("a", i) for i in range(7)]
    assert len(kept[2]) == 20


def test_folds_are_balanced_by_rows() -> None:
    names = ["a", "b", "c", "d"]
    segment, onset_s = rows_of({"a": 10, "b": 10, "c": 10, "d": 30})
    last_onset_s = dict.fromkeys(names, 100.0)
    folds = leave_segments_out(segment, onset_s, {"f": names}, last_onset_s, 2, Gap(0, TR_S, TR_S, 0))
    assert [len(validation) for _, validation in folds] == [30, 30]


def test_one_segment_cannot_be_folded() -> None:
    segment, onset_s = rows_of({"a": 10})
    with pytest.raises(StudyError, match="found 1 segment, expected at least 2"):
        leave_segments_out(segment, onset_s, {"f": ["a"]}, {"a": 13.5}, 5, Gap(4, TR_S, TR_S, 5))
