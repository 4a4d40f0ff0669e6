"""What each of the published choices of `encode.compat` does to the findings of a finished simulated study.

    python benchmarks/choices.py [--study FOLDER] [--quick] [--json]

All models of the study are encoded again without any choice, with each choice alone and with all of them, in a folder
beside the study that shares its features and scans; nothing of the study changes. Printed per choice: mean r over
targets in parcels at the layer that the training films chose, of the best model; and against the truth the share of
driven parcels whose best model and layer is the planted one, of single subjects the share that has it or the next
layer, the mean error of the delay (TR), and the largest mean r of a parcel that follows nothing. `--quick`: one model,
its scores only.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import click
from parts.machine import describe_machine, print_machine

from cinecube.analysis.cubes.results import read_scores
from cinecube.analysis.cubes.tables import EVERYONE, layer_table, preferred_layers, whole_brain_means, write_table
from cinecube.analysis.encoders.oota2025 import WHAT
from cinecube.analysis.encoders.stage import encode
from cinecube.analysis.regions.stage import layerwise
from cinecube.analysis.truth.planted import compare_study
from cinecube.store.base.paths import StudyPaths
from cinecube.store.params.document import Study, load_study

_PACKAGES = ("numpy", "scipy")
TRUTH = ("layer_found", "layer_found_or_next", "delay_error", "idle_score")


def chosen(study: Study, compat: tuple[str, ...], models: list[str]) -> Study:
    """The study with some choices, of some models."""
    return study.model_copy(
        update={
            "encode": study.encode.model_copy(update={"compat": compat}),
            "compute": study.compute.model_copy(update={"models": models}),
        }
    )


def findings(study: Study, root: Path, judged: bool) -> dict[str, float]:
    """Scores of a study whose data lie in `root`, and what of its truth they find."""
    for model in study.compute.models:
        encode(study, root, model)
    preferred = preferred_layers(layer_table(read_scores(study, root)))
    means = whole_brain_means(preferred)
    found = {"score": float(means[means["subject"] == EVERYONE]["score"].max())}
    if judged:
        write_table(StudyPaths(root).tables / "whole_brain.csv", preferred)
        layerwise(study, root)
        truth = compare_study(study, root)
        if truth is None:
            raise click.UsageError("the study has no truth: choose a finished simulated one")
        found |= {name: truth.metrics[name] for name in TRUTH}
    return found


@click.command()
@click.option("--study", "folder", default=".", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--quick", is_flag=True, help="One model, scores only, within a minute.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(folder: Path, quick: bool, as_json: bool) -> None:
    """Tabulate the findings of a simulated study under each published choice."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    machine, study = describe_machine(cores, _PACKAGES), load_study(folder)
    models = study.compute.models[:1] if quick else study.compute.models
    if not (folder / "data" / "features").is_dir():
        raise click.UsageError(f"{folder} has no features: run `make demo`, or name a finished study with --study")
    rows: dict[str, dict[str, Any]] = {}
    for name, compat in {"none": (), **{name: (name,) for name in WHAT}, "all": tuple(WHAT)}.items():
        with tempfile.TemporaryDirectory(dir=folder.resolve().parent) as place:
            (Path(place) / "data").symlink_to(folder.resolve() / "data", target_is_directory=True)
            rows[name] = findings(chosen(study, compat, models), Path(place), judged=not quick)
    if as_json:
        print(json.dumps({"choices": rows, "machine": machine}))
        return
    print_machine(machine)
    columns = list(rows["none"])
    print("| choice | " + " | ".join(columns) + " |\n|---" + "|---" * len(columns) + "|")
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(f"{row[column]:.3f}" for column in columns) + " |")


if __name__ == "__main__":
    main()
