"""The page's charts: figures of plotly as plain dicts, made from tables, with the tables that are behind them."""

from __future__ import annotations

import base64
import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex

from cinecube.analysis.figures.brain_pictures import DIVERGING, SCORES

# Okabe and Ito's palette, whose colours colour-blind readers can distinguish, black left out: it is dark mode's ground.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A8A00")
_DASHES = ("solid", "dot", "dash", "dashdot")
_MARKERS = ("circle", "x-thin-open", "square", "diamond")
_LINE_PX, _FEWEST_PX = 24, 260

Figure = dict[str, Any]


FilmPictures = Callable[[str, Sequence[float]], list[bytes]]
"""JPEG pictures of a segment at seconds from its first frame; none where it has none."""
_PICTURES = 16  # as many as can be told apart beside each other


def inline(picture: bytes, kind: str = "png") -> str:
    """A picture as an address that holds it; `kind` is `png`, `jpeg` or `svg+xml`.

    Parameters
    ----------
    picture : bytes
    kind : {"png", "jpeg", "svg+xml"}

    Returns
    -------
    str
        A `data:` address.
    """
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode('ascii')}"


@dataclass(frozen=True)
class Chart:
    """A chart of the page.

    Attributes
    ----------
    name : str
        Of its place on the page and of the files that a reader saves.
    caption : str
    table : DataFrame
        The numbers behind it.
    figures : dict of str to dict
        By what a reader chooses; one figure alone has the key "".
    chooser : str
        What is chosen: `stream`, `parcel`; empty for one figure.
    first : str
        The choice that is shown first.
    film : sequence of (float, float, str)
        Above all figures: pictures of a film as addresses, each from where to where along the horizontal axis.
    """

    name: str
    caption: str
    table: pd.DataFrame
    figures: Mapping[str, Figure]
    chooser: str = ""
    first: str = ""
    film: Sequence[tuple[float, float, str]] = ()
    height: int = field(init=False, default=_FEWEST_PX)

    def __post_init__(self) -> None:
        """Keep room for the highest of its figures, so that the page does not jump."""
        heights = [figure["layout"].get("height", _FEWEST_PX) for figure in self.figures.values()]
        object.__setattr__(self, "height", max(heights, default=_FEWEST_PX))


def models_chart(means: pd.DataFrame, subjects: pd.DataFrame, untrained: pd.DataFrame, ceiling: str) -> Chart:
    """Every model over the whole brain: its mean with interval, a dot a subject, and its untrained twin.

    Parameters
    ----------
    means : DataFrame
        Of the whole brain: `model`, `score`, `score_low`, `score_high`, `normalised`.
    subjects : DataFrame
        Of the whole brain: `model`, `subject`, `score`, `normalised`.
    untrained : DataFrame
        Of the whole brain: `model`, `untrained_score`.
    ceiling : str
        What shares are of; empty where there are none.

    Returns
    -------
    Chart
        One figure.
    """
    order = means.sort_values("score", na_position="first")["model"].tolist()
    own = means.set_index("model").reindex(order)
    twins = untrained.set_index("model")["untrained_score"].reindex(order)
    share = [f"{value:.0%} of the ceiling" if np.isfinite(value) else "" for value in own["normalised"]]
    traces = [_dots(subjects, "score"), {**_means(own, order, "score"), "text": share}]
    if twins.notna().any():
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "untrained twin",
                "x": _numbers(twins),
                "y": order,
                "marker": {"size": 10, "color": PALETTE[1], "symbol": "x-thin-open", "line": {"width": 2}},
                "hovertemplate": "%{y}, untrained: r = %{x:.3f}<extra></extra>",
            }
        )
    if ceiling:
        traces += _shares(own, order, subjects)
    layout: dict[str, Any] = {
        "height": _height(len(order)),
        "xaxis": {"title": {"text": "test r"}, "zeroline": True, "nticks": 5, "domain": [0, 0.6 if ceiling else 1]},
        "yaxis": {"type": "category", "categoryorder": "array", "categoryarray": order},
        "legend": _LEGEND,
    }
    if ceiling:
        layout["xaxis2"] = {
            "title": {"text": "share of the ceiling"},
            "nticks": 3,
            "tickangle": 0,
            "domain": [0.7, 1],
            "tickformat": ".0%",
            "rangemode": "tozero",
        }
    caption = (
        "Every stream over the whole brain, best first: its mean over subjects with a 95% bootstrap interval, a dot a "
        "subject"
        + (", a cross its untrained twin" if twins.notna().any() else "")
        + (f"; on the right as a share of {ceiling}." if ceiling else ".")
    )
    table = means.sort_values("score", ascending=False, ignore_index=True)
    return Chart("models", caption, table, {"": {"data": traces, "layout": layout}})


