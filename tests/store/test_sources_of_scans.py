"""The same courses as volumes, grayordinates and surfaces become one cube; cleaned and averaged as nilearn does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nibabel.cifti2.cifti2 import Cifti2Image
from nibabel.cifti2.cifti2_axes import BrainModelAxis, SeriesAxis
from nibabel.gifti.gifti import GiftiDataArray, GiftiImage, GiftiMetaData
from nilearn.interfaces.fmriprep import load_confounds_strategy
from nilearn.maskers import NiftiLabelsMasker
from nilearn.signal import clean

from cinecube.store.cube.cubes import open_cube
from cinecube.store.spaces.space import Grayordinates, Grid, Surface, space_of

from .scan_tree import (
    AFFINE,
    N_ROWS,
    N_VOLUMES,
    PARCELS,
    SHAPE,
    SHOWINGS,
    TR_S,
    Tree,
    assert_four_parts,
    label_values,
    mask_values,
)

N_LEFT, N_RIGHT, N_BELOW = 50, 40, 30


def _courses(tree: Tree, showing: str) -> np.ndarray:
    """Values of the voxels inside the mask (time, voxel): 120 of them."""
    return np.ascontiguousarray(tree.values(showing)[mask_values() > 0].T)


def _grayordinates() -> BrainModelAxis:
    axis = BrainModelAxis.from_surface(np.arange(0, 2 * N_LEFT, 2), 200, "CORTEX_LEFT")
    axis += BrainModelAxis.from_surface(np.arange(1, 2 * N_RIGHT, 2), 200, "CORTEX_RIGHT")
    below = np.zeros(SHAPE, bool)
    below.flat[5 : 5 + N_BELOW] = True
    return axis + BrainModelAxis.from_mask(below, "THALAMUS_RIGHT", AFFINE)


def _write_cifti(tree: Tree, showing: str, axis: BrainModelAxis, density: str = "91k") -> None:
    image = Cifti2Image(_courses(tree, showing), (SeriesAxis(0, TR_S, N_VOLUMES), axis))
    image.nifti_header.set_intent("ConnDenseSeries")
    nib.save(image, tree.path(f"space-fsLR_den-{density}_bold.dtseries.nii", showing))


def _as_cifti(tree: Tree, density: str = "91k") -> None:
    for showing in SHOWINGS:
        _write_cifti(tree, showing, _grayordinates(), density)
        for name in ("dtseries.json", "json"):
            path = tree.path(f"space-fsLR_den-{density}_bold.{name}", showing)
            path.write_text(json.dumps({"RepetitionTime": TR_S} if name == "json" else {"Density": "91,282"}))
    tree.brain(space="fsLR", atlas=None)


def write_gifti(path: Path, values: np.ndarray, step_ms: float | None = TR_S * 1000, **how: Any) -> None:
    how |= {"meta": GiftiMetaData({} if step_ms is None else {"TimeStep": f"{step_ms:f}"})}
    arrays = [GiftiDataArray(one, "NIFTI_INTENT_TIME_SERIES", "NIFTI_TYPE_FLOAT32", **how) for one in values]
    nib.save(GiftiImage(darrays=arrays), path)


def _as_gifti(tree: Tree, name: str = "hemi-{hemi}_space-fsnative") -> None:
    """The first 60 voxels as a left hemisphere, the others as the right."""
    for showing in SHOWINGS:
        for hemi, values in zip("LR", np.split(_courses(tree, showing), 2, axis=1), strict=True):
            write_gifti(tree.path(f"{name.format(hemi=hemi)}_bold.func.gii", showing), values)
    tree.brain(space="fsnative", atlas=None)


MADE: dict[str, Callable[[Tree], None]] = {
    "CIFTI": _as_cifti,
    "GIFTI": _as_gifti,
    "GIFTI of fMRIPrep 20": lambda tree: _as_gifti(tree, "space-fsnative_hemi-{hemi}"),
}


@pytest.mark.parametrize("name", MADE)
def test_courses_are_the_same_in_any_layout(tree: Tree, plain: dict[str, np.ndarray], name: str) -> None:
    MADE[name](tree)
    found = tree.cube()
    np.testing.assert_allclose(found["bold"], plain["bold"], atol=2e-5)
    for label in ("segment", "repeat", "session", "onset_s"):
        np.testing.assert_array_equal(found[label], plain[label])
    np.testing.assert_array_equal(found["target"], np.arange(120))


def _attrs(tree: Tree) -> dict[str, Any]:
    with open_cube(tree.root / "data/brain/sub-01.zarr") as cube:
        return dict(cube.attrs)


def test_a_shorter_film_is_another_cube(tree: Tree) -> None:
    """Scans are trimmed to it, and each run is standardised over what is left."""
    before, whole = tree.cube(), _attrs(tree)["fingerprint"]
    films = tree.root / "data/films.csv"
    table = pd.read_csv(films)
    first = table["segment"] == "birch01"
    table.loc[first, "duration_s"] -= TR_S
    table.loc[first, "rows"] -= 1
    table.to_csv(films, index=False)
    after = tree.cube()
    assert len(after["segment"]) < len(before["segment"])
    assert _attrs(tree)["fingerprint"] != whole


def test_grayordinates_keep_where_they_are(tree: Tree) -> None:
    _as_cifti(tree)
    cube, axis = tree.cube(), _grayordinates()
    space = space_of(_attrs(tree))
    assert isinstance(space, Grayordinates)
    assert (space.name, space.size, _attrs(tree)["targets"]) == ("fsLR-91k", 120, "grayordinates")
    assert [(s.name, s.count, s.vertices) for s in space.structures] == [
        ("CORTEX_LEFT", N_LEFT, 200),
        ("CORTEX_RIGHT", N_RIGHT, 200),
        ("THALAMUS_RIGHT", N_BELOW, 0),
    ]
    np.testing.assert_array_equal(cube["vertex"], axis.vertex)
    np.testing.assert_array_equal(np.stack([cube[n] for n in "ijk"], 1), axis.voxel)
    assert "".join(cube["hemi"]) == "L" * N_LEFT + "R" * (N_RIGHT + N_BELOW)
    assert np.isnan(cube["x_mm"][: N_LEFT + N_RIGHT]).all()
    places = np.stack([cube[f"{n}_mm"] for n in "xyz"], 1)[-N_BELOW:]
    np.testing.assert_allclose(places, nib.affines.apply_affine(AFFINE, axis.voxel[-N_BELOW:]), atol=1e-5)


def test_surfaces_keep_their_hemispheres(tree: Tree) -> None:
    _as_gifti(tree)
    assert "".join(tree.cube()["hemi"]) == "L" * 60 + "R" * 60
    assert space_of(_attrs(tree)) == Surface("fsnative", (60, 60))


def test_volumes_keep_their_grid(tree: Tree) -> None:
    tree.must("brain", "sub-01")
    space = space_of(_attrs(tree))
    assert isinstance(space, Grid)
    assert space.shape == SHAPE
    np.testing.assert_allclose(space.affine, AFFINE)


@pytest.mark.parametrize("name", ["space-fsaverage_den-10k_hemi-{hemi}", "hemi-{hemi}_space-fsaverage5"])
def test_meshes_have_one_name_and_their_vertices(tree: Tree, name: str) -> None:
    _as_gifti(tree, name)
    tree.brain(space="fsaverage5")
    line = r"sub-01 amber01 repeat 1: found 60 and 60 vertices of fsaverage5, expected 10242 and 10242 of fsaverage5"
    assert_four_parts(tree.error("brain", "sub-01"), line)


def _cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def _retell(path: Path, old: bytes, new: bytes) -> None:
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new))


WRONG: dict[str, tuple[Callable[[Tree], object], str]] = {
    "170k alone": (lambda t: _as_cifti(t, "170k"), r"found dense series with den-170k, expected den-91k; run fMRIPrep"),
    "a cut series": (
        lambda t: (_as_cifti(t), _cut(t.path("space-fsLR_den-91k_bold.dtseries.nii"), 0.7)),
        r"dtseries.nii: found [\d,]+ bytes, expected [\d,]+, as its header says",
    ),
    "a series cut in its header": (
        lambda t: (_as_cifti(t), _cut(t.path("space-fsLR_den-91k_bold.dtseries.nii"), 0.02)),
        r"dtseries.nii: found a file that cannot be read",
    ),
    "other grayordinates": (
        lambda t: (_as_cifti(t), _write_cifti(t, "birch01", _grayordinates()[::-1])),
        r"birch01 repeat 1: found other grayordinates, expected those of sub-01 amber01 repeat 1",
    ),
    "a cut hemisphere": (
        lambda t: (_as_gifti(t), _cut(t.path("hemi-R_space-fsnative_bold.func.gii"), 0.7)),
        r"hemi-R_space-fsnative_bold.func.gii: found a file that cannot be read",
    ),
    "one hemisphere": (
        lambda t: (_as_gifti(t), t.path("hemi-R_space-fsnative_bold.func.gii").unlink()),
        r"birch01 repeat 1: found \S*hemi-L\S* alone, expected \S*hemi-R\S*; fetch the other",
    ),
    "a shorter hemisphere": (
        lambda t: (
            _as_gifti(t),
            write_gifti(t.path("hemi-R_space-fsnative_bold.func.gii"), np.ones((9, 60), np.float32)),
        ),
        r"birch01 repeat 1: found 40 volumes of the left and 9 of the right hemisphere",
    ),
    "a header that promises too much": (
        lambda t: (
            _as_gifti(t),
            _retell(t.path("hemi-L_space-fsnative_bold.func.gii"), b'Arrays="40"', b'Arrays="4000000000"'),
        ),
        r"func.gii: found a header of 4000000000 volumes of 60 vertices, expected what its bytes can hold",
    ),
    "no time": (
        lambda t: (
            _as_gifti(t),
            write_gifti(t.path("hemi-L_space-fsnative_bold.func.gii"), _courses(t, "birch01")[:, :60], None),
        ),
        r"func.gii: found no time, expected a number of seconds between volumes",
    ),
    "surfaces smoothed": (
        lambda t: (_as_gifti(t), t.brain(fwhm_mm=5)),
        r"brain.fwhm_mm: found 5 for surfaces, expected 0: only volumes are smoothed",
    ),
    "AROMA without its volumes": (
        lambda t: t.brain(confounds="ica_aroma"),
        r"found volumes in MNI\w+, but none with desc-smoothAROMAnonaggr",
    ),
    "a space that is not there": (
        lambda t: (_as_cifti(t), t.brain(space="T1w")),
        r"found scans in MNI152NLin2009cAsym, fsLR, expected some with space-T1w",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_one_line(tree: Tree, name: str) -> None:
    spoil, line = WRONG[name]
    spoil(tree)
    assert_four_parts(tree.error("brain", "sub-01"), line)


def _noisy(tree: Tree) -> None:
    """Tables with all that presets ask for: outliers of motion, components, cosines."""
    for number, showing in enumerate(SHOWINGS):
        rng, table = np.random.default_rng(number), pd.read_csv(tree.table(showing), sep="\t")
        table["std_dvars"] = np.r_[np.nan, rng.uniform(0.8, 1.4, N_VOLUMES - 1)]
        table.loc[20, "framewise_displacement"] = 0.9
        table["non_steady_state_outlier00"] = (np.arange(N_VOLUMES) == 0).astype(float)
        table["cosine00"] = np.cos((np.arange(N_VOLUMES) + 0.5) * np.pi / N_VOLUMES)
        about = {}
        for component in range(3):
            table[f"a_comp_cor_{component:02d}"] = rng.standard_normal(N_VOLUMES)
            about[f"a_comp_cor_{component:02d}"] = {"Mask": "combined", "Method": "aCompCor", "Retained": True}
        table.to_csv(tree.table(showing), sep="\t", index=False, na_rep="n/a")
        tree.table(showing).with_suffix(".json").write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("asked", "high_pass_hz", "detrend"),
    [("simple", 0.02, True), ("compcor", 0.0, True), ("scrubbing", 0.0, True), (["rot_x", "csf"], 0.02, False)],
)
def test_cleaned_is_what_nilearn_cleans(tree: Tree, asked: str | list[str], high_pass_hz: float, detrend: bool) -> None:
    """Left-out volumes are no rows, presets' cosines are not added to our own."""
    _noisy(tree)
    tree.brain(confounds=asked, high_pass_hz=high_pass_hz, detrend=detrend)
    cube = tree.cube()
    if isinstance(asked, str):
        taken, kept = load_confounds_strategy(str(tree.bold()), denoise_strategy=asked, demean=False)
        taken = taken.drop(columns="cosine00")
    else:
        taken, kept = pd.read_csv(tree.table(), sep="\t")[asked], np.arange(1, N_VOLUMES)
    how = {"filter": "cosine", "high_pass": high_pass_hz} if high_pass_hz else {"filter": False}
    cleaned = clean(
        _courses(tree, "birch01"), confounds=taken, sample_mask=kept, t_r=TR_S, detrend=detrend, standardize=None, **how
    )
    cleaned = cleaned[kept < N_ROWS].astype(float)
    expected = (cleaned - cleaned.mean(0)) / cleaned.std(0, ddof=1)
    birch = cube["segment"] == "birch01"
    np.testing.assert_allclose(cube["bold"][birch], expected, atol=1e-5)
    np.testing.assert_allclose(cube["onset_s"][birch], kept[kept < N_ROWS] * TR_S, atol=1e-6)
    quality = pd.read_csv(tree.root / "data/brain/sub-01.qc.csv")
    assert set(quality["left_out_volumes"]) == {N_VOLUMES - len(kept)}
    assert (quality["degrees_of_freedom"] == len(kept) - quality["regressors"]).all()
    assert set(quality["spikes"]) == {1}


