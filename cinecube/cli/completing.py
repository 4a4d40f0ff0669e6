"""Names that a shell completes: those of the study in whose folder one is."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from cinecube.store.params.document import Study

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _completed(names: Callable[[Study], Iterable[str]], *, paths: bool = False) -> Complete:
    """Names of the study that go on as the word does; files where there are none, and the word may be a path."""

    def complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from cinecube.store.base.errors import StudyError
        from cinecube.store.params.document import load_study

        try:
            known = list(names(load_study(Path(ctx.params.get("root") or "."))))
        except (StudyError, OSError):
            known = []
        found = [CompletionItem(name) for name in known if name.startswith(incomplete)]
        return found or ([CompletionItem(incomplete, type="file")] if paths else [])

    return complete


def _cubes(study: Study) -> Iterable[str]:
    from cinecube.store.open.cube_names import named_cubes

    return named_cubes(study)


def _pairs(study: Study) -> Iterable[str]:
    return [pair.name for pair in study.residual]


models = _completed(lambda study: study.known_models)
films = _completed(lambda study: study.films)
subjects = _completed(lambda study: study.brain.subjects)
pairs = _completed(_pairs)
scored = _completed(lambda study: [*study.known_models, *_pairs(study)])
cubes = _completed(_cubes, paths=True)


def revisions(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Branches and tags of the study's repository, and folders."""
    command = ["git", "for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/tags"]
    try:
        root = ctx.params.get("root") or "."
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    except OSError:
        return []
    found = [CompletionItem(name) for name in done.stdout.split() if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="dir")]
