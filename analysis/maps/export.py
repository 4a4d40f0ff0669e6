"""Maps as files of other tools: NIfTI, GIFTI, CIFTI and CSV.

Values are float32. NaN stays NaN and means no value; so does NaN wherever a file has a place that is no target.
`map_targets` says how cubes number their targets.
"""

from __future__ import annotations

import gzip
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import xarray as xr
from nibabel.cifti2.cifti2_axes import BrainModelAxis, ScalarAxis
from nibabel.gifti.gifti import GiftiDataArray, GiftiImage, GiftiMetaData

from cinecube.analysis.maps.map_targets import (
    GRAYORDINATES,
    HEMISPHERES,
    VERTICES,
    Attrs,
    Kind,
    check_hemispheres,
    check_places,
    grid_of,
    kind_of,
    labels_of,
    size_of,
    targets_of,
)
from cinecube.analysis.maps.painting import paint
from cinecube.store.base.atomic import staged
from cinecube.store.base.errors import StudyError, environment_error

_log = logging.getLogger(__name__)

_SUFFIXES: dict[str, Kind | None] = {
    ".nii.gz": "voxels",
    ".func.gii": "vertices",
    ".shape.gii": "vertices",
    ".dscalar.nii": "grayordinates",
    ".csv": None,
}
_INTENTS = {".func.gii": "NIFTI_INTENT_NONE", ".shape.gii": "NIFTI_INTENT_SHAPE"}
_MEANING_OF_NAN = "float32, NaN = no value"


def export_map(
    values: xr.DataArray, cube_attrs: Attrs, to: Path, *, atlas: Path | None = None, reference: Path | None = None
) -> list[Path]:
    """Write a map in the format that the suffix names.

    Parameters
    ----------
    values : DataArray, dims (target,)
        With the coordinates of its cube.
    cube_attrs : Mapping
        Attributes of the cube: `space`, `targets`, and for volumes `affine` and `shape`.
    to : Path
        `.nii.gz` for voxels; `.func.gii` or `.shape.gii` for vertices, which becomes `name.hemi-L.func.gii` and
        `name.hemi-R.func.gii`; `.dscalar.nii` for grayordinates; `.csv` for all.
    atlas : Path, optional
        For a map of parcels, to paint them: the volume (with its table) or the folder of both `*.label.gii`.
    reference : Path, optional
        For `.dscalar.nii`: a CIFTI file with the same grayordinates, such as a run of the scans.

    Returns
    -------
    list of Path
        What was written, each file as a whole.

    Raises
    ------
    StudyError
        If the suffix is unknown or does not suit the space, no target has a value, or something is missing or
        disagrees.
    """
    suffix = _suffix_of(to)
    kind, paths = _suited(suffix, cube_attrs, to, atlas), _paths(to, suffix)
    if atlas is not None and (kind != "parcels" or suffix == ".csv"):
        raise StudyError(
            where=str(atlas),
            found=f"an atlas for {'a table' if suffix == '.csv' else kind}",
            expected="one for parcels alone, which are painted",
            do="leave out --atlas",
        )
    if reference is not None and suffix != ".dscalar.nii":
        raise StudyError(
            where=str(reference),
            found=f"a reference for {suffix}",
            expected="one for .dscalar.nii alone",
            do="leave out --reference",
        )
    if kind == "parcels" and suffix != ".csv" and atlas is not None:
        values = paint(values, cube_attrs, atlas)
    _refuse_empty(values, to)
    contents = _render(values, cube_attrs, to, suffix, reference)
    for path, content in zip(paths, contents, strict=True):
        with staged(path) as partial:
            partial.write_bytes(content)
    return paths


def _refuse_empty(values: xr.DataArray, to: Path) -> None:
    """Refuse a map without any value, and log how many targets of another have none."""
    missing, n_targets = int(np.isnan(values.values).sum()), values.size
    if missing == n_targets:
        raise StudyError(
            where=str(to),
            found=f"a map without a value in any of {n_targets} targets",
            expected="one with values",
            do="choose another map: the log of the stage that made it says what has none",
        )
    if missing:
        _log.info("%d of %d targets have no value, and are NaN", missing, n_targets)