def _shares(own: pd.DataFrame, order: list[str], subjects: pd.DataFrame) -> list[Figure]:
    return [
        {
            "type": "bar",
            "orientation": "h",
            "x": _numbers(own["normalised"]),
            "y": order,
            "xaxis": "x2",
            "showlegend": False,
            "marker": {"color": PALETTE[0], "opacity": 0.45},
            "hovertemplate": "%{y}: %{x:.1%} of the ceiling<extra></extra>",
        },
        {**_dots(subjects, "normalised"), "xaxis": "x2", "showlegend": False},
    ]


def _dots(subjects: pd.DataFrame, value: str) -> Figure:
    """A dot a subject: `model`, `subject`, `value`."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "subjects",
        "x": _numbers(subjects[value]),
        "y": subjects["model"].tolist(),
        "text": subjects["subject"].tolist(),
        "opacity": 0.55,
        "marker": {"size": 7, "color": PALETTE[5]},
        "hovertemplate": "%{y}, %{text}: %{x:.3f}<extra></extra>",
    }


def _means(own: pd.DataFrame, order: Sequence[str], value: str) -> Figure:
    """Means of models in `order`, with their intervals: `value`, its `_low` and `_high`."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "mean, 95% interval",
        "x": _numbers(own[value]),
        "y": list(order),
        "marker": {"size": 11, "color": PALETTE[0], "symbol": "diamond"},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": _numbers(own[f"{value}_high"] - own[value]),
            "arrayminus": _numbers(own[value] - own[f"{value}_low"]),
            "color": PALETTE[0],
            "thickness": 1.5,
        },
        "hovertemplate": "%{y}: %{x:.3f} %{text}<extra></extra>",
    }


def regions_chart(bars: pd.DataFrame, subjects: pd.DataFrame, value: str, note: str) -> Chart:
    """Scores by region: a figure a region, streams and unimodal means with a dot a subject and marks for tests.

    Parameters
    ----------
    bars : DataFrame
        From `paper_figures.region_bars`: `roi`, `model`, `value`, its `_low` and `_high`, and `mark`.
    subjects : DataFrame
        `roi`, `model`, `subject`, `value`; of untrained twins, too, which have no bar.
    value : str
        `score`, or `normalised` where there is a ceiling.
    note : str
        What the marks mean.

    Returns
    -------
    Chart
        A figure per region.
    """
    figures = {}
    for roi in dict.fromkeys(bars["roi"]):
        own = bars[bars["roi"] == roi].sort_values(value, na_position="first")
        order = own["model"].tolist()
        dots = subjects[(subjects["roi"] == roi) & subjects["model"].isin(order)]
        marked = {"mode": "markers+text", "text": own["mark"].tolist(), "textposition": "top center"}
        traces = [_dots(dots, value), {**_means(own, order, value), **marked, "textfont": {"size": 15}}]
        axis = {
            "title": {"text": _words(value)},
            "zeroline": True,
            **({"tickformat": ".0%"} if value == "normalised" else {}),
        }
        figures[roi] = {
            "data": traces,
            "layout": {"height": _height(len(order)), "xaxis": axis, "yaxis": _categories(order), "legend": _LEGEND},
        }
    left_out = "" if set(subjects["model"]) <= set(bars["model"]) else ", without untrained twins"
    caption = f"Streams in one region{left_out}, best first; unimodal means are those of a modality's models. {note}"
    return Chart("regions", caption.strip(), bars, figures, "region")


