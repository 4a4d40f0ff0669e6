"""Surfaces of fMRIPrep: a GIFTI file of each hemisphere, on fsaverage or fsLR meshes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from xml.parsers import expat

import nibabel as nib
import numpy as np
from nibabel.gifti.gifti import GiftiImage

from cinecube.store.base.errors import StudyError
from cinecube.store.base.input_files import cannot_read, check_file
from cinecube.store.base.labels import entities_of
from cinecube.store.inputs.content import is_here
from cinecube.store.params.document import BrainParams
from cinecube.store.scans.bids import (
    confounds_table,
    is_there,
    mesh_name,
    refuse_volume_keys,
    repetition_s,
    sidecars_of,
)
from cinecube.store.scans.showings import find_showings
from cinecube.store.scans.source import BLOCK_BYTES, RunBlocks, ScanRun, ScanTiming
from cinecube.store.spaces.space import Places, Surface

MESH_VERTICES = {
    "fsaverage5": 10242,
    "fsaverage6": 40962,
    "fsaverage": 163842,
    "fsLR-32k": 32492,
    "fsLR-164k": 163842,
}
"""Vertices of a hemisphere of the meshes that brains are compared on, by their names in cubes."""
_DO = "fetch it again"
_BLOCK_BYTES = 2**16
# Deflate cannot make more of a byte.
_MOST_INFLATED = 1032
# A larger number is in milliseconds, as FreeSurfer writes it.
_MOST_TR_S = 60.0


class Surfaces:
    """A subject's surfaces on one mesh; see `ScanSource`.

    Parameters
    ----------
    params : BrainParams
    subject : str
    files : sequence of Path
        Of both hemispheres.

    Raises
    ------
    StudyError
        If the study asks for what only volumes have.
    """

    def __init__(self, params: BrainParams, subject: str, files: Sequence[Path]) -> None:
        refuse_volume_keys(params, "surfaces")
        self._lefts = sorted({path.with_name(path.name.replace("hemi-R", "hemi-L")) for path in files})
        self.subject, self._params = subject, params
        self.tasks = sorted({entities_of(path.name).get("task", "") for path in files})
        self._header = cache(_read_header)

    def runs(self, segments: Sequence[str]) -> list[ScanRun]:
        """All showings of these segments that there are.

        Raises
        ------
        StudyError
            If one has one hemisphere alone.
        """
        found = find_showings(self._lefts, self.subject, segments, self._params.tasks, self._params.choose)
        runs = []
        for run in found:
            both = (run.path, run.path.with_name(run.path.name.replace("hemi-L", "hemi-R")))
            if absent := [path for path in both if not is_there(path)]:
                there = next(path.name for path in both if path not in absent)
                do = "fetch the other hemisphere"
                raise StudyError(where=run.where, found=f"{there} alone", expected=absent[0].name, do=do)
            runs.append(replace(run, paths=both))
        return runs

    def files(self, run: ScanRun) -> list[Path]:
        """Both hemispheres, sidecars and confounds of a run."""
        table = self.confounds(run)
        return [*run.paths, *(one for path in run.paths for one in sidecars_of(path)), *([table] if table else [])]

    def timing(self, run: ScanRun) -> ScanTiming:
        """Number of volumes and the time between them.

        Raises
        ------
        StudyError
            If both hemispheres differ, or no file says the time.
        """
        sidecars = [one for path in run.paths for one in sidecars_of(path)]
        if sidecars and not all(map(is_here, run.paths)):
            return ScanTiming(None, *repetition_s(run.path, sidecars, None, False))
        left, right = (self._header(path) for path in run.paths)
        if left.n_volumes != right.n_volumes:
            raise StudyError(
                where=run.where,
                found=f"{left.n_volumes} volumes of the left and {right.n_volumes} of the right hemisphere",
                expected="as many of both",
                do="fetch both files of the same run",
            )
        return ScanTiming(left.n_volumes, *repetition_s(run.path, sidecars, left.tr_s, False))

    def places(self, runs: Sequence[ScanRun]) -> Places:
        """All vertices, left first.

        Raises
        ------
        StudyError
            If a run has others than its mesh.
        """
        name = self._mesh(runs[0].path)
        first = tuple(self._header(path).n_vertices for path in runs[0].paths)
        expected = (MESH_VERTICES[name],) * 2 if name in MESH_VERTICES else first
        for run in runs:
            found = tuple(self._header(path).n_vertices for path in run.paths)
            if found != expected or self._mesh(run.path) != name:
                raise StudyError(
                    where=run.where,
                    found=f"{found[0]} and {found[1]} vertices of {self._mesh(run.path)}",
                    expected=f"{expected[0]} and {expected[1]} of {name}",
                    do="fetch the files of one mesh",
                )
        space = Surface(name, (expected[0], expected[1]))
        index = np.arange(space.size)
        return Places(space, index, space.hemi(index), np.full((space.size, 3), np.nan))

    def _mesh(self, path: Path) -> str:
        space = mesh_name(self._params.space)
        return f"fsLR-{entities_of(path.name).get('den', '32k')}" if space == "fsLR" else space

    def values(self, run: ScanRun, places: Places) -> RunBlocks:
        """Values of a run, some volumes of a hemisphere at a time.

        Parameters
        ----------
        run : ScanRun
        places : Places
            Some of `places`.

        Yields
        ------
        volumes, places : slice
            Places of one hemisphere each time.
        values : array of float32, shape (volume, place)
        """
        assert isinstance(places.space, Surface)
        start = 0
        for path, n_vertices in zip(run.paths, places.space.vertices, strict=True):
            first, last = np.searchsorted(places.index, [start, start + n_vertices])
            kept = places.index[first:last] - start
            start += n_vertices
            rows = _volumes_of(path, self._header(path))
            step = max(1, BLOCK_BYTES // (4 * n_vertices))
            for at in range(0, len(rows), step):
                block = np.stack([np.asarray(row, dtype=np.float32)[kept] for row in rows[at : at + step]])
                yield slice(at, at + len(block)), slice(first, last), block

    def confounds(self, run: ScanRun) -> Path | None:
        """The run's table of confounds."""
        return confounds_table(run.path, run.where)


