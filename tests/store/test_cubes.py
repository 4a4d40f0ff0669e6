"""A cube on disk: labels, shards, bytes, and everything `verify` must find."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cinecube.store.base.errors import StudyError
from cinecube.store.base.labels import layer_labels
from cinecube.store.cube.cubes import open_cube, write_feature_cube
from cinecube.store.cube.schema import Stream, feature_template, provenance, rows_index
from cinecube.store.verify.find_cubes import verify_cube

SPEC = {"weights": "abc", "clock": {"tr_s": 1.49}}
ROWS = rows_index({"a01": np.arange(530) * 1.49, "a02": np.arange(20) * 1.49})
STREAMS = (Stream("m.video", ["embed", "block01", "head"], [128, 128, 64]), Stream("m.audio", ["embed"], [64]))


def _values(m: int, k: int, n_rows: int, width: int) -> np.ndarray:
    return np.random.default_rng([m, k]).standard_normal((n_rows, width)).astype(np.float32)


def _write(path: Path, streams: tuple[Stream, ...] = STREAMS, rows: object = ROWS) -> xr.Dataset:
    template = feature_template(rows, 1.49, streams, "float32", provenance("features", SPEC, ["numpy"]))  # type: ignore[arg-type]
    width = template["width"].values
    write_feature_cube(path, template, lambda m, k: _values(m, k, template.sizes["time"], int(width[m, k])))
    return template


@pytest.fixture
def cube(tmp_path: Path) -> Path:
    path = tmp_path / "cube.zarr"
    _write(path)
    return path


def _bytes(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def test_plain_xarray_reads_it(cube: Path) -> None:
    opened = xr.open_zarr(cube)
    assert opened["features"].dims == ("time", "dim", "model", "layer")
    assert list(opened["layer"].values) == ["embed", "block01", "head"]
    assert {"segment", "onset_s", "window_s", "dim", "model", "layer", "depth", "width"} <= set(opened.coords)
    np.testing.assert_array_equal(opened["features"].values[:, :64, 0, 2], _values(0, 2, 550, 64))


def test_past_the_width_is_nan_and_absent_layers_have_no_file(cube: Path) -> None:
    opened = open_cube(cube)
    assert np.isnan(opened["features"].values[:, 64:, 0, 2]).all()
    assert np.isnan(opened["features"].values[:, :, 1, 1:]).all()
    shards = sorted(
        str(file.relative_to(cube / "features")) for file in (cube / "features" / "c").rglob("*") if file.is_file()
    )
    assert shards == ["c/0/0/0/0", "c/0/0/0/1", "c/0/0/0/2", "c/0/0/1/0"]
    narrow, wide = ((cube / "features" / name).stat().st_size for name in (shards[2], shards[0]))
    assert narrow < 0.55 * wide, "NaN past the width must cost no bytes"


def test_a_cube_is_its_shards_and_at_most_twenty_files(cube: Path) -> None:
    small = [name for name in _bytes(cube) if not name.startswith("features/c/")]
    assert len(small) <= 20


def test_same_inputs_same_bytes(cube: Path, tmp_path: Path) -> None:
    _write(tmp_path / "again.zarr")
    assert _bytes(cube) == _bytes(tmp_path / "again.zarr")


def test_nan_is_refused_and_what_stood_there_stays(cube: Path) -> None:
    before = _bytes(cube)
    template = feature_template(ROWS, 1.49, STREAMS, "float32", provenance("features", SPEC, []))
    with pytest.raises(StudyError, match="m.video embed: found 550 values that are NaN"):
        write_feature_cube(cube, template, lambda m, k: np.full((550, 1), np.nan))
    assert _bytes(cube) == before
    assert [path.name for path in cube.parent.iterdir()] == ["cube.zarr"]


def test_a_missing_shard_is_an_error_not_a_number(cube: Path) -> None:
    shard = cube / "features" / "c" / "0" / "0" / "0" / "1"
    shard.unlink()
    with pytest.raises(StudyError, match="no shard of m.video block01"):
        open_cube(cube)
    shutil.rmtree(shard.parent.parent)
    shard.parent.parent.write_bytes(b"of an array of fewer axes")
    with pytest.raises(StudyError, match="no shard of"):
        open_cube(cube)


@pytest.mark.parametrize(
    ("schema", "do"), [(99, "update cinecube"), (0, "use a cube written by"), ("1", "use a cube written by cinecube")]
)
def test_a_schema_that_is_not_known_is_refused(cube: Path, schema: object, do: str) -> None:
    zarr.open_group(cube, mode="r+", use_consolidated=False).attrs["schema"] = schema
    zarr.consolidate_metadata(cube)
    with pytest.raises(StudyError, match=f"found schema {schema}, expected schema 1 or older; {do}"):
        open_cube(cube)


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(bytes(data))


def _edit_labels(cube: Path, name: str, values: list[object]) -> None:
    group = zarr.open_group(cube, mode="r+", use_consolidated=False)
    group[name][...] = np.asarray(values, dtype=object) if isinstance(values[0], str) else np.asarray(values)  # type: ignore[index]


def _forge_fingerprint(cube: Path) -> None:
    meta = json.loads((cube / "zarr.json").read_text(encoding="utf-8"))
    meta["attributes"]["fingerprint"] = "0" * 64
    (cube / "zarr.json").write_text(json.dumps(meta), encoding="utf-8")


def _nan_inside(cube: Path) -> None:
    zarr.open_group(cube, mode="r+", use_consolidated=False)["features"][3, 5, 0, 0] = np.nan  # type: ignore[index]


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda c: _flip(c / "features" / "c" / "0" / "0" / "0" / "0", 1000), "m.video embed: damaged"),
        (lambda c: _flip(c / "onset_s" / "c" / "0", 40), "onset_s: damaged onset_s/c/0"),
        (lambda c: (c / "onset_s" / "c" / "0").unlink(), "no chunk of onset_s: onset_s/c/0 is missing"),
        (
            lambda c: (c / "features/c/0/0/0/1").write_bytes((c / "features/c/0/0/0/1").read_bytes()[:5000]),
            "block01: damaged",
        ),
        (lambda c: (c / "features/c/0/0/1/0").unlink(), "no shard of m.audio embed"),
        (_nan_inside, "m.video embed: 1 values inside the width are NaN"),
        (lambda c: _edit_labels(c, "layer", ["block01", "embed", "head"]), "layers out of order"),
        (lambda c: _edit_labels(c, "onset_s", [0.0] * 550), "onsets overlap"),
        (_forge_fingerprint, "fingerprint 000000000000 does not match its spec"),
    ],
)
def test_verify_names_the_damage(cube: Path, damage: Callable[[Path], object], line: str) -> None:
    assert verify_cube(cube) == []
    damage(cube)
    problems = verify_cube(cube)
    assert problems
    assert any(__import__("re").search(line, problem) for problem in problems), problems


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    widths=st.lists(st.lists(st.integers(1, 200), min_size=1, max_size=4), min_size=1, max_size=3),
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=3),
)
def test_any_shape_comes_back(
    tmp_path_factory: pytest.TempPathFactory, widths: list[list[int]], lengths: list[int]
) -> None:
    path = tmp_path_factory.mktemp("cube") / "c.zarr"
    streams = tuple(Stream(f"s{m}", layer_labels(len(w) - 1), w) for m, w in enumerate(widths))
    rows = rows_index({f"a{i:02d}": np.arange(n) * 2.0 for i, n in enumerate(lengths)})
    _write(path, streams, rows)
    assert verify_cube(path) == []
    opened = open_cube(path)
    for m, stream in enumerate(streams):
        for k, width in enumerate(stream.widths):
            values = opened["features"].sel(model=stream.name, layer=stream.layers[k]).values
            np.testing.assert_array_equal(values[:, :width], _values(m, k, sum(lengths), width))
            assert np.isnan(values[:, width:]).all()
