"""The bars of the paper's figures, as axes of matplotlib; the same numbers give the same bytes."""

from __future__ import annotations

import io
import itertools
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette, whose colours colour-blind readers can distinguish.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DPI = 300
"""Of printed pictures."""
# What the report's page has room for, so that letters are shown as large as they are drawn.
_PAGE_INCHES = 9.0
_GROUPS_A_ROW, _MOST_GROUPS = 12, 72
_GROUPS_OF_TWO = 15  # of two bars each, in one row
# Bars side by side: hatched where colours repeat, black last.
_FILLS = tuple(itertools.product((None, "///", "..."), PALETTE))


def to_png(figure: Figure, dpi: int = DPI) -> bytes:
    """A figure's PNG, without the version and date that matplotlib would write into it.

    Parameters
    ----------
    figure : Figure
    dpi : int
        Dots per inch; 300 by default, for print.

    Returns
    -------
    bytes
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None}, bbox_inches="tight")
    return buffer.getvalue()


def to_svg(figure: Figure) -> bytes:
    """A figure's SVG, with text as text, and without a date or random names."""
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "cinecube", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", dpi=DPI, metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    return buffer.getvalue()


def _strip(figure: Figure) -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)


def paired_bars(table: pd.DataFrame, value: str, level: float) -> Axes:
    """Figure 2: every model over the whole brain beside its untrained twin, marked where they differ.

    Parameters
    ----------
    table : DataFrame
        From `paper_figures.whole_brain_bars`: `model`, `value`, its `_sem`, `untrained`, `p`. A model without a value
        says so.
    value : str
        `score`, or `normalised`: share of the ceiling.
    level : float
        A pair is marked where its `p` is at most this.

    Returns
    -------
    Axes
        Of a new figure.
    """
    rows = table.set_index("model")
    twins = set(rows["untrained"].dropna())
    models = [name for name in rows.index if name not in twins]
    figure = Figure(figsize=(max(6.4, 0.62 * len(models) + 1.6), 3.6), layout="constrained")
    axes = figure.subplots()
    for number, (kind, colour, hatch) in enumerate(
        (("pretrained", PALETTE[0], None), ("untrained", PALETTE[4], "///"))
    ):
        names = models if kind == "pretrained" else [rows.loc[name, "untrained"] for name in models]
        own = rows.reindex(names)
        places = np.arange(len(models)) + 0.4 * (number - 0.5)
        errors = own[f"{value}_sem"].fillna(0)
        axes.bar(
            places, own[value], 0.4, yerr=errors, color=colour, hatch=hatch, edgecolor="white", capsize=2, label=kind
        )
        for place, name, known in zip(places, names, np.isfinite(own[value].to_numpy(float)), strict=True):
            if isinstance(name, str) and not known:
                _write_lacking(axes, place, has_score=bool(np.isfinite(float(rows["score"][name]))))
    for place, name in enumerate(models):
        if rows.loc[name, "p"] <= level:
            axes.text(place, max(rows.loc[name, value], 0), "*", ha="center", va="bottom", fontsize=12)
    axes.set_xticks(range(len(models)), models, rotation=30, ha="right", fontsize=9)
    axes.set_ylabel("share of the ceiling" if value == "normalised" else "test r")
    axes.axhline(0, color="black", linewidth=0.6)
    if twins:
        figure.legend(*axes.get_legend_handles_labels(), frameon=False, fontsize=9, loc="outside upper left", ncols=2)
    _strip(figure)
    return axes


def _lacking(has_score: bool) -> str:
    """The reason, in words, why there is no bar."""
    return "no ceiling" if has_score else "no score"


def _write_lacking(axes: Axes, place: float, *, has_score: bool) -> None:
    text = f" {_lacking(has_score)}"
    axes.text(place, 0, text, rotation=90, ha="center", va="bottom", fontsize=6, color="#555555")


def grouped_bars(
    table: pd.DataFrame, group: str, label: str, value: str, mark: str | None = None, note: str = ""
) -> list[Axes]:
    """Bars side by side for each group, with standard errors and marks above them, twelve groups to a row.

    Parameters
    ----------
    table : DataFrame
        Columns `group`, `label`, `score`, `value`, `<value>_sem`, and `mark` if it is named. Where a bar is missing,
        its place says so.
    group, label, value : str
    mark : str, optional
    note : str, optional
        Written beneath.

    Returns
    -------
    list of Axes
        One for every twelve groups, of one new figure.
    """
    groups = _shown_groups(table, group, value, _MOST_GROUPS)
    rows = [groups[start : start + _GROUPS_A_ROW] for start in range(0, len(groups), _GROUPS_A_ROW)]
    figure = Figure(figsize=(_PAGE_INCHES, 4.2 if len(rows) == 1 else 2.1 * len(rows) + 1.2), layout="constrained")
    panels = figure.subplots(len(rows), 1, sharey=True, squeeze=False)[:, 0]
    for axes, names in zip(panels, rows, strict=True):
        # Rows that are not full have bars as wide as the others'.
        axes.set_xlim(-0.6, min(_GROUPS_A_ROW, len(groups)) - 0.4)
        _draw_groups(axes, table.set_index(group), names, label, value, mark)
        axes.set_ylabel("share of the ceiling" if value == "normalised" else "test r")
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, frameon=False, fontsize=9, loc="outside upper left", ncols=4)
    _write_note(figure, f"{_cut_note(len(groups), table[group].nunique())} {note}".strip())
    _strip(figure)
    return list(panels)


