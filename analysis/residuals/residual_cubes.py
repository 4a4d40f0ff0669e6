"""The stage `residual_features`: feature cubes of what one model holds that another does not explain."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from cinecube.analysis.cubes.results import find_stream
from cinecube.analysis.cubes.spaces import FeatureSpace, open_space
from cinecube.analysis.cubes.tables import write_table
from cinecube.analysis.cubes.unscored import listed
from cinecube.analysis.encoders.oota2025 import without_choices
from cinecube.analysis.encoders.problem import make_settings
from cinecube.analysis.residuals import SHARED_VERSIONS, VERSION
from cinecube.analysis.residuals.drops import CHECKS
from cinecube.analysis.ridge.design import varying_dims
from cinecube.analysis.ridge.folds import Fold, Gap, leave_segments_out
from cinecube.store.base.atomic import staged
from cinecube.store.base.errors import StudyError
from cinecube.store.base.fingerprint import raised
from cinecube.store.base.journal import Block, Journal, open_journal
from cinecube.store.base.labels import find_layer
from cinecube.store.base.paths import StudyPaths
from cinecube.store.base.writing import one_writer
from cinecube.store.clock.clock import match_onsets, step_s
from cinecube.store.cube.cubes import write_feature_cube
from cinecube.store.cube.schema import SCHEMA, Stream, feature_template, provenance, rows_index
from cinecube.store.params.analysis_params import Pair
from cinecube.store.params.document import Study

if TYPE_CHECKING:
    from cinecube.analysis.encoders.problem import Settings
    from cinecube.analysis.residuals.unexplained import Remover, Residual

_log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
# The check shows means over dims: those of a thousand say what those of ten thousand would, in a tenth of the memory.
_CHECK_DIMS = 1000
_CHECK_KERNEL_ROWS = 1000
_PACKAGES = ("numpy", "scipy", "scikit-learn")


@dataclass(frozen=True)
class PairInputs:
    """Two streams and the rows that both have, training films first.

    Attributes
    ----------
    pair : Pair
    keep, remove : FeatureSpace
        Cubes of the models that own the streams.
    keep_model, remove_model : int
        Positions of the streams on the model axes.
    keep_layers, remove_layers : tuple of int
        Positions on the layer axes: all that the kept stream has, and those to remove.
    keep_rows, remove_rows : arrays of int, shape (row,)
        Positions in the cubes.
    rows : DataFrame
        `segment`, `onset_s`, `film` of each row.
    train : array of bool, shape (row,)
    folds : list of (train, validation)
        Positions among the training rows. Features are not delayed here, so the gap holds no delay.
    """

    pair: Pair
    keep: FeatureSpace
    remove: FeatureSpace
    keep_model: int
    remove_model: int
    keep_layers: tuple[int, ...]
    remove_layers: tuple[int, ...]
    keep_rows: np.ndarray
    remove_rows: np.ndarray
    rows: pd.DataFrame
    train: np.ndarray
    folds: list[Fold]

    @property
    def layers(self) -> list[str]:
        """Labels of the layers kept."""
        return [self.keep.layers[k] for k in self.keep_layers]

    @property
    def layers_removed(self) -> list[str]:
        """Labels of the layers that are removed, side by side."""
        return [self.remove.layers[k] for k in self.remove_layers]

    def read_kept(self, place: int) -> np.ndarray:
        """A layer by its place in `layers`, float32 (row, dim)."""
        return self.keep.read_layer(self.keep_model, self.keep_layers[place])[self.keep_rows]

    def read_removed(self) -> np.ndarray:
        """All that is removed, layers side by side, float32 (row, dim)."""
        return np.concatenate(list(self.removed_layers()), axis=1)

    def removed_layers(self) -> Iterator[np.ndarray]:
        """Each layer that is removed, float32 (row, dim)."""
        return (self.remove.read_layer(self.remove_model, k)[self.remove_rows] for k in self.remove_layers)


def make_residual(study: Study, root: Path, pair_name: str, progress: Progress | None = None) -> None:
    """Remove one stream from another, and write a feature cube per film and a table of what is still predicted.

    All films are put in place together, with the stream's layers, widths and depths under the pair's name; values are
    in standard deviations that the kept features have on the training rows. What an interrupted run has finished is
    kept in a journal, layer by layer. Runs on Dask where that is much work: a layer is a job.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    pair_name : str
        A pair of `residual` in `params.yaml`, as `imagebind.concat-videomae`.
    progress : callable, optional
        Told `(layers done, layers in all)`.

    Raises
    ------
    StudyError
        If there is no such pair, stream or layer, a cube is missing or holds NaN, the models' rows differ, there is
        nothing to remove or to keep, workers are lost, or another process makes these cubes.
    """
    study, root = without_choices(study), root.absolute()  # a worker may run in another folder
    inputs = open_pair(study, root, study.pair(pair_name))
    paths = StudyPaths(root)
    films = [*study.split.train, *study.split.test]
    specs = {film: residual_spec(study, inputs, film) for film in films}
    folder = paths.residual(pair_name, films[0]).parent
    with (
        one_writer(paths, folder),
        open_journal(paths.journals, {"films": specs}, paths.relative(folder)) as journal,
    ):
        _fill(study, root, journal, inputs, progress)
        checks = _check_table(inputs, journal)
        with staged(folder) as partial:
            for film, spec in specs.items():
                _write_film(partial / paths.residual(pair_name, film).name, inputs, film, spec, journal)
            write_table(paths.residual_check(pair_name), checks)
        journal.remove()
    _tell(pair_name, checks)


def _tell(pair_name: str, checks: pd.DataFrame) -> None:
    """Log the layers with nothing left on the test films; NaN marks one that was constant before."""
    left = checks["variance_left"]
    for gone, words in (((left == 0), "nothing is left of"), (left.isna(), "constant before the removal, too:")):
        if gone.any():
            _log.warning("%s: %s %s", pair_name, words, listed(checks.loc[gone, "layer"]))


def open_pair(study: Study, root: Path, pair: Pair) -> PairInputs:
    """Open the cubes of both models, and match their rows by segment and onset.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    pair : Pair

    Returns
    -------
    PairInputs

    Raises
    ------
    StudyError
        If a cube, stream or layer is missing, or a row of one model has no partner in the other.
    """
    keep, remove = (open_space(study, root, study.owner(stream)) for stream in (pair.keep, pair.remove))
    keep_model, remove_model = (
        find_stream(space.models, stream, f"feature cubes of {study.owner(stream)}")
        for space, stream in ((keep, pair.keep), (remove, pair.remove))
    )
    rows, keep_rows, remove_rows = _match_rows(study, pair, keep, remove)
    train = rows["film"].isin(study.split.train).to_numpy()
    return PairInputs(
        pair,
        keep,
        remove,
        keep_model,
        remove_model,
        tuple(np.flatnonzero(keep.width[keep_model] > 0).tolist()),
        _layers_to_remove(remove, remove_model, pair),
        keep_rows,
        remove_rows,
        rows,
        train,
        _make_folds(study, rows[train], max(keep.window_s, remove.window_s)),
    )


def _layers_to_remove(space: FeatureSpace, m: int, pair: Pair) -> tuple[int, ...]:
    """Positions of the layers to remove, in the cube's order."""
    own = np.flatnonzero(space.width[m] > 0).tolist()
    if pair.layers == "all":
        return tuple(own)
    known = [space.layers[k] for k in own]
    wanted = {find_layer(label, known, f"residual {pair.name}, layers of {pair.remove}") for label in pair.layers}
    if not wanted:
        raise StudyError(
            where=f"residual {pair.name}", found="no layers", expected="all, or a list of layers", do="name some"
        )
    return tuple(k for k in own if space.layers[k] in wanted)


