"""Tasks of encoding: a layer is prepared and factored once, and blocks of targets are scored with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cinecube.analysis.encoders.problem import Block, Layout, Problem, Settings, make_design
from cinecube.analysis.ridge.design import constants, delayed, delayed_gram, delayed_kernel, standardise, varying_dims
from cinecube.analysis.ridge.factors import Factor, Factors, Form, choose_form, factor, held_out
from cinecube.analysis.ridge.himalaya_ridge import fit_and_score
from cinecube.analysis.ridge.scores import Scores, fittable, varying
from cinecube.analysis.ridge.shared_ridge import all_losses, solve

SCORES = ("alpha", "cv_score", "score")
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

    Returns
    -------
    Prepared
        The kernel of test rows is among it in the dual form alone.
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

    Returns
    -------
    Factor
        It predicts the fold's validation rows, or the test rows.
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


def solve_block(
    factors: Sequence[Factored],
    source: tuple[Problem, Block, int, np.ndarray | None],
    layout: Layout,
    settings: Settings,
    places: np.ndarray | None = None,
) -> np.ndarray:
    """Task: scores of a block of targets, which it reads, with factors of each variant, (variant, SCORES, target).

    Parameters
    ----------
    factors : sequence of Factored
        Of the layer, one per variant of the settings.
    source : (Problem, Block, int, array or None)
        What to read: a block, the number of its group, and a mask (target,) of its targets.
    layout : Layout
    settings : Settings
    places : array of int, shape (target,), optional
        Places on the grid of penalties; without them each target chooses its own.

    Returns
    -------
    array, shape (variant, SCORES, target)
    """
    responses, alphas = _read(*source), settings.alphas
    targets = fittable(responses[layout.train], responses[~layout.train], layout.folds)
    own = None if places is None else places[targets.mask]
    found = []
    for factored in factors:
        whole = _factors_of(factored, layout, settings)
        fit = solve(whole, targets.known, alphas, places=own)
        found.append(_stacked(targets.scores(alphas[fit.best], fit.loss, fit.prediction)))
    return np.stack(found)


def _factors_of(factored: Factored, layout: Layout, settings: Settings) -> Factors:
    design, parts = factored
    known = None if design is None else settings.backend.put(design)
    form: Form = "dual" if design is None else "primal"
    return Factors(settings.backend, form, known, layout.folds, list(parts[:-1]), parts[-1])


def score_block(
    features: np.ndarray,
    responses: np.ndarray,
    inside: np.ndarray | None,
    layout: Layout,
    variants: Sequence[Settings],
    tested: bool = True,
) -> np.ndarray:
    """Task: scores of `features` (time, dim) in a block `responses` (row, target), (variant, SCORES, target).

    Parameters
    ----------
    features : array, shape (time, dim)
        A layer at all rows of its cubes.
    responses : array, shape (row, target)
    inside : array of bool, shape (target,), or None
        The targets to score; all without it.
    layout : Layout
    variants : sequence of Settings
    tested : bool
        Whether test rows are scored, too.

    Returns
    -------
    array, shape (variant, SCORES, target)
    """
    known = responses if inside is None else responses[:, inside]
    found = []
    for settings in variants:
        train, test = make_design(features, layout, settings.delays)
        shown = (test, known[~layout.train]) if tested else None
        fitted = fit_and_score((train, known[layout.train]), shown, layout.folds, settings.alphas, settings.solver)
        found.append(_stacked(fitted))
    return np.stack(found)


def vote_block(
    factors: Sequence[Factored],
    source: tuple[Problem, Block, int, np.ndarray | None],
    layout: Layout,
    settings: Settings,
) -> np.ndarray:
    """Task: 1 - r on held-out rows with every penalty, (alpha, target); NaN where a target is constant or absent.

    Parameters
    ----------
    factors, source, layout, settings
        As for `solve_block`; of the factors, those of the only variant.

    Returns
    -------
    array, shape (alpha, target)
    """
    train = _read(*source)[layout.train]
    known = varying(train)
    losses = np.full((len(settings.alphas), len(known)), np.nan)
    whole = _factors_of(factors[0], layout, settings)
    losses[:, known] = all_losses(whole, train[:, known], settings.alphas, "correlation")
    return losses


def never_varies(problem: Problem, rows: Sequence[tuple[np.ndarray, ...]], m: int, k: int) -> bool:
    """Task: whether no dim of a layer varies over all the rows of a group that must vary.

    Parameters
    ----------
    problem : Problem
    rows : sequence of tuple of array of int, shape (row,)
        By group: sets of rows of features, over each of which a dim must vary.
    m, k : int
        Positions on the model and the layer axis.

    Returns
    -------
    bool
        True if there is a group in which no dim varies over every set of rows.
    """
    features = problem.read_layer(m, k)
    return not all(np.all([varying_dims(features[part]) for part in parts], axis=0).any() for parts in rows)


def _read(problem: Problem, block: Block, number: int, inside: np.ndarray | None) -> np.ndarray:
    responses = problem.read_block(block, number)
    return responses if inside is None else responses[:, inside]


def _stacked(scores: Scores) -> np.ndarray:
    return np.stack([getattr(scores, name) for name in SCORES])
