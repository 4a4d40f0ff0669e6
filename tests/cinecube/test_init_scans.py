"""`init --template own` says what is wrong with scans and atlas before anything is computed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import Folder
from tests.store.scan_tree import SHOWINGS, SPACE, TR_S, Tree, label_values, make_tree, save

from cinecube.studies.init import OwnData, values_of_scans


@pytest.fixture
def lab(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """Films, scans and an atlas where there is no study yet."""
    tree = make_tree(tmp_path_factory.mktemp("lab") / "lab")
    for film in ("amber", "birch"):
        (tree.root / "films" / film).mkdir(parents=True)
        (tree.root / "films" / film / f"{film}01.mp4").touch()
    (tree.root / "params.yaml").unlink()
    return tree


def _words(lab: Tree) -> tuple[str, ...]:
    words = ("init", str(lab.root / "new"), "--template", "own", "--stimuli", str(lab.root / "films"))
    return (*words, "--scans", str(lab.root / "fmriprep"), "--atlas", str(lab.atlas))


def _values(lab: Tree, atlas: str = "atlas", space: str | None = SPACE) -> dict[str, Any]:
    """What `init` would write into params.yaml."""
    own = OwnData(lab.root / "films", lab.root / "fmriprep", lab.root / f"{atlas}.nii.gz", None, space)
    films = {film: [f"{film}01"] for film in ("amber", "birch")}
    return values_of_scans(lab.root / "new", own, films, {"train": ["amber"], "test": ["birch"]})


def test_plain_scans_are_taken_without_a_word(lab: Tree, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    values = _values(lab)
    assert caplog.messages == ["shown more than once: amber01"]
    assert (values["tr_s"], values["subjects"]) == (TR_S, ["sub-01"])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[1.49]", "_bold.json: found a JSON list"),
        (json.dumps({"RepetitionTime": 0}), "found RepetitionTime '0', expected a number of seconds"),
        (json.dumps({"RepetitionTime": 3}), "found RepetitionTime 3 s, expected 1.49 s, as the header"),
    ],
)
def test_a_sidecar_that_is_wrong(lab: Tree, text: str, line: str) -> None:
    lab.sidecar().write_text(text)
    assert line in lab.error(*_words(lab))
    assert not (lab.root / "new").exists()


def test_milliseconds_are_told(lab: Tree, caplog: pytest.LogCaptureFixture) -> None:
    lab.sidecar().write_text(json.dumps({"RepetitionTime": 1490}))
    assert _values(lab)["tr_s"] == TR_S
    assert "sub-01 birch01 repeat 1: RepetitionTime 1490 is taken as milliseconds" in caplog.messages


def test_runs_of_two_times(lab: Tree) -> None:
    lab.scan(lambda values: values, tr_s=2.0)
    lab.sidecar().write_text(json.dumps({"RepetitionTime": 2.0}))
    assert "found a TR of 2 s, expected 1.49 s, as of sub-01_ses-001_task-amber01" in lab.error(*_words(lab))


def test_an_atlas_of_probabilities(lab: Tree) -> None:
    save(lab.atlas, np.stack([label_values()] * 3, axis=-1))
    assert "found volumes of shape (6, 7, 8, 3), expected a volume of labels" in lab.error(*_words(lab))
    assert not (lab.root / "new").exists()


def test_an_atlas_whose_table_lacks_a_label(lab: Tree) -> None:
    lab.names.write_text("index\tname\n1\tL_A\n")
    assert "atlas.tsv: found no name for label 2" in lab.error(*_words(lab))


def _rename_atlas(lab: Tree) -> None:
    for path in (lab.atlas, lab.names):
        shutil.copy(path, path.with_name(path.name.replace("atlas", "space-T1w_dseg")))


def _not_fetched(lab: Tree) -> None:
    lab.bold().unlink()
    lab.bold().symlink_to("../../../.git/annex/objects/a.nii.gz")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda lab: lab.bold().unlink(), "sub-01 birch01: found no scan of it, but of amber01"),
        (
            lambda lab: lab.twin("task-birch01", "task-birch01_rec-x"),
            "birch01: found two files that differ by rec",
        ),
        (
            lambda lab: shutil.copytree(lab.root / "fmriprep/sub-01", lab.root / "fmriprep/sub-1"),
            "sub-01 and sub-1: two folders of one subject?",
        ),
        (lambda lab: lab.rename("", "birch01", "h01"), "name the segment and its film's file after task-h01"),
        (_not_fetched, ""),
    ],
)
def test_what_may_still_change_is_told(
    lab: Tree, change: Callable[[Tree], object], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What `brain` would refuse is said, and the study is made at the TR of the scans that are there."""
    change(lab)
    assert _values(lab)["tr_s"] == TR_S
    assert any(told in line for line in caplog.messages) or not told


