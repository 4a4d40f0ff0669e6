"""Brain cubes: a subject's scans, averaged into parcels, cleaned, standardised per run and labelled."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from cinecube.store.base.atomic import staged
from cinecube.store.base.errors import StudyError, some_of
from cinecube.store.base.fingerprint import raised
from cinecube.store.base.input_files import check_file
from cinecube.store.base.paths import StudyPaths
from cinecube.store.base.writing import one_writer, scratch_folder
from cinecube.store.cleaning.confounds import Confounds, read_confounds
from cinecube.store.cleaning.regression import keeps_drift, n_regressors, standardise_run, taken_out
from cinecube.store.clock.clock import Clock, same_step
from cinecube.store.clock.films_table import read_films_table, rows_by_segment
from cinecube.store.cube.cubes import write_responses
from cinecube.store.cube.schema import provenance, string_coordinate
from cinecube.store.cube.shards import RowShardFiles
from cinecube.store.inputs.content import Digests, refuse_unfetched
from cinecube.store.jobs.tasks import Threads, open_threads, run_jobs
from cinecube.store.params.document import BrainParams, Study
from cinecube.store.scans import VERSION
from cinecube.store.scans.quality import run_quality, tell_of_runs
from cinecube.store.scans.showings import no_scan
from cinecube.store.scans.source import ScanRun, ScanSource
from cinecube.store.scans.sources import open_scans
from cinecube.store.spaces.atlas import atlas_files
from cinecube.store.spaces.space import Grid, Places, space_attrs
from cinecube.store.spaces.targets import Targets, find_targets, places_at, tell_of_parcels

Progress = Callable[[int, int], None]
_log = logging.getLogger(__name__)
# A run that would cost its subject more of the places is refused instead.
_MOST_BAD_PLACES = 0.5
# Targets whose courses stay in the processor's cache.
_CLEANED_AT_ONCE = 512
# Threads that clean; reading takes longer than so many do, and more would only take memory.
_CLEANERS = 4
# Training segments that encoders need of a subject: penalties are chosen on one that was left out.
_LEAST_SEGMENTS = 2


@dataclass(frozen=True)
class CheckedRun:
    """A run whose headers, sidecars and table are right.

    Attributes
    ----------
    run : ScanRun
    confounds : Confounds
    rows : int
        Rows of its segment; later volumes are trimmed.
    regressors : int
        That cleaning takes out.
    """

    run: ScanRun
    confounds: Confounds
    rows: int
    regressors: int

    @property
    def kept_rows(self) -> np.ndarray:
        """Numbers of the rows that the cube has of it."""
        return np.flatnonzero(self.confounds.kept[: self.rows])


def build_brain(study: Study, subject: str, root: Path, progress: Progress | None = None) -> pd.DataFrame:
    """Make one subject's brain cube and table of quality from scans of any source.

    Parameters
    ----------
    study : Study
    subject : str
    root : Path
        The study's folder.
    progress : callable, optional
        Told `(runs done, runs in all)`.

    Returns
    -------
    DataFrame
        One row per run: volumes found, rows expected, trim, temporal SNR, motion and more.

    Raises
    ------
    StudyError
        If the subject lacks all training or all test films, a run is too short, off the clock or damaged, or another
        process makes this cube.
    """
    paths, params = StudyPaths(root), study.brain
    rows = rows_by_segment(read_films_table(paths.films), study.segments(), study.clock)
    source, runs = find_scans(study, subject, root)
    checked, targets = check_scans(study, source, runs, rows, root)
    with (
        one_writer(paths, paths.brain(subject), paths.brain_qc(subject)),
        scratch_folder(paths, f"brain.{subject}") as scratch,
        open_threads(1, at_most=_CLEANERS) as threads,
    ):
        targets, responses, table = _read_runs(source, checked, targets, study, root, scratch, threads, progress)
        table = table.assign(missing_segments=some_of(missing_segments(study, runs), 100) or "none")
        spec = _spec(study, source, checked, root)
        with staged(paths.brain_qc(subject)) as partial:
            table.to_csv(partial, index=False, float_format="%.6g")
            write_responses(paths.brain(subject), _cube_labels(checked, targets, study, spec), responses)
    tell_of_parcels(targets, subject)
    tell_of_runs(table, subject, str(params.confounds), study.clock)
    return table


def find_scans(study: Study, subject: str, root: Path, fetched: bool = True) -> tuple[ScanSource, list[ScanRun]]:
    """A subject's scans of the study's films; logs segments that there is no scan of.

    Parameters
    ----------
    study : Study
    subject : str
    root : Path
        The study's folder.
    fetched : bool
        Whether links to what is not here are refused.

    Returns
    -------
    source : ScanSource
    runs : list of ScanRun

    Raises
    ------
    StudyError
        If there are none in the study's space, the subject lacks all training or all test films, a showing has two
        files, or files were not fetched.
    """
    source = open_scans(study.brain, root, subject, study.clock)
    runs = source.runs(study.segments())
    tell_of_missing(study, source, runs)
    if fetched:
        refuse_unfetched((path for run in runs for path in source.files(run)), root, subject)
    return source, runs


def check_scans(
    study: Study, source: ScanSource, runs: Sequence[ScanRun], rows: Mapping[str, int], root: Path
) -> tuple[list[CheckedRun], Targets]:
    """All that can be refused of a subject's scans before a value of them is read.

    Parameters
    ----------
    study : Study
    source : ScanSource
    runs : sequence of ScanRun
        Not empty, their files here.
    rows : Mapping of str to int
        Segment -> its rows.
    root : Path
        The study's folder.

    Returns
    -------
    checked : list of CheckedRun
    targets : Targets
        Of the cube, if no place is left out for its values.

    Raises
    ------
    StudyError
        As of `check_runs`; if masks or meshes of runs differ, or the atlas does not fit them.
    """
    checked = check_runs(source, runs, study.brain, rows, study.clock)
    return checked, _targets(source.places(runs), study.brain, root, source.subject)


def _targets(places: Places, params: BrainParams, root: Path, subject: str) -> Targets:
    atlas = root / params.atlas if params.atlas else None
    return find_targets(places, atlas, subject, parcels=params.targets == "parcels")


def tell_of_missing(study: Study, source: ScanSource, runs: Sequence[ScanRun]) -> None:
    """Log segments that a subject has no scan of; refuse one who lacks all training or all test films.

    Parameters
    ----------
    study : Study
    source : ScanSource
    runs : sequence of ScanRun
        All that the source has.

    Raises
    ------
    StudyError
        Naming the first segment of these films.
    """
    segments, rule, missing = study.segments(), study.brain.tasks, missing_segments(study, runs)
    for films in (study.split.train, study.split.test):
        asked = study.segments(films)
        if set(asked) <= set(missing):
            raise no_scan(source.subject, asked[0], source.tasks, rule, segments)
    trained = [segment for segment in study.segments(study.split.train) if segment not in missing]
    if len(trained) < min(_LEAST_SEGMENTS, len(study.segments(study.split.train))):
        _log.warning(
            "%s: of the training films there is a scan of %s alone: no scores of it, for %d segments are the least, one"
            " to validate on",
            *(source.subject, trained[0], _LEAST_SEGMENTS),
        )
    if missing:
        error = no_scan(source.subject, missing[0], source.tasks, rule, segments)
        hint = "" if error.do.startswith("fetch") else f"; {error.do}"
        _log.warning(
            "%s: no scan of %s; the brain cube has the other %d of %d segments%s",
            *(source.subject, some_of(missing, 8), len(segments) - len(missing), len(segments), hint),
        )


def missing_segments(study: Study, runs: Sequence[ScanRun]) -> list[str]:
    """Segments of the study that none of a subject's runs is of.

    Parameters
    ----------
    study : Study
    runs : sequence of ScanRun

    Returns
    -------
    list of str
        In the study's order.
    """
    seen = {run.segment for run in runs}
    return [segment for segment in study.segments() if segment not in seen]


def check_runs(
    source: ScanSource, runs: Sequence[ScanRun], params: BrainParams, rows: Mapping[str, int], clock: Clock
) -> list[CheckedRun]:
    """Check headers, sidecars and tables of all runs before the first is read.

    Parameters
    ----------
    source : ScanSource
    runs : sequence of ScanRun
    params : BrainParams
    rows : Mapping of str to int
        Segment -> its rows.
    clock : Clock

    Returns
    -------
    list of CheckedRun
        As many as there are runs, in their order.

    Raises
    ------
    StudyError
        If a run is too short or off the clock, or its table of confounds is wrong.
    """
    checked: list[CheckedRun] = []
    constant: dict[str, int] = {}
    said: list[str] = []
    drifting: list[str] = []
    for run in runs:
        timing = source.timing(run)
        if timing.n_volumes is None:
            check_file(run.path, "a scan")
        n_volumes = timing.n_volumes or 0
        if not same_step(timing.tr_s, clock.tr_s):
            raise StudyError(
                where=run.where,
                found=f"a TR of {timing.tr_s} s",
                expected=f"clock.tr_s: {clock.tr_s}",
                do="set clock.tr_s, or where other runs have another TR give the films of each a study of their own",
            )
        said += [f"{run.where}: {timing.said}"] if timing.said else []
        _check_length(run, n_volumes, rows[run.segment], clock)
        confounds = read_confounds(source.confounds(run), params.confounds, n_volumes, run.where)
        if timing.absent:
            there = np.isin(np.arange(n_volumes), timing.absent, invert=True)
            confounds = replace(confounds, kept=confounds.kept & there)
        taken = _regressors(run, confounds, params, clock, rows[run.segment])
        if keeps_drift(confounds.regressors, n_volumes, params.high_pass_hz, clock.tr_s):
            drifting.append(f"{run.segment} repeat {run.repeat}")
        checked.append(CheckedRun(run, confounds, rows[run.segment], taken))
        for name in confounds.constant:
            constant[name] = constant.get(name, 0) + 1
    if said:
        _log.warning("%s", some_of(said))
    if drifting:
        _log.warning(
            "%s: a confound of %d of %d runs looks like slow drift, so nilearn takes no other drift out of them and "
            "brain.high_pass_hz does nothing there: %s",
            *(source.subject, len(drifting), len(runs), some_of(drifting, 3)),
        )
    for name, count in constant.items():
        _log.warning("%s: %s is constant in %d runs: nothing is taken out by it", runs[0].path.name, name, count)
    return checked


def _check_length(run: ScanRun, n_volumes: int, rows: int, clock: Clock) -> None:
    """Refuse a scan that ends before its film; one that goes on is trimmed."""
    if (rows - n_volumes) * clock.tr_s > clock.max_trim_s:
        raise StudyError(
            where=run.where,
            found=f"{n_volumes} volumes ({n_volumes * clock.tr_s:.1f} s)",
            expected=f"{rows} rows of film, or clock.max_trim_s: {clock.max_trim_s:g} less",
            do="check that scan and film belong together, or raise clock.max_trim_s",
        )


def _regressors(run: ScanRun, confounds: Confounds, params: BrainParams, clock: Clock, rows: int) -> int:
    """Cleaning with as many regressors as volumes leaves rounding, which would be scaled up to a signal."""
    n_volumes, n_kept = len(confounds.kept), int(confounds.kept.sum())
    if confounds.kept[:rows].sum() < 2:
        found, do = "fewer than two volumes of its film that are kept", "set brain.confounds to one that leaves more"
        raise StudyError(where=run.where, found=found, expected="a course over time", do=do)
    taken = n_regressors(confounds.regressors, n_volumes, params.high_pass_hz, clock.tr_s, detrend=params.detrend)
    if taken >= n_kept:
        raise StudyError(
            where=run.where,
            found=f"{taken} regressors for {n_kept} volumes",
            expected="fewer regressors than volumes",
            do="set brain.confounds to one that takes fewer, or leave the segment out of films",
        )
    return taken


def _read_runs(
    source: ScanSource,
    checked: Sequence[CheckedRun],
    targets: Targets,
    study: Study,
    root: Path,
    scratch: Path,
    threads: Threads,
    progress: Progress | None,
) -> tuple[Targets, RowShardFiles, pd.DataFrame]:
    """Shards of all runs' responses and the table of quality; places that are NaN in one run are left out of all."""
    places = targets.places
    bad = np.zeros((len(checked), len(places)), dtype=bool)
    while True:
        responses, quality = RowShardFiles(scratch, len(targets)), []
        is_spoilt = False
        for number, one in enumerate(checked):
            signals, bad_here = read_run(source, one, targets, study.clock)
            bad[number, np.searchsorted(places.index, targets.places.index)] |= bad_here
            is_spoilt |= bool(bad_here.any())
            if not is_spoilt:  # otherwise all runs are read again, at the places that are left
                _write_responses(signals, one, study, responses, threads)
                quality.append(run_quality(one.run, signals, bad[number], one.confounds, one.regressors, one.rows))
            del signals  # or it would stay until the next run is read
            if progress:
                progress(number + 1, len(checked))
        if not is_spoilt:
            break
        left = ~bad.any(axis=0)
        _tell_of_bad(checked, bad, places)
        targets = _targets(places_at(places, np.flatnonzero(left)), study.brain, root, source.subject)
    table = pd.DataFrame(quality)
    return (
        targets,
        responses,
        table.assign(
            lost_parcels=some_of(targets.lost, 100) or "none", shrunk_parcels=some_of(targets.shrunk, 100) or "none"
        ),
    )


