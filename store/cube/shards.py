"""Shards of whole rows in local files: read straight into the array that is given out, written row after row."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, ShardingCodecIndexLocation
from zarr.core.metadata import ArrayV3Metadata

from cinecube.store.cube.checksums import Checksums
from cinecube.store.cube.schema import ROWS_PER_CHUNK, TARGETS_PER_SHARD

_CHECKED = (BytesCodec(endian="little"), Crc32cCodec())
_CHECKSUM = np.dtype("<u4")
_INDEX = np.dtype("<u8")


@dataclass(frozen=True)
class RowShards:
    """An array whose shards are uncompressed, checked chunks of whole rows, with their index at the end.

    Zarr reads a shard, copies its chunks into an array of the shard, and that into the one it gives out. Where chunks
    are runs of rows, their bytes are those of the result already, so that one copy, the system's, is enough.

    Parameters
    ----------
    metadata : zarr.core.metadata.ArrayV3Metadata
    shard, chunk : tuple of int
        Sizes along each axis; they differ along the first only.
    dtype : numpy.dtype
    """

    metadata: ArrayV3Metadata
    shard: tuple[int, ...]
    chunk: tuple[int, ...]
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, array: zarr.Array[Any]) -> RowShards | None:
        """Description of an array's shards; None if it keeps them in another way."""
        metadata, shard, chunk = array.metadata, array.shards, array.chunks
        if not isinstance(metadata, ArrayV3Metadata) or shard is None or shard[1:] != chunk[1:]:
            return None
        (codec, *others), dtype = metadata.codecs, np.dtype(array.dtype)
        as_written = (
            isinstance(codec, ShardingCodec)
            and not others
            and codec.codecs == codec.index_codecs == _CHECKED
            and codec.index_location == ShardingCodecIndexLocation.end
            and dtype.kind in "fiu"
            and dtype == dtype.newbyteorder("<")
        )
        return cls(metadata, shard, chunk, dtype) if as_written else None

    def read(
        self, folder: Path, name: str, selection: Sequence[Any], checksums: Checksums | None = None
    ) -> np.ndarray | None:
        """Values of an array in a folder at integers and slices of one shard.

        Parameters
        ----------
        folder : Path
            The group.
        name : str
            The array in it.
        selection : sequence of int or slice
            One of each axis.
        checksums : Checksums, optional
            Those that chunks must have.

        Returns
        -------
        numpy.ndarray or None
            None where there is anything else than whole chunks in one shard, bytes that are missing, damaged or not in
            their place included: Zarr reads those, or says what is wrong with them.
        """
        spans = [_span(at, size) for at, size in zip(selection, self.metadata.shape, strict=True)]
        if any(span.step != 1 or not span for span in spans):
            return None
        place = tuple(span.start // size for span, size in zip(spans, self.shard, strict=True))
        if place != tuple(span[-1] // size for span, size in zip(spans, self.shard, strict=True)):
            return None
        rows = spans[0]
        first, last = rows.start // self.chunk[0], rows[-1] // self.chunk[0]
        chunks = range(first % self._n_chunks, last % self._n_chunks + 1)
        key = f"{name}/{self.metadata.encode_chunk_key(place)}"
        expected = checksums.of(key) if checksums is not None else None
        values = self._read_chunks(
            folder / key, chunks, None if expected is None else np.frombuffer(expected, _CHECKSUM)
        )
        if values is None:
            return None
        origin = (first * self.chunk[0], *(at * size for at, size in zip(place[1:], self.shard[1:], strict=True)))
        within = [
            slice(span.start - start, span.stop - start) if isinstance(at, slice) else span.start - start
            for at, span, start in zip(selection, spans, origin, strict=True)
        ]
        found = values[tuple(within)]
        return found if found.size == values.size else found.copy()  # or a row would keep its chunk in memory

    @property
    def _n_chunks(self) -> int:
        return self.shard[0] // self.chunk[0]

    def _read_chunks(self, path: Path, chunks: range, expected: np.ndarray | None) -> np.ndarray | None:
        """Chunks of a shard as one array, unless one of them is not as it was written."""
        values = np.empty((len(chunks) * self.chunk[0], *self.chunk[1:]), self.dtype)
        raw = values.reshape(len(chunks), -1).view(np.uint8)
        checksum = np.empty(1, _CHECKSUM)
        try:
            file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe is no shard, and not waited for
        except OSError:
            return None
        try:
            index = self._read_index(file)
            if index is None or (expected is not None and len(expected) != self._n_chunks + 1):
                return None
            for number, chunk in zip(chunks, raw, strict=True):
                stored, (offset, n_bytes) = chunk.nbytes + checksum.nbytes, index[number].tolist()
                if n_bytes != stored or os.preadv(file, [chunk.data, checksum.data], offset) != stored:
                    return None
                if google_crc32c.value(chunk) != checksum[0]:
                    return None
                if expected is not None and expected[number] != checksum[0]:
                    return None
        except (OSError, OverflowError):
            return None
        finally:
            os.close(file)
        return values

    def _read_index(self, file: int) -> np.ndarray | None:
        """Offset and size of each chunk of a shard, in bytes."""
        index, checksum = np.empty((self._n_chunks, 2), _INDEX), np.empty(1, _CHECKSUM)
        n_bytes = index.nbytes + checksum.nbytes
        if os.preadv(file, [index.data, checksum.data], os.fstat(file).st_size - n_bytes) != n_bytes:
            return None
        return index if google_crc32c.value(index.view(np.uint8).ravel()) == checksum[0] else None


class RowShardFiles:
    """Shards of responses (time, target), a file each, with the bytes that Zarr would write, but row after row.

    Zarr writes a shard at once or all of it again: 400 MB for the rows of a subject, which must lie ready elsewhere.

    Parameters
    ----------
    folder : Path
        Emptied of what an earlier one wrote.
    n_targets : int

    Attributes
    ----------
    blocks : list of slice
        Targets of each shard.
    """

    def __init__(self, folder: Path, n_targets: int) -> None:
        self.blocks = [
            slice(start, min(start + TARGETS_PER_SHARD, n_targets)) for start in range(0, n_targets, TARGETS_PER_SHARD)
        ]
        width = min(n_targets, TARGETS_PER_SHARD)
        self._files = {block.start: _RowShardFile(folder / str(i), width) for i, block in enumerate(self.blocks)}

    def append(self, block: slice, rows: np.ndarray) -> None:
        """Add rows (time, target) of the targets of one shard.

        Parameters
        ----------
        block : slice
            One of `blocks`.
        rows : array of float32
        """
        self._files[block.start].append(rows)

    def move(self, folder: Path) -> None:
        """Finish the files and move them to the folder of a Zarr array that has them, made if it is not there."""
        folder.mkdir(parents=True, exist_ok=True)
        for file in self._files.values():
            shutil.move(file.finish(), folder)


class _RowShardFile:
    """A shard that is one chunk wide, with the number of rows in it and the checksum of the chunk that is begun."""

    def __init__(self, path: Path, width: int) -> None:
        self._path, self._width, self._n_rows, self._checksum = path, width, 0, 0
        path.write_bytes(b"")

    def append(self, rows: np.ndarray) -> None:
        missing = self._width - rows.shape[1]
        rows = np.pad(rows, ((0, 0), (0, missing)), constant_values=np.nan) if missing else rows
        with self._path.open("ab") as file:
            while len(rows):
                room = ROWS_PER_CHUNK - self._n_rows % ROWS_PER_CHUNK
                part, rows = rows[:room], rows[room:]
                data = part.astype("<f4").tobytes()
                file.write(data)
                self._checksum = google_crc32c.extend(self._checksum, data)
                self._n_rows += len(part)
                if len(part) == room:
                    file.write(np.array(self._checksum, _CHECKSUM).tobytes())
                    self._checksum = 0

    def finish(self) -> Path:
        """Fill the last chunk and write the index."""
        self.append(np.full((-self._n_rows % ROWS_PER_CHUNK, self._width), np.nan, np.float32))
        n_chunks, n_bytes = self._n_rows // ROWS_PER_CHUNK, ROWS_PER_CHUNK * self._width * 4 + _CHECKSUM.itemsize
        index = np.array([(chunk * n_bytes, n_bytes) for chunk in range(n_chunks)], _INDEX).tobytes()
        with self._path.open("ab") as file:
            file.write(index + np.array(google_crc32c.value(index), _CHECKSUM).tobytes())
        return self._path


def _span(at: Any, size: int) -> range:
    found = range(size)[at]
    return found if isinstance(found, range) else range(found, found + 1)
