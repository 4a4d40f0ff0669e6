"""The stage `figures`: figures 2 to 5 of Oota et al. (ICLR 2025) for any study, as tables and pictures."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from cinecube.analysis.cubes import tables
from cinecube.analysis.cubes.results import read_scores
from cinecube.analysis.figures import drawing
from cinecube.analysis.figures.brain_pictures import map_axes
from cinecube.analysis.maps.map_values import map_values
from cinecube.analysis.regions.roi_tables import SCORE_COLUMNS, WHOLE_BRAIN, over_subjects, with_means
from cinecube.analysis.statistics.comparisons import compare_by_roi, reachable
from cinecube.store.base.atomic import staged
from cinecube.store.base.paths import StudyPaths
from cinecube.store.base.writing import one_writer
from cinecube.store.params.analysis_params import Pair
from cinecube.store.params.document import Study

VIDEO, AUDIO = "unimodal video", "unimodal audio"
_log = logging.getLogger(__name__)
MARKS = {VIDEO: "*", AUDIO: "^"}
"""Of a bar that is higher than the unimodal ones over subjects (Wilcoxon, false discovery rate over regions)."""


def paper_figures(study: Study, root: Path) -> None:
    """Write `results/figures`: a table for each figure, and its picture.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.

    Raises
    ------
    StudyError
        If a table or score cube is missing.
    """
    paths = StudyPaths(root)
    with one_writer(paths, paths.results / "figures"):
        scores = tables.read_table(paths.tables / "roi.csv", *SCORE_COLUMNS)
        untrained = tables.read_table(paths.tables / "untrained.csv", "roi", "model", "untrained", "p", "smallest_p")
        residual = tables.read_table(paths.tables / "residual_roi.csv", "roi", "pair", "measure", "mean", "sem")
        value = "normalised" if scores["normalised"].notna().any() else "score"
        _tell_of_means(scores, groups(study))
        bars = region_bars(scores, groups(study), streams(study, root), study.statistics.fdr, study.statistics.seed)
        level = study.statistics.fdr
        with staged(paths.results / "figures") as folder:
            folder.mkdir()
            second = whole_brain_bars(scores, untrained, study.statistics.seed)
            _write(folder, "figure2", second, drawing.paired_bars(second, value, level))
            third = drawing.grouped_bars(bars, "roi", "model", value, "mark", marks_note(study))
            _write(folder, "figure3", bars, third[0])
            titles = {pair.name: pair_title(pair) for pair in study.residual}
            if len(residual):
                _write(folder, "figure4", residual, drawing.residual_bars(residual, titles)[0])
            drops = tables.read_table(paths.tables / "residual.csv", "pair", "subject", "drop")
            if len(drops):
                tables.write_table(folder / "figure5.csv", drops[drops["subject"] == tables.EVERYONE])
            for pair in study.residual:
                if (axes := draw_drops(study, root, pair)) is not None:
                    _draw(folder, f"figure5.{pair.name}", axes)


def marks_note(study: Study) -> str:
    """Note on the marks of figure 3, or on why there are none: so few subjects cannot differ."""
    names = list(groups(study))
    if not names:
        return ""
    n_subjects, level = len(study.brain.subjects), study.statistics.fdr
    legend = ", ".join(f"{MARKS[name]} higher than {name}" for name in names)
    none = reachable(n_subjects, level)
    tested = f"{legend} (Wilcoxon over subjects, false discovery rate {level:g} over regions)."
    return f"No bar can be marked. {none} Marks would be: {tested}" if none else f"Marks: {tested}"


def _tell_of_means(scores: pd.DataFrame, unimodal: Mapping[str, Sequence[str]]) -> None:
    """Log the streams that a unimodal bar is not the mean of, since they have no score."""
    scored = set(scores.loc[scores["score"].notna(), "model"])
    for name, models in unimodal.items():
        absent = [model for model in models if model not in scored]
        if absent:
            _log.warning("%s: the mean of %d of %d streams; no scores of %s", name, *_counts(models, absent))


def _counts(models: Sequence[str], absent: Sequence[str]) -> tuple[int, int, str]:
    return len(models) - len(absent), len(models), ", ".join(absent)


def _write(folder: Path, name: str, table: pd.DataFrame, axes: Axes) -> None:
    tables.write_table(folder / f"{name}.csv", table)
    _draw(folder, name, axes)


def _draw(folder: Path, name: str, axes: Axes) -> None:
    figure = axes.get_figure(root=True)
    assert figure is not None
    (folder / f"{name}.png").write_bytes(drawing.to_png(figure))
    (folder / f"{name}.svg").write_bytes(drawing.to_svg(figure))


def groups(study: Study) -> dict[str, list[str]]:
    """The unimodal bars: name -> streams whose mean they are."""
    named = {VIDEO: study.unimodal.video, AUDIO: study.unimodal.audio}
    return {name: list(found) for name, found in named.items() if found}


def streams(study: Study, root: Path) -> list[str]:
    """Trained streams that are in no unimodal bar: the paper's multi-modal models.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    """
    every = [str(name) for cube in read_scores(study, root) for name in cube["model"].values]
    unimodal = {*study.unimodal.video, *study.unimodal.audio}
    return [name for name in every if name not in unimodal and not study.is_untrained(name)]


