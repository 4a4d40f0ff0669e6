"""Missing scores: a reason for each, and no others.

A target has no score where its responses are absent or constant, a layer where its features are constant, a subject
where its runs are too few to fit and to test. A score cube names them, so that its readers can distinguish them from
numbers that were lost.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from cinecube.store.base.errors import StudyError
from cinecube.store.cube.guarded import judged_by_reader

SCORED, LACKING, STILL, UNFIT = range(4)
"""Values of `unscored (subject, target)` in a score cube."""
MEANINGS = {
    SCORED: "has_scores",
    LACKING: "is_not_among_the_subjects_targets",
    STILL: "is_absent_or_constant",
    UNFIT: "is_of_a_subject_with_too_few_runs",
}
# Names that a message lists.
_NAMED = 10


def layers_of(cube: xr.Dataset) -> np.ndarray:
    """Layers that streams have, by position (model, layer), those without scores among them."""
    here: np.ndarray
    if "constant" in cube:
        here = np.isfinite(cube["depth"].transpose("model", "layer").values)
    else:  # older cubes hold one depth for all streams
        here = cube["cv_score"].notnull().any(["subject", "target"]).transpose("model", "layer").values
    return here


def constant_layers(cube: xr.Dataset) -> dict[str, list[str]]:
    """Stream -> its layers without scores, since their features are constant; streams without any are left out."""
    if "constant" not in cube:
        return {}
    constant = cube["constant"].transpose("model", "layer").values
    labels = cube["layer"].values
    found = {str(model): list(map(str, labels[own])) for model, own in zip(cube["model"].values, constant, strict=True)}
    return {model: layers for model, layers in found.items() if layers}


def unfit_subjects(cube: xr.Dataset) -> list[str]:
    """Subjects of a score cube who have no scores, since they have too few runs to fit and to test on."""
    if "unscored" not in cube:
        return []
    unfit = (cube["unscored"].transpose("subject", "target").values == UNFIT).any(axis=1)
    return [str(name) for name in cube["subject"].values[unfit]]


def refuse_unexplained(cube: xr.Dataset, where: str) -> None:
    """Read a score cube's numbers, and refuse those that are missing without a reason.

    Older cubes give no reasons. There a target that has no score at any layer of any stream is taken for one that does
    not vary; a layer without scores has none.

    Parameters
    ----------
    cube : Dataset
        A score cube.
    where : str
        What messages call it.

    Raises
    ------
    StudyError
        If a score or `cv_score` is infinite, or NaN in a target that has others; or a subject has none at all.
    """
    with judged_by_reader():
        _refuse_unexplained(cube, where)


def _refuse_unexplained(cube: xr.Dataset, where: str) -> None:
    here = layers_of(cube) & ~_constant(cube)
    if not here.any():
        return
    for s, subject in enumerate(map(str, cube["subject"].values)):
        if subject in unfit_subjects(cube):
            continue
        unscored = _unscored(cube, s, here)
        if unscored.all():
            raise StudyError(
                where=where,
                found=f"no scores of {subject} in any target",
                expected="scores, since its responses vary",
                do=f"run `dvc repro -f -s {_stage(where)}`",
            )
        for m, model in enumerate(map(str, cube["model"].values)):
            for name in ("cv_score", "score"):
                values = cube[name].isel(subject=s, model=m).transpose("layer", "target").values
                bad = ~np.isfinite(values) & here[m][:, None] & ~unscored | np.isinf(values)
                if bad.any():
                    k = int(bad.any(axis=1).argmax())
                    raise StudyError(
                        where=f"{where} {model} {cube['layer'].values[k]}",
                        found=f"{name} of {subject} that is NaN or infinite in {int(bad[k].sum())} targets",
                        expected="a number wherever features and responses vary",
                        do=f"run `cinecube verify {where}`, or score it again with `dvc repro -f -s {_stage(where)}`",
                    )


def _stage(where: str) -> str:
    """The pipeline's stage that makes the score cube at a path."""
    return f"encode@{where.rpartition('/')[2].removesuffix('.zarr')}"


def _constant(cube: xr.Dataset) -> np.ndarray:
    if "constant" in cube:
        constant: np.ndarray = cube["constant"].transpose("model", "layer").values.astype(bool)
        return constant
    return np.zeros((cube.sizes["model"], cube.sizes["layer"]), dtype=bool)


def _unscored(cube: xr.Dataset, s: int, here: np.ndarray) -> np.ndarray:
    """Targets of a subject (target,) that have no scores for a reason, at the layers (model, layer) that have some."""
    if "unscored" in cube:
        marked: np.ndarray = cube["unscored"].isel(subject=s).values != SCORED
        return marked
    nothing = np.ones(cube.sizes["target"], dtype=bool)
    for m in np.flatnonzero(here.any(axis=1)):
        values = cube["score"].isel(subject=s, model=m).transpose("layer", "target").values
        nothing &= np.isnan(values[here[m]]).all(axis=0)
    return nothing