def region_matrix(means: pd.DataFrame, note: str) -> Chart:
    """Every stream (row) in every region (column): mean r, share of the ceiling, depth, each where there is any.

    Parameters
    ----------
    means : DataFrame
        `roi`, `model`, `score`, `normalised`, `mark` of tests of r, and `depth`, where it is known.
    note : str
        What the marks mean.

    Returns
    -------
    Chart
        A figure per measure.
    """
    wide = _by_region(means, "score")
    order = wide.mean(axis=1).sort_values(na_position="first").index
    marks = _by_region(means, "mark").loc[order].fillna("")
    shown: dict[str, tuple[str, str, str, float | None]] = {
        "r": ("score", "test r", ".2f", None),
        "share of the ceiling": ("normalised", "share", ".0%", None),
        "preferred depth": ("depth", "depth", ".2f", 1.0),
    }
    figures = {}
    for words, (value, unit, form, top) in shown.items():
        if value != "score" and (value not in means or means[value].isna().all()):
            continue
        own = _by_region(means, value).loc[order]
        figure = _heatmap(own, unit, symmetric=False, template=".1%" if form == ".0%" else ".3f", top=top)
        if form == ".0%":
            figure["data"][0]["colorbar"]["tickformat"] = form
        texts = [
            [
                f"{round(number, 2) + 0.0:{form}}{mark if value == 'score' else ''}" if np.isfinite(number) else ""
                for number, mark in zip(numbers, row, strict=True)
            ]
            for numbers, row in zip(own.to_numpy(dtype=float), marks.to_numpy(), strict=True)
        ]
        _write_into_cells(figure, texts)
        if value == "score":
            figure["data"][0] |= {"text": texts, "hovertemplate": "%{y}, %{x}: %{z:.3f} (%{text})<extra></extra>"}
        if value != "depth":  # of which none is best
            best = own.dropna(axis=1, how="all").idxmax()
            figure["layout"]["shapes"] = [
                _frame(own.columns.get_loc(roi), own.index.get_loc(best[roi])) for roi in best.index
            ]
        figures[words] = figure
    caption = (
        "Every stream in every region, mean over subjects; a frame marks the best of a region, marks are of r;"
        " where cells are too narrow for them, point at one or touch it."
        + (
            " Preferred depth: of the layers that targets prefer on the training films, 0 embedding, 1 last block."
            if "preferred depth" in figures
            else ""
        )
    )
    return Chart("region-matrix", f"{caption} {note}".strip(), means, figures, "measure", "r")


def _by_region(means: pd.DataFrame, value: str) -> pd.DataFrame:
    """A column of a table by stream (row) and region (column)."""
    return means.pivot(index="model", columns="roi", values=value)[list(dict.fromkeys(means["roi"]))]


def _frame(column: Any, row: Any) -> dict[str, Any]:
    """A frame around a cell of a heatmap."""
    place = {"x0": column - 0.5, "x1": column + 0.5, "y0": row - 0.5, "y1": row + 0.5}
    return {"type": "rect", "xref": "x", "yref": "y", **place, "line": {"color": "#00BEE6", "width": 2.5}}


def layers_chart(curves: pd.DataFrame, networks: Mapping[str, str]) -> Chart:
    """Score against depth, a line per stream with its spread over subjects; a click on a name hides it.

    Parameters
    ----------
    curves : DataFrame
        Columns `model`, `depth`, `layer`, `score`, `sem`.
    networks : mapping of str to str
        Network of each stream, which has a colour; its streams, and its untrained twin, differ by dashes and markers.

    Returns
    -------
    Chart
    """
    traces = []
    colours = dict(zip(dict.fromkeys(networks.values()), itertools.cycle(PALETTE), strict=False))
    drawn: Counter[str] = Counter()
    for model, own in curves.groupby("model", sort=False):
        colour = colours[networks[str(model)]]
        # Of more than four in one colour the fifth has the first one's dashes with another marker.
        rest, dash = divmod(drawn[colour], len(_DASHES))
        marker = (dash + rest) % len(_MARKERS)
        drawn[colour] += 1
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": str(model),
                "x": _numbers(own["depth"]),
                "y": _numbers(own["score"]),
                "text": own["layer"].tolist(),
                "line": {"color": colour, "dash": _DASHES[dash], "width": 2},
                "marker": {"size": 6, "symbol": _MARKERS[marker], "line": {"color": colour, "width": 1.5}},
                "error_y": {"type": "data", "array": _numbers(own["sem"]), "thickness": 0.8, "width": 0},
                "hovertemplate": "%{fullData.name}, %{text}: r = %{y:.3f}<extra></extra>",
            }
        )
    layout = {
        "height": 440,
        "xaxis": {"title": {"text": "depth (0 embedding, 1 last block)"}},
        "yaxis": {"title": {"text": "test r"}},
        "legend": {**_LEGEND_BELOW, "itemdoubleclick": "toggleothers"},
        "hovermode": "closest",
    }
    caption = (
        "Mean test r over parcels and subjects at every layer, with the standard error over subjects. Streams of one"
        " network, and its untrained twin, share a colour. A click on a name hides it, two clicks hide all others. A"
        " layer without a score has no point: its features do not vary."
    )
    return Chart("layers", caption, curves, {"": {"data": traces, "layout": layout}})


