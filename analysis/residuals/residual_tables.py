"""The stage `residual`: how far scores drop when what another model explains is removed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from cinecube.analysis.cubes.parcels import best_layer, regions
from cinecube.analysis.cubes.results import find_stream
from cinecube.analysis.cubes.tables import EVERYONE, read_table, write_table
from cinecube.analysis.cubes.unscored import constant_layers, refuse_disagreement, refuse_unexplained
from cinecube.analysis.regions.rois import roi_means, roi_summary, study_members
from cinecube.analysis.residuals.drops import CHECKS, MINIMUM, drop_percent, drop_table
from cinecube.store.base.errors import StudyError
from cinecube.store.base.fingerprint import differences
from cinecube.store.base.paths import StudyPaths
from cinecube.store.base.writing import one_writer
from cinecube.store.cube.cubes import open_cube
from cinecube.store.cube.schema import ON_PLACES, ON_TARGET
from cinecube.store.params.analysis_params import Pair
from cinecube.store.params.document import Study

MEASURES = ("full", "residual", "drop")
_DROP_COLUMNS = ("parcel", "subject", "full", "residual", "drop", "target_drop", "targets", "targets_above")
_ROI_COLUMNS = ("pair", "roi", "measure", "subjects", "mean", "sem", "low", "high", "parcels")
_OF_SPACE = ("space", "targets", "affine", "shape", "place")
# What both scores of a drop must share.
_SHARED = ("films", "split", "repeats", "encode", "brain")


def residual(study: Study, root: Path) -> None:
    """Write the tables of all pairs: scores before and after, their drop in percent, and what is still predicted.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder. Writes `residual.csv`, `residual_roi.csv` and `residual_check.csv` among the tables, and
        `residual.csv` among the plots; see `drop_rows`, `roi_rows` and `brain_drop`.

    Raises
    ------
    StudyError
        If a score cube or a pair's check is missing, both scores of a pair were not made alike, or the atlas has no
        parcel of any ROI.
    """
    paths = StudyPaths(root)
    with one_writer(paths, paths.tables / "residual.csv"):
        found = {pair.name: pair_scores(study, root, pair) for pair in study.residual}
        table = _stacked({name: drop_rows(scores) for name, scores in found.items()}, _DROP_COLUMNS)
        checks = {name: read_table(paths.residual_check(name), "layer", *CHECKS) for name in found}
        # Percent, committed: two more digits would differ between machines.
        plot = pd.DataFrame({"pair": list(found), "drop": [round(brain_drop(scores), 4) for scores in found.values()]})
        write_table(paths.tables / "residual_roi.csv", roi_rows(study, root, table))
        write_table(paths.tables / "residual.csv", table)
        write_table(paths.tables / "residual_check.csv", _stacked(checks, ("layer", *CHECKS)))
        write_table(paths.plots / "residual.csv", plot[plot["drop"].notna()])  # an empty cell would be drawn as zero


def drop_map(study: Study, root: Path, pair_name: str) -> xr.DataArray:
    """Drop of each target's score in percent, `100 (full - residual) / full` (Oota et al., ICLR 2025, Figure 5).

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    pair_name : str
        A pair of `residual` in `params.yaml`.

    Returns
    -------
    DataArray, dims (subject, target)
        NaN where the full score does not exceed `drops.MINIMUM`. Its coordinates and attributes place targets, as those
        of the score cube do.

    Raises
    ------
    StudyError
        If there is no such pair or score cube, or both scores were not made alike.
    """
    scores = pair_scores(study, root, study.pair(pair_name))
    return scores["drop"].assign_attrs(scores.attrs)


def mean_drop(study: Study, root: Path, pair_name: str) -> xr.DataArray:
    """Drop in percent of each target's mean score over subjects, dims (target,).

    Of one subject's scores chance alone exceeds `drops.MINIMUM` here and there; of their mean it seldom does.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    pair_name : str

    Returns
    -------
    DataArray, dims (target,)
        Percent; with the attributes of the scores.
    """
    scores = pair_scores(study, root, study.pair(pair_name))
    full, left = (scores[name].mean("subject", skipna=True) for name in ("full", "residual"))
    return full.copy(data=drop_percent(full.values, left.values)).rename("drop").assign_attrs(scores.attrs)


def pair_scores(study: Study, root: Path, pair: Pair) -> xr.Dataset:
    """Test scores before and after a removal, at the layer that the training films prefer before it.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    pair : Pair

    Returns
    -------
    Dataset
        `full`, `residual` (Pearson r), `drop` (percent) and `layer`, all (subject, target); NaN or "" where a subject
        lacks a target. Each target is read at its layer with the highest `cv_score` of the stream that is kept, before
        and after: a drop cannot come from another choice of layer. Where nothing is left of that layer nothing is
        predicted, and the score after is 0.

    Raises
    ------
    StudyError
        If a score cube is missing or lacks scores without a reason, or both were not made with the same films,
        responses and settings.
    """
    paths = StudyPaths(root)
    before, after = (paths.scores(name) for name in (study.owner(pair.keep), pair.name))
    full, left = (open_cube(path, where=paths.relative(path)) for path in (before, after))
    _refuse_unlike(full, left, paths.relative(after))
    cubes = {paths.relative(path): cube for path, cube in ((before, full), (after, left))}
    for where, cube in cubes.items():
        refuse_unexplained(cube, where)
    refuse_disagreement(cubes)
    whole = full.isel(model=find_stream(_labels(full, "model"), pair.keep, paths.relative(before)))
    rest = left.isel(model=find_stream(_labels(left, "model"), pair.name, paths.relative(after)))
    best = best_layer(whole["cv_score"].load()).transpose("subject", "target").values
    layers = np.array([*_labels(full, "layer"), ""], dtype=object)[best]
    values = {"full": _at(whole, layers), "residual": _at(rest, layers)}
    gone = constant_layers(left).get(pair.name, [])
    values["residual"][np.isin(layers, gone) & np.isfinite(values["full"])] = 0.0
    values["drop"] = drop_percent(values["full"], values["residual"])
    return xr.Dataset(
        {name: (("subject", "target"), array) for name, array in [*values.items(), ("layer", layers)]},
        coords={name: full[name] for name in ("subject", "target", *ON_TARGET, *ON_PLACES) if name in full.coords},
        attrs={name: full.attrs[name] for name in _OF_SPACE if name in full.attrs},
    )


def _labels(cube: xr.Dataset, axis: str) -> list[str]:
    return [str(label) for label in cube[axis].values]


def _at(scores: xr.Dataset, layers: np.ndarray) -> np.ndarray:
    """Scores (subject, target) at the layers (subject, target) that these labels name; NaN where there is none."""
    values = scores["score"].transpose("layer", "subject", "target").values
    picked = np.full(layers.shape, np.nan)
    for label, layer in zip(_labels(scores, "layer"), values, strict=True):
        np.copyto(picked, layer, where=layers == label)
    return picked


def _refuse_unlike(full: xr.Dataset, left: xr.Dataset, where: str) -> None:
    """Refuse scores of other responses, films or settings than those before the removal."""
    specs = [json.loads(cube.attrs.get("spec", "{}")) for cube in (full, left)]
    one, other = ({name: spec[name] for name in _SHARED if name in spec} for spec in specs)
    lines = differences(one, other)
    lines += [f"{axis}s differ" for axis in ("subject", "target") if not full[axis].equals(left[axis])]
    if lines:
        raise StudyError(
            where=where,
            found=f"scores made otherwise than those of the whole stream: {lines[0]}",
            expected="the same films, responses and settings before and after a removal",
            do="run `dvc repro` to score both again",
        )


def drop_rows(scores: xr.Dataset) -> pd.DataFrame:
    """Scores before and after, and their drop, of every parcel and subject.

    Parameters
    ----------
    scores : Dataset
        From `pair_scores`.

    Returns
    -------
    DataFrame
        Columns as of `drops.drop_table` by `parcel` and `subject`; the subject `all` is the mean over the targets of
        all subjects.
    """
    rows = _by_target(scores)
    both = pd.concat([drop_table(rows.assign(subject=EVERYONE)), drop_table(rows)])
    return both.sort_values(["parcel", "subject"], ignore_index=True)


def _by_target(scores: xr.Dataset) -> pd.DataFrame:
    """A row per subject and target: `subject`, `parcel`, `full`, `residual`."""
    parcel, subject = regions(scores["parcel"].values), _labels(scores, "subject")
    return pd.DataFrame(
        {
            "subject": pd.Series(np.repeat(np.array(subject, dtype=object), len(parcel)), dtype=object),
            "parcel": pd.Series(np.tile(parcel, len(subject)), dtype=object),
            **{name: scores[name].values.ravel() for name in ("full", "residual")},
        }
    )


def brain_drop(scores: xr.Dataset) -> float:
    """Drop in percent of the mean score over all targets in parcels, of all subjects, that had something to lose.

    Those are the targets whose score before exceeds `drops.MINIMUM`; NaN if there is none.
    """
    rows = _by_target(scores)
    known = rows[(rows["parcel"] != "") & (rows["full"] > MINIMUM)].dropna()
    return float(drop_percent(np.array(known["full"].mean()), np.array(known["residual"].mean())))


def roi_rows(study: Study, root: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Means over subjects of every region's scores before and after, and of their drop.

    Parameters
    ----------
    study : Study
        Its `rois` names the regions.
    root : Path
    table : DataFrame
        `pair` beside the columns of `drop_rows`.

    Returns
    -------
    DataFrame
        Columns `pair`, `roi`, `measure` (`full`, `residual` or `drop`) and those of `rois.roi_summary`. A subject's
        drop is that of its region's means, each parcel weighing the same.

    Raises
    ------
    StudyError
        If the atlas has no parcel of any region.
    """
    if table.empty:
        return pd.DataFrame(columns=list(_ROI_COLUMNS))
    members = study_members(study.rois, root, table["parcel"])
    means = roi_means(table, members, by=("pair",), value="full")
    means = means.merge(roi_means(table, members, by=("pair",), value="residual").drop(columns="parcels"))
    means["drop"] = drop_percent(means["full"].to_numpy(), means["residual"].to_numpy())
    parts = [
        roi_summary(means, by=("pair",), value=name, seed=study.statistics.seed).assign(measure=name)
        for name in MEASURES
    ]
    # Each part has the regions in the set's order, and every region's pairs in the study's.
    whole = pd.concat(parts).sort_index(kind="stable")
    places = whole["pair"].map({name: place for place, name in enumerate(dict.fromkeys(table["pair"]))})
    return whole.iloc[np.argsort(places.to_numpy(), kind="stable")][list(_ROI_COLUMNS)].reset_index(drop=True)


def _stacked(by_pair: Mapping[str, pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    """Tables of these columns one after another, the pair's name in front."""
    named = [table[list(columns)].assign(pair=name) for name, table in by_pair.items()]
    whole = pd.concat(named, ignore_index=True) if named else pd.DataFrame(columns=["pair", *columns])
    return whole[["pair", *columns]]