def _tell_of_bad(checked: Sequence[CheckedRun], bad: np.ndarray, places: Places) -> None:
    run, place = (int(where[0]) for where in np.nonzero(bad))
    _log.warning(
        "%s: %d %s hold NaN or infinity in %d of %d runs and are left out of all, first %s in %s",
        *(checked[0].run.subject, int(bad.any(axis=0).sum()), places.space.kind),
        *(int(bad.any(axis=1).sum()), len(checked), name_of_place(places, place), checked[run].run.where),
    )


def name_of_place(places: Places, which: int) -> str:
    """A place as its space counts it: `(i, j, k)` of a voxel, otherwise its number.

    Parameters
    ----------
    places : Places
    which : int
        Position among the places.

    Returns
    -------
    str
    """
    number = int(places.index[which])
    if isinstance(places.space, Grid):
        return str(tuple(int(n) for n in np.unravel_index(number, places.space.shape)))
    return str(number)


def read_run(source: ScanSource, one: CheckedRun, targets: Targets, clock: Clock) -> tuple[np.ndarray, np.ndarray]:
    """Raw intensities of one run, averaged into parcels if these are the targets.

    Parameters
    ----------
    source : ScanSource
    one : CheckedRun
    targets : Targets
        Of the subject.
    clock : Clock

    Returns
    -------
    signals : ndarray (time, target)
    bad : ndarray (place,) of bool
        Places with a value that is not finite.

    Raises
    ------
    StudyError
        If whole volumes are not finite, or nothing changes over time.
    """
    run, n_volumes = one.run, len(one.confounds.kept)
    # Means of many voxels differ by less than what float32 keeps of their level.
    kind = np.float32 if targets.weights is None else np.float64
    # The course of each target together, as cleaning reads them and dense series hold them.
    signals = np.zeros((n_volumes, len(targets)), dtype=kind, order="F")
    bad_in_volume, bad = np.zeros(n_volumes, dtype=np.int64), np.zeros(len(targets.places), dtype=bool)
    for volumes, places, values in source.values(run, targets.places):
        finite = np.isfinite(values)
        if not finite.all():
            bad_in_volume[volumes] += (~finite).sum(axis=1)
            bad[places] |= ~finite.all(axis=0)
        if targets.weights is None:
            signals[volumes, places] = values
        else:
            signals[volumes] += (targets.weights[places].T @ values.T).T
    _refuse_bad_volumes(run, bad_in_volume, bad, clock)
    if (np.ptp(signals, axis=0) == 0).all():
        found = "the same value in every volume, throughout the mask"
        raise StudyError(where=run.where, found=found, expected="a signal over time", do="fetch the scan again")
    return signals, bad


