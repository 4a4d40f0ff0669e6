"""Two revisions or studies side by side: what differs is named, what cannot be compared too, and nothing is silent."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cinecube.comparison.compare import Numbers, changed_numbers
from cinecube.comparison.side import _split
from cinecube.store.dvc.dvc_index import open_index
from cinecube.store.open.cube_names import KINDS, named_cubes
from cinecube.store.params.document import load_study

from ..conftest import Folder, dvc, dvc_environment

if TYPE_CHECKING:
    pass

BEST = "tvlt.joint"


def compared(folder: Folder, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(folder.must("compare", *words, "--json").stdout)
    return found


def git(root: Path, *words: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *who, *words], cwd=root, check=True, env=dvc_environment(), capture_output=True)


@pytest.fixture
def other(study: Folder, tmp_path: Path) -> Folder:
    """A copy whose ViT was read otherwise, and found more."""
    other = study.copy(tmp_path / "other")
    other.change(lambda params: params["models"]["vit"].update(frames_per_window=2))
    other.change(lambda params: params["models"].update(again=params["models"]["vit"]))
    shutil.rmtree(other.root / "data/features/vit/amber.zarr")
    shutil.copytree(other.root / "data/features/vit/birch.zarr", other.root / "data/features/again/birch.zarr")
    edited(other.root / "results/metrics.json", lambda text: _with_score(text, "vit", 0.75))
    edited(
        other.root / "results/tables/significance.csv", lambda text: text.replace("\nvit,sub-01,L_", "\nast,sub-01,L_")
    )
    edited(
        other.root / "results/tables/residual_roi.csv",
        lambda text: re.sub(r"(tvlt.joint-ast,EV,drop,\d+),[^,]+", r"\1,12.5", text),
    )
    return other


def edited(path: Path, change: Any) -> None:
    text = path.read_text(encoding="utf-8")
    path.unlink()
    path.write_text(change(text), encoding="utf-8")


def _with_score(text: str, model: str, score: float) -> str:
    metrics = json.loads(text)
    metrics["whole_brain"][model] = score
    metrics["best_model"] = model
    return json.dumps(metrics)


REMOVALS = ["what removals cost in regions (% of test r)"]


def test_a_study_beside_itself_is_the_same(study: Folder) -> None:
    found = compared(study, str(study.root), str(study.root))
    assert found["parameters"] == found["not_compared"] == []
    assert {cube["state"] for cube in found["cubes"]} == {"same"}
    assert {cube["kind"] for cube in found["cubes"]} == {
        *("features", "brain", "ceiling", "residual features", "scores", "predictions", "partition", "significance")
    }
    metrics = json.loads((study.root / "results/metrics.json").read_text(encoding="utf-8"))
    assert {row["model"]: row["a"] for row in found["scores"]} == metrics["whole_brain"]
    for rows in (found["scores"], found["regions"], found["significance"], found["drops"]):
        assert rows
        assert all(row["a"] == row["b"] for row in rows)
    told = study.must("compare", str(study.root), str(study.root)).stdout
    assert "parameters: the same" in told
    for part in ("whole brain (test r)", "regions (test r)", "targets above chance (share)", *REMOVALS):
        assert f"{part}: the same" in told
    assert "0.000" not in told


def test_what_differs_is_named(study: Folder, other: Folder) -> None:
    found = compared(study, str(study.root), str(other.root))
    assert "models.vit.frames_per_window: 4 -> 2" in found["parameters"]
    states = {cube["name"]: cube["state"] for cube in found["cubes"]}
    assert states["vit/amber"] == "only in A"
    assert states["again/birch"] == "only in B"
    assert states["vit/birch"] == "same"
    vit = next(row for row in found["scores"] if row["model"] == "vit")
    assert (vit["b"], found["best_model"]["b"]) == (0.75, "vit")
    (drop,) = (row for row in found["drops"] if (row["model"], row["region"]) == ("tvlt.joint-ast", "EV"))
    assert drop["b"] == 12.5 != drop["a"]
    shares = {row["model"]: row for row in found["significance"]}
    assert shares["vit"]["a"] != shares["vit"]["b"]
    told = study.must("compare", str(study.root), str(other.root)).stdout
    assert re.search(rf"{re.escape(REMOVALS[0])}\n +A +B +B - A\n  EV tvlt.joint-ast +\S+ +12.500 ", told)
    for line in ("  models.vit.frames_per_window: 4 -> 2", "  vit/amber: only in A", "-> vit\n"):
        assert line in told


def test_a_cube_of_other_parameters_has_its_fields_named(study: Folder, other: Folder) -> None:
    shutil.rmtree(other.root / "results/scores/vit.zarr")
    shutil.copytree(study.root / "results/scores/videomae.zarr", other.root / "results/scores/vit.zarr")
    found = compared(study, str(study.root), str(other.root))
    (scores,) = [cube for cube in found["cubes"] if cube["name"] == "vit/scores"]
    assert scores["state"] == "changed"
    assert scores["fields"]
    assert all(" -> " in line for line in scores["fields"])


def test_tables_that_are_not_there_are_told_and_not_called_the_same(study: Folder, other: Folder) -> None:
    for name in ("results/tables/roi_mean.csv", "results/metrics.json"):
        (other.root / name).unlink()
    edited(other.root / "results/tables/significance.csv", lambda text: text.replace("significant", "signs", 1))
    found = compared(study, str(other.root), str(other.root))
    assert found["scores"] == found["regions"] == found["significance"] == []
    assert found["best_model"] == {"a": None, "b": None}
    said = " ".join(found["not_compared"])
    assert "roi_mean.csv: found no" in said
    assert "metrics.json: found no metrics" in said
    assert "significance.csv: found no column significant" in said
    told = study.must("compare", str(other.root), str(other.root)).stdout
    for part in ("whole brain (test r)", "regions (test r)", "targets above chance (share)"):
        assert f"{part}: not known" in told


class Texts(HTMLParser):
    """What a page shows, and its tags."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_shows_names_as_they_are(study: Folder, other: Folder, tmp_path: Path) -> None:
    name = "<script>alert('a')</script>"
    edited(other.root / "results/metrics.json", lambda text: _with_score(text, name, 0.5))
    edited(other.root / "results/tables/roi_mean.csv", lambda text: text.replace("whole brain", '"../<b>, x"'))
    page = tmp_path / "page.html"
    study.must("compare", str(study.root), str(other.root), "--html", str(page))
    text = page.read_text(encoding="utf-8")
    seen = Texts()
    seen.feed(text)
    assert "script" not in seen.tags
    assert name in seen.texts
    assert "../<b>, x" in seen.texts
    assert "default-src 'none'" in text
    assert "http" not in text.replace('http-equiv="Content', "")
    assert "models.vit.frames_per_window: 4 -> 2" in seen.texts
    dots = [float(place) for place in re.findall(r'<circle class="dot" cx="([\d.]+)"', text)]
    assert dots  # B's numbers drawn, inside of the picture
    assert min(dots) >= 5
    assert max(dots) == 125
    vit = next(
        line for line in study.must("compare", str(study.root), str(other.root)).stdout.splitlines() if "0.750" in line
    )
    assert set(vit.split()) - {"vit"} <= set(seen.texts)


