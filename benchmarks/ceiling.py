"""Ceilings: how long the extrapolation takes beside scipy's fits, and how far ceilings are from a known truth.

    python benchmarks/ceiling.py [--quick] [--json] [--bias] [--reduced] [--movie10] [--repeats N]

Extrapolation: scores of 81,924 targets from the 31 subsets of five other subjects, 100 bootstraps. scipy's `curve_fit`
does the same fits on a few targets, one by one, and its time is scaled to all of them; the point fits of both are
compared. Every trial is a process of its own that reports seconds, processor seconds and its largest resident memory.

Bias (`--bias`): subjects of 8 parcels of 16 targets, whose signal is 8 latent signals mixed at random, with noise of
the same variance; signal and noise drift (AR(1), 0.4). The true ceiling is then √½ of one showing, √⅔ of the mean over
two. Cross-subject ceilings come from so many training rows and 2,000 test rows, those from repeats from so many rows
shown twice. The table says by how much mean ceilings differ from the true one, and the farthest parcel's.

Reduced (`--reduced`): ceilings from components of each subject beside those from all targets. Subjects share 1,000
latent signals whose variance falls as 1 / i, have as many of their own, mixed into neighbouring targets alike, and
noise; signal is 0 to 50 % of a target. That is a long tail: 150 of 2,000 components hold 59 % of the variance.

Movie10 (`--movie10`): parts of the ceilings of six subjects with 11,013 training rows, 2,008 test rows and 81,924
targets by 1,000 components, each measured once, and what they come to on two cores; and r of some targets from one
subject and from five, by components and by the kernel of all rows, at the same penalties.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

import click
import numpy as np
from parts.machine import describe_machine, gib, middle_and_range, peak_bytes, print_machine

SOURCES, BOOTSTRAPS = 5, 100
TARGETS, FITTED = 81_924, 40
QUICK_TARGETS, QUICK_FITTED = 8_192, 6
ROWS, SUBJECTS = (500, 1000, 2000, 4000), (3, 4, 5, 6)
QUICK_ROWS, QUICK_SUBJECTS = (500, 1000), (3, 4)
TEST_ROWS, PARCELS, PER_PARCEL, LATENTS, FOLDS = 2000, 8, 16, 8, 5
DRIFT, BLOCK_ROWS = 0.4, 40
SHARES, TAILED_PARCEL, TAILED_TEST = (0.0, 0.05, 0.15, 0.3, 0.5), 20, 800
MOVIE10, QUICK_MOVIE10 = (11_013, 2_008, 81_924, 4_096, 1000), (1_200, 300, 81_924, 1_024, 100)
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


def draw_tailed(n_rows: int, n_targets: int, number: int, latents: int = 1000) -> np.ndarray:
    """Responses (row, target) of one subject, whose shared and own signals have a long tail of components."""
    from scipy.ndimage import gaussian_filter1d
    from scipy.signal import lfilter

    def drifting(rng: np.random.Generator) -> np.ndarray:
        falls = np.arange(1, latents + 1, dtype=np.float32) ** -0.5
        drift = rng.uniform(0.3, 0.95, latents)
        steps = rng.standard_normal((n_rows, latents), dtype=np.float32)
        for own, rho in enumerate(drift):
            steps[:, own] = lfilter([np.sqrt(1 - rho**2)], [1, -rho], steps[:, own])
        return steps * falls

    def mixed(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        mixing = gaussian_filter1d(rng.standard_normal((latents, n_targets), dtype=np.float32), 3, axis=1)
        made = values @ mixing
        return made / made.std(axis=0)

    own = np.random.default_rng(number + 1)
    share = np.resize(np.repeat(SHARES, TAILED_PARCEL), n_targets).astype(np.float32)
    signal = mixed(drifting(np.random.default_rng(0)), own)
    noise = mixed(drifting(own), own) + own.standard_normal(signal.shape, dtype=np.float32)
    return np.sqrt(share) * signal + np.sqrt((1 - share) / 2) * noise


def _folds(n_rows: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(np.setdiff1d(np.arange(n_rows), part), part) for part in np.array_split(np.arange(n_rows), FOLDS)]


def reduce_all(responses: dict[str, np.ndarray], train: np.ndarray, components: int) -> dict[str, np.ndarray]:
    """Scores (subset, target) of every subject from components of the others, in the order of the exact ones."""
    from cinecube.analysis.ceilings import reduced_subjects as reduced
    from cinecube.analysis.ceilings.cross_subject import standardised_targets, subsets_of
    from cinecube.analysis.ridge.factors import Backend

    folds, names = _folds(int(train.sum())), list(responses)
    found = {name: reduced.find_components(lambda v=v: [v], train, components) for name, v in responses.items()}  # type: ignore[misc]
    scores = {}
    for name in names:
        values = standardised_targets(responses[name], train)
        known, test = values[train], values[~train]
        everyone = reduced.choose_places(reduced.factor_few([found[n] for n in names if n != name], folds), known)
        sample = np.linspace(0, len(everyone) - 1, min(reduced.SAMPLED, len(everyone))).astype(int)
        rows = []
        for subset in (subset for subset in subsets_of(names) if name not in subset):
            parts = [found[source] for source in subset]
            own = reduced.choose_places(reduced.factor_few(parts, folds), known[:, sample])
            places = reduced.find_shift(everyone[sample], own)(everyone)
            products = np.concatenate([part.train.T @ known.astype(np.float32) for part in parts])
            smoothers = reduced.make_smoothers(parts, np.unique(places))
            rows.append(reduced.predicted_scores(smoothers, products, places, test, Backend()))
        scores[name] = np.stack(rows)
    return scores


def measure_reduced(n_rows: int, n_targets: int, n_subjects: int, shares: Sequence[float]) -> list[dict[str, Any]]:
    """Ceilings by components less those by all targets, for components that are a share of the rows."""
    from cinecube.analysis.ceilings.cross_subject import cross_subject_scores
    from cinecube.analysis.ceilings.saturation import extrapolate

    responses = {f"s{n}": draw_tailed(n_rows + TAILED_TEST, n_targets, n) for n in range(n_subjects)}
    train = np.arange(n_rows + TAILED_TEST) < n_rows
    began = time.perf_counter()
    exact = cross_subject_scores(responses, train, _folds(n_rows))
    exact_s, size = time.perf_counter() - began, next(iter(exact.values())).size
    ceilings = np.stack([extrapolate(own.score, size, 0).ceiling for own in exact.values()])
    rows = []
    for share in shares:
        began = time.perf_counter()
        found = reduce_all(responses, train, round(share * n_rows))
        seconds = time.perf_counter() - began
        difference = np.stack([extrapolate(found[name], size, 0).ceiling for name in exact]) - ceilings
        parcels = difference[:, : n_targets // TAILED_PARCEL * TAILED_PARCEL].reshape(n_subjects, -1, TAILED_PARCEL)
        rows.append(
            {
                "rows": n_rows,
                "subjects": n_subjects,
                "targets": n_targets,
                "components": round(share * n_rows),
                "exact": float(ceilings.mean()),
                "difference": float(difference.mean()),
                "target": float(np.abs(difference).mean()),
                "parcel": float(np.abs(parcels.mean(axis=2)).mean()),
                "exact_s": exact_s,
                "reduced_s": seconds,
            }
        )
    return rows


def measure_movie10(n_rows: int, n_test: int, n_targets: int, n_drawn: int, components: int) -> dict[str, Any]:
    """Processor seconds of each part, those of six subjects, and agreement with kernels of all rows.

    Components are those of `n_drawn` targets, and their time is scaled to all of them.
    """
    from cinecube.analysis.ceilings import reduced_subjects as reduced
    from cinecube.analysis.ceilings.cross_subject import standardised_targets
    from cinecube.analysis.ridge.factors import Backend
    from cinecube.analysis.ridge.scores import fittable, pearson
    from cinecube.store.jobs.tasks import pinned_blas

    train, block, cpu = np.arange(n_rows + n_test) < n_rows, min(4096, n_drawn), time.process_time
    found: dict[str, Any] = {"rows": n_rows, "test_rows": n_test, "targets": n_targets}
    with pinned_blas(1):
        drawn = [draw_tailed(n_rows + n_test, n_drawn, number) for number in range(SOURCES)]
        began = cpu()
        parts = []
        for values in drawn:

            def blocks(values: np.ndarray = values) -> Iterator[np.ndarray]:
                yield from (values[:, at : at + block] for at in range(0, n_drawn, block))

            parts.append(reduced.find_components(blocks, train, components))
        found["components_s"] = (cpu() - began) / SOURCES * n_targets / n_drawn
        predicted = draw_tailed(n_rows + n_test, block, SOURCES)
        began = cpu()
        own = standardised_targets(predicted, train)
        known, test = own[train], own[~train]
        fittable(known, test, _folds(n_rows))
        found["standardise_s"] = cpu() - began
        began = cpu()
        few = reduced.factor_few(parts, _folds(n_rows))
        found["factor_few_s"] = cpu() - began
        began = cpu()
        everyone = reduced.choose_places(few, known)
        found["places_s"] = cpu() - began
        began = cpu()
        products = [part.train.T @ known.astype(np.float32) for part in parts]
        found["products_s"] = cpu() - began
        middle = int(np.median(everyone))
        widths, smoothers = (1, SOURCES), {}
        for width in widths:
            began = cpu()
            smoothers[width] = reduced.make_smoothers(parts[:width], range(middle - 2, middle + 3))
            found[f"smoothers{width}_s"] = cpu() - began
        places = np.clip(everyone, middle - 2, middle + 2)
        scores = {}
        for width in widths:
            began = cpu()
            joined = np.concatenate(products[:width])
            scores[width] = reduced.predicted_scores(smoothers[width], joined, places, test, Backend())
            found[f"predict{width}_s"] = cpu() - began
        found["peak_gib"] = gib(peak_bytes())
        found |= _six_subjects(found, block)
        for width in widths:  # the same penalties, all rows: what components leave out is the difference
            some, at = np.flatnonzero(places == middle)[:512], reduced.penalty_grid(parts[:width])[middle]
            exact = _by_kernel(drawn[:width], train, known[:, some], at)
            found[f"exact{width}"] = float(pearson(exact, test[:, some]).mean())
            found[f"reduced{width}"] = float(scores[width][some].mean())
    return found


def _by_kernel(sources: Sequence[np.ndarray], train: np.ndarray, known: np.ndarray, alpha: float) -> np.ndarray:
    """Predictions (test row, target) from all targets of some subjects, by one factorisation of all rows."""
    from scipy import linalg

    from cinecube.analysis.ceilings.cross_subject import standardised_targets

    n_rows = int(train.sum())
    whole, test = np.zeros((n_rows, n_rows), np.float32), np.zeros((len(train) - n_rows, n_rows), np.float32)
    for values in sources:
        for at in range(0, values.shape[1], 4096):
            part = standardised_targets(values[:, at : at + 4096], train).astype(np.float32)
            whole += part[train] @ part[train].T
            test += part[~train] @ part[train].T
    whole[np.diag_indices_from(whole)] += np.float32(alpha)
    factor = linalg.cho_factor(whole, lower=True, overwrite_a=True, check_finite=False)
    weights = linalg.cho_solve(factor, known.astype(np.float32), check_finite=False)
    return np.asarray(test @ weights)


def _six_subjects(found: dict[str, Any], block: int) -> dict[str, Any]:
    """What parts come to: six subjects, 62 subsets, 186 of them with a subject outside; hours on two cores."""
    from cinecube.analysis.ceilings.reduced_subjects import SAMPLED

    subjects, sizes = SOURCES + 1, range(1, SOURCES + 1)
    subsets = {k: math.comb(subjects, k) for k in sizes}

    def grown(one: float, five: float, k: int, power: float) -> float:
        """Between the two that were measured, as a power of the number of sources."""
        return one + (five - one) * (k**power - 1) / (SOURCES**power - 1)

    blocks = -(-found["targets"] // block)
    total = {
        "components": subjects * found["components_s"],
        "penalties": subjects * blocks * found["places_s"]
        + sum(n * found["factor_few_s"] * (k / SOURCES) ** 2 for k, n in subsets.items())
        + sum(n * (subjects - k) * found["places_s"] * SAMPLED / block * k / SOURCES for k, n in subsets.items()),
        "factors": sum(n * grown(found["smoothers1_s"], found["smoothers5_s"], k, 2) for k, n in subsets.items()),
        "products": subjects * blocks * (found["standardise_s"] + found["products_s"]),
        "predictions": blocks
        * sum(n * (subjects - k) * grown(found["predict1_s"], found["predict5_s"], k, 1) for k, n in subsets.items()),
    }
    return {"cpu_s": total, "hours": sum(total.values()) / 2 / 3600}


def print_reduced(rows: Sequence[dict[str, Any]]) -> None:
    """One line per number of rows and components."""
    print("\nceilings by components less those by all targets: mean, and size of the difference of parcels and targets")
    print("rows  subjects  targets  components  exact   difference  parcels  targets  seconds (exact)")
    for row in rows:
        print(f"{row['rows']:<6}{row['subjects']:<10}{row['targets']:<9}{row['components']:<12}", end="")
        print(f"{row['exact']:<8.4f}{row['difference']:<+12.4f}{row['parcel']:<9.4f}{row['target']:<9.4f}", end="")
        print(f"{row['reduced_s']:.0f} ({row['exact_s']:.0f})")


def print_movie10(found: dict[str, Any]) -> None:
    """Parts, their sum, and agreement."""
    print(f"\nsix subjects, {found['rows']} + {found['test_rows']} rows, {found['targets']} targets, 186 fits")
    for name, seconds in found["cpu_s"].items():
        print(f"  {name:<12} {seconds / 3600:.2f} processor hours")
    print(f"  {found['hours']:.2f} h on two cores, {found['peak_gib']:.1f} GiB in one process")
    for width in (1, SOURCES):
        exact, reduced = found[f"exact{width}"], found[f"reduced{width}"]
        print(f"  from {width}: r {reduced:.4f} by components, {exact:.4f} by kernel, {reduced - exact:+.4f}")


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
@click.option("--reduced", is_flag=True, help="Compare ceilings by components with those by all targets too.")
@click.option("--movie10", is_flag=True, help="Measure parts of six subjects at Movie10's size too.")
@click.option("--repeats", default=0, help="Trials of each system, and seeds of the truth; 3 by default, 1 if quick.")
@click.option("--trial", "one", hidden=True)
def main(quick: bool, as_json: bool, bias: bool, reduced: bool, movie10: bool, repeats: int, one: str | None) -> None:
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
    if reduced:
        sizes_of = [(600, 1000, 3)] if quick else [(800, 1500, 4), (2000, 3000, 4)]
        found["reduced"] = [row for size in sizes_of for row in measure_reduced(*size, (0.1, 0.15, 0.25))]
    if movie10:
        found["movie10"] = measure_movie10(*(QUICK_MOVIE10 if quick else MOVIE10))
    if as_json:
        print(json.dumps({**found, "machine": machine}))
        return
    print_machine(machine)
    print_extrapolation(found)
    if bias:
        print_bias(found["bias"])
    if reduced:
        print_reduced(found["reduced"])
    if movie10:
        print_movie10(found["movie10"])


if __name__ == "__main__":
    main()
