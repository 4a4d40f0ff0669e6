"""Records of the films and scans that a study reads: DVC depends on them, and never looks into the folders itself."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cinecube.features.films.stimuli import find_segments
from cinecube.store.base.atomic import write_text
from cinecube.store.base.bounded import parse_json, read_text
from cinecube.store.base.errors import StudyError, some_of
from cinecube.store.base.paths import StudyPaths
from cinecube.store.inputs.content import Digests, Told, annex_key, is_here, unfetched
from cinecube.store.params.document import Study

Reads = Mapping[str, Path]
_MEGABYTE = 10**6
# Of the files of a run those with its values: masks and sidecars of two runs may well be the same.
_SCANS = ("_bold.nii.gz", "_bold.nii", "_bold.dtseries.nii", "_bold.func.gii", "_bold.h5", ".npy")
_log = logging.getLogger(__name__)


def files_read(study: Study, root: Path) -> dict[Path, Reads]:
    """Files that the study reads, by the record that holds their digests.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.

    Returns
    -------
    dict
        Record of a film -> segment -> its file; record of a subject's scans -> name -> file. Empty where there are no
        films and scans, as in a clone of a study; of a simulated study, whose inputs DVC makes itself, none.

    Raises
    ------
    StudyError
        If a segment has no file, or scans cannot be told apart; both are named where both are so.
    """
    found, faults = _found(study, root)
    if faults:
        first, others = faults[0], "".join(f"; also {fault}" for fault in faults[1:])
        raise StudyError(where=first.where, found=first.found, expected=first.expected, do=first.do + others)
    return found


def _found(study: Study, root: Path) -> tuple[dict[Path, Reads], list[StudyError]]:
    """As `files_read`, as far as there are files, and the first fault of films and the first of scans."""
    if study.simulate is not None:
        return {}, []
    paths = StudyPaths(root)
    found: dict[Path, Reads] = {}
    of_films: list[StudyError] = []
    of_scans: list[StudyError] = []
    here = study.stimuli is not None and (root / study.stimuli).is_dir()
    for film in study.films if study.stimuli is not None else ():
        found[paths.film_record(film)] = {}
        with _told(of_films):
            found[paths.film_record(film)] = find_segments(study, film, root, fetched=False) if here else {}
    here = (root / study.brain.path).is_dir()
    for subject in study.brain.subjects:
        found[paths.scans_record(subject)] = {}
        with _told(of_scans):
            found[paths.scans_record(subject)] = _scans(study, root, subject) if here else {}
    return found, [*of_films[:1], *of_scans[:1]]


@contextmanager
def _told(faults: list[StudyError]) -> Iterator[None]:
    """Add what is raised to the faults."""
    try:
        yield
    except StudyError as error:
        faults.append(error)


def _scans(study: Study, root: Path, subject: str) -> Reads:
    """Files of a subject's scans, and the atlas, by their paths from the folder of scans."""
    from cinecube.store.scans.sources import files_of

    folder = root / study.brain.path
    return {
        path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name: path
        for path in files_of(study, subject, root)
    }


def records_of(study: Study, root: Path, told: Callable[[int, int], None] | None = None) -> dict[Path, str]:
    """Text of each record, as the stage `inputs` writes it: digests by name, as JSON.

    What is not on this disk, and no key of git-annex names, is as recorded before: a clone has no films or scans.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    told : callable, optional
        Called with megabytes read and to read.

    Returns
    -------
    dict of Path to str

    Raises
    ------
    StudyError
        As of `files_read`.
    """
    wanted, digests = files_read(study, root), Digests(root)
    files = [path for named in wanted.values() for path in named.values() if path.is_file()]
    read = _counter(sum(map(digests.unread_bytes, files)), told)
    try:
        return {record: _text(record, named, digests, read) for record, named in wanted.items()}
    finally:
        digests.keep()


def known_records(study: Study, root: Path) -> dict[Path, str]:
    """The records as `inputs` would write them; none where it would refuse, as it says itself.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.

    Returns
    -------
    dict of Path to str
    """
    try:
        return records_of(study, root)
    except (StudyError, OSError):
        return {}


