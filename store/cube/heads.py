"""Heads of cubes on this disk: attributes, axes and labels, read without Zarr and xarray, whose imports take a second.

Only what this package wrote is read here: `zarr.json` states its own checksum, and lists that of every label. Whatever
is in any way unusual is left to `open_cube`, which reads the same and says what is wrong with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np

from cinecube.store.base.atomic import old_of
from cinecube.store.base.bounded import file_bytes, parse_json
from cinecube.store.base.errors import StudyError
from cinecube.store.cube.checksums import Checksums
from cinecube.store.cube.plainness import ROOT, Plainness, refuse_no_group
from cinecube.store.cube.schema import main_variable, refuse_unknown, shard_key

if TYPE_CHECKING:
    import xarray as xr

_CHECKED = {"name": "crc32c"}
_TEXTS = [{"name": "vlen-utf8", "configuration": {}}, _CHECKED]
_NUMBERS = [{"name": "bytes", "configuration": {"endian": "little"}}, _CHECKED]
_N_BYTES = 4


@dataclass(frozen=True)
class CubeHead:
    """A cube without its values.

    Attributes
    ----------
    attrs : Mapping
    name : str
        Its main variable, see `main_variable`.
    sizes : Mapping of str to int
        Axis -> length, of that variable in its order; of the whole cube where it has none.
    labels : Mapping of str to array
        Labels of every axis that has some, and `width (model, layer)` of a feature cube.
    """

    attrs: Mapping[str, Any]
    name: str
    sizes: Mapping[str, int]
    labels: Mapping[str, np.ndarray]

    @property
    def spec(self) -> dict[str, Any]:
        """The spec that its fingerprint hashes."""
        spec: dict[str, Any] = json.loads(self.attrs.get("spec", "{}"))
        return spec

    def texts(self, axis: str) -> list[str]:
        """Labels of an axis as text; none if it has none."""
        return [str(label) for label in self.labels.get(axis, ())]


def read_head(path: Path, *, where: str | None = None, complete: bool = True) -> CubeHead:
    """Read the head of a cube, as `open_cube` would find it.

    Parameters
    ----------
    path : Path
    where : str, optional
        What messages call it, the path by default.
    complete : bool
        Refuse a feature cube that lacks a shard.

    Returns
    -------
    CubeHead

    Raises
    ------
    StudyError
        As `open_cube` does.
    """
    found = _read_own(path, complete)
    if found is not None:
        return found
    if not old_of(path).exists():  # or it is being replaced
        refuse_no_group(path, where or str(path))
    from cinecube.store.cube.cubes import open_cube

    with open_cube(path, where=where, complete=complete) as cube:
        return head_of(cube)


def head_of(cube: xr.Dataset) -> CubeHead:
    """The head of an open cube."""
    name = main_variable(cube.variables, cube.data_vars)
    sizes = {str(dim): size for dim, size in (cube[name].sizes if name else cube.sizes).items()}
    labels = {str(axis): cube[axis].values for axis in (*cube.indexes, "width") if axis in cube}
    return CubeHead(dict(cube.attrs), name, sizes, labels)


def stored_spec(path: Path) -> dict[str, Any]:
    """The spec that a cube's fingerprint hashes, from the cube's own attributes.

    Raises
    ------
    StudyError
        If there is no whole cube.
    """
    return read_head(path).spec


def stored_bytes(path: Path) -> int:
    """Bytes of a cube's files."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


class _Unusual(Exception):
    """A find that is for `open_cube` to judge."""


def _read_own(path: Path, complete: bool) -> CubeHead | None:
    """The head of a cube that this package wrote and nobody has touched or replaces; None of others."""
    try:
        before = path.stat()
        head = _Own(path).head(complete)
        after = path.stat()
    except (OSError, StudyError, _Unusual, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None
    return head if (before.st_ino, before.st_ctime_ns) == (after.st_ino, after.st_ctime_ns) else None


class _Own:
    """A cube's metadata, which have the checksum that they state."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._plainness = Plainness(str(path))
        raw = self._bytes(ROOT)
        self._plainness.judge(ROOT, raw, None)
        checksums = Checksums.read(raw, str(path))
        root = parse_json(raw)
        refuse_unknown(root["attributes"].get("schema"), str(path))
        if checksums is None:
            raise _Unusual
        self._checksums = checksums
        self._attrs: dict[str, Any] = root["attributes"]
        self._arrays: dict[str, Any] = root["consolidated_metadata"]["metadata"]

    def head(self, complete: bool) -> CubeHead:
        """The head, once all labels are as they were written."""
        coordinates = set(self._attrs.get("coordinates", "").split())
        for described in self._arrays.values():
            coordinates |= set(described["attributes"].get("coordinates", "").split())
        axes = {name: self._axes(name) for name in self._arrays}
        own = [name for name, sizes in axes.items() if list(sizes) == [name]]
        name = main_variable(axes, [name for name in axes if name not in coordinates and name not in own])
        labels = {axis: self._values(axis) for axis in (*own, *({"width"} & axes.keys()))}
        if complete and "features" in axes:
            self._refuse_missing(labels["width"])
        sizes = axes[name] if name else {dim: size for one in axes.values() for dim, size in one.items()}
        attrs = {key: value for key, value in self._attrs.items() if key != "coordinates"}
        return CubeHead(attrs, name, sizes, labels)

    def _axes(self, name: str) -> dict[str, int]:
        described = self._arrays[name]
        return dict(zip(described["dimension_names"], described["shape"], strict=True))

    def _bytes(self, key: str) -> bytes:
        file = self._path / key
        file_bytes(file, key, self._plainness.limit(key))
        return file.read_bytes()

    def _values(self, name: str) -> np.ndarray:
        """Labels that are whole numbers or text."""
        described, layout = self._arrays[name], self._checksums.layouts[name]
        chunk, is_text = described["chunk_grid"]["configuration"]["chunk_shape"], described["data_type"] == "string"
        single_row = all(count == 1 for count in layout.files[1:]) and described["shape"][1:] == chunk[1:]
        if described["codecs"] != (_TEXTS if is_text else _NUMBERS) or described["attributes"] or not single_row:
            raise _Unusual
        dtype = np.dtype(object if is_text else described["data_type"])
        if not is_text and dtype.kind not in "iu":
            raise _Unusual
        parts = []
        for key in layout.each_key():
            data = self._bytes(key)
            self._checksums.refuse_other(key, np.frombuffer(data, np.uint8), None, str(self._path))
            body, stated = data[:-_N_BYTES], data[-_N_BYTES:]
            if self._checksums.of(key) is None or google_crc32c.value(body) != int.from_bytes(stated, "little"):
                raise _Unusual
            values = _texts(body) if is_text else np.frombuffer(body, dtype.newbyteorder("<")).astype(dtype)
            parts.append(values.reshape(chunk))
        whole: np.ndarray = np.concatenate(parts)[: described["shape"][0]]
        return whole

    def _refuse_missing(self, width: np.ndarray) -> None:
        for m, k in np.argwhere(width > 0):
            if not (self._path / shard_key(m, k)).stat().st_size:
                raise _Unusual


def _texts(body: bytes) -> np.ndarray:
    """Texts of a chunk: how many there are, then each after its length."""
    count, at = int.from_bytes(body[:_N_BYTES], "little"), _N_BYTES
    texts = []
    for _ in range(count):
        start = at + _N_BYTES
        at = start + int.from_bytes(body[at:start], "little")
        texts.append(body[start:at].decode("utf-8"))
    if at != len(body):
        raise _Unusual
    return np.array(texts, dtype=object)
