"""Dense series of fMRIPrep: CIFTI files of grayordinates, `space-fsLR_den-91k_bold.dtseries.nii`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.cifti2.cifti2 import Cifti2Image
from nibabel.cifti2.cifti2_axes import BrainModelAxis, SeriesAxis

from cinecube.store.base.errors import StudyError
from cinecube.store.base.input_files import cannot_read, check_file
from cinecube.store.base.labels import entities_of
from cinecube.store.inputs.content import is_here
from cinecube.store.params.document import BrainParams
from cinecube.store.scans.bids import confounds_table, refuse_volume_keys, repetition_s, sidecars_of
from cinecube.store.scans.showings import find_showings
from cinecube.store.scans.source import BLOCK_BYTES, RunBlocks, ScanRun, ScanTiming
from cinecube.store.spaces.brain_models import places_of_models
from cinecube.store.spaces.space import Places

_DENSITY = "91k"
_CODE = 32  # of the extension of NIfTI that CIFTI is
_SERIES = re.compile(rb'<MatrixIndicesMap\b[^>]*"CIFTI_INDEX_TYPE_SERIES"[^>]*>')
_ATTRIBUTE = re.compile(rb'(\w+)="([^"]*)"')
_METADATA = re.compile(rb"<MetaData\b[^>]*(?:/>|>.*?</MetaData>)", re.DOTALL)
_PREFIX = "CIFTI_STRUCTURE_"


class DenseSeries:
    """A subject's grayordinates; see `ScanSource`.

    Parameters
    ----------
    params : BrainParams
    subject : str
    files : sequence of Path
        All dense series, of whatever density.

    Raises
    ------
    StudyError
        If none is of 91k grayordinates, or the study asks for what only volumes have.
    """

    def __init__(self, params: BrainParams, subject: str, files: Sequence[Path]) -> None:
        refuse_volume_keys(params, "grayordinates")
        density = {path: entities_of(path.name).get("den", _DENSITY) for path in files}
        self._files = [path for path in files if density[path] == _DENSITY]
        if not self._files:
            raise StudyError(
                where=f"{subject} in {params.path}",
                found=f"dense series with den-{', den-'.join(sorted(set(density.values())))}",
                expected=f"den-{_DENSITY}",
                do=f"run fMRIPrep with --cifti-output {_DENSITY}, or set brain.space to another space",
            )
        self.subject, self._params = subject, params
        self.tasks = sorted({entities_of(path.name).get("task", "") for path in self._files})
        # Of each its facts alone: 61 lists of grayordinates would be a gigabyte.
        self._open = cache(partial(_open_series, known={}))

    def runs(self, segments: Sequence[str]) -> list[ScanRun]:
        """All showings of these segments that there are."""
        return find_showings(self._files, self.subject, segments, self._params.tasks, self._params.choose)

    def files(self, run: ScanRun) -> list[Path]:
        """Series, sidecars and confounds of a run."""
        table = self.confounds(run)
        return [run.path, *sidecars_of(run.path), *([table] if table else [])]

    def timing(self, run: ScanRun) -> ScanTiming:
        """Number of volumes and the time between them.

        Raises
        ------
        StudyError
            If header and sidecar differ, or say no such time.
        """
        sidecars = sidecars_of(run.path)
        if sidecars and not all(map(is_here, run.paths)):
            return ScanTiming(None, *repetition_s(run.path, sidecars, None, False))
        series = self._open(run.path)
        known = series.step_s > 0
        return ScanTiming(series.values.shape[0], *repetition_s(run.path, sidecars, series.step_s, known))

    def places(self, runs: Sequence[ScanRun]) -> Places:
        """All grayordinates.

        Raises
        ------
        StudyError
            If a run has others than the first.
        """
        for run in runs[1:]:
            if self._open(run.path).grayordinates != self._open(runs[0].path).grayordinates:
                raise StudyError(
                    where=run.where,
                    found="other grayordinates",
                    expected=f"those of {runs[0].where}",
                    do="use one fMRIPrep output for all runs",
                )
        return places_of_models(_load(runs[0].path)[2], f"fsLR-{_DENSITY}")

    def values(self, run: ScanRun, places: Places) -> RunBlocks:
        """Values of a run, some grayordinates at a time: the file has the whole course of each together.

        Parameters
        ----------
        run : ScanRun
        places : Places
            Some of `places`.

        Yields
        ------
        volumes, places : slice
            All volumes each time.
        values : array of float32, shape (volume, place)

        Raises
        ------
        StudyError
            If the file cannot be read.
        """
        series = self._open(run.path).values
        n_volumes, n_rows = series.shape
        step = max(1, BLOCK_BYTES // (4 * n_volumes))
        for start in range(0, n_rows, step):
            first, last = np.searchsorted(places.index, [start, start + step])
            if first == last:
                continue
            try:
                values = np.asarray(series[:, start : start + step], dtype=np.float32)
            except (OSError, ValueError) as error:
                raise cannot_read(run.path, error, "a whole dense series", "fetch it again") from error
            # Transposed, as the file has them: whole courses are copied, not numbers one by one.
            yield slice(0, n_volumes), slice(first, last), values.T[places.index[first:last] - start].T

    def confounds(self, run: ScanRun) -> Path | None:
        """The run's table of confounds."""
        return confounds_table(run.path, run.where)