def test_the_page_leaves_out_what_is_the_same(study: Folder, other: Folder, tmp_path: Path) -> None:
    edited(other.root / "results/metrics.json", lambda text: _with_score(text, "vit", 0.75))
    page, same = tmp_path / "page.html", tmp_path / "same.html"
    study.must("compare", str(study.root), str(other.root), "--html", str(page))
    scores = page.read_text(encoding="utf-8").partition("<h2>Scores</h2>")[2].partition("<h2>")[0]
    models = json.loads((study.root / "results/metrics.json").read_text())["whole_brain"]
    assert re.findall(r'<tr><th scope="row">([^<]+)</th>', scores) == ["vit"]
    assert f"{len(models) - 1} that are the same are left out." in scores
    study.must("compare", str(study.root), str(study.root), "--html", str(same))
    assert f"All {len(models)} are the same." in same.read_text(encoding="utf-8")


def test_kept_weights_are_compared_too(raw: Folder) -> None:
    """There are as many kinds of cubes as a study can have."""
    raw.change(lambda params: params.update(keep_weights=[{"model": "vit", "layer": "best"}]))
    kinds = [cube.kind for several in named_cubes(load_study(raw.root)).values() for cube in several]
    assert "weights" in kinds
    assert set(kinds) == set(KINDS)