def parcels_chart(
    table: pd.DataFrame,
    order: Sequence[str],
    found: Mapping[str, tuple[str, str]],
    planted: Mapping[str, Sequence[tuple[str, str]]],
    first: str,
) -> Chart:
    """Scores of every parcel (row) at every layer (column), a figure a stream.

    Parameters
    ----------
    table : DataFrame
        Mean over subjects: `parcel`, `model`, `layer`, `depth`, `score`; streams in their order.
    order : sequence of str
        Parcels from top to bottom.
    found : mapping of str to (model, layer)
        What the training films chose: a dot.
    planted : mapping of str to sequence of (model, layer)
        The true ones of a simulated study: a square.
    first : str
        Stream that is shown first.

    Returns
    -------
    Chart
        A figure per stream.
    """
    top = float(table["score"].abs().max()) if table["score"].notna().any() else 1.0
    figures = {}
    for model, own in table.groupby("model", sort=False):
        layers = own.drop_duplicates("layer").sort_values(["depth", "layer"])["layer"].tolist()
        wide = own.pivot(index="parcel", columns="layer", values="score").reindex(
            index=list(order)[::-1], columns=layers
        )
        figure = _heatmap(wide, "test r", symmetric=True, template=".3f", top=top)
        chosen = [(layer, parcel) for parcel, (name, layer) in found.items() if name == model]
        true = [(layer, parcel) for parcel, own in planted.items() for name, layer in own if name == model]
        for points, symbol, size, name in (
            (chosen, "circle", 6, "chosen on the training films"),
            (true, "square-open", 13, "planted"),
        ):
            if points:
                x, y = zip(*points, strict=True)
                figure["data"].append(
                    {
                        "type": "scatter",
                        "mode": "markers",
                        "x": list(x),
                        "y": list(y),
                        "name": name,
                        "marker": {"symbol": symbol, "size": size, "color": "#0090B0", "line": {"width": 1.5}},
                        "hoverinfo": "skip",
                    }
                )
        figure["layout"]["legend"] = _LEGEND
        figures[str(model)] = figure
    caption = (
        "Test r of every parcel (from the back of the head to the front) at every layer, mean over subjects; grey where"
        " there is none. A dot: this stream's layer is what the training films prefer of all streams."
        + (" A square: what was planted." if planted else "")
    )
    return Chart("parcels-layers", caption, table, figures, "stream", first)


def lags_chart(lags: pd.DataFrame, tr_s: float) -> Chart:
    """Score of one single delay against that delay, a grey line per parcel and the mean of all.

    Parameters
    ----------
    lags : DataFrame
        Rows are parcels, columns are delays in TRs.
    tr_s : float

    Returns
    -------
    Chart
        One figure; its table is long: `parcel`, `lag` in TRs, `lag_score`.
    """
    delays = [float(lag) * tr_s for lag in lags.columns]
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": delays,
            "y": _numbers(curve),
            "name": str(parcel),
            "showlegend": False,
            "line": {"color": "#999999", "width": 0.8},
            "hovertemplate": "%{fullData.name}, %{x:.1f} s: R² = %{y:.3f}<extra></extra>",
        }
        for parcel, curve in lags.iterrows()
    ]
    traces.append(
        {
            "type": "scatter",
            "mode": "lines+markers",
            "x": delays,
            "y": _numbers(lags.mean()),
            "name": "mean of parcels",
            "line": {"color": PALETTE[0], "width": 3},
            "hovertemplate": "mean, %{x:.1f} s: R² = %{y:.3f}<extra></extra>",
        }
    )
    layout = {
        "height": 320,
        "xaxis": {"title": {"text": "single delay (s)"}},
        "yaxis": {"title": {"text": "R² on held-out training segments"}},
        "showlegend": False,
    }
    table = (
        lags.rename_axis(index="parcel").reset_index().melt(id_vars="parcel", var_name="lag", value_name="lag_score")
    )
    return Chart(
        "delays",
        "R² on held-out training segments by single delay; grey: parcels, mean over subjects; blue: their mean.",
        table,
        {"": {"data": traces, "layout": layout}},
    )