def test_drift_that_nilearn_leaves_is_told(tree: Tree) -> None:
    """It takes a column that falls steadily for a cosine of the user's own, and adds none."""
    for showing in SHOWINGS:
        pd.DataFrame({"rot_x": np.random.default_rng(1).standard_normal(N_VOLUMES)}).to_csv(
            tree.table(showing), sep="\t", index=False
        )
    tree.brain(confounds=["rot_x"], high_pass_hz=0.05)
    assert "looks like slow drift" not in tree.must("brain", "sub-01").stderr
    regressors = pd.read_csv(tree.root / "data/brain/sub-01.qc.csv")["regressors"].tolist()
    tree.confounds(lambda table: table.assign(rot_x=np.linspace(1, -1, N_VOLUMES)))
    told = " ".join(tree.must("brain", "sub-01").stderr.split())
    assert "sub-01: a confound of 1 of 3 runs looks like slow drift" in told
    assert "brain.high_pass_hz does nothing there: birch01 repeat 1" in told
    found = pd.read_csv(tree.root / "data/brain/sub-01.qc.csv")["regressors"].tolist()
    assert [before - after for before, after in zip(regressors, found, strict=True)] == [0, 0, 5]


def test_parcels_are_what_nilearn_averages(tree: Tree) -> None:
    tree.brain(targets="parcels", confounds="none", high_pass_hz=0, detrend=False)
    cube = tree.cube()
    masker = NiftiLabelsMasker(
        nib.Nifti1Image(label_values(), AFFINE), mask_img=str(tree.mask()), standardize=None, keep_masked_labels=False
    )
    # As float64, for nilearn averages in the precision of its image.
    means = masker.fit_transform(nib.Nifti1Image(tree.values().astype(float), AFFINE))[:N_ROWS]
    expected = (means - means.mean(0)) / means.std(0, ddof=1)
    np.testing.assert_allclose(cube["bold"][cube["segment"] == "birch01"], expected, atol=1e-5)
    assert cube["parcel"].tolist() == list(PARCELS)


