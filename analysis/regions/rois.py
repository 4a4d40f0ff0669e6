"""Regions of interest: sets of parcels, and scores in them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from cinecube.analysis.cubes.parcels import WHOLE
from cinecube.analysis.cubes.tables import EVERYONE
from cinecube.analysis.regions.shipped import shipped_rois
from cinecube.analysis.statistics.intervals import spread_over_subjects
from cinecube.store.base.bounded import parse_yaml
from cinecube.store.base.errors import StudyError
from cinecube.store.base.input_files import read_input_text
from cinecube.store.base.labels import suggestion

# Below this likeness another label is another area: TPOJ1 and TPOJ2 are at 0.8.
_SAME_WORD = 0.85
_REGIONS = "each region once with a list of labels, as `EV: [V1, V2, V3]`"


@dataclass(frozen=True)
class RoiSet:
    """Regions and the labels they are made of.

    Attributes
    ----------
    name : str
        A shipped set's name, or the file's.
    labels : dict of str to tuple of str
        Region -> labels of an atlas; one without `L_` or `R_` means both hemispheres.
    names : dict of str to str
        Region -> what it is called in full, of those that have such a name: `AG: {name: angular gyrus, labels: [PGi]}`.
    """

    name: str
    labels: Mapping[str, tuple[str, ...]]
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Members:
    """Regions as an atlas has them.

    Attributes
    ----------
    parcels : dict of str to tuple of str
        Region -> parcels; regions without any are left out.
    notes : tuple of str
        One line per region that lacks a label, or all of them.
    """

    parcels: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...]


def load_rois(name_or_path: str, root: Path) -> RoiSet:
    """Read a set of regions.

    Parameters
    ----------
    name_or_path : str
        A shipped set (`oota2025`), or a YAML file that maps each region to a list of labels.
    root : Path
        The study's folder, from which paths count.

    Returns
    -------
    RoiSet

    Raises
    ------
    StudyError
        If there is no such set or file, or it holds anything but regions with labels.
    """
    shipped = shipped_rois()
    if name_or_path in shipped:
        source = files("cinecube.analysis.regions").joinpath("roi_sets", f"{name_or_path}.yaml")
        return _parse(source.read_text(encoding="utf-8"), name_or_path, name_or_path)
    path = root / name_or_path
    if not path.is_file():
        raise StudyError(
            where=f"rois: {name_or_path}",
            found="no such set or file",
            expected=f"one of {', '.join(shipped)}, or a YAML file in the study",
            do=suggestion(name_or_path, shipped) or "set `rois` to one of them",
        )
    text = read_input_text(path, _REGIONS, "correct it")
    return _parse(text, name_or_path, path.stem)


def _parse(text: str, where: str, called: str) -> RoiSet:
    try:
        raw = parse_yaml(text, strict=True)
    except (yaml.YAMLError, ValueError) as error:
        raise _malformed(where, f"malformed YAML ({error})") from error
    if not isinstance(raw, dict) or not raw:
        raise _malformed(where, "no regions")
    for roi in raw:
        if not isinstance(roi, str) or not roi:
            raise _malformed(where, f"the region {roi!r}, which is no text")
    parted = {roi: entry if isinstance(entry, dict) else {"labels": entry} for roi, entry in raw.items()}
    for roi, entry in parted.items():
        name = entry.get("name", roi)
        if not isinstance(name, str) or not name or not entry.keys() <= {"name", "labels"}:
            raise _malformed(f"{where}, {roi}", "no `{name: …, labels: […]}`")
    labels = {roi: _labels(entry.get("labels"), f"{where}, {roi}") for roi, entry in parted.items()}
    return RoiSet(called, labels, {roi: entry["name"] for roi, entry in parted.items() if "name" in entry})


def _labels(raw: object, where: str) -> tuple[str, ...]:
    if not isinstance(raw, list) or not raw:
        raise _malformed(where, "no list of labels")
    for label in raw:
        # YAML reads area 44 as a number; true, 1.5 and dates are slips.
        if isinstance(label, bool) or not isinstance(label, str | int) or label == "":
            raise _malformed(where, f"the label {label!r}")
    labels = tuple(str(label) for label in raw)
    for label in labels:
        if labels.count(label) > 1:
            raise _malformed(where, f"{label} twice")
    return labels


def _malformed(where: str, found: str) -> StudyError:
    return StudyError(where=where, found=found, expected=_REGIONS, do="correct it")


def study_members(rois: str | None, root: Path, parcels: Iterable[str]) -> Members:
    """The regions of a study as its atlas has them.

    Parameters
    ----------
    rois : str or None
        The study's `rois`; without one every parcel is a region.
    root : Path
    parcels : iterable of str
        Names in the cubes; of cubes without an atlas the one region `all`.

    Returns
    -------
    Members

    Raises
    ------
    StudyError
        As of `load_rois` and `find_members`.
    """
    known = [str(name) for name in dict.fromkeys(parcels) if name]
    if rois is None or set(known) <= {WHOLE}:
        return Members({name: (name,) for name in known}, ())
    return find_members(load_rois(rois, root), known)


def find_members(rois: RoiSet, parcels: Iterable[str]) -> Members:
    """Parcels of an atlas that make up each region, both hemispheres together.

    Parameters
    ----------
    rois : RoiSet
    parcels : iterable of str
        Names in the cubes: `L_V1`; also `V1` of atlases that merge the hemispheres.

    Returns
    -------
    Members
        Regions that have a parcel, and a note on each label that the atlas lacks.

    Raises
    ------
    StudyError
        If the atlas has no parcel of any region.
    """
    known = list(dict.fromkeys(str(name) for name in parcels if name))
    by_label: dict[str, list[str]] = {}
    for name in known:
        for label in {_plain(name), _area(name)}:
            by_label.setdefault(label, []).append(name)
    named = {_area(label) for labels in rois.labels.values() for label in labels}
    strangers = [area for area in dict.fromkeys(map(_area, known)) if area not in named]
    members: dict[str, tuple[str, ...]] = {}
    notes = []
    for roi, labels in rois.labels.items():
        found = {name for label in labels for name in by_label.get(_plain(label), [])}
        missing = [label for label in labels if _plain(label) not in by_label]
        if found:
            members[roi] = tuple(name for name in known if name in found)
        if missing:
            notes.append(_note(roi, labels, missing, strangers))
    if not members:
        raise StudyError(
            where=f"rois: {rois.name}",
            found=f"parcels {', '.join(known[:3])} …" if known else "cubes without parcels",
            expected=f"labels such as {next(iter(rois.labels.values()))[0]}",
            do="set brain.atlas to the atlas of these regions, or rois to regions of this atlas",
        )
    return Members(members, tuple(notes))


def _note(roi: str, labels: Sequence[str], missing: Sequence[str], strangers: Sequence[str]) -> str:
    """A line on the parcels of a region that the atlas lacks; it names a likely slip of the pen."""
    folded = {area.casefold(): area for area in strangers}
    words = []
    for label in missing:
        like = difflib.get_close_matches(_area(label).casefold(), list(folded), n=1, cutoff=_SAME_WORD)
        words.append(f"{label} (did you mean {folded[like[0]]}?)" if like else label)
    dropped = "; the region is left out" if len(missing) == len(labels) else ""
    return f"{roi}: the atlas lacks {len(missing)} of {len(labels)} labels, {', '.join(words)}{dropped}"


def _plain(label: str) -> str:
    return label.removesuffix("_ROI")


def _area(label: str) -> str:
    """A label without its hemisphere."""
    return re.sub(r"^[LR]_", "", _plain(label))


def roi_means(
    table: pd.DataFrame, members: Members, by: Sequence[str] = ("model",), value: str = "score"
) -> pd.DataFrame:
    """Mean of each region in each subject, every parcel weighing the same whatever its size (Oota et al. 2025).

    Parameters
    ----------
    table : DataFrame
        One row per `parcel`, `subject` and what is in `by`: from `tables.layer_table` or `tables.preferred_layers`;
        its values are means over a parcel's targets. The mean over subjects, `all`, is left aside.
    members : Members
        From `find_members`.
    by : sequence of str
        Columns kept apart: `("model",)` for one row a model, `("model", "layer")` for all layers.
    value : str
        The column to average; parcels where it is NaN do not count.

    Returns
    -------
    DataFrame
        Columns `roi`, `subject`, those of `by`, `value` under its own name, and `parcels`: how many made the mean. NaN
        of none where no parcel of the region has a value.

    Raises
    ------
    StudyError
        If a column is missing, a parcel has several rows of the same subject and `by`, or no region has a value.
    """
    rows = _subjects_rows(table, by, value)
    pairs = pd.DataFrame(
        [(roi, name) for roi, names in members.parcels.items() for name in names], columns=["roi", "parcel"]
    )
    # `pairs` leads, so regions keep the set's order and models the table's.
    inside = pairs.merge(rows, on="parcel")
    if not inside[value].notna().any():
        raise _wrong_table(f"no subject's {value} in any region", "scores in some of their parcels")
    means = inside.groupby(["roi", "subject", *by], sort=False)[value].agg(["mean", "count"])
    return means.rename(columns={"mean": value, "count": "parcels"}).reset_index()


def _subjects_rows(table: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """Rows of subjects, each parcel once per subject and `by`."""
    keys = ["parcel", "subject", *by]
    lacking = [name for name in (*keys, value) if name not in table.columns]
    if lacking:
        raise _wrong_table(f"no column {lacking[0]}", f"columns {', '.join((*keys, value))}")
    rows = table.loc[table["subject"] != EVERYONE, [*keys, value]]
    double = rows[rows.duplicated(keys)]
    if len(double):
        first = " ".join(str(label) for label in double[keys].iloc[0])
        raise _wrong_table(f"several rows of {first}", f"one per {', '.join(keys)}")
    return rows.assign(parcel=rows["parcel"].astype(str))


def _wrong_table(found: str, expected: str) -> StudyError:
    return StudyError(where="table of scores", found=found, expected=expected, do="make it again with `dvc repro`")


def roi_summary(
    means: pd.DataFrame, by: Sequence[str] = ("model",), value: str = "score", level: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """Mean, standard error and bootstrap interval over subjects of each region.

    Parameters
    ----------
    means : DataFrame
        From `roi_means`, with the same `by` and `value`.
    by : sequence of str
        Columns that distinguish what has a summary of its own in each region.
    value : str
        Column that is summarised.
    level : float
        Of the interval, see `intervals.spread_over_subjects`.
    seed : int

    Returns
    -------
    DataFrame
        Columns `roi`, those of `by`, `subjects`, `mean`, `sem`, `low`, `high`, `parcels`: the most parcels that a
        subject's mean is made of. `sem`, `low` and `high` are NaN where fewer than two subjects have the region, and
        `mean` where none has.
    """
    keys = ["roi", *by]
    wide = means.set_index([*keys, "subject"])[value].unstack("subject")
    spread = spread_over_subjects(wide.to_numpy(), level, seed=seed)
    columns = {name: getattr(spread, name) for name in ("subjects", "mean", "sem", "low", "high")}
    summary = pd.DataFrame(columns, index=wide.index)
    summary["parcels"] = means.groupby(keys, sort=False)["parcels"].max()
    return _in_order(summary.reset_index(), means, keys)


def _in_order(table: pd.DataFrame, like: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Rows sorted by the first place of each label in another table."""
    places = [table[key].map({label: i for i, label in enumerate(like[key].unique())}) for key in keys]
    return table.iloc[np.lexsort(places[::-1])].reset_index(drop=True)
