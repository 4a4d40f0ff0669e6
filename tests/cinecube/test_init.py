"""`init --template own` takes a lab's names as they are, and writes nothing if it cannot."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner, Result

from cinecube.cli import main
from cinecube.simulation.setup.simulate_params import simulate_spec
from cinecube.store.base.errors import StudyError
from cinecube.store.params.document import load_study


def _lab(root: Path, films: dict[str, list[str]]) -> None:
    for film, segments in films.items():
        (root / "films" / film).mkdir(parents=True)
        for segment in segments:
            (root / "films" / film / f"{segment}.mp4").touch()
    (root / "fmriprep" / "sub-01").mkdir(parents=True)


def _init(root: Path, *more: str) -> Result:
    words = ["init", str(root / "2024"), "--template", "own", "--stimuli", str(root / "films")]
    return CliRunner().invoke(main, [*words, "--scans", str(root / "fmriprep"), *more])


def test_names_that_yaml_would_misread(tmp_path: Path) -> None:
    films = {"01": ["1", "2"], "no": ["3"], "yes": ["1e5"]}
    _lab(tmp_path, films)
    result = _init(tmp_path, "--test", "no")
    assert result.exit_code == 0, result.output
    study = load_study(tmp_path / "2024")
    assert study.study == "2024"
    assert study.films == films
    assert study.split.test == ["no"]
    assert study.brain.atlas is None


@pytest.mark.parametrize(
    ("films", "more", "line"),
    [
        ({"a": ["s1"], "b": ["s1"]}, (), "found segment s1 twice"),
        ({"a": ["a1"], "b": ["b1"]}, ("--atlas", "gone.nii.gz"), "gone.nii.gz: found no such file"),
        ({"a": ["a1"], "b": ["b1"]}, ("--atlas", __file__), "test_init.py: found a file that cannot be read"),
        ({"a": ["a1"], "b": ["b1"]}, ("--stimuli", "gone"), "gone: found no such folder"),
        ({"a": ["a1"], "b": ["b1"]}, ("--scans", "gone"), "gone: found no such folder"),
        ({"a": ["a1"], "b": ["b1"]}, ("--test", "c"), "--test: found 'c', expected one of a, b"),
    ],
)
def test_what_fails_leaves_nothing(
    tmp_path: Path, films: dict[str, list[str]], more: tuple[str, ...], line: str
) -> None:
    _lab(tmp_path, films)
    result = _init(tmp_path, *more)
    assert result.exit_code == 1
    assert line in result.stderr
    assert not (tmp_path / "2024").exists()


@pytest.mark.parametrize(("tr_s", "last"), [(0.8, 10), (1.49, 5), (2.0, 4), (3.0, 3), (10.0, 1)])
def test_delays_reach_as_far_back_at_any_tr(tmp_path: Path, tr_s: float, last: int) -> None:
    """About 7.5 s: five rows of 1.49 s."""
    _lab(tmp_path, {"a": ["a1"], "b": ["b1"]})
    image = nib.Nifti1Image(np.zeros((2, 2, 2, 3), np.float32), np.eye(4))
    image.header.set_zooms((1, 1, 1, tr_s))
    image.header.set_xyzt_units("mm", "sec")
    name = "sub-01_task-a1_space-MNI152NLin2009cAsym_desc-preproc_bold"
    nib.save(image, tmp_path / "fmriprep" / "sub-01" / f"{name}.nii.gz")
    (tmp_path / "fmriprep" / "sub-01" / f"{name}.json").write_text(f'{{"RepetitionTime": {tr_s}}}')
    result = _init(tmp_path)
    assert result.exit_code == 0, result.output
    assert "no --atlas: every voxel counts for itself" in result.stderr
    study = load_study(tmp_path / "2024")
    assert study.clock.tr_s == tr_s
    assert study.encode.delays == list(range(1, last + 1))


@pytest.mark.parametrize(("own", "tr_s"), [({}, 2.0), ({"tr_s": 1.5}, 1.5)])
def test_a_simulated_study_is_scanned_at_its_own_clock(tmp_path: Path, own: dict[str, float], tr_s: float) -> None:
    assert CliRunner().invoke(main, ["init", str(tmp_path / "new")]).exit_code == 0
    study = load_study(tmp_path / "new")
    clock = study.clock.model_copy(update={"tr_s": 2.0, "window_s": 2.0})
    study = study.model_copy(update={"clock": clock, "simulate": {**(study.simulate or {}), **own}})
    assert (simulate_spec(study).tr_s, simulate_spec(study).window_s) == (tr_s, 2.0)


def test_a_study_of_ones_own_simulates_nothing(tmp_path: Path) -> None:
    assert CliRunner().invoke(main, ["init", str(tmp_path / "new")]).exit_code == 0
    study = load_study(tmp_path / "new").model_copy(update={"simulate": None})
    with pytest.raises(StudyError, match="found no section simulate, expected one, where films and scans are simulat"):
        simulate_spec(study)


def test_a_bare_repository_is_no_place_to_work(tmp_path: Path) -> None:
    (tmp_path / "objects").mkdir()
    (tmp_path / "HEAD").write_text("ref: refs/heads/main\n")
    result = CliRunner().invoke(main, ["plan", "--study", str(tmp_path)])
    assert result.exit_code == 1
    assert "found a bare repository, expected a study's parameters; clone it" in result.stderr


def test_a_space_that_no_scan_has(tmp_path: Path) -> None:
    _lab(tmp_path, {"a": ["a1"], "b": ["b1"]})
    (tmp_path / "fmriprep/sub-01/sub-01_task-a1_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz").touch()
    result = _init(tmp_path, "--space", "fsaverage6")
    assert result.exit_code == 1
    assert "--space: found 'fsaverage6', expected one of MNI152NLin2009cAsym" in result.stderr
    assert not (tmp_path / "2024").exists()


def test_arrays_in_folders_of_subjects(tmp_path: Path) -> None:
    _lab(tmp_path, {"a": ["a1"], "b": ["b1"]})
    (tmp_path / "fmriprep/sub-01/bold.npy").touch()
    result = _init(tmp_path)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "but 1 arrays (.npy), expected of arrays one a subject, sub-01.npy of all runs, and no fol" in result.stderr
    assert not (tmp_path / "2024").exists()