def test_parcels_that_shrink_are_told(tree: Tree) -> None:
    inside = mask_values()
    inside[:3, :4] = 0
    inside[1, 1, 1:3] = 1
    nib.save(nib.Nifti1Image(inside, AFFINE), tree.mask())
    assert "sub-01: less than a quarter is in the brain of all runs of L_A" in tree.must("brain", "sub-01").stderr
    table = pd.read_csv(tree.root / "data/brain/sub-01.qc.csv")
    assert (set(table["shrunk_parcels"]), set(table["lost_parcels"])) == ({"L_A"}, {"none"})


@pytest.mark.parametrize(
    ("choose", "chosen"),
    [({"rec": "nordic"}, True), ({"rec": None}, False), ({"rec": ""}, False)],
)
def test_a_file_of_a_showing_can_be_chosen(
    tree: Tree, plain: dict[str, np.ndarray], choose: dict[str, Any], chosen: bool
) -> None:
    """As the line of the refusal says it."""
    for showing in SHOWINGS:
        tree.twin(f"task-{showing}_", f"task-{showing}_rec-nordic_", showing)
        path = tree.path("x", showing).parent
        for bold in path.glob(f"*task-{showing}_rec-nordic*_bold.nii.gz"):
            image = nib.load(bold)
            nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[..., ::-1], AFFINE, image.header), bold)
    assert '`choose: {rec: "nordic"}` or `choose: {rec: ""}` for the file without rec-' in tree.error("brain", "sub-01")
    tree.brain(choose=choose)
    found = tree.cube()
    assert np.allclose(found["bold"], plain["bold"], atol=1e-4) != chosen
    assert sorted(set(found["repeat"].tolist())) == [1, 2]