def time_chart(curves: pd.DataFrame, pictures: FilmPictures | None = None) -> Chart:
    """Predicted beside measured responses, a figure a parcel, the best predicted one first.

    Parameters
    ----------
    curves : DataFrame
        `parcel`, `model`, `showing`, `segment`, `onset_s`, `measured`, `predicted`; rows of a showing follow each
        other.
    pictures : callable, optional
        See `FilmPictures`.

    Returns
    -------
    Chart
        A figure per parcel, with pictures of the film where `pictures` has some.
    """
    figures, scores = {}, {}
    spans: dict[str, tuple[float, float, str, float]] = {}
    for parcel, own in curves.groupby("parcel", sort=True):
        starts, x_s, gaps = 0.0, [], []
        for name, showing in own.groupby("showing", sort=False):
            first_s = float(showing["onset_s"].iloc[0])
            x_s += (starts + showing["onset_s"] - first_s).tolist()
            gaps.append(len(x_s))
            spans[str(name)] = starts, x_s[-1], str(showing["segment"].iloc[0]), first_s
            starts = x_s[-1] + 2 * (showing["onset_s"].diff().median() if len(showing) > 1 else 1.0)
        scores[str(parcel)] = own["measured"].corr(own["predicted"])
        traces = [
            {
                "type": "scatter",
                "mode": "lines",
                "name": name if column == "measured" else f"predicted by {own['model'].iloc[0]}",
                "x": np.round(x_s, 3).tolist(),
                "y": _numbers(own[column], 3),
                "line": {"color": colour, "width": 1.6},
                "hovertemplate": "%{x:.1f} s: %{y:.2f}<extra></extra>",
            }
            for column, name, colour in (("measured", "measured", "#888888"), ("predicted", "predicted", PALETTE[0]))
        ]
        borders = [
            {
                "type": "line",
                "xref": "x",
                "yref": "paper",
                "x0": x_s[at],
                "x1": x_s[at],
                "y0": 0,
                "y1": 1,
                "line": {"color": "#888888", "width": 0.7, "dash": "dot"},
            }
            for at in gaps[:-1]
        ]
        title = f"{parcel}: r of the means = {scores[str(parcel)]:.2f}"
        layout = {
            "height": 320,
            "title": {"text": title, "font": {"size": 13}, "x": 1, "xanchor": "right"},
            "xaxis": {"title": {"text": "seconds; dotted: new segment"}},
            "yaxis": {"title": {"text": "response (SD)"}},
            "legend": _LEGEND,
            "shapes": borders,
        }
        figures[str(parcel)] = {"data": traces, "layout": layout}
    known = {name: score for name, score in scores.items() if math.isfinite(score)}
    first = max(known, key=lambda name: known[name]) if known else next(iter(figures), "")
    caption = (
        "Mean over subjects, which has less noise than one of them: its r is higher than the mean of theirs. A click on"
        " the cortex chooses the parcel."
    )
    film = _film(list(spans.values()), pictures) if pictures else []
    return Chart("time", caption, curves, figures, "parcel", first, film)


def _film(spans: Sequence[tuple[float, float, str, float]], pictures: FilmPictures) -> list[tuple[float, float, str]]:
    """Pictures along showings, each of which is from where to where, a segment, and its first onset."""
    total_s = sum(stop - start for start, stop, _, _ in spans)
    found = []
    for start, stop, segment, first_s in spans:
        edges = np.linspace(start, stop, max(1, round(_PICTURES * (stop - start) / total_s)) + 1)
        middles = (edges[1:] + edges[:-1]) / 2
        own = pictures(segment, (middles - start + first_s).tolist())
        places = zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        # A film without pictures has none at any time.
        found += [(*place, inline(jpeg, "jpeg")) for place, jpeg in zip(places, own, strict=False)]
    return found