def _refuse_bad_volumes(run: ScanRun, bad_in_volume: np.ndarray, bad: np.ndarray, clock: Clock) -> None:
    """Name volumes that are lost as a whole by their time, and those that would cost half of the places."""
    lost, do = (
        np.flatnonzero(bad_in_volume == len(bad)),
        "fetch or preprocess the run again, or move its scan elsewhere",
    )
    if lost.size:
        found = f"{lost.size} volumes of NaN or infinity, first volume {lost[0]} ({lost[0] * clock.tr_s:.1f} s)"
        raise StudyError(where=run.where, found=found, expected="finite intensities", do=do)
    if bad.mean() > _MOST_BAD_PLACES:
        worst = int(bad_in_volume.argmax())
        found = f"NaN or infinity in {int(bad.sum())} of {len(bad)} places, most in volume {worst}"
        raise StudyError(where=run.where, found=found, expected="finite intensities", do=do)


def _write_responses(
    signals: np.ndarray, one: CheckedRun, study: Study, responses: RowShardFiles, threads: Threads
) -> None:
    """Add a run's responses to the cube's shards: cleaned, trimmed to the film and standardised."""
    params, confounds = study.brain, one.confounds
    removed = taken_out(
        confounds.regressors, confounds.kept, params.high_pass_hz, study.clock.tr_s, detrend=params.detrend
    )
    jobs = ((block.start, (signals[:, block], removed, one.kept_rows, responses, block)) for block in responses.blocks)
    for _ in run_jobs(threads, _write_block, jobs, 1):
        pass


