"""A lab's own features as cubes like any other: on the study's clock, labelled, with a fingerprint of their values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cinecube.features.extraction.constant import Telling
from cinecube.features.own.onsets import refuse_other_units
from cinecube.store.base.errors import StudyError, some_of
from cinecube.store.base.labels import HEAD, check_name
from cinecube.store.base.paths import StudyPaths
from cinecube.store.base.writing import one_writer
from cinecube.store.clock.clock import covered_rows, same_step, step_s
from cinecube.store.clock.films_table import read_films_table
from cinecube.store.cube.cubes import write_feature_cube
from cinecube.store.cube.heads import read_head, stored_spec
from cinecube.store.cube.reclock import Method, are_windows, segment_weights
from cinecube.store.cube.schema import Stream, feature_template, provenance, rows_index
from cinecube.store.foreign.foreign_arrays import Foreign
from cinecube.store.foreign.segment_names import near_name
from cinecube.store.params.document import Study

EXTRACTOR = "added"
"""The value of `source` in the spec of such a cube."""

_PACKAGES = ("numpy", "xarray", "zarr")
_DTYPE = "float32"


@dataclass(frozen=True)
class Adding:
    """Options for adding features.

    Attributes
    ----------
    model : str
        Name of the new model.
    layer : str
        Label of its one layer.
    resample : {"mean", "lanczos"}
        How rows of another clock become rows of the study's.
    window_s : float, optional
        Seconds of film that a row of the features sees; where nothing is said the step between rows, or the
        study's window if that step is its TR.
    licence : str, optional
        Under which terms the features may be used.
    """

    model: str
    layer: str = HEAD
    resample: Method = "mean"
    window_s: float | None = None
    licence: str | None = None


@dataclass(frozen=True)
class AddedCube:
    """A cube that was written, or was there already.

    Attributes
    ----------
    path : Path
    rows, dims : int
        Its size.
    rows_without : int
        Rows of the film at its borders for which there are no features.
    resampled : bool
        Whether the features were on another clock.
    replaced : bool
        Whether other features of that name stood there.
    up_to_date : bool
        Whether these features stood there, so that nothing was written.
    """

    path: Path
    rows: int
    dims: int
    rows_without: int
    resampled: bool
    replaced: bool
    up_to_date: bool

    def __str__(self) -> str:
        if self.up_to_date:
            return f"{self.path.name}: up to date"
        said = f"{self.path.name}: {self.rows} rows, {self.dims} dim" + "s" * (self.dims != 1)
        if self.replaced:
            said += ", in place of those that were there"
        if self.resampled:
            said += ", resampled to the study's clock"
        if self.rows_without == 1:
            said += "; 1 row of the film has no features"
        elif self.rows_without:
            said += f"; {self.rows_without} rows of the film have no features"
        return said


@dataclass(frozen=True)
class _Segment:
    """One segment on the study's clock."""

    values: np.ndarray
    onsets_s: np.ndarray
    rows_without: int
    resampled: bool
    digest: str


def add_features(
    study: Study,
    root: Path,
    foreign: Foreign,
    how: Adding,
    films: Sequence[str] | None = None,
    *,
    replace: bool = False,
) -> list[AddedCube]:
    """Write a feature cube per film; nothing is written unless all of them can be.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    foreign : Foreign
        Values and rows; segments that the study has not are left out.
    how : Adding
    films : sequence of str, optional
        Films to make cubes of; all of the study by default.
    replace : bool
        Write all cubes anew; those that hold other features are refused otherwise, and those that hold these kept.

    Returns
    -------
    list of AddedCube
        One per film.

    Raises
    ------
    StudyError
        If the name is taken, cubes of other features stand there, a segment is missing, its length is not that of the
        film, or a row has no features.
    """
    paths, films = StudyPaths(root), list(films or study.films)
    _check_name(study, paths, how, films)
    window_s = how.window_s or _window_s(study, foreign.rows, how.model)
    names = study.segments([film for film in films if study.film(film)])
    _refuse_missing(study, foreign, names, how.model)
    if foreign.timed:
        rows = foreign.rows[foreign.rows["segment"].isin(names)]
        refuse_other_units(
            rows,
            _lengths_s(paths),
            study.clock,
            how.model,
            in_seconds=how.window_s is not None,
            films=study.stimuli is not None,
        )
    segments = {name: _segment(study, paths, foreign, how, name, window_s) for name in names}
    resampled = any(segment.resampled for segment in segments.values())
    n_dims, cubes = foreign.values.shape[1], []
    each = {film: {name: segments[name] for name in study.film(film)} for film in films}
    with one_writer(paths, *(paths.features(how.model, film) for film in films)):
        there = {film: path for film in films if (path := paths.features(how.model, film)).exists()}
        specs = {film: _spec(study, how, n_dims, window_s, own, resampled) for film, own in each.items()}
        same = {film for film, path in there.items() if _holds(path, specs[film], _more(how, foreign))}
        others = [film for film in there if film not in same]
        if others and not replace:
            raise _other_features(paths, how.model, others)
        for film, own in each.items():
            path = paths.features(how.model, film)
            kept = film in same and not replace
            if not kept:
                _write(path, study, how, foreign, own, specs[film])
            rows, rows_without = (sum(counts) for counts in zip(*map(_counts, own.values()), strict=True))
            cubes.append(AddedCube(path, rows, n_dims, rows_without, resampled, film in others, kept))
    return cubes


