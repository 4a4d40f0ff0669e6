"""`cc.open(REPO, rev=…)` and `cinecube ls REPO`: a study at any revision, from real servers, with nothing written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner, Result

import cinecube as cc
from cinecube.cli import main
from cinecube.store.dvc import remotes
from cinecube.store.dvc.dvc_repo import is_repository

from .conftest import LAYERS, MODEL, ROWS, SHARD_BYTES, Published, git, values

if TYPE_CHECKING:
    from .servers import Site

# Labels of a thousand rows, every small file's headers, and the list of files.
LABEL_BYTES = 70_000


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remotes, "WAITS_S", (0.01, 0.02))


def ls(*words: str) -> Result:
    return CliRunner().invoke(main, ["ls", *words])


def test_a_layer_of_a_revision_is_streamed(published: Published, site: Site, tmp_path: Path) -> None:
    root = published.clone(tmp_path / "clone", site.name)
    before = sorted(root.rglob("*"))
    study = cc.open(root, rev="HEAD")
    assert "films amber, birch, dune" in repr(study)
    layer = study.features(MODEL, "amber", layer=1)
    assert layer.dims == ("time", "dim", "model")
    opened = site.wire.sent
    np.testing.assert_array_equal(layer.isel(model=0).values, values("amber", 1))
    assert SHARD_BYTES <= site.wire.sent - opened <= 1.05 * SHARD_BYTES + 10_000
    assert opened <= LABEL_BYTES
    assert [path for path in sorted(root.rglob("*")) if ".git/" not in str(path)] == [
        path for path in before if ".git/" not in str(path)
    ]
    assert not (root / ".dvc" / "cache").exists()


def test_models_and_films_are_joined_as_in_a_folder(published: Published) -> None:
    study = cc.open(published.bare)
    with pytest.raises(cc.StudyError, match="data/features/vit/birch.zarr: found no output of DVC"):
        study.features(MODEL)
    whole = study.features([MODEL], "dune")
    assert dict(whole.sizes) == {"time": ROWS, "dim": 64, "model": 1, "layer": LAYERS}
    assert list(whole["layer"].values) == ["embed", "block01", "block02"]


def test_a_cache_keeps_what_was_read(published: Published, tmp_path: Path) -> None:
    site = published.sites["http"]
    root = published.clone(tmp_path / "clone", "http")

    def read() -> int:
        site.wire.reset()
        found = cc.open(root, rev="HEAD", cache=tmp_path / "chunks").features(MODEL, "amber", layer=2)
        np.testing.assert_array_equal(found.isel(model=0).values, values("amber", 2))
        return int(site.wire.sent)

    assert read() > SHARD_BYTES
    assert read() < 3_000  # the list of files


def test_older_revisions_have_their_own_parameters(published: Published, tmp_path: Path) -> None:
    root = published.clone(tmp_path / "clone", "http")
    first = git(root, "rev-parse", "HEAD")
    text = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(text.replace("study: simulated", "study: renamed"))
    git(root, "commit", "-qam", "rename")
    assert "'renamed'" in repr(cc.open(root, rev="main"))
    assert "'simulated'" in repr(cc.open(root, rev=first))
    assert "'renamed'" in repr(cc.open(root))


def test_a_password_from_the_caller(published: Published) -> None:
    """A remote that the repository knows nothing of."""
    site = published.sites["http"]
    config = dict(site.config)
    study = cc.open(published.bare, remote_config=config)
    np.testing.assert_array_equal(study.features(MODEL, "dune", layer=0).isel(model=0).values, values("dune", 0))


@pytest.mark.parametrize(
    ("rev", "message"),
    [
        ("v99", "found no branch, tag or commit 'v99', expected one of its branches"),
        (None, "found nothing that can be read .No git repository was found at"),
    ],
)
def test_what_there_is_not(published: Published, tmp_path: Path, rev: str | None, message: str) -> None:
    place = str(published.bare) if rev else f"file://{tmp_path}/nothing.git"
    with pytest.raises(cc.StudyError, match=message):
        cc.open(place, rev=rev)


def test_a_repository_without_a_study(published: Published, tmp_path: Path) -> None:
    root = published.clone(tmp_path / "clone", "http")
    git(root, "rm", "-q", "params.yaml")
    git(root, "commit", "-qm", "no study")
    with pytest.raises(cc.StudyError, match="found no params.yaml, expected a study"):
        cc.open(root, rev="HEAD")
    (root / "params.yaml").write_text("study: 3\nnonsense: 1\n")
    git(root, "add", "params.yaml")
    git(root, "commit", "-qm", "a study of another version")
    with pytest.raises(cc.StudyError, match=r"at HEAD: params.yaml.*nonsense.*or update cinecube"):
        cc.open(root, rev="HEAD")


def test_ls_of_a_repository(published: Published, site: Site, tmp_path: Path) -> None:
    root = published.clone(tmp_path / "clone", site.name)
    done = ls(str(root), "--rev", "HEAD", "--json")
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    assert [(row["name"], row["layers"], row["time"]) for row in rows] == [
        (f"{MODEL} {film}", ["embed", "block01", "block02"], ROWS) for film in ("amber", "dune")
    ]
    assert all(row["bytes"] > LAYERS * SHARD_BYTES for row in rows)  # by DVC's record
    assert site.wire.sent <= 2 * LABEL_BYTES
    assert not (root / "data").exists()


def test_ls_tells_people_the_same(published: Published) -> None:
    done = ls(str(published.bare))
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()[1:]
    assert [line.split()[-1] for line in lines] == [f"data/features/{MODEL}/{film}.zarr" for film in ("amber", "dune")]
    assert "1000 time, 64 dim, 1 model, 3 layer" in lines[0]
    wrong = ls(f"file://{published.bare}-gone")
    assert wrong.exit_code == 1
    assert len(wrong.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("place", "known"),
    [
        ("https://example.org/a.git", True),
        ("git@example.org:a/b.git", True),
        ("some/folder", False),
        (".", False),
        ("odd@folder/x", False),
    ],
)
def test_what_is_a_repository(place: str, known: bool) -> None:
    assert is_repository(place) is known
