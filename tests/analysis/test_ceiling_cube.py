"""Scores as shares of labelled ceilings."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from cinecube.analysis.statistics.normalising import normalise_scores
from cinecube.store.base.errors import StudyError
from cinecube.store.params.analysis_params import CeilingParams


def _labelled(values: list[list[float]], targets: list[int], subjects: list[str]) -> xr.DataArray:
    return xr.DataArray(values, dims=("subject", "target"), coords={"subject": subjects, "target": targets})


def test_scores_are_normalised_by_label() -> None:
    limit = _labelled([[0.5, 0.04, np.nan, 0.2], [0.4, 0.8, 0.3, -0.1]], [1, 2, 3, 4], ["a", "b"])
    scores = _labelled([[0.3, 0.2, 0.1], [0.1, -0.2, np.nan]], [4, 1, 2], ["b", "a"])
    both = xr.concat([scores, 2 * scores], xr.IndexVariable("model", ["m", "n"])).transpose(
        "model", "target", "subject"
    )
    found = normalise_scores(both, limit, CeilingParams())
    assert found["score"].dims == ("model", "target", "subject")
    assert found["score"]["subject"].values.tolist() == ["b", "a"]
    single = found["score"].sel(model="m").transpose("subject", "target").values
    np.testing.assert_allclose(single, [[np.nan, 0.5, 0.125], [0.5, -0.4, np.nan]])
    double = found["score"].sel(model="n").transpose("subject", "target").values
    np.testing.assert_allclose(double, [[np.nan, 1.0, 0.25], [1.0, -0.8, np.nan]])
    # Of b's three scores one has no ceiling above the threshold; a has two scores, both with a ceiling.
    np.testing.assert_allclose(found["share"], [2 / 3, 1.0])
    loose = normalise_scores(scores, limit, CeilingParams(threshold=0.3, cap=3))
    np.testing.assert_allclose(loose["score"], [[np.nan, 0.5, 0.125], [np.nan, -0.4, np.nan]])
    np.testing.assert_allclose(loose["share"], [2 / 3, 1 / 2])
    wide = normalise_scores(2 * scores, limit, CeilingParams(cap=3))
    assert wide["score"].sel(subject="a", target=4) == 1.0
    compat = normalise_scores(scores, limit, CeilingParams(compat="oota2025"))
    assert compat["score"].sel(subject="a", target=1) == 0.0
    nothing = normalise_scores(np.nan * scores, limit, CeilingParams())
    assert nothing["share"].isnull().all()


def test_scores_without_a_place_in_the_ceilings_are_refused() -> None:
    limit = _labelled([[0.5, 0.4]], [1, 2], ["a"])
    with pytest.raises(StudyError, match="ceilings of target 3: found none"):
        normalise_scores(_labelled([[0.1, 0.2]], [2, 3], ["a"]), limit, CeilingParams())
    with pytest.raises(StudyError, match="ceilings of subject b: found none"):
        normalise_scores(_labelled([[0.1, 0.2]], [1, 2], ["b"]), limit, CeilingParams())
