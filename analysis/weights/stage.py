"""The stage `weights`: encoders of one layer fitted again at their penalties, and their weights kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from cinecube.analysis.cubes.results import open_scores
from cinecube.analysis.cubes.spaces import check_same_space, spec_without_film
from cinecube.analysis.cubes.target_axis import TargetAxis, find_targets_of, join_targets
from cinecube.analysis.encoders.predictions import Chosen, predicting_work
from cinecube.analysis.encoders.problem import Problem, read_problem, score_spec, split_block
from cinecube.analysis.ridge.design import constants
from cinecube.analysis.weights import VERSIONS
from cinecube.analysis.weights.fitting import fit_chosen
from cinecube.store.base.errors import StudyError
from cinecube.store.base.labels import find_layer
from cinecube.store.base.paths import StudyPaths
from cinecube.store.base.writing import one_writer, scratch_folder
from cinecube.store.cube.cubes import write_cube
from cinecube.store.cube.schema import DIMS, TARGETS_PER_SHARD, provenance, string_coordinate
from cinecube.store.jobs.tasks import Progress, Threads, open_workers
from cinecube.store.params.document import Study

Weights = np.ndarray
"""(model, target, delay, dim), NaN past a layer's width and where there are none."""
BEST = "best"
"""Of `keep_weights`: the layer that the training films chose for all targets together."""


def keep_weights(study: Study, root: Path, model: str, progress: Progress | None = None) -> None:
    """Fit a model's encoders at one layer of each stream, and write `results/weights`.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    model : str
        Of the section `keep_weights`.
    progress : callable, optional
        Told (done, total).

    Raises
    ------
    StudyError
        If the section lacks the model, a cube is missing, a stream has no scores at the layer, or another process does
        the same.
    """
    root = root.absolute()  # a worker may run in another folder
    paths, layer = StudyPaths(root), study.kept_weights(model).layer
    problem, scores = read_problem(study, root, model), open_scores(root, model)
    layers = choose_kept_layers(scores, layer)
    chosen = _chosen(problem, scores, layers)
    axis, widths = join_targets(list(problem.brains.values())), _widths(problem, layers)
    n_targets = sum(int((own >= 0).sum()) for own in chosen.layer.values())
    with (
        one_writer(paths, paths.weights(model)),
        scratch_folder(paths, f"weights-{model}") as folder,
        open_workers(study.dask, study.run.threads, predicting_work(problem), root) as workers,
    ):
        kept, done = _begin(folder, problem, axis, max(widths)), 0
        for fitted in fit_chosen(problem, chosen, workers, None if isinstance(workers, Threads) else folder / "parts"):
            for piece, own in split_block(fitted.block, fitted.weights.T):
                at = axis.place[piece.subject][piece.targets]
                kept[piece.subject][fitted.m, at, :, : widths[fitted.m]] = own.T.reshape(len(at), -1, widths[fitted.m])
            done += len(fitted.weights)
            if progress:
                progress(done, n_targets)
        write_cube(paths.weights(model), _weights_cube(study, problem, layers, axis, kept))


def choose_kept_layers(scores: xr.Dataset, layer: str | int) -> dict[str, str]:
    """The layer of each stream whose weights are kept.

    Parameters
    ----------
    scores : Dataset
        The model's score cube.
    layer : str or int
        `best`, a label, or a block's number.

    Returns
    -------
    dict of str to str
        Stream -> label.

    Raises
    ------
    StudyError
        If no stream has scores at the layer.
    """
    mean = scores["cv_score"].mean(["subject", "target"]).transpose("model", "layer").load()
    labels = [str(name) for name in mean["layer"].values]
    asked = None if layer == BEST else find_layer(layer, labels, "keep_weights")
    found = {}
    for name, own in zip(map(str, mean["model"].values), mean.values, strict=True):
        if np.isfinite(own).any() and asked is None:
            found[name] = labels[int(np.nanargmax(own))]
        elif asked is not None and np.isfinite(own[labels.index(asked)]):
            found[name] = asked
    if not found:
        raise StudyError(
            where="keep_weights",
            found=f"layer {layer}, at which {', '.join(map(str, mean['model'].values))} has no scores",
            expected="a layer with scores",
            do="name another one, or `best`",
        )
    return found


