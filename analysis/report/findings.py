"""Sections of the page on what follows encoding: regions, depth, residuals, partitions, significance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cinecube.analysis.cubes import tables
from cinecube.analysis.cubes.parcels import WHOLE, regions
from cinecube.analysis.figures.brain_pictures import draw_map
from cinecube.analysis.figures.paper_figures import groups, marks_note, region_bars
from cinecube.analysis.regions.roi_tables import SCORE_COLUMNS, WHOLE_BRAIN, with_means
from cinecube.analysis.regions.rois import load_rois, roi_means, study_members
from cinecube.analysis.report import charts
from cinecube.analysis.report.charts import inline
from cinecube.analysis.report.sections import CEILINGS, PageSection, region_means, with_all_values
from cinecube.analysis.residuals.drops import MINIMUM
from cinecube.analysis.statistics.comparisons import reachable
from cinecube.analysis.truth.planted import planted_truth
from cinecube.analysis.truth.stage import ceiling_table
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import open_cube, refuse_another
from cinecube.store.params.document import Study

ABOVE = "⁺"
"""Marks a region where more targets are above chance than false discoveries would be."""


def findings(study: Study, root: Path) -> list[PageSection]:
    """Sections in the order of the page; those without anything to say are left out.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.

    Returns
    -------
    list of PageSection

    Raises
    ------
    StudyError
        If a table is missing.
    """
    paths = StudyPaths(root)
    makers = (_regions, _depth, _residuals, _partition, _significance, _paper)
    return [part for make in makers for part in make(study, paths)]


def _regions(study: Study, paths: StudyPaths) -> Iterator[PageSection]:
    mean = region_means(paths)
    untrained = tables.read_table(paths.tables / "untrained.csv", "roi", "model")
    growth = tables.read_table(paths.tables / "ceiling_growth.csv", "size", "score")
    scores = tables.read_table(paths.tables / "roi.csv", *SCORE_COLUMNS)
    use = CEILINGS.get(study.ceiling.use)
    divided = (
        f"First r, then shares of a ceiling, {use}, where it is at least {study.ceiling.threshold:g}; "
        "“survive” is the share of targets whose ceiling is that high. By chance some targets that follow"
        " nothing have such a ceiling, too, and shares near 0, which pull means down: docs/understand/ceilings.md. "
    )
    # Said once, in the section on significance, where no difference can be significant.
    marks = "" if reachable(len(study.brain.subjects), study.statistics.fdr) else marks_note(study)
    text = (divided if use else "") + _saturation(study, paths) + "Parcels weigh the same within a region."
    value = "normalised" if mean["normalised"].notna().any() else "score"
    unimodal = groups(study)
    models = [name for name in dict.fromkeys(scores["model"]) if not study.is_untrained(name)]
    bars = with_all_values(region_bars(scores, unimodal, models, study.statistics.fdr, study.statistics.seed))
    inside = mean[mean["roi"] != WHOLE_BRAIN]
    drawn = [_matrix(study, paths, inside, bars, marks)] if len(inside) else []
    drawn.append(charts.regions_chart(bars, with_means(scores, unimodal), value, marks))
    grids = []
    if len(growth):
        by_size = growth.groupby("size")["score"].mean().reset_index()
        text += (
            " The table by number of other subjects says how well so many others predict a subject's responses: where"
            " one more adds little, there are enough of them for a ceiling."
        )
        grids.append(("Mean score by number of other subjects that predict", by_size))
    if len(untrained):
        rows = untrained[untrained["roi"] != WHOLE_BRAIN]
        grids.append(("Pretrained beside untrained; FDR over these regions and the whole brain of each pair", rows))
    yield PageSection(
        "regions",
        "Regions",
        text,
        charts=drawn,
        grids=grids,
    )


def _matrix(study: Study, paths: StudyPaths, mean: pd.DataFrame, bars: pd.DataFrame, marks: str) -> charts.Chart:
    """Every stream in every region, marked where it is above chance and where it is higher than unimodal means."""
    level = study.statistics.fdr
    told = mean.merge(_shares_above_chance(study, paths), "left", ["roi", "model"])
    told = told.merge(bars[["roi", "model", "mark"]], "left", ["roi", "model"])
    told["mark"] = np.where(told["above_chance"] > level, ABOVE, "") + told["mark"].fillna("").to_numpy(dtype=object)
    note = (
        f"{ABOVE} more than {level:.0%} of the region's targets are above chance, mean over subjects; of each subject a"
        " target counts as in the section Significance, by permutations."
        if told["above_chance"].notna().any()
        else "No mark says what is above chance: results/tables/significance.csv has no target of these regions."
    )
    depths = tables.read_table(paths.tables / "depth.csv", "model", "subject", "parcel", "depth")
    members = study_members(study.rois, paths.root, depths["parcel"])
    if depths["depth"].notna().any() and members.parcels:
        own = roi_means(depths, members, value="depth").groupby(["roi", "model"], sort=False)["depth"].mean()
        told = told.merge(own.reset_index(), "left", ["roi", "model"])
    return charts.region_matrix(
        told, f"{note} {marks} {_in_full(study, paths, list(dict.fromkeys(told['roi'])))}".strip()
    )


def _in_full(study: Study, paths: StudyPaths, shown: Sequence[str]) -> str:
    """The full names of regions, of sets that have them."""
    names = load_rois(study.rois, paths.root).names if study.rois else {}
    told = "; ".join(f"{roi}: {names[roi]}" for roi in shown if roi in names)
    return f"{told}." if told else ""


def _shares_above_chance(study: Study, paths: StudyPaths) -> pd.DataFrame:
    """Share of each region's targets whose score is above chance by permutations, mean over subjects."""
    counts = _significant(paths)
    members = study_members(study.rois, paths.root, counts["parcel"]).parcels
    pairs = [(roi, parcel) for roi, parcels in members.items() for parcel in parcels]
    inside = pd.DataFrame(pairs, columns=["roi", "parcel"]).merge(counts, on="parcel")
    sums = inside.groupby(["roi", "model", "subject"])[["targets", "significant"]].sum()
    # Of a subject without targets there is no share.
    share = sums["significant"] / sums["targets"].where(sums["targets"] > 0)
    return share.groupby(["roi", "model"]).mean().rename("above_chance").reset_index()


