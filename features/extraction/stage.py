"""One network reads one film: missing blocks into the journal, then the whole cube into its place."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cinecube.features.extraction.checkpoint import find_checkpoint, weights_digest
from cinecube.features.extraction.constant import Telling
from cinecube.features.extraction.record import Record, read_record, stale
from cinecube.features.extraction.spec import make_reading, make_spec, row_window_s, stream_label
from cinecube.features.extraction.windows import BlockBatch, batches, prefetched
from cinecube.features.films.probed import probed
from cinecube.features.films.segment import SegmentInfo
from cinecube.features.films.stimuli import find_segments
from cinecube.features.networks import READING_VERSION
from cinecube.features.networks.network import Extractor, Features, Reading
from cinecube.features.networks.registry import find_network
from cinecube.store.base.errors import StudyError
from cinecube.store.base.fingerprint import file_digest, fingerprint
from cinecube.store.base.journal import Block, Journal, open_journal, row_blocks
from cinecube.store.base.paths import StudyPaths
from cinecube.store.base.writing import one_writer
from cinecube.store.clock.clock import Clock
from cinecube.store.clock.resampling import resampling_weights
from cinecube.store.cube.cubes import open_cube, write_feature_cube
from cinecube.store.cube.schema import feature_template, merged_layers, provenance, rows_index
from cinecube.store.params.document import Study
from cinecube.store.params.run_params import Run

Progress = Callable[[int, int], None]
# Of mallopt(3); glibc would raise the threshold by itself to 32 MiB.
_M_MMAP_THRESHOLD, _LARGE_BYTES = -3, 2**20
_PACKAGES = ("av", "numpy", "torch", "transformers", "xarray", "zarr")


@dataclass(frozen=True)
class ExtractionSummary:
    """Summary of an extraction.

    Attributes
    ----------
    path : Path
        The cube.
    fingerprint : str
        Its fingerprint.
    rows, windows : int
        Its rows, and the windows that they are made of: one each, or more where the stride is shorter.
    windows_computed : int
        How many of them were computed now; the others were in the journal, or the cube was up to date.
    """

    path: Path
    fingerprint: str
    rows: int
    windows: int
    windows_computed: int

    def __str__(self) -> str:
        said = f"{self.path.name}: {self.rows} rows"
        if self.windows_computed == 0:
            return f"{said}, up to date"
        if self.windows != self.rows:
            said += f" of {self.windows} windows"
        before = self.windows - self.windows_computed
        return said + (f", {before} of them from an earlier run" if before else "")


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
    sizes = sum(job.rows.values()), sum(job.windows.values())
    if _is_current(path, job.spec):
        return ExtractionSummary(path, fingerprint(job.spec), *sizes, 0)
    with one_writer(paths, path), open_journal(paths.journals, job.spec, paths.relative(path)) as journal:
        computed = _fill(job, journal, progress)
        _publish(job, journal, path)
        journal.remove()
    return ExtractionSummary(path, fingerprint(job.spec), *sizes, computed)


def _prepare(study: Study, model: str, film: str, root: Path) -> _Job:
    """Check everything that can be checked before the network is loaded."""
    record = read_record(study, model, root)
    reading = make_reading(study, model, record)
    segments = find_segments(study, film, root)
    digests = {segment: file_digest(path) for segment, path in segments.items()}
    infos = {segment: probed(path, root, digests[segment]) for segment, path in segments.items()}
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
    weights = _check_weights(study, model, record, root)
    read = {segment: info.tracks.choices for segment, info in infos.items()}
    spec = make_spec(study, model, record, digests, read)
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
    """True if the cube at `path` is whole and of this fingerprint."""
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
    total, done = sum(job.windows.values()), journal.rows_done(job.blocks)
    if progress:
        progress(done, total)
    if not missing:
        return 0
    device = _device(job.study.run)
    extractor = _load(job, device)
    # How sums are ordered depends on what is summed beside them. A CPU is as fast with one row, whose numbers then
    # depend on its own window alone; on a GPU their last bits depend on the batch.
    batch_rows = 1 if device == "cpu" else job.study.run.batch
    items = batches(job.infos, missing, job.ticks, job.reading, extractor.prepare_frame, batch_rows)
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


def _device(run: Run) -> str:
    import torch

    if run.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if run.device.startswith("cuda") and not torch.cuda.is_available():
        raise StudyError(where="run.device", found=run.device, expected="a CUDA device", do="set run.device: auto")
    return run.device


def _load(job: _Job, device: str) -> Extractor:
    import torch

    _give_back_memory()
    torch.set_num_threads(job.study.run.threads)
    reading = make_reading(job.study, job.model, job.record, device)
    return find_network(job.record.extractor, job.model).load(job.weights, reading)


def _give_back_memory() -> None:
    """Let glibc return large arrays to the system at once: its heap would keep several hundred MiB in pieces."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


