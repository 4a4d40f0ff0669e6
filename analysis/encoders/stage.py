"""The stage `encode`: feature cubes and brain cubes in, score cubes out."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from cinecube.analysis.cubes.spaces import check_same_space
from cinecube.analysis.cubes.target_axis import TargetAxis, find_targets_of, join_targets
from cinecube.analysis.cubes.unscored import LACKING, MEANINGS, SCORED, STILL, UNFIT, notes
from cinecube.analysis.encoders.block_fits import SCORES
from cinecube.analysis.encoders.encoding import Scored, encode_layers, find_constant, refuse_still_subjects
from cinecube.analysis.encoders.lag import LAGS, scan_lags
from cinecube.analysis.encoders.parcel_films import predict_parcels, predictions_spec
from cinecube.analysis.encoders.problem import Problem, read_problem, score_spec
from cinecube.store.base.errors import StudyError
from cinecube.store.base.fingerprint import canonical, fingerprint
from cinecube.store.base.journal import Journal, open_journal
from cinecube.store.base.paths import StudyPaths
from cinecube.store.base.writing import one_writer
from cinecube.store.cube.cubes import write_cube
from cinecube.store.cube.schema import DIMS, provenance, string_coordinate
from cinecube.store.jobs.tasks import Progress, Workers, open_workers
from cinecube.store.open.recorded import input_digests, last_run, stored_inputs, take_back
from cinecube.store.params.document import Study

_log = logging.getLogger(__name__)


def encode(study: Study, root: Path, model: str, progress: Progress | None = None) -> bool:
    """Score a model, on Dask where that is much work, and write its score cube and its predictions of parcels.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    model : str
        Name in `params.yaml`.
    progress : callable, optional
        Told `(tasks done, tasks in all)`.

    Returns
    -------
    bool
        Whether all of it was computed, and nothing was left of the last run.

    Raises
    ------
    StudyError
        If a cube is missing or holds NaN, cubes do not fit each other, nothing of the features or of a subject's
        responses varies, workers are lost, or another process scores this model.
    """
    root = root.absolute()  # a worker may run in another folder
    # What can be refused is refused before any worker starts.
    problem = read_problem(study, root, model)
    paths, spec = StudyPaths(root), score_spec(study, problem)
    made = {paths.scores(model): fingerprint(spec), paths.predictions(model): fingerprint(predictions_spec(spec))}
    with ExitStack() as held:
        held.enter_context(one_writer(paths, *made))
        inputs = input_digests(study, root, [model])
        if take_back(paths, made, inputs):
            return False
        known = scores_of_last_run(problem, spec, inputs, last_run(paths, *made))
        journal = held.enter_context(open_journal(paths.journals, spec, paths.relative(paths.scores(model))))
        workers = held.enter_context(open_workers(study.dask, study.run.threads, problem.work, root))
        cube = score_model(study, problem, workers, progress, journal, known)
        write_cube(paths.scores(model), cube.assign_attrs(inputs=json.dumps(inputs, sort_keys=True)))
        write_cube(paths.predictions(model), predict_parcels(study, problem, cube, workers))
        journal.remove()
    if known:
        _log.info("as the last run left them, since nothing of theirs has changed: %s", ", ".join(known))
    segments = len(study.segments(study.split.train))
    if study.encode.folds > segments:
        _log.warning(
            "encode.folds is %d, but the training films have %d segments: each was a fold of its own",
            *(study.encode.folds, segments),
        )
    for line in notes(cube, *(["nothing is left there"] if _is_pair(study, model) else [])):
        _log.warning("%s", line)
    return not known


def _is_pair(study: Study, model: str) -> bool:
    return model in {pair.name for pair in study.residual}


def scores_of_last_run(
    problem: Problem, spec: Mapping[str, Any], inputs: Mapping[str, Any], cube: xr.Dataset | None
) -> Scored:
    """Scores of the subjects who would have the same again: of these features, responses, rows and settings.

    Parameters
    ----------
    problem : Problem
    spec : Mapping
        Of this run.
    inputs : Mapping
        From `input_digests`, of this run.
    cube : Dataset, optional
        The score cube of an earlier run.

    Returns
    -------
    Scored
        Of no subject where settings differ, or targets share a penalty.
    """
    if cube is None or problem.settings.one_alpha:
        return {}
    before, now = json.loads(str(cube.attrs["spec"])), json.loads(canonical(spec))
    read = stored_inputs(cube.attrs)
    if {**before, "brain": None} != {**now, "brain": None} or read["features"] != inputs["features"]:
        return {}
    rows = json.loads(str(cube.attrs.get("rows_of", "{}")))
    same = [
        name
        for name, digest in problem.rows_of.items()
        if rows.get(name) == digest and read["brain"].get(name) == inputs["brain"][name]
    ]
    found = {}
    for name in same:
        own = cube[list(SCORES)].sel(subject=name).isel(target=find_targets_of(cube, problem.brains[name])).load()
        found[name] = {score: own[score].transpose("model", "layer", "target").values for score in SCORES}
    return found


def score_model(
    study: Study,
    problem: Problem,
    workers: Workers = None,
    progress: Progress | None = None,
    kept: Journal | None = None,
    known: Scored | None = None,
) -> xr.Dataset:
    """Score cube of a model; without workers all runs here, one task after another.

    Blocks in `kept` are not computed again.

    Parameters
    ----------
    study : Study
    problem : Problem
    workers : Client, Threads or None
    progress : callable, optional
        Told (done, total).
    kept : Journal, optional
        Of this cube.
    known : Scored, optional
        From `scores_of_last_run`: these subjects are not fitted.

    Returns
    -------
    Dataset
        `score`, `cv_score`, `alpha` (subject, model, layer, target) and `lag_score` (subject, model, lag, target);
        targets rising, NaN where a subject lacks one, it does not vary or the layer's features do not; which those are
        say `constant (model, layer)` and `unscored (subject, target)`.

    Raises
    ------
    StudyError
        Before anything is fitted, if features hold NaN, or nothing of them or of a subject's responses varies. If two
        subjects call the same target by different names.
    """
    refuse_still_subjects(problem.brains, problem.groups, problem.settings.targets_per_block)
    problem = replace(problem, space=replace(problem.space, constant=find_constant(problem, workers)))
    _refuse_constant(study, problem)
    known = _of_layers(known or {}, problem)
    fitted = encode_layers(problem.of_subjects(problem.brains.keys() - known.keys()), workers, progress, kept)
    found = {name: known[name] if name in known else fitted[name] for name in problem.brains}
    return _score_cube(study, problem, found, scan_lags(problem, found, workers))


def _of_layers(known: Scored, problem: Problem) -> Scored:
    """Known scores at the layers that vary; none of a subject who lacks one of them."""
    varies = np.zeros(problem.space.width.shape, dtype=bool)
    for place in problem.layers:
        varies[place] = True
    return {
        name: {score: np.where(varies[..., None], one, np.nan) for score, one in values.items()}
        for name, values in known.items()
        if np.isfinite(values["alpha"][varies]).any(axis=-1).all()
    }


def _refuse_constant(study: Study, problem: Problem) -> None:
    """Refuse features that do not vary at all; those of a pair may be what a removal leaves."""
    if problem.layers or _is_pair(study, problem.space.models[0]):
        return
    raise StudyError(
        where=f"features of {', '.join(problem.space.models)}",
        found=f"values that are constant over the training or the test films, at {', '.join(problem.space.layers)}",
        expected="features that vary at one layer or more",
        do="look at the films and the checkpoint and extract them again, or take the model out of params.yaml",
    )


def _score_cube(study: Study, problem: Problem, found: Scored, lag_scores: Mapping[str, np.ndarray]) -> xr.Dataset:
    """Join the subjects' scores on one target axis, rising; `lag_scores` (model, lag, target) from `scan_lags`."""
    brains, segments = list(problem.brains.values()), study.segments([*study.split.train, *study.split.test])
    axis = join_targets(brains)
    variables: dict[str, Any] = {
        name: (DIMS["score"], axis.stack({s: values[name] for s, values in found.items()})) for name in SCORES
    }
    variables["lag_score"] = (("subject", "model", "lag", "target"), axis.stack(lag_scores))
    variables |= _without_scores(found, problem, axis)
    attrs = provenance(
        "scores",
        score_spec(study, problem),
        ("himalaya", "numpy", "scikit-learn"),
        **check_same_space(brains),
        tr_s=study.clock.tr_s,
        rows_of=json.dumps(problem.rows_of, sort_keys=True),
        rows=json.dumps(
            [{"subjects": group.subjects, **group.counts(segments)} for group in problem.groups]
            + [{"subjects": [name], **rows} for name, rows in problem.unfit.items()],
            sort_keys=True,
        ),
    )
    coords = {
        "subject": string_coordinate(axis.subjects),
        "model": string_coordinate(problem.space.models),
        "layer": string_coordinate(problem.space.layers),
        "depth": (("model", "layer"), problem.space.depth),
        "lag": np.array(LAGS, dtype=np.int32),
        **axis.coords(),
    }
    return xr.Dataset(variables, coords, dict(sorted(attrs.items())))


def _without_scores(found: Scored, problem: Problem, axis: TargetAxis) -> dict[str, Any]:
    """Variables of missing scores: `constant (model, layer)`, and reasons of targets, `unscored (subject, target)`."""
    constant = np.zeros(problem.space.width.shape, dtype=bool)
    for place in problem.space.constant:
        constant[place] = True
    fitted = problem.layers
    # Whatever the features are, a penalty is chosen for every target that varies.
    still = {
        name: np.all([np.isnan(values["alpha"][m, k]) for m, k in fitted] or [np.zeros(values["alpha"].shape[-1])], 0)
        for name, values in found.items()
    }
    known = axis.stack(still)
    unfit = np.isin(axis.subjects, list(problem.unfit))[:, None]
    why = [np.isnan(known), np.broadcast_to(unfit, known.shape), known > 0]
    unscored = np.select(why, [LACKING, UNFIT, STILL], SCORED).astype(np.int8)
    flags = {"flag_values": list(MEANINGS), "flag_meanings": " ".join(MEANINGS.values())}
    return {
        "constant": (("model", "layer"), constant, {"about": "no scores: features do not vary"}),
        "unscored": (("subject", "target"), unscored, {"about": "why a target has no scores", **flags}),
    }