def _holds(path: Path, spec: dict[str, Any], more: dict[str, str]) -> bool:
    """True if a cube is what would be written there, terms and names of dims included."""
    head = read_head(path)
    return head.spec == spec and {key: head.attrs[key] for key in _MORE if key in head.attrs} == more


def _other_features(paths: StudyPaths, model: str, films: Sequence[str]) -> StudyError:
    places = [paths.relative(paths.features(model, film)) for film in films]
    return StudyError(
        where=f"model {model}",
        found=f"cubes of other features, or of other terms, in {some_of(places)}",
        expected="none, or those of this input",
        do="give `replace=` to write over them, or choose another name",
    )


def _counts(segment: _Segment) -> tuple[int, int]:
    return len(segment.values), segment.rows_without


def _check_name(study: Study, paths: StudyPaths, how: Adding, films: Sequence[str]) -> None:
    """Refuse a name that is no name, or that cubes from elsewhere have."""
    model = check_name(how.model, "model")
    check_name(how.layer, "layer")
    owner = next((name for name in study.models if model.startswith(f"{name}.")), None)
    taken = None
    if model in study.models:
        taken = "a model of the section `models`"
    elif owner is not None:
        taken = f"the name of a stream of {owner}"
    elif model in {pair.name for pair in study.residual}:
        taken = "a pair of the residual analysis"
    elif any(_is_foreign(paths.features(model, film)) for film in films):
        taken = f"the name of cubes in {paths.relative(paths.features(model, films[0]).parent)} that were not added"
    if taken:
        raise StudyError(where=f"model {model}", found=taken, expected="a name that is free", do="choose another")


def _is_foreign(path: Path) -> bool:
    """True if the path holds a cube that was not added."""
    return path.exists() and stored_spec(path).get("source") != EXTRACTOR


def _window_s(study: Study, rows: pd.DataFrame, model: str) -> float:
    """Seconds of film that a row of the features sees: the median step between rows; at the study's TR its window."""
    step = round(step_s(rows), 6)
    if np.isnan(step):
        raise StudyError(
            where=f"model {model}",
            found="one row per segment",
            expected="two or more",
            do="give `window_s=` in seconds",
        )
    return study.clock.window_s if same_step(step, study.clock.tr_s) else step


def unknown_segments(study: Study, foreign: Foreign) -> list[str]:
    """Segments of the features that no film of the study has.

    Parameters
    ----------
    study : Study
    foreign : Foreign

    Returns
    -------
    list of str
        Each once, in the order of their rows.
    """
    known = set(study.segments(list(study.films)))
    return [str(name) for name in dict.fromkeys(foreign.rows["segment"]) if name not in known]


def _refuse_missing(study: Study, foreign: Foreign, names: Sequence[str], model: str) -> None:
    present = set(foreign.rows["segment"])
    missing = [name for name in names if name not in present]
    if missing:
        found = f"no rows of segment {some_of(missing)}"
        strange = unknown_segments(study, foreign)
        near = near_name(missing, strange)
        first = [*([near[0]] if near else []), *(name for name in strange if near is None or name != near[0])]
        raise StudyError(
            where=f"model {model}",
            found=found + (f", and rows of {', '.join(first[:3])}, which is none" if strange else ""),
            expected="rows of every segment of the films",
            do=near[1] if near else "add them, or name the films that they belong to by `films=`",
        )


def _segment(study: Study, paths: StudyPaths, foreign: Foreign, how: Adding, name: str, window_s: float) -> _Segment:
    """Values of one segment at the study's rows, as far as the features reach."""
    clock, own = study.clock, (foreign.rows["segment"] == name).to_numpy()
    from_s, values = foreign.rows["onset_s"].to_numpy(float)[own], foreign.values[own]
    ends_s = float(from_s[-1]) + window_s
    to_s = clock.onsets_s(_film_rows(study, paths, how, name, ends_s))
    covered = np.flatnonzero(covered_rows(from_s, window_s, to_s, clock.window_s))
    kept = to_s[covered[0] : covered[-1] + 1] if covered.size else to_s[:0]
    lost_s = (len(to_s) - len(kept)) * clock.tr_s
    if lost_s > clock.max_trim_s or not len(kept):
        raise StudyError(
            where=f"model {how.model} {name}",
            found=f"features from {from_s[0]:g} to {ends_s:g} s",
            expected=f"0 to {to_s[-1] + clock.tr_s:g} s or up to {clock.max_trim_s:g} s less (clock.max_trim_s)",
            do="correct the onsets, or `tr_s=` for an array per segment",
        )
    weights = segment_weights(how.resample, from_s, window_s, kept, clock.window_s, f"model {how.model} {name}")
    resampled = not are_windows(from_s, window_s, kept, clock.window_s)
    if resampled and how.resample == "lanczos":
        _refuse_uneven(from_s, f"model {how.model} {name}")
    made = _as_stored(weights @ values, f"model {how.model} {name}")
    return _Segment(made, kept, len(to_s) - len(kept), resampled, _digest(values, from_s))


