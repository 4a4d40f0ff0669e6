"""The files of a cube one by one: metadata that agree with each other, chunks that decode, and strays."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.storage import LocalStore

from cinecube.store.base.bounded import file_bytes, parse_json
from cinecube.store.base.errors import StudyError, environment_error, first_line
from cinecube.store.cube.checksums import Checksums
from cinecube.store.cube.plain_zarr import PlainStore
from cinecube.store.cube.plainness import MAX_ARRAYS, MAX_METADATA_BYTES, Plainness
from cinecube.store.cube.plainness import ROOT as ROOT

UNGATHERED = "does not gather the metadata of the arrays"
_NAME = re.compile(r"[A-Za-z0-9_]+")


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a cube.

    Attributes
    ----------
    text : str
        What messages say of it.
    files : tuple of str
        Files of the cube that it lies in; none if it is not a matter of files.
    is_damage : bool
        False where a cube is another program's, and may be as that program wrote it.
    """

    text: str
    files: tuple[str, ...] = ()
    is_damage: bool = True

    @property
    def line(self) -> str:
        """The text, with the first of its files."""
        unnamed = self.files and not any(file in self.text for file in self.files)
        return f"{self.text} ({self.files[0]})" if unnamed else self.text


@dataclass(frozen=True)
class Chunk:
    """One file of an array.

    Attributes
    ----------
    file : str
        From the cube's folder.
    region : tuple of slice
        Of the array.
    values : ndarray, optional
        None if it is missing or damaged.
    fault : str
        Why it is damaged; empty if it is missing.
    """

    file: str
    region: tuple[slice, ...]
    values: np.ndarray | None = None
    fault: str = ""


@dataclass(frozen=True)
class Stored:
    """An array of a cube as one of its metadata describe it.

    Parameters
    ----------
    path : Path
        The cube.
    name : str
    array : Array
        Of Zarr.
    """

    path: Path
    name: str
    array: zarr.Array[Any]

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of its axes; empty where it has none."""
        return tuple(str(dim) for dim in getattr(self.array.metadata, "dimension_names", None) or ())

    @property
    def kind(self) -> str:
        """`text`, `float`, `int`, `bool` or what numpy says."""
        letter = self.array.dtype.kind
        return {"T": "text", "O": "text", "U": "text", "f": "float", "i": "int", "u": "int", "b": "bool"}.get(
            letter, str(self.array.dtype)
        )

    @property
    def has_checksums(self) -> bool:
        """True if a flipped byte of a chunk, or of a shard's index, can be found."""
        described: dict[str, Any] = dict(self.array.metadata.to_dict())
        codecs = described.get("codecs", ())
        inner = [codec["configuration"] for codec in codecs if codec["name"] == "sharding_indexed"]
        chains = [part[name] for part in inner for name in ("codecs", "index_codecs")] or [codecs]
        return all(any(codec["name"] == "crc32c" for codec in chain) for chain in chains)

    def files(self) -> list[str]:
        """The files of all its chunks, as long as they are few enough to be a cube's."""
        return [file for file, _ in self._places()]

    def chunks(self) -> Iterator[Chunk]:
        """Its chunks, or shards, read one after another.

        Raises
        ------
        StudyError
            If the machine refused to read; damage is told by the chunk.
        """
        for file, region in self._places():
            if not (self.path / file).is_file():
                yield Chunk(file, region)
                continue
            try:
                yield Chunk(file, region, np.asarray(self.array[region]))
            except Exception as error:  # crc32c, a short shard, a bad index and a bad text raise different classes
                if refused := environment_error(error, str(self.path / file)):
                    raise refused from error
                yield Chunk(file, region, fault=codec_said(error))

    def _places(self) -> Iterator[tuple[str, tuple[slice, ...]]]:
        sizes = self.array.shards or self.array.chunks
        counts = [math.ceil(length / size) for length, size in zip(self.array.shape, sizes, strict=True)]
        for place in itertools.product(*map(range, counts)):
            region = tuple(slice(i * size, (i + 1) * size) for i, size in zip(place, sizes, strict=True))
            yield f"{self.name}/{self.array.metadata.encode_chunk_key(place)}", region


@dataclass
class Contents:
    """Contents of a cube by its metadata.

    Attributes
    ----------
    attrs : dict, optional
        None if the cube's own metadata cannot be read.
    arrays : dict of str to list of Stored
        Every array, once; twice where its own metadata and the cube's disagree.
    problems : list of Fault
    checksums : Checksums, optional
        None if the cube's own metadata list none, or are not as they were written.
    altered : bool
        Whether they are not.
    """

    attrs: dict[str, Any] | None
    arrays: dict[str, list[Stored]] = field(default_factory=dict)
    problems: list[Fault] = field(default_factory=list)
    checksums: Checksums | None = None
    altered: bool = False


def codec_said(error: Exception) -> str:
    """Message of a codec's exception, in one short line."""
    return (error.found if isinstance(error, StudyError) else first_line(error)).split(". Stored")[0]


