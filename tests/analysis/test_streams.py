"""Networks that give several feature streams in one pass: one cube, each stream a model of its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from cinecube.analysis.ceilings.stage import ceiling
from cinecube.analysis.cubes import tables
from cinecube.analysis.cubes.results import read_scores
from cinecube.analysis.encoders.problem import read_problem
from cinecube.analysis.encoders.stage import encode
from cinecube.analysis.regions.stage import layerwise, whole_brain
from cinecube.analysis.report.stage import write_report
from cinecube.analysis.significance.stage import significance
from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import open_cube, write_cube, write_feature_cube
from cinecube.store.cube.schema import Stream, feature_template, provenance, rows_index, string_coordinate
from cinecube.store.open.open_study import open_folder
from cinecube.store.params.document import Study, parse

TR_S = 1.49
FILMS = {film: [f"{film}1", f"{film}2"] for film in ("amber", "birch", "cedar")}
SUBJECTS = ["sub-01", "sub-02"]
ROWS = 60
VIDEO, AUDIO, CONCAT = "bind.video", "bind.audio", "bind.concat"
# "bind.v1" is a network whose name looks like a stream of "bind".
STREAMS = {
    "bind": [
        Stream(VIDEO, ["embed", "block01", "block02", "block03", "block04", "head"], [16, 16, 16, 16, 16, 7]),
        Stream(AUDIO, ["embed", "block01", "block02", "head"], [9, 9, 9, 7]),
        Stream(CONCAT, ["head"], [14]),
    ],
    "bind.v1": [Stream("bind.v1", ["embed", "block01"], [6, 6])],
}
PLANTED = {
    "L_V1": (VIDEO, "block03", 3),
    "R_A1": (AUDIO, "block01", 2),
    "L_STS": (CONCAT, "head", 4),
    "L_MT": ("bind.v1", "embed", 1),
    "R_44": None,
}
TARGETS_PER_PARCEL = 5


def make_study(models: tuple[str, ...] = tuple(STREAMS)) -> Study:
    raw = {
        "study": "streams",
        "clock": {"tr_s": TR_S, "window_s": TR_S},
        "stimuli": "data/stimuli",
        "films": FILMS,
        "split": {"train": ["amber", "birch"], "test": ["cedar"], "gap_s": 4},
        "models": {name: {"extractor": "vit", "checkpoint": f"data/weights/{name}"} for name in models},
        "compute": {"models": list(models), "films": list(FILMS)},
        "brain": {"path": "data/scans", "subjects": SUBJECTS},
        "encode": {"alphas": {"min": 1, "max": 1e4, "n": 5}, "targets_per_block": 30},
    }
    return parse(Study, raw, "params.yaml")


def write_study(root: Path, study: Study) -> None:
    """Independent features for every stream, layer and row, and responses that follow one each."""
    rng = np.random.default_rng(3)
    segments = [segment for names in FILMS.values() for segment in names]
    drawn = {
        (stream.name, layer): {segment: rng.standard_normal((ROWS, width)) for segment in segments}
        for streams in STREAMS.values()
        for stream in streams
        for layer, width in zip(stream.layers, stream.widths, strict=True)
    }
    onsets_s = np.round(np.arange(ROWS) * TR_S, 6)
    for network, streams in STREAMS.items():
        for film, names in FILMS.items():
            attrs = provenance("features", {"model": network, "stimulus": film}, ["numpy"])
            template = feature_template(rows_index(dict.fromkeys(names, onsets_s)), TR_S, streams, "float32", attrs)
            labels = template["layer"].values

            def read(m: int, k: int, names=names, labels=labels, streams=streams) -> np.ndarray:
                parts = drawn[streams[m].name, labels[k]]
                return np.concatenate([parts[name] for name in names]).astype(np.float32)

            write_feature_cube(StudyPaths(root).features(network, film), template, read)
    weights = {name: rng.standard_normal((16, TARGETS_PER_PARCEL)) for name in PLANTED}
    for subject in SUBJECTS:
        bold = np.concatenate([_respond(drawn, weights, segment, rng) for segment in segments])
        write_cube(StudyPaths(root).brain(subject), _brain_cube(bold, segments, onsets_s, subject))
        pd.DataFrame({"segment": segments, "repeat": 1}).to_csv(StudyPaths(root).brain_qc(subject), index=False)
    table = [
        {"film": film, "segment": name, "duration_s": 90.0, "rows": ROWS} for film in FILMS for name in FILMS[film]
    ]
    pd.DataFrame(table).to_csv(StudyPaths(root).films, index=False)
    (root / "params.yaml").write_text(json.dumps(study.model_dump(mode="json")), encoding="utf-8")


def _respond(
    drawn: dict[tuple[str, str], dict[str, np.ndarray]],
    weights: dict[str, np.ndarray],
    segment: str,
    rng: np.random.Generator,
) -> np.ndarray:
    bold = 0.7 * rng.standard_normal((ROWS, len(PLANTED) * TARGETS_PER_PARCEL))
    for p, (parcel, source) in enumerate(PLANTED.items()):
        if source is not None:
            stream, layer, delay = source
            features = drawn[stream, layer][segment]
            signal = features @ weights[parcel][: features.shape[1]] / np.sqrt(features.shape[1])
            bold[delay:, p * TARGETS_PER_PARCEL : (p + 1) * TARGETS_PER_PARCEL] += signal[: ROWS - delay]
    return (bold - bold.mean(axis=0)) / bold.std(axis=0)


def _brain_cube(bold: np.ndarray, segments: list[str], onsets_s: np.ndarray, subject: str) -> xr.Dataset:
    parcel = [name for name in PLANTED for _ in range(TARGETS_PER_PARCEL)]
    place = np.arange(len(parcel))
    grid = {"affine": json.dumps(np.eye(4).tolist()), "shape": json.dumps([10, 10, 10])}
    return xr.Dataset(
        {"bold": (("time", "target"), bold.astype(np.float32))},
        coords={
            "segment": ("time", string_coordinate(np.repeat(segments, ROWS))),
            "repeat": ("time", np.ones(len(bold), dtype=int)),
            "session": ("time", string_coordinate(["001"] * len(bold))),
            "onset_s": ("time", np.tile(onsets_s, len(segments))),
            "target": 300 + place,
            "hemi": ("target", string_coordinate([name[0] for name in parcel])),
            "parcel": ("target", string_coordinate(parcel)),
            **{f"{axis}_mm": ("target", place.astype(float)) for axis in "xyz"},
        },
        attrs=provenance("brain", {"subject": subject}, ["numpy"], space="MNI", tr_s=TR_S, targets="voxels", **grid),
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two networks, one of them with three streams, encoded and tabulated."""
    folder, study = tmp_path_factory.mktemp("streams"), make_study()
    write_study(folder, study)
    for network in STREAMS:
        encode(study, folder, network)
    ceiling(study, folder)
    whole_brain(study, folder)
    layerwise(study, folder)
    significance(study, folder)
    return folder


