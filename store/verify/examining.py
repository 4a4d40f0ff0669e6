"""A cube by its own files: does all of it decode, and does it say what a writer would."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cinecube.store.base.errors import StudyError
from cinecube.store.cube.checksums import OTHER, Checksums
from cinecube.store.cube.plainness import older_format
from cinecube.store.cube.schema import DIMS, refuse_unknown
from cinecube.store.verify.cube_files import (
    ROOT,
    UNGATHERED,
    Chunk,
    Contents,
    Fault,
    Stored,
    codec_said,
    read_contents,
    strays,
)
from cinecube.store.verify.cube_labels import NO_CHECKSUMS, Labels, check_labels

_PER_LAYER = ("depth", "width")


@dataclass(frozen=True)
class Examined:
    """A cube by its own files.

    Attributes
    ----------
    problems : tuple of Fault
    expected : frozenset of str
        The files that it should have.
    opened : frozenset of str
        Arrays whose files were read.
    unopened : frozenset of str
        Arrays whose metadata are broken.
    has_root : bool
        Whether its own metadata, which list the arrays, could be read.
    unplaced : bool
        Whether nothing tells which chunk belongs where.
    """

    problems: tuple[Fault, ...]
    expected: frozenset[str] = frozenset()
    opened: frozenset[str] = frozenset()
    unopened: frozenset[str] = frozenset()
    has_root: bool = True
    unplaced: bool = False

    def is_unread(self, file: str) -> bool:
        """True if no metadata describe a file's array, so that nobody can judge it."""
        array = file.split("/")[0]
        return array in self.unopened or (not self.has_root and array not in self.opened)


def examine(path: Path) -> Examined:
    """Faults that a cube's own files show, whoever recorded it."""
    if not path.is_dir():
        return Examined((Fault("no cube"),))
    if older := older_format(file.name for file in path.iterdir()):
        text = f"Zarr v2 ({older}), saved by another program; ask its owner for a cube as cinecube writes it"
        return Examined((Fault(text, is_damage=False),))
    contents = read_contents(path)
    if newer := _schema_problem(contents):
        return Examined((newer,))
    problems = list(contents.problems)
    chosen: dict[str, Stored] = {}
    values: dict[str, np.ndarray] = {}
    expected = {ROOT}
    others = [Fault(f"{ROOT} is not as it was written", (ROOT,))] if contents.altered else []
    # The labels first: they say which shards there must be.
    for name in sorted(contents.arrays, key=lambda name: not _is_label(name, contents)):
        expected.add(f"{name}/{ROOT}")
        tried = [_Reading(stored, values, contents.checksums) for stored in contents.arrays[name]]
        if not tried:
            continue
        best = min(tried, key=lambda reading: len(reading.problems))
        problems += best.problems
        others += best.others
        expected |= best.files
        chosen[name] = best.stored
        if best.whole is not None:
            values[name] = best.whole
    if contents.attrs is not None:
        problems += _label_problems(Labels(contents.attrs, chosen, values), frozenset(contents.arrays))
    if contents.attrs is not None and _all_open(contents):
        problems += [Fault(f"{file} is no part of the cube") for file in strays(path, expected)]
    named = {file for problem in problems for file in problem.files}
    problems += [other for other in others if not named.issuperset(other.files)]
    problems = _saved_again(problems, contents)
    placed = contents.checksums.layouts.keys() if contents.checksums else frozenset()
    unopened = frozenset(name for name, tried in contents.arrays.items() if not tried)
    return Examined(
        tuple(problems),
        frozenset(expected),
        frozenset(chosen),
        unopened,
        has_root=contents.attrs is not None,
        unplaced=not contents.altered and not chosen.keys() <= placed,
    )


def _saved_again(problems: list[Fault], contents: Contents) -> list[Fault]:
    """One line for all that a cube lacks which another program saved: its arrays are whole, and nothing guards them."""
    lacking = [problem for problem in problems if problem.text.endswith(NO_CHECKSUMS)]
    if contents.checksums or contents.altered or not lacking or len(lacking) < len(contents.arrays):
        return problems
    ungathered = [problem for problem in problems if problem.text == f"{ROOT} {UNGATHERED}"]
    lacks = ["checksums (crc32c)", "the list of which chunk belongs where", *(["gathered metadata"] * len(ungathered))]
    line = f"saved again by xarray or another program: lacks {', '.join(lacks[:-1])} and {lacks[-1]}, so that damage "
    line += "cannot be told; ask its owner for the cube as cinecube wrote it"
    others = [problem for problem in problems if problem not in lacking and problem not in ungathered]
    return [*others, Fault(line, is_damage=False)]


def _label_problems(labels: Labels, lost: frozenset[str]) -> list[Fault]:
    try:
        return check_labels(labels, lost)
    except Exception as error:  # metadata that contradict each other give arrays of any shape and type
        return [Fault(f"labels cannot be judged ({codec_said(error)})", (ROOT,))]


