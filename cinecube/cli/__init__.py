"""The `cinecube` command: each subcommand parses, calls one function of a room, and prints."""

from __future__ import annotations

import atexit
import builtins
import importlib
import keyword
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from cinecube.cli.common import echo, quiet_option, set_loudness
from cinecube.cli.failures import one_line

_STAGES = dict.fromkeys(
    [
        *("inputs", "simulate", "privacy", "films", "checkpoint", "extract", "features", "imported", "contents"),
        *("brain", "encode", "weights", "ceiling", "residual-features", "whole-brain", "layerwise", "residual"),
        *("partition-layers", "partition", "partition-tables", "significance", "figures", "oracle", "report"),
    ],
    "stages",
)
# Task -> commands -> their modules; a module is imported when its command is asked for or its help is listed.
_TASKS = {
    "Start a study": {"init": "studies", "import": "adding", "add": "adding"},
    "Look at it": {
        "plan": "studies",
        "ls": "inspection",
        "show": "inspection",
        "why": "inspection",
        "open": "looking",
        "compare": "looking",
    },
    "Share it": {"card": "keeping", "pull": "studies", "export": "inspection"},
    "Keep it whole": {"verify": "inspection", "doctor": "looking", "clean": "keeping", "upgrade": "keeping"},
    "Stages, as `dvc repro` runs them": _STAGES,
}
_COMMANDS = {name: module for commands in _TASKS.values() for name, module in commands.items()}


_WHOLE = 1000
"""Characters of a summary: lines that are longer than the terminal is wide are wrapped, not cut."""
# What xarray and Zarr say of groups that other programs saved; `verify` says it in a line.
_OF_GROUPS = ("Failed to open Zarr store with consolidated metadata", "Object at .* is not recognized as a component")


def _function_of(command: str) -> str:
    name = command.replace("-", "_")
    return f"{name}_" if keyword.iskeyword(name) or hasattr(builtins, name) else name


class _Commands(click.Group):
    """Subcommands loaded when needed; whatever they raise becomes one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = _COMMANDS.get(cmd_name)
        if module is None:
            return None
        command = getattr(importlib.import_module(f"cinecube.cli.{module}"), _function_of(cmd_name))
        assert isinstance(command, click.Command)
        if quiet_option not in command.params:
            command.params.append(quiet_option)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for task, names in _TASKS.items():
            commands = ((name, self.get_command(ctx, name)) for name in names)
            with formatter.section(task):
                formatter.write_dl([(name, found.get_short_help_str(_WHOLE)) for name, found in commands if found])

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        colour = False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None
        with one_line(None, _COMMANDS):
            return super().make_context(*args, **{"color": colour, **kwargs})

    def invoke(self, ctx: click.Context) -> Any:
        _log_to_stderr()
        with _plain_to_the_end(), one_line(ctx, _COMMANDS):
            return super().invoke(ctx)


@contextmanager
def _plain_to_the_end() -> Iterator[None]:
    """Take back what DVC orders at import: a reset of colours as the process ends, whatever TERM and NO_COLOR say."""
    try:
        yield
    finally:
        if (colorama := sys.modules.get("colorama.initialise")) is not None:
            atexit.unregister(colorama.reset_all)


class _Echo(logging.Handler):
    """Writes to what stderr is at the time, not to what it was when the handler was made."""

    def emit(self, record: logging.LogRecord) -> None:
        echo(self.format(record), err=True)


def _log_to_stderr() -> None:
    """Show what this package logs, one plain line each; other packages keep to their own settings."""
    logger = logging.getLogger("cinecube")
    for said in _OF_GROUPS:
        warnings.filterwarnings("ignore", message=said)
    if not logger.handlers:
        logger.addHandler(_Echo())
        logger.propagate = False
    set_loudness()


@click.group(cls=_Commands, params=[quiet_option], context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cinecube")
def main() -> None:
    """Feature cubes, brain cubes and score cubes of film studies, versioned by DVC.

    A study is a folder with a params.yaml; commands work on the one they are started in. Each has --help, with an
    example.
    """
