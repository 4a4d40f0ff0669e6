"""Cubes that a study did not make: of another clock, with more segments, or of other parameters."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from cinecube.analysis.cubes.spaces import open_space
from cinecube.analysis.encoders.problem import read_problem
from cinecube.cli import main
from cinecube.store.base.errors import StudyError
from cinecube.store.base.fingerprint import fingerprint
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import open_cube, write_feature_cube
from cinecube.store.cube.schema import Stream, feature_template, provenance, rows_index
from cinecube.store.params.asked import unlike
from cinecube.store.params.document import Study, parse

from .conftest import FILMS, MODEL, TR_S, make_study

LENGTH_S = 50 * TR_S
HZ = 0.03
SPEC = {"extractor": "vit", "pooling": "cls", "final_norm": False, "stride_s": None, "dtype": "float32"}
SPEC |= {"precision": "float32", "untrained": None, "compat": None, "layers": ["embed"], "frame_pooling": "mean"}


def imported(**more: Any) -> Study:
    """A study that lists the model as imported, and asks for nothing of it."""
    raw = make_study().model_dump(exclude={"models", "compute", "imported"})
    return parse(Study, raw | {"imported": [{"model": MODEL, "source": "elsewhere", **more}]}, "params.yaml")


def write_features(
    root: Path,
    onsets_s: np.ndarray,
    window_s: float,
    signal: Callable[[np.ndarray], np.ndarray],
    spec: dict[str, Any] = SPEC,
    more: tuple[str, ...] = (),
) -> None:
    """Cubes of all films with one layer of one dim: the signal at the rows' middles; `more` segments in each."""
    for film, segments in FILMS.items():
        rows = rows_index(dict.fromkeys([*(f"{film}{name}" for name in more), *segments], onsets_s))
        attrs = provenance("features", {**spec, "clock": {"tr_s": 1.0}, "segments": film}, ["numpy"])
        template = feature_template(rows, window_s, [Stream(MODEL, ["embed"], [1])], "float32", attrs)
        values = signal(rows["onset_s"].to_numpy() + window_s / 2)[:, None].astype(np.float32)
        write_feature_cube(StudyPaths(root).features(MODEL, film), template, lambda m, k, values=values: values)


def sine(seconds: np.ndarray) -> np.ndarray:
    return np.sin(2 * np.pi * HZ * seconds)


@pytest.mark.parametrize(("tr_s", "origin_s"), [(0.745, 0.0), (0.5, 0.0), (2.98, 0.0), (TR_S, 0.7), (0.2, 0.1)])
@pytest.mark.parametrize("method", ["mean", "lanczos"])
def test_another_clock_becomes_the_studys(tmp_path: Path, tr_s: float, origin_s: float, method: str) -> None:
    """A slow sine, sampled at another clock, is itself again at the middles of this study's rows."""
    onsets_s = np.round(np.arange(origin_s, LENGTH_S - tr_s / 2, tr_s), 6)
    write_features(tmp_path, onsets_s, tr_s, sine)
    study = imported(resample=method)
    space = open_space(study, tmp_path, MODEL)
    rows = space.rows.reset_index(drop=True)
    assert list(dict.fromkeys(rows["segment"])) == [name for names in FILMS.values() for name in names]
    own = rows["segment"] == "amber02"
    found_s = rows.loc[own, "onset_s"].to_numpy()
    assert set(np.round(found_s / TR_S, 6) % 1) == {0.0}
    assert 49 <= len(found_s) <= 51
    values = space.read_layer(0, 0)[own, 0]
    if method == "mean":
        np.testing.assert_allclose(values, overlap_means(onsets_s, tr_s, found_s), atol=1e-6)
    else:
        # Segments end on one side; between windows wider than rows a sinc of three lobes can but guess.
        away = np.abs(values - sine(found_s + TR_S / 2))[3:-3]
        assert away.max() < (1e-3 if tr_s <= TR_S else 0.05)


def overlap_means(onsets_s: np.ndarray, window_s: float, rows_s: np.ndarray) -> np.ndarray:
    """Means of the windows that a row overlaps, each as much as it does, by a plain loop."""
    means = []
    for row_s in rows_s:
        total = weight = 0.0
        for onset_s in onsets_s:
            overlap = max(0.0, min(row_s + TR_S, onset_s + window_s) - max(row_s, onset_s))
            total, weight = total + overlap * float(sine(onset_s + window_s / 2)), weight + overlap
        means.append(total / weight)
    return np.array(means)


def test_resampled_cubes_are_scored_with_brains_at_the_studys_tr(
    tmp_path: Path, synthetic: Callable[..., Path]
) -> None:
    root = synthetic()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "brain").symlink_to(root / "data" / "brain")
    write_features(tmp_path, np.round(np.arange(0, LENGTH_S, 0.5), 6), 0.5, sine)
    problem = read_problem(imported(), tmp_path, MODEL)
    space, groups = problem.space, problem.groups
    assert [len(group.train) for group in groups] == [8 * 50]
    assert all("reclock" in json.loads(cube.attrs["spec"]) for cube in space.cubes.values())


def test_the_same_clock_is_taken_as_it_is(tmp_path: Path) -> None:
    """With longer windows and more segments too: how features were read moves no row."""
    write_features(tmp_path, np.round(np.arange(50) * TR_S, 6), 4.0, sine, more=("99",))
    space = open_space(imported(), tmp_path, MODEL)
    assert (space.rows["segment"] == "amber99").sum() == 50
    assert space.window_s == 4.0
    assert all("reclock" not in cube.attrs["spec"] for cube in space.cubes.values())


