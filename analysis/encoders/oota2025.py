"""Choices of the code of Oota et al. (2025) that `encode.compat` repeats, for comparison only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import numpy as np

from cinecube.analysis.cubes.spaces import FeatureSpace, Responses
from cinecube.store.params.analysis_params import Choice
from cinecube.store.params.document import Study

WHAT: Mapping[Choice, str] = {
    "one_alpha": "one penalty for all targets of a subject, by their mean correlation on held-out rows",
    "squared_alphas": "ten penalties from 100 to 1,000,000: 10 to 1,000, squared",
    "without_last_block": "layers counted from the embedding, so that the output of the last block is never read",
    "zscore_across_targets": "responses z-scored over the targets of each TR instead of over time",
    "delays_across_runs": "delayed features that reach into the run before",
}

# Below this spread the normalisation of a row would divide by rounding, as in `saturation`.
_CONSTANT = 1e-7
# Of one subject's cube that is read at once.
_TARGETS_AT_ONCE = 4096

RowConstants = tuple[np.ndarray, np.ndarray]


def choose_inputs(
    space: FeatureSpace, brains: Mapping[str, Responses], compat: tuple[Choice, ...]
) -> tuple[FeatureSpace, dict[str, Responses]]:
    """Features and responses as the choices make an encoder see them.

    Parameters
    ----------
    space : FeatureSpace
    brains : Mapping of str to Responses
        By subject.
    compat : tuple of str
        The choices that are on.

    Returns
    -------
    space : FeatureSpace
    brains : dict of str to Responses
        By subject.
    """
    if "zscore_across_targets" in compat:
        brains = {
            name: AcrossTargets(**{field.name: getattr(brain, field.name) for field in fields(brain)})
            for name, brain in brains.items()
        }
    return replace(space, without_last_block="without_last_block" in compat), dict(brains)


def without_choices(study: Study) -> Study:
    """The same study without `encode.compat`: for analyses that have their own way to fit."""
    return study.model_copy(update={"encode": study.encode.model_copy(update={"compat": ()})})


@dataclass(frozen=True)
class AcrossTargets(Responses):
    """A subject's brain cube whose rows have mean 0 and spread 1 over all its targets, once showings are averaged."""

    def read(self, showings: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Responses of some targets, float32 (row, target); see `Responses.read`.

        Parameters
        ----------
        showings : array of int, shape (row, showing)
            Rows of the cube to average; -1 for none.
        targets : array of int, shape (target,)
            Positions on the target axis.

        Returns
        -------
        array of float32, shape (row, target)
            Standardised over all targets of each row.
        """
        mean, spread = _constants_of(self, showings.shape, showings.tobytes())
        values: np.ndarray = ((super().read(showings, targets) - mean) / spread).astype(np.float32)
        return values

    def plain(self, showings: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """The same responses as they are in the cube.

        Parameters
        ----------
        showings : array of int, shape (row, showing)
            Rows of the cube to average; -1 for none.
        targets : array of int, shape (target,)
            Positions on the target axis.

        Returns
        -------
        array of float32, shape (row, target)
        """
        return super().read(showings, targets)

    def __hash__(self) -> int:
        return hash((self.subject, self.cube.attrs["fingerprint"]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AcrossTargets) and hash(self) == hash(other)


@lru_cache(maxsize=16)
def _constants_of(brain: AcrossTargets, shape: tuple[int, ...], showings: bytes) -> RowConstants:
    """Constants of all rows; a process that reads many blocks computes them once."""
    positions = np.frombuffer(showings, dtype=np.int64).reshape(shape)
    starts = range(0, brain.n_targets, _TARGETS_AT_ONCE)
    blocks = (np.arange(start, min(start + _TARGETS_AT_ONCE, brain.n_targets)) for start in starts)
    return row_constants(brain.plain(positions, targets) for targets in blocks)


def row_constants(blocks: Iterable[np.ndarray]) -> RowConstants:
    """Mean and standard deviation of each row over the targets of all blocks; absent targets do not count.

    Parameters
    ----------
    blocks : iterable of array, shape (row, target)

    Returns
    -------
    mean, spread : arrays, shape (row, 1)
        float64; the spread of a constant row is infinite.
    """
    count, total, square = (np.zeros((1, 1)) for _ in range(3))
    for block in blocks:
        values = block.astype(np.float64)
        known = np.isfinite(values)
        values[~known] = 0
        count = count + known.sum(axis=1, keepdims=True)
        total = total + values.sum(axis=1, keepdims=True)
        square = square + (values * values).sum(axis=1, keepdims=True)
    mean = total / np.maximum(count, 1)
    spread = np.sqrt(np.maximum(square / np.maximum(count, 1) - mean**2, 0))
    return mean, np.where(spread > _CONSTANT * np.abs(mean), spread, np.inf)
