"""Gram matrices and factors of a design for every fold of a ridge, shared by all targets. Pure array functions.

XᵀX of a fold is that of all rows less that of the rows it leaves out. Where features outnumber rows, XXᵀ takes its
place. Gram matrices and factors are float64, what predicts is float32. The library that computes is
an argument, never a global setting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from cinecube.analysis.ridge.folds import Fold
from cinecube.store.base.errors import StudyError

Array: TypeAlias = Any
"""An array of the backend; operators, slices and sums read alike in numpy and torch."""
Form = Literal["primal", "dual"]
# Eigenvalues below this share of the largest are rounding of float64.
_RANK = 1e-13


@dataclass(frozen=True)
class Backend:
    """A library of arrays and a device.

    Attributes
    ----------
    library : {"numpy", "torch"}
    device : str
        Of torch: `cpu`, `cuda`, `cuda:1`, ….
    """

    library: Literal["numpy", "torch"] = "numpy"
    device: str = "cpu"

    def put(self, values: np.ndarray, dtype: type[np.floating[Any]] = np.float32) -> Array:
        """An array of numpy as one of the backend, without a copy where none is needed.

        Parameters
        ----------
        values : array
            Of any shape.
        dtype : type
            float32 by default.

        Returns
        -------
        Array
            On the backend's device.
        """
        values = np.ascontiguousarray(values, dtype=dtype)
        if self.library == "numpy":
            return values
        import torch

        return torch.from_numpy(values).to(self.device)

    def get(self, values: Array) -> np.ndarray:
        """An array of the backend as one of numpy."""
        return values if isinstance(values, np.ndarray) else values.cpu().numpy()

    def turned(self, values: Array) -> Array:
        """A matrix's transpose, laid out row by row."""
        return np.ascontiguousarray(values.T) if isinstance(values, np.ndarray) else values.T.contiguous()

    def sparse_ones(self, columns: np.ndarray, width: int) -> Array:
        """A sparse float32 matrix (row, column) that holds ones at some columns of each row.

        Parameters
        ----------
        columns : array of int32, shape (row, one)
            Rising in each row.
        width : int
            Columns of the matrix.

        Returns
        -------
        csr_matrix or Tensor
            Of scipy, or of torch on the backend's device.
        """
        ones, (n_rows, n_ones) = np.ones(columns.size, dtype=np.float32), columns.shape
        if self.library == "numpy":
            from scipy import sparse

            ends = np.arange(n_rows + 1, dtype=np.int32) * n_ones
            return sparse.csr_matrix((ones, columns.ravel(), ends), shape=(n_rows, width))
        import torch

        places = torch.from_numpy(np.stack([np.repeat(np.arange(n_rows), n_ones), columns.ravel()]))
        matrix = torch.sparse_coo_tensor(places, torch.from_numpy(ones), (n_rows, width), check_invariants=True)
        return matrix.coalesce().to(self.device)

    def eigh(self, matrix: np.ndarray) -> tuple[np.ndarray, Array]:
        """Eigenvalues, rising, and eigenvectors in columns of a symmetric float64 matrix; vectors in float32."""
        if self.library == "numpy":
            from scipy import linalg

            values, vectors = linalg.eigh(matrix, driver="evd", check_finite=False)
            return values, vectors.astype(np.float32)
        import torch

        values, vectors = torch.linalg.eigh(torch.from_numpy(matrix).to(self.device))
        return values.cpu().numpy(), vectors.float()


def check_backend(library: str, device: str, where: str) -> Backend:
    """A backend by the names in `params.yaml`.

    Parameters
    ----------
    library : {"numpy", "torch"}
    device : str
        Of torch: `cpu`, `cuda`, ….
    where : str
        The key, for messages.

    Returns
    -------
    Backend
        `auto` is `cuda` where torch finds one, otherwise `cpu`.

    Raises
    ------
    StudyError
        If torch or the device is not there.
    """
    if library == "numpy":
        return Backend()
    try:
        import torch
    except ImportError:
        raise StudyError(
            where=where, found="no torch", expected="torch installed", do="install it, or set backend: numpy"
        ) from None
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise StudyError(where=where, found=device, expected="a CUDA device", do="set run.device: auto")
    return Backend("torch", device)


@dataclass(frozen=True)
class Grams:
    """Float64 products of a design with itself, from `plain_grams` or made of shifted blocks.

    Attributes
    ----------
    form : {"primal", "dual"}
    whole : array, shape (feature, feature) or (row, row)
        XᵀX, or XXᵀ.
    held : list of array, shape (feature, feature)
        XᵀX of the rows that each fold leaves out; empty for the dual, whose folds are parts of `whole`.
    test : array, shape (test row, row), or None
        The kernel of test rows; None for the primal.
    """

    form: Form
    whole: np.ndarray
    held: list[np.ndarray]
    test: np.ndarray | None = None


