"""The shared-factor ridge beside himalaya's: the same penalties and scores, and how long each takes.

    python benchmarks/ridge.py [--quick] [--json] [--problem NAME …] [--repeats N]

Every trial is a process of its own that draws the same data, fits, and reports seconds and its largest resident memory;
systems take turns. Each runs with every library, and its fastest counts. Data are as fMRI's: features of a power-law
spectrum that drift in time, five delays, autoregressive noise; once with signal in all targets, once with 70 % of them
near noise. `movie10` is n = 11,013, 768 dims at 5 delays, 8,192 targets, 5 folds, 20 penalties; `subject` the same with
81,924 targets and six subjects, of whom one is fitted, while himalaya is timed on a block and scaled; `wide` is
n = 2,000 with 3,840 features and 10,000 targets, of one subject and of six. `--quick` tries one library.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
from parts.machine import describe_machine, gib, middle_and_range, peak_bytes, print_machine

ALPHAS = np.geomspace(1, 1e8, 20)
DELAYS = (1, 2, 3, 4, 5)
RUN_ROWS, GAP_ROWS, N_FOLDS, N_TEST = 405, 8, 5, 2008
NOISY = (0.0, 0.7)
_PACKAGES = ("himalaya", "numpy", "scipy", "torch")


@dataclass(frozen=True)
class Problem:
    """Sizes of a problem.

    Attributes
    ----------
    rows, dims, targets : int
        Training rows, dims before delays, targets of one subject.
    delays : tuple of int
    subjects : int
        Subjects that share the rows.
    block : int
        Targets that are drawn at once. Ours fits block after block; himalaya is timed on one, and scaled to all.
    """

    rows: int
    dims: int
    targets: int
    block: int
    delays: tuple[int, ...] = DELAYS
    subjects: int = 1


PROBLEMS = {
    "quick": Problem(1620, 64, 1000, 1000),
    "movie10": Problem(11013, 768, 8192, 8192),
    "subject": Problem(11013, 768, 81924, 8192, subjects=6),
    "wide": Problem(2000, 768, 10000, 10000),
    "wide six": Problem(2000, 768, 10000, 10000, subjects=6),
}


def draw(problem: Problem, noisy: float) -> dict[str, Any]:
    """Features, responses of a block of targets, runs and folds of a problem; the same for every system."""
    rng = np.random.default_rng(0)
    n_rows, n_all = problem.rows, problem.rows + N_TEST
    spectrum = ((1 + np.arange(problem.dims)) ** -0.5).astype(np.float32)
    rotation = np.linalg.qr(rng.standard_normal((problem.dims, problem.dims), np.float32))[0]
    features = _drifting(rng.standard_normal((n_all, problem.dims), np.float32) * spectrum @ rotation, 0.6)
    features = (features - features[:n_rows].mean(axis=0)) / features[:n_rows].std(axis=0)
    edges = [*range(0, n_rows, RUN_ROWS), n_rows, *range(n_rows + RUN_ROWS, n_all, RUN_ROWS), n_all]
    runs = list(itertools.pairwise(edges))
    from cinecube.analysis.ridge.design import delayed

    design = delayed(features, problem.delays, runs)
    folds = []
    for part in np.array_split(np.arange(n_rows), N_FOLDS):
        gap = np.arange(part[-1] + 1, min(part[-1] + 1 + GAP_ROWS, n_rows))
        folds.append((np.setdiff1d(np.arange(n_rows), np.r_[part, gap]), part))
    responses = draw_responses(problem, design, noisy, 0)
    return {"features": features, "design": design, "responses": responses, "runs": runs, "folds": folds}


def draw_responses(problem: Problem, design: np.ndarray, noisy: float, number: int) -> np.ndarray:
    """Responses (row, target) of a block of targets, by the block's number."""
    rng = np.random.default_rng((1, number))
    n_rows, n_targets = problem.rows, problem.block
    signal = design @ rng.standard_normal((design.shape[1], 64), np.float32)
    signal /= signal[:n_rows].std(axis=0)
    responses = _drifting(rng.standard_normal((len(design), n_targets), np.float32), 0.4)
    gain = np.where(np.arange(n_targets) % 10 < 10 * noisy, 0.03, 0.5).astype(np.float32)
    responses += gain * signal[:, np.arange(n_targets) % 64]
    responses -= responses[:n_rows].mean(axis=0)
    return responses


def _drifting(values: np.ndarray, share: float) -> np.ndarray:
    """Each row takes over a share of the row before."""
    for row in range(1, len(values)):
        values[row] = share * values[row - 1] + np.float32(np.sqrt(1 - share**2)) * values[row]
    return values