def to_nifti(values: xr.DataArray, cube_attrs: Attrs) -> nib.Nifti1Image:
    """A volume (x, y, z) of a map of voxels, NaN outside its targets.

    Parameters
    ----------
    values : DataArray, dims (target,)
    cube_attrs : Mapping
        `affine` (millimetres) and `shape`.

    Raises
    ------
    StudyError
        If the grid is missing, or targets are not on it.
    """
    affine, shape = grid_of(cube_attrs)
    target = targets_of(values, int(np.prod(shape)))
    check_places(values, nib.affines.apply_affine(affine, np.stack(np.unravel_index(target, shape), axis=1)))
    data = _scattered(values, target, int(np.prod(shape))).reshape(shape)
    image = nib.Nifti1Image(data, affine)
    # 4: a standard brain; 2: aligned to something else, here the subject.
    image.set_sform(affine, code=4 if str(cube_attrs.get("space", "")).startswith("MNI") else 2)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = _MEANING_OF_NAN
    return image


def to_gifti(values: xr.DataArray, cube_attrs: Attrs, intent: str = "NIFTI_INTENT_NONE") -> dict[str, GiftiImage]:
    """Both hemispheres (vertex,) of a map of vertices, by `L` and `R`; NaN outside its targets.

    Parameters
    ----------
    values : DataArray, dims (target,)
        Targets count through both hemispheres, left first.
    cube_attrs : Mapping
        `space`, one of `VERTICES`.
    intent : str
        NIfTI intent of the data.

    Raises
    ------
    StudyError
        If the space is unknown, or targets are not on it or on another hemisphere than `hemi` says.
    """
    n_vertices = size_of(cube_attrs, VERTICES)
    target = targets_of(values, 2 * n_vertices)
    check_hemispheres(values, np.where(target < n_vertices, "L", "R"))
    both = _scattered(values, target, 2 * n_vertices).reshape(2, n_vertices)
    images = {}
    for data, (hemi, structure) in zip(both, HEMISPHERES.items(), strict=True):
        about = GiftiMetaData({"Name": _title(values), "Description": _MEANING_OF_NAN})
        array = GiftiDataArray(data, intent=intent, datatype="NIFTI_TYPE_FLOAT32", meta=about)
        images[hemi] = GiftiImage(darrays=[array], meta=GiftiMetaData({"AnatomicalStructurePrimary": structure}))
    return images


def to_cifti(values: xr.DataArray, cube_attrs: Attrs, reference: nib.Cifti2Image) -> nib.Cifti2Image:
    """A scalar map (1, grayordinate) with the brain models of a reference, NaN outside its targets.

    The order of grayordinates is taken from a file, never from memory: fMRIPrep up to 23.1.1 orders voxels inside
    each structure otherwise than the HCP (niworkflows #814).

    Parameters
    ----------
    values : DataArray, dims (target,)
        Targets are rows of the reference.
    cube_attrs : Mapping
        `space`, one of `GRAYORDINATES`.
    reference : Cifti2Image
        Any image over these grayordinates.

    Raises
    ------
    StudyError
        If the reference has other grayordinates, or its structures or voxels disagree with `hemi` or `x_mm`.
    """
    axis = reference.header.get_axis(reference.ndim - 1)
    expected = size_of(cube_attrs, GRAYORDINATES)
    if not isinstance(axis, BrainModelAxis) or len(axis) != expected:
        raise StudyError(
            where="CIFTI reference",
            found=f"{len(axis)} entries of a {type(axis).__name__}",
            expected=f"{expected} grayordinates of {cube_attrs['space']}",
            do="give a dtseries or dscalar file of the scans' space",
        )
    target = targets_of(values, len(axis))
    sides = {"CIFTI_STRUCTURE_CORTEX_LEFT": "L", "CIFTI_STRUCTURE_CORTEX_RIGHT": "R"}
    check_hemispheres(values, np.array([sides.get(str(name), "") for name in axis.name[target]]))
    if axis.affine is not None:
        places = nib.affines.apply_affine(axis.affine, axis.voxel[target])
        check_places(values, np.where(axis.volume_mask[target, None], places, np.nan))
    data = _scattered(values, target, len(axis))[None]
    image = nib.Cifti2Image(data, (ScalarAxis([_title(values)]), axis))
    image.nifti_header.set_intent("ConnDenseScalar")
    image.nifti_header["descrip"] = _MEANING_OF_NAN
    return image


