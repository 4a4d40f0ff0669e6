"""Outputs that `dvc push` sends, and single subjects' responses, which stay here unless `brain.publish` is true."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml.comments import CommentedMap, CommentedSeq

from cinecube.store.base.atomic import write_text
from cinecube.store.dvc.dvc_index import inside, open_index
from cinecube.store.params.document import Study
from cinecube.store.params.editing import edit_yaml

# Where the pipeline puts responses of single subjects; scans may be elsewhere, where `brain.path` says.
_RESPONSES = ("data/brain", "data/scans", "results/predictions")


@dataclass(frozen=True)
class Kept:
    """One output that DVC keeps.

    Attributes
    ----------
    path : str
        From the study's folder.
    n_bytes : int or None
        Where DVC has recorded it.
    stays : bool
        Whether `dvc push` leaves it here.
    private : bool
        Whether it holds scans or responses of single subjects.
    defined_in : str
        The `dvc.yaml` or `.dvc` file that names it, from the study's folder.
    """

    path: str
    n_bytes: int | None
    stays: bool
    private: bool
    defined_in: str


def kept_outputs(root: Path, study: Study) -> list[Kept]:
    """Outputs of a study that DVC keeps and that were made here; imports are their owners' to push.

    Parameters
    ----------
    root : Path
        The study's folder.
    study : Study

    Returns
    -------
    list of Kept

    Raises
    ------
    StudyError
        If the study is in no repository of DVC.
    """
    index, found = open_index(root), []
    for output in index.outputs:
        path = inside(output.path, index.prefix)
        if path is not None and output.source is None:
            defined_in = inside(output.defined_in, index.prefix) or output.defined_in
            found.append(Kept(path, output.n_bytes, output.kept, _is_private(study, path), defined_in))
    return found


@dataclass(frozen=True)
class Share:
    """Outputs of one folder that go the same way.

    Attributes
    ----------
    place : str
        `data/features`, say.
    n_bytes : int
        As far as DVC has recorded it.
    stays : bool
        Whether `dvc push` leaves them here.
    """

    place: str
    n_bytes: int
    stays: bool


def shares(outputs: Iterable[Kept]) -> list[Share]:
    """Outputs that `dvc push` sends and those that it leaves, by folder; the largest first."""
    sizes: dict[tuple[str, bool], int] = {}
    for output in outputs:
        key = "/".join(output.path.split("/")[:2]), output.stays
        sizes[key] = sizes.get(key, 0) + (output.n_bytes or 0)
    ordered = sorted(sizes.items(), key=lambda item: (item[0][1], -item[1], item[0]))
    return [Share(place, n_bytes, stays) for (place, stays), n_bytes in ordered]


def against_consent(outputs: Iterable[Kept], study: Study) -> list[Kept]:
    """Outputs that `dvc push` would treat otherwise than `brain.publish` says.

    Parameters
    ----------
    outputs : iterable of Kept
    study : Study

    Returns
    -------
    list of Kept
    """
    return [output for output in outputs if output.private and output.stays == study.brain.publish]


def set_push(root: Path, study: Study) -> list[str]:
    """Make `push:` of single subjects' scans and responses what `brain.publish` says.

    Parameters
    ----------
    root : Path
        The study's folder.
    study : Study

    Returns
    -------
    list of str
        Files that were changed, `dvc.yaml` and `.dvc` files, from the study's folder.

    Raises
    ------
    StudyError
        If the study is in no repository of DVC, or such a file cannot be edited.
    """
    names = sorted({output.defined_in for output in against_consent(kept_outputs(root, study), study)})
    for name in names:
        folder = posixpath.dirname(name)

        def edit(document: CommentedMap, folder: str = folder) -> None:
            for stage in document["stages"].values() if "stages" in document else [document]:
                _set_push(study, stage.get("do", stage), folder)

        write_text(root / name, edit_yaml((root / name).read_text(encoding="utf-8"), edit, name))
    return names


def _set_push(study: Study, stage: CommentedMap, folder: str) -> None:
    """Set the key in the outputs of a stage, or of a `.dvc` file, whose paths are in a key of their own."""
    outs: CommentedSeq = stage.get("outs") or CommentedSeq()
    for number, out in enumerate(outs):
        path = out if isinstance(out, str) else out["path"] if "path" in out else next(iter(out))
        if not _is_private(study, posixpath.normpath(posixpath.join(folder, stage.get("wdir", "."), path))):
            continue
        if isinstance(out, str):
            outs[number] = out = CommentedMap({out: CommentedMap()})
            out[path].fa.set_flow_style()
            if number in outs.ca.items:  # a comment or blank line after it stays after it
                out.ca.items[path] = [None, None, outs.ca.items.pop(number)[0], None]
        (out if "path" in out else out[path])["push"] = study.brain.publish


def _is_private(study: Study, path: str) -> bool:
    scans = posixpath.normpath(study.brain.path)
    places = _RESPONSES if f"{_RESPONSES[0]}/".startswith(f"{scans}/") else (*_RESPONSES, scans)
    return any(f"{path}/".startswith(f"{place}/") for place in places)
