"""Sections of the page that come first and last: models, layers, delays, quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from cinecube.analysis.cubes import tables
from cinecube.analysis.cubes.parcels import regions
from cinecube.analysis.cubes.results import read_predictions
from cinecube.analysis.regions.roi_tables import WHOLE_BRAIN
from cinecube.analysis.report import charts
from cinecube.analysis.report.charts import Chart
from cinecube.analysis.truth.planted import Comparison
from cinecube.store.base.errors import StudyError, some_of
from cinecube.store.base.paths import StudyPaths
from cinecube.store.dvc.pulling import PulledCubes
from cinecube.store.params.document import Study

CEILINGS = {"cross_subject": "what other subjects predict", "repeats": "what repeated films allow"}

HELD = {4: 0.80, 6: 0.86, 15: 0.92}
"""Share of 95% bootstrap intervals that hold the mean, by subjects; see `intervals.spread_over_subjects`."""

SEPARATE = frozenset({"imagebind"})
"""Extractors of several streams that never see each other."""


@dataclass(frozen=True)
class PageSection:
    """A section of the page.

    Attributes
    ----------
    key : str
        Of its place on the page.
    title, text : str
    points : list of str
        Lines that a reader must not miss.
    charts : list of Chart
    pictures : list of (caption, address from `inline`)
        Where the cortex that turns shows the same, of who reads the page without it.
    grids : list of (caption, DataFrame)
    beside : list of (caption, address from `inline`)
        Pictures that are shown beside the cortex, too.
    """

    key: str
    title: str
    text: str = ""
    points: Sequence[str] = ()
    charts: Sequence[Chart] = ()
    pictures: Sequence[tuple[str, str]] = ()
    grids: Sequence[tuple[str, pd.DataFrame]] = field(default=())
    beside: Sequence[tuple[str, str]] = ()


def region_means(paths: StudyPaths) -> pd.DataFrame:
    """Mean scores by region over subjects, from `results/tables/roi_mean.csv`; see `with_all_values`."""
    return with_all_values(tables.read_table(paths.tables / "roi_mean.csv", "roi", "model"))


def with_all_values(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `roi_tables.over_subjects` with the columns too that it lacks where nobody has a score or a ceiling.

    Parameters
    ----------
    table : DataFrame
    """
    values = [f"{value}{part}" for value in ("score", "normalised") for part in ("", "_sem", "_low", "_high")]
    return table.reindex(columns=[*table.columns, *(name for name in values if name not in table)])


def models_section(
    study: Study, paths: StudyPaths, preferred: pd.DataFrame, models: Sequence[str], best: str | None
) -> PageSection:
    """All models over the whole brain.

    Parameters
    ----------
    study : Study
    paths : StudyPaths
    preferred : DataFrame
        From `tables.preferred_layers`.
    models : sequence of str
        Streams in the study's order.
    best : str, optional
        Stream that the training films prefer.

    Returns
    -------
    PageSection
    """
    means = _whole(region_means(paths))
    subjects = _whole(tables.read_table(paths.tables / "roi.csv", "roi", "subject", "model", "score"))
    twins = tables.read_table(paths.tables / "untrained.csv", "roi", "model", "untrained_score")
    ceiling = CEILINGS.get(study.ceiling.use, "") if means["normalised"].notna().any() else ""
    chart = charts.models_chart(means, subjects, _whole(twins), ceiling)
    grids = [("Whole brain by subject: the numbers of the chart", _whole_brain_table(subjects, models))]
    if len(twins):
        family = "; FDR over the whole brain and the regions of each pair" if twins["roi"].nunique() > 1 else ""
        grids.append((f"Pretrained beside untrained{family}", _whole(twins)))
    text = (
        f"Pearson r on the test film ({', '.join(study.split.test)}). For each subject, the training films choose one"
        " layer for each parcel; the whole brain is the mean over all targets in parcels at these layers, and then over"
        " subjects. The sentence at the top, the chart, the table below it and “whole brain” everywhere else on this"
        f" page are that number. {_other_means(preferred, means, best)}{_intervals(len(study.brain.subjects))}"
    ).rstrip()
    return PageSection("models", "Models", text, _joined(study, models), [chart], grids=grids)