@pytest.mark.slow
def test_revisions_are_read_from_git_and_the_cache(scratch: Folder) -> None:
    """Their cubes are not in the working tree by then."""
    root = scratch.root
    git(root, "init", "-q", "-b", "main")
    dvc(root, "init", "-q")
    (root / ".gitignore").write_text("/data/stimuli\n/data/scans\n/data/weights\n/.cinecube\n", encoding="utf-8")
    tracked = ["data/features/vit/amber.zarr", "data/brain/sub-01.zarr", "results/scores/vit.zarr"]
    tables = [f"results/tables/{name}.csv" for name in ("roi_mean", "significance", "residual_roi")]
    dvc(root, "add", "-q", *tracked, *tables)
    keep = [".gitignore", ".dvc", "params.yaml", "results/metrics.json", "data/*.dvc", "results/*.dvc", "*.dvc"]
    git(root, "add", *keep)
    git(root, "commit", "-qm", "one")
    git(root, "tag", "v1")
    scratch.change(lambda params: params["encode"].update(folds=4))
    shutil.rmtree(root / "results/scores/vit.zarr")
    shutil.copytree(root / "results/scores/videomae.zarr", root / "results/scores/vit.zarr")
    edited(root / "results/tables/roi_mean.csv", lambda text: text.replace("whole brain,vit,", "whole brain,vivid,"))
    edited(root / "results/metrics.json", lambda text: _with_score(text, "vit", 0.75))
    dvc(root, "add", "-q", "results/scores/vit.zarr", "results/tables/roi_mean.csv")
    git(root, "add", "params.yaml", "results/metrics.json", "*.dvc")
    git(root, "commit", "-qm", "two")
    for cube in tracked:
        shutil.rmtree(root / cube)
    found = compared(scratch, "v1", "HEAD")
    assert found["not_compared"] == []
    assert found["parameters"] == ["encode.folds: 5 -> 4"]
    states = {cube["name"]: cube["state"] for cube in found["cubes"]}
    assert states == {"vit/amber": "same", "sub-01": "same", "vit/scores": "changed"}
    assert next(cube["fields"] for cube in found["cubes"] if cube["name"] == "vit/scores")
    assert next(row["b"] for row in found["scores"] if row["model"] == "vit") == 0.75
    assert {row["model"] for row in found["regions"] if row["b"] is None} == {"vit"}
    assert found["a"]["commit"] != found["b"]["commit"]
    assert compared(scratch, f"{root}@v1", str(root))["parameters"] == ["encode.folds: 5 -> 4"]
    # What nobody published: the cache is another machine's.
    shutil.rmtree(root / ".dvc" / "cache")
    found = compared(scratch, "v1", "HEAD")
    states = {cube["name"]: cube["state"] for cube in found["cubes"]}
    assert states == {"vit/amber": "same", "sub-01": "same", "vit/scores": "changed"}
    assert any("results/scores/vit.zarr" in line for line in found["not_compared"])
    assert any("roi_mean.csv" in line for line in found["not_compared"])


@pytest.mark.parametrize("metrics", [b"\xff\xfe", b"[1]", b"{" + b" " * 2**21], ids=["no text", "a list", "endless"])
def test_metrics_that_cannot_be_read_are_none(scratch: Folder, metrics: bytes) -> None:
    """And hinder nothing else of their repository."""
    root = scratch.root
    git(root, "init", "-q", "-b", "main")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=root, check=True, env=dvc_environment())
    (root / "results/metrics.json").unlink()
    (root / "results/metrics.json").write_bytes(metrics)
    git(root, "add", ".dvc", "params.yaml", "results/metrics.json")
    git(root, "commit", "-qm", "one")
    assert open_index(root, "HEAD").params is not None
    found = compared(scratch, "HEAD", "HEAD")
    assert found["scores"] == []
    assert any("HEAD: results/metrics.json: found no metrics" in line for line in found["not_compared"])


