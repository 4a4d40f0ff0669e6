"""Cubes by name: a model, a film of it, its scores, a pair, a subject; paths work as before."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tests.conftest import REPOSITORY, Folder

import cinecube as cc
from cinecube.cli import main
from cinecube.store.cube.cubes import write_feature_cube
from cinecube.store.cube.schema import Stream, feature_template, provenance, rows_index
from cinecube.store.open.cube_names import find_named, named_cubes
from cinecube.store.params.document import load_study
from cinecube.store.verify.find_cubes import find_cubes


def test_every_cube_of_a_study_has_a_name(study: Folder) -> None:
    named = {cube.path for several in named_cubes(load_study(study.root)).values() for cube in several}
    there = {path.relative_to(study.root).as_posix() for path in find_cubes(study.root)}
    assert {path for path in there if not path.startswith("data/truth")} == {
        path for path in named if (study.root / path).exists()
    }
    assert there - named == {path for path in there if path.startswith("data/truth")}


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("vit/amber", "data/features/vit/amber.zarr"),
        ("vit/scores", "results/scores/vit.zarr"),
        ("vit/predictions", "results/predictions/vit.zarr"),
        ("imagebind.concat-videomae/amber", "data/residual/imagebind.concat-videomae/amber.zarr"),
        ("sub-01", "data/brain/sub-01.zarr"),
        ("ceiling", "data/ceiling.zarr"),
        ("significance", "results/significance.zarr"),
    ],
)
def test_a_name_and_its_path_are_one_cube(study: Folder, name: str, path: str) -> None:
    for command in ("why", "show"):
        by_name, by_path = (study.must(command, word, "--json").stdout for word in (name, path))
        assert json.loads(by_name) == json.loads(by_path), command
        assert study.must(command, name).stdout == study.must(command, path).stdout


def test_a_model_is_its_cubes_of_all_films(study: Folder) -> None:
    films = list(load_study(study.root).films)
    paths = [f"data/features/vit/{film}.zarr" for film in films]
    found = json.loads(study.must("why", "vit", "--json").stdout)
    assert [one["cube"] for one in found] == paths
    assert {one["state"] for one in found} == {"up to date"}
    shown = json.loads(study.must("show", "vit", "--json").stdout)
    assert [one["path"] for one in shown] == paths
    assert shown[0] == json.loads(study.must("show", "vit/amber", "--json").stdout)
    lines = study.must("show", "vit").stdout.splitlines()
    assert [line for line in lines if line in paths] == paths
    assert json.loads(study.must("verify", "vit", "sub-01", "--json").stdout)["cubes"] == len(films) + 1


@pytest.mark.parametrize("command", ["why", "show", "verify"])
@pytest.mark.parametrize(
    ("word", "near"), [("vitt", "vit"), ("vit/ambr", "vit/amber"), ("sub-1", "sub-01"), ("ceilin", "ceiling")]
)
def test_a_wrong_name_is_told_the_nearest(study: Folder, command: str, word: str, near: str) -> None:
    line = study.error(command, word)
    assert f"params.yaml: found no cube {word!r}" in line
    assert f"did you mean {near!r}?" in line


def test_the_nearest_name_is_the_first_of_few(study: Folder) -> None:
    line = study.error("why", "tvlt.joint-as")
    (near,) = re.findall(r"did you mean '(.*)'[?]", line)
    assert re.search(rf"significance, or one of {near}, \S+, \S+, \S+ and \d+ more; did you mean", line)
    with pytest.raises(cc.StudyError, match=r"expected one of roi, (\w+, ){2}\w+ and \d+ more; did you mean 'roi'[?]"):
        cc.open(str(study.root)).table("roy")


def test_a_name_of_nothing_is_told_the_kinds(study: Folder) -> None:
    line = study.error("show", "qqq")
    for name in (*load_study(study.root).known_models, "SUBJECT", "ceiling", "MODEL/FILM", "`cinecube ls`"):
        assert name in line
    assert len(line) < 500
    number = len(named_cubes(load_study(study.root)))
    assert line.count(", ") < 25
    assert f"and {number - 13} more; " in line


@pytest.mark.parametrize(("word", "name"), [("tvlt.joint", "tvlt"), ("tvlt.joint/scores", "tvlt/scores")])
def test_a_stream_leads_to_its_model(study: Folder, word: str, name: str) -> None:
    assert study.error("show", word).endswith(f"; name {name}")
    study.must("show", name)


@pytest.mark.parametrize("command", ["why", "show"])
def test_weights_that_are_not_kept_lead_to_what_keeps_them(command: str, tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    shutil.copy(REPOSITORY / "params.yaml", params)
    line = Folder(tmp_path).error(command, "vit/weights")
    assert "params.yaml: keep_weights: found no vit, expected the models whose weights are kept" in line
    assert "add `{model: vit, layer: best}` to the list" in line
    text = params.read_text()
    params.write_text(re.sub("keep_weights: .*", "keep_weights: [{model: vit, layer: best}]", text))
    assert find_named(tmp_path, "vit/weights") == Path("results/weights/vit.zarr")


def test_numbers_that_do_not_rise_are_shown_as_a_range(tmp_path: Path) -> None:
    """The last of them is not the largest: onsets begin anew with each segment."""
    rows = rows_index({"amber01": np.arange(9) * 1.5, "amber02": np.arange(3) * 1.5})
    attrs = provenance("features", {"film": "amber"}, ["zarr"])
    template = feature_template(rows, 1.5, [Stream("vit", ["embed"], [2])], "float32", attrs)
    write_feature_cube(tmp_path / "amber.zarr", template, lambda m, k: np.ones((12, 2), "float32"))
    lines = Folder(tmp_path).must("show", "amber.zarr").stdout.splitlines()
    assert "  onset_s   (time)  from 0.0 to 12.0" in lines
    assert "  dim       (dim)  0 … 1" in lines


def test_a_map_of_a_model_of_several_streams_names_them(study: Folder, tmp_path: Path) -> None:
    for kind in ("score", "group_q"):
        line = study.error("export", kind, str(tmp_path / "x.csv"), "--model", "tvlt")
        assert "found a model of 3 streams, expected one of tvlt.video, tvlt.audio, tvlt.joint" in line


def test_what_is_there_is_a_path(study: Folder, tmp_path: Path) -> None:
    """A folder that is called like a model, and cubes outside any study."""
    copy = study.copy(tmp_path / "study")
    shutil.copytree(copy.root / "data/features/vit", copy.root / "videomae")
    assert find_named(copy.root, "videomae") == Path("videomae")
    assert json.loads(copy.must("verify", "videomae", "--json").stdout)["cubes"] == 3
    done = CliRunner().invoke(main, ["show", "--study", str(tmp_path), str(copy.root / "videomae" / "amber.zarr")])
    assert done.exit_code == 0, done.output


def test_a_cube_that_is_not_there_has_its_name(scratch: Folder) -> None:
    shutil.rmtree(scratch.root / "data/features/vit/amber.zarr")
    assert scratch.must("why", "vit/amber").stdout.startswith("data/features/vit/amber.zarr: missing")
    assert "found no" in scratch.error("show", "vit/amber")
