"""Maps on a cortex as the page's script reads them: few bytes, each value within a known step of the cube's."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib import colormaps

from cinecube.analysis.cubes.parcels import regions
from cinecube.analysis.cubes.results import read_ceiling
from cinecube.analysis.figures.brain_pictures import DIVERGING, SCORES
from cinecube.analysis.maps.cortex import SURFACES, Cortex, Mesh
from cinecube.analysis.maps.map_values import EVERYBODY, Kind, stream_maps, with_mean
from cinecube.analysis.residuals.residual_tables import drop_map, mean_drop
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import open_cube, refuse_another
from cinecube.store.params.document import Study

MEASURES = {
    "score": ("Pearson r on the test film", "r", SCORES),
    "normalised": ("share of the ceiling", "share", SCORES),
    "ceiling": ("ceiling", "r", SCORES),
    "depth": ("preferred depth (0 embedding, 1 last block)", "depth", "viridis"),
    "drop": ("drop without another's part (%)", "%", DIVERGING),
    "difference": ("difference of two models' r", "r", DIVERGING),
}
"""Of each measure the words, the unit and the colours; the script takes a difference of two maps of `score`."""
_COLOURS = 256
# The most bytes of all maps together. Where two bytes a value are more, each is kept in one; where that is more, too,
# maps of single subjects are left out. The page stays below 40 MB.
_MOST_BYTES = 24 * 2**20


def cortex_data(
    study: Study, root: Path, cubes: Sequence[xr.Dataset], cortex: Cortex, best: str | None
) -> dict[str, Any]:
    """The mesh, and maps of every model, measure and subject, as JSON.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    cubes : sequence of Dataset
        Score cubes of all models.
    cortex : Cortex
        Of their targets.
    best : str, optional
        Stream that is shown first.

    Returns
    -------
    dict
        `mesh`: see `_mesh_data`; `parcels`: names, and the number of each shown target's; `maps`: by measure, name and
        subject, packed by `packed`; `pairs`: residual pairs in words, by their names; `steps`: by measure the largest
        step between two values that are kept; `onlyMeans`: whether maps of single subjects were left out.
    """
    like = cubes[0]["target"].values
    shown = np.unique(cortex.source[cortex.source >= 0])
    place = np.full(cortex.source.max(initial=-1) + 2, -1)
    place[shown] = np.arange(len(shown))
    labels = regions(cubes[0]["parcel"].values)[shown]
    names, parcel = np.unique(np.array([str(label) for label in labels]), return_inverse=True)
    found = list(_all_maps(study, root, cubes, like, shown))
    n_values = sum(values.size for _, _, _, values in found)
    wide, only_means = 2 * n_values <= _MOST_BYTES, n_values > _MOST_BYTES
    if only_means:
        found = [(measure, name, subjects[:1], values[:1]) for measure, name, subjects, values in found]
    maps: dict[str, dict[str, dict[str, Any]]] = {}
    for measure, name, subjects, values in found:
        by_subject = maps.setdefault(measure, {}).setdefault(name, {})
        for subject, own in zip(subjects, values, strict=True):
            by_subject[subject] = packed(own, wide=wide)
    steps = {
        # A map of one value is kept as it is, whatever its step is called.
        measure: max(one["step"] * (one["high"] > one["low"]) for own in by_name.values() for one in own.values())
        for measure, by_name in maps.items()
    }
    return {
        "mesh": _mesh_data(cortex.mesh),
        "place": _bytes(place[cortex.source].astype("<i4")),
        "parcels": {"names": names.tolist(), "number": _bytes(parcel.astype("<u2"))},
        "maps": maps,
        "pairs": {pair.name: pair.title for pair in study.residual},
        "steps": steps,
        "onlyMeans": only_means,
        "measures": {
            key: {"words": words, "unit": unit, "colours": name} for key, (words, unit, name) in MEASURES.items()
        },
        "colours": {name: _colours(name) for name in sorted({name for _, _, name in MEASURES.values()})},
        "best": best,
    }


def _all_maps(
    study: Study, root: Path, cubes: Sequence[xr.Dataset], like: np.ndarray, shown: np.ndarray
) -> Iterator[tuple[str, str, list[str], np.ndarray]]:
    """Measure, name, subjects and values (subject, shown target); the mean over subjects first."""
    streams = [str(model) for cube in cubes for model in cube["model"].values]
    kinds: list[Kind] = ["score", "depth"] if study.ceiling.use == "none" else ["score", "depth", "normalised"]
    found: list[tuple[str, str, xr.DataArray]] = []
    for stream in streams:
        found += [(kind, stream, values) for kind, values in stream_maps(study, root, stream, kinds).items()]
    if study.ceiling.use != "none":
        found.append(("ceiling", "", with_mean(read_ceiling(study, root))))
    for pair in study.residual:
        # A drop of all is that of their mean scores.
        together = mean_drop(study, root, pair.name).expand_dims(subject=[EVERYBODY])
        each = drop_map(study, root, pair.name)
        both = xr.concat([together, each], "subject", coords="minimal", compat="override", join="exact")
        found.append(("drop", pair.name, both))
    for kind, name, values in found:
        aligned = values.reindex(target=like).transpose("subject", "target")
        if np.isfinite(aligned.values).any():
            yield kind, name, list(map(str, aligned["subject"].values)), aligned.values[:, shown]
    yield from _above_chance(study, root, like, shown)


def _above_chance(
    study: Study, root: Path, like: np.ndarray, shown: np.ndarray
) -> Iterator[tuple[str, str, list[str], np.ndarray]]:
    """Scores above chance by permutations or not, 1, 0, or NaN; the mean's is that of most subjects."""
    paths = StudyPaths(root)
    where = paths.relative(paths.significance)
    cube = open_cube(paths.significance, where=where)
    refuse_another(cube, where, "q")
    for model in map(str, cube["model"].values):
        q = cube["q"].sel(model=model).load().reindex(target=like).transpose("subject", "target")
        own = q.isel(target=shown)
        above = (own <= study.statistics.fdr).where(own.notnull())
        share = above.mean("subject")
        below = np.vstack([(share > 0.5).where(share.notnull()).values, above.values])
        yield "significant", model, [EVERYBODY, *map(str, own["subject"].values)], below


