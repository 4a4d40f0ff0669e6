"""The shared-factor ridge against himalaya in float64, scikit-learn, and the normal equations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from cinecube.analysis.ridge.factors import Backend, check_backend, factorise, plain_grams
from cinecube.analysis.ridge.folds import Fold
from cinecube.analysis.ridge.scores import pearson
from cinecube.analysis.ridge.shared_ridge import search, solve
from cinecube.store.base.errors import StudyError

ALPHAS = np.geomspace(1, 1e8, 20)
BACKENDS = [Backend("numpy"), Backend("torch")]


@dataclass(frozen=True)
class Problem:
    design: np.ndarray
    responses: np.ndarray
    test: np.ndarray
    test_responses: np.ndarray
    folds: list[Fold]

    def factors(self, backend=BACKENDS[0]):
        grams = plain_grams(self.design, self.folds, self.test)
        return factorise(grams, self.design, self.test, self.folds, backend)


def _problem(n_rows, n_features, n_targets, noisy=0.0, slope=1.0, seed=0, n_test=2000) -> Problem:
    """Features with a power-law spectrum, autoregressive noise, and a share of targets that are nearly noise."""
    rng = np.random.default_rng(seed)
    spectrum = (1 + np.arange(n_features)) ** (-slope / 2)
    rotation = np.linalg.qr(rng.normal(size=(n_features, n_features)))[0]
    design = rng.normal(size=(n_rows + n_test, n_features)) * spectrum @ rotation
    design = (design - design.mean(axis=0)) / design.std(axis=0)
    signal = design @ rng.normal(size=(n_features, n_targets))
    noise = rng.normal(size=signal.shape)
    for row in range(1, len(noise)):
        noise[row] = 0.4 * noise[row - 1] + np.sqrt(1 - 0.4**2) * noise[row]
    gain = np.where(np.arange(n_targets) < noisy * n_targets, 0.05, 0.7)
    responses = gain * signal / signal.std(axis=0) + noise
    responses -= responses[:n_rows].mean(axis=0)
    parts = np.array_split(np.arange(n_rows), 5)
    folds = []
    for part in parts:  # five rows after each part are a gap
        gap = np.arange(part[-1] + 1, min(part[-1] + 6, n_rows))
        folds.append((np.setdiff1d(np.arange(n_rows), np.r_[part, gap]), part))
    cut = slice(n_rows), slice(n_rows, None)
    arrays = [values[part].astype(np.float32) for values in (design, responses) for part in cut]
    return Problem(arrays[0], arrays[2], arrays[1], arrays[3], folds)


def _himalaya(problem: Problem) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """himalaya's own estimator in float64: place of each target's penalty, loss, predictions of the test rows."""
    from himalaya.kernel_ridge import KernelRidgeCV
    from himalaya.ridge import RidgeCV

    wide = problem.design.shape[1] > len(problem.design)
    params = {"n_targets_batch": 200}
    model = (KernelRidgeCV if wide else RidgeCV)(alphas=ALPHAS, cv=problem.folds, solver_params=params)
    if not wide:
        model.set_params(fit_intercept=False)
    model.fit(problem.design.astype(float), problem.responses.astype(float))
    best = np.abs(np.log(model.best_alphas_[:, None] / ALPHAS)).argmin(axis=1)
    return best, -model.cv_scores_, model.predict(problem.test.astype(float))


SHAPES = {
    "tall": (700, 150, 300),
    "square": (400, 390, 200),
    "wide": (300, 700, 200),
}

LARGER = {
    "tall": (2000, 150, 300),
    "square": (700, 690, 200),
    "wide": (500, 1000, 200),
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("slope", "backend"), [(0.0, BACKENDS[0]), (1.0, BACKENDS[1]), (2.0, BACKENDS[0])])
@pytest.mark.parametrize("noisy", [0.0, 0.7])
@pytest.mark.parametrize("shape", SHAPES)
def test_penalties_and_predictions_are_himalayas(shape, slope, noisy, backend):
    problem = _problem(*SHAPES[shape], noisy, slope)
    best, loss, predicted = _himalaya(problem)
    fit = solve(problem.factors(backend), problem.responses, ALPHAS, exhaustive=True)
    same = fit.best == best
    assert same.mean() >= 0.99
    np.testing.assert_allclose(fit.loss, loss.ravel(), rtol=1e-5)
    ours = pearson(fit.prediction[:, same], problem.test_responses[:, same])
    theirs = pearson(predicted[:, same], problem.test_responses[:, same])
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("slope", "noisy"), [(0.0, 0.7), (1.0, 0.0), (1.0, 0.7), (2.0, 0.7)])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_search_finds_what_trying_all_finds(shape, slope, noisy):
    problem = _problem(*LARGER[shape], noisy, slope, seed=1)
    factors = problem.factors()
    walked, whole = (solve(factors, problem.responses, ALPHAS, exhaustive=all_) for all_ in (False, True))
    same = walked.best == whole.best
    assert same.mean() >= 0.99
    # Two minima alike; what that does to scores is measured where rows are many (benchmarks/ridge.py).
    variance = problem.responses[:, ~same].var(axis=0)
    assert ((walked.loss - whole.loss)[~same] < 0.005 * variance).all()
    assert walked.products < 9
    assert whole.products == len(ALPHAS)


def test_weights_are_those_of_scikit_learn_and_the_normal_equations():
    from sklearn.linear_model import Ridge

    problem = _problem(300, 60, 40)
    fit = solve(problem.factors(), problem.responses, ALPHAS, weights=True)
    design, responses = problem.design.astype(float), problem.responses.astype(float)
    theirs = Ridge(alpha=ALPHAS[fit.best], fit_intercept=False).fit(design, responses).coef_.T
    np.testing.assert_allclose(fit.weights, theirs, atol=1e-5)
    gram, cross = design.T @ design, design.T @ responses
    for target in range(0, 40, 7):
        weights = np.linalg.solve(gram + ALPHAS[fit.best[target]] * np.eye(60), cross[:, target])
        np.testing.assert_allclose(fit.weights[:, target], weights, atol=1e-5)
        np.testing.assert_allclose(fit.prediction[:, target], problem.test @ weights, atol=1e-5)


def test_losses_are_those_of_the_normal_equations():
    problem = _problem(200, 30, 6)
    fit = solve(problem.factors(), problem.responses, ALPHAS, exhaustive=True)
    design, responses = problem.design.astype(float), problem.responses.astype(float)
    losses = np.zeros((len(ALPHAS), 6))
    for train, validation in problem.folds:
        for place, alpha in enumerate(ALPHAS):
            gram = design[train].T @ design[train] + alpha * np.eye(30)
            predicted = design[validation] @ np.linalg.solve(gram, design[train].T @ responses[train])
            losses[place] += ((predicted - responses[validation]) ** 2).mean(axis=0) / len(problem.folds)
    np.testing.assert_array_equal(fit.best, losses.argmin(axis=0))
    np.testing.assert_allclose(fit.loss, losses.min(axis=0), rtol=1e-5)


def test_a_correlation_is_searched_whole():
    problem = _problem(300, 60, 40, noisy=0.7)
    fit = solve(problem.factors(), problem.responses, ALPHAS, criterion="correlation")
    assert fit.products == len(ALPHAS)
    design, responses = problem.design.astype(float), problem.responses.astype(float)
    scores = np.zeros((len(ALPHAS), 40))
    for train, validation in problem.folds:
        for place, alpha in enumerate(ALPHAS):
            gram = design[train].T @ design[train] + alpha * np.eye(60)
            predicted = design[validation] @ np.linalg.solve(gram, design[train].T @ responses[train])
            scores[place] += pearson(predicted, responses[validation]) / len(problem.folds)
    np.testing.assert_allclose(1 - fit.loss, scores.max(axis=0), atol=1e-5)
    assert (fit.best == scores.argmax(axis=0)).mean() > 0.9  # near ties in float32


def test_features_that_repeat_each_other_are_no_trouble():
    problem = _problem(300, 40, 20)
    twice = np.concatenate([problem.design, problem.design], axis=1)
    grams = plain_grams(twice, problem.folds, np.concatenate([problem.test] * 2, axis=1))
    factors = factorise(grams, twice, np.concatenate([problem.test] * 2, axis=1), problem.folds, Backend())
    assert len(factors.whole.values) == 40
    fit = solve(factors, problem.responses, ALPHAS / 2)
    once = solve(problem.factors(), problem.responses, ALPHAS / 4)
    assert np.isfinite(fit.prediction).all()
    np.testing.assert_allclose(fit.loss, once.loss, rtol=1e-2)


def test_blocks_of_targets_change_nothing(monkeypatch):
    problem = _problem(300, 60, 300, noisy=0.5)
    factors = problem.factors()
    whole = solve(factors, problem.responses, ALPHAS)
    monkeypatch.setattr("cinecube.analysis.ridge.shared_ridge.BATCH_BYTES", 1)
    parts = solve(factors, problem.responses, ALPHAS)
    np.testing.assert_array_equal(parts.best, whole.best)
    np.testing.assert_allclose(parts.prediction, whole.prediction, atol=1e-5)


def test_the_search_walks_to_the_edges_and_from_any_start():
    losses = np.abs(np.arange(9)[:, None] - np.array([0, 4, 8])[None]).astype(float)
    asked = []

    def try_out(place, targets):
        asked.append(place)
        return losses[place] if targets is None else losses[place, targets]

    for start in ([8, 8, 8], [0, 0, 0], [4, 4, 4]):
        found, tried = search(try_out, 9, np.array(start), weak=np.full(3, np.inf))
        np.testing.assert_array_equal(found.argmin(axis=0), [0, 4, 8])
        assert 2 <= tried <= 9


def test_a_backend_that_is_not_there_is_refused(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert check_backend("torch", "auto", "run.device") == Backend("torch", "cpu")
    with pytest.raises(StudyError, match="run.device: found cuda, expected a CUDA device"):
        check_backend("torch", "cuda", "run.device")


def test_torch_arrays_stay_where_they_are_put(monkeypatch):
    """What a GPU would need: nothing of the solver touches numpy between `put` and `get`."""
    import torch

    problem = _problem(200, 30, 20)
    backend = Backend("torch")
    factors = problem.factors(backend)
    held = [factors.design, *(part for factor in factors.by_fold for part in (factor.basis, factor.left))]
    assert all(isinstance(values, torch.Tensor) and values.dtype == torch.float32 for values in held)
    fit = solve(factors, problem.responses, ALPHAS, weights=True)
    assert all(isinstance(values, np.ndarray) for values in (fit.best, fit.loss, fit.prediction, fit.weights))


@pytest.mark.parametrize("n_features", [20, 400])
def test_a_design_of_constants_predicts_nothing(n_features):
    problem = _problem(200, 30, 10)
    nothing = np.zeros((200, n_features), np.float32)
    factors = factorise(
        plain_grams(nothing, problem.folds, nothing[:5]), nothing, nothing[:5], problem.folds, Backend()
    )
    for exhaustive in (False, True):
        fit = solve(factors, problem.responses, ALPHAS, exhaustive=exhaustive)
        assert fit.prediction.shape[1] == 10
        assert np.abs(fit.prediction).max(initial=0.0) == 0
        assert np.isfinite(fit.loss).all()
