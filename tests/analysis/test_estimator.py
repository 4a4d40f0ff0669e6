"""The estimator behaves as scikit-learn's do, and fits what its Ridge fits."""

from __future__ import annotations

from unittest import SkipTest

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.utils.estimator_checks import parametrize_with_checks

from cinecube.analysis.ridge.estimator import SharedRidgeCV


@parametrize_with_checks([SharedRidgeCV(cv=3)])
def test_what_scikit_learn_expects(estimator, check):
    try:
        check(estimator)
    except SkipTest as skipped:  # other arrays than numpy's, which nobody is promised
        if "SCIPY_ARRAY_API" not in str(skipped):
            raise


@pytest.mark.parametrize("n_features", [20, 200])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_weights_are_those_of_ridge_at_the_best_penalty(n_features, library):
    rng = np.random.default_rng(0)
    features = rng.normal(1.0, 1.0, (100, n_features))
    targets = features @ rng.normal(size=(n_features, 5)) + rng.normal(0, 3, (100, 5)) + 2
    alphas = [0.1, 1.0, 10.0, 100.0, 1000.0]
    found = SharedRidgeCV(alphas, cv=KFold(4), library=library, exhaustive=True).fit(features, targets)
    for target in range(5):
        ridge = Ridge(alpha=found.best_alphas_[target]).fit(features, targets[:, target])
        np.testing.assert_allclose(found.coef_[:, target], ridge.coef_, atol=1e-5)
        np.testing.assert_allclose(found.intercept_[target], ridge.intercept_, atol=1e-4)
        # Folds share the means of all rows, so the search is checked without an intercept.
    centred = features - features.mean(axis=0), targets - targets.mean(axis=0)
    plain = SharedRidgeCV(alphas, cv=KFold(4), fit_intercept=False, library=library, exhaustive=True).fit(*centred)
    for target in range(5):
        grid = GridSearchCV(
            Ridge(fit_intercept=False), {"alpha": alphas}, cv=KFold(4), scoring="neg_mean_squared_error"
        ).fit(centred[0], centred[1][:, target])
        assert grid.best_params_["alpha"] == plain.best_alphas_[target]
        np.testing.assert_allclose(plain.cv_scores_[target], grid.best_score_, rtol=1e-4)


def test_penalties_out_of_order_are_refused():
    with pytest.raises(ValueError, match="positive and rising"):
        SharedRidgeCV([10.0, 1.0]).fit(np.eye(10), np.arange(10.0))
