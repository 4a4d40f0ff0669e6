"""The schema of `params.yaml` and the page of its keys are those of the models, and take what the models take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner
from tests.params_reference import (
    PAGE,
    SCHEMAS,
    WholeStudy,
    models,
    page_text,
    params_schema,
    schema_text,
    sections,
    values_of,
)

from cinecube.cli import main
from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import SCHEMA_FILE
from cinecube.store.params.document import load_study, parse

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_schema_and_the_page_are_those_of_the_models() -> None:
    for path, text in [*((path, schema_text()) for path in SCHEMAS), (PAGE, page_text())]:
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is old: run `make parameters`"


def test_every_key_has_a_line_with_its_default() -> None:
    parts = PAGE.read_text(encoding="utf-8").split("\n## ")
    assert len(models(WholeStudy)) == len({id(one) for _, one in sections(params_schema())}) > 15
    for path, section in sections(params_schema()):
        lines = [line for part in parts if part.startswith(f"`{path}`" if path else "# ") for line in part.splitlines()]
        for key, value in section["properties"].items():
            line = next(line for line in lines if line.startswith(f"| `{key}` | {values_of(value)} |"))
            cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
            assert len(cells) == 5, line
            assert cells[3], line
            assert cells[4][0].isupper() or cells[4][0] in "`", line
            if key.endswith(("_s", "_hz", "_mm")):
                assert cells[2] == {"s": "s", "hz": "Hz", "mm": "mm"}[key.rpartition("_")[2]]


def test_every_params_yaml_names_the_schema_and_follows_it(tmp_path: Path) -> None:
    texts = {"the default study": (REPOSITORY / "params.yaml").read_text(encoding="utf-8")}
    assert CliRunner().invoke(main, ["init", str(tmp_path / "simulated")]).exit_code == 0
    for film in ("a", "b"):
        (tmp_path / "films" / film).mkdir(parents=True)
        (tmp_path / "films" / film / f"{film}1.mp4").touch()
    (tmp_path / "scans" / "sub-01").mkdir(parents=True)
    own = ["--stimuli", str(tmp_path / "films"), "--scans", str(tmp_path / "scans")]
    assert CliRunner().invoke(main, ["init", str(tmp_path / "own"), "--template", "own", *own]).exit_code == 0
    for template in ("movie10", "algonauts2025"):
        done = CliRunner().invoke(main, ["init", str(tmp_path / template), "--template", template])
        assert done.exit_code == 0, done.output
    for path in tmp_path.glob("*/params.yaml"):
        texts[path.parent.name] = path.read_text(encoding="utf-8")
        assert (path.parent / SCHEMA_FILE).read_text(encoding="utf-8") == schema_text()
    assert len(texts) == 5
    assert load_study(tmp_path / "algonauts2025").rois == "yeo7"
    for name, text in texts.items():
        assert text.startswith(f"# yaml-language-server: $schema={SCHEMA_FILE}\n"), name
        jsonschema.Draft202012Validator(params_schema()).validate(yaml.safe_load(text))


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], bool]] = {
    "unknown key": (lambda p: p["encode"].update(alpha=1), False),
    "no clock": (lambda p: p.pop("clock"), False),
    "TR in ms": (lambda p: p["clock"].update(tr_s=1490), False),
    "no such pooling": (lambda p: p["models"]["vit"].update(pooling="men"), False),
    "no such device": (lambda p: p["run"].update(device="gpu"), False),
    "too few folds": (lambda p: p["encode"].update(folds=1), False),
    "one film": (lambda p: p.update(films={"amber": ["amber01"]}), False),
    "odd width": (lambda p: p["simulate"].update(width=161), False),
    "no workers": (lambda p: p.update(dask={"jobs": "many"}), False),
    "a device": (lambda p: p["run"].update(device="cuda:1"), True),
    "choices by name": (lambda p: p["encode"].update(compat="oota2025"), True),
    "some choices": (lambda p: p["encode"].update(compat=["one_alpha"]), True),
    "a label that is a number": (lambda p: p["brain"].update(choose={"res": 2, "acq": None}), True),
    "columns": (lambda p: p["brain"].update(confounds=["rot_x", "csf"]), True),
    "layers": (lambda p: p["models"]["vit"].update(layers=["embed", "block07"]), True),
    "jobs": (lambda p: p.update(dask={"jobqueue": "SLURMCluster", "jobs": 2, "options": {"queue": "long"}}), True),
    "GPUs": (lambda p: p.update(dask={"gpus": "all"}), True),
}


@pytest.mark.parametrize("name", CHANGES)
def test_editors_refuse_what_the_program_refuses(name: str) -> None:
    change, fits = CHANGES[name]
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    change(params)
    assert jsonschema.Draft202012Validator(params_schema()).is_valid(params) == fits
    try:
        parse(WholeStudy, params, "params.yaml")
        read = True
    except StudyError:
        read = False
    assert read == fits


def test_upgrade_brings_the_schema_up_to_date(tmp_path: Path) -> None:
    assert CliRunner().invoke(main, ["init", str(tmp_path / "new")]).exit_code == 0
    schema = tmp_path / "new" / SCHEMA_FILE
    schema.write_text("{}\n", encoding="utf-8")
    done = CliRunner().invoke(main, ["upgrade", "--yes", "--study", str(tmp_path / "new")])
    assert done.exit_code == 0, done.output
    assert schema.read_text(encoding="utf-8") == schema_text()
    assert load_study(tmp_path / "new").study == "simulated"