def fit_shared(problem: Problem, data: dict[str, Any], library: str, noisy: float) -> dict[str, Any]:
    """Ours: Gram matrices of shifted blocks, factors, and one solve for each block of targets and each subject."""
    from cinecube.analysis.ridge.design import delayed_gram
    from cinecube.analysis.ridge.factors import Backend, Grams, choose_form, factorise, held_out, plain_grams
    from cinecube.analysis.ridge.shared_ridge import solve

    n_rows, backend = problem.rows, Backend("torch" if library == "torch" else "numpy")
    design, test = data["design"][:n_rows], data["design"][n_rows:]
    began = time.perf_counter()
    if choose_form(*design.shape) == "primal":
        known, runs = data["features"].astype(float), data["runs"]
        whole = delayed_gram(known, problem.delays, runs, np.arange(n_rows))
        held = [delayed_gram(known, problem.delays, runs, held_out(fold, n_rows)) for fold in data["folds"]]
        grams = Grams("primal", whole, held)
    else:
        grams = plain_grams(design, data["folds"], test)
    factors = factorise(grams, design, test, data["folds"], backend)
    factored = time.perf_counter()
    fits, solve_s = [], 0.0
    for number in range(-(-problem.targets // problem.block)):
        known = draw_responses(problem, data["design"], noisy, number) if number else data["responses"]
        known = known[:n_rows, : problem.targets - number * problem.block]
        began_block = time.perf_counter()
        fits.append(solve(factors, known, ALPHAS))
        solve_s += time.perf_counter() - began_block
    n_features, rank = design.shape[1], len(factors.whole.values)
    products = sum(fit.products * len(fit.best) for fit in fits) / problem.targets
    multiplications = problem.targets * (
        n_rows * n_features * (factors.form == "primal")  # XᵀY
        + rank * (n_features if factors.form == "primal" else n_rows) * (N_FOLDS + 1)  # Z of every fold and of all rows
        + n_rows * rank * products  # predictions of held-out rows
        + N_TEST * rank
    )
    return {
        "seconds": factored - began + problem.subjects * solve_s,
        "factor_s": factored - began,
        "solve_s": solve_s,
        "products": products,
        "rate": 2 * multiplications / solve_s,
        "alphas": ALPHAS[fits[0].best],
        "prediction": fits[0].prediction,
    }


def fit_himalaya(problem: Problem, data: dict[str, Any], library: str, noisy: float) -> dict[str, Any]:
    """himalaya's own estimator: `RidgeCV`, or `KernelRidgeCV` where features outnumber rows."""
    from himalaya.backend import set_backend
    from himalaya.kernel_ridge import KernelRidgeCV
    from himalaya.ridge import RidgeCV

    set_backend(library)
    n_rows = problem.rows
    design, test = data["design"][:n_rows], data["design"][n_rows:]
    batches = {"n_targets_batch": 1024, "n_alphas_batch": 5, "n_targets_batch_refit": 1024}
    wide = design.shape[1] > n_rows
    began = time.perf_counter()
    if wide:
        model = KernelRidgeCV(alphas=ALPHAS, cv=data["folds"], solver_params=batches)
    else:
        model = RidgeCV(alphas=ALPHAS, cv=data["folds"], fit_intercept=False, solver_params=batches)
    model.fit(design, data["responses"][:n_rows])
    prediction = np.asarray(model.predict(test))
    seconds = time.perf_counter() - began
    best = np.abs(np.log(np.asarray(model.best_alphas_)[:, None] / ALPHAS)).argmin(axis=1)
    scale = problem.subjects * problem.targets / data["responses"].shape[1]
    return {"seconds": seconds * scale, "alphas": ALPHAS[best], "prediction": prediction}


def product_rate(threads: int) -> float:
    """Float32 multiplications and additions per second of the machine's own matrix product, the better library's."""
    import torch

    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2200, 3840), np.float32), rng.standard_normal((3840, 1024), np.float32)
    rates = []
    for left, right in ((a, b), (torch.from_numpy(a), torch.from_numpy(b))):
        for _ in range(4):
            began = time.perf_counter()
            left @ right
            rates.append(2 * a.size * b.shape[1] / (time.perf_counter() - began))
    return max(rates)


def run_trial(system: str, library: str, threads: int, name: str, noisy: float, out: Path) -> None:
    """One process's work: draw, fit, write."""
    import torch
    from threadpoolctl import threadpool_limits

    problem = PROBLEMS[name]
    torch.set_num_threads(threads)
    with threadpool_limits(threads):
        data = draw(problem, noisy)
        began = peak_bytes()
        fit = {"shared": fit_shared, "himalaya": fit_himalaya}[system](problem, data, library, noisy)
        peak = peak_bytes()
        rate = product_rate(threads)
    truth, found = data["responses"][problem.rows :], fit.pop("prediction")
    np.savez(out, alphas=fit.pop("alphas"), scores=_correlations(found, truth))
    print(json.dumps({**fit, "peak": peak, "data_peak": began, "machine_rate": rate}))


def _correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (values - values.mean(axis=0) for values in (a.astype(float), b.astype(float)))
    scores: np.ndarray = (a * b).sum(axis=0) / np.sqrt((a * a).sum(axis=0) * (b * b).sum(axis=0))
    return scores


