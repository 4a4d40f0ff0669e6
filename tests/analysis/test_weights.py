"""Weights of encoders against ridge by the normal equations, and what they predict against scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from himalaya.ridge import RidgeCV
from sklearn.linear_model import Ridge

from cinecube.analysis.cubes.results import open_scores
from cinecube.analysis.encoders.pairs import Pairs, make_pairs
from cinecube.analysis.encoders.problem import read_problem
from cinecube.analysis.encoders.stage import encode
from cinecube.analysis.weights import stage
from cinecube.analysis.weights.applied import predict_film
from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import open_cube
from cinecube.store.jobs import tasks
from cinecube.store.params.analysis_params import KeptWeights
from cinecube.store.params.document import Study
from cinecube.store.verify.examining import examine

from .conftest import FILMS, MODEL, N_BLOCKS, make_study
from .residual_study import make_study as streams_study
from .residual_study import write_brains, write_features

Synthetic = Callable[..., Path]
# So many delays that features outnumber rows.
WIDE = list(range(1, 9))


def keeping(study: Study, model: str = MODEL, layer: str | int = "best") -> Study:
    return study.model_copy(update={"keep_weights": [KeptWeights(model=model, layer=layer)]})


def kept(study: Study, root: Path, model: str = MODEL) -> xr.Dataset:
    encode(study, root, model)
    stage.keep_weights(study, root, model)
    return open_cube(StudyPaths(root).weights(model)).load()


def pairs_of(study: Study, root: Path, layer: str, subject: str, stream: str | None = None) -> Pairs:
    problem = read_problem(study, root, (stream or MODEL).split(".")[0], fitted=False)
    return make_pairs(problem, problem.space.models.index(stream or MODEL), problem.space.layers.index(layer), subject)


def aligned(predicted: xr.DataArray, pairs: Pairs) -> np.ndarray:
    """Predictions at the pairs' test rows, found by their labels, in the pairs' targets."""
    own = predicted.sel(target=pairs.targets.index.to_numpy())
    rows = {
        (str(s), float(o)): n for n, (s, o) in enumerate(zip(own["segment"].values, own["onset_s"].values, strict=True))
    }
    test = pairs.rows[pairs.test]
    at = [rows[segment, onset_s] for segment, onset_s in zip(test["segment"], test["onset_s"], strict=True)]
    return own.values[at]


@pytest.mark.parametrize("delays", [[1, 2, 3, 4, 5], WIDE], ids=["primal", "dual"])
def test_weights_are_those_of_the_normal_equations(synthetic: Synthetic, delays: list[int]) -> None:
    study, root = keeping(make_study(delays=delays), layer="block06"), synthetic()
    weights, scores = kept(study, root), open_scores(root, MODEL)
    for subject in study.brain.subjects:
        pairs = pairs_of(study, root, "block06", subject)
        train = pairs.X[pairs.train]
        assert (train.shape[1] > len(train)) == (delays == WIDE)
        for column, target in zip(pairs.Y.T[:4], pairs.targets.index[:4], strict=True):
            alpha = float(scores["alpha"].sel(subject=subject, model=MODEL, layer="block06", target=target))
            plain = train.T @ np.linalg.solve(train @ train.T + alpha * np.eye(len(train)), column[pairs.train])
            found = weights["weights"].sel(subject=subject, model=MODEL, target=target)
            np.testing.assert_allclose(found.values.ravel(), plain, atol=2e-5)


@pytest.mark.parametrize("changes", [{}, {"delays": WIDE}, {"rows": "own"}, {"compat": ["delays_across_runs"]}])
def test_predicted_test_films_have_the_scores(synthetic: Synthetic, changes: dict[str, object]) -> None:
    """Each subject at the layer that the training films chose; one lacks the end of a test segment."""
    study, root = keeping(make_study(**changes)), synthetic(missing_rows={("sub-01", "dune02"): 5})
    weights, scores = kept(study, root), open_scores(root, MODEL)
    layer = str(weights["layer"].values[0])
    assert layer == str(scores["cv_score"].mean(["subject", "target"]).isel(model=0).idxmax("layer").values)
    predicted = predict_film(weights, open_cube(StudyPaths(root).features(MODEL, "dune")), "dune")
    for subject in study.brain.subjects:
        pairs = pairs_of(study, root, layer, subject)
        found = pairs.score(aligned(predicted.sel(subject=subject), pairs))
        reported = scores["score"].sel(subject=subject, model=MODEL, layer=layer, target=found["target"])
        np.testing.assert_allclose(found, reported, atol=1e-5)


def test_pairs_give_the_reports_scores_in_scikit_learn_and_himalaya(synthetic: Synthetic) -> None:
    study, root = make_study(), synthetic()
    encode(study, root, MODEL)
    pairs = pairs_of(study, root, "block06", "sub-01")
    own = open_scores(root, MODEL).sel(
        subject="sub-01", model=MODEL, layer="block06", target=pairs.targets.index.values
    )
    train, test = pairs.X[pairs.train], pairs.X[pairs.test]
    plain = Ridge(alpha=own["alpha"].values, fit_intercept=False).fit(train, pairs.Y[pairs.train])
    np.testing.assert_allclose(pairs.score(plain.predict(test)), own["score"], atol=1e-5)
    chosen = RidgeCV(alphas=pairs.alphas, fit_intercept=False, cv=pairs.folds).fit(train, pairs.Y[pairs.train])
    np.testing.assert_allclose(chosen.best_alphas_, own["alpha"], rtol=1e-4)
    np.testing.assert_allclose(pairs.score(chosen.predict(test)), own["score"], atol=1e-5)


def test_pairs_keep_runs_folds_and_showings_apart(synthetic: Synthetic) -> None:
    study = make_study()
    study = study.model_copy(update={"brain": study.brain.model_copy(update={"repeats": "separate"})})
    pairs = pairs_of(study, synthetic(), "block06", "sub-01")
    assert pairs.rows["repeat"].unique().tolist() == [1, 2]
    assert set(pairs.rows["segment"][pairs.test]) == set(FILMS["dune"])
    labels = pairs.rows.drop(columns="onset_s").drop_duplicates()
    assert len(pairs.runs) == len(labels)
    for start, stop in pairs.runs:
        assert len(pairs.rows.iloc[start:stop].drop(columns="onset_s").drop_duplicates()) == 1
        assert not pairs.X[start : start + min(pairs.delays)].any()
    segments = pairs.rows["segment"].to_numpy()[pairs.train]
    for train, validation in pairs.folds:
        assert not set(segments[train]) & set(segments[validation])
    np.testing.assert_allclose(pairs.X[pairs.train][:, -1].mean(), 0, atol=0.2)
    assert "block06 and sub-01" in repr(pairs)


def test_pairs_as_a_dataset_of_torch(synthetic: Synthetic) -> None:
    torch = pytest.importorskip("torch")
    pairs = pairs_of(make_study(), synthetic(), "embed", "sub-01")
    for part, rows in (("train", pairs.train), ("test", pairs.test)):
        features, responses = pairs.torch(part)[:]  # type: ignore[arg-type]
        assert features.dtype == responses.dtype == torch.float32
        np.testing.assert_allclose(features, pairs.X[rows], atol=1e-5)
        np.testing.assert_array_equal(responses, pairs.Y[rows])
    for wrong in ("Train", "training", "", None):  # none of them may stand for the test film
        with pytest.raises(StudyError, match=r"part=.*expected 'train' or 'test'"):
            pairs.torch(wrong)  # type: ignore[arg-type]


def test_a_target_that_does_not_vary_is_in_no_pair_and_has_no_weights(synthetic: Synthetic) -> None:
    study, root = keeping(make_study()), synthetic(constant_target=True)
    weights = kept(study, root)
    pairs = pairs_of(study, root, "embed", "sub-01")
    assert 1000 not in pairs.targets.index
    assert weights["weights"].sel(target=1000).isnull().all()
    assert weights["weights"].sel(target=1001).notnull().all()


def test_streams_are_kept_at_layers_of_their_own(tmp_path: Path) -> None:
    study = keeping(streams_study(), "bind")
    write_features(tmp_path)
    write_brains(tmp_path)
    weights, scores = kept(study, tmp_path, "bind"), open_scores(tmp_path, "bind")
    assert not examine(StudyPaths(tmp_path).weights("bind")).problems
    assert weights["layer"].sel(model="bind.concat").item() == "head"
    assert weights["width"].values.tolist() == [
        {"embed": 12, "block02": 12, "head": 8}[weights["layer"].values[0]],
        16,
    ]
    for stream in ("bind.video", "bind.concat"):
        own = weights.sel(model=[stream])
        predicted = predict_film(own, open_cube(StudyPaths(tmp_path).features("bind", "dune")), "dune")
        layer = own["layer"].item()
        pairs = pairs_of(study, tmp_path, layer, "sub-02", stream)
        found = pairs.score(aligned(predicted.sel(subject="sub-02"), pairs))
        reported = scores["score"].sel(subject="sub-02", model=stream, layer=layer, target=found["target"])
        np.testing.assert_allclose(found, reported, atol=1e-5)
    at_head = keeping(streams_study(), "bind", "block02")
    stage.keep_weights(at_head, tmp_path, "bind")
    assert open_cube(StudyPaths(tmp_path).weights("bind"))["layer"].values.tolist() == ["block02", ""]


def test_workers_change_no_weight(synthetic: Synthetic, monkeypatch: pytest.MonkeyPatch) -> None:
    study, root = keeping(make_study(targets_per_block=13)), synthetic()
    whole = kept(study, root)
    with monkeypatch.context() as patch:
        patch.setattr(tasks, "SMALL_WORK", 0)  # processes
        stage.keep_weights(study, root, MODEL)
    xr.testing.assert_identical(open_cube(StudyPaths(root).weights(MODEL)).load(), whole)
    assert not any(StudyPaths(root).scratch.rglob("*.npy"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "nets"}, "found no model 'nets', expected one of net; did you mean 'net'?"),
        ({"layer": f"block{N_BLOCKS + 1}"}, f"did you mean 'block{N_BLOCKS}'?"),
        ({"layer": 40}, "found no layer 40"),
    ],
)
def test_what_there_is_not_is_named(synthetic: Synthetic, change: dict[str, str | int], message: str) -> None:
    study, root = make_study(), synthetic()
    encode(study, root, MODEL)
    asked = {"model": MODEL, **change}
    with pytest.raises(StudyError) as error:
        stage.keep_weights(keeping(study, MODEL, asked.get("layer", "best")), root, str(asked["model"]))
    assert message in str(error.value)


def test_features_made_otherwise_are_refused(synthetic: Synthetic) -> None:
    study, root = keeping(make_study()), synthetic()
    weights, cube = kept(study, root), open_cube(StudyPaths(root).features(MODEL, "dune"))
    other = cube.assign_attrs(spec=cube.attrs["spec"].replace(f'"{MODEL}"', '"another"'))
    with pytest.raises(
        StudyError, match="dune: found model another, expected net, as of the features that the weights"
    ):
        predict_film(weights, other, "dune")
