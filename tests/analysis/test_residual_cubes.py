"""Feature cubes of what is left, against scikit-learn in float64, and what they may and may not depend on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from cinecube.analysis.cubes.tables import read_table
from cinecube.analysis.encoders.problem import read_problem
from cinecube.analysis.encoders.stage import score_model
from cinecube.analysis.residuals import residual_cubes
from cinecube.analysis.residuals.residual_cubes import CHECKS, make_residual, open_pair
from cinecube.analysis.residuals.unexplained import still_predicted
from cinecube.store.base.errors import StudyError
from cinecube.store.base.fingerprint import fingerprint
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import open_cube
from cinecube.store.verify.find_cubes import verify_cube

from .residual_study import (
    ALPHAS,
    CONCAT,
    EYES,
    FILMS,
    SEGMENTS,
    STREAMS,
    TR_S,
    TRAIN,
    VIDEO,
    Planted,
    draw,
    make_study,
    write_brains,
    write_features,
)

WHOLE = {"keep": VIDEO, "remove": EYES}
PAIR = f"{VIDEO}-{EYES}"
GRID = np.geomspace(ALPHAS["min"], ALPHAS["max"], ALPHAS["n"])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A study's folder with the residual of `WHOLE`, one per variation; it has no brain cubes at all."""
    known: dict[str, Path] = {}

    def make(**changes: Any) -> Path:
        key = repr(sorted(changes.items()))
        if key not in known:
            known[key] = tmp_path_factory.mktemp("study")
            write_features(known[key], Planted(**changes))
            make_residual(make_study(WHOLE), known[key], PAIR)
        return known[key]

    return make


@pytest.fixture
def fresh(made: Callable[..., Path], tmp_path: Path) -> Path:
    """A study's folder with feature cubes alone."""
    shutil.copytree(made() / "data/features", tmp_path / "data/features")
    return tmp_path


def cubes_of(root: Path, pair: str = PAIR) -> dict[str, xr.Dataset]:
    return {film: open_cube(StudyPaths(root).residual(pair, film)) for film in FILMS}


