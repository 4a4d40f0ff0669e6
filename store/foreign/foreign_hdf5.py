"""HDF5 files of features: one data set of all rows, or one per segment in any of the places that labs choose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cinecube.store.base.errors import some_of
from cinecube.store.foreign.foreign_bounds import NUMBERS, as_numbers, look_at, look_at_dataset, unreadable_array, wrong
from cinecube.store.foreign.segment_names import near_name, segment_of

_MOST = 100_000
_SHOWN = 8
_ROW_DIM = 2


@dataclass(frozen=True)
class _Found:
    """A data set with a segment in its place: `movie10/amber01/visual` has the head `movie10` and the tail `visual`."""

    place: str
    name: str
    segment: str
    head: str
    tail: str

    @property
    def template(self) -> str:
        """Its place without the segment."""
        return "/".join(part for part in (self.head, self.tail) if part)


def read_hdf5(
    path: Path, dataset: str | None, segments: Sequence[str], table: Path | None
) -> tuple[np.ndarray | dict[str, np.ndarray], tuple[str, ...]]:
    """Numbers of one data set (row, dim), or of one per segment by their names.

    Parameters
    ----------
    path : Path
    dataset : str, optional
        Place of a data set, of a group with one per segment, or the name of that in each segment's own group.
    segments : sequence of str
        Those of the study; where no place holds one, data sets of one group are taken for segments.
    table : Path, optional
        The table of rows, if all are in one data set.

    Returns
    -------
    values : ndarray or dict of str to ndarray
    said : tuple of str
        What is not read.

    Raises
    ------
    StudyError
        If the file is unreadable, or it cannot be told which of its data sets are meant.
    """
    with open_hdf5(path) as every:
        # Files hold names and dates beside features.
        sets = {place: one for place, one in every.items() if one.dtype.kind in NUMBERS} or every
        chosen = _choose(sets, dataset and dataset.strip("/"), segments, table, str(path))
        if isinstance(chosen, str):
            return _numbers(sets[chosen], f"{path} {chosen}"), ()
        others = [] if dataset else [place for place in sets if place not in chosen.values()]
        said = (f"left out: data sets {some_of(others, _SHOWN)}",) if others else ()
        return {name: _numbers(sets[place], f"{path} {place}") for name, place in chosen.items()}, said


@contextmanager
def open_hdf5(path: Path) -> Iterator[dict[str, Any]]:
    """All data sets of a file by their places, while it is open; those behind soft and external links are left out.

    Parameters
    ----------
    path : Path

    Raises
    ------
    StudyError
        If h5py is missing, or the file is no plain file or cannot be read, as far as its reader goes.
    """
    try:
        import h5py
    except ImportError:
        raise wrong(str(path), "no h5py", "h5py, which reads HDF5", "run `pip install h5py`") from None
    look_at(path)
    try:
        with h5py.File(path, "r") as file:
            yield dict(_data_sets(file))
    except (OSError, RuntimeError, MemoryError, KeyError) as error:  # h5py has no class of its own for damage
        raise unreadable_array(path, error) from None


def _data_sets(file: Any) -> Iterator[tuple[str, Any]]:
    """All data sets by their places; a link could lead to any file on this machine, and a group hold itself."""
    import h5py

    seen, groups, n_found = {hash(file["/"])}, [("", file)], 0
    while groups:
        start, group = groups.pop(0)
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                continue
            node, place = group[name], f"{start}{name}"
            n_found += 1
            if n_found > _MOST:
                raise OSError(f"more than {_MOST} data sets and groups")
            if isinstance(node, h5py.Dataset):
                yield place, node
            elif isinstance(node, h5py.Group) and hash(node) not in seen:
                seen.add(hash(node))
                groups.append((f"{place}/", node))


def _choose(
    sets: Mapping[str, Any], asked: str | None, segments: Sequence[str], table: Path | None, where: str
) -> str | dict[str, str]:
    """The data set of all rows, or a segment's name there -> data set."""
    if not sets:
        raise wrong(where, "no data set", "one of all rows, or one per segment", "correct the path")
    places = _asked_for(sets, asked, segments, where) if asked else list(sets)
    if table is not None:
        if len(places) > 1:
            raise wrong(
                str(table),
                f"a table of rows, and data sets {some_of(places, _SHOWN)}",
                "one that has them all",
                f"add `dataset={places[0]}`, or drop `table=` where each is a segment's",
            )
        return places[0]
    found = _segments_in(places, segments)
    if not found:
        return _by_own_names(places, asked, segments, where)
    _refuse_several(found, sets, where)
    if asked == found[0].place:
        _refuse_one_segment(found[0], _segments_in(list(sets), segments), where)
    return {one.name: one.place for one in found}


