"""The specs of what a study asks for, as far as they are known without computing: JSON values, as cubes hold them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cinecube.store.base.fingerprint import canonical
from cinecube.store.open.cube_names import StudyCube
from cinecube.store.params.analysis_params import Pair
from cinecube.store.params.document import Study

Spec = Mapping[str, Any]
ENCODERS = ("encode", "encode_imported", "encode_residual")


def compared(study: Study, root: Path, cube: StudyCube, stored: Spec) -> tuple[Spec, Spec]:
    """A spec as it is stored and as it would be made now, as far as that is known without computing.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    cube : StudyCube
    stored : Mapping
        The spec that it holds.

    Returns
    -------
    stored, asked : Mapping
        Of brain cubes, both without what only DVC knows.

    Raises
    ------
    StudyError
        If a cube that it is made from is missing, or they do not fit each other; so do the others here.
    """
    kind = cube.stage.partition("@")[0]
    if kind in ENCODERS:
        asked = of_scores(study, root, cube.name)
        if stored.get("kind") == "predictions":
            from cinecube.analysis.encoders.parcel_films import predictions_spec

            return stored, predictions_spec(asked)
        return stored, asked
    if kind == "residual_features":
        pair = next(pair for pair in study.residual if pair.name == cube.name)
        return stored, of_residual(study, root, pair)[cube.film]
    if kind == "brain":
        # Scans are told by DVC, which has hashed them; here they would be read in full.
        from cinecube.store.scans.brain import asked_spec

        asked = asked_spec(study, cube.name)
        return {key: stored.get(key) for key in (*asked, "version")}, asked
    of_kind: dict[str, Callable[[], Spec]] = {
        "features": lambda: of_features(study, root, cube.name, cube.film),
        "weights": lambda: of_weights(study, root, cube.name),
        "ceiling": lambda: of_ceiling(study, root),
        "partition": lambda: of_partition(study, root),
        "significance": lambda: of_significance(study, root),
    }
    return stored, of_kind[kind]()


def of_features(study: Study, root: Path, model: str, film: str) -> Spec:
    """Spec of a feature cube.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    model, film : str

    Returns
    -------
    dict
        Field -> value.
    """
    from cinecube.features.extraction.checkpoint import present_record
    from cinecube.features.extraction.spec import feature_spec

    return feature_spec(study, model, film, root, present_record(study, model, root))


def of_scores(study: Study, root: Path, name: str) -> Spec:
    """Spec of the score cube of a model or pair.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    name : str
        Of the model or pair.

    Returns
    -------
    dict
        Field -> value, in JSON values.
    """
    from cinecube.analysis.encoders.problem import read_problem, score_spec

    return _as_json(score_spec(study, read_problem(study, root, name, fitted=False)))


def of_weights(study: Study, root: Path, model: str) -> Spec:
    """Spec of a model's weights.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    model : str

    Returns
    -------
    dict
        Field -> value, in JSON values.
    """
    from cinecube.analysis.cubes.results import open_scores
    from cinecube.analysis.encoders.problem import read_problem
    from cinecube.analysis.weights.stage import choose_kept_layers, weights_spec

    problem, scores = read_problem(study, root, model, fitted=False), open_scores(root, model)
    return _as_json(weights_spec(study, problem, choose_kept_layers(scores, study.kept_weights(model).layer)))


def of_ceiling(study: Study, root: Path) -> Spec:
    """Spec of the ceiling cube.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.

    Returns
    -------
    dict
        Field -> value, in JSON values.
    """
    from cinecube.analysis.ceilings.stage import ceiling_spec, read_brains

    return _as_json(ceiling_spec(study, read_brains(study, root, fitted=False)))


def of_partition(study: Study, root: Path) -> Spec:
    """Spec of the partition; without sets, of the empty cube.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.

    Returns
    -------
    dict
        Field -> value, in JSON values.
    """
    from cinecube.analysis.encoders.oota2025 import without_choices
    from cinecube.analysis.partition.layers import choose_layers
    from cinecube.analysis.partition.stage import partition_spec, read_entries

    if not study.partition:
        return {"sets": []}
    study = without_choices(study)
    return _as_json(partition_spec(study, *read_entries(study, root, choose_layers(study, root))))


def of_residual(study: Study, root: Path, pair: Pair) -> Mapping[str, Spec]:
    """Specs of a pair's feature cubes, by film.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    pair : Pair

    Returns
    -------
    Mapping
        Film -> spec.
    """
    from cinecube.analysis.encoders.oota2025 import without_choices
    from cinecube.analysis.residuals.residual_cubes import open_pair, residual_spec

    study = without_choices(study)
    inputs = open_pair(study, root, pair)
    return {film: _as_json(residual_spec(study, inputs, film)) for film in [*study.split.train, *study.split.test]}


def of_significance(study: Study, root: Path) -> Spec:
    """Spec of the tests.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.

    Returns
    -------
    dict
        Field -> value, in JSON values.
    """
    from cinecube.analysis.cubes.results import open_scores
    from cinecube.analysis.significance.stage import significance_spec

    fingerprints = {model: str(open_scores(root, model).attrs["fingerprint"]) for model in study.encoded}
    return _as_json(significance_spec(study, fingerprints))


def _as_json(spec: Spec) -> Spec:
    """The spec with lists for tuples, as JSON stores it."""
    found: Spec = json.loads(canonical(spec))
    return found