def _shown_groups(table: pd.DataFrame, group: str, value: str, most: int) -> list[str]:
    """All groups in their order; only the first and those with the highest bars if there are too many to read."""
    highest = table.groupby(group, sort=False)[value].max()
    if len(highest) <= most:
        return list(highest.index)
    kept = {highest.index[0], *highest.iloc[1:].nlargest(most - 1).index}
    return [name for name in highest.index if name in kept]


def _cut_note(n_shown: int, n_groups: int) -> str:
    return (
        f"{n_shown} of {n_groups} regions: those with the highest bars. The table has all."
        if n_shown < n_groups
        else ""
    )


def _write_note(figure: Figure, note: str) -> None:
    if note:
        figure.supxlabel("\n".join(textwrap.wrap(note, 120)), fontsize=8, x=0.02, ha="left")


def _draw_groups(
    axes: Axes, table: pd.DataFrame, groups: Sequence[str], label: str, value: str, mark: str | None
) -> None:
    """One row of groups; the table's index names them."""
    labels = list(dict.fromkeys(table[label]))
    width = 1 / (len(labels) + 1.5)
    for number, (name, (hatch, colour)) in enumerate(zip(labels, itertools.cycle(_FILLS), strict=False)):
        here = table[table[label] == name]
        own = here.reindex(groups)
        places = np.arange(len(groups)) + (number - (len(labels) - 1) / 2) * width
        errors = own[f"{value}_sem"].fillna(0) if f"{value}_sem" in own else None
        axes.bar(
            places,
            own[value],
            width,
            yerr=errors,
            color=colour,
            edgecolor="white",
            linewidth=0.3,
            hatch=hatch,
            label=str(name),
            error_kw={"lw": 0.7},
        )
        for name_here, place in zip(groups, places, strict=True):
            if name_here in here.index and not np.isfinite(own.loc[name_here, value]):
                _write_lacking(axes, place, has_score=pd.notna(own.loc[name_here, "score"]))
        for place, height, text in zip(places, own[value], own[mark] if mark else [], strict=False):
            if isinstance(text, str) and np.isfinite(height):
                axes.text(place, max(height, 0), text, ha="center", va="bottom", fontsize=8)
    axes.set_xticks(range(len(groups)), [str(name) for name in groups], rotation=30, ha="right", fontsize=9)
    axes.axhline(0, color="black", linewidth=0.6)


def residual_bars(table: pd.DataFrame, titles: Mapping[str, str]) -> list[Axes]:
    """Scores before and after each removal, region by region, a panel per pair.

    Parameters
    ----------
    table : DataFrame
        Columns `pair`, `roi`, `measure` (`full`, `residual`), `mean`, `sem`.
    titles : Mapping of str to str
        What to write above each pair's panel.

    Returns
    -------
    list of Axes
        One per pair, of one new figure.
    """
    pairs, rois = list(dict.fromkeys(table["pair"])), _shown_groups(table, "roi", "mean", _GROUPS_OF_TWO)
    figure = Figure(figsize=(max(6.4, 0.45 * len(rois) + 2), 2.1 * len(pairs) + 0.8), layout="constrained")
    panels = figure.subplots(len(pairs), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, pair in zip(panels, pairs, strict=True):
        for number, (measure, name, colour) in enumerate(
            (("full", "before removal", PALETTE[0]), ("residual", "after removal", PALETTE[4]))
        ):
            own = table[(table["pair"] == pair) & (table["measure"] == measure)].set_index("roi").reindex(rois)
            places = np.arange(len(rois)) + 0.4 * (number - 0.5)
            axes.bar(places, own["mean"], 0.4, yerr=own["sem"].fillna(0), color=colour, capsize=2, label=name)
            for place in places[~np.isfinite(own["mean"].to_numpy(float))]:
                _write_lacking(axes, place, has_score=False)
        axes.set_title(titles[pair], fontsize=9, loc="left")
        axes.set_ylabel("test r")
        axes.axhline(0, color="black", linewidth=0.6)
    figure.legend(*panels[0].get_legend_handles_labels(), frameon=False, fontsize=9, loc="outside upper left", ncols=2)
    panels[-1].set_xticks(range(len(rois)), [str(name) for name in rois], rotation=30, ha="right", fontsize=9)
    _write_note(figure, _cut_note(len(rois), table["roi"].nunique()))
    _strip(figure)
    return list(panels)
