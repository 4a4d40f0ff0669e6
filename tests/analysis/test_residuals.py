"""What is left of a layer, against scikit-learn in float64, and against what was planted."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from cinecube.analysis.residuals.unexplained import make_remover, still_predicted
from cinecube.analysis.ridge.factors import Backend
from cinecube.analysis.ridge.folds import Fold
from cinecube.analysis.ridge.himalaya_ridge import fit_and_score
from cinecube.analysis.ridge.scores import pearson
from cinecube.store.base.errors import StudyError

ALPHAS = np.geomspace(0.1, 1e5, 13)
WIDTHS = {"tall": 20, "wide": 260}


@dataclass(frozen=True)
class Problem:
    """A follows B in half of its variance; responses follow A's own half, in four parcels of six targets."""

    a: np.ndarray
    b: np.ndarray
    own: np.ndarray
    responses: np.ndarray
    train: np.ndarray
    folds: list[Fold]


def _problem(seed: int, width: int = 20, n_train: int = 240, n_test: int = 120, dims: int = 16) -> Problem:
    rng = np.random.default_rng(seed)
    n_rows = n_train + n_test
    spectrum = (1 + np.arange(width)) ** -0.5
    b = rng.normal(size=(n_rows, width)) * spectrum @ np.linalg.qr(rng.normal(size=(width, width)))[0]
    follows = b @ rng.normal(size=(width, dims))
    own = rng.normal(size=(n_rows, dims))
    a = 3 + follows / follows.std(axis=0) + own
    responses = own @ rng.normal(size=(dims, 24)) / np.sqrt(dims) + rng.normal(size=(n_rows, 24))
    train = np.arange(n_rows) < n_train
    responses -= responses[train].mean(axis=0)
    folds = []
    for part in np.array_split(np.arange(n_train), 4):  # two rows after each part are a gap
        kept = np.setdiff1d(np.arange(n_train), np.r_[part, part[-1] + 1, part[-1] + 2])
        folds.append((kept, part))
    return Problem(a.astype(np.float32), b.astype(np.float32), own, responses, train, folds)


def _ridge(x: np.ndarray, y: np.ndarray, predicted: np.ndarray, folds: list[Fold]) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn by loop: position of each target's penalty, and predictions of rows."""
    losses = [
        np.mean(
            [
                ((y[shown] - Ridge(alpha=alpha, fit_intercept=False).fit(x[fit], y[fit]).predict(x[shown])) ** 2).mean(
                    0
                )
                for fit, shown in folds
            ],
            axis=0,
        )
        for alpha in ALPHAS
    ]
    best = np.argmin(losses, axis=0)
    model = Ridge(alpha=ALPHAS[best], fit_intercept=False).fit(x, y)
    return best, model.predict(predicted)