def _refuse_one_segment(own: _Found, known: Sequence[_Found], where: str) -> None:
    """Refuse the data set of one segment where others have theirs, and name the option that reads all."""
    others = [one.segment for one in known if one.tail == own.tail and one.segment != own.segment]
    if others:
        option = own.tail or own.head
        do = f"say `dataset={option}`, which reads all" if option else "drop `dataset=`"
        raise wrong(where, f"{own.place}, of {own.segment} alone", f"those of {some_of(others, _SHOWN)} too", do)


def _asked_for(sets: Mapping[str, Any], asked: str, segments: Sequence[str], where: str) -> list[str]:
    """Places that a data set asked for may mean: its own, those below it, or those in each segment's group."""
    known = _segments_in(list(sets), segments)
    places = (
        [place for place in sets if place == asked]
        or [place for place in sets if place.startswith(f"{asked}/")]
        or [one.place for one in known if one.template == asked]
        or [place for place in sets if place.endswith(f"/{asked}")]
    )
    if not places:
        names = dict.fromkeys(one.tail or one.head for one in known if one.template) or sets
        raise wrong(where, f"no data set {asked!r}", f"one of {some_of(list(names), _SHOWN)}", "correct `dataset=`")
    return places


def _segments_in(places: Sequence[str], segments: Sequence[str]) -> list[_Found]:
    found = []
    for place in places:
        parts = place.split("/")
        for number, part in enumerate(parts):
            if segment := segment_of(part, segments):
                found.append(_Found(place, part, segment, "/".join(parts[:number]), "/".join(parts[number + 1 :])))
                break
    return found


def _refuse_several(found: Sequence[_Found], sets: Mapping[str, Any], where: str) -> None:
    """Refuse a segment of several data sets, and name the option that reads one of them."""
    by_segment: dict[str, list[_Found]] = {}
    for one in found:
        by_segment.setdefault(one.segment, []).append(one)
    own = next((own for own in by_segment.values() if len(own) > 1), None)
    by_tail = {one.tail: one for one in found}
    if own is None and len(by_tail) == 1:
        return
    own = own or list(by_tail.values())
    first = next((one for one in own if sets[one.place].ndim == _ROW_DIM), own[0])
    names = [[one.tail for one in own], [one.head for one in own], [one.template for one in own]]
    do = "keep one of them in the file"
    for name, every in zip((first.tail, first.head, first.template), names, strict=True):
        if name and len(set(every)) == len(every):
            do = f"add `dataset={name}`"
            break
    shapes = [f"{one.place} ({', '.join(map(str, sets[one.place].shape or ()))})" for one in own]
    raise wrong(where, f"data sets {some_of(shapes, _SHOWN)}", "one (row, dim) for each segment", do)


def _by_own_names(
    places: Sequence[str], asked: str | None, segments: Sequence[str], where: str
) -> str | dict[str, str]:
    """Data sets whose paths all lack a segment in its place."""
    if len(places) == 1 and (asked is None or asked == places[0]):
        return places[0]
    inner = {place: place.removeprefix(f"{asked}/") if asked else place for place in places}
    parts = list(dict.fromkeys(part for name in inner.values() for part in name.split("/")))
    near = near_name(segments, parts)
    if not segments or (near is None and all("/" not in name for name in inner.values())):
        return {name: place for place, name in inner.items() if "/" not in name} or places[0]
    raise wrong(
        where,
        f"data sets {some_of(list(inner.values()), _SHOWN)}",
        f"segments in their names: {some_of(segments, _SHOWN)}",
        near[1] if near else f"add `table=`, and `dataset={places[0]}`, if that has the rows of all segments",
    )


def _numbers(dataset: Any, where: str) -> np.ndarray:
    look_at_dataset(dataset, where)
    # Nothing is read of other types to say so.
    return as_numbers(dataset[()] if dataset.dtype.kind in NUMBERS else np.empty(0, dataset.dtype), where)
