"""Settings of encoders: the `encode` section of `params.yaml` as arrays, and what folds need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cinecube.analysis.ridge.backends import Backend, check_backend
from cinecube.store.params.document import Study

# The penalties of Oota et al. (2025) enter squared: ridge by singular values divides by s² + alpha².
SQUARED_ALPHAS = np.logspace(1, 3, 10) ** 2


@dataclass(frozen=True)
class Settings:
    """Settings of encoders.

    Attributes
    ----------
    delays : tuple of int
        FIR lags in TRs.
    alphas : array, shape (alpha,)
    n_folds : int
    gap_s : float
        Seconds of film dropped where a fold cuts a film in two.
    films : dict of str to list of str
        Training films with their segments in order.
    targets_per_block : int
    solver : {"shared", "himalaya"}
    exhaustive : bool
        Whether `shared` tries every penalty rather than walking to the best.
    threads : int
        BLAS threads of each task.
    backend : Backend
        What `shared` computes with.
    one_alpha : bool
        Whether all targets of a subject share the penalty with the best mean correlation on the folds.
    across_runs : bool
        Whether delays reach over the borders of runs.
    """

    delays: tuple[int, ...]
    alphas: np.ndarray
    n_folds: int
    gap_s: float
    films: Mapping[str, Sequence[str]]
    targets_per_block: int = 4096
    solver: str = "shared"
    exhaustive: bool = False
    threads: int = 1
    backend: Backend = field(default_factory=Backend)
    one_alpha: bool = False
    across_runs: bool = False


def make_settings(study: Study, fitted: bool = True) -> Settings:
    """Settings of a study's encoders; the choices of `encode.compat` that concern them are in.

    Parameters
    ----------
    study : Study
    fitted : bool
        Whether something will be fitted, so that `run.backend` must be here.

    Raises
    ------
    StudyError
        If it is not.
    """
    params = study.encode
    plain = np.geomspace(params.alphas.min, params.alphas.max, params.alphas.n)
    return Settings(
        delays=tuple(params.delays),
        alphas=SQUARED_ALPHAS if "squared_alphas" in params.compat else plain,
        n_folds=params.folds,
        gap_s=study.split.gap_s,
        films={film: study.films[film] for film in study.films if film in study.split.train},
        targets_per_block=params.targets_per_block,
        solver=params.solver,
        threads=study.run.threads,
        backend=check_backend(study.run.backend, study.run.device, "run.backend") if fitted else Backend(),
        one_alpha="one_alpha" in params.compat,
        across_runs="delays_across_runs" in params.compat,
    )
