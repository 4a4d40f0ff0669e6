"""How close the whole extraction comes to a loop that does nothing but run the network.

    python benchmarks/extraction.py [--quick] [--json] [--network vit ...]

Three systems read the same windows on the same threads:

- *pipeline*: `extract_film` from a film file to a cube, with decoding, journal and all; from the first batch that
  reaches the network to the last one in the journal, and again as a whole, with its start (hashes, weights, the first
  batch's frames) and its end (the cube).
- *bare*: the model class of transformers over a batch that lies ready in memory as floats; no decoding, no pooling,
  nothing kept.
- *transformers*: the same with `output_hidden_states`.

They take turns batch by batch, so that whatever else the machine does meets all three: after each batch of the
pipeline its clock stops, its decoding waits, and the other two run a batch of that shape. A round is one film; its
ratio is the pipeline's rate over the bare loop's. Where there is a CUDA device, the same is done there in bfloat16.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import click
import numpy as np
import torch
from parts.extraction_cases import CASES, TR_S, Place, load_transformers, make_study, write_checkpoint, write_film
from parts.machine import describe_machine, middle_and_range, print_machine
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from cinecube.features.extraction import block_reading
from cinecube.features.extraction.checkpoint import record_checkpoint
from cinecube.features.extraction.stage import extract_film
from cinecube.features.extraction.windows import BlockBatch, batches
from cinecube.features.networks.network import Batch, Extractor, Features, Network, Reading
from cinecube.features.networks.registry import find_network
from cinecube.store.base.atomic import write_text
from cinecube.store.base.fingerprint import canonical
from cinecube.store.base.paths import StudyPaths

_PACKAGES = ("av", "numpy", "pillow", "torch", "transformers", "zarr")


@dataclass(frozen=True)
class Round:
    """Seconds of one extraction and of what ran beside it.

    Attributes
    ----------
    steady_s : float
        From the first batch that reaches the network to the last one in the journal.
    loaded_s : float
        From the network's weights in memory to the cube in its place.
    whole_s : float
        Of everything.
    bare_s, transformers_s : float
        Of the other two systems.
    """

    steady_s: float
    loaded_s: float
    whole_s: float
    bare_s: float
    transformers_s: float


@dataclass(frozen=True)
class Found:
    """What all rounds of a network found.

    Attributes
    ----------
    rows : int
        Windows of a round.
    rounds : list of Round
        In order.
    reading : float
        Windows per second of a pipeline whose network takes no time: decoding, journal and cube.
    share : float or None
        Of a GPU's matrix rate that the pipeline uses, by the median.
    """

    rows: int
    rounds: list[Round]
    reading: float
    share: float | None = None

    @property
    def ratios(self) -> list[float]:
        """Rate of the pipeline over that of the bare loop, round by round."""
        return [one.bare_s / one.steady_s for one in self.rounds]

    def rates(self, seconds: str) -> list[float]:
        """Windows per second by one of the clocks, round by round."""
        return [self.rows / getattr(one, seconds) for one in self.rounds]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "ratio": median(self.ratios),
            "range": [min(self.ratios), max(self.ratios)],
            "windows_per_s": median(self.rates("steady_s")),
            "whole_windows_per_s": median(self.rates("whole_s")),
            "bare_windows_per_s": median(self.rates("bare_s")),
            "transformers_windows_per_s": median(self.rates("transformers_s")),
            "reading_windows_per_s": self.reading,
            **({} if self.share is None else {"matrix_share": self.share}),
        }


class Watch:
    """Clocks of one extraction, and the gate at which its decoding waits while other systems run."""

    def __init__(self) -> None:
        self.gate = threading.Lock()
        self.started_s = self.loaded_s = self.first_s = self.last_s = time.perf_counter()
        self.bare_s = self.transformers_s = self._stopped_s = 0.0

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the clock; waiting for the frames that are being decoded still counts."""
        with self.gate:
            began_s = time.perf_counter()
            yield
            self._stopped_s += time.perf_counter() - began_s

    def now(self) -> float:
        """Seconds of the pipeline alone."""
        return time.perf_counter() - self._stopped_s

    def gated(self, make: Callable[..., Iterator[BlockBatch]]) -> Callable[..., Iterator[BlockBatch]]:
        """`batches` that are only made while the gate is open."""

        def waiting(*args: Any) -> Iterator[BlockBatch]:
            items = make(*args)
            while True:
                with self.gate:
                    item = next(items, None)
                if item is None:
                    return
                yield item

        return waiting

    def read(self) -> Round:
        """What the clocks say when all is done."""
        done_s = self.now()
        return Round(
            self.last_s - self.first_s,
            done_s - self.loaded_s,
            done_s - self.started_s,
            self.bare_s,
            self.transformers_s,
        )


