"""One network reads one film: missing blocks into the journal, then the whole cube into its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cinecube.features.checkpoint import find_checkpoint, weights_digest
from cinecube.features.network import READING_VERSION, Extractor, Reading
from cinecube.features.probing import SegmentInfo, probe
from cinecube.features.record import Record, read_record, stale
from cinecube.features.registry import find_network
from cinecube.features.spec import make_reading, make_spec
from cinecube.features.stimuli import find_segments
from cinecube.features.windows import BlockBatch, batches, prefetched
from cinecube.store.cubes import open_cube, write_feature_cube
from cinecube.store.errors import StudyError
from cinecube.store.fingerprint import file_digest, fingerprint
from cinecube.store.journal import Block, Journal, blocks_of, open_journal
from cinecube.store.params import Study
from cinecube.store.paths import StudyPaths
from cinecube.store.schema import feature_template, provenance, rows_index

Progress = Callable[[int, int], None]
_PACKAGES = ("av", "numpy", "torch", "transformers", "xarray", "zarr")


@dataclass(frozen=True)
class ExtractionSummary:
    """What an extraction did.

    Attributes
    ----------
    path : Path
        The cube.
    fingerprint : str
        Its fingerprint.
    rows : int
        Its rows.
    rows_computed : int
        How many of them were computed now; the others were in the journal, or the cube was up to date.
    """

    path: Path
    fingerprint: str
    rows: int
    rows_computed: int

    def __str__(self) -> str:
        if self.rows_computed == 0:
            return f"{self.path.name}: up to date, {self.rows} rows"
        before = self.rows - self.rows_computed
        return f"{self.path.name}: {self.rows} rows" + (f", {before} of them from an earlier run" if before else "")


@dataclass(frozen=True)
class _Job:
    """One network and one film, checked."""

    study: Study
    model: str
    record: Record
    reading: Reading
    infos: Mapping[str, SegmentInfo]
    spec: Mapping[str, Any]
    weights: Path

    @property
    def rows(self) -> dict[str, int]:
        """Rows of each segment."""
        return {segment: self.study.clock.n_rows(info.duration_s) for segment, info in self.infos.items()}

    @property
    def blocks(self) -> list[Block]:
        """Blocks of all segments."""
        return blocks_of(self.rows, self.study.run.block_rows)


def extract_film(
    study: Study, model: str, film: str, root: Path, progress: Progress | None = None
) -> ExtractionSummary:
    """Write the feature cube of one model and one film.

    Parameters
    ----------
    study : Study
        The study.
    model, film : str
        Names in `params.yaml`.
    root : Path
        The study's folder.
    progress : callable, optional
        Called with rows done and rows in all.

    Raises
    ------
    StudyError
        For every fault of the film, the checkpoint or the parameters, and if another process writes this cube.
        What was stored stays as it was.
    """
    job = _prepare(study, model, film, root)
    paths = StudyPaths(root)
    path = paths.features(model, film)
    n_rows = sum(job.rows.values())
    if _is_current(path, job.spec):
        return ExtractionSummary(path, fingerprint(job.spec), n_rows, 0)
    with open_journal(paths.journals, job.spec, paths.relative(path)) as journal:
        computed = _fill(job, journal, progress)
        _publish(job, journal, path)
        journal.remove()
    return ExtractionSummary(path, fingerprint(job.spec), n_rows, computed)


def _prepare(study: Study, model: str, film: str, root: Path) -> _Job:
    """Check everything that can be checked before the network is loaded."""
    paths = StudyPaths(root)
    record = read_record(study, model, root)
    reading = make_reading(study, model, record)
    segments = find_segments(study, film, root)
    infos = {segment: probe(path, paths.relative(path)) for segment, path in segments.items()}
    for info in infos.values():
        if reading.rate_hz and not info.has_sound:
            raise StudyError(
                where=info.where,
                found="no sound track",
                expected=f"sound, which {record.extractor} reads",
                do="use a film with sound, or leave it out of `compute.films`",
            )
    weights = _check_weights(study, model, record, root)
    spec = make_spec(study, model, record, {segment: file_digest(path) for segment, path in segments.items()})
    return _Job(study, model, record, reading, infos, spec, weights)


def _check_weights(study: Study, model: str, record: Record, root: Path) -> Path:
    """The checkpoint's folder, if it still holds what the record says."""
    params = study.model(model).model_copy(update={"revision": record.revision})
    folder, _ = find_checkpoint(model, params, root)
    where = StudyPaths(root).relative(StudyPaths(root).checkpoint(model))
    network = find_network(record.extractor, f"models.{model}.extractor")
    versions = (network.version, READING_VERSION)
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