def refuse_disagreement(cubes: Mapping[str, xr.Dataset]) -> None:
    """Refuse score cubes, by where they are, that disagree about which targets have scores: all saw the same responses.

    Raises
    ------
    StudyError
        If a target of a subject has scores in one cube and none in another.
    """
    first: tuple[str, xr.Dataset, dict[str, np.ndarray]] | None = None
    for where, cube in cubes.items():
        here = layers_of(cube) & ~_constant(cube)
        if not here.any():
            continue
        own = {str(name): _unscored(cube, s, here) for s, name in enumerate(cube["subject"].values)}
        if first is None:
            first = where, cube, own
            continue
        other, lead, theirs = first
        if not np.array_equal(cube["target"].values, lead["target"].values):
            raise _disagree(where, "scores of other targets", other)
        for subject in own.keys() & theirs.keys():
            differ = int((own[subject] != theirs[subject]).sum())
            if differ:
                raise _disagree(where, f"{differ} targets of {subject} with scores here and none there, or none", other)


def _disagree(where: str, found: str, other: str) -> StudyError:
    return StudyError(
        where=where,
        found=found,
        expected=f"those of {other}, since both saw the same responses",
        do=f"score both again with `dvc repro -f -s {_stage(where)} {_stage(other)}`",
    )


def notes(cube: xr.Dataset, reason: str = "features are constant over the training or the test films") -> list[str]:
    """Sentences on what a score cube lacks: segments, layers, targets, and parcels that have no target left.

    Parameters
    ----------
    cube : Dataset
        A score cube; one of an earlier version gives no sentence.
    reason : str
        Why a layer has none.

    Returns
    -------
    list of str
        Empty where nothing is missing.
    """
    if "unscored" not in cube:
        return []
    found = []
    for model, layers in constant_layers(cube).items():
        everything = len(layers) == int(layers_of(cube.sel(model=[model])).sum())
        found.append(f"{model}: no scores at {'any layer' if everything else listed(layers)}: {reason}")
    for group in json.loads(cube.attrs.get("rows", "[]")):
        if lacks := group.get("lacks"):
            found.append(f"{listed(group['subjects'])}: no scores: {lacks}")
        elif absent := group.get("without"):
            found.append(f"{listed(group['subjects'])}: scored without {listed(absent)}, which there is no scan of")
    labels = np.array([str(name) for name in cube["parcel"].values], dtype=object)
    unfit = unfit_subjects(cube)
    for subject, why in zip(map(str, cube["subject"].values), cube["unscored"].values, strict=True):
        if subject in unfit:
            continue
        still = why == STILL
        if still.any():
            named = listed(map(str, cube["target"].values[still]))
            every = int((why != LACKING).sum())
            found.append(
                f"{subject}: no scores in {int(still.sum())} of {every} targets, whose responses are absent or constant"
                f" over the training or the test films: {named}"
            )
        empty = sorted(set(labels) - set(labels[why == SCORED]) - {""})
        if empty:
            found.append(f"{subject}: no target with scores in {listed(empty)}")
    return found


def ceiling_notes(cube: xr.Dataset) -> list[str]:
    """Sentences on whose cross-subject ceilings are of fewer rows or sources than there are, and on who has none.

    Parameters
    ----------
    cube : Dataset
        The ceiling cube. Its attribute `rows` is a list of `subjects`: those with the same rows and `sources`, they
        themselves among them; counts of rows, `train` and `test`; segments `without` any; by subject in
        `scored_without_ceiling` those of the test films that its scores are of nevertheless; or in `lacks` why there is
        no ceiling. Older cubes have one of such entries, without names.
    """
    rows = json.loads(str(cube.attrs.get("rows", "[]")))
    if isinstance(rows, dict):
        absent = rows.get("without")
        return (
            [f"ceilings across subjects are of rows that all of them have: without {listed(absent)}"] if absent else []
        )
    predicting = {name for entry in rows for name in entry["subjects"] if "train" in entry and "sources" in entry}
    told: dict[str, list[str]] = {}
    for entry in rows:
        for subject in entry["subjects"]:
            text = _note(entry, subject, predicting)
            if text:
                told.setdefault(text, []).append(subject)
    return [f"{listed(subjects)}: {text}" for text, subjects in told.items()]


def subjects_too_short(cube: xr.Dataset) -> list[str]:
    """Subjects of a ceiling cube who have too few runs to fit and to test on, and so no scores."""
    rows = json.loads(str(cube.attrs.get("rows", "[]")))
    short = [entry for entry in rows if "lacks" in entry and "train" in entry] if isinstance(rows, list) else []
    return [name for entry in short for name in entry["subjects"]]


def _note(entry: Mapping[str, Any], subject: str, predicting: Collection[str]) -> str:
    if "lacks" in entry:
        return f"no ceiling across subjects: {entry['lacks']}"
    found = []
    others = [name for name in entry["sources"] if name != subject]
    if len(others) < len(set(predicting) - {subject}):
        found.append(f"from {listed(others)} alone")
    if absent := entry.get("without"):
        found.append(f"of {entry['train']} + {entry['test']} rows, without {listed(absent)}")
    if lost := entry.get("scored_without_ceiling", {}).get(subject):
        found.append(f"though scores are of {listed(lost)}, too")
    return f"ceiling across subjects {', '.join(found)}" if found else ""


def listed(names: Iterable[str]) -> str:
    """Names one after another, the first few of many."""
    every = list(names)
    return ", ".join(every[:_NAMED]) + (f", … ({len(every)} in all)" if len(every) > _NAMED else "")
