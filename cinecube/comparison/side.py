"""One side of a comparison: a study in a folder, or at a revision."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cinecube.store.base.bounded import parse_json, read_text
from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import METRICS_FILE
from cinecube.store.cube.heads import stored_spec
from cinecube.store.dvc.dvc_index import DvcIndex, open_index
from cinecube.store.dvc.dvc_repo import is_below, is_repository
from cinecube.store.dvc.remotes import DvcObject
from cinecube.store.open.revision import study_of
from cinecube.store.params.document import Study, load_study

_METADATA = "zarr.json"
_MOST_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Side:
    """A study as it is read for a comparison.

    Attributes
    ----------
    name : str
        As it was asked for.
    study : Study
    folder : Path, optional
        Its working tree, if that is compared; what is not in it may be in DVC's cache or remote.
    index : DvcIndex, optional
        What DVC has recorded; none in a folder without DVC.
    """

    name: str
    study: Study
    folder: Path | None
    index: DvcIndex | None

    @property
    def commit(self) -> str | None:
        """The commit of a revision."""
        return self.index.commit if self.index is not None and self.folder is None else None

    def recorded(self, path: str) -> DvcObject | None:
        """The hash of the output that is, or holds, a path; none of what was never made."""
        output = self.index.at(path) if self.index is not None else None
        return output.item if output is not None else None

    def has(self, path: str) -> bool:
        """True if a cube is in the working tree, or DVC has recorded it."""
        return (self.folder is not None and (self.folder / path).exists()) or self.recorded(path) is not None

    def is_here(self, path: str) -> bool:
        """True if a file or cube is in the working tree, which may differ from what is recorded."""
        return self.folder is not None and (self.folder / path).exists()

    def spec(self, path: str) -> Mapping[str, Any]:
        """Spec that the fingerprint of a cube hashes.

        Raises
        ------
        StudyError
            If it cannot be read here.
        """
        if self.folder is not None and self.is_here(path):
            return stored_spec(self.folder / path)
        text = self._tracked(f"{path}/{_METADATA}")
        try:
            spec = parse_json(text)["attributes"]["spec"]
            found = parse_json(spec) if isinstance(spec, str) else spec
            if not isinstance(found, dict):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            raise StudyError(
                where=f"{self.name}: {path}",
                found="no spec",
                expected="what its fingerprint hashes",
                do="compare it by `cinecube show`",
            ) from None
        return found

    def table(self, path: str, columns: Sequence[str]) -> list[dict[str, str]]:
        """Rows of a table of results.

        Parameters
        ----------
        path : str
            From the study's folder.
        columns : sequence of str
            Columns that it must have.

        Returns
        -------
        list of dict of str to str
            Column -> field, unchanged.

        Raises
        ------
        StudyError
            If it cannot be read here, or lacks a column.
        """
        text = self._text(path) if self.is_here(path) else self._tracked(path)
        rows = csv.DictReader(io.StringIO(text))
        try:
            found, known = list(rows), rows.fieldnames or ()
        except csv.Error as error:
            raise self._old(path, str(error), ", ".join(columns)) from None
        if absent := [column for column in columns if column not in known]:
            raise self._old(path, f"no column {absent[0]}", ", ".join(columns))
        return found

    def metrics(self) -> Mapping[str, Any]:
        """The metrics, which Git keeps.

        Raises
        ------
        StudyError
            If there are none.
        """
        text = self.index.metrics if self.index is not None else None
        if self.is_here(METRICS_FILE):
            text = self._text(METRICS_FILE)
        try:
            found = parse_json(text) if text is not None else None
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise StudyError(
                where=f"{self.name}: {METRICS_FILE}",
                found="no metrics",
                expected="those that the report's stage writes, committed",
                do="run `dvc repro` there, and commit them",
            )
        return found

    def _text(self, path: str) -> str:
        assert self.folder is not None
        try:
            return read_text(self.folder / path, path)
        except UnicodeDecodeError:
            raise self._old(path, "bytes", "text in UTF-8") from None

    def _old(self, path: str, found: str, expected: str) -> StudyError:
        do = "run `dvc repro` there, by this version of cinecube"
        return StudyError(where=f"{self.name}: {path}", found=found, expected=expected, do=do)

    def _tracked(self, path: str) -> str:
        if self.index is None:
            raise StudyError(
                where=f"{self.name}: {path}", found="no such file", expected="one", do="run `dvc repro` there"
            )
        return self.index.text(path, _MOST_BYTES)


def open_side(asked: str, root: Path) -> Side:
    """A side by its name on the command line.

    Parameters
    ----------
    asked : str
        A folder, whose working tree is compared; a repository, `REPO`, `REPO#FOLDER` or `REPO@REV`; or a revision of
        the study in `root`.
    root : Path

    Returns
    -------
    Side

    Raises
    ------
    StudyError
        If it is none of these, or no study.
    """
    place, rev = _split(asked)
    if rev is None and os.path.isdir(place):
        return Side(asked, load_study(Path(place)), Path(place), _recorded(Path(place)))
    if rev is None and not is_repository(place):
        _refuse_no_revision(asked, root)
        place, rev = str(root), asked
    index = open_index(place, rev)
    if index.params is None and index.studies:  # of a single folder below: metrics are beside its parameters
        index = open_index(index.study().url, rev)
    return Side(asked, study_of(index), None, index)


def _refuse_no_revision(asked: str, root: Path) -> None:
    """Refuse what is written as a path, which no revision is, and every revision of a study that Git does not have."""
    is_path = asked.startswith(("/", "./", "../", "~")) or asked.endswith("/") or os.path.exists(asked)
    if is_path or not is_below(root, ".git"):
        raise StudyError(
            where=asked,
            found="no such folder" if is_path else "no such folder, and no revision, for this study is not under Git",
            expected="the folder of a study, a repository, or a revision of the study here",
            do="correct it",
        )


def _recorded(folder: Path) -> DvcIndex | None:
    try:
        return open_index(folder)
    except StudyError:  # cubes may be in a folder without DVC
        return None


def _split(asked: str) -> tuple[str, str | None]:
    """A place and a revision of it, where it names one: users of addresses stand before an `@` too."""
    if os.path.isdir(asked):
        return asked, None
    place, at, rev = asked.rpartition("@")
    host = place.partition("://")[2]
    if not at or not rev or ("://" in place and "/" not in host):
        return asked, None
    return (place, rev) if os.path.isdir(place) or is_repository(place) else (asked, None)
