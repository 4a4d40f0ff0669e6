"""A feature cube at another clock: rows of other TRs, windows or fewer segments, made of those it has."""

from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from cinecube.store.base.errors import StudyError
from cinecube.store.base.fingerprint import fingerprint
from cinecube.store.clock.clock import SAME_S, covered_rows, match_onsets, step_s
from cinecube.store.clock.resampling import resampling_weights
from cinecube.store.cube.schema import string_coordinate

if TYPE_CHECKING:
    from scipy import sparse

Method = Literal["mean", "lanczos"]


def reclock(cube: xr.Dataset, rows: pd.DataFrame, window_s: float, method: Method = "mean") -> xr.Dataset:
    """Give a feature cube other rows, lazily: a layer is read when it is asked for.

    Segments are matched by label; those of the cube that `rows` lacks are left out. A row that the cube has as it
    is, same onset and same window, is taken unchanged. The fingerprint includes the clock, unless nothing changes.

    Parameters
    ----------
    cube : Dataset
        `features (time, dim, model, layer)` with `segment`, `onset_s` and `window_s` on time.
    rows : DataFrame
        `segment` and `onset_s` (s) of the rows wanted, onsets rising inside a segment.
    window_s : float
        Seconds of film that each of them covers.
    method : {"mean", "lanczos"}
        See `resampling_weights`.

    Returns
    -------
    Dataset
        The same labels but those on time.

    Raises
    ------
    StudyError
        If the cube lacks a segment or a row overlaps none of its windows.
    """
    if _has_rows(cube, rows, window_s):
        return cube
    weights = _cube_weights(cube, rows, window_s, method)
    features = cube["features"].transpose("time", ...)
    lazy = indexing.LazilyIndexedArray(_Reclocked(features.variable, weights))
    return xr.Dataset(
        {"features": (features.dims, lazy)},
        coords={
            "segment": ("time", string_coordinate(rows["segment"].to_numpy())),
            "onset_s": ("time", rows["onset_s"].to_numpy(float)),
            "window_s": ("time", np.full(len(rows), float(window_s))),
            **{name: coord.variable for name, coord in cube.coords.items() if "time" not in coord.dims},
        },
        attrs=_attrs(cube, rows, window_s, method),
    )


def segment_weights(
    method: Method, from_s: np.ndarray, from_window_s: float, to_s: np.ndarray, to_window_s: float, where: str
) -> sparse.csr_array:
    """Weights (row, window) of one segment's windows in its rows; 1 for a window that is the row itself.

    Parameters
    ----------
    method : {"mean", "lanczos"}
        See `resampling_weights`.
    from_s, to_s : ndarray
        (window,) and (row,) onsets in seconds, rising.
    from_window_s, to_window_s : float
        Seconds that each window and each row spans.
    where : str
        The segment, for messages.

    Returns
    -------
    csr_array (row, window)

    Raises
    ------
    StudyError
        If onsets do not rise or a row overlaps no window.
    """
    from scipy import sparse

    if (np.diff(to_s) <= 0).any():
        raise StudyError(where=where, found="onsets out of order", expected="rising ones", do="sort the rows")
    if are_windows(from_s, from_window_s, to_s, to_window_s):
        ones = (np.ones(len(to_s)), (np.arange(len(to_s)), match_onsets(to_s, from_s)))
        return sparse.csr_array(ones, shape=(len(to_s), len(from_s)))
    covered = covered_rows(from_s, from_window_s, to_s, to_window_s)
    if not covered.all():
        # Lanczos would make a number of the side lobes of windows elsewhere in the film.
        raise StudyError(
            where=f"{where} at {to_s[~covered][0]:.2f} s",
            found="no features",
            expected=f"a window of {from_window_s:g} s that overlaps this row",
            do="extract or add the features of the whole segment",
        )
    return resampling_weights(method, from_s, from_window_s, to_s, to_window_s)


def are_windows(from_s: np.ndarray, from_window_s: float, to_s: np.ndarray, to_window_s: float) -> bool:
    """True if every row is one of the windows, unchanged.

    Parameters
    ----------
    from_s, to_s : ndarray
        (window,) and (row,) onsets in seconds, rising.
    from_window_s, to_window_s : float
        Seconds that each window and each row spans.

    Returns
    -------
    bool
    """
    same_length = abs(from_window_s - to_window_s) <= SAME_S
    return same_length and bool((match_onsets(to_s, from_s) >= 0).all())