def test_a_resolution_that_yaml_reads_as_a_number(tree: Tree, plain: dict[str, np.ndarray]) -> None:
    for showing in SHOWINGS:
        tree.twin("_desc", "_res-2_desc", showing)
    tree.brain(choose={"res": 2})
    np.testing.assert_array_equal(tree.cube()["bold"], plain["bold"])
    tree.brain(choose={"res": 3})
    assert "expected a file with res-3, as brain.choose says" in tree.error("brain", "sub-01")


def test_tasks_by_a_rule(tree: Tree, plain: dict[str, np.ndarray]) -> None:
    """The line of the refusal can be copied."""

    def rename(params: dict[str, Any]) -> None:
        params["films"] = {film: [f"my_{film}01"] for film in params["films"]}

    tree.change(rename)
    table = tree.root / "data/films.csv"
    table.write_text(table.read_text().replace(",amber01", ",my_amber01").replace(",birch01", ",my_birch01"))
    assert 'if task-amber01 is meant, add `tasks: "my_{task}"`' in tree.error("brain", "sub-01")
    tree.brain(tasks="my_{task}")
    np.testing.assert_array_equal(tree.cube()["bold"], plain["bold"])
    tree.brain(tasks="friends")
    assert "params.yaml: brain.tasks: found 'friends', expected text with {task} once" in tree.error("brain", "sub-01")