def _significant(paths: StudyPaths) -> pd.DataFrame:
    """Number of targets above chance by model, subject and parcel; those outside parcels are left out."""
    columns = ("parcel", "subject", "model", "targets", "significant")
    counts = tables.read_table(paths.tables / "significance.csv", *columns)
    return counts[counts["parcel"].fillna("") != ""]


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


def _depth(study: Study, paths: StudyPaths) -> Iterator[PageSection]:
    test = tables.read_table(paths.tables / "depth_test.csv")
    if len(test):
        text = (
            "Depth (0 embedding, 1 last block) that targets prefer on the training films: early sensory regions beside"
            " language and semantic ones, one-sided over subjects, beside the smallest p that so many subjects can"
            " reach."
        )
        yield PageSection("depth", "Depth over the cortex", text, grids=[("Mean depth over subjects", test)])


def _residuals(study: Study, paths: StudyPaths) -> Iterator[PageSection]:
    if not study.residual:
        return
    table = tables.read_table(paths.tables / "residual.csv", "pair", "subject", "full", "residual", "drop")
    own = table[table["subject"] == tables.EVERYONE]
    titles = _titles(study)
    names = pd.Index(titles, name="pair")
    wide = own.groupby("pair", sort=False)[["full", "residual", "drop"]].mean().reindex(names).reset_index()
    check = tables.read_table(paths.tables / "residual_check.csv", "pair")
    text = (
        "What is left of a model's features when another's part in them is removed, encoded like any other. “Before”"
        " and “after” are means over all parcels. “Drop” is the mean drop of the parcels with something to lose, whose"
        f" r before exceeds {MINIMUM:g}, and does not follow from the other two. “Before” is not the r of Models, where"
        " all targets of a parcel have one layer: here each has its own, and parcels weigh the same. A ridge shrinks,"
        " so part of what was removed stays: “by ridge” and “by kernel” are the r with which the removed model's"
        " features can still be predicted on the test film from what is left, mean over their dims and the kept"
        " layers; “shuffled” is chance."
    )
    lost = [titles[name] for name in wide.loc[wide["drop"].isna(), "pair"]]
    if lost:
        text += f" Nothing to lose anywhere, and so no map: {', '.join(lost)}."
    by_pair = check.groupby("pair", sort=False).mean(numeric_only=True).reset_index()
    by_region = tables.read_table(paths.tables / "residual_roi.csv", "roi", "pair", "measure", "mean", "sem")
    grid = wide.merge(by_pair, "left", "pair")
    yield PageSection(
        "residuals",
        "Residuals",
        text,
        charts=[charts.residual_chart(by_region, titles)] if len(by_region) else [],
        pictures=_pictures(study, paths, tuple(f"figure5.{pair.name}" for pair in study.residual)),
        grids=[
            (
                "Scores before and after over all parcels, the mean drop of those with something to lose, and r of what"
                " is still predicted",
                grid.assign(pair=grid["pair"].map(titles)),
            )
        ],
    )