class Beside:
    """An extractor with the two other systems beside it."""

    def __init__(self, extractor: Extractor, bench: Bench, watch: Watch) -> None:
        self._extractor, self._bench, self._watch = extractor, bench, watch
        self._fresh = True
        self.prepare_frame = extractor.prepare_frame
        watch.loaded_s = watch.now()

    def __call__(self, batch: Batch) -> Features:
        """The extractor's features."""
        watch = self._watch
        if self._fresh:
            watch.first_s, self._fresh = watch.now(), False
            with watch.stopped():
                # The first pass pays for libraries that set themselves up.
                self._bench.timed(self._bench.run_bare, batch)
        features = self._extractor(batch)
        with watch.stopped():
            watch.bare_s += self._bench.timed(self._bench.run_bare, batch)
            watch.transformers_s += self._bench.timed(self._bench.run_transformers, batch)
            if self._bench.place.device != "cpu":
                self._bench.count_operations(batch)
        return features


class Idle:
    """An extractor that computes nothing: what remains is reading."""

    def __init__(self, extractor: Extractor, reading: Reading, watch: Watch) -> None:
        self._streams = reading.streams
        self.prepare_frame = extractor.prepare_frame
        watch.loaded_s = watch.now()

    def __call__(self, batch: Batch) -> Features:
        """Zeros."""
        return {
            (stream.name, layer): np.zeros((rows_of(batch), width), np.float32)
            for stream in self._streams
            for layer, width in zip(stream.layers, stream.widths, strict=True)
        }


class Bench:
    """One network in one place: a study of one film, and the systems that read it."""

    def __init__(self, name: str, root: Path, place: Place, batch: int, rows: int, threads: int, tiny: bool) -> None:
        case = CASES[name]
        self.name, self.root, self.place, self.rows, self.operations = name, root, place, rows, 0.0
        write_checkpoint(case, root / "weights", tiny)
        (root / "stimuli" / "film").mkdir(parents=True)
        write_film(root / "stimuli" / "film" / "film01.mp4", rows * TR_S)
        run = {"device": place.device, "batch": batch, "threads": threads}
        self._study = make_study(name, {**case.params, "precision": place.precision}, run)
        record = record_checkpoint(name, self._study.model(name), root)
        write_text(StudyPaths(root).checkpoint(name), canonical(record))
        self._stills = record["facts"]["stills"]
        self._dtype = getattr(torch, place.precision)
        self._rival = load_transformers(case, root / "weights", self._dtype).to(place.device)

    def extract(self, idle: bool = False) -> Round:
        """The film into a new cube, with the other systems beside it, or idle."""
        shutil.rmtree(StudyPaths(self.root).features(self.name, "film"), ignore_errors=True)
        watch = Watch()

        def find(extractor: str, where: str) -> Network:
            network = find_network(extractor, where)

            def load(path: Path, reading: Reading) -> Extractor:
                loaded = network.load(path, reading)
                return Idle(loaded, reading, watch) if idle else Beside(loaded, self, watch)

            return replace(network, load=load)

        def tick(done: int, total: int) -> None:
            watch.last_s = watch.now()

        with (
            mock.patch.object(block_reading, "find_network", find),
            mock.patch.object(block_reading, "batches", watch.gated(batches)),
            mock.patch.dict(block_reading._loaded, clear=True),
        ):
            summary = extract_film(self._study, self.name, "film", self.root, tick)
        assert summary.windows_computed == self.rows
        return watch.read()

    def timed(self, forward: Callable[[Tensor], object], batch: Batch) -> float:
        """Seconds of a forward pass over a batch that lies ready on the device."""
        values = self._ready(batch)
        with torch.inference_mode():
            self.place.wait()
            began_s = time.perf_counter()
            forward(values)
            self.place.wait()
        return time.perf_counter() - began_s

    def run_bare(self, values: Tensor) -> None:
        """The model of transformers."""
        self._rival(values)

    def run_transformers(self, values: Tensor) -> None:
        """The same, as it returns its hidden states."""
        self._rival(values, output_hidden_states=True)

    def count_operations(self, batch: Batch) -> None:
        """Note the floating-point operations of one window: those of matrix products and convolutions."""
        if self.operations == 0:
            values = self._ready(batch)
            with FlopCounterMode(display=False) as counter, torch.inference_mode():
                self._rival(values)
            self.operations = counter.get_total_flops() / rows_of(batch)

    def _ready(self, batch: Batch) -> Tensor:
        """What a network takes: (item, sample), (item, 3, y, x) or (item, frame, 3, y, x)."""
        if batch.frames is None:
            assert batch.sound is not None
            values = torch.from_numpy(batch.sound)
        else:
            values = torch.from_numpy(batch.frames).movedim(-1, -3).float() / 128 - 1
            values = values.flatten(0, 1) if self._stills else values
        return values.contiguous().to(self.place.device, self._dtype)


