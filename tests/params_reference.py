"""Write the schema of `params.yaml`, and the page of all its keys, anew: `make parameters`."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from cinecube.simulation.setup.simulate_params import SimulateSpec
from cinecube.store.base.paths import SCHEMA_FILE
from cinecube.store.params.document import Study

Schema = Mapping[str, Any]
REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "reference" / "parameters.md"
SCHEMAS = (REPOSITORY / "cinecube" / "templates" / SCHEMA_FILE, REPOSITORY / SCHEMA_FILE)
_MANY = 2**53  # a limit that nobody meets
_BY_SUFFIX = {"_s": "s", "_hz": "Hz", "_mm": "mm", "_rows": "rows"}
_BY_KEY = {
    "delays": "rows",
    "batch": "windows",
    "frames_per_window": "frames",
    "stills_per_window": "frames",
    "width": "pixels",
    "height": "pixels",
    "extra_volumes": "volumes",
    "targets_per_block": "targets",
    "targets_per_parcel": "targets",
    "threshold": "r",
    "fps": "frames/s",
}
_WORDS = {
    "string": "text",
    "number": "number",
    "integer": "whole number",
    "boolean": "`true`, `false`",
    "null": "`null`",
}
_LIMITS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
_HEAD = """# Parameters

Every key of `params.yaml`, section by section. `make parameters` writes this page and `params.schema.json` from the
models by which the program itself reads the file: unknown keys are errors, and so are other values than those here.

`cinecube init` writes the schema beside `params.yaml`, whose first line names it. Editors with a YAML language server
(the YAML extension of VS Code, Neovim, Emacs, JetBrains) complete keys by it, show these texts, and mark what is wrong.

Seconds, hertz and millimetres are in a key's name: `tr_s`, `high_pass_hz`, `fwhm_mm`. Paths are read from the
study's folder.
"""


class WholeStudy(Study):
    """Everything that `params.yaml` holds: one study, and what follows from it."""

    simulate: SimulateSpec | None = None  # type: ignore[assignment]
    """Sizes of a simulated study; without it films and scans are somebody's own."""


def models(model: Any) -> dict[str, type[BaseModel]]:
    """A model and all that are below it, by their names."""
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return {name: one for inner in getattr(model, "__args__", ()) for name, one in models(inner).items()}
    fields = model.model_fields.values()
    return {model.__name__: model} | {name: one for field in fields for name, one in models(field.annotation).items()}


def _texts(model: type[BaseModel]) -> dict[str, str]:
    """The text below each key of a model, in its source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0].body  # type: ignore[attr-defined]
    return {
        key.target.id: inspect.cleandoc(text.value.value)
        for key, text in pairwise(body)
        if isinstance(key, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


@cache
def params_schema() -> dict[str, Any]:
    """JSON Schema of `params.yaml`, made from the models that read it."""
    schema = WholeStudy.model_json_schema()
    for name, model in models(WholeStudy).items():
        properties = (schema if model is WholeStudy else schema["$defs"][name])["properties"]
        texts = _texts(Study) | _texts(model) if model is WholeStudy else _texts(model)
        for key, text in texts.items():
            properties[key]["description"] = text
    title = "params.yaml of cinecube"
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": title}


def schema_text() -> str:
    """The schema as it is shipped."""
    return json.dumps(params_schema(), indent=1, ensure_ascii=False) + "\n"


def page_text() -> str:
    """The page, a table per section."""
    schema = params_schema()
    return "\n".join([_HEAD, *(line for path, one in sections(schema) for line in _table(path, one, schema))])


def sections(schema: Schema, path: str = "", root: Schema | None = None) -> Iterator[tuple[str, Schema]]:
    """Every section by its path, the whole file first: `models.NAME`, `residual[]`, `encode.alphas`."""
    root = root or schema
    yield path, schema
    for key, value in schema["properties"].items():
        for inner, found in _inner(f"{path}.{key}".lstrip("."), value, root):
            yield from sections(found, inner, root)


def _inner(path: str, value: Schema, root: Schema) -> Iterator[tuple[str, Schema]]:
    """Sections in a value, which may be one of several."""
    if "$ref" in value:
        yield path, root["$defs"][value["$ref"].rpartition("/")[2]]
    for other in (*value.get("anyOf", ()), *value.get("oneOf", ()), *value.get("allOf", ())):
        yield from _inner(path, other, root)
    if isinstance(value.get("additionalProperties"), dict):
        yield from _inner(f"{path}.NAME", value["additionalProperties"], root)
    if isinstance(value.get("items"), dict):
        yield from _inner(f"{path}[]", value["items"], root)


def _table(path: str, section: Schema, root: Schema) -> Iterator[str]:
    if path:
        alone = sum(other == path for other, _ in sections(root)) == 1
        yield f"## `{path}`" + ("" if alone else f", with `{section['required'][0]}`")
        yield from ("", " ".join(section["description"].split()), "")
    yield "| key | values | unit | default | what |"
    yield "|---|---|---|---|---|"
    for key, value in section["properties"].items():
        told = value.get("description") or next((one["description"] for _, one in _inner(key, value, root)), "")
        default = _default(value, key in section.get("required", ()))
        cells = (f"`{key}`", values_of(value), unit_of(key, value), default, " ".join(told.split()))
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"
    yield ""


def unit_of(key: str, value: Schema) -> str:
    """Unit of a key's value; empty where it has none."""
    if "common" in value.get("enum", ()):  # which rows, and not how many
        return ""
    return _BY_KEY.get(key) or next((unit for suffix, unit in _BY_SUFFIX.items() if f"_{key}".endswith(suffix)), "")


def values_of(value: Schema) -> str:
    """Values that a key takes, in words."""
    if several := value.get("anyOf") or value.get("oneOf"):
        return " or ".join(dict.fromkeys(values_of(one) for one in several))
    if "enum" in value or "const" in value:
        return ", ".join(f"`{one}`" for one in value.get("enum", [value.get("const")]))
    if "$ref" in value:
        return "a section"
    kind = value.get("type")
    if kind == "array":
        inner = value.get("items") or (value.get("prefixItems") or [{}])[0]
        return f"list of {values_of(inner)}" if inner else "list"
    if kind == "object":
        inner = value.get("additionalProperties")
        return f"keys with {values_of(inner)}" if isinstance(inner, dict) else "keys and values"
    known = [f"{word} {value[key]:,}" for key, word in _LIMITS.items() if abs(value.get(key, _MANY)) < _MANY]
    named = [_WORDS[one] for one in (kind if isinstance(kind, list) else [kind])]
    return " ".join([" or ".join(named), *known])


def _default(value: Schema, required: bool) -> str:
    if required:
        return "required"
    default = value.get("default")
    if isinstance(default, dict) and default:
        return "as below"
    if "default" not in value or default in ({}, []):
        return "empty"
    text = yaml.safe_dump(default, default_flow_style=True, width=1000).removesuffix("...\n").strip()
    return f"`{text}`"


if __name__ == "__main__":
    for place in SCHEMAS:
        place.write_text(schema_text(), encoding="utf-8")
    PAGE.write_text(page_text(), encoding="utf-8")
