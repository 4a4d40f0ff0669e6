"""Draws leakage.png: three ways to make folds, and the r that each gives to features that are noise."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

SEGMENTS, ROWS, DIMS, TARGETS, FOLDS = 10, 100, 100, 50, 5
COLOURS = {"random rows": "#d55e00", "random chunks of ten": "#cc79a7", "whole segments": "#0072b2"}


def slow_noise(rng: np.random.Generator, n_columns: int, keep: float) -> np.ndarray:
    """Noise (row, column) whose neighbouring rows correlate with `keep` inside a segment."""
    values = rng.standard_normal((SEGMENTS, ROWS, n_columns))
    for row in range(1, ROWS):
        values[:, row] = keep * values[:, row - 1] + np.sqrt(1 - keep**2) * values[:, row]
    return values.reshape(-1, n_columns)


def folds_of(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Fold of each row, by the way folds are made."""
    n_rows = SEGMENTS * ROWS
    return {
        "random rows": rng.permutation(n_rows) % FOLDS,
        "random chunks of ten": np.repeat(rng.permutation(n_rows // 10) % FOLDS, 10),
        "whole segments": np.repeat(np.arange(SEGMENTS) * FOLDS // SEGMENTS, ROWS),
    }


def cross_validated(features: np.ndarray, responses: np.ndarray, fold: np.ndarray) -> float:
    """Mean r over targets of ridge predictions of held-out rows."""
    predicted = np.empty_like(responses)
    for number in range(FOLDS):
        train = fold != number
        x = features[train]
        predicted[~train] = features[~train] @ np.linalg.solve(x.T @ x + 10 * np.eye(DIMS), x.T @ responses[train])
    pairs = zip(predicted.T, responses.T, strict=True)
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs]))


def draw_folds(axes: plt.Axes) -> None:
    """Five segments of forty rows as strips: which rows the second fold holds out."""
    rng, rows, segments = np.random.default_rng(3), 40, 5
    fold = {
        "random rows": rng.permutation(segments * rows) % FOLDS,
        "random chunks of ten": np.repeat(rng.permutation(segments * rows // 10) % FOLDS, 10),
        "whole segments": np.repeat(np.arange(segments), rows),
    }
    for place, (name, numbers) in enumerate(fold.items()):
        held_out = numbers == 1
        colours = np.where(held_out, "#e69f00", "#d7e3ec").astype(object)
        if name == "whole segments":
            first, stop = np.flatnonzero(held_out)[[0, -1]] + [0, 1]
            colours[first - 4 : first] = colours[stop : stop + 8] = "#888888"
        at = np.arange(segments * rows) + 3 * (np.arange(segments * rows) // rows)
        axes.bar(at, 0.55, 1, bottom=-place, color=list(colours))
        axes.text(0, -place + 0.62, name)
    axes.set(xlabel="rows of five neighbouring segments", xticks=[], yticks=[], ylim=(-2.1, 1))
    axes.spines[:].set_visible(False)


def main() -> None:
    figure, (strips, curves) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    draw_folds(strips)
    keeps = [0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9]
    found: dict[str, list[float]] = {name: [] for name in COLOURS}
    for keep in keeps:
        rng = np.random.default_rng(0)
        features, responses = slow_noise(rng, DIMS, keep), slow_noise(rng, TARGETS, keep)
        for name, fold in folds_of(rng).items():
            found[name].append(cross_validated(features, responses, fold))
    for name, values in found.items():
        curves.plot(keeps, values, "o-", color=COLOURS[name], label=name)
    curves.set(xlabel="correlation of neighbouring TRs", ylabel="cross-validated r of noise", ylim=(-0.1, 0.8))
    curves.axhline(0, color="#999999", linewidth=0.8)
    curves.legend(frameon=False)
    curves.spines[["top", "right"]].set_visible(False)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    main()
