"""Checksums of all chunks of a cube, in the file that opening a cube reads anyway: they show bytes in a wrong place.

Every chunk ends in a checksum of its own, which shows that the chunk is whole, not that it is in its place.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np

from cinecube.store.base.bounded import file_bytes, parse_json
from cinecube.store.base.errors import StudyError
from cinecube.store.base.fingerprint import file_digest, fingerprint
from cinecube.store.cube.plainness import MAX_METADATA_BYTES, ROOT
from cinecube.store.cube.schema import refuse_unknown

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest

RESTORE = "run `cinecube verify --repair`, or make it anew with `dvc repro`"
OTHER = "other bytes than were written"
_KEY = "checksums"
_N_BYTES = 4
_INDEX_BYTES = 16
# Half a megabyte to open a cube of a hundred gigabytes; an array with more is left out.
_MOST = 2**16

# Codecs of a chunk of known size.
_BYTES = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]


@dataclass(frozen=True)
class ChunkLayout:
    """Layout of an array's files and their checksums: one ends a chunk, or one each chunk of a shard and its index.

    Parameters
    ----------
    name : str
    files : tuple of int
        How many there are along each axis.
    chunks : int
        In a shard; 0 where a file is one chunk.
    chunk_bytes : int
        Of a chunk in a shard, with its checksum.
    """

    name: str
    files: tuple[int, ...]
    chunks: int = 0
    chunk_bytes: int = 0

    @classmethod
    def of(cls, name: str, described: Mapping[str, Any]) -> ChunkLayout | None:
        """The layout that an array's metadata describe; None if it is none that this package writes.

        Parameters
        ----------
        name : str
            The array's.
        described : Mapping
            Its entry in the consolidated metadata.

        Returns
        -------
        ChunkLayout or None
        """
        try:
            shape, stored = described["shape"], described["chunk_grid"]["configuration"]["chunk_shape"]
            files = tuple(math.ceil(length / size) for length, size in zip(shape, stored, strict=True))
            codecs, (first, *_) = described["codecs"], described["codecs"]
            if described["chunk_key_encoding"] != {"name": "default", "configuration": {"separator": "/"}}:
                return None
            if first["name"] != "sharding_indexed":
                return cls(name, files) if codecs[-1]["name"] == "crc32c" else None
            inner = first["configuration"]
            if len(codecs) != 1 or inner["codecs"] != _BYTES or inner["index_codecs"] != _BYTES:
                return None
            if inner["index_location"] != "end":
                return None
            counts = [whole // part for whole, part in zip(stored, inner["chunk_shape"], strict=True)]
            n_bytes = math.prod(inner["chunk_shape"]) * np.dtype(described["data_type"]).itemsize + _N_BYTES
            return cls(name, files, math.prod(counts), n_bytes)
        except (KeyError, TypeError, ValueError, ZeroDivisionError, AttributeError):
            return None

    @property
    def index_bytes(self) -> int:
        """Bytes of a shard's index, with its checksum."""
        return self.chunks * _INDEX_BYTES + _N_BYTES

    @property
    def most(self) -> int:
        """Checksums that its files may have, all together."""
        return math.prod(self.files) * (self.chunks + 1)

    def each_key(self) -> Iterator[str]:
        """Its files, the last axis first."""
        for place in itertools.product(*map(range, self.files)):
            yield "/".join((self.name, "c", *map(str, place)))

    def number(self, key: str) -> int | None:
        """Number of a key in `each_key`; None if it is none of them."""
        parts = key.split("/")[2:]
        if len(parts) != len(self.files) or not all(part.isdecimal() for part in parts):
            return None
        place = tuple(map(int, parts))
        if any(at >= count for at, count in zip(place, self.files, strict=True)):
            return None
        return int(np.ravel_multi_index(place, self.files)) if place else 0

    def ends(self, file: Path) -> bytes | None:
        """The checksums that a file holds, one after another; None if it is too short or too long for them."""
        size = file.stat().st_size
        places = self._places(size)
        if places is None or size < _N_BYTES:
            return None
        with file.open("rb", buffering=0) as opened:
            found = []
            for place in places:
                opened.seek(place - _N_BYTES)
                found.append(opened.read(_N_BYTES))
        return b"".join(found)

    def _places(self, size: int) -> list[int] | None:
        """Ends of the checksums in a file of `size` bytes; None if they cannot fit. Shards omit chunks of NaN only."""
        if not self.chunks:
            return [size]
        n_chunks, rest = divmod(size - self.index_bytes, self.chunk_bytes)
        if rest or not 0 <= n_chunks <= self.chunks:
            return None
        return [*(self.chunk_bytes * (i + 1) for i in range(n_chunks)), size]

    def part(self, data: np.ndarray, request: ByteRequest | None, n_listed: int) -> tuple[slice, bytes] | None:
        """Checksums in bytes of a file, and which of its own they are; None if they cannot be where they were found.

        Parameters
        ----------
        data : array of uint8
        request : ByteRequest, optional
            What was asked for; the whole file without it. Zarr asks for whole chunks, and for the index.
        n_listed : int
            Checksums that the file has.

        Returns
        -------
        (slice, bytes) or None
            Positions among the file's checksums, and these one after another.
        """
        last = data[-_N_BYTES:].tobytes()
        if request is None or not self.chunks:
            places = self._places(len(data))
            if places is None:
                return None
            return slice(0, len(places)), b"".join(data[place - _N_BYTES : place].tobytes() for place in places)
        from zarr.abc.store import RangeByteRequest

        if isinstance(request, RangeByteRequest):
            number, rest = divmod(request.start, self.chunk_bytes)
            return None if rest or len(data) != self.chunk_bytes else (slice(number, number + 1), last)
        return slice(n_listed - 1, n_listed), last


