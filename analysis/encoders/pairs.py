"""Designs and responses as encoders see them, for other programs to fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd
import xarray as xr

from cinecube.analysis.encoders.problem import Problem, make_design, make_layout
from cinecube.analysis.ridge.design import Run, cut_runs
from cinecube.analysis.ridge.folds import Fold
from cinecube.analysis.ridge.scores import fittable, pearson
from cinecube.store.base.errors import StudyError
from cinecube.store.base.labels import suggestion
from cinecube.store.clock.clock import step_s
from cinecube.store.cube.schema import ON_TARGET

if TYPE_CHECKING:
    from torch.utils.data import TensorDataset

Part = Literal["train", "test"]


@dataclass(frozen=True, eq=False, repr=False)
class Pairs:
    """One layer's features and one subject's responses, row by row.

    Attributes
    ----------
    model, layer, subject : str
    X : array, shape (row, delay x dim)
        Features standardised with constants of the training rows, float64, delay by delay; zeros before a run's first
        row. A column of `delays[i]` and `dim` is `i * n_dims + dim`.
    Y : array, shape (row, target)
        Responses in standard deviations of a run, average over showings unless `brain.repeats` is `separate`, float32.
        Targets that are absent or do not vary are left out: they have no score either.
    rows : DataFrame
        `segment`, `repeat` (0 for the average over showings) and `onset_s` in seconds of each row.
    train : array of bool, shape (row,)
        Rows of training films; the others are of test films.
    folds : list of (train, validation)
        Positions among the training rows, as the `cv` argument of scikit-learn and himalaya takes them: whole segments,
        with gaps where neighbours share film.
    runs : list of (start, stop)
        Rows that follow each other by one TR; delays reach over none of their borders.
    alphas : array, shape (alpha,)
        The study's ridge penalties; each target chooses the one with the least squared error over the folds.
    delays : tuple of int
        TRs.
    targets : DataFrame
        `hemi`, `parcel` and place of each target, by its number.
    """

    model: str
    layer: str
    subject: str
    X: np.ndarray
    Y: np.ndarray
    rows: pd.DataFrame
    train: np.ndarray
    folds: list[Fold]
    runs: list[Run]
    alphas: np.ndarray
    delays: tuple[int, ...]
    targets: pd.DataFrame

    def __repr__(self) -> str:
        """Names and sizes."""
        return (
            f"<pairs of {self.model} {self.layer} and {self.subject}: {int(self.train.sum())} training and "
            f"{int((~self.train).sum())} test rows, {self.X.shape[1]} features, {self.Y.shape[1]} targets, "
            f"{len(self.folds)} folds>"
        )

    @property
    def test(self) -> np.ndarray:
        """Rows of test films, shape (row,)."""
        return ~self.train

    def score(self, predicted: np.ndarray) -> xr.DataArray:
        """Pearson r of every target with what is predicted for the test rows, as in score cubes.

        Parameters
        ----------
        predicted : array, shape (test row, target)

        Returns
        -------
        DataArray, dims (target,)
            With the targets' labels.
        """
        labels = {str(name): ("target", self.targets[name].to_numpy()) for name in self.targets}
        values = pearson(np.asarray(predicted), self.Y[self.test])
        return xr.DataArray(values, {"target": self.targets.index.to_numpy(), **labels}, ("target",), "score")

    def torch(self, part: Part = "train") -> TensorDataset:
        """A Dataset of PyTorch of `(features, responses)`, row by row, float32.

        Parameters
        ----------
        part : {"train", "test"}
            Whose rows.

        Returns
        -------
        torch.utils.data.TensorDataset

        Raises
        ------
        StudyError
            If `part` is neither.
        """
        if part not in get_args(Part):  # any other word must not be read as one of them: who trains on test films?
            do = suggestion(str(part), get_args(Part)) or "pass one of them"
            raise StudyError(where="`part=`", found=repr(part), expected="'train' or 'test'", do=do)
        import torch
        from torch.utils.data import TensorDataset

        own = self.train if part == "train" else self.test
        return TensorDataset(*(torch.from_numpy(values[own].astype(np.float32)) for values in (self.X, self.Y)))


def make_pairs(problem: Problem, m: int, k: int, subject: str) -> Pairs:
    """The pairs of one layer of one stream and one subject.

    Parameters
    ----------
    problem : Problem
    m, k : int
        Positions on the model and the layer axis.
    subject : str

    Returns
    -------
    Pairs
        Of the targets that can be fitted.

    Raises
    ------
    StudyError
        If features or responses hold NaN, the training films have too few segments to validate on, or the subject has
        too few runs.
    """
    if subject in problem.unfit:
        raise StudyError(
            where=f"brain cube of {subject}",
            found=f"too few runs: {problem.unfit[subject]['lacks']}",
            expected="runs to fit on, to validate on and to test on",
            do="add the scans, or ask for another subject",
        )
    space, brain, settings = problem.space, problem.brains[subject], problem.settings
    group = next(group for group in problem.groups if subject in group.subjects)
    layout = make_layout(space, group, settings, max(settings.delays))
    train, test = make_design(space.read_layer(m, k), layout, settings.delays)
    design = np.empty((len(group.train), train.shape[1]))
    design[group.train], design[~group.train] = train, test
    responses = brain.read(group.showings[subject], np.arange(brain.n_targets))
    known = fittable(responses[group.train], responses[~group.train], layout.folds).mask
    labels = {name: brain.cube[name].values[known] for name in ON_TARGET}
    return Pairs(
        model=space.models[m],
        layer=space.layers[k],
        subject=subject,
        X=design,
        Y=responses[:, known],
        rows=pd.DataFrame({"segment": group.segment, "repeat": group.repeat, "onset_s": group.onset_s}),
        train=group.train,
        folds=layout.folds,
        runs=cut_runs(group.segment, group.onset_s, step_s(space.rows)),
        alphas=settings.alphas,
        delays=settings.delays,
        targets=pd.DataFrame(labels, index=pd.Index(brain.cube["target"].values[known], name="target")),
    )