def _joined(study: Study, models: Sequence[str]) -> list[str]:
    """Lines on streams whose network may have read picture and sound together; what it does, `features` knows."""
    own = {name: study.models.get(study.owner(name)) for name in models if study.owner(name) != name}
    known = [name for name, params in own.items() if params and params.extractor not in SEPARATE]
    unknown = [name for name, params in own.items() if params is None]
    lines = []
    if known:
        lines.append(
            f"{', '.join(known)}: where a network reads picture and sound as one sequence, as TVLT does, the tokens of"
            " the sound have attended to the picture, and those of the picture to the sound. A stream named after one"
            " of them is then of both, and may predict regions of the other; docs/reference/networks.md says which are"
            " so."
        )
    if unknown:
        lines.append(
            f"{', '.join(unknown)}: imported, and this study does not know of which network. If it reads picture and"
            " sound as one sequence, a stream named after one of them is of both; who made them knows."
        )
    return lines


def _intervals(n_subjects: int) -> str:
    """Sentence on intervals of so few subjects."""
    if n_subjects < 2:
        return ""  # which have none
    of = {n_subjects: HELD[n_subjects]} if n_subjects in HELD else HELD
    held = ", ".join(f"{share:.0%} of studies with {n} subjects" for n, share in of.items())
    return (
        f"The intervals are a bootstrap over {n_subjects} subjects, and too narrow of few: of 95% they hold the true"
        f" mean in about {held}."
    )


def _other_means(preferred: pd.DataFrame, means: pd.DataFrame, best: str | None) -> str:
    """Sentence on the number of the metrics, whose layers are chosen for all subjects together."""
    if best is None:
        return ""
    together = tables.whole_brain_means(preferred).set_index(["subject", "model"])["score"]
    own = means.set_index("model")["score"]
    return (
        "results/metrics.json and “cinecube compare” differ a little, for there a parcel has the same layer in all"
        f" subjects: {together[tables.EVERYONE, best]:.3f} for {best}, where this page has {own[best]:.3f}. "
    )


def _whole(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["roi"] == WHOLE_BRAIN].drop(columns="roi")


def layers_section(
    table: pd.DataFrame,
    preferred: pd.DataFrame,
    truth: Comparison | None,
    cubes: Sequence[xr.Dataset],
    networks: Mapping[str, str],
) -> PageSection:
    """Scores layer by layer, over the brain and parcel by parcel.

    Parameters
    ----------
    table : DataFrame
        From `tables.layer_table`.
    preferred : DataFrame
        From `tables.preferred_layers`.
    truth : Comparison, optional
        Of a simulated study.
    cubes : sequence of Dataset
        Score cubes.
    networks : mapping of str to str
        Streams in the study's order, and their networks.

    Returns
    -------
    PageSection
        A chart of curves over the brain, and one of parcels.
    """
    models = list(networks)
    everyone = as_in_study(table[table["subject"] == tables.EVERYONE], models, ["model", "depth", "layer"])
    best = preferred[(preferred["subject"] == tables.EVERYONE) & preferred["best_model"]]
    found = {str(row.parcel): (str(row.model), str(row.layer)) for row in best.itertuples()}
    first = best["model"].value_counts().idxmax() if len(best) else models[0]
    by_parcel = charts.parcels_chart(
        everyone, anatomical_order(cubes), found, truth.planted if truth else {}, str(first)
    )
    return PageSection(
        "layers", "Layers", charts=[charts.layers_chart(_layer_curves(table, models), networks), by_parcel]
    )


def anatomical_order(cubes: Sequence[xr.Dataset]) -> list[str]:
    """Parcels from the back of the head to the front, left before right; by name where their place is not known.

    Parameters
    ----------
    cubes : sequence of Dataset
        Score cubes, with `y_mm` on target where it is known.
    """
    cube = cubes[0]
    names = regions(cube["parcel"].values)
    y_mm = cube["y_mm"].values if "y_mm" in cube.coords else np.full(len(names), np.nan)
    hemi = cube["hemi"].values if "hemi" in cube.coords else [""] * len(names)
    labels = {"parcel": list(map(str, names)), "hemi": list(map(str, hemi))}
    frame = pd.DataFrame({**labels, "y_mm": y_mm.astype(float)})
    places = frame[frame["parcel"] != ""].groupby("parcel").agg({"hemi": "first", "y_mm": "mean"}).reset_index()
    return places.sort_values(["hemi", "y_mm", "parcel"], na_position="last")["parcel"].tolist()