def _lengths_s(paths: StudyPaths) -> dict[str, float]:
    """Seconds of each segment by the table of films; none in a study without one."""
    if not paths.films.is_file():
        return {}
    return {str(name): float(length) for name, length in read_films_table(paths.films)["duration_s"].items()}


def _film_rows(study: Study, paths: StudyPaths, how: Adding, name: str, ends_s: float) -> int:
    """Rows of a segment by the table of films; by the features themselves in a study without films."""
    if not paths.films.is_file():
        return study.clock.n_rows(ends_s)
    table = read_films_table(paths.films)
    if name not in table.index:
        raise StudyError(
            where="data/films.csv", found=f"no segment {name}", expected="all of films", do="run `cinecube films`"
        )
    own = table.loc[[name]]
    film_s, n_rows = float(own["duration_s"].iloc[0]), int(own["rows"].iloc[0])
    if ends_s - film_s > study.clock.max_trim_s + study.clock.tr_s:
        raise StudyError(
            where=f"model {how.model} {name}",
            found=f"features up to {ends_s:g} s",
            expected=f"{film_s:g} s, the film's length, or up to {study.clock.max_trim_s:g} s more",
            do="correct the onsets, or `tr_s=` for an array per segment",
        )
    return n_rows


def _refuse_uneven(from_s: np.ndarray, where: str) -> None:
    steps = np.diff(from_s)
    if steps.size and np.ptp(steps) > 1e-3 * float(np.median(steps)):
        raise StudyError(
            where=where,
            found=f"steps from {steps.min():g} to {steps.max():g} s",
            expected="even ones for lanczos",
            do="use `resample=mean`",
        )


def _as_stored(values: np.ndarray, where: str) -> np.ndarray:
    """Values in the cube's type; what that cannot hold is refused."""
    with np.errstate(over="ignore"):
        stored: np.ndarray = values.astype(_DTYPE)
    if not np.isfinite(stored).all():
        largest = f"{float(np.abs(values).max()):.3g}"
        raise StudyError(where=where, found=f"values up to {largest}", expected="those of float32", do="scale them")
    return stored


def _digest(values: np.ndarray, onsets_s: np.ndarray) -> str:
    """SHA-256 over shape, values (row, dim) and onsets (row,): the same numbers from any kind of file."""
    digest = hashlib.sha256(json.dumps(values.shape).encode())
    for numbers in (values, onsets_s):
        # A minus zero is a zero, which a table writes without its sign.
        digest.update(np.ascontiguousarray(numbers + 0.0, dtype="<f8").tobytes())
    return digest.hexdigest()


def _spec(
    study: Study, how: Adding, dims: int, window_s: float, own: dict[str, _Segment], resampled: bool
) -> dict[str, Any]:
    """Spec that a film's fingerprint hashes; keys are those of networks' specs where they mean the same."""
    return {
        "source": EXTRACTOR,
        "layers": {how.layer: dims},
        "clock": {"tr_s": study.clock.tr_s, "window_s": study.clock.window_s},
        "window_s": window_s,
        "resample": how.resample if resampled else None,
        "dtype": _DTYPE,
        "segments": list(own),
        "stimulus": {name: segment.digest for name, segment in own.items()},
    }


_MORE = ("dim_names", "left_out", "licence")


def _more(how: Adding, foreign: Foreign) -> dict[str, str]:
    """Attributes of the cubes that their fingerprints do not hash, of `_MORE`."""
    more = {"dim_names": json.dumps(foreign.names)} if foreign.names else {}
    more |= {"left_out": json.dumps(foreign.left_out)} if foreign.left_out else {}
    return more | ({"licence": how.licence} if how.licence else {})


def _write(
    path: Path, study: Study, how: Adding, foreign: Foreign, own: dict[str, _Segment], spec: dict[str, Any]
) -> None:
    rows = rows_index({name: segment.onsets_s for name, segment in own.items()})
    values = np.concatenate([segment.values for segment in own.values()])
    template = feature_template(
        rows,
        study.clock.window_s,
        [Stream(how.model, [how.layer], [values.shape[1]])],
        _DTYPE,
        provenance("features", spec, _PACKAGES, **_more(how, foreign)),
    )
    telling = Telling(lambda m, k: values)
    write_feature_cube(path, template, telling)
    telling.tell(path.stem, template["model"].values, template["layer"].values)