def whole_brain_bars(scores: pd.DataFrame, untrained: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Figure 2: every model over the whole brain, with what says whether it beats its untrained twin.

    Parameters
    ----------
    scores : DataFrame
        From `roi_tables.region_scores`.
    untrained : DataFrame
        From `roi_tables.untrained_table`.
    seed : int

    Returns
    -------
    DataFrame
        Columns of `roi_tables.over_subjects`, `untrained` (the twin), `p` and `smallest_p` of their difference.
    """
    bars = over_subjects(scores[scores["roi"] == WHOLE_BRAIN], seed)
    own = untrained[untrained["roi"] == WHOLE_BRAIN][["model", "untrained", "p", "smallest_p"]]
    return bars.merge(own, "left", "model")


def region_bars(
    scores: pd.DataFrame, unimodal: Mapping[str, Sequence[str]], models: Sequence[str], level: float, seed: int = 0
) -> pd.DataFrame:
    """Figure 3: multi-modal streams and the unimodal bars in each region, marked where they are higher than these.

    Parameters
    ----------
    scores : DataFrame
        From `roi_tables.region_scores`.
    unimodal : Mapping of str to sequence of str
        From `groups`.
    models : sequence of str
        From `streams`.
    level : float
        Of the false discovery rate over regions.
    seed : int

    Returns
    -------
    DataFrame
        Columns of `roi_tables.over_subjects` and `mark`: see `MARKS`.
    """
    whole = with_means(scores, unimodal)
    bars = over_subjects(whole[whole["model"].isin([*models, *unimodal])], seed)
    higher: dict[tuple[str, str], str] = {}
    for model in models:
        for group in unimodal:
            compared = compare_by_roi(whole, model, group)
            found = compared[(compared["mean_difference"] > 0) & (compared["p_fdr"] <= level)]
            for roi in found["roi"]:
                higher[roi, model] = higher.get((roi, model), "") + MARKS[group]
    return bars.assign(
        mark=[higher.get((roi, model), "") for roi, model in zip(bars["roi"], bars["model"], strict=True)]
    )


def draw_drops(study: Study, root: Path, pair: Pair) -> Axes | None:
    """Figure 5: the drop of mean scores in percent on the cortex; None where the space has no picture.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    pair : Pair
    """
    atlas = root / study.brain.atlas if study.brain.atlas else None
    values, attrs = map_values(study, root, "drop", pair.name)
    return map_axes(values, attrs, pair_title(pair), "drop (%)", top=100, atlas=atlas)


def pair_title(pair: Pair) -> str:
    """A residual pair in words."""
    return f"{pair.keep} without {pair.remove}"