@dataclass(frozen=True)
class _Series:
    """The parts of an open file that are kept.

    Attributes
    ----------
    values : array proxy (volume, grayordinate)
        Not loaded.
    step_s : float
        Seconds between volumes; 0 if the header does not say it.
    grayordinates : str
        Digest of their axis.
    """

    values: Any
    step_s: float
    grayordinates: str


def _open_series(path: Path, known: dict[bytes, _Models]) -> _Series:
    """An open file; `known` are grayordinates that others were found to have, by the text that describes them."""
    if quick := _with_known_models(path, known):
        return quick
    image, series, places = _load(path)
    step_s = float(series.step) if series.unit == "SECOND" else 0.0
    digest = hashlib.sha256(repr((sorted(places.nvertices.items()), places.volume_shape)).encode())
    for part in ("\n".join(places.name).encode(), places.vertex.tobytes(), places.voxel.tobytes()):
        digest.update(part)
    if places.affine is not None:
        digest.update(np.round(places.affine, 3).tobytes())
    with suppress(Exception):  # a file that is read as a whole alone
        known[_parts(nib.Nifti2Image.from_filename(path))[1]] = _Models(digest.hexdigest(), len(places))
    return _Series(image.dataobj, step_s, digest.hexdigest())


@dataclass(frozen=True)
class _Models:
    """Digest and number of grayordinates."""

    digest: str
    count: int


def _with_known_models(path: Path, known: Mapping[bytes, _Models]) -> _Series | None:
    """An open file whose grayordinates are described as those of another; None where anything else is to be looked at.

    To read 91,282 of them from XML takes nibabel almost half a second a run.
    """
    try:
        image = nib.Nifti2Image.from_filename(path)
        series, models = _parts(image)
        step_s = float(series["SeriesStep"]) * 10.0 ** int(series["SeriesExponent"])
        shape = int(series["NumberOfSeriesPoints"]), known[models].count
    except Exception:  # whatever it is, the whole look at the file says it
        return None
    header, values = image.header, image.dataobj
    assert isinstance(values, ArrayProxy)  # nothing is loaded yet
    kind, needs = header.get_data_dtype(), int(header["vox_offset"])
    is_plain = series.get("AppliesToMatrixDimension") == "0" and kind.kind in "fiu" and image.shape[4:] == shape
    if not is_plain or path.stat().st_size < needs + shape[0] * shape[1] * kind.itemsize:
        return None
    unit = series.get("SeriesUnit")
    return _Series(values.reshape(shape), step_s if unit == "SECOND" else 0.0, known[models].digest)


def _parts(image: nib.Nifti2Image) -> tuple[dict[str, str], bytes]:
    """Attributes of the series in the XML of a dense series, and a digest of all that describes its grayordinates."""
    xml = next((bytes(one.content) for one in image.header.extensions if one.get_code() == _CODE), b"")
    tags = _SERIES.findall(xml)
    if len(tags) != 1:
        raise ValueError("no series, or several")
    attributes = {name.decode(): value.decode() for name, value in _ATTRIBUTE.findall(tags[0])}
    return attributes, hashlib.sha256(_METADATA.sub(b"", xml.replace(tags[0], b""))).digest()


def _load(path: Path) -> tuple[Cifti2Image, SeriesAxis, BrainModelAxis]:
    """A dense series, not loaded, whose file is as long as its header says, and its axes."""
    do = "fetch it again"
    check_file(path, "a dense series", do)
    try:
        image = nib.load(path)
        axes = [image.header.get_axis(number) for number in (0, 1)] if isinstance(image, Cifti2Image) else []
    except Exception as error:  # nibabel and expat raise many kinds for one damaged file
        raise cannot_read(path, error, "a dense series", do) from error
    is_series = len(axes) == 2 and isinstance(axes[0], SeriesAxis) and isinstance(axes[1], BrainModelAxis)
    if not isinstance(image, Cifti2Image) or not is_series:
        found = " by ".join(type(axis).__name__ for axis in axes) or type(image).__name__
        raise StudyError(where=str(path), found=found, expected="volumes by grayordinates", do="fetch a dense series")
    header, kind = image.nifti_header, image.nifti_header.get_data_dtype()
    if image.shape != (len(axes[0]), len(axes[1])) or kind.kind not in "fiu":
        found = f"{kind} of shape {image.shape}"
        expected = f"real numbers of shape ({len(axes[0])}, {len(axes[1])}), as its axes say"
        raise StudyError(where=str(path), found=found, expected=expected, do=do)
    needs = int(header["vox_offset"]) + image.shape[0] * image.shape[1] * kind.itemsize
    if path.stat().st_size < needs:
        found, expected = f"{path.stat().st_size:,} bytes", f"{needs:,}, as its header says"
        raise StudyError(where=str(path), found=found, expected=expected, do=do)
    return image, axes[0], axes[1]


def places_of_series(path: Path) -> Places:
    """Grayordinates of a dense series, in its order.

    Parameters
    ----------
    path : Path
        Of one volume or more, whatever its values.

    Raises
    ------
    StudyError
        If it is none, or damaged.
    """
    return places_of_models(_load(path)[2], f"fsLR-{_DENSITY}")
