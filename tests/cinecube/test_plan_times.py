"""`plan` expects of a stage what it took here before."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from tests.conftest import Folder

from cinecube.cli import main
from cinecube.status.timings import expected_s, note, read_timings
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import write_feature_cube
from cinecube.store.cube.schema import Stream, feature_template, provenance, rows_index
from cinecube.wording import seconds_text

FILMS = {"amber": ["amber01"], "dune": ["dune01"]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A study of two imported models."""
    params = {
        "study": "mine",
        "clock": {"tr_s": 1.5, "window_s": 1.5},
        "films": FILMS,
        "split": {"train": ["amber"], "test": ["dune"]},
        "imported": [{"model": model, "source": "there"} for model in ("vit", "ast")],
        "brain": {"path": "scans", "subjects": ["sub-01"]},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    for model in ("vit", "ast"):
        for film, segments in FILMS.items():
            rows = rows_index(dict.fromkeys(segments, np.arange(20) * 1.5))
            spec = {"layers": ["embed"], "segments": segments, "dtype": "float32"}
            stream = Stream(model, ["embed"], [4])
            template = feature_template(rows, 1.5, [stream], "float32", provenance("features", spec, []))
            path = StudyPaths(tmp_path).features(model, film)
            write_feature_cube(path, template, lambda m, k: np.ones((20, 4), np.float32))
    return tmp_path


def run(root: Path, *words: str) -> Result:
    return CliRunner().invoke(main, [words[0], "--study", str(root), *words[1:]])


def plan(root: Path) -> dict[str, float | None]:
    return {step["stage"]: step["seconds"] for step in json.loads(run(root, "plan", "--json").stdout)}


def test_a_stage_that_ran_is_expected_to_take_as_long(root: Path) -> None:
    assert set(plan(root).values()) == {None}
    assert "never ran here" not in run(root, "plan").stdout
    assert run(root, "imported", "vit").exit_code == 0
    assert run(root, "films").exit_code == 0
    known = plan(root)
    assert known["imported@vit"] is None  # done
    assert known["imported@ast"] is not None  # by its like
    assert 0 < known["imported@ast"] < 60
    assert known["brain@sub-01"] is None
    said = run(root, "plan").stdout
    assert "that never ran here" in said
    assert "about 1 s" in said


def test_what_fails_teaches_nothing(root: Path) -> None:
    assert run(root, "brain", "sub-01").exit_code == 1
    assert run(root, "imported", "nobody").exit_code == 1
    assert not StudyPaths(root).timings.exists()


def test_parameters_that_are_being_edited_do_not_end_a_stage_that_is_done(
    scratch: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its work is noted from them; DVC would take hours of results for failed."""

    def computed_while_somebody_edits(*_: object, **__: object) -> bool:
        (scratch.root / "params.yaml").unlink()
        (scratch.root / "params.yaml").write_text("study: [\n", encoding="utf-8")
        return True

    monkeypatch.setattr("cinecube.analysis.ceilings.stage.ceiling", computed_while_somebody_edits)
    assert "ceilings are in data/ceiling.zarr" in scratch.must("ceiling").stdout
    (noted,) = (one for one in read_timings(scratch.root) if one.kind == "ceiling")
    assert noted.work == 1


def test_time_grows_with_rows_and_own_runs_come_first(tmp_path: Path) -> None:
    note(tmp_path, ("features", "vit", "amber"), 30.0, 100)
    note(tmp_path, ("features", "vit", "dune"), 90.0, 200)
    note(tmp_path, ("features", "ast", "amber"), 7.0, 100)
    assert expected_s(read_timings(tmp_path), "features", "vit", 50) == pytest.approx(50 * 120 / 300)
    assert expected_s(read_timings(tmp_path), "features", "ast", 50) == pytest.approx(3.5)
    assert expected_s(read_timings(tmp_path), "features", "tvlt", 400) == pytest.approx(400 * 127 / 400)
    note(tmp_path, ("features", "ast", "amber"), 14.0, 100)  # the last run counts
    assert expected_s(read_timings(tmp_path), "features", "ast", 50) == pytest.approx(7.0)
    assert expected_s(read_timings(tmp_path), "encode", "vit") is None
    note(tmp_path, ("residual-features", "a-b"), 5.0)
    assert expected_s(read_timings(tmp_path), "residual_features", "c-d") == 5.0


def test_broken_notes_are_passed_over(tmp_path: Path) -> None:
    note(tmp_path, ("encode", "vit"), 5.0)
    folder = StudyPaths(tmp_path).timings
    (folder / "a.json").write_bytes(b"\xff")
    (folder / "b.json").write_text('{"kind": "encode", "item": "vit", "seconds": -1, "work": 0}')
    assert expected_s(read_timings(tmp_path), "encode", "vit") == 5.0
    file = tmp_path / "study" / ".cinecube"
    file.parent.mkdir()
    file.write_text("a file where the folder belongs")
    note(tmp_path / "study", ("encode", "vit"), 5.0)
    assert expected_s(read_timings(tmp_path / "study"), "encode", "vit") is None


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "1 s"), (99, "99 s"), (720, "12 min"), (12_600, "3.5 h")])
def test_times_for_people(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text