def test_an_atlas_of_another_space_by_its_name(lab: Tree) -> None:
    _rename_atlas(lab)
    assert "T1w_dseg.nii.gz: found an atlas in T1w, by its name, expected" in lab.error(
        *_words(lab)[:-1], str(lab.root / "space-T1w_dseg.nii.gz")
    )


def test_scans_of_which_none_is_named_like_a_film(lab: Tree, caplog: pytest.LogCaptureFixture) -> None:
    for film in ("amber", "birch"):
        lab.rename("", f"{film}01", f"clip{film[0]}")
    line = lab.error(*_words(lab))
    assert "no scan that is named like any film: those of sub-01 are task-clipa, task-clipb" in line
    assert "expected task-amber01 for amber01; give a film's file and its scans one name" in line
    assert not (lab.root / "new").exists()
    for film in ("amber", "birch"):
        (lab.root / "films" / film / f"{film}01.mp4").rename(lab.root / "films" / film / f"my_clip{film[0]}.mp4")
    lab.must(*_words(lab))
    assert 'if task-clipa is meant, add `tasks: "my_{task}"`' in caplog.text  # a rule brings them together


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("amber", "my amber", "films: film name: found 'my amber'"),
        ("amber/amber01.mp4", "amber/my film.mp4", "films/amber: segment name: found 'my film'"),
    ],
)
def test_a_film_whose_name_is_no_label_is_told_with_its_folder(lab: Tree, old: str, new: str, where: str) -> None:
    (lab.root / "films" / old).rename(lab.root / "films" / new)
    assert f"{lab.root}/{where}" in lab.error(*_words(lab))