def test_a_revision_without_locks_has_no_cubes_to_compare(scratch: Folder) -> None:
    root = scratch.root
    git(root, "init", "-q", "-b", "main")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=root, check=True, env=dvc_environment())
    git(root, "add", ".dvc", "params.yaml", "results/metrics.json")
    git(root, "commit", "-qm", "one")
    found = compared(scratch, "HEAD", str(root))
    assert found["cubes"] == []
    assert any("HEAD: found no cube, and none that DVC has recorded" in line for line in found["not_compared"])
    assert all(row["a"] == row["b"] for row in found["scores"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("v9", "."), "v9"),
        ((".", "nowhere@v1"), "nowhere@v1"),
        ((".", "https://example.invalid/a.git@--upload-pack=x"), "the revision '--upload-pack=x'"),
    ],
)
def test_what_is_no_study_is_one_line(scratch: Folder, words: tuple[str, ...], said: str) -> None:
    git(scratch.root, "init", "-q", "-b", "main")
    line = scratch.error("compare", *(str(scratch.root) if word == "." else word for word in words))
    assert said in line


@pytest.mark.parametrize(
    ("asked", "place", "rev"),
    [
        ("HEAD~1", "HEAD~1", None),
        ("https://example.org/a.git", "https://example.org/a.git", None),
        ("https://user@example.org/a.git", "https://user@example.org/a.git", None),
        ("https://user@example.org/a.git@v1", "https://user@example.org/a.git", "v1"),
        ("git@example.org:lab/a.git", "git@example.org:lab/a.git", None),
        ("git@example.org:lab/a.git#movie10@feature/x", "git@example.org:lab/a.git#movie10", "feature/x"),
    ],
)
def test_a_revision_stands_behind_the_last_at(asked: str, place: str, rev: str | None) -> None:
    assert _split(asked) == (place, rev)


def test_numbers_that_differ_are_sorted_by_how_much() -> None:
    rows = [
        Numbers("same", "", 0.5, 0.5),
        Numbers("less than shown", "", 0.5, 0.5001),
        Numbers("little", "", 0.5, 0.51),
        Numbers("only here", "", None, 0.5),
        Numbers("much", "", 0.5, 0.1),
    ]
    assert [row.model for row in changed_numbers(rows)] == ["much", "little", "only here"]


def test_revisions_that_are_not_there_are_told_as_they_are(raw: Folder) -> None:
    git(raw.root, "init", "-q")
    dvc(raw.root, "init", "-q")
    line = raw.error("compare", "HEAD", str(raw.root))
    assert "found no branch, tag or commit 'HEAD', expected one commit at least, and it has none; commit what" in line
    git(raw.root, "add", "params.yaml", ".dvc")
    git(raw.root, "commit", "-qm", "study")
    for words in (("v1.0", str(raw.root)), ("HEAD", "nope"), ("1", "2")):
        line = raw.error("compare", *words)
        assert re.search(r"found no branch, tag or commit '\S+', expected one of its branches \w+; name one that", line)
        assert "`rev`" not in line
    for path in ("/nope", "./nope", "../nope", "nope/", str(raw.root / "params.yaml")):
        assert f"{path}: found no such folder, expected" in raw.error("compare", str(raw.root), path)


def test_a_study_without_git_has_no_revisions(raw: Folder) -> None:
    line = raw.error("compare", str(raw.root), "v1.0")
    assert "v1.0: found no such folder, and no revision, for this study is not under Git, expected" in line


@pytest.mark.parametrize(
    "words", [("compare", ".", ".", "--html"), ("card", "--out"), ("export", "score", "--model", "vit")]
)
def test_a_file_is_not_written_into_a_folder_that_is_not_there(
    study: Folder, tmp_path: Path, words: tuple[str, ...]
) -> None:
    there = [str(study.root) if word == "." else word for word in words]
    line = study.error(*there, str(tmp_path / "nowhere" / "x.csv"))
    assert f"{tmp_path / 'nowhere'}: found no such folder, expected one to write x.csv into" in line
    assert list(tmp_path.iterdir()) == []
