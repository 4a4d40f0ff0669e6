"""What the truth's own features say of partitions, against scikit-learn and against the stage, right and wrong."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from cinecube.analysis.encoders.problem import make_layout, make_settings, read_problem
from cinecube.analysis.partition.partition_fits import SHARES
from cinecube.analysis.partition.stage import partition
from cinecube.analysis.truth.partition_oracle import partition_oracle
from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import open_cube, write_cube
from cinecube.store.params.document import Study

from .partition_study import (
    PAIR,
    PARCELS,
    SEGMENTS,
    SETS,
    Made,
    make_study,
    naive_design,
    naive_responses,
    scored_studies,
    write_truth,
)

FOLLOWERS = [name for name, sources in PARCELS.items() if set(sources) - {"common"}]


@pytest.fixture(scope="module")
def partitioned(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A study's folder with a partition and its truth, once per study and departure."""
    folder, made = scored_studies(tmp_path_factory), dict[str, Path]()

    def make(study: Study, **changes: Any) -> Path:
        key = repr((study, changes))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("oracle") / "study"
            shutil.copytree(folder(**changes), made[key])
            partition(study, made[key])
            write_truth(made[key], Made(**changes))
        return made[key]

    return make


def _oracle(study: Study, root: Path) -> pd.DataFrame:
    table = partition_oracle(study, root)
    assert table is not None
    return table


def _error(table: pd.DataFrame) -> float:
    return float((table["found"] - table["oracle"]).abs().mean())


@pytest.mark.parametrize(
    ("sets", "changes", "encode"),
    [(SETS, {}, {}), (PAIR, {"swap": "solo"}, {}), (PAIR, {"cut": 4}, {}), (PAIR, {"cut": 4}, {"rows": "own"})],
    ids=["all sets", "segments in other places", "common rows", "own rows"],
)
def test_the_stage_finds_what_the_truth_says(partitioned, sets, changes, encode):
    study = make_study(sets, **encode)
    oracle = _oracle(study, partitioned(study, **changes))
    labels = oracle[["set", "part", "parcel"]]
    assert list(oracle.columns) == ["set", "part", "parcel", "found", "oracle"]
    assert len(labels) == sum(2 ** len(names) - 1 for names in sets) * len(FOLLOWERS)
    assert not labels.duplicated().any()
    assert set(labels["parcel"]) == set(FOLLOWERS)
    np.testing.assert_allclose(oracle["found"], oracle["oracle"], atol=1e-5)
    assert _error(oracle) < 1e-5
    assert oracle["oracle"].max() > 0.4


def test_showings_that_stay_apart(partitioned):
    raw = make_study(PAIR)
    study = raw.model_copy(update={"brain": raw.brain.model_copy(update={"repeats": "separate"})})
    assert _error(_oracle(study, partitioned(study))) < 1e-5


def test_scikit_learn_says_the_same(partitioned):
    study = make_study(PAIR)
    root = partitioned(study)
    slow, names = _slow_r2(study, root, "L_45"), PAIR[0]
    table = _oracle(study, root).set_index(["part", "parcel"])["oracle"]
    both = slow[tuple(names)]
    for mine, other in itertools.permutations(names):
        assert table[f"unique {mine}", "L_45"] == pytest.approx((both - slow[other,]).mean(), abs=1e-8)
    shared = slow[names[0],] + slow[names[1],] - both
    assert table[f"shared {' + '.join(names)}", "L_45"] == pytest.approx(shared.mean(), abs=1e-8)


def _naive_in(root: Path, subject: str, rows: list[tuple[str, int]], parcel: str) -> np.ndarray:
    inside = open_cube(StudyPaths(root).brain(subject))["parcel"].values == parcel
    return naive_responses(root, subject, rows)[:, inside]


