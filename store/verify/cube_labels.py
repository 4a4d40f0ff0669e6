"""Checks of a cube's labels and attributes, kind by kind, and against its spec."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from cinecube.store.base.errors import StudyError, some_of
from cinecube.store.base.fingerprint import fingerprint
from cinecube.store.base.labels import layer_label, layer_number
from cinecube.store.cube.schema import DIMS, ON_PLACES, ON_TARGET
from cinecube.store.spaces.space import Parcels, space_of
from cinecube.store.verify.cube_files import ROOT, Fault, Stored

Axes = tuple[str, ...]


@dataclass(frozen=True)
class Form:
    """Minimal contents of a kind of cube.

    Attributes
    ----------
    data : mapping
        Variable -> its axes; all of them floats.
    labels : mapping
        Coordinate -> its axes, and `text`, `float` or `int`.
    attrs : tuple of str
    """

    data: Mapping[str, Axes] = field(default_factory=dict)
    labels: Mapping[str, tuple[Axes, str]] = field(default_factory=dict)
    attrs: Axes = ()


NO_CHECKSUMS = "chunks without checksums (crc32c)"
_ROWS = {"segment": (("time",), "text"), "onset_s": (("time",), "float")}
_OF_LAYERS = ("model", "layer")
_STREAMS = {"model": (("model",), "text"), "layer": (("layer",), "text"), "depth": (_OF_LAYERS, "float")}
_TARGETS = {"target": (("target",), "int")} | {
    name: (("target",), "float" if name.endswith("_mm") else "text") for name in ON_TARGET
}
_SUBJECTS = {"subject": (("subject",), "text")} | _TARGETS
_OF_MODELS = ("subject", "model", "target")
_CROSS = ("cross_subject", "cross_subject_low", "cross_subject_high")
_REPEATS = ("repeats", "repeats_low", "repeats_high", "explainable_variance", "split_half")

FORMS = {
    "features": Form(
        {"features": DIMS["features"]},
        {
            **_ROWS,
            "window_s": (("time",), "float"),
            "dim": (("dim",), "int"),
            **_STREAMS,
            "width": (_OF_LAYERS, "int"),
        },
    ),
    "brain": Form(
        {"bold": DIMS["bold"]},
        {**_ROWS, "repeat": (("time",), "int"), "session": (("time",), "text"), **_TARGETS},
        ("space", "tr_s", "targets"),  # surfaces have no affine and shape
    ),
    "scores": Form(
        dict.fromkeys(("score", "cv_score", "alpha"), DIMS["score"])
        | {"lag_score": ("subject", "model", "lag", "target")},
        {**_STREAMS, "lag": (("lag",), "int"), **_SUBJECTS},
        ("space", "tr_s"),
    ),
    "predictions": Form(
        {"predicted": DIMS["predicted"], "measured": ("subject", "time", "parcel")},
        {**_ROWS, "layer": (("subject", "model", "parcel"), "text"), "parcel": (("parcel",), "text")},
        ("tr_s",),
    ),
    "weights": Form(
        {"weights": DIMS["weights"], **dict.fromkeys(("mean", "spread"), ("subject", "model", "dim"))},
        {
            "model": (("model",), "text"),
            "layer": (("model",), "text"),
            "width": (("model",), "int"),
            "delay": (("delay",), "int"),
            "dim": (("dim",), "int"),
            **_SUBJECTS,
        },
        ("space", "tr_s", "features"),
    ),
    "ceiling": Form(
        dict.fromkeys((*_CROSS, *_REPEATS), ("subject", "target"))
        | {"cross_subject_score": ("subject", "size", "target")},
        {"size": (("size",), "int"), **_SUBJECTS},
        ("space", "tr_s"),
    ),
    "significance": Form(
        dict.fromkeys(("score", "p", "q"), _OF_MODELS),
        {"model": (("model",), "text"), **_SUBJECTS},
        ("space", "block_rows"),
    ),
    # A study without sets has an empty one.
    "partition": Form(),
}
_EVERY = ("kind", "spec", "fingerprint", "created_by")


@dataclass(frozen=True)
class Labels:
    """Labels and attributes of a cube, as far as they can be read.

    Parameters
    ----------
    attrs : dict
    arrays : mapping
        Every array that can be opened.
    values : mapping
        Those of the labels that are whole.
    """

    attrs: dict[str, Any]
    arrays: Mapping[str, Stored]
    values: Mapping[str, np.ndarray]

    def problem(self, name: str, text: str) -> Fault:
        """Fault in the values of a label, in words.

        Parameters
        ----------
        name : str
            The label's array.
        text : str

        Returns
        -------
        Fault
            It names the array's files.
        """
        return Fault(f"{name}: {text}", tuple(self.arrays[name].files()))

    def texts(self, name: str) -> list[str] | None:
        """Values of a label as text, if they can be read."""
        return [str(value) for value in self.values[name]] if name in self.values else None


def check_labels(labels: Labels, lost: frozenset[str]) -> list[Fault]:
    """Everything wrong with labels and attributes.

    Parameters
    ----------
    labels : Labels
    lost : frozenset of str
        Arrays that were told to be damaged or missing already.

    Returns
    -------
    list of Fault
    """
    problems = [Fault(f"no attribute {name}", (ROOT,)) for name in _EVERY if name not in labels.attrs]
    problems += [*_kind_problems(labels, lost), *_axis_problems(labels)]
    if {"onset_s", "segment"} <= labels.values.keys():
        problems += _row_problems(labels)
    if {"model", "layer"} <= labels.values.keys():
        problems += _layer_problems(labels)
    return [*problems, *_spec_problems(labels)]


def _kind_problems(labels: Labels, lost: frozenset[str]) -> Iterator[Fault]:
    kind = labels.attrs.get("kind")
    if kind is None:
        return
    if not isinstance(kind, str) or kind not in FORMS:
        yield Fault(f"kind {kind!r}, expected one of {', '.join(FORMS)}", (ROOT,))
        return
    form = FORMS[kind]
    yield from (Fault(f"no attribute {name}", (ROOT,)) for name in form.attrs if name not in labels.attrs)
    wanted = {name: (axes, "float") for name, axes in form.data.items()} | dict(form.labels)
    for name, (axes, type_) in wanted.items():
        stored = labels.arrays.get(name)
        if stored is None:
            if name not in lost:
                noun = "coordinate" if name in form.labels else "variable"
                yield Fault(f"no {noun} {name}", (f"{name}/{ROOT}",))
        elif stored.dims != axes:
            yield Fault(f"{name}: axes {_listed(stored.dims)}, expected {_listed(axes)}", (f"{name}/{ROOT}", ROOT))
        elif stored.kind != type_:
            yield Fault(f"{name}: values of type {stored.array.dtype}, expected {type_}", (f"{name}/{ROOT}", ROOT))
    beside = {name for name, (axes, _) in form.labels.items() if axes != (name,)}
    if unnamed := sorted((beside & labels.arrays.keys()) - _coordinates(labels)):
        yield Fault(f"{ROOT} does not list {', '.join(unnamed)} among the coordinates", (ROOT,))
    if kind == "brain" or "place" in labels.attrs:
        yield from _place_problems(labels)


def _place_problems(labels: Labels) -> Iterator[Fault]:
    """Targets against the space that the attributes describe."""
    try:
        space = space_of(labels.attrs)
    except StudyError as error:
        yield Fault(error.found, (ROOT,))
        return
    target = labels.values.get("target")
    if isinstance(space, Parcels) or target is None or target.dtype.kind not in "iu" or not target.size:
        return
    if target.min() < 0 or target.max() >= space.size:
        yield labels.problem("target", f"{target.min()} to {target.max()}, where {space.name} has {space.size} places")
    for name in ON_PLACES:
        stored, type_ = labels.arrays.get(name), "text" if name == "structure" else "int"
        if stored is not None and (stored.dims, stored.kind) != (("target",), type_):
            text = f"{name}: {stored.kind} along {_listed(stored.dims)}, expected {type_} along (target)"
            yield Fault(text, (f"{name}/{ROOT}", ROOT))


def _listed(axes: Axes) -> str:
    return f"({', '.join(axes)})"


def _coordinates(labels: Labels) -> set[str]:
    """Names of coordinates that are no axes, as xarray notes them."""
    every = (labels.attrs, *(stored.array.attrs for stored in labels.arrays.values()))
    return {name for attrs in every for name in str(attrs.get("coordinates", "")).split()}


def _axis_problems(labels: Labels) -> Iterator[Fault]:
    sizes: dict[str, int] = {}
    for name, stored in sorted(labels.arrays.items(), key=lambda item: (item[1].dims != (item[0],), item[0])):
        if not stored.has_checksums:
            yield Fault(f"{name}: {NO_CHECKSUMS}", (f"{name}/{ROOT}", ROOT))
        if len(stored.dims) != stored.array.ndim:
            yield Fault(f"{name}: axes without names", (f"{name}/{ROOT}", ROOT))
            continue
        for dim, size in zip(stored.dims, stored.array.shape, strict=True):
            if sizes.setdefault(dim, size) != size:
                text = f"{name}: {size} along {dim}, where other arrays have {sizes[dim]}"
                yield Fault(text, (f"{name}/{ROOT}", ROOT))
    for name, values in labels.values.items():
        if labels.arrays[name].dims != (name,):
            continue
        if name == "dim" and not np.array_equal(values, np.arange(len(values))):
            yield labels.problem(name, "not 0, 1, 2, …")
        elif len(set(values.tolist())) < len(values):
            doubled = Counter(map(str, values)).most_common(1)[0][0]
            yield labels.problem(name, f"{doubled} more than once")
        if values.dtype.kind in "TOU" and any(not str(value).strip() for value in values):
            yield labels.problem(name, "a label without a name")


def _row_problems(labels: Labels) -> Iterator[Fault]:
    segments, onsets_s = labels.texts("segment") or [], labels.values["onset_s"]
    rows = pd.DataFrame({"segment": pd.Series(segments, dtype=object)})
    repeat = labels.values.get("repeat")
    if onsets_s.shape != (len(rows),) or onsets_s.dtype.kind != "f":
        return
    rows["onset_s"] = onsets_s
    if repeat is not None and repeat.shape == onsets_s.shape:
        rows["repeat"] = repeat
        if (repeat < 1).any():
            yield labels.problem("repeat", "repeats below 1, the first showing")
    if blank := sum(not name.strip() for name in segments):
        yield labels.problem("segment", f"{blank} rows without a segment")
    if bad := int((~np.isfinite(onsets_s) | (onsets_s < 0)).sum()):
        yield labels.problem("onset_s", f"{bad} onsets that are negative, NaN or infinite")
    window_s = labels.values.get("window_s")
    if window_s is not None and (bad := int((~(np.isfinite(window_s) & (window_s > 0))).sum())):
        yield labels.problem("window_s", f"{bad} windows that are not longer than 0 s")
    for name, run in rows.groupby([key for key in ("segment", "repeat") if key in rows], sort=False):
        yield from _run_problems(labels, " ".join(str(part) for part in name), run)


def _run_problems(labels: Labels, name: str, run: pd.DataFrame) -> Iterator[Fault]:
    """One segment, shown once."""
    stuck = np.flatnonzero(np.diff(run["onset_s"].to_numpy()) <= 0)
    if stuck.size:
        row = int(run.index.to_numpy()[stuck[0] + 1])
        yield labels.problem("onset_s", f"onsets overlap or are out of order in {name} at row {row}")
    if len(run) != run.index.max() - run.index.min() + 1:
        yield labels.problem("segment", f"rows of {name} are not together")


def _layer_problems(labels: Labels) -> Iterator[Fault]:
    layers = labels.texts("layer") or []
    shape = (len(labels.values["model"]), len(layers))
    if labels.arrays["layer"].dims == ("layer",):
        yield from _order_problems(labels, layers)
    depth, width = (labels.values.get(name) for name in ("depth", "width"))
    if width is not None and width.shape == shape and width.dtype.kind in "iu":
        yield from _width_problems(labels, width)
    if depth is None or depth.shape != shape or depth.dtype.kind != "f":
        return
    real = width > 0 if width is not None and width.shape == shape else ~np.isnan(depth)
    for m, k in np.argwhere(real & ~((depth >= 0) & (depth <= 1))):
        where = f"{labels.values['model'][m]} {layers[k]}"
        yield labels.problem("depth", f"{depth[m, k]:g} for {where}, expected 0 to 1")
    if not np.isnan(depth[~real]).all():
        yield labels.problem("depth", "a number for a layer without width, expected NaN")


def _order_problems(labels: Labels, layers: list[str]) -> Iterator[Fault]:
    def depth(label: str) -> tuple[float, str]:
        number = layer_number(label)
        return (np.inf if number is None else number, label)

    for label in layers:
        number = layer_number(label)
        known = layer_label(number) == label if number is not None else not re.fullmatch(r"(?i)embed|block.?\d*", label)
        if not known:
            yield labels.problem("layer", f"{label!r} is no layer; embed, block01, block02, … or a head")
    if layers != sorted(layers, key=depth):
        yield labels.problem("layer", f"layers out of order: {', '.join(layers)}")


def _width_problems(labels: Labels, width: np.ndarray) -> Iterator[Fault]:
    features = labels.arrays.get("features")
    if features is None or features.dims != DIMS["features"]:
        return
    n_dims = features.array.shape[1]
    for m, k in np.argwhere((width < 0) | (width > n_dims)):
        where = f"{labels.values['model'][m]} {labels.values['layer'][k]}"
        yield labels.problem("width", f"{width[m, k]} for {where}, expected 0 to {n_dims}")
    if width.size and width.max() < n_dims:
        yield labels.problem("width", f"at most {width.max()}, where features have {n_dims} dims")


def _spec_problems(labels: Labels) -> Iterator[Fault]:
    for name in ("spec", "created_by"):
        if name in labels.attrs and _object(labels.attrs[name]) is None:
            yield Fault(f"{name} is no JSON object", (ROOT,))
    spec, stated = _object(labels.attrs.get("spec")), labels.attrs.get("fingerprint")
    if spec is None:
        return
    try:
        real = fingerprint(spec)
    except ValueError:  # NaN, which JSON does not know and Python reads
        yield Fault("spec holds NaN or infinity", (ROOT,))
        return
    if stated is not None and real != stated:
        yield Fault(f"fingerprint {str(stated)[:12]} does not match its spec ({real[:12]})", (ROOT,))
    if "kind" in spec and spec["kind"] != labels.attrs.get("kind"):
        yield Fault(f"kind {labels.attrs.get('kind')!r}, its spec says {spec['kind']!r}", (ROOT,))
    if labels.attrs.get("kind") == "features":
        yield from _contradictions(labels, spec)


def _contradictions(labels: Labels, spec: dict[str, Any]) -> Iterator[Fault]:
    """Labels of a feature cube against the fields that specs of networks, of added features and of residuals share."""
    features, layers, width = labels.arrays.get("features"), labels.texts("layer"), labels.values.get("width")
    stated = spec.get("dtype")
    if features is not None and isinstance(stated, str) and str(features.array.dtype) != stated:
        text = f"features: values of type {features.array.dtype}, its spec says {stated}"
        yield Fault(text, (f"features/{ROOT}", ROOT))
    stated = spec.get("layers")
    if layers is not None and isinstance(stated, list | dict) and set(layers) != set(map(str, stated)):
        strange = sorted(set(layers) ^ set(map(str, stated)))
        yield labels.problem("layer", f"{some_of(strange, 3)} in the labels or the spec, not in both")
    elif layers is not None and isinstance(stated, dict) and width is not None and width.shape[1:] == (len(layers),):
        wrong = [label for k, label in enumerate(layers) if width[:, k].max() != stated[label]]
        if wrong:
            yield labels.problem("width", f"{some_of(wrong, 3)}: not the {stated[wrong[0]]} dims of its spec")
    stated, segments = spec.get("segments"), list(dict.fromkeys(labels.texts("segment") or []))
    if "segment" not in labels.values or not isinstance(stated, list | dict):
        return
    # A mapping has no order: its JSON is sorted.
    if segments != stated if isinstance(stated, list) else set(segments) != set(stated):
        told = some_of([str(name) for name in stated], 3)
        yield labels.problem("segment", f"{some_of(segments, 3)}, its spec says {told}")


def _object(text: Any) -> dict[str, Any] | None:
    try:
        found = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
