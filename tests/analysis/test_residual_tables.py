"""Tables of drops, against obvious loops over scores that were written down by hand."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from cinecube.analysis.cubes.tables import EVERYONE, read_table, write_table
from cinecube.analysis.regions.rois import find_members, load_rois, roi_summary
from cinecube.analysis.residuals.residual_cubes import CHECKS
from cinecube.analysis.residuals.residual_tables import brain_drop, drop_map, mean_drop, pair_scores, residual
from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import write_cube
from cinecube.store.cube.schema import provenance, string_coordinate
from cinecube.store.params.document import Study

from .residual_study import CONCAT, EYES, SUBJECTS, VIDEO, make_study

PAIRS = ({"keep": VIDEO, "remove": EYES}, {"keep": CONCAT, "remove": EYES})
NAMES = [f"{VIDEO}-{EYES}", f"{CONCAT}-{EYES}"]
LAYERS = {"bind": ["embed", "block02", "head"], NAMES[0]: ["embed", "block02", "head"], NAMES[1]: ["head"]}
PARCELS = [*(name for name in ("L_V1", "R_V1", "L_7m", "R_45") for _ in range(4)), "", ""]
# Per stream, layers that it has: the concatenation has heads alone.
MISSING = {CONCAT: ["embed", "block02"]}
SPEC: dict[str, Any] = {"films": {"amber": ["amber1"]}, "encode": {"folds": 3}, "brain": {"sub-01": "f00"}}

SPACE = {"space": "MNI", "affine": "[]", "shape": "[]"}


def write_scores(root: Path, name: str, models: list[str], seed: int, **changes: Any) -> xr.Dataset:
    """A score cube of random numbers, absent targets among them."""
    rng = np.random.default_rng(seed)
    layers, parcels = LAYERS[name], changes.pop("parcels", PARCELS)
    shape = (len(SUBJECTS), len(models), len(layers), len(parcels))
    scores, cv_scores = rng.uniform(-0.1, 0.7, shape), rng.uniform(0, 0.3, shape)
    for values in (scores, cv_scores):
        values[1, :, :, 3] = np.nan  # a target that the second subject lacks
        for model in set(models) & set(MISSING):
            values[:, models.index(model), [layers.index(label) for label in MISSING[model]]] = np.nan
    dims = ("subject", "model", "layer", "target")
    cube = xr.Dataset(
        {"score": (dims, scores.astype(np.float32)), "cv_score": (dims, cv_scores.astype(np.float32))},
        coords={
            "subject": string_coordinate(SUBJECTS),
            "model": string_coordinate(models),
            "layer": string_coordinate(layers),
            "target": 10 + np.arange(len(parcels)),
            "hemi": ("target", string_coordinate([label[:1] for label in parcels])),
            "parcel": ("target", string_coordinate(parcels)),
            **{f"{axis}_mm": ("target", np.arange(len(parcels), dtype=float)) for axis in "xyz"},
        },
        attrs=provenance(
            "scores", SPEC | {"models": models} | changes, ["numpy"], space="MNI", affine="[]", shape="[]"
        ),
    )
    write_cube(StudyPaths(root).scores(name), cube)
    return cube


def write_study(root: Path, **changes: Any) -> tuple[Study, dict[str, xr.Dataset]]:
    """Score cubes and checks of two pairs."""
    cubes = {"bind": write_scores(root, "bind", [VIDEO, CONCAT], 0, **changes)}
    for number, name in enumerate(NAMES):
        cubes[name] = write_scores(root, name, [name], 1 + number, **changes)
        table = pd.DataFrame({"layer": LAYERS[name]} | dict.fromkeys(CHECKS, 0.125 + number))
        write_table(StudyPaths(root).residual_check(name), table)
    return make_study(*PAIRS), cubes


def naive_scores(cubes: dict[str, xr.Dataset], pair: int) -> dict[tuple[str, int], tuple[str, float, float]]:
    """Layer, full and residual score by subject and target number, by loops."""
    stream, name = (VIDEO, CONCAT)[pair], NAMES[pair]
    full, left = cubes["bind"], cubes[name]
    found = {}
    for (s, subject), t in itertools.product(enumerate(SUBJECTS), range(len(PARCELS))):
        m = [VIDEO, CONCAT].index(stream)
        curve = {layer: float(full["cv_score"].values[s, m, k, t]) for k, layer in enumerate(LAYERS["bind"])}
        known = {layer: value for layer, value in curve.items() if not np.isnan(value)}
        if known:
            layer = max(known, key=lambda label: known[label])
            before = full["score"].values[s, m, LAYERS["bind"].index(layer), t]
            found[subject, t] = (layer, float(before), float(left["score"].values[s, 0, LAYERS[name].index(layer), t]))
    return found


@pytest.mark.parametrize("pair", [0, 1])
def test_scores_are_read_at_the_layer_that_training_films_prefer_before(tmp_path: Path, pair: int) -> None:
    study, cubes = write_study(tmp_path)
    found = pair_scores(study, tmp_path, study.residual[pair])
    assert found["full"].dims == ("subject", "target")
    expected = naive_scores(cubes, pair)
    for (s, subject), t in itertools.product(enumerate(SUBJECTS), range(len(PARCELS))):
        layer, full, left = expected.get((subject, t), ("", np.nan, np.nan))
        assert found["layer"].values[s, t] == layer
        np.testing.assert_array_equal(found["full"].values[s, t], full)
        np.testing.assert_array_equal(found["residual"].values[s, t], left)
    if pair == 0:
        assert len(set(found["layer"].values.ravel())) == 4


def test_map_of_drops(tmp_path: Path) -> None:
    study, cubes = write_study(tmp_path)
    drop = drop_map(study, tmp_path, NAMES[0])
    assert drop.dims == ("subject", "target")
    assert drop.attrs == SPACE
    for name in ("target", "parcel", "hemi", "x_mm"):
        assert drop[name].values.tolist() == cubes["bind"][name].values.tolist()
    expected = naive_scores(cubes, 0)
    counted = 0
    for (s, subject), t in itertools.product(enumerate(SUBJECTS), range(len(PARCELS))):
        _, full, left = expected.get((subject, t), ("", np.nan, np.nan))
        if full > 0.1:
            counted += 1
            assert drop.values[s, t] == pytest.approx(100 * (full - left) / full)
        else:
            assert np.isnan(drop.values[s, t])
    assert 10 < counted < drop.size - 3


def test_table_of_parcels(tmp_path: Path) -> None:
    study, cubes = write_study(tmp_path)
    residual(study, tmp_path)
    table = read_table(StudyPaths(tmp_path).tables / "residual.csv")
    assert list(dict.fromkeys(table["pair"])) == NAMES
    assert len(table) == 2 * 4 * 3
    for pair, name in enumerate(NAMES):
        scores = naive_scores(cubes, pair)
        for parcel, subject in itertools.product(set(PARCELS) - {""}, (*SUBJECTS, EVERYONE)):
            own = [
                (full, left)
                for (who, t), (_, full, left) in scores.items()
                if PARCELS[t] == parcel and subject in (who, EVERYONE)
            ]
            full, left = np.mean(own, axis=0)
            row = table[(table["pair"] == name) & (table["parcel"] == parcel) & (table["subject"] == subject)]
            assert len(row) == 1
            found = row.iloc[0]
            assert (found["targets"], found["targets_above"]) == (len(own), sum(f > 0.1 for f, _ in own))
            np.testing.assert_allclose((found["full"], found["residual"]), (full, left), atol=1e-6)
            assert found["drop"] == pytest.approx(100 * (full - left) / full, abs=1e-5)
            drops = [100 * (f - after) / f for f, after in own if f > 0.1]
            assert found["target_drop"] == pytest.approx(np.mean(drops), abs=1e-4)


def test_table_of_regions(tmp_path: Path) -> None:
    study, _ = write_study(tmp_path)
    residual(study, tmp_path)
    parcels = read_table(StudyPaths(tmp_path).tables / "residual.csv")
    table = read_table(StudyPaths(tmp_path).tables / "residual_roi.csv")
    members = find_members(load_rois("oota2025", tmp_path), set(PARCELS)).parcels
    keys = [tuple(key) for key in table[["pair", "roi", "measure"]].to_numpy()]
    assert keys == list(itertools.product(NAMES, members, ("full", "residual", "drop")))
    assert set(members["EV"]) == {"L_V1", "R_V1"}
    found = table.set_index(["pair", "roi", "measure"])
    for name, roi in itertools.product(NAMES, members):
        own = parcels[(parcels["pair"] == name) & parcels["parcel"].isin(members[roi])]
        means = own.groupby("subject")[["full", "residual"]].mean().drop(EVERYONE)
        means["drop"] = 100 * (means["full"] - means["residual"]) / means["full"]
        for measure in ("full", "residual", "drop"):
            row = found.loc[(name, roi, measure)]
            assert row["subjects"] == 2
            assert row["mean"] == pytest.approx(means[measure].mean(), rel=1e-4, abs=1e-5)
            assert row["sem"] == pytest.approx(means[measure].sem(), rel=1e-4, abs=1e-5)
            assert row["parcels"] == len(members[roi])
            rows = means[[measure]].reset_index().assign(roi=roi, parcels=1)
            interval = roi_summary(rows, by=(), value=measure, seed=study.statistics.seed).iloc[0]
            np.testing.assert_allclose(
                row[["low", "high"]].astype(float), interval[["low", "high"]].astype(float), 1e-3
            )


def test_checks_and_plot_cover_all_pairs(tmp_path: Path) -> None:
    study, cubes = write_study(tmp_path)
    residual(study, tmp_path)
    checks = read_table(StudyPaths(tmp_path).tables / "residual_check.csv")
    assert checks.columns.tolist() == ["pair", "layer", *CHECKS]
    assert checks[["pair", "layer"]].to_numpy().tolist() == [[name, layer] for name in NAMES for layer in LAYERS[name]]
    assert checks["linear"].tolist() == [0.125] * 3 + [1.125]
    plot = read_table(StudyPaths(tmp_path).plots / "residual.csv")
    assert plot.columns.tolist() == ["pair", "drop"]
    assert plot["pair"].tolist() == NAMES
    for pair in (0, 1):
        own = [
            (full, left) for (_, t), (_, full, left) in naive_scores(cubes, pair).items() if PARCELS[t] and full > 0.1
        ]
        full, left = np.mean(own, axis=0)
        assert plot.loc[pair, "drop"] == pytest.approx(100 * (full - left) / full, abs=5.1e-5)  # it has four decimals
        assert plot.loc[pair, "drop"] == round(plot.loc[pair, "drop"], 4)


def test_drop_of_the_mean_over_subjects(tmp_path: Path) -> None:
    study, cubes = write_study(tmp_path)
    drop, expected = mean_drop(study, tmp_path, NAMES[0]), naive_scores(cubes, 0)
    assert drop.dims == ("target",)
    assert drop.attrs == SPACE
    counted = 0
    for t in range(len(PARCELS)):
        own = [expected[subject, t][1:] for subject in SUBJECTS if (subject, t) in expected]
        full, left = np.nanmean(np.array(own, float), axis=0) if own else (np.nan, np.nan)
        if full > 0.1:
            counted += 1
            assert drop.values[t] == pytest.approx(100 * (full - left) / full)
        else:
            assert np.isnan(drop.values[t])
    assert counted


def test_nothing_to_lose_is_no_drop(tmp_path: Path) -> None:
    study, _ = write_study(tmp_path)
    scores = pair_scores(study, tmp_path, study.residual[0])
    assert np.isnan(brain_drop(scores.assign(full=scores["full"] * 0)))


def test_second_run_gives_the_same_bytes(tmp_path: Path) -> None:
    study, _ = write_study(tmp_path)
    runs = []
    for _ in range(2):
        residual(study, tmp_path)
        runs.append({path: path.read_bytes() for path in sorted((tmp_path / "results").rglob("*.csv"))})
    assert runs[0] == runs[1]
    assert len(runs[0]) == 6


def test_a_study_without_pairs_has_empty_tables(tmp_path: Path) -> None:
    study = make_study().model_copy(update={"residual": []})
    residual(study, tmp_path)
    paths = StudyPaths(tmp_path)
    for path in (paths.tables / "residual.csv", paths.tables / "residual_roi.csv", paths.plots / "residual.csv"):
        table = read_table(path)
        assert table.empty
        assert table.columns[0] == "pair"


def test_cubes_without_parcels_are_one_region(tmp_path: Path) -> None:
    study, _ = write_study(tmp_path, parcels=[""] * 10)
    residual(study, tmp_path)
    table = read_table(StudyPaths(tmp_path).tables / "residual.csv")
    assert len(table) == 2 * 3
    assert table["targets"].tolist() == [19, 10, 9] * 2
    rois = read_table(StudyPaths(tmp_path).tables / "residual_roi.csv")
    assert rois["roi"].tolist() == ["all"] * 6
    together = rois[rois["measure"] == "full"]["mean"].tolist()
    means = table[table["subject"] != EVERYONE].groupby("pair", sort=False)["full"].mean()
    np.testing.assert_allclose(together, means, atol=1e-6)


def test_scores_that_were_made_otherwise_are_refused(tmp_path: Path) -> None:
    study, _ = write_study(tmp_path)
    write_scores(tmp_path, NAMES[0], [NAMES[0]], 1, encode={"folds": 5})
    with pytest.raises(StudyError, match="encode.folds: 3 -> 5") as error:
        residual(study, tmp_path)
    assert str(error.value).startswith(f"results/scores/{NAMES[0]}.zarr: found scores made otherwise")
    assert "\n" not in str(error.value)
    write_scores(tmp_path, NAMES[0], [NAMES[0]], 1, parcels=PARCELS[1:])
    with pytest.raises(StudyError, match="targets differ"):
        drop_map(study, tmp_path, NAMES[0])


def test_what_is_missing_is_told_in_one_line(tmp_path: Path) -> None:
    study, _ = write_study(tmp_path)
    with pytest.raises(StudyError, match="no pair 'bind'"):
        drop_map(study, tmp_path, "bind")
    StudyPaths(tmp_path).residual_check(NAMES[1]).unlink()
    with pytest.raises(StudyError, match="no table") as error:
        residual(study, tmp_path)
    assert "\n" not in str(error.value)
    write_scores(tmp_path, "bind", [VIDEO], 0)
    with pytest.raises(
        StudyError, match=f"results/scores/bind.zarr: found no stream '{CONCAT}', expected one of {VIDEO}"
    ):
        residual(study, tmp_path)
    StudyPaths(tmp_path).scores(NAMES[0]).rename(tmp_path / "elsewhere")
    with pytest.raises(StudyError, match=f"results/scores/{NAMES[0]}.zarr: found no cube"):
        residual(study, tmp_path)
