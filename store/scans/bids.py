"""Names of fMRIPrep's files: a subject's scans and their spaces, what lies beside them, and what sidecars say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from cinecube.store.base.errors import StudyError
from cinecube.store.base.input_files import read_json
from cinecube.store.base.labels import bids_stem, entities_of
from cinecube.store.clock.clock import same_step
from cinecube.store.params.document import BrainParams

Layout = Literal["volumes", "grayordinates", "surfaces"]
_ENDINGS: dict[str, Layout] = {
    ".dtseries.nii": "grayordinates",
    ".func.gii": "surfaces",
    ".nii.gz": "volumes",
    ".nii": "volumes",
}
# CNeuroMod marks aborted takes like this and lists them in .bidsignore.
_ABORTED = "__dup"
_MESH_OF_DENSITY = {"10k": "fsaverage5", "41k": "fsaverage6", "164k": "fsaverage"}
# Entities of the scan that its table of confounds lacks, as it belongs to no space.
_OF_SPACE = ("space", "res", "den", "cohort", "hemi")
# fMRIPrep's names of the table: since 20.2, and before.
_SUFFIXES = ("timeseries", "regressors")
# Seconds between volumes that no scanner reaches: a larger number is in milliseconds.
_LEAST_TR_S, _MOST_TR_S = 0.01, 60.0


def layout_of(name: str) -> Layout | None:
    """Layout of the values in a file of this name; None if it is no scan."""
    return next((layout for ending, layout in _ENDINGS.items() if name.endswith(f"_bold{ending}")), None)


def scan_space(name: str) -> str:
    """Space of a scan by its name; meshes by one name each: `space-fsaverage_den-41k` is `fsaverage6`."""
    entities = entities_of(name)
    space = entities.get("space", "native")
    if layout_of(name) != "surfaces":
        return space
    if space == "fsaverage":
        return _MESH_OF_DENSITY.get(entities.get("den", "164k"), space)
    return mesh_name(space)


def mesh_name(space: str) -> str:
    """A space by the name of its mesh: fsaverage7 is fsaverage."""
    return "fsaverage" if space == "fsaverage7" else space


def scan_files(folder: Path, subject: str) -> list[Path]:
    """Scans anywhere in a subject's folder, of all spaces; hidden files and aborted takes are left out.

    Parameters
    ----------
    folder : Path
        The subject's.
    subject : str

    Returns
    -------
    list of Path
        Sorted.

    Raises
    ------
    StudyError
        If there is no such folder, or a file in it is another subject's.
    """
    if not folder.is_dir():
        do = "fetch them, or correct brain.path"
        raise StudyError(where=str(folder), found="no such folder", expected="the subject's derivatives", do=do)
    found = []
    for path in sorted(folder.rglob("*_bold.*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or _ABORTED in path.name or layout_of(path.name) is None:
            continue
        if entities_of(path.name).get("sub") != subject.removeprefix("sub-"):
            other = f"a file of sub-{entities_of(path.name).get('sub', '')}"
            raise StudyError(where=str(path), found=other, expected=f"files of {subject} in its folder", do="move it")
        found.append(path)
    return found


def beside(
    scan: Path, suffix: str, ending: str, *, without: Iterable[str] = (), last: str = "", **entities: str
) -> Path:
    """The file of the same run with another suffix.

    Parameters
    ----------
    scan : Path
    suffix, ending : str
        `mask` and `.nii.gz`.
    without : iterable of str
        Entities of the scan that the file lacks.
    last : str
        An entity of the scan that stands behind all others.
    **entities : str
        Entities with other labels.

    Returns
    -------
    Path
        It need not be there.
    """
    named = {key: value for key, value in entities_of(scan.name).items() if key not in (*without, "suffix")} | entities
    stem = "_".join(f"{key}-{value}" for key, value in sorted(named.items(), key=lambda item: item[0] == last))
    return scan.with_name(f"{stem}_{suffix}{ending}")


def is_there(path: Path) -> bool:
    """True if there is a file or a link, be it to a file that was not fetched."""
    return path.exists() or path.is_symlink()


def sidecars_of(scan: Path) -> list[Path]:
    """Sidecars of a scan that are there: of CIFTI `…_bold.dtseries.json` and `…_bold.json`."""
    stem, ending = bids_stem(scan.name), scan.name.removeprefix(bids_stem(scan.name))
    names = dict.fromkeys((f"{stem}{ending.rpartition('.')[0]}.json", f"{stem}.json"))
    return [path for path in map(scan.with_name, names) if is_there(path)]


def confounds_table(scan: Path, where: str) -> Path | None:
    """The run's table of confounds; some versions name it without the part or echo of the scan.

    Parameters
    ----------
    scan : Path
    where : str
        The run, for messages.

    Returns
    -------
    Path or None
        None if there is none.

    Raises
    ------
    StudyError
        If there are two.
    """
    for without in (_OF_SPACE, (*_OF_SPACE, "part"), (*_OF_SPACE, "part", "echo")):
        orders = [
            beside(scan, suffix, ".tsv", without=without, last=last, desc="confounds")
            for suffix in _SUFFIXES
            for last in ("", "part", "desc")
        ]
        found = [path for path in dict.fromkeys(orders) if is_there(path)]
        if len(found) > 1:
            names = " and ".join(path.name for path in found)
            raise StudyError(where=where, found=names, expected="one table of confounds", do="keep one of them")
        if found:
            return found[0]
    return None


def refuse_volume_keys(params: BrainParams, what: str) -> None:
    """Refuse keys of the section `brain` that only volumes have.

    Parameters
    ----------
    params : BrainParams
    what : str
        The scans that are not volumes.

    Raises
    ------
    StudyError
        If they are to be smoothed, or denoised by ICA-AROMA.
    """
    if params.fwhm_mm > 0:
        found, do = f"{params.fwhm_mm:g} for {what}", "set it to 0, or brain.space to a space of volumes"
        raise StudyError(where="brain.fwhm_mm", found=found, expected="0: only volumes are smoothed", do=do)
    if params.confounds == "ica_aroma":
        do = "choose another preset"
        raise StudyError(where="brain.confounds", found="ica_aroma", expected=f"one that {what} have", do=do)


def repetition_s(scan: Path, sidecars: Sequence[Path], header_s: float | None, known: bool) -> tuple[float, str]:
    """Seconds between volumes from the sidecars or else the header; and what was taken for milliseconds.

    Parameters
    ----------
    scan : Path
    sidecars : sequence of Path
    header_s : float, optional
        What the header says.
    known : bool
        Whether the header's writer knew it, so that both must agree.

    Returns
    -------
    tr_s : float
    said : str
        Empty where nothing was taken for milliseconds.

    Raises
    ------
    StudyError
        If they differ, or what they say is no such time.
    """
    said = ""
    header, in_ms = _in_seconds(header_s) if header_s is not None else (None, False)
    if in_ms:
        said = f"a time of {header_s:g} between volumes is taken as milliseconds"
    for path in sidecars:
        about = read_json(path, "a JSON object with RepetitionTime in seconds", "fetch or correct it")
        if "RepetitionTime" not in about:
            continue
        tr_s, in_ms = _in_seconds(about["RepetitionTime"])
        if tr_s is None:
            raise _wrong_tr(path, f"RepetitionTime {str(about['RepetitionTime'])[:40]!r}")
        if in_ms:
            said = f"RepetitionTime {about['RepetitionTime']:g} is taken as milliseconds"
        # Some writers round the header to a millisecond.
        if known and header is not None and not any(same_step(header, one) for one in (tr_s, round(tr_s, 3))):
            raise StudyError(
                where=str(path),
                found=f"RepetitionTime {tr_s:g} s",
                expected=f"{header:g} s, as the header of the scan says",
                do="correct the one that is wrong",
            )
        return tr_s, said
    if header is None:
        raise _wrong_tr(scan, "no time" if header_s is None else f"a time of {header_s:g} s between volumes")
    return round(header, 6), said


def _in_seconds(time: object) -> tuple[float | None, bool]:
    """A time between volumes in seconds, None if it is none; and whether it was in milliseconds."""
    if isinstance(time, bool) or not isinstance(time, int | float):
        return None, False
    if _LEAST_TR_S <= time <= _MOST_TR_S:
        return float(time), False
    if _MOST_TR_S < time <= 1000 * _MOST_TR_S:
        return time / 1000, True
    return None, False


def _wrong_tr(path: Path, found: str) -> StudyError:
    return StudyError(
        where=str(path), found=found, expected="a number of seconds between volumes", do="set it to seconds"
    )
