"""Length that a film's container states about itself, which shows whether the file is whole."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
# Top-level boxes of MP4 and QuickTime. What is none of them behind the last is a tag or padding, which players skip.
_BOXES = frozenset(
    b"ftyp styp moov mdat moof mfra sidx ssix free skip wide uuid meta pdin prft emsg pnot PICT udta imda".split()
)
_FRAGMENT = b"moof"
# Of ASF, Windows Media's container: its header, and the object in it that holds the length, 40 bytes on.
_ASF, _ASF_PROPERTIES = b"\x30\x26\xb2\x75", bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_HEAD_BYTES = 1 << 16
_UNKNOWN_LENGTHS = (0, 0xFFFFFFFF)


def stated_bytes(path: Path) -> int | None:
    """Bytes that a file must have by its own structure; None if that is not stated.

    Parts of a fragmented film follow each other without a number: where the last one is whole, nothing is stated.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        file.seek(0)
        if head[:4] == _EBML:
            return _matroska_bytes(file)
        if head[4:8] in _BOXES:
            return _mp4_bytes(file, size)
        if head[:4] == b"RIFF":
            return _riff_bytes(file, size)
        if head[:4] == _ASF:
            properties = file.read(_ASF_HEAD_BYTES).partition(_ASF_PROPERTIES)[2]
            return int.from_bytes(properties[24:32], "little") or None  # 0 in a live recording
    return None


def _mp4_bytes(file: BinaryIO, size: int) -> int | None:
    """End of the last top-level box, in bytes."""
    end, fragmented = 0, False
    while end + 8 <= size:
        file.seek(end)
        header = file.read(16)
        length, kind = struct.unpack(">I4s", header[:8])
        if length == 1 and len(header) == 16:
            length = struct.unpack(">Q", header[8:])[0]
        if kind not in _BOXES:
            break
        fragmented = fragmented or kind == _FRAGMENT
        if length < 8:  # 0: to the end of the file; below 8: no box
            end = size
        end += length
    return None if fragmented and end <= size else end


def _riff_bytes(file: BinaryIO, size: int) -> int | None:
    """End of the last chunk of WAVE or of AVI, which has one per gigabyte, in bytes."""
    end = 0
    while end + 8 <= size:
        file.seek(end)
        kind, length = struct.unpack("<4sI", file.read(8))
        if kind != b"RIFF" or length in _UNKNOWN_LENGTHS:
            break
        end += 8 + length
    return end or None


def _matroska_bytes(file: BinaryIO) -> int | None:
    """End of the segment, Matroska's outermost element after its header, in bytes."""
    file.seek(len(_EBML))
    header_length = _read_length(file)
    if header_length is None:
        return None
    file.seek(header_length, 1)
    if file.read(4) != _SEGMENT:
        return None
    length = _read_length(file)
    return None if length is None else file.tell() + length


def _read_length(file: BinaryIO) -> int | None:
    """A variable-length integer; None if it says unknown, as in a live recording."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    n_bytes = 9 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0xFF >> n_bytes)]) + file.read(n_bytes - 1), "big")
    return None if value == (1 << 7 * n_bytes) - 1 else value
