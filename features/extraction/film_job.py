"""Jobs of extraction: one network and one film, checked before the network is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cinecube.features.extraction.checkpoint import find_checkpoint, weights_digest
from cinecube.features.extraction.record import Record, read_record, stale
from cinecube.features.extraction.spec import make_reading, make_spec
from cinecube.features.films.probed import probed
from cinecube.features.films.segment import SegmentInfo
from cinecube.features.films.stimuli import find_segments
from cinecube.features.networks import READING_VERSION
from cinecube.features.networks.network import Reading
from cinecube.features.networks.registry import network_version
from cinecube.store.base.errors import StudyError
from cinecube.store.base.fingerprint import fingerprint
from cinecube.store.base.journal import Block, journal_rows, row_blocks
from cinecube.store.base.paths import PARAMS_FILE, StudyPaths
from cinecube.store.clock.clock import Clock
from cinecube.store.cube.cubes import open_cube
from cinecube.store.cube.schema import merged_layers
from cinecube.store.inputs.content import Digests
from cinecube.store.params.document import Study


@dataclass(frozen=True)
class FilmJob:
    """One network and one film, checked.

    Attributes
    ----------
    study : Study
    model, film : str
    record : Record
        Of the network's checkpoint.
    reading : Reading
    infos : Mapping of str to SegmentInfo
        Segments by name.
    spec : Mapping
        What the cube's fingerprint hashes.
    """

    study: Study
    model: str
    film: str
    record: Record
    reading: Reading
    infos: Mapping[str, SegmentInfo]
    spec: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the cube."""
        return fingerprint(self.spec)

    @property
    def rows(self) -> dict[str, int]:
        """Rows of each segment."""
        return {segment: self.study.clock.n_rows(info.duration_s) for segment, info in self.infos.items()}

    @property
    def ticks(self) -> Clock:
        """Clock of the windows: that of the rows, or a finer one."""
        return Clock(tr_s=self.reading.stride_s or self.study.clock.tr_s, window_s=self.reading.window_s)

    @property
    def windows(self) -> dict[str, int]:
        """Windows of each segment."""
        return {segment: self.ticks.n_rows(info.duration_s) for segment, info in self.infos.items()}

    @property
    def blocks(self) -> list[Block]:
        """Blocks of windows of all segments."""
        return row_blocks(self.windows, self.study.run.block_rows)

    @property
    def labels(self) -> list[str]:
        """Layers of the cube."""
        return merged_layers(self.reading.streams)


def prepare(study: Study, model: str, film: str, root: Path, digests: Digests | None = None) -> FilmJob:
    """Check all of a job that can be checked before its weights are read.

    Parameters
    ----------
    study : Study
    model, film : str
        Names in `params.yaml`.
    root : Path
        The study's folder.
    digests : Digests, optional
        Shared by many jobs.

    Returns
    -------
    FilmJob

    Raises
    ------
    StudyError
        For every fault of the film, the checkpoint's record or the parameters.
    """
    record = read_record(study, model, root)
    reading = make_reading(study, model, record)
    segments = find_segments(study, film, root)
    known = digests or Digests(root)
    sha256 = {segment: known.sha256(path) for segment, path in segments.items()}
    if digests is None:
        known.keep()
    infos = {segment: probed(path, root, sha256[segment]) for segment, path in segments.items()}
    for info in infos.values():
        if reading.frames_per_window and not info.n_frames:
            raise StudyError(
                where=info.where,
                found="no picture",
                expected=f"one, which {record.extractor} reads",
                do=f"take {model} out of `compute.models`, or a film without a picture out of `compute.films`",
            )
        if reading.rate_hz and not info.has_sound:
            raise StudyError(
                where=info.where,
                found="no sound track",
                expected=f"sound, which {record.extractor} reads",
                do=f"take {model} out of `compute.models`, or a film without sound out of `compute.films`",
            )
    read = {segment: info.tracks.choices for segment, info in infos.items()}
    return FilmJob(study, model, film, record, reading, infos, make_spec(study, model, record, sha256, read))


def checked_weights(study: Study, model: str, record: Record, root: Path) -> Path:
    """Folder of a checkpoint, or its file, if it still holds what the record says.

    Parameters
    ----------
    study : Study
    model : str
    record : Record
    root : Path
        The study's folder.

    Returns
    -------
    Path

    Raises
    ------
    StudyError
        If the weights or the network's code are others.
    """
    params = study.model(model).model_copy(update={"revision": record.revision})
    folder, _ = find_checkpoint(model, params, root)
    where = StudyPaths(root).relative(StudyPaths(root).checkpoint(model))
    versions = (network_version(record.extractor, f"{PARAMS_FILE}: models.{model}.extractor"), READING_VERSION)
    if versions != (record.extractor_version, record.reading_version):
        recorded = f"{record.extractor_version}.{record.reading_version}"
        raise stale(where, f"a record by version {recorded} of {record.extractor}", "version {}.{}".format(*versions))
    digest = weights_digest(folder, record.untrained, StudyPaths(root).relative(folder))
    if digest != record.weights_digest:
        raise stale(
            where,
            f"a record of other weights ({record.weights_digest[:12]}…)",
            f"{digest[:12]}…, those in {folder}",
        )
    return folder


def refuse_unready_scans(jobs: Sequence[FilmJob], root: Path) -> None:
    """Refuse scans that no brain cube could be made of, if these jobs have something to compute: that takes hours.

    Parameters
    ----------
    jobs : sequence of FilmJob
        Of one study.
    root : Path
        The study's folder.

    Raises
    ------
    StudyError
        As of `refuse_unready`.
    """
    journals = StudyPaths(root).journals
    if all(journal_rows(journals, job.spec) == sum(job.windows.values()) for job in jobs):
        return
    from cinecube.store.ready.ready_scans import refuse_unready  # nibabel: not to publish a cube

    refuse_unready(jobs[0].study, root, {segment: rows for job in jobs for segment, rows in job.rows.items()})


def is_current(job: FilmJob, path: Path) -> bool:
    """True if the cube at `path` is whole and of this job.

    Parameters
    ----------
    job : FilmJob
    path : Path

    Returns
    -------
    bool
    """
    if not path.exists():
        return False
    try:
        with open_cube(path) as cube:
            return bool(cube.attrs.get("fingerprint") == job.fingerprint)
    except StudyError:
        return False
