"""Cross-subject predictions from few components of each source subject, where a kernel of all rows costs too much.

A ridge from a subject's targets is one from their principal components. Components of little variance are shrunk most,
and those after the first thousand are left out: what they share between training rows is close to a multiple of the
identity, which a penalty takes the place of. So a subset of subjects is factored as a matrix of components, not of
rows. Components are those of the training rows; test rows are only projected. Pure array functions.

Penalties are not chosen for every target from every subset: a target's place on the grid is found once, from the first
components of all others together, and a subset moves the places of all targets of a subject by the median of how it
moves those of a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cinecube.analysis.ceilings.cross_subject import RELATIVE_ALPHAS, SourceSubject, standardised_targets
from cinecube.analysis.ridge.factors import Array, Backend, factorise, plain_grams
from cinecube.analysis.ridge.folds import Fold
from cinecube.analysis.ridge.scores import pearson
from cinecube.analysis.ridge.shared_ridge import solve

COMPONENTS = 1000
"""Of each subject; with fewer the ceiling falls (benchmarks/ceiling.py --reduced)."""
FEW = 256
"""Of each subject, the first ones: enough to choose penalties by."""
SAMPLED = 2048
"""Targets of a subject that say how penalties move from subset to subset."""
# Random directions beyond those wanted, and passes over all targets that turn them towards the largest (Halko,
# Martinsson & Tropp 2011).
_MORE, _PASSES = 50, 2
# Share of the largest variance; anything smaller is rounding of float32.
_RANK = 1e-10
# Targets' places differ from their median by no more than this: each place of a subset is another factorisation, and
# farther out scores hardly depend on the penalty.
_REACH = 2


@dataclass(frozen=True)
class Components:
    """Components of one subject's standardised targets, by variance over the training rows.

    Attributes
    ----------
    train : array of float32, shape (train row, component)
    test : array of float32, shape (test row, component)
    energy : float
        Sum of squares of all standardised targets over the training rows: the trace of their kernel.
    """

    train: np.ndarray
    test: np.ndarray
    energy: float


def find_components(
    blocks: Callable[[], Iterable[np.ndarray]], train: np.ndarray, n_components: int, backend: Backend | None = None
) -> Components:
    """Components of largest variance over the training rows, by a few passes over blocks of targets.

    Parameters
    ----------
    blocks : callable
        Reads all targets anew, responses (row, target) block by block; targets without values add nothing.
    train : array of bool, shape (row,)
    n_components : int
        Fewer come back where there are fewer.
    backend : Backend, optional

    Returns
    -------
    Components
        Largest variance first; one component of zeros where no target varies.
    """
    backend = backend or Backend()

    def standardised() -> Iterable[tuple[Array, Array]]:
        for responses in blocks():
            values = np.nan_to_num(standardised_targets(responses, train), copy=False)
            yield backend.put(values[train]), backend.put(values[~train])

    n_rows = int(train.sum())
    width = min(n_rows, n_components + _MORE)
    basis = backend.put(np.random.default_rng(0).standard_normal((n_rows, width)))
    for _ in range(_PASSES):
        turned = sum(seen @ (seen.T @ basis) for seen, _ in standardised())
        basis = backend.put(np.linalg.qr(backend.get(turned))[0])
    gram, projected, energy = np.zeros((width, width)), np.zeros((len(train) - n_rows, width)), 0.0
    for seen, test in standardised():
        part = basis.T @ seen
        gram += backend.get(part @ part.T)
        projected += backend.get(test @ part.T)
        energy += float((seen * seen).sum())
    values, vectors = np.linalg.eigh(gram)
    kept = np.flatnonzero(values > _RANK * max(values[-1], 0.0))[::-1][:n_components]
    if not kept.size:  # no target varies
        return Components(np.zeros((n_rows, 1), np.float32), np.zeros((len(projected), 1), np.float32), 0.0)
    scale, vectors = np.sqrt(values[kept]), vectors[:, kept]
    found = backend.get(basis) @ (vectors * scale), projected @ (vectors / scale)
    return Components(found[0].astype(np.float32), found[1].astype(np.float32), energy)


def penalty_grid(parts: Sequence[Components]) -> np.ndarray:
    """Rising penalties (alpha,) for some subjects side by side: `RELATIVE_ALPHAS` times the trace of their kernel."""
    return RELATIVE_ALPHAS * (sum(part.energy for part in parts) or 1.0)


def factor_few(parts: Sequence[Components], folds: Sequence[Fold], backend: Backend | None = None) -> SourceSubject:
    """Factor the first components of some subjects, to choose penalties by.

    Parameters
    ----------
    parts : sequence of Components
    folds : sequence of (train, validation)
        Positions among the training rows.
    backend : Backend, optional

    Returns
    -------
    SourceSubject
        Of the first `FEW` components of each subject.
    """
    design = np.concatenate([part.train[:, :FEW] for part in parts], axis=1)
    factors = factorise(plain_grams(design, folds), design, None, folds, backend or Backend())
    return SourceSubject(factors, penalty_grid(parts))


def choose_places(source: SourceSubject, known: np.ndarray) -> np.ndarray:
    """Places (target,) on the grid of penalties that the folds choose.

    Parameters
    ----------
    source : SourceSubject
        From `factor_few`.
    known : array, shape (train row, target)
        Standardised responses.

    Returns
    -------
    array of int, shape (target,)
    """
    return solve(source.factors, known, source.alphas).best


@dataclass(frozen=True)
class Shift:
    """A move of the places of one subject's targets, found from all other subjects, for a subset of these.

    Attributes
    ----------
    by : int
    middle : int
        Median of the sample's places; none is further from it than `_REACH`.
    """

    by: int
    middle: int

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """Places (target,) for the subset.

        Parameters
        ----------
        places : array of int, shape (target,)
            From all other subjects.
        """
        near = np.clip(places, self.middle - _REACH, self.middle + _REACH)
        return np.clip(near + self.by, 0, len(RELATIVE_ALPHAS) - 1)

    @property
    def reached(self) -> np.ndarray:
        """All places that targets may have."""
        return np.unique(self(np.arange(len(RELATIVE_ALPHAS))))


def find_shift(everyone: np.ndarray, subset: np.ndarray) -> Shift:
    """The shift of a subset.

    Parameters
    ----------
    everyone, subset : arrays of int, shape (sampled target,)
        Places of a sample of targets, from all other subjects and from the subset.

    Returns
    -------
    Shift
        The median difference, rounded; no move, from the middle of the grid, where the sample is empty.
    """
    if not len(subset):
        return Shift(0, len(RELATIVE_ALPHAS) // 2)
    return Shift(int(np.rint(np.median(subset - everyone))), int(np.median(everyone)))


def make_smoothers(parts: Sequence[Components], places: Iterable[int]) -> dict[int, np.ndarray]:
    """Matrices that make predictions of products: (test row, component) float32 by place on the grid of penalties.

    Parameters
    ----------
    parts : sequence of Components
        Of a subset's subjects.
    places : iterable of int

    Returns
    -------
    dict of int to array, shape (test row, component)
        By place.
    """
    from scipy import linalg

    design = np.concatenate([part.train for part in parts], axis=1).astype(np.float64)
    test = np.concatenate([part.test for part in parts], axis=1).astype(np.float64)
    gram, alphas, found = design.T @ design, penalty_grid(parts), {}
    del design
    for place in places:
        matrix = gram.copy()
        matrix[np.diag_indices_from(matrix)] += alphas[place]
        factor = linalg.cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)
        found[int(place)] = linalg.cho_solve(factor, test.T, check_finite=False).T.astype(np.float32)
    return found


def predicted_scores(
    smoothers: Mapping[int, np.ndarray], products: Array, places: np.ndarray, test: np.ndarray, backend: Backend
) -> np.ndarray:
    """Pearson r (target,) of predictions from a subset.

    Parameters
    ----------
    smoothers : Mapping of int to array, shape (test row, component)
        From `make_smoothers`.
    products : Array, shape (component, target)
        Of the subset's components with the targets, over the training rows.
    places : array of int, shape (target,)
    test : array, shape (test row, target)
        Standardised responses.
    backend : Backend

    Returns
    -------
    array, shape (target,)
    """
    score = np.empty(len(places))
    for place in np.unique(places):
        own = np.flatnonzero(places == place)
        score[own] = pearson(backend.get(backend.put(smoothers[int(place)]) @ products[:, own]), test[:, own])
    return score
