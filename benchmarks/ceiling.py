"""Ceilings: how long the extrapolation takes beside scipy's fits, and how far ceilings are from a known truth.

    python benchmarks/ceiling.py [--quick] [--json] [--bias] [--repeats N]

Extrapolation: scores of 81,924 targets from the 31 subsets of five other subjects, 100 bootstraps. scipy's `curve_fit`
does the same fits on a few targets, one by one, and its time is scaled to all of them; the point fits of both are
compared. Every trial is a process of its own that reports seconds, processor seconds and its largest resident memory.

Bias (`--bias`): subjects of 8 parcels of 16 targets, whose signal is 8 latent signals mixed at random, with noise of
the same variance; signal and noise drift (AR(1), 0.4). The true ceiling is then √½ of one showing, √⅔ of the mean over
two. Cross-subject ceilings come from so many training rows and 2,000 test rows, those from repeats from so many rows
shown twice. The table says by how much mean ceilings differ from the true one, and the farthest parcel's.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from statistics import median
from typing import Any

import click
import numpy as np
from machine import describe_machine, gib, middle_and_range, peak_bytes, print_machine

SOURCES, BOOTSTRAPS = 5, 100
TARGETS, FITTED = 81_924, 40
QUICK_TARGETS, QUICK_FITTED = 8_192, 6
ROWS, SUBJECTS = (500, 1000, 2000, 4000), (3, 4, 5, 6)
QUICK_ROWS, QUICK_SUBJECTS = (500, 1000), (3, 4)
TEST_ROWS, PARCELS, PER_PARCEL, LATENTS, FOLDS = 2000, 8, 16, 8, 5
DRIFT, BLOCK_ROWS = 0.4, 40
CURVES = ("exponential", "reliability")
_PACKAGES = ("numpy", "scipy", "zarr")


def draw_scores(n_targets: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores (subset, target) that saturate, with noise, and the size of each subset; the same for every system."""
    rng = np.random.default_rng(0)
    size = np.array([k for k in range(1, SOURCES + 1) for _ in itertools.combinations(range(SOURCES), k)])
    v0, tau = rng.uniform(0.05, 0.6, n_targets), rng.uniform(0.5, 3.0, n_targets)
    clean = v0 * (1 - np.exp(-size[:, None] / tau))
    return clean + 0.01 * rng.standard_normal(clean.shape), size


def fit_scipy(scores: np.ndarray, size: np.ndarray, n_bootstraps: int) -> np.ndarray:
    """v₀ by `curve_fit`, of all subsets first and then of each resampling, (1 + bootstrap, target)."""
    from scipy.optimize import curve_fit

    def curve(x: np.ndarray, v0: float, tau: float) -> np.ndarray:
        return v0 * (1 - np.exp(-x / tau))

    rng = np.random.default_rng(0)
    found = np.full((1 + n_bootstraps, scores.shape[1]), np.nan)
    members = [np.flatnonzero(size == k) for k in np.unique(size)]
    for place, target in np.ndindex(found.shape):
        rows = np.concatenate([rng.choice(those, len(those)) for those in members]) if place else np.arange(len(size))
        try:
            found[place, target] = curve_fit(curve, size[rows], scores[rows, target], maxfev=6000)[0][0]
        except RuntimeError:  # no optimum found
            continue
    return found


def run_trial(system: str, n_targets: int, n_fitted: int) -> None:
    """One process's work: draw, fit, report; `system` is `scipy` or one of our curves."""
    from cinecube.analysis.ceilings.saturation import extrapolate

    scores, size = draw_scores(n_targets)
    data_peak = peak_bytes()
    began, cpu = time.perf_counter(), time.process_time()
    if system == "scipy":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ceilings, scale = fit_scipy(scores[:, :n_fitted], size, BOOTSTRAPS)[0], n_targets / n_fitted
        converged = np.isfinite(ceilings)
    else:
        fit, scale = extrapolate(scores, size, BOOTSTRAPS, curve=system), 1.0  # type: ignore[arg-type]
        ceilings, converged = fit.ceiling[:n_fitted], fit.converged[:n_fitted]
    report = {
        "seconds": (time.perf_counter() - began) * scale,
        "cpu_s": (time.process_time() - cpu) * scale,
        "peak": peak_bytes(),
        "data_peak": data_peak,
        "ceilings": ceilings.tolist(),
        "converged": converged.tolist(),
    }
    print(json.dumps(report))