@dataclass(frozen=True)
class Factor:
    """Factors of a design for one fold, or for all rows together.

    Attributes
    ----------
    values : array of float64, shape (rank,)
        λ.
    basis : Array, shape (feature, rank) or (training row, rank)
        V: its transpose makes Z of XᵀY or of Y.
    left : Array, shape (row to predict, rank)
        L.
    """

    values: np.ndarray
    basis: Array
    left: Array


@dataclass(frozen=True)
class Factors:
    """All that blocks of targets need of a design; see `factorise`.

    Attributes
    ----------
    backend : Backend
    form : {"primal", "dual"}
    design : Array or None
        (row, feature) float32; None for the dual.
    folds : sequence of (train, validation)
    by_fold : list of Factor
    whole : Factor
        Of all rows; `left` predicts the test rows.
    """

    backend: Backend
    form: Form
    design: Array | None
    folds: Sequence[Fold]
    by_fold: list[Factor]
    whole: Factor


def choose_form(n_rows: int, n_features: int) -> Form:
    """Primal, unless features outnumber rows.

    Parameters
    ----------
    n_rows, n_features : int
        Of the design on the training rows.

    Returns
    -------
    {"primal", "dual"}
    """
    return "primal" if n_features <= n_rows else "dual"


def plain_grams(design: np.ndarray, folds: Sequence[Fold], test: np.ndarray | None = None) -> Grams:
    """Gram matrices by plain products.

    Parameters
    ----------
    design : array, shape (row, feature)
    folds : sequence of (train, validation)
    test : array, shape (test row, feature), optional

    Returns
    -------
    Grams
        Primal or dual; see `choose_form`.
    """
    design = design.astype(np.float64, copy=False)
    form = choose_form(*design.shape)
    if form == "dual":
        return Grams(form, design @ design.T, [], None if test is None else test.astype(np.float64) @ design.T)
    held = [design[rows].T @ design[rows] for rows in (held_out(fold, len(design)) for fold in folds)]
    return Grams(form, design.T @ design, held)


def held_out(fold: Fold, n_rows: int) -> np.ndarray:
    """Rows that a fold does not train on: its validation rows and its gaps.

    Parameters
    ----------
    fold : (train, validation)
        Positions among the training rows.
    n_rows : int
        Training rows.

    Returns
    -------
    array of int, shape (held row,)
    """
    kept = np.zeros(n_rows, dtype=bool)
    kept[fold[0]] = True
    return np.flatnonzero(~kept)


def factorise(
    grams: Grams,
    design: np.ndarray,
    test: np.ndarray | None,
    folds: Sequence[Fold],
    backend: Backend,
    run: Callable[[list[Callable[[], Factor]]], list[Factor]] | None = None,
) -> Factors:
    """Factor every fold, and all rows together.

    Parameters
    ----------
    grams : Grams
    design : array, shape (row, feature)
    test : array, shape (test row, feature), or None
    folds : sequence of (train, validation)
    backend : Backend
    run : callable, optional
        Runs functions without arguments and returns their results in order; one after another by default.

    Returns
    -------
    Factors
    """
    n_rows = len(design)
    single = design.astype(np.float32, copy=False)
    no_rows = np.empty((0, design.shape[1]), np.float32)

    def fold_factor(number: int) -> Factor:
        train, validation = folds[number]
        if grams.form == "dual":
            kernel = grams.whole[np.ix_(train, train)]
            return factor(kernel, grams.whole[np.ix_(validation, train)], backend)
        return factor(grams.whole - grams.held[number], single[validation], backend)

    def whole_factor() -> Factor:
        if grams.form == "dual":
            return factor(grams.whole, np.empty((0, n_rows)) if grams.test is None else grams.test, backend)
        return factor(grams.whole, no_rows if test is None else test.astype(np.float32, copy=False), backend)

    jobs: list[Callable[[], Factor]] = [lambda number=number: fold_factor(number) for number in range(len(folds))]  # type: ignore[misc]
    jobs.append(whole_factor)
    *by_fold, whole = run(jobs) if run else [job() for job in jobs]
    kept = backend.put(single) if grams.form == "primal" else None
    return Factors(backend, grams.form, kept, folds, by_fold, whole)


def factor(matrix: np.ndarray, predicted: np.ndarray, backend: Backend) -> Factor:
    """Factor a Gram matrix, (feature, feature) or (row, row), for rows to predict (row, feature) or (row, row).

    Parameters
    ----------
    matrix : array, shape (feature, feature) or (row, row)
        float64, symmetric.
    predicted : array, shape (row to predict, feature) or (row to predict, row)
    backend : Backend

    Returns
    -------
    Factor
        Without directions whose eigenvalues are rounding.
    """
    values, vectors = backend.eigh(matrix)
    # A design of constants has no rank; one direction of nothing predicts nothing.
    kept = min(int(np.searchsorted(values, _RANK * max(values[-1], 0.0), side="right")), len(values) - 1)
    basis = vectors[:, kept:]
    return Factor(np.maximum(values[kept:], 0.0), basis, backend.put(predicted) @ basis)
