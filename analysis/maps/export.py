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
    HEMISPHERES,
    Attrs,
    check_hemispheres,
    check_places,
    labels_of,
    targets_of,
)
from cinecube.analysis.maps.painting import find_canvas, paint
from cinecube.store.base.atomic import staged
from cinecube.store.base.errors import StudyError, environment_error
from cinecube.store.spaces.brain_models import PLACE_LABELS, models_of_places
from cinecube.store.spaces.space import STRUCTURE, Grayordinates, Grid, Kind, Surface, space_of

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
        Attributes of the cube, which describe its space.
    to : Path
        `.nii.gz` for voxels; `.func.gii` or `.shape.gii` for vertices, which becomes `name.hemi-L.func.gii` and
        `name.hemi-R.func.gii`; `.dscalar.nii` for grayordinates; `.csv` for all.
    atlas : Path, optional
        For a map of parcels, to paint them: as of `read_atlas`.
    reference : Path, optional
        For `.dscalar.nii`: a CIFTI file with the same grayordinates, such as a run of the scans. Cubes of this version
        need none.

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
    paths = _paths(to, suffix)
    if reference is not None and suffix != ".dscalar.nii":
        raise StudyError(
            where=str(reference),
            found=f"a reference for {suffix}",
            expected="one for .dscalar.nii alone",
            do="leave out `reference=`",
        )
    if suffix == ".csv":
        _refuse_atlas(atlas, "a table")
        contents = [to_table(values).to_csv(index=False, lineterminator="\n").encode()]
    else:
        models = None if reference is None else _open_reference(reference)
        values, cube_attrs = _on_places(values, cube_attrs, to, suffix, atlas, models)
        contents = _render(values, cube_attrs, suffix, models)
    _refuse_empty(values, to)
    for path, content in zip(paths, contents, strict=True):
        with staged(path) as partial:
            partial.write_bytes(content)
    return paths


def _on_places(
    values: xr.DataArray,
    cube_attrs: Attrs,
    to: Path,
    suffix: str,
    atlas: Path | None,
    reference: nib.Cifti2Image | None,
) -> tuple[xr.DataArray, Attrs]:
    """The map itself, or painted if it is one of parcels, where the suffix suits its places."""
    kind = space_of(cube_attrs, str(to)).kind
    if kind != "parcels":
        _refuse_atlas(atlas, kind)
        _refuse_unsuited(suffix, kind, cube_attrs, to)
        return values, cube_attrs
    if atlas is None:
        raise StudyError(
            where=str(to),
            found=f"{suffix} for parcels of {cube_attrs.get('space', 'an unnamed space')}",
            expected=".csv",
            do="give the atlas to paint the parcels with, or rename the file",
        )
    canvas = find_canvas(cube_attrs, atlas, None if reference is None else _models_of(reference))
    _refuse_unsuited(suffix, canvas.space.kind, cube_attrs, to)
    return paint(values, atlas, canvas)


def _refuse_atlas(atlas: Path | None, what: str) -> None:
    if atlas is not None:
        raise StudyError(
            where=str(atlas),
            found=f"an atlas for {what}",
            expected="one for parcels alone, which are painted",
            do="leave out `atlas=`",
        )


def _refuse_unsuited(suffix: str, kind: Kind, cube_attrs: Attrs, to: Path) -> None:
    """Refuse a suffix of other places."""
    possible = [name for name, suited in _SUFFIXES.items() if suited in (None, kind)]
    if suffix not in possible:
        raise StudyError(
            where=str(to),
            found=f"{suffix} for {kind} of {cube_attrs.get('space', 'an unnamed space')}",
            expected=" or ".join(possible),
            do="rename the file",
        )


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
        Of a cube in a volume's space.

    Returns
    -------
    Nifti1Image
        float32, with the affine of the cube's space.

    Raises
    ------
    StudyError
        If the grid is missing, or targets are not on it.
    """
    space = space_of(cube_attrs)
    if not isinstance(space, Grid):
        raise _other_kind(space.kind, "voxels")
    affine, target = np.array(space.affine), targets_of(values, space.size)
    check_places(values, space.xyz_mm(target))
    data = _scattered(values, target, space.size).reshape(space.shape)
    image = nib.Nifti1Image(data, affine)
    # 4: a standard brain; 2: aligned to something else, here the subject.
    image.set_sform(affine, code=4 if space.name.startswith("MNI") else 2)
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
        Of a cube in a surface's space.
    intent : str
        NIfTI intent of the data.

    Returns
    -------
    dict of str to GiftiImage
        float32, by `L` and `R`.

    Raises
    ------
    StudyError
        If the space is unknown, or targets are not on it or on another hemisphere than `hemi` says.
    """
    space = space_of(cube_attrs)
    if not isinstance(space, Surface):
        raise _other_kind(space.kind, "vertices")
    target = targets_of(values, space.size)
    check_hemispheres(values, space.hemi(target))
    both = np.split(_scattered(values, target, space.size), [space.vertices[0]])
    images = {}
    for data, (hemi, structure) in zip(both, HEMISPHERES.items(), strict=True):
        about = GiftiMetaData({"Name": _title(values), "Description": _MEANING_OF_NAN})
        array = GiftiDataArray(data, intent=intent, datatype="NIFTI_TYPE_FLOAT32", meta=about)
        images[hemi] = GiftiImage(darrays=[array], meta=GiftiMetaData({"AnatomicalStructurePrimary": structure}))
    return images


