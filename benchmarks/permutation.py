"""Block permutations of every target's score beside the naive loop: the same null, and how long each takes.

    python benchmarks/permutation.py [--quick] [--json] [--block-rows N] [--targets N] [--repeats N]

5,000 permutations of 81,924 targets at 2,008 rows, with blocks as long as the data ask for, or as `--block-rows 10`
has them, the paper's. Predictions and responses are autoregressive series of 0.85 and share a little. Blocks of targets
go to as many threads as there are cores, as an encoding's tasks do. The naive loop permutes and correlates some targets
some times, on the same threads, and is scaled to all of them.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median
from typing import Any

import click
import numpy as np
from parts.machine import describe_machine, gib, middle_and_range, peak_bytes, print_machine
from threadpoolctl import threadpool_limits

from cinecube.analysis.ridge.scores import pearson
from cinecube.analysis.statistics.nulls import BlockPlan, block_null, choose_block_rows, make_plan, permute_blocks

DRIFT, GAIN = 0.85, 0.05
TARGETS_PER_BLOCK = 4096
_PACKAGES = ("numpy", "scipy")


@dataclass(frozen=True)
class Problem:
    """Sizes: what is permuted, and the part of it that the naive loop is timed on."""

    rows: int
    targets: int
    permutations: int
    naive_targets: int
    naive_permutations: int


FULL = Problem(2008, 81924, 5000, 4096, 20)
QUICK = Problem(2008, 1024, 1000, 1024, 20)


def draw(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and responses (row, target) of float32, each row made in its place."""
    rng = np.random.default_rng(0)
    prediction, truth = (rng.standard_normal((problem.rows, problem.targets), np.float32) for _ in range(2))
    fresh = np.float32(np.sqrt(1 - DRIFT**2))
    for row in range(1, problem.rows):
        for values in (prediction, truth):
            values[row] = np.float32(DRIFT) * values[row - 1] + fresh * values[row]
    for row in range(problem.rows):
        truth[row] += np.float32(GAIN) * prediction[row]
    return prediction, truth


def by_threads(work: Callable[[slice], np.ndarray], n_targets: int, per_block: int, threads: int) -> np.ndarray:
    """Blocks of targets in turn, joined along the last axis."""
    blocks = [slice(at, min(at + per_block, n_targets)) for at in range(0, n_targets, per_block)]
    with threadpool_limits(1), ThreadPoolExecutor(threads) as pool:
        return np.concatenate(list(pool.map(work, blocks)), axis=-1)


def permute_all(prediction: np.ndarray, truth: np.ndarray, plan: BlockPlan, threads: int) -> np.ndarray:
    """p of all targets, in the blocks that an encoding has."""
    n_targets = truth.shape[1]
    per_block = min(TARGETS_PER_BLOCK, -(-n_targets // threads))
    return by_threads(
        lambda part: permute_blocks(prediction[:, part], truth[:, part], plan).p, n_targets, per_block, threads
    )


def permuted_rows(plan: BlockPlan) -> list[np.ndarray]:
    """Rows of the prediction in the order of each permutation."""
    rows = np.arange(plan.blocks.used_rows).reshape(plan.blocks.n_blocks, -1)
    return [rows[order].ravel() for order in plan.order]


def naive_null(prediction: np.ndarray, truth: np.ndarray, plan: BlockPlan) -> np.ndarray:
    """Permute and correlate standardised series again and again: r (permutation, target)."""
    return np.array([np.einsum("tv,tv->v", prediction[rows], truth) / len(truth) for rows in permuted_rows(plan)])


def measure(problem: Problem, block_rows: int, repeats: int, threads: int) -> dict[str, Any]:
    """Seconds, memory, and the naive loop's seconds and null."""
    prediction, truth = draw(problem)
    data_peak = peak_bytes()
    began = time.perf_counter()
    length = block_rows or choose_block_rows(prediction, truth)
    choose_s = time.perf_counter() - began
    plan = make_plan(problem.rows, length, problem.permutations)
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        p = permute_all(prediction, truth, plan, threads)
        seconds.append(time.perf_counter() - began)
    peak = peak_bytes()
    naive_s = naive_seconds(problem, prediction, truth, plan, threads)
    return {
        "ratio": naive_s / median(seconds),
        "max_difference": max_difference(prediction[:, :64], truth[:, :64], plan),
        "seconds": seconds,
        "choose_s": choose_s,
        "naive_seconds": naive_s,
        "peak_gib": gib(peak),
        "data_gib": gib(data_peak),
        "block_rows": plan.blocks.block_rows,
        "blocks": plan.blocks.n_blocks,
        "significant": float((p < 0.05).mean()),
        "problem": {"rows": problem.rows, "targets": problem.targets, "permutations": problem.permutations},
    }


def naive_seconds(problem: Problem, prediction: np.ndarray, truth: np.ndarray, plan: BlockPlan, threads: int) -> float:
    """Seconds of the naive loop on some targets and permutations, scaled to all: float32, standardised beforehand."""
    n_targets = min(problem.naive_targets, problem.targets)
    few = BlockPlan(plan.blocks, plan.order[: problem.naive_permutations])
    a, b = (values[: plan.blocks.used_rows, :n_targets] for values in (prediction, truth))
    a, b = ((values - values.mean(axis=0)) / values.std(axis=0) for values in (a, b))
    began = time.perf_counter()
    by_threads(lambda part: naive_null(a[:, part], b[:, part], few), n_targets, -(-n_targets // threads), threads)
    seconds = time.perf_counter() - began
    return seconds * problem.targets / n_targets * problem.permutations / len(few.order)


def max_difference(prediction: np.ndarray, truth: np.ndarray, plan: BlockPlan) -> float:
    """Largest difference of r from permuting and correlating in float64, over the first 20 permutations."""
    few = BlockPlan(plan.blocks, plan.order[:20])
    known = truth[: plan.blocks.used_rows]
    naive = np.array([pearson(prediction[rows], known) for rows in permuted_rows(few)])
    return float(np.abs(block_null(prediction, truth, few) - naive).max())


@click.command()
@click.option("--quick", is_flag=True, help="A small problem, within a minute.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--block-rows", default=0, help="Rows of a block; 0, the default, has them chosen from the data.")
@click.option("--targets", default=0, help="Fewer targets than a whole brain.")
@click.option("--repeats", default=3, help="How often all permutations are made.", show_default=True)
def main(quick: bool, as_json: bool, block_rows: int, targets: int, repeats: int) -> None:
    """Compare permutations by products of blocks with the naive loop."""
    whole = QUICK if quick else FULL
    problem = Problem(**{**vars(whole), "targets": targets or whole.targets})
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = measure(problem, block_rows, repeats, cores)
    machine = describe_machine(cores, _PACKAGES)
    if as_json:
        print(json.dumps({**found, "machine": machine}))
        return
    print_machine(machine)
    print(f"{problem.permutations} permutations of {problem.targets} targets at {problem.rows} rows")
    chosen = "as asked" if block_rows else f"chosen in {found['choose_s']:.2f} s"
    print(f"  {found['blocks']} blocks of {found['block_rows']} rows, {chosen}")
    print(f"  ours  {middle_and_range(found['seconds'])} s, {found['peak_gib']:.2f} GiB", end=" ")
    print(f"of which data and libraries {found['data_gib']:.2f}")
    print(f"  naive {found['naive_seconds']:.0f} s, scaled; ratio {found['ratio']:.0f}", end="; ")
    print(f"r differs by at most {found['max_difference']:.1e}")


if __name__ == "__main__":
    main()