def _match_rows(
    study: Study, pair: Pair, keep: FeatureSpace, remove: FeatureSpace
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Labels of the rows of all segments in `split`, and their positions in both spaces."""
    labels, own, other = [], [], []
    for film in [*study.split.train, *study.split.test]:
        for segment in study.films[film]:
            here, there = (np.flatnonzero(space.rows["segment"] == segment) for space in (keep, remove))
            here_s, there_s = keep.rows["onset_s"].to_numpy()[here], remove.rows["onset_s"].to_numpy()[there]
            where = f"residual {pair.name}, {segment}"
            _refuse_lonely(where, (pair.keep, here_s), (pair.remove, there_s))
            _refuse_lonely(where, (pair.remove, there_s), (pair.keep, here_s))
            labels.append(rows_index({segment: here_s}).assign(film=film))
            own.append(here)
            other.append(there[match_onsets(here_s, there_s)])
    return pd.concat(labels, ignore_index=True), np.concatenate(own), np.concatenate(other)


def _refuse_lonely(where: str, one: tuple[str, np.ndarray], other: tuple[str, np.ndarray]) -> None:
    """Refuse rows (onset_s by stream) that the other stream lacks."""
    lonely = match_onsets(one[1], other[1]) < 0
    if lonely.any():
        raise StudyError(
            where=f"{where} at {one[1][lonely][0]:g} s",
            found=f"a row of {one[0]} that {other[0]} lacks, one of {int(lonely.sum())}",
            expected="the same rows of both models",
            do="extract both models of the same films at one clock",
        )


def _make_folds(study: Study, rows: pd.DataFrame, window_s: float) -> list[Fold]:
    """Whole segments left out of the training rows, as in `encode`."""
    films = {film: segments for film, segments in study.films.items() if film in study.split.train}
    last_onset_s = {str(name): float(s) for name, s in rows.groupby("segment")["onset_s"].max().items()}
    gap = Gap(study.split.gap_s, step_s(rows), window_s, max_delay=0)
    segment, onset_s = (rows[name].to_numpy() for name in ("segment", "onset_s"))
    return leave_segments_out(segment, onset_s, films, last_onset_s, study.encode.folds, gap)


def residual_spec(study: Study, inputs: PairInputs, film: str) -> dict[str, Any]:
    """Spec that the fingerprint of a film's residual hashes: the films it is fitted on, and its own cubes.

    A training film's residual does not depend on the test films, so neither does its fingerprint. What belongs to the
    film alone is under the keys that `join_films` lets differ between films.

    Parameters
    ----------
    study : Study
    inputs : PairInputs
    film : str

    Returns
    -------
    dict
        Field -> value.
    """
    keep, remove = inputs.keep.fingerprints(), inputs.remove.fingerprints()
    train = {name: segments for name, segments in study.films.items() if name in study.split.train}
    return {
        "schema": SCHEMA,
        "kind": "features",
        "extractor": "residual",
        "extractor_version": VERSION,
        "keep": inputs.pair.keep,
        "remove": inputs.pair.remove,
        "layers": inputs.layers,
        "layers_removed": inputs.layers_removed,
        "split": {"train": train, "gap_s": study.split.gap_s},
        "folds": study.encode.folds,
        "alphas": study.encode.alphas.model_dump(),
        "by": inputs.pair.by,
        "dtype": "float32",
        "fitted_on": {name: {"keep": keep[name], "remove": remove[name]} for name in train},
        "segments": study.films[film],
        "stimulus": {"keep": keep[film], "remove": remove[film]},
        **raised(SHARED_VERSIONS),
    }


def _fill(study: Study, root: Path, journal: Journal, inputs: PairInputs, progress: Progress | None) -> None:
    """Compute every layer that the journal lacks: a job reads its layer itself, what is removed is factored once."""
    from cinecube.store.jobs.tasks import open_workers, run_jobs, share, submit

    settings = make_settings(study)

    places = range(len(inputs.keep_layers))
    todo = [p for p in places if not (journal.has(_residual_block(inputs, p)) and journal.has(_check_block(inputs, p)))]
    done = len(places) - len(todo)
    if progress:
        progress(done, len(places))
    if not todo:
        return
    _refuse_constant(inputs)
    with open_workers(study.dask, settings.threads, _work(inputs, settings, len(todo)), root) as workers:
        pair, how = share(workers, inputs), share(workers, settings)
        removed = submit(workers, _read_removed, settings.threads, pair)
        remover = submit(workers, _factored, settings.threads, removed, pair, how)
        thinned = submit(workers, _thinned, settings.threads, removed)
        del removed  # or a worker would keep it to the end
        jobs = ((place, (pair, place, remover, thinned, how)) for place in todo)
        for place, (values, check) in run_jobs(workers, _layer, jobs, settings.threads):
            journal.write(_residual_block(inputs, place), values)
            journal.write(_check_block(inputs, place), check)
            done += 1
            if progress:
                progress(done, len(places))


def _work(inputs: PairInputs, settings: Settings, n_layers: int) -> float:
    """Multiplications for so many layers, roughly: those that factor what is removed and left, and that predict."""
    n_rows, parts = float(inputs.train.sum()), len(inputs.folds) + 1
    kept = float(inputs.keep.width[inputs.keep_model].max())
    removed = float(inputs.remove.width[inputs.remove_model, list(inputs.remove_layers)].sum())
    factoring = [9 * parts * min(n_rows, width) ** 3 for width in (removed, kept, _CHECK_KERNEL_ROWS)]
    predicting = n_rows * len(settings.alphas) * (min(n_rows, removed) * kept + min(n_rows, kept) * _CHECK_DIMS)
    return factoring[0] + n_layers * (factoring[1] + factoring[2] + predicting)


def _read_removed(inputs: PairInputs) -> np.ndarray:
    """Task: all that is removed, (row, dim)."""
    return inputs.read_removed()


def _factored(removed: np.ndarray, inputs: PairInputs, settings: Settings) -> Remover:
    """Task: what is removed, factored for all layers."""
    from cinecube.analysis.residuals.unexplained import make_remover

    by, alphas = inputs.pair.by, settings.alphas
    return make_remover(removed, inputs.train, inputs.folds, alphas, settings.backend, by=by)


def _refuse_constant(inputs: PairInputs) -> None:
    """Refuse a pair if one side does not vary over the training films: nothing would be removed, or was there."""
    pair, train = inputs.pair, inputs.train
    kept = (varying_dims(inputs.read_kept(place)[train]).any() for place in range(len(inputs.keep_layers)))
    removed = (varying_dims(part[train]).any() for part in inputs.removed_layers())
    for stream, layers, varies in (
        (pair.remove, inputs.layers_removed, any(removed)),
        (pair.keep, inputs.layers, any(kept)),
    ):
        if not varies:
            raise StudyError(
                where=f"residual {pair.name}",
                found=f"features of {stream} that are constant over the training films, at {listed(layers)}",
                expected="features that vary",
                do="extract them again, or take the pair out of `residual` in params.yaml",
            )


def _thinned(removed: np.ndarray) -> np.ndarray:
    """Task: evenly spaced dims of (row, dim), few enough for the check."""
    n_dims = removed.shape[1]
    return removed[:, np.unique(np.linspace(0, n_dims - 1, min(n_dims, _CHECK_DIMS)).round().astype(int))]


def _layer(
    inputs: PairInputs, place: int, remover: Remover, removed: np.ndarray, settings: Settings
) -> tuple[np.ndarray, np.ndarray]:
    """Task: residual (row, dim) of a layer, and the figures of its check in the order of `CHECKS`."""
    from cinecube.analysis.residuals.unexplained import still_predicted

    kept = inputs.read_kept(place)
    found = remover.residual(kept)
    figures = still_predicted(
        found.residual,
        removed,
        inputs.train,
        inputs.folds,
        settings.alphas,
        kernel_rows=_CHECK_KERNEL_ROWS,
        backend=settings.backend,
    ).means() | {"variance_left": _variance_left(kept, found, ~inputs.train)}
    return found.residual, np.array([figures[name] for name in CHECKS])


def _variance_left(kept: np.ndarray, found: Residual, test: np.ndarray) -> float:
    """Variance of the residual over that of the layer on the test rows, mean over dims."""
    whole = (kept[test].astype(np.float64) / found.spread).var(axis=0)
    left = found.residual[test].astype(np.float64).var(axis=0)
    varies = whole > 0
    return float((left[varies] / whole[varies]).mean()) if varies.any() else float("nan")


def _residual_block(inputs: PairInputs, place: int) -> Block:
    return Block(f"residual.{inputs.layers[place]}", 0, len(inputs.rows))


def _check_block(inputs: PairInputs, place: int) -> Block:
    return Block(f"check.{inputs.layers[place]}", 0, len(CHECKS))


def _check_table(inputs: PairInputs, journal: Journal) -> pd.DataFrame:
    figures = np.stack([journal.read(_check_block(inputs, place)) for place in range(len(inputs.layers))])
    table = pd.DataFrame(figures, columns=list(CHECKS))
    table.insert(0, "layer", inputs.layers)
    return table


def _write_film(path: Path, inputs: PairInputs, film: str, spec: dict[str, Any], journal: Journal) -> None:
    template = _template(inputs, film, spec)
    own = np.flatnonzero((inputs.rows["film"] == film).to_numpy())
    labels = [str(label) for label in template["layer"].values]

    def read(_: int, k: int) -> np.ndarray:
        return journal.read(_residual_block(inputs, inputs.layers.index(labels[k])))[own[0] : own[-1] + 1]

    write_feature_cube(path, template, read)


def _template(inputs: PairInputs, film: str, spec: dict[str, Any]) -> xr.Dataset:
    """An empty cube of a film: rows, layers, widths and depths of the stream kept."""
    rows = inputs.rows[inputs.rows["film"] == film]
    widths, depths = (
        dict(zip(inputs.layers, values[inputs.keep_model, list(inputs.keep_layers)], strict=True))
        for values in (inputs.keep.width, inputs.keep.depth)
    )
    stream = Stream(inputs.pair.name, inputs.layers, [int(widths[label]) for label in inputs.layers])
    licence = _licence(inputs.keep.cubes[film], inputs.remove.cubes[film])
    attrs = provenance("features", spec, _PACKAGES, **licence)
    template = feature_template(rows, inputs.keep.window_s, [stream], "float32", attrs)
    # Depth counts by the network's last block, which need not be among the layers.
    depth = np.array([[depths[str(label)] for label in template["layer"].values]])
    return template.assign_coords(depth=(("model", "layer"), depth))


def _licence(*parents: xr.Dataset) -> dict[str, str]:
    """Licences of the weights behind both parents, each once."""
    known = [str(cube.attrs["licence"]) for cube in parents if cube.attrs.get("licence")]
    return {"licence": ", ".join(dict.fromkeys(known))} if known else {}