class _Buffer:
    """A block's values while its batches come in, whatever their order."""

    def __init__(self, block: Block, job: _Job) -> None:
        streams, labels = job.reading.streams, job.labels
        self._places = {
            (stream.name, label): (width, m, labels.index(label))
            for m, stream in enumerate(streams)
            for label, width in zip(stream.layers, stream.widths, strict=True)
        }
        widest = max(width for width, _, _ in self._places.values())
        shape = (block.stop - block.start, widest, len(streams), len(labels))
        self._block, self._where, self._missing = block, job.infos[block.segment].where, shape[0]
        self._tr_s = job.ticks.tr_s
        # Layers outermost: the cube is written layer by layer.
        self.values = np.full(shape, np.nan, dtype=job.spec["dtype"], order="F")

    @property
    def is_full(self) -> bool:
        return self._missing == 0

    def add(self, item: BlockBatch, features: Features) -> None:
        """Put a batch's features in their rows."""
        rows = item.rows - self._block.start
        self._missing -= len(rows)
        for key, (width, m, k) in self._places.items():
            with np.errstate(over="ignore"):
                values = features[key].astype(self.values.dtype)
            bad = ~np.isfinite(values).all(axis=1)
            if bad.any():
                raise StudyError(
                    where=f"{self._where} at {item.rows[bad][0] * self._tr_s:.2f} s",
                    found="features that are NaN or infinite",
                    expected="finite ones",
                    do="check the checkpoint, or use dtype float32",
                )
            self.values[rows, :width, m, k] = values


def _publish(job: _Job, journal: Journal, path: Path) -> None:
    """Write the whole cube from the journal's blocks."""
    clock = job.study.clock
    rows = rows_index({segment: clock.onsets_s(n) for segment, n in job.rows.items()})
    attrs = provenance("features", job.spec, _PACKAGES, licence=job.record.licence)
    streams = [replace(stream, name=stream_label(job.model, stream.name)) for stream in job.reading.streams]
    window_s = row_window_s(job.study, job.reading)
    template = feature_template(rows, window_s, streams, job.spec["dtype"], attrs)
    widths = template["width"].values
    segments = {name: [block for block in job.blocks if block.segment == name] for name in job.rows}
    weights = {name: _weights(job, name) for name in segments} if job.reading.stride_s else {}

    def read_layer(m: int, k: int) -> np.ndarray:
        parts = []
        for name, blocks in segments.items():
            # Opened for each layer: pages of a file that stays mapped count as this process's memory.
            windows = np.concatenate([journal.read(block)[:, : widths[m, k], m, k] for block in blocks])
            parts.append(weights[name] @ windows.astype(np.float32) if weights else windows)
        return np.concatenate(parts)

    telling = Telling(read_layer)
    write_feature_cube(path, template, telling)
    telling.tell(path.stem, template["model"].values, template["layer"].values)


def _weights(job: _Job, segment: str) -> Any:
    """Weights (row, window) of a segment's windows in its rows."""
    clock, ticks, reading = job.study.clock, job.ticks, job.reading
    return resampling_weights(
        reading.resample,
        ticks.onsets_s(job.windows[segment]),
        reading.window_s,
        clock.onsets_s(job.rows[segment]),
        clock.window_s,
    )