def residual_chart(table: pd.DataFrame, titles: Mapping[str, str]) -> Chart:
    """Scores before and after each removal by region, a figure a pair.

    Parameters
    ----------
    table : DataFrame
        `pair`, `roi`, `measure` (`full`, `residual`), `mean`, `sem`.
    titles : mapping of str to str
        Each pair in words.

    Returns
    -------
    Chart
        A figure per pair.
    """
    figures = {}
    for pair, own in table.groupby("pair", sort=False):
        traces = []
        for measure, name, colour in (
            ("full", "before removal", PALETTE[0]),
            ("residual", "after removal", PALETTE[4]),
        ):
            part = own[own["measure"] == measure]
            traces.append(
                {
                    "type": "bar",
                    "name": name,
                    "x": part["roi"].tolist(),
                    "y": _numbers(part["mean"]),
                    "marker": {"color": colour},
                    "error_y": {"type": "data", "array": _numbers(part["sem"]), "thickness": 1.5, "width": 3},
                    "hovertemplate": "%{x}, %{fullData.name}: r = %{y:.3f}<extra></extra>",
                }
            )
        layout = {
            "height": 360,
            "barmode": "group",
            "yaxis": {"title": {"text": "test r"}},
            "xaxis": {"type": "category"},
            "legend": _LEGEND,
        }
        figures[titles.get(str(pair), str(pair))] = {"data": traces, "layout": layout}
    caption = "Test r by region before and after a removal; bars are means over subjects with their standard error."
    return Chart("residuals", caption, table, figures, "pair")


def partition_chart(table: pd.DataFrame) -> Chart:
    """Variance that streams explain alone and together, stacked, by region or parcel; a figure a set of streams.

    Parameters
    ----------
    table : DataFrame
        `set`, `roi`, `part`, `mean`.
    """
    figures = {}
    for name, own in table.groupby("set", sort=False):
        traces = []
        for number, (part, rows) in enumerate(own.groupby("part", sort=False)):
            traces.append(
                {
                    "type": "bar",
                    "name": str(part),
                    "x": rows["roi"].tolist(),
                    "y": _numbers(rows["mean"]),
                    "marker": {"color": PALETTE[number % len(PALETTE)]},
                    "hovertemplate": "%{x}, %{fullData.name}: R² = %{y:.3f}<extra></extra>",
                }
            )
        layout = {
            "height": 380,
            "barmode": "relative",
            "yaxis": {"title": {"text": "R² on the test film"}},
            "xaxis": {"type": "category"},
            "legend": _LEGEND,
        }
        figures[str(name)] = {"data": traces, "layout": layout}
    caption = (
        "R² on the test film that streams explain alone and together, mean over subjects; what is negative explains"
        " nothing."
    )
    return Chart("partition", caption, table, figures, "streams")


def significance_chart(share: pd.DataFrame) -> Chart:
    """Share of targets above chance, streams (rows) by subjects (columns).

    Parameters
    ----------
    share : DataFrame
        `model`, then a column a subject.
    """
    wide = share.set_index("model")
    wide = wide.loc[wide.mean(axis=1).sort_values(na_position="first").index]
    figure = _heatmap(wide, "share of targets", symmetric=False, template=".0%", top=1.0)
    _write_into_cells(figure, [[f"{share:.0%}" for share in row] for row in wide.to_numpy(dtype=float)])
    figure["data"][0]["colorbar"]["tickformat"] = ".0%"
    return Chart("above-chance", "Share of targets in parcels whose score is above chance.", share, {"": figure})


def quality_chart(quality: pd.DataFrame) -> Chart:
    """Runs by movement, tSNR and degrees of freedom, a figure each, a box a subject and a dot a run.

    Parameters
    ----------
    quality : DataFrame
        `subject`, `segment`, `repeat` and columns of numbers.
    """
    measures = {
        "mean_framewise_displacement_mm": "mean framewise displacement (mm)",
        "tsnr_median": "median tSNR",
        "degrees_of_freedom": "degrees of freedom left",
        "trimmed_volumes": "volumes trimmed",
        "shift_s": "late by (s)",
    }
    figures = {}
    for column, words in measures.items():
        if column not in quality or not pd.to_numeric(quality[column], errors="coerce").notna().any():
            continue
        traces = [
            {
                "type": "box",
                "name": str(subject),
                "y": _numbers(own[column]),
                "boxpoints": "all",
                "jitter": 0.4,
                "pointpos": 0,
                "text": [
                    f"{segment}, repeat {repeat}" for segment, repeat in zip(own["segment"], own["repeat"], strict=True)
                ],
                "marker": {"color": PALETTE[0], "size": 5},
                "line": {"width": 1},
                "fillcolor": "rgba(0,0,0,0)",
                "hovertemplate": "%{x}, %{text}: %{y}<extra></extra>",
            }
            for subject, own in quality.groupby("subject", sort=False)
        ]
        layout = {
            "height": 320,
            "yaxis": {"title": {"text": words}, "rangemode": "tozero"},
            "xaxis": {"type": "category"},
            "showlegend": False,
        }
        figures[words] = {"data": traces, "layout": layout}
    return Chart("quality", "Every run, by subject; a dot is a run.", quality, figures, "measure")


