"""What every section of `params.yaml` is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section of `params.yaml`: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")