def test_a_missing_segment_costs_nothing_else(tree: Tree, plain: dict[str, np.ndarray]) -> None:
    tree.change(lambda p: p["films"]["birch"].append("birch02"))
    table = tree.root / "data/films.csv"
    table.write_text(table.read_text() + f"birch,birch02,58.0,{N_ROWS},25.0,1450,64,64,16000\n")
    told = tree.must("brain", "sub-01").stderr
    assert "sub-01: no scan of birch02; the brain cube has the other 2 of 3 segments" in told
    assert set(pd.read_csv(tree.root / "data/brain/sub-01.qc.csv")["missing_segments"]) == {"birch02"}
    np.testing.assert_array_equal(tree.cube()["bold"], plain["bold"])


def test_a_subject_who_will_have_no_score_is_told_before_anything_is_fitted(tree: Tree) -> None:
    """Encoders need two training segments of a subject (issue 19)."""
    tree.change(lambda p: p["films"]["amber"].append("amber02"))
    table = tree.root / "data/films.csv"
    table.write_text(table.read_text() + f"amber,amber02,58.0,{N_ROWS},25.0,1450,64,64,16000\n")
    told = tree.must("brain", "sub-01").stderr
    assert "sub-01: of the training films there is a scan of amber01 alone: no scores of it, for 2 segments are" in told


def test_what_is_not_fetched_is_named_at_once(tree: Tree) -> None:
    for showing in SHOWINGS:
        tree.bold(showing).unlink()
        tree.bold(showing).symlink_to("../.git/annex/objects/a.nii.gz")
    line = (
        r"sub-01: found 3 files that were not fetched: .* expected the files themselves; run `datalad get \S+ \S+ \S+`"
    )
    assert_four_parts(tree.error("brain", "sub-01"), line)


def test_plan_says_what_brain_would_refuse(tree: Tree) -> None:
    tree.brain(space="T1w")
    steps = {step["stage"]: step for step in json.loads(tree.must("plan", "--json").stdout)}
    assert "found scans in MNI152NLin2009cAsym, expected some with space-T1w" in steps["brain@sub-01"]["why"]
