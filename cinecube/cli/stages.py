"""One command per stage of the pipeline; `dvc repro` calls these."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import click

from cinecube.cli import completing
from cinecube.cli.common import Stage, did, remark, study_at, study_option
from cinecube.cli.progress import progress_bar


@click.command(cls=Stage)
@study_option
def inputs(root: Path) -> None:
    """Write what the other stages depend on beside parameters: versions of code, digests of films and scans.

    Reads params.yaml, and of films and scans names, links and, once, bytes; git-annex' keys are digests already. Writes
    data/versions.json and, but for simulated studies, data/inputs/. Names files that were not fetched. `dvc repro` runs
    it every time: DVC then sees that cinecube was upgraded or a file changed, and runs what has to be computed again.

    \b
    Example:
      cinecube inputs
    """
    from cinecube.sharing.ignoring import keep_out_of_git
    from cinecube.status.versions import write_versions
    from cinecube.store.base.paths import StudyPaths
    from cinecube.store.params.document import refuse_no_source
    from cinecube.studies.records import write_records
    from cinecube.studies.references import warn_of_references

    study = study_at(root)
    keep_out_of_git(root, study)  # before what may fail: `git add -A` must not take inputs that moved
    refuse_no_source(study)
    warn_of_references(study, root)
    write_versions(study, root)
    with progress_bar("reading films and scans", "MB") as progress:
        write_records(study, root, progress)
    StudyPaths(root).checkpoint("any").parent.mkdir(parents=True, exist_ok=True)  # `extract` depends on the folder
    remark("versions of what computes results, and digests of what it is computed from, are in data/")


@click.command(cls=Stage)
@study_option
def simulate(root: Path) -> None:
    """Make the simulated study: films, scans, checkpoints and the truth.

    Reads `simulate`, `films`, `split` and how `brain` cleans of params.yaml. Writes data/stimuli (H.264 + AAC),
    data/scans (fMRIPrep names), data/weights (small random networks) and data/truth.

    \b
    Example:
      cinecube simulate
    """
    from cinecube.simulation.brain.reachable import Cleaning
    from cinecube.simulation.setup.simulate_params import simulate_spec
    from cinecube.simulation.simulate import simulate as run
    from cinecube.simulation.simulate import simulated_folders
    from cinecube.store.base.paths import StudyPaths
    from cinecube.store.base.writing import one_writer

    study, paths = study_at(root), StudyPaths(root)
    cleaning = Cleaning(study.brain.confounds, study.brain.high_pass_hz, study.brain.detrend)
    with one_writer(paths, *simulated_folders(paths.data)), progress_bar("simulating", "films and scans") as progress:
        run(simulate_spec(study), study.films, study.split.train, paths.data, cleaning=cleaning, progress=progress)
    remark(f"{len(study.segments())} segments of {len(study.films)} films and their scans are in data/")


@click.command(cls=Stage)
@study_option
def privacy(root: Path) -> None:
    """Keep films, scans and weights out of Git, and responses of single subjects out of remotes.

    Reads params.yaml, dvc.yaml and .dvc files. Writes to .gitignore what it lacks, inputs that params.yaml names in
    the study's folder among it, and to dvc.yaml, as `push:` of scans and brain cubes, what brain.publish says: false by
    default, which `dvc push` obeys.

    \b
    Example:
      cinecube privacy
    """
    from cinecube.sharing.ignoring import IGNORE_FILE, keep_out_of_git, warn_of_exposed, warn_of_taken
    from cinecube.sharing.privacy import set_push

    study = study_at(root)
    if added := keep_out_of_git(root, study):
        remark(f"{IGNORE_FILE}: {len(added)} patterns appended")
    warn_of_exposed(root, study)
    warn_of_taken(root)
    for name in set_push(root, study):
        remark(f"{name}: set `push: {str(study.brain.publish).lower()}`; commit it")
    if study.brain.publish:
        remark("brain.publish is true: `dvc push` sends scans and responses of single subjects")
    else:
        remark("`dvc push` leaves scans and responses of single subjects here")


@click.command(cls=Stage)
@study_option
def films(root: Path) -> None:
    """Check every film and note how long it is.

    Decodes the files under `stimuli` to their ends, each once while it stays the same; a missing, truncated, damaged or
    variable-rate one is named, and so is what was chosen of several streams, turned or made square. In a study without
    films, reads the labels of the cubes that it imported. Writes data/films.csv: segment, duration, rows at the study's
    clock, frame rate, how it is read.

    \b
    Example:
      cinecube films
    """
    from cinecube.features.films.stage import said_of_films, write_films_table

    study = study_at(root)
    with progress_bar("decoding films", "MB") as progress:
        table = write_films_table(study, root, progress)
    for line in said_of_films(table):
        remark(line)
    remark(f"{len(table)} segments, {table['duration_s'].sum() / 60:.1f} minutes, {table['rows'].sum()} rows")


@click.command(cls=Stage)
@click.argument("model", shell_complete=completing.models)
@study_option
def checkpoint(model: str, root: Path) -> None:
    """Record which weights a model reads: digest, revision, licence.

    Reads the checkpoint of MODEL in params.yaml, a local folder or a hub id. Refuses what cannot be read as params.yaml
    asks; `extractor: hf` reads a made-up window for that. Writes data/checkpoints/MODEL.json.

    \b
    Example:
      cinecube checkpoint vit
    """
    from cinecube.features.extraction.checkpoint import write_record

    record = write_record(study_at(root), model, root)
    remark(f"{model}: weights {record['weights_digest'][:12]}, licence {record['licence']}")


@click.command(cls=Stage)
@study_option
def extract(root: Path) -> None:
    """Compute all features that are missing, of all networks and films at once.

    Reads films and data/checkpoints. Each network is loaded once by each worker that `dask` names; on this machine
    these are as many processes as it has cores and memory for, or one where it computes on its GPU. Keeps what it
    computes for `cinecube features`, which writes the cubes. Cubes that are up to date, or that DVC has, are left
    alone. A stopped run goes on where it was. First refuses scans that `brain`, `encode` or `ceiling` would refuse, as
    far as headers, masks and tables tell; scans that are not here are passed over. Writes data/extracted.json.

    \b
    Example:
      cinecube extract
    """
    from cinecube.features.extraction.all_films import fill_journals
    from cinecube.status.timings import note
    from cinecube.store.open.recorded import restored_features

    with progress_bar("extracting", "windows") as progress:
        filled = fill_journals(study_at(root), root, lambda wanted: restored_features(root, wanted), progress)
    for model, rows in filled.rows.items():
        note(root, ("features", model), filled.seconds[model], rows)
    did(0)
    remark(str(filled))


@click.command(cls=Stage)
@click.argument("model", shell_complete=completing.models)
@click.argument("film", shell_complete=completing.films)
@study_option
def features(model: str, film: str, root: Path) -> None:
    """Extract one model's features of one film, all layers in one pass.

    Reads the film's segments and data/checkpoints/MODEL.json. Writes data/features/MODEL/FILM.zarr. A stopped run goes
    on where it was. Where something is to be computed, scans are looked at first, as `cinecube extract` does.

    \b
    Example:
      cinecube features vit amber
    """
    from cinecube.features.extraction.stage import extract_film

    study = study_at(root)
    study.model(model)
    study.film(film)
    with progress_bar(f"{model} {film}", "rows") as progress:
        done = extract_film(study, model, film, root, progress=progress)
    did(done.rows * done.windows_computed / done.windows)
    remark(str(done))


@click.command(cls=Stage)
@click.argument("model", shell_complete=completing.models)
@study_option
def imported(model: str, root: Path) -> None:
    """Check the feature cubes of a model that this study did not compute.

    Reads the labels of data/features/MODEL and the sections `models` and `imported`. Refuses cubes that were made with
    other parameters than `models` asks for, and names the field. Writes data/imported/MODEL.json.

    \b
    Example:
      cinecube imported vit
    """
    from cinecube.store.open.imported import record_imported

    record = record_imported(study_at(root), root, model)
    remark(f"{model}: {len(record['fingerprints'])} films are what this study asks for")


@click.command(cls=Stage)
@study_option
def contents(root: Path) -> None:
    """Write digests of the feature cubes, on which analyses depend.

    Reads what each cube of data/features says of its contents. Writes data/contents.json: one digest a model, one for
    each pair of `residual`, and one of all in `partition`. So a new model makes nothing anew that does not read it.

    \b
    Example:
      cinecube contents
    """
    from cinecube.store.open.contents import write_contents

    models = write_contents(study_at(root), root)["models"]
    remark(f"features of {sum(digest is not None for digest in models.values())} of {len(models)} models are there")


@click.command(cls=Stage)
@click.argument("subject", shell_complete=completing.subjects)
@study_option
def brain(subject: str, root: Path) -> None:
    """Turn one subject's scans into a brain cube.

    Reads the runs of SUBJECT under `brain.path`, the atlas and data/films.csv. Writes data/brain/SUBJECT.zarr (averaged
    into parcels if asked, cleaned, trimmed to the films, standardised per run) and data/brain/SUBJECT.qc.csv.

    \b
    Example:
      cinecube brain sub-01
    """
    from cinecube.store.scans.brain import build_brain

    study = study_at(root)
    study.subject(subject)
    with progress_bar(subject, "runs") as progress:
        table = build_brain(study, subject, root, progress)
    trimmed, missing = table["trimmed_volumes"].sum(), table["missing_rows"].sum()
    remark(f"{subject}: {len(table)} runs, {trimmed} volumes past the films trimmed, {missing} rows without a volume")


@click.command(cls=Stage)
@click.argument("model", shell_complete=completing.scored)
@study_option
def encode(model: str, root: Path) -> None:
    """Fit encoders on the training films and score them on the test films, for every layer.

    MODEL is a model, or a pair KEEP-REMOVE of the section `residual`. Reads its feature cubes and all brain cubes.
    Writes results/scores/MODEL.zarr, and results/predictions/MODEL.zarr: predicted and measured test films by parcel.

    \b
    Example:
      cinecube encode vit
    """
    from cinecube.analysis.encoders.stage import encode as run

    study = study_at(root)
    study.scored(model)
    with progress_bar(f"encoding {model}", "blocks") as progress:
        whole = run(study, root, model, progress=progress)
    if not whole:
        did(0)
    remark(f"scores of {model} are in results/scores/{model}.zarr")


@click.command(cls=Stage)
@click.argument("model", shell_complete=completing.scored)
@study_option
def weights(model: str, root: Path) -> None:
    """Fit a model's encoders at one layer once more, and keep their weights.

    MODEL is a model of the section `keep_weights`. Reads its feature cubes, its scores and all brain cubes. Writes
    results/weights/MODEL.zarr: 4 bytes per dim, delay, target, subject and stream.

    \b
    Example:
      cinecube weights vit
    """
    from cinecube.analysis.weights.stage import keep_weights as run

    with progress_bar(f"weights of {model}", "blocks") as progress:
        run(study_at(root), root, model, progress=progress)
    remark(f"weights of {model} are in results/weights/{model}.zarr")


@click.command(cls=Stage)
@study_option
def ceiling(root: Path) -> None:
    """Compute how high scores can be: what other subjects predict, and what repeated films allow.

    Reads all brain cubes. Writes data/ceiling.zarr, a table and a plot of scores against the number of other subjects.
    The section `ceiling` of params.yaml says which of them scores are divided by.

    \b
    Example:
      cinecube ceiling
    """
    from cinecube.analysis.ceilings.stage import ceiling as run

    with progress_bar("ceilings", "blocks") as progress:
        whole = run(study_at(root), root, progress=progress)
    if not whole:
        did(0)
    remark("ceilings are in data/ceiling.zarr")


@click.command("residual-features", cls=Stage)
@click.argument("pair", shell_complete=completing.pairs)
@study_option
def residual_features(pair: str, root: Path) -> None:
    """Remove another model's part from one model's features, and write what is left.

    PAIR is KEEP-REMOVE of the section `residual`. Reads the feature cubes of both. Writes data/residual/PAIR, cubes
    like any other, and results/tables/residual_check/PAIR.csv: how much of what was removed can still be predicted.

    \b
    Example:
      cinecube residual-features tvlt.joint-videomae
    """
    from cinecube.analysis.residuals.residual_cubes import make_residual

    study = study_at(root)
    name = study.pair(pair).name
    with progress_bar(name, "layers") as progress:
        make_residual(study, root, name, progress=progress)
    remark(f"residual features are in data/residual/{name}")


@click.command("whole-brain", cls=Stage)
@study_option
def whole_brain(root: Path) -> None:
    """Write the tables of scores per subject, parcel and model, at the layer that the training films chose.

    Reads results/scores. Writes results/tables and results/plots.

    \b
    Example:
      cinecube whole-brain
    """
    from cinecube.analysis.regions.stage import whole_brain as run

    run(study_at(root), root)
    remark("scores at each parcel's layer are in results/tables: whole_brain.csv, roi.csv and others")


@click.command(cls=Stage)
@study_option
def layerwise(root: Path) -> None:
    """Write the tables of scores per layer, and of the layer that each parcel prefers on the training films.

    Reads results/scores. Writes results/tables and results/plots.

    \b
    Example:
      cinecube layerwise
    """
    from cinecube.analysis.regions.stage import layerwise as run

    run(study_at(root), root)
    remark("scores by layer are in results/tables: layerwise.csv, depth.csv, lag.csv and others")


@click.command(cls=Stage)
@study_option
def residual(root: Path) -> None:
    """Write the tables of the residual analysis: scores before and after the removal, and the drop in percent.

    Reads the score cubes of all pairs of the section `residual` and of the models they keep. Writes results/tables.

    \b
    Example:
      cinecube residual
    """
    from cinecube.analysis.residuals.residual_tables import residual as run

    run(study_at(root), root)
    remark("scores before and after removal are in results/tables: residual.csv, residual_roi.csv")


@click.command("partition-layers", cls=Stage)
@study_option
def partition_layers(root: Path) -> None:
    """Choose the layer of each stream of the section `partition`, by the training films.

    Reads the score cubes of these streams. Writes results/partition_layers.json, all that a partition depends on of
    scores: so those of a new model, or a layer that stays the best, make no partition anew.

    \b
    Example:
      cinecube partition-layers
    """
    from cinecube.analysis.partition.layers import write_partition_layers

    chosen = write_partition_layers(study_at(root), root)
    remark(f"layers of {len(chosen)} streams are in results/partition_layers.json")


@click.command(cls=Stage)
@study_option
def partition(root: Path) -> None:
    """Compute the variance that two or three streams explain alone and together, by banded ridge.

    Reads the feature cubes of the section `partition`, their score cubes and all brain cubes. Writes
    results/partition.zarr.

    \b
    Example:
      cinecube partition
    """
    from cinecube.analysis.partition.stage import partition as run
    from cinecube.studies.pipelines import stage_names

    with progress_bar("variance partitioning", "fits") as progress:
        whole = run(study_at(root), root, progress=progress)
    if not whole:
        did(0)
    remark("the partition is in results/partition.zarr")
    if "partition_tables" not in stage_names(root):  # the pipeline is of an earlier version, whose stage wrote them too
        click.get_current_context().invoke(partition_tables, root=root)


@click.command("partition-tables", cls=Stage)
@study_option
def partition_tables(root: Path) -> None:
    """Write the tables of the partition: parts of the variance by parcel, and by region of `rois`.

    Reads results/partition.zarr. Writes partition.csv and partition_roi.csv to results/tables. So other regions make no
    partition anew.

    \b
    Example:
      cinecube partition-tables
    """
    from cinecube.analysis.partition.partition_tables import write_partition_tables

    write_partition_tables(study_at(root), root)
    remark("parts of the variance are in results/tables: partition.csv, partition_roi.csv")


@click.command(cls=Stage)
@study_option
def significance(root: Path) -> None:
    """Test which scores are above chance and which models differ, by permuting blocks of the test films.

    Reads the score cubes, fits again at their penalties, and follows the section `statistics`. Writes
    results/significance.zarr and tables.

    \b
    Example:
      cinecube significance
    """
    from cinecube.analysis.significance.stage import significance as run

    with progress_bar("significance", "models and subjects") as progress:
        run(study_at(root), root, progress=progress)
    remark("p and q are in results/significance.zarr")


@click.command(cls=Stage)
@study_option
def figures(root: Path) -> None:
    """Draw the paper's figures 2 to 5 for this study: tables and pictures.

    Reads results/tables. Writes results/figures: 2 the whole brain, 3 regions with markers against unimodal video and
    audio, 4 residuals, 5 drops in percent.

    \b
    Example:
      cinecube figures
    """
    from cinecube.analysis.figures.paper_figures import paper_figures

    paper_figures(study_at(root), root)
    remark("figures 2 to 5 are in results/figures")


@click.command(cls=Stage)
@study_option
def oracle(root: Path) -> None:
    """Repeat the residuals and partitions of a simulated study by plain fits of the truth's own features.

    Reads data/truth, brain cubes and what the pipeline found. Writes results/tables/oracle_residual.csv and
    oracle_partition.csv, both side by side.

    \b
    Example:
      cinecube oracle
    """
    from cinecube.analysis.truth.stage import oracles

    oracles(study_at(root), root)
    remark("what plain fits find is in results/tables: oracle_residual.csv, oracle_partition.csv")


@click.command(cls=Stage)
@study_option
def report(root: Path) -> None:
    """Write the study's page and its metrics.

    Reads the score cubes, tables, quality tables and, where there is one, the truth. Writes results/report/index.html
    (one file, no links to the net) and results/metrics.json.

    \b
    Example:
      cinecube report
    """
    from cinecube.analysis.report.stage import write_report

    study = study_at(root)
    pictures = None
    if study.show_films and find_spec("av") is None:
        remark("without pictures of the film, which need `pip install 'cinecube[features]'`")
    elif study.show_films:
        from cinecube.features.films.small_pictures import small_pictures

        pictures = small_pictures(study, root)
    write_report(study, root, pictures)
    remark("the report is in results/report/index.html")
