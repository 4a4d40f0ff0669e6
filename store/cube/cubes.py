"""Cubes on disk: writing template first and then whole shards, reading what is whole."""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from stat import S_ISREG
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.abc.store import Store
from zarr.codecs import Crc32cCodec
from zarr.storage import LocalStore

from cinecube.store.base.atomic import old_of, staged
from cinecube.store.base.errors import Refusal, StudyError, environment_error, first_line, some_of
from cinecube.store.cube.checksums import RESTORE, write_checksums
from cinecube.store.cube.guarded import folder_number, open_guarded
from cinecube.store.cube.plain_zarr import plain
from cinecube.store.cube.plainness import refuse_no_group
from cinecube.store.cube.schema import (
    DIMS,
    ROWS_PER_CHUNK,
    TARGETS_PER_SHARD,
    main_variable,
    refuse_unknown,
    shard_key,
    stored_rows,
)
from cinecube.store.cube.shards import RowShardFiles

# Below this, splitting the dim axis into chunks costs more in index than absent NaN saves.
_MIN_DIMS_PER_CHUNK = 64
_MIB = 2**20
# Metadata without blanks: half the bytes that opening a cube moves from a remote.
_COMPACT = {"json_indent": None}

# Seconds that a reader waits for a cube that is being replaced.
_WAITS_S = (0.001, 0.01, 0.1, 0.2)

LayerReader = Callable[[int, int], np.ndarray]


def write_feature_cube(path: Path, template: xr.Dataset, read_layer: LayerReader) -> None:
    """Write a feature cube shard by shard: the labels first, then one layer after another.

    Parameters
    ----------
    path : Path
        Where the whole cube is put at the end.
    template : Dataset
        From `feature_template`.
    read_layer : callable
        `(model index, layer index) -> (time, width)`, called once per layer that exists.

    Raises
    ------
    StudyError
        If a layer holds NaN or infinity inside its width; nothing is published then.
    """
    n_rows = template.sizes["time"]
    widths = template["width"].values
    with staged(path) as partial, zarr.config.set(_COMPACT):
        _write(template.drop_vars("features"), partial, {})
        array = _create_features(partial, template)
        for m, k in np.argwhere(widths > 0):
            values = read_layer(int(m), int(k))
            if not np.isfinite(values).all():
                raise StudyError(
                    where=f"{path.name} {template['model'].values[m]} {template['layer'].values[k]}",
                    found=f"{int((~np.isfinite(values)).sum())} values that are NaN or infinite",
                    expected="finite features",
                    do="check the checkpoint, or use dtype float32",
                )
            whole = np.full((n_rows, template.sizes["dim"]), np.nan, dtype=array.dtype)
            whole[:, : values.shape[1]] = values
            array[:, :, int(m), int(k)] = whole
        _consolidate(partial)


def _create_features(path: Path, template: xr.Dataset) -> zarr.Array[Any]:
    """The empty array of a feature cube: a shard per layer, in chunks of rows."""
    shape = template["features"].shape
    dim_chunk = _dims_per_chunk(template["width"].values, shape[1])
    return zarr.open_group(path, mode="r+", use_consolidated=False).create_array(
        "features",
        shape=shape,
        dtype=template["features"].dtype,
        chunks=(ROWS_PER_CHUNK, dim_chunk, 1, 1),
        shards=(stored_rows(shape[0]), math.ceil(shape[1] / dim_chunk) * dim_chunk, 1, 1),
        compressors=[Crc32cCodec()],
        fill_value=np.nan,
        dimension_names=DIMS["features"],
    )


def write_cube(path: Path, cube: xr.Dataset) -> None:
    """Write a brain or score cube whole.

    Responses (time, target) are stored as all rows of a block of targets to a shard, since that is what an encoder
    reads. Chunks of scores hold as many subjects, and models, as make a MiB: folders and files of each of them cost DVC
    more than their bytes.

    Parameters
    ----------
    path : Path
        The cube's folder.
    cube : Dataset
        `bold (time, target)`, or `score (subject, model, layer, target)` and more; may be lazy.
    """
    encoding = _encoding(cube)
    # Lazy values by what is one file: two tasks that write parts of one lose data.
    lazy = {name: values for name, values in cube.data_vars.items() if values.chunks is not None}
    files = {name: encoding[str(name)].get("shards") or encoding[str(name)]["chunks"] for name in lazy}
    aligned = {name: values.chunk(dict(zip(values.dims, files[name], strict=True))) for name, values in lazy.items()}
    with staged(path) as partial, zarr.config.set(_COMPACT):
        _write(cube.assign(aligned), partial, encoding)
        _consolidate(partial)


