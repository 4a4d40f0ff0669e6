"""Any set of cubes round-trips label-exact, any selection is that of the array in memory, and joining reads nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zarr.storage import LocalStore

import cinecube as cc
from cinecube.store.base.labels import layer_label
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import write_feature_cube
from cinecube.store.cube.schema import Stream, feature_template, merged_layers, provenance, rows_index
from cinecube.store.verify.find_cubes import verify_cube

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,7}", fullmatch=True)
HEADS = ("head", "logits", "proj_a")
FEW = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@dataclass(frozen=True)
class Model:
    """One model's cubes, as they were drawn: its streams, and values (time, dim) by film, stream and layer."""

    name: str
    streams: tuple[Stream, ...]
    dtype: str
    window_s: float
    rows: dict[str, dict[str, np.ndarray]]  # film -> segment -> onsets
    seed: int

    def values(self, film: str, m: int, k: int) -> np.ndarray:
        stream, layers = self.streams[m], merged_layers(self.streams)
        width = dict(zip(stream.layers, stream.widths, strict=True)).get(layers[k], 0)
        n_rows = sum(len(onsets) for onsets in self.rows[film].values())
        rng = np.random.default_rng([self.seed, list(self.rows).index(film), m, k])
        drawn: np.ndarray = rng.standard_normal((n_rows, width)).astype(self.dtype)
        return drawn

    def whole(self, films: list[str]) -> np.ndarray:
        """(time, dim, model, layer) by plain loops, padded with NaN."""
        layers, widest = merged_layers(self.streams), max(max(stream.widths) for stream in self.streams)
        parts = []
        for film in films:
            n_rows = sum(len(onsets) for onsets in self.rows[film].values())
            part = np.full((n_rows, widest, len(self.streams), len(layers)), np.nan, self.dtype)
            for m in range(len(self.streams)):
                for k in range(len(layers)):
                    values = self.values(film, m, k)
                    part[:, : values.shape[1], m, k] = values
            parts.append(part)
        return np.concatenate(parts)


@st.composite
def _streams(draw: st.DrawFn, name: str) -> tuple[Stream, ...]:
    n_streams = draw(st.integers(1, 3))
    labels = [name] if n_streams == 1 else [f"{name}.{kind}" for kind in ("video", "audio", "concat")[:n_streams]]
    streams = []
    for label in labels:
        blocks = draw(st.lists(st.integers(0, 14), min_size=0, max_size=4, unique=True).map(sorted))
        heads = draw(st.lists(st.sampled_from(HEADS), max_size=2, unique=True).map(sorted))
        layers = [*(layer_label(block) for block in blocks), *heads] or ["embed"]
        widths = [draw(st.sampled_from([1, 3, 64, 96, 128])) for _ in layers]
        streams.append(Stream(label, layers, widths))
    return tuple(streams)


@st.composite
def _onsets(draw: st.DrawFn) -> np.ndarray:
    """Rising, with gaps; now and then longer than a chunk."""
    n_rows = draw(st.one_of(st.integers(1, 12), st.sampled_from([511, 512, 513, 1030])))
    steps = np.full(n_rows, draw(st.sampled_from([0.5, 1.49, 2.0])))
    steps[draw(st.integers(0, n_rows - 1))] += draw(st.sampled_from([0.0, 7.3]))
    rising: np.ndarray = np.round(np.cumsum(steps) - steps[0], 6)
    return rising


@st.composite
def studies(draw: st.DrawFn) -> list[Model]:
    """Models of one set of films; each has onsets of its own or those of the first."""
    films = draw(st.lists(NAMES, min_size=2, max_size=3, unique_by=str.lower))
    segments = {film: [f"{film}.{i}" for i in range(draw(st.integers(1, 2)))] for film in films}
    rows = {film: {name: draw(_onsets()) for name in names} for film, names in segments.items()}
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique_by=str.lower))
    dtype = draw(st.sampled_from(["float32", "float16"]))
    window_s = draw(st.sampled_from([0.5, 1.49]))
    return [
        Model(f"m{i}-{name}", draw(_streams(f"m{i}-{name}")), dtype, window_s, rows, i) for i, name in enumerate(names)
    ]


def write(root: Path, models: list[Model]) -> None:
    films = {film: list(own) for film, own in models[0].rows.items()}
    params = {
        "study": "any",
        "clock": {"tr_s": 1.49, "window_s": 1.49},
        "films": films,
        "split": {"train": [next(iter(films))], "test": [list(films)[-1]]},
        "models": {model.name: {"extractor": "vit", "checkpoint": "x"} for model in models},
        "brain": {"path": "scans", "subjects": ["sub-01"]},
    }
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    for model in models:
        for film, own in model.rows.items():
            spec = {"layers": merged_layers(model.streams), "segments": list(own), "dtype": model.dtype}
            attrs = provenance("features", spec, ["zarr"], licence="mit")
            template = feature_template(rows_index(own), model.window_s, model.streams, model.dtype, attrs)
            path = StudyPaths(root).features(model.name, film)
            write_feature_cube(path, template, lambda m, k, model=model, film=film: model.values(film, m, k))