@dataclass(frozen=True)
class Checksums:
    """The checksums of a cube's chunks that its `zarr.json` lists.

    Attributes
    ----------
    layouts : mapping
        Array -> how its files are cut, of the arrays that are listed.
    listed : mapping
        Array -> checksums of each of its files, in hexadecimal; "" of one that there is not.
    """

    layouts: Mapping[str, ChunkLayout]
    listed: Mapping[str, Sequence[str]]

    @classmethod
    def read(cls, raw: bytes, where: str, do: str = RESTORE) -> Checksums | None:
        """The list in the bytes of a cube's `zarr.json`; None if there is none, or a schema that is not known.

        Parameters
        ----------
        raw : bytes
            `zarr.json`.
        where : str
            The cube, for messages.
        do : str
            What the user can do if the file was changed.

        Returns
        -------
        Checksums or None

        Raises
        ------
        StudyError
            If the file is not as it was written.
        """
        try:
            root = parse_json(raw)
            gathered = root["consolidated_metadata"]
            noted = gathered[_KEY]
            stated = noted.pop("metadata")
            refuse_unknown(root["attributes"].get("schema"), where)
            digest = _digest(root)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, StudyError):
            return None
        if stated != digest:
            raise StudyError(
                where=where,
                found=f"a {ROOT} that is not as it was written",
                expected="text that has the checksum that it states",
                do=do,
            )
        layouts, listed = {}, {}
        for name, text in noted["chunks"].items():
            layout, each = ChunkLayout.of(name, gathered["metadata"][name]), text.split(",")
            if layout is not None and math.prod(layout.files) == len(each):
                layouts[name], listed[name] = layout, each
        return cls(layouts, listed)

    def of(self, key: str) -> bytes | None:
        """The checksums that a file must hold, none of a file that must not be there; None if it is not listed."""
        name = key.split("/", 1)[0]
        layout = self.layouts.get(name)
        number = layout.number(key) if layout else None
        return None if number is None else bytes.fromhex(self.listed[name][number])

    def refuse_other(
        self, key: str, data: np.ndarray, request: ByteRequest | None, where: str, do: str = RESTORE
    ) -> None:
        """Raise if bytes of a file are not those that belong there.

        Parameters
        ----------
        key : str
            The file's, from the root of the cube.
        data : ndarray of uint8
            The bytes that were read.
        request : ByteRequest, optional
            The part of the file that they are; the whole file without it.
        where : str
            The cube, for messages.
        do : str
            What the user can do.

        Raises
        ------
        StudyError
            If the listed checksums are others.
        """
        expected = self.of(key)
        if expected is None:
            return
        part = self.layouts[key.split("/", 1)[0]].part(data, request, len(expected) // _N_BYTES)
        if part is not None:
            which, found = part
            if expected[which.start * _N_BYTES : which.stop * _N_BYTES] == found:
                return
        raise StudyError(
            where=where,
            found=f"{key} with {self.told(key, part)}",
            expected=f"the bytes whose checksums {ROOT} lists",
            do=do,
        )

    def told(self, key: str, part: tuple[slice, bytes] | None) -> str:
        """The contents of a file in words, by the checksums found in it: those of another file, or unknown bytes.

        Parameters
        ----------
        key : str
            The file's, from the root of the cube.
        part : (slice, bytes), optional
            Which of the file's checksums were found, and these.

        Returns
        -------
        str
        """
        if part is not None:
            which, found = part
            for other in self._owners.get(found[:_N_BYTES], ()):
                if other != key and (self.of(other) or b"")[which.start * _N_BYTES : which.stop * _N_BYTES] == found:
                    return f"what belongs to {other}"
        return OTHER

    def misplaced(self, cube: Path, key: str) -> str:
        """The fault of a cube's file on this disk, by its checksums; empty if it has none or is not listed.

        Parameters
        ----------
        cube : Path
        key : str
            The file's, from the root of the cube.

        Returns
        -------
        str
        """
        expected = self.of(key)
        found = self.layouts[key.split("/", 1)[0]].ends(cube / key) if expected else None
        if not expected or found == expected:
            return ""
        return self.told(key, None if found is None else (slice(0, len(found) // _N_BYTES), found))

    @cached_property
    def _owners(self) -> Mapping[bytes, list[str]]:
        """Checksum -> files that hold it."""
        found: dict[bytes, list[str]] = {}
        for layout in self.layouts.values():
            for key in layout.each_key():
                own = self.of(key) or b""
                for start in range(0, len(own), _N_BYTES):
                    found.setdefault(own[start : start + _N_BYTES], []).append(key)
        return found


def write_checksums(path: Path) -> None:
    """List the checksums of a finished cube in its `zarr.json`.

    They are part of the consolidated metadata, which any program that writes to the cube makes anew: so no list names
    chunks that are no longer there.
    """
    file = path / ROOT
    root = json.loads(file.read_bytes())
    gathered = root["consolidated_metadata"]
    chunks = {}
    for name, described in gathered["metadata"].items():
        layout = ChunkLayout.of(name, described)
        if layout is None or layout.most > _MOST:
            continue
        ends = [layout.ends(path / key) if (path / key).exists() else b"" for key in layout.each_key()]
        if None not in ends:
            chunks[name] = ",".join(end.hex() for end in ends if end is not None)
    gathered[_KEY] = {"chunks": chunks}
    gathered[_KEY]["metadata"] = _digest(root)
    file.write_text(json.dumps(root, separators=(",", ":")), encoding="ascii")


def cube_digest(path: Path) -> str:
    """SHA-256 that two cubes share only if their files are the same: of `zarr.json` where it lists all checksums.

    Parameters
    ----------
    path : Path
        A cube on this disk.

    Raises
    ------
    StudyError
        If its `zarr.json` is not as it was written or larger than any, or a file of it is none.
    """
    file = path / ROOT
    if file.is_file():
        file_bytes(file, limit=MAX_METADATA_BYTES)
        raw = file.read_bytes()
        listed = Checksums.read(raw, str(path))
        if listed is not None and listed.listed.keys() == parse_json(raw)["consolidated_metadata"]["metadata"].keys():
            return hashlib.sha256(raw).hexdigest()
    files = {str(one.relative_to(path)): file_digest(one) for one in path.rglob("*") if not one.is_dir()}
    return fingerprint(files)


def _digest(root: Mapping[str, Any]) -> str:
    """Checksum of metadata, whatever the order and spaces of their text."""
    text = json.dumps(root, sort_keys=True, separators=(",", ":"))
    return f"{google_crc32c.value(text.encode('ascii')):08x}"
