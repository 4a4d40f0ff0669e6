import warnings

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from cinecube.analysis.ridge.folds import Fold
from cinecube.analysis.ridge.himalaya_ridge import fit_and_score, himalaya_ridge
from cinecube.analysis.ridge.scores import pearson

ALPHAS = np.geomspace(0.1, 1e4, 6)


def problem(n_features: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[Fold]]:
    rng = np.random.default_rng(n_features)
    design, test = rng.standard_normal((60, n_features)), rng.standard_normal((20, n_features))
    gain = np.linspace(0, 2, 9)
    responses = gain * (design @ rng.standard_normal((n_features, 9))) / np.sqrt(n_features)
    responses = responses + rng.standard_normal(responses.shape)
    folds = [(np.r_[0:a, b:60], np.r_[a:b]) for a, b in ((0, 20), (20, 45), (45, 60))]
    return design, responses, test, folds


def losses(design: np.ndarray, responses: np.ndarray, folds: list[Fold]) -> np.ndarray:
    """Squared error (alpha, target) of the normal equations, mean over rows and then folds."""
    eye = np.eye(design.shape[1])
    table = []
    for alpha in ALPHAS:
        errors = []
        for train, validation in folds:
            x, y = design[train], responses[train]
            weights = np.linalg.solve(x.T @ x + alpha * eye, x.T @ y)
            errors.append(((responses[validation] - design[validation] @ weights) ** 2).mean(axis=0))
        table.append(np.mean(errors, axis=0))
    return np.array(table)


@pytest.mark.parametrize("n_features", [7, 40, 200], ids=["tall", "wider than a fold", "wide"])
def test_agrees_with_normal_equations_and_scikit_learn(n_features: int) -> None:
    design, responses, test, folds = problem(n_features)
    solution = himalaya_ridge(design, responses, test, folds, ALPHAS)
    table = losses(design, responses, folds)
    np.testing.assert_array_equal(solution.alpha, ALPHAS[table.argmin(axis=0)])
    np.testing.assert_allclose(solution.loss, table.min(axis=0), rtol=1e-5)
    for t in range(responses.shape[1]):
        reference = Ridge(alpha=solution.alpha[t], fit_intercept=False).fit(design, responses[:, t])
        np.testing.assert_allclose(solution.prediction[:, t], reference.predict(test), atol=1e-8)


def test_equals_himalaya_ridge_cv() -> None:
    from himalaya.ridge import RidgeCV

    design, responses, test, folds = problem(40)
    ours = himalaya_ridge(design, responses, test, folds, ALPHAS)
    theirs = RidgeCV(alphas=ALPHAS, cv=folds).fit(design, responses)
    np.testing.assert_allclose(ours.alpha, theirs.best_alphas_)
    np.testing.assert_allclose(ours.loss, -theirs.cv_scores_, rtol=1e-5)
    np.testing.assert_allclose(ours.prediction, theirs.predict(test), atol=1e-8)


def test_cv_score_is_one_minus_error_over_variance() -> None:
    design, responses, _, folds = problem(7)
    scores = fit_and_score((design, responses), None, folds, ALPHAS)
    variance = np.mean([responses[validation].var(axis=0) for _, validation in folds], axis=0)
    np.testing.assert_allclose(scores.cv_score, 1 - losses(design, responses, folds).min(axis=0) / variance, atol=1e-5)
    assert np.isnan(scores.score).all()


def test_constant_and_absent_targets_score_nan_and_leave_the_others_alone() -> None:
    design, responses, test, folds = problem(7)
    truth = np.random.default_rng(1).standard_normal((20, 9))
    whole = fit_and_score((design, responses), (test, truth), folds, ALPHAS)
    responses[:, 0], responses[:, 1], truth[:, 2] = 0, np.nan, 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = fit_and_score((design, responses), (test, truth), folds, ALPHAS)
        nothing = fit_and_score((design, responses[:, :2]), (test, truth[:, :2]), folds, ALPHAS)
    assert np.isnan(scores.score).tolist() == [True] * 3 + [False] * 6
    # What has no score on the test films has none at all: means over targets are over the same ones.
    assert np.isnan(scores.cv_score).tolist() == [True] * 3 + [False] * 6
    np.testing.assert_allclose(scores.score[3:], whole.score[3:], atol=1e-6)
    assert np.isnan(nothing.alpha).all()


def test_pearson_equals_numpy() -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 30, 4)).astype(np.float32)
    expected = [np.corrcoef(a[:, t], b[:, t])[0, 1] for t in range(4)]
    np.testing.assert_allclose(pearson(a, b), expected, rtol=1e-6)


def test_backend_is_left_as_it_was() -> None:
    from himalaya.backend import get_backend

    before = get_backend().__name__
    himalaya_ridge(*problem(7)[:3], problem(7)[3], ALPHAS)
    assert get_backend().__name__ == before
