"""Whole studies: `init`, `plan` and `pull`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cinecube.cli import completing
from cinecube.cli.common import echo_json, json_option, remark, state_painted, study_at, study_option
from cinecube.cli.folding import Table, echo_folded
from cinecube.cli.progress import progress_bar
from cinecube.wording import seconds_text, size_text

if TYPE_CHECKING:
    from cinecube.status.plan import Step

_TEMPLATES = ["simulated", "own", "reuse", "movie10", "algonauts2025"]
_folder = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("folder", metavar="DIR", type=_folder)
@click.option("--template", type=click.Choice(_TEMPLATES), default="simulated", show_default=True)
@click.option("--from", "repo", help="reuse: the study whose cubes are imported; a folder or Git URL.")
@click.option("--rev", help="reuse: a branch, tag or commit of it.")
@click.option(
    "--stimuli",
    type=_folder,
    help="own: folder of the films' folders. [default: DIR/data/stimuli; of public data beside DIR]",
)
@click.option(
    "--scans",
    type=_folder,
    help="own, reuse: fMRIPrep derivatives. [default: DIR/data/scans; of public data beside DIR]",
)
@click.option(
    "--atlas",
    type=click.Path(path_type=Path),
    help="own, reuse: a labelled volume with its .tsv, a pair of surfaces, a .dlabel.nii, or hcp-mmp. "
    "[default: the one beside the scans]",
)
@click.option("--test", help="own, reuse: the film to test on. [default: the last; that of the other study]")
@click.option(
    "--space",
    help="Space of the scans. [default: own, reuse: one that is there, MNI152NLin2009cAsym first; of public data fsLR]",
)
def init(
    folder: Path,
    template: str,
    repo: str | None,
    rev: str | None,
    stimuli: Path | None,
    scans: Path | None,
    atlas: Path | None,
    test: str | None,
    space: str | None,
) -> None:
    """Make a new study in DIR: dvc.yaml, params.yaml, README.

    `simulated` needs nothing. `own` reads which films and subjects there are, and the TR of the scans. `reuse` takes
    films and split from another study, whose feature cubes `cinecube import` brings then: no films, no weights, no
    torch. `movie10` and `algonauts2025` are the study of Oota et al. (2025) on public data; its README has the
    commands that fetch just what it reads. Writes only into DIR, and puts it under Git and DVC.

    \b
    Example:
      cinecube init mystudy --template own --stimuli films --scans fmriprep --test life
      cinecube init movie10 --template movie10 --scans movie10.fmriprep --stimuli movie10.stimuli
      cinecube init mine --template reuse --from https://example.org/movie10.git --scans fmriprep
    """
    from cinecube.studies.init import OwnData, init_own, init_simulated
    from cinecube.studies.public_data import DATA, init_public
    from cinecube.studies.reusing import init_reuse

    data = folder / "data"
    own = OwnData(stimuli or data / "stimuli", scans or data / "scans", atlas, test, space)
    if (template == "reuse") != (repo is not None):
        raise click.UsageError("--from goes with --template reuse, which needs it")
    if template == "simulated":
        if stimuli or scans or atlas or test or space:
            raise click.UsageError(
                "--stimuli, --scans, --atlas, --test and --space go with templates of scans: own, reuse, movie10, "
                "algonauts2025"
            )
        init_simulated(folder)
    elif template in DATA:
        if test:
            raise click.UsageError(f"--test goes with --template own: {template} tests on life")
        init_public(folder, template, stimuli, scans, atlas, space)
    elif template == "own":
        init_own(folder, own)
    else:
        assert repo is not None
        models = init_reuse(folder, repo, rev, own)
        remark(f"{repo} has {', '.join(models)}; import one there: `cinecube import {repo} --model {models[0]}`")
    if template != "reuse":
        remark(f"{folder}: edit params.yaml, then run `dvc repro` there")


@click.command()
@click.option("--todo", is_flag=True, help="Leave out stages with nothing to do: those done, and kept back by others.")
@study_option
@json_option
def plan(todo: bool, root: Path, as_json: bool) -> None:
    """List what is done, what is to do, and what can be resumed.

    Reads params.yaml, the cubes' labels, journals and the table of films, and what DVC has recorded of every stage.
    Prints a line per stage: its name in DVC with the model or pair that DVC numbers, state, bytes on disk when done,
    memory (of each worker where `dask` has several), time by earlier runs on this machine, and why.
    Writes nothing but what DVC said, to .cinecube.

    \b
    Example:
      cinecube plan --todo
    """
    from dataclasses import asdict

    from cinecube.status.pipeline import RESTORED, stays, warn_of_earlier
    from cinecube.status.plan import IDLE, plan_study
    from cinecube.studies.records import warn_of_unfetched
    from cinecube.studies.references import warn_of_references

    study = study_at(root)
    steps = plan_study(study, root)
    warn_of_earlier(root)
    warn_of_unfetched(study, root)
    warn_of_references(study, root)
    shown = [step for step in steps if step.state not in IDLE] if todo else steps
    if as_json:
        echo_json([asdict(step) for step in shown])
        return
    if shown:
        _print_steps(shown)
    absent, kept = (sum(step.state == state for step in steps) for state in ("not here", "kept back"))
    to_do = [step for step in steps if step.state not in (*IDLE, "not here")]
    known = [step.seconds for step in to_do if step.seconds is not None]
    # What follows from stages whose outputs DVC has may be among them, too.
    about = "at most" if any(step.why.endswith(RESTORED) for step in to_do) else "about"
    takes = f", {about} {seconds_text(sum(known))}" if known else ""
    unknown = f" and {len(to_do) - len(known)} that never ran here" if known and len(known) < len(to_do) else ""
    if absent:
        echo_folded(
            "", f"{len(steps)} stages; {absent} are recorded and not here; run `cinecube pull` first, and this again"
        )
    else:
        again = sum(step.state == "done" and stays(step.why) for step in steps)
        elsewhere = kept or any(step.state == "done" and step.why and not stays(step.why) for step in steps)
        runs = (
            "`dvc repro --allow-missing` runs them, without inputs that are not here"
            if elsewhere
            else "`dvc repro` runs them"
        )
        held = f", {kept} kept back by their owner" if kept else ""
        held += f", {again} that run again and keep what they made" if again else ""
        then = f"; {runs}" if to_do or again else ""
        n_bytes = sum(step.bytes_when_done for step in to_do)
        kept_bytes = f", {size_text(n_bytes)} of cubes" if n_bytes else ""
        echo_folded("", f"{len(steps)} stages, {len(to_do)} to do{takes}{unknown}{kept_bytes}{held}{then}")


def _print_steps(steps: Sequence[Step]) -> None:
    """A line per stage; where a terminal is too narrow, the pair or model of a stage stands before why."""
    rows = [
        [
            step.dvc_stage + _item(step),
            state_painted(step.state),
            size_text(step.bytes_when_done) if step.bytes_when_done else "",
            f"{size_text(step.memory_bytes)} {_whose(step)}" if step.memory_bytes else "",
            f"about {seconds_text(step.seconds)}" if step.seconds is not None else "",
            step.why,
        ]
        for step in steps
    ]
    head, least = ["stage", "state", "when done", "needs", "takes", "why"], (0, 12, 10, 18, 13)
    table = Table(rows, least, right=2, head=head)
    if not table.fits:
        for step, row in zip(steps, rows, strict=True):
            row[0], row[-1] = step.dvc_stage, f"{_item(step)} {step.why}".strip()
        table = Table(rows, least, right=2, head=head)
    for row in [head, *rows]:
        table.echo(row)


def _whose(step: Step) -> str:
    """Words behind the memory of a stage."""
    return "a worker" if step.workers > 1 else "memory"


def _item(step: Step) -> str:
    """The pair or model of a stage that DVC numbers."""
    return "" if step.dvc_stage == step.stage else f" ({step.stage.partition('@')[2]})"


@click.command()
@click.option(
    "--model", "stream", shell_complete=completing.models, help="A model, or one stream of one. [default: everything]"
)
@click.option("--layer", help="A block number (0 is embed) or label, with --model. [default: all]")
@click.option("--film", shell_complete=completing.films, help="With --model. [default: all]")
@study_option
@json_option
def pull(stream: str | None, layer: str | None, film: str | None, root: Path, as_json: bool) -> None:
    """Fetch everything that a study has published, or single layers of feature cubes.

    Reads params.yaml, dvc.yaml, dvc.lock and .dvc files. Without --model it brings all outputs into place, as
    `dvc pull` does, and names those that their owner keeps back, which is no failure. With --model it writes to DVC's
    cache only, never into data/, so that DVC finds its outputs as they were; `study.features(…, layer=…)` reads layers
    from there.

    \b
    Example:
      cinecube pull
      cinecube pull --model vit --layer 7 --film life
    """
    if stream is None:
        if layer is not None or film is not None:
            raise click.UsageError("--layer and --film go with --model")
        _pull_all(root, as_json)
        return
    from cinecube.store.base.paths import StudyPaths
    from cinecube.store.dvc.dvc_index import open_index
    from cinecube.store.dvc.pulling import pull_layers
    from cinecube.store.params.document import load_study

    study, paths = load_study(root), StudyPaths(root)
    model = study.owner(stream)
    films = list(study.films) if film is None else [film]
    for name in films:
        study.film(name)
    index, rows = open_index(root), []
    for name in films:
        path = paths.relative(paths.features(model, name))
        with progress_bar(f"{stream} {name}", "layers") as tell:
            done = pull_layers(index, path, None if stream == model else stream, layer, tell)
        rows.append({"model": stream, "film": name, "shards": done.shards, "files": done.files, "bytes": done.n_bytes})
        if not as_json:
            layers = f"{done.shards} layer" + "s" * (done.shards != 1)
            remark(f"{stream} {name}: {layers} in DVC's cache, {size_text(done.n_bytes)} fetched")
    if as_json:
        echo_json(rows)


def _pull_all(root: Path, as_json: bool) -> None:
    from cinecube.store.dvc.pull_all import pull_all

    brought = pull_all(root)
    if as_json:
        told = {"files": brought.files, "kept_back": brought.kept_back, "lacking": brought.lacking}
        echo_json(told)
    else:
        said = "" if brought.has_remote else "; this study has no remote: `dvc remote add -d NAME ADDRESS` names one"
        remark(f"{brought.files} file{'s' * (brought.files != 1)} fetched{said}")
    if brought.kept_back and not as_json:
        remark("not published, their owner keeps them: " + ", ".join(brought.kept_back))
        remark("stages that read them cannot run here; `dvc repro --allow-missing` runs the others")
    if brought.cause:
        raise brought.cause