def _titles(study: Study) -> dict[str, str]:
    """Residual pairs in words, by their names."""
    return {pair.name: pair.title for pair in study.residual}


def _partition(study: Study, paths: StudyPaths) -> Iterator[PageSection]:
    if not study.partition:
        return
    table = tables.read_table(paths.tables / "partition.csv", "parcel", "subject", "set", "part", "r2")
    own = table[(table["subject"] == tables.EVERYONE) & (table["parcel"] != WHOLE)]
    means = own.groupby(["set", "part"], sort=False)["r2"].agg(["mean", "min", "max"]).reset_index()
    text = "R² on the test film that streams explain alone and together, by banded ridge; over parcels."
    by_roi = tables.read_table(paths.tables / "partition_roi.csv", "roi", "set", "part", "mean")
    yield PageSection(
        "partition",
        "Variance partitioning",
        text,
        charts=[charts.partition_chart(by_roi)] if len(by_roi) else [],
        grids=[("Over parcels, mean over subjects", means)],
    )


def _significance(study: Study, paths: StudyPaths) -> Iterator[PageSection]:
    share = _significant(paths).groupby(["model", "subject"], sort=False)[["targets", "significant"]].sum()
    share = (share["significant"] / share["targets"].where(share["targets"] > 0)).unstack("subject").reset_index()
    null = "circular shifts" if study.statistics.permute == "shifts" else "permuted blocks of test rows"
    text = (
        f"Share of targets in parcels whose score is above chance by {null}, {study.statistics.permutations} of them, "
        "at a "
        f"false discovery rate of {study.statistics.fdr:g}. "
        + reachable(len(study.brain.subjects), study.statistics.fdr)
    )
    grids = []
    counts = tables.read_table(paths.tables / "comparisons.csv", "comparison", "subject")
    if len(counts):
        counts = _with_lowest(counts, paths)
        text += _swaps(study, counts)
        caption = "Targets in which one model is better than another, beside the smallest p and q of any"
        grids.append((caption, counts))
    over_subjects = tables.read_table(paths.tables / "comparisons_roi.csv")
    if len(over_subjects):
        caption = (
            "Models against each other over subjects, region by region; FDR over the regions and the whole brain of"
            " each comparison"
        )
        grids.append((caption, over_subjects.drop(columns="note", errors="ignore")))
    pictures, words = _group_maps(study, paths)
    drawn = [charts.significance_chart(share)] if len(share) else []
    yield PageSection("significance", "Significance", text + words, charts=drawn, pictures=pictures, grids=grids)


