"""The ceiling cube: ceilings of all subjects on one labelled target axis, and tables of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from cinecube.analysis.ceilings.cross_subject import CrossScores
from cinecube.analysis.ceilings.oota2025_ceiling import CompatPoints
from cinecube.analysis.ceilings.repeats import RepeatCeilings
from cinecube.analysis.ceilings.saturation import Saturation
from cinecube.analysis.cubes.parcels import regions
from cinecube.analysis.cubes.spaces import Responses
from cinecube.analysis.cubes.tables import EVERYONE
from cinecube.analysis.cubes.target_axis import join_targets
from cinecube.store.cube.schema import string_coordinate

CROSS = ("cross_subject", "cross_subject_low", "cross_subject_high", "cross_subject_converged")
REPEATS = ("repeats", "repeats_low", "repeats_high", "explainable_variance", "split_half")
_INTERVAL = "95 % of resamplings of"
ABOUT = {
    "cross_subject": "Pearson r that predictors from infinitely many other subjects would reach: v0 of {curve}, fitted"
    " to the scores of all subsets of k of them; where that shows no saturation, the score of all others together. A"
    " lower bound that rises with rows",
    "cross_subject_low": f"lower end of cross_subject over {_INTERVAL} subsets of subjects",
    "cross_subject_high": f"upper end of cross_subject over {_INTERVAL} subsets of subjects",
    "cross_subject_converged": "whether cross_subject is extrapolated",
    "cross_subject_score": "Pearson r of predictions from other subjects, mean over all subsets of a size",
    "repeats": "Pearson r that the true signal would reach, from what showings of the same film share",
    "repeats_low": f"lower end of repeats over {_INTERVAL} blocks of rows",
    "repeats_high": f"upper end of repeats over {_INTERVAL} blocks of rows",
    "explainable_variance": "share of a single showing's variance that is signal; without bias, so negative by chance",
    "split_half": "correlation between the means over two halves of the showings, mean over splits",
}
CURVES = {"exponential": "v0 (1 - exp(-k / tau))", "reliability": "v0 sqrt(k / (k + tau))"}
REDUCED = "Approximate: predicted from each subject's first components"
COMPAT_ABOUT = {
    "cross_subject": "Oota et al. 2025, exactly: v0 of v0 (1 - exp(-x / tau)), median over bootstraps, of x subjects,"
    " the predicted one among them, and the mean over sources of r of single sources (kernel ridge, penalty 1; rows"
    " normalised over targets)",
    "cross_subject_low": "not known of this procedure",
    "cross_subject_high": "not known of this procedure",
    "cross_subject_converged": "whether any bootstrap's fit converged",
    "cross_subject_score": "mean over sources of r of single sources, mean over all combinations of a size",
}


def cross_values(scores: CrossScores, fitted: Saturation) -> dict[str, np.ndarray]:
    """The cube's variables of a subject's extrapolated ceilings, (target,) each, and scores (size, target).

    Parameters
    ----------
    scores : CrossScores
        `score` (subset, target) and `size` (subset,).
    fitted : Saturation

    Returns
    -------
    dict of str to array
        (target,), and `cross_subject_score` (size, target).
    """
    sizes = np.unique(scores.size)
    means = [scores.score[scores.size == size].mean(axis=0) for size in sizes]
    found = dict(zip(CROSS, (fitted.ceiling, fitted.low, fitted.high, fitted.converged), strict=True))
    return {**found, "cross_subject_score": np.stack(means)}


def compat_values(points: CompatPoints, ceiling: np.ndarray) -> dict[str, np.ndarray]:
    """The same variables by the authors' procedure.

    Parameters
    ----------
    points : CompatPoints
    ceiling : array, shape (target,)

    Returns
    -------
    dict of str to array
        As of `cross_values`; there is no interval.
    """
    nothing = np.full(ceiling.shape, np.nan)
    means = [points.score[points.subjects == count].mean(axis=0) for count in np.unique(points.subjects)]
    found = dict(zip(CROSS, (ceiling, nothing, nothing, np.isfinite(ceiling)), strict=True))
    return {**found, "cross_subject_score": np.stack(means)}


def repeat_values(found: RepeatCeilings, averaged: bool) -> dict[str, np.ndarray]:
    """The cube's variables of a subject's repeats, (target,): ceilings of r with the mean of showings, or with one.

    Parameters
    ----------
    found : RepeatCeilings
    averaged : bool
        Whether responses are averages over showings.

    Returns
    -------
    dict of str to array
        (target,).
    """
    kind = "averaged" if averaged else "single"
    ceilings = [getattr(found, f"{kind}{end}") for end in ("", "_low", "_high")]
    return dict(zip(REPEATS, (*ceilings, found.explainable, found.split_half), strict=True))


def ceiling_cube(
    found: Mapping[str, Mapping[str, np.ndarray]],
    brains: Sequence[Responses],
    about: Mapping[str, Mapping[str, str]],
    attrs: Mapping[str, Any],
) -> xr.Dataset:
    """Join the subjects' ceilings.

    Parameters
    ----------
    found : dict of str to dict of str to array, shape (target,) or (size, target)
        By subject and name, from `cross_values`, `compat_values`, `repeat_values`; what is not there becomes NaN.
    brains : sequence of Responses
        Subjects in order.
    about : Mapping of str to Mapping
        Attributes of each variable.
    attrs : Mapping
        Attributes of the cube, see `provenance`.

    Returns
    -------
    Dataset
        `cross_subject`, …, `split_half` (subject, target), and `cross_subject_score` (subject, size, target); targets
        rising, NaN where a subject lacks one or has fewer sources, `cross_subject_converged` false there. With one
        subject there is a size of one, without scores.

    Raises
    ------
    StudyError
        If two subjects call the same target by different names.
    """
    axis = join_targets(brains)
    n_sizes = max([1, *(len(own["cross_subject_score"]) for own in found.values() if "cross_subject_score" in own)])
    sizes = np.arange(1, n_sizes + 1, dtype=np.int32)
    variables = {}
    for name in (*CROSS, *REPEATS, "cross_subject_score"):
        over = (len(sizes),) if name == "cross_subject_score" else ()
        values_of = {brain.subject: np.full((*over, brain.n_targets), np.nan) for brain in brains}
        for subject, own in found.items():
            if name in own:  # with fewer sources than another has, there are fewer sizes
                values_of[subject][: len(own[name])] = own[name]
        whole = axis.stack(values_of)
        dims = ("subject", "size", "target") if over else ("subject", "target")
        # Who has no extrapolated ceiling has none that converged.
        values = np.nan_to_num(whole).astype(bool) if name == "cross_subject_converged" else whole
        variables[name] = (dims, values, dict(sorted(about.get(name, {}).items())))
    return xr.Dataset(
        variables,
        coords={
            "subject": string_coordinate(axis.subjects),
            "size": sizes,
            **axis.coords(),
        },
        attrs=dict(sorted(attrs.items())),
    )


def ceiling_growth(cube: xr.Dataset) -> pd.DataFrame:
    """Growth of scores from other subjects with the number of these subjects.

    Parameters
    ----------
    cube : Dataset
        From `ceiling_cube`.

    Returns
    -------
    DataFrame
        Columns `subject`, `size`, `score`: mean over targets in parcels (all of them without an atlas); the subject
        `all` is the mean over all subjects'. Empty where nothing was scored.
    """
    inside = regions(cube["parcel"].values) != ""
    scores = cube["cross_subject_score"].transpose("subject", "size", "target").values[..., inside].astype(np.float64)
    sizes = cube["size"].values
    groups = {EVERYONE: scores, **{str(name): scores[s][None] for s, name in enumerate(cube["subject"].values)}}
    rows = [
        (name, int(size), float(known.mean()))
        for name, part in groups.items()
        for k, size in enumerate(sizes)
        if (known := part[:, k][np.isfinite(part[:, k])]).size
    ]
    return pd.DataFrame(rows, columns=["subject", "size", "score"])
