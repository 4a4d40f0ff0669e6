"""`cinecube clean`: which journals the study still wants, and that nothing goes without a yes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pty
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from cinecube.analysis import encoders
from cinecube.cli import keeping, main
from cinecube.features.extraction.record import Record
from cinecube.features.extraction.spec import feature_spec
from cinecube.features.networks import READING_VERSION
from cinecube.features.networks.network import Facts
from cinecube.store.base.fingerprint import canonical
from cinecube.store.base.journal import journal_folder, open_journal, row_blocks
from cinecube.store.base.paths import StudyPaths
from cinecube.store.clean import leftovers
from cinecube.store.cube.cubes import write_feature_cube
from cinecube.store.cube.schema import Stream, feature_template, provenance, rows_index
from cinecube.store.params.document import load_study

from . import test_add

own_features = test_add.root  # a study with features of its own

FILMS = {"amber": ["amber01", "amber02"], "dune": ["dune01"]}
STREAM = Stream("net", ["embed", "block01"], [4, 4])


def _params() -> dict[str, Any]:
    return {
        "study": "own",
        "clock": {"tr_s": 1.5, "window_s": 1.5, "max_trim_s": 6},
        "stimuli": "data/stimuli",
        "films": FILMS,
        "split": {"train": ["amber"], "test": ["dune"], "gap_s": 3},
        "models": {"net": {"extractor": "vit", "checkpoint": "data/weights/net"}},
        "compute": {"models": ["net"], "films": list(FILMS)},
        "brain": {"path": "data/scans", "subjects": ["sub-01"]},
        "ceiling": {"use": "none"},
    }


def _film(name: str) -> bytes:
    """A file that can be opened, and differs from others: sound alone."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, 8000, 0, "NONE", ""))
        out.writeframes(hashlib.sha256(name.encode()).digest() * 100)
    return file.getvalue()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A study with films that need not be played, and the record of a checkpoint that need not be loaded."""
    root = tmp_path / "study"
    for film, segments in FILMS.items():
        folder = root / "data" / "stimuli" / film
        folder.mkdir(parents=True)
        for segment in segments:
            (folder / f"{segment}.mkv").write_bytes(_film(segment))
    (root / "params.yaml").write_text(yaml.safe_dump(_params()), encoding="utf-8")
    facts = Facts(
        streams=(Stream("", STREAM.layers, STREAM.widths),), frames_per_window=4, stills=True, preprocessing={"size": 8}
    )
    record = Record(
        model="net",
        extractor="vit",
        extractor_version=1,
        reading_version=READING_VERSION,
        checkpoint="data/weights/net",
        revision=None,
        weights_digest="0" * 64,
        licence="mit",
        untrained=None,
        width=4,
        facts=facts,
    )
    path = StudyPaths(root).checkpoint("net")
    path.parent.mkdir()
    path.write_text(record.model_dump_json(), encoding="utf-8")
    return root


def _spec(root: Path, film: str = "amber") -> dict[str, Any]:
    return feature_spec(load_study(root), "net", film, root)


def _journal(root: Path, spec: dict[str, Any]) -> Path:
    """A journal with one finished block."""
    with open_journal(StudyPaths(root).journals, spec, "cube") as journal:
        journal.write(row_blocks({"amber01": 4}, 4)[0], np.zeros((4, 4, 1, 2), np.float32))
    return journal_folder(StudyPaths(root).journals, spec)


def _publish(root: Path, spec: dict[str, Any], film: str = "amber") -> None:
    rows = rows_index({name: np.arange(4) * 1.5 for name in FILMS[film]})
    template = feature_template(rows, 1.5, [STREAM], "float32", provenance("features", spec, ["zarr"]))
    write_feature_cube(StudyPaths(root).features("net", film), template, lambda m, k: np.zeros((len(rows), 4)))


def _clean(root: Path, *words: str, answer: str | None = None) -> Result:
    result = CliRunner().invoke(main, ["clean", "--study", str(root), *words], input=answer)
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return result


def _listed(root: Path, *words: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(_clean(root, "--json", *words).stdout)
    return listed


def _change(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    change(params)
    (root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody sits at a terminal."""
    monkeypatch.setattr(keeping, "_can_ask", lambda: True)


def test_an_unfinished_journal_that_is_wanted_survives(root: Path) -> None:
    folder = _journal(root, _spec(root))
    assert _listed(root, "--yes") == []
    assert "nothing to clean" in _clean(root, "--yes").stdout
    assert len(list(folder.glob("*.npy"))) == 1


def test_a_finished_journal_goes(root: Path) -> None:
    folder = _journal(root, _spec(root))
    _publish(root, _spec(root))
    (found,) = _listed(root)
    assert (found["kind"], found["why"], found["removed"]) == ("journal", "net amber: its cube is published", False)
    assert folder.is_dir()
    result = _clean(root, "--yes")
    assert result.exit_code == 0
    assert "net amber: its cube is published" in result.stdout
    assert "1 of 1 removed" in result.stdout
    assert not folder.exists()
    assert StudyPaths(root).features("net", "amber").is_dir()


