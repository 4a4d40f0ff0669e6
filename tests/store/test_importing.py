"""`cinecube import`: cubes of another study in this one, pinned, from real servers; `why` says what they are."""

from __future__ import annotations

import json
import shutil
from contextlib import chdir
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

import cinecube as cc
from cinecube.cli import main
from cinecube.store.dvc import remotes
from cinecube.store.params.document import load_study
from cinecube.studies.pipelines import pipelines

from .conftest import LAYERS, MODEL, SHARD_BYTES, SPEC, Published, git, values, write_cube_of

if TYPE_CHECKING:
    from .servers import Site

FILMS = ("amber", "dune")
CUBE = f"data/features/{MODEL}/amber.zarr"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remotes, "WAITS_S", (0.01, 0.02))


@pytest.fixture
def mine(published: Published, tmp_path: Path) -> Path:
    """A study of its own that would compute everything itself, of two films."""
    from dvc.repo import Repo

    root = tmp_path / "mine"
    root.mkdir()
    params = yaml.safe_load((published.root / "params.yaml").read_text())
    params["films"] = {film: [f"{film}01"] for film in FILMS}
    params["models"][MODEL] = {"extractor": "vit", "checkpoint": "data/weights/vit"}
    params["split"] |= {"train": ["amber"], "test": ["dune"]}
    params["compute"]["films"] = list(FILMS)
    del params["models"]["vit_untrained"]
    params["compute"]["models"].remove("vit_untrained")
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    git(root, "init", "-q")
    with Repo.init(str(root)):
        pass
    return root


def drop_model(root: Path) -> None:
    """Ask for nothing of the model."""
    path = root / "params.yaml"
    params = yaml.safe_load(path.read_text())
    del params["models"][MODEL]
    params["compute"]["models"].remove(MODEL)
    params["unimodal"]["video"].remove(MODEL)
    path.write_text(yaml.safe_dump(params, sort_keys=False))


def ask(root: Path, **entry: Any) -> None:
    """What the section `models` asks of the model."""
    path = root / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["models"][MODEL] = {"extractor": "vit", "checkpoint": "data/weights/vit", **entry}
    path.write_text(yaml.safe_dump(params, sort_keys=False))


def run(root: Path, *words: str) -> Result:
    return CliRunner().invoke(main, [words[0], "--study", str(root), *words[1:]])


def bring(root: Path, repo: object, *words: str) -> list[str]:
    done = run(root, "import", str(repo), "--model", MODEL, "--json", *words)
    assert done.exit_code == 0, f"{done.output} {done.exception!r}"
    return list(json.loads(done.stdout)["files"])


def refused(root: Path, repo: object, *words: str, model: str = MODEL) -> str:
    """The one line of an import that leaves everything as it was."""

    def state() -> dict[str, bytes]:
        kept_apart = {".git", ".dvc", "locks"}
        files = [path for path in root.rglob("*") if path.is_file() and not kept_apart & set(path.parts)]
        return {str(path): path.read_bytes() for path in files if path.name != ".gitignore"}

    before = state()
    done = run(root, "import", str(repo), "--model", model, *words)
    assert done.exit_code == 1, done.output
    assert isinstance(done.exception, SystemExit)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert state() == before
    return lines[0]


def dvc(root: Path) -> Any:
    from dvc.repo import Repo

    return Repo(str(root))


def test_cubes_come_and_are_pinned(published: Published, site: Site, mine: Path, tmp_path: Path) -> None:
    drop_model(mine)
    there = published.clone(tmp_path / "there", site.name)
    assert bring(mine, there, "--remote", site.name) == [f"data/features/{MODEL}/{film}.zarr.dvc" for film in FILMS]
    for film in FILMS:
        pinned = yaml.safe_load((mine / f"data/features/{MODEL}/{film}.zarr.dvc").read_text())
        assert pinned["deps"][0]["repo"]["rev_lock"] == git(there, "rev-parse", "HEAD")
        for layer in range(LAYERS):
            found = cc.open(mine).features(MODEL, film, layer=layer).isel(model=0).values
            np.testing.assert_array_equal(found, values(film, layer))
    assert load_study(mine).imported[0].source == str(there)
    with chdir(mine), dvc(mine) as repo:
        assert repo.status() == {}


def test_layers_are_streamed_without_the_rest(published: Published, mine: Path) -> None:
    drop_model(mine)
    site = published.sites["http"]
    site.wire.reset()
    bring(mine, published.bare, "--no-download", "--remote", "http", "--film", "amber")
    assert site.wire.sent < SHARD_BYTES / 2
    assert not (mine / CUBE).exists()
    pulled = run(mine, "pull", "--model", MODEL, "--layer", "1", "--film", "amber")
    assert pulled.exit_code == 0, pulled.output
    found = cc.open(mine).features(MODEL, "amber", layer=1).isel(model=0).values
    np.testing.assert_array_equal(found, values("amber", 1))


