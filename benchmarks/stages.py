"""What residual features, partitions and significance of the paper's study cost, from parts at its size.

    python benchmarks/stages.py [--quick] [--json]

11,013 training and 2,008 test rows, networks of 13 layers of 768 dims, six subjects of 81,924 targets, 5 folds, 20
penalties, 5,000 permutations. Processor seconds of one thread. Of the factors, one fold's and the whole's are made, of
six; of targets, a thousand; of layers and of fits, one; each is multiplied by how many there are. Data are ridge.py's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click
import numpy as np
from parts.machine import describe_machine, gib, peak_bytes, print_machine
from ridge import ALPHAS, N_FOLDS, N_TEST, Problem, draw
from threadpoolctl import threadpool_limits

from cinecube.analysis.partition.partition_fits import candidates
from cinecube.analysis.residuals.unexplained import make_remover, still_predicted
from cinecube.analysis.ridge.factors import Backend, factorise, plain_grams
from cinecube.analysis.ridge.shared_ridge import solve
from cinecube.analysis.statistics.nulls import choose_block_rows, make_plan, permute_blocks

_PACKAGES = ("numpy", "scipy")
# Of the default study, as analysis/residuals/residual_cubes.py has them.
_CHECK_DIMS, _CHECK_KERNEL_ROWS = 1000, 1000


@dataclass(frozen=True)
class Study:
    """Sizes: rows and dims of a layer, layers, subjects and their targets, permutations; and targets that are timed."""

    rows: int
    dims: int
    layers: int
    subjects: int
    targets: int
    permutations: int
    timed: int


PAPER = Study(11013, 768, 13, 6, 81924, 5000, 1024)
QUICK = Study(1200, 32, 3, 2, 500, 200, 100)


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    found = work()
    return time.process_time() - began, found


def residual_hours(study: Study) -> dict[str, float]:
    """Of a pair: all layers of one network removed from each layer of another, and the check of what is left."""
    n_dims = study.layers * study.dims
    data = draw(Problem(study.rows, n_dims, 1, 1, delays=(0,)), 0.0)
    removed, folds = data["features"], data["folds"]
    train = np.arange(len(removed)) < study.rows
    kept = removed[:, : study.dims] + np.random.default_rng(1).standard_normal((len(removed), study.dims), np.float32)
    factor_s, remover = _timed(lambda: make_remover(removed, train, folds[:1], ALPHAS))
    layer_s, found = _timed(lambda: remover.residual(kept))
    few = removed[:, :: max(1, n_dims // _CHECK_DIMS)]
    check_s, _ = _timed(
        lambda: still_predicted(found.residual, few, train, folds, ALPHAS, kernel_rows=_CHECK_KERNEL_ROWS)
    )
    share = (N_FOLDS + 1) / 2
    return {
        "factor_s": factor_s,
        "layer_s": layer_s,
        "check_s": check_s,
        "hours": (share * factor_s + study.layers * (share * layer_s + check_s)) / 3600,
    }


def partition_hours(study: Study) -> dict[str, float]:
    """Of a set of two streams: fits of each and of both by shares of a penalty, to all targets of all subjects."""
    seconds: dict[int, tuple[float, float]] = {}
    for n_streams in (1, 2):
        data = draw(Problem(study.rows, n_streams * study.dims, study.timed, study.timed), 0.7)
        train, test = data["design"][: study.rows], data["design"][study.rows :]
        # As analysis/partition has it: the test rows once for each stream, the others' features at zero.
        apart = np.concatenate([test] * n_streams)
        folds = data["folds"][:1]
        factor_s, factors = _timed(
            lambda train=train, folds=folds, apart=apart: factorise(  # type: ignore[misc]
                plain_grams(train, folds, apart), train, apart, folds, Backend()
            )
        )
        known = data["responses"][: study.rows]
        solve_s, _ = _timed(lambda factors=factors, known=known: solve(factors, known, ALPHAS))  # type: ignore[misc]
        seconds[n_streams] = factor_s, solve_s
    tried = candidates(("a", "b"), [("a", "b")])
    share, blocks = (N_FOLDS + 1) / 2, study.subjects * study.targets / study.timed
    total = sum(share * (seconds[len(fit.streams)][0] + blocks * seconds[len(fit.streams)][1]) for fit in tried)
    (one_s, one_solve_s), (both_s, both_solve_s) = seconds[1], seconds[2]
    return {
        "fits": len(tried),
        "factor_one_s": one_s,
        "solve_one_s": one_solve_s,
        "factor_both_s": both_s,
        "solve_both_s": both_solve_s,
        "hours": total / 3600,
    }


def significance_hours(study: Study) -> dict[str, float]:
    """Of a stream: permutations of all targets of all subjects."""
    rng = np.random.default_rng(0)
    prediction, truth = (rng.standard_normal((N_TEST, study.timed), np.float32) for _ in range(2))
    for row in range(1, N_TEST):
        for values in (prediction, truth):
            values[row] = np.float32(0.85) * values[row - 1] + np.float32(0.53) * values[row]
    plan = make_plan(N_TEST, choose_block_rows(prediction, truth), study.permutations)
    block_s, _ = _timed(lambda: permute_blocks(prediction, truth, plan))
    return {"block_s": block_s, "hours": block_s * study.subjects * study.targets / study.timed / 3600}


@click.command()
@click.option("--quick", is_flag=True, help="A small study, within a minute.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(quick: bool, as_json: bool) -> None:
    """Measure parts of the stages after encoding, and say what all of them take."""
    study = QUICK if quick else PAPER
    found: dict[str, Any] = {}
    with threadpool_limits(1):
        for name, measure in (
            ("significance", significance_hours),
            ("partition", partition_hours),
            ("residual_features", residual_hours),
        ):
            found[name] = measure(study) | {"peak_gib": gib(peak_bytes())}
    machine = describe_machine(1, _PACKAGES)
    if as_json:
        print(json.dumps({"stages": found, "study": vars(study), "machine": machine}))
        return
    print_machine(machine)
    for name, parts in found.items():
        hours = parts.pop("hours")
        print(f"{name}: {hours:.2f} hours of one core", ", ".join(f"{key} {part:.1f}" for key, part in parts.items()))


if __name__ == "__main__":
    main()
