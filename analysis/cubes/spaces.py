"""Feature spaces and responses: cubes at the study's clock, read layer by layer and block by block."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from cinecube.store.base.errors import StudyError
from cinecube.store.base.fingerprint import differences
from cinecube.store.base.labels import layer_number
from cinecube.store.base.paths import StudyPaths
from cinecube.store.clock.clock import SAME_STEP_S, Clock, covered_rows, match_onsets, same_step, step_s
from cinecube.store.cube.cubes import open_cube, read_values, refuse_another
from cinecube.store.cube.guarded import judged_by_reader
from cinecube.store.cube.reclock import Method, reclock
from cinecube.store.cube.schema import TARGETS_PER_SHARD, rows_index
from cinecube.store.open.imported import open_imported
from cinecube.store.params.document import Study
from cinecube.store.spaces.space import other_space, space_of, unlike_subjects

_GRID = ("affine", "shape")
# A film's own part of its cube's spec; all else must agree between films.
_OF_A_FILM = ("segments", "stimulus", "read")


@dataclass(frozen=True)
class FeatureSpace:
    """Feature cubes of several films of one model, joined on time when a layer is read.

    Attributes
    ----------
    cubes : dict of str to Dataset
        Film -> its lazy feature cube.
    rows : DataFrame
        `segment`, `onset_s` of all rows, film after film.
    window_s : float
        Seconds of film that a row sees.
    without_last_block : bool
        Whether the last block of each stream is taken for missing.
    constant : frozenset of (model, layer)
        Layers, by position, whose features do not vary, once that is known: see `encoding.find_constant`.
    """

    cubes: dict[str, xr.Dataset]
    rows: pd.DataFrame
    window_s: float
    without_last_block: bool = False
    constant: frozenset[tuple[int, int]] = frozenset()

    @property
    def models(self) -> list[str]:
        """Stream labels of the model axis."""
        return [str(name) for name in self._first["model"].values]

    @property
    def layers(self) -> list[str]:
        """Labels of the layer axis."""
        return [str(name) for name in self._first["layer"].values]

    @property
    def depth(self) -> np.ndarray:
        """Place of each layer between its stream's input and output, shape (model, layer); NaN where it lacks it."""
        # Older cubes hold one depth for all streams.
        depth: np.ndarray = np.broadcast_to(self._first["depth"].values, self.width.shape)
        return np.where(self.width > 0, depth, np.nan)

    @property
    def width(self) -> np.ndarray:
        """Dims of each layer, shape (model, layer); 0 where a stream lacks it."""
        width: np.ndarray = self._first["width"].values
        if not self.without_last_block:
            return width
        width, block = width.copy(), np.array([bool(layer_number(name)) for name in self.layers])
        for own in width:
            own[np.flatnonzero(block & (own > 0))[-1:]] = 0
        return width

    @property
    def _first(self) -> xr.Dataset:
        return next(iter(self.cubes.values()))

    def fingerprints(self) -> dict[str, str]:
        """Film -> fingerprint of its cube."""
        return {film: str(cube.attrs["fingerprint"]) for film, cube in self.cubes.items()}

    def read_layer(self, m: int, k: int) -> np.ndarray:
        """Features of one layer of one stream, float32 (time, dim).

        Parameters
        ----------
        m, k : int
            Positions on the model and the layer axis.

        Returns
        -------
        array of float32, shape (time, dim)
            All films one after another; as many dims as the layer has.

        Raises
        ------
        StudyError
            If a value is missing, infinite or damaged.
        """
        width = int(self.width[m, k])
        parts = []
        for film, cube in self.cubes.items():
            where = f"features of {self.models[m]} {film} {self.layers[k]}"
            layer = cube["features"].isel(model=m, layer=k, dim=slice(0, width)).transpose("time", "dim")
            with judged_by_reader():
                parts.append(read_values(layer, where))
            _refuse_unknown(parts[-1], cube, where)
        return np.concatenate(parts).astype(np.float32, copy=False)


