"""Which brain cubes may be compared, and what joins their targets on one axis."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from cinecube.analysis.cubes.spaces import Responses, check_same_space
from cinecube.analysis.cubes.target_axis import find_targets_of, join_targets
from cinecube.analysis.encoders.stage import encode
from cinecube.analysis.maps.export import export_map
from cinecube.analysis.maps.map_values import map_values
from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import open_cube, write_cube
from cinecube.store.cube.schema import string_coordinate
from cinecube.store.spaces.space import Grayordinates, Grid, Parcels, Space, Structure, Surface, space_attrs, space_of
from cinecube.store.verify.find_cubes import verify_cube

from .conftest import MODEL, make_study

AFFINE = ((2.0, 0.0, 0.0, -9.0), (0.0, 2.0, 0.0, 3.0), (0.0, 0.0, 2.0, 0.0), (0.0, 0.0, 0.0, 1.0))
SHIFTED = ((2.0, 0.0, 0.0, -8.0), *AFFINE[1:])
MNI, T1W = "MNI152NLin2009cAsym", "T1w"
GRAY = (Structure("CORTEX_LEFT", 5, 9), Structure("CORTEX_RIGHT", 4, 9), Structure("THALAMUS_LEFT", 3, 0))


def brain(
    subject: str, space: Space, target: list[int], parcel: list[str] | None = None, hemi: str = "L", **labels: Any
) -> Responses:
    n = len(target)
    on_target = {"hemi": [hemi] * n, "parcel": parcel or [""] * n, **dict.fromkeys(("x_mm", "y_mm", "z_mm"), [0.0] * n)}
    coords = {"target": target, **{name: ("target", values) for name, values in (on_target | labels).items()}}
    values = np.arange(n, dtype=np.float32)[None].repeat(2, axis=0)
    attrs = {**space_attrs(space), "targets": space.kind}
    return Responses(
        subject, xr.Dataset({"bold": (("time", "target"), values)}, coords=coords, attrs=attrs), pd.DataFrame()
    )


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        (Grid(MNI, (3, 3, 3), AFFINE), Grid(MNI, (3, 3, 3), AFFINE), None),
        (Grid(MNI, (3, 3, 3), AFFINE), Grid(MNI, (3, 3, 4), AFFINE), r"a grid of \(3, 3, 4\) instead of \(3, 3, 3\)"),
        (Grid(MNI, (3, 3, 3), AFFINE), Grid(MNI, (3, 3, 3), SHIFTED), "a grid that is up to 1 mm elsewhere"),
        (Grid(MNI, (3, 3, 3), AFFINE), Grid(T1W, (3, 3, 3), AFFINE), f"found T1w instead of {MNI}"),
        (Grid(MNI, (3, 3, 3), AFFINE), Surface("fsaverage3", (642, 642)), "found vertices instead of voxels"),
        (Surface("fsaverage3", (642, 642)), Surface("fsaverage4", (2562, 2562)), "fsaverage4 instead of fsaverage3"),
        (Grayordinates("fsLR-91k", GRAY), Grayordinates("fsLR-91k", GRAY), None),
        (Grayordinates("fsLR-91k", GRAY), Grayordinates("fsLR-91k", GRAY[:2]), "another grayordinate order or number"),
        (Parcels(MNI, "MMP"), Parcels(T1W, "MMP"), None),
        (Parcels(MNI, "MMP"), Parcels(MNI, "Schaefer"), "found parcels of Schaefer instead of MMP"),
        (Parcels(MNI, "MMP"), Grid(MNI, (3, 3, 3), AFFINE), "found voxels instead of parcels"),
    ],
)
def test_which_subjects_may_be_compared(one: Space, other: Space, found: str | None) -> None:
    brains = [brain("sub-01", one, [1]), brain("sub-02", other, [1])]
    if found is None:
        assert space_of(check_same_space(brains)) == one
    else:
        with pytest.raises(StudyError, match=rf"sub-02 brain cube: found .*{found.removeprefix('found ')}"):
            check_same_space(brains)


def test_cubes_of_earlier_versions_are_compared_by_what_they_have() -> None:
    brains = [brain(f"sub-0{n}", Grid(MNI, (3, 3, 3), AFFINE), [1]) for n in (1, 2)]
    old = {"space": MNI, "targets": "voxels", "affine": str([list(row) for row in AFFINE]), "shape": "[3, 3, 3]"}
    for one in brains:
        one.cube.attrs = dict(old)
    assert check_same_space(brains) == old
    brains[1].cube.attrs["shape"] = "[3, 3, 4]"
    with pytest.raises(StudyError, match=r"sub-02 brain cube: found a grid of \(3, 3, 4\)"):
        check_same_space(brains)
    for one in brains:
        one.cube.attrs["targets"] = "parcels"
    assert check_same_space(brains) == {"space": MNI, "targets": "parcels"}


def test_parcels_are_joined_by_name_and_keep_the_atlas_numbers() -> None:
    brains = [
        brain("sub-01", Parcels(MNI, "MMP"), [1, 5, 9], ["L_V1", "NA", "L_A1"]),
        brain("sub-02", Parcels(T1W, "MMP"), [9, 1], ["L_A1", "L_V1"]),
    ]
    axis = join_targets(brains)
    assert axis.labels.index.tolist() == [1, 5, 9]
    assert axis.labels["parcel"].tolist() == ["L_V1", "NA", "L_A1"]
    stacked = axis.stack({one.subject: one.cube["bold"].values for one in brains})
    np.testing.assert_array_equal(stacked[:, 0], [[0, 1, 2], [1, np.nan, 0]])


def test_parcels_with_other_numbers_are_joined_by_name_all_the_same() -> None:
    """As of cubes that were made with the same atlas by different tools."""
    brains = [
        brain("sub-01", Parcels(MNI, ""), [1, 2], ["R_V1", "L_V1"]),
        brain("sub-02", Parcels(MNI, ""), [1, 2, 3], ["L_V1", "R_V1", "L_A1"]),
    ]
    axis = join_targets(brains)
    assert axis.labels["parcel"].tolist() == ["L_A1", "L_V1", "R_V1"]
    stacked = axis.stack({one.subject: one.cube["bold"].values for one in brains})
    np.testing.assert_array_equal(stacked[:, 0], [[np.nan, 1, 0], [2, 0, 1]])
    cube = xr.Dataset({"score": (("subject", "target"), stacked[:, 0])}, coords=axis.coords())
    for s, one in enumerate(brains):
        np.testing.assert_array_equal(cube["score"][s, find_targets_of(cube, one)], one.cube["bold"][0])
    with pytest.raises(StudyError, match="scores of sub-02: found none of 1 of its targets"):
        find_targets_of(cube.isel(target=slice(1, None)), brains[1])


def test_voxels_are_joined_by_number() -> None:
    grid = Grid(MNI, (3, 3, 3), AFFINE)
    with pytest.raises(StudyError, match="target 1 of sub-02: found parcel 'L_A1', expected 'L_V1' as in sub-01"):
        join_targets([brain("sub-01", grid, [1, 2], ["L_V1"] * 2), brain("sub-02", grid, [1, 2], ["L_A1"] * 2)])


def test_places_of_grayordinates_stay_on_the_axis() -> None:
    """A score cube needs them to write its own CIFTI file."""
    space, every = Grayordinates("fsLR-91k", GRAY), np.arange(12)
    labels = {"structure": string_coordinate(space.structure(every)), "vertex": every * 2}
    parts = [every[:8], every[3:]]
    brains = [
        brain(f"sub-0{s}", space, own.tolist(), **{name: values[own] for name, values in labels.items()})
        for s, own in enumerate(parts, start=1)
    ]
    coords = join_targets(brains).coords()
    assert coords["vertex"][1].tolist() == (every * 2).tolist()
    assert coords["structure"][1].tolist() == space.structure(every).tolist()
    assert "i" not in coords
    bare = Responses("sub-03", brains[0].cube.drop_vars("vertex"), pd.DataFrame())
    assert "vertex" not in join_targets([brains[1], bare]).coords()


def test_scores_of_grayordinates_are_written_without_a_reference(
    synthetic: Callable[..., Path], tmp_path: Path
) -> None:
    """From brain cubes that say their vertices to a CIFTI file of what the stage `encode` found."""
    root = tmp_path / "study"
    shutil.copytree(synthetic(), root)
    study, paths = make_study(), StudyPaths(root)
    space = Grayordinates("fsLR-91k", (Structure("CORTEX_LEFT", 1010, 3000), Structure("CORTEX_RIGHT", 500, 3000)))
    vertex = np.random.default_rng(0).permutation(3000)[: space.size]
    for subject in study.brain.subjects:
        with open_cube(paths.brain(subject)) as opened:
            cube = opened.load()
        places = {"vertex": vertex[cube["target"].values], **dict.fromkeys("ijk", np.full(cube.sizes["target"], -1))}
        cube.attrs = {key: value for key, value in cube.attrs.items() if key not in ("affine", "shape")}
        cube.attrs |= {**space_attrs(space), "targets": space.kind}
        write_cube(paths.brain(subject), cube.assign_coords({name: ("target", v) for name, v in places.items()}))
        assert verify_cube(paths.brain(subject)) == []
    encode(study, root, MODEL)
    for kind, subject in (("score", "mean"), ("depth", study.brain.subjects[0])):
        values, attrs = map_values(study, root, kind, MODEL, subject=subject)  # type: ignore[arg-type]
        (path,) = export_map(values, attrs, tmp_path / f"{kind}.dscalar.nii")
        image = nib.load(path)
        axis = image.header.get_axis(1)
        target = values["target"].values
        np.testing.assert_array_equal(axis.vertex, vertex[target])
        assert (
            axis.name == np.where(target < 1010, "CIFTI_STRUCTURE_CORTEX_LEFT", "CIFTI_STRUCTURE_CORTEX_RIGHT")
        ).all()
        np.testing.assert_array_equal(image.get_fdata(dtype=np.float32)[0], values.values.astype(np.float32))
