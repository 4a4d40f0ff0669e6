import warnings

import numpy as np

from cinecube.analysis.statistics.normalising import normalised


def test_scores_become_shares_of_their_ceilings_where_those_tell():
    score = np.array([0.2, 0.5, -0.1, 0.01, 0.3, np.nan])
    ceiling = np.array([0.4, 0.4, 0.4, 0.049, np.nan, 0.4])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = normalised(score, ceiling)
    np.testing.assert_allclose(found.score, [0.5, 1.0, -0.25, np.nan, np.nan, np.nan])
    assert found.share == 4 / 6


def test_the_threshold_itself_survives_and_zero_never_does():
    found = normalised(np.array([0.05, 0.0, -0.1]), np.array([0.05, 0.0, -0.2]), threshold=0.0)
    np.testing.assert_allclose(found.score, [1.0, np.nan, np.nan])
    assert normalised(np.array([0.05]), np.array([0.05])).share == 1


def test_cap_and_floor_are_arguments():
    score, ceiling = np.array([0.9, -0.3]), np.array([0.3, 0.3])
    np.testing.assert_allclose(normalised(score, ceiling, cap=np.inf).score, [3.0, -1.0])
    np.testing.assert_allclose(normalised(score, ceiling, floor=0.0).score, [1.0, 0.0])


def test_a_ceiling_serves_all_models_and_layers():
    score = np.arange(24.0).reshape(2, 3, 4) / 100
    ceiling = np.array([0.5, 0.5, 0.01, 0.5])
    found = normalised(score, ceiling)
    assert found.score.shape == (2, 3, 4)
    np.testing.assert_allclose(found.share, np.full((2, 3), 0.75))
    np.testing.assert_allclose(found.score[1, 2, [0, 1, 3]], score[1, 2, [0, 1, 3]] / 0.5)
    assert normalised(np.empty((2, 0)), np.empty(0)).share.shape == (2,)