def _with_lowest(counts: pd.DataFrame, paths: StudyPaths) -> pd.DataFrame:
    """Counts of targets in parcels with the smallest p and q that one of them has, by comparison and subject."""
    where = paths.relative(paths.significance)
    with open_cube(paths.significance, where=where) as cube:
        refuse_another(cube, where, "difference_q")
        inside = regions(cube["parcel"].values) != ""
        own = cube[["difference_p", "difference_q"]].isel(target=inside).min("target", skipna=True).load()
        own = own.transpose("subject", "comparison")
    lowest = {
        (comparison, subject): [float(own[name].values[s, c]) for name in ("difference_p", "difference_q")]
        for s, subject in enumerate(map(str, own["subject"].values))
        for c, comparison in enumerate(map(str, own["comparison"].values))
    }
    found = [lowest.get(key, [np.nan, np.nan]) for key in zip(counts["comparison"], counts["subject"], strict=True)]
    return counts.assign(**dict(zip(("lowest_p", "lowest_q"), np.transpose(found), strict=True)))


def _swaps(study: Study, counts: pd.DataFrame) -> str:
    """Sentences on what a comparison of single targets can find, and how near it came."""
    text = (
        " Target by target, two models are compared by blocks of test rows that change places between their"
        f" predictions, {study.statistics.permutations} times: n blocks can do so in 2ⁿ ways, so p is hardly below"
        " 2/2ⁿ."
    )
    p, q = counts[["lowest_p", "lowest_q"]].min()
    if not (np.isfinite(p) and np.isfinite(q)):
        return text
    level = study.statistics.fdr
    # Of Benjamini and Hochberg's k targets of m that count, the last has a p of at most level · k / m.
    needed = f"only where at least {100 * p / level:.2g}% of these count" if p <= level else "nowhere"
    return (
        f"{text} The smallest p found is {p:.4f}, with which q, over all targets of a subject, in parcels or not, can"
        f" be {level:g} or less {needed}; the smallest q found is {q:.4f}."
    )


def _paper(study: Study, paths: StudyPaths) -> Iterator[PageSection]:
    text = "Whole brain, regions and removals as Oota et al. (2025) draw them; results/figures has them as files."
    pictures = _pictures(study, paths, ("figure2", "figure3", "figure4"))
    if pictures:
        yield PageSection("figures", "The paper's figures", text, pictures=pictures)


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
        none = f" A t over subjects is at this rate at no target of {best}, the best model."
        return [], "" if shown.notnull().any() else none
    caption = (
        f"{best}: t over subjects as a random effect, where its false discovery rate is at most"
        f" {study.statistics.fdr:g}. It says in what subjects agree, not what is above chance: they saw one test"
        " film, and a correlation by chance with it may be the same in all of them."
    )
    return [(caption, inline(png))], ""


def _pictures(study: Study, paths: StudyPaths, names: tuple[str, ...]) -> list[tuple[str, str]]:
    bars = f"mean of {len(study.brain.subjects)} subjects; error bars are its standard error over subjects."
    twins = any(study.is_untrained(name) for name in study.compute.models)
    figure2 = (
        f"pretrained beside untrained: {bars} {_pairs_note(study)}" if twins else f"without untrained twins: {bars}"
    )
    captions = {
        "figure2": f"The whole brain, {figure2}".strip(),
        "figure3": f"Regions: {bars} A unimodal bar is the mean of that modality's models.",
        "figure4": f"Test r by region before and after each removal: {bars}",
    }
    for pair in study.residual:
        captions[f"figure5.{pair.name}"] = (
            f"{pair.title}: drop of the mean test r over subjects, in percent; positive where something was "
            f"lost, empty where the score before is not above {MINIMUM:g}. Pointed ends: drops beyond 100%."
        )
    found = []
    for name in names:
        # Maps are pixels in either.
        kind, suffix = ("png", "png") if name.startswith("figure5") else ("svg+xml", "svg")
        path = paths.results / "figures" / f"{name}.{suffix}"
        if path.is_file():
            found.append((captions[name], inline(path.read_bytes(), kind)))
    return found


def _pairs_note(study: Study) -> str:
    reach = reachable(len(study.brain.subjects), study.statistics.fdr)
    return "" if reach else f"A star: they differ (Wilcoxon over subjects, p at most {study.statistics.fdr:g})."


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
            table = tables.read_table(path)
            named = {"pair": table["pair"].replace(_titles(study))} if "pair" in table else {}
            found.append((text, table.assign(**named)))
    return found
