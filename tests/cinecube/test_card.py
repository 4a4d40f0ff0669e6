"""`cinecube card`: one page that tells others what a store holds, escapes what it shows, and leaks nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import chdir
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml
from click.testing import CliRunner, Result

from cinecube.cli import main
from cinecube.sharing.citing import study_citation
from cinecube.sharing.origin import find_origin, public_url, refuse_odd_url
from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import write_cube, write_feature_cube
from cinecube.store.cube.schema import Stream, feature_template, provenance, rows_index, string_coordinate

FILMS = {"amber": ["amber01", "amber02"], "dune": ["dune01"]}
SPEC = {
    "kind": "features",
    "extractor": "vit",
    "checkpoint": "google/vit-base-patch16-224",
    "revision": "3f49326eb077187dfe1c2a2bb15fbd74e6ab91e3",
    "weights_digest": "ab" * 32,
    "untrained": None,
    "pooling": "mean",
    "frames_per_window": 4,
    "final_norm": False,
    "window_s": 1.5,
    "context_s": 0,
    "preprocessing": {"size": 224},
}


def _params(models: dict[str, Any]) -> dict[str, Any]:
    return {
        "study": "reels",
        "clock": {"tr_s": 1.5, "window_s": 1.5, "max_trim_s": 6},
        "stimuli": "data/stimuli",
        "films": FILMS,
        "split": {"train": ["amber"], "test": ["dune"], "gap_s": 3},
        "models": models,
        "compute": {"models": list(models), "films": list(FILMS)},
        "brain": {"path": "data/scans", "subjects": ["sub-01"]},
    }


def _write(root: Path, model: str, film: str, licence: str | None, **spec: Any) -> None:
    rows = rows_index({name: np.arange(20) * 1.5 for name in FILMS[film]})
    streams = [Stream(model, ["embed", "block01", "block02", "block03", "head"], [8, 8, 8, 8, 4])]
    more = {"licence": licence} if licence else {}
    template = feature_template(
        rows, 1.5, streams, "float32", provenance("features", {**SPEC, **spec}, ["zarr"], **more)
    )
    values = np.zeros((len(rows), 8), np.float32)
    write_feature_cube(StudyPaths(root).features(model, film), template, lambda m, k: values[:, : streams[m].widths[k]])


def _git(root: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")
    env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    done = subprocess.run(["git", *who, *words], cwd=root, check=True, capture_output=True, text=True, env=env)
    return done.stdout.strip()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two models, one of them for non-commercial use and of one film; in Git, with a password in its address."""
    root = tmp_path / "study"
    root.mkdir()
    models = {name: {"extractor": "vit", "checkpoint": "data/weights/vit"} for name in ("vit", "nc")}
    (root / "params.yaml").write_text(yaml.safe_dump(_params(models)), encoding="utf-8")
    for film in FILMS:
        _write(root, "vit", film, "apache-2.0")
    _write(root, "nc", "amber", "cc-by-nc-4.0", checkpoint=None, revision=None, untrained=0)
    (root / ".gitignore").write_text("/data\n", encoding="utf-8")
    _git(root, "init", "-q")
    _git(root, "add", ".")
    _git(root, "commit", "-qm", "cubes")
    _git(root, "remote", "add", "origin", "https://me:secret@example.org/lab/reels.git?token=hidden")
    return root


def _card(root: Path, *words: str) -> Result:
    result = CliRunner().invoke(main, ["card", "--study", str(root), *words])
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return result


def _page(root: Path, *words: str) -> str:
    result = _card(root, *words)
    assert result.exit_code == 0, result.output
    return (root / "CARD.html").read_text(encoding="utf-8")