@contextmanager
def nothing_read(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where computing with Dask and reading a shard are errors."""
    plain = LocalStore.get

    async def labels_only(self: LocalStore, key: str, *words: Any, **more: Any) -> Any:
        assert not key.startswith("features/c/"), f"{key} was read"
        return await plain(self, key, *words, **more)

    def forbid(*_: Any, **__: Any) -> Any:
        raise AssertionError("computed")

    with monkeypatch.context() as patch, dask.config.set(scheduler=forbid):
        patch.setattr(LocalStore, "get", labels_only)
        yield


@FEW
@given(models=studies(), data=st.data())
def test_any_set_of_cubes(models: list[Model], data: st.DataObject) -> None:
    """Written once for all that is asked of it, since writing takes longest."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        write(Path(folder), models)
        _round_trip_label_exact(folder, models)
        _any_selection_is_that_of_the_array_in_memory(folder, models, data)
        _joined_models_are_padded_and_nothing_is_read_to_join_them(folder, models, monkeypatch)


def _round_trip_label_exact(folder: str, models: list[Model]) -> None:
    for model in models:
        for film, own in model.rows.items():
            path = StudyPaths(Path(folder)).features(model.name, film)
            assert verify_cube(path) == []
            for cube in (xr.open_zarr(path), cc.open(folder).cubes.open(path)):
                _is_exact(cube, model, film, own)


def _is_exact(cube: xr.Dataset, model: Model, film: str, own: dict[str, np.ndarray]) -> None:
    layers = merged_layers(model.streams)
    assert list(cube["segment"].values) == [name for name, onsets in own.items() for _ in onsets]
    np.testing.assert_array_equal(cube["onset_s"], np.concatenate(list(own.values())))
    assert set(cube["window_s"].values) == {model.window_s}
    assert list(cube["layer"].values) == layers
    assert list(cube["model"].values) == [stream.name for stream in model.streams]
    np.testing.assert_array_equal(cube["dim"], np.arange(cube.sizes["dim"]))
    for m, stream in enumerate(model.streams):
        widths = dict(zip(stream.layers, stream.widths, strict=True))
        assert list(cube["width"].values[m]) == [widths.get(layer, 0) for layer in layers]
        np.testing.assert_array_equal(np.isnan(cube["depth"].values[m]), [layer not in widths for layer in layers])
    assert cube["features"].dtype == model.dtype
    np.testing.assert_array_equal(cube["features"].values, model.whole([film]))


_INDEX = st.one_of(
    st.integers(-1, 0),
    st.builds(slice, st.none() | st.integers(-9, 9), st.none() | st.integers(-9, 9), st.sampled_from([None, 1, 2, 3])),
    st.lists(st.integers(0, 10_000), min_size=1, max_size=4),
)


def _any_selection_is_that_of_the_array_in_memory(folder: str, models: list[Model], data: st.DataObject) -> None:
    model = data.draw(st.sampled_from(models))
    films = list(model.rows)
    film = data.draw(st.sampled_from([None, *films]))
    lazy = cc.open(folder).features(model.name, film)
    known = model.whole(films if film is None else [film])
    np.testing.assert_array_equal(lazy.shape, known.shape)
    wanted = {}
    for axis, dim in enumerate(("time", "dim", "model", "layer")):
        index = data.draw(_INDEX)
        if isinstance(index, list):
            index = [i % known.shape[axis] for i in index]
        wanted[dim] = index
    reference = known
    for axis in reversed(range(4)):  # one axis after another, as xarray selects
        index = wanted[("time", "dim", "model", "layer")[axis]]
        reference = reference[(slice(None),) * axis + (index,)]
    np.testing.assert_array_equal(lazy.isel(wanted).values, reference)
    mask = np.random.default_rng(0).random(lazy.sizes["time"]) < 0.5
    np.testing.assert_array_equal(lazy.isel(time=mask).values, known[mask])
    label = data.draw(st.sampled_from(merged_layers(model.streams)))
    k = merged_layers(model.streams).index(label)
    by_label = cc.open(folder).features(model.name, film, layer=label)
    np.testing.assert_array_equal(by_label.values, known[..., k])


def _joined_models_are_padded_and_nothing_is_read_to_join_them(
    folder: str, models: list[Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    films = list(models[0].rows)
    with nothing_read(monkeypatch):
        joined = cc.open(folder).features([model.name for model in models])
        part = joined.isel(time=slice(0, 3))
        with pytest.raises(AssertionError):  # or nothing is proved
            part.values  # noqa: B018
    streams = [stream for model in models for stream in model.streams]
    layers = merged_layers(streams)
    assert list(joined["layer"].values) == layers
    assert list(joined["model"].values) == [stream.name for stream in streams]
    found, at = joined.values, 0
    for model in models:
        own = model.whole(films)
        places = [layers.index(layer) for layer in merged_layers(model.streams)]
        block = found[:, :, at : at + len(model.streams)]
        at += len(model.streams)
        np.testing.assert_array_equal(block[:, : own.shape[1]][..., places], own)
        assert np.isnan(block[:, own.shape[1] :]).all()
        assert np.isnan(np.delete(block, places, axis=-1)).all()


@pytest.mark.parametrize("onsets_s", [np.arange(10) * 2.0, np.arange(9) * 1.49, np.arange(10) * 1.49 + 1e-3])
def test_models_of_other_rows_are_not_joined(tmp_path: Path, onsets_s: np.ndarray) -> None:
    """As many rows at other times would be joined by position, under the labels of one of them."""
    stream = {name: (Stream(name, ["embed"], [3]),) for name in ("vit", "ast")}
    films = {film: {f"{film}01": np.arange(10) * 1.49} for film in ("amber", "dune")}
    other = {film: {f"{film}01": onsets_s} for film in ("amber", "dune")}
    models = [
        Model("vit", stream["vit"], "float32", 1.49, films, 0),
        Model("ast", stream["ast"], "float32", 1.49, other, 1),
    ]
    write(tmp_path, models)
    study = cc.open(tmp_path)
    with pytest.raises(cc.StudyError, match="models vit and ast: found 10 and .* rows, with other onsets"):
        study.features(["vit", "ast"], "amber")
    assert study.features("ast", "amber").sizes["time"] == len(onsets_s)
