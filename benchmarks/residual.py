"""How far the drop after a removal lies from what endless films would show.

    python benchmarks/residual.py [--quick] [--json] [--seeds N]

Layer A follows features B in a planted share of its variance; of the responses' signal a planted share follows what A
has of B, the rest A's own part. Either half of A's directions are B's, half its own, and every dim is a mixture; or A
has both in every direction. With endless films the score after the removal of B is the full one times √(1 - share of
the signal). From a few thousand rows it is not: penalties shrink what is predicted, so a little of B stays in the
residual; encoding standardises it, and a correlation does not see its size. Printed per case and number of training
rows, means over seeds: scores before and after, their drop beside that of endless films, the variance left of A, and
how well B is still predicted from the residual (Pearson r on test rows, mean over dims) by ridge and by kernel ridge,
beside B in shuffled blocks. B is removed dim by dim, as the paper has it, and by direction; where A is nothing but B
also without the floor below which a dim counts as removed, and then with penalties from 1e-6, as the paper's code has;
once with 200 further dims in B that A has nothing of, as wide layers have. Features drift as a film's do; 48 dims, 5
delays, 2,000 test rows.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import click
import numpy as np
from parts.machine import describe_machine, print_machine
from scipy.signal import lfilter

from cinecube.analysis.residuals.drops import drop_percent
from cinecube.analysis.residuals.unexplained import By, make_remover, still_predicted
from cinecube.analysis.ridge.design import constants, delayed, standardise
from cinecube.analysis.ridge.folds import Fold
from cinecube.analysis.ridge.himalaya_ridge import fit_and_score

ALPHAS = np.geomspace(1, 1e8, 20)
DELAYS, RUN_ROWS, N_FOLDS, N_TEST, DIMS, TARGETS = (1, 2, 3, 4, 5), 100, 5, 2000, 48, 60
ROWS, NOISE = (500, 1000, 2000, 5000, 10000), 1.0


@dataclass(frozen=True)
class Case:
    """What is planted, and how it is removed.

    Attributes
    ----------
    in_a : float
        Share of A's variance that follows B.
    in_signal : float
        Share of the responses' signal that does.
    by : {"dim", "direction"}
    everywhere : bool
        Whether A has both parts in every direction; then responses must follow both as A does, or all of B's.
    further : int
        Dims of B that A has nothing of.
    alphas : array, shape (alpha,)
        Penalties to remove with; encoding keeps the study's.
    floor : float, optional
        See `make_remover`.
    """

    in_a: float
    in_signal: float
    by: By = "dim"
    everywhere: bool = False
    further: int = 0
    alphas: np.ndarray = field(default_factory=lambda: ALPHAS)
    floor: float | None = None

    @property
    def usual(self) -> bool:
        """Whether penalties and floor are what a study has by default."""
        return self.floor is None and bool(self.alphas[0] == ALPHAS[0])

    def __str__(self) -> str:
        extra = ", both in every direction" if self.everywhere else ""
        extra += f", {self.further} further dims in B" if self.further else ""
        extra += "" if self.floor is None else ", no floor"
        extra += "" if self.alphas[0] == ALPHAS[0] else f", penalties from {self.alphas[0]:.0e}"
        return f"B in A {self.in_a:.0%}, in signal {self.in_signal:.0%}, by {self.by}{extra}"


PLANTED: tuple[tuple[float, float], ...] = ((1, 1), (0.99, 1), (0.5, 1), (0.5, 0.5), (0.5, 0))
BOTH: tuple[By, ...] = ("dim", "direction")
CASES = (
    *(Case(*planted, by) for planted, by in itertools.product(PLANTED, BOTH)),
    *(Case(share, share, by, everywhere=True) for share, by in itertools.product((0.99, 0.5), BOTH)),
    *(Case(0.5, 0.5, by, further=200) for by in BOTH),
    Case(1, 1, floor=0),
    Case(1, 1, alphas=np.geomspace(1e-6, 1e9, 31), floor=0),
)
QUICK = tuple(case for case in CASES if case.usual and (case.in_a, case.in_signal) in ((1, 1), (0.5, 0.5)))
_PACKAGES = ("numpy", "scipy", "scikit-learn")


@dataclass(frozen=True)
class Problem:
    """Features, responses and rows of one draw.

    Attributes
    ----------
    a, b : arrays, shape (row, dim)
    responses : array, shape (row, target)
    train : array of bool, shape (row,)
    runs : list of (start, stop)
    folds : list of (train, validation)
    """

    a: np.ndarray
    b: np.ndarray
    responses: np.ndarray
    train: np.ndarray
    runs: list[tuple[int, int]]
    folds: list[Fold]


def draw(case: Case, n_train: int, seed: int) -> Problem:
    """A that follows B, and responses that follow A three rows later."""
    rng = np.random.default_rng(seed)
    n_rows, width = n_train + N_TEST, DIMS if case.everywhere else DIMS // 2
    spectrum = (1 + np.arange(DIMS)) ** -0.5
    b = _drifting(rng, n_rows, DIMS) * spectrum @ _rotation(rng)
    shared = _unit(b @ rng.standard_normal((DIMS, width)))
    own = _unit(_drifting(rng, n_rows, DIMS) * spectrum @ rng.standard_normal((DIMS, width)))
    parts = np.sqrt(case.in_a) * shared, np.sqrt(1 - case.in_a) * own
    a = parts[0] + parts[1] if case.everywhere else np.concatenate(parts, axis=1) @ _rotation(rng)
    runs = list(itertools.pairwise([*range(0, n_rows, RUN_ROWS), n_rows]))
    weights = rng.standard_normal((width, TARGETS))
    of_b, of_own = (_unit(part @ weights) for part in (shared, own))
    signal = np.sqrt(case.in_signal) * of_b + np.sqrt(1 - case.in_signal) * of_own
    responses = delayed(signal, (3,), runs) + np.sqrt(NOISE) * rng.standard_normal((n_rows, TARGETS))
    b = np.concatenate([b, _drifting(rng, n_rows, case.further)], axis=1)
    train = np.arange(n_rows) < n_train
    folds = [(np.setdiff1d(np.arange(n_train), part), part) for part in np.array_split(np.arange(n_train), N_FOLDS)]
    return Problem(a, b, responses - responses[train].mean(axis=0), train, runs, folds)


def _drifting(rng: np.random.Generator, n_rows: int, n_dims: int) -> np.ndarray:
    """Noise (row, dim) of which each row takes over 0.6 of the row before."""
    drifting: np.ndarray = lfilter([0.8], [1, -0.6], rng.standard_normal((n_rows, n_dims)), axis=0)
    return drifting


def _rotation(rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((DIMS, DIMS)))[0]


def _unit(values: np.ndarray) -> np.ndarray:
    return (values - values.mean(axis=0)) / values.std(axis=0)


def score(features: np.ndarray, problem: Problem) -> np.ndarray:
    """Encoding score (target,) of features (row, dim), as the pipeline has it: standardised, delayed, ridge."""
    design = delayed(standardise(features, *constants(features[problem.train])), DELAYS, problem.runs)
    parts = [(design[rows], problem.responses[rows]) for rows in (problem.train, ~problem.train)]
    return fit_and_score(parts[0], parts[1], problem.folds, ALPHAS).score


def measure(case: Case, n_train: int, seed: int) -> dict[str, float]:
    """One draw: scores before and after, their drop, and what is left of A and B."""
    problem = draw(case, n_train, seed)
    train, folds = problem.train, problem.folds
    remover = make_remover(problem.b, train, folds, case.alphas, by=case.by, floor=case.floor)
    left = remover.residual(problem.a).residual
    full, after = (float(np.nan_to_num(score(features, problem)).mean()) for features in (problem.a, left))
    return {
        "full": full,
        "residual": after,
        "drop": float(drop_percent(np.array(full), np.array(after))),
        "variance_left": float((left[~train].astype(float) ** 2).mean()),
        **still_predicted(left, problem.b, train, folds, ALPHAS, kernel_rows=500, seed=seed).means(),
    }


def average(case: Case, n_train: int, seeds: int) -> dict[str, Any]:
    """Means over draws, and the range of their drops."""
    found = [measure(case, n_train, seed) for seed in range(seeds)]
    drops = [one["drop"] for one in found]
    return {
        "case": str(case),
        "in_a": case.in_a,
        "in_signal": case.in_signal,
        "by": case.by,
        "usual": case.usual,
        "rows": n_train,
        "endless_drop": 100 * (1 - float(np.sqrt(1 - case.in_signal))),
        "drops": [min(drops), max(drops)],
        **{name: float(np.mean([one[name] for one in found])) for name in found[0]},
    }


def summed_up(table: Sequence[dict[str, Any]], machine: dict[str, Any]) -> dict[str, Any]:
    """What `--json` prints: the largest distances from 2,000 rows on with a study's defaults, and all rows."""
    found: dict[str, Any] = {}
    for by in BOTH:
        rows = [row for row in table if row["by"] == by and row["usual"] and row["rows"] >= 2000]
        found[f"largest_gap_by_{by}"] = max(abs(row["drop"] - row["endless_drop"]) for row in rows)
        found[f"largest_linear_excess_by_{by}"] = max(abs(row["linear"] - row["linear_shuffled"]) for row in rows)
    return {**found, "table": list(table), "machine": machine}