def to_table(values: xr.DataArray) -> pd.DataFrame:
    """Columns `target`, `hemi`, `parcel`, `value` of a map (target,), in its order; labels as the cube has them."""
    frame = {"target": targets_of(values, None)}
    for name in ("hemi", "parcel"):
        frame[name] = labels_of(values, name)
    return pd.DataFrame({**frame, "value": values.values.astype(np.float32)})


def _suffix_of(to: Path) -> str:
    for suffix in _SUFFIXES:
        if to.name.endswith(suffix) and to.name != suffix:
            return suffix
    raise StudyError(
        where=str(to), found=f"the name {to.name}", expected=f"one ending in {', '.join(_SUFFIXES)}", do="rename it"
    )


def _suited(suffix: str, cube_attrs: Attrs, to: Path, atlas: Path | None) -> Kind:
    """The kind of a map's targets, if they can be written with a suffix."""
    kind, wanted = kind_of(cube_attrs), _SUFFIXES[suffix]
    painted = kind_of({**cube_attrs, "targets": None}) if kind == "parcels" else kind
    possible = [name for name, suited in _SUFFIXES.items() if suited in (None, painted)]
    if kind == "parcels" and (atlas is None or painted == "grayordinates"):
        possible = [".csv"]
    if suffix not in possible:
        paintable = kind == "parcels" and wanted == painted != "grayordinates"
        raise StudyError(
            where=str(to),
            found=f"{suffix} for {kind} of {cube_attrs.get('space', 'an unnamed space')}",
            expected=" or ".join(possible),
            do="give the atlas to paint the parcels with" if paintable else "rename the file",
        )
    return kind


def _paths(to: Path, suffix: str) -> list[Path]:
    stem = to.name.removesuffix(suffix)
    paths = [to.with_name(f"{stem}.hemi-{hemi}{suffix}") for hemi in HEMISPHERES] if suffix in _INTENTS else [to]
    for path in paths:
        if path.is_dir():
            raise StudyError(where=str(path), found="a folder", expected="a file's name", do="choose another")
    return paths


def _render(values: xr.DataArray, cube_attrs: Attrs, to: Path, suffix: str, reference: Path | None) -> list[bytes]:
    """Contents of the files of a map; the same map gives the same bytes."""
    if suffix == ".csv":
        return [to_table(values).to_csv(index=False, lineterminator="\n").encode()]
    if suffix == ".nii.gz":
        return [gzip.compress(to_nifti(values, cube_attrs).to_bytes(), mtime=0)]
    if suffix == ".dscalar.nii":
        return [to_cifti(values, cube_attrs, _open_reference(reference, to)).to_bytes()]
    return [image.to_bytes() for image in to_gifti(values, cube_attrs, _INTENTS[suffix]).values()]


def _open_reference(path: Path | None, to: Path) -> nib.Cifti2Image:
    expected = "a CIFTI file with the grayordinates of the cube"
    if path is None:
        do = "name a dtseries file of the scans: cubes do not record which vertex or voxel a row is"
        raise StudyError(where=str(to), found="no reference", expected=expected, do=do)
    try:
        image = nib.load(path)
    except Exception as error:  # nibabel raises many kinds for one damaged file
        raise environment_error(error, str(path)) or StudyError(
            where=str(path), found=f"an unreadable file ({error})", expected=expected, do="name another"
        ) from error
    if not isinstance(image, nib.Cifti2Image):
        raise StudyError(where=str(path), found=type(image).__name__, expected=expected, do="name another")
    return image


def _scattered(values: xr.DataArray, target: np.ndarray, size: int) -> np.ndarray:
    whole = np.full(size, np.nan, dtype=np.float32)
    whole[target] = values.values
    return whole


def _title(values: xr.DataArray) -> str:
    return "value" if values.name is None else str(values.name)