def _is_current(path: Path, spec: Mapping[str, Any]) -> bool:
    """Whether the cube at `path` is whole and of this fingerprint."""
    if not path.exists():
        return False
    try:
        with open_cube(path) as cube:
            return bool(cube.attrs.get("fingerprint") == fingerprint(spec))
    except StudyError:
        return False


def _fill(job: _Job, journal: Journal, progress: Progress | None) -> int:
    """Compute the blocks that the journal lacks; return how many rows that took."""
    missing = [block for block in job.blocks if not journal.has(block)]
    total, done = sum(job.rows.values()), journal.rows_done(job.blocks)
    if progress:
        progress(done, total)
    if not missing:
        return 0
    extractor = _load(job)
    run = job.study.run
    items = batches(job.infos, missing, job.study.clock, job.reading, extractor.prepare_frame, run.batch)
    computed = 0
    pending: dict[Block, _Buffer] = {}
    with closing(prefetched(items)) as ready:
        for item in ready:
            buffer = pending.setdefault(item.block, _Buffer(item.block, job))
            buffer.add(item, extractor(item.batch))
            computed += len(item.rows)
            if buffer.is_full:
                journal.write(item.block, pending.pop(item.block).values)
            if progress:
                progress(done + computed, total)
    return computed


def _load(job: _Job) -> Extractor:
    import torch

    run = job.study.run
    torch.set_num_threads(run.threads)
    device = run.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise StudyError(where="run.device", found=device, expected="a CUDA device", do="set run.device: auto")
    reading = make_reading(job.study, job.model, job.record, device)
    return find_network(job.record.extractor, job.model).load(job.weights, reading)


class _Buffer:
    """A block's values while its batches come in, whatever their order."""

    def __init__(self, block: Block, job: _Job) -> None:
        streams = job.reading.streams
        shape = (
            block.stop - block.start,
            max(width for stream in streams for width in stream.widths),
            len(streams),
            len(job.spec["layers"]),
        )
        self._block, self._where, self._missing = block, job.infos[block.segment].where, shape[0]
        self._tr_s, self._widths = job.study.clock.tr_s, _widths(job)
        # Layers outermost: the cube is written layer by layer.
        self.values = np.full(shape, np.nan, dtype=job.spec["dtype"], order="F")

    @property
    def is_full(self) -> bool:
        return self._missing == 0

    def add(self, item: BlockBatch, values: np.ndarray) -> None:
        """Put a batch's values (row, dim, model, layer) in their rows."""
        rows = item.rows - self._block.start
        with np.errstate(over="ignore"):
            self.values[rows] = values
        self._missing -= len(rows)
        for m, k in np.argwhere(self._widths > 0):
            bad = ~np.isfinite(self.values[rows, : self._widths[m, k], m, k]).all(axis=1)
            if bad.any():
                raise StudyError(
                    where=f"{self._where} at {item.rows[bad][0] * self._tr_s:.2f} s",
                    found="features that are NaN or infinite",
                    expected="finite ones",
                    do="check the checkpoint, or use dtype float32",
                )


def _widths(job: _Job) -> np.ndarray:
    """Width of each layer of each stream, (model, layer); 0 where a stream lacks a layer."""
    labels: list[str] = job.spec["layers"]
    widths = np.zeros((len(job.reading.streams), len(labels)), dtype=int)
    for m, stream in enumerate(job.reading.streams):
        for label, width in zip(stream.layers, stream.widths, strict=True):
            widths[m, labels.index(label)] = width
    return widths


def _publish(job: _Job, journal: Journal, path: Path) -> None:
    """Write the whole cube from the journal's blocks."""
    clock = job.study.clock
    rows = rows_index({segment: clock.onsets_s(n) for segment, n in job.rows.items()})
    attrs = provenance("features", job.spec, _PACKAGES, licence=job.record.licence)
    template = feature_template(
        rows, clock.window_s, job.reading.streams, job.spec["dtype"], attrs, n_blocks=job.record.n_blocks
    )
    widths = template["width"].values
    blocks = [journal.read(block) for block in job.blocks]

    def read_layer(m: int, k: int) -> np.ndarray:
        return np.concatenate([block[:, : widths[m, k], m, k] for block in blocks])

    write_feature_cube(path, template, read_layer)