def _chosen(problem: Problem, scores: xr.Dataset, layers: Mapping[str, str]) -> Chosen:
    """The kept layer of every target, and its penalty there."""
    layer, alpha = {}, {}
    for subject, brain in problem.brains.items():
        at = find_targets_of(scores, brain)
        of_subject = scores["alpha"].sel(subject=subject).isel(target=at).transpose("model", "layer", "target").load()
        alpha[subject] = np.full((len(problem.space.models), brain.n_targets), np.nan)
        places = np.full(alpha[subject].shape, -1)
        for m, stream in enumerate(problem.space.models):
            if stream in layers:
                alpha[subject][m] = of_subject.sel(model=stream, layer=layers[stream]).values
                places[m] = problem.space.layers.index(layers[stream])
        layer[subject] = np.where(np.isfinite(alpha[subject]), places, -1)
    return Chosen(layer, alpha)


def _begin(folder: Path, problem: Problem, axis: TargetAxis, n_dims: int) -> dict[str, Weights]:
    """Arrays of NaN on disk by subject, (model, target, delay, dim)."""
    shape = len(problem.space.models), len(axis.labels), len(problem.settings.delays), n_dims
    kept: dict[str, Weights] = {}
    for subject in problem.brains:
        kept[subject] = np.lib.format.open_memmap(folder / f"{subject}.npy", mode="w+", dtype=np.float32, shape=shape)
        kept[subject][:] = np.nan
    return kept


def _widths(problem: Problem, layers: Mapping[str, str]) -> list[int]:
    """Dims of each stream's kept layer; 0 where it keeps none."""
    places = [problem.space.layers.index(layers[name]) if name in layers else -1 for name in problem.space.models]
    return [int(problem.space.width[m, k]) if k >= 0 else 0 for m, k in enumerate(places)]


def _weights_cube(
    study: Study, problem: Problem, layers: Mapping[str, str], axis: TargetAxis, kept: Mapping[str, Weights]
) -> xr.Dataset:
    """Weights of all subjects, lazily, and the constants by which features are standardised before they meet them."""
    import dask.array as da

    models, widths, delays = problem.space.models, _widths(problem, layers), problem.settings.delays
    chunks = (1, TARGETS_PER_SHARD, len(delays), max(widths))
    by_constant = np.full((2, len(problem.brains), len(models), max(widths)), np.nan)
    for m, stream in enumerate(models):
        if stream in layers:
            features = problem.space.read_layer(m, problem.space.layers.index(layers[stream]))
            for group in problem.groups:
                own = constants(features[np.unique(group.feature_row[group.train])])
                for subject in group.subjects:
                    by_constant[:, axis.subjects.index(subject), m, : widths[m]] = own
    attrs = provenance(
        "weights",
        weights_spec(study, problem, layers),
        ("numpy", "scikit-learn"),
        **check_same_space(list(problem.brains.values())),
        tr_s=study.clock.tr_s,
        features=json.dumps(spec_without_film(next(iter(problem.space.cubes.values()))), sort_keys=True),
    )
    lazy = [da.from_array(kept[subject], chunks=chunks) for subject in axis.subjects]
    variables: dict[str, Any] = {"weights": (DIMS["weights"], da.stack(lazy))}
    variables |= {
        name: (("subject", "model", "dim"), values)
        for name, values in zip(("mean", "spread"), by_constant, strict=True)
    }
    coords = {
        "subject": string_coordinate(axis.subjects),
        "model": string_coordinate(models),
        "layer": ("model", string_coordinate([layers.get(name, "") for name in models])),
        "width": ("model", np.array(widths, dtype=np.int32)),
        "delay": np.array(delays, dtype=np.int32),
        "dim": np.arange(max(widths), dtype=np.int32),
        **axis.coords(),
    }
    return xr.Dataset(variables, coords, dict(sorted(attrs.items())))


def weights_spec(study: Study, problem: Problem, layers: Mapping[str, str]) -> dict[str, Any]:
    """Spec that the cube's fingerprint hashes: that of the scores, and which layers were kept.

    Parameters
    ----------
    study : Study
    problem : Problem
    layers : Mapping of str to str
        From `choose_kept_layers`.

    Returns
    -------
    dict
        Field -> value.
    """
    return {**score_spec(study, problem), "kind": "weights", "version": VERSIONS, "layers": dict(layers)}
