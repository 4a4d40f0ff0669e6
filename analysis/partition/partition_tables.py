"""The stage `partition_tables`: averages of a partition over parcels and regions."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import xarray as xr

from cinecube.analysis.cubes.parcels import parcel_means, pool_subjects, regions
from cinecube.analysis.cubes.tables import EVERYONE, write_table
from cinecube.analysis.partition.parts import part_labels
from cinecube.store.base.paths import StudyPaths
from cinecube.store.base.writing import one_writer
from cinecube.store.cube.cubes import open_cube
from cinecube.store.params.document import Study

COLUMNS = ("set", "part", "parcel", "subject", "layers", "r2", "targets")
ROI_COLUMNS = ("roi", "set", "part", "subjects", "mean", "sem", "low", "high", "parcels")


def write_partition_tables(study: Study, root: Path) -> None:
    """Write `partition.csv` and `partition_roi.csv` from the partition's cube.

    They follow `rois` and `statistics.seed`, on which the cube, which takes days, does not depend.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.

    Raises
    ------
    StudyError
        If there is no partition, or the set of regions is not known or fits no parcel.
    """
    paths = StudyPaths(root)
    with one_writer(paths, paths.tables / "partition.csv"):
        cube = open_cube(paths.partition, where=paths.relative(paths.partition)).load()
        table = partition_table(cube) if study.partition else pd.DataFrame(columns=COLUMNS)
        write_table(paths.tables / "partition_roi.csv", roi_table(study, root, table))
        write_table(paths.tables / "partition.csv", table)


def partition_table(cube: xr.Dataset) -> pd.DataFrame:
    """Parts of the variance in every parcel.

    Parameters
    ----------
    cube : Dataset
        From `partition_cube`.

    Returns
    -------
    DataFrame
        Columns `set`, `part`, `parcel`, `subject`, `layers` (of the set's streams in order), `r2` (mean over a
        parcel's targets) and `targets`, which counts those that were fitted; a parcel without any has NaN. The subject
        `all` is the mean over all subjects' targets.
    """
    layer = dict(zip(cube["space"].values, cube["layer"].values, strict=True))
    layers = {name: " + ".join(layer[stream] for stream in name.split(" + ")) for name in cube["set"].values}
    by_subject, pooled = _means(cube["part_r2"]), _means(pool_subjects(cube["part_r2"]))
    both = xr.concat([pooled.expand_dims(subject=[EVERYONE]), by_subject], "subject", join="exact")
    frame = both.to_dataframe(dim_order=["set", "part", "parcel", "subject"]).reset_index()
    parts = {(name, part) for name in layers for part in part_labels(name.split(" + "))}
    frame = frame[[pair in parts for pair in zip(frame["set"], frame["part"], strict=True)]]
    frame = frame.assign(layers=frame["set"].map(layers)).astype({"targets": int})
    return frame[list(COLUMNS)].reset_index(drop=True)


def _means(values: xr.DataArray) -> xr.Dataset:
    """Mean over each parcel's targets, and how many are known."""
    inside = values["parcel"].copy(data=regions(values["parcel"].values))
    known = values.notnull().assign_coords(parcel=inside).groupby("parcel").sum()
    means = parcel_means(values)
    return xr.Dataset({"r2": means, "targets": known.sel(parcel=means["parcel"])})


def roi_table(study: Study, root: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Means over subjects of the study's regions, from `partition_table`.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    table : DataFrame
        From `partition_table`.

    Returns
    -------
    DataFrame
        Columns `roi`, `set`, `part`, `subjects`, `mean`, `sem`, `low`, `high`, `parcels`, see `rois.roi_summary`.

    Raises
    ------
    StudyError
        If the set of regions is not known, or fits no parcel.
    """
    from cinecube.analysis.regions.rois import roi_means, roi_summary, study_members

    if table.empty:
        return pd.DataFrame(columns=ROI_COLUMNS)
    by = ("set", "part")
    means = roi_means(table, study_members(study.rois, root, table["parcel"]), by, "r2")
    return roi_summary(means, by, "r2", seed=study.statistics.seed)[list(ROI_COLUMNS)]
