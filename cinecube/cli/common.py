"""Code that several commands share: the study they work on, how long they took, and numbers for people."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cinecube.cli.failures import remember_study
from cinecube.store.base.errors import StudyError, printable

if TYPE_CHECKING:
    from cinecube.store.params.document import Study

study_option = click.option(
    "--study",
    "root",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    default=".",
    show_default="this folder",
    callback=remember_study,
    help="Folder of the study.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


_WORK = "cinecube.work"


class Stage(click.Command):
    """A command of the pipeline, which keeps how long it took for `plan`."""

    def invoke(self, ctx: click.Context) -> Any:
        from cinecube.status.timings import COUNTED, note

        began = time.monotonic()
        result = super().invoke(ctx)
        took_s, root = time.monotonic() - began, ctx.params["root"]
        arguments = [
            ctx.params[param.name] for param in self.params if isinstance(param, click.Argument) and param.name
        ]
        work, kind = ctx.meta.get(_WORK, 1.0), str(self.name).replace("-", "_")
        if work == 1 and kind in COUNTED:
            from cinecube.status.needs import work_of
            from cinecube.store.base.errors import StudyError

            with contextlib.suppress(StudyError):  # somebody may be editing params.yaml; what was made stays
                work = work_of(study_at(root), root, kind, "".join(arguments[:1]))
        if work:  # nothing done is nothing learned
            note(root, (str(self.name), *arguments), took_s, work)
        return result


def refuse_no_folder(path: Path) -> None:
    """Refuse a file to write in a folder that is not there: most often its name is misspelt.

    Raises
    ------
    StudyError
        Naming the folder.
    """
    if not path.parent.exists():
        raise StudyError(
            where=str(path.parent),
            found="no such folder",
            expected=f"one to write {path.name} into",
            do="make it, or name another one",
        )


def study_at(root: Path) -> Study:
    """The study of a folder, with all its sections; what reads it is loaded when a command runs, not for its help."""
    from cinecube.study_params import load

    return load(root)


class Painted(str):
    """Text that may be printed as it is: foreign names in it move no cursor, and only our colours are in it."""

    def __add__(self, other: str) -> Painted:
        return Painted(f"{self}{other if isinstance(other, Painted) else printable(other)}")

    def __radd__(self, other: str) -> Painted:
        return Painted(f"{other if isinstance(other, Painted) else printable(other)}{self}")


def painted(text: str, colour: str | None = None, bold: bool | None = None) -> Painted:
    """Text in a colour, which only a terminal gets that shows any."""
    plain = printable(text)
    return Painted(click.style(plain, fg=colour, bold=bold) if colour or bold else plain)


_GOOD, _BAD = ("done", "up to date"), ("stale", "unlike", "missing")


def state_painted(state: str) -> Painted:
    """The state of a stage or cube: green where nothing is to be done, yellow where something is not as asked for."""
    stripped = state.strip()
    return painted(state, "green" if stripped in _GOOD else "yellow" if stripped in _BAD else None)


def echo(line: str = "", *, err: bool = False) -> None:
    """Print one line, and keep foreign names from breaking it or moving the cursor."""
    click.echo(str(line) if isinstance(line, Painted) else printable(line), err=err)


def remark(line: str, *, err: bool = False) -> None:
    """Print a line that was not asked for: what was done, and what can be done next; nothing with `--quiet`."""
    if not is_quiet():
        echo(line, err=err)


def is_quiet() -> bool:
    """True if only errors are to be printed, and what was asked for."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(_QUIET))


def _hush(ctx: click.Context, _: click.Parameter, quiet: bool) -> None:
    if quiet:
        ctx.meta[_QUIET] = True
        set_loudness()


def set_loudness() -> None:
    """Let through what the package logs, or with `--quiet` its errors only."""
    logging.getLogger("cinecube").setLevel(logging.ERROR if is_quiet() else logging.INFO)


_QUIET = "cinecube.quiet"
quiet_option = click.Option(
    ["-q", "--quiet"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_hush,
    help="Print errors and what was asked for, and nothing else.",
)


def echo_json(value: Any) -> None:
    """Print JSON in ASCII."""
    click.echo(json.dumps(value, indent=1))


def did(work: float) -> None:
    """Tell `Stage` how much was done, where the time grows with it; 0 where all was there already."""
    click.get_current_context().meta[_WORK] = work
