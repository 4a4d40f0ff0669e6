"""Maps by name: what `cinecube export` writes and the report draws, one value per target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import xarray as xr

from cinecube.analysis.cubes.parcels import best_layer
from cinecube.analysis.cubes.results import open_scores, read_ceiling
from cinecube.analysis.cubes.unscored import refuse_unexplained
from cinecube.analysis.residuals.residual_tables import drop_map, mean_drop
from cinecube.analysis.statistics.comparisons import MIN_SUBJECTS
from cinecube.analysis.statistics.normalising import normalise_scores
from cinecube.store.base.errors import StudyError
from cinecube.store.base.labels import find_label, find_layer, no_such, one_of
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import open_cube, refuse_another
from cinecube.store.params.document import Study

Kind = Literal["score", "normalised", "depth", "ceiling", "drop", "q", "group_t", "group_q"]
KINDS: tuple[Kind, ...] = get_args(Kind)
EVERYBODY = "mean"


def map_values(
    study: Study,
    root: Path,
    kind: Kind,
    model: str | None = None,
    layer: int | str | None = None,
    subject: str = EVERYBODY,
) -> tuple[xr.DataArray, Mapping[str, Any]]:
    """A map and the attributes that place its targets.

    Parameters
    ----------
    study : Study
    root : Path
    kind : str
        `score`, `normalised` (by the ceiling), `depth` (preferred on the training films), `ceiling`, `drop` (percent
        that a removal costs), `q` (false discovery rate of a subject's score), `group_t` or `group_q` (of all subjects
        as a random effect: t, and its false discovery rate).
    model : str, optional
        A model, a stream of one, or a residual pair; for `drop` the pair. Not for `ceiling`.
    layer : int or str, optional
        For `score` and `normalised`; by default each target's own, chosen on the training films.
    subject : str
        `mean` for that of all subjects; a drop is that of the mean scores.

    Returns
    -------
    DataArray, dims (target,)
    Mapping
        Attributes of the cube it was read from.

    Raises
    ------
    StudyError
        If there is no such stream, layer or subject, or its cube has not been made.
    """
    if layer in study.brain.subjects:
        raise StudyError(
            where=f"map {kind}",
            found=f"the subject {layer} as `layer={layer}`",
            expected="a layer's label or block number",
            do=f"name it with `subject={layer}`",
        )
    _refuse_idle(kind, model, layer)
    if kind in ("q", "group_t", "group_q"):
        where = "results/significance.zarr"
        cube = open_cube(StudyPaths(root).significance, where=where)
        refuse_another(cube, where, "q")
        values = _of_tests(cube, kind, _needed(model, kind), subject)
        return values if kind != "q" else _pick(values, "subject", subject), cube.attrs
    attrs: Mapping[str, Any]
    if kind == "drop":
        name = study.pair(_needed(model, kind)).name
        attrs = open_scores(root, name).attrs
        if subject == EVERYBODY:
            return mean_drop(study, root, name), attrs
        values = drop_map(study, root, name)
    elif kind == "ceiling":
        values, attrs = read_ceiling(study, root), open_cube(StudyPaths(root).ceiling).attrs
    else:
        values, attrs = _of_scores(study, root, kind, _needed(model, kind), layer)
    if subject == EVERYBODY:
        return values.mean("subject", skipna=True, keep_attrs=True), attrs
    return _pick(values, "subject", subject), attrs


def _of_tests(cube: xr.Dataset, kind: Kind, stream: str, subject: str) -> xr.DataArray:
    """Values of the significance cube: (target,) of the group, or (subject, target)."""
    if (kind == "q") == (subject == EVERYBODY):
        raise StudyError(
            where=f"map {kind}",
            found=f"subject {subject}",
            expected="one subject" if kind == "q" else "all of them",
            do="name one with `subject=`, or take group_q" if kind == "q" else "leave out `subject=`, or take q",
        )
    if kind not in cube:
        raise StudyError(
            where=f"map {kind}",
            found=f"{cube.sizes['subject']} subjects",
            expected=f"{MIN_SUBJECTS} or more, in one space",
            do="take q of each subject",
        )
    values: xr.DataArray = _pick(cube[kind], "model", stream)
    return values


def _of_scores(
    study: Study, root: Path, kind: Kind, stream: str, layer: int | str | None
) -> tuple[xr.DataArray, Mapping[str, Any]]:
    own, attrs = _read_stream(study, root, stream)
    if layer is not None:
        scores = own["score"].sel(layer=find_layer(layer, list(own["layer"].values), f"map of {stream}"))
        return _by_ceiling(study, root, scores) if kind == "normalised" else scores, attrs
    return _of_stream(study, root, own, kind), attrs


def _read_stream(study: Study, root: Path, stream: str) -> tuple[xr.Dataset, Mapping[str, Any]]:
    """A stream's scores and depths in memory, dims (subject, layer, target), and its cube's attributes."""
    cube = open_scores(root, _cube_of(study, stream))
    _pick(cube["score"], "model", stream)
    paths = StudyPaths(root)
    refuse_unexplained(cube.sel(model=[stream]), paths.relative(paths.scores(_cube_of(study, stream))))
    own: xr.Dataset = _pick(cube[["score", "cv_score"]], "model", stream)
    return own.assign_coords(depth=_pick(cube["depth"], "model", stream)).load(), cube.attrs


def _of_stream(study: Study, root: Path, own: xr.Dataset, kind: Kind) -> xr.DataArray:
    """A stream's map of each subject at each target's own layer, dims (subject, target)."""
    best = best_layer(own["cv_score"])
    if kind == "depth":
        return own["depth"].isel(layer=best.clip(min=0)).drop_vars(["layer", "depth"]).where(best >= 0)
    scores = own["score"].isel(layer=best.clip(min=0)).drop_vars(["layer", "depth"]).where(best >= 0)
    return _by_ceiling(study, root, scores) if kind == "normalised" else scores


def _by_ceiling(study: Study, root: Path, scores: xr.DataArray) -> xr.DataArray:
    return normalise_scores(scores, read_ceiling(study, root), study.ceiling)["score"]


def stream_maps(study: Study, root: Path, stream: str, kinds: Sequence[Kind]) -> dict[Kind, xr.DataArray]:
    """Several maps of one stream, whose scores are read once: dims (subject, target), the mean of subjects first.

    Parameters
    ----------
    study : Study
    root : Path
    stream : str
    kinds : sequence of str
        Of `score`, `normalised`, `depth`.

    Returns
    -------
    dict of str to DataArray, dims (subject, target)
        By kind.
    """
    own, _ = _read_stream(study, root, stream)
    return {kind: with_mean(_of_stream(study, root, own, kind)) for kind in kinds}


def with_mean(values: xr.DataArray) -> xr.DataArray:
    """Maps (subject, target) after that of `EVERYBODY`, the mean of the subjects that have a value."""
    together = values.mean("subject", skipna=True).expand_dims(subject=[EVERYBODY])
    return xr.concat([together, values], "subject", coords="minimal", compat="override")


def _cube_of(study: Study, stream: str) -> str:
    """The model or pair whose score cube holds a stream."""
    return stream if stream in [pair.name for pair in study.residual] else study.owner(stream)


def _refuse_idle(kind: Kind, stream: str | None, layer: int | str | None) -> None:
    """Refuse a map that there is not, and options that the map does not use: giving them is a misunderstanding."""
    if kind not in KINDS:
        raise no_such("kind of map", kind, KINDS, "map", "name one of these")
    if layer is not None and kind not in ("score", "normalised"):
        raise StudyError(
            where=f"map {kind}",
            found=f"layer {layer}",
            expected="none: only score and normalised have one for every layer",
            do="leave out `layer=`",
        )
    if stream is not None and kind == "ceiling":
        raise StudyError(
            where="map ceiling", found=f"model {stream}", expected="none: all models share it", do="leave out `model=`"
        )


def _needed(stream: str | None, kind: Kind) -> str:
    if stream is None:
        raise StudyError(
            where=f"map {kind}", found="no model", expected="a model, a stream or a pair", do="name it with `model=`"
        )
    return stream


def _pick(values: Any, dim: str, label: str) -> Any:
    streams = [str(name) for name in values[dim].values if str(name).startswith(f"{label}.") and "-" not in str(name)]
    if dim == "model" and streams:
        raise StudyError(
            where=f"map of {label}",
            found=f"a model of {len(streams)} streams",
            expected=one_of(streams),
            do="name one of them with `model=`",
        )
    return values.isel({dim: find_label(label, values[dim].values, "map", dim)})