def test_what_was_not_downloaded_is_pulled_later(published: Published, mine: Path) -> None:
    """A plain `dvc import --no-download` has no hash: `dvc repro` after `dvc pull` put the folder into itself."""
    drop_model(mine)
    bring(mine, published.bare, "--no-download", "--remote", "http")
    steps = {step["stage"]: step for step in json.loads(run(mine, "plan", "--json").stdout)}
    assert steps[f"imported@{MODEL}"]["state"] == "not here"
    assert steps[f"imported@{MODEL}"]["dvc_stage"] == "imported@entry0"
    assert f"imported@entry0 ({MODEL}) " in run(mine, "plan").stdout
    for said in (steps[f"imported@{MODEL}"]["why"], run(mine, "why", CUBE).stdout, run(mine, "imported", MODEL).stderr):
        assert "`dvc pull data/features/vit/" in said
        assert "dvc repro" not in said
    pinned = (mine / f"{CUBE}.dvc").read_bytes()
    with chdir(mine), dvc(mine) as repo:
        repo.pull()
        assert repo.reproduce(all_pipelines=True) == []
        assert repo.status() == {}
    assert (mine / f"{CUBE}.dvc").read_bytes() == pinned
    assert sorted(path.name for path in mine.rglob("*.zarr")) == ["amber.zarr", "dune.zarr"]
    np.testing.assert_array_equal(
        cc.open(mine).features(MODEL, "dune", layer=2).isel(model=0).values, values("dune", 2)
    )


def test_parameters_are_edited_and_keep_their_comments(published: Published, mine: Path) -> None:
    drop_model(mine)
    path = mine / "params.yaml"
    path.write_text("# mine\n" + path.read_text().replace("imported: []", "imported: []   # from elsewhere"))
    rev = git(published.bare, "rev-parse", "HEAD")
    bring(mine, published.bare, "--rev", rev, "--remote", "http")
    text = path.read_text()
    assert text.startswith("# mine\n")
    assert "# from elsewhere" in text
    study = load_study(mine)
    assert [entry.model_dump(exclude_none=True) for entry in study.imported] == [
        {"model": MODEL, "source": str(published.bare), "rev": rev, "resample": "mean"}
    ]
    assert study.encoded == [*study.compute.models, MODEL]


def test_no_stage_claims_what_is_imported(published: Published, mine: Path) -> None:
    """A model that the study computes moves from `compute` to `imported`, in the real pipeline."""
    (mine / "dvc.yaml").write_text(pipelines(simulated=True)["dvc.yaml"], encoding="utf-8")
    assert MODEL in load_study(mine).compute.models
    ask(mine, pooling="cls")
    assert "pooling: mean -> cls" in refused(mine, published.bare, "--remote", "http")
    ask(mine)
    bring(mine, published.bare, "--remote", "http")
    study = load_study(mine)
    assert MODEL not in study.compute.models
    assert (MODEL in study.models, study.encoded[-1]) == (True, MODEL)
    with chdir(mine), dvc(mine) as repo:
        outs = [out.fs_path for stage in repo.index.stages for out in stage.outs]
    assert len(outs) == len(set(outs))
    assert sum(CUBE in out for out in outs) == 1


def test_updates_follow_the_source(published: Published, mine: Path, tmp_path: Path) -> None:
    drop_model(mine)
    there = published.clone(tmp_path / "there", "http")
    bring(mine, there, "--remote", "http")
    first = (mine / f"{CUBE}.dvc").read_text()
    (there / "note.txt").write_text("a later revision\n")
    git(there, "add", "note.txt")
    git(there, "commit", "-qm", "later")
    with chdir(mine), dvc(mine) as repo:
        repo.update([f"{CUBE}.dvc"])
    later = (mine / f"{CUBE}.dvc").read_text()
    assert yaml.safe_load(first)["outs"] == yaml.safe_load(later)["outs"]
    assert git(there, "rev-parse", "HEAD") in later