@dataclass(frozen=True)
class _Header:
    """The header before the values of a GIFTI file."""

    n_volumes: int
    n_vertices: int
    tr_s: float | None


class _Enough(Exception):
    """The first values begin."""


def _read_header(path: Path) -> _Header:
    """Numbers of volumes and vertices and the time between volumes, read up to the first values."""
    check_file(path, "GIFTI", _DO)
    attributes: dict[str, str] = {}
    texts: list[str] = []

    def start(name: str, found: dict[str, str]) -> None:
        if name in ("GIFTI", "DataArray"):
            attributes.update(found)
        if name == "Data":
            raise _Enough

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.CharacterDataHandler = start, texts.append
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                parser.Parse(block)
    except _Enough:
        pass
    except (OSError, expat.ExpatError) as error:
        raise cannot_read(path, error, "GIFTI", _DO) from error
    try:
        sizes = [int(attributes[f"Dim{number}"]) for number in range(int(attributes["Dimensionality"]))]
        n_arrays = int(attributes["NumberOfDataArrays"])
    except (KeyError, ValueError) as error:
        raise cannot_read(path, error, "GIFTI with data", _DO) from error
    # One array a volume, or one of (vertex, volume).
    n_volumes = n_arrays if len(sizes) == 1 else sizes[1]
    if len(sizes) > 2 or (len(sizes) == 2 and n_arrays > 1) or min(*sizes, n_arrays) < 1:
        found = f"{n_arrays} arrays of {sizes}"
        raise StudyError(where=str(path), found=found, expected="an array of vertices a volume", do="convert it")
    if n_volumes * sizes[0] > path.stat().st_size * _MOST_INFLATED:
        found, do = f"a header of {n_volumes} volumes of {sizes[0]} vertices", _DO
        raise StudyError(where=str(path), found=found, expected="what its bytes can hold", do=do)
    return _Header(n_volumes, sizes[0], _time_step(texts))


def _time_step(texts: Sequence[str]) -> float | None:
    """The value that follows the name TimeStep, in seconds."""
    words = [text.strip() for text in texts if text.strip()]
    try:
        time = float(words[words.index("TimeStep") + 1])
    except (ValueError, IndexError):
        return None
    return time / 1000 if time > _MOST_TR_S else time


def _volumes_of(path: Path, header: _Header) -> list[Any]:
    """Values of each volume (vertex,)."""
    try:
        image = nib.load(path)
        arrays = [one.data for one in image.darrays] if isinstance(image, GiftiImage) else []
    except Exception as error:  # nibabel, expat and zlib raise many kinds for one damaged file
        raise cannot_read(path, error, "GIFTI", _DO) from error
    if len(arrays) == 1 and arrays[0].ndim == 2:
        arrays = list(arrays[0].T)
    if len(arrays) != header.n_volumes or any(one.shape != (header.n_vertices,) for one in arrays):
        found, expected = f"{len(arrays)} volumes", f"{header.n_volumes} of {header.n_vertices} vertices"
        raise StudyError(where=str(path), found=found, expected=f"{expected}, as its header says", do=_DO)
    return arrays
