"""Which source reads a subject's scans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from cinecube.store.base.errors import StudyError
from cinecube.store.params.document import BrainParams
from cinecube.store.scans.bids import layout_of, mesh_name, scan_files, scan_space
from cinecube.store.scans.cifti import DenseSeries
from cinecube.store.scans.source import ScanSource
from cinecube.store.scans.surfaces import Surfaces
from cinecube.store.scans.volumes import Volumes

_LAYOUTS: dict[str, Callable[[BrainParams, str, Sequence[Path]], ScanSource]] = {
    "volumes": Volumes,
    "grayordinates": DenseSeries,
    "surfaces": Surfaces,
}
"""Classes by how files hold values, in the order in which they are preferred."""


def open_scans(params: BrainParams, root: Path, subject: str) -> ScanSource:
    """The source of a subject's scans in the study's space.

    Parameters
    ----------
    params : BrainParams
        The section `brain`.
    root : Path
        The study's folder.
    subject : str

    Raises
    ------
    StudyError
        If there are no scans of the subject, or none in this space.
    """
    folder = root / params.path / subject
    files = scan_files(folder, subject)
    space = mesh_name(params.space)
    there = [path for path in files if scan_space(path.name) == space]
    for layout, source in _LAYOUTS.items():
        if found := [path for path in there if layout_of(path.name) == layout]:
            return source(params, subject, found)
    raise StudyError(
        where=f"{subject} in {root / params.path}",
        found=f"scans in {', '.join(spaces_of(files)) or 'no space'}",
        expected=f"some with space-{params.space}, as brain.space says",
        do="set brain.space to one that is there, or run fMRIPrep with it",
    )


def spaces_of(files: Sequence[Path]) -> list[str]:
    """Names of the spaces that scans are in, as `brain.space` has them."""
    return sorted({scan_space(path.name) for path in files if layout_of(path.name) in _LAYOUTS})