def rows_of(batch: Batch) -> int:
    """Windows of a batch."""
    inputs = batch.frames if batch.frames is not None else batch.sound
    assert inputs is not None
    return len(inputs)


def measure(bench: Bench, rounds: int) -> Found:
    """One extraction that computes nothing, which also fills the file system's cache, then rounds of all systems."""
    reading = bench.rows / bench.extract(idle=True).loaded_s
    found = [bench.extract() for _ in range(rounds)]
    if bench.place.device == "cpu":
        return Found(bench.rows, found, reading)
    rate = bench.rows / median(one.steady_s for one in found)
    return Found(bench.rows, found, reading, rate * bench.operations / matrix_rate(bench.place))


def matrix_rate(place: Place) -> float:
    """Operations per second of the best of several products of large matrices."""
    size = 8192
    a = torch.randn(size, size, device=place.device, dtype=getattr(torch, place.precision))
    best_s = float("inf")
    for _ in range(6):
        place.wait()
        began_s = time.perf_counter()
        a @ a
        place.wait()
        best_s = min(best_s, time.perf_counter() - began_s)
    return 2 * size**3 / best_s


def run_case(name: str, place: Place, threads: int, rounds: int, quick: bool, tiny: bool) -> Found:
    """Measure one network in a folder of its own."""
    case = CASES[name]
    batch, rows = case.batch, case.quick_windows if quick else case.windows
    if place.device == "cuda":
        batch, rows = 16, 48 if quick else 128
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(name, Path(folder), place, batch, rows, threads, tiny)
        return measure(bench, 1 if quick else rounds)


def print_table(results: dict[tuple[str, str], Found]) -> None:
    """One line per network and place."""
    head = ("network", "device", "ratio", "pipeline", "with start", "bare", "transformers", "reading", "")
    lines = [head]
    for (name, device), found in results.items():
        clocks = ("steady_s", "whole_s", "bare_s", "transformers_s")
        cells = [middle_and_range(values) for values in (found.ratios, *(found.rates(clock) for clock in clocks))]
        share = "" if found.share is None else f"{found.share:.0%} of the matrix rate"
        lines.append((name, device, *cells, f"{found.reading:.1f}", share))
    widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
    print("Windows per second, and the ratio of pipeline to bare loop: median (smallest to largest)\n")
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def as_json(results: dict[tuple[str, str], Found], machine: dict[str, Any]) -> dict[str, Any]:
    """What `--json` prints; the ratio is the smallest one on the CPU."""
    networks: dict[str, dict[str, Any]] = {}
    for (name, device), found in results.items():
        if device == "cpu":
            networks[name] = found.as_dict()
        else:
            networks[name][device] = found.as_dict()
    ratio = min(network["ratio"] for network in networks.values())
    return {"ratio": ratio, "networks": networks, "machine": machine}


@click.command()
@click.option("--quick", is_flag=True, help="One round of a few windows, within a minute.")
@click.option("--json", "print_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option("--network", "names", multiple=True, type=click.Choice(list(CASES)), help="All by default.")
@click.option("--threads", type=click.IntRange(min=1), default=os.cpu_count(), help="Of both systems; all cores.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Films of each network.")
@click.option("--tiny", is_flag=True, hidden=True, help="Networks of no use, to test this file.")
def main(quick: bool, print_json: bool, names: Sequence[str], threads: int, rounds: int, tiny: bool) -> None:
    """Compare the whole extraction with a bare loop over the network."""
    torch.set_num_threads(threads)
    places = [Place("cpu", "float32")] + [Place("cuda", "bfloat16")] * torch.cuda.is_available()
    results = {
        (name, place.device): run_case(name, place, threads, rounds, quick, tiny)
        for name in names or CASES
        for place in places
    }
    machine = describe_machine(threads, _PACKAGES)
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    if print_json:
        print(json.dumps(as_json(results, machine)))
        return
    print_machine(machine)
    print_table(results)


if __name__ == "__main__":
    main()