def _refuse_unknown(values: np.ndarray, cube: xr.Dataset, where: str) -> None:
    """Refuse features (time, dim) that are no numbers, by the first row that has some."""
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        row = int(bad.argmax())
        lost, rows = int((~np.isfinite(values[row])).sum()), int(bad.sum())
        more = f", and in {rows - 1} more rows" if rows > 1 else ""
        raise StudyError(
            where=f"{where}, {cube['segment'].values[row]} at {float(cube['onset_s'].values[row]):g} s",
            found=f"NaN or infinity in {lost} of {values.shape[1]} dims{more}",
            expected="finite features",
            do="restore the cube with `cinecube verify --repair`, or make it again",
        )


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

    Returns
    -------
    FeatureSpace

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

    Returns
    -------
    Dataset
        Segments in the order of `segments`, unless it is the cube itself.

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


def join_films(cubes: Mapping[str, xr.Dataset], segments: Mapping[str, Sequence[str]], where: str) -> FeatureSpace:
    """Join the cubes of one model's films.

    Parameters
    ----------
    cubes : Mapping of str to Dataset
        Film -> lazy feature cube.
    segments : Mapping of str to sequence of str
        Film -> its segments; others in its cube are not used.
    where : str
        The model, for messages.

    Returns
    -------
    FeatureSpace
        Its rows are those of the cubes, film after film.

    Raises
    ------
    StudyError
        If the films' cubes differ in layers, clock, or anything else but the film.
    """
    first_film, first = next(iter(cubes.items()))
    for film, cube in cubes.items():
        reason = _first_difference(first, cube)
        if reason:
            raise StudyError(
                where=f"{where} {film}",
                found=f"another cube than that of {first_film}: {reason}",
                expected="cubes that differ in the film only",
                do="extract both again with the same parameters",
            )
    rows = pd.concat(
        [pd.DataFrame({name: cube[name].values for name in ("segment", "onset_s")}) for cube in cubes.values()],
        ignore_index=True,
    )
    wanted = [name for names in segments.values() for name in names]
    missing = [name for name in wanted if not (rows["segment"] == name).any()]
    if missing:
        raise StudyError(
            where=f"{where} {missing[0]}",
            found="no rows",
            expected="features of every segment of `split`",
            do="run `dvc repro` to extract it",
        )
    return FeatureSpace(dict(cubes), rows, float(first["window_s"].values[0]))


def _first_difference(a: xr.Dataset, b: xr.Dataset) -> str:
    """First difference between two films' cubes of a model, beside the film; empty if there is none."""
    for name in ("model", "layer", "width"):
        if not np.array_equal(a[name].values, b[name].values):
            return f"{name} differs"
    if float(a["window_s"].values[0]) != float(b["window_s"].values[0]):
        return "window_s differs"
    lines = differences(spec_without_film(a), spec_without_film(b))
    return lines[0] if lines else ""


def spec_without_film(cube: xr.Dataset) -> dict[str, Any]:
    """Spec of a feature cube, as far as it is that of every film's."""
    spec = json.loads(cube.attrs.get("spec", "{}"))
    return {key: value for key, value in spec.items() if key not in _OF_A_FILM}


# A subject's responses that are kept once they are read.
_WHOLE, _KEPT_BYTES = "_whole", 16 * 2**20