def write_responses(path: Path, labels: xr.Dataset, responses: RowShardFiles) -> None:
    """Write a brain cube, as `write_cube` does, whose responses are in files already.

    Parameters
    ----------
    path : Path
        The cube's folder.
    labels : Dataset
        The cube without `bold`.
    responses : RowShardFiles
        All rows of `bold (time, target)`; its files are moved.
    """
    import dask.array as da

    shape = labels.sizes["time"], labels.sizes["target"]
    cube = labels.assign(bold=(DIMS["bold"], da.zeros(shape, dtype=np.float32, chunks=(shape[0], TARGETS_PER_SHARD))))
    with staged(path) as partial, zarr.config.set(_COMPACT):
        _write(cube, partial, _encoding(cube), compute=False)
        responses.move(partial / "bold/c/0")
        _consolidate(partial)


def _encoding(cube: xr.Dataset) -> dict[str, dict[str, Any]]:
    """Chunks and shards of each variable of a brain or score cube."""
    encoding: dict[str, Any] = {}
    for name, variable in cube.data_vars.items():
        sizes = {str(dim): variable.sizes[dim] for dim in variable.dims}
        target_chunk = min(sizes.get("target", 1), TARGETS_PER_SHARD)
        if variable.dims == DIMS["bold"]:
            shards = (stored_rows(sizes["time"]), target_chunk)
            encoding[str(name)] = {"chunks": (ROWS_PER_CHUNK, target_chunk), "shards": shards}
        else:
            chunk = {**sizes, "subject": 1, "model": 1, "target": target_chunk}
            for dim in ("subject", "model"):
                n_bytes = math.prod(chunk[dim] for dim in sizes) * variable.dtype.itemsize
                chunk[dim] = min(sizes.get(dim, 1), max(1, _MIB // max(n_bytes, 1)))
            encoding[str(name)] = {"chunks": tuple(chunk[dim] for dim in sizes)}
    return encoding


def _dims_per_chunk(widths: np.ndarray, n_dims: int) -> int:
    common = math.gcd(*(int(width) for width in widths[widths > 0]))
    return common if common >= _MIN_DIMS_PER_CHUNK else n_dims


def _write(cube: xr.Dataset, path: Path, encoding: Mapping[str, Any], *, compute: bool = True) -> None:
    """Write all of a cube, or all but its lazy values."""
    # Attributes have no order, but bytes do.
    cube = cube.assign_attrs()
    cube.attrs = dict(sorted(cube.attrs.items()))
    checked = {str(name): {"compressors": [Crc32cCodec()], **encoding.get(str(name), {})} for name in cube.variables}
    # Zarr leaves out chunks that hold nothing but its fill value; a reader could not tell them from lost ones.
    cube.to_zarr(  # type: ignore[call-overload]  # there is an overload for each value of `compute`, none for both
        path, mode="w", zarr_format=3, encoding=checked, consolidated=False, write_empty_chunks=True, compute=compute
    )


def _consolidate(path: Path) -> None:
    """Gather all metadata in one file, so that opening a cube reads one file instead of a dozen; list its chunks."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(path)
    write_checksums(path)


def open_cube(path: Path, *, where: str | None = None, complete: bool = True) -> xr.Dataset:
    """Open a cube lazily, reading its labels only. What is missing or damaged is an error when it is read.

    Parameters
    ----------
    path : Path
    where : str, optional
        What messages call it, the path by default.
    complete : bool
        Refuse a feature cube that lacks a shard, which plain `xr.open_zarr` would read as NaN.

    Returns
    -------
    Dataset

    Raises
    ------
    StudyError
        If there is no cube, it is no cube of ours, its schema is newer than this package, or a shard is missing.
    """
    for wait_s in _WAITS_S:
        before = _standing(path)
        try:
            return _open_once(path, where or str(path), complete)
        except StudyError:
            if _standing(path) == before and not old_of(path).exists():
                raise
        time.sleep(wait_s)  # it is being replaced, which takes no longer than two renames
    return _open_once(path, where or str(path), complete)


def _standing(path: Path) -> tuple[tuple[int, int], int] | None:
    """Folder at a path and since when it is there: the number of one that is gone is soon another's."""
    number = folder_number(path)
    try:
        return number and (number, os.stat(path).st_ctime_ns)
    except FileNotFoundError:
        return None


def _open_once(path: Path, where: str, complete: bool) -> xr.Dataset:
    refuse_no_group(path, where)
    cube = open_stored(LocalStore(path, read_only=True), where)
    if complete and "features" in cube:
        _refuse_missing_shards(path, cube, where)
    return cube


def open_stored(store: Store, where: str) -> xr.Dataset:
    """Open the cube of any store lazily, as `open_cube` does; its shards are looked for when they are read.

    Parameters
    ----------
    store : Store
    where : str
        What messages call the cube.

    Returns
    -------
    Dataset

    Raises
    ------
    StudyError
        If it is no cube of ours, cannot be read, or its schema is newer than this package.
    """
    try:
        cube = open_guarded(store, where)
    except StudyError:
        raise
    except Exception as error:  # zarr raises a different class for every way a group can be broken
        if refused := environment_error(error, where):
            raise refused from error
        _refuse_newer(store, where)
        first = first_line(error)
        raise StudyError(
            where=where, found=f"an unreadable cube ({first})", expected="whole metadata", do="restore it with dvc"
        ) from error
    return cube


def _refuse_newer(store: Store, where: str) -> None:
    """Tell a cube whose arrays only a later version can open from a broken one."""
    try:
        schema = zarr.open_group(plain(store, where), mode="r", zarr_format=3, use_consolidated=False).attrs.get(
            "schema"
        )
    except Exception:  # as above
        return
    refuse_unknown(schema, where)


def read_values(array: xr.DataArray, where: str) -> np.ndarray:
    """Values of a lazy part of a cube, which messages call by a name of its own.

    Parameters
    ----------
    array : DataArray
        Lazy, of any dims.
    where : str
        What messages call it.

    Returns
    -------
    ndarray
        With the dims of `array`.

    Raises
    ------
    StudyError
        If its bytes are missing or damaged: every chunk carries a checksum.
    """
    try:
        values: np.ndarray = array.values
    except Refusal:
        raise
    except StudyError as error:
        raise StudyError(where=where, found=error.found, expected=error.expected, do=error.do) from error
    return values


def refuse_another(
    cube: xr.Dataset,
    where: str,
    holds: str,
    *,
    model: str | None = None,
    segments: Sequence[str] = (),
    subject: str | None = None,
) -> None:
    """Refuse a cube that is stored under another's name.

    Parameters
    ----------
    cube : Dataset
    where : str
        What messages call it.
    holds : str
        The variable that it must have.
    model : str, optional
        Whose features or scores it must hold: streams of it are named after it.
    segments : sequence of str
        Of the film whose features it must hold, some at least.
    subject : str, optional
        Whose responses it must hold, if its spec names a subject.

    Raises
    ------
    StudyError
        If it holds those of another.
    """
    kind = cube.attrs.get("kind", data_name(cube) or "nothing")
    # The cube of significance has scores, too: of all models, which are one in a study of one.
    if holds not in cube or (holds == "score" and kind == "significance"):
        raise _another(where, f"a cube of {kind}", holds)
    asked = [str(model or subject)]
    if model is not None:
        own = [str(name) for name in cube["model"].values]
        wrong = [name for name in own if name != model and not name.startswith(f"{model}.")]
    else:
        spec = json.loads(cube.attrs.get("spec", "{}"))
        wrong = [str(spec["subject"])] if spec.get("subject", subject) != subject else []
    if segments and not wrong:
        own, asked = list(dict.fromkeys(map(str, cube["segment"].values))), list(segments)
        wrong = own if set(own).isdisjoint(asked) else []
    if wrong:
        raise _another(where, f"the cube of {wrong[0]}", f"that of {', '.join(asked)}")


def _another(where: str, found: str, expected: str) -> StudyError:
    do = "put the right one there with `dvc checkout --force`, or make it anew with `dvc repro --force`"
    return StudyError(where=where, found=found, expected=expected, do=do)


def _refuse_missing_shards(path: Path, cube: xr.Dataset, where: str) -> None:
    files = {
        f"{cube['model'].values[m]} {cube['layer'].values[k]}": path / shard_key(m, k)
        for m, k in np.argwhere(cube["width"].values > 0)
    }
    sizes = {name: _size(file) for name, file in files.items()}
    for size, word, do in ((None, "no", f"fetch the cube with `dvc pull {path}`"), (0, "an empty", RESTORE)):
        wrong = [name for name, n_bytes in sizes.items() if n_bytes == size]
        if wrong:
            raise StudyError(
                where=where,
                found=f"{word} shard of {some_of(wrong)}",
                expected="every layer",
                do=do,
            )


def _size(file: Path) -> int | None:
    """Bytes of a file, None where there is none: asked once, since another writer may take it away in between."""
    try:
        found = file.stat()
    except (FileNotFoundError, NotADirectoryError):  # or files of another array are in its place
        return None
    return found.st_size if S_ISREG(found.st_mode) else None


def data_name(cube: xr.Dataset) -> str:
    """Name of a cube's main variable, see `main_variable`."""
    return main_variable(cube.variables, cube.data_vars)
