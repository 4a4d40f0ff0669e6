"""`params.yaml` is checked whole, and what is wrong is one line that names the key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cinecube.store.base.errors import StudyError
from cinecube.store.params.document import load_study

REPOSITORY = Path(__file__).resolve().parents[2]
Change = Callable[[dict[str, Any]], Any]


def _study_with(tmp_path: Path, change: Change) -> Path:
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    change(params)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    return tmp_path


def test_default_study_loads() -> None:
    study = load_study(REPOSITORY)
    assert study.segments(study.split.test) == ["dune01", "dune02"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda p: p.update(clok={}), r"params.yaml: clok: found an unknown key 'clok'.*did you mean 'clock'"),
        (lambda p: p["models"]["vit"].update(poling="mean"), r"models.vit.poling: .*did you mean 'pooling'"),
        (lambda p: p["encode"].update(alpha=1), r"encode.alpha: .*did you mean 'alphas'"),
        (lambda p: p["clock"].update(tr_s=-1), r"clock.tr_s: found -1, expected 0.01 to 100 seconds"),
        (lambda p: p.pop("brain"), r"params.yaml: brain: found nothing"),
        (lambda p: p["split"].update(test=["amber"]), r"split: found amber in train and in test, expected test films"),
        (
            lambda p: p["split"].update(test=["ember"]),
            r"split.test: found no film 'ember', expected one of amber.*did you mean 'amber'",
        ),
        (
            lambda p: p["compute"].update(models=["clip"]),
            r"compute.models: found no model 'clip', expected one of .*vit",
        ),
        (lambda p: p["encode"].update(delays=[3, 1]), r"encode.delays: found \[3, 1\], expected .*rising order"),
        (lambda p: p["films"].update({"../x": ["a"]}), r"film name: found '../x'"),
        (lambda p: p["films"].update(dune=["amber01"]), r"films: found segment amber01 twice"),
        (lambda p: p["residual"].append(p["residual"][0]), r"residual: found the pair .* twice, expected each once"),
        (lambda p: p["partition"].append(p["partition"][0]), r"partition: found the set .* twice, expected each once"),
        (
            lambda p: p["statistics"]["compare"].append(p["statistics"]["compare"][0]),
            r"statistics.compare: found the pair .* twice, expected each once",
        ),
        (lambda p: p["films"].update(dune=["../../etc"]), r"segment name: found '../../etc'"),
    ],
)
def test_wrong_params_are_one_line(tmp_path: Path, change: Change, line: str) -> None:
    with pytest.raises(StudyError, match=line) as error:
        load_study(_study_with(tmp_path, change))
    assert "\n" not in str(error.value)


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no such file"):
        load_study(tmp_path)
    (tmp_path / "params.yaml").write_text("a: [", encoding="utf-8")
    with pytest.raises(StudyError, match="broken YAML"):
        load_study(tmp_path)
    (tmp_path / "params.yaml").write_bytes("# a study\nstudy: café\n".encode("latin-1"))
    with pytest.raises(StudyError, match="found a byte that is no UTF-8, 0xe9, in line 2, expected YAML in UTF-8"):
        load_study(tmp_path)


def test_unknown_names_are_refused_by_name() -> None:
    study = load_study(REPOSITORY)
    with pytest.raises(StudyError, match=r"no model 'vt', expected one of vit.*did you mean 'vit'"):
        study.model("vt")
    with pytest.raises(StudyError, match="no film 'life'"):
        study.film("life")
    with pytest.raises(StudyError, match="brain.subjects: found no subject 'sub-09'"):
        study.subject("sub-09")
