"""Every pipeline is made from one source, and a stage depends on all the code that it can reach."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import Folder
from tests.stage_code import REPOSITORY, ROOMS, WITHOUT_CODE, code_of_stages, commands, reached_face, reached_files

from cinecube.studies.pipelines import pipelines

TEMPLATES = REPOSITORY / "cinecube" / "templates"
# What only the simulated study has.
SIMULATED = {"data/weights", "data/truth"}
# Stages without a result of numbers, or whose record carries the versions.
WITHOUT_VERSION = {"inputs", "privacy", "extract", "features", "imported", "contents"}


def _stages(text: str) -> dict[str, Any]:
    stages: dict[str, Any] = yaml.safe_load(text)["stages"]
    return stages


def _default() -> dict[str, Any]:
    return {
        name: stage
        for file in ("dvc.yaml", "data/dvc.yaml")
        for name, stage in _stages((REPOSITORY / file).read_text(encoding="utf-8")).items()
    }


def _command(stage: dict[str, Any]) -> str:
    found = re.match(r"\$\{cinecube\} ([a-z-]+)", stage["cmd"])
    assert found is not None
    return found[1]


def _code(stage: dict[str, Any]) -> list[Path]:
    return [REPOSITORY / dep for dep in stage.get("deps", []) if dep.split("/")[0] in ROOMS]


def test_the_default_study_is_written_by_make_pipeline() -> None:
    for name, text in pipelines(simulated=True, code=code_of_stages()).items():
        assert (REPOSITORY / name).read_text(encoding="utf-8") == text, f"{name} is old: run `make pipeline`"
    assert (TEMPLATES / "simulated/params.yaml").read_bytes() == (REPOSITORY / "params.yaml").read_bytes()


@pytest.mark.parametrize("name", _default())
def test_a_stage_depends_on_every_file_that_it_reaches(name: str) -> None:
    stage = _default()[name]
    folders, command = _code(stage), _command(stage)
    assert all(folder.is_dir() for folder in folders), "code is named by folders"
    if command in WITHOUT_CODE:
        assert not folders
        return
    assert folders
    uncovered = {path for path in reached_files(command) if not set(folders) & set(path.parents)}
    assert not uncovered, f"{name} reaches what it does not depend on: {sorted(map(str, uncovered))}"


def test_every_command_of_a_stage_is_in_the_pipeline() -> None:
    assert {_command(stage) for stage in _default().values()} == set(commands())


def test_imports_are_followed_into_functions_and_registries_and_not_where_types_alone_are_read() -> None:
    """Of files that were missing among dependencies, and one that must not be there."""
    found = {name: {path.relative_to(REPOSITORY).as_posix() for path in reached_files(name)} for name in commands()}
    assert {"analysis/encoders/stage.py", "analysis/ridge/factors.py", "store/cube/cubes.py"} <= found["encode"]
    assert {"analysis/ridge/factors.py", "analysis/cubes/rows.py", "store/jobs/tasks.py"} <= found["ceiling"]
    assert "features/architectures/tvlt.py" in found["checkpoint"], "networks are imported by the registry's names"
    assert not any(path.startswith(("analysis/report", "features/")) for path in found["encode"])
    assert not any(path.startswith("analysis/encoders") for path in found["layerwise"])


def test_every_result_depends_on_its_version() -> None:
    """In every kind of study, since an upgraded package changes no file of a study that holds no code."""
    for kind in ({"simulated": True}, {}, {"stimuli": False}):
        stages = {name: stage for text in pipelines(**kind).values() for name, stage in _stages(text).items()}
        for name, stage in stages.items():
            files = [next(iter(file)) for file in stage.get("params", []) if isinstance(file, dict)]
            assert ("data/versions.json" in files) == (name not in WITHOUT_VERSION), name
            assert not _code(stage), "these studies hold no code"


def test_studies_of_ones_own_differ_in_their_inputs_alone() -> None:
    """Films and scans of theirs are known to DVC by the records that `inputs` writes: it looks into no such folder."""
    ours = pipelines(simulated=True)
    whole = {"inputs": _stages(ours["data/dvc.yaml"])["inputs"], **_stages(ours["dvc.yaml"])}
    del whole["oracle"], whole["inputs"]["wdir"]
    for stage in whole.values():
        stage["deps"] = [dep for dep in stage.get("deps", []) if dep not in SIMULATED]
    own = {name: {"deps": [], **stage} for name, stage in _stages(pipelines()["dvc.yaml"]).items()}
    assert [name for name in own if own[name] != whole[name]] == ["inputs", "films", "extract", "features", "brain"]
    assert own["inputs"].pop("outs") == [*whole["inputs"].pop("outs"), {"data/inputs": {"persist": True}}]
    for name, films_and_scans, records in (
        ("films", {"${stimuli}"}, {"data/inputs/films"}),
        ("extract", {"${stimuli}"}, {"data/inputs/films"}),
        ("features", {"${stimuli}/${item.film}"}, {"data/inputs/films/${item.film}.json"}),
        ("brain", {"${brain.path}/${item.subject}", "${brain.atlas}"}, {"data/inputs/scans/${item.subject}.json"}),
    ):
        there, here = set(whole[name].pop("deps")), set(own[name].pop("deps"))
        assert (there - here, here - there) == (films_and_scans, records)
    assert own == whole
    reuse = _stages(pipelines(stimuli=False)["dvc.yaml"])
    assert set(own) - set(reuse) == {"checkpoint", "extract", "features", "encode"}
    assert reuse["films"]["deps"] == ["data/features"]


def test_git_ignores_in_the_default_study_what_it_ignores_in_others() -> None:
    ours, theirs = (path.read_text(encoding="utf-8") for path in (REPOSITORY / ".gitignore", TEMPLATES / "gitignore"))
    assert theirs in ours


def test_own_readme_is_five_lines() -> None:
    assert len((TEMPLATES / "own/README.md.j2").read_text(encoding="utf-8").strip().splitlines()) == 5


@pytest.mark.parametrize(
    ("space", "endings"),
    [
        ("fsLR", ["space-fsLR_den-91k_bold.dtseries.nii"]),
        (
            "MNI152NLin2009cAsym",
            [f"space-MNI152NLin2009cAsym_desc-{name}.nii.gz" for name in ("preproc_bold", "brain_mask")],
        ),
        ("fsaverage6", ["hemi-L_space-fsaverage6_bold.func.gii", "space-fsaverage6_hemi-R_bold.func.gii"]),
    ],
)
def test_movie10s_readme_fetches_what_its_space_reads(tmp_path: Path, space: str, endings: list[str]) -> None:
    """And nothing of other films and spaces: the line runs with `echo` in the place of `datalad get`."""
    Folder(tmp_path / "study").must("init", str(tmp_path / "study"), "--template", "movie10", "--space", space)
    func = tmp_path / "movie10.fmriprep/sub-01/ses-001/func"
    func.mkdir(parents=True)
    read = [*endings, "desc-confounds_timeseries.tsv"]
    others = ["space-T1w_desc-preproc_bold.nii.gz", "space-fsaverage5_hemi-L_bold.func.gii", "desc-aseg_dseg.nii.gz"]
    for task in ("life01_run-1", "wolf02", "figures01"):
        for name in (*read, *others):
            (func / f"sub-01_ses-001_task-{task}_{name}").touch()
    readme = (tmp_path / "study/README.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^ *\((cd \S*movie10.fmriprep && datalad get .*)\)$", readme, re.MULTILINE)
    said = subprocess.run(
        ["bash", "-O", "nullglob", "-ec", line.replace("datalad get", "echo")],
        cwd=tmp_path / "study",
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert sorted(Path(name).name for name in said.split()) == sorted(
        f"sub-01_ses-001_task-{task}_{name}" for task in ("life01_run-1", "wolf02") for name in read
    )


def test_what_a_stage_computes_with_is_in_a_room_that_it_depends_on() -> None:
    """The section `simulate` was read outside of all rooms, and no stage ran again where that changed."""
    reached = set().union(*(reached_face(name) for name in commands() if name not in WITHOUT_CODE))
    # Which version of a pipeline a study has; it decides who writes tables, and no number.
    assert reached == {"cinecube.studies.pipelines", "cinecube.studies.pipelines.stage_names"}