@dataclass(frozen=True)
class Responses:
    """One subject's brain cube.

    Attributes
    ----------
    subject : str
    cube : Dataset
        `bold (time, target)`, lazy.
    rows : DataFrame
        `segment`, `repeat`, `onset_s`.
    """

    subject: str
    cube: xr.Dataset
    rows: pd.DataFrame

    @property
    def n_targets(self) -> int:
        return int(self.cube.sizes["target"])

    def read(self, showings: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Responses of some targets, the mean over showings, float32 (row, target).

        Parameters
        ----------
        showings : array of int, shape (row, showing)
            Positions in the brain cube, padded with -1.
        targets : array of int, shape (target,)
            Positions on the target axis.

        Returns
        -------
        array of float32, shape (row, target)

        Raises
        ------
        StudyError
            If a target has NaN or infinity in some of these rows; one that is NaN in all of them is absent.
        """
        bold = self._bold(_as_slice(targets))
        total = np.zeros((len(showings), len(targets)), dtype=np.float32)
        for positions in showings.T:
            shown = positions >= 0
            total[shown] += bold[positions[shown]]
        total /= (showings >= 0).sum(axis=1, keepdims=True).astype(np.float32)
        lost = ~np.isfinite(total)
        broken = lost.any(axis=0) & ~np.isnan(total).all(axis=0)
        if broken.any():
            row, first = int(lost[:, broken].any(axis=1).argmax()), self.rows.iloc[showings[:, 0]]
            raise StudyError(
                where=f"{self.subject} brain cube, {first['segment'].iloc[row]} at {first['onset_s'].iloc[row]:g} s",
                found=f"NaN or infinity in some rows of {int(broken.sum())} targets",
                expected="finite responses, or NaN in all rows of a target",
                do="run the `brain` stage again; `cinecube verify` names the targets",
            )
        return total

    def _bold(self, targets: np.ndarray | slice) -> np.ndarray:
        """Responses (time, target) as stored; a small cube is read once, as any of its targets are in one file."""
        kept = self.__dict__.get(_WHOLE)
        if kept is not None:
            return kept[:, targets]
        lazy = self.cube["bold"].transpose("time", "target")
        small = self.n_targets <= TARGETS_PER_SHARD and lazy.nbytes <= _KEPT_BYTES
        with judged_by_reader():
            bold = read_values(lazy if small else lazy.isel(target=targets), f"brain cube of {self.subject}")
        if small:
            self.__dict__[_WHOLE] = bold
        return bold[:, targets] if small else bold

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != _WHOLE}


def _as_slice(positions: np.ndarray) -> np.ndarray | slice:
    """Neighbouring positions as a slice, which zarr reads several times faster than a list of them."""
    start, stop = int(positions[0]), int(positions[-1]) + 1
    neighbours = stop - start == len(positions) and bool((np.diff(positions) == 1).all())
    return slice(start, stop) if neighbours else positions


def open_responses(subject: str, cube: xr.Dataset, clock_s: float, clock: str) -> Responses:
    """A brain cube whose rows can be matched with those of a clock.

    Parameters
    ----------
    subject : str
    cube : Dataset
    clock_s : float
        Seconds between rows.
    clock : str
        Which clock that is, for messages.

    Returns
    -------
    Responses
        Lazy.

    Raises
    ------
    StudyError
        If the scan's TR is not the clock's, or the cube is another subject's.
    """
    refuse_another(cube, f"{subject} brain cube", "bold", subject=subject)
    tr_s = float(cube.attrs["tr_s"])
    if not same_step(tr_s, clock_s):
        raise StudyError(
            where=f"{subject} brain cube",
            found=f"a TR of {tr_s:g} s",
            expected=f"{clock}, {clock_s:g} s",
            do="set clock.tr_s to the scans' TR, and run `dvc repro`",
        )
    rows = pd.DataFrame({name: cube[name].values for name in ("segment", "repeat", "onset_s")})
    return Responses(subject, cube, rows)


def check_same_space(responses: Sequence[Responses]) -> dict[str, Any]:
    """Attributes that place targets in space, which all subjects must share; parcels may be of subjects on other grids.

    Raises
    ------
    StudyError
        If two subjects are in different spaces or grids, or have parcels of different atlases.
    """
    attrs = [brain.cube.attrs for brain in responses]
    for brain in responses[1:]:
        if reason := _other_space(brain.cube.attrs, attrs[0]):
            where, name = f"{brain.subject} brain cube", str(attrs[0].get("space"))
            raise unlike_subjects(where, reason, responses[0].subject, name)
    # Parcels have no grid of their own: one is kept where all subjects have it.
    grid = () if len({(one.get("affine"), one.get("shape")) for one in attrs}) > 1 and _of_parcels(attrs[0]) else _GRID
    return {name: attrs[0][name] for name in ("space", "targets", "place", *grid) if name in attrs[0]}


def _of_parcels(attrs: Mapping[str, Any]) -> bool:
    return attrs.get("targets") == "parcels"


def _other_space(attrs: Mapping[str, Any], like: Mapping[str, Any]) -> str | None:
    """Difference between the spaces of two cubes, in words."""
    try:
        return other_space(space_of(attrs), space_of(like))
    except StudyError:  # cubes of others may describe none
        names = ("space", "targets", *_GRID, "place")
        unlike = next((name for name in names if attrs.get(name) != like.get(name)), None)
        return unlike and f"{unlike} {attrs.get(unlike)}"
