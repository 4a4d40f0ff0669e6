"""Changing a YAML file that people write: comments, order and layout stay."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.representer import RoundTripRepresenter

from cinecube.store.base.atomic import write_text
from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import StudyPaths
from cinecube.store.base.writing import one_writer
from cinecube.store.params.document import PARAMS_FILE, load_study, read_study

# For another command's edit, which takes less than a second.
_WAIT_S = 20.0


class _Representer(RoundTripRepresenter):
    """Writes `null`, where ruamel would leave nothing."""


def _null(representer: RoundTripRepresenter, value: None) -> Any:
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


_Representer.add_representer(type(None), _null)


def edit_yaml(text: str, edit: Callable[[CommentedMap], None], where: str = PARAMS_FILE) -> str:
    """The text with a change made to what it says.

    Parameters
    ----------
    text : str
    edit : callable
        Changes the mapping in place.
    where : str
        What messages call the file.

    Returns
    -------
    str

    Raises
    ------
    StudyError
        If it cannot be read so that all of it is kept.
    """
    parser = YAML(typ="rt")  # safe, as all of its types but one
    parser.Representer = _Representer
    parser.preserve_quotes = True
    parser.width = 4096  # lines are as long as they were
    parser.indent(mapping=2, sequence=4, offset=2)
    try:
        loaded = parser.load(text)
    except YAMLError as error:  # stricter than PyYAML: a key twice, say
        first = str(error).strip().splitlines()
        raise StudyError(
            where=where, found=f"YAML that cannot be edited ({first[-1]})", expected="each key once", do="fix it"
        ) from error
    edit(loaded)
    out = io.StringIO()
    parser.dump(loaded, out)
    return out.getvalue()


def edit_params(root: Path, edit: Callable[[CommentedMap], None]) -> None:
    """Change `params.yaml`; what would be no study is not written.

    Parameters
    ----------
    root : Path
        The study's folder.
    edit : callable
        Changes the mapping in place.

    Raises
    ------
    StudyError
        If it is no study, before or after.
    """
    path = root / PARAMS_FILE
    with one_writer(StudyPaths(root), path, wait_s=_WAIT_S):
        load_study(root)
        text = edit_yaml(path.read_text(encoding="utf-8"), edit)
        read_study(text, PARAMS_FILE)
        write_text(path, text)


def list_imported(params: CommentedMap, entry: dict[str, Any]) -> None:
    """Put a model under `imported`, and take it out of what the study computes.

    Parameters
    ----------
    params : CommentedMap
        The whole of `params.yaml`, changed in place.
    entry : dict
        The model's keys; those that are None are left out.
    """
    model = entry["model"]
    computed = params.get("compute", {}).get("models", [])
    if model in computed:
        computed.remove(model)
    line = CommentedMap((key, value) for key, value in entry.items() if value is not None)
    line.fa.set_flow_style()
    kept = [other for other in params.get("imported") or [] if other["model"] != model]
    lines = CommentedSeq([*kept, line])
    lines.fa.set_block_style()
    params["imported"] = lines


def undo_import(root: Path, before: str, entry: dict[str, Any]) -> None:
    """Take a model out of `imported`, where `list_imported` put it; other edits that came meanwhile stay.

    Parameters
    ----------
    root : Path
        The study's folder.
    before : str
        `params.yaml` before the edit: its bytes come back where nobody else has edited it.
    entry : dict
        What was put under `imported`.

    Raises
    ------
    StudyError
        If `params.yaml` cannot be edited.
    """
    path = root / PARAMS_FILE
    with one_writer(StudyPaths(root), path, wait_s=_WAIT_S):
        now = path.read_text(encoding="utf-8")
        if now == edit_yaml(before, lambda params: list_imported(params, entry)):
            write_text(path, before)
        elif now != before:
            computed = YAML(typ="safe").load(before).get("compute", {}).get("models", [])
            write_text(path, edit_yaml(now, lambda params: _unlist_imported(params, entry["model"], computed)))


def _unlist_imported(params: CommentedMap, model: str, computed: Sequence[str]) -> None:
    """Undo `list_imported` where `computed` were the models that the study computed."""
    listed = params.get("imported") or []
    for number in reversed([number for number, entry in enumerate(listed) if entry["model"] == model]):
        del listed[number]
    models = params.get("compute", {}).get("models", [])
    if model in computed and model not in models:
        models.insert(list(computed).index(model), model)
