"""Limits of a Zarr group of other people: version 3, made of what a cube may be made of, no larger than a study.

Metadata are judged as JSON, before Zarr makes a codec or an array of them: codecs are programs, and some of them run
what they are given. Imports no Zarr, so that labels are read without it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from cinecube.store.base.bounded import parse_json, too_large
from cinecube.store.base.errors import StudyError
from cinecube.store.cube.schema import refuse_unknown

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest

ROOT = "zarr.json"
OLDER = frozenset({".zgroup", ".zarray", ".zattrs", ".zmetadata"})
_JSON_ATTRIBUTES = frozenset({"spec", "created_by"})
_LABELS_OF_LAYERS = frozenset({"width", "depth"})

MAX_METADATA_BYTES = 16 * 2**20
# A brain of 1 mm voxels has 2 million targets, each with six labels.
MAX_LABELS = 4_000_000
_MAX_LABELS_IN_ALL, _MAX_TEXTS_IN_ALL = 8 * MAX_LABELS, MAX_LABELS + MAX_LABELS // 4
MAX_ARRAYS = 256
_MAX_AXES = 8
_MAX_NAME = 200
_MAX_VALUES = 2**44
# A chunk is decoded whole: 512 rows of 100,000 dims are 0.2 GB.
_MAX_CHUNK_BYTES, _MAX_TEXT_CHUNK_BYTES = 2**28, 2**26
_MAX_CHUNKS_IN_SHARD = 2**18
_MAX_FILES = 200_000
_MAX_TEXT_BYTES = 512  # of a label, on average
_SLACK_BYTES = 2**16

_SIZES = {"bool": 1, "int8": 1, "uint8": 1, "float16": 2, "int16": 2, "uint16": 2, "float32": 4, "int32": 4}
_SIZES |= {"uint32": 4, "float64": 8, "int64": 8, "uint64": 8}
_MAKERS = ("bytes", "vlen-utf8")
_PACKERS = ("crc32c", "zstd")
_ZSTD = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class _Plain:
    """Sizes and kind of an array, from its metadata.

    Attributes
    ----------
    n_labels, n_texts : int
        Values, if they are labels, which are read whole; how many of these are text.
    chunk_bytes : int
        The most that a decoded chunk holds.
    in_shard : int
        Chunks in a file; 0 where a file is a chunk.
    packed : bool
        Whether chunks are compressed.
    """

    n_labels: int
    n_texts: int
    chunk_bytes: int
    in_shard: int
    packed: bool

    @property
    def file_bytes(self) -> int:
        """The most that a file holds."""
        return (self.chunk_bytes + _SLACK_BYTES) * max(1, self.in_shard)


class Plainness:
    """Metadata of a group that have been read, and the limits that they set to its chunks.

    Parameters
    ----------
    where : str
        What messages call the group.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self._arrays: dict[str, _Plain] = {}

    def limit(self, key: str) -> int:
        """The most bytes that a key may have."""
        if file_name(key) == ROOT:
            return MAX_METADATA_BYTES
        array = self._array_of(key)
        return array.file_bytes if array else _MAX_CHUNK_BYTES

    def refuse_older(self, key: str) -> NoReturn:
        """Refuse Zarr v2, which keeps any codec of this machine in its metadata, pickle too.

        Raises
        ------
        StudyError
            Always.
        """
        raise of_older_format(key, self.where)

    def judge(self, key: str, data: bytes | memoryview, request: ByteRequest | None) -> None:
        """Refuse metadata that are not plain, and chunks that would decode to more than is declared.

        Parameters
        ----------
        key : str
        data : bytes or memoryview
            What the store has under it.
        request : ByteRequest, optional
            The part of the file that `data` is; the whole file without it.

        Raises
        ------
        StudyError
            Before Zarr has seen the bytes.
        """
        if file_name(key) == ROOT:
            self._judge_metadata(key, bytes(data))
            return
        array = self._array_of(key)
        if array is not None and array.packed:
            for packed in _packed_chunks(array, data, request):
                self._judge_packed(key, packed, array.chunk_bytes)

    def _array_of(self, key: str) -> _Plain | None:
        """The array that a chunk belongs to: `features` of `features/c/0/0`."""
        parts = key.split("/")
        above = ("/".join(parts[:at]) for at, part in enumerate(parts) if part == "c")
        return next((self._arrays[path] for path in above if path in self._arrays), None)

    def _judge_metadata(self, key: str, data: bytes) -> None:
        node = None
        try:
            node = parse_json(data)
            folder = str(PurePosixPath(key).parent)
            for path, plain in _arrays_of(node, "" if folder == "." else folder).items():
                self._arrays[path] = plain
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            _refuse_newer(node, self.where)
            expected = "what cubes are made of (docs/reference/cube-format.md)"
            do = "ask its owner for a cube as cinecube or xarray writes it"
            raise StudyError(where=f"{self.where}/{key}", found=str(error), expected=expected, do=do) from None
        labels = sum(plain.n_labels for plain in self._arrays.values())
        texts = sum(plain.n_texts for plain in self._arrays.values())
        if len(self._arrays) > MAX_ARRAYS or labels > _MAX_LABELS_IN_ALL or texts > _MAX_TEXTS_IN_ALL:
            found = f"{len(self._arrays)} arrays with {labels} labels, {texts} of them text"
            raise too_large(self.where, found, f"at most {MAX_ARRAYS}, {_MAX_LABELS_IN_ALL} and {_MAX_TEXTS_IN_ALL}")

    def _judge_packed(self, key: str, packed: bytes | memoryview, limit: int) -> None:
        holds = _zstd_bytes(bytes(packed[:18]))
        if holds is None or holds > limit:
            found = f"a compressed chunk of {'unknown size' if holds is None else f'{holds} bytes'}"
            raise too_large(f"{self.where}/{key}", found, f"at most the {limit} bytes that its array declares")


