"""The page's section on the cortex: maps that a reader turns, and stills where scripts or a mesh are missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from cinecube.analysis.figures.brain_pictures import draw_slices, page_png
from cinecube.analysis.figures.paper_figures import draw_study_map
from cinecube.analysis.maps.cortex import Cortex, cortex_of
from cinecube.analysis.maps.map_values import map_values
from cinecube.analysis.report.charts import inline
from cinecube.analysis.report.cortex_data import cortex_data
from cinecube.analysis.report.sections import PageSection
from cinecube.store.params.document import Study


@dataclass(frozen=True)
class BrainMaps:
    """Maps of a study.

    Attributes
    ----------
    section : PageSection
    cortex : dict, optional
        See `cortex_data`; None where no mesh fits.
    hero : str
        Picture of the best model's scores, see `inline`; empty where there is none.
    """

    section: PageSection
    cortex: dict[str, Any] | None
    hero: str


def brain_maps(study: Study, root: Path, cubes: Sequence[xr.Dataset], best: str | None) -> BrainMaps:
    """Maps of all models, interactive where there is a mesh, and stills of the best one.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    cubes : sequence of Dataset
        Score cubes.
    best : str, optional
        Stream that the training films prefer.

    Returns
    -------
    BrainMaps
        Without data for the page's script where there is no mesh.
    """
    n_subjects = len(study.brain.subjects)
    text = (
        "Each target at the layer that the training films chose for it, where tables have one layer for a whole"
        f" parcel: their means differ a little. The mean over {n_subjects} subjects, or one of them. Colours of one"
        " measure mean the same for all models; scores below 0 have that of 0."
    )
    attrs = cubes[0].attrs
    like = cubes[0]["score"].isel(subject=0, model=0, layer=0, drop=True)
    atlas = root / study.brain.atlas if study.brain.atlas else None
    found = cortex_of(like, attrs, atlas)
    stills = {} if best is None else _stills(study, root, best)
    points = [found] if isinstance(found, str) else []
    lost = [
        str(model)
        for cube in cubes
        for model in cube["model"].values
        if not np.isfinite(cube["score"].sel(model=model).values).any()
    ]
    if lost:
        points.append(f"No map of {', '.join(lost)}: no score anywhere.")
    slices = [] if best is None else _slices(study, root, best)
    section = PageSection("brain", "Brain", text, points=points, pictures=list(stills.items()), beside=slices)
    data = cortex_data(study, root, cubes, found, best) if isinstance(found, Cortex) else None
    return BrainMaps(section, data, next(iter(stills.values()), ""))


def _stills(study: Study, root: Path, best: str) -> dict[str, str]:
    """Pictures by their captions, the best model's scores first."""
    maps = {
        f"{best}: Pearson r on the test film, mean over subjects": draw_study_map(study, root, "score", best),
        f"{best}: preferred depth (0 embedding, 1 last block), mean over subjects": draw_study_map(
            study, root, "depth", best, title=f"{best}: preferred depth"
        ),
    }
    if study.ceiling.use != "none":
        maps["The ceiling, mean over subjects"] = draw_study_map(study, root, "ceiling")
    drawn = {caption: page_png(axes) for caption, axes in maps.items() if axes is not None}
    return {caption: inline(png) for caption, png in drawn.items()}


def _slices(study: Study, root: Path, best: str) -> list[tuple[str, str]]:
    """The best model's scores in slices, of a volume."""
    png = draw_slices(*map_values(study, root, "score", best), best, "test r")
    return [] if png is None else [(f"{best}: Pearson r in slices, mean over subjects", inline(png))]
