"""Whatever stands under whichever key of `params.yaml`: one line in the project's words, which names the key."""

from __future__ import annotations

import copy
import datetime
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from click.testing import CliRunner
from pydantic import BaseModel

from cinecube.cli import main
from cinecube.features.extraction.record import Record
from cinecube.simulation.setup.simulate_params import SimulateSpec
from cinecube.store.base.errors import StudyError
from cinecube.store.params.document import Study, parse
from cinecube.store.params.model_params import ModelParams
from cinecube.store.params.run_params import ClusterAddress, Gpus, JobQueue

pytestmark = pytest.mark.usefixtures("bounded")

PARAMS = yaml.safe_load((Path(__file__).resolve().parents[2] / "params.yaml").read_text(encoding="utf-8"))
PLAIN_PARAMS = PARAMS | {
    "residual": [{"keep": "vit", "remove": "ast", "layers": "all"}],
    "keep_weights": [{"model": "vit", "layer": "best"}],
    "imported": [{"model": "loudness", "source": "loudness.csv"}],
}

# A value of a type that no key takes, and pydantic's words for what is wrong.
WRONG = datetime.date(2020, 1, 1)
PHRASES = re.compile(r"Input|required|\bvalid|instance|unable|should|permitted|pydantic|_type\b|\[key\]|Value error")


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _sections(part)