def delays_section(study: Study, paths: StudyPaths) -> PageSection:
    """The best single delay of each parcel.

    Parameters
    ----------
    study : Study
    paths : StudyPaths

    Returns
    -------
    PageSection
    """
    low, high = (round(seconds / study.clock.tr_s) for seconds in (3, 6))  # delays are whole rows
    text = (
        "Each parcel fitted with one delay at a time, at its best layer, on the training films. The peak is the"
        f" haemodynamic delay; peaks of well predicted parcels outside {low} to {high} rows (about 3 to 6 s) say that"
        " scans and films have slipped."
    )
    return PageSection("delays", "Delays", text, charts=[charts.lags_chart(_lags(paths), study.clock.tr_s)])


def _lags(paths: StudyPaths) -> pd.DataFrame:
    """Curves of each parcel at its best model: the one whose best delay scores highest."""
    lags = tables.read_table(paths.tables / "lag_curve.csv", "parcel", "model", "lag", "lag_score")
    top = lags.groupby(["parcel", "model"])["lag_score"].max().dropna().reset_index()
    best = top.loc[top.groupby("parcel")["lag_score"].idxmax(), ["parcel", "model"]]
    return lags.merge(best, on=["parcel", "model"]).pivot_table(index="parcel", columns="lag", values="lag_score")


def time_section(
    study: Study, root: Path, preferred: pd.DataFrame, pictures: charts.FilmPictures | None
) -> PageSection | None:
    """Predicted beside measured responses along the test films, a parcel at a time; None where there are none.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    preferred : DataFrame
        From `tables.preferred_layers`: the stream that is shown of each parcel is the one that its training films
        prefer.
    pictures : callable, optional
        See `charts.FilmPictures`.

    Returns
    -------
    PageSection or None
        Without a chart where there is one subject, whose responses are not shown.
    """
    everyone = preferred[(preferred["subject"] == tables.EVERYONE) & preferred["best_model"]]
    best = {str(row.parcel): str(row.model) for row in everyone.itertuples()}
    title = "Predicted and measured"
    if len(study.brain.subjects) < 2:
        # The page may be published; a mean of subjects is nobody's.
        return PageSection("time", title, "Responses of a single subject are not shown; results/predictions has them.")
    curves = pd.concat(_courses(cube, best) for cube in read_predictions(study, root))
    if curves.empty:
        return None
    text = (
        "Responses to the test film, mean over a parcel's targets and over subjects, beside what the stream predicts"
        " that the training films prefer there; both in standard deviations of a run."
    )
    chart = charts.time_chart(curves, pictures)
    lacking = "`show_films` of params.yaml asks for pictures of the film, and there are none here."
    return PageSection("time", title, text, [lacking] if study.show_films and not chart.film else [], [chart])


