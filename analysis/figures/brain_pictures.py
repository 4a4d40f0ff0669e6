"""Maps drawn on a brain: the cortex from four sides, volumes in slices, and glass where there is no mesh."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cinecube.analysis.figures.drawing import to_png
from cinecube.analysis.maps.cortex import Cortex, cortex_of
from cinecube.store.base.errors import StudyError
from cinecube.store.spaces.space import Grid, space_of

DIVERGING, SCORES = "RdBu_r", "YlOrRd"
"""Colours of differences, from red to blue through nothing, and of scores, which begin at 0."""
_VIEWS = (("left", "lateral"), ("left", "medial"), ("right", "medial"), ("right", "lateral"))
_SLICES = 7


# Of pictures on the page.
_PAGE_DPI = 110


def draw_map(values: xr.DataArray, cube_attrs: Mapping[str, Any], title: str, label: str, **how: Any) -> bytes | None:
    """A map as PNG for the page; see `map_axes`.

    Parameters
    ----------
    values : DataArray, dims (target,)
    cube_attrs : Mapping
        Attributes of the brain or score cube, which describe its space.
    title : str
    label : str
        What the values are, with their unit, beside the colour bar.
    **how
        Further arguments of `map_axes`.

    Returns
    -------
    bytes or None
        None where `map_axes` draws nothing.
    """
    axes = map_axes(values, cube_attrs, title, label, **how)
    return None if axes is None else page_png(axes)


def map_axes(
    values: xr.DataArray,
    cube_attrs: Mapping[str, Any],
    title: str,
    label: str,
    top: float | None = None,
    *,
    colours: str = DIVERGING,
    atlas: Path | None = None,
) -> Axes | None:
    """A map on the inflated cortex, or on a glass brain where volumes have no mesh.

    Parameters
    ----------
    values : DataArray, dims (target,)
    cube_attrs : Mapping
        Attributes of the brain or score cube, which describe its space.
    title : str
    label : str
        What the values are, with their unit, beside the colour bar.
    top : float, optional
        The largest value of the colour bar; that of the values without it.
    colours : str
        Of matplotlib, from 0 to `top`; those of differences from `-top`.
    atlas : Path, optional
        By which parcels are painted.

    Returns
    -------
    Axes or None
        The first of its figure; None where no target has a value, or the space has no picture.
    """
    if not np.isfinite(values.values).any():
        return None
    cortex = cortex_of(values, cube_attrs, atlas)
    if isinstance(cortex, Cortex):
        return _inflated(cortex, cortex.show(values.values), title, label, top, colours)
    grid = _grid(cube_attrs)
    return None if grid is None else _glass(values, grid, title, label, top)


def draw_slices(values: xr.DataArray, cube_attrs: Mapping[str, Any], title: str, label: str) -> bytes | None:
    """A volume in axial slices, over the template of its space where nilearn has it; None for other spaces.

    Parameters
    ----------
    values : DataArray, dims (target,)
    cube_attrs : Mapping
    title, label : str

    Returns
    -------
    bytes or None
        PNG.
    """
    from nilearn.datasets import load_mni152_template
    from nilearn.plotting import plot_stat_map

    grid = _grid(cube_attrs)
    if grid is None or not np.isfinite(values.values).any():
        return None
    figure = Figure(figsize=(9, 2.2))
    top = _top(values.values, None)
    behind = load_mni152_template(resolution=2) if grid.name.startswith("MNI") else None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="empty mask")
        plot_stat_map(
            _image(values, grid),
            bg_img=behind,
            display_mode="z",
            cut_coords=_SLICES,
            figure=figure,
            axes=(0.0, 0.0, 0.88, 0.85),
            colorbar=False,
            cmap=DIVERGING,
            vmax=top,
            vmin=-top,
            threshold=top * 1e-6,
            resampling_interpolation="nearest",
        )
    figure.text(0.01, 0.9, title, fontsize=13, parse_math=False)
    colour_bar(figure, -top, top, label, DIVERGING)
    return page_png(figure.axes[0])


def _inflated(cortex: Cortex, values: np.ndarray, title: str, label: str, top: float | None, colours: str) -> Axes:
    """Values (vertex,) on both hemispheres, each from the side and from the middle."""
    from nilearn.plotting import plot_surf_stat_map
    from nilearn.surface import InMemoryMesh

    mesh, n_left = cortex.mesh, cortex.mesh.n_left
    sides = {"left": slice(0, n_left), "right": slice(n_left, None)}
    is_left = mesh.faces[:, 0] < n_left
    faces = {"left": mesh.faces[is_left], "right": mesh.faces[~is_left] - n_left}
    largest, highest = _top(values, None), _top(values, top)
    lowest = -highest if colours == DIVERGING else 0.0
    figure = Figure(figsize=(9, 2.6))
    for place, (hemi, view) in enumerate(_VIEWS):
        axes = figure.add_axes((0.22 * place, -0.08, 0.22, 1.06), projection="3d")
        # Copied: nilearn centres what it is given in place.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="All-NaN")  # of an empty hemisphere
            plot_surf_stat_map(
                InMemoryMesh(coordinates=mesh.points_mm["inflated"][sides[hemi]].copy(), faces=faces[hemi]),
                values[sides[hemi]],
                bg_map=np.where(mesh.folds > 0, 1.0, 0.0)[sides[hemi]] * 0.25 + 0.15,
                bg_on_data=False,
                hemi=hemi,
                view=view,
                cmap=colours,
                vmin=lowest,
                vmax=highest,
                colorbar=False,
                figure=figure,
                axes=axes,
            )
        axes.set_title("")
        for triangles in axes.collections:
            # Tens of thousands of triangles are no vector graphics.
            triangles.set_rasterized(True)
            # They are placed once, although a figure is drawn to find its edges too, and for each of its files.
            triangles.do_3d_projection = cache(triangles.do_3d_projection)  # type: ignore[attr-defined]
        axes.set_box_aspect(None, zoom=1.35)  # type: ignore[call-arg]  # of 3-D axes
        figure.text(0.22 * place + 0.11, 0.02, f"{hemi[0].upper()}, {view}", fontsize=11, ha="center")
    figure.text(0.01, 0.94, title, fontsize=13, parse_math=False)
    colour_bar(figure, lowest, highest, label, colours, clipped=largest > highest)
    return figure.axes[0]


def _glass(values: xr.DataArray, grid: Grid, title: str, label: str, top: float | None) -> Axes:
    """A glass brain: of values behind each other the one farthest from zero."""
    from nilearn.plotting import plot_glass_brain

    largest, highest = _top(values.values, None), _top(values.values, top)
    figure = Figure(figsize=(9, 3))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="empty mask")  # of an empty map
        plot_glass_brain(
            _image(values, grid),
            figure=figure,
            axes=(0.0, 0.0, 0.88, 0.92),
            colorbar=False,
            plot_abs=False,
            cmap=DIVERGING,
            vmin=-highest,
            vmax=highest,
            # Voxels without a value are zero, and only they are to stay empty.
            threshold=highest * 1e-6,
        )
    figure.text(0.01, 0.93, title, fontsize=13, parse_math=False)
    colour_bar(figure, -highest, highest, label, DIVERGING, clipped=largest > highest)
    return figure.axes[0]


def _image(values: xr.DataArray, grid: Grid) -> Any:
    import nibabel as nib

    volume = np.zeros(grid.size, dtype=np.float32)
    volume[values["target"].values] = np.nan_to_num(values.values)
    return nib.Nifti1Image(volume.reshape(grid.shape), np.array(grid.affine))


def _top(values: np.ndarray, top: float | None) -> float:
    return top or max(float(np.nanmax(np.abs(values), initial=0.0)), 1e-3)


def page_png(axes: Axes) -> bytes:
    """The PNG of a picture for the report's page."""
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    return to_png(figure, _PAGE_DPI)


