"""The `cinecube` command: each subcommand parses, calls one function of a room, and prints."""

from __future__ import annotations

import difflib
import importlib
import keyword
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from cinecube.store.errors import StudyError

# Subcommand -> module; a module is imported when its command is asked for or its help is listed.
_AROUND = {
    "init": "studies",
    "import": "adding",
    "add": "adding",
    "plan": "studies",
    "pull": "studies",
    "ls": "inspection",
    "show": "inspection",
    "why": "inspection",
    "verify": "inspection",
    "export": "inspection",
    "clean": "keeping",
    "card": "keeping",
}
_STAGES = {
    "simulate": "stages",
    "films": "stages",
    "checkpoint": "stages",
    "features": "stages",
    "imported": "stages",
    "brain": "stages",
    "encode": "stages",
    "ceiling": "analyses",
    "residual-features": "analyses",
    "whole-brain": "stages",
    "layerwise": "stages",
    "residual": "analyses",
    "partition": "analyses",
    "significance": "analyses",
    "figures": "analyses",
    "oracle": "analyses",
    "report": "stages",
}
_COMMANDS = _AROUND | _STAGES


def _function_of(command: str) -> str:
    name = command.replace("-", "_")
    return f"{name}_" if keyword.iskeyword(name) else name


# What the extra `features` installs; all else of the package works without them.
_EXTRACTION = ("av", "PIL", "safetensors", "torch", "transformers")


class _Commands(click.Group):
    """Subcommands loaded when needed; expected failures become one line and exit code 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = _COMMANDS.get(cmd_name)
        if module is None:
            return None
        command = getattr(importlib.import_module(f"cinecube.cli.{module}"), _function_of(cmd_name))
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        limit = formatter.width - 6 - max(map(len, _COMMANDS))
        for heading, names in (("Commands", _AROUND), ("Stages, as `dvc repro` runs them", _STAGES)):
            commands = ((name, self.get_command(ctx, name)) for name in names)
            with formatter.section(heading):
                formatter.write_dl([(name, found.get_short_help_str(limit)) for name, found in commands if found])

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _one_line():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        _log_to_stderr()
        with _one_line():
            return super().invoke(ctx)


@contextmanager
def _one_line() -> Iterator[None]:
    """Expected failures and words that no command knows as one line, exit code 1."""
    try:
        yield
    except StudyError as error:
        raise click.ClickException(str(error)) from error
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRACTION:
            raise
        missing = StudyError(
            where="this environment",
            found=f"no package {package!r}",
            expected="those that read films and networks",
            do="install them: `pip install 'cinecube[features]'`",
        )
        raise click.ClickException(str(missing)) from error
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "cinecube"
        said = " ".join(error.format_message().split()).rstrip(".")
        raise click.ClickException(f"{command}: {said}; {_close_command(said)}see `{command} --help`") from error


def _close_command(said: str) -> str:
    match = re.match(r"No such command '([^']+)'", said)
    close = difflib.get_close_matches(match.group(1), _COMMANDS, n=1) if match else []
    return f"did you mean {close[0]!r}? " if close and "Did you mean" not in said else ""


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

    A study is a folder with a params.yaml; commands work on the one they are started in.
    """