class _Text(HTMLParser):
    """What a reader sees, and the tags it stands in."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not {"src", "href", "onclick", "onerror", "onload"} & {name for name, _ in attrs}
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def _text(page: str) -> str:
    parser = _Text(page)
    assert not parser.open
    assert not {"script", "img", "link", "iframe"} & set(parser.tags)
    return " ".join(" ".join(parser.text).split())


def test_it_tells_what_the_store_holds_and_how_it_was_made(root: Path) -> None:
    text = _text(_page(root))
    for part in (
        "reels",
        "2 models for 2 films",
        "rows begin every 1.5 s",
        "amber amber01 (20), amber02 (20) 40 train",
        "dune dune01 (20) 20 test",
        "google/vit-base-patch16-224",
        "revision 3f49326eb077187dfe1c2a2bb15fbd74e6ab91e3",
        "frames per window 4",
        "window 1.5 s",
        "fresh weights, seed 0",
        "checkpoint of no hub; see the digest of its weights",
        "vit 5 embed, block01 … head 4, 8",
        "No cube here of dune",
        "vit apache-2.0 see the licence",
        "weights, SHA-256 begins abababababab frames",
        "nc cc-by-nc-4.0 non-commercial use only",
        "zarr",
    ):
        assert part in text, f"{part!r} is not in {text}"
    digest = xr.open_zarr(StudyPaths(root).features("vit", "amber")).attrs["fingerprint"]
    assert digest[:12] in text
    assert "final norm" not in text
    assert text.count("look-back") == 0


def test_lines_to_copy_name_the_origin_without_passwords_and_the_revision(root: Path) -> None:
    commit = _git(root, "rev-parse", "HEAD")
    page = _page(root)
    assert f"cinecube import https://example.org/lab/reels.git --model vit --rev {commit}" in _text(page)
    assert f'study = cc.open("https://example.org/lab/reels.git", rev="{commit}")' in _text(page)
    for hidden in ("secret", "hidden", "me@", str(root)):
        assert hidden not in page
    _git(root, "tag", "v1.0")
    assert "--model nc --rev v1.0" in _text(_page(root))
    assert "--model nc --rev main" in _text(_page(root, "--rev", "main"))
    wrong = CliRunner().invoke(main, ["card", "--study", str(root), "--rev", "v9"])
    assert wrong.exit_code == 1
    assert "--rev: found 'v9', expected a revision that Git has here" in wrong.stderr
    assert "import https://example.org/other.git" in _text(_page(root, "--url", "https://x:y@example.org/other.git"))


def test_the_same_store_is_the_same_bytes_also_when_the_card_is_committed(root: Path, tmp_path: Path) -> None:
    page = _page(root)
    _git(root, "add", "CARD.html")
    _git(root, "commit", "-qm", "card")
    assert _page(root) == page
    shutil.copytree(root, tmp_path / "elsewhere")
    assert _page(tmp_path / "elsewhere") == page
    assert find_origin(root).uncommitted is False
    (root / "dvc.lock").write_text("schema: '2.0'\n", encoding="utf-8")
    assert "commit it and write the card again" in _card(root).stderr
    _git(root, "add", "dvc.lock")
    _git(root, "commit", "-qm", "other cubes")
    assert _page(root) != page


def test_it_reads_no_numbers(root: Path) -> None:
    page = _page(root)
    for shard in root.rglob("features/c/**/*"):
        if shard.is_file():
            shard.unlink()
    assert _page(root) == page


def test_without_an_origin_it_says_so(root: Path) -> None:
    _git(root, "remote", "remove", "origin")
    result = _card(root)
    assert "it says REPO where an address belongs" in result.stderr
    assert "cinecube import REPO --model vit --rev" in (root / "CARD.html").read_text(encoding="utf-8")
    shutil.rmtree(root / ".git")
    assert "--model vit --rev REV" in _text(_page(root))


@pytest.mark.parametrize(
    ("address", "local"),
    [("/srv/reels.git", True), ("file:///srv/reels.git", True), ("../reels.git", True), ("git@host:reels.git", False)],
)
def test_an_address_that_leads_nobody_anywhere_is_told(root: Path, address: str, local: bool) -> None:
    _git(root, "remote", "set-url", "origin", address)
    assert ("is a folder of this machine: give --url" in _card(root).stderr) == local
    assert "folder of this machine" not in _card(root, "--url", "/srv/shared.git").stderr


def test_cubes_that_dvc_does_not_track_are_told(root: Path) -> None:
    from dvc.repo import Repo

    (root / ".gitignore").unlink()
    with Repo.init(str(root)) as repo, chdir(root):
        repo.add([f"data/features/vit/{film}.zarr" for film in FILMS])
    told = _card(root).stderr
    assert (
        "DVC does not track data/features/nc, so others cannot have it: run `dvc add data/features/nc/*.zarr`" in told
    )
    assert "features/vit," not in told


def test_what_files_say_is_escaped(root: Path) -> None:
    evil = "<script>alert(1)</script>"
    params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    (root / "params.yaml").write_text(yaml.safe_dump({**params, "study": f"reels {evil}"}), encoding="utf-8")
    _write(root, "nc", "amber", f'"><img src=x onerror=alert(1)>{evil}', pooling=evil, preprocessing={evil: evil})
    StudyPaths(root).features("vit", "amber").parent.rename(root / "data/features/<b onclick=x>")
    (root / "CITATION.cff").write_text(
        yaml.safe_dump({"title": evil, "authors": [{"name": evil}], "doi": evil}), encoding="utf-8"
    )
    _git(root, "remote", "set-url", "origin", f"https://example.org/{evil};reboot")
    _git(root, "tag", f"v1{evil}")
    text = _text(_page(root, "--rev", f"v1{evil}"))
    assert text.count(evil) >= 8
    assert "cinecube import 'https://example.org/<script>alert(1)</script>;reboot' --model '<b onclick=x>'" in text


def test_licences_that_are_missing_are_not_stated(root: Path) -> None:
    _write(root, "vit", "dune", None)
    assert "vit apache-2.0, not stated ask the authors of this study" in _text(_page(root))


def test_films_that_were_read_differently_are_pointed_out(root: Path) -> None:
    assert "not read alike" not in _text(_page(root))
    _write(root, "vit", "dune", "apache-2.0", frames_per_window=2)
    assert "not read alike" in _text(_page(root))


def test_responses_and_scores_stand_on_it_where_there_are_any(root: Path) -> None:
    assert "Responses" not in _text(_page(root))
    brain = xr.Dataset(
        {"bold": (("time", "target"), np.zeros((60, 5), np.float32))},
        coords={"segment": ("time", string_coordinate(["amber01"] * 60)), "target": np.arange(5)},
        attrs=provenance("brain", {"subject": "sub-01"}, [], space="MNI152NLin2009cAsym", targets="voxels"),
    )
    write_cube(StudyPaths(root).brain("sub-01"), brain)
    score = xr.Dataset(
        {"score": (("subject", "model", "layer", "target"), np.zeros((1, 1, 2, 5), np.float32))},
        coords={
            "subject": string_coordinate(["sub-01"]),
            "model": string_coordinate(["vit"]),
            "layer": string_coordinate(["embed", "block01"]),
            "target": np.arange(5),
        },
        attrs=provenance("scores", {"models": ["vit"]}, []),
    )
    write_cube(StudyPaths(root).scores("vit"), score)
    text = _text(_page(root))
    assert "sub-01 MNI152NLin2009cAsym 5 voxels 60" in text
    assert "vit vit 1 2 5" in text
    assert "and responses of 1 subject." in text


def test_citations_are_the_studys_own_and_cinecubes(root: Path) -> None:
    text = _text(_page(root))
    assert "For this study:" not in text
    assert "For cinecube, which made the cubes: cinecube developers. cinecube (version " in text
    about = {
        "cff-version": "1.2.0",
        "title": "Reels & wheels",
        "authors": [{"family-names": "Curie", "given-names": "Marie"}, {"name": "The Lab"}],
        "date-released": "2024-05-01",
        "doi": "10.5281/zenodo.1",
        "version": "1.0",
    }
    (root / "CITATION.cff").write_text(yaml.safe_dump(about), encoding="utf-8")
    text = _text(_page(root))
    assert "Marie Curie, The Lab (2024). Reels & wheels (version 1.0). https://doi.org/10.5281/zenodo.1" in text
    assert "@software{curie_reels2024, author = {Curie, Marie and {The Lab}}, title = {{Reels \\& wheels}}," in text
    (root / "CITATION.cff").write_text("title: [", encoding="utf-8")
    result = _card(root)
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert "CITATION.cff: found broken YAML" in result.stderr


@pytest.mark.parametrize("text", ["just words", "authors: []", "- a list", "!!python/object/apply:os.system [exit]"])
def test_a_citation_file_without_a_title_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "CITATION.cff").write_text(text, encoding="utf-8")
    with pytest.raises(StudyError, match="CITATION.cff: found"):
        study_citation(tmp_path)


def test_a_preferred_citation_is_preferred(tmp_path: Path) -> None:
    article = {"type": "article", "title": "On reels", "journal": "Cinema", "year": 2023, "authors": [{"name": "Lab"}]}
    (tmp_path / "CITATION.cff").write_text(
        yaml.safe_dump({"title": "code", "preferred-citation": article}), encoding="utf-8"
    )
    found = study_citation(tmp_path)
    assert found is not None
    assert found.text == "Lab (2023). On reels. Cinema."
    assert found.bibtex.startswith("@article{lab_on2023,\n  author   = {{Lab}},")


def test_a_study_without_feature_cubes_is_one_line(root: Path) -> None:
    shutil.rmtree(root / "data")
    result = _card(root)
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: data/features: found no feature cube, expected cubes to write of; make them with `dvc repro`, or fetch "
        "them with `dvc pull`\n"
    )
    assert not (root / "CARD.html").exists()


def test_it_goes_where_it_is_asked_to(root: Path, tmp_path: Path) -> None:
    assert "found no such folder" in _card(root, "--out", str(tmp_path / "pages" / "reels.html")).stderr
    (tmp_path / "pages").mkdir()
    assert _card(root, "--out", str(tmp_path / "pages" / "reels.html")).exit_code == 0
    assert (tmp_path / "pages" / "reels.html").is_file()
    result = _card(root, "--out", str(tmp_path / "pages"))
    assert result.exit_code == 1
    assert "found a folder, expected a file to write" in result.stderr
    result = _card(root, "--out", str(tmp_path / "pages" / "reels.html" / "in a file"))
    assert result.exit_code == 1
    assert "expected a place for a file" in result.stderr


@pytest.mark.parametrize(
    "url",
    ["", " ", "-", "reels", "../reels.git", "https://", "https:///lab", "gopher://x/y", "ext::sh -c x", "http://[x"],
)
def test_what_is_no_address_is_refused(root: Path, url: str) -> None:
    result = _card(root, f"--url={url}")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "expected an" in line or "expected a folder" in line
    assert not (root / "CARD.html").exists()


@pytest.mark.parametrize(
    "url", ["https://example.org/x.git", "git@example.org:x.git", "ssh://git@example.org/x", "file:///srv/x", "/srv/x"]
)
def test_addresses_of_git_are_taken(url: str) -> None:
    refuse_odd_url(url)


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("https://me:pw@example.org:8443/a.git?token=1#x", "https://example.org:8443/a.git"),
        ("https://token@example.org/a@b.git", "https://example.org/a@b.git"),
        ("git@github.com:lab/reels.git", "git@github.com:lab/reels.git"),
        ("me@host.org:reels.git", "host.org:reels.git"),
        ("ssh://git@example.org/a", "ssh://git@example.org/a"),
        ("ssh://git:pw@example.org/a", "ssh://example.org/a"),
        ("/data/a@b:c.git", "/data/a@b:c.git"),
    ],
)
def test_addresses_are_shown_without_what_lets_one_in(url: str, public: str) -> None:
    assert public_url(url) == public