def test_a_journal_whose_cube_is_another_is_wanted(root: Path) -> None:
    _publish(root, {**_spec(root), "dtype": "float16"})
    _journal(root, _spec(root))
    assert _listed(root) == []


def test_journals_of_other_parameters_are_abandoned_and_say_which(root: Path) -> None:
    _journal(root, _spec(root))
    _change(root, lambda params: params["models"]["net"].update(frames_per_window=2))
    (found,) = _listed(root)
    assert (found["kind"], found["why"]) == ("abandoned", "net amber: frames_per_window: 4 -> 2")
    assert "would be resumed if params.yaml went back" in _clean(root, "--dry-run").stdout
    _change(root, lambda params: params["models"]["net"].update(frames_per_window=None))
    assert _listed(root) == []
    _change(root, lambda params: params["models"]["net"].update(extractor="ast"))
    (found,) = _listed(root)
    assert found["why"] == "vit of amber01, amber02: params.yaml names no such model and film"


def test_a_film_that_changed_abandons_its_journal_and_one_that_is_missing_does_not(root: Path) -> None:
    _journal(root, _spec(root))
    film = root / "data/stimuli/amber/amber02.mkv"
    film.rename(root / "aside")
    assert _listed(root) == []
    film.write_bytes(_film("another cut"))
    (found,) = _listed(root)
    assert found["why"] == "net amber: amber02 is another film by now"


def test_what_cannot_be_computed_counts_as_wanted(root: Path) -> None:
    spec = _spec(root)
    _journal(root, spec)
    _journal(root, {"kind": "scores", "models": ["net"], "schema": 1})
    _journal(root, {"kind": "ceiling"})
    _journal(root, {"kind": "of a later version"})
    StudyPaths(root).checkpoint("net").unlink()
    assert _listed(root) == []


def test_other_kinds_of_journals_that_nothing_asks_for(root: Path) -> None:
    _journal(root, {"kind": "scores", "models": ["gone"]})
    _journal(root, {"kind": "partition"})
    _journal(root, {"films": {"amber": {"keep": "net", "remove": "gone"}}})
    assert sorted((one["kind"], one["why"]) for one in _listed(root)) == [
        ("abandoned", "partition: params.yaml names no sets"),
        ("abandoned", "residual of net and gone: params.yaml names no such pair"),
        ("abandoned", "scores of gone: params.yaml names no such model"),
    ]


