"""Pictures as PNG bytes; the same numbers give the same bytes."""

from __future__ import annotations

import io
import itertools
import math
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

# Okabe and Ito's palette, whose colours colour-blind readers can distinguish.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DPI = 110
_DIVERGING = "RdBu_r"
# Grey, which no score has.
_NO_SCORE = "#c8c8c8"
# What the report's page has room for, so that letters are shown as large as they are drawn.
_PAGE_INCHES = 9.0
_GROUPS_A_ROW, _MOST_GROUPS = 12, 72
_GROUPS_OF_TWO = 15  # of two bars each, in one row
# Bars side by side: hatched where colours repeat, black last.
_FILLS = tuple(itertools.product((None, "///", "..."), PALETTE))
# Of a heatmap's cell, and of one letter of a model's name above its columns.
_COLUMN_INCHES, _ROW_INCHES, _LETTER_INCHES = 0.12, 0.13, 0.08
_LINE_INCHES = 0.12  # of a line of such letters
# As many as the report's page is wide.
_COLUMNS_PER_PANEL = 58


def to_png(figure: Figure) -> bytes:
    """A figure's PNG, without the version and date that matplotlib would write into it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None}, bbox_inches="tight")
    return buffer.getvalue()


def draw_layer_curves(curves: pd.DataFrame, ylabel: str) -> bytes:
    """Score against depth, a panel per model with its spread over subjects and all other models in grey.

    A cross at the bottom marks a layer without a score.

    Parameters
    ----------
    curves : DataFrame
        Columns `model`, `depth`, `score`, `sem`.
    ylabel : str
        What the score is.
    """
    by_model = dict(list(curves.groupby("model", sort=False)))
    n_columns = min(4, len(by_model))
    n_rows = -(-len(by_model) // n_columns)
    figure = Figure(figsize=(2.1 * n_columns + 0.6, 1.6 * n_rows + 0.5), layout="constrained")
    panels = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (model, curve) in zip(panels, by_model.items(), strict=False):
        for other in by_model.values():
            axes.plot(other["depth"], other["score"], color="#cccccc", linewidth=0.7)
        x, y, sem = (curve[key].to_numpy() for key in ("depth", "score", "sem"))
        if len(x) == 1:
            axes.errorbar(x, y, sem, color=PALETTE[0], capsize=3)
        axes.fill_between(x, y - sem, y + sem, color=PALETTE[0], alpha=0.25, linewidth=0)
        axes.plot(x, y, marker="o", color=PALETTE[0], markersize=3, linewidth=1.5)
        missing = ~np.isfinite(y)
        bottom = axes.get_xaxis_transform()
        axes.plot(x[missing], np.full(missing.sum(), 0.04), "x", color="#777777", markersize=4, transform=bottom)
        axes.set_title(str(model) + (" (no score)" if missing.all() else ""), fontsize=8, loc="left")
        axes.tick_params(labelsize=7)
    for axes in panels[len(by_model) :]:
        axes.set_visible(False)
    for axes in panels[max(len(by_model) - n_columns, 0) : len(by_model)]:
        axes.tick_params(labelbottom=True)
    figure.supxlabel("depth (0 embedding, 1 last block)", fontsize=9)
    figure.supylabel(ylabel, fontsize=9)
    _strip(figure)
    return to_png(figure)


def parcel_heatmap(
    scores: pd.DataFrame, found: Mapping[str, tuple[str, str]], planted: Mapping[str, Sequence[tuple[str, str]]]
) -> bytes:
    """Scores of every parcel (row) at every model and layer (column), with what was found and planted; grey: no score.

    Parameters
    ----------
    scores : DataFrame
        Rows are parcels, columns are `(model, layer)`.
    found : mapping
        The `(model, layer)` that the training films chose, by parcel: a dot.
    planted : mapping
        The true ones, by parcel, where the study was simulated: a square.
    """
    every = [(str(pair[0]), str(pair[1])) for pair in scores.columns.to_flat_index()]
    values = scores.to_numpy(dtype=float)
    top = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 1.0
    colours = colormaps[_DIVERGING].with_extremes(bad=_NO_SCORE)
    spans = _panel_spans([model for model, _ in every])
    widest = max(stop - start for start, stop in spans)
    height = _ROW_INCHES * len(scores) + 1.1
    figure = Figure(figsize=(_COLUMN_INCHES * widest + 2.0, height * len(spans)), layout="constrained")
    panels = figure.subplots(len(spans), 1, squeeze=False)[:, 0]
    for axes, (start, stop) in zip(panels, spans, strict=True):
        columns = every[start:stop]
        image = axes.imshow(values[:, start:stop], cmap=colours, vmin=-top, vmax=top, interpolation="nearest")
        _mark_layers(axes, columns, [str(parcel) for parcel in scores.index], found, planted)
        axes.set_aspect(_ROW_INCHES / _COLUMN_INCHES)
        axes.set_xlim(-0.5, widest - 0.5)
        axes.spines[:].set_visible(False)
        axes.set_yticks(range(len(scores)), [str(parcel) for parcel in scores.index], fontsize=6)
        axes.set_xticks(range(len(columns)), [_short(layer) for _, layer in columns], fontsize=5)
        _name_models(axes, [model for model, _ in columns])
    figure.colorbar(image, ax=panels[0], shrink=0.6, pad=0.02, label="test r (all panels)")
    return to_png(figure)


def _panel_spans(models: Sequence[str]) -> list[tuple[int, int]]:
    """Columns (start, stop) of each panel of a heatmap: whole models, as many as the page is wide."""
    spans: list[tuple[int, int]] = []
    start = 0
    for _, group in itertools.groupby(models):
        stop = start + len(list(group))
        if spans and stop - spans[-1][0] <= _COLUMNS_PER_PANEL:
            spans[-1] = spans[-1][0], stop
        else:
            spans.append((start, stop))
        start = stop
    return spans


def _mark_layers(
    axes: Axes,
    columns: Sequence[tuple[str, str]],
    parcels: Sequence[str],
    found: Mapping[str, tuple[str, str]],
    planted: Mapping[str, Sequence[tuple[str, str]]],
) -> None:
    for row, parcel in enumerate(parcels):
        for source in planted.get(parcel, ()):
            if source in columns:
                axes.plot(columns.index(source), row, "s", mfc="none", mec="black", markersize=6, markeredgewidth=1.1)
        if found.get(parcel) in columns:
            axes.plot(columns.index(found[parcel]), row, "o", color="black", markersize=2)


def _name_models(axes: Axes, models: Sequence[str]) -> None:
    """Write each model's name above its columns: aslant where they are narrower, upright where names would touch."""
    spans, start = [], 0
    for model, group in itertools.groupby(models):
        spans.append((model, start, start + len(list(group))))
        start = spans[-1][2]
    slanted = any(len(model) * _LETTER_INCHES > (stop - start) * _COLUMN_INCHES for model, start, stop in spans)
    middles = [(start + stop) / 2 for _, start, stop in spans]
    near = min((b - a for a, b in itertools.pairwise(middles)), default=math.inf) * _COLUMN_INCHES
    angle = 35 if near * math.sin(math.radians(35)) > _LINE_INCHES else 90
    turned: dict[str, Any] = {"rotation": angle, "rotation_mode": "anchor", "ha": "left"}
    how = (turned | ({"va": "center"} if angle == 90 else {})) if slanted else {"ha": "center"}
    for model, start, stop in spans:
        axes.text((start + stop - 1) / 2, -1.2, model, fontsize=8, **how)
        if start:
            axes.axvline(start - 0.5, color="black", linewidth=1)


