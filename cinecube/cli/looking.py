"""Looking at a study, at two side by side, and at this machine: `open`, `compare` and `doctor`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cinecube.cli import completing
from cinecube.cli.common import (
    Painted,
    echo,
    echo_json,
    json_option,
    painted,
    refuse_no_folder,
    remark,
    study_at,
    study_option,
)
from cinecube.cli.folding import echo_folded

if TYPE_CHECKING:
    from cinecube.comparison.compare import Compared, Numbers

_COLOURS = {"ok": "green", "missing": "red", "absent": "yellow"}


@click.command("open")
@study_option
def open_(root: Path) -> None:
    """Open the study's report in a browser.

    Reads results/report/index.html, and what DVC has recorded: a report that is older than its results is named as
    such. Where there is no display, prints the page's address instead. Writes nothing but what DVC said, to .cinecube.

    \b
    Example:
      cinecube open
    """
    from cinecube.status.report_page import report_page

    page, why = report_page(study_at(root), root)
    if why:
        remark(f"this report is not of the study as it is: {why}; `dvc repro` makes it anew", err=True)
    if not _has_display() or click.launch(page.as_uri()):
        echo(page.as_uri())
    else:
        remark(f"{page} is opened in a browser")


def _has_display() -> bool:
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


@click.command()
@click.argument("a", shell_complete=completing.revisions)
@click.argument("b", shell_complete=completing.revisions)
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page for a browser here, too.")
@json_option
@study_option
def compare(a: str, b: str, html: Path | None, as_json: bool, root: Path) -> None:
    """Say what changed between two revisions or studies: parameters, cubes, scores, findings.

    A and B are revisions of the study (HEAD~1, a tag), folders (`.` is the working tree), repositories, or REPO@REV.
    Reads params.yaml, fingerprints, tables and metrics, of a revision from Git, DVC's cache and its remote; no values
    of cubes. Prints what differs, and what could not be compared and why. Writes nothing but the page of --html.

    \b
    Example:
      cinecube compare v1.0 .
      cinecube compare HEAD~1 HEAD --html changes.html
      cinecube compare https://example.org/movie10.git@v1.2 .
    """
    from dataclasses import asdict

    from cinecube.comparison.compare import compare_sides
    from cinecube.comparison.compare_page import render_comparison
    from cinecube.comparison.side import open_side
    from cinecube.store.base.atomic import write_text

    if html is not None:
        refuse_no_folder(html)
    found = compare_sides(open_side(a, root), open_side(b, root))
    if as_json:
        echo_json(asdict(found))
    else:
        _tell_of_comparison(found)
    if html is not None:
        write_text(html, render_comparison(found))
        remark(f"the page is {html}", err=as_json)


def _tell_of_comparison(found: Compared) -> None:
    from cinecube.comparison.compare import changed_numbers

    for letter, side in (("A", found.a), ("B", found.b)):
        echo(f"{letter}  {side['name']}" + (f"  {side['commit']}" if side["commit"] else ""))
    _tell_part("parameters", found.parameters)
    kinds = dict.fromkeys(cube.kind for cube in found.cubes)
    for kind in kinds:
        own = [cube for cube in found.cubes if cube.kind == kind]
        lines = []
        for cube in own:
            if cube.state != "same":
                lines += [f"{cube.name}: {cube.state}", *(f"  {line}" for line in cube.fields)]
        _tell_part(kind, lines, f"the same ({len(own)} cubes)" if len(own) > 1 else "the same")
    if not found.cubes:
        _tell_part("cubes", [], _UNKNOWN)
    scores, above = changed_numbers(found.scores), changed_numbers(found.significance)
    layers = ["a parcel has one layer for all subjects here, and each subject's own in regions"] if scores else []
    _tell_part("whole brain (test r)", [*layers, *_table(scores)], "the same" if found.scores else _UNKNOWN)
    _tell_part("regions (test r)", _few(found.regions), "the same" if found.regions else _UNKNOWN)
    best = {side: model or _UNKNOWN for side, model in found.best_model.items()}
    said = f"{best['a']} -> {best['b']}" if best["a"] != best["b"] else f"{best['a']} in both"
    _tell_part("best model, by the training films", [said])
    _tell_part("targets above chance (share)", _table(above), "the same" if found.significance else _UNKNOWN)
    if found.drops:
        _tell_part("what removals cost in regions (% of test r)", _few(found.drops))
    if found.not_compared:
        _tell_part("not compared", found.not_compared)


_MOST, _UNKNOWN = 20, "not known"


def _tell_part(title: str, lines: Sequence[str], otherwise: str = "the same") -> None:
    if not lines:
        echo(painted(title, bold=True) + f": {otherwise}")
        return
    echo(painted(title, bold=True))
    for line in lines:
        echo(f"  {line}")


def _few(rows: Sequence[Numbers]) -> list[str]:
    """Rows that differ, the largest differences alone of many."""
    from cinecube.comparison.compare import changed_numbers

    changed = changed_numbers(rows)
    more = [f"and {len(changed) - _MOST} more: see --json or --html"] if len(changed) > _MOST else []
    return [*_table(changed[:_MOST]), *more]


def _table(rows: Sequence[Numbers]) -> list[str]:
    from cinecube.comparison.compare_page import number_text

    names = [" ".join(filter(None, (row.region, row.model))) for row in rows]
    width = max(map(len, names), default=0)
    cells = [[number_text(row.a), number_text(row.b), number_text(row.difference, signed=True)] for row in rows]
    head = [f"{'':{width}}  {'A':>8}{'B':>8}{'B - A':>8}"] if rows else []
    return head + [f"{name:{width}}  {a:>8}{b:>8}{less:>8}" for name, (a, b, less) in zip(names, cells, strict=True)]


@click.command()
@json_option
@study_option
def doctor(as_json: bool, root: Path) -> None:
    """Look for what this machine lacks, and name the line that fixes it. Exit 1 if the study needs it.

    Reads params.yaml, the packages and programs of this environment, and DVC's configuration; asks remotes, the hub
    and a Dask scheduler whether they answer. Prints a line per thing: ok, missing (this study needs it) or absent (it
    does without). Without a study, what every study needs. Writes nothing that stays.

    \b
    Example:
      cinecube doctor
    """
    from dataclasses import asdict

    from cinecube.machine.doctor import diagnose

    found = []
    for one in diagnose(root):
        found.append(one)
        if not as_json:
            state = painted(f"{one.state:9}", _COLOURS[one.state])
            echo_folded(state, f"{one.what}: {one.found}" + (_advice(one.do) if one.do else painted("")))
    if as_json:
        echo_json([asdict(one) for one in found])
    if any(one.state == "missing" for one in found):
        raise SystemExit(1)


def _advice(do: str) -> Painted:
    return painted(f"; {do}", bold=True)
