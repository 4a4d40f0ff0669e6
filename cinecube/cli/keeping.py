"""Keeping a study tidy and up to date, and telling others of it: `clean`, `upgrade` and `card`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cinecube.cli.common import echo, echo_json, json_option, refuse_no_folder, remark, study_at, study_option
from cinecube.cli.folding import echo_folded, remark_folded
from cinecube.wording import size_text

if TYPE_CHECKING:
    from cinecube.sharing.origin import Origin
    from cinecube.sharing.privacy import Kept
    from cinecube.store.clean.leftovers import Leftover
    from cinecube.store.params.document import Study

_path = click.Path(path_type=Path)

_HEADINGS = {
    "journal": "journals of finished cubes",
    "lock": "empty lock files, whose journals are gone",
    "partial": "cubes that were never finished",
    "old": "cubes that others have replaced",
    "only copy": "cubes to put back",
    "scratch": "scratch arrays of stopped stages",
    "import": "imports to undo",
    "log": "tracebacks of errors that nobody expected",
    "pull": "pulls that were stopped",
    "chunks": "unused caches of chunks",
    "abandoned": "abandoned journals: they would be resumed if params.yaml went back to what they are of",
}

# The question, what is said after a no, and the way without it.
_ABOUT_CLEAN = ("remove them?", "nothing was removed", "--dry-run to list only")
_ABOUT_UPGRADE = ("rewrite the pipeline?", "nothing was written", "--dry-run to see what differs")


@click.command()
@click.option("--yes", is_flag=True, help="Remove without asking.")
@click.option("--dry-run", is_flag=True, help="List only.")
@click.option("--cache", "caches", type=_path, multiple=True, help="Look at this cache of chunks too; may be repeated.")
@click.option(
    "--unused-days",
    type=click.FloatRange(0),
    default=30,
    show_default=True,
    help="A cache of chunks is unused after so many days.",
)
@json_option
@study_option
def clean(yes: bool, dry_run: bool, caches: tuple[Path, ...], unused_days: float, as_json: bool, root: Path) -> None:
    """Remove what killed and finished work has left: journals, partial cubes, locks, scratch arrays, logs, caches.

    Reads params.yaml, journals, the cubes' labels and locks; lists what can go, how large it is and why, and asks.
    What a running process holds and journals that `dvc repro` would resume are never listed; partial cubes are once
    nothing was written to them for a day. A replaced cube that is the only copy is put back. Writes nothing else.
    With --json it does not ask, and removes with --yes only.

    \b
    Example:
      cinecube clean --dry-run
    """
    from cinecube.status.clean import find_leftovers

    study = study_at(root)
    found = find_leftovers(study, root, caches, unused_days)
    gone: list[Leftover] = []
    if not as_json:
        _show(found.leftovers, root)
    if found.busy:
        remark("a stage of this study runs: partial cubes and scratch arrays are left alone", err=True)
    removing = (
        bool(found.leftovers) and not dry_run and (yes or (not as_json and _is_confirmed("clean", *_ABOUT_CLEAN)))
    )
    if removing:
        # While the question stood, somebody may have begun to use one of them.
        still = found if yes else find_leftovers(study, root, caches, unused_days)
        gone = _remove(found.leftovers, {one.path for one in still.leftovers}, root, unused_days)
    if as_json:
        _print_json(found.leftovers, gone)
    elif removing:
        remark(f"{len(gone)} of {len(found.leftovers)} removed, {size_text(sum(one.bytes for one in gone))} freed")
    if removing and len(gone) < len(found.leftovers):
        raise SystemExit(1)


def _is_confirmed(command: str, question: str, otherwise: str, without: str) -> bool:
    from cinecube.store.base.errors import StudyError

    if not _can_ask():
        raise StudyError(
            where=f"cinecube {command}",
            found="no terminal to ask on",
            expected="a yes",
            do=f"run again with --yes, or with {without}",
        )
    confirmed = click.confirm(question)
    if not confirmed:
        echo(otherwise)
    return confirmed


def _can_ask() -> bool:
    return sys.stdin.isatty()


@click.command()
@click.option("--yes", is_flag=True, help="Rewrite without asking.")
@click.option("--dry-run", is_flag=True, help="Show the difference only.")
@study_option
def upgrade(yes: bool, dry_run: bool, root: Path) -> None:
    """Bring the pipeline of a study that an earlier version wrote up to this version of cinecube.

    Reads params.yaml and dvc.yaml; shows what differs, and asks. Writes dvc.yaml, data/versions.json, dvc.lock, and to
    params.yaml the empty lists that the pipeline now names. What a lab added to the pipeline stays: stages, inputs,
    variables, comments. Results that this version would make again as they are, are kept; `dvc repro` makes the others.

    \b
    Example:
      cinecube upgrade --dry-run
    """
    from cinecube.status.upgrading import rewritten_pipeline
    from cinecube.status.upgrading import upgrade as run

    study = study_at(root)
    files = rewritten_pipeline(study, root)
    if not files:
        return echo("the pipeline is that of this version")
    for file in files:
        for line in file.lines():
            echo(line)
    if dry_run or not (yes or _is_confirmed("upgrade", *_ABOUT_UPGRADE)):
        return None
    kept = run(study, root, files)
    remark(f"written: {', '.join(file.name for file in files)}")
    if kept:
        remark(f"kept: {', '.join(kept)}")
    return remark("`cinecube plan` says what `dvc repro` will make again")


def _show(leftovers: Sequence[Leftover], root: Path) -> None:
    from cinecube.store.base.paths import StudyPaths

    paths = StudyPaths(root)
    for kind, heading in _HEADINGS.items():
        own = [one for one in leftovers if one.kind == kind]
        if own:
            echo(f"{heading}: {len(own)}, {size_text(sum(one.bytes for one in own))}")
        for one in own if kind != "lock" else []:
            echo_folded(f"  {size_text(one.bytes):>10}  ", f"{paths.relative(one.path)}  {one.why}")
    if not leftovers:
        echo("nothing to clean")


def _remove(leftovers: Sequence[Leftover], still: set[Path], root: Path, unused_days: float) -> list[Leftover]:
    """Remove those that may still go; print a line for each that cannot be removed."""
    from cinecube.status.clean import remove_leftover
    from cinecube.store.base.errors import StudyError

    gone = []
    for one in leftovers:
        if one.path not in still:
            echo(f"kept: {one.path} is needed by now", err=True)
            continue
        try:
            remove_leftover(root, one, unused_days)
            gone.append(one)
        except StudyError as error:
            echo(f"kept: {error}", err=True)
    return gone


def _print_json(leftovers: Sequence[Leftover], gone: Sequence[Leftover]) -> None:
    rows = [
        {"kind": one.kind, "path": str(one.path), "why": one.why, "bytes": one.bytes, "removed": one in gone}
        for one in leftovers
    ]
    echo_json(rows)


@click.command()
@click.option("--out", type=_path, help="Where the page goes. [default: CARD.html in the study's folder]")
@click.option("--url", help="Where others find the study. [default: Git's remote `origin`, without passwords]")
@click.option(
    "--rev", help="Which revision they should take. [default: the first tag, else the commit, of these cubes]"
)
@study_option
def card(out: Path | None, url: str | None, rev: str | None, root: Path) -> None:
    """Write a page about the study for others: what it holds, licences, how to import and cite it.

    Reads params.yaml, the cubes' labels, CITATION.cff where there is one, and what Git and DVC know of the study.
    Writes one HTML file without scripts, dates or anything from elsewhere, which Git can keep: the same cubes give the
    same bytes. Prints what `dvc push` sends and what stays here.

    \b
    Example:
      cinecube card
    """
    from dataclasses import replace

    from cinecube.sharing.card import render_card
    from cinecube.sharing.ignoring import warn_of_taken
    from cinecube.sharing.origin import find_origin, knows, public_url, refuse_odd_url, unrecorded
    from cinecube.sharing.privacy import shares
    from cinecube.store.base.atomic import write_text
    from cinecube.store.base.errors import StudyError, environment_error

    study, path, known = study_at(root), out or root / "CARD.html", find_origin(root)
    if url is not None:
        refuse_odd_url(url)
    refuse_no_folder(path)
    if path.is_dir():
        raise StudyError(where=str(path), found="a folder", expected="a file to write", do="name one, as CARD.html")
    if rev is not None and not knows(root, rev):
        do = "name a branch, tag or commit of this study"
        raise StudyError(where="--rev", found=repr(rev), expected="a revision that Git has here", do=do)
    origin = replace(known, url=public_url(url) if url is not None else known.url, rev=rev or known.rev)
    outputs = _kept_outputs(root, study)
    text = render_card(study, root, origin, shares(outputs))
    try:
        write_text(path, text)
    except OSError as error:
        found = error.strerror or str(error)
        raise environment_error(error, str(path)) or StudyError(
            where=str(path), found=found, expected="a place for a file", do="name another one"
        ) from error
    remark(f"the study's card is in {path}")
    for words, stays in (("`dvc push` sends", False), ("it leaves here", True)):
        own = [f"{share.place} ({size_text(share.n_bytes)})" for share in shares(outputs) if share.stays == stays]
        if own:
            remark_folded(f"{words}: {', '.join(own)}")
    for line in (*_lacking(origin, url), *unrecorded(root), *_private(study, outputs)):
        remark_folded(line, err=True)
    warn_of_taken(root)


def _kept_outputs(root: Path, study: Study) -> list[Kept]:
    from cinecube.sharing.privacy import kept_outputs
    from cinecube.store.base.errors import StudyError

    try:
        return kept_outputs(root, study)
    except StudyError:  # no repository of DVC
        return []


def _private(study: Study, outputs: Sequence[Kept]) -> Iterator[str]:
    """Lines on data of single subjects that `dvc push` sends."""
    from cinecube.sharing.privacy import against_consent

    if study.brain.publish:
        yield "brain.publish is true: `dvc push` sends scans and responses of single subjects; have their consent"
    if wrong := against_consent(outputs, study):
        does = "sends" if study.brain.publish is False else "leaves here"
        yield f"`dvc push` still {does} {wrong[0].path}, against brain.publish: run `cinecube privacy`"


def _lacking(origin: Origin, told: str | None) -> Iterator[str]:
    """Lines on what would stop others from using the card; a folder that the user named may be one that they share."""
    from cinecube.sharing.origin import is_local

    if origin.url is None:
        yield "it says REPO where an address belongs: add a remote `origin` to Git, or give --url"
    elif told is None and is_local(origin.url):
        yield f"the address it gives, {origin.url}, is a folder of this machine: give --url"
    if origin.rev is None:
        yield "it says REV where a revision belongs: commit the study, or give --rev"
    elif origin.uncommitted:
        yield f"what decides on the cubes differs from {origin.rev[:12]}: commit it and write the card again"
