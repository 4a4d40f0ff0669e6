"""Choice of the source that reads a subject's scans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from cinecube.store.base.errors import StudyError
from cinecube.store.clock.clock import Clock
from cinecube.store.inputs.content import is_here
from cinecube.store.params.document import BrainParams, Source, Study
from cinecube.store.scans.algonauts import Algonauts
from cinecube.store.scans.arrays import Arrays, array_files
from cinecube.store.scans.bids import is_there, layout_of, mesh_name, scan_files, scan_space
from cinecube.store.scans.cifti import DenseSeries
from cinecube.store.scans.projection import Projected
from cinecube.store.scans.source import ScanSource
from cinecube.store.scans.surfaces import Surfaces
from cinecube.store.scans.volumes import Volumes
from cinecube.store.spaces.atlas import atlas_files

_LAYOUTS: dict[str, Callable[[BrainParams, str, Sequence[Path]], ScanSource]] = {
    "volumes": Volumes,
    "grayordinates": DenseSeries,
    "surfaces": Surfaces,
}
"""Classes by how files hold values, in the order in which they are preferred."""
_KINDS: tuple[tuple[Source, str, bool], ...] = (
    ("algonauts2025", "sub-*/func/*_bold.h5", False),
    ("algonauts2025", "fmri/sub-*/func/*_bold.h5", False),
    ("arrays", "sub-*.npy", True),
)


def open_scans(params: BrainParams, root: Path, subject: str, clock: Clock | None = None) -> ScanSource:
    """The source of a subject's scans in the study's space.

    Parameters
    ----------
    params : BrainParams
        The section `brain`.
    root : Path
        The study's folder.
    subject : str
    clock : Clock, optional
        The study's, for sources without headers; what they tell of their times is taken without it.

    Returns
    -------
    ScanSource

    Raises
    ------
    StudyError
        If there are no scans of the subject, or none in this space.
    """
    if params.source == "algonauts2025":
        return Algonauts(params, root, subject, clock)
    if params.source == "arrays":
        return Arrays(params, root, subject, clock)
    folder = root / params.path / subject
    files = scan_files(folder, subject)
    space = mesh_name(params.space)
    there = [path for path in files if scan_space(path.name) == space]
    for layout, source in _LAYOUTS.items():
        if found := [path for path in there if layout_of(path.name) == layout]:
            made = source(params, subject, found)
            return Projected(made, params, root) if params.surface else made
    if not files:
        raise _no_scans(subject, root / params.path)
    raise StudyError(
        where=f"{subject} in {root / params.path}",
        found=f"scans in {', '.join(spaces_of(files)) or 'no space'}",
        expected=f"some with space-{params.space}, as brain.space says",
        do="set brain.space to one that is there, or run fMRIPrep with it",
    )


def _no_scans(subject: str, path: Path) -> StudyError:
    """Error for a subject's folder without a scan of fMRIPrep, which may hold arrays."""
    if n_arrays := _arrays_in(path / subject):
        return _arrays_apart(f"{subject} in {path}", n_arrays, path / subject, subject)
    expected, do = "*_bold.nii.gz, *_bold.dtseries.nii or *_bold.func.gii", "correct brain.path, or fetch the scans"
    return StudyError(where=f"{subject} in {path}", found="no scan of fMRIPrep", expected=expected, do=do)


def _arrays_in(folder: Path) -> int:
    return sum(1 for _ in folder.rglob("*.npy"))


def _arrays_apart(where: str, n_arrays: int, stem: Path, subject: str) -> StudyError:
    """Error for arrays in folders of subjects."""
    return StudyError(
        where=where,
        found=f"no scan of fMRIPrep, but {n_arrays} arrays (.npy)",
        expected=f"of arrays one a subject, {subject}.npy of all runs, and no folders",
        do=f"join them in {stem}.npy, with a table {subject}.tsv of segment, onset_s and repeat of each row, "
        "and set brain.source: arrays (`cinecube init` does)",
    )


def refuse_arrays_apart(folder: Path, subjects: Sequence[str]) -> None:
    """Refuse a folder in which subjects have folders of arrays, and not one a scan of fMRIPrep.

    Parameters
    ----------
    folder : Path
        As of `source_in`.
    subjects : sequence of str
        As `source_in` returns them for fMRIPrep.

    Raises
    ------
    StudyError
        If it is one; it says how arrays are laid out.
    """
    if any(scan_files(folder / subject, subject) for subject in subjects):
        return
    counts = {subject: count for subject in subjects if (count := _arrays_in(folder / subject))}
    if counts:
        first = next(iter(counts))
        raise _arrays_apart(str(folder), sum(counts.values()), folder / first, first)


def has_scans(params: BrainParams, root: Path, subject: str) -> bool:
    """Look for anything of a subject, links to what was not fetched among it.

    Parameters
    ----------
    params : BrainParams
        The section `brain`.
    root : Path
        The study's folder.
    subject : str

    Returns
    -------
    bool
    """
    folder = root / params.path
    if params.source == "arrays":
        return is_there(array_files(params, root, subject)[0])
    places = [folder / subject, *([folder / "fmri" / subject] if params.source == "algonauts2025" else [])]
    return any(place.is_dir() and any(place.iterdir()) for place in places)


def unfetched_tables(params: BrainParams, root: Path, subject: str) -> list[Path]:
    """Files that were not fetched and without which runs of a subject are not known: those of arrays.

    Parameters
    ----------
    params : BrainParams
        The section `brain`.
    root : Path
        The study's folder.
    subject : str

    Returns
    -------
    list of Path
    """
    files = array_files(params, root, subject) if params.source == "arrays" else []
    return [path for path in files if not is_here(path)]


def source_in(folder: Path) -> tuple[Source, list[str]]:
    """Kind of source that a folder holds, as `brain.source` has it, and its subjects.

    Parameters
    ----------
    folder : Path
        Derivatives, a clone of Algonauts 2025, or arrays.
    """
    for source, pattern, is_file in _KINDS:
        found = {path.relative_to(folder).parts for path in folder.glob(pattern)}
        if subjects := sorted({next(part for part in parts if part.startswith("sub-")) for parts in found}):
            return source, [name.removesuffix(".npy") for name in subjects] if is_file else subjects
    return "fmriprep", sorted(path.name for path in folder.glob("sub-*") if path.is_dir())


def spaces_of(files: Sequence[Path]) -> list[str]:
    """Names of the spaces that scans are in, as `brain.space` has them."""
    return sorted({scan_space(path.name) for path in files if layout_of(path.name) in _LAYOUTS})


def files_of(study: Study, subject: str, root: Path) -> list[Path]:
    """Files that a subject's brain cube is made of: scans, what is read beside them, and the atlas.

    Parameters
    ----------
    study : Study
    subject : str
    root : Path
        The study's folder.

    Returns
    -------
    list of Path
        Each once.

    Raises
    ------
    StudyError
        As of `open_scans`, or if two scans are of one showing.
    """
    source = open_scans(study.brain, root, subject, study.clock)
    scans = [path for run in source.runs(study.segments()) for path in source.files(run)]
    atlas = atlas_files(root / study.brain.atlas) if study.brain.atlas else []
    return list(dict.fromkeys([*scans, *atlas]))