def to_cifti(values: xr.DataArray, cube_attrs: Attrs, reference: nib.Cifti2Image | None = None) -> nib.Cifti2Image:
    """A scalar map (1, grayordinate) with the brain models of its cube, or with those of a reference.

    The order of grayordinates is taken from a file or a cube, never from memory: fMRIPrep up to 23.1.1 orders voxels
    inside each structure otherwise than the HCP (niworkflows #814).

    Parameters
    ----------
    values : DataArray, dims (target,)
        Targets are rows of the files that the cube was made of. With their `vertex`, `i`, `j` and `k` no reference is
        needed; the map then has these rows alone.
    cube_attrs : Mapping
        Of a cube of grayordinates.
    reference : Cifti2Image, optional
        Any image over these grayordinates: the map has all of its rows, NaN where there is no target.

    Returns
    -------
    Cifti2Image
        float32, with one scalar map.

    Raises
    ------
    StudyError
        If neither says where the rows are, or the reference has other grayordinates, or its structures, vertices or
        voxels disagree with the cube.
    """
    space = space_of(cube_attrs)
    if not isinstance(space, Grayordinates):
        raise _other_kind(space.kind, "grayordinates")
    target = targets_of(values, space.size)
    if reference is None:
        order = target.argsort()
        axis, data = _models_in(values.isel(target=order), space), values.values[order].astype(np.float32)
    else:
        axis = _models_of(reference)
        _refuse_unlike(axis, values, target, space)
        data = _scattered(values, target, len(axis))
    image = nib.Cifti2Image(data[None], (ScalarAxis([_title(values)]), axis))
    image.nifti_header.set_intent("ConnDenseScalar")
    image.nifti_header["descrip"] = _MEANING_OF_NAN
    return image


def _models_in(values: xr.DataArray, space: Grayordinates) -> BrainModelAxis:
    """Brain models of a map's rows, as its cube describes them."""
    if not all(name in values.coords for name in PLACE_LABELS) or not all(one.name for one in space.structures):
        raise StudyError(
            where="map of grayordinates",
            found="no reference, and no vertex or voxel of its rows in the cube",
            expected="one of them",
            do="name a dtseries file of the scans with `reference=`, or run the `brain` stage again",
        )
    target = values["target"].values
    return models_of_places(space, target, {name: values[name].values for name in PLACE_LABELS})


def _models_of(reference: nib.Cifti2Image) -> BrainModelAxis:
    axis = reference.header.get_axis(reference.ndim - 1)
    if isinstance(axis, BrainModelAxis):
        return axis
    found = f"{len(axis)} entries of a {type(axis).__name__}"
    do = "give a dtseries or dscalar file of the scans' space"
    raise StudyError(where="CIFTI reference", found=found, expected="grayordinates", do=do)


def _refuse_unlike(axis: BrainModelAxis, values: xr.DataArray, target: np.ndarray, space: Grayordinates) -> None:
    """Refuse a reference of other grayordinates than the map's."""
    if len(axis) != space.size:
        raise StudyError(
            where="CIFTI reference",
            found=f"{len(axis)} entries of a BrainModelAxis",
            expected=f"{space.size} grayordinates of {space.name}",
            do="give a dtseries or dscalar file of the scans' space",
        )
    sides = {f"{STRUCTURE}CORTEX_LEFT": "L", f"{STRUCTURE}CORTEX_RIGHT": "R"}
    check_hemispheres(values, np.array([sides.get(str(name), "") for name in axis.name[target]]))
    if axis.affine is not None:
        places = nib.affines.apply_affine(axis.affine, axis.voxel[target])
        check_places(values, np.where(axis.volume_mask[target, None], places, np.nan))
    if "vertex" in values.coords and not np.array_equal(values["vertex"].values, axis.vertex[target]):
        raise StudyError(
            where="CIFTI reference",
            found="other vertices",
            expected=f"those of the cube's rows in {space.name}",
            do="leave out `reference=`: the cube says its rows' places",
        )


def _other_kind(found: Kind, wanted: Kind) -> StudyError:
    return StudyError(where="map", found=f"a map of {found}", expected=f"one of {wanted}", do="choose another format")


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


def _paths(to: Path, suffix: str) -> list[Path]:
    stem = to.name.removesuffix(suffix)
    paths = [to.with_name(f"{stem}.hemi-{hemi}{suffix}") for hemi in HEMISPHERES] if suffix in _INTENTS else [to]
    for path in paths:
        if path.is_dir():
            raise StudyError(where=str(path), found="a folder", expected="a file's name", do="choose another")
    return paths


def _render(values: xr.DataArray, cube_attrs: Attrs, suffix: str, reference: nib.Cifti2Image | None) -> list[bytes]:
    """Contents of the files of a map; the same map gives the same bytes."""
    if suffix == ".nii.gz":
        return [gzip.compress(to_nifti(values, cube_attrs).to_bytes(), mtime=0)]
    if suffix == ".dscalar.nii":
        return [to_cifti(values, cube_attrs, reference).to_bytes()]
    return [image.to_bytes() for image in to_gifti(values, cube_attrs, _INTENTS[suffix]).values()]


def _open_reference(path: Path) -> nib.Cifti2Image:
    expected = "a CIFTI file with the grayordinates of the cube"
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