def values_of(cube: xr.Dataset, layer: str) -> np.ndarray:
    width = int(cube["width"].sel(layer=layer).values[0])
    return cube["features"].isel(model=0, dim=slice(0, width)).sel(layer=layer).values


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def naive(a: np.ndarray, b: np.ndarray, segment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Residual (row, dim) of scikit-learn by loop, each training film left out once; and each dim's penalty."""
    film = np.array([name[:-1] for name in segment])
    train = film != "dune"
    a, b = (StandardScaler().fit(x[train].astype(float)).transform(x.astype(float)) for x in (a, b))
    losses = []
    for alpha in GRID:
        errors = []
        for out in TRAIN:
            fit, shown = train & (film != out), film == out
            model = Ridge(alpha=alpha, fit_intercept=False).fit(b[fit], a[fit])
            errors.append(((model.predict(b[shown]) - a[shown]) ** 2).mean(axis=0))
        losses.append(np.mean(errors, axis=0))
    best = GRID[np.argmin(losses, axis=0)]
    return a - Ridge(alpha=best, fit_intercept=False).fit(b[train], a[train]).predict(b), best


@pytest.mark.parametrize(
    ("layers", "removed"),
    [("all", ["embed", "block01", "block02"]), (["block02", "embed"], ["embed", "block02"])],
)
def test_residual_is_scikit_learns(made: Callable[..., Path], fresh: Path, layers, removed) -> None:
    root = made() if layers == "all" else fresh
    if layers != "all":
        make_residual(make_study({**WHOLE, "layers": layers}), root, PAIR)
    drawn = draw()
    segment = np.repeat(SEGMENTS, 50)

    def joined(stream: str, layer: str) -> np.ndarray:
        return np.concatenate([drawn[stream, layer][name] for name in SEGMENTS])

    b = np.hstack([joined(EYES, layer) for layer in removed]).astype(np.float32)
    for layer in STREAMS["bind"][0].layers:
        expected, _ = naive(joined(VIDEO, layer).astype(np.float32), b, segment)
        found = np.concatenate([values_of(cube, layer) for cube in cubes_of(root).values()])
        np.testing.assert_allclose(found, expected, atol=2e-5)
    spec = json.loads(cubes_of(root)["dune"].attrs["spec"])
    assert spec["layers_removed"] == removed


def test_cubes_are_labelled_as_the_stream_kept(made: Callable[..., Path]) -> None:
    parent = open_cube(StudyPaths(made()).features("bind", "cedar")).sel(model=VIDEO)
    cube = cubes_of(made())["cedar"]
    assert cube["features"].dims == ("time", "dim", "model", "layer")
    assert cube["features"].dtype == np.float32
    assert cube["model"].values.tolist() == [PAIR]
    assert cube["layer"].values.tolist() == ["embed", "block02", "head"]
    np.testing.assert_array_equal(cube["width"].values[0], parent["width"].values)
    # Two of four blocks are kept: block02 lies half way.
    np.testing.assert_array_equal(cube["depth"].values[0], [0, 0.5, 1])
    for name in ("segment", "onset_s", "window_s"):
        np.testing.assert_array_equal(cube[name].values, parent[name].values)
    for path in sorted(StudyPaths(made()).residual(PAIR, "dune").parent.iterdir()):
        assert verify_cube(path) == []


def test_a_stream_without_some_layers_has_its_own_only(fresh: Path) -> None:
    make_residual(make_study({"keep": CONCAT, "remove": EYES}), fresh, f"{CONCAT}-{EYES}")
    cube = cubes_of(fresh, f"{CONCAT}-{EYES}")["amber"]
    assert cube["layer"].values.tolist() == ["head"]
    assert cube["features"].shape == (100, 16, 1, 1)
    # Half of the heads is a mixture of what was removed, the other half is not.
    spread = values_of(cube, "head").std(axis=0)
    assert spread[:8].mean() < 0.8 < 0.9 < spread[8:].min()


def test_provenance_names_both_parents(made: Callable[..., Path]) -> None:
    paths, cubes = StudyPaths(made()), cubes_of(made())
    parents = {
        film: {
            role: str(open_cube(paths.features(owner, film)).attrs["fingerprint"])
            for role, owner in (("keep", "bind"), ("remove", "eyes"))
        }
        for film in FILMS
    }
    for film, cube in cubes.items():
        spec = json.loads(cube.attrs["spec"])
        assert cube.attrs["fingerprint"] == fingerprint(spec)
        assert cube.attrs["licence"] == "cc-by-nc-4.0, mit"
        assert spec["fitted_on"] == {name: parents[name] for name in TRAIN}
        assert spec["stimulus"] == parents[film]
        assert spec["split"] == {"train": {name: FILMS[name] for name in TRAIN}, "gap_s": 4}
        assert (spec["folds"], spec["alphas"]) == (3, ALPHAS)
    assert len({cube.attrs["fingerprint"] for cube in cubes.values()}) == 4


def test_licences_are_named_where_cubes_name_them(fresh: Path) -> None:
    write_features(fresh, Planted(licences={}), ["bind"])
    make_residual(make_study(WHOLE), fresh, PAIR)
    assert cubes_of(fresh)["amber"].attrs["licence"] == "mit"
    write_features(fresh, Planted(licences={}), ["eyes"])
    make_residual(make_study(WHOLE), fresh, PAIR)
    assert "licence" not in cubes_of(fresh)["amber"].attrs


def test_encode_takes_it_like_any_other_cube(fresh: Path) -> None:
    study = make_study({"keep": CONCAT, "remove": EYES})
    write_brains(fresh)
    make_residual(study, fresh, f"{CONCAT}-{EYES}")
    full = score_model(study, read_problem(study, fresh, "bind")).sel(model=CONCAT, layer="head")
    left = score_model(study, read_problem(study, fresh, f"{CONCAT}-{EYES}")).isel(model=0).sel(layer="head")

    def mean(scores: xr.Dataset, parcel: str) -> float:
        return float(scores["score"].values[:, scores["parcel"].values == parcel].mean())

    # The shared half of the variance goes: r falls by about the root of a half. What is its own stays.
    assert mean(full, "L_V1") > 0.6
    assert 0.55 < mean(left, "L_V1") / mean(full, "L_V1") < 0.85
    for parcel in ("L_7m", "R_45"):
        assert mean(full, parcel) > 0.6
        assert mean(left, parcel) > 0.95 * mean(full, parcel)


def test_test_film_decides_nothing_about_training_films(made: Callable[..., Path]) -> None:
    plain, other = (StudyPaths(made(**changes)) for changes in ({}, {"scramble": ("dune",)}))
    for film in TRAIN:
        assert bytes_of(plain.residual(PAIR, film)) == bytes_of(other.residual(PAIR, film))
    same, scrambled = (open_cube(paths.residual(PAIR, "dune")) for paths in (plain, other))
    assert same.attrs["fingerprint"] != scrambled.attrs["fingerprint"]
    assert not np.allclose(values_of(same, "embed"), values_of(scrambled, "embed"))
    third = made(scramble=("amber",))
    assert not np.allclose(values_of(cubes_of(third)["birch"], "embed"), values_of(cubes_of(made())["birch"], "embed"))


def test_rows_are_matched_by_label(made: Callable[..., Path]) -> None:
    turned = cubes_of(made(reverse=("eyes",)))
    for film, cube in cubes_of(made()).items():
        np.testing.assert_array_equal(values_of(turned[film], "block02"), values_of(cube, "block02"))


def test_folds_leave_out_whole_segments_and_the_gap(made: Callable[..., Path]) -> None:
    inputs = open_pair(make_study(WHOLE, folds=6), made(), make_study(WHOLE).residual[0])
    rows = inputs.rows[inputs.train]
    segment, onset_s = rows["segment"].to_numpy(), rows["onset_s"].to_numpy()
    assert len(inputs.folds) == 6
    for (train, validation), name in zip(inputs.folds, [s for film in TRAIN for s in FILMS[film]], strict=True):
        assert set(segment[validation]) == {name}
        assert len(validation) == 50
        left_out = np.setdiff1d(np.arange(300), np.concatenate([train, validation]))
        neighbour = name[:-1] + ("2" if name.endswith("1") else "1")
        assert set(segment[left_out]) == {neighbour}
        # No delay here: what follows the border is dropped for the gap's 4 s alone.
        last = 49 * TR_S
        near = onset_s < 4 if name.endswith("1") else onset_s + TR_S > last - 4
        np.testing.assert_array_equal(left_out, np.flatnonzero((segment == neighbour) & near))


def test_check_is_that_of_the_cubes(made: Callable[..., Path]) -> None:
    table = read_table(StudyPaths(made()).residual_check(PAIR))
    assert table.columns.tolist() == ["layer", *CHECKS]
    assert table["layer"].tolist() == ["embed", "block02", "head"]
    inputs = open_pair(make_study(WHOLE), made(), make_study(WHOLE).residual[0])
    for place, layer in enumerate(table["layer"]):
        values = np.concatenate([values_of(cube, layer) for cube in cubes_of(made()).values()])
        expected = still_predicted(values, inputs.read_removed(), inputs.train, inputs.folds, GRID).means()
        for name, figure in expected.items():
            assert table.loc[place, name] == pytest.approx(figure, abs=1e-6)
        kept = inputs.read_kept(place).astype(float)
        kept /= kept[inputs.train].std(axis=0)
        share = values[~inputs.train].var(axis=0) / kept[~inputs.train].var(axis=0)
        assert table.loc[place, "variance_left"] == pytest.approx(share.mean(), abs=1e-5)
        assert 0.4 < share.mean() < 0.7
        assert abs(table.loc[place, "linear"]) < 0.2


def test_second_run_gives_the_same_bytes(made: Callable[..., Path], fresh: Path) -> None:
    for _ in range(2):
        make_residual(make_study(WHOLE), fresh, PAIR)
        for folder in ("data/residual", "results/tables"):
            assert bytes_of(fresh / folder) == bytes_of(made() / folder)
    assert not list(StudyPaths(fresh).journals.rglob("*.npy"))


def test_interrupted_run_goes_on_where_it_was(made: Callable[..., Path], fresh: Path) -> None:

    def stop(done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_residual(make_study(WHOLE), fresh, PAIR, stop)
    assert not (fresh / "data" / "residual").exists()
    told: list[tuple[int, int]] = []
    make_residual(make_study(WHOLE), fresh, PAIR, lambda done, total: told.append((done, total)))
    assert told[0][0] >= 1
    assert told[-1] == (3, 3)
    assert bytes_of(fresh / "data/residual") == bytes_of(made() / "data/residual")


def test_all_films_or_none(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_residual(make_study(WHOLE), fresh, PAIR)
    before = bytes_of(fresh / "data/residual") | bytes_of(fresh / "results")
    write, films = residual_cubes.write_feature_cube, []

    def fail_at_third(path: Path, *arguments: Any) -> None:
        films.append(path.stem)
        if len(films) == 3:
            raise OSError("disk full")
        write(path, *arguments)

    monkeypatch.setattr(residual_cubes, "write_feature_cube", fail_at_third)
    with pytest.raises(OSError, match="disk full"):
        make_residual(make_study({**WHOLE, "layers": ["embed"]}), fresh, PAIR)
    assert films == ["amber", "birch", "cedar"]
    assert bytes_of(fresh / "data/residual") | bytes_of(fresh / "results") == before


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        (
            {"cut": {("eyes", "birch2"): 2}},
            f"residual {PAIR}, birch2 at 71.52 s: found a row of {VIDEO} that {EYES} lack",
        ),
        (
            {"cut": {("bind", "dune1"): 1}},
            f"residual {PAIR}, dune1 at 73.01 s: found a row of {EYES} that {VIDEO} lack",
        ),
        ({"cut": {("eyes", "birch1"): 50}}, "eyes birch1: found no rows"),
    ],
)
def test_rows_that_differ_are_refused(fresh: Path, changes: dict[str, Any], where: str) -> None:
    write_features(fresh, Planted(**changes), [next(iter(changes["cut"]))[0]])
    with pytest.raises(StudyError, match=where):
        make_residual(make_study(WHOLE), fresh, PAIR)
    assert not (fresh / "data/residual").exists()


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ({"keep": "bind.nose", "remove": EYES}, "feature cubes of bind: found no stream 'bind.nose', expected one of"),
        ({"keep": VIDEO, "remove": "eyes.left"}, "feature cubes of eyes: found no stream 'eyes.left', expected one of"),
        ({**WHOLE, "layers": ["block09"]}, f"residual {PAIR}, layers of {EYES}: found no layer 'block09'"),
        ({**WHOLE, "layers": []}, f"residual {PAIR}: found no layers"),
    ],
)
def test_wrong_names_are_told_in_one_line(made: Callable[..., Path], pair: dict[str, Any], message: str) -> None:
    study = make_study(pair)
    with pytest.raises(StudyError, match=message) as error:
        make_residual(study, made(), study.residual[0].name)
    assert "\n" not in str(error.value)


