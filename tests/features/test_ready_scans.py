"""Issue 19: faults of scans that names, headers, masks and tables tell end `extract` before it computes anything."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from tests.conftest import Folder
from tests.lab import make_lab
from tests.store.scan_tree import AFFINE, SHAPE, SPACE, TR_S, label_values, save

from cinecube.simulation.features.checkpoints import write_checkpoint
from cinecube.store.ready import ready_scans
from cinecube.store.scans.brain import check_scans

FILMS = {"amber": ["amber01"], "birch": ["birch01"]}
SUBJECTS = ("sub-01", "sub-02")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lab, and a study of it in which the next stage is `extract`."""
    lab = make_lab(tmp_path_factory.mktemp("lab"), FILMS, SUBJECTS, picture=False)
    study = Folder(lab / "study")
    words = [
        "--template",
        "own",
        "--stimuli",
        lab / "films",
        "--scans",
        lab / "fmriprep",
        "--atlas",
        lab / "atlas.nii.gz",
    ]
    Folder(lab).must("init", str(study.root), *map(str, words))
    write_checkpoint(0, "wav2vec2", study.root / "weights/net")
    net = {"extractor": "wav2vec2", "checkpoint": "weights/net"}
    study.change(lambda params: params.update(models={"net": net}, compute={"models": ["net"], "films": [*FILMS]}))
    study.change(lambda params: params.update(residual=[], partition=[], unimodal={"video": [], "audio": ["net"]}))
    study.change(lambda params: params["statistics"].update(compare=[]))
    for words in ("inputs", "films", "checkpoint net"):
        study.must(*words.split())
    return lab


@pytest.fixture
def study(made: Path, tmp_path: Path) -> Folder:
    shutil.copytree(made, tmp_path / "lab", symlinks=True)
    return Folder(tmp_path / "lab/study")


def _scans(study: Folder, subject: str = "sub-02", segment: str = "birch01") -> Callable[[str], Path]:
    folder = study.root.parent / "fmriprep" / subject / "func"
    return lambda rest: folder / f"{subject}_task-{segment}_{rest}"


def _bold(study: Folder, subject: str = "sub-02", segment: str = "birch01") -> Path:
    return _scans(study, subject, segment)(f"space-{SPACE}_desc-preproc_bold.nii.gz")


def _mask(study: Folder) -> Path:
    return _scans(study)(f"space-{SPACE}_desc-brain_mask.nii.gz")


def _nothing_was_computed(study: Folder) -> bool:
    made = (study.root / "data/features", study.root / "data/extracted.json", study.root / ".cinecube/journal")
    return not any(path.is_file() or (path.is_dir() and any(path.iterdir())) for path in made)


def _refused(study: Folder, *words: str) -> str:
    line = study.error(*(words or ("extract",)))
    assert _nothing_was_computed(study)
    return line


def _planned(study: Folder) -> list[dict[str, str]]:
    steps: list[dict[str, str]] = json.loads(study.must("plan", "--json").stdout)
    return steps


def _rename(study: Folder) -> None:
    for subject in SUBJECTS:
        for path in sorted((study.root.parent / "fmriprep" / subject / "func").iterdir()):
            path.rename(path.with_name(path.name.replace("task-birch01", "task-pine")))


def _table(study: Folder, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    path = _scans(study)("desc-confounds_timeseries.tsv")
    change(pd.read_csv(path, sep="\t").astype(object)).to_csv(path, sep="\t", index=False, na_rep="n/a")


def _scan(study: Folder, change: Callable[[np.ndarray], np.ndarray], tr_s: float = TR_S) -> None:
    path = _bold(study)
    save(path, change(np.asarray(nib.load(path).dataobj)), tr_s=tr_s)  # type: ignore[attr-defined]
    path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps({"RepetitionTime": tr_s}))


def _moved(mm: float) -> np.ndarray:
    """The place of a grid that lies so far to the right."""
    return AFFINE + np.pad([[mm]], ((0, 3), (3, 0)))


def _shift(study: Folder, subject: str = "sub-02") -> None:
    """Another field of view for all scans of a subject, as in its own T1w."""
    for path in sorted((study.root.parent / "fmriprep" / subject / "func").glob("*.nii.gz")):
        tr_s = TR_S if "_bold" in path.name else None
        save(path, np.asarray(nib.load(path).dataobj), _moved(6), tr_s)  # type: ignore[attr-defined]


