"""Banded ridge: a penalty for each of several feature spaces and target, by himalaya. Pure array functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cinecube.analysis.ridge.factors import choose_form
from cinecube.analysis.ridge.folds import Fold
from cinecube.analysis.ridge.himalaya_ridge import NUMPY_BACKEND

_TARGETS_PER_BATCH = 512


@dataclass(frozen=True)
class BandedFit:
    """What several bands explain together, and each of them of it.

    Attributes
    ----------
    score : array, shape (target,)
        Pearson r on the test rows.
    r2 : array, shape (target,)
        R² on the test rows, of responses and predictions about their means.
    split_score, split_r2 : arrays, shape (band, target)
        The bands' parts, which add up to `score` and `r2` (Dupré la Tour et al. 2022, eq. 14 and 15).
    cv_score : array, shape (target,)
        R² on held-out training rows, mean over folds.
    deltas : array, shape (band, target)
        log(share / penalty) of each band.
    """

    score: np.ndarray
    r2: np.ndarray
    split_score: np.ndarray
    split_r2: np.ndarray
    cv_score: np.ndarray
    deltas: np.ndarray


def banded_ridge(
    train: tuple[Sequence[np.ndarray], np.ndarray],
    test: tuple[Sequence[np.ndarray], np.ndarray],
    folds: Sequence[Fold],
    alphas: np.ndarray,
    n_iter: int = 100,
    seed: int = 0,
) -> BandedFit:
    """Fit bands together: group ridge, or multiple kernels where features outnumber rows.

    Parameters
    ----------
    train : (designs, responses)
        One design (row, feature) per band, responses (row, target); centred, as for `ridge.fit_and_score`.
    test : (designs, responses)
    folds : sequence of (train, validation)
    alphas : array, shape (alpha,)
        Penalties to choose from.
    n_iter : int
        Random shares of the bands to try.
    seed : int
        Of these shares.
    """
    designs, responses = [design.astype(np.float64) for design in train[0]], train[1].astype(np.float64)
    tests, truth = [design.astype(np.float64) for design in test[0]], test[1].astype(np.float64)
    n_features = sum(design.shape[1] for design in designs)
    with NUMPY_BACKEND:
        if choose_form(len(responses), n_features) == "primal":
            model, predicted = _by_groups(designs, responses, tests, folds, alphas, n_iter, seed)
        else:
            model, predicted = _by_kernels(designs, responses, tests, folds, alphas, n_iter, seed)
        return BandedFit(
            *split_scores(predicted, truth),
            np.asarray(model.cv_scores_).max(axis=0),
            np.asarray(model.deltas_),
        )


def split_scores(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scores of bands together, and their parts by the product measure; see `BandedFit`.

    Parameters
    ----------
    predicted : array, shape (band, test row, target)
    truth : array, shape (test row, target)

    Returns
    -------
    score, r2 : arrays, shape (target,)
    split_score, split_r2 : arrays, shape (band, target)
    """
    with NUMPY_BACKEND:
        from himalaya.scoring import correlation_score, correlation_score_split, r2_score, r2_score_split

        # Only about their means do the parts add up.
        predicted, truth = predicted - predicted.mean(axis=1, keepdims=True), truth - truth.mean(axis=0)
        whole = predicted.sum(axis=0)
        return (
            np.asarray(correlation_score(truth, whole)),
            np.asarray(r2_score(truth, whole)),
            np.asarray(correlation_score_split(truth, predicted)),
            np.asarray(r2_score_split(truth, predicted)),
        )


def _by_groups(
    designs: Sequence[np.ndarray],
    responses: np.ndarray,
    tests: Sequence[np.ndarray],
    folds: Sequence[Fold],
    alphas: np.ndarray,
    n_iter: int,
    seed: int,
) -> tuple[Any, np.ndarray]:
    """A fitted model, and what each band predicts, (band, test row, target)."""
    from himalaya.ridge import GroupRidgeCV

    groups = np.concatenate([np.full(design.shape[1], band) for band, design in enumerate(designs)])
    model = GroupRidgeCV(
        groups=groups,
        cv=list(folds),
        random_state=seed,
        fit_intercept=False,
        solver_params={**_options(alphas, n_iter), "warn": False},
    )
    model.fit(np.concatenate(designs, axis=1), responses)
    return model, np.asarray(model.predict(np.concatenate(tests, axis=1), split=True))


def _by_kernels(
    designs: Sequence[np.ndarray],
    responses: np.ndarray,
    tests: Sequence[np.ndarray],
    folds: Sequence[Fold],
    alphas: np.ndarray,
    n_iter: int,
    seed: int,
) -> tuple[Any, np.ndarray]:
    from himalaya.kernel_ridge import MultipleKernelRidgeCV

    kernels = np.stack([design @ design.T for design in designs])
    model = MultipleKernelRidgeCV(
        kernels="precomputed",
        solver="random_search",
        cv=list(folds),
        random_state=seed,
        solver_params=_options(alphas, n_iter),
    )
    model.fit(kernels, responses)
    crossed = np.stack([other @ design.T for other, design in zip(tests, designs, strict=True)])
    return model, np.asarray(model.predict(crossed, split=True))


def _options(alphas: np.ndarray, n_iter: int) -> dict[str, Any]:
    return {
        "alphas": alphas,
        "n_iter": n_iter,
        "n_targets_batch": _TARGETS_PER_BATCH,
        "n_targets_batch_refit": _TARGETS_PER_BATCH,
        "progress_bar": False,
    }
