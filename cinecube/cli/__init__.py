"""The `cinecube` command: each subcommand parses, calls one function of a room, and prints."""

from __future__ import annotations

import importlib
import logging
from typing import Any

import click

from cinecube.store.errors import StudyError

# Subcommand -> module; a module is imported when its command is asked for or its help is listed.
_COMMANDS = {
    "simulate": "stages",
    "films": "stages",
    "checkpoint": "stages",
    "features": "stages",
    "brain": "stages",
    "encode": "stages",
    "whole-brain": "stages",
    "layerwise": "stages",
    "ceiling": "analyses",
    "residual-features": "analyses",
    "residual": "analyses",
    "partition": "analyses",
    "significance": "analyses",
    "figures": "analyses",
    "oracle": "analyses",
    "report": "stages",
    "export": "inspection",
    "init": "studies",
    "plan": "studies",
    "ls": "inspection",
    "show": "inspection",
    "verify": "inspection",
}


class _Commands(click.Group):
    """Subcommands loaded when needed; expected failures become one line and exit code 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = _COMMANDS.get(cmd_name)
        if module is None:
            return None
        command = getattr(importlib.import_module(f"cinecube.cli.{module}"), cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        _log_to_stderr()
        try:
            return super().invoke(ctx)
        except StudyError as error:
            raise click.ClickException(str(error)) from error


class _Echo(logging.Handler):
    """Writes to what stderr is at the time, not to what it was when the handler was made."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(self.format(record), err=True)


def _log_to_stderr() -> None:
    """Show what this package logs, one plain line each; other packages keep to their own settings."""
    logger = logging.getLogger("cinecube")
    if not logger.handlers:
        logger.addHandler(_Echo())
        logger.setLevel(logging.INFO)
        logger.propagate = False


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cinecube")
def main() -> None:
    """Feature cubes, brain cubes and score cubes of film studies, versioned by DVC.

    The commands up to `report` run one stage each, as `dvc repro` does; the others look at what there is.
    A study is a folder with a params.yaml; commands work on the one they are started in.
    """
