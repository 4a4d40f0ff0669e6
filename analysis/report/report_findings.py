"""The report's sections on what follows encoding: ceilings, regions, residuals, partitions, significance."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cinecube.analysis.cubes import tables
from cinecube.analysis.cubes.parcels import WHOLE
from cinecube.analysis.regions.roi_tables import WHOLE_BRAIN
from cinecube.analysis.report.brain_pictures import draw_map
from cinecube.analysis.report.paper_figures import pair_title
from cinecube.analysis.residuals.drops import MINIMUM
from cinecube.analysis.statistics.comparisons import reachable
from cinecube.analysis.truth.planted import planted_truth
from cinecube.analysis.truth.stage import ceiling_table
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import open_cube, refuse_another
from cinecube.store.params.document import Study


@dataclass(frozen=True)
class Finding:
    """A section of the page.

    Attributes
    ----------
    title, text : str
    pictures : list of (caption, PNG as base64)
    grids : list of (caption, DataFrame)
    """

    title: str
    text: str
    pictures: list[tuple[str, str]]
    grids: list[tuple[str, pd.DataFrame]]


def findings(study: Study, root: Path) -> list[Finding]:
    """Sections in the order of the page; those without anything to say are left out.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.

    Raises
    ------
    StudyError
        If a table is missing.
    """
    paths = StudyPaths(root)
    makers = (_regions, _depth, _residuals, _partition, _significance)
    return [part for make in makers for part in make(study, paths)]


def _regions(study: Study, paths: StudyPaths) -> Iterator[Finding]:
    mean = tables.read_table(paths.tables / "roi_mean.csv", "roi", "model")
    untrained = tables.read_table(paths.tables / "untrained.csv", "roi", "model")
    growth = tables.read_table(paths.tables / "ceiling_growth.csv", "size", "score")
    use = {"cross_subject": "what other subjects predict", "repeats": "what repeated films allow"}.get(
        study.ceiling.use
    )
    divided = (
        f"Scores as shares of a ceiling, {use}, where it is at least {study.ceiling.threshold:g}; "
        "“survive” is the share of targets whose ceiling is that high. "
    )
    text = (
        (divided if use else "")
        + _saturation(study, paths)
        + "Parcels weigh the same within a region. The intervals are a bootstrap over subjects, too narrow of few."
    )
    whole = mean[mean["roi"] == WHOLE_BRAIN].drop(columns="roi")
    grids = [("The whole brain.", whole)]
    if len(growth):
        by_size = growth.groupby("size")["score"].mean().reset_index()
        grids.append(("Mean score by number of other subjects that predict.", by_size))
    if len(untrained):
        grids.append(
            (
                "Pretrained beside untrained; FDR over the regions of each pair.",
                untrained[untrained["roi"] == WHOLE_BRAIN].drop(columns="roi"),
            )
        )
    yield Finding("Regions, and shares of the ceiling", text, _pictures(study, paths, ("figure2", "figure3")), grids)


def _saturation(study: Study, paths: StudyPaths) -> str:
    """Sentence on ceilings by other subjects: extrapolated to many of them, or from those there are."""
    if study.ceiling.use != "cross_subject":
        return ""
    with open_cube(paths.ceiling) as cube:
        refuse_another(cube, paths.relative(paths.ceiling), "cross_subject")
        known = cube["cross_subject"].notnull().values
        share = float(cube["cross_subject_converged"].values[known].mean()) if known.any() else 0.0
    return (
        f"For {share:.0%} of targets the ceiling is extrapolated to many subjects; for the rest it is what the other "
        "subjects of this study predict, which is lower, so that shares of it are too high. "
    )


def _depth(study: Study, paths: StudyPaths) -> Iterator[Finding]:
    test = tables.read_table(paths.tables / "depth_test.csv")
    if len(test):
        text = (
            "Depth (0 embedding, 1 last block) that targets prefer on the training films: early sensory regions beside "
            "language and semantic ones, one-sided over subjects. " + reachable(len(study.brain.subjects), sides=1)
        )
        yield Finding("Depth over the cortex", text, [], [("Mean depth over subjects.", test)])


def _residuals(study: Study, paths: StudyPaths) -> Iterator[Finding]:
    if not study.residual:
        return
    table = tables.read_table(
        paths.tables / "residual.csv", "pair", "subject", "targets_above", "full", "residual", "drop"
    )
    own = table[(table["subject"] == tables.EVERYONE) & (table["targets_above"] > 0)]
    names = pd.Index([pair.name for pair in study.residual], name="pair")
    # A pair without such parcels has an empty row.
    wide = own.groupby("pair", sort=False)[["full", "residual", "drop"]].mean().reindex(names).reset_index()
    check = tables.read_table(paths.tables / "residual_check.csv", "pair")
    text = (
        "What is left of a model's features when another's part in them is removed, encoded like any other; means over "
        "parcels with something to lose. A ridge shrinks, so part of what was removed stays: the check says how much "
        "of it can "
        "still be predicted on the test film, beside chance."
    )
    lost = list(wide.loc[wide["drop"].isna(), "pair"])
    if lost:
        text += f" Nothing to lose anywhere, and so no map: {', '.join(lost)}."
    by_pair = check.groupby("pair", sort=False).mean(numeric_only=True).reset_index()
    yield Finding(
        "Residuals",
        text,
        _pictures(study, paths, ("figure4", *(f"figure5.{pair.name}" for pair in study.residual))),
        [
            ("Scores before and after, and the mean of the parcels' own drops in percent.", wide),
            ("What is still predicted (r).", by_pair),
        ],
    )


def _partition(study: Study, paths: StudyPaths) -> Iterator[Finding]:
    if not study.partition:
        return
    table = tables.read_table(paths.tables / "partition.csv", "parcel", "subject", "set", "part", "r2")
    own = table[(table["subject"] == tables.EVERYONE) & (table["parcel"] != WHOLE)]
    means = own.groupby(["set", "part"], sort=False)["r2"].agg(["mean", "min", "max"]).reset_index()
    text = "R² on the test film that streams explain alone and together, by banded ridge; over parcels."
    yield Finding("Variance partitioning", text, [], [("Over parcels, mean over subjects.", means)])


def _significance(study: Study, paths: StudyPaths) -> Iterator[Finding]:
    counts = tables.read_table(
        paths.tables / "significance.csv", "parcel", "subject", "model", "targets", "significant"
    )
    inside = counts[counts["parcel"].fillna("") != ""]
    share = inside.groupby(["model", "subject"], sort=False)[["targets", "significant"]].sum()
    share = (share["significant"] / share["targets"].where(share["targets"] > 0)).unstack("subject").reset_index()
    null = "circular shifts" if study.statistics.permute == "shifts" else "permuted blocks of test rows"
    text = (
        f"Share of targets in parcels whose score is above chance by {null}, {study.statistics.permutations} of them, "
        "at a "
        f"false discovery rate of {study.statistics.fdr:g}. "
        + reachable(len(study.brain.subjects), study.statistics.fdr)
    )
    grids = [("Share of targets above chance, by subject.", share)]
    for name, caption in (
        ("comparisons", "Targets in which one model is better than another."),
        ("comparisons_roi", "Models against each other over subjects, region by region."),
    ):
        table = tables.read_table(paths.tables / f"{name}.csv")
        if len(table):
            grids.append((caption, table.drop(columns="note", errors="ignore")))
    pictures, words = _group_maps(study, paths)
    yield Finding("Significance", text + words, pictures, grids)


def _group_maps(study: Study, paths: StudyPaths) -> tuple[list[tuple[str, str]], str]:
    """The best model's t over subjects, where its false discovery rate is below the study's; or that there is none."""
    where = paths.relative(paths.significance)
    cube = open_cube(paths.significance, where=where)
    refuse_another(cube, where, "q")
    if "group_t" not in cube:
        return [], ""
    means = cube["score"].mean(["subject", "target"], skipna=True).values
    if not np.isfinite(means).any():
        return [], ""
    best = str(cube["model"].values[np.nanargmax(means)])  # a model without scores is no best one
    own = cube[["group_t", "group_q"]].sel(model=best).load()
    shown = own["group_t"].where(own["group_q"] <= study.statistics.fdr)
    png = draw_map(shown, cube.attrs, best, "t")
    if png is None:
        none = f" Over subjects as a random effect no target of {best}, the best model, reaches it."
        return [], "" if shown.notnull().any() else none
    caption = f"{best}: t over subjects as a random effect, where the false discovery rate is at most "
    return [(f"{caption}{study.statistics.fdr:g}.", base64.b64encode(png).decode("ascii"))], ""


def _pictures(study: Study, paths: StudyPaths, names: tuple[str, ...]) -> list[tuple[str, str]]:
    bars = f"mean of {len(study.brain.subjects)} subjects; error bars are its standard error over subjects."
    captions = {
        "figure2": f"The whole brain: {bars}",
        "figure3": f"Regions: {bars} A unimodal bar is the mean of that modality's models.",
        "figure4": f"Test r by region before and after each removal: {bars}",
    }
    for pair in study.residual:
        captions[f"figure5.{pair.name}"] = (
            f"{pair_title(pair)}: drop of the mean test r over subjects, in percent; positive where something was "
            f"lost, empty where the score before is not above {MINIMUM:g}. Pointed ends: drops beyond 100 %."
        )
    found = []
    for name in names:
        path = paths.results / "figures" / f"{name}.png"
        if path.is_file():
            found.append((captions[name], base64.b64encode(path.read_bytes()).decode("ascii")))
    return found


def oracle_tables(study: Study, root: Path) -> list[tuple[str, pd.DataFrame]]:
    """Tables of a simulated study: planted ceilings, and plain fits of the truth's features, beside what was found.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.

    Returns
    -------
    list of (str, DataFrame)
        Title and table.
    """
    paths = StudyPaths(root)
    raw = planted_truth(paths)
    captions = {
        "oracle_residual": "Residuals: the pipeline beside plain fits of the truth's own features (r).",
        "oracle_partition": "Variance parts: the pipeline beside plain kernel ridge on the truth's own features (R²).",
    }
    found = [("Ceilings: found beside planted (r).", ceiling_table(study, root, raw))]
    for name, text in captions.items():
        path = paths.tables / f"{name}.csv"
        if path.is_file():
            found.append((text, tables.read_table(path)))
    return found
