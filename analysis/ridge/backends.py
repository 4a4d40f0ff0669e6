"""Libraries that arrays are computed with: numpy, or torch on a CPU or a GPU; an argument, never a global setting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from cinecube.store.base.errors import StudyError

Array: TypeAlias = Any
"""An array of the backend; operators, slices and sums read alike in numpy and torch."""


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
