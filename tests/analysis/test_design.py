import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cinecube.analysis.ridge.design import constants, cut_runs, delayed, standardise


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4), delays=st.sets(st.integers(0, 12), min_size=1))
def test_delays_equal_the_obvious_loop(lengths: list[int], delays: set[int]) -> None:
    edges = np.concatenate([[0], np.cumsum(lengths)]).tolist()
    runs = list(itertools.pairwise(edges))
    features = np.arange(1.0, edges[-1] * 3 + 1).reshape(-1, 3)
    lags = sorted(delays)
    expected = np.zeros((edges[-1], len(lags) * 3))
    for start, stop in runs:
        for row in range(start, stop):
            for d, delay in enumerate(lags):
                if row - delay >= start:
                    expected[row, d * 3 : d * 3 + 3] = features[row - delay]
    np.testing.assert_array_equal(delayed(features, lags, runs), expected)


def test_rows_after_a_border_or_a_gap_see_zeros() -> None:
    segment = np.array(["a", "a", "a", "a", "b", "b"], dtype=object)
    onset_s = np.array([0, 1.5, 6.0, 7.5, 0, 1.5])
    runs = cut_runs(segment, onset_s, 1.5)
    assert runs == [(0, 2), (2, 4), (4, 6)]
    assert delayed(np.arange(1.0, 7)[:, None], [1], runs)[:, 0].tolist() == [0, 1, 0, 3, 0, 5]


def test_constants_standardise_training_rows_and_silence_constant_dims() -> None:
    features = np.random.default_rng(0).normal(5, 3, (40, 3)).astype(np.float32)
    features[:, 2] = 0.1
    standard = standardise(features, *constants(features))
    np.testing.assert_allclose(standard[:, :2].mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(standard[:, :2].std(axis=0), 1, atol=1e-12)
    assert not standard[:, 2].any()