def older_format(names: Iterable[str]) -> str:
    """The file that shows a group of Zarr v2, from the names in its folder; empty for other groups."""
    there = set(names)
    return "" if ROOT in there else min(OLDER & there, default="")


def of_older_format(key: str, where: str) -> StudyError:
    """Error for a group of Zarr v2.

    Parameters
    ----------
    key : str
        A file by which it is known.
    where : str
        The group, for messages.

    Returns
    -------
    StudyError
    """
    return StudyError(
        where=where,
        found=f"a group of Zarr v2 ({key})",
        expected="a Zarr v3 group",
        do="convert it where you trust it, or ask its owner for one of version 3",
    )


def refuse_no_group(path: Path, where: str) -> None:
    """Refuse a path that is no group of Zarr v3, before anything of it is read.

    Parameters
    ----------
    path : Path
    where : str
        What messages call it.

    Raises
    ------
    StudyError
        If nothing is there, or something else.
    """
    if path.is_dir() and not (path / ROOT).is_file():
        if older := older_format(file.name for file in path.iterdir()):
            raise of_older_format(older, where)
        raise StudyError(
            where=where,
            found="a folder that is no cube",
            expected="a Zarr v3 group",
            do=f"look into it with `cinecube ls {path}`",
        )
    if path.is_file():
        raise StudyError(where=where, found="a file", expected="a Zarr v3 group", do="see `cinecube ls` for cubes")
    if path.parent.suffix == ".zarr":
        whole = where.rpartition("/")[0]
        raise StudyError(where=where, found="a part of a cube", expected="the whole", do=f"name {whole}")
    if not (path / ROOT).is_file():
        raise StudyError(where=where, found="no cube", expected="a Zarr v3 group", do="run `dvc repro` or pull it")


def _refuse_newer(node: Any, where: str) -> None:
    """Tell a cube that only a later version can open from a strange one."""
    attrs = node.get("attributes") if isinstance(node, dict) else None
    if isinstance(attrs, dict) and "schema" in attrs:
        refuse_unknown(attrs["schema"], where)


def file_name(key: str) -> str:
    """The last part of a key."""
    return key.rpartition("/")[2]


def _arrays_of(node: Any, path: str) -> dict[str, _Plain]:
    """The arrays that metadata describe, by path; raises a ValueError of what no cube is made of."""
    if not isinstance(node, dict):
        raise ValueError("no JSON object")
    if node.get("zarr_format") != 3 or isinstance(node["zarr_format"], bool):
        raise ValueError(f"Zarr format {_shown(node.get('zarr_format'))}")
    if not isinstance(node.get("attributes", {}), dict):
        raise ValueError("attributes that are no JSON object")
    if node.get("node_type") == "array":
        return {path: _plain_array(node, path)}
    if node.get("node_type") != "group":
        raise ValueError(f"a node of type {_shown(node.get('node_type'))}")
    for name in _JSON_ATTRIBUTES & node.get("attributes", {}).keys():
        text = node["attributes"][name]
        if not isinstance(text, str) or not isinstance(parse_json(text), dict):
            raise ValueError(f"the attribute {name}, which is no JSON object")
    gathered = node.get("consolidated_metadata")
    inner = gathered.get("metadata") if isinstance(gathered, dict) else {}
    if not isinstance(inner, dict) or len(inner) > MAX_ARRAYS:
        raise ValueError(f"gathered metadata that are no object of up to {MAX_ARRAYS} arrays")
    found: dict[str, _Plain] = {}
    for name, described in inner.items():
        if any(part in ("", ".", "..") for part in name.split("/")) or len(name) > _MAX_NAME or "\\" in name:
            raise ValueError(f"an array with the name {_shown(name)}")
        if isinstance(described, dict) and described.get("consolidated_metadata"):
            raise ValueError(f"{name}: gathered metadata inside gathered metadata")
        found |= _arrays_of(described, f"{path}/{name}" if path else name)
    return found