def _scaled(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    return StandardScaler().fit(values[train].astype(float)).transform(values.astype(float))


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("seed", range(5))
def test_residual_and_its_scores_are_scikit_learns(seed, width):
    problem = _problem(seed, width)
    train, folds = problem.train, problem.folds
    found = make_remover(problem.b, train, folds, ALPHAS).residual(problem.a)
    a, b = (_scaled(values, train) for values in (problem.a, problem.b))
    best, predicted = _ridge(b[train], a[train], b, folds)
    same = found.alpha == ALPHAS[best]
    assert same.mean() >= 0.9
    np.testing.assert_allclose(found.residual[:, same], (a - predicted)[:, same], atol=1e-4)

    ours, theirs = found.residual.astype(float), a - predicted
    known, truth = problem.responses[train], problem.responses[~train]
    score = fit_and_score((ours[train], known), (ours[~train], truth), folds, ALPHAS).score
    expected = pearson(_ridge(theirs[train], known, theirs[~train], folds)[1], truth)
    np.testing.assert_allclose(score.reshape(4, 6).mean(axis=1), expected.reshape(4, 6).mean(axis=1), atol=0.02)
    assert expected.mean() > 0.4


def test_what_is_left_is_measured_on_held_out_training_rows():
    problem = _problem(0)
    a, b = (_scaled(values, problem.train)[problem.train] for values in (problem.a, problem.b))
    found = make_remover(problem.b, problem.train, problem.folds, ALPHAS).residual(problem.a)
    for dim, alpha in enumerate(found.alpha):
        errors = []
        for fit, shown in problem.folds:
            model = Ridge(alpha=alpha, fit_intercept=False).fit(b[fit], a[fit, dim])
            errors.append(((a[shown, dim] - model.predict(b[shown])) ** 2).mean())
        assert found.left[dim] == pytest.approx(np.mean(errors), rel=1e-4)


def test_a_copy_is_removed_whole_although_a_penalty_leaves_some_of_it():
    """What shrinkage leaves of a copy is small, but a score that knows no size finds all of it there."""
    problem = _problem(1)
    follows = problem.b @ np.random.default_rng(0).normal(size=(20, 3))
    a = np.concatenate([problem.b, follows.astype(np.float32), problem.a], axis=1)
    found = make_remover(problem.b, problem.train, problem.folds, ALPHAS).residual(a)
    assert not found.residual[:, :23].any()
    assert found.residual[:, 23:].any(axis=0).all()
    # The default lies between: what the smallest penalty leaves of a copy, four times.
    assert found.left[:23].max() < ALPHAS[0] / 240 < 0.1 < found.left[23:].min()
    kept = make_remover(problem.b, problem.train, problem.folds, ALPHAS, floor=0).residual(a)
    assert 0 < kept.residual[:, :23].std(axis=0).max() < 0.02
    check = (problem.b, problem.train, problem.folds, ALPHAS)
    assert still_predicted(kept.residual, *check).means()["linear"] > 0.8
    assert abs(still_predicted(found.residual, *check).means()["linear"]) < 0.15
    np.testing.assert_array_equal(found.residual[:, 23:], kept.residual[:, 23:])
    nothing = still_predicted(found.residual[:, :23], *check)
    assert not nothing.linear.any()
    assert not nothing.kernel.any()


@pytest.mark.parametrize("by", ["dim", "direction"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_test_rows_decide_nothing(width, by):
    problem = _problem(0, width)
    train = problem.train
    plain = make_remover(problem.b, train, problem.folds, ALPHAS, by=by).residual(problem.a)
    rng = np.random.default_rng(1)
    a, b = problem.a.copy(), problem.b.copy()
    for values in (a, b):
        values[~train] = 10 * rng.permuted(values[~train], axis=0) + 5
    other = make_remover(b, train, problem.folds, ALPHAS, by=by).residual(a)
    for name in ("alpha", "left", "mean", "spread"):
        np.testing.assert_array_equal(getattr(other, name), getattr(plain, name))
    np.testing.assert_array_equal(other.residual[train], plain.residual[train])
    assert not np.array_equal(other.residual[~train], plain.residual[~train])


def test_what_is_left_is_the_layers_own_part_with_its_sign():
    problem = _problem(3, n_train=1500, n_test=500)
    found = make_remover(problem.b, problem.train, problem.folds, ALPHAS).residual(problem.a)
    test = ~problem.train
    assert found.residual.dtype == np.float32
    assert pearson(found.residual[test], problem.own[test]).min() > 0.97
    # Half of each dim's variance is its own.
    np.testing.assert_allclose(found.residual.std(axis=0), np.sqrt(0.5), atol=0.05)


def _mixed(seed: int) -> Problem:
    """Half of A's directions are B's, half its own, and every dim is a mixture; responses follow all of A."""
    problem = _problem(seed, n_train=2000, n_test=1000)
    rng = np.random.default_rng(seed)
    of_b = problem.b @ rng.normal(size=(20, 8))
    parts = np.concatenate([of_b / of_b.std(axis=0), problem.own[:, :8]], axis=1)
    a = parts @ np.linalg.qr(rng.normal(size=(16, 16)))[0]
    signals = [part @ rng.normal(size=(8, 24)) for part in (parts[:, :8], parts[:, 8:])]
    responses = sum(signal / signal.std(axis=0) for signal in signals) + rng.normal(size=(3000, 24))
    return replace(problem, a=a, responses=responses - responses[problem.train].mean(axis=0))


def _drop(problem: Problem, residual: np.ndarray) -> float:
    """Drop of the score, a fraction; half of the signal is B's, so 1 - √½ with endless rows."""
    train = problem.train
    full, after = (
        fit_and_score(
            (_scaled(values, train)[train], problem.responses[train]),
            (_scaled(values, train)[~train], problem.responses[~train]),
            problem.folds,
            ALPHAS,
        ).score.mean()
        for values in (problem.a, residual)
    )
    return (full - after) / full


@pytest.mark.parametrize("seed", range(3))
def test_directions_leave_nothing_of_b_where_dims_do(seed):
    problem = _mixed(seed)
    dims, directions = (
        make_remover(problem.b, problem.train, problem.folds, ALPHAS, by=by).residual(problem.a)
        for by in ("dim", "direction")
    )
    assert _drop(problem, directions.residual) == pytest.approx(1 - np.sqrt(0.5), abs=0.02)
    assert _drop(problem, dims.residual) < 0.2
    assert _check(problem, dims.residual)["linear"] > 0.2
    after = _check(problem, directions.residual)
    assert abs(after["linear"] - after["linear_shuffled"]) < 0.05
    # Eight directions are B's, eight are not.
    assert np.sort(directions.left)[7] < 1e-2 < 0.9 < np.sort(directions.left)[8]


def test_directions_come_back_as_dims():
    """Where nothing can be predicted the residual is the layer itself, whatever it is taken apart into."""
    problem = _problem(2, n_train=400)
    a = problem.own.copy()
    a[:, 3], a[:, 5] = 7, a[:, 4]  # a constant, and two dims alike: two directions less
    found = make_remover(problem.b, problem.train, problem.folds, np.array([1e9, 1e12]), by="direction").residual(a)
    assert found.alpha.shape == found.left.shape == (14,)
    expected = _scaled(a, problem.train)
    expected[:, 3] = 0
    np.testing.assert_allclose(found.residual, expected, atol=1e-4)
    nothing = make_remover(problem.b, problem.train, problem.folds, ALPHAS, by="direction").residual(np.ones_like(a))
    assert not nothing.residual.any()


def test_one_remover_serves_all_layers():
    problem = _problem(4)
    remover = make_remover(problem.b, problem.train, problem.folds, ALPHAS)
    first = remover.residual(problem.a).residual
    remover.residual(problem.own)
    np.testing.assert_array_equal(remover.residual(problem.a).residual, first)


def test_constant_dims_are_zeros_and_leave_the_others_alone():
    problem = _problem(5)
    plain = make_remover(problem.b, problem.train, problem.folds, ALPHAS).residual(problem.a)
    a, b = problem.a.copy(), np.concatenate([problem.b, np.full((len(problem.b), 2), 7, np.float32)], axis=1)
    a[problem.train, 2] = 1  # what it does on test rows cannot be judged
    found = make_remover(b, problem.train, problem.folds, ALPHAS).residual(a)
    assert not found.residual[:, 2].any()
    assert np.isnan(found.alpha).nonzero()[0].tolist() == np.isnan(found.left).nonzero()[0].tolist() == [2]
    others = np.arange(a.shape[1]) != 2
    np.testing.assert_allclose(found.residual[:, others], plain.residual[:, others], atol=1e-4)


def test_torch_computes_the_same():
    pytest.importorskip("torch")
    problem = _problem(6)
    found = [
        make_remover(problem.b, problem.train, problem.folds, ALPHAS, backend).residual(problem.a)
        for backend in (Backend(), Backend("torch"))
    ]
    np.testing.assert_array_equal(found[0].alpha, found[1].alpha)
    np.testing.assert_allclose(found[0].residual, found[1].residual, atol=1e-4)


def test_rows_that_do_not_fit_and_missing_values_are_refused():
    problem = _problem(7)
    remover = make_remover(problem.b, problem.train, problem.folds, ALPHAS)
    with pytest.raises(StudyError, match="features to keep: found 359 rows, expected 360"):
        remover.residual(problem.a[1:])
    a, b = problem.a.copy(), problem.b.copy()
    a[[3, 300]], b[5, 1] = np.nan, np.inf
    with pytest.raises(StudyError, match="features to keep: found 2 rows with missing values"):
        remover.residual(a)
    with pytest.raises(StudyError, match="features to remove: found 1 rows with missing"):
        make_remover(b, problem.train, problem.folds, ALPHAS)


def _check(problem: Problem, values: np.ndarray, **options: int) -> dict[str, float]:
    return still_predicted(values, problem.b, problem.train, problem.folds, ALPHAS, kernel_rows=300, **options).means()


@pytest.mark.parametrize("seed", range(5))
def test_what_was_removed_is_gone_for_a_linear_eye(seed):
    problem = _problem(seed, n_train=2000, n_test=600)
    remover = make_remover(problem.b, problem.train, problem.folds, ALPHAS)
    before, after = (_check(problem, values) for values in (problem.a, remover.residual(problem.a).residual))
    assert before["linear"] > 0.4
    assert abs(after["linear"] - after["linear_shuffled"]) < 0.05
    assert abs(after["linear_shuffled"]) < 0.05


def test_a_kernel_sees_what_no_linear_removal_takes():
    problem = _problem(0, width=3, n_train=1200, n_test=400, dims=6)
    # Odd in B but uncorrelated with it once the linear part is gone.
    bent = np.concatenate([problem.b**3, problem.a], axis=1)
    left = make_remover(problem.b, problem.train, problem.folds, ALPHAS).residual(bent).residual
    found = _check(problem, left)
    assert abs(found["linear"]) < 0.1
    assert found["kernel"] > found["linear"] + 0.3
    assert abs(found["kernel_shuffled"]) < 0.1


@pytest.mark.parametrize("width", [20, 160])
def test_figures_are_scikit_learns(width):
    problem = _problem(1, width, n_train=120, n_test=60)
    train, test, folds = problem.train, ~problem.train, problem.folds
    found = still_predicted(problem.a, problem.b, train, folds, ALPHAS)
    a, b = (_scaled(values, train) for values in (problem.a, problem.b))
    linear = pearson(_ridge(a[train], b[train], a[test], folds)[1], b[test])
    assert (np.abs(found.linear - linear) < 1e-4).mean() > 0.9
    distances = ((a[train][:, None] - a[train]) ** 2).sum(axis=2)
    gamma = 1 / np.median(distances[np.triu_indices(train.sum(), 1)])
    # The kernel is as many times larger as there are dims, which a smaller penalty equals.
    models = [KernelRidge(alpha=alpha / a.shape[1], kernel="rbf", gamma=gamma) for alpha in ALPHAS]
    x, y = a[train], b[train]
    losses = [
        np.mean(
            [((model.fit(x[fit], y[fit]).predict(x[shown]) - y[shown]) ** 2).mean(axis=0) for fit, shown in folds], 0
        )
        for model in models
    ]
    predicted = np.stack([model.fit(x, y).predict(a[test]) for model in models])
    best = predicted[np.argmin(losses, axis=0), :, np.arange(b.shape[1])].T
    assert (np.abs(found.kernel - pearson(best, b[test])) < 1e-4).mean() > 0.9


def test_a_shuffle_keeps_blocks_together_and_is_named_by_its_seed():
    problem = _problem(2)
    one, same, other = (_check(problem, problem.a, seed=seed) for seed in (0, 0, 1))
    assert one == same
    assert one["linear_shuffled"] != other["linear_shuffled"]
    assert one["linear"] == other["linear"]
    # One block of all training rows and one of all test rows: nothing moves.
    for seed in range(4):
        whole = _check(problem, problem.a, block_rows=240, seed=seed)
        assert whole["linear_shuffled"] == pytest.approx(whole["linear"], abs=1e-6)


def test_the_kernel_fits_on_some_rows_only_if_there_are_many():
    problem = _problem(3)
    found = [
        still_predicted(problem.a, problem.b, problem.train, problem.folds, ALPHAS, kernel_rows=rows)
        for rows in (240, 5000, 120)
    ]
    np.testing.assert_array_equal(found[0].kernel, found[1].kernel)
    assert not np.array_equal(found[0].kernel, found[2].kernel)
    assert found[2].means()["kernel"] == pytest.approx(found[0].means()["kernel"], abs=0.15)
    np.testing.assert_array_equal(found[0].linear, found[2].linear)