def test_missing_cubes_and_pairs_are_told_in_one_line(fresh: Path) -> None:
    study = make_study(WHOLE)
    with pytest.raises(StudyError, match="no pair 'bind-eyes'"):
        make_residual(study, fresh, "bind-eyes")
    StudyPaths(fresh).features("eyes", "cedar").rename(fresh / "elsewhere.zarr")
    with pytest.raises(StudyError, match="data/features/eyes/cedar.zarr: found no cube") as error:
        make_residual(study, fresh, PAIR)
    assert "\n" not in str(error.value)


def test_a_pair_says_what_has_a_penalty_of_its_own(made: Callable[..., Path], fresh: Path) -> None:
    make_residual(make_study({**WHOLE, "by": "direction"}), fresh, PAIR)
    found, plain = cubes_of(fresh)["dune"], cubes_of(made())["dune"]
    assert (json.loads(found.attrs["spec"])["by"], json.loads(plain.attrs["spec"])["by"]) == ("direction", "dim")
    assert found.attrs["fingerprint"] != plain.attrs["fingerprint"]
    # Half of the kept layer follows what is removed, so little else than it may differ.
    ours, theirs = values_of(found, "block02"), values_of(plain, "block02")
    assert np.abs(ours - theirs).max() > 1e-6
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.95