def _plain_array(node: Mapping[str, Any], path: str) -> _Plain:
    name = path.rpartition("/")[2] or "the array"
    if node.get("storage_transformers"):
        raise ValueError(f"{name}: storage transformers")
    shape = _sizes(node["shape"], f"{name}: shape", least=0)
    size, is_text = _item_bytes(node["data_type"], name)
    fill = node.get("fill_value")
    if isinstance(fill, list | dict) or len(str(fill)) > _MAX_NAME:
        raise ValueError(f"{name}: a fill value that is no single number or text")
    dims = node.get("dimension_names")
    if dims is not None and not (isinstance(dims, list) and all(d is None or _is_name(d) for d in dims)):
        raise ValueError(f"{name}: names of axes that are no names")
    encoding, grid = _named(node["chunk_key_encoding"], name), _named(node["chunk_grid"], name)
    if encoding not in (("default", {}), ("default", {"separator": "/"})):
        raise ValueError(f"{name}: chunk keys encoded as {_shown(node['chunk_key_encoding'])}")
    if grid[0] != "regular":
        raise ValueError(f"{name}: a chunk grid {_shown(grid[0])}")
    chunk = shard = _sizes(grid[1]["chunk_shape"], f"{name}: chunks", least=1)
    codecs, in_shard = node["codecs"], 0
    if isinstance(codecs, list) and len(codecs) == 1 and _named(codecs[0], name)[0] == "sharding_indexed":
        chunk, codecs = _inner(_named(codecs[0], name)[1], shard, name)
        in_shard = math.prod(long // short for long, short in zip(shard, chunk, strict=True))
    packed = _judge_codecs(codecs, is_text, len(shape), name)
    return _bounded(name, shape, shard, chunk, size, is_text, in_shard, packed)


def _bounded(
    name: str,
    shape: tuple[int, ...],
    shard: tuple[int, ...],
    chunk: tuple[int, ...],
    size: int,
    is_text: bool,
    in_shard: int,
    packed: bool,
) -> _Plain:
    """Refuse an array that is larger than any real one."""
    if len(shard) != len(shape) or len(chunk) != len(shape):
        raise ValueError(f"{name}: chunks of {len(chunk)} axes in an array of {len(shape)}")
    count, is_label = math.prod(shape), len(shape) < 2 or name in _LABELS_OF_LAYERS or is_text
    if count > (MAX_LABELS if is_label else _MAX_VALUES):
        noun = "labels" if is_label else "values"
        raise ValueError(f"{name}: {count} {noun} declared, more than {MAX_LABELS if is_label else _MAX_VALUES}")
    files = math.prod(-(-length // step) for length, step in zip(shape, shard, strict=True))
    if files > _MAX_FILES:
        raise ValueError(f"{name}: {files} chunks or shards declared, more than {_MAX_FILES}")
    if in_shard > _MAX_CHUNKS_IN_SHARD:
        raise ValueError(f"{name}: {in_shard} chunks in a shard declared, more than {_MAX_CHUNKS_IN_SHARD}")
    whole = math.prod(-(-max(1, length) // step) * step for length, step in zip(shape, chunk, strict=True))
    if math.prod(shard) * size > max(_MAX_CHUNK_BYTES, whole * size):  # Zarr makes the whole shard to read a part
        raise ValueError(f"{name}: shards of {_shown(list(shard))} in an array of {_shown(list(shape))}")
    values = math.prod(chunk)
    limit = _MAX_TEXT_CHUNK_BYTES if is_text else _MAX_CHUNK_BYTES
    if values * (4 if is_text else size) > limit or (is_text and in_shard):
        raise ValueError(f"{name}: a chunk of {values} values declared, more than fit in {limit} bytes")
    chunk_bytes = min(limit, _SLACK_BYTES + values * _MAX_TEXT_BYTES) if is_text else values * size
    n_labels = count if is_label else 0
    return _Plain(n_labels, n_labels if is_text else 0, chunk_bytes + _SLACK_BYTES, in_shard, packed)


def _inner(configuration: Mapping[str, Any], shard: tuple[int, ...], name: str) -> tuple[tuple[int, ...], Any]:
    """Shape and codecs of the chunks in a shard."""
    chunk = _sizes(configuration["chunk_shape"], f"{name}: chunks in a shard", least=1)
    if len(chunk) != len(shard) or any(long % short for long, short in zip(shard, chunk, strict=True)):
        raise ValueError(f"{name}: shards that are no whole number of chunks")
    index = [_named(codec, name)[0] for codec in configuration["index_codecs"]]
    if index != ["bytes", "crc32c"] or configuration.get("index_location", "end") != "end":
        raise ValueError(f"{name}: an index of its shards that is not at their end, in checked bytes")
    return chunk, configuration["codecs"]


def _judge_codecs(codecs: Any, is_text: bool, n_axes: int, name: str) -> bool:
    """True if chunks are compressed; refuses all codecs but a few, which only order, pack and check bytes."""
    if not isinstance(codecs, list) or not 0 < len(codecs) <= 4:
        raise ValueError(f"{name}: no list of one to four codecs")
    named = [_named(codec, name) for codec in codecs]
    if named[0][0] == "transpose":
        if sorted(named[0][1]["order"]) != list(range(n_axes)):
            raise ValueError(f"{name}: axes in the order {_shown(named[0][1]['order'])}")
        named = named[1:]
    first, others = named[0][0] if named else None, [codec for codec, _ in named[1:]]
    unknown = next((codec for codec, _ in named if codec not in (*_MAKERS, *_PACKERS)), None)
    if unknown is not None:
        raise ValueError(f"{name}: the codec {_shown(unknown)}, which is none of {', '.join((*_MAKERS, *_PACKERS))}")
    if first != _MAKERS[is_text] or any(codec not in _PACKERS for codec in others) or len(set(others)) < len(others):
        raise ValueError(f"{name}: codecs {', '.join(codec for codec, _ in named)}, which do not fit its type")
    return "zstd" in others


def _item_bytes(data_type: Any, name: str) -> tuple[int, bool]:
    """Bytes of a value, and whether it is text of any length."""
    if data_type == "string":
        return 0, True
    if isinstance(data_type, str) and data_type in _SIZES:
        return _SIZES[data_type], False
    kind, configuration = _named(data_type, name)
    if kind != "fixed_length_utf32":
        raise ValueError(f"{name}: values of type {_shown(kind)}")
    (length,) = _sizes([configuration["length_bytes"]], f"{name}: length of texts", least=1)
    if length > 4 * _MAX_TEXT_BYTES:
        raise ValueError(f"{name}: texts of {length} bytes")
    return length, False


def _named(value: Any, name: str) -> tuple[str, dict[str, Any]]:
    """Name and configuration of an extension of Zarr."""
    if isinstance(value, str):
        return value, {}
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ValueError(f"{name}: {_shown(value)} in place of a name and a configuration")
    configuration = value.get("configuration") or {}
    if not isinstance(configuration, dict):
        raise ValueError(f"{name}: a configuration of {_shown(value['name'])} that is no object")
    return value["name"], configuration


def _sizes(values: Any, what: str, least: int) -> tuple[int, ...]:
    numbers = isinstance(values, list) and all(isinstance(n, int) and not isinstance(n, bool) for n in values)
    if not numbers or len(values) > _MAX_AXES or any(not least <= n < 2**48 for n in values):
        raise ValueError(f"{what} {_shown(values)}")
    return tuple(values)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _MAX_NAME


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _packed_chunks(array: _Plain, data: bytes | memoryview, request: ByteRequest | None) -> list[bytes | memoryview]:
    """The compressed chunks in what was read of a file."""
    if request is not None and array.in_shard:
        from zarr.abc.store import RangeByteRequest

        return [data] if isinstance(request, RangeByteRequest) else []  # a shard's index is read from the end
    if not array.in_shard:
        return [data]
    start = len(data) - 4 - 16 * array.in_shard  # before its checksum
    if start < 0:
        return []  # too short for its own index, which Zarr will say
    index = np.frombuffer(bytes(data[start:-4]), "<u8")
    known = (index[0::2] != 2**64 - 1) & (index[0::2] < len(data))
    return [data[offset : offset + 18] for offset in index[0::2][known].tolist()]


def _zstd_bytes(head: bytes) -> int | None:
    """Decoded bytes of a Zstandard frame (RFC 8878), from its header; None if the header does not say."""
    if len(head) < 6 or head[:4] != _ZSTD:
        return None
    flags = head[4]
    single, length = bool(flags & 0x20), (1 if flags & 0x20 else 0, 2, 4, 8)[flags >> 6]
    if not length:
        return None
    at = 5 + (not single) + (0, 1, 2, 4)[flags & 3]
    return int.from_bytes(head[at : at + length], "little") + (256 if length == 2 else 0)
