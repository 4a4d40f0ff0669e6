"""Planted layers are found, over five seeds at the level of features; `tests/test_truth.py` has one through films.

Sizes: four subjects, eight segments of 75 rows (six to fit on), 24 parcels of six targets, noise as strong as the
signal, 13 layers of which each keeps part of the one before.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cinecube.analysis.cubes import tables
from cinecube.analysis.encoders.problem import read_problem
from cinecube.analysis.encoders.stage import score_model
from cinecube.store.base.labels import layer_labels

from .conftest import MODEL, N_BLOCKS, make_study

SEEDS = range(5)
SUBJECTS = ("sub-01", "sub-02", "sub-03", "sub-04")
LAYERS = layer_labels(N_BLOCKS)


def planted_parcels(seed: int) -> dict[str, tuple[int, int] | None]:
    """Blocks and delays at random."""
    rng = np.random.default_rng(seed)
    return {f"L_P{n:02d}": (int(rng.integers(N_BLOCKS + 1)), int(rng.integers(2, 6))) for n in range(24)}


def errors(preferred: pd.DataFrame, parcels: dict[str, tuple[int, int] | None]) -> pd.Series:
    """How many layers each row's layer lies from the planted one."""
    planted = preferred["parcel"].map({name: source[0] for name, source in parcels.items() if source})
    return (preferred["layer"].map(LAYERS.index) - planted).abs()


@pytest.mark.long
def test_planted_layers_are_found(synthetic: Callable[..., Path]) -> None:
    together, by_subject, chance = [], [], []
    for seed in SEEDS:
        parcels = planted_parcels(seed)
        root = synthetic(seed=seed, parcels=parcels, subjects=SUBJECTS, rows=75, noise=1.0)
        study = make_study(SUBJECTS)
        cube = score_model(study, read_problem(study, root, MODEL))
        preferred = tables.preferred_layers(tables.layer_table([cube]))
        error, everyone = errors(preferred, parcels), preferred["subject"] == tables.EVERYONE
        together.append((error[everyone] == 0).mean())
        by_subject.append((error[~everyone] <= 1).mean())
        chance.append(np.mean([abs(source[0] - k) <= 1 for source in parcels.values() if source for k in range(13)]))
    guessed = f"a guess: {1 / len(LAYERS):.3f} and {np.mean(chance):.3f}"
    assert np.mean(together) >= 0.9, f"exact, by seed: {together}; {guessed}"
    assert np.mean(by_subject) >= 0.95, f"exact or next, by seed: {by_subject}; {guessed}"
    assert np.mean(chance) < 0.25