def trial(system: str, n_targets: int, n_fitted: int) -> dict[str, Any]:
    """Run one trial in a process of its own."""
    words = [sys.executable, __file__, "--trial", f"{system},{n_targets},{n_fitted}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"{system}: {done.stderr.strip().splitlines()[-1:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure_extrapolation(n_targets: int, n_fitted: int, repeats: int) -> dict[str, Any]:
    """Our curves and scipy's fits, by turns."""
    runs: dict[str, list[dict[str, Any]]] = {system: [] for system in (*CURVES, "scipy")}
    for _ in range(repeats):
        for system, done in runs.items():
            done.append(trial(system, n_targets, n_fitted))
    ours, theirs = runs["exponential"][0], runs["scipy"][0]
    both = np.array(ours["converged"]) & np.array(theirs["converged"])
    mine, other = np.array(ours["ceilings"])[both], np.array(theirs["ceilings"])[both]
    return {
        "targets": n_targets,
        "fitted": n_fitted,
        "ratio": median(run["seconds"] for run in runs["scipy"])
        / median(run["seconds"] for run in runs["exponential"]),
        "cpu_ratio": median(run["cpu_s"] for run in runs["scipy"])
        / median(run["cpu_s"] for run in runs["exponential"]),
        "max_difference": float(np.abs(mine / other - 1).max()),
        "peak_gib": max(gib(run["peak"]) for curve in CURVES for run in runs[curve]),
        **{f"{system}_s": [run["seconds"] for run in done] for system, done in runs.items()},
        **{f"{system}_cpu_s": [run["cpu_s"] for run in done] for system, done in runs.items()},
    }


def _drifting(values: np.ndarray) -> np.ndarray:
    """Each row takes over a share of the row before; the variance stays."""
    for row in range(1, len(values)):
        values[row] = DRIFT * values[row - 1] + np.sqrt(1 - DRIFT**2) * values[row]
    return values


def draw_subjects(n_rows: int, n_subjects: int, n_repeats: int, seed: int) -> dict[str, np.ndarray]:
    """Responses (repeat, row, target) by subject, with as much noise as signal."""
    rng = np.random.default_rng(seed)
    shared, n_targets = _drifting(rng.standard_normal((n_rows, LATENTS))), PARCELS * PER_PARCEL
    responses = {}
    for number in range(n_subjects):
        mixing = rng.standard_normal((LATENTS, n_targets))
        signal = shared @ (mixing / np.sqrt((mixing**2).sum(axis=0)))
        noise = [_drifting(rng.standard_normal(signal.shape)) for _ in range(n_repeats)]
        responses[f"s{number}"] = signal + np.stack(noise)
    return responses


def measure_bias(n_rows: int, n_subjects: int, seed: int) -> dict[str, Any]:
    """By how much ceilings differ from the true one: mean over subjects and targets, and the farthest parcel's."""
    from cinecube.analysis.ceilings.cross_subject import cross_subject_scores
    from cinecube.analysis.ceilings.repeats import repeat_ceilings
    from cinecube.analysis.ceilings.saturation import extrapolate

    responses = {name: v[0] for name, v in draw_subjects(n_rows + TEST_ROWS, n_subjects, 1, seed).items()}
    folds = [(np.setdiff1d(np.arange(n_rows), part), part) for part in np.array_split(np.arange(n_rows), FOLDS)]
    scores = cross_subject_scores(responses, np.arange(n_rows + TEST_ROWS) < n_rows, folds)
    fits = {
        curve: np.stack([extrapolate(one.score, one.size, 0, curve=curve).ceiling for one in scores.values()])  # type: ignore[arg-type]
        for curve in CURVES
    }
    fits["largest"] = np.stack([one.score[-1] for one in scores.values()])
    shown = draw_subjects(n_rows, n_subjects, 2, seed)
    fits["repeats"] = np.stack([repeat_ceilings(values, BLOCK_ROWS, 0).averaged for values in shown.values()])
    found: dict[str, Any] = {"rows": n_rows, "subjects": n_subjects, "seed": seed}
    for name, ceilings in fits.items():
        difference = ceilings - (np.sqrt(2 / 3) if name == "repeats" else np.sqrt(1 / 2))
        parcels = difference.reshape(n_subjects, PARCELS, PER_PARCEL).mean(axis=2)
        found |= {name: float(difference.mean()), f"{name}_farthest": float(parcels.flat[np.abs(parcels).argmax()])}
    return found


def print_extrapolation(found: dict[str, Any]) -> None:
    """Times and agreement."""
    print(f"{found['targets']} targets, {2**SOURCES - 1} subsets, {BOOTSTRAPS} bootstraps")
    for system in (*CURVES, "scipy"):
        scaled = f", scaled from {found['fitted']} targets" if system == "scipy" else ""
        print(f"  {system:<12} {middle_and_range(found[f'{system}_s'])} s", end="")
        print(f" (processor {middle_and_range(found[f'{system}_cpu_s'])} s){scaled}")
    print(f"  ratio {found['ratio']:.0f} (processor {found['cpu_ratio']:.0f}), {found['peak_gib']:.2f} GiB;", end=" ")
    print(f"ceilings of the exponential differ from scipy's by a factor of 1 ± {found['max_difference']:.0e} at most")


def print_bias(rows: Sequence[dict[str, Any]]) -> None:
    """One line per number of rows and subjects: mean over seeds, and the farthest parcel of all."""
    names = ("largest", *CURVES, "repeats")
    print("\nceiling less the true one: mean (farthest parcel)")
    print("rows  subjects  " + "".join(f"{name:<18}" for name in ("largest subset", *CURVES, "two showings")))
    for key, group in itertools.groupby(rows, lambda row: (row["rows"], row["subjects"])):
        some = list(group)
        cells = []
        for name in names:
            farthest = max((row[f"{name}_farthest"] for row in some), key=abs)
            cells.append(f"{np.mean([row[name] for row in some]):+.3f} ({farthest:+.3f})")
        print(f"{key[0]:<6}{key[1]:<10}" + "".join(f"{cell:<18}" for cell in cells))


@click.command()
@click.option("--quick", is_flag=True, help="Fewer targets, rows and subjects, within a minute.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--bias", is_flag=True, help="Measure ceilings beside a known truth too.")
@click.option("--repeats", default=0, help="Trials of each system, and seeds of the truth; 3 by default, 1 if quick.")
@click.option("--trial", "one", hidden=True)
def main(quick: bool, as_json: bool, bias: bool, repeats: int, one: str | None) -> None:
    """Time the extrapolation of ceilings, and compare ceilings with a known truth."""
    if one:
        system, n_targets, n_fitted = one.split(",")
        run_trial(system, int(n_targets), int(n_fitted))
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    repeats = repeats or (1 if quick else 3)
    sizes = (QUICK_TARGETS, QUICK_FITTED) if quick else (TARGETS, FITTED)
    rows, subjects = (QUICK_ROWS, QUICK_SUBJECTS) if quick else (ROWS, SUBJECTS)
    machine = describe_machine(cores, _PACKAGES)
    found = measure_extrapolation(*sizes, repeats)
    if bias:
        found["bias"] = [measure_bias(*key) for key in itertools.product(rows, subjects, range(repeats))]
    if as_json:
        print(json.dumps({**found, "machine": machine}))
        return
    print_machine(machine)
    print_extrapolation(found)
    if bias:
        print_bias(found["bias"])


if __name__ == "__main__":
    main()