def test_no_scan_at_all_is_told(lab: Tree, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(lab.root / "fmriprep/sub-01/ses-001")
    assert _values(lab)["tr_s"] == 1.49
    assert "no scan tells the time between volumes: clock.tr_s is 1.49" in caplog.text


@pytest.mark.parametrize(
    ("spaces", "chosen"), [(("T1w",), "T1w"), (("T1w", SPACE), SPACE), (("T1w", "MNI152NLin6Asym"), "MNI152NLin6Asym")]
)
def test_the_space_is_found(lab: Tree, spaces: tuple[str, ...], chosen: str, caplog: pytest.LogCaptureFixture) -> None:
    for showing in SHOWINGS:
        for space in {*spaces} - {SPACE}:
            lab.twin(f"space-{SPACE}", f"space-{space}", showing)
    if SPACE not in spaces:
        for path in lab.root.glob(f"fmriprep/**/*space-{SPACE}*"):
            path.unlink()
    caplog.set_level("INFO", "cinecube")
    values = _values(lab, space=None)
    assert (values["space"], values["tr_s"]) == (chosen, TR_S)
    assert (f"scans are in {', '.join(sorted(spaces))}: brain.space is {chosen}" in caplog.text) == (len(spaces) > 1)


def test_a_space_that_is_not_there(lab: Tree) -> None:
    line = f"--space: found 'fsaverage6', expected one of {SPACE}; name a space of the scans"
    assert line in lab.error(*_words(lab), "--space", "fsaverage6")


def test_the_atlas_beside_the_scans_is_taken_if_it_is_the_only_one(lab: Tree, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    own = OwnData(lab.root / "films", lab.root / "fmriprep", None, None, SPACE)
    films = {film: [f"{film}01"] for film in ("amber", "birch")}

    def found() -> Any:
        return values_of_scans(lab.root / "new", own, films, {"train": ["amber"], "test": ["birch"]})["atlas"]

    assert found() == "../atlas.nii.gz"
    assert f"no --atlas: brain.atlas is {lab.root / 'atlas.nii.gz'}" in caplog.messages
    for ending in (".nii.gz", ".tsv"):
        shutil.copy(lab.root / f"atlas{ending}", lab.root / f"atlas_too{ending}")
    assert found() is None
    assert "no --atlas: 2 are beside the scans; every voxel counts for itself" in caplog.text


def _dangle(path: Path) -> None:
    path.unlink()
    path.symlink_to(f".git/annex/objects/MD5E-s5000000--{'0' * 32}.gz/MD5E-s5000000--{'0' * 32}.gz")


@pytest.mark.parametrize("what", ["*_bold.nii.gz", "*"])
def test_scans_that_were_not_fetched_are_all_named_with_their_size(lab: Tree, what: str) -> None:
    """Issue 19: with every link dangling `own` said nothing, and a sidecar that dangled ended it."""
    files = sorted(lab.bold().parent.glob(what))
    for path in files:
        _dangle(path)
    told = lab.must(*_words(lab)).stderr
    assert f"films and scans: found {len(files)} files that were not fetched ({len(files) * 5} MB): " in told
    assert "datalad get" in told
    assert ("no scan tells the time between volumes" in told) == (what == "*")


def test_a_space_of_which_nothing_was_fetched(lab: Tree) -> None:
    """Issue 19, case b17: it ended on the first file alone."""
    for showing in SHOWINGS:
        link = lab.path("space-T1w_desc-preproc_bold.nii.gz", showing)
        link.touch()
        _dangle(link)
    told = lab.must(*_words(lab)[:-2], "--space", "T1w").stderr
    assert "films and scans: found 3 files that were not fetched (15 MB): " in told


def _public(lab: Tree, template: str = "movie10", *more: str) -> tuple[str, ...]:
    words = ("init", str(lab.root / "new"), "--template", template, "--stimuli", str(lab.root / "films"))
    return (*words, "--scans", str(lab.root / "fmriprep"), *more)


@pytest.mark.parametrize("films", [True, False], ids=["films", "no films"])
def test_a_space_that_public_data_lack_is_told_with_those_there_are(lab: Tree, films: bool) -> None:
    if not films:
        shutil.rmtree(lab.root / "films")
    line = [
        part for part in lab.run(*_public(lab, "movie10", "--space", "fsLRx")).stderr.splitlines() if "--space" in part
    ]
    assert line == [f"Error: --space: found 'fsLRx', expected one of {SPACE}; name a space of the scans"]
    assert not (lab.root / "new").exists()


def test_scans_of_another_source_are_told(lab: Tree) -> None:
    line = lab.error(*_public(lab, "algonauts2025"))
    assert "fmriprep: found scans of fMRIPrep (sub-*/**/*_bold.*), of sub-01, expected Algonauts 2025" in line
    assert line.endswith("or take --template movie10")
    assert not (lab.root / "new").exists()


def test_a_film_that_lacks_hides_nothing_of_scans(lab: Tree) -> None:
    """Issue 19: what `init` and `plan` say line by line, `inputs` says in one."""
    told = lab.must(*_public(lab)).stderr.splitlines()
    film, scans = "segment bourne01: found no file", f"found scans in {SPACE}, expected some with space-fsLR"
    assert any(film in line for line in told)
    assert any(scans in line for line in told)
    line = Tree(lab.root / "new").error("inputs")
    assert film in line
    assert f"; also sub-01 in {lab.root / 'new'}" in line
    assert scans in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--space", "fsLRx"), "found 'fsLRx', expected one of fsLR, .*; did you mean 'fsLR'?"),
        (("--atlas", "/nope.nii.gz"), "found no /nope.nii.gz, expected a file or folder, or hcp-mmp"),
    ],
)
def test_a_slip_in_a_study_of_public_data_is_refused_before_there_are_scans(
    tmp_path: Path, words: tuple[str, str], said: str
) -> None:
    """It would leave the study without its atlas and regions, without a word."""
    study = Folder(tmp_path / "study")
    assert re.search(said.replace("?", "[?]"), study.error("init", str(study.root), "--template", "movie10", *words))
    assert not study.root.exists()
