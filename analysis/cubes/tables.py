"""Tables: long and tidy, one row per parcel and what it was scored on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from cinecube.analysis.cubes.parcels import parcel_means, pool_subjects, regions
from cinecube.analysis.cubes.unscored import layers_of
from cinecube.store.base.atomic import staged
from cinecube.store.base.errors import StudyError
from cinecube.store.base.input_files import numbers_of, parse_fields, read_text_table

DECIMALS = 6
EVERYONE = "all"
"""In the column `subject`: the mean over the targets of all subjects."""
LAYER_COLUMNS = ("parcel", "subject", "model", "layer", "depth", "cv_score", "score", "targets")
_LABELS = frozenset(
    [
        "parcel",
        "subject",
        "model",
        "layer",
        "roi",
        "pair",
        "film",
        "segment",
        "session",
        "set",
        "part",
        "comparison",
        "measure",
        "untrained",
        "note",
        "follows",
        "verdict",
        "lost_parcels",
        "shrunk_parcels",
        "missing_segments",
    ]
)
# A damaged output is not what DVC recorded, so its stage runs again.
_ANEW = "run `dvc repro`, which makes it anew"


def layer_table(cubes: Iterable[xr.Dataset]) -> pd.DataFrame:
    """Scores of every parcel, subject, model and layer.

    Parameters
    ----------
    cubes : iterable of Dataset
        Score cubes of different models.

    Returns
    -------
    DataFrame
        Columns `parcel`, `subject`, `model`, `layer`, `depth`, `cv_score`, `score`, `targets`; averages over a parcel's
        targets; `targets` counts those with a score. The subject `all` is the average over all subjects. All
        parcels, subjects and layers of a stream have a row; scores are NaN where no target has one.
    """
    parts = []
    for cube in cubes:
        values = cube[["cv_score", "score"]]
        by_subject = values.map(parcel_means)
        pooled = values.map(pool_subjects)
        by_subject["targets"] = _counts(values["score"])
        together = pooled.map(parcel_means).assign(targets=_counts(pooled["score"]))
        both = xr.concat([together.expand_dims(subject=[EVERYONE]), by_subject], "subject", join="exact")
        here = xr.DataArray(layers_of(cube), dims=("model", "layer"))
        frame = both.assign(here=here).assign_coords(depth=cube["depth"]).to_dataframe().reset_index()
        parts.append(frame[frame["here"]])
    table = pd.concat(parts, ignore_index=True)[list(LAYER_COLUMNS)].astype({"targets": int})
    return table.sort_values(["parcel", "subject", "model", "depth", "layer"], ignore_index=True)


def _counts(values: xr.DataArray) -> xr.DataArray:
    """Number of known targets in each parcel, dims (..., parcel)."""
    inside = values["parcel"].copy(data=regions(values["parcel"].values))
    known = values.notnull().assign_coords(parcel=inside)
    means = parcel_means(known.astype(float))
    sizes = [int((inside.values == name).sum()) for name in means["parcel"].values]
    return (means * xr.DataArray(sizes, dims="parcel")).round()


def preferred_layers(table: pd.DataFrame) -> pd.DataFrame:
    """Per parcel, subject and model the layer with the highest `cv_score`: the test film has no say.

    Parameters
    ----------
    table : DataFrame
        From `layer_table`.

    Returns
    -------
    DataFrame
        Its rows at those layers, and `best_model`: whether no model's layer has a higher `cv_score` there. A model
        without any there has a row with the layer "", no scores and no targets.
    """
    keys = ["parcel", "subject", "model"]
    known = table[table["cv_score"].notna()]
    chosen = known.loc[known.groupby(keys)["cv_score"].idxmax()]
    winners = chosen.loc[chosen.groupby(["parcel", "subject"])["cv_score"].idxmax()].index
    chosen = chosen.assign(best_model=chosen.index.isin(winners))
    every = table[keys].drop_duplicates().merge(chosen, "left", keys)
    # A layer of NaN would be a number in a column of text.
    filled = every.fillna({"layer": "", "targets": 0, "best_model": False})
    return filled.astype({"targets": int, "best_model": bool}).sort_values(keys, ignore_index=True)[list(chosen)]


def whole_brain_means(preferred: pd.DataFrame) -> pd.DataFrame:
    """Mean test score per subject and model over all targets in parcels, at their parcel's layer.

    Parameters
    ----------
    preferred : DataFrame
        From `preferred_layers`.

    Returns
    -------
    DataFrame
        Columns `subject`, `model`, `score`, `cv_score`, `targets`; NaN where no target has a score.
    """
    weighted = preferred.assign(**{name: preferred[name] * preferred["targets"] for name in ("score", "cv_score")})
    sums = weighted.groupby(["subject", "model"])[["score", "cv_score", "targets"]].sum()
    for name in ("score", "cv_score"):
        sums[name] /= sums["targets"].where(sums["targets"] > 0)
    return sums.reset_index()


def layer_curves(table: pd.DataFrame) -> pd.DataFrame:
    """Mean over parcels at every layer of every model, for plots: `model`, `layer`, `depth`, `cv_score`, `score`.

    Layers without scores are left out: `dvc plots` draws an empty cell as zero.
    """
    everyone = table[(table["subject"] == EVERYONE) & table["score"].notna()]
    means = everyone.groupby(["model", "depth", "layer"])[["cv_score", "score"]].mean().reset_index()
    return means[["model", "layer", "depth", "cv_score", "score"]]


def lag_curves(cubes: Iterable[xr.Dataset]) -> pd.DataFrame:
    """Score of each single delay per parcel and model, over targets and subjects.

    Returns
    -------
    DataFrame
        Columns `parcel`, `model`, `lag` (TRs), `lag_score`, which is NaN where no target has one.
    """
    parts = [
        parcel_means(pool_subjects(cube["lag_score"])).rename("lag_score").to_dataframe().reset_index()
        for cube in cubes
    ]
    table = pd.concat(parts, ignore_index=True)
    return table[["parcel", "model", "lag", "lag_score"]].sort_values(["parcel", "model", "lag"], ignore_index=True)


def best_lags(curves: pd.DataFrame) -> pd.DataFrame:
    """Per parcel and model the delay with the highest score, from `lag_curves`; none where no target has a score."""
    keys, known = ["parcel", "model"], curves[curves["lag_score"].notna()]
    best = known.loc[known.groupby(keys)["lag_score"].idxmax()]
    every = curves[keys].drop_duplicates().merge(best, "left", keys)
    return every.astype({"lag": "Int64"}).sort_values(keys, ignore_index=True)[list(curves)]


def write_by_model(folder: Path, table: pd.DataFrame) -> None:
    """Write a table as a folder of one CSV per model: `dvc plots` draws one file as one line.

    Parameters
    ----------
    folder : Path
        It is replaced.
    table : DataFrame
        With a column `model`, which the files lack.
    """
    with staged(folder) as partial:
        for model, rows in table.groupby("model"):
            write_table(partial / f"{model}.csv", rows.drop(columns="model"))


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV, floats rounded so that runs on one machine give the same bytes.

    Parameters
    ----------
    path : Path
    table : DataFrame
        Its index is not written.
    """
    rounded = table.copy()
    for name in rounded.columns[[np.issubdtype(kind, np.floating) for kind in _kinds(rounded)]]:
        rounded[name] = rounded[name].round(DECIMALS) + 0.0  # never "-0.0"
    with staged(path) as partial:
        rounded.to_csv(partial, index=False, lineterminator="\n")