def _write_block(
    signals: np.ndarray,
    removed: tuple[np.ndarray, np.ndarray],
    kept_rows: np.ndarray,
    responses: RowShardFiles,
    block: slice,
) -> None:
    """The responses of one shard's targets, of which `signals` are the raw intensities (time, target)."""
    courses, weights = removed
    found = np.empty((len(kept_rows), signals.shape[1]), np.float32)
    for start in range(0, signals.shape[1], _CLEANED_AT_ONCE):
        few = slice(start, start + _CLEANED_AT_ONCE)
        part = signals[:, few].astype(np.float64, order="C")
        level = np.abs(part).max(axis=0)
        part -= courses @ (weights @ part)
        found[:, few] = standardise_run(part[kept_rows], level)
    responses.append(block, found)


def asked_spec(study: Study, subject: str) -> dict[str, Any]:
    """The part of a brain cube's spec that `params.yaml` decides; scans, atlas and lengths of films are the rest.

    Parameters
    ----------
    study : Study
    subject : str

    Returns
    -------
    dict
        Field -> value.
    """
    params = study.brain.model_dump(exclude={"subjects", "repeats", "path", "atlas", "publish"})
    return {"subject": subject, "brain": params, "tr_s": study.clock.tr_s, **raised({"scans": VERSION})}


