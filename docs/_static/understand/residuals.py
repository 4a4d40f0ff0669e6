"""Draws residuals.png: variance partitioning beside drops in four cases, and a drop by the penalty of the removal."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

TRAIN, TEST, DIMS = slice(0, 2000), slice(2000, 4000), 10


def scaled(x: np.ndarray) -> np.ndarray:
    """Standardised with constants of the training rows; zeros where nothing varies."""
    spread = x[TRAIN].std(0)
    return (x - x[TRAIN].mean(0)) / np.where(spread > 0, spread, np.inf)


def predict(x: np.ndarray, y: np.ndarray, penalty: float = 1) -> np.ndarray:
    """Ridge predictions of all rows, fitted on the training rows."""
    return x @ np.linalg.solve(x[TRAIN].T @ x[TRAIN] + penalty * np.eye(x.shape[1]), x[TRAIN].T @ y[TRAIN])


def score(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(predict(scaled(x), y)[TEST], y[TEST])[0, 1])


def r2(x: np.ndarray, y: np.ndarray) -> float:
    return float(1 - np.mean((y - predict(scaled(x), y))[TEST] ** 2) / y[TEST].var())


def residual(a: np.ndarray, b: np.ndarray, penalty: float = 1) -> np.ndarray:
    """What of A a ridge from B does not predict; dims with hardly anything left are zeros."""
    left = scaled(a) - predict(scaled(b), scaled(a), penalty)
    return np.where(left[TRAIN].var(0) < 0.001, 0, left)


def drop(a: np.ndarray, b: np.ndarray, y: np.ndarray, penalty: float = 1) -> float:
    return 100 * (1 - score(residual(a, b, penalty), y) / score(a, y))


def main() -> None:
    rng = np.random.default_rng(0)
    own, b, cause, noise = rng.standard_normal((4, 4000, DIMS))
    noise = noise.sum(1)
    copies = cause + 0.3 * rng.standard_normal((2, 4000, DIMS))
    nearly = b + 0.1 * own
    cases = {
        "half of the signal": (np.c_[own, b], b, (own + b).sum(1) / np.sqrt(2)),
        "common cause": (*copies, cause.sum(1)),
        "A is B squared": (b**2, b, (b**2 - 1).sum(1) / np.sqrt(2)),
        "A is B and 1 % else": (nearly, b, b.sum(1)),
    }
    figure, (bars, curve) = plt.subplots(1, 2, figsize=(9, 3.3), layout="constrained", width_ratios=[3, 2])
    for place, (a, other, signal) in enumerate(cases.values()):
        y = signal + noise
        of_a, of_b, of_both = r2(a, y), r2(other, y), r2(np.c_[a, other], y)
        left = 0.0
        parts = {"only A": of_both - of_b, "shared": of_a + of_b - of_both, "only B": of_both - of_a}
        for (name, part), colour in zip(parts.items(), ("#0072b2", "#999999", "#d55e00"), strict=True):
            bars.barh(-place, max(part, 0), left=left, color=colour, label=None if place else name)
            left += max(part, 0)
        bars.text(left + 0.01, -place, f"drop {round(drop(a, other, y))} %", va="center")
    bars.set(xlabel="R² on the test rows", yticks=range(0, -len(cases), -1), yticklabels=list(cases), xlim=(0, 0.68))
    bars.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.15))
    penalties, y = np.geomspace(1, 10_000, 17), b.sum(1) + noise
    curve.semilogx(penalties, [drop(nearly, b, y, penalty) for penalty in penalties], "o-", color="#0072b2")
    curve.set(xlabel="penalty of the removal", ylim=(-5, 110))
    curve.set_ylabel("drop (%); true: 100", color="#0072b2")
    check = curve.twinx()
    still = [np.mean([score(residual(nearly, b, p), b[:, dim]) for dim in range(DIMS)]) for p in penalties]
    check.semilogx(penalties, still, "s-", color="#d55e00")
    check.set(ylim=(-0.05, 1.1))
    check.set_ylabel("B predicted from what is left (r)", color="#d55e00")
    for axes in (bars, curve, check):
        axes.spines["top"].set_visible(False)
    bars.spines["right"].set_visible(False)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    main()
