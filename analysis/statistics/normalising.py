"""Scores as shares of their ceiling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from cinecube.store.base.errors import StudyError
from cinecube.store.params.analysis_params import CeilingParams

# What `compat: oota2025` sets negative shares to.
_COMPAT_FLOOR = 0.0


@dataclass(frozen=True)
class Normalised:
    """Scores by their ceilings.

    Attributes
    ----------
    score : array, shape (..., target)
        1 is the ceiling; NaN where the ceiling is unknown or below the threshold.
    share : array, shape (...)
        Share of the targets whose ceiling is known and not below the threshold; NaN where there are no targets.
    """

    score: np.ndarray
    share: np.ndarray


def normalised(
    score: np.ndarray, ceiling: np.ndarray, threshold: float = 0.05, cap: float = 1.0, floor: float = -np.inf
) -> Normalised:
    """Divide scores by ceilings that are high enough to divide by.

    Parameters
    ----------
    score : array, shape (..., target)
    ceiling : array, shape (..., target)
        Shapes are broadcast to the score's.
    threshold : float
        Ceilings below are no ground to divide by (0.05: Oota et al. 2025); nor are those of 0 and less.
    cap : float
        Largest share that is kept; scores above their ceiling are chance.
    floor : float
        Smallest share that is kept. `compat: oota2025` sets 0, which makes a mean over targets without signal positive.

    Returns
    -------
    Normalised
    """
    ceilings = np.broadcast_to(ceiling, score.shape)
    good = (ceilings >= threshold) & (ceilings > 0)
    ratio = np.full(score.shape, np.nan)
    np.divide(score, ceilings, out=ratio, where=good)
    n_targets = score.shape[-1]
    share = good.sum(axis=-1) / n_targets if n_targets else np.full(score.shape[:-1], np.nan)
    return Normalised(np.clip(ratio, floor, cap), np.asarray(share))


def normalise_scores(scores: xr.DataArray, ceiling: xr.DataArray, params: CeilingParams) -> xr.Dataset:
    """Scores as shares of their ceilings.

    Parameters
    ----------
    scores : DataArray, dims (subject, ..., target)
    ceiling : DataArray, dims (subject, target)
        From `read_ceiling`.
    params : CeilingParams
        Threshold and cap; `compat: oota2025` sets shares below zero to zero.

    Returns
    -------
    Dataset
        `score`, dims and labels of `scores`: 1 is the ceiling, NaN where it is unknown or below the threshold; and
        `share` (subject): of the targets with a score, how many have a normalised one, NaN without any.

    Raises
    ------
    StudyError
        If a subject or target of the scores has no place in the ceilings.
    """
    for dim in ("subject", "target"):
        _refuse_unlabelled(dim, scores, ceiling)
    moved = scores.transpose("subject", ..., "target")
    known = ceiling.sel(subject=moved["subject"].values, target=moved["target"].values).transpose("subject", "target")
    floor = _COMPAT_FLOOR if params.compat else -np.inf
    shares, parts = [], []
    for s in range(moved.sizes["subject"]):
        values, limit = moved.isel(subject=s).values.astype(np.float64), known.isel(subject=s).values
        parts.append(normalised(values, limit, params.threshold, params.cap, floor).score)
        scored = np.isfinite(values).any(axis=tuple(range(values.ndim - 1)))
        share = normalised(limit[None, scored], limit[scored], params.threshold).share
        shares.append(float(share[0]))
    score = moved.copy(data=np.stack(parts).astype(moved.dtype)).transpose(*scores.dims)
    return xr.Dataset({"score": score, "share": ("subject", shares)})


def _refuse_unlabelled(dim: str, scores: xr.DataArray, ceiling: xr.DataArray) -> None:
    absent = np.setdiff1d(scores[dim].values, ceiling[dim].values)
    if len(absent):
        raise StudyError(
            where=f"ceilings of {dim} {absent[0]}",
            found="none",
            expected=f"every {dim} that has scores",
            do="run the `ceiling` stage again",
        )
