"""Sections of `params.yaml` that say how and where things are computed; none of them enters a fingerprint."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from cinecube.store.base.labels import suggestion
from cinecube.store.base.section import Section, WrongValue

_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


class Run(Section):
    """Speed and memory of computing; none of it enters a fingerprint.

    Attributes
    ----------
    device, backend : str
    batch : int
        Rows that a GPU takes at once: last bits may depend on it there. A CPU takes one at a time, and is as fast.
    threads : int
    block_rows : int
        Rows after which a stopped extraction goes on.
    """

    device: str = "auto"
    backend: Literal["numpy", "torch"] = "numpy"
    batch: int = Field(16, ge=1, le=100_000)
    threads: int = Field(1, ge=1, le=256)
    block_rows: int = Field(512, ge=1, le=1_000_000)

    @field_validator("device")
    @classmethod
    def _is_a_device(cls, device: str) -> str:
        if not _DEVICE.fullmatch(device):
            raise WrongValue(
                found=repr(device), expected="auto, cpu, mps, cuda or cuda:N", do="set run.device to one of them"
            )
        return device


class ClusterAddress(Section):
    """A running Dask scheduler, and how many seconds it may be without any worker."""

    address: str
    patience_s: float = Field(60, gt=0, le=30 * 86400)


class Gpus(Section):
    """GPUs of this machine, a process each: all, or those of some numbers."""

    gpus: Literal["all"] | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class JobQueue(Section):
    """A batch system: any class of `dask_jobqueue`, the number of jobs, and the class's own options.

    For `patience_s` seconds no job may run: queues take their time.
    """

    jobqueue: str
    jobs: int = Field(1, ge=1, le=10_000)
    patience_s: float = Field(600, gt=0, le=30 * 86400)
    options: dict[str, Any] = Field(default_factory=dict)


def _kind_of_workers(value: Any) -> str | None:
    """The name of the class whose keys are most like those that were written."""
    if value == "local" or isinstance(value, Section):
        return "local" if value == "local" else type(value).__name__
    if not isinstance(value, dict):
        return None

    sections: tuple[type[Section], ...] = (ClusterAddress, Gpus, JobQueue)
    known = [sum(suggestion(str(key), one.model_fields) is not None for key in value) for one in sections]
    return sections[known.index(max(known))].__name__


DaskParams = Annotated[
    Annotated[Literal["local"], Tag("local")]
    | Annotated[ClusterAddress, Tag("ClusterAddress")]
    | Annotated[Gpus, Tag("Gpus")]
    | Annotated[JobQueue, Tag("JobQueue")],
    Discriminator(
        _kind_of_workers,
        custom_error_type="no_workers",
        custom_error_message="Input should be 'local', or a section with address, with gpus or with jobqueue",
    ),
]
"""Where blocks of features and of targets are computed."""
