"""The same inputs give the same bytes, wherever and in whatever order they are written."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from cinecube.store.cube.cubes import write_cube, write_feature_cube
from cinecube.store.cube.schema import Stream, feature_template, provenance, rows_index, string_coordinate


def shuffled(mapping: dict[str, object], backwards: bool) -> dict[str, object]:
    return dict(reversed(mapping.items())) if backwards else dict(mapping)


def write_all(folder: Path, backwards: bool = False) -> None:
    """A feature, a brain and a score cube; `backwards` gives whatever has no order in the other order."""
    rng = np.random.default_rng(5)
    values = rng.standard_normal((600, 64)).astype(np.float32)
    spec = shuffled({"weights_digest": "ä", "clock": {"tr_s": 1.49}, "layers": ["embed", "head"]}, backwards)
    more = shuffled({"licence": "mit", "note": "é", "odd": "x"}, backwards)
    attrs = shuffled(provenance("features", spec, ["zarr", "numpy"][:: -1 if backwards else 1], **more), backwards)
    streams = [Stream("m.video", ["embed", "head"], [64, 32]), Stream("m.audio", ["head"], [8])]
    template = feature_template(rows_index({"a01": np.arange(600) * 1.49}), 1.49, streams, "float32", attrs)
    widths = template["width"].values
    write_feature_cube(folder / "features.zarr", template, lambda m, k: values[:, : widths[m, k]] + m + 10 * k)
    brain = {
        "bold": (("time", "target"), values[:100]),
        "segment": ("time", string_coordinate(["a01"] * 100)),
        "onset_s": ("time", np.arange(100) * 1.49),
        "parcel": ("target", string_coordinate([f"L_{i}" for i in range(64)])),
    }
    coords = ("segment", "onset_s", "parcel")
    cube = xr.Dataset(shuffled(brain, backwards), attrs=attrs).set_coords(list(coords))
    write_cube(folder / "brain.zarr", cube)
    scores = shuffled({"score": values[:4, :8], "alpha": values[4:8, :8]}, backwards)
    dims = ("subject", "model", "layer", "target")
    tables = {name: (dims, np.asarray(array).reshape(2, 1, 2, 8)) for name, array in scores.items()}
    labels = pd.Index(["sub-01", "sub-02"]).to_numpy()
    write_cube(folder / "scores.zarr", xr.Dataset(tables, {"subject": string_coordinate(labels)}, attrs))


def digests(folder: Path) -> dict[str, str]:
    """What DVC hashes: names and bytes of all files."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.md5(file.read_bytes()).hexdigest() for file in files}


CODE = """
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
os.umask(int(sys.argv[2], 8))
from test_same_bytes import write_all
write_all(Path(sys.argv[1]), sys.argv[3] == "backwards")
"""


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("reference")
    write_all(folder)
    found = digests(folder)
    assert len(found) > 20
    return found


@pytest.mark.parametrize(
    ("umask", "order", "env"),
    [
        ("022", "forwards", {"PYTHONHASHSEED": "1", "LC_ALL": "C", "TZ": "UTC"}),
        ("077", "backwards", {"PYTHONHASHSEED": "4242", "LC_ALL": "C.UTF-8", "TZ": "Pacific/Auckland"}),
        ("002", "backwards", {"PYTHONHASHSEED": "0", "LC_ALL": "POSIX", "TZ": "America/Lima", "PYTHONUTF8": "0"}),
    ],
)
def test_environments_and_orders(
    reference: dict[str, str], tmp_path: Path, umask: str, order: str, env: dict[str, str]
) -> None:
    code = CODE.format(tests=str(Path(__file__).parent))
    command = [sys.executable, "-c", code, str(tmp_path), umask, order]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path) == reference


def test_another_number_is_another_file(reference: dict[str, str], tmp_path: Path) -> None:
    """The comparison can fail, and an unchanged layer keeps its hash."""
    write_all(tmp_path)
    rows = rows_index({"a01": np.arange(600) * 1.49})
    streams = [Stream("m.video", ["embed", "head"], [64, 32]), Stream("m.audio", ["head"], [8])]
    with xr.open_zarr(tmp_path / "features.zarr") as before:
        template = feature_template(rows, 1.49, streams, "float32", before.attrs)
        values = before["features"].load()
    width = template["width"].values

    def read(m: int, k: int) -> np.ndarray:
        layer: np.ndarray = values.isel(model=m, layer=k).values[:, : width[m, k]]
        return layer + (m == 1)

    write_feature_cube(tmp_path / "features.zarr", template, read)
    changed = {name for name, digest in digests(tmp_path).items() if reference[name] != digest}
    assert changed == {"features.zarr/features/c/0/0/1/1", "features.zarr/zarr.json"}