@click.command()
@click.option("--quick", is_flag=True, help="Four cases, two numbers of rows, one draw, within a minute.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--seeds", default=3, help="Draws of each row of the table.")
def main(quick: bool, as_json: bool, seeds: int) -> None:
    """Tabulate the drop after a removal against that of endless films."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    machine = describe_machine(cores, _PACKAGES)
    cases, counts, seeds = (QUICK, (500, 2000), 1) if quick else (CASES, ROWS, seeds)
    table = [average(case, n_train, seeds) for case, n_train in itertools.product(cases, counts)]
    if as_json:
        print(json.dumps(summed_up(table, machine)))
        return
    print_machine(machine)
    for name, rows in itertools.groupby(table, key=lambda row: str(row["case"])):
        shown = list(rows)
        print(f"{name}: endless films {shown[0]['endless_drop']:.1f} %")
        print(
            "    rows   full  after   drop (range)             left of A  B by ridge (shuffled)  by kernel (shuffled)"
        )
        for row in shown:
            low, high = row["drops"]
            print(
                f"  {row['rows']:6,}  {row['full']:.3f} {row['residual']:6.3f}"
                f"  {row['drop']:5.1f} % ({low:5.1f} to {high:5.1f})  {row['variance_left']:9.1e}"
                f"     {row['linear']:+.3f} ({row['linear_shuffled']:+.3f})"
                f"       {row['kernel']:+.3f} ({row['kernel_shuffled']:+.3f})"
            )
        print()


if __name__ == "__main__":
    main()
