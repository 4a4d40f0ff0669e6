"""A layer prepared and factored once, by the shared-factor ridge, for any number of blocks of targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cinecube.analysis.encoders.layout import Layout
from cinecube.analysis.encoders.settings import Settings
from cinecube.analysis.ridge.design import constants, delayed, standardise
from cinecube.analysis.ridge.factors import Factor, Factors, Form, choose_form, factor, held_out
from cinecube.analysis.ridge.grams import delayed_gram, delayed_kernel
from cinecube.analysis.ridge.scores import Scores, score_fit, varying
from cinecube.analysis.ridge.shared_ridge import all_losses, solve

# What solving needs of a layer: its training rows, for the primal, and the factors of its folds and of all rows.
Factored = tuple[np.ndarray | None, Sequence[Factor]]


@dataclass(frozen=True)
class Prepared:
    """A layer before it is factored.

    Attributes
    ----------
    form : {"primal", "dual"}
    features : array, shape (time, dim)
        Standardised with constants of the training rows, float64.
    design, test : arrays, shape (row, delay x dim)
        Training and test rows, float32.
    gram : array
        Float64: XᵀX (feature, feature) of all training rows, or XXᵀ (row, row).
    test_kernel : array, shape (test row, row), or None
        For the dual.
    """

    form: Form
    features: np.ndarray
    design: np.ndarray
    test: np.ndarray
    gram: np.ndarray
    test_kernel: np.ndarray | None = None


def prepare_layer(features: np.ndarray, layout: Layout, settings: Settings) -> Prepared:
    """Task: standardise a layer (time, dim), delay it, and make its Gram matrix of shifted blocks.

    Parameters
    ----------
    features : array, shape (time, dim)
    layout : Layout
    settings : Settings
    """
    train_rows, test_rows = layout.feature_row[layout.train], layout.feature_row[~layout.train]
    mean, spread = constants(features[np.unique(train_rows)])
    known = standardise(features, mean, spread)
    design = delayed(known.astype(np.float32), settings.delays, layout.runs)
    train, test = design[train_rows], design[test_rows]
    form = choose_form(*train.shape)
    if form == "primal":
        return Prepared(form, known, train, test, _gram(known, train, train_rows, layout, settings))
    kernel = delayed_kernel(known, known, settings.delays, layout.runs, layout.runs)
    return Prepared(
        form, known, train, test, kernel[np.ix_(train_rows, train_rows)], kernel[np.ix_(test_rows, train_rows)]
    )


def _gram(features: np.ndarray, design: np.ndarray, rows: np.ndarray, layout: Layout, settings: Settings) -> np.ndarray:
    """XᵀX of some rows; of rows that come twice, as separate showings do, by a plain product."""
    if (np.diff(rows) > 0).all():
        return delayed_gram(features, settings.delays, layout.runs, rows)
    return design.astype(np.float64).T @ design


def factor_fold(prepared: Prepared, number: int, layout: Layout, settings: Settings) -> Factor:
    """Task: factor one fold, or all training rows where `number` is that of the last fold and one more.

    Parameters
    ----------
    prepared : Prepared
    number : int
        Of the fold.
    layout : Layout
    settings : Settings
    """
    backend = settings.backend
    if number == len(layout.folds):
        predicted = prepared.test if prepared.test_kernel is None else prepared.test_kernel
        return factor(prepared.gram, predicted, backend)
    train, validation = layout.folds[number]
    if prepared.form == "dual":
        return factor(prepared.gram[np.ix_(train, train)], prepared.gram[np.ix_(validation, train)], backend)
    held = held_out(layout.folds[number], len(prepared.design))
    rows = layout.feature_row[layout.train][held]
    gram = prepared.gram - _gram(prepared.features, prepared.design[held], rows, layout, settings)
    return factor(gram, prepared.design[validation], backend)


def training_design(prepared: Prepared) -> np.ndarray | None:
    """Task: what blocks of targets need of a layer besides its factors, (row, feature); nothing for the dual."""
    return prepared.design if prepared.form == "primal" else None


def solve_responses(
    design: np.ndarray | None,
    parts: Sequence[Factor],
    responses: np.ndarray,
    layout: Layout,
    settings: Settings,
    places: np.ndarray | None = None,
) -> Scores:
    """Scores of one layer for `responses` (row, target); `places` (target,) of penalties.

    Parameters
    ----------
    design : array, shape (row, feature), or None
        From `training_design`.
    parts : sequence of Factor
        Of the folds, then of all rows.
    responses : array, shape (row, target)
    layout : Layout
    settings : Settings
    places : array of int, shape (target,), optional
        Places on the grid of penalties; without them each target chooses its own.
    """
    factors = factors_of(design, parts, layout, settings)

    def fit(known: np.ndarray, fitted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        own = None if places is None else places[fitted]
        found = solve(factors, known, settings.alphas, exhaustive=settings.exhaustive, places=own)
        return settings.alphas[found.best], found.loss, found.prediction

    return score_fit(fit, responses[layout.train], responses[~layout.train], layout.folds)


def factors_of(design: np.ndarray | None, parts: Sequence[Factor], layout: Layout, settings: Settings) -> Factors:
    """Factors of a layer's folds and of all its rows, the last of `parts`, together; `design` as `training_design`.

    Parameters
    ----------
    design : array, shape (row, feature), or None
        From `training_design`.
    parts : sequence of Factor
        Of the folds, then of all rows.
    layout : Layout
    settings : Settings
    """
    form: Form = "dual" if design is None else "primal"
    known = None if design is None else settings.backend.put(design)
    return Factors(settings.backend, form, known, layout.folds, list(parts[:-1]), parts[-1])


def held_losses(factored: Factored, responses: np.ndarray, layout: Layout, settings: Settings) -> np.ndarray:
    """1 - r on held-out rows with every penalty, (alpha, target); NaN where a target is constant or absent.

    Parameters
    ----------
    factored : Factored
    responses : array, shape (row, target)
    layout : Layout
    settings : Settings

    Returns
    -------
    array, shape (alpha, target)
    """
    design, parts = factored
    train = responses[layout.train]
    known = varying(train)
    losses = np.full((len(settings.alphas), train.shape[1]), np.nan)
    if known.any():
        joined = factors_of(design, parts, layout, settings)
        losses[:, known] = all_losses(joined, train[:, known], settings.alphas, "correlation")
    return losses
