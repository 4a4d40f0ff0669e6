"""Predictions and responses of the test films, held on disk while they are tested."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cinecube.analysis.cubes.rows import RowsGroup
from cinecube.analysis.encoders.predictions import Chosen, predict
from cinecube.analysis.encoders.problem import Problem, split_block
from cinecube.analysis.ridge.design import Run, cut_runs
from cinecube.store.base.errors import StudyError
from cinecube.store.clock.clock import SAME_S, step_s

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Held:
    """One subject's test films.

    Attributes
    ----------
    prediction : dict of str to array, shape (row, target)
        By stream: at the layer that the training films chose for each target; NaN where there is none.
    truth : array, shape (row, target)
        NaN where no stream predicts a target.
    segment : array of str, shape (row,)
    onset_s : array, shape (row,)
    runs : list of (start, stop)
    """

    prediction: dict[str, np.ndarray]
    truth: np.ndarray
    segment: np.ndarray
    onset_s: np.ndarray
    runs: list[Run]


def begin(folder: Path, problem: Problem) -> dict[str, Held]:
    """Held films without predictions, by subject; arrays are files in `folder`.

    Parameters
    ----------
    folder : Path
    problem : Problem
        Of any model: the responses are the same.

    Returns
    -------
    dict of str to Held
        By subject.
    """
    held = {}
    for group in problem.groups:
        segment, onset_s = group.segment[~group.train], group.onset_s[~group.train]
        runs = cut_runs(segment, onset_s, step_s(problem.space.rows))
        for name in group.subjects:
            truth = _empty(folder / f"{name}.npy", (len(segment), problem.brains[name].n_targets))
            held[name] = Held({}, truth, segment, onset_s, runs)
    return held


def hold(held: Mapping[str, Held], folder: Path, problem: Problem, chosen: Chosen) -> None:
    """Predict the test films with every stream of a model, and add that to what is held.

    Parameters
    ----------
    held : Mapping of str to Held
        From `begin`.
    folder : Path
    problem : Problem
        Of this model.
    chosen : Chosen
        Layer and penalty of each target.

    Raises
    ------
    StudyError
        If the model's rows are not those that are held.
    """
    streams = problem.space.models
    for group in problem.groups:
        for name in group.subjects:
            _refuse_other_rows(held[name], group, ", ".join(streams))
            for stream in streams:
                held[name].prediction[stream] = _empty(folder / f"{stream}.{name}.npy", held[name].truth.shape)
    for part in predict(problem, chosen):
        for piece, own in split_block(part.block, part.prediction):
            held[piece.subject].prediction[streams[part.m]][:, piece.targets] = own
        for piece, own in split_block(part.block, part.truth):
            held[piece.subject].truth[:, piece.targets] = own


def _empty(path: Path, shape: tuple[int, int]) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    array[:] = np.nan
    return array


def _refuse_other_rows(held: Held, group: RowsGroup, where: str) -> None:
    segment, onset_s = group.segment[~group.train], group.onset_s[~group.train]
    same = len(segment) == len(held.segment) and (segment == held.segment).all()
    if not same or np.abs(onset_s - held.onset_s).max() > 2 * SAME_S:
        raise StudyError(
            where=f"test films of {where}",
            found=f"{len(segment)} rows",
            expected=f"the {len(held.segment)} rows of the other models",
            do="extract all models of the same films at one clock",
        )