def _short(layer: str) -> str:
    return layer.removeprefix("block").lstrip("0") or "0" if layer.startswith("block") else layer[:1]


def draw_lag_curves(lags: pd.DataFrame) -> bytes:
    """Score of one single delay against that delay, a grey line per parcel and the mean of all.

    Parameters
    ----------
    lags : DataFrame
        Rows are parcels, columns are delays in TRs.
    """
    figure = Figure(figsize=(6.4, 3.2))
    axes = figure.subplots()
    for _, curve in lags.iterrows():
        axes.plot(lags.columns, curve, color="#999999", linewidth=0.7, alpha=0.7)
    axes.plot(lags.columns, lags.mean(), "o-", color=PALETTE[0], linewidth=2)
    axes.set_xlabel("single delay (TR)")
    axes.set_ylabel("R² on held-out training segments")
    _strip(figure)
    return to_png(figure)


def glass_brain(
    values: np.ndarray,
    target: np.ndarray,
    affine: np.ndarray,
    shape: Sequence[int],
    title: str,
    label: str,
    top: float | None = None,
) -> bytes:
    """A map of values on a glass brain: of those behind each other the one farthest from zero.

    Parameters
    ----------
    values : array (target,)
        NaN is left empty.
    target : array (target,)
        Flat voxel index of each value in a grid of `shape`.
    affine : array (4, 4)
        From voxel to mm.
    shape : sequence of int
        Size of the grid.
    title : str
    label : str
        What the values are, beside the colour bar.
    top : float, optional
        End of the colour scale; the largest value by default.
    """
    import matplotlib.pyplot as plt
    import nibabel as nib
    from nilearn.plotting import plot_glass_brain

    volume = np.zeros(int(np.prod(shape)), dtype=np.float32)
    volume[target] = np.nan_to_num(values)
    image = nib.Nifti1Image(volume.reshape(tuple(shape)), affine)
    largest = float(np.abs(volume).max())
    top = top or max(largest, 1e-3)
    figure = plt.figure(figsize=(9, 3))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="empty mask")  # of an empty map
        plot_glass_brain(
            image,
            figure=figure,
            axes=(0.0, 0.0, 0.88, 0.92),
            colorbar=False,
            plot_abs=False,
            cmap=_DIVERGING,
            vmin=-top,
            vmax=top,
            # Voxels without a value are zero, and only they are to stay empty.
            threshold=top * 1e-6,
        )
    figure.text(0.01, 0.93, title, fontsize=15, parse_math=False)
    colour_bar(figure, top, label, clipped=largest > top)
    png = to_png(figure)
    plt.close(figure)
    return png