def read_contents(path: Path) -> Contents:
    """Read all metadata of a cube; each array has its own, and `zarr.json` gathers them."""
    root, fault = _read_json(path / ROOT)
    attrs = root.get("attributes") if root else None
    contents = Contents(attrs if isinstance(attrs, dict) else None)
    if fault:
        contents.problems.append(Fault(f"{ROOT} {fault}", (ROOT,)))
    if root and root.get("zarr_format") != 3:
        contents.problems.append(Fault(f"{ROOT} is of Zarr format {root.get('zarr_format')!r}", (ROOT,)))
    gathered = _gathered(root) if root else None
    if root:
        try:
            contents.checksums = Checksums.read((path / ROOT).read_bytes(), "")
        except StudyError:
            contents.altered = True
    if root and gathered is None:
        contents.problems.append(Fault(f"{ROOT} {UNGATHERED}", (ROOT,)))
    own = {child.name for child in path.iterdir() if child.is_dir() and (child / ROOT).is_file()}
    if len(own | set(gathered or ())) > MAX_ARRAYS:
        contents.problems.append(Fault(f"more than {MAX_ARRAYS} arrays", (ROOT,)))
        return contents
    known = Plainness(str(path))  # of all arrays together
    for name in sorted(own | set(gathered or ())):
        if not _NAME.fullmatch(name):
            contents.problems.append(Fault(f"an array with the name {name!r}", (ROOT,)))
            continue
        _add_array(contents, path, name, gathered, known)
    return contents


def _gathered(root: dict[str, Any]) -> dict[str, Any] | None:
    inner = root.get("consolidated_metadata")
    found = inner.get("metadata") if isinstance(inner, dict) else None
    return found if isinstance(found, dict) else None


def _add_array(contents: Contents, path: Path, name: str, gathered: dict[str, Any] | None, known: Plainness) -> None:
    """Note an array, with what is wrong about its metadata."""
    file, (own, fault) = f"{name}/{ROOT}", _read_json(path / name / ROOT)
    stored, faults = [], []
    opened = _open(path, name, known, gathered=False) if own else "no metadata"
    if isinstance(opened, str):
        faults.append(fault or f"describes no array ({opened})")
    else:
        stored.append(opened)
    differs = gathered is not None and gathered.get(name) != own
    if differs:
        faults = faults or [f"and what {ROOT} says of {name} differ"]
        opened = _open(path, name, known, gathered=True)
        stored += [opened] if isinstance(opened, Stored) else []
    # What disagrees may be wrong in either, unless the cube's are known to be right.
    files = (file, ROOT) if differs and not fault and contents.checksums is None else (file,)
    contents.problems += [Fault(f"{name}: {file} {text}", files) for text in faults]
    contents.arrays[name] = stored


def _open(path: Path, name: str, known: Plainness, *, gathered: bool) -> Stored | str:
    """An array by its own metadata or the cube's, or why there is none."""
    store = PlainStore(LocalStore(path, read_only=True), str(path), known)
    try:
        if gathered:
            array = zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=True)[name]
        else:
            array = zarr.open_array(store, path=name, mode="r", zarr_format=3)
        if not isinstance(array, zarr.Array):
            return "a group"
        stored = Stored(path, name, array)
        next(iter(stored._places()), None)
    except Exception as error:  # a different class for every way in which metadata can be broken
        if refused := environment_error(error, f"{path / name}"):
            raise refused from error
        return codec_said(error)
    return stored


def _read_json(file: Path) -> tuple[dict[str, Any] | None, str]:
    """The object in a JSON file, or what is wrong with it."""
    if not file.is_file():
        return None, "is missing"
    try:
        file_bytes(file, limit=MAX_METADATA_BYTES)
        found = parse_json(file.read_bytes())
    except (ValueError, OSError, StudyError) as error:
        if refused := environment_error(error, str(file)):
            raise refused from error
        return None, f"is damaged ({codec_said(error)})"
    return (found, "") if isinstance(found, dict) else (None, "is damaged (no JSON object)")


def strays(path: Path, expected: Iterable[str]) -> list[str]:
    """Files and links in the cube's folder that are none of its own, sorted; not what file managers leave.

    Parameters
    ----------
    path : Path
        The cube.
    expected : iterable of str
        Its own files, from its root.

    Returns
    -------
    list of str
        From the cube's root.
    """
    known = set(expected)
    found = (file for file in path.rglob("*") if file.is_symlink() or not file.is_dir())
    names = (file.relative_to(path).as_posix() for file in found)
    return sorted(name for name in names if name not in known and not of_file_manager(name))


def of_file_manager(name: str) -> bool:
    """True for names of files that macOS or Windows leaves in every folder that it shows: nobody reads them."""
    last = name.rpartition("/")[2]
    return last.startswith("._") or last in (".DS_Store", "Thumbs.db", "desktop.ini")
