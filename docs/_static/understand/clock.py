"""Draws clock.png: r over the minutes of a run, and r by single delay."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

TR_S, ROWS, RUNS = 1.49, 403, 60
FILM_S, LAG_S = np.arange(-10, 640, 0.05), np.arange(0, 30, 0.05)
CASES = {
    "features every 1.49 s, as the scan": (1.49, 0.0, "#0072b2"),
    "one row early": (1.49, TR_S, "#009e73"),
    "features every 1.50 s": (1.50, 0.0, "#d55e00"),
}


def one_run(rng: np.random.Generator, feature_tr_s: float, early_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Features and the response of one run, (row,) each."""
    film = np.convolve(rng.standard_normal(len(FILM_S)), np.exp(-LAG_S / 2))[: len(FILM_S)]
    bold = np.convolve(film, LAG_S**5 * np.exp(-LAG_S))[: len(FILM_S)]
    row = np.arange(ROWS)
    feature = np.interp(row * feature_tr_s + early_s, FILM_S, film / film.std())
    return feature, np.interp(row * TR_S, FILM_S, bold / bold.std()) + rng.standard_normal(ROWS)


def predicted(runs: list[tuple[np.ndarray, np.ndarray]], delays: range) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and responses (run, row) of the second half of the runs, fitted on the first."""
    designs = np.stack([np.stack([np.r_[np.zeros(d), x[: ROWS - d]] for d in delays], 1) for x, _ in runs])
    responses, half = np.stack([y for _, y in runs]), len(runs) // 2
    x, y = designs[:half].reshape(-1, len(delays)), responses[:half].ravel()
    weights = np.linalg.solve(x.T @ x + np.eye(len(delays)), x.T @ y)
    return designs[half:] @ weights, responses[half:]


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def main() -> None:
    figure, (over_time, by_delay) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained", sharey=True)
    parts = np.array_split(np.arange(ROWS), 10)
    for label, (tr_s, early_s, colour) in CASES.items():
        rng = np.random.default_rng(0)
        runs = [one_run(rng, tr_s, early_s) for _ in range(RUNS)]
        found, responses = predicted(runs, range(1, 6))
        minutes = [part.mean() * TR_S / 60 for part in parts]
        r = [pearson(found[:, part], responses[:, part]) for part in parts]
        over_time.plot(minutes, r, "o-", color=colour, label=label)
        by_delay.plot(range(8), [pearson(*predicted(runs, range(d, d + 1))) for d in range(8)], "o-", color=colour)
    over_time.set(
        xlabel="minutes into the run", ylabel="r on new runs", ylim=(0, 0.8), title="delays of 1 to 5 TRs together"
    )
    over_time.legend(frameon=False, loc="lower left")
    by_delay.set(xlabel="delay (TRs of 1.49 s)", title="one delay at a time")
    for axes in (over_time, by_delay):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    main()
