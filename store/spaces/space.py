"""Spaces as values: a grid of voxels, a surface, grayordinates or parcels, kept in a cube and read from it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from cinecube.store.base.errors import StudyError

Kind = Literal["voxels", "vertices", "grayordinates", "parcels"]
MESHES = {
    "fsaverage3": 642,
    "fsaverage4": 2562,
    "fsaverage5": 10242,
    "fsaverage6": 40962,
    "fsaverage7": 163842,
    "fsaverage": 163842,
    "fsLR-32k": 32492,
}
"""Vertices of one hemisphere; the first ones of a mesh of fsaverage are those of the coarser ones."""
STRUCTURE = "CIFTI_STRUCTURE_"
"""What names of structures begin with in CIFTI files."""
# Of earlier cubes, which do not say the vertex or the voxel of a row.
_UNPLACED = {"fsLR-91k": 91282}
# No grid of a brain has more: the MNI brain at 0.5 mm is 364 × 436 × 364.
_MOST_PLACES = 2**26
_SAME_MM = 1e-3


@dataclass(frozen=True)
class Grid:
    """Voxels of a volume, numbered in C order.

    Attributes
    ----------
    name : str
        BIDS label of the space: `MNI152NLin2009cAsym`, `T1w`.
    shape : tuple of int
        Voxels along i, j and k.
    affine : tuple of tuple of float
        (4, 4), from indices to millimetres.
    """

    kind: ClassVar[Kind] = "voxels"
    name: str
    shape: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]

    @property
    def size(self) -> int:
        """Number of places."""
        return math.prod(self.shape)

    def xyz_mm(self, index: np.ndarray) -> np.ndarray:
        """Centres (place, 3) in millimetres of voxels by flat index (place,)."""
        from nibabel.affines import apply_affine

        ijk = np.stack(np.unravel_index(index, self.shape), axis=1)
        return np.asarray(apply_affine(np.array(self.affine), ijk))


@dataclass(frozen=True)
class Surface:
    """Vertices of both hemispheres of a mesh, left first.

    Attributes
    ----------
    name : str
        The mesh: `fsaverage6`, `fsLR-32k`.
    vertices : tuple of int
        Of the left and of the right hemisphere.
    """

    kind: ClassVar[Kind] = "vertices"
    name: str
    vertices: tuple[int, int]

    @property
    def size(self) -> int:
        """Number of places."""
        return sum(self.vertices)

    def hemi(self, index: np.ndarray) -> np.ndarray:
        """`L` or `R` of vertices by their number through both hemispheres (place,)."""
        return np.where(index < self.vertices[0], "L", "R")


@dataclass(frozen=True)
class Structure:
    """Grayordinates of one structure, which follow each other.

    Attributes
    ----------
    name : str
        As CIFTI has it without `CIFTI_STRUCTURE_`: `CORTEX_LEFT`, `THALAMUS_RIGHT`.
    count : int
        Rows of the file.
    vertices : int
        Of its whole surface; 0 for voxels.
    """

    name: str
    count: int
    vertices: int


@dataclass(frozen=True)
class Grayordinates:
    """Rows of CIFTI files: vertices without the medial wall, then voxels below the cortex.

    The vertex or the voxel of each row is a coordinate of the cube: `vertex`, `i`, `j`, `k`, -1 where it has none.

    Attributes
    ----------
    name : str
        `fsLR-91k`.
    structures : tuple of Structure
        In the order of the rows.
    shape, affine : tuples
        Of the volume to which the voxels belong, as of a `Grid`; empty where there are none.
    """

    kind: ClassVar[Kind] = "grayordinates"
    name: str
    structures: tuple[Structure, ...]
    shape: tuple[int, ...] = ()
    affine: tuple[tuple[float, ...], ...] = ()

    @property
    def size(self) -> int:
        """Number of places."""
        return sum(structure.count for structure in self.structures)

    def structure(self, index: np.ndarray) -> np.ndarray:
        """Names of the structures of rows (place,)."""
        ends = np.cumsum([structure.count for structure in self.structures])
        names = np.array([structure.name for structure in self.structures], dtype=object)
        return np.asarray(names[np.searchsorted(ends, index, side="right")])


@dataclass(frozen=True)
class Parcels:
    """Averages over parcels, known by their names; the space in which they were averaged may differ by subject.

    Attributes
    ----------
    name : str
        Of that space.
    atlas : str
        Name of the parcellation.
    """

    kind: ClassVar[Kind] = "parcels"
    name: str
    atlas: str = ""


Space = Grid | Surface | Grayordinates | Parcels
_KINDS: dict[str, type[Grid | Surface | Grayordinates | Parcels]] = {
    one.kind: one for one in (Grid, Surface, Grayordinates, Parcels)
}


@dataclass(frozen=True)
class Places:
    """Places of a space that a subject's scans have values for.

    Attributes
    ----------
    space : Grid, Surface or Grayordinates
    index : array (place,) of int
        Number of each place in its space, rising.
    hemi : array (place,) of str
        `L`, `R`, or empty where it is neither.
    xyz_mm : array (place, 3)
        NaN where it is not known.
    coordinates : dict of str to array (place,)
        Further labels, such as `structure` and `vertex` of grayordinates.
    """

    space: Space
    index: np.ndarray
    hemi: np.ndarray
    xyz_mm: np.ndarray
    coordinates: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.index)


def places_in(space: Grid | Surface, index: np.ndarray | None = None) -> Places:
    """Places of a grid or of a surface, by their numbers.

    Parameters
    ----------
    space : Grid or Surface
    index : array of int, shape (place,), optional
        Rising; all places by default.

    Returns
    -------
    Places
        Hemispheres of voxels by the sign of x.
    """
    index = np.arange(space.size) if index is None else index
    if isinstance(space, Surface):
        return Places(space, index, space.hemi(index).astype(object), np.full((len(index), 3), np.nan))
    xyz_mm = space.xyz_mm(index)
    return Places(space, index, np.where(xyz_mm[:, 0] < 0, "L", "R").astype(object), xyz_mm)


def space_attrs(space: Space) -> dict[str, str]:
    """Attributes by which a cube keeps its space: its name as `space`, all of it as `place`."""
    described = {"kind": space.kind, **asdict(space)}
    return {"space": space.name, "place": json.dumps(described, sort_keys=True)}


def space_of(attrs: Mapping[str, Any], where: str = "cube") -> Space:
    """The space of a cube, from its attributes; those of earlier versions too.

    Parameters
    ----------
    attrs : Mapping
    where : str
        The cube, for messages.

    Returns
    -------
    Grid, Surface, Grayordinates or Parcels

    Raises
    ------
    StudyError
        If the attributes describe none.
    """
    name = str(attrs.get("space", ""))
    try:
        if "place" in attrs:
            return _parsed(json.loads(attrs["place"]))
        if attrs.get("targets") == "parcels":
            return Parcels(name)
        if name in MESHES:
            return Surface(name, (MESHES[name], MESHES[name]))
        if name in _UNPLACED:
            return Grayordinates(name, (Structure("", _UNPLACED[name], 0),))
        shape, affine = (json.loads(v) if isinstance(v, str) else v for v in (attrs["shape"], attrs["affine"]))
        return _parsed({"kind": "voxels", "name": name, "shape": shape, "affine": affine})
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise StudyError(
            where=where,
            found=f"no usable description of its space {name} ({type(error).__name__}: {error})",
            expected="a grid, a surface, grayordinates or parcels",
            do="run the `brain` stage again",
        ) from error


def _parsed(raw: dict[str, Any]) -> Space:
    """A space from its description, which may hold anything; raises KeyError, TypeError or ValueError."""
    kind = _KINDS[raw.pop("kind")]
    if raw.get("shape"):
        raw["shape"] = _counts(raw["shape"], 3)
        affine = np.array(raw["affine"], dtype=float).reshape(4, 4)
        if not np.isfinite(affine).all():
            raise ValueError("an affine that is not finite")
        raw["affine"] = tuple(map(tuple, affine.tolist()))
    elif kind is Grid:
        raise ValueError("no shape")
    elif "shape" in raw:
        raw["shape"] = raw["affine"] = ()
    if "vertices" in raw:
        raw["vertices"] = _counts(raw["vertices"], 2)
    if "structures" in raw:
        counts = [_counts([one["count"], one["vertices"]], 2, least=0) for one in raw["structures"]]
        names = [str(one["name"]) for one in raw["structures"]]
        raw["structures"] = tuple(Structure(name, *count) for name, count in zip(names, counts, strict=True))
    space = kind(**raw)
    if not isinstance(space, Parcels) and space.size > _MOST_PLACES:
        raise ValueError(f"{space.size} places")
    return space


def _counts(values: Any, n: int, least: int = 1) -> tuple[int, ...]:
    if not isinstance(values, list | tuple) or len(values) != n or min(map(int, values)) < least:
        raise ValueError(f"{str(values)[:60]} where {n} numbers belong")
    return tuple(map(int, values))


def other_space(one: Space, like: Space) -> str | None:
    """Difference between a space and another, in words; None if targets of both may be compared.

    Parameters
    ----------
    one, like : Space
        Parcels are compared by their atlas alone, wherever they were averaged.

    Returns
    -------
    str or None
    """
    if one.kind != like.kind:
        return f"{one.kind} instead of {like.kind}"
    if isinstance(one, Parcels) and isinstance(like, Parcels):
        return (
            None
            if "" in (one.atlas, like.atlas) or one.atlas == like.atlas
            else f"parcels of {one.atlas} instead of {like.atlas}"
        )
    if one.name != like.name:
        return f"{one.name} instead of {like.name}"
    if isinstance(one, Grid) and isinstance(like, Grid):
        return _other_grid(one, like)
    return None if one == like else f"another {one.kind[:-1]} order or number in {one.name}"


def unlike_subjects(where: str, found: str, like: str, name: str) -> StudyError:
    """The error on a subject whose targets are in another space than those of another.

    Parameters
    ----------
    where : str
        The subject, or its cube.
    found : str
        What differs, from `other_space`.
    like, name : str
        The other subject, and its space.

    Returns
    -------
    StudyError
    """
    return StudyError(
        where=where,
        found=found,
        expected=f"the space of {like}, {name}",
        do="bring all subjects to one space, average parcels of one atlas (brain.targets: parcels), or make a study "
        "for each",
    )


def _other_grid(one: Grid, like: Grid) -> str | None:
    from nibabel.affines import apply_affine
    from nibabel.orientations import aff2axcodes

    affine, expected = np.array(one.affine), np.array(like.affine)
    axes = ["".join(aff2axcodes(each)) for each in (affine, expected)]
    if axes[0] != axes[1]:
        return f"axes {axes[0]} instead of {axes[1]}"
    if one.shape != like.shape:
        return f"a grid of {one.shape} instead of {like.shape}"
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in one.shape])).reshape(3, -1).T
    shift_mm = float(np.abs(apply_affine(affine, corners) - apply_affine(expected, corners)).max())
    return None if shift_mm <= _SAME_MM * max(one.shape) else f"a grid that is up to {shift_mm:.3g} mm elsewhere"