HOLD = """
import json, sys, time
from pathlib import Path
from cinecube.store.base.journal import open_journal
with open_journal(Path(sys.argv[1]), json.loads(sys.argv[2]), "cube"):
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_journal_that_a_process_holds_is_kept(root: Path) -> None:
    spec = _spec(root)
    folder = _journal(root, spec)
    _publish(root, spec)
    words = (sys.executable, "-c", HOLD, str(StudyPaths(root).journals), canonical(spec))
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        result = _clean(root, "--yes")
        writer.kill()
    assert "nothing to clean" in result.stdout
    assert result.stderr == "a stage of this study runs: partial cubes and scratch arrays are left alone\n"
    assert folder.is_dir()
    assert [one["kind"] for one in _listed(root)] == ["journal"]


@pytest.mark.usefixtures("asked")
def test_a_no_removes_nothing_and_a_yes_does(root: Path) -> None:
    spec = _spec(root)
    folder = _journal(root, spec)
    _publish(root, spec)
    declined = _clean(root, answer="n\n")
    assert declined.exit_code == 0
    assert "nothing was removed" in declined.stdout
    assert folder.is_dir()
    assert _clean(root, answer="y\n").exit_code == 0
    assert not folder.exists()


def test_a_real_terminal_is_asked(root: Path) -> None:
    folder = _journal(root, _spec(root))
    _publish(root, _spec(root))
    ours, theirs = pty.openpty()
    words = (sys.executable, "-c", "from cinecube.cli import main; main()", "clean", "--study", str(root))
    with subprocess.Popen(words, stdin=theirs, stdout=subprocess.PIPE, text=True) as process:
        os.write(ours, b"y\n")
        said, _ = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert "remove them? [y/N]" in said
    assert process.returncode == 0
    assert not folder.exists()


@pytest.mark.usefixtures("asked")
def test_what_comes_alive_while_the_question_stands_is_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = _spec(root)
    folder = _journal(root, spec)
    _publish(root, spec)

    def confirm(*_: object) -> bool:
        (StudyPaths(root).features("net", "amber") / "zarr.json").unlink()
        return True

    monkeypatch.setattr(keeping.click, "confirm", confirm)
    result = _clean(root)
    assert result.exit_code == 1
    assert result.stderr == f"kept: {folder} is needed by now\n"
    assert folder.is_dir()


def test_without_a_terminal_it_lists_and_refuses(root: Path) -> None:
    folder = _journal(root, _spec(root))
    _publish(root, _spec(root))
    result = _clean(root)
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert "found no terminal to ask on" in result.stderr
    assert "its cube is published" in result.stdout
    assert folder.is_dir()
    assert _clean(root, "--dry-run").exit_code == 0
    assert folder.is_dir()


def test_json_removes_with_yes_only(root: Path) -> None:
    folder = _journal(root, _spec(root))
    _publish(root, _spec(root))
    assert [one["removed"] for one in _listed(root)] == [False]
    assert [one["removed"] for one in _listed(root, "--yes", "--dry-run")] == [False]
    assert folder.is_dir()
    assert [one["removed"] for one in _listed(root, "--yes")] == [True]
    assert not folder.exists()
    assert _listed(root) == []


def test_partial_cubes_locks_and_caches_beside_journals(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cinecube.store.dvc.chunk_cache import ChunkCache

    paths = StudyPaths(root)
    with open_journal(paths.journals, _spec(root), "cube") as journal:
        journal.remove()
    _publish(root, _spec(root))
    _publish(root, _spec(root, "dune"), "dune")
    paths.features("net", "dune").rename(paths.features("net", "dune").with_name(".dune.zarr.old"))
    (paths.features("net", "amber").parent / ".amber.zarr.partial").mkdir()
    (paths.scratch / "ceiling").mkdir(parents=True)
    for folder in (paths.chunks, root.parent / "elsewhere"):
        ChunkCache(folder, 1000).read("a" * 32, None, lambda: b"x")
    now = leftovers.time.time() + 40 * 24 * 3600
    monkeypatch.setattr(leftovers.time, "time", lambda: now)
    words = ("--cache", str(root.parent / "elsewhere"))
    kinds = ["lock", "partial", "only copy", "scratch", "chunks", "chunks"]
    assert [one["kind"] for one in _listed(root, *words)] == kinds
    assert [one["kind"] for one in _listed(root, *words, "--unused-days", "50")] == kinds[:4]
    assert "6 of 6 removed" in _clean(root, "--yes", *words).stdout
    assert sorted(path.name for path in paths.features("net", "amber").parent.iterdir()) == ["amber.zarr", "dune.zarr"]
    assert not (root.parent / "elsewhere").exists()
    assert not paths.chunks.exists()
    assert _listed(root) == []


def test_empty_lock_files_are_one_line_with_their_number(root: Path) -> None:
    journals = StudyPaths(root).journals
    journals.mkdir(parents=True)
    for number in range(50):
        (journals / f"{number:064x}.lock").touch()
    assert _clean(root, "--dry-run").stdout == "empty lock files, whose journals are gone: 50, 0 B\n"
    assert len(_listed(root)) == 50


def test_another_folder_is_no_cache(root: Path) -> None:
    _journal(root, _spec(root))
    _publish(root, _spec(root))
    result = _clean(root, "--yes", "--cache", str(root / "data"))
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert "expected a cache of chunks that cinecube wrote" in result.stderr
    assert (root / "data" / "stimuli").is_dir()
    assert list(StudyPaths(root).journals.glob("*/*.npy"))


def test_pulls_that_were_killed_go_from_the_cache_of_dvc(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dvc.repo import Repo

    subprocess.run(["git", "init", "-q", str(root)], check=True)
    Repo.init(str(root)).close()
    left = root / ".dvc" / "cache" / ".pull-abc"
    left.mkdir(parents=True)
    assert _listed(root) == []
    now = leftovers.time.time() + 2 * 24 * 3600
    monkeypatch.setattr(leftovers.time, "time", lambda: now)
    assert [one["kind"] for one in _listed(root, "--yes")] == ["pull"]
    assert not left.exists()


def test_journals_of_analyses_are_wanted_until_their_parameters_or_versions_change(
    own_features: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores and ceilings of a study with real cubes."""
    from cinecube.analysis.ceilings.stage import ceiling_spec, read_brains
    from cinecube.analysis.encoders.problem import read_problem, score_spec

    root = own_features
    test_add._must(root)
    test_add._write_brain(root)
    study = load_study(root)
    scores = _journal(root, score_spec(study, read_problem(study, root, "loudness")))
    _journal(root, ceiling_spec(study, read_brains(study, root)))
    assert _listed(root) == []
    StudyPaths(root).brain("sub-01").rename(root / "aside")
    assert _listed(root) == []
    (root / "aside").rename(StudyPaths(root).brain("sub-01"))
    with monkeypatch.context() as newer:
        newer.setitem(encoders.VERSIONS, "ridge", 2)
        (found,) = _listed(root)
        older = "it is of an older version of cinecube (ridge 1, here 2)"
        assert (found["path"], found["why"]) == (str(scores), f"scores of loudness: {older}")
    assert _listed(root) == []
    _change(root, lambda params: params["encode"].update(delays=[1, 2, 3]))
    (found,) = _listed(root)
    assert found["path"] == str(scores)
    assert found["why"] == "scores of loudness: encode.delays: [1, 2] -> [1, 2, 3]"
    _change(root, lambda params: params["split"].update(gap_s=4))
    assert "ceilings: split.gap_s: 3.0 -> 4.0" in {one["why"] for one in _listed(root)}
