"""Base class of every section of `params.yaml`, and the error that its validators raise."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section of `params.yaml`: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


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
