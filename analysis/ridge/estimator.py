"""The shared-factor ridge as an estimator of scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.model_selection import check_cv
from sklearn.utils.validation import check_is_fitted, validate_data

from cinecube.analysis.ridge.factors import Backend, factorise, plain_grams
from cinecube.analysis.ridge.shared_ridge import Criterion, solve


class SharedRidgeCV(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Ridge regression with a penalty per target, chosen by cross-validation with factors that all targets share.

    Parameters
    ----------
    alphas : sequence of float
        Rising penalties to choose from.
    cv : int, splitter or iterable of (train, validation)
        Folds, as scikit-learn takes them.
    fit_intercept : bool
        Whether to centre features and targets by the means of the training rows.
    criterion : {"squared error", "correlation"}
        What chooses the penalty.
    exhaustive : bool
        Try every penalty rather than walk to the best; a correlation always does.
    library : {"numpy", "torch"}
        What computes.
    device : str
        Of torch.

    Attributes
    ----------
    best_alphas_ : array, shape (target,)
        Chosen penalties.
    cv_scores_ : array, shape (target,)
        Less the squared error, or r, of held-out rows at the chosen penalty, mean over folds.
    coef_ : array, shape (feature, target)
        Weights; (feature,) for one target.
    intercept_ : array, shape (target,)
    """

    def __init__(
        self,
        alphas: Sequence[float] = (0.1, 1.0, 10.0),
        cv: Any = 5,
        fit_intercept: bool = True,
        criterion: Criterion = "squared error",
        exhaustive: bool = False,
        library: Literal["numpy", "torch"] = "numpy",
        device: str = "cpu",
    ) -> None:
        self.alphas = alphas
        self.cv = cv
        self.fit_intercept = fit_intercept
        self.criterion = criterion
        self.exhaustive = exhaustive
        self.library = library
        self.device = device

    def fit(self, X: Any, y: Any) -> SharedRidgeCV:
        """Choose penalties and fit weights.

        Parameters
        ----------
        X : array, shape (row, feature)
        y : array, shape (row,) or (row, target)

        Returns
        -------
        SharedRidgeCV
            Itself, fitted.

        Raises
        ------
        ValueError
            If penalties are not positive and rising, or X and y cannot be fitted.
        """
        X, y = validate_data(self, X, y, multi_output=True, y_numeric=True, dtype=[np.float64, np.float32])
        alphas = np.asarray(self.alphas, float)
        if (np.diff(alphas) <= 0).any() or (alphas <= 0).any():
            raise ValueError(f"alphas must be positive and rising, found {self.alphas!r}")
        targets = y.reshape(len(y), -1).astype(float)
        features = X.astype(float)
        x_mean, y_mean = features.mean(axis=0), targets.mean(axis=0)
        if self.fit_intercept:
            features, targets = features - x_mean, targets - y_mean
        folds = list(check_cv(self.cv).split(features, targets))
        grams = plain_grams(features, folds)
        factors = factorise(grams, features, None, folds, Backend(self.library, self.device))
        found = solve(factors, targets, alphas, criterion=self.criterion, exhaustive=self.exhaustive, weights=True)
        weights = found.weights
        if weights is None:  # of the dual: wᵀ = cᵀ X with (XXᵀ + a) c = y
            weights = features.T @ _dual_weights(grams.whole, targets, alphas[found.best])
        self.best_alphas_ = alphas[found.best]
        self.cv_scores_ = -found.loss if self.criterion == "squared error" else 1 - found.loss
        single = y.ndim == 1
        self.coef_ = weights[:, 0] if single else weights
        intercept = y_mean - x_mean @ weights if self.fit_intercept else np.zeros(targets.shape[1])
        self.intercept_ = intercept[0] if single else intercept
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Predicted targets, (row,) or (row, target)."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        predicted: np.ndarray = X @ self.coef_ + self.intercept_
        return predicted


def _dual_weights(kernel: np.ndarray, targets: np.ndarray, alphas: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(kernel)
    solved: np.ndarray = vectors @ ((vectors.T @ targets) / (np.maximum(values, 0)[:, None] + alphas))
    return solved
