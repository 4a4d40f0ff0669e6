"""Commands of the analyses that follow encoding; `dvc repro` calls these too."""

from __future__ import annotations

from pathlib import Path

import click

from cinecube.cli.common import Stage, echo, study_option
from cinecube.cli.progress import progress_bar


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
    from cinecube.study_params import load

    with progress_bar("ceilings", "blocks") as progress:
        run(load(root), root, progress=progress)
    echo("ceilings are in data/ceiling.zarr")


@click.command("residual-features", cls=Stage)
@click.argument("pair")
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
    from cinecube.study_params import load

    study = load(root)
    name = study.pair(pair).name
    with progress_bar(name, "layers") as progress:
        make_residual(study, root, name, progress=progress)
    echo(f"residual features are in data/residual/{name}")


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
    from cinecube.study_params import load

    run(load(root), root)
    echo("scores before and after removal are in results/tables: residual.csv, residual_roi.csv")


@click.command(cls=Stage)
@study_option
def partition(root: Path) -> None:
    """Compute the variance that two or three streams explain alone and together, by banded ridge.

    Reads the feature cubes of the section `partition`, their score cubes and all brain cubes. Writes
    results/partition.zarr and tables.

    \b
    Example:
      cinecube partition
    """
    from cinecube.analysis.partition.stage import partition as run
    from cinecube.study_params import load

    with progress_bar("variance partitioning", "fits") as progress:
        run(load(root), root, progress=progress)
    echo("the partition is in results/partition.zarr")


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
    from cinecube.study_params import load

    with progress_bar("significance", "models and subjects") as progress:
        run(load(root), root, progress=progress)
    echo("p and q are in results/significance.zarr")


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
    from cinecube.analysis.report.paper_figures import paper_figures
    from cinecube.study_params import load

    paper_figures(load(root), root)
    echo("figures 2 to 5 are in results/figures")


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
    from cinecube.study_params import load

    oracles(load(root), root)
    echo("what plain fits find is in results/tables: oracle_residual.csv, oracle_partition.csv")