def test_every_stream_is_scored_with_the_layers_it_has_and_no_other(root: Path) -> None:
    cube = open_cube(StudyPaths(root).scores("bind"))
    assert cube["model"].values.tolist() == [VIDEO, AUDIO, CONCAT]
    assert cube["layer"].values.tolist() == ["embed", "block01", "block02", "block03", "block04", "head"]
    for stream in STREAMS["bind"]:
        for layer in map(str, cube["layer"].values):
            one = cube[["score", "cv_score", "alpha"]].sel(model=stream.name, layer=layer)
            for values in one.values():
                assert values.notnull().all() if layer in stream.layers else values.isnull().all()
    assert cube["lag_score"].notnull().all()


def test_depth_is_counted_in_each_stream(root: Path) -> None:
    depth = open_cube(StudyPaths(root).scores("bind"))["depth"]
    assert depth.sel(model=VIDEO).values.tolist() == [0, 0.25, 0.5, 0.75, 1, 1]
    np.testing.assert_array_equal(depth.sel(model=AUDIO), [0, 0.5, 1, np.nan, np.nan, 1])


def test_an_older_cube_has_one_depth_for_all_streams(root: Path) -> None:
    space = read_problem(make_study(), root, "bind").space
    shared = np.array([0, 0.25, 0.5, 0.75, 1, 1])
    older = {film: cube.drop_vars("depth").assign_coords(depth=("layer", shared)) for film, cube in space.cubes.items()}
    depth = type(space)(older, space.rows, space.window_s).depth
    np.testing.assert_array_equal(depth[1], [0, 0.25, 0.5, np.nan, np.nan, 1])


