"""Commands that look at a study of 50 films x 8 networks, beside opening the same cubes with xarray.

    python benchmarks/commands.py [--quick] [--json]

Each command runs in a process of its own, as at a terminal: its start counts. The study is made here: sound of half a
minute a film, a small checkpoint, cubes by the real writer, and a pipeline of which DVC has run nothing.
The first `plan` asks DVC what has changed; the others find its answer kept.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import yaml
from parts.machine import describe_machine, middle_and_range, print_machine

from cinecube.features.extraction.record import read_record
from cinecube.features.extraction.spec import feature_spec, make_reading
from cinecube.simulation.features.checkpoints import write_checkpoint
from cinecube.store.base.paths import StudyPaths
from cinecube.store.clock.films_table import rows_here
from cinecube.store.cube.cubes import write_feature_cube
from cinecube.store.cube.schema import feature_template, provenance, rows_index
from cinecube.store.params.document import Study, load_study, parse
from cinecube.studies.pipelines import pipelines

FILMS, NETWORKS, FILM_S, RATE_HZ, TR_S = 50, 8, 30, 16_000, 1.5
REPEATS = 5
_XARRAY = (
    "import sys, pathlib, xarray\n"
    "for path in sorted(pathlib.Path('data/features').glob('*/*.zarr')): xarray.open_zarr(path, chunks=None)"
)


def make_study(root: Path, n_films: int, n_networks: int) -> None:
    """Everything of a study up to its feature cubes, under `root`."""
    films = {f"film{number:02d}": [f"film{number:02d}a"] for number in range(n_films)}
    models = [f"net{number}" for number in range(n_networks)]
    model = {"extractor": "wav2vec2", "checkpoint": "data/weights/net"}
    *train, test = films
    params = {
        "study": "wide",
        "clock": {"tr_s": TR_S, "window_s": TR_S},
        "stimuli": "data/stimuli",
        "films": films,
        "split": {"train": train, "test": [test]},
        "models": dict.fromkeys(models, model),
        "compute": {"models": models, "films": list(films)},
        "brain": {"path": "data/scans", "subjects": ["sub-01"], "atlas": "data/atlas"},
    }
    whole = parse(Study, params, "params.yaml").model_dump(mode="json")  # the pipeline names every section
    (root / "params.yaml").write_text(yaml.safe_dump(whole, sort_keys=False), encoding="utf-8")
    for film, (segment,) in films.items():
        _write_sound(root / "data/stimuli" / film / f"{segment}.wav")
    write_checkpoint(0, "wav2vec2", root / "data/weights/net")
    run(root, "cinecube", "films")
    run(root, "cinecube", "checkpoint", models[0])
    study, paths = load_study(root), StudyPaths(root)
    record = json.loads(paths.checkpoint(models[0]).read_text(encoding="utf-8"))
    for name in models:
        paths.checkpoint(name).write_text(json.dumps({**record, "model": name}), encoding="utf-8")
        for film in films:
            _write_features(study, root, name, film)
    for name, text in pipelines().items():
        (root / name).write_text(text, encoding="utf-8")
    run(root, "dvc", "init", "--no-scm", "--quiet")


def _write_sound(path: Path) -> None:
    path.parent.mkdir(parents=True)
    samples = np.random.default_rng(list(path.stem.encode())).normal(0, 3000, FILM_S * RATE_HZ).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE_HZ, len(samples), "NONE", ""))
        file.writeframes(samples.tobytes())


def _write_features(study: Study, root: Path, model: str, film: str) -> None:
    paths = StudyPaths(root)
    lengths = rows_here(paths.films, study.film(film), study.clock)
    rows = rows_index({segment: study.clock.onsets_s(n) for segment, n in lengths.items()})
    spec = feature_spec(study, model, film, root)
    streams = make_reading(study, model, read_record(study, model, root)).streams
    template = feature_template(rows, TR_S, streams, spec["dtype"], provenance("features", spec, ()))
    width, draw = template["width"].values, np.random.default_rng(0)

    def values(m: int, k: int) -> np.ndarray:
        return draw.standard_normal((len(rows), width[m, k]), np.float32)

    write_feature_cube(paths.features(model, film), template, values)


def run(root: Path, *words: str) -> float:
    """Seconds of a command in a process of its own."""
    name, *rest = words
    beside = Path(sys.executable).parent
    command = [sys.executable if name == "python" else str(beside / name), *rest]
    path = os.pathsep.join([str(beside), os.environ.get("PATH", "")])
    began_s = time.perf_counter()
    done = subprocess.run(command, cwd=root, env={**os.environ, "PATH": path}, capture_output=True, check=False)
    took_s = time.perf_counter() - began_s
    if done.returncode:
        raise click.ClickException(f"{' '.join(words)}: {done.stderr.decode()[-2000:]}")
    return took_s


def measure(root: Path, repeats: int) -> dict[str, list[float]]:
    """Seconds of each command, run after run, taking turns."""
    cube = "data/features/net0/film00.zarr"
    found = {"cinecube plan, the first time": [run(root, "cinecube", "plan")]}
    commands: dict[str, Sequence[str]] = {
        "cinecube ls": ("cinecube", "ls"),
        "cinecube show": ("cinecube", "show", cube),
        "cinecube why": ("cinecube", "why", cube),
        "cinecube plan": ("cinecube", "plan"),
        "import xarray": ("python", "-c", "import xarray, zarr"),
        "xarray.open_zarr of every cube": ("python", "-c", _XARRAY),
    }
    for _ in range(repeats):
        for name, words in commands.items():
            found.setdefault(name, []).append(run(root, *words))
    return found


@click.command()
@click.option("--quick", is_flag=True, help="Three films of two networks, once.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def main(quick: bool, as_json: bool) -> None:
    """Time the commands that look at a study."""
    n_films, n_networks, repeats = (3, 2, 1) if quick else (FILMS, NETWORKS, REPEATS)
    machine = describe_machine(os.cpu_count() or 1, ("dvc", "xarray", "zarr"))
    with tempfile.TemporaryDirectory() as scratch:
        make_study(Path(scratch), n_films, n_networks)
        found = measure(Path(scratch), repeats)
    if as_json:
        print(json.dumps({"machine": machine, "films": n_films, "networks": n_networks, "seconds": found}))
        return
    print_machine(machine)
    print(f"{n_films} films x {n_networks} networks: seconds, median of {repeats} (smallest to largest)")
    for name, seconds in found.items():
        print(f"{name:34}{middle_and_range(seconds)}")


if __name__ == "__main__":
    main()