def colour_bar(
    figure: Figure, low: float, high: float, label: str, colours: str = DIVERGING, *, clipped: bool = False
) -> Colorbar:
    """A labelled bar of the colours from `low` to `high`, right of a map; pointed where values are beyond.

    Parameters
    ----------
    figure : Figure
    low, high : float
        In the unit of `label`.
    label : str
    colours : str
        Of matplotlib.
    clipped : bool
        Whether values are beyond them.

    Returns
    -------
    Colorbar
    """
    axes = figure.add_axes((0.91, 0.1, 0.014, 0.78))
    scale = ScalarMappable(Normalize(low, high), colours)
    # Scores may be below 0, which has the palest colour.
    ends = ("both" if clipped else "neither") if low < 0 else "both" if clipped else "min"
    every = np.asarray(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))
    ticks = every[(every >= low * (1 + 1e-9)) & (every <= high * (1 + 1e-9))]
    bar = figure.colorbar(scale, cax=axes, label=label, extend=ends, ticks=ticks, format="{x:.3g}")
    bar.ax.tick_params(labelsize=11)
    bar.ax.yaxis.label.set_fontsize(11)
    return bar


def _grid(cube_attrs: Mapping[str, Any]) -> Grid | None:
    try:
        space = space_of(cube_attrs)
    except StudyError:  # a cube written by hand, which describes none
        return None
    return space if isinstance(space, Grid) else None
