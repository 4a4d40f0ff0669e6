"""Base class of every section of `params.yaml`, and the error that its validators raise."""

from __future__ import annotations

import contextlib
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, model_validator

from cinecube.store.base.labels import one_of, suggestion

_LONGEST = 60


class WrongValue(ValueError):
    """Error of a validator; `store.params.parse` makes a `StudyError` of it that names the file and section.

    Parameters
    ----------
    found, expected, do : str
        As in `StudyError`.
    key : str
        Path from the validated section to the key, empty for the section itself.
    """

    def __init__(self, *, found: str, expected: str, do: str, key: str = "") -> None:
        self.found, self.expected, self.do, self.key = found, expected, do, key
        super().__init__(f"found {found}, expected {expected}")


NOTHING = object()
"""The value of a key that is required and not there: of no type, so that pydantic says which one it wants."""


class Section(BaseModel):
    """A section of `params.yaml`: frozen, and unknown keys are errors."""

    # The text below a key is its description in `params.schema.json`, see tests/params_reference.py: pydantic's own
    # `use_attribute_docstrings` would look for it in the source at every start.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _has_its_keys(cls, value: Any) -> Any:
        """Refuse an unknown key before what may be missing for its sake."""
        if isinstance(value, cls):
            return value
        needed = [name for name, field in cls.model_fields.items() if field.is_required()]
        if not isinstance(value, dict):
            raise WrongValue(
                found=as_written(value),
                expected=f"a section with {', '.join(needed)}" if needed else "a section of keys",
                do="write one, as `key: value`",
            )
        for name in value:
            if name not in cls.model_fields:
                raise WrongValue(
                    key=str(name),
                    found=f"an unknown key {name!r}",
                    expected=one_of(cls.model_fields, str(name)),
                    do=suggestion(str(name), cls.model_fields) or "remove it or correct its name",
                )
        return dict.fromkeys(needed, NOTHING) | value


def as_written(value: Any) -> str:
    """A value as a reader of YAML knows it, cut where it is long."""
    if value is None or value is NOTHING:
        return "nothing"
    text = repr(value)
    if not isinstance(value, str):
        with contextlib.suppress(yaml.YAMLError):
            text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), sort_keys=False)
        text = text.strip().removesuffix("...").strip()
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
