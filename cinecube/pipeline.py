"""What DVC knows of a study's stages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cinecube.store.params import Study

ELSEWHERE = "is not in the cache"
_KINDS = {"modified": "changed", "deleted": "is missing", "new": "is new", "not in cache": ELSEWHERE}


def changed_stages(root: Path) -> dict[str, str] | None:
    """Stages whose recorded inputs, command or outputs are not those there are, and those that follow from them.

    Parameters
    ----------
    root : Path
        A folder with a `dvc.yaml`.

    Returns
    -------
    dict of str to str, or None
        Stage, as in `dvc.yaml`, -> why. None where DVC cannot tell: no repository, or one that is being run.
    """
    if not (root / "dvc.yaml").is_file():
        return None
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from networkx import descendants  # type: ignore[import-untyped]

    try:
        with Repo(str(root)) as repo:
            changed = {_name(key): "; ".join(_reasons(parts)) for key, parts in repo.status().items()}
            graph = repo.index.graph
            stages = {stage: _name(stage.addressing) for stage in graph}
            # Edges lead from a stage to what it needs.
            turned = graph.reverse(copy=False)
            follow = {
                stages[later]: f"follows {name}"
                for stage, name in stages.items()
                if name in changed
                for later in descendants(turned, stage)
            }
    except DvcException:
        return None
    return follow | changed


def numbered(study: Study, stage: str) -> str:
    """A stage as DVC names it, which numbers pairs and imported models: `encode_residual@pair0`."""
    name, at, item = stage.partition("@")
    numbers = {}
    if name in ("residual_features", "encode_residual"):
        numbers = {pair.name: f"pair{number}" for number, pair in enumerate(study.residual)}
    elif name in ("imported", "encode_imported"):
        numbers = {entry.model: f"entry{number}" for number, entry in enumerate(study.imported)}
    return f"{name}{at}{numbers.get(item, item)}"


def _name(address: str) -> str:
    """A stage's name without its file: `data/dvc.yaml:simulate` -> `simulate`."""
    return address.rpartition(":")[2]


def _reasons(parts: list[Any]) -> Iterator[str]:
    for part in parts:
        if isinstance(part, str):
            yield part
            continue
        for group in part.values():
            for path, kind in group.items():
                if isinstance(kind, dict):
                    yield from (f"{path} {key} {_KINDS.get(how, how)}" for key, how in kind.items())
                else:
                    yield f"{path} {_KINDS.get(kind, kind)}"
