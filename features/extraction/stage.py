"""One network reads one film: missing blocks into the journal, then the whole cube into its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cinecube.features.extraction.constant import Telling
from cinecube.features.extraction.film_job import FilmJob, checked_weights, is_current, prepare, refuse_unready_scans
from cinecube.features.extraction.spec import row_window_s, stream_label
from cinecube.store.base.journal import Journal, open_journal
from cinecube.store.base.paths import StudyPaths
from cinecube.store.base.writing import one_writer
from cinecube.store.clock.resampling import resampling_weights
from cinecube.store.cube.cubes import write_feature_cube
from cinecube.store.cube.schema import feature_template, provenance, rows_index
from cinecube.store.open.recorded import take_back
from cinecube.store.params.document import Study

Progress = Callable[[int, int], None]
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
    is_new : bool
        Whether the cube was written now.
    """

    path: Path
    fingerprint: str
    rows: int
    windows: int
    windows_computed: int
    is_new: bool

    def __str__(self) -> str:
        said = f"{self.path.name}: {self.rows} rows"
        if not self.is_new:
            return f"{said}, up to date"
        if self.windows != self.rows:
            said += f" of {self.windows} windows"
        before = self.windows - self.windows_computed
        if before == self.windows:
            return f"{said}, computed before"
        return said + (f", {before} of them from an earlier run" if before else "")


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

    Returns
    -------
    ExtractionSummary

    Raises
    ------
    StudyError
        For every fault of the film, the checkpoint or the parameters, for those of scans that are known without their
        values if anything is to be computed, and if another process writes this cube. What was stored stays as it was.
    """
    job = prepare(study, model, film, root)
    paths = StudyPaths(root)
    path = paths.features(model, film)
    sizes = sum(job.rows.values()), sum(job.windows.values())
    if is_current(job, path):
        return ExtractionSummary(path, job.fingerprint, *sizes, 0, is_new=False)
    with one_writer(paths, path):
        is_back = take_back(paths, {path: job.fingerprint})
        if not is_back:
            refuse_unready_scans([job], root)
        with open_journal(paths.journals, job.spec, paths.relative(path)) as journal:
            if not is_back:
                computed = _fill(job, journal, root, progress)
                _publish(job, journal, path)
            journal.remove()
    if is_back:
        return ExtractionSummary(path, job.fingerprint, *sizes, 0, is_new=False)
    return ExtractionSummary(path, job.fingerprint, *sizes, computed, is_new=True)


def _fill(job: FilmJob, journal: Journal, root: Path, progress: Progress | None) -> int:
    """Compute the blocks that the journal lacks; return how many windows that took."""
    total, done = sum(job.windows.values()), journal.rows_done(job.blocks)
    tell = progress or (lambda done, total: None)
    tell(done, total)
    if done == total:
        return 0
    from cinecube.features.extraction.block_reading import read_blocks  # decoders and networks: not to publish a cube

    def told(n_windows: int) -> None:
        nonlocal done
        done += n_windows
        tell(done, total)

    before = done
    read_blocks(job, checked_weights(job.study, job.model, job.record, root), journal, job.blocks, told)
    return done - before


def _publish(job: FilmJob, journal: Journal, path: Path) -> None:
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


def _weights(job: FilmJob, segment: str) -> Any:
    """Weights (row, window) of a segment's windows in its rows."""
    clock, ticks, reading = job.study.clock, job.ticks, job.reading
    return resampling_weights(
        reading.resample,
        ticks.onsets_s(job.windows[segment]),
        reading.window_s,
        clock.onsets_s(job.rows[segment]),
        clock.window_s,
    )