_LEGEND_BELOW = {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"}
_LEGEND = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}


def _heatmap(wide: pd.DataFrame, unit: str, *, symmetric: bool, template: str, top: float | None = None) -> Figure:
    """A figure of a table's values, its first row at the bottom."""
    values = wide.to_numpy(dtype=float)
    highest = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 1.0
    top = top or highest or 1.0
    trace = {
        "type": "heatmap",
        "z": [_numbers(row) for row in values],
        "x": [str(name) for name in wide.columns],
        "y": [str(name) for name in wide.index],
        "zmin": -top if symmetric else 0.0,
        "zmax": top,
        "xgap": 1,
        "ygap": 1,
        "colorscale": _colorscale(DIVERGING if symmetric else SCORES),
        "colorbar": {"title": {"text": unit}, "thickness": 12},
        "hovertemplate": f"%{{y}}, %{{x}}: %{{z:{template}}}<extra></extra>",
        "hoverongaps": False,
    }
    return {
        "data": [trace],
        "layout": {
            "height": max(_FEWEST_PX, 17 * len(wide) + 120),
            "yaxis": _categories([str(name) for name in wide.index]),
            "xaxis": {"type": "category", "showgrid": False, "tickangle": -45},
        },
    }


def _write_into_cells(figure: Figure, texts: Sequence[Sequence[str]]) -> None:
    """Write texts into a heatmap's cells in black or white, whichever contrasts more; plotly's grey does not on red."""
    cells = figure["data"][0]
    colours = colormaps[DIVERGING if cells["zmin"] < 0 else SCORES]
    written = [
        (column, row, text, _ink_on(colours((value - cells["zmin"]) / (cells["zmax"] - cells["zmin"]))))
        for row, values, own in zip(cells["y"], cells["z"], texts, strict=True)
        for column, value, text in zip(cells["x"], values, own, strict=True)
        if value is not None and text
    ]
    columns, rows, shown, inks = map(list, zip(*written, strict=True)) if written else ([], [], [], [])
    figure["data"].append(
        {
            "type": "scatter",
            "mode": "text",
            "x": columns,
            "y": rows,
            "text": shown,
            "textfont": {"size": 11, "color": inks},
            "hoverinfo": "skip",
            "showlegend": False,
        }
    )


def _ink_on(colour: Sequence[float]) -> str:
    """Black or white, whichever has the higher contrast with a colour, by its luminance in sRGB (WCAG 2)."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour[:3]]
    luminance = float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
    return "#000000" if (luminance + 0.05) ** 2 >= 1.05 * 0.05 else "#ffffff"


def _colorscale(name: str) -> list[list[Any]]:
    """A colour map of matplotlib as plotly has one."""
    return [[place, to_hex(colormaps[name](place))] for place in np.linspace(0, 1, 17).tolist()]


def _categories(order: Sequence[str]) -> dict[str, Any]:
    return {"type": "category", "categoryorder": "array", "categoryarray": list(order), "showgrid": False, "dtick": 1}


def _height(n_lines: int) -> int:
    return max(_FEWEST_PX, _LINE_PX * n_lines + 130)


def _numbers(values: Any, decimals: int = 6) -> list[float | None]:
    """Numbers as JSON has them: rounded, None for what is missing."""
    floats = np.asarray(values, dtype=float)
    return [None if math.isnan(value) else round(value, decimals) + 0.0 for value in floats.tolist()]


def _words(value: str) -> str:
    return "share of the ceiling" if value == "normalised" else "test r"