def _courses(cube: xr.Dataset, best: Mapping[str, str]) -> pd.DataFrame:
    """Rows of `time_chart` of parcels whose best stream is here."""
    streams = set(map(str, cube["model"].values))
    parts = []
    for parcel in map(str, cube["parcel"].values):
        if best.get(parcel) not in streams:
            continue
        own = cube.sel(parcel=parcel, model=best[parcel])
        repeats = own["repeat"].values if "repeat" in own.coords else np.ones(own.sizes["time"], dtype=int)
        segments = list(map(str, own["segment"].values))
        showings = [
            f"{segment}, repeat {repeat}" if "repeat" in own.coords else segment
            for segment, repeat in zip(segments, repeats, strict=True)
        ]
        # Of the same subjects, or they would not be comparable.
        both = own["predicted"].notnull() & own["measured"].notnull()
        both &= both.sum("subject") > 1  # the page may be published: of a run that one subject has it says nothing
        values = {name: own[name].where(both).mean("subject").values for name in ("measured", "predicted")}
        frame = {"parcel": parcel, "model": best[parcel], "showing": showings, "segment": segments}
        parts.append(pd.DataFrame({**frame, "onset_s": own["onset_s"].values, **values}))
    columns = ["parcel", "model", "showing", "segment", "onset_s", "measured", "predicted"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def quality_section(study: Study, paths: StudyPaths, films: pd.DataFrame) -> PageSection:
    """Every run: movement, signal, what was trimmed, its timing; and the films.

    Parameters
    ----------
    study : Study
    paths : StudyPaths
    films : DataFrame
        From `read_films_table`.

    Returns
    -------
    PageSection
    """
    quality = _quality(study, paths)
    charted = [charts.quality_chart(quality)]
    return PageSection(
        "quality",
        "Quality",
        points=_missing_runs(study, quality),
        charts=[chart for chart in charted if chart.figures],
        grids=[("Runs", quality), ("Films", films)],
    )


def _whole_brain_table(subjects: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    """Scores over the whole brain: a row a stream, a column for the mean of subjects and for each.

    Parameters
    ----------
    subjects : DataFrame
        Of the whole brain: `model`, `subject`, `score`.
    models : sequence of str
        Streams in the study's order.
    """
    wide = subjects.pivot(index="model", columns="subject", values="score")
    wide.insert(0, "mean_of_subjects", wide.mean(axis=1))
    return as_in_study(wide.reset_index(), models, ["model"])


def as_in_study(rows: pd.DataFrame, models: Sequence[str], by: list[str]) -> pd.DataFrame:
    """Rows sorted by columns, models as the study has them: tables have them by the alphabet.

    Parameters
    ----------
    rows : DataFrame
        With a column `model`.
    models : sequence of str
    by : list of str
        Columns.

    Returns
    -------
    DataFrame

    Raises
    ------
    StudyError
        If a row is of no model of the study.
    """
    if unknown := sorted(set(rows["model"]) - set(models)):
        raise StudyError(
            where="results/tables",
            found=f"scores of {some_of(unknown)}",
            expected=f"those of {', '.join(models)}, the models of params.yaml",
            do="run `dvc repro`, which makes the tables of these models",
        )
    return rows.sort_values(by, key=lambda column: column.map(models.index) if column.name == "model" else column)


def _layer_curves(table: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    """Mean over parcels per model and layer, with the standard error over subjects.

    Parameters
    ----------
    table : DataFrame
        From `tables.layer_table`.
    models : sequence of str
    """
    each, by = table[table["subject"] != tables.EVERYONE], ["model", "depth", "layer"]
    grouped = each.groupby([*by, "subject"], sort=True)["score"].mean().groupby(by)
    curves = grouped.mean().to_frame("score")
    curves["sem"] = grouped.sem().fillna(0.0)
    return as_in_study(curves.reset_index(), models, by)


def _quality(study: Study, paths: StudyPaths) -> pd.DataFrame:
    parts, pulled = [], PulledCubes(paths.root)
    for subject in study.brain.subjects:
        path = paths.brain_qc(subject)
        pulled.refuse_kept_back(path, paths.relative(path))
        table = tables.read_table(path, "segment", "repeat")
        table.insert(0, "subject", subject)
        # In words above the table, with showings that other subjects have.
        parts.append(table.drop(columns="missing_segments", errors="ignore"))
    timing = tables.read_table(paths.tables / "run_timing.csv", "subject", "segment", "repeat", "verdict", "shift_s")
    timing = timing.rename(columns={"verdict": "timing"})[["subject", "segment", "repeat", "timing", "shift_s"]]
    return pd.concat(parts, ignore_index=True).merge(timing, on=["subject", "segment", "repeat"], how="left")


def _missing_runs(study: Study, quality: pd.DataFrame) -> list[str]:
    """Lines on the runs that a subject lacks: showings that another has, and segments that nobody has."""
    found = set(quality[["subject", "segment", "repeat"]].itertuples(index=False, name=None))
    segments = study.segments()  # tables may be of more
    shown = {(segment, repeat) for _, segment, repeat in found if segment in segments}
    shown |= {(segment, 1) for segment in segments if segment not in {one for one, _ in shown}}
    in_order = sorted(shown, key=lambda run: (segments.index(run[0]), run[1]))
    lines = []
    for subject in study.brain.subjects:
        missing = [
            segment if repeat == 1 else f"{segment} (repeat {repeat})"
            for segment, repeat in in_order
            if (subject, segment, repeat) not in found
        ]
        lines += [f"{subject}: no scan of {', '.join(missing)}"] if missing else []
    return lines
