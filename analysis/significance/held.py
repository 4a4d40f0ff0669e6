"""Predictions and responses of the test films, held on disk while they are tested."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cinecube.analysis.cubes.rows import RowsGroup
from cinecube.analysis.encoders.predictions import Chosen, predict
from cinecube.analysis.encoders.problem import Problem, split_block
from cinecube.analysis.ridge.design import Run, cut_runs
from cinecube.store.base.errors import StudyError
from cinecube.store.base.writing import kept_array
from cinecube.store.clock.clock import SAME_S, step_s
from cinecube.store.jobs.tasks import Workers

_TRUTH = ".responses.npy"  # no stream is called that


@dataclass(frozen=True)
class Held:
    """One subject's test films; arrays are files, so that a task on any machine reads its targets itself.

    Attributes
    ----------
    folder : Path
        Of this subject's arrays, (row, target) each.
    streams : list of str
        Those that are predicted: at the layer that the training films chose for each target; NaN where there is none.
    shape : (int, int)
        Rows and targets.
    segment : array of str, shape (row,)
    onset_s : array, shape (row,)
    runs : list of (start, stop)
    """

    folder: Path
    streams: list[str]
    shape: tuple[int, int]
    segment: np.ndarray
    onset_s: np.ndarray
    runs: list[Run]

    @property
    def truth(self) -> np.ndarray:
        """Responses (row, target), mapped; NaN where no stream predicts a target."""
        return kept_array(self.folder / _TRUTH)

    def prediction(self, stream: str) -> np.ndarray:
        """Predictions of a stream (row, target), mapped."""
        return kept_array(self.folder / f"{stream}.npy")


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
            shape = len(segment), problem.brains[name].n_targets
            held[name] = Held(folder / name, [], shape, segment, onset_s, runs)
            _empty(held[name], _TRUTH)
    return held


def hold(
    held: Mapping[str, Held], problem: Problem, chosen: Chosen, workers: Workers = None, scratch: Path | None = None
) -> None:
    """Predict the test films with every stream of a model, and add that to what is held.

    Tasks write what they predict to files of their own, and this process alone puts them in their place: parts of one
    file that several machines write are lost.

    Parameters
    ----------
    held : Mapping of str to Held
        From `begin`.
    problem : Problem
        Of this model.
    chosen : Chosen
        Layer and penalty of each target.
    workers : Client, Threads or None
    scratch : Path, optional
        As for `predict`.

    Raises
    ------
    StudyError
        If the model's rows are not those that are held.
    """
    streams = problem.space.models
    written: dict[tuple[str, str], np.memmap[Any, np.dtype[np.float32]]] = {}
    for group in problem.groups:
        for name in group.subjects:
            _refuse_other_rows(held[name], group, ", ".join(streams))
            written[name, _TRUTH] = np.lib.format.open_memmap(held[name].folder / _TRUTH, mode="r+")
            for stream in streams:
                written[name, stream] = _empty(held[name], f"{stream}.npy")
                held[name].streams.append(stream)
    for part in predict(problem, chosen, workers, scratch):
        for piece, own in split_block(part.block, part.prediction):
            written[piece.subject, streams[part.m]][:, piece.targets] = own
        for piece, own in split_block(part.block, part.truth):
            written[piece.subject, _TRUTH][:, piece.targets] = own
    for array in written.values():
        array.flush()  # before anyone reads them elsewhere


def _empty(held: Held, name: str) -> np.memmap[Any, np.dtype[np.float32]]:
    held.folder.mkdir(parents=True, exist_ok=True)
    array = np.lib.format.open_memmap(held.folder / name, mode="w+", dtype=np.float32, shape=held.shape)
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