def inflated_brain(sides: Sequence[np.ndarray], title: str, label: str, top: float | None = None) -> bytes:
    """A map of values on inflated hemispheres, each from the side and from the middle.

    Parameters
    ----------
    sides : two arrays (vertex,)
        Values of the left and the right hemisphere of fsaverage5; NaN is left empty.
    title : str
    label : str
        What the values are, beside the colour bar.
    top : float, optional
        End of the colour scale; the largest value by default.
    """
    import matplotlib.pyplot as plt
    from nilearn.datasets import load_fsaverage, load_fsaverage_data
    from nilearn.plotting import plot_surf_stat_map

    mesh, folds = load_fsaverage("fsaverage5")["inflated"], load_fsaverage_data("fsaverage5", data_type="sulcal")
    largest = float(np.nanmax(np.abs(np.concatenate(list(sides))), initial=0.0))
    top = top or max(largest, 1e-3)
    figure = plt.figure(figsize=(9, 3))
    views = [("left", "lateral"), ("left", "medial"), ("right", "medial"), ("right", "lateral")]
    for place, (hemi, view) in enumerate(views):
        axes = figure.add_axes((0.22 * place, 0.0, 0.22, 0.92), projection="3d")
        plot_surf_stat_map(
            mesh.parts[hemi],
            sides[hemi == "right"],
            bg_map=folds.data.parts[hemi],
            hemi=hemi,
            view=view,
            cmap=_DIVERGING,
            vmin=-top,
            vmax=top,
            colorbar=False,
            figure=figure,
            axes=axes,
        )
        axes.set_title("")
    figure.text(0.01, 0.93, title, fontsize=15, parse_math=False)
    colour_bar(figure, top, label, clipped=largest > top)
    png = to_png(figure)
    plt.close(figure)
    return png


def colour_bar(figure: Figure, top: float, label: str, *, clipped: bool = False) -> Colorbar:
    """A labelled bar of the colours from -`top` to `top`, right of a map; pointed where values are beyond.

    Parameters
    ----------
    figure : Figure
    top : float
        In the unit of `label`.
    label : str
    clipped : bool
        Whether values are beyond `top`.
    """
    scale = ScalarMappable(Normalize(-top, top), _DIVERGING)
    axes = figure.add_axes((0.91, 0.1, 0.016, 0.78))
    ends = "both" if clipped else "neither"
    bar = figure.colorbar(scale, cax=axes, label=label, extend=ends, ticks=np.linspace(-top, top, 5), format="{x:.3g}")
    # The page shows maps two by two, at half their size.
    bar.ax.tick_params(labelsize=14)
    bar.ax.yaxis.label.set_fontsize(14)
    return bar


def _strip(figure: Figure) -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)


def bars(table: pd.DataFrame, label: str, value: str, xlabel: str) -> bytes:
    """A bar per row with its standard error.

    Parameters
    ----------
    table : DataFrame
        Columns `label`, `score`, `value` and `<value>_sem`. A row without a value says so.
    label, value : str
    xlabel : str
    """
    figure = Figure(figsize=(6.4, 0.28 * len(table) + 1))
    axes = figure.subplots()
    places = np.arange(len(table))[::-1]
    axes.barh(places, table[value], xerr=table[f"{value}_sem"].fillna(0), color=PALETTE[0], alpha=0.85, capsize=2)
    for place, known, score in zip(places, table[value].notna(), table["score"].notna(), strict=True):
        if not known:
            axes.text(0, place, f" {_lacking(score)}", va="center", fontsize=7, color="#555555")
    axes.set_yticks(places, [str(name) for name in table[label]], fontsize=8)
    axes.set_xlabel(xlabel if value == "normalised" else "test r")
    _strip(figure)
    return to_png(figure)


def _lacking(has_score: bool) -> str:
    """The reason, in words, why there is no bar."""
    return "no ceiling" if has_score else "no score"


def _write_lacking(axes: Axes, place: float, *, has_score: bool) -> None:
    text = f" {_lacking(has_score)}"
    axes.text(place, 0, text, rotation=90, ha="center", va="bottom", fontsize=6, color="#555555")


def grouped_bars(
    table: pd.DataFrame, group: str, label: str, value: str, mark: str | None = None, note: str = ""
) -> bytes:
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
    return to_png(figure)


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


def residual_bars(table: pd.DataFrame, titles: Mapping[str, str]) -> bytes:
    """Scores before and after each removal, region by region, a panel per pair.

    Parameters
    ----------
    table : DataFrame
        Columns `pair`, `roi`, `measure` (`full`, `residual`), `mean`, `sem`.
    titles : Mapping of str to str
        What to write above each pair's panel.
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
    return to_png(figure)
