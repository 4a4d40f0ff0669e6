"""Draws ceilings.png: two extrapolations from other subjects, and the shares that a perfect model gets."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np


def pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """r of each column, (column,)."""
    a, b = a - a.mean(0), b - b.mean(0)
    return (a * b).sum(0) / np.sqrt((a**2).sum(0) * (b**2).sum(0))


def draw_growth(axes: plt.Axes) -> None:
    """Scores by number of other subjects, with both curves up to 25."""
    rng, subjects = np.random.default_rng(0), 6
    brains = rng.standard_normal((1000, 50)) + rng.standard_normal((subjects, 1000, 50))
    sizes, places = np.arange(1, subjects), np.linspace(0.2, 25, 200)
    scores = np.zeros(len(sizes))
    for n, size in enumerate(sizes):
        rest = [(one, others) for one in range(subjects) for others in combinations({*range(subjects)} - {one}, size)]
        scores[n] = np.mean([pearson(brains[list(others)].mean(0), brains[one]).mean() for one, others in rest])
    axes.axhline(np.sqrt(0.5), color="#444444", linestyle=":", label="true ceiling, 0.71")
    for name, colour, curve in (
        ("reliability", "#0072b2", lambda k, tau: np.sqrt(k / (k + tau))),
        ("exponential", "#d55e00", lambda k, tau: 1 - np.exp(-k / tau)),
    ):
        fits = [(tau, curve(sizes, tau)) for tau in np.geomspace(0.05, 20, 2000)]
        tau, x = max(fits, key=lambda fit: (fit[1] @ scores) ** 2 / (fit[1] @ fit[1]))
        v0 = x @ scores / (x @ x)
        axes.plot(places, v0 * curve(places, tau), color=colour, label=f"{name}, ends at {v0:.2f}")
    axes.plot(sizes, scores, "o", color="black", label="measured", zorder=3)
    axes.set(xlabel="other subjects together", ylabel="mean r", ylim=(0, 0.8), title="from other subjects")
    axes.legend(frameon=False, loc="lower right")


def draw_shares(axes: plt.Axes) -> None:
    """Share that the signal itself gets in voxels of all ceilings, from 400 rows shown twice."""
    rng, rows, voxels = np.random.default_rng(0), 400, 1500
    true = rng.uniform(0.03, 0.95, voxels)
    signal = rng.standard_normal((rows, voxels))
    showings = signal + rng.standard_normal((2, rows, voxels)) * np.sqrt(2 * (1 / true**2 - 1))
    mean = showings.mean(0)
    found = np.sqrt(np.clip((2 * mean.var(0) - showings.var(1).mean(0)) / mean.var(0), 0, 1))
    kept = found >= 0.05
    share = pearson(signal, mean)[kept] / found[kept]
    axes.axhline(1, color="#444444", linestyle=":")
    axes.plot(true[kept], share, ".", color="#0072b2", alpha=0.4, markersize=4)
    axes.plot(true[~kept], np.full((~kept).sum(), -0.15), "|", color="#d55e00", alpha=0.6)
    axes.text(0.45, -0.19, "no share: ceiling found below 0.05", color="#d55e00", fontsize=8)
    axes.set(
        xlabel="true ceiling of the voxel", ylabel="share of a perfect model", ylim=(-0.3, 3), title="from repeats"
    )


def main() -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    draw_growth(left)
    draw_shares(right)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    main()
