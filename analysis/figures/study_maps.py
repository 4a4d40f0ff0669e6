"""Maps of a study by name, drawn as the report draws them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes

from cinecube.analysis.figures.brain_pictures import DIVERGING, SCORES, map_axes
from cinecube.analysis.maps.map_values import EVERYBODY, Kind, map_values
from cinecube.store.params.document import Study


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
    stream: str | None = None,
    layer: str | None = None,
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
    kind, stream, layer, subject
        As `map_values` takes them.
    title : str, optional
        The stream, or the kind of map, without it.

    Returns
    -------
    Axes or None
        The first of its figure; None where no target has a value, or the space has no picture.
    """
    values, attrs = map_values(study, root, kind, stream, layer, subject)
    atlas, look = root / study.brain.atlas if study.brain.atlas else None, _LOOKS[kind]
    named = stream or kind if title is None else title
    return map_axes(values, attrs, named, look.label, top=look.top, colours=look.colours, atlas=atlas)