def test_tables_know_each_stream_as_a_model_and_find_what_was_planted(root: Path) -> None:
    paths = StudyPaths(root)
    layers = tables.read_table(paths.tables / "layerwise.csv")
    have = {stream.name: set(stream.layers) for streams in STREAMS.values() for stream in streams}
    assert {model: set(rows["layer"]) for model, rows in layers.groupby("model")} == have
    best = tables.read_table(paths.tables / "whole_brain.csv")
    best = best[best["best_model"] & (best["subject"] == tables.EVERYONE)].set_index("parcel")
    lags = tables.read_table(paths.tables / "lag.csv").set_index(["parcel", "model"])["lag"]
    for parcel, source in PLANTED.items():
        if source is not None:
            model, layer, delay = source
            assert (best.loc[parcel, "model"], best.loc[parcel, "layer"]) == (model, layer)
            assert lags[parcel, model] == delay
    means = tables.read_table(paths.tables / "whole_brain_mean.csv")
    assert set(means["model"]) == set(have)


def test_plots_are_a_file_per_stream(root: Path) -> None:
    names = sorted(f"{stream.name}.csv" for streams in STREAMS.values() for stream in streams)
    for folder in ("layers", "lags"):
        assert sorted(path.name for path in (StudyPaths(root).plots / folder).iterdir()) == names


def test_the_report_shows_each_stream(root: Path) -> None:
    write_report(make_study(), root)
    paths = StudyPaths(root)
    page = paths.report.read_text(encoding="utf-8")
    assert "2 models in 4 streams" in page
    for streams in STREAMS.values():
        for stream in streams:
            assert f'<td class="text">{stream.name}</td>' in page
    metrics = json.loads(paths.metrics.read_text(encoding="utf-8"))
    assert set(metrics["whole_brain"]) == {stream.name for streams in STREAMS.values() for stream in streams}


def test_a_stream_is_opened_by_its_name(root: Path) -> None:
    study = open_folder(root)
    assert study.scores("bind")["model"].values.tolist() == [VIDEO, AUDIO, CONCAT]
    assert study.scores(AUDIO)["model"].values.tolist() == [AUDIO]
    assert study.scores("bind.v1")["model"].values.tolist() == ["bind.v1"]
    whole = study.features("bind", film="amber")
    assert dict(whole.sizes) == {"time": 2 * ROWS, "dim": 16, "model": 3, "layer": 6}
    audio = study.features(AUDIO)
    assert dict(audio.sizes) == {"time": 6 * ROWS, "dim": 9, "model": 1, "layer": 4}
    heads = audio.sel(layer="head").isel(time=slice(0, 2 * ROWS), dim=slice(0, 7))
    np.testing.assert_array_equal(heads, whole.sel(model=[AUDIO], layer="head").isel(dim=slice(0, 7)))
    both = study.features([VIDEO, CONCAT], film="amber", layer="head")
    assert both["model"].values.tolist() == [VIDEO, CONCAT]
    assert np.isnan(both.sel(model=VIDEO)).sum("dim").values.tolist() == [14 - 7] * 2 * ROWS
    every = study.features(["bind.v1", CONCAT, AUDIO], film="amber")
    assert every["layer"].values.tolist() == ["embed", "block01", "block02", "head"]
    np.testing.assert_array_equal(
        every.sel(model=AUDIO).isel(dim=slice(0, 9)), audio.isel(time=slice(0, 2 * ROWS), model=0)
    )


def test_unknown_streams_and_layers_are_named(root: Path) -> None:
    study = open_folder(root)
    with pytest.raises(StudyError, match=r"no stream 'bind.vido', expected one of bind.video, bind.audio, bind.concat"):
        study.scores("bind.vido")
    with pytest.raises(StudyError, match="no layer 4"):
        study.features(AUDIO, layer=4)
    with pytest.raises(StudyError, match="found 'bnd.video', no model nor a stream of one"):
        study.features("bnd.video")


def test_two_networks_may_not_share_a_stream(root: Path, tmp_path: Path) -> None:
    cube = open_cube(StudyPaths(root).scores("bind.v1")).load().drop_encoding()
    for network in STREAMS:
        write_cube(StudyPaths(tmp_path).scores(network), cube)
    with pytest.raises(StudyError, match="scores of bind.v1, which those of bind hold too"):
        read_scores(make_study(), tmp_path)