def _text(record: Path, files: Reads, digests: Digests, read: Told | None) -> str:
    found = _recorded(record)
    if files:
        known = {name: digests.of(path, read) if _is_known(path) else found.get(name) for name, path in files.items()}
        found = {name: digest for name, digest in known.items() if digest}
    return json.dumps(found, indent=1, sort_keys=True) + "\n"


def _is_known(path: Path) -> bool:
    key = annex_key(path)
    return (path.exists() and is_here(path)) or (key is not None and key.digest is not None)


def _recorded(record: Path) -> dict[str, Any]:
    try:
        found = parse_json(read_text(record))
    except (OSError, ValueError, StudyError):
        return {}
    return found if isinstance(found, dict) else {}


def _counter(total: int, told: Callable[[int, int], None] | None) -> Told | None:
    done = 0

    def read(n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        if told:
            told(done // _MEGABYTE, total // _MEGABYTE)

    return read


def write_records(study: Study, root: Path, told: Callable[[int, int], None] | None = None) -> None:
    """Write the records, if no file is missing that a stage will read.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    told : callable, optional
        Called with megabytes read and to read.

    Raises
    ------
    StudyError
        As of `files_read`, or if files were not fetched of which something is still to be made.
    """
    if missing := unfetched_inputs(study, root):
        raise unfetched(missing, root, "films and scans")
    texts = records_of(study, root, told)
    for line in [*_no_scans_yet(study, root), *same_scans(texts)]:
        _log.warning("%s", line)
    for record, text in texts.items():
        write_text(record, text)
    folder = StudyPaths(root).inputs
    folder.mkdir(parents=True, exist_ok=True)
    for stale in set(folder.rglob("*.json")) - set(texts):
        stale.unlink()


def _no_scans_yet(study: Study, root: Path) -> list[str]:
    """A line where brain cubes are to be made of scans that are not there: it is known before hours of extraction."""
    paths = StudyPaths(root)
    to_do = [subject for subject in study.brain.subjects if not paths.brain(subject).exists()]
    if (root / study.brain.path).is_dir() or not to_do or study.simulate is not None:
        return []
    return [f"{study.brain.path}, the folder of scans, is not there: the stage brain will fail for {some_of(to_do, 3)}"]


def same_scans(texts: Mapping[Path, str]) -> list[str]:
    """Lines on scans that are one file under two names: of two subjects, or of two showings.

    Parameters
    ----------
    texts : Mapping of Path to str
        From `records_of`.
    """
    seen: dict[str, str] = {}
    lines = []
    for record, text in texts.items():
        for name, digest in parse_json(text).items() if record.parent.name == "scans" else ():
            if name.endswith(_SCANS) and seen.setdefault(digest, name) != name:
                lines.append(
                    f"{name} is the same scan as {seen[digest]}, byte by byte: one of them is not what it says"
                )
    return lines


def warn_of_unfetched(study: Study, root: Path, known: bool = False) -> None:
    """Log what `inputs` would refuse: films and scans that are missing, or were not fetched.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    known : bool
        Whether it was told already what is missing altogether.
    """
    found, faults = _found(study, root)
    for error in [] if known else faults:
        _log.warning("%s", error)
    if missing := _unfetched(study, root, found):
        _log.warning("%s", unfetched(missing, root, "films and scans"))


def unfetched_inputs(study: Study, root: Path) -> list[Path]:
    """Films and scans that were not fetched, where what is made of them is not there either.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.

    Returns
    -------
    list of Path
        Each once.

    Raises
    ------
    StudyError
        As of `files_read`.
    """
    return _unfetched(study, root, files_read(study, root))


def _unfetched(study: Study, root: Path, found: Mapping[Path, Reads]) -> list[Path]:
    paths = StudyPaths(root)
    missing = []
    for record, files in found.items():
        name = record.stem
        made = [paths.brain(name)]
        if record == paths.film_record(name):
            made = [paths.films]
            if name in study.compute.films:
                made += [paths.features(model, name) for model in study.compute.models]
        if not all(path.exists() for path in made):
            missing += [path for path in files.values() if not is_here(path)]
    return list(dict.fromkeys(missing))
