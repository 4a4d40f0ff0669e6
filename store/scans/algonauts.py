"""Algonauts 2025: averages over 1,000 parcels, a data set of HDF5 for each run of CNeuroMod's films."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cinecube.store.base.errors import StudyError, some_of
from cinecube.store.base.input_files import check_file
from cinecube.store.base.labels import entities_of
from cinecube.store.clock.clock import Clock, same_step
from cinecube.store.foreign.foreign_bounds import NUMBERS, look_at_dataset
from cinecube.store.foreign.foreign_hdf5 import open_hdf5
from cinecube.store.params.document import BrainParams
from cinecube.store.scans.arrays import TARGETS_TABLE, columns_as_places
from cinecube.store.scans.bids import is_there
from cinecube.store.scans.showings import find_showings, task_of
from cinecube.store.scans.source import BLOCK_BYTES, RunBlocks, ScanRun, ScanTiming
from cinecube.store.spaces.label_volumes import schaefer_names
from cinecube.store.spaces.space import Parcels, Places

_log = logging.getLogger(__name__)
_TR_S = 1.49  # of all of CNeuroMod; the files do not tell
_ATLAS = "Schaefer18_1000Parcels7Networks"
# Entities that tell data sets of runs apart from what else a file holds.
_TASK, _SUBJECT = "task", "sub"
_EPISODE = re.compile(r"s\d+e\d+\w*")


@dataclass(frozen=True)
class _Series:
    """A data set (volume, parcel) of a file."""

    path: Path
    place: str
    shape: tuple[int, ...]
    kind: str

    @property
    def where(self) -> str:
        return f"{self.path} {self.place}"


class Algonauts:
    """A subject's data sets of all its files; see `ScanSource`.

    Parameters
    ----------
    params : BrainParams
    root : Path
        The study's folder.
    subject : str
    clock : Clock, optional
        The study's.

    Raises
    ------
    StudyError
        If there is no file of the subject, or one is damaged, hostile or holds a run twice.
    """

    def __init__(self, params: BrainParams, root: Path, subject: str, clock: Clock | None) -> None:
        self.subject, self._params, self._tr_s = subject, params, _TR_S if clock is None else clock.tr_s
        files = hdf5_files(root / params.path, subject)
        self._unfetched = [path for path in files if not path.exists()]
        self._series = _series_by_name([path for path in files if path.exists()], subject)
        self._of_run: dict[tuple[str, int], _Series] = {}
        self._targets = root / params.path / TARGETS_TABLE
        self.tasks = sorted({entities_of(name)[_TASK] for name in self._series})
        if clock is not None and not same_step(self._tr_s, _TR_S):
            _log.warning(
                "%s: clock.tr_s: %g is taken for its files' TR; CNeuroMod's is %g s", subject, self._tr_s, _TR_S
            )
        if clock is not None and params.high_pass_hz > 0:
            _log.warning("%s: Algonauts 2025 is cleaned already; brain.high_pass_hz: 0 leaves it so", subject)

    def runs(self, segments: Sequence[str]) -> list[ScanRun]:
        """All showings of these segments that there are; of files that were not fetched, those that may be in them."""
        names = [Path(name) for name in self._series]
        found = find_showings(names, self.subject, segments, self._params.tasks, self._params.choose)
        self._of_run |= {(run.segment, run.repeat): self._series[run.path.name] for run in found}
        table = (self._targets,) if is_there(self._targets) else ()
        runs = [replace(run, paths=(self._one(run).path, *table)) for run in found]
        tasks = {one: task_of(one, self._params.tasks) for one in segments}
        absent = {segment: self._may_be_in(task) for segment, task in tasks.items() if task not in self.tasks}
        runs += [ScanRun(self.subject, segment, 1, "", files) for segment, files in absent.items() if files]
        return sorted(runs, key=lambda run: segments.index(run.segment))

    def _may_be_in(self, task: str) -> tuple[Path, ...]:
        """Files that were not fetched and may have a task: those of Friends have its episodes, others the rest."""
        is_episode = _EPISODE.fullmatch(task) is not None
        return tuple(path for path in self._unfetched if (entities_of(path.name).get(_TASK) == "friends") == is_episode)

    def _one(self, run: ScanRun) -> _Series:
        return self._of_run[run.segment, run.repeat]

    def files(self, run: ScanRun) -> list[Path]:
        """The file that the run is in, and the table of parcels if there is one."""
        return list(run.paths)

    def timing(self, run: ScanRun) -> ScanTiming:
        """Number of volumes; the clock's step, for files do not tell theirs."""
        one = self._of_run.get((run.segment, run.repeat))
        return ScanTiming(one.shape[0] if one else None, self._tr_s)

    def places(self, runs: Sequence[ScanRun]) -> Places:
        """The parcels, by the names of the challenge's parcellation, or of a table.

        Raises
        ------
        StudyError
            If runs differ in their number, or it is another one and no table names them.
        """
        first = self._one(runs[0])
        for run in runs:
            if self._one(run).shape[1] != first.shape[1]:
                found, expected = f"{self._one(run).shape[1]} parcels", f"{first.shape[1]}, as of {first.place}"
                raise StudyError(where=self._one(run).where, found=found, expected=expected, do="fetch it again")
        if first.shape[1] != len(schaefer_names()) or is_there(self._targets):
            self._places = columns_as_places(self._params.space, first.shape[1], self._targets, first.where)
        else:
            self._places = _schaefer(self._params.space)
        return self._places

    def values(self, run: ScanRun, places: Places) -> RunBlocks:
        """Values of a run at some of the parcels.

        Parameters
        ----------
        run : ScanRun
        places : Places
            Some of `places`.

        Yields
        ------
        volumes, places : slice
        values : array of float32, shape (volume, place)
        """
        one, columns = self._one(run), np.searchsorted(self._places.index, places.index)
        step = max(1, BLOCK_BYTES // (8 * one.shape[1]))
        with open_hdf5(one.path) as sets:
            dataset = sets[one.place]
            for start in range(0, one.shape[0], step):
                with np.errstate(over="ignore"):
                    block = np.asarray(dataset[start : start + step], dtype=np.float32)
                yield slice(start, start + len(block)), slice(0, len(places)), block[:, columns]

    def confounds(self, run: ScanRun) -> Path | None:
        """None: its series are cleaned already."""
        return None


def hdf5_files(folder: Path, subject: str) -> list[Path]:
    """The files of a subject, fetched or not, from the clone's folder or its `fmri`.

    Parameters
    ----------
    folder : Path
    subject : str

    Returns
    -------
    list of Path
        Sorted.

    Raises
    ------
    StudyError
        If there are none.
    """
    for start in (folder, folder / "fmri"):
        files = [path for path in sorted((start / subject / "func").glob("*_bold.h5")) if path.name[0] != "."]
        if other := next((path for path in files if entities_of(path.name).get(_SUBJECT) != subject[4:]), None):
            expected = f"files of {subject} in its folder"
            raise StudyError(where=str(other), found="a file of another subject", expected=expected, do="move it")
        if files:
            return files
    there = sorted({path.parts[-3] for start in ("", "fmri/") for path in folder.glob(f"{start}sub-*/func/*_bold.h5")})
    raise StudyError(
        where=f"{subject} in {folder}",
        found=f"files of {some_of(there, 8)}" if there else "no file of responses",
        expected=f"{subject}/func/*_bold.h5, there or in fmri",
        do="set brain.path to the clone of algonauts_2025.competitors" if not there else "correct brain.subjects",
    )


def _series_by_name(files: Sequence[Path], subject: str) -> dict[str, _Series]:
    """Data sets of runs by their entities as a name of BIDS; keys may be flat, or nested below their session."""
    found: dict[str, _Series] = {}
    for path in files:
        check_file(path, "responses of Algonauts 2025")
        with open_hdf5(path) as sets:
            for place, dataset in sets.items():
                entities = entities_of(f"{place.replace('/', '_')}_bold")
                if _TASK not in entities or entities.get(_SUBJECT, subject[4:]) != subject[4:]:
                    continue
                name = "_".join(f"{key}-{label}" for key, label in entities.items() if key not in ("suffix", _SUBJECT))
                one = _Series(path, place, dataset.shape or (), dataset.dtype.kind)
                _refuse_series(one, found.get(f"{name}_bold"))
                look_at_dataset(dataset, one.where)
                found[f"{name}_bold"] = one
    if files and not found:
        expected = "data sets as ses-001_task-bourne01"
        raise StudyError(where=str(files[0]), found="no data set of a run", expected=expected, do="fetch it again")
    return found


def _refuse_series(one: _Series, other: _Series | None) -> None:
    if one.kind not in NUMBERS or len(one.shape) != 2 or 0 in one.shape:
        found = f"a data set of type {one.kind!r} and shape {one.shape}"
        raise StudyError(where=one.where, found=found, expected="numbers (volume, parcel)", do="fetch it again")
    if other is not None:
        found, do = f"the same run as {other.where}", "keep one of them"
        raise StudyError(where=one.where, found=found, expected="each run once", do=do)


def _schaefer(space: str) -> Places:
    names = np.array(schaefer_names(), dtype=object)
    side = np.array([name[0] for name in names], dtype=object)
    unknown = np.full((len(names), 3), np.nan)
    return Places(Parcels(space, _ATLAS), np.arange(1, len(names) + 1), side, unknown, {"parcel": names})