def read_table(path: Path, *columns: str) -> pd.DataFrame:
    """Read a table that `write_table` wrote.

    Parameters
    ----------
    path : Path
    columns : str
        Columns that it must have; numbers, but for those that are labels.

    Returns
    -------
    DataFrame
        Labels are text, other columns numbers or truths where all of their values are; empty fields are NaN.

    Raises
    ------
    StudyError
        If it has not been made, or is damaged.
    """
    if not path.is_file():
        raise StudyError(where=str(path), found="no table", expected="the results of a stage", do="run `dvc repro`")
    table = read_text_table(path, columns, "the results of a stage", _ANEW, ours=True)
    for name in columns:
        if name not in _LABELS:
            numbers_of(table[name], path, _ANEW, gaps=("",))
    return table.apply(_typed)


def parse_table(text: str, where: str) -> pd.DataFrame:
    """A table of this package from its text.

    Parameters
    ----------
    text : str
    where : str
        What messages call the table.

    Returns
    -------
    DataFrame
        Typed as by `read_table`.

    Raises
    ------
    StudyError
        If it is damaged.
    """
    header, rows = parse_fields(text, where, (), "the results of a stage", _ANEW, ours=True)
    return pd.DataFrame(rows, columns=header, dtype=str).apply(_typed)


def _typed(column: pd.Series) -> pd.Series:
    """Labels unchanged, since an area may be called NA or 7; other columns as numbers or truths if all values are."""
    known = column.where(column != "")
    if column.name in _LABELS:
        return known
    if known.isna().all():
        return known.astype(float)
    if set(column) <= {"True", "False"}:
        return column == "True"
    numbers = pd.to_numeric(known, errors="coerce")
    return numbers if numbers.notna().equals(known.notna()) else known


def _kinds(table: pd.DataFrame) -> Sequence[np.dtype]:
    return [kind if isinstance(kind, np.dtype) else np.dtype(object) for kind in table.dtypes]
