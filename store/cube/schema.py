"""Axes, coordinates and attributes of each kind of cube."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from cinecube.store.base.errors import StudyError
from cinecube.store.base.fingerprint import fingerprint
from cinecube.store.base.labels import layer_depth, layer_number

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

SCHEMA = 1
ROWS_PER_CHUNK = 512
TARGETS_PER_SHARD = 4096

DIMS = {
    "features": ("time", "dim", "model", "layer"),
    "bold": ("time", "target"),
    "score": ("subject", "model", "layer", "target"),
    "predicted": ("subject", "model", "time", "parcel"),
    "weights": ("subject", "model", "target", "delay", "dim"),
}

ON_TARGET = ("hemi", "parcel", "x_mm", "y_mm", "z_mm")
"""Labels that every target has beside its number."""

ON_PLACES = ("structure", "vertex", "i", "j", "k")
"""Further labels of targets that are grayordinates: where their rows lie, -1 for a vertex or voxel that they lack."""


def stored_rows(n_rows: int) -> int:
    """Rows that a shard takes room for: whole chunks of them."""
    return math.ceil(n_rows / ROWS_PER_CHUNK) * ROWS_PER_CHUNK


def main_variable(variables: Any, data: Any) -> str:
    """A cube's main variable: one of `DIMS`, else the first of its `data`; "" if it has none.

    Parameters
    ----------
    variables : container of str
        All variables, coordinates too.
    data : iterable of str
        Those that are no coordinates.

    Returns
    -------
    str
    """
    return next((name for name in (*DIMS, *sorted(map(str, data))) if name in variables), "")


def shard_key(model: int, layer: int) -> str:
    """Key of the shard in which a feature cube keeps one layer of one model, both by position.

    Parameters
    ----------
    model, layer : int
        Positions on their axes.

    Returns
    -------
    str
    """
    return f"features/c/0/0/{model}/{layer}"


def refuse_unknown(schema: Any, where: str) -> None:
    """Refuse a cube of a schema that this package does not read.

    Parameters
    ----------
    schema
        The cube's attribute, of whatever type it is.
    where : str
        What messages call the cube.

    Raises
    ------
    StudyError
        If it is newer, or no schema.
    """
    if isinstance(schema, int) and not isinstance(schema, bool) and 1 <= schema <= SCHEMA:
        return
    newer = isinstance(schema, int | float) and schema > SCHEMA
    raise StudyError(
        where=where,
        found=f"schema {schema}",
        expected=f"schema {SCHEMA} or older",
        do="update cinecube" if newer else "use a cube written by cinecube",
    )


@dataclass(frozen=True)
class Stream:
    """One label of the `model` axis: a network, or one of the outputs a network gives in one pass.

    Attributes
    ----------
    name : str
        The label: `vit`, `imagebind.video`.
    layers : sequence of str
        Layers that the stream has, in order.
    widths : sequence of int
        How many dims each of them has.
    n_blocks : int, optional
        Blocks of the network that gives it, if not all of them are among the layers.
    """

    name: str
    layers: Sequence[str]
    widths: Sequence[int]
    n_blocks: int | None = None

    @property
    def deepest(self) -> int:
        """Number of the last block, by which depth is counted; 1 for a stream of heads alone."""
        return self.n_blocks or max((layer_number(label) or 0 for label in self.layers), default=0) or 1


def rows_index(rows_by_segment: Mapping[str, Sequence[float] | np.ndarray]) -> pd.DataFrame:
    """Columns `segment` and `onset_s` of the rows of several segments, one after another."""
    import pandas as pd

    parts = [
        pd.DataFrame(
            {
                "segment": pd.Series([segment] * len(onsets), dtype=object),
                "onset_s": np.asarray(onsets, float),
            }
        )
        for segment, onsets in rows_by_segment.items()
    ]
    return pd.concat(parts, ignore_index=True)


def string_coordinate(values: Sequence[str] | np.ndarray) -> np.ndarray:
    """Labels as objects: numpy's fixed-width strings have no Zarr v3 specification."""
    return np.array([str(value) for value in values], dtype=object)


def feature_template(
    rows: pd.DataFrame,
    window_s: float,
    streams: Sequence[Stream],
    dtype: str,
    attrs: Mapping[str, Any],
) -> xr.Dataset:
    """An empty feature cube: every label, no value.

    Parameters
    ----------
    rows : DataFrame
        Columns `segment` and `onset_s`, one row per window.
    window_s : float
        Seconds of film that a row sees.
    streams : sequence of Stream
        Labels of the `model` axis with their layers.
    dtype : str
        `float32` or `float16`.
    attrs : Mapping
        Attributes of the cube, see `provenance`.

    Returns
    -------
    Dataset
        `features (time, dim, model, layer)`, a placeholder of NaN without memory.
    """
    import xarray as xr

    layers = merged_layers(streams)
    width = np.zeros((len(streams), len(layers)), dtype=np.int32)
    depth = np.full(width.shape, np.nan)
    for m, stream in enumerate(streams):
        for label, dims in zip(stream.layers, stream.widths, strict=True):
            width[m, layers.index(label)] = dims
            depth[m, layers.index(label)] = layer_depth(label, stream.deepest)
    shape = (len(rows), int(width.max()), len(streams), len(layers))
    # One NaN, broadcast: a placeholder of any size costs nothing.
    values = np.broadcast_to(np.array(np.nan, dtype=dtype), shape)
    return xr.Dataset(
        {"features": (DIMS["features"], values)},
        coords={
            "segment": ("time", string_coordinate(rows["segment"].to_numpy())),
            "onset_s": ("time", rows["onset_s"].to_numpy(float)),
            "window_s": ("time", np.full(len(rows), window_s)),
            "dim": np.arange(shape[1], dtype=np.int32),
            "model": string_coordinate([stream.name for stream in streams]),
            "layer": string_coordinate(layers),
            "depth": (("model", "layer"), depth),
            "width": (("model", "layer"), width),
        },
        attrs=dict(sorted(attrs.items())),
    )


def merged_layers(streams: Sequence[Stream]) -> list[str]:
    """Layers of all streams in order of depth: embed, blocks by number, then heads."""
    labels = {label for stream in streams for label in stream.layers}

    def depth(label: str) -> tuple[float, str]:
        number = layer_number(label)
        return (float("inf") if number is None else number, label)

    return sorted(labels, key=depth)


def provenance(kind: str, spec: Mapping[str, Any], packages: Sequence[str], **more: Any) -> dict[str, Any]:
    """Attributes every cube carries: schema, kind, spec, fingerprint and versions; no dates, no hosts.

    Parameters
    ----------
    kind : str
        `features`, `bold`, `score` and so on.
    spec : Mapping
        What the fingerprint hashes.
    packages : sequence of str
        Packages beside this one whose versions are recorded.
    **more
        Attributes of this kind of cube.

    Returns
    -------
    dict
        Attribute -> value.
    """
    versions = {"python": ".".join(platform.python_version_tuple()[:2])}
    for package in ("cinecube", *packages):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "schema": SCHEMA,
        "kind": kind,
        "spec": json.dumps(spec, sort_keys=True),
        "fingerprint": fingerprint(spec),
        "created_by": json.dumps(versions, sort_keys=True),
        **more,
    }
