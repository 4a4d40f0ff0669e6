"""Scans: fMRIPrep's names and tables, and a signal that cleaning brings out."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from cinecube.simulation.brain.head import make_grid
from cinecube.simulation.brain.planted_parcels import choose_parcels
from cinecube.simulation.brain.reachable import Cleaning
from cinecube.simulation.brain.scans import Showing, write_subject
from cinecube.simulation.setup.simulate_params import SimulateSpec

_BOLD = "_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz"


def _load(path: Path) -> nib.Nifti1Image:
    image = nib.load(path)
    assert isinstance(image, nib.Nifti1Image)
    return image


def test_names_are_fmripreps(made: Path, spec: SimulateSpec) -> None:
    found = sorted(str(path.relative_to(made / "scans")) for path in (made / "scans").rglob(f"*{_BOLD}"))
    runs = ["task-amber01", "task-amber02", "task-dune01_run-1", "task-dune01_run-2"]
    assert found == sorted(
        f"{subject}/ses-001/func/{subject}_ses-001_{run}{_BOLD}" for subject in spec.subject_names() for run in runs
    )
    for name in found:
        stem = str(made / "scans" / name).removesuffix(_BOLD)
        for ending in (
            "_space-MNI152NLin2009cAsym_desc-preproc_bold.json",
            "_space-MNI152NLin2009cAsym_desc-brain_mask.nii.gz",
            "_desc-confounds_timeseries.tsv",
            "_desc-confounds_timeseries.json",
        ):
            assert Path(stem + ending).is_file()
    assert (made / "scans" / "dataset_description.json").is_file()


def test_scans_differ_from_their_film_in_length(made: Path, spec: SimulateSpec) -> None:
    lengths = set()
    for path in (made / "scans").rglob(f"*{_BOLD}"):
        image = _load(path)
        assert image.header.get_zooms()[3] == pytest.approx(spec.tr_s)
        lengths.add(image.shape[3] - spec.rows_per_segment)
    assert lengths <= set(range(-1, 5))
    assert len(lengths) > 2


@pytest.mark.parametrize("motion", ["basic", "full"])
def test_nilearn_reads_the_confounds(made: Path, motion: str) -> None:
    from nilearn.interfaces.fmriprep import load_confounds

    for path in sorted((made / "scans").rglob(f"*{_BOLD}")):
        confounds, kept = load_confounds(
            str(path), strategy=("motion", "wm_csf", "high_pass", "global_signal"), motion=motion
        )
        assert len(confounds) == _load(path).shape[3]
        assert kept is None
        assert np.isfinite(confounds.to_numpy()).all()
        assert {"trans_x", "rot_z", "white_matter", "csf", "global_signal"} <= set(confounds)


def test_atlas_names_every_parcel_on_the_scans_grid(made: Path, spec: SimulateSpec) -> None:
    volume = next((made / "scans" / "atlas").glob("*_dseg.nii.gz"))
    labels = _load(volume)
    scan = _load(next((made / "scans").rglob(f"*{_BOLD}")))
    mask = _load(next((made / "scans").rglob("*_desc-brain_mask.nii.gz")))
    np.testing.assert_allclose(labels.affine, scan.affine)
    assert labels.shape == mask.shape == scan.shape[:3]
    brain, numbers = np.asarray(mask.dataobj) > 0, np.asarray(labels.dataobj)
    assert brain.sum() <= 3000
    assert not numbers[~brain].any()
    table = volume.with_name(volume.name.replace(".nii.gz", ".tsv")).read_text().split("\n")
    assert table[0] == "index\tname"
    names = dict(line.split("\t") for line in table[1:-1])
    assert set(names) == {str(k) for k in range(1, spec.parcels + 1)}
    for number, name in names.items():
        where = np.argwhere(numbers == int(number))
        assert len(where) == spec.targets_per_parcel
        x_mm = nib.affines.apply_affine(labels.affine, where)[:, 0]
        assert (x_mm < 0).all() if name.startswith("L_") else (x_mm > 0).all()


def test_cleaning_brings_out_the_signal(tmp_path: Path) -> None:
    from nilearn.interfaces.fmriprep import load_confounds
    from nilearn.signal import clean

    spec = SimulateSpec(subjects=1, noise=0.1, targets_per_parcel=8, parcels=8, extra_volumes=(2, 2))
    parcels = choose_parcels(spec)
    grid = make_grid(parcels, 8)
    signal = np.random.default_rng(0).normal(0, 1, (spec.rows_per_segment, 64))
    write_subject(
        spec, "sub-01", [Showing(1, "a01", 1, 1)], {"a01": signal}, parcels, grid, tmp_path, Cleaning(), ["a01"]
    )
    path = next(tmp_path.rglob(f"*{_BOLD}"))
    volumes = np.asarray(_load(path).dataobj, dtype=np.float64)
    assert volumes.shape[3] == len(signal) + 2
    voxels = volumes[grid.mask].T[:, grid.targets(8).ravel()]
    confounds, _ = load_confounds(str(path), strategy=("motion", "wm_csf", "high_pass"), motion="basic")
    cleaned = clean(voxels, confounds=confounds, detrend=True, standardize=None)
    raw, after = ([np.corrcoef(x[: len(signal), k], signal[:, k])[0, 1] for k in range(64)] for x in (voxels, cleaned))
    assert np.mean(after) > 0.85
    assert np.mean(after) > np.mean(raw) + 0.1
