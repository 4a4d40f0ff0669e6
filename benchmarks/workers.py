"""Extraction and encoding of three networks on two workers beside one.

    python benchmarks/workers.py [--study FOLDER] [--quick] [--json]

Takes a finished simulated study. Its features are extracted again in a folder beside it by one process and by two,
which are there before the clock starts and load each network themselves, and its encoders are fitted again; features
and scores must be those of the study. Two workers cannot take less than half of the processor seconds that one takes,
and one worker with the command that feeds it uses more than a core: that bound is printed beside the ratio. Then, what
the stages `features` would take without `extract`: a process for each film, each with its start, one of which is timed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil
from distributed import LocalCluster
from parts.machine import describe_machine, print_machine

from cinecube.analysis.encoders.stage import encode
from cinecube.features.extraction.all_films import fill_journals
from cinecube.features.extraction.stage import extract_film
from cinecube.store.base.fingerprint import files_digest
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import open_cube
from cinecube.store.params.document import Study, load_study
from cinecube.store.params.run_params import ClusterAddress

_PACKAGES = ("dask", "distributed", "numpy", "torch")
MODELS = ("vit", "videomae", "wav2vec2")


@contextmanager
def beside(study: Path, without: str) -> Iterator[Path]:
    """A folder with links to what a study has, but for one folder below `data` or `results`."""
    with tempfile.TemporaryDirectory(dir=study.parent) as place:
        root = Path(place)
        (root / "params.yaml").write_bytes((study / "params.yaml").read_bytes())
        (root / "data").mkdir()
        for path in (study / "data").iterdir():
            if path.name != without:
                (root / "data" / path.name).symlink_to(path, target_is_directory=path.is_dir())
        yield root


@dataclass(frozen=True)
class Took:
    """Seconds, and those of processors: of this process and of the workers that it started."""

    wall_s: float
    processor_s: float


def _timed(work: Callable[[], None]) -> Took:
    began_s, used_s = time.perf_counter(), _processor_s()
    work()
    return Took(time.perf_counter() - began_s, _processor_s() - used_s)


def _processor_s() -> float:
    here = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (here, *here.children(recursive=True)))


def timed_extraction(study: Study, folder: Path) -> Took:
    """Time of all films of all networks; refuses other bytes than the study's."""
    with beside(folder, "features") as root:
        took = _timed(lambda: fill_journals(study, root, lambda absent: []))
        for model in study.compute.models:
            for film in study.compute.films:
                path = extract_film(study, model, film, root).path
                _refuse_other(path, StudyPaths(folder).features(model, film))
    return took


def _refuse_other(path: Path, expected: Path) -> None:
    chunks = [sorted(file for file in cube.rglob("c/*") if file.is_file()) for cube in (path, expected)]
    if files_digest(chunks[0]) != files_digest(chunks[1]):
        raise click.ClickException(f"{path.name} is not the study's own")


def timed_encoding(study: Study, folder: Path) -> Took:
    """Time of all encoders; refuses other scores than the study's."""
    with beside(folder, "results") as root:

        def encode_all() -> None:
            for model in study.compute.models:
                encode(study, root, model)

        took = _timed(encode_all)
        for model in study.compute.models:
            scores, expected = (open_cube(StudyPaths(place).scores(model))["score"] for place in (root, folder))
            np.testing.assert_allclose(scores, expected, atol=1e-5)
    return took


def timed_alone(study: Study, folder: Path) -> float:
    """Seconds of the stages `features` without `extract`: one of each network, times the films."""
    cinecube = str(Path(sys.executable).with_name("cinecube"))
    with beside(folder, "features") as root:
        began_s = time.perf_counter()
        for model in study.compute.models:
            words = [cinecube, "features", model, study.compute.films[0]]
            subprocess.run(words, cwd=root, check=True, capture_output=True)
        took_s = time.perf_counter() - began_s
    return took_s * len(study.compute.films)


def measure(study: Study, folder: Path) -> dict[str, Any]:
    """Seconds by the number of workers, and the least that two could take: half of what one uses."""
    found: dict[str, Any] = {"extraction": {}, "encoding": {}, "bound": {}, "alone": timed_alone(study, folder)}
    for n_workers in (1, 2):
        with LocalCluster(n_workers=n_workers, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
            at = study.model_copy(update={"dask": ClusterAddress(address=cluster.scheduler_address)})
            for what, timed in (("extraction", timed_extraction), ("encoding", timed_encoding)):
                took = timed(at, folder)
                found[what][n_workers] = took.wall_s
                found["bound"].setdefault(what, took.processor_s / 2 / took.wall_s)  # of one worker
    return found


@click.command()
@click.option("--study", "folder", default=".", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--quick", is_flag=True, help="One film of each network.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(folder: Path, quick: bool, as_json: bool) -> None:
    """Compare two workers with one, and with a process for each film."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    study, folder = load_study(folder), folder.resolve()
    if not (folder / "results" / "scores").is_dir():
        raise click.UsageError(f"{folder} has no scores: run `make demo`, or name a finished study with --study")
    models = [model for model in MODELS if model in study.compute.models]
    compute = study.compute.model_copy(update={"models": models})
    if quick:
        compute = compute.model_copy(update={"films": study.compute.films[:1]})
    found = measure(study.model_copy(update={"compute": compute}), folder)
    machine = describe_machine(cores, _PACKAGES)
    if as_json:
        print(json.dumps({**found, "machine": machine}))
        return
    print_machine(machine)
    print(f"{', '.join(models)}, {len(compute.films)} films")
    for what in ("extraction", "encoding"):
        one, two = found[what][1], found[what][2]
        print(f"  {what:10} one worker {one:6.1f} s, two {two:6.1f} s; ratio {two / one:.2f}", end="")
        print(f", at least {found['bound'][what]:.2f}: half of the processor seconds of one")
    print(f"  a process for each film {found['alone']:.1f} s (of one film each, times the films)")


if __name__ == "__main__":
    main()