def _slow_r2(study: Study, root: Path, parcel: str) -> dict[tuple[str, ...], np.ndarray]:
    """R² (target,) of each subset of the pair: every share and penalty fitted by scikit-learn to joined designs."""
    rows = [(segment, row) for segment in SEGMENTS for row in range(40)]
    train = np.array([not segment.startswith("dune") for segment, _ in rows])
    designs = {stream: naive_design(root, stream, rows) for stream in PAIR[0]}
    known = np.hstack([_naive_in(root, subject, rows, parcel) for subject in study.brain.subjects])
    problem = read_problem(study, root, "solo")
    space, groups = problem.space, problem.groups
    settings = make_settings(study)
    folds = make_layout(space, groups[0], settings, 3).folds
    fits: dict[tuple[str, ...], list[tuple[np.ndarray, np.ndarray]]] = {(name,): [] for name in designs}
    fits[tuple(designs)] = []
    for shares in itertools.product((*SHARES, 0.0), repeat=2):
        subset = tuple(name for name, share in zip(designs, shares, strict=True) if share)
        if max(shares) < max(SHARES):
            continue
        x = np.hstack([np.sqrt(share) * design for share, design in zip(shares, designs.values(), strict=True)])
        for alpha in settings.alphas:
            model = Ridge(alpha=alpha, fit_intercept=False)
            y = known[train]
            errors = [(model.fit(x[train][t], y[t]).predict(x[train][v]) - y[v]) ** 2 for t, v in folds]
            loss = np.mean([error.mean(axis=0) for error in errors], axis=0)
            fits[subset].append((loss, model.fit(x[train], y).predict(x[~train])))
    fits[tuple(designs)] += [fit for name in designs for fit in fits[name,]]
    truth, found = known[~train] - known[~train].mean(axis=0), {}
    for subset, tried in fits.items():
        best = np.argmin([loss for loss, _ in tried], axis=0)
        predicted = np.stack([tried[n][1][:, t] for t, n in enumerate(best)], axis=1)
        found[subset] = r2_score(truth, predicted - predicted.mean(axis=0), multioutput="raw_values")
    return found


def test_errors_of_time_and_of_fits_are_told(partitioned, tmp_path):
    study = make_study(PAIR)
    shutil.copytree(partitioned(study), tmp_path / "study")
    write_truth(tmp_path / "study", Made(), slip=1)
    assert _error(_oracle(study, tmp_path / "study")) > 0.02
    write_truth(tmp_path / "study", Made())
    path = StudyPaths(tmp_path / "study").partition
    cube = open_cube(path).load()
    shutil.rmtree(path)
    write_cube(path, cube.assign(part_r2=cube["part_r2"] + 0.1))
    oracle = _oracle(study, tmp_path / "study")
    assert _error(oracle) == pytest.approx(0.1, abs=1e-4)


def test_same_table_again(partitioned):
    study = make_study(PAIR)
    first, second = (_oracle(study, partitioned(study)) for _ in range(2))
    pd.testing.assert_frame_equal(first, second, check_exact=True)


def test_only_what_was_drawn_is_judged(partitioned, tmp_path):
    study = make_study()
    assert partition_oracle(make_study([]), partitioned(study)) is None
    shutil.copytree(partitioned(study), tmp_path / "study")
    write_truth(tmp_path / "study", Made(), leave_out="duo.sound")
    assert set(_oracle(study, tmp_path / "study")["set"]) == {" + ".join(SETS[0])}
    write_truth(tmp_path / "study", Made(), leave_out="duo.sound solo")
    assert partition_oracle(study, tmp_path / "study") is None
    StudyPaths(tmp_path / "study").truth.unlink()
    assert partition_oracle(study, tmp_path / "study") is None


def test_a_missing_cube_is_told_in_one_line(partitioned, tmp_path):
    study = make_study(PAIR)
    shutil.copytree(partitioned(study), tmp_path / "study")
    shutil.rmtree(StudyPaths(tmp_path / "study").partition)
    with pytest.raises(StudyError, match="results/partition.zarr: found no cube"):
        partition_oracle(study, tmp_path / "study")