def _all_open(contents: Contents) -> bool:
    return all(contents.arrays.values())


def _schema_problem(contents: Contents) -> Fault | None:
    """The reason that the rest of a cube cannot be judged: whole metadata of a schema that is unknown here."""
    if contents.attrs is None:
        return None
    try:
        refuse_unknown(contents.attrs.get("schema"), "")
    except StudyError as error:
        return Fault(f"found {error.found}, expected {error.expected}; {error.do}", (ROOT,))
    return None


def _is_label(name: str, contents: Contents) -> bool:
    return name in _PER_LAYER or all(stored.array.ndim == 1 for stored in contents.arrays[name])


class _Reading:
    """All chunks of an array, by one description of it.

    Attributes
    ----------
    problems : list of Fault
    others : list of Fault
        Chunks that are whole and not those that were written; what they hold may say more.
    files : set of str
        Those that it should have.
    whole : ndarray, optional
        Its values, if it is a label and all of them can be read.
    """

    def __init__(self, stored: Stored, labels: Mapping[str, np.ndarray], checksums: Checksums | None) -> None:
        self.stored, self._labels, self._checksums = stored, labels, checksums
        self.problems: list[Fault] = []
        self.others: list[Fault] = []
        self.files: set[str] = set()
        self.whole: np.ndarray | None = None
        self._is_features = stored.name == "features" and stored.dims == DIMS["features"]
        label = stored.array.ndim == 1 or stored.name in _PER_LAYER
        whole = np.empty(stored.array.shape, stored.array.dtype) if label else None
        for chunk in stored.chunks():
            if self._is_absent(chunk):
                continue
            self.files.add(chunk.file)
            self._judge(chunk)
            if whole is not None and chunk.values is not None:
                whole[chunk.region] = chunk.values
        if not self.problems:
            self.whole = whole

    def _widths(self, chunk: Chunk) -> np.ndarray | None:
        """Widths of the layers in a shard, (model, layer)."""
        width = self._labels.get("width")
        if not self._is_features or width is None or width.shape != self.stored.array.shape[2:]:
            return None
        return width[chunk.region[2:]]

    def _is_absent(self, chunk: Chunk) -> bool:
        """True if there must be no such shard, or nobody can say."""
        widths = self._widths(chunk)
        if widths is None:
            return self._is_features and chunk.values is None and not chunk.fault
        return not (widths > 0).any()

    def _judge(self, chunk: Chunk) -> None:
        label = self._name(chunk)
        misplaced = (
            self._checksums.misplaced(self.stored.path, chunk.file)
            if chunk.values is not None and self._checksums
            else ""
        )
        if chunk.fault:
            self._tell(f"{label}: damaged {chunk.file} ({chunk.fault})", chunk)
        elif chunk.values is None:
            noun = "no shard of" if self._is_features else "no chunk of"
            self._tell(f"{noun} {label}: {chunk.file} is missing", chunk)
        elif misplaced and misplaced != OTHER:
            self._tell(f"{label}: {chunk.file} holds {misplaced}", chunk)
        elif self._is_features:
            self._judge_features(chunk, label)
        elif self.stored.name == "bold" and not np.isfinite(chunk.values).all():
            bad = int((~np.isfinite(chunk.values)).sum())
            self._tell(f"{label}: {bad} values are NaN or infinite ({chunk.file})", chunk)
        if misplaced == OTHER:
            self.others.append(Fault(f"{label}: {chunk.file} holds {OTHER}", (chunk.file,)))

    def _judge_features(self, chunk: Chunk, label: str) -> None:
        widths, values = self._widths(chunk), chunk.values
        if widths is None or values is None or values.dtype.kind != "f":
            return
        inside = np.arange(chunk.region[1].start, chunk.region[1].start + values.shape[1])
        real = inside[:, None, None] < widths
        if bad := int((~np.isfinite(values) & real).sum()):
            self._tell(f"{label}: {bad} values inside the width are NaN or infinite ({chunk.file})", chunk)
        if (~np.isnan(values) & ~real).any():
            self._tell(f"{label}: values past the width of {widths.max()} ({chunk.file})", chunk)

    def _tell(self, text: str, chunk: Chunk) -> None:
        self.problems.append(Fault(text, (chunk.file,)))

    def _name(self, chunk: Chunk) -> str:
        """Contents of a chunk in words: the array, and the labels that all its values share."""
        words = [] if self._is_features else [self.stored.name]
        for dim, part in zip(self.stored.dims, chunk.region, strict=False):
            known = self._labels.get(dim)
            if dim in ("subject", "model", "layer") and dim != self.stored.name and part.stop - part.start == 1:
                words.append(str(known[part.start]) if known is not None and part.start < len(known) else dim)
        return " ".join(words)