def _has_rows(cube: xr.Dataset, rows: pd.DataFrame, window_s: float) -> bool:
    """True if the cube has exactly these rows."""
    return (
        len(rows) == cube.sizes["time"]
        and [str(name) for name in rows["segment"]] == [str(name) for name in cube["segment"].values]
        and bool((np.abs(rows["onset_s"].to_numpy(float) - cube["onset_s"].values) <= SAME_S).all())
        and bool((np.abs(cube["window_s"].values - window_s) <= SAME_S).all())
    )


def _cube_weights(cube: xr.Dataset, rows: pd.DataFrame, window_s: float, method: Method) -> sparse.csr_array:
    """Weights (row, time of the cube) of all segments."""
    from scipy import sparse

    from_segment, from_s = string_coordinate(cube["segment"].values), cube["onset_s"].values
    to_segment, to_s = string_coordinate(rows["segment"].to_numpy()), rows["onset_s"].to_numpy(float)
    parts = []
    for segment in dict.fromkeys(to_segment):
        source, target = np.flatnonzero(from_segment == segment), np.flatnonzero(to_segment == segment)
        if not source.size:
            raise StudyError(
                where=f"segment {segment}",
                found="no rows in the feature cube",
                expected=f"one of {', '.join(dict.fromkeys(from_segment))}",
                do="use cubes that have it, or take the segment out of `films`",
            )
        from_window_s = float(cube["window_s"].values[source[0]])
        own = segment_weights(method, from_s[source], from_window_s, to_s[target], window_s, segment).tocoo()
        parts.append((own.data, target[own.coords[0]], source[own.coords[1]]))
    data, row, column = (np.concatenate(values) for values in zip(*parts, strict=True))
    return sparse.csr_array((data, (row, column)), shape=(len(rows), len(from_s)))


def _attrs(cube: xr.Dataset, rows: pd.DataFrame, window_s: float, method: Method) -> dict[str, Any]:
    """The cube's attributes with the new clock in the spec, and the fingerprint of that."""
    spec = json.loads(cube.attrs.get("spec", "{}"))
    # What differs between films is in `segments`: all else of a spec is compared between the films of a model.
    spec["segments"] = {
        str(segment): hashlib.sha256(onsets.to_numpy("<f8").round(6).tobytes()).hexdigest()
        for segment, onsets in rows.groupby("segment", sort=False)["onset_s"]
    }
    step = step_s(rows)
    spec["reclock"] = {
        "method": method,
        "tr_s": None if np.isnan(step) else round(step, 6),
        "window_s": float(window_s),
    }
    return {**cube.attrs, "spec": json.dumps(spec, sort_keys=True), "fingerprint": fingerprint(spec)}


class _Reclocked(BackendArray):
    """An array whose rows are weighted sums of another's; reads only the rows that it needs.

    Parameters
    ----------
    source : Variable
        (time, …), lazy or not.
    weights : csr_array
        (row, time).
    """

    def __init__(self, source: xr.Variable, weights: sparse.csr_array) -> None:
        self._source, self._weights = source, weights
        self.shape = (weights.shape[0], *source.shape[1:])
        self.dtype = source.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> np.ndarray:
        """Values at integers, slices or arrays of integers, one for each axis."""
        first = key[0]
        is_one = isinstance(first, int | np.integer)
        weights = self._weights[[int(first)]] if is_one else self._weights[first]
        needed = np.unique(weights.indices)
        span = slice(int(needed[0]), int(needed[-1]) + 1) if needed.size else slice(0, 0)
        others = dict(zip(self._source.dims[1:], key[1:], strict=True))
        part = self._source.isel({self._source.dims[0]: span, **others}).values
        flat = weights[:, span] @ part.reshape(len(part), math.prod(part.shape[1:]))
        values = flat.astype(self.dtype).reshape(weights.shape[0], *part.shape[1:])
        return values[0] if is_one else values
