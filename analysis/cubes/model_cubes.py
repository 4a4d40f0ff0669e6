"""A model's feature cubes as analyses see them: what the study asks for, at the study's clock."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from cinecube.analysis.cubes.spaces import FeatureSpace, join_films
from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import StudyPaths
from cinecube.store.clock.clock import SAME_STEP_S, Clock, covered_rows, match_onsets, step_s
from cinecube.store.cube.cubes import open_cube, refuse_another
from cinecube.store.cube.reclock import Method, reclock
from cinecube.store.cube.schema import rows_index
from cinecube.store.open.imported import open_imported
from cinecube.store.params.document import Study


def open_space(study: Study, root: Path, model: str) -> FeatureSpace:
    """Open the feature cubes of the films in `split` of one model or residual pair.

    Cubes that this study did not make are refused if they are not what `models` asks for, and brought to its clock.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    model : str
        Name in `params.yaml`, or of a pair.

    Raises
    ------
    StudyError
        If a cube is missing, was made with other parameters, lacks a segment, or the films' cubes do not fit.
    """
    films, imported = [*study.split.train, *study.split.test], study.import_of(model)
    if imported is None:
        cubes = {film: _open_own(study, root, model, film) for film in films}
    else:
        cubes = {
            film: at_clock(open_imported(study, root, model, film), study.clock, study.films[film], imported.resample)
            for film in films
        }
    return join_films(cubes, {film: study.films[film] for film in films}, model)


def _open_own(study: Study, root: Path, model: str, film: str) -> xr.Dataset:
    paths = StudyPaths(root)
    place = paths.residual if model in {pair.name for pair in study.residual} else paths.features
    where = paths.relative(place(model, film))
    cube = open_cube(place(model, film), where=where)
    refuse_another(cube, where, "features", model=model, segments=study.films.get(film, ()))
    return cube


def at_clock(cube: xr.Dataset, clock: Clock, segments: list[str], method: Method) -> xr.Dataset:
    """A feature cube with the rows of a clock, as far as its windows reach; itself if it has them.

    Parameters
    ----------
    cube : Dataset
    clock : Clock
    segments : list of str
        Those that are wanted; the rest of another clock's cube is left out.
    method : {"mean", "lanczos"}
        See `reclock`.

    Raises
    ------
    StudyError
        If the cube lacks a segment.
    """
    known = pd.DataFrame({name: cube[name].values for name in ("segment", "onset_s")})
    known = known[known["segment"].isin(segments)]
    if _on_clock(known, clock):
        return cube
    step, window_s = step_s(known), float(cube["window_s"].values[0])
    onsets = {
        str(name): _covered(own["onset_s"].to_numpy(float), step, window_s, clock)
        for name, own in known.groupby("segment", sort=False)
    }
    absent = [name for name in segments if not len(onsets.get(name, ()))]
    if absent:
        raise StudyError(
            where=f"segment {absent[0]}",
            found="no rows in the feature cube",
            expected=f"one of {', '.join(dict.fromkeys(map(str, cube['segment'].values)))}",
            do="use cubes that have it, or take the segment out of `films`",
        )
    return reclock(cube, rows_index({name: onsets[name] for name in segments}), clock.window_s, method)


def _on_clock(rows: pd.DataFrame, clock: Clock) -> bool:
    """True if every row begins with a row of the clock, and the steps are the same.

    Windows may be longer than the clock's: they are how the features were read, and no row moves for them.
    """
    onsets_s = rows["onset_s"].to_numpy(float)
    known_s = clock.onsets_s(clock.n_rows(float(onsets_s.max(initial=0.0))) + 1)
    step = step_s(rows)
    return bool((match_onsets(onsets_s, known_s) >= 0).all()) and not abs(step - clock.tr_s) > SAME_STEP_S


def _covered(from_s: np.ndarray, step: float, window_s: float, clock: Clock) -> np.ndarray:
    """Onsets of the clock's rows in one segment, from the first to the last that overlap one of its windows."""
    reach_s = step if np.isfinite(step) else window_s  # a long window says nothing of where the film ends
    to_s = clock.onsets_s(clock.n_rows(float(from_s[-1]) + reach_s))
    covered = np.flatnonzero(covered_rows(from_s, window_s, to_s, clock.window_s))
    return to_s[covered[0] : covered[-1] + 1] if covered.size else to_s[:0]