def _spec(study: Study, source: ScanSource, checked: Sequence[CheckedRun], root: Path) -> dict[str, Any]:
    """Spec of a cube: what is asked for, the digests of all files that are read for it, masks and tables too, and the
    rows of each segment, which scans are trimmed to.
    """
    digests = Digests(root)
    atlas = [digests.of(path) for path in atlas_files(root / study.brain.atlas)] if study.brain.atlas else None
    runs = [one.run for one in checked]
    scans = {f"{run.segment} {run.repeat}": [digests.of(path) for path in source.files(run)] for run in runs}
    digests.keep()
    rows = {one.run.segment: one.rows for one in checked}
    return {**asked_spec(study, source.subject), "atlas": atlas, "scans": scans, "rows": rows}


def _cube_labels(checked: Sequence[CheckedRun], targets: Targets, study: Study, spec: dict[str, Any]) -> xr.Dataset:
    """The cube without its responses."""
    rows = [one.kept_rows for one in checked]
    lengths, runs = [len(part) for part in rows], [one.run for one in checked]
    onsets = [study.clock.onsets_s(one.rows)[part] for one, part in zip(checked, rows, strict=True)]
    space = targets.space
    return xr.Dataset(
        coords={
            "segment": ("time", string_coordinate(np.repeat([run.segment for run in runs], lengths))),
            "repeat": ("time", np.repeat([run.repeat for run in runs], lengths).astype(np.int32)),
            "session": ("time", string_coordinate(np.repeat([run.session for run in runs], lengths))),
            "onset_s": ("time", np.concatenate(onsets)),
            "target": targets.index.astype(np.int64),
            "hemi": ("target", targets.hemi),
            "parcel": ("target", string_coordinate(targets.parcel)),
            **{f"{axis}_mm": ("target", targets.xyz_mm[:, i].astype(float)) for i, axis in enumerate("xyz")},
            **{name: ("target", values) for name, values in targets.coordinates.items()},
        },
        attrs=provenance(
            "brain",
            spec,
            ("nilearn", "nibabel", "numpy"),
            **space_attrs(space),
            **_grid_attrs(targets.places),
            tr_s=study.clock.tr_s,
            targets=space.kind,
            cleaning=json.dumps(spec["brain"], sort_keys=True),
        ),
    )


def _grid_attrs(places: Places) -> dict[str, str]:
    """The grid of volumes, parcels of them too, as cubes have had it from the first."""
    if not isinstance(places.space, Grid):
        return {}
    return {"affine": json.dumps(places.space.affine), "shape": json.dumps(places.space.shape)}