SPOILT: dict[str, tuple[Callable[[Folder], object], str]] = {
    "no scan is a film's": (_rename, "sub-01 birch01: found no scan of it, but of amber01, pine, expected one with"),
    "n/a throughout": (
        lambda study: _table(study, lambda table: table.assign(csf=np.nan)),
        "timeseries.tsv column csf: found 'n/a' in row 1, expected finite numbers",
    ),
    "a column lacks": (lambda study: _table(study, lambda table: table.drop(columns="csf")), "found no column csf"),
    "rows of another run": (
        lambda study: _table(study, lambda table: table.iloc[1:]),
        "timeseries.tsv: found 29 rows, expected 30, one a volume of sub-02 birch01 repeat 1",
    ),
    "another TR": (lambda study: _scan(study, lambda values: values, 2.0), "found a TR of 2.0 s, expected clock.tr_s"),
    "shorter than its film": (
        lambda study: (_scan(study, lambda values: values[..., :10]), _table(study, lambda table: table.iloc[:10])),
        "sub-02 birch01 repeat 1: found 10 volumes (14.9 s), expected 30 rows of film",
    ),
    "a mask of another shape": (
        lambda study: save(_mask(study), np.ones((*SHAPE[:2], 3), np.uint8)),
        "found a grid of (6, 7, 3) instead of (6, 7, 8), expected the grid of its scan",
    ),
    "no mask": (lambda study: _mask(study).unlink(), "sub-02 birch01 repeat 1: found no brain mask"),
    "an atlas elsewhere": (
        lambda study: save(study.root.parent / "atlas.nii.gz", label_values(), _moved(500)),
        "sub-01 atlas.nii.gz: found no voxel of the brain in any parcel",
    ),
    "another grid": (_shift, "sub-02: found a grid that is up to 6 mm elsewhere, expected the space of sub-01"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_fault_of_scans_is_one_line_before_anything_is_extracted(study: Folder, name: str) -> None:
    spoil, line = SPOILT[name]
    spoil(study)
    assert line in _refused(study)
    assert line in _refused(study, "features", "net", "amber")
    (step,) = [step for step in _planned(study) if step["stage"].startswith("brain@") and line in step["why"]]
    assert step["state"] == "to do"


def test_the_line_is_that_of_brain(study: Folder) -> None:
    _table(study, lambda table: table.assign(csf=np.nan))
    assert _refused(study) == study.error("brain", "sub-02")


def test_more_subjects_are_counted(study: Folder) -> None:
    _rename(study)
    assert _refused(study).strip().endswith("(another subject is refused too: `cinecube plan` has a line for each)")


def test_parcels_of_subjects_on_other_grids_are_extracted(study: Folder) -> None:
    _shift(study)
    study.change(lambda params: params["brain"].update(targets="parcels"))
    study.must("extract")
    assert not _nothing_was_computed(study)


def test_nothing_is_asked_of_scans_where_nothing_is_to_be_extracted(study: Folder) -> None:
    study.must("extract")
    _rename(study)
    study.must("extract")
    study.must("features", "net", "amber")
    shutil.rmtree(study.root / "data/features/net/amber.zarr")
    assert "no scan of it" in study.error("features", "net", "amber")


ABSENT: dict[str, tuple[Callable[[Path], object], str]] = {
    "the folder": (shutil.rmtree, "all scans of sub-01, all scans of sub-02"),
    "a subject": (lambda scans: shutil.rmtree(scans / "sub-02"), "all scans of sub-02"),
    "what a clone has not fetched": (
        lambda scans: [_drop(path) for path in scans.glob("*/func/*")],
        "2 of 2 runs of sub-01",
    ),
    "a scan": (
        lambda scans: [_drop(path) for path in scans.glob("sub-02/func/*birch01*_bold.nii.gz")],
        "1 of 2 runs of sub-02",
    ),
}


def _drop(path: Path) -> None:
    path.unlink()
    path.symlink_to("../.git/annex/objects/MD5E-s9--0/MD5E-s9--0")


@pytest.mark.parametrize("name", ABSENT)
def test_a_machine_without_scans_extracts(study: Folder, name: str) -> None:
    remove, said = ABSENT[name]
    remove(study.root.parent / "fmriprep")
    done = study.must("extract")
    assert f"not here, so not checked before features are extracted: {said}" in done.stderr
    assert not _nothing_was_computed(study)


def test_what_was_found_right_is_checked_again_where_something_changed(
    study: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []

    def counting(study: Any, source: Any, *more: Any) -> Any:
        checked.append(source.subject)
        return check_scans(study, source, *more)

    monkeypatch.setattr(ready_scans, "check_scans", counting)
    for _ in range(2):
        assert not any("found" in step["why"] for step in _planned(study) if step["stage"].startswith("brain@"))
    assert checked == [*SUBJECTS]
    _table(study, lambda table: table.assign(csf=np.nan))
    assert "column csf: found 'n/a'" in _refused(study)
    study.change(lambda params: params["brain"].update(confounds="none"))
    study.must("extract")
    assert checked == [*SUBJECTS, "sub-02", *SUBJECTS]


def test_what_is_fetched_of_a_clone_is_checked(study: Folder) -> None:
    _drop(_bold(study, "sub-01", "amber01"))
    _table(study, lambda table: table.assign(csf=np.nan))
    assert "column csf: found 'n/a'" in _refused(study)
