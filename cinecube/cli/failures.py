"""The end of a command that cannot do what it was asked for: one line, an exit code, and no traceback."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import select
import sys
import tempfile
import time
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import click

from cinecube.store.base.atomic import write_text
from cinecube.store.base.errors import StudyError, environment_error, printable
from cinecube.store.base.interrupts import Terminated, terminated
from cinecube.store.base.labels import suggestion
from cinecube.store.base.paths import PARAMS_FILE, StudyPaths

STOPPED = 130
"""Exit code after Ctrl-C, as shells have it: 128 and the number of the signal."""

TERMINATED = 143
"""Exit code after SIGTERM, which batch systems send before they kill."""

# What the extra `features` installs; all else of the package works without them.
_EXTRACTION = ("av", "PIL", "safetensors", "torch", "transformers")

_ROOT = "cinecube.root"

# What these have finished is in a journal or a cache.
_GO_ON = {"extract", "features", "encode", "ceiling", "residual-features", "partition", "pull"}
_WRITE_NOTHING = {"ls", "show", "why", "plan", "open", "doctor"}


def remember_study(ctx: click.Context, _: click.Parameter, root: Path) -> Path:
    """Callback of the option that names the study: its folder keeps the log of an error that nobody expected."""
    ctx.meta[_ROOT] = root
    return root


@contextmanager
def one_line(ctx: click.Context | None, commands: Collection[str]) -> Iterator[None]:
    """Make one line of whatever a command raises.

    Expected failures, refusals of the machine and words that no command knows end with exit code 1, Ctrl-C with 130,
    SIGTERM with 143.
    Anything else is a bug: the line names the file that holds the traceback, exit code 1.

    Parameters
    ----------
    ctx : click.Context, optional
        Of the whole program, once it is made.
    commands : collection of str
        Names of all commands.
    """
    try:
        with terminated(lambda: _stopped(ctx, Terminated()).show()):
            yield
    except (click.exceptions.Exit, click.exceptions.NoArgsIsHelpError):
        raise
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "cinecube"
        said = " ".join(error.format_message().split()).rstrip(".")
        hint = f"{_close_command(said, commands)}see `{command} --help`"
        raise click.ClickException(printable(f"{command}: {said}; {hint}")) from error
    except click.ClickException:
        raise
    except (KeyboardInterrupt, click.Abort) as error:
        raise _stopped(ctx, error) from error
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            raise  # `cinecube ls | head`: click ends without a word
        raise click.ClickException(str(_told(error, ctx))) from error


def _told(error: Exception, ctx: click.Context | None) -> StudyError:
    if isinstance(error, StudyError):
        return _by_options(error, ctx)
    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if package in _EXTRACTION:
        return StudyError(
            where="this environment",
            found=f"no package {package!r}",
            expected="those that read films and networks",
            do="install them: `pip install 'cinecube[features]'`",
        )
    root = ctx.meta.get(_ROOT) if ctx else None
    where = f"{_command(ctx)} in {root.resolve()}" if root else _command(ctx)
    return environment_error(error, where) or _unexpected(error, ctx)


_ARGUMENT = re.compile(r"`([a-z_]+)=([^`]*)`")


def _by_options(error: StudyError, ctx: click.Context | None) -> StudyError:
    """The error with options where it names arguments, which the command's parameters are called after."""
    name = ctx.invoked_subcommand if ctx else None
    command = ctx.command.get_command(ctx, name) if ctx and name and isinstance(ctx.command, click.Group) else None
    options = {param.name: param.opts[0] for param in command.params if param.opts} if command else {}

    def option(match: re.Match[str]) -> str:
        return f"{options.get(match[1], match[1])} {match[2]}".rstrip()

    where, found, expected, do = (
        _ARGUMENT.sub(option, part) for part in (error.where, error.found, error.expected, error.do)
    )
    return StudyError(where=where, found=found, expected=expected, do=do)


def _close_command(said: str, commands: Collection[str]) -> str:
    match = re.match(r"No such command '([^']+)'", said)
    close = suggestion(match.group(1), commands) if match and "Did you mean" not in said else None
    return f"{close} " if close else ""


def _command(ctx: click.Context | None) -> str:
    name = (ctx.invoked_subcommand or "") if ctx else ""
    return f"cinecube {name}".strip()


class _Stopped(click.ClickException):
    exit_code = STOPPED

    def show(self, file: IO[Any] | None = None) -> None:
        # The terminal has written `^C` where the cursor was.
        start = "\r" if sys.stderr.isatty() else ""
        click.echo(f"{start}{self.message}", file=file, err=True)


class _Terminated(_Stopped):
    exit_code = TERMINATED


def _stopped(ctx: click.Context | None, error: BaseException) -> _Stopped:
    command = _command(ctx)
    name = command.rpartition(" ")[2]
    if name in _GO_ON:
        do = "run it again: it goes on where it stopped"
    elif name in _WRITE_NOTHING:
        do = "it writes nothing, and can be run again"
    elif name == "clean":
        do = "what was not named as removed is there; run it again"
    else:
        do = "nothing half-made is left; run it again"
    if isinstance(error, Terminated):
        return _Terminated(f"{command}: stopped by SIGTERM; {do}")
    how = "by Ctrl-C" if isinstance(error, KeyboardInterrupt) else "at its question"
    return _Stopped(f"{command}: stopped {how}; {do}")


def _nobody_reads() -> bool:
    """True if nobody reads our own output, rather than a pipe of some worker or server."""
    streams = select.poll()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # one that is no file
            streams.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in streams.poll(0))


def _unexpected(error: Exception, ctx: click.Context | None) -> StudyError:
    from cinecube.store.dvc.remotes import shown_address

    said = shown_address(" ".join(str(error).split()))
    said = f"{type(error).__name__}: {said[:_LONGEST]}" if said else type(error).__name__
    return StudyError(
        where=_command(ctx),
        found=f"an error that nobody expected ({said}{_place(error)})",
        expected="success, or a line that names the cause",
        do=f"report it to the developers of cinecube {_write_log(error, ctx.meta.get(_ROOT) if ctx else None)}",
    )


_LONGEST = 200


def _place(error: Exception) -> str:
    """The last line of this package that an error passed through."""
    passed = [(frame.f_globals.get("__name__", ""), line) for frame, line in traceback.walk_tb(error.__traceback__)]
    ours = [f", {name.removeprefix('cinecube.')} line {line}" for name, line in passed if name.startswith("cinecube.")]
    return ours[-1] if ours else ""


def _write_log(error: Exception, root: Path | None) -> str:
    """Keep the traceback in the study's folder, or among temporary files, and say where."""
    from cinecube.store.dvc.remotes import shown_address

    name = f"cinecube-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    text = "\n".join(
        (
            f"cinecube {version('cinecube')}, Python {platform.python_version()}, {platform.platform()}",
            " ".join(["cinecube", *sys.argv[1:]]),
            "".join(traceback.format_exception(error)),
        )
    )
    refused = ""
    for folder in _log_folders(root):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / name, shown_address(text).encode(errors="backslashreplace").decode())
        except OSError as failure:
            refused = refused or f" ({folder}: {failure.strerror})"
            continue
        return f"with {folder / name}, which holds its traceback{refused}"
    return f"with this line; its traceback could not be kept{refused}"


def _log_folders(root: Path | None) -> Iterator[Path]:
    if root is not None and (root / PARAMS_FILE).is_file():
        yield StudyPaths(root).logs
    with contextlib.suppress(OSError):  # there is no folder of temporary files that can be written to
        yield Path(tempfile.gettempdir())