def _paths(model: type[BaseModel], holds: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every key of a model and of the sections in it, by the way that leads there in `holds`."""
    for name, field in model.model_fields.items():
        here = (*path, name)
        yield here
        inside = holds.get(name) if isinstance(holds, dict) else None
        for section in _sections(field.annotation):
            if isinstance(inside, list) and inside:
                yield (*here, 0)
                yield from _paths(section, inside[0], (*here, 0))
            elif isinstance(inside, dict) and section is ModelParams:
                yield (*here, "vit")
                yield from _paths(section, inside["vit"], (*here, "vit"))
            elif section not in (ClusterAddress, Gpus, JobQueue):
                yield from _paths(section, inside or {}, here)


def _with(raw: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(raw)
    inside: Any = changed
    for part in path[:-1]:
        inside = inside[part] if isinstance(inside, list) else inside.setdefault(part, {})
    inside[path[-1]] = value
    return changed


def _refusal(model: type[BaseModel], raw: Any) -> str:
    """The one line that refuses `raw`, in the project's words."""
    with pytest.raises(StudyError) as caught:
        parse(model, raw, "params.yaml")
    line = str(caught.value)
    assert re.fullmatch(r"params\.yaml: \S.*: found .+, expected .+; .+", line), line
    assert not PHRASES.search(line), line
    return line


def test_every_key_refuses_another_type_by_name() -> None:
    paths = [*_paths(Study, PLAIN_PARAMS)]
    assert {("models", "vit", "stride_s"), ("residual", 0, "by"), ("encode", "alphas", "n"), ("dask",)} <= {*paths}
    for path in paths:
        key = re.escape(".".join(map(str, path)))
        assert re.match(rf"params\.yaml: {key}: found 2020-01-01,", _refusal(Study, _with(PLAIN_PARAMS, path, WRONG)))
    for name in SimulateSpec.model_fields:
        assert _refusal(SimulateSpec, {name: WRONG}).startswith(f"params.yaml: {name}: found 2020-01-01,")


def test_every_section_refuses_an_unknown_key_by_name() -> None:
    sections = {path[:-1] for path in _paths(Study, PLAIN_PARAMS) if path[-1] != 0 and path[:-1] != ("models",)}
    assert {(), ("encode", "alphas"), ("models", "vit"), ("residual", 0)} <= sections
    for path in sections:
        key = re.escape(".".join(map(str, (*path, "x"))))
        line = _refusal(Study, _with(PLAIN_PARAMS, (*path, "x"), 1))
        assert re.match(rf"params\.yaml: {key}: found an unknown key 'x', expected one of \w+", line)
    assert "found an unknown key 'x', expected one of seed, subjects" in _refusal(SimulateSpec, {"x": 1})


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        (("clock", "tr_s"), "fast", "clock.tr_s: found 'fast', expected a number; write one"),
        (("films", 2001), ["a"], "films: found the key 2001, expected text; put it in quotes"),
        (("models", "vit"), None, "models.vit: found nothing, expected a section with extractor, checkpoint; "),
        (("models", "vit", "layers"), 3, "vit.layers: found 3, expected 'all', or a list; write one of these"),
        (("models", "vit", "layers"), [3], "vit.layers.0: found 3, expected text; "),
        (("models", "vit", "pooling"), "men", "expected 'mean', 'patches', 'cls' or 'last'; did you mean 'mean'?"),
        (("encode", "compat"), 3, "encode.compat: found 3, expected a list; "),
        (("encode", "delays"), [2, 1], "encode.delays: found [2, 1], expected different whole numbers of TRs"),
        (("statistics", "compare"), [["vit"]], "compare.0.1: found nothing, expected a value; add it"),
        (("statistics", "compare"), [["a", "b", "c"]], "compare.0: found [a, b, c], expected at most 2 items"),
        (
            ("dask",),
            "remote",
            "dask: found 'remote', expected 'local', or a section with address, with gpus or with jobqueue",
        ),
        (
            ("dask",),
            {"adress": "tcp://x"},
            "dask.adress: found an unknown key 'adress', expected one of address, patience_s; did",
        ),
        (("dask",), {"joqueue": "PBS"}, "dask.joqueue: found an unknown key 'joqueue', expected one of jobqueue, jobs"),
        (("dask",), {"address": "tcp://x", "patience_s": []}, "dask.patience_s: found [], expected a number; "),
        (("dask",), {"jobqueue": "PBSCluster", "jobs": "many"}, "dask.jobs: found 'many', expected a whole number"),
        (("encode", "alphaz"), {}, "encode.alphaz: found an unknown key 'alphaz', expected one of alphas, delays"),
        (("residual",), [{"keep": "vit"}], "residual.0.remove: found nothing, expected text; add it"),
        (
            ("split", "test"),
            ["dun"],
            "split.test: found no film 'dun', expected one of dune, amber, birch, the keys",
        ),
    ],
)
def test_words(path: tuple[Any, ...], value: Any, line: str) -> None:
    with pytest.raises(StudyError, match=re.escape(line)):
        parse(Study, _with(PARAMS, path, value), "params.yaml")


def test_a_misspelt_key_is_named_before_the_one_that_it_leaves_missing(tmp_path: Path) -> None:
    params = {("Studyy" if key == "study" else key): value for key, value in PARAMS.items()}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    result = CliRunner().invoke(main, ["plan", "--study", str(tmp_path)])
    assert result.exit_code == 1
    assert "Studyy: found an unknown key 'Studyy', expected one of study, " in result.stderr
    assert "did you mean 'study'?" in result.stderr


def test_a_damaged_record_says_how_to_make_it_anew() -> None:
    raw = {"facts": {"streams": [{"name": 3, "x": 1}, 4], "frames_per_window": "few", "longest_s": "long"}}
    with pytest.raises(StudyError) as caught:
        parse(Record, raw, "data/checkpoints/vit.json", do="run `cinecube checkpoint vit`")
    assert str(caught.value).endswith("; run `cinecube checkpoint vit`")
    assert str(caught.value).startswith("data/checkpoints/vit.json: model: found nothing, expected text; ")
    assert not PHRASES.search(str(caught.value))


def test_bytes_that_are_no_text_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes(b"study: caf\xe9\n")
    result = CliRunner().invoke(main, ["plan", "--study", str(tmp_path)])
    assert result.exit_code == 1
    assert "expected YAML in UTF-8" in result.stderr