def packed(values: np.ndarray, *, wide: bool) -> dict[str, Any]:
    """Values as whole numbers of a step, compressed; 0 is NaN.

    Parameters
    ----------
    values : array (target,)
    wide : bool
        Two bytes a value instead of one.

    Returns
    -------
    dict
        `z`: gzip of the numbers, little-endian, as base64; value = `low` + (number - 1) · `step`; `high`.
    """
    kind, levels = ("<u2", 65534) if wide else ("u1", 254)
    known = np.isfinite(values)
    low, high = (float(values[known].min()), float(values[known].max())) if known.any() else (0.0, 0.0)
    step = (high - low) / levels or 1.0
    numbers = np.where(known, np.rint((np.where(known, values, low) - low) / step) + 1, 0)
    return {"z": _bytes(numbers.astype(kind)), "wide": wide, "low": low, "high": high, "step": step}


def _mesh_data(mesh: Mesh) -> dict[str, Any]:
    """Points in steps of a hundredth of a millimetre, triangles, and folds in 255 steps from gyrus to sulcus."""
    folds = np.clip((mesh.folds + 1.5) / 3, 0, 1) * 255
    return {
        "name": mesh.name,
        "left": mesh.n_left,
        "points": {name: _bytes(np.rint(mesh.points_mm[name] * _PER_MM[name]).astype("<i2")) for name in SURFACES},
        "perMm": _PER_MM,
        "faces": _bytes(mesh.faces.astype("<u2")),
        "flatFaces": _bytes(mesh.flat_faces.astype("<u2")),
        "folds": _bytes(folds.astype("u1")),
    }


# Flat surfaces are up to half a metre wide.
_PER_MM = {"pial": 100, "inflated": 100, "flat": 50}


def _bytes(array: np.ndarray) -> str:
    # Without a date, so that the same maps are the same bytes.
    return base64.b64encode(gzip.compress(array.tobytes(), 6, mtime=0)).decode("ascii")


def _colours(name: str) -> list[int]:
    """Red, green and blue of a colour map, 0 to 255, one after another."""
    return np.rint(colormaps[name](np.linspace(0, 1, _COLOURS))[:, :3] * 255).astype(int).ravel().tolist()
