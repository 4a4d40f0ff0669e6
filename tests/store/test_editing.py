"""Edited parameters stay as their author wrote them."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest
import yaml

from cinecube.store.base.errors import StudyError
from cinecube.store.params.document import load_study
from cinecube.store.params.editing import edit_params, edit_yaml, list_imported

REPOSITORY = Path(__file__).resolve().parents[2]
ENTRY = {"model": "vit", "source": "https://example.org/a.git", "rev": "v1"}


def test_only_the_lines_concerned_change() -> None:
    before = (REPOSITORY / "params.yaml").read_text(encoding="utf-8")
    after = edit_yaml(before, lambda params: list_imported(params, ENTRY))
    changed = [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[0] in "+-"]
    assert len(changed) == 5, changed
    assert "+   - {model: vit, source: https://example.org/a.git, rev: v1}" in changed
    kept, said = yaml.safe_load(before), yaml.safe_load(after)
    assert said.pop("imported") == [ENTRY]
    kept["compute"]["models"].remove("vit")
    assert kept.pop("imported") == []
    assert said == kept


def test_a_second_model_follows_and_the_same_one_is_replaced() -> None:
    text = (REPOSITORY / "params.yaml").read_text(encoding="utf-8")
    for entry in (ENTRY, {"model": "ast", "source": "b"}, {**ENTRY, "rev": None}):
        text = edit_yaml(text, lambda params, entry=entry: list_imported(params, entry))
    listed = yaml.safe_load(text)["imported"]
    assert listed == [{"model": "ast", "source": "b"}, {"model": "vit", "source": ENTRY["source"]}]


def test_quotes_nulls_numbers_and_order_are_kept() -> None:
    text = "b: \"no\"\na: null   # why\nc: [1.0e+8, 0x10, 'x']\n\n# last\nd:\n  - {e: 1, f: ~}\n"
    assert edit_yaml(text, lambda params: None).replace("f: null", "f: ~") == text


@pytest.mark.parametrize("text", ["a: 1\na: 2\n", "a: [\n"])
def test_what_cannot_be_kept_is_refused(text: str) -> None:
    with pytest.raises(StudyError, match="params.yaml: found YAML that cannot be edited") as caught:
        edit_yaml(text, lambda params: None)
    assert "\n" not in str(caught.value)


def test_what_would_be_no_study_is_not_written(tmp_path: Path) -> None:
    text = (REPOSITORY / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(StudyError, match="params.yaml"):
        edit_params(tmp_path, lambda params: params.pop("films"))
    assert (tmp_path / "params.yaml").read_text(encoding="utf-8") == text
    edit_params(tmp_path, lambda params: list_imported(params, ENTRY))
    assert load_study(tmp_path).encoded[-1] == "vit"
