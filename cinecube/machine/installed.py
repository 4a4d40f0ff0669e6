"""Packages and programs of this environment, beside what cinecube asks for."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cinecube.store.base.errors import StudyError, some_of

_PACKAGE = "cinecube"


def python() -> str:
    """This Python and this cinecube, in words."""
    return f"{platform.python_version()} in {sys.prefix}, with cinecube {version(_PACKAGE)}"


def packages(extra: str = "") -> str:
    """Number of packages that are here, of those that cinecube needs and that these need in turn.

    Parameters
    ----------
    extra : str, optional
        Of cinecube; the packages that it always needs by default.

    Raises
    ------
    StudyError
        If one is missing, or has a version that another does not work with.
    """
    known: dict[tuple[str, str], None] = {}
    wrong = dict(_unmet(_PACKAGE, extra, known, alone=bool(extra)))
    if wrong:
        raise StudyError(
            where="this environment",
            found=some_of(list(wrong), 3, "; "),
            expected="packages of versions that work together",
            do="run `pip install " + " ".join(f"'{needed}'" for needed in dict.fromkeys(wrong.values())) + "`",
        )
    n_packages = len({name for name, _ in known}) - 1
    return f"{n_packages} package" + "s" * (n_packages != 1)


def _unmet(name: str, extra: str, known: dict[tuple[str, str], None], *, alone: bool) -> Iterator[tuple[str, str]]:
    """Faults in words, and what pip would have to install; of `alone` extras nothing but what they add."""
    known[(name, extra)] = None
    for line in distribution(name).requires or ():
        needed = Requirement(line)
        if needed.marker and not needed.marker.evaluate({"extra": extra}):
            continue
        if alone and not (needed.marker and "extra" in str(needed.marker)):
            continue
        other = canonicalize_name(needed.name)
        asked = f"{needed.name}{needed.specifier}"
        try:
            found = version(other)
        except PackageNotFoundError:
            yield f"no package {needed.name}, which {name} needs", asked
            continue
        if not needed.specifier.contains(found, prereleases=True):
            yield f"{needed.name} {found}, where {name} needs {needed.specifier}", asked
        for inner in ("", *sorted(needed.extras)):
            if (other, inner) not in known:
                yield from _unmet(other, inner, known, alone=False)


def program(name: str, what: str, do: str) -> str:
    """Path of a program.

    Parameters
    ----------
    name : str
        Of the program.
    what, do : str
        What messages expect, and what they advise.

    Returns
    -------
    str

    Raises
    ------
    StudyError
        If it is not on the path.
    """
    found = shutil.which(name)
    if found is None:
        raise StudyError(where="this machine", found=f"no program {name}", expected=what, do=do)
    return found


def git() -> str:
    """Git's version, and where it is."""
    place = program("git", "Git, which keeps studies", "install it, as in `apt install git` or `conda install git`")
    said = subprocess.run([place, "--version"], capture_output=True, text=True, check=False).stdout.split()
    return f"{said[2] if said[2:] else 'of an unknown version'}, {place}"


def stage_command(root: Path) -> str:
    """Path of the `cinecube` that stages call: one in the study's `.venv`, or else an environment's that is active.

    Parameters
    ----------
    root : Path
        The study's folder.

    Raises
    ------
    StudyError
        If there is none, or it runs in another environment than this. What to do is a line after which stages call a
        `cinecube` that runs.
    """
    here, own = root.resolve() / ".venv" / "bin", Path(sys.prefix).resolve() / "bin"
    found = _called(here, os.environ.get("PATH", os.defpath))
    if found is not None and _python(found).parent.resolve() == own:
        return str(found)
    raise StudyError(
        where="dvc.yaml",
        found=f"stages that would call {found}" if found else "no cinecube on the path for its stages",
        expected=f"{own / 'cinecube'}, of the environment that this command runs in",
        do=f"run `{_mended(here, own)}`",
    )


def _called(*places: Path | str) -> Path | None:
    found = shutil.which("cinecube", path=os.pathsep.join(map(str, places)))
    return Path(found) if found else None


# Scripts of pip begin with the Python of their environment, by way of a shell where its path is long. A copied
# environment's name that of the first one, and so does a link to it.
_FIRST_LINES = re.compile(rb"#!\s*(?:/bin/sh\s+'''exec'\s+)?\"?([^\n\"]*/python[\d.]*)")


def _python(command: Path) -> Path:
    """The Python that runs a command; the one beside it where the command does not say."""
    with command.open("rb") as file:
        named = _FIRST_LINES.match(file.read(4096))
    return Path(os.fsdecode(named[1])) if named else command.resolve().parent / "python"


def _mended(here: Path, own: Path) -> str:
    """The line after which stages call a `cinecube` that runs, whether or not the study has a `.venv`."""
    kept = _called(here)
    if kept and _python(kept).exists():
        return _activated(here)  # stages call this one, whatever else is active
    lines = []
    if kept:  # copied, and the Python that it names is gone
        lines.append(f"mv {shlex.quote(str(here.parent))} {shlex.quote(f'{here.parent}.old')}")
    active = _called(os.environ.get("PATH", os.defpath))
    if active is None or _python(active).parent.resolve() != own:
        lines.append(_activated(own))
    return " && ".join(lines)


def _activated(place: Path) -> str:
    script = place / "activate"
    return f". {shlex.quote(str(script))}" if script.is_file() else f"export PATH={shlex.quote(str(place))}:$PATH"