def trial(system: str, library: str, threads: int, name: str, noisy: float, folder: Path) -> dict[str, Any]:
    """Run one trial in a process of its own."""
    out = folder / f"{system}.npz"
    words = [sys.executable, __file__, "--trial", f"{system},{library},{threads},{name},{noisy},{out}"]
    # Libraries must not start with more threads than they will be given, or with fewer.
    environ = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    done = subprocess.run(words, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"{system} {library} {threads}: {done.stderr.strip().splitlines()[-1:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    with np.load(out) as arrays:
        return {**found, "alphas": arrays["alphas"], "scores": arrays["scores"]}


def compare(name: str, noisy: float, settings: Sequence[tuple[str, int]], repeats: int) -> dict[str, Any]:
    """Both systems on one problem, by turns; each counts with its fastest library and thread count."""
    found: dict[str, dict[tuple[str, int], list[dict[str, Any]]]] = {"shared": {}, "himalaya": {}}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(repeats):
            for library, threads in settings:
                for system in sorted(found, reverse=bool(repeat % 2)):
                    one = trial(system, library, threads, name, noisy, Path(folder))
                    found[system].setdefault((library, threads), []).append(one)
    best = {
        system: min(tried.items(), key=lambda item: median(run["seconds"] for run in item[1]))
        for system, tried in found.items()
    }
    (ours_at, ours), (theirs_at, theirs) = best["shared"], best["himalaya"]
    same = np.isclose(ours[0]["alphas"], theirs[0]["alphas"])
    differences = np.abs(ours[0]["scores"] - theirs[0]["scores"])
    return {
        "problem": name,
        "noisy": noisy,
        "ratio": median(run["seconds"] for run in theirs) / median(run["seconds"] for run in ours),
        "alpha_agreement": float(same.mean()),
        "max_score_difference": float(differences[same].max()),
        "max_score_difference_elsewhere": float(differences[~same].max(initial=0.0)),
        "peak_gib": max(gib(run["peak"]) for run in ours),
        "product_rate_share": median(run["rate"] / run["machine_rate"] for run in ours),
        "products": ours[0]["products"],
        "seconds": [run["seconds"] for run in ours],
        "factor_s": [run["factor_s"] for run in ours],
        "solve_s": [run["solve_s"] for run in ours],
        "himalaya_seconds": [run["seconds"] for run in theirs],
        "himalaya_peak_gib": max(gib(run["peak"]) for run in theirs),
        "settings": {"shared": list(ours_at), "himalaya": list(theirs_at)},
    }


def summed_up(rows: Sequence[dict[str, Any]], machine: dict[str, Any]) -> dict[str, Any]:
    """What `--json` prints: the worst of every problem, and all of them."""
    return {
        "ratio": min(row["ratio"] for row in rows),
        "alpha_agreement": min(row["alpha_agreement"] for row in rows),
        "max_score_difference": max(row["max_score_difference"] for row in rows),
        "peak_gib": max(row["peak_gib"] for row in rows),
        "product_rate_share": min(row["product_rate_share"] for row in rows),
        "problems": list(rows),
        "machine": machine,
    }


@click.command()
@click.option("--quick", is_flag=True, help="A small problem, within a minute.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--problem", "names", multiple=True, type=click.Choice(list(PROBLEMS)), help="Default: all but quick.")
@click.option("--repeats", default=0, help="Trials of each setting; 3 by default, 1 of those that take minutes.")
@click.option("--trial", "one", hidden=True)
def main(quick: bool, as_json: bool, names: tuple[str, ...], repeats: int, one: str | None) -> None:
    """Compare the shared-factor ridge with himalaya."""
    if one:
        system, library, threads, name, noisy, out = one.split(",")
        run_trial(system, library, int(threads), name, float(noisy), Path(out))
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    settings = [("numpy", cores), ("torch", cores)][: 1 if quick else 2]
    chosen = ["quick"] if quick else list(names) or [name for name in PROBLEMS if name != "quick"]
    machine = describe_machine(cores, _PACKAGES)
    rows = [
        compare(name, noisy, settings, repeats or (1 if PROBLEMS[name].rows > 5000 else 3 - 2 * quick))
        for name in chosen
        for noisy in NOISY
    ]
    if as_json:
        print(json.dumps(summed_up(rows, machine)))
        return
    print_machine(machine)
    for row in rows:
        print(f"{row['problem']}, {row['noisy']:.0%} of the targets near noise")
        print(
            f"  ours     {middle_and_range(row['seconds'])} s, {row['peak_gib']:.2f} GiB, {row['settings']['shared']}"
        )
        print(
            f"           factors {middle_and_range(row['factor_s'])} s, {row['products']:.1f} products a target,",
            end=" ",
        )
        print(f"{row['product_rate_share']:.0%} of the machine's product rate")
        print(f"  himalaya {middle_and_range(row['himalaya_seconds'])} s, {row['settings']['himalaya']}")
        print(f"  ratio {row['ratio']:.1f}; same penalty {row['alpha_agreement']:.2%}; scores differ by", end=" ")
        print(f"{row['max_score_difference']:.1e}, where penalties do by {row['max_score_difference_elsewhere']:.3f}")


if __name__ == "__main__":
    main()