def test_films_of_a_model_may_be_read_in_different_ways(tmp_path: Path) -> None:
    """One was recorded by a phone held upright, another has a second sound track."""
    write_features(tmp_path, np.round(np.arange(50) * TR_S, 6), TR_S, sine)
    film = next(iter(FILMS))
    cube = open_cube(StudyPaths(tmp_path).features(MODEL, film)).load()
    spec = json.loads(cube.attrs["spec"]) | {"read": {FILMS[film][0]: {"picture": {"rotation": 90}}}}
    shutil.rmtree(StudyPaths(tmp_path).features(MODEL, film))
    write_feature_cube(
        StudyPaths(tmp_path).features(MODEL, film),
        cube.assign_attrs(spec=json.dumps(spec), fingerprint=fingerprint(spec)),
        lambda m, k: cube["features"].values[:, :, m, k],
    )
    assert len(open_space(imported(), tmp_path, MODEL).rows) == 50 * sum(map(len, FILMS.values()))


def test_other_segments_are_left_out_and_missing_ones_named(tmp_path: Path) -> None:
    write_features(tmp_path, np.round(np.arange(100) * 0.745, 6), 0.745, sine, more=("99",))
    space = open_space(imported(), tmp_path, MODEL)
    assert "amber99" not in set(space.rows["segment"])
    study = imported()
    films = {**study.films, "amber": ["amber01", "amber77"]}
    with pytest.raises(StudyError, match="segment amber77: found no rows .* expected one of amber99, amber01"):
        open_space(study.model_copy(update={"films": films}), tmp_path, MODEL)


def _asks(**entry: Any) -> Study:
    study = imported()
    raw = study.model_dump() | {"models": {MODEL: {"extractor": "vit", "checkpoint": "x", **entry}}}
    return parse(Study, raw, "params.yaml")


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ({}, "found pooling cls, expected mean, which models.net asks for"),
        ({"pooling": "cls", "extractor": "ast"}, "found extractor vit, expected ast"),
        ({"pooling": "cls", "layers": ["block01"]}, "found layers embed, expected block01"),
        ({"pooling": "cls", "frames_per_window": 4}, r"found frames_per_window \(absent\), expected 4"),
        ({"pooling": "cls", "untrained": 3, "compat": "oota2025"}, "found compat None and 1 more that differ"),
        (
            {"pooling": "cls", "checkpoint": "org/vit"},
            "found checkpoint a folder's weights abababababab, expected org/vit",
        ),
    ],
)
def test_other_parameters_are_refused(tmp_path: Path, entry: dict[str, Any], line: str) -> None:
    write_features(tmp_path, np.round(np.arange(50) * TR_S, 6), TR_S, sine, SPEC | {"weights_digest": "ab" * 32})
    with pytest.raises(StudyError, match=line):
        open_space(_asks(**entry), tmp_path, MODEL)


def test_weights_of_a_hub_are_compared_and_those_of_folders_are_not(tmp_path: Path) -> None:
    def lines(spec: dict[str, Any], **entry: Any) -> list[str]:
        return unlike(_asks(pooling="cls", **entry).models[MODEL], SPEC | {"weights_digest": "ab"} | spec, tmp_path)

    commit = "3f49326eb077187dfe1c2a2bb15fbd74e6ab91e3"
    hub = {"checkpoint": "org/vit", "revision": commit}
    assert lines(hub, checkpoint="org/vit") == lines(hub, checkpoint="org/vit", revision=commit[:8]) == []
    assert lines(hub, checkpoint="org/vit", revision="main") == []  # which commit that is, only the hub knows
    assert lines(hub, checkpoint="org/vit", revision="abcdef0") == [f"revision: {commit} -> abcdef0"]
    assert lines(hub, checkpoint="org/mae") == ["checkpoint: org/vit -> org/mae"]
    assert lines({}, checkpoint="org/vit") == ["checkpoint: a folder's weights ab -> org/vit"]
    (tmp_path / "org" / "vit").mkdir(parents=True)
    assert lines({}, checkpoint="org/vit") == []


def _record(root: Path, study: Study) -> Result:
    (root / "params.yaml").write_text(yaml.safe_dump(study.model_dump(mode="json", exclude_none=True)))
    return CliRunner().invoke(main, ["imported", MODEL, "--study", str(root)])


def test_the_record_changes_with_what_scores_depend_on_only(tmp_path: Path) -> None:
    write_features(tmp_path, np.round(np.arange(50) * TR_S, 6), TR_S, sine)
    path = StudyPaths(tmp_path).imported(MODEL)

    def record(study: Study) -> bytes:
        done = _record(tmp_path, study)
        assert done.exit_code == 0, done.output
        return path.read_bytes()

    first = record(_asks(pooling="cls"))
    assert record(imported()) == first  # nothing asked for is nothing refused
    assert record(imported(rev="v2")) == first
    assert record(imported(resample="lanczos")) != first
    refused = _record(tmp_path, _asks())
    assert (refused.exit_code, len(refused.stderr.strip().splitlines())) == (1, 1)
    assert "pooling cls" in refused.stderr
    unknown = CliRunner().invoke(main, ["imported", "vit", "--study", str(tmp_path)])
    assert "imported: found no model 'vit', expected one of net" in unknown.stderr
