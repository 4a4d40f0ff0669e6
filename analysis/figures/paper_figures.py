"""A study's figures: 2 to 5 of Oota et al. (ICLR 2025), which are the stage `figures`, and its maps by name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from cinecube.analysis.cubes import tables
from cinecube.analysis.cubes.results import of_scored, read_scores
from cinecube.analysis.figures import drawing
from cinecube.analysis.figures.brain_pictures import DIVERGING, SCORES, map_axes
from cinecube.analysis.maps.map_values import EVERYBODY, Kind, map_values
from cinecube.analysis.regions.roi_tables import SCORE_COLUMNS, WHOLE_BRAIN, over_subjects, with_means
from cinecube.analysis.statistics.comparisons import compare_by_roi, reachable
from cinecube.store.base.atomic import staged
from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import StudyPaths
from cinecube.store.base.writing import one_writer
from cinecube.store.params.document import Study

VIDEO, AUDIO = "unimodal video", "unimodal audio"
_log = logging.getLogger(__name__)
MARKS = {VIDEO: "*", AUDIO: "^"}
"""Of a bar that is higher than the unimodal ones over subjects (Wilcoxon, false discovery rate over regions)."""


@dataclass(frozen=True)
class PaperFigure:
    """A figure of the paper for a study.

    Attributes
    ----------
    table : DataFrame
        The numbers behind it.
    pictures : dict of str to list of Axes
        Axes of each picture by its file's name; none where there is nothing to draw.
    """

    table: pd.DataFrame
    pictures: dict[str, list[Axes]]


def paper_figures(study: Study, root: Path) -> None:
    """Write `results/figures`: a table for each figure, and its pictures.

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
    paths, study = StudyPaths(root), of_scored(study, root)
    with one_writer(paths, paths.results / "figures"), staged(paths.results / "figures") as folder:
        folder.mkdir()
        for number in FIGURES:
            drawn = paper_figure(number, study, root)
            if len(drawn.table):
                tables.write_table(folder / f"figure{number}.csv", drawn.table)
            for name, axes in drawn.pictures.items():
                figure = axes[0].get_figure(root=True)
                assert figure is not None
                (folder / f"{name}.png").write_bytes(drawing.to_png(figure))
                (folder / f"{name}.svg").write_bytes(drawing.to_svg(figure))


def paper_figure(number: int | str, study: Study, root: Path) -> PaperFigure:
    """Draw a figure of the paper from the tables of a study.

    Parameters
    ----------
    number : int or str
        2: models over the whole brain; 3: in regions; 4: residuals in regions; 5: what removal costs, on the cortex.
    study : Study
    root : Path
        The study's folder.

    Returns
    -------
    PaperFigure

    Raises
    ------
    StudyError
        If there is no such figure, or a table or score cube is missing.
    """
    draw = next((draw for known, draw in FIGURES.items() if str(number) == str(known)), None)
    if draw is None:
        raise StudyError(where="figure", found=repr(number), expected="2, 3, 4 or 5", do="name one of these")
    return draw(study, root)


def _whole_brain(study: Study, root: Path) -> PaperFigure:
    scores, value = _region_scores(root)
    untrained = _table(root, "untrained", "roi", "model", "untrained", "p", "smallest_p")
    bars = whole_brain_bars(scores, untrained, study.statistics.seed)
    return PaperFigure(bars, {"figure2": [drawing.paired_bars(bars, value, study.statistics.fdr)]})


def _by_region(study: Study, root: Path) -> PaperFigure:
    scores, value = _region_scores(root)
    _tell_of_means(scores, groups(study))
    bars = region_bars(scores, groups(study), streams(study, root), study.statistics.fdr, study.statistics.seed)
    return PaperFigure(bars, {"figure3": drawing.grouped_bars(bars, "roi", "model", value, "mark", marks_note(study))})


def _residuals(study: Study, root: Path) -> PaperFigure:
    table = _table(root, "residual_roi", "roi", "pair", "measure", "mean", "sem")
    titles = {pair.name: pair.title for pair in study.residual}
    return PaperFigure(table, {"figure4": drawing.residual_bars(table, titles)} if len(table) else {})


def _drops(study: Study, root: Path) -> PaperFigure:
    table = _table(root, "residual", "pair", "subject", "drop")
    drawn = {
        f"figure5.{pair.name}": draw_study_map(study, root, "drop", pair.name, title=pair.title)
        for pair in study.residual
    }
    pictures = {name: [axes] for name, axes in drawn.items() if axes is not None}
    return PaperFigure(table[table["subject"] == tables.EVERYONE], pictures)


FIGURES: dict[int, Callable[[Study, Path], PaperFigure]] = {
    2: _whole_brain,
    3: _by_region,
    4: _residuals,
    5: _drops,
}
"""Those of Oota et al. (2025) by their number."""


def _table(root: Path, name: str, *columns: str) -> pd.DataFrame:
    return tables.read_table(StudyPaths(root).tables / f"{name}.csv", *columns)


def _region_scores(root: Path) -> tuple[pd.DataFrame, str]:
    """Scores by region, and the column to draw: shares of the ceiling where there is one."""
    scores = _table(root, "roi", *SCORE_COLUMNS)
    return scores, "normalised" if scores["normalised"].notna().any() else "score"


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

    Returns
    -------
    list of str
        In the order of the score cubes.
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


@dataclass(frozen=True)
class _Look:
    label: str
    colours: str
    top: float | None = None


_LOOKS: dict[Kind, _Look] = {
    "score": _Look("test r", SCORES),
    "normalised": _Look("share of the ceiling", SCORES),
    "depth": _Look("preferred depth (0 embedding, 1 last block)", "viridis", 1),
    "ceiling": _Look("ceiling (r)", SCORES),
    "drop": _Look("drop (%)", DIVERGING, 100),
    "q": _Look("q", "viridis_r", 1),
    "group_t": _Look("t", DIVERGING),
    "group_q": _Look("q", "viridis_r", 1),
}


def draw_study_map(
    study: Study,
    root: Path,
    kind: Kind,
    model: str | None = None,
    layer: int | str | None = None,
    subject: str = EVERYBODY,
    *,
    title: str | None = None,
) -> Axes | None:
    """Draw a map on the inflated cortex, or on a glass brain where volumes have no mesh.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    kind, model, layer, subject
        As `map_values` takes them.
    title : str, optional
        The model or stream, or the kind of map, without it.

    Returns
    -------
    Axes or None
        The first of its figure; None where no target has a value, or the space has no picture.
    """
    values, attrs = map_values(study, root, kind, model, layer, subject)
    atlas, look = root / study.brain.atlas if study.brain.atlas else None, _LOOKS[kind]
    named = model or kind if title is None else title
    return map_axes(values, attrs, named, look.label, top=look.top, colours=look.colours, atlas=atlas)