def test_why_tells_where_a_cube_comes_from(published: Published, mine: Path) -> None:
    drop_model(mine)
    bring(mine, published.bare, "--remote", "http")
    done = run(mine, "why", CUBE, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["state"] == "up to date"
    assert told["source"] == f"{published.bare} at {git(published.bare, 'rev-parse', 'HEAD')}"
    ask(mine, pooling="cls")
    said = run(mine, "why", CUBE).stdout
    assert "unlike" in said
    assert "pooling: mean -> cls" in said
    elsewhere = run(mine, "why", "data/features/vit/gone.zarr")
    assert (elsewhere.exit_code, len(elsewhere.stderr.strip().splitlines())) == (1, 1)


@pytest.mark.parametrize(
    ("words", "model", "message"),
    [
        (("--film", "birch"), MODEL, "no film 'birch'"),
        ((), "ast", "found no feature cubes of ast, expected one of vit"),
        ((), "vit.video", "found no feature cubes of vit.video.*ask for vit"),
        (("--rev", "v99"), MODEL, "v99"),
    ],
)
def test_what_cannot_be_imported(
    published: Published, mine: Path, words: tuple[str, ...], model: str, message: str
) -> None:
    import re

    drop_model(mine)
    assert re.search(message, refused(mine, published.bare, "--remote", "http", *words, model=model))


@pytest.mark.parametrize("spelt", ["{root}", "{root}/../mine", "file://{root}", "{root}/.git", "{root}/link"])
def test_a_study_is_not_imported_into_itself(mine: Path, spelt: str) -> None:
    (mine / "link").symlink_to(mine)
    line = refused(mine, spelt.format(root=mine))
    assert "found this study itself" in line
    assert "rm -r" not in line


def test_a_cube_that_is_computed_here_is_not_to_be_removed(published: Published, mine: Path) -> None:
    (mine / CUBE).mkdir(parents=True)
    line = refused(mine, published.bare, "--remote", "http")
    assert f"the cube that the stage features@{MODEL}-amber of this study makes" in line
    assert "rm -r" not in line


def test_what_stands_in_its_place_is_kept(published: Published, mine: Path) -> None:
    drop_model(mine)
    (mine / CUBE).mkdir(parents=True)
    (mine / CUBE / "zarr.json").write_text("{}")
    assert "something in its place" in refused(mine, published.bare, "--remote", "http")
    assert "(No git" in refused(mine, mine.parent / "nowhere")  # and not what stands in the way
    shutil.rmtree(mine / CUBE)
    bring(mine, published.bare, "--remote", "http")
    elsewhere = published.clone(mine.parent / "elsewhere", "http")
    assert f"found vit already, from {published.bare}" in refused(mine, elsewhere)


@pytest.mark.parametrize("how", [(), ("--no-download",)], ids=["fetched", "not fetched"])
def test_further_films_come_from_where_the_first_came(published: Published, mine: Path, how: tuple[str, ...]) -> None:
    drop_model(mine)
    bring(mine, published.bare, "--remote", "http", "--film", "dune", *how)
    line = f"`cinecube import {published.bare} --model vit --film amber`"
    for said in (run(mine, "why", CUBE).stdout, run(mine, "imported", MODEL).stderr):
        assert line in said
        assert "dvc" not in said.replace(line, "")
    if not how:
        steps = {step["stage"]: step for step in json.loads(run(mine, "plan", "--json").stdout)}
        assert line in steps[f"imported@{MODEL}"]["why"]
    first = mine / f"data/features/{MODEL}/dune.zarr.dvc"
    before = (first.read_bytes(), (mine / "params.yaml").read_bytes())
    assert bring(mine, published.bare, "--film", "amber") == [f"{CUBE}.dvc"]
    assert bring(mine, published.bare) == []
    assert (first.read_bytes(), (mine / "params.yaml").read_bytes()) == before
    (repos,) = {str(yaml.safe_load(note.read_text())["deps"][0]["repo"]) for note in first.parent.glob("*.dvc")}
    assert "'remote': 'http'" in repos
    if not how:
        assert run(mine, "imported", MODEL).exit_code == 0
        with chdir(mine), dvc(mine) as repo:
            assert repo.status() == {}


def test_further_films_are_of_cubes_that_are_here(published: Published, mine: Path, tmp_path: Path) -> None:
    """Where the source has made its cubes anew, those that are here come first; a server that dies leaves them."""
    drop_model(mine)
    there = published.clone(tmp_path / "there", "http")
    bring(mine, there, "--film", "dune")
    site = published.sites["http"]
    site.wire.reset()
    site.wire.break_after(SHARD_BYTES // 2)
    try:
        assert "dvc import" in refused(mine, there, "--film", "amber")
    finally:
        site.wire.reset()
    write_cube_of(there, "dune", **SPEC | {"pooling": "last"})
    with chdir(there), dvc(there) as repo:
        repo.commit(force=True, allow_missing=True)
    git(there, "commit", "-qam", "another dune")
    line = refused(mine, there, "--film", "amber")
    assert "data/features/vit/dune.zarr: found another cube than" in line
    assert "bring what is here up to date first: `dvc update data/features/vit/*.dvc`" in line
    bring(mine, there, "--film", "amber", "--rev", "HEAD~1")


def test_a_folder_that_is_no_study_is_left_as_it_is(published: Published, tmp_path: Path) -> None:
    root = tmp_path / "empty"
    root.mkdir()
    done = run(root, "import", str(published.bare), "--model", MODEL)
    assert (done.exit_code, list(root.iterdir())) == (1, [])
    assert "found no such file, expected a study's parameters" in done.stderr


def test_segments_that_the_cubes_lack(published: Published, mine: Path) -> None:
    drop_model(mine)
    params = yaml.safe_load((mine / "params.yaml").read_text())
    params["films"]["dune"] = ["dune01", "dune02"]
    (mine / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    assert "found no rows of segment dune02" in refused(mine, published.bare, "--remote", "http")


def test_a_server_that_dies_leaves_nothing(published: Published, mine: Path) -> None:
    drop_model(mine)
    site = published.sites["http"]
    site.wire.reset()
    site.wire.break_after(SHARD_BYTES // 2)
    try:
        line = refused(mine, published.bare, "--remote", "http")
    finally:
        site.wire.reset()
    assert "dvc import" in line
    bring(mine, published.bare, "--remote", "http")
