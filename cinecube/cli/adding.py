"""Features that this study did not compute: `add` and `import`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from cinecube.cli.common import echo_json, json_option, remark, study_at, study_option
from cinecube.cli.progress import progress_bar

# Whether it exists is for the store to say, in its own words.
_path = click.Path(path_type=Path)


@click.command()
@click.argument("array", type=_path)
@click.option("--model", required=True, help="Name of the new model.")
@click.option(
    "--rows", "table", type=_path, help="CSV with the columns segment and onset_s, one line per row of ARRAY."
)
@click.option("--dataset", help="HDF5: the data set, the group with one per segment, or the data set in each.")
@click.option("--column", "columns", multiple=True, help="Only this column is a feature; may be repeated.")
@click.option("--tr", "tr_s", type=click.FloatRange(0, min_open=True), help="Array per segment: seconds between rows.")
@click.option("--window", "window_s", type=click.FloatRange(0, min_open=True), help="Seconds of film that a row sees.")
@click.option("--layer", default="head", show_default=True, help="Label of the one layer.")
@click.option("--resample", type=click.Choice(["mean", "lanczos"]), default="mean", show_default=True)
@click.option("--film", "films", multiple=True, help="Only this film; may be repeated.")
@click.option("--licence", help="Terms of use, kept in the cubes.")
@click.option("--replace", is_flag=True, help="Write over cubes of MODEL that are there.")
@study_option
def add(
    array: Path,
    model: str,
    table: Path | None,
    dataset: str | None,
    columns: tuple[str, ...],
    tr_s: float | None,
    window_s: float | None,
    layer: str,
    resample: Literal["mean", "lanczos"],
    films: tuple[str, ...],
    licence: str | None,
    replace: bool,
    root: Path,
) -> None:
    """Turn features of your own into feature cubes: loudness, motion energy, annotations.

    Reads ARRAY (row, dim): .npy, .csv, .tsv or a data set of .h5, with --rows; a .csv may hold segment and onset_s
    itself. Or an array per segment: .npz, data sets of .h5, a folder of SEGMENT.npy or .csv, with a row every --tr
    seconds (the study's by default) from 0. onset_s counts seconds from the segment's first frame. Columns that are
    no features (indexes, times, subjects, what rises with the rows) are left out and named. Rows on another clock than
    the study's are resampled; --window is the step between rows by default.

    Writes data/features/MODEL/FILM.zarr and lists MODEL under `imported` in params.yaml, so that all analyses use it.
    Cubes that hold these features already are left as they are; those that hold others are refused without --replace.

    \b
    Example:
      cinecube add loudness.npy --rows loudness_rows.csv --model loudness
      cinecube add algonauts.h5 --dataset visual --model slow_r50
    """
    from cinecube.features.own.add_features import Adding, add_features, unknown_segments
    from cinecube.store.foreign.foreign_arrays import read_foreign
    from cinecube.store.params.editing import edit_params, list_imported

    study = study_at(root)
    foreign = read_foreign(array, table, dataset, tr_s, study.clock.tr_s, study.segments(), columns)
    how = Adding(model, layer, resample, window_s, licence)
    for cube in add_features(study, root, foreign, how, films or None, replace=replace):
        remark(str(cube))
    for line in foreign.said:
        remark(line, err=True)
    if strange := unknown_segments(study, foreign):
        remark(f"left out: rows of {', '.join(strange)}, which no film of params.yaml has", err=True)
    if model not in study.encoded:
        entry = {"model": model, "source": str(array)}
        edit_params(root, lambda params: list_imported(params, entry))
        remark(f"{model} is listed under `imported` in params.yaml")
    remark(f"keep its cubes with `dvc add data/features/{model}/*.zarr`")


@click.command("import")
@click.argument("repo")
@click.option("--model", required=True, help="A model of that study.")
@click.option("--film", "films", multiple=True, help="Only this film; may be repeated. [default: all of this study]")
@click.option("--rev", help="A branch, tag or commit of REPO. [default: what is current there]")
@click.option("--remote", help="A DVC remote of REPO. [default: its own default]")
@click.option("--no-download", is_flag=True, help="Fetch no bytes now: `cinecube pull` brings single layers.")
@json_option
@study_option
def import_(
    repo: str,
    model: str,
    films: tuple[str, ...],
    rev: str | None,
    remote: str | None,
    no_download: bool,
    as_json: bool,
    root: Path,
) -> None:
    """Bring feature cubes of another study into this one.

    REPO is a folder, a bare repository or the URL of a Git repository whose cubes DVC tracks. Reads their labels first:
    what this study's `models` does not ask for is refused, cubes of another clock are resampled when they are read.
    Writes data/features/MODEL/FILM.zarr and a .dvc file with its hash and the commit beside it, by `dvc import`; moves
    MODEL from `compute` to `imported` in params.yaml. Of a model that is imported already it brings further films, from
    the same REPO; what is here stays.

    \b
    Example:
      cinecube import https://example.org/movie10.git --model vit --rev v1.2
    """

    from cinecube.studies.importing import Wanted, import_cubes

    wanted = Wanted(repo, model, films or None, rev, remote)
    with progress_bar(f"importing {model}", "films") as progress:
        tell = (lambda film, done, total: progress(done, total)) if progress else None
        made = import_cubes(root, wanted, not no_download, tell)
    if as_json:
        echo_json({"model": model, "files": made})
        return
    for path in made:
        remark(path)
    if not made:
        remark(f"every film that was asked for is here already, as {repo} has it")
        return
    remark(f"{model} is listed under `imported` in params.yaml; commit it with the .dvc files")
    if no_download:
        remark(f"`cinecube pull --model {model} --layer N` fetches a layer, `dvc pull data/features/{model}/*.dvc` all")
    else:
        remark("`dvc repro` uses it")
